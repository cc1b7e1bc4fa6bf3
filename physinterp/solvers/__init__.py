"""Numerical solvers that make the embedded data; each is one class with the methods of `Solver`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from physinterp import _mkl as _mkl
from physinterp.solvers.kolmogorov import KolmogorovFlow
from physinterp.solvers.rayleigh_benard import RayleighBenard


class Solver(Protocol):
    """Advances a batch of states; a trajectory depends on its own state, not on its neighbours in the batch.

    A state is a dict of tensors with the batch first, among them `time`, shape (B,), float64; it can be
    written to a file and read back without loss, so a run continues bitwise. Parameters and the grid are
    constructor arguments.
    """

    fields: ClassVar[tuple[str, ...]]

    def initial(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """The state at time 0, one random initial condition per seed."""
        ...

    def advance(self, state: dict[str, Tensor], duration: float) -> dict[str, Tensor]:
        """The state `duration` later; FloatingPointError where it is no longer finite."""
        ...

    def output(self, state: dict[str, Tensor]) -> Tensor:
        """The fields on the grid, physical units, shape (B, C, *S), in the order of `fields`."""
        ...


SOLVERS: dict[str, type] = {"kolmogorov": KolmogorovFlow, "rayleigh_benard": RayleighBenard}
