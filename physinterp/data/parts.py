"""Where the values of a data set are: arrays in files, seen under the names of their dimensions.

A `Part` is what one file holds. It gives a lazy dataset (dask reads it chunk by chunk), and `Windows` reads its arrays
directly. Nothing is open until it is read.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import dask.array
import numpy as np
import xarray as xr

from physinterp.data.remote import Location
from physinterp.errors import InputError

FRAMES = 64
"""Largest number of frames in a chunk of a lazily read array."""
CHUNK_BYTES = 1 << 24
"""Size of such a chunk, where it can be chosen."""


class Stored(Protocol):
    """An array in a file: frozen, hashable, can be sent to another process; indexing opens the file and reads."""

    @property
    def path(self) -> Location:
        """The file."""
        ...

    @property
    def key(self) -> str:
        """Name inside of the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        ...

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of the pieces in which the file keeps it, None where it is one piece."""
        ...

    def open(self) -> Any:
        """The open array, indexed with integers and slices, read the fastest way; open as long as it is referred to."""
        ...

    def library(self) -> Any:
        """The same, as the package of the format reads it."""
        ...

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part."""
        ...


class RawFrames(ABC):
    """An array (N, T, *rest) whose frames lie in its files as they are in memory, read without the library of the format,
    which takes longer to find a frame than to read it.

    Arguments:
        shape, dtype: of the array.
        per: frames of a trajectory that lie one after the other.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], per: int) -> None:
        self.shape, self.dtype, self.per = shape, dtype, per
        self.frame = dtype.itemsize * math.prod(shape[2:])

    @abstractmethod
    def read(self, values: np.ndarray, sample: int, piece: int, first: int) -> None:
        """Fill `values` (n, *rest) with the frames from number `first` of a piece of a trajectory on."""

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        samples, frames = (*index, slice(None))[:2]
        if not isinstance(samples, int | np.integer):
            return np.stack([self[(i, *index[1:])] for i in range(self.shape[0])[samples]])
        wanted = range(self.shape[1])[frames] if isinstance(frames, slice) else range(frames, frames + 1)
        values, done = np.empty((len(wanted), *self.shape[2:]), self.dtype), 0
        for piece, first, count in self._runs(wanted):
            self.read(values[done : done + count], int(samples), piece, first)
            done += count
        return values[(slice(None) if isinstance(frames, slice) else 0, *index[2:])]

    def _runs(self, wanted: range) -> list[tuple[int, int, int]]:
        """Piece, first frame in it, number of frames: what can be read at once."""
        if wanted.step != 1:
            return [(*divmod(k, self.per), 1) for k in wanted]
        cuts = [wanted.start, *range((wanted.start // self.per + 1) * self.per, wanted.stop, self.per), wanted.stop]
        return [(*divmod(a, self.per), b - a) for a, b in itertools.pairwise(cuts) if b > a]


@dataclass(frozen=True)
class View:
    """A stored array, or one component of it, under the names of its dimensions.

    Attributes:
        stored: the array.
        dims: a name per dimension: `sample`, `time`, the axes, any other.
        fixed: index on those dimensions that are none of the field's, such as that of a component.
    """

    stored: Stored
    dims: tuple[str, ...]
    fixed: Mapping[str, int] = field(default_factory=dict)

    def lazy(self) -> xr.Variable:
        """A variable of dask chunks of one trajectory and at most 64 frames, whole chunks of the file."""
        sizes = dict(zip(self.dims, self.stored.shape, strict=True))
        frame = self.stored.dtype.itemsize * math.prod(n for d, n in sizes.items() if d not in ("sample", "time"))
        wanted = sizes | {"sample": 1, "time": max(1, min(FRAMES, CHUNK_BYTES // max(frame, 1)))}
        chunks = [max(min(wanted[d], n), 1) for d, n in sizes.items()]
        if self.stored.chunks is not None:
            chunks = [max(s, c // s * s) for s, c in zip(self.stored.chunks, chunks, strict=True)]
        stamp = self.stored.path.stat().st_mtime_ns if isinstance(self.stored.path, Path) else 0
        name = f"{self.stored.path.stem}-{dask.base.tokenize(str(self.stored), stamp)}"
        array = dask.array.from_array(self.stored, chunks=tuple(chunks), name=name)
        return xr.Variable(self.dims, array.astype(np.float32)).isel(self.fixed)


@dataclass(frozen=True)
class Part:
    """The trajectories of one file.

    Attributes:
        views: per field; a dimension that it leaves out is one along which it does not change.
        sizes: `sample`, `time` and the axes, with their sizes.
        coords: coordinates in xarray's form.
        attrs: what else the file says of all of it.
    """

    views: Mapping[str, View]
    sizes: Mapping[str, int]
    coords: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def dataset(self) -> xr.Dataset:
        """All fields lazily, with all dimensions."""
        variables = {name: view.lazy().set_dims(dict(self.sizes)) for name, view in self.views.items()}
        return xr.Dataset(variables, coords=dict(self.coords), attrs=dict(self.attrs))


def joined(parts: Sequence[Part]) -> xr.Dataset:
    """One dataset of the trajectories of several files.

    Raises:
        InputError: times, grid or fields differ between files; the message names the odd one.
    """
    found = [part.dataset() for part in parts]
    try:
        return xr.concat(
            found, dim="sample", join="exact", combine_attrs="override", data_vars="all", coords="minimal", compat="override"
        )
    except (ValueError, xr.MergeError) as error:
        odd = next((p for p, ds in zip(parts, found, strict=True) if not _alike(ds, found[0])), parts[0])
        raise InputError(
            f"{_path(odd)}: times, grid or fields differ from {_path(parts[0]).name}; keep one layout per split"
        ) from error


def check_times(time: np.ndarray, where: object) -> None:
    """Refuse times that do not rise in equal steps.

    Arguments:
        time: shape (T,).
        where: the file, for the message.
    Raises:
        InputError: a time is not finite, comes twice or too early, or the step changes; the message names the frame.
    """
    time = np.asarray(time, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(time))
    if len(bad):
        raise InputError(f"{where}: time: frame {bad[0]} has no finite time; write the times anew")
    steps = np.diff(time)
    back = np.flatnonzero(steps <= 0)
    if len(back):
        i = int(back[0])
        what = "comes twice; drop one" if steps[i] == 0 else "comes after a later one; sort the frames by time"
        raise InputError(f"{where}: time: t = {time[i + 1]:g} (frame {i + 1}) {what}")
    if not len(steps):
        return
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > 1e-3 * usual + 1e-6 * np.abs(time).max())
    if len(odd):
        i = int(odd[0])
        raise InputError(
            f"{where}: time: the step is {usual:g}, but {steps[i]:g} from t = {time[i]:g} to {time[i + 1]:g} "
            f"(frame {i + 1}); fill the gap, or make two trajectories of it"
        )


def _path(part: Part) -> Location:
    return next(iter(part.views.values())).stored.path


def _alike(ds: xr.Dataset, first: xr.Dataset) -> bool:
    same = set(ds.data_vars) == set(first.data_vars) and all(ds[k].equals(first[k]) for k in first.indexes)
    return same and set(ds.coords) == set(first.coords)
