"""Trajectories in the layout of APEBench exports: one HDF5 file with a group per split.

    SPLIT/u  (sample, time, *space)  or  (sample, time, channel, *space)
    SPLIT/t  (time,)
    SPLIT/x  (*space, number of axes): coordinates of the points, optional

The format names neither fields nor axes, so the card supplies both; the coordinates decide which axis is
which.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import xarray as xr

from physinterp.data.hdf5 import SUFFIXES, HDF5Array, files_in, opened
from physinterp.data.parts import Part, View, check_times
from physinterp.data.remote import Location, Store, location
from physinterp.errors import InputError
from physinterp.system import System, near

EXPECTED = "APEBench: one HDF5 file with groups train, valid or test, each with u (sample, time, *space) and t"


def matches(path: Store) -> bool:
    """Whether a file, or the only such file of a folder, has this layout."""
    return _file(path) is not None


def splits(path: Store) -> tuple[str, ...]:
    """Splits present at a path, in the order train, valid, test."""
    file = _file(path)
    if file is None:
        return ()
    with opened(file) as handle:
        found = _groups(handle)
    return tuple(name for name in ("train", "valid", "test") if name in found)


def read(path: Store, split: str, system: System, verify: bool = False) -> xr.Dataset:
    """One split as a lazy dataset, dims (sample, time, *space); the channels are the fields of the card."""
    return parts(path, split, system)[0].dataset()


def parts(path: Store, split: str, system: System, verify: bool = False) -> list[Part]:
    """What the file holds of a split; arguments as in `read`."""
    file = _file(path)
    if file is None:
        raise InputError(f"{path}: expected {EXPECTED}")
    axes, names = system.grid.names, system.field_names
    with opened(file) as handle:
        if split not in _groups(handle):
            raise InputError(f"{file}: no split {split!r}; found {_groups(handle)}; choose one of these")
        group = handle[split]
        if "u" not in group:
            raise InputError(
                f"{file}: no {split}/u, the values (sample, time, {', '.join(axes)}): {near('u', group)}; rename it"
            )
        u = group["u"]
        channels = u.ndim == len(axes) + 3
        if u.ndim != len(axes) + 2 + channels or len(names) != (u.shape[2] if channels else 1):
            raise InputError(
                f"{file}: {split}/u has shape {u.shape}; expected "
                f"(sample, time, {'channel, ' if len(names) > 1 else ''}{', '.join(axes)}) of {names}"
            )
        coords, order = _coordinates(group, file, system)
        warmed = int(handle.attrs.get("warmup_steps", 1)) > 0
        time = np.asarray(group["t"], dtype=np.float64) if "t" in group else system.dt * np.arange(u.shape[1])
        if time.shape != u.shape[1:2]:
            raise InputError(f"{file}: {split}/t has shape {time.shape} for {u.shape[1]} frames; write one time per frame")
        check_times(time, f"{file}: {split}")
        stored = HDF5Array.of(u, file)
    dims = ("sample", "time", *(("channel",) if channels else ()), *order)
    views = {name: View(stored, dims, {"channel": i} if channels else {}) for i, name in enumerate(names)}
    sizes = {d: n for d, n in zip(dims, stored.shape, strict=True) if d != "channel"}
    coords |= {"time": np.round(time, 6)}
    coords |= {p.name: ("sample", np.full(sizes["sample"], p.default)) for p in system.parameters}
    coords |= {"trajectory": ("sample", [f"{split}/{i}" for i in range(sizes["sample"])])}
    # the times of these files count from the end of the warm-up
    return [Part(views, sizes, coords, {"spun_up": warmed})]


def _file(path: Store) -> Location | None:
    here = location(path)
    files = (here,) if here.is_file() and here.suffix in SUFFIXES else files_in(here)
    found = []
    for file in files:
        with opened(file) as handle:
            if _groups(handle):
                found.append(file)
    if len(found) > 1:
        raise InputError(f"{path}: {len(found)} APEBench files ({', '.join(f.name for f in found)}); give the path of one")
    return found[0] if found else None


def _groups(handle: h5py.File) -> list[str]:
    """Groups with values, or with the points of a grid, which tells this layout where the values have another name."""
    groups = {name: item for name, item in handle.items() if isinstance(item, h5py.Group)}
    return [name for name, item in groups.items() if "u" in item or getattr(item.get("x"), "ndim", 0) > 1]


def _coordinates(group: h5py.Group, file: Location, system: System) -> tuple[dict[str, Any], tuple[str, ...]]:
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
        raise InputError(f"{file}: {group.name}/x is no tensor-product grid of {axes}")
    return coords, tuple(order)
