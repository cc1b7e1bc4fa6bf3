"""Pairs of successive states for training: held in memory, memory-mapped, or read from files window by window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from physinterp.data.windows import Windows
from physinterp.fields import FieldStack
from physinterp.types import Conditioning

PART = 256  # frames that are looked at together
Batch: TypeAlias = tuple[Tensor, Tensor, Conditioning]
"""x0, x1 and their conditioning."""


class Pairs(ABC):
    """Successive states, each pair under a number.

    Along the axes `homogeneous` (negative numbers) the equations do not vary: a pair moved along them is another pair.
    """

    homogeneous: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def select(self, index: Tensor) -> Batch:
        """x0, x1 (B, C, *S) and the conditioning of the pairs of some numbers (B,) in [0, len)."""

    @abstractmethod
    def difference_std(self) -> Tensor:
        """Typical size of x1 - x0 per channel, shape (C,)."""

    def later(self, index: Tensor) -> Callable[[], Batch]:
        """`select`, when it is asked for."""
        return partial(self.select, index)


@dataclass(frozen=True)
class HeldPairs(Pairs):
    """Successive states: trajectories (N, T, C, *S) in memory or memory-mapped, their conditioning (N, P), stride in frames.

    `told` makes of rows of the conditioning and the numbers of frames since what networks are told.
    """

    states: Tensor
    parameters: Tensor
    stride: int
    homogeneous: tuple[int, ...] = ()
    told: Callable[[Tensor, Tensor], Tensor] = lambda table, frames: table

    def __len__(self) -> int:
        return self.states.shape[0] * (self.states.shape[1] - self.stride)

    def select(self, index: Tensor) -> Batch:
        """x0, x1 (B, C, *S) and the conditioning of the pairs of some numbers (B,) in [0, len)."""
        n, t = index // (self.states.shape[1] - self.stride), index % (self.states.shape[1] - self.stride)
        cond = Conditioning(self.told(self.parameters[n], t))
        return self.states[n, t], self.states[n, t + self.stride], cond

    def difference_std(self) -> Tensor:
        """Root mean square of x1 - x0 per channel, shape (C,), with a floor for constant channels."""
        total = torch.zeros(self.states.shape[2], dtype=torch.float64)
        for z in self.states:
            for first in range(0, len(z) - self.stride, PART):  # a memory map is read part by part
                part = z[first : first + PART + self.stride]
                total += (part[self.stride :] - part[: -self.stride]).double().square().mean((2, 3)).sum(0)
        return (total / len(self)).sqrt().clamp(min=1e-6).float()


class WindowPairs(Pairs):
    """The pairs that `HeldPairs` has, under the same numbers and to the same bits, read from files of any size.

    Arguments:
        windows: of two states.
        stack: normalises them.
    """

    def __init__(self, windows: Windows, stack: FieldStack) -> None:
        self.windows, self.stack, self.homogeneous = windows, stack, windows.system.grid.homogeneous
        self._ahead = ThreadPoolExecutor(1)

    def __len__(self) -> int:
        return self.windows.count

    def select(self, index: Tensor) -> Batch:
        """x0, x1 (B, C, *S) and the conditioning of the pairs of some numbers (B,) in [0, len)."""
        batch = self.windows.select(index.numpy())
        states = self.stack.normalise(batch.states.double()).float()
        return states[:, 0], states[:, 1], Conditioning(batch.parameters)

    def later(self, index: Tensor) -> Callable[[], Batch]:
        """`select`, begun now by another thread."""
        return self._ahead.submit(self.select, index).result

    def difference_std(self) -> Tensor:
        """Standard deviation of x1 - x0 per channel, shape (C,), from the statistics."""
        known = self.stack.statistics
        return torch.tensor(known.delta_std) / torch.tensor(known.std)
