r"""Samplers: from a learned drift or denoiser to the next state. The base owns the grid of s and the loop.

A sampler of the stochastic interpolant starts from the state x0 and integrates dX = b ds + g dW to s = 1; a diffusion
sampler starts from noise. `noise(k)` gives draw k of a physical step, so a member does not depend on its batch.

What a class declares: `deterministic` (every member is the same: noise is never drawn), `noisy_steps` (each step uses a
draw of its own; false where noise enters at the start alone) and `order`, the weak order in the step of its grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import Interpolant, LinearInterpolant
from physinterp.types import Conditioning, DriftFn, NoiseFn, Residual

Grid: TypeAlias = str | Sequence[float] | Tensor

GRIDS: dict[str, Callable[[Tensor], Tensor]] = {"uniform": torch.clone, "quadratic": torch.square}
"""Grids by name: s as a function of k / steps."""


class Sampler(ABC):
    """Grid and loop of a sampler; a subclass writes one `step`.

    Arguments:
        steps: number of steps n >= 1 on the grid of s.
        interpolant: the interpolant that the drift was trained with; None is the linear one with sigma = 1.
        residual: covariance of x1 given x0 in units of sigma; only the samplers that say so use it.
        temperature: factor T >= 0 on every draw of noise, a dial between accuracy at a point (0) and spectra (1). The
            law of a sampler holds for 1 alone; any other value leaves it.
        grid: `uniform`, s = k/n; `quadratic`, s = (k/n)^2, finer near 0; or n + 1 increasing values from 0 to 1. None
            is the default of the class, uniform but where it says otherwise.
    Raises:
        InputError: steps < 1, a negative temperature, or a grid that is unknown or does not run from 0 to 1 in n steps.
    """

    deterministic: ClassVar[bool] = False
    noisy_steps: ClassVar[bool] = True
    order: ClassVar[int] = 1
    default_grid: ClassVar[str] = "uniform"

    def __init__(
        self,
        steps: int,
        interpolant: Interpolant | None = None,
        residual: Residual | None = None,
        temperature: float = 1.0,
        grid: Grid | None = None,
    ) -> None:
        self.steps = steps
        self.interpolant = interpolant or LinearInterpolant(sigma=1.0)
        self.residual = residual
        self.temperature = temperature
        self.check()
        self._grid = make_grid(self.default_grid if grid is None else grid, steps)

    def check(self) -> None:
        """Raise an InputError where an argument cannot be used; a subclass adds what it needs of the interpolant."""
        if self.steps < 1:
            raise InputError(f"a sampler needs at least 1 step, found steps = {self.steps}")
        if not self.temperature >= 0:
            raise InputError(f"a sampler needs a temperature of at least 0, found {self.temperature}")

    @property
    def evaluations(self) -> int:
        """Network evaluations per physical step."""
        return self.steps

    def grid(self) -> Tensor:
        """Values of s, shape (steps + 1,), from 0 to 1, float64."""
        return self._grid

    def start(self, x0: Tensor, noise: NoiseFn) -> Tensor:
        """The state of the loop at s = 0."""
        return x0

    def finish(self, x: Tensor, x0: Tensor) -> Tensor:
        """The sample, from the state of the loop at s = 1."""
        return x

    def __call__(self, b: DriftFn, x0: Tensor, cond: Conditioning | None = None, *, noise: NoiseFn) -> Tensor:
        """Integrate from s = 0 to 1.

        Arguments:
            b: the drift, b(x_s, s (B,), x0, cond), shaped like x_s; the velocity for models that start from noise.
            x0: current state (B, C, *S), the condition.
            cond: physical parameters.
            noise: noise(k) is a standard normal tensor shaped like x0. Draw k < steps belongs to step k; a start from
                noise draws as its class says. Never called where `deterministic`.
        Returns:
            The state at s = 1, shape (B, C, *S).
        """
        cond = cond or Conditioning()
        draws = self.noisy_steps and not self.deterministic
        silent = x0.new_zeros(())
        s = self.grid().to(x0)
        x = self.start(x0, noise)
        for k in range(self.steps):
            x = self.step(b, x, s[k], s[k + 1], x0, cond, self.scaled(noise(k)) if draws else silent)
        return self.finish(x, x0)

    def scaled(self, draw: Tensor) -> Tensor:
        """A draw of noise times the temperature."""
        return draw if self.temperature == 1 else self.temperature * draw

    @abstractmethod
    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        """One step from s to s_next (0-dim tensors); `noise` is this step's draw, zero where steps draw none."""


def make_grid(grid: Grid, steps: int) -> Tensor:
    """The values of s of a named or given grid, shape (steps + 1,), float64; see `Sampler` for arguments and errors."""
    if isinstance(grid, str):
        if grid not in GRIDS:
            raise InputError(f"no grid {grid!r}: choose one of {', '.join(GRIDS)}, or give the values of s")
        return GRIDS[grid](torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    s = torch.as_tensor(grid, dtype=torch.float64, device="cpu")
    if s.shape != (steps + 1,):
        raise InputError(f"a grid of {steps} steps has {steps + 1} values of s, found shape {tuple(s.shape)}")
    if s[0] != 0 or s[-1] != 1 or not bool((s.diff() > 0).all()):
        raise InputError(f"a grid of s starts at 0, increases in every step and ends at 1; found {s.tolist()}")
    return s


def plus(x: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """x + sum of c f over the terms (c, f), in one new tensor: a step must cost little beside the network."""
    (c, f), *others = terms
    total = torch.addcmul(x, f, c)
    for c, f in others:
        total.addcmul_(f, c)
    return total
