"""Reading of HDF5, here or behind a URL: a file is opened for each chunk and closed again."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physinterp.data.parts import RawFrames
from physinterp.data.remote import Location, Remote
from physinterp.errors import InputError

SUFFIXES = (".h5", ".hdf5")
_REMOTE: weakref.WeakSet[h5py.Dataset] = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """HDF5 closes its files after Python has ended, but needs Python to read remote ones."""
    for data in list(_REMOTE):
        data.file.close()


@contextmanager
def explained(path: Location, what: str = "") -> Iterator[None]:
    """Whatever is raised while a file is read, as an InputError that names the file, and what of it was read."""
    try:
        with _explained(path):
            yield
    except InputError as error:
        if not what:
            raise
        raise InputError(f"{error} (reading {what})") from error


def part(key: str, index: Any) -> str:
    """A part of an array, for messages."""
    spans = (f"{i.start}:{i.stop}" if isinstance(i, slice) else str(i) for i in np.index_exp[index])
    return f"{key or 'the array'}[{', '.join(spans)}]"


@contextmanager
def _explained(path: Location) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (InputError, PermissionError):
        raise
    except KeyError as error:
        raise InputError(f"{path}: a group, data set or attribute is missing: {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: not in the layout expected ({text})") from error
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(path, Path) and path.is_file() and not path.stat().st_size:
            text = "0 bytes"
        kind = "HDF5" if path.suffix in SUFFIXES else path.suffix.lstrip(".") or "data"
        raise InputError(
            f"{path}: cannot be read as {kind} ({text}); it is probably truncated or no {kind} file: copy or download it "
            "again"
        ) from error


@contextmanager
def opened(path: Location) -> Iterator[h5py.File]:
    """An HDF5 file for reading; a broken one is an InputError."""
    with explained(path), h5py.File(_source(path), "r") as file:
        yield file


@dataclass(frozen=True)
class HDF5Array:
    """An array in an HDF5 file; see `physinterp.data.parts.Stored`."""

    path: Location
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None

    @classmethod
    def of(cls, data: h5py.Dataset, path: Location) -> HDF5Array:
        """A data set of an open file."""
        return cls(path.resolve() if isinstance(path, Path) else path, data.name, data.shape, data.dtype, data.chunks)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def open(self) -> h5py.Dataset | RawBlock:
        """The open data set; it keeps its file open."""
        data = self.library()
        if not isinstance(self.path, Path) or not self.path.samefile(data.file.filename):  # remote, or a link
            return data
        return RawBlock(self.path, data) if RawBlock.fit(data) else data

    def library(self) -> h5py.Dataset:
        """The data set as h5py reads it."""
        with explained(self.path):
            data = h5py.File(_source(self.path), "r")[self.key]
        if isinstance(self.path, Remote):
            _REMOTE.add(data)
        return data

    def __getitem__(self, index: Any) -> np.ndarray:
        with explained(self.path, part(self.key, index)), h5py.File(_source(self.path), "r") as file:
            return np.asarray(file[self.key][index])


class RawBlock(RawFrames):
    """An HDF5 data set (N, T, *rest) that its file keeps in one piece, as The Well does, read past h5py."""

    def __init__(self, path: Path, data: h5py.Dataset) -> None:
        super().__init__(data.shape, data.dtype, data.shape[1])
        self.path, self.start = path, data.id.get_offset()
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @staticmethod
    def fit(data: h5py.Dataset) -> bool:
        """Whether a data set is kept in this way, on a system that reads at an offset."""
        kept, inside = data.id.get_create_plist(), data.id.get_type().equal(h5py.h5t.py_create(data.dtype))
        whole = kept.get_layout() == h5py.h5d.CONTIGUOUS and not kept.get_external_count() and data.ndim > 2
        plain = data.dtype.kind == "f" and data.dtype.isnative and inside and data.id.get_offset() is not None
        return whole and plain and sys.platform != "win32"

    def read(self, values: np.ndarray, sample: int, piece: int, first: int) -> None:
        """From the trajectory, which is one piece."""
        start, left = self.start + (sample * self.per + first) * self.frame, values.data.cast("B")
        while left:  # a read may stop early, at the end of a file it gives nothing
            size = os.preadv(self._file, [left], start)
            if size == 0:
                raise InputError(f"{self.path}: truncated: copy or download it again")
            start, left = start + size, left[size:]


def files_in(folder: Location) -> tuple[Location, ...]:
    """HDF5 files directly in a folder, sorted; hidden and temporary files are left out."""
    if isinstance(folder, Path) and not folder.is_dir():
        return ()
    return tuple(sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(".")))


def text(values: Any) -> list[str]:
    """Names in an attribute, which may be bytes or str."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(values)]


def _source(path: Location) -> Any:
    return path.open() if isinstance(path, Remote) else path
