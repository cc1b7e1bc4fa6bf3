"""Your own arrays: numpy, HDF5, netCDF or zarr, and what `physinterp data convert` writes.

    one array       (sample, time, *axes, field), the fields in the order of the card
    or one each     (sample, time, *axes), named as the fields of the card
    beside them, where the file can hold several: `time` (time,), the axes, the parameters (sample,), and for records
    `date` (sample, time), seconds since 1970

Dimensions that have names may come in any order, and `sample` may be missing; the axes have the names of the card.
Splits are files PATH/{train,valid,test}.SUFFIX or groups train, valid, test of one file; a file without them is one
unnamed split. A card needs `name`, `adapter: array`, `fields`, `grid` and `dt`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physinterp.data import checksums
from physinterp.data.containers import Named, ZarrArray, arrays, groups, is_zarr
from physinterp.data.hdf5 import SUFFIXES as HDF5
from physinterp.data.parts import Part, View, check_times
from physinterp.data.remote import Location, Store, location
from physinterp.data.store import check_chunks
from physinterp.data.units import check_units
from physinterp.errors import InputError
from physinterp.system import System, near

SPLITS = ("train", "valid", "test")
SUFFIXES = (".npy", ".npz", *HDF5, ".nc", ".zarr")
EXPECTED = "an array (sample, time, *axes, field): .npy, .npz, .h5, .nc, .zarr, or a folder with train.SUFFIX, valid.SUFFIX"
SAME = {"t": "time", "trajectory": "sample", "batch": "sample", "channel": "field", "variable": "field"}
"""Other names of dimensions."""


def matches(path: Store) -> bool:
    """Whether a path is such a file, store or folder."""
    return bool(sources(location(path)))


def splits(path: Store) -> tuple[str, ...]:
    """Splits present at a path, in the order train, valid, test; "" for a file without splits."""
    return tuple(sources(location(path)))


def read(path: Store, split: str, system: System, verify: bool = False) -> xr.Dataset:
    """One split as a lazy dataset, dims (sample, time, *space); `verify` compares the sums that `convert` noted."""
    return parts(path, split, system, verify)[0].dataset()


def parts(path: Store, split: str, system: System, verify: bool = False) -> list[Part]:
    """What the file holds of a split; arguments as in `read`."""
    found = sources(location(path))
    if split not in found and "" not in found:
        raise InputError(f"{path}: no split {split!r}; found {list(found)}; choose one of these")
    file, group = found.get(split) or found[""]
    here = arrays(file, group)
    views = _views(file, here, system)
    sizes = _sizes(file, views, system)
    if verify:
        checksums.check_regions(file, {view.stored.key: view.stored for view in views.values()})
    coords = _coords(file, here, sizes, system)
    for stored, dims in {(view.stored, view.dims) for view in views.values()}:
        if isinstance(stored, ZarrArray):
            check_chunks(dict(zip(dims, stored.shape, strict=True)), file, stored.key, "time", coords["time"])
    if "sample" not in next(iter(views.values())).dims and sizes["sample"] > 1:
        raise InputError(f"{file}: the fields have no dimension sample, but there are {sizes['sample']} trajectories")
    return [Part(views, sizes, coords)]


def sources(path: Location) -> dict[str, tuple[Path, str]]:
    """File and group per split; the key is empty for a file without splits."""
    if not isinstance(path, Path):
        return {}
    if (path.is_file() and path.suffix in SUFFIXES) or (path.is_dir() and is_zarr(path)):
        inner = [name for name in SPLITS if name in (groups(path) if path.stat().st_size else ())]
        return {name: (path, name) for name in inner} or {"": (path, "")}
    files = {name: next((f for s in SUFFIXES if (f := path / f"{name}{s}").exists()), None) for name in SPLITS}
    return {name: (file, "") for name, file in files.items() if file is not None}


def _views(file: Path, here: Mapping[str, Named], system: System) -> dict[str, View]:
    """Where each field is: in an array of its own, or in the one that holds all."""
    own = {f.name: next((n for n in (f.name, *f.aliases) if n in here), None) for f in system.fields}
    if all(own.values()):
        views = {}
        for field, name in zip(system.fields, map(str, own.values()), strict=True):
            check_units(here[name].units, field, f"{file}: {name!r}", system)
            views[field.name] = View(here[name].stored, _dims(file, name, here[name], system, False))
        return views
    most = max((item.stored.ndim for item in here.values()), default=0)
    whole = {name: item for name, item in here.items() if item.stored.ndim == most > len(system.grid.axes)}
    if len(whole) != 1:
        known = ", ".join(f"{n or 'array'} {item.stored.shape}" for n, item in here.items()) or "no arrays"
        missing = next(name for name, n in own.items() if n is None)
        hint = near(missing, here) if any(own.values()) else f"expected {EXPECTED}"
        raise InputError(f"{file}: no field {missing!r}: {hint}; found {known}")
    ((name, item),) = whole.items()
    dims = _dims(file, name, item, system, len(system.fields) > 1 or most > len(system.grid.axes) + 2)
    if "field" not in dims:
        return {system.fields[0].name: View(item.stored, dims)}
    order = _names(here, item.stored.shape[dims.index("field")], system, file)
    return {n: View(item.stored, dims, {"field": i}) for i, n in enumerate(order)}


def _names(here: Mapping[str, Named], size: int, system: System, file: Path) -> list[str]:
    """Names along the dimension of the fields: those of the file, else those of the card."""
    if "field" in here:
        return [str(v) for v in here["field"][0][:]]
    if size != len(system.fields):
        raise InputError(f"{file}: {size} fields in the array, {len(system.fields)} in the card: {list(system.field_names)}")
    return list(system.field_names)


def _dims(file: Path, name: str, item: Named, system: System, fields: bool) -> tuple[str, ...]:
    """The dimensions of an array, by name where they have names that say something, else by position."""
    stored, named, _ = item
    if stored.dtype.kind not in "fiu":
        raise InputError(f"{file}: {name or 'the array'} has elements of type {stored.dtype}; expected real numbers")
    expected = ("sample", "time", *system.grid.names, *(("field",) if fields else ()))
    if named is not None and not any(re.fullmatch(r"(phony_)?dim_\d+", d) for d in named):
        dims = tuple(d if d in expected else SAME.get(d, d) for d in named)
        if set(dims) | {"sample"} != set(expected):
            raise InputError(f"{file}: {name} has dimensions {named}; expected {expected}: rename them, or the card's axes")
        return dims
    if stored.ndim != len(expected):
        remedy = "add the dimension sample: u[None]" if stored.ndim == len(expected) - 1 else "transpose or reshape it"
        raise InputError(f"{file}: {name or 'the array'} has shape {stored.shape}; expected {expected}: {remedy}")
    return expected


def _sizes(file: Path, views: Mapping[str, View], system: System) -> dict[str, int]:
    sizes: dict[str, int] = {"sample": 1}
    for name, view in views.items():
        for dim, size in zip(view.dims, view.stored.shape, strict=True):
            if dim != "field" and sizes.setdefault(dim, size) != size and not (dim == "sample" and sizes[dim] == 1):
                raise InputError(f"{file}: {name} has {size} points along {dim}, another field has {sizes[dim]}")
            if dim == "sample":
                sizes[dim] = size
    if 0 in sizes.values():
        raise InputError(f"{file}: there is nothing in it: sizes {sizes}")
    return {dim: sizes[dim] for dim in ("sample", "time", *system.grid.names)}


def _coords(file: Path, here: Mapping[str, Named], sizes: Mapping[str, int], system: System) -> dict[str, Any]:
    """Times, axes and parameters: those of the file, else the card's times and axes."""

    def values(name: str, size: int) -> np.ndarray | None:
        if name not in here:
            return None
        found = np.asarray(here[name][0][:] if here[name][0].ndim else here[name][0][()])
        if found.shape not in ((size,), ()):
            raise InputError(f"{file}: {name} has shape {found.shape}; expected ({size},)")
        return np.broadcast_to(found, (size,))

    time = next((v for n in ("time", "t") if (v := values(n, sizes["time"])) is not None), None)
    if time is not None and time.dtype.kind in "mM":
        raise InputError(f"{file}: time has dates, {time[0]} first; expected numbers, such as hours since then")
    time = np.asarray(system.dt * np.arange(sizes["time"]) if time is None else time, dtype=np.float64)
    check_times(time, file)
    coords: dict[str, Any] = {"time": np.round(time, 6)}
    for axis in system.grid.axes:
        points = values(axis.name, sizes[axis.name])
        if points is not None:
            coords[axis.name] = np.asarray(points, dtype=np.float64)
        elif axis.size == sizes[axis.name]:
            coords[axis.name] = axis.points
    for p in system.parameters:
        found = values(p.name, sizes["sample"])
        if found is None:
            raise InputError(
                f"{file}: no parameter {p.name!r}: {near(p.name, here)}; add an array (sample,), or take it off the card"
            )
        coords[p.name] = ("sample", np.asarray(found, dtype=np.float64))
    if "date" in here:
        seconds = np.asarray(here["date"][0][:]).astype("datetime64[s]")
        coords["date"] = (("sample", "time"), seconds.astype("datetime64[ns]"))
    names = values("trajectory", sizes["sample"])
    ids = [f"{file.stem}/{i}" for i in range(sizes["sample"])] if names is None else [str(n) for n in names]
    return coords | {"trajectory": ("sample", ids)}
