"""Samplers of the diffusion baselines: from noise at s = 0 to the clean variable at s = 1, with a denoiser as `b`."""

from __future__ import annotations

import torch
from torch import Tensor

from physinterp.samplers.base import Sampler
from physinterp.types import Conditioning, DriftFn, NoiseFn


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
