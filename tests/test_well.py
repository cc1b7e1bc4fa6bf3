"""Sets of The Well by a card alone, in their true layout: other systems, constant fields, scalars, tensors, times, URLs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from server import serving
from test_data import RBC, arrays, write_well

from physinterp.data import open_dataset, remote, splits, well
from physinterp.data.windows import Windows
from physinterp.errors import InputError
from physinterp.system import System, validate

SHEAR_FLOW = {
    "name": "shear_flow",
    "adapter": "well",
    "fields": [{"name": n} for n in ("tracer", "pressure", "velocity_x", "velocity_y")],
    "grid": {
        "axes": [
            {"name": "x", "size": 8, "start": 0.0, "length": 1.0, "boundary": "periodic"},
            {"name": "y", "size": 16, "start": -1.0, "length": 2.0, "boundary": "periodic"},
        ]
    },
    "dt": 0.1,
    "parameters": [
        {"name": "Reynolds", "transform": "log10", "default": 1e4, "values": [1e4, 5e5]},
        {"name": "Schmidt", "default": 1.0, "values": [0.1, 10.0]},
    ],
}
PLANETSWE = {
    "name": "planetswe",
    "adapter": "well",
    "fields": [{"name": n} for n in ("height", "velocity_theta", "velocity_phi")],
    "grid": {
        "axes": [
            {"name": "theta", "size": 6, "start": 0.0, "length": np.pi, "boundary": "wall"},
            {"name": "phi", "size": 12, "start": 0.0, "length": 2 * np.pi, "boundary": "periodic"},
        ]
    },
    "dt": 1.0,
    "time_unit": "h",
}


def card(values: Mapping[str, Any], **changes: Any) -> System:
    return validate(System, {**values, **changes}, "card")


def write(path: Path, axes: Mapping[str, np.ndarray], kinds: Mapping[str, str], time: np.ndarray, samples: int) -> h5py.File:
    """A file in The Well's layout, made by hand after its data format page, without fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = h5py.File(path, "w")
    file.attrs.update({"dataset_name": path.stem, "grid_type": "cartesian", "n_spatial_dims": 2, "n_trajectories": samples})
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = list(axes)
    dimensions["time"] = time.astype("f4")
    dimensions["time"].attrs["sample_varying"] = False
    for name, points in axes.items():
        dimensions[name] = points.astype("f4")
        boundary = file.create_group(f"boundary_conditions/{name}_{kinds[name].lower()}")
        boundary.attrs.update({"associated_dims": [name], "bc_type": kinds[name], "sample_varying": False})
        boundary["mask"] = np.arange(len(points)) % (len(points) - 1) == 0
    for order in range(3):
        file.create_group(f"t{order}_fields").attrs["field_names"] = []
    file.create_group("scalars")
    return file


def add(
    file: h5py.File, key: str, values: np.ndarray, sample: bool = True, time: bool = True, dims: tuple = (True, True)
) -> None:
    file[key] = values.astype("f4")
    file[key].attrs.update({"sample_varying": sample, "time_varying": time, "dim_varying": np.array(dims)})


def shear_flow(path: Path, time: np.ndarray | None = None) -> dict[str, np.ndarray]:
    time = 0.1 * np.arange(7) if time is None else time
    axes = {"x": np.arange(8) / 8, "y": np.arange(16) / 8 - 1}
    rng = np.random.default_rng(0)
    values = {"tracer": rng.random((2, len(time), 8, 16)), "pressure": rng.random((2, len(time), 8, 16))}
    values["velocity"] = rng.random((2, len(time), 8, 16, 2))
    with write(path, axes, {"x": "PERIODIC", "y": "PERIODIC"}, time, 2) as file:
        for name in ("tracer", "pressure"):
            add(file, f"t0_fields/{name}", values[name])
        add(file, "t1_fields/velocity", values["velocity"])
        for name, value in (("Reynolds", 5e4), ("Schmidt", 0.5)):
            file["scalars"][name] = np.float32([value])
            file["scalars"][name].attrs.update({"sample_varying": False, "time_varying": False})
    return {name: v.astype("f4") for name, v in values.items()}


def test_shear_flow(tmp_path):
    values = shear_flow(tmp_path / "data/train/shear_flow_Reynolds_5e4_Schmidt_5e-1.hdf5")
    ds = open_dataset(card(SHEAR_FLOW), "train", tmp_path)
    assert dict(ds.sizes) == {"sample": 2, "time": 7, "x": 8, "y": 16} and splits(tmp_path) == ("train",)
    np.testing.assert_array_equal(ds.tracer, values["tracer"])
    np.testing.assert_array_equal(ds.velocity_y, values["velocity"][..., 1])
    assert ds.Reynolds.values.tolist() == [5e4] * 2 and ds.Schmidt.values.tolist() == [0.5] * 2
    windows = Windows(card(SHEAR_FLOW), "train", tmp_path, stride=2, batch=3)
    for row, number in enumerate(windows.numbers(0)):
        n, t = divmod(int(number), windows.starts)
        np.testing.assert_array_equal(windows[0].states[row, :, 3], values["velocity"][n, t : t + 3 : 2, ..., 1])


def test_planetswe(tmp_path):
    """A sphere: colatitude descends from pi, the boundary is open, there are no parameters."""
    theta, phi = np.pi * (np.arange(6)[::-1] + 0.5) / 6, 2 * np.pi * np.arange(12) / 12
    rng = np.random.default_rng(0)
    height, velocity = rng.random((1, 5, 6, 12)), rng.random((1, 5, 6, 12, 2))
    path = tmp_path / "data/train/planetswe_IC00_s1.h5"
    with write(path, {"theta": theta, "phi": phi}, {"theta": "OPEN", "phi": "PERIODIC"}, np.arange(5.0), 1) as file:
        add(file, "t0_fields/height", height)
        add(file, "t1_fields/velocity", velocity)
    ds = open_dataset(card(PLANETSWE), "train", tmp_path)
    assert ds.theta.values[0] < ds.theta.values[-1]
    np.testing.assert_array_equal(ds.height, height[:, :, ::-1].astype("f4"))
    np.testing.assert_array_equal(ds.velocity_phi, velocity[:, :, ::-1, :, 1].astype("f4"))
    windows = Windows(card(PLANETSWE), "train", tmp_path, batch=1)
    start = int(windows.numbers(0)[0])
    np.testing.assert_array_equal(windows[0].states[0, :, 0], height[0, start : start + 2, ::-1].astype("f4"))


def test_what_does_not_vary_is_repeated(tmp_path):
    """Fields constant in time, over trajectories and along an axis; tensors; scalars that change in time."""
    path = tmp_path / "train" / "a.hdf5"
    shear_flow(path)
    topography, profile, stress = np.random.rand(8, 16), np.random.rand(2, 7, 16), np.random.rand(2, 7, 8, 16, 2, 2)
    with h5py.File(path, "r+") as file:
        add(file, "t0_fields/topography", topography, False, False)
        add(file, "t0_fields/profile", profile, dims=(False, True))
        add(file, "t2_fields/stress", stress)
        file["scalars/forcing"] = np.arange(7.0)
        file["scalars/forcing"].attrs.update({"sample_varying": False, "time_varying": True})
    system = card(SHEAR_FLOW, fields=[{"name": n} for n in ("topography", "profile", "stress_xy", "stress_yx")])
    ds = open_dataset(system, "train", tmp_path)
    expected = {
        "topography": np.broadcast_to(topography, (2, 7, 8, 16)),
        "profile": np.broadcast_to(profile[:, :, None], (2, 7, 8, 16)),
        "stress_xy": stress[..., 0, 1],
        "stress_yx": stress[..., 1, 0],
    }
    windows = Windows(system, "train", tmp_path, batch=2)
    for channel, (name, values) in enumerate(expected.items()):
        np.testing.assert_array_equal(ds[name], values.astype("f4"))
        for row, number in enumerate(windows.numbers(0)):
            n, t = divmod(int(number), windows.starts)
            np.testing.assert_array_equal(windows[0].states[row, :, channel], values[n, t : t + 2].astype("f4"))
    assert ds.forcing.dims == ("time",) and ds.forcing.values.tolist() == list(range(7))
    moving = card(SHEAR_FLOW, parameters=[{"name": "forcing", "default": 0.0, "values": [0.0, 6.0]}])
    with pytest.raises(InputError, match="scalar 'forcing' changes in time"):
        open_dataset(moving, "train", tmp_path)


def test_a_card_with_another_boundary_is_refused(tmp_path):
    shear_flow(tmp_path / "train" / "a b.hdf5")
    axes = [SHEAR_FLOW["grid"]["axes"][0], SHEAR_FLOW["grid"]["axes"][1] | {"boundary": "wall"}]
    with pytest.raises(InputError, match=r"a b.hdf5: the boundary along y is periodic, the card of shear_flow says wall"):
        open_dataset(card(SHEAR_FLOW, grid={"axes": axes}), "train", tmp_path)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([0, 0.1, 0.1, 0.2], r"t = 0.1 \(frame 2\) comes twice"),
        ([0, 0.2, 0.1, 0.3], r"t = 0.1 \(frame 2\) comes after a later one; sort"),
        ([0, 0.1, 0.2, 0.4], r"the step is 0.1, but 0.2 from t = 0.2 to 0.4 \(frame 3\)"),
        ([0, 0.1, np.nan, 0.3], "frame 2 has no finite time"),
    ],
)
def test_times_that_are_no_series(tmp_path, time, message):
    shear_flow(tmp_path / "train" / "a.hdf5", np.array(time))
    with pytest.raises(InputError, match=rf"a.hdf5: time: .*{message}"):
        open_dataset(card(SHEAR_FLOW), "train", tmp_path)


def test_attributes_that_contradict_the_shape(tmp_path):
    path = tmp_path / "train" / "a.hdf5"
    shear_flow(path)
    with h5py.File(path, "r+") as file:
        file["t0_fields/tracer"].attrs["time_varying"] = False
    with pytest.raises(InputError, match=r"tracer has shape \(2, 7, 8, 16\); its attributes say \(2, 8, 16\)"):
        open_dataset(card(SHEAR_FLOW), "train", tmp_path)


def test_behind_a_url(tmp_path, monkeypatch):
    """The same data over http, with faults on the way; windows are read ahead."""
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    write_well(tmp_path)
    write_well(tmp_path, name="b c", seed=1, Rayleigh=1e7)
    with serving(tmp_path) as server:
        server.busy["a.hdf5"], server.drops["b%20c.hdf5"] = 1, 1
        ds = open_dataset(RBC, "train", server.url)
        assert splits(server.url) == ("train",) and ds.attrs["path"] == server.url
        for name, values in arrays(RBC, seed=1).items():
            np.testing.assert_array_equal(ds[name][2:], values)
        assert open_dataset(RBC, "train", f"{server.url}/data/train/a.hdf5").sizes["sample"] == 2
        windows, local = Windows(RBC, "train", server.url, batch=4), Windows(RBC, "train", tmp_path, batch=4)
        for _, ours, theirs in zip(range(3), windows, local, strict=False):
            np.testing.assert_array_equal(ours.states, theirs.states)
        server.busy[""] = 1000
        with pytest.raises(InputError, match=rf"{server.url}.*no answer after 5 tries"):
            open_dataset(RBC, "train", server.url)
    with pytest.raises(InputError, match=r"no split 'test'; found \['train'\]"):
        well.read(tmp_path, "test", RBC)
