"""Tensor aliases, conditioning and the contracts between the parts.

Letters: B batch, M member, C channel, K earlier frames, P parameters, `*S` space. `s` is interpolant time in [0, 1];
`t` is physical time. Nothing of this package but `_mkl` is imported here, so every module may import this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

from physinterp import _mkl as _mkl

Boundary: TypeAlias = Literal["periodic", "wall", "pole"]


@dataclass(frozen=True)
class Conditioning:
    """What a step depends on besides the state; absent parts are None.

    Attributes:
        parameters: standardised physical parameters, shape (B, P).
    """

    parameters: Tensor | None = None

    def select(self, rows: Tensor | slice) -> Conditioning:
        """The conditioning of some rows of the batch."""
        if self.parameters is None:
            return self
        return replace(self, parameters=self.parameters[rows])


DriftFn: TypeAlias = Callable[[Tensor, Tensor, Tensor, Conditioning], Tensor]
"""b(x_s, s: (B,), x0, cond) -> tensor like x_s; a network or an exact formula."""

NoiseFn: TypeAlias = Callable[[int], Tensor]
"""noise(k): the k-th standard normal draw of this physical step, shaped like the state."""


class Residual(Protocol):
    """The covariance C of x1 given x0 as an operator, in units of the interpolant's sigma: R = C / sigma^2."""

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f(R) x: f acts on the eigenvalues of R (any shape, elementwise); x and the result (B, C, *S)."""
        ...


class Codec(Protocol):
    """A map between physical (normalised) fields and the space in which a stepper works."""

    def encode(self, x: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, *S) -> (B, Cz, *Sz)."""
        ...

    def decode(self, z: Tensor, cond: Conditioning) -> Tensor:
        """(B, Cz, *Sz) -> (B, C, *S)."""
        ...


class Backbone(Protocol):
    """A network of a noisy or clean input, the level s and the conditioning."""

    def __call__(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        """(B, Cin, *S), (B,) -> (B, Cout, *S)."""
        ...


class Stepper(Protocol):
    """Anything that advances a state by one physical step of fixed length."""

    def __call__(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        """(B, Cz, *Sz) -> the same shape, one step later."""
        ...
