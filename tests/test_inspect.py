"""`inspect`: what is there, what would be done with it, what is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from server import serving
from test_array import CARD, VALUES
from test_data import APEBENCH, RBC, WELL, arrays, needs_shared, write_well
from test_weatherbench import SHARED, record, save
from test_weatherbench import needs_shared as needs_era5
from test_well import SHEAR_FLOW, shear_flow

from physinterp.data import fitted, well
from physinterp.data.inspect import Report, inspect
from physinterp.errors import InputError
from physinterp.grid import Grid
from physinterp.system import System, load_system, validate

NODES = ("uniform", "chebyshev")


def test_data_of_the_well(tmp_path):
    write_well(tmp_path)
    write_well(tmp_path, "test", Prandtl=2.0)
    report = inspect(tmp_path)
    found = report.found
    assert found["format"] == "well" and "t1_fields/velocity 2x5x12x8x2 float32" in found["arrays in a.hdf5"]
    assert found["fields"].startswith("buoyancy [1], pressure [1]") and found["step"] == "0.25"
    assert found["grid"].startswith("x 12 periodic uniform, 0 to 3.667; y 8 wall chebyshev, 0.009")
    assert found["train"] == "2 trajectories of 5 frames, t = 0 to 1, 0.01536 MB"
    assert found["parameter Prandtl"] == "1, 2" and "values of pressure" in found
    assert report.use[:2] == [
        "open it as rbc with the adapter well",
        "the resolution is (12, 8), not the card's (128, 32): use system.with_grid((12, 8))",
    ]
    assert "forecast in steps of 0.5, 2 frames (preset quick)" in report.use
    assert report.wrong == ["all frames are before the end of the spin-up at t = 30"]


@needs_shared
@pytest.mark.parametrize(
    ("path", "name", "line"),
    [(WELL, "rbc", "leave out the spin-up: 120 frames before t = 30"), (APEBENCH, "kolmogorov", "use all frames")],
)
def test_the_reference_data(path, name, line):
    report = inspect(path, values=False)
    assert not report.wrong and report.use[0].startswith(f"open it as {name} with the adapter ")
    assert any(use.startswith(line) for use in report.use) and "values were not looked at" in report.use[-1]


def test_another_step(tmp_path):
    well.write(tmp_path / "train" / "a.hdf5", RBC, arrays(RBC), 0.3 * np.arange(5), {"Rayleigh": 1e6, "Prandtl": 1.0})
    report = inspect(tmp_path, RBC)
    assert "the step is 0.3, not the card's 0.25: set dt in a copy of the card" in report.use
    assert "the step 0.5 of the preset quick is no multiple of 0.3" in report.wrong


def test_own_arrays_get_a_card_to_begin_with(tmp_path):
    path = tmp_path / "my data.npy"
    np.save(path, VALUES)
    report = inspect(path)
    assert report.found["format"] == "array" and report.found["arrays in my data.npy"] == "array 3x9x6x4x2 float32"
    assert report.wrong[-1].startswith("no card fits: write one")
    (tmp_path / "card.yaml").write_text(report.use[0].partition("\n")[2])
    assert len(report.use[0].splitlines()) == 1 + 5
    system = load_system(tmp_path)
    assert system.grid.shape == (6, 4) and len(system.fields) == 2 and system.title == system.name == "my data"
    again = inspect(path, system)
    assert not again.wrong and again.use[0] == "open it as my data with the adapter array"
    assert any("to train on it, name the splits" in line for line in again.use)


def drafted(path: Path, folder: Path) -> tuple[Report, System]:
    """The report on data that no card fits, and the card that it drafts."""
    report = inspect(path)
    assert report.wrong.pop().startswith("no card fits") and report.use[0].startswith("with a card such as this")
    (folder / "card.yaml").write_text(report.use[0].partition("\n")[2])
    again = inspect(path, system := load_system(folder))
    assert not again.wrong and again.use == report.use[1:] and again.found.items() <= report.found.items()
    return report, system


def test_a_card_for_weather(tmp_path):
    dates = np.datetime64("2001-01-01", "ns") + np.arange(4 * 300) * np.timedelta64(6, "h")
    coords = {"time": dates, "level": ("level", [50000.0, 85000.0], {"units": "Pa"})}
    coords |= {"latitude": np.linspace(90, -90, 7), "longitude": np.arange(0, 360, 30.0)}
    values = np.random.default_rng(0).standard_normal((1200, 7, 12, 2)).astype("f4")
    dims = ("time", "latitude", "longitude")
    ds = xr.Dataset({"t": ((*dims, "level"), values), "lsm": (dims[1:], values[0, ..., 0])}, coords)
    ds["msl"] = dims, values[..., 0], {"units": "Pa", "long_name": "pressure"}
    ds.to_netcdf(tmp_path / "a.nc")
    report, system = drafted(tmp_path / "a.nc", tmp_path)
    assert system.field_names == ("t500", "t850", "msl") and system.fields[2].units == "Pa"  # what has no date is none
    assert system.grid.boundary == ("pole", "periodic") and system.grid.fixed == (False, True) and system.dt == 6.0
    assert system.grid.names == ("latitude", "longitude") and system.time_unit == "h" and len(system.splits) == 3
    assert report.found["train"].startswith("1 trajectory of 932 frames")


@needs_era5
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.nc")), ids=lambda p: p.stem[:20])
def test_a_card_for_every_piece_of_weather(path, tmp_path):
    if "natlantic" in path.name:
        assert inspect(path).use[0] == "open it as natlantic with the adapter weatherbench"
    else:
        drafted(path, tmp_path)


def test_a_card_for_sets_of_the_well(tmp_path):
    shear_flow(tmp_path / "well" / "train" / "a.hdf5")
    with h5py.File(tmp_path / "well" / "train" / "a.hdf5", "r+") as file:
        del file["scalars/Reynolds"]
        file["scalars/Reynolds"] = [1e4, 1e5]
        file["scalars/Reynolds"].attrs.update({"sample_varying": True, "time_varying": False})
    _, system = drafted(tmp_path / "well", tmp_path)
    known = validate(System, SHEAR_FLOW, "card")
    assert set(system.field_names) == set(known.field_names) and system.grid == known.grid and system.dt == known.dt
    assert [p.name for p in system.parameters] == ["Reynolds"] and system.parameters[0].transform == "log10"


def test_a_card_for_walls(tmp_path):
    known = validate(System, {**SHEAR_FLOW, "name": "walls", "parameters": []}, "card")
    wall, uneven = (dataclasses.replace(a, boundary="wall", nodes=n) for a, n in zip(known.grid.axes, NODES, strict=True))
    known = known.model_copy(update={"grid": Grid((wall, uneven))})
    well.write(tmp_path / "well" / "train" / "a.hdf5", known, arrays(known), 0.1 * np.arange(5), {})
    _, system = drafted(tmp_path / "well", tmp_path)
    assert system.grid.boundary == ("wall", "wall") and system.grid.axes[1].nodes == "chebyshev"
    for ours, theirs in zip(system.grid.axes, known.grid.axes, strict=True):
        np.testing.assert_allclose(ours.points, theirs.points, atol=1e-5)


def test_what_no_card_can_say(tmp_path):
    text = inspect(save(record(), tmp_path / "a b.zarr")).use[0]
    assert "levels: [500, 850]" in text and "land_sea_mask" not in text and text.endswith("dt: 6.0\ntime_unit: h")
    lost = record().assign_coords(latitude=[0, 1, 3, 4, 5, 7])
    assert "latitudes are neither equally spaced nor Gaussian" in inspect(save(lost, tmp_path / "b.zarr")).wrong[-2]


def test_folders_of_any_container_are_listed(tmp_path):
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "train.npy", VALUES)
    assert inspect(tmp_path / "npy").found["arrays in train.npy"] == "array 3x9x6x4x2 float32"


def test_own_arrays_are_not_taken_for_a_known_system(tmp_path):
    """`u` is also a name of the vorticity in APEBench's files, and a single array has no name at all."""
    np.savez(tmp_path / "a.npz", u=VALUES[..., 0], v=VALUES[..., 1])
    np.save(tmp_path / "b.npy", VALUES[..., 0])
    for name in ("a.npz", "b.npy"):
        assert inspect(tmp_path / name).wrong[-1].startswith("no card fits")
    np.savez(tmp_path / "c.npz", vorticity=VALUES[..., 0])
    assert inspect(tmp_path / "c.npz").use[0] == "open it as kolmogorov with the adapter array"


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def nan(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["t0_fields/pressure"][0, 2, 3, 4] = np.nan
    (path.parents[2] / "checksums.json").unlink()


def constant(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["t0_fields/pressure"][...] = 3.0
        file["t0_fields/buoyancy"][:, 1:] = file["t0_fields/buoyancy"][:, :1]
    (path.parents[2] / "checksums.json").unlink()


WRONG = {
    "truncated": (broken, r"a.hdf5: cannot be read as HDF5 .*truncated"),
    "0 bytes": (lambda path: path.write_bytes(b""), r"a.hdf5: cannot be read as HDF5 \(0 bytes\)"),
    "NaN": (
        nan,
        r"field 'pressure' has 1 values that are not finite in sample 0, first at .*\(t = 0.5\), of trajectory a/0",
    ),
    "constant": (constant, "field 'pressure' is constant .3.: leave it out"),
    "still": (constant, "field 'buoyancy' does not change in time"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong(tmp_path, kind):
    spoil, message = WRONG[kind]
    spoil(write_well(tmp_path / "a folder"))
    wrong = inspect(tmp_path / "a folder").wrong
    with pytest.raises(InputError, match=message):
        raise InputError("; ".join(wrong))


def test_nothing_there(tmp_path):
    assert inspect(tmp_path / "no").wrong == [f"{tmp_path / 'no'}: no such file or folder"]
    assert "expected The Well" in inspect(tmp_path).wrong[0]
    (tmp_path / "x.txt").write_text("")
    assert inspect(tmp_path / "x.txt").found["format"] == "none that is known"


def test_a_url(tmp_path):
    write_well(tmp_path)
    with serving(tmp_path) as server:
        report = inspect(server.url, RBC)
    assert report.found["train"].startswith("2 trajectories") and "values were not looked at" in report.use[-1]


def test_a_card_is_fitted_to_the_resolution(tmp_path):
    write_well(tmp_path)
    assert fitted(load_system("rbc"), tmp_path).grid.shape == (12, 8)
    (tmp_path / "card.yaml").write_text(CARD)
    np.save(tmp_path / "a.npy", VALUES[:, :, :4])
    assert fitted(load_system(tmp_path), tmp_path / "a.npy").grid.shape == (4, 4)
    with pytest.raises(InputError, match="no such file"):
        fitted(RBC, tmp_path / "b.npy")
