r"""Samplers: from a learned drift or denoiser to the next state. The base owns the grid of s and the loop.

A sampler of the stochastic interpolant starts from the state x0 and integrates dX = b ds + g dW to s = 1; a diffusion
sampler starts from noise. `noise(k)` gives draw k of a physical step, so a member does not depend on its batch.

The value of `deterministic` says whether the noise is used; `order` is the weak order in the step of s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import Interpolant, LinearInterpolant
from physinterp.types import Conditioning, DriftFn, NoiseFn


class Sampler(ABC):
    """Grid and loop of a sampler; a subclass writes one `step`.

    Arguments:
        steps: number of steps n >= 1 on the grid of s.
        interpolant: the interpolant that the drift was trained with.
        temperature: factor on the noise; the law of the sampler holds for 1 alone.
    Raises:
        InputError: steps < 1.
    """

    deterministic: ClassVar[bool] = False
    order: ClassVar[int] = 1

    def __init__(self, steps: int, interpolant: Interpolant | None = None, temperature: float = 1.0) -> None:
        if steps < 1:
            raise InputError(f"a sampler needs at least 1 step, found steps = {steps}")
        self.steps = steps
        self.interpolant = interpolant or LinearInterpolant(sigma=1.0)
        self.temperature = temperature

    @property
    def evaluations(self) -> int:
        """Network evaluations per physical step."""
        return self.steps

    def grid(self) -> Tensor:
        """Values of s, shape (steps + 1,), from 0 to 1, float64."""
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)

    def start(self, x0: Tensor, noise: NoiseFn) -> Tensor:
        """The state at s = 0."""
        return x0

    def __call__(self, b: DriftFn, x0: Tensor, cond: Conditioning | None = None, *, noise: NoiseFn) -> Tensor:
        """Integrate from s = 0 to 1.

        Arguments:
            b: the drift, or for diffusion the denoiser: b(x_s, s (B,), x0, cond), shaped like x_s.
            x0: current state (B, C, *S), the condition.
            cond: physical parameters.
            noise: noise(k) is a standard normal tensor shaped like x0; draws 0 ... steps.
        Returns:
            The state at s = 1, shape (B, C, *S).
        """
        cond = cond or Conditioning()
        s = self.grid().to(x0)
        x = self.start(x0, noise)
        for k in range(self.steps):
            draw = x0 if self.deterministic else self.temperature * noise(k)
            x = self.step(b, x, s[k], s[k + 1], x0, cond, draw)
        return x

    @abstractmethod
    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        """One step from s to s_next (0-dim tensors); `noise` is this step's draw, unused where deterministic."""
