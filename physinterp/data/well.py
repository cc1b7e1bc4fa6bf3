"""The Well's HDF5 layout: one folder per split, several files per split, some trajectories per file.

    ROOT/data/SPLIT/*.hdf5     (also ROOT/SPLIT/*.hdf5, the folder of one split, or one file)

Scalar fields are in `t0_fields`, vectors in `t1_fields` (component last); dimension names and the order of
axes come from attributes, never from position. A vector `velocity` becomes `velocity_x, velocity_y`.

`checksums.json` at ROOT keeps size, time of change and SHA-256 of the files written here. On opening, a file
whose size and time agree is trusted; one that differs in either is hashed, and refused where the hash
differs.

References: Ohana et al. 2024, The Well, arXiv:2412.00568, and its data format page.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import xarray as xr

from physinterp.checkpoint import load_json
from physinterp.data.hdf5 import files_in, lazy, opened, text
from physinterp.data.statistics import vector_fields
from physinterp.errors import InputError
from physinterp.system import System, near

log = logging.getLogger(__name__)

FRAMES = 64
"""Frames per chunk of a lazily read array."""

SPLITS = ("train", "valid", "test")
EXPECTED = "The Well: ROOT/data/{train,valid,test}/*.hdf5 with the groups dimensions, scalars, t0_fields"


def matches(path: Path) -> bool:
    """Whether a file or folder has this layout."""
    folders = _folders(path)
    files = next((f for f in folders.values() if f), ())
    if not files:
        return False
    with opened(files[0]) as file:
        return "t0_fields" in file and "dimensions" in file


def splits(path: Path) -> tuple[str, ...]:
    """Splits present at a path, in the order train, valid, test."""
    return tuple(name for name, files in _folders(path).items() if files)


def read(path: Path, split: str, system: System, verify: bool = False) -> xr.Dataset:
    """All files of one split as a lazy dataset, dims (sample, time, *space), with all that the files hold.

    Arguments:
        path: root of a data set, folder of a split, or one file.
        split: name of the split; a folder of one split or a single file holds whatever is asked for.
        system: names the parameters that the files must state as scalars.
        verify: hash every file, also those whose size and time agree with `checksums.json`.
    """
    folders = _folders(path)
    files = folders.get(split) or folders.get("", ())
    if not files:
        raise InputError(f"{path}: no split {split!r}; found {list(splits(path))}; choose one of these")
    check(files, verify)
    if unfinished := sorted(p.name for p in files[0].parent.glob("*.partial.safetensors")):
        log.warning("%s: %s is unfinished; generate again to complete the split", files[0].parent, unfinished[0])
    parts = [_read_file(file, system) for file in files]
    try:
        ds = xr.concat(parts, dim="sample", join="exact", combine_attrs="override", data_vars="all", coords="minimal")
    except (ValueError, xr.MergeError) as error:
        different = next((f for f, p in zip(files, parts, strict=True) if not _alike(p, parts[0])), files[0])
        raise InputError(
            f"{different}: times, grid or fields differ from {files[0].name}; keep one layout per split"
        ) from error
    ids = [f"{f.stem}/{i}" for f, part in zip(files, parts, strict=True) for i in range(part.sizes["sample"])]
    return ds.assign_coords(trajectory=("sample", ids))


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
        _note_checksum(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check(files: tuple[Path, ...], verify: bool = False) -> None:
    """Compare files with `checksums.json`, where there is one; files that it does not list pass.

    Raises:
        InputError: a file is damaged or changed since it was written.
    """
    root = _root(files[0])
    notes = _checksums(root)
    for file in files:
        note = notes.get(file.relative_to(root).as_posix())
        if note is None:
            continue
        stat = file.stat()
        if not verify and (stat.st_size, stat.st_mtime_ns) == (note["size"], note["mtime_ns"]):
            continue
        if stat.st_size != note["size"] or _sha256(file) != note["sha256"]:
            raise InputError(
                f"{file} ({stat.st_size} bytes) differs from checksums.json ({note['size']} bytes): "
                "it was damaged or changed; delete it and generate or copy it again"
            )


def _folders(path: Path) -> dict[str, tuple[Path, ...]]:
    """Files per split; the key is empty for a bare folder or file that is not named after a split."""
    if path.is_file():
        return {path.parent.name if path.parent.name in SPLITS else "": (path,)}
    for base in (path / "data", path):
        found = {name: files_in(base / name) for name in SPLITS}
        if any(found.values()):
            return found
    return {path.name if path.name in SPLITS else "": files_in(path)}


def _root(file: Path) -> Path:
    """Folder of `checksums.json`: ROOT of ROOT/data/SPLIT/file, else the folder of the file."""
    return file.parents[2] if len(file.parents) > 2 and file.parents[1].name == "data" else file.parent


def _read_file(path: Path, system: System) -> xr.Dataset:
    with opened(path) as file:
        absent = [group for group in ("dimensions", "t0_fields") if group not in file]
        if absent:
            raise InputError(f"{path}: no group {absent[0]!r} (found {list(file)}); expected {EXPECTED}")
        axes = text(file["dimensions"].attrs["spatial_dims"])
        time = np.asarray(file["dimensions/time"], dtype=np.float64)
        if time.ndim == 2:
            if np.ptp(time, axis=0).max() > 1e-6 * max(1.0, np.abs(time).max()):
                raise InputError(f"{path}: times differ between trajectories; split the file or interpolate in time")
            time = time[0]
        coords: dict[str, Any] = {"time": np.round(time, 6)}
        coords |= {axis: np.asarray(file["dimensions"][axis], dtype=np.float64) for axis in axes}
        variables = {}
        samples = int(file.attrs["n_trajectories"])
        sizes = {"sample": samples, "time": len(time)} | {axis: len(coords[axis]) for axis in axes}
        for order in (0, 1):
            group = file.get(f"t{order}_fields", {})
            for name in group:
                data = _lazy_field(group[name], file, path, order, axes, sizes)
                if order == 0:
                    variables[name] = (tuple(sizes), data)
                else:
                    variables |= {f"{name}_{axis}": (tuple(sizes), data[..., i]) for i, axis in enumerate(axes)}
        coords |= _parameters(file, system, samples)
    return xr.Dataset(variables, coords=coords)


def _lazy_field(
    data: h5py.Dataset, file: h5py.File, path: Path, order: int, axes: list[str], sizes: dict[str, int]
) -> dask.array.Array:
    """A field with all of its dimensions; those that the file leaves out as constant are repeated."""
    varying = [
        bool(data.attrs["sample_varying"]),
        bool(data.attrs["time_varying"]),
        *map(bool, data.attrs["dim_varying"]),
    ]
    chunks = [1, FRAMES, *(sizes[axis] for axis in axes)]
    stored = [chunk for chunk, vary in zip(chunks, varying, strict=True) if vary] + [1] * order
    array = lazy(file, path, data.name, stored)
    index = tuple(slice(None) if vary else None for vary in varying)
    return dask.array.broadcast_to(array[(*index, ...)], (*sizes.values(), *array.shape[sum(varying) :]))


def _parameters(file: h5py.File, system: System, samples: int) -> dict[str, Any]:
    """Scalars that do not change in time; those of the card must be among them."""
    found = {}
    group = file.get("scalars", {})
    for name in group:
        if not group[name].attrs.get("time_varying", False):
            found[name] = np.broadcast_to(np.asarray(group[name], dtype=np.float64), (samples,))
    for parameter in system.parameters:
        if parameter.name not in found:
            raise InputError(
                f"{file.filename}: no scalar {parameter.name!r}: {near(parameter.name, found)}; "
                f"the parameters of {system.name} are {[p.name for p in system.parameters]}"
            )
    return {name: ("sample", values) for name, values in found.items()}


def _alike(part: xr.Dataset, first: xr.Dataset) -> bool:
    same = set(part.data_vars) == set(first.data_vars) and all(part[k].equals(first[k]) for k in first.indexes)
    return same and set(part.coords) == set(first.coords)


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


def _checksums(root: Path) -> dict[str, Any]:
    path = root / "checksums.json"
    return load_json(path) if path.is_file() else {}


def _note_checksum(path: Path, temporary: Path) -> None:
    """Write the checksum before the file takes its name, so that a named file is always covered."""
    root = _root(path)
    stat = temporary.stat()
    note = {"sha256": _sha256(temporary), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    notes = _checksums(root) | {path.relative_to(root).as_posix(): note}
    beside = root / f".checksums.{os.getpid()}.tmp"
    beside.write_text(json.dumps(notes, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(beside, root / "checksums.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
