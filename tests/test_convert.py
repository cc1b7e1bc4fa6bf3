"""A local copy for training: the same values, a part of them, interrupted and resumed, damaged, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from test_data import RBC, SHARED, arrays, write_well

from physinterp.data import checksums, convert, open_dataset, splits
from physinterp.data.convert import Choice, plan
from physinterp.data.windows import Windows
from physinterp.errors import InputError
from physinterp.system import load_system

RECORD = SHARED / "era5" / "ncep_msl_natlantic_2001-2008_daily_2p5deg.nc"


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "source"
    write_well(root)
    write_well(root, name="b", seed=1, Rayleigh=1e7)
    write_well(root, "valid", seed=2)
    return root


@pytest.fixture
def copy(tmp_path) -> Path:
    return tmp_path / "a copy"


@pytest.fixture
def few(monkeypatch) -> None:
    """Chunks and regions of two frames."""
    monkeypatch.setattr(convert, "CHUNK_BYTES", 2 * 4 * 4 * 12 * 8)
    monkeypatch.setattr(convert, "FRAMES", 2)


def test_all_of_it(root, copy, few):
    made = plan(RBC, ["train", "valid"], root, copy)
    assert made.bytes == 6 * 5 * 4 * 12 * 8 * 4 and made.chunk == 2 and made.seconds() > 0
    done: list[int] = []
    convert.convert(made, done.append)
    assert sum(done) == made.bytes and not plan(RBC, ["train", "valid"], root, copy).todo()
    assert splits(copy) == ("train", "valid")
    system = load_system(copy)
    assert (system.adapter, system.grid, system.field_names) == ("array", RBC.grid, RBC.field_names)
    for card in (RBC, system):  # the card of the original opens it too
        ds, expected = open_dataset(card, "train", copy, verify=True), open_dataset(RBC, "train", root)
        xr.testing.assert_equal(ds.load(), expected.load())
    stored = zarr.open_array(copy / "train.zarr", path="fields", mode="r")
    assert stored.chunks == (1, 2, 4, 12, 8) and not stored.compressors
    plain = xr.open_zarr(copy / "train.zarr", consolidated=False)  # without us
    np.testing.assert_array_equal(plain.fields.sel(field="pressure"), expected.pressure)


def test_a_part_of_it(root, copy):
    choice = Choice(("velocity_y", "buoyancy"), (1, 3), (0.25, 1.0), 2)
    convert.convert(plan(RBC, ["train"], root, copy, choice))
    ds = open_dataset(load_system(copy), "train", copy)
    expected = open_dataset(RBC, "train", root).isel(sample=slice(1, 3), time=slice(1, 5, 2))
    assert list(ds.data_vars) == ["buoyancy", "velocity_y"] and ds.time.values.tolist() == [0.25, 0.75]
    xr.testing.assert_equal(ds.buoyancy.load(), expected.buoyancy.load())
    assert load_system(copy).dt == 0.5 and ds.trajectory.values.tolist() == ["a/1", "b/0"]


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_an_interrupted_conversion_goes_on(root, copy, few, monkeypatch, stop):
    values, seen = convert._values, []

    def interrupted(*args: object) -> np.ndarray:
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(args[2:])
        return values(*args)

    monkeypatch.setattr(convert, "_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert.convert(plan(RBC, ["train"], root, copy))
    with (copy / checksums.REGIONS).open("a") as file:
        file.write('{"split": "train", "array"')  # a line that was not written whole
    monkeypatch.setattr(convert, "_values", lambda *args: seen.append(args[2:]) or values(*args))
    convert.convert(plan(RBC, ["train"], root, copy))
    assert len(seen) == len({str(s) for s in seen}) == 4 * 3
    xr.testing.assert_equal(open_dataset(RBC, "train", copy, verify=True).load(), open_dataset(RBC, "train", root).load())
    lines = (copy / checksums.REGIONS).read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 1 + 12


def test_damage_is_found(root, copy):
    convert.convert(plan(RBC, ["train"], root, copy))
    chunk = copy / "train.zarr" / "fields" / "2.0.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[1000] ^= 1
    chunk.write_bytes(content)
    open_dataset(RBC, "train", copy)  # not asked for
    with pytest.raises(InputError, match=r"train.zarr: trajectory 2, frames 0 to 4 differ from what was written"):
        open_dataset(RBC, "train", copy, verify=True)
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"train.zarr: the chunk fields/2.0.0.0.0 is truncated"):
        open_dataset(RBC, "train", copy).load()


def test_what_cannot_be_converted(root, copy, monkeypatch):
    with pytest.raises(InputError, match=r"no field 'presure' of rbc: did you mean 'pressure'"):
        plan(RBC, ["train"], root, copy, Choice(("presure",)))
    with pytest.raises(InputError, match=r"nothing is left: 4 trajectories from t = 0 to 1"):
        plan(RBC, ["train"], root, copy, Choice(times=(7.0, 9.0)))
    copy.mkdir()
    (copy / "mine.txt").write_text("")
    with pytest.raises(InputError, match="a copy is not empty and holds no conversion"):
        plan(RBC, ["train"], root, copy)
    (copy / "mine.txt").unlink()
    convert.convert(plan(RBC, ["train"], root, copy))
    with pytest.raises(InputError, match="a copy holds another conversion"):
        plan(RBC, ["train"], root, copy, Choice(stride=2))
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda path: type("", (), {"free": 10}))
    with pytest.raises(InputError, match=r"other: 0.00 GB are needed and 0.00 GB are free"):
        plan(RBC, ["train"], root, copy.parent / "other")


def test_values_that_are_not_finite_are_named(root, copy, monkeypatch):
    values = arrays(RBC, seed=2)
    values["pressure"][1, 2, 3, 4] = np.nan
    from physinterp.data import well

    well.write(root / "data" / "valid" / "a.hdf5", RBC, values, 0.25 * np.arange(5), {"Rayleigh": 1e6, "Prandtl": 1.0})
    with pytest.raises(InputError, match=r"source: field 'pressure' is not finite at t = 0.5 of trajectory a/1"):
        convert.convert(plan(RBC, ["valid"], root, copy))


def test_a_record_keeps_its_dates(copy):
    """ERA5's layout, which has no windows of its own; the card of the original still opens the copy."""
    if not RECORD.is_file():
        pytest.skip(f"no reference data at {RECORD}")
    with pytest.raises(InputError, match="windows are read from a local copy of such data: physinterp data convert"):
        Windows("natlantic", "train", RECORD)
    card = load_system("natlantic")
    convert.convert(plan(card, ["valid"], RECORD, copy))
    ds, expected = (open_dataset(card, "valid", path).load() for path in (copy, RECORD))
    assert ds.date.dtype.kind == "M" and (ds.date.values == expected.date.values).all()
    np.testing.assert_array_equal(ds.msl, expected.msl)
    assert Windows(card, "valid", copy, batch=2)[0].states.shape == (2, 2, 1, 17, 33)
