"""The Well's HDF5 layout: one folder per split, several files per split, some trajectories per file.

    ROOT/data/SPLIT/*.hdf5     (also ROOT/SPLIT/*.hdf5, the folder of one split, or one file), here or behind a URL

Scalar fields are in `t0_fields`, vectors in `t1_fields` (component last), tensors in `t2_fields`; dimension names and the
order of axes come from attributes, never from position. A vector `velocity` becomes `velocity_x, velocity_y`, in the
order of the file's axes. Fields that are constant in time, over trajectories or along an axis are repeated. Scalars are
parameters; one that changes in time is a coordinate on `time`.

References: Ohana et al. 2024, The Well, arXiv:2412.00568, and its data format page.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from physinterp.data import checksums
from physinterp.data.hdf5 import SUFFIXES, HDF5Array, files_in, opened, text
from physinterp.data.parts import Part, View, check_times, joined
from physinterp.data.remote import Location, Store, location
from physinterp.data.statistics import vector_fields
from physinterp.errors import InputError
from physinterp.system import System, near

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
EXPECTED = "The Well: ROOT/data/{train,valid,test}/*.hdf5 with the groups dimensions, scalars, t0_fields"


def matches(path: Store) -> bool:
    """Whether a file or folder has this layout."""
    folders = split_files(location(path))
    files = next((f for f in folders.values() if f), ())
    if not files:
        return False
    with opened(files[0]) as file:
        return "t0_fields" in file and "dimensions" in file


def splits(path: Store) -> tuple[str, ...]:
    """Splits present at a path, in the order train, valid, test."""
    return tuple(name for name, files in split_files(location(path)).items() if files)


def read(path: Store, split: str, system: System, verify: bool = False) -> xr.Dataset:
    """All files of one split as a lazy dataset, dims (sample, time, *space), with all that the files hold.

    Arguments:
        path: root of a data set, folder of a split, or one file; a path or a URL.
        split: name of the split; a folder of one split or a single file holds whatever is asked for.
        system: names the parameters that the files must state as scalars, and the boundaries they must have.
        verify: hash every file, also those whose size and time agree with `checksums.json`.
    """
    return joined(parts(path, split, system, verify))


def parts(path: Store, split: str, system: System, verify: bool = False) -> list[Part]:
    """What each file of a split holds; arguments as in `read`."""
    folders = split_files(location(path))
    files = folders.get(split) or folders.get("", ())
    if not files:
        raise InputError(f"{path}: no split {split!r}; found {list(splits(path))}; choose one of these")
    local = [file for file in files if isinstance(file, Path)]
    if local:
        checksums.check(local, verify)
        if unfinished := sorted(p.name for p in local[0].parent.glob("*.partial.safetensors")):
            log.warning("%s: %s is unfinished; generate again to complete the split", local[0].parent, unfinished[0])
    return [_part(file, system) for file in files]


def write(
    path: Path,
    system: System,
    fields: Mapping[str, np.ndarray],
    time: np.ndarray,
    parameters: Mapping[str, float],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write one file of The Well's layout, beside its final name and then renamed, and note its checksum.

    Arguments:
        path: ROOT/data/SPLIT/NAME.hdf5.
        system: grid, names and units.
        fields: per name an array (sample, time, *space), physical units; written as float32.
        time: shape (time,), in the time unit of the system.
        parameters: one value each, for all trajectories of the file.
        attributes: further attributes of the file, e.g. seeds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            samples = len(next(iter(fields.values())))
            file.attrs.update(
                {
                    **dict(attributes or {}),
                    **{name: float(value) for name, value in parameters.items()},
                    "dataset_name": system.name,
                    "grid_type": "cartesian",
                    "n_spatial_dims": len(system.grid.axes),
                    "n_trajectories": samples,
                    "simulation_parameters": _strings(parameters),
                }
            )
            _write_domain(file, system, time, parameters)
            _write_fields(file, system, fields)
        checksums.note(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def split_files(path: Location) -> dict[str, tuple[Location, ...]]:
    """Files per split; the key is empty for a bare folder or file that is not named after a split."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            return {}
        return {path.parent.name if path.parent.name in SPLITS else "": (path,)}
    for base in (path / "data", path):
        found = {name: files_in(base / name) for name in SPLITS}
        if any(found.values()):
            return found
    return {path.name if path.name in SPLITS else "": files_in(path)}


def _part(path: Location, system: System) -> Part:
    with opened(path) as file:
        absent = [group for group in ("dimensions", "t0_fields") if group not in file]
        if absent:
            raise InputError(f"{path}: no group {absent[0]!r} (found {list(file)}); expected {EXPECTED}")
        axes = text(file["dimensions"].attrs["spatial_dims"])
        time = _times(file, path)
        samples = int(file.attrs["n_trajectories"])
        coords: dict[str, Any] = {"time": time}
        coords |= {axis: np.asarray(file["dimensions"][axis], dtype=np.float64) for axis in axes}
        sizes = {"sample": samples, "time": len(time)} | {axis: len(coords[axis]) for axis in axes}
        views: dict[str, View] = {}
        for order in range(3):
            group = file.get(f"t{order}_fields", {})
            for name in group:
                views |= _views(group[name], name, path, order, sizes)
        coords |= _scalars(file, path, system, samples)
        if any(name in views for f in system.fields for name in (f.name, *f.aliases)):  # else it is another system
            _check_boundaries(file, path, system)
    ids = [f"{path.stem}/{i}" for i in range(samples)]
    return Part(views, sizes, coords | {"trajectory": ("sample", ids)})


def _times(file: h5py.File, path: Location) -> np.ndarray:
    time = np.asarray(file["dimensions/time"], dtype=np.float64)
    if time.ndim == 2:
        if np.ptp(time, axis=0).max() > 1e-6 * max(1.0, np.abs(time).max()):
            raise InputError(f"{path}: times differ between trajectories; split the file or interpolate in time")
        time = time[0]
    check_times(time, path)
    return np.round(time, 6)


def _views(data: h5py.Dataset, name: str, path: Location, order: int, sizes: Mapping[str, int]) -> dict[str, View]:
    """A scalar, or the components of a vector or tensor, with the dimensions along which they vary."""
    varying = [
        bool(data.attrs["sample_varying"]),
        bool(data.attrs["time_varying"]),
        *map(bool, data.attrs["dim_varying"]),
    ]
    dims = tuple(d for d, vary in zip(sizes, varying, strict=True) if vary)
    axes, stored = tuple(sizes)[2:], HDF5Array.of(data, path)
    shape = (*(sizes[d] for d in dims), *(len(axes),) * order)
    if stored.shape != shape:
        raise InputError(f"{path}: {data.name} has shape {stored.shape}; its attributes say {shape}")
    inner = tuple(f"component_{i}" for i in range(order))
    return {
        f"{name}_{''.join(axes[i] for i in c)}" if order else name: View(
            stored, (*dims, *inner), dict(zip(inner, c, strict=True))
        )
        for c in itertools.product(range(len(axes)), repeat=order)
    }


def _scalars(file: h5py.File, path: Location, system: System, samples: int) -> dict[str, Any]:
    """Scalars as coordinates on the dimensions along which they vary; the parameters of the card must be among them."""
    found: dict[str, Any] = {}
    group = file.get("scalars", {})
    for name in group:
        data = group[name]
        values, moves = np.asarray(data, dtype=np.float64), bool(data.attrs.get("time_varying", False))
        if moves:
            dims = ("sample", "time")[-values.ndim :]
            found[name] = (dims, values)
        else:
            found[name] = ("sample", np.broadcast_to(values.reshape(-1) if values.size == 1 else values, (samples,)))
    for parameter in system.parameters:
        if parameter.name not in found:
            raise InputError(
                f"{path}: no scalar {parameter.name!r}: {near(parameter.name, found)}; "
                f"the parameters of {system.name} are {[p.name for p in system.parameters]}"
            )
        if found[parameter.name][0] != "sample":
            raise InputError(f"{path}: scalar {parameter.name!r} changes in time; a parameter must not")
    return found


def _check_boundaries(file: h5py.File, path: Location, system: System) -> None:
    """An axis is periodic in the file where it is in the card, and nowhere else."""
    for group in file.get("boundary_conditions", {}).values():
        kind = np.asarray(group.attrs["bc_type"]).astype(str).item().lower()
        for name in text(group.attrs["associated_dims"]):
            axis = next((a for a in system.grid.axes if a.name == name), None)
            if axis is not None and (kind == "periodic") != (axis.boundary == "periodic"):
                raise InputError(
                    f"{path}: the boundary along {name} is {kind}, the card of {system.name} says "
                    f"{axis.boundary}; correct the card"
                )


def _write_domain(file: h5py.File, system: System, time: np.ndarray, parameters: Mapping[str, float]) -> None:
    constant = {"sample_varying": False, "time_varying": False}
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = _strings(system.grid.names)
    dimensions["time"] = np.asarray(time, dtype=np.float32)
    dimensions["time"].attrs["sample_varying"] = False
    boundaries = file.create_group("boundary_conditions")
    for axis in system.grid.axes:
        dimensions[axis.name] = axis.points.astype(np.float32)
        dimensions[axis.name].attrs.update(constant)
        boundary = boundaries.create_group(f"{axis.name}_{axis.boundary}")
        kind = {
            "associated_dims": _strings([axis.name]),
            "associated_fields": _strings([]),
            "bc_type": axis.boundary,
        }
        boundary.attrs.update({**constant, **kind})
        mask = np.zeros(axis.size, dtype=bool)
        mask[[0, -1]] = True
        boundary["mask"] = mask
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = _strings(parameters)
    for name, value in parameters.items():
        scalars[name] = np.float32(value)
        scalars[name].attrs.update(constant)


def _write_fields(file: h5py.File, system: System, fields: Mapping[str, np.ndarray]) -> None:
    vectors = vector_fields(tuple(fields), system.grid.names)
    for order in range(3):
        group = file.create_group(f"t{order}_fields")
        names = [name for name, parts in vectors.items() if (parts != (name,)) == (order == 1)] if order < 2 else []
        group.attrs["field_names"] = _strings(names)
        for name in names:
            parts = [np.asarray(fields[part], dtype=np.float32) for part in vectors[name]]
            group[name] = np.stack(parts, -1) if order else parts[0]
            dims = np.ones(len(system.grid.axes), dtype=bool)
            group[name].attrs.update({"dim_varying": dims, "sample_varying": True, "time_varying": True})


def _strings(values: Any) -> np.ndarray:
    return np.array(list(values), dtype=h5py.string_dtype())
