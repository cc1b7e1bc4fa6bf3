"""Statistics: the numbers, one pass, the same on every scheduler, floors, and the hash of what they come from."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
import yaml
from test_data import RBC, write_well
from toy import KOLMOGOROV, dataset

from physinterp.data import open_dataset
from physinterp.data.hdf5 import HDF5Array
from physinterp.data.statistics import KEYS, moments, statistics, write_stats
from physinterp.errors import InputError


def chunked(ds: xr.Dataset, frames: int = 3) -> xr.Dataset:
    return ds.chunk({"sample": 1, "time": frames})


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_the_numbers(stride):
    """Against plain numpy, whatever the chunks; far from zero, where <u^2> - <u>^2 would have lost all digits."""
    ds = dataset(KOLMOGOROV, 3, 11) * 1e-3 + 1e5
    u = ds.vorticity.values.astype(np.float64)
    d = u[:, stride:] - u[:, :-stride]
    rms = [np.sqrt(np.mean(x**2)) for x in (u, d)]
    expected = dict(zip(KEYS, (u.mean(), u.std(), rms[0], d.mean(), d.std(), rms[1]), strict=True))
    for data in (ds, chunked(ds), chunked(ds, 11), chunked(ds, 1)):
        found = moments(data, ["vorticity"], stride)["vorticity"]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_each_chunk_is_read_once(tmp_path, monkeypatch):
    write_well(tmp_path)
    ds = open_dataset(RBC, "train", tmp_path).chunk({"time": 2})
    read, get = [], HDF5Array.__getitem__
    monkeypatch.setattr(
        HDF5Array, "__getitem__", lambda self, index: read.append((self.key, str(index))) or get(self, index)
    )
    with dask.config.set(scheduler="synchronous"):
        moments(ds, RBC.field_names)
    assert len(read) == len(set(read)) == 2 * 3  # trajectories x arrays in the file: vectors come whole


def test_the_same_on_every_scheduler(tmp_path):
    """To the last bit: one thread, many threads, a cluster of two workers."""
    write_well(tmp_path)
    write_well(tmp_path, name="b", seed=1)
    ds = open_dataset(RBC, "train", tmp_path)

    def files() -> str:
        write_stats(tmp_path / "stats.yaml", ds, RBC)
        return (tmp_path / "stats.yaml").read_text() + str(moments(ds, RBC.field_names))

    found = {}
    for name, options in (("one", {"scheduler": "synchronous"}), ("many", {"scheduler": "threads", "num_workers": 8})):
        with dask.config.set(options):
            found[name] = files()
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        found["cluster"] = files()
    assert found["one"] == found["many"] == found["cluster"]


@pytest.mark.slow
def test_the_same_on_a_cluster_of_processes(tmp_path):
    distributed = pytest.importorskip("distributed")
    write_well(tmp_path)
    ds = open_dataset(RBC, "train", tmp_path)
    with dask.config.set(scheduler="synchronous"):
        expected = moments(ds, RBC.field_names)
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, distributed.Client(cluster):
        assert moments(ds, RBC.field_names) == expected


def test_constant_fields_have_a_floor():
    ds = dataset(RBC, 2, 5)
    ds["pressure"] = ds.pressure * 0 + 3.0
    ds["buoyancy"] = ds.buoyancy * 0
    found = statistics(ds, RBC.field_names)
    std = dict(zip(found.names, found.std, strict=True))
    assert std["pressure"] == pytest.approx(3e-6) and std["buoyancy"] == 1.0
    assert min(found.delta_std) > 0


def test_the_hash_is_of_values_and_coordinates(tmp_path):
    def digest(ds: xr.Dataset, stride: int = 1) -> str:
        write_stats(tmp_path / "stats.yaml", ds, KOLMOGOROV, "two\nlines", stride)
        return str(yaml.safe_load((tmp_path / "stats.yaml").read_text())["source"]["hash"])

    ds = chunked(dataset(KOLMOGOROV, 2, 6))
    other = ds.copy(deep=True)
    other["vorticity"] = other.vorticity + xr.where(other.time == other.time[3], 1e-6, 0)
    kinds = [ds, other, ds.assign_coords(time=ds.time + 1), ds.isel(time=slice(5)), ds.isel(sample=[1, 0])]
    found = [digest(d) for d in kinds] + [digest(ds, 2)]
    assert len(set(found)) == len(found) and digest(ds.copy()) == found[0]
    text = (tmp_path / "stats.yaml").read_text()
    assert text.startswith("# two\n# lines\n")
    assert yaml.safe_load(text)["source"] | {"hash": ""} == {
        "hash": "", "system": "kolmogorov", "split": "train", "trajectories": 2, "frames": 6, "stride": 1
    }  # fmt: skip


def test_bad_values_and_strides():
    ds = chunked(dataset(RBC, 2, 5))
    with pytest.raises(InputError, match="5 frames are too few for stride 5; need at least 6"):
        moments(ds, RBC.field_names, 5)
    bad = ds.copy(deep=True).load()
    bad["velocity_x"][1, 3, 2, 1] = np.inf
    where = r"'velocity_x' has 1 values .* in sample 1, first at time index 3, x index 2, y index 1 \(t = 0.75\)"
    with pytest.raises(InputError, match=where):
        moments(chunked(bad), RBC.field_names)
