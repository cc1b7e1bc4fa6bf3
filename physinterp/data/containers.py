"""Arrays in numpy, netCDF and zarr files, each with the names of its dimensions where the file has them.

All of them are `physinterp.data.parts.Stored`.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import netCDF4
import numpy as np
import xarray as xr
import zarr

from physinterp.data import archive
from physinterp.data.hdf5 import SUFFIXES, HDF5Array, explained, opened, part, text
from physinterp.data.parts import RawFrames, Stored
from physinterp.data.store import NETCDF_LOCK, netcdf, refuse_empty
from physinterp.errors import InputError


class Named(NamedTuple):
    """An array, and the names of its dimensions and its units where the file has them."""

    stored: Stored
    dims: tuple[str, ...] | None = None
    units: str = ""


@dataclass(frozen=True)
class _Array(ABC):
    """What the arrays have in common; `key` is the name inside of the file."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None = None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @abstractmethod
    def library(self) -> Any:
        """The open array, as the package of its format reads it."""

    def open(self) -> Any:
        """The open array."""
        return self.library()

    def __getitem__(self, index: Any) -> np.ndarray:
        with explained(self.path, part(self.key, index)):
            return np.asarray(self.open()[index])


class NumpyArray(_Array):
    """A `.npy` file, mapped into memory."""

    def library(self) -> np.ndarray:
        """The mapped array."""
        return np.lib.format.open_memmap(self.path, mode="r")


class ZippedArray(_Array):
    """A member of an `.npz` file; it is read whole."""

    def library(self) -> np.ndarray:
        """The array in memory."""
        return _unzipped(self.path, self.key, self.path.stat().st_mtime_ns)


class NetCDFArray(_Array):
    """A variable of a netCDF file (3 or 4), unpacked, NaN where it is masked, as xarray reads it."""

    def library(self) -> Any:
        """The open variable."""
        group, _, name = self.key.rpartition("/")
        return _Decoded(_netcdf(self.path, group)[name].variable, self.dtype)


class ZarrArray(_Array):
    """An array of a zarr store (format 2 or 3); one without compression is read past the zarr package, which takes
    milliseconds per read."""

    def open(self) -> Any:
        """The open array."""
        array = self.library()
        return RawChunks(self.path, array) if RawChunks.fit(array) else array

    def library(self) -> zarr.Array:
        """The array as the zarr package reads it."""
        return zarr.open_array(self.path, path=self.key, mode="r")


class _Decoded:
    """An open variable that gives plain arrays."""

    def __init__(self, variable: xr.Variable, dtype: np.dtype[Any]) -> None:
        self.variable, self.dtype = variable, dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self.variable[index].values, dtype=self.dtype)


class RawChunks(RawFrames):
    """An uncompressed zarr array of chunks (1, frames, *rest), read from its files."""

    def __init__(self, path: Path, array: zarr.Array) -> None:
        super().__init__(array.shape, array.dtype, array.chunks[1])
        self.store, self.name, self.folder = path, array.path, str(path / array.path)
        self._key = array.metadata.encode_chunk_key

    @staticmethod
    def fit(array: zarr.Array) -> bool:
        """Whether an array is kept in this way."""
        plain = not array.compressors and not array.filters and array.shards is None and array.order == "C"
        whole = array.ndim > 2 and array.chunks[:1] == (1,) and array.chunks[2:] == array.shape[2:]
        return plain and whole and array.dtype.isnative

    def read(self, values: np.ndarray, sample: int, piece: int, first: int) -> None:
        """From one chunk."""
        key = self._key((sample, piece, *(0,) * (len(self.shape) - 2)))
        try:
            with open(f"{self.folder}/{key}", "rb", buffering=0) as file:
                file.seek(first * self.frame)
                size = file.readinto(values.data)
        except FileNotFoundError as error:
            raise InputError(f"{self.store}: the chunk {self.name}/{key} is missing: make the store again") from error
        if size != values.nbytes:
            raise InputError(f"{self.store}: the chunk {self.name}/{key} is truncated: make the store again")


def arrays(path: Path, group: str = "") -> Mapping[str, Named]:
    """The arrays at the top of a file or store, or of one of its groups, by name; a `.npy` file's has the name "".

    Raises:
        InputError: it cannot be read.
    """
    with explained(path):
        if path.suffix == ".npy":
            return _of_numpy(path)
        if path.suffix == ".npz":
            names = [name.removesuffix(".npy") for name in archive.members(path)]
            members = {name: _unzipped(path, name, path.stat().st_mtime_ns) for name in names}
            return {name: Named(ZippedArray(path.resolve(), name, a.shape, a.dtype)) for name, a in members.items()}
        if path.suffix == ".nc":
            return _of_netcdf(path, group)
        if path.suffix in SUFFIXES:
            with opened(path) as file:
                found = {name: item for name, item in file[group or "/"].items() if _is_array(item)}
                return {
                    name: Named(HDF5Array.of(item, path), _labels(item), _units(item.attrs)) for name, item in found.items()
                }
        return _of_zarr(path, group)


def groups(path: Path) -> list[str]:
    """Names of the groups at the top of a file or store."""
    with explained(path):
        if path.suffix in (".npy", ".npz"):
            return []
        if path.suffix == ".nc":
            with NETCDF_LOCK, netCDF4.Dataset(path) as file:
                return list(file.groups)
        if path.suffix in SUFFIXES:
            with opened(path) as file:
                return [name for name, item in file.items() if not isinstance(item, h5py.Dataset)]
        refuse_empty(path)
        node = zarr.open(path, mode="r")
        return [] if isinstance(node, zarr.Array) else [name for name, _ in node.groups()]


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", ".zmetadata"))


def _of_numpy(path: Path) -> dict[str, Named]:
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes): no array can be read ({error}); it is truncated or holds objects: "
            "copy or download it again, or store plain numbers"
        ) from error
    return {"": Named(NumpyArray(path.resolve(), "", mapped.shape, mapped.dtype))}


def _netcdf(path: Path, group: str) -> xr.Dataset:
    return netcdf(path, group=group or None, chunks=None, cache=False, decode_times=False)


def _of_netcdf(path: Path, group: str) -> dict[str, Named]:
    found: dict[str, Named] = {}
    with _netcdf(path, group) as ds:
        for name, variable in ds.variables.items():
            if variable.dtype.kind in "fiu":
                dtype = np.dtype(np.float32 if variable.ndim > 1 else np.float64)
                key, dims = f"{group}/{name}".strip("/"), tuple(map(str, variable.dims))
                stored = NetCDFArray(path.resolve(), key, variable.shape, dtype)
                found[str(name)] = Named(stored, dims, _units(variable.attrs))
    return found


def _of_zarr(path: Path, group: str) -> dict[str, Named]:
    refuse_empty(path)
    node = zarr.open(path, path=group, mode="r")
    found: dict[str, Named] = {}
    for name, array in [("", node)] if isinstance(node, zarr.Array) else node.arrays():
        if {"scale_factor", "add_offset"} & set(array.attrs):
            raise InputError(f"{path}: array {name!r} is packed (scale_factor, add_offset); store plain numbers")
        dims: Any = array.attrs.get("_ARRAY_DIMENSIONS")
        if array.metadata.zarr_format == 3:
            dims = array.metadata.dimension_names
        key = f"{group}/{name}".strip("/")
        stored = ZarrArray(path.resolve(), key, array.shape, array.dtype, array.chunks)
        found[name] = Named(stored, tuple(dims) if dims else None, _units(array.attrs))
    return found


def _units(attributes: Mapping[str, Any]) -> str:
    return "".join(text(attributes.get("units", "")))


def _is_array(item: Any) -> bool:
    """Whether an item of an HDF5 file is an array, and not what netCDF writes for a dimension without coordinate."""
    return isinstance(item, h5py.Dataset) and b"not a netCDF variable" not in np.bytes_(item.attrs.get("NAME", b""))


def _labels(data: Any) -> tuple[str, ...] | None:
    """Names of the dimensions of an HDF5 data set: its labels, or its scales as netCDF writes them."""
    names = [d.label or (d[0].name.rpartition("/")[2] if len(d) else "") for d in data.dims]
    return tuple(names) if names and all(names) else None


@lru_cache(maxsize=16)
def _unzipped(path: Path, name: str, stamp: int) -> np.ndarray:
    """A member of an `.npz` file, never unpickled."""
    with zipfile.ZipFile(path) as zipped, zipped.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
