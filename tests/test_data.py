"""Adapters: the true formats read by name, the reader of The Well, lazy access, broken and missing files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import dask
import h5py
import numpy as np
import pytest
import yaml

from physinterp.data import ADAPTERS, open_dataset, splits, well
from physinterp.data.statistics import KEYS, moments, write_stats
from physinterp.errors import InputError
from physinterp.system import System, load_system

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
WELL = SHARED / "rayleigh_benard_dedalus"
APEBENCH = SHARED / "kolmogorov_apebench" / "KolmFlow_64_shared.h5"
needs_shared = pytest.mark.skipif(not WELL.is_dir(), reason=f"no reference data at {SHARED}")

RBC = load_system("rbc").with_grid((12, 8))
KOLMOGOROV = load_system("kolmogorov").with_grid((12, 12))


def arrays(system: System, samples: int = 2, frames: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (samples, frames, *system.grid.shape)
    return {name: rng.standard_normal(shape).astype(np.float32) for name in system.field_names}


def write_well(root: Path, split: str = "train", name: str = "a", seed: int = 0, **parameters: float) -> Path:
    path = root / "data" / split / f"{name}.hdf5"
    values = {"Rayleigh": 1e6, "Prandtl": 1.0} | parameters
    well.write(path, RBC, arrays(RBC, seed=seed), 0.25 * np.arange(5), values)
    return path


def write_apebench(path: Path, values: np.ndarray, order: str = "xy") -> Path:
    grid = np.meshgrid(*(axis.points for axis in KOLMOGOROV.grid.axes), indexing="ij")
    points = np.stack(grid, -1)
    with h5py.File(path, "w") as file:
        group = file.create_group("test")
        group["u"] = values if order == "xy" else values.swapaxes(-1, -2)
        group["x"] = points if order == "xy" else points.swapaxes(0, 1)
        group["t"] = (0.1 * np.arange(values.shape[1])).astype(np.float32)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_well(tmp_path)
    write_well(tmp_path, name="b", seed=1, Rayleigh=1e7)
    write_well(tmp_path, "valid")
    return tmp_path


def test_well_round_trip(root):
    ds = open_dataset(RBC, "train", root)
    assert dict(ds.sizes) == {"sample": 4, "time": 5, "x": 12, "y": 8}
    assert list(ds.data_vars) == list(RBC.field_names)
    for name, values in arrays(RBC, seed=1).items():
        np.testing.assert_array_equal(ds[name][2:], values)
        assert ds[name].dtype == np.float32 and ds[name].attrs["long_name"]
    assert ds.Rayleigh.values.tolist() == [1e6, 1e6, 1e7, 1e7]
    assert ds.trajectory.values.tolist() == ["a/0", "a/1", "b/0", "b/1"]
    assert ds.time.values == pytest.approx(0.25 * np.arange(5))
    assert ds.attrs["split"] == "train" and ds.attrs["path"] == str(root)
    assert splits(root) == ("train", "valid")


def test_the_well_opens_what_is_written(root):
    the_well = pytest.importorskip("the_well.data")
    write_stats(root / "stats.yaml", open_dataset(RBC, "train", root), RBC)
    normalization = pytest.importorskip("the_well.data.normalization").ZScoreNormalization
    data = the_well.WellDataset(
        path=str(root), well_split_name="train", use_normalization=True, normalization_type=normalization
    )
    assert data.metadata.n_trajectories_per_file == [2, 2]
    assert data.metadata.spatial_resolution == (12, 8)
    assert data.metadata.field_names == {0: ["buoyancy", "pressure"], 1: ["velocity_x", "velocity_y"], 2: []}
    item = data[0]
    stats = yaml.safe_load((root / "stats.yaml").read_text())
    ours = arrays(RBC)
    for i, name in enumerate(("buoyancy", "pressure")):
        expected = (ours[name][0, 0] - stats["mean"][name]) / stats["std"][name]
        np.testing.assert_allclose(item["input_fields"][0, ..., i], expected, atol=1e-5)
    expected = (ours["velocity_y"][0, 0] - stats["mean"]["velocity"][1]) / stats["std"]["velocity"][1]
    np.testing.assert_allclose(item["input_fields"][0, ..., 3], expected, atol=1e-5)
    # x periodic (2), y between walls (0)
    assert item["boundary_conditions"].tolist() == [[2, 2], [0, 0]]


@needs_shared
def test_layout_is_that_of_the_well(root):
    """The same groups and attributes as a file made by another program (besides its private notes)."""

    def layout(path: Path) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: set(item.attrs)}))
        return found

    theirs = layout(WELL / "data" / "train" / "rayleigh_benard_Rayleigh_1e6_Prandtl_1.hdf5")
    assert layout(root / "data" / "train" / "a.hdf5") == theirs


@needs_shared
def test_statistics_of_the_reference_data():
    ds = open_dataset("rbc", "train", WELL)
    ours = moments(ds, ds.data_vars)
    theirs = yaml.safe_load((WELL / "stats.yaml").read_text())
    for key in KEYS:
        assert ours["buoyancy"][key] == pytest.approx(theirs[key]["buoyancy"], rel=1e-4, abs=1e-9)
        for i, name in enumerate(("velocity_x", "velocity_y")):
            assert ours[name][key] == pytest.approx(theirs[key]["velocity"][i], rel=1e-4, abs=1e-9)
    assert ds.Prandtl.values.tolist() == [0.5, 1.0]


@needs_shared
def test_apebench_reference_data():
    ds = open_dataset("kolmogorov", "valid", APEBENCH)
    assert dict(ds.sizes) == {"sample": 2, "time": 30, "x": 64, "y": 64}
    with h5py.File(APEBENCH) as file:
        np.testing.assert_array_equal(ds.vorticity, file["valid/u"])
    assert splits(APEBENCH) == splits(APEBENCH.parent / APEBENCH.name) == ("train", "valid")
    # the forcing - k cos(k y) acts along the second axis: the mean over x and time anticorrelates with it
    profile = open_dataset("kolmogorov", "train", APEBENCH).vorticity.mean(("sample", "time", "x"))
    assert float((profile * np.cos(4 * ds.y)).mean()) < -0.1


def test_apebench_axes_are_told_by_their_coordinates(tmp_path):
    values = arrays(KOLMOGOROV)["vorticity"]
    for order in ("xy", "yx"):
        ds = open_dataset(KOLMOGOROV, "test", write_apebench(tmp_path / f"{order}.h5", values, order))
        assert ds.vorticity.dims == ("sample", "time", "x", "y")
        np.testing.assert_array_equal(ds.vorticity, values)
    with pytest.raises(InputError, match="2 APEBench files"):
        splits(tmp_path)
    with pytest.raises(InputError, match=r"no split 'train'; found \['test'\]"):
        open_dataset(KOLMOGOROV, "train", tmp_path / "xy.h5")


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([0, 0.1, 0.1, 0.2, 0.3], r"train: time: t = 0.1 \(frame 2\) comes twice; drop one"),
        ([0, 0.2, 0.1, 0.3, 0.4], r"train: time: t = 0.1 \(frame 2\) comes after a later one; sort"),
        ([0, 0.1, 0.2, 0.4, 0.5], r"train: time: the step is 0.1, but 0.2 from t = 0.2 to 0.4 \(frame 3\)"),
        ([0, 0.1, 0.2, np.nan, 0.5], "train: time: frame 3 has no finite time"),
        (None, r"no train/u, the values \(sample, time, x, y\): did you mean 'ux'\? known: t, ux, x"),
    ],
)
def test_apebench_without_a_series_or_values(tmp_path, time, message):
    path = write_apebench(tmp_path / "a b.h5", arrays(KOLMOGOROV)["vorticity"])
    with h5py.File(path, "r+") as file:
        file.move("test", "train")
        if time is None:
            file.move("train/u", "train/ux")
        else:
            file["train/t"][:] = time
    with pytest.raises(InputError, match=rf"a b.h5: {message}"):
        open_dataset(KOLMOGOROV, "train", path)


def test_well_dimensions_come_from_attributes(tmp_path, root):
    """Swapped axes, a descending coordinate and a field that is constant in time."""
    path = root / "data" / "valid" / "a.hdf5"
    with h5py.File(path, "r+") as file:
        file["dimensions"].attrs["spatial_dims"] = ["y", "x"]
        y = file["dimensions/y"][:]
        file["dimensions/y"][:] = y[::-1]
        for key in ("t0_fields/buoyancy", "t0_fields/pressure", "t1_fields/velocity"):
            data, attributes = file[key][:].swapaxes(2, 3)[:, :, ::-1], dict(file[key].attrs)
            if key.endswith("pressure"):
                data, attributes["time_varying"] = data[:, 0], False
            if key.endswith("velocity"):
                data = data[..., ::-1]
            del file[key]
            file[key] = data
            file[key].attrs.update(attributes)
    (root / "checksums.json").unlink()
    ds = open_dataset(RBC, "valid", path)
    expected = arrays(RBC)
    for name in ("buoyancy", "velocity_x", "velocity_y"):
        np.testing.assert_array_equal(ds[name], expected[name])
    np.testing.assert_array_equal(ds.pressure, np.repeat(expected["pressure"][:, :1], 5, 1))


@pytest.mark.parametrize("place", [".", "data", "data/train", "data/train/a.hdf5"])
def test_any_level_of_the_folders_will_do(root, place):
    ds = open_dataset(RBC, "train", root / place)
    assert ds.sizes["sample"] == (2 if place.endswith("hdf5") else 4)
    assert ADAPTERS["well"].matches(root / place)


def test_opening_reads_no_values(root, monkeypatch):
    ds = open_dataset(RBC, "train", root)
    assert all(dask.is_dask_collection(ds[name].data) for name in ds.data_vars)
    shutil.rmtree(root / "data" / "train")
    with pytest.raises(InputError, match="no such file"):
        ds.buoyancy.load()


def test_missing_and_wrong_paths(tmp_path, root):
    with pytest.raises(InputError, match="no such file or folder; did you mean 'valid'"):
        open_dataset(RBC, "train", root / "data" / "vald")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no known format \(found an empty folder\); expected The Well"):
        open_dataset(RBC, "train", tmp_path / "empty")
    (tmp_path / "empty" / "x.txt").write_text("")
    with pytest.raises(InputError, match=r"found x.txt\); expected"):
        open_dataset(RBC, "train", tmp_path / "empty")
    with pytest.raises(InputError, match=r"no split 'test'; found \['train', 'valid'\]"):
        open_dataset(RBC, "test", root)
    with pytest.raises(InputError, match="for generated data"):
        open_dataset(RBC, "train", root, frames=3)


def test_broken_files(tmp_path, root):
    path = root / "data" / "train" / "a.hdf5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a.hdf5.*(truncated|differs from checksums)"):
        open_dataset(RBC, "train", root)
    (root / "checksums.json").unlink()
    with pytest.raises(InputError, match=r"a.hdf5: cannot be read as HDF5 .*truncated"):
        open_dataset(RBC, "train", root)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["dimensions/time"]
    with pytest.raises(InputError, match=r"is missing: .*time"):
        open_dataset(RBC, "train", path)
    path.write_text("nothing")
    with pytest.raises(InputError, match="no HDF5 file"):
        open_dataset(RBC, "train", path)


def test_a_file_of_zero_bytes(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"a.h5: cannot be read as HDF5 \(0 bytes\)"):
        open_dataset(KOLMOGOROV, "train", tmp_path / "a.h5")


def test_paths_with_spaces_and_parents(tmp_path, root):
    place = tmp_path / "my data"
    shutil.copytree(root / "data", place / "data")
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / ".." / place.name
    assert open_dataset(RBC, "train", path).equals(open_dataset(RBC, "train", place))


def test_checksums(root):
    path = root / "data" / "train" / "a.hdf5"
    os.utime(path, (1, 1))  # a copy: the hash decides
    assert open_dataset(RBC, "train", root).sizes["sample"] == 4
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-100] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"differs from checksums.json"):
        open_dataset(RBC, "train", root)
    notes = json.loads((root / "checksums.json").read_text())
    notes["data/train/a.hdf5"]["mtime_ns"] = stat.st_mtime_ns
    (root / "checksums.json").write_text(json.dumps(notes))
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    open_dataset(RBC, "train", root)  # size and time agree: trusted
    with pytest.raises(InputError, match=r"differs from checksums.json"):
        open_dataset(RBC, "train", root, verify=True)


def test_contents_that_do_not_fit_the_card(tmp_path, root):
    with pytest.raises(InputError, match=r"'x': expected 128 points, found 12; use system.with_grid\(\(12, 8\)\)"):
        open_dataset("rbc", "train", root)
    with pytest.raises(InputError, match="no field 'vorticity'"):
        open_dataset(KOLMOGOROV, "train", root)
    values = RBC.model_copy(update={"dt": 0.5})
    with pytest.raises(InputError, match=r"frames are 0.25 to 0.25 apart.*dt = 0.5"):
        open_dataset(values, "train", root)
    odd = root / "data" / "train" / "c.hdf5"
    well.write(odd, RBC, arrays(RBC, frames=4), 0.25 * np.arange(4), {"Rayleigh": 1e6, "Prandtl": 1.0})
    with pytest.raises(InputError, match=r"c.hdf5: times, grid or fields differ from a.hdf5"):
        open_dataset(RBC, "train", root)
    well.write(odd, RBC, arrays(RBC), 0.25 * np.arange(5), {"Rayleigh": 1e6})
    with pytest.raises(InputError, match="no scalar 'Prandtl'"):
        open_dataset(RBC, "train", root)


def test_writing_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "data" / "train" / "a.hdf5"

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(well, "_write_fields", fail)
    with pytest.raises(OSError, match="No space"):
        well.write(path, RBC, arrays(RBC), 0.25 * np.arange(5), {"Rayleigh": 1e6, "Prandtl": 1.0})
    assert not list(path.parent.iterdir())
