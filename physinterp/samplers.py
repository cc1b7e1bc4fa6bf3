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


class DriftEuler(Sampler):
    r"""SI-E: x + h b.

    The drift of the SDE without its noise. It is no sample of the conditional law and not its probability flow: for a
    Gaussian it returns the conditional mean, every member is equal and the spread is zero.
    References: Zhou et al. 2025, arXiv:2509.26282 (integrator "euler").
    """

    deterministic = True

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        return x_s + (s_next - s) * b(x_s, s.expand(len(x_s)), x0, cond)


class EulerMaruyama(Sampler):
    r"""SI-EM: x + h b + g0(s) sqrt(h) xi, the law of x1 given x0 as steps grow.

    Few steps are right in variance where sigma^2 is near the variance of x1 given x0.
    References: Chen et al. 2024, arXiv:2403.13724; Zhou et al. 2025, arXiv:2509.26282 (integrator "em").
    """

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        h, g0 = s_next - s, self.interpolant.coefficients(s).g0
        return x_s + h * b(x_s, s.expand(len(x_s)), x0, cond) + g0 * h.sqrt() * noise


class Ancestral(Sampler):
    r"""DDPM: from s to s' by q(x_s' | x_s, y) with y replaced by the denoiser's estimate.

        x_s = a y + v e,   a = sin(pi s / 2),  v = cos(pi s / 2)
        r = a / a':  x_s' = r v'^2 / v^2 x_s + a' (1 - r^2 v'^2 / v^2) y + v' sqrt(1 - r^2 v'^2 / v^2) xi

    s = 0 is pure noise (zero terminal signal-to-noise ratio) and is the first level of every grid.
    References: Ho et al. 2020, arXiv:2006.11239; Lin et al. 2023, arXiv:2305.08891.
    """

    def start(self, x0: Tensor, noise: NoiseFn) -> Tensor:
        return self.temperature * noise(self.steps)

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        y = b(x_s, s.expand(len(x_s)), x0, cond)
        (a, v), (a1, v1) = variance_preserving(s), variance_preserving(s_next)
        r = a / a1
        kept = (r * v1 / v) ** 2
        return r * (v1 / v) ** 2 * x_s + a1 * (1 - kept) * y + v1 * (1 - kept).sqrt() * noise


class EDMHeun(Sampler):
    r"""EDM: Heun's method for dx/dv = (x - D(x, v)) / v on v = v_max (1 - s)^7, the last step by Euler.

    The grid has the spacing of EDM: uniform in v^(1/7) from v_max to v_min, then v = 0. Steps n take 2 n - 1
    evaluations. The clean variable has unit variance (sigma_data = 1).
    References: Karras et al. 2022, arXiv:2206.00364, algorithm 1 without churn, equation 5.
    """

    deterministic = False
    order = 2

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def grid(self) -> Tensor:
        last = edm_level(torch.tensor(EDM_MIN, dtype=torch.float64))
        if self.steps == 1:
            return torch.tensor([0.0, 1.0], dtype=torch.float64)
        return torch.cat([torch.linspace(0, 1, self.steps, dtype=torch.float64) * last, torch.ones(1).double()])

    def start(self, x0: Tensor, noise: NoiseFn) -> Tensor:
        return EDM_MAX * self.temperature * noise(self.steps)

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        v, v1 = edm_sigma(s), edm_sigma(s_next)
        slope = (x_s - b(x_s, s.expand(len(x_s)), x0, cond)) / v
        x = x_s + (v1 - v) * slope
        if v1 == 0:
            return x
        slope1 = (x - b(x, s_next.expand(len(x)), x0, cond)) / v1
        return x_s + (v1 - v) * (slope + slope1) / 2


EDM_MIN, EDM_MAX, EDM_RHO = 0.002, 80.0, 7.0


def edm_sigma(s: Tensor) -> Tensor:
    """Noise level of EDM at s: v_max (1 - s)^7, in units of the standard deviation of the clean variable."""
    return EDM_MAX * (1 - s) ** EDM_RHO


def edm_level(sigma: Tensor) -> Tensor:
    """Inverse of `edm_sigma`."""
    return 1 - (sigma / EDM_MAX) ** (1 / EDM_RHO)


def variance_preserving(s: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise (sin(pi s / 2), cos(pi s / 2)); exactly (1, 0) at s = 1."""
    return torch.sin(torch.pi / 2 * s), torch.cos(torch.pi / 2 * s) * (s < 1)


SAMPLERS: dict[str, type[Sampler]] = {
    "si-e": DriftEuler,
    "si-em": EulerMaruyama,
    "ddpm": Ancestral,
    "edm": EDMHeun,
}
