"""How fast windows come from their files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from physinterp.data.windows import PartOfWindow, Windows


@dataclass(frozen=True)
class Rate:
    """Windows per second, and the megabytes of their float32 values per second."""

    windows: float
    megabytes: float

    def share(self, other: Rate) -> float:
        """This rate over another."""
        return self.windows / other.windows


def rates(windows: Windows, seconds: float = 2.0) -> tuple[Rate, Rate]:
    """The rate of a bare loop that reads the same arrays with h5py, zarr or numpy and keeps nothing, and that of `Windows`.

    Both read one window after the other in one thread, in turns, in the order of training, and never the same window.
    """
    handles: dict[PartOfWindow, Any] = {}
    spent, batches = [0.0, 0.0], 0
    _bare(windows, 0, handles)
    windows[1]  # everything is open now
    while sum(spent) < seconds:
        for which in (0, 1) if batches % 2 else (1, 0):
            step, begun = 2 * (batches + 1) + which, time.perf_counter()
            if which:
                windows[step]
            else:
                _bare(windows, step, handles)
            spent[which] += time.perf_counter() - begun
        batches += 1
    size = 4 * windows.length * len(windows.names) * int(np.prod(windows.system.grid.shape))
    bare, ours = (batches * windows.batch / s for s in spent)
    return Rate(bare, bare * size / 1e6), Rate(ours, ours * size / 1e6)


def _bare(windows: Windows, step: int, handles: dict[PartOfWindow, Any]) -> None:
    for number in windows.numbers(step):
        arrays, sample, frames = windows.place(int(number))
        for part in arrays:
            if part not in handles:
                handles[part] = part.stored.library()
            np.asarray(handles[part][part.index(sample, frames)])
