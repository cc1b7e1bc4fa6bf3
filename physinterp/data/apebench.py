"""Trajectories in the layout of APEBench exports: one HDF5 file with a group per split.

    SPLIT/u  (sample, time, *space)  or  (sample, time, channel, *space)
    SPLIT/t  (time,)
    SPLIT/x  (*space, number of axes): coordinates of the points, optional

The format names neither fields nor axes, so the card supplies both; the coordinates decide which axis is
which.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from physinterp.data.hdf5 import SUFFIXES, files_in, lazy, opened
from physinterp.errors import InputError
from physinterp.system import System

FRAMES = 64
EXPECTED = "APEBench: one HDF5 file with groups train, valid or test, each with u (sample, time, *space) and t"


def matches(path: Path) -> bool:
    """Whether a file, or the only such file of a folder, has this layout."""
    return _file(path) is not None


def splits(path: Path) -> tuple[str, ...]:
    """Splits present at a path, in the order train, valid, test."""
    file = _file(path)
    if file is None:
        return ()
    with opened(file) as handle:
        found = _groups(handle)
    return tuple(name for name in ("train", "valid", "test") if name in found)


def read(path: Path, split: str, system: System, verify: bool = False) -> xr.Dataset:
    """One split as a lazy dataset, dims (sample, time, *space); the channels are the fields of the card."""
    file = _file(path)
    if file is None:
        raise InputError(f"{path}: expected {EXPECTED}")
    axes, names = system.grid.names, system.field_names
    with opened(file) as handle:
        if split not in _groups(handle):
            raise InputError(f"{file}: no split {split!r}; found {_groups(handle)}; choose one of these")
        group = handle[split]
        u = group["u"]
        channels = u.ndim == len(axes) + 3
        if u.ndim != len(axes) + 2 + channels or len(names) != (u.shape[2] if channels else 1):
            raise InputError(
                f"{file}: {split}/u has shape {u.shape}; expected "
                f"(sample, time, {'channel, ' if len(names) > 1 else ''}{', '.join(axes)}) of {names}"
            )
        chunks = [1, FRAMES, *([1] * channels), *u.shape[-len(axes) :]]
        data = lazy(handle, file, u.name, chunks)
        coords, order = _coordinates(group, system)
        warmed = int(handle.attrs.get("warmup_steps", 1)) > 0
        time = np.asarray(group["t"], dtype=np.float64) if "t" in group else system.dt * np.arange(u.shape[1])
    dims = ("sample", "time", *order)
    variables = {name: (dims, data[:, :, i] if channels else data) for i, name in enumerate(names)}
    ds = xr.Dataset(variables, coords={"time": np.round(time, 6), **coords})
    for parameter in system.parameters:
        ds = ds.assign_coords({parameter.name: ("sample", np.full(len(data), parameter.default))})
    ds.attrs["spun_up"] = warmed  # the times of these files count from the end of the warm-up
    return ds.assign_coords(trajectory=("sample", [f"{split}/{i}" for i in range(len(data))]))


def _file(path: Path) -> Path | None:
    files = (path,) if path.is_file() and path.suffix in SUFFIXES else files_in(path)
    found = []
    for file in files:
        with opened(file) as handle:
            if _groups(handle):
                found.append(file)
    if len(found) > 1:
        raise InputError(f"{path}: {len(found)} APEBench files ({', '.join(f.name for f in found)}); give the path of one")
    return found[0] if found else None


def _groups(handle: h5py.File) -> list[str]:
    return [name for name, item in handle.items() if isinstance(item, h5py.Group) and "u" in item]


def _coordinates(group: h5py.Group, system: System) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Coordinate per axis, and the axis that each space dimension of `u` is: the one that varies along it."""
    axes = system.grid.names
    if "x" not in group:
        found = group["u"].shape[-len(axes) :]  # the card's grid, where the sizes are its sizes
        return {a.name: a.points for a, n in zip(system.grid.axes, found, strict=True) if a.size == n}, axes
    points = np.asarray(group["x"], dtype=np.float64)
    if points.ndim == 1 and len(axes) == 1:
        points = points[:, None]
    order: list[str] = []
    coords = {}
    for dim in range(len(axes)):
        line = points[tuple(slice(None) if d == dim else 0 for d in range(len(axes)))]
        component = int(np.ptp(line, axis=0).argmax())
        order.append(axes[component])
        coords[axes[component]] = line[:, component]
    if len(set(order)) != len(axes):
        raise InputError(f"{group.file.filename}: {group.name}/x is no tensor-product grid of {axes}")
    return coords, tuple(order)
