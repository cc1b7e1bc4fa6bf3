"""Opening netCDF files and zarr stores, local or remote: lazily, in large blocks, with retries and one line per fault."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dask.array
import fsspec
import numpy as np
import xarray as xr

from physinterp.config import home
from physinterp.data.remote import Store, missing, retried, storage_options
from physinterp.errors import InputError

T = TypeVar("T")

NETCDF = (".nc", ".nc4", ".netcdf")
METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
FRAMES = 64
BYTES = 2**26
"""Frames that are read at once, and bytes where frames are large."""


class _NetCDFLock:
    """A re-entrant lock; unpickled, it is that of the process."""

    def __init__(self) -> None:
        lock = threading.RLock()
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        return "NETCDF_LOCK"


NETCDF_LOCK = _NetCDFLock()
"""To hold while a netCDF file is opened, read, written or closed: the library crashes when two threads are in it. The lock
that xarray has covers values but not the opening of files (https://github.com/pydata/xarray/issues/9779)."""


def stores(path: Store) -> tuple[Store, ...]:
    """Files and stores at a path, sorted by name; a URL must end in .zarr or .nc."""
    if isinstance(path, str):
        return (path,) if path.rstrip("/").endswith((".zarr", *NETCDF)) else ()
    if _is_zarr(path) or (path.is_file() and path.suffix in NETCDF):
        return (path,)
    if not path.is_dir():
        return ()
    return tuple(sorted(p for p in path.iterdir() if p.name[0] != "." and (p.suffix in NETCDF or _is_zarr(p))))


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def persistent(read: Callable[[], T], store: Store, what: str = "") -> T:
    """What a reading returns; repeated where a remote store does not answer, and then an InputError with its name.

    Arguments:
        read: reads.
        store: what it reads from; a local one is not asked twice.
        what: put into the message.
    """
    try:
        return retried(store, read, what) if isinstance(store, str) else read()
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise missing(store, error) from error
    except Exception as error:  # libraries, codecs and file systems each have their own
        text = " ".join(str(error).split()) or type(error).__name__
        remote = isinstance(store, str)
        remedy = "check the URL and the connection" if remote else "it is probably truncated: copy or download it again"
        raise InputError(f"{store}: {what}cannot be read ({text}); {remedy}") from error


def refuse_empty(store: Store) -> None:
    """Refuse a file of zero bytes, which may be one with the metadata of a zarr store."""
    if isinstance(store, Path):
        inside = (file for name in METADATA for file in (store / name, *store.glob(f"*/{name}")))
        for file in (store,) if store.is_file() else inside:
            if file.is_file() and file.stat().st_size == 0:
                raise InputError(f"{file}: the file is empty (0 bytes); copy or download it again")


def opened(store: Store) -> xr.Dataset:
    """A store as it is: decoded by CF conventions, no value read but those of the coordinates, nothing cached.

    A remote netCDF file is copied under PHYSINTERP_HOME first; of a remote zarr store only what is needed is read.

    Raises:
        InputError: empty, damaged, not there, or a package for the protocol is missing.
    """
    refuse_empty(store)

    def read() -> xr.Dataset:
        options: dict[str, Any] = {"chunks": None, "cache": False, "decode_timedelta": False}
        if str(store).endswith(NETCDF):
            return netcdf(_local(store), **options)
        remote = {"storage_options": storage_options(str(store))} if isinstance(store, str) else {"consolidated": False}
        return xr.open_dataset(str(store), engine="zarr", **remote, **options)

    return persistent(read, store)


def netcdf(path: str | Path, **options: Any) -> xr.Dataset:
    """`xarray.open_dataset` of a netCDF file that no two threads open, read or close at once."""
    with NETCDF_LOCK:
        return xr.open_dataset(path, engine="netcdf4", lock=NETCDF_LOCK, **options)


def _local(store: Store) -> str:
    if isinstance(store, Path):
        return str(store)
    protocol = store.partition("://")[0]
    cache = {"cache_storage": str(home() / "data" / "remote")}
    return str(fsspec.open_local(f"filecache::{store}", **{"filecache": cache, protocol: storage_options(str(store))}))


@dataclass(frozen=True)
class Stored:
    """A variable in a store, with what dask asks of an array; `dates` are those of dimension `axis`, if it has any."""

    variable: xr.Variable
    store: Store
    name: str
    axis: int | None
    dates: np.ndarray | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, as which everything is read."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the variable."""
        return self.variable.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.variable.ndim


def _block(stored: Stored, index: tuple[slice, ...]) -> np.ndarray:
    """Read a block. No __getitem__: dask would narrow that to each selection, and read a block once for every level."""
    what = f"{stored.name!r} "
    if stored.axis is not None and stored.dates is not None:
        dates = stored.dates[index[stored.axis]]
        what += f"from {stamp(dates[0])} to {stamp(dates[-1])} "
    return persistent(lambda: np.asarray(stored.variable[index].values, dtype=stored.dtype), stored.store, what)


def lazy(variable: xr.Variable, store: Store, name: str, dim: str | None, dates: np.ndarray | None) -> dask.array.Array:
    """A float32 dask array of a variable, in blocks of whole stored chunks along `dim`, the dimension of the dates."""
    axis = variable.dims.index(dim) if dim in variable.dims else None
    chunks = list(variable.shape)
    if axis is not None:
        stored = max(1, variable.encoding.get("preferred_chunks", {}).get(dim, 1))
        frame = 4 * max(1, variable.size // max(1, chunks[axis]))
        chunks[axis] = max(stored, min(FRAMES, BYTES // frame) // stored * stored)
    array = Stored(variable, store, name, axis, dates)
    changed = store.stat().st_mtime_ns if isinstance(store, Path) else 0
    token = dask.base.tokenize(str(store), name, changed, variable.shape)
    return dask.array.from_array(
        array, chunks=tuple(chunks), name=f"{name}-{token}", getitem=_block, meta=np.empty((0,) * array.ndim, array.dtype)
    )


def check_chunks(sizes: Mapping[Any, int], store: Store, name: str, dim: str | None, dates: np.ndarray | None) -> None:
    """Refuse a zarr array that lacks a chunk: zarr itself would read it as fill values. Does nothing for netCDF.

    Arguments:
        sizes: its dimensions.
        store, name: where it is.
        dim, dates: the dimension along which time runs, and the dates or times there.
    Raises:
        InputError: the first chunk that is missing, with its dates.
    """
    if str(store).endswith(NETCDF):
        return
    system, root = fsspec.url_to_fs(str(store), **storage_options(str(store)))
    folder = f"{root.rstrip('/')}/{name}".rstrip("/")
    found = {path[len(folder) + 1 :] for path in persistent(lambda: system.find(folder), store)}
    size, prefix, separator = persistent(lambda: _layout(system, folder, "zarr.json" in found), store)
    counts = [-(-n // c) for n, c in zip(sizes.values(), size, strict=True)]
    for index in itertools.product(*map(range, counts)):
        key = prefix + separator.join(map(str, index))
        if key not in found:
            when = ""
            if dim in sizes and dates is not None:
                i, width = (values[list(sizes).index(dim)] for values in (index, size))
                when = f" ({stamp(dates[i * width])} to {stamp(dates[i * width : (i + 1) * width][-1])})"
            raise InputError(
                f"{store}: chunk {key} of {name!r}{when} is missing, one of {np.prod(counts)}; copy the store again, or, if "
                "this chunk is constant on purpose, write it with write_empty_chunks=True"
            )


def _layout(system: fsspec.AbstractFileSystem, folder: str, third: bool) -> tuple[list[int], str, str]:
    """Of a zarr array: the shape that a file holds, how the name of a file begins, and what separates its indices."""
    if not third:
        about = json.loads(system.cat_file(f"{folder}/.zarray"))
        return about["chunks"], "", about.get("dimension_separator", ".")
    about = json.loads(system.cat_file(f"{folder}/zarr.json"))
    keys = about["chunk_key_encoding"]
    default = keys["name"] == "default"
    separator = keys.get("configuration", {}).get("separator", "/" if default else ".")
    return about["chunk_grid"]["configuration"]["chunk_shape"], f"c{separator}" if default else "", separator


def stamp(date: Any) -> str:
    """2001-01-31T06, with minutes where they are not zero; a time without a date as t = 0.5."""
    if isinstance(date, float):
        return f"t = {date:g}"
    text = str(np.datetime64(date, "s"))
    return text[:13] if text.endswith(":00:00") else text
