"""Windows of consecutive frames for training, drawn at random from trajectories that stay in their files.

    window (n, t) = u_n(t), u_n(t + stride), ..., u_n(t + (context + steps) stride)

The state u(t + context stride) is the present one, those before it are context, those after it are to be forecast. Every
window comes once per epoch, in an order that depends on the seed and the number of the epoch alone; batch k is a pure
function of k. So any number of threads or worker processes gives the same batches, and a position is one number.

Files are read without dask; they are opened by the process that reads them, and nothing open is pickled or used after a
fork.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physinterp import data as datasets
from physinterp.checkpoint import fingerprint
from physinterp.data import apebench, array, well
from physinterp.data.hdf5 import explained
from physinterp.data.parts import Part, Stored
from physinterp.data.remote import Store, located
from physinterp.errors import InputError
from physinterp.system import System, load_system

PARTS = {"well": well.parts, "apebench": apebench.parts, "array": array.parts}
"""Adapters whose files are read directly; data of the others are converted first."""
OPEN = 128
"""Arrays that are kept open at once."""
DRAWN = 64
"""Batches whose windows are drawn at once."""


class Batch(NamedTuple):
    """Some windows.

    Attributes:
        states: (B, context + 1 + steps, C, *S), float32, physical units; `FieldStack.normalise` takes them.
        parameters: what networks are told at the present state, (B, P); see `System.told`.
    """

    states: Tensor
    parameters: Tensor


class Windows:
    """Windows of a split in a random order.

    Iterating gives batches without end from `step` on, read ahead by threads. `windows[k]` is batch k, so torch's
    `DataLoader(windows, batch_size=None, sampler=range(windows.step, last), num_workers=4)` gives the same batches.

    Arguments:
        system, split, data, options: as in `open_dataset`.
        steps: states to forecast per window.
        context: states before the present one.
        stride: frames between two states of a window.
        batch: windows per batch.
        seed: of the order.
        frames: frames of every trajectory that are used, such as one of `time_splits`.
        ahead: batches that are read before they are asked for.
    Raises:
        InputError: no trajectory has so many frames, or the format has to be converted first.
    """

    def __init__(
        self,
        system: System | str,
        split: str = "train",
        data: Store | None = None,
        *,
        steps: int = 1,
        context: int = 0,
        stride: int = 1,
        batch: int = 16,
        seed: int = 0,
        frames: slice = slice(None),
        ahead: int = 2,
        **options: Any,
    ) -> None:
        if frames.step not in (None, 1):
            raise InputError(f"expected frames one after the other, found {frames}; use stride")
        if min(steps, stride, batch, ahead) < 1 or context < 0:
            found = {"steps": steps, "stride": stride, "batch": batch, "ahead": ahead, "context": context}
            raise InputError(f"expected steps, stride, batch and ahead of at least 1, context of at least 0; found {found}")
        card = system if isinstance(system, System) else load_system(system)
        ds = datasets.open_dataset(card, split, data, **options)
        path = located(ds.attrs["path"])
        card = card.with_grid(tuple(ds.sizes[name] for name in card.grid.names))
        adapter = next((name for name, a in datasets.ADAPTERS.items() if a is datasets.adapter_of(path, card)), "")
        if adapter not in PARTS:
            raise InputError(f"{path}: windows are read from a local copy of such data: physinterp data convert")
        self.system, self.batch, self.seed, self.ahead, self.stride = card, batch, seed, ahead, stride
        self.names, self.length = card.field_names, context + 1 + steps
        self.times, self.trajectories, self.origin = ds["time"].values[frames], ds["trajectory"].values, ds["time"].values[0]
        self.context = context
        self.parameters = torch.from_numpy(card.conditioning(ds))
        self.first = range(ds.sizes["time"])[frames].start
        self.starts = len(self.times) - (self.length - 1) * stride
        if self.starts < 1:
            raise InputError(
                f"{path}: {len(self.times)} frames are too few for a window of {self.length} states, {stride} frames apart"
            )
        self.count = len(self.trajectories) * self.starts
        self.step = 0
        self._reads: list[tuple[list[PartOfWindow], int]] = []  # per trajectory: arrays, and its number in them
        for part in PARTS[adapter](path, split, card):
            arrays = _arrays(part, card, ds)
            self._reads += [(arrays, i) for i in range(part.sizes["sample"])]
        order = {"trajectories": self.trajectories.tolist(), "times": self.times.tolist(), "length": self.length}
        self._drawn = (-1, np.empty((0, 0), dtype=np.int64))
        self._key = fingerprint(order | {"stride": stride, "batch": batch, "seed": seed})
        self._forget()

    def __len__(self) -> int:
        """Batches per epoch, the last one begun included."""
        return -(-self.count // self.batch)

    def __getitem__(self, step: int) -> Batch:
        """Batch number `step` of an endless sequence; see the class."""
        return self.select(self.numbers(step))

    def numbers(self, step: int) -> np.ndarray:
        """Numbers of the windows of a batch; drawn for some batches at once, as that takes hardly longer."""
        block, row = divmod(step, DRAWN)
        drawn = self._drawn
        if drawn[0] != block:
            size = DRAWN * self.batch
            epochs, offsets = np.divmod(block * size + np.arange(size), self.count)
            parts = [shuffled(offsets[epochs == e], self.count, (self.seed, int(e))) for e in np.unique(epochs)]
            drawn = self._drawn = block, np.concatenate(parts).reshape(DRAWN, self.batch)
        return drawn[1][row]

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.ahead)
        try:
            pending = deque(pool.submit(self.__getitem__, self.step + i) for i in range(self.ahead))
            while True:
                batch = pending.popleft().result()
                self.step += 1
                pending.append(pool.submit(self.__getitem__, self.step + self.ahead - 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def select(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """The windows of some numbers in [0, count), trajectory by trajectory.

        Raises:
            InputError: a value is not finite, or a file is damaged; the message names file, field and time.
        """
        shape = (len(numbers), self.length, len(self.names), *self.system.grid.shape)
        states = np.empty(shape, dtype=np.float32)
        samples = np.asarray(numbers) // self.starts
        for row, number in enumerate(numbers):
            arrays, sample, frames = self.place(int(number))
            for part in arrays:
                try:
                    part.fill(states[row], self.opened(part)[part.index(sample, frames)])
                except Exception:
                    at, length = int(number) % self.starts, (self.length - 1) * self.stride
                    span = f"{part.stored.key} from t = {self.times[at]:g} to {self.times[at + length]:g}"
                    with explained(
                        part.stored.path, f"{span} of trajectory {self.trajectories[int(number) // self.starts]}"
                    ):
                        raise
        squares = np.dot(states.ravel(), states.ravel())  # one fast pass; it may overflow, so a second look decides
        if not np.isfinite(squares) and not np.isfinite(states).all():
            raise InputError(self._not_finite(states, numbers))
        present = self.times[np.asarray(numbers) % self.starts + self.context * self.stride]
        told = self.system.told(self.parameters[samples], torch.from_numpy(present - self.origin))
        return Batch(torch.from_numpy(states), told)

    def place(self, number: int) -> tuple[list[PartOfWindow], int, slice]:
        """Where a window is: arrays, the trajectory's number in them, frames."""
        trajectory, start = divmod(number, self.starts)
        start += self.first
        arrays, sample = self._reads[trajectory]
        return arrays, sample, slice(start, start + (self.length - 1) * self.stride + 1, self.stride)

    def opened(self, part: PartOfWindow) -> Any:
        """An array, opened by this process."""
        if self._process != os.getpid():
            self._forget()
        found = self._open.get(part)
        if found is None:
            with self._lock:
                if len(self._open) >= OPEN:
                    del self._open[next(iter(self._open))]
                whole = part.dims[:2] == ("sample", "time")  # else frames do not lie one after the other
                found = self._open[part] = part.stored.open() if whole else part.stored.library()
        return found

    def state_dict(self) -> dict[str, Any]:
        """The position: the next batch, and what the order depends on."""
        return {"step": self.step, "order": self._key}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position.

        Raises:
            InputError: it belongs to other data, windows, batches or another seed.
        """
        if state["order"] != self._key:
            raise InputError("the position belongs to other data, windows, batch or seed: open the windows as they were")
        self.step = int(state["step"])

    def _forget(self) -> None:
        self._process, self._lock, self._open = os.getpid(), threading.Lock(), dict[PartOfWindow, Any]()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_process", "_lock", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _not_finite(self, states: np.ndarray, numbers: Sequence[int] | np.ndarray) -> str:
        row, frame, channel = np.argwhere(~np.isfinite(states))[0][:3].tolist()
        trajectory, start = divmod(int(numbers[row]), self.starts)
        name, time = self.names[channel], self.times[start + frame * self.stride]
        path = next(a.stored.path for a in self._reads[trajectory][0] if channel in a.channels)
        return (
            f"{path}: field {name!r} is not finite at t = {time:g} of trajectory {self.trajectories[trajectory]}; leave "
            "this trajectory out or fill the gaps"
        )


class PartOfWindow:
    """A stored array of one file, and how its values go into a window (frames, C, *S)."""

    def __init__(
        self, stored: Stored, dims: tuple[str, ...], fixed: dict[int, Mapping[str, int]], axes: list[str], flip: set[str]
    ) -> None:
        self.stored, self.dims, self.channels = stored, dims, tuple(fixed)
        only = next(iter(fixed.values())) if len(fixed) == 1 else {}
        self._template = [only.get(d, slice(None)) for d in dims]
        self._sample, self._time = (dims.index(d) if d in dims else None for d in ("sample", "time"))
        left = [d for d in dims if d != "sample" and d not in only]
        kept = [d for d in left if d in axes]
        order = tuple(kept.index(d) for d in axes if d in kept)
        expand = tuple(slice(None) if d in kept else None for d in axes)
        picks = {
            c: tuple(f.get(d, slice(None, None, -1) if d in flip else slice(None)) for d in left) for c, f in fixed.items()
        }
        self._targets = [(c, picks[c], order, expand) for c in fixed]

    def index(self, sample: int, frames: slice) -> tuple[Any, ...]:
        """What to read for one window."""
        index = list(self._template)
        if self._sample is not None:
            index[self._sample] = sample
        if self._time is not None:
            index[self._time] = frames
        return tuple(index)

    def fill(self, window: np.ndarray, values: np.ndarray) -> None:
        """Put what was read into the channels of a window."""
        for channel, pick, order, expand in self._targets:
            window[:, channel] = values[pick].transpose(order)[expand]


def _arrays(part: Part, system: System, ds: xr.Dataset) -> list[PartOfWindow]:
    """The arrays of a file that hold the card's fields, each once, with the axes turned as in the opened dataset."""
    flip = {n for n in system.grid.names if n in part.coords and part.coords[n][0] > part.coords[n][-1]}
    groups: dict[Stored, tuple[tuple[str, ...], dict[int, Mapping[str, int]]]] = {}
    for channel, field in enumerate(system.fields):
        view = part.views[next(name for name in (field.name, *field.aliases) if name in part.views)]
        groups.setdefault(view.stored, (view.dims, {}))[1][channel] = view.fixed
    axes = ["time", *system.grid.names]
    return [PartOfWindow(stored, dims, fixed, axes, flip) for stored, (dims, fixed) in groups.items()]


def shuffled(positions: np.ndarray, count: int, key: Sequence[int]) -> np.ndarray:
    """Numbers at some positions of a random order of `range(count)`, without making the whole order.

    A Feistel network on the next power of four permutes; what falls outside is permuted again.

    Arguments:
        positions: in [0, count).
        key: non-negative integers that choose the order.
    """
    half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(6, np.uint64)
    numbers = np.asarray(positions, dtype=np.uint64).copy()
    todo = np.ones(len(numbers), dtype=bool)
    while todo.any():
        left, right = numbers[todo] >> half, numbers[todo] & mask
        for k in keys:
            mixed = (right ^ k) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        numbers[todo] = left << half | right
        todo = numbers >= count
    return numbers.astype(np.int64)


def time_splits(frames: int, shares: Mapping[str, float], gap: int) -> dict[str, slice]:
    """Consecutive parts of a series as splits, `gap` frames between two of them left out.

    Arguments:
        frames: length of the series.
        shares: of the frames per split, in the order of time, e.g. `{"train": 0.8, "valid": 0.1, "test": 0.1}`.
        gap: frames; at least those of a window, better the decorrelation time.
    Raises:
        InputError: the series is too short.
    """
    left = frames - gap * (len(shares) - 1)
    ends = np.floor(np.cumsum([*shares.values()]) / sum(shares.values()) * left + 1e-9).astype(int)
    begins = [0, *ends[:-1]]
    if left < len(shares) or min(e - b for b, e in zip(begins, ends, strict=True)) < 1:
        raise InputError(f"{frames} frames are too few for the splits {dict(shares)} with gaps of {gap}")
    found = zip(shares, begins, ends, strict=True)
    return {name: slice(int(b) + gap * i, int(e) + gap * i) for i, (name, b, e) in enumerate(found)}
