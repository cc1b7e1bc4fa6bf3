"""Lazy reading of HDF5: a file is opened for each chunk and closed again; nothing is held open or forked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np

from physinterp.errors import InputError

SUFFIXES = (".h5", ".hdf5")


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; a broken one is an InputError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path}: a group, data set or attribute is missing: {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: not in the layout expected ({text})") from error
    except (OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read as HDF5 ({text}); it is probably truncated or no HDF5 file: copy or download it again"
        ) from error


@dataclass(frozen=True)
class Stored:
    """An array in a file, with what dask asks of an array: shape, dtype, ndim and indexing."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        with opened(self.path) as file:
            return np.asarray(file[self.key][index])


def lazy(file: h5py.File, path: Path, key: str, chunks: Sequence[int]) -> dask.array.Array:
    """A dask array of a data set of an open file, read later, chunk by chunk (of whole stored chunks)."""
    data = file[key]
    if data.chunks is not None:
        chunks = [max(stored, wanted // stored * stored) for stored, wanted in zip(data.chunks, chunks, strict=True)]
    stored = Stored(path.resolve(), key, data.shape, data.dtype)
    name = f"{path.stem}-{key}-{dask.base.tokenize(str(stored), path.stat().st_mtime_ns)}"
    return dask.array.from_array(stored, chunks=tuple(chunks), name=name)


def files_in(folder: Path) -> tuple[Path, ...]:
    """HDF5 files directly in a folder, sorted; hidden and temporary files are left out."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(".")))


def text(values: Any) -> list[str]:
    """Names in an attribute, which may be bytes or str."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(values)]
