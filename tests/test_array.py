"""Own arrays with a five-line card: every container, named and unnamed dimensions, splits, and what can be wrong."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr

from physinterp.data import ADAPTERS, open_dataset, splits
from physinterp.data.statistics import moments
from physinterp.data.windows import Windows
from physinterp.errors import InputError
from physinterp.system import load_system

ROOT = Path(__file__).parents[1]
Y = "{name: y, size: 6, start: 0, length: 1, boundary: periodic}"
X = "{name: x, size: 4, start: 0, length: 2, boundary: wall}"
CARD = f"""\
name: mine
adapter: array
fields: [{{name: u}}, {{name: v}}]
grid: {{axes: [{Y}, {X}]}}
dt: 0.5
"""
VALUES = np.random.default_rng(0).standard_normal((3, 9, 6, 4, 2)).astype(np.float32)
TIME = 0.5 * np.arange(9)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A place with a space in its name, and the card in it."""
    place = tmp_path / "my data"
    place.mkdir()
    (place / "card.yaml").write_text(CARD)
    return place


@pytest.fixture
def mine(folder):
    return load_system(folder)


def separate(dims: tuple[str, ...] = ("sample", "time", "y", "x")) -> xr.Dataset:
    ds = xr.Dataset({n: (("sample", "time", "y", "x"), VALUES[..., i]) for i, n in enumerate("uv")}, {"time": TIME})
    return ds.transpose(*dims)


def h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["all of it"], file["t"] = VALUES, TIME


def npz(path: Path) -> None:
    np.savez_compressed(path, u=VALUES[..., 0], v=VALUES[..., 1], time=TIME)


WRITERS: dict[str, Callable[[Path], None]] = {
    ".npy": lambda path: np.save(path, VALUES.astype(np.float64)),
    ".npz": npz,
    ".h5": h5,
    ".hdf5": lambda path: separate().to_netcdf(path, engine="netcdf4"),
    ".nc": lambda path: separate(("x", "time", "sample", "y")).to_netcdf(path),
    ".zarr": lambda path: separate(("time", "y", "x", "sample")).to_zarr(path, consolidated=False),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_container(folder, mine, suffix):
    path = folder / f"a b{suffix}"
    WRITERS[suffix](path)
    ds = open_dataset(mine, "train", path)
    assert dict(ds.sizes) == {"sample": 3, "time": 9, "y": 6, "x": 4} and splits(path) == ()
    assert ds.u.dtype == np.float32 and ds.time.values.tolist() == TIME.tolist()
    for i, name in enumerate("uv"):
        np.testing.assert_array_equal(ds[name], VALUES[..., i])
    windows = Windows(mine, "train", path, steps=2, context=1, stride=2, batch=5)
    for row, number in enumerate(windows.numbers(1)):
        n, t = divmod(int(number), windows.starts)
        np.testing.assert_array_equal(windows[1].states[row], np.moveaxis(VALUES[n, t : t + 7 : 2], -1, 1))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_path_that_goes_up(folder, mine, suffix):
    (folder / "down").mkdir()
    WRITERS[suffix](folder / f"a b{suffix}")
    ds = open_dataset(mine, "train", folder / "down" / ".." / f"a b{suffix}")
    np.testing.assert_array_equal(ds.u, VALUES[..., 0])


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".zarr"])
def test_a_folder_with_a_file_per_split(folder, mine, suffix):
    WRITERS[suffix](folder / f"train{suffix}")
    WRITERS[suffix](folder / f"test{suffix}")
    assert splits(folder) == ("train", "test") and ADAPTERS["array"].matches(folder)
    assert open_dataset(mine, "test", folder).trajectory.values[0] == "test/0"
    with pytest.raises(InputError, match=r"no split 'valid'; found \['train', 'test'\]"):
        open_dataset(mine, "valid", folder)


def test_groups_are_splits(folder, mine):
    for path, kind in ((folder / "a.zarr", "zarr"), (folder / "a.nc", "netcdf")):
        for split in ("train", "valid"):
            ds = separate().isel(sample=slice(0, 1 if split == "valid" else 3))
            options = {"consolidated": False} if kind == "zarr" else {}
            getattr(ds, f"to_{kind}")(path, group=split, mode="a", **options)
        assert splits(path) == ("train", "valid")
        assert open_dataset(mine, "valid", path).sizes["sample"] == 1


def test_coordinates_and_parameters(folder, mine):
    """Axes in any direction; parameters per trajectory or one for all; one trajectory without the dimension sample."""
    system = mine.model_validate(
        mine.model_dump()
        | {"parameters": [{"name": "Re", "default": 1, "values": (1, 9)}, {"name": "Pr", "default": 1, "values": (1, 9)}]}
    )
    axis = mine.grid.axes[0].points
    ds = separate().isel(y=slice(None, None, -1)).assign_coords(y=axis[::-1])
    ds.assign(Re=("sample", [1.0, 2.0, 3.0]), Pr=2.0).to_zarr(folder / "a.zarr", consolidated=False)
    opened = open_dataset(system, "train", folder / "a.zarr")
    np.testing.assert_array_equal(opened.u, VALUES[..., 0])
    assert opened.Re.values.tolist() == [1, 2, 3] and opened.Pr.values.tolist() == [2] * 3
    with pytest.raises(InputError, match=r"b.npy: no parameter 'Re'.*add an array \(sample,\)"):
        np.save(folder / "b.npy", VALUES)
        open_dataset(system, "train", folder / "b.npy")
    separate().isel(sample=0).to_netcdf(folder / "one.nc")
    np.testing.assert_array_equal(open_dataset(mine, "train", folder / "one.nc").v[0], VALUES[0, ..., 1])


def test_packed_values_are_unpacked(folder, mine):
    encoding = {n: {"dtype": "int16", "scale_factor": 1e-3, "add_offset": 1.0, "_FillValue": -32768} for n in "uv"}
    separate().to_netcdf(folder / "a.nc", encoding=encoding)
    np.testing.assert_allclose(open_dataset(mine, "train", folder / "a.nc").u, VALUES[..., 0], atol=1e-3)


def broken(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.5])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".nc"])
def test_truncated_files(folder, mine, suffix, keep):
    path = folder / f"a b{suffix}"
    WRITERS[suffix](path)
    broken(path, keep)
    with pytest.raises(InputError, match=rf"a b{suffix}.*(copy or download it again)") as caught:
        open_dataset(mine, "train", path).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("group", ["", "train"])
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_a_chunk_that_is_not_there(folder, mine, form, group, compressors):
    """It is found on opening, as zarr would give zeros in its place; of an uncompressed array also later on."""
    path, name = folder / "a.zarr", f"{group}/u".strip("/")
    options = {"chunks": (1, 2, 6, 4, 2), "compressors": compressors, "fill_value": 0.0}
    zarr.open_group(path, mode="w", zarr_format=form).create_array(name, data=VALUES, **options)
    ds = open_dataset(mine, "train", path)
    np.testing.assert_array_equal(ds.u, VALUES[..., 0])
    key = "1.2.0.0.0" if form == 2 else "c/1/2/0/0/0"
    chunk = path / name / key
    chunk.unlink()
    with pytest.raises(
        InputError, match=rf"a.zarr: chunk {key} of '{name}' \(t = 2 to t = 2.5\) is missing, one of 15; copy"
    ):
        open_dataset(mine, "train", path)
    if compressors is None:
        with pytest.raises(InputError, match=rf"a.zarr: the chunk {name}/{key} is missing"):
            ds.load()
    chunk.write_bytes(b"")
    with pytest.raises(InputError, match=rf"a.zarr: .*truncated.*reading {name}\[1:2, 0:8, "):
        ds.load()


@pytest.mark.parametrize("name", ["zarr.json", ".zgroup", "u/zarr.json", "u/.zarray"])
def test_metadata_of_zero_bytes(folder, mine, name):
    path = folder / "a.zarr"
    separate().to_zarr(path, zarr_format=3 if "json" in name else 2, consolidated=False)
    (path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"a.zarr/{name}: the file is empty \(0 bytes\); copy or download it again"):
        open_dataset(mine, "train", path)
    with pytest.raises(InputError, match=r"b.zarr: the file is empty"):
        (folder / "b.zarr").write_bytes(b"")
        open_dataset(mine, "train", folder / "b.zarr")


@pytest.mark.parametrize("suffix", [".h5", ".nc", ".2.zarr", ".zarr"])
def test_units_that_are_not_those_of_the_card(folder, mine, suffix):
    path, ds = folder / f"a b{suffix}", separate()
    ds["v"].attrs["units"] = "cm/s"
    form = {"zarr_format": 2 if suffix == ".2.zarr" else 3, "consolidated": False} if "zarr" in suffix else {}
    getattr(ds, "to_zarr" if form else "to_netcdf")(path, **form)
    assert open_dataset(mine, "train", path).v.attrs["units"] == ""  # the card does not say
    fields = [f.model_copy(update={"units": "m s**-1"}) for f in mine.fields]
    with pytest.raises(
        InputError, match=rf"a b{suffix}: 'v' is in 'cm/s', the card of mine has 'v' in 'm s\*\*-1'; convert"
    ):
        open_dataset(mine.model_copy(update={"fields": tuple(fields)}), "train", path)


def test_values_that_are_not_finite(folder, mine):
    values = VALUES.copy()
    values[1, 4, 2, 3, 1] = np.nan
    np.save(folder / "a.npy", values)
    ds = open_dataset(mine, "train", folder / "a.npy")
    where = r"a.npy: field 'v' has 1 values that are not finite in sample 1, first at .*\(t = 2\), of trajectory a/1"
    with pytest.raises(InputError, match=where):
        moments(ds, mine.field_names)
    windows = Windows(mine, "train", folder / "a.npy", batch=24)
    with pytest.raises(InputError, match=r"a.npy: field 'v' is not finite at t = 2 of trajectory a/1"):
        windows[0]


def test_an_archive_that_points_outside(folder, mine):
    np.save(folder / "x.npy", VALUES)
    for name in ("../u.npy", "/etc/u.npy", "a/../../u.npy", "C:\\u.npy"):
        with zipfile.ZipFile(folder / "a.npz", "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), (folder / "x.npy").read_bytes())
        with pytest.raises(InputError, match=r"a.npz: member .* points outside of its folder"):
            open_dataset(mine, "train", folder / "a.npz")


SHAPES = {
    "no trajectories": (
        VALUES[0],
        r"shape \(9, 6, 4, 2\); expected \('sample', 'time', 'y', 'x', 'field'\): add .*u\[None\]",
    ),
    "flat": (VALUES[0, 0, 0], r"found array \(4, 2\)"),
    "three fields": (np.concatenate([VALUES, VALUES[..., :1]], -1), r"3 fields in the array, 2 in the card: \['u', 'v'\]"),
    "another grid": (VALUES[:, :, :5], "'y': expected 6 points, found 5"),
    "complex": (VALUES.astype(complex), "elements of type complex128; expected real numbers"),
    "nothing": (VALUES[:0], "there is nothing in it"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_that_do_not_fit(folder, mine, kind):
    values, message = SHAPES[kind]
    np.save(folder / "a.npy", values)
    with pytest.raises(InputError, match=rf"a.npy: .*{message}"):
        open_dataset(mine, "train", folder / "a.npy")


def test_names_and_times_that_do_not_fit(folder, mine):
    with pytest.raises(InputError, match=r"no field 'u': did you mean 'uu'"):
        separate().rename(u="uu").to_netcdf(folder / "a.nc")
        open_dataset(mine, "train", folder / "a.nc")
    with pytest.raises(InputError, match=r"u has dimensions .*'lon'.*rename them"):
        separate().rename(x="lon").to_netcdf(folder / "b.nc")
        open_dataset(mine, "train", folder / "b.nc")
    with pytest.raises(InputError, match=r"c.npz: time: t = 1 \(frame 3\) comes twice"):
        np.savez(folder / "c.npz", u=VALUES[..., 0], v=VALUES[..., 1], time=[0, 0.5, 1, 1, 2, 2.5, 3, 3.5, 4])
        open_dataset(mine, "train", folder / "c.npz")
    with pytest.raises(InputError, match=r"c2.npz: time has dates, 2000-01-01T00 first; expected numbers"):
        dates = np.datetime64("2000-01-01T00") + np.arange(9)
        np.savez(folder / "c2.npz", u=VALUES[..., 0], v=VALUES[..., 1], time=dates)
        open_dataset(mine, "train", folder / "c2.npz")
    with pytest.raises(InputError, match=r"frames are 0.25 to 0.25 apart, the card of mine says dt = 0.5"):
        np.savez(folder / "d.npz", u=VALUES[..., 0], v=VALUES[..., 1], time=TIME / 2)
        open_dataset(mine, "train", folder / "d.npz")
    with pytest.raises(InputError, match="packed"):
        packed = zarr.open_group(folder / "e.zarr", mode="w").create_array("u", data=VALUES)
        packed.attrs["scale_factor"] = 2.0
        open_dataset(mine, "train", folder / "e.zarr")


def test_objects_are_never_unpickled(folder, mine):
    np.save(folder / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(folder / "a.npz", u=np.array([{}], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match=rf"{name}.*(Python objects|Object arrays)"):
            open_dataset(mine, "train", folder / name)


def test_netcdf3(folder, mine):
    with netCDF4.Dataset(folder / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        for name, size in zip(("sample", "time", "y", "x"), VALUES.shape, strict=False):
            file.createDimension(name, size)
        for i, name in enumerate("uv"):
            file.createVariable(name, "f4", ("sample", "time", "y", "x"))[:] = VALUES[..., i]
    np.testing.assert_array_equal(open_dataset(mine, "train", folder / "a.nc").u, VALUES[..., 0])


THREADS = """
import sys, threading
from pathlib import Path
import dask
from physinterp.data import open_dataset
from physinterp.data.store import opened
from physinterp.system import load_system
card, path = sys.argv[1:]
stop = threading.Event()
def keep_opening():
    while not stop.is_set():
        with opened(Path(path)) as ds:
            ds.v[0].values
thread = threading.Thread(target=keep_opening)
thread.start()
try:
    ds = open_dataset(load_system(card), "train", path)
    with dask.config.set(scheduler="threads", num_workers=8):
        for _ in range(4):
            assert abs(float(ds.u.mean()) - 1) < 1e-6
finally:
    stop.set()
    thread.join()
"""


def test_threads_do_not_meet_in_the_netcdf_library(folder, mine):
    """Two threads in it crash the process (without the lock 6 times of 6)."""
    values = np.ones((40, 9, 6, 4), dtype=np.float32)
    dims = ("sample", "time", "y", "x")
    xr.Dataset({"u": (dims, values), "v": (dims, values)}, {"time": TIME}).to_netcdf(folder / "a.nc")
    command = [sys.executable, "-c", THREADS, str(folder / "card.yaml"), str(folder / "a.nc")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[:2000])
