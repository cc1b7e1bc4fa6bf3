"""Diffusion models of the next state: DDPM and EDM on the normalised one-step difference.

Both denoise y = (x1 - x0) / scale given x0, so the clean variable has unit variance per channel (EDM's sigma_data is
1 by construction) and, at pure noise, the network's output is the estimate of y that the deterministic twin makes:
both can start from the twin's weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from physinterp.model import Model, as_level, gaussian, uniform
from physinterp.samplers import Sampler
from physinterp.samplers.diffusion import EDM_MAX, EDM_MIN, edm_level, edm_sigma, variance_preserving
from physinterp.types import Conditioning, NoiseFn


class Diffusion(Model, ABC):
    """Advance by a sampled, normalised one-step difference: x1 = x0 + scale y."""

    @abstractmethod
    def denoise(self, y_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """E[y | y_s, x0], shape (B, C, *S)."""

    def advance(self, z: Tensor, cond: Conditioning, sampler: Sampler | None, noise: NoiseFn) -> Tensor:
        if sampler is None:
            raise ValueError("a diffusion model is advanced by a sampler and got none")
        return z + self.scale * sampler(self.denoise, z, cond, noise=noise)


class DDPM(Diffusion):
    r"""y_s = a y + v e with a = sin(pi s / 2), v = cos(pi s / 2); the network predicts F = v y - a e (minus "v").

        E[y | y_s] = a y_s + v F

    s = 0 is pure noise, where F = E[y]. The loss is the mean squared error of F, s uniform.
    References: Ho et al. 2020, arXiv:2006.11239; Salimans and Ho 2022, arXiv:2202.00512 (the target).
    """

    def denoise(self, y_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        a, v = variance_preserving(as_level(s))
        return a * y_s + v * self.network(x0, y_s, s, cond)

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        s, e = uniform(len(x0), generator, x0), gaussian(generator, x0)
        y = (x1 - x0) / self.scale
        a, v = variance_preserving(as_level(s))
        return (self.network(x0, a * y + v * e, s, cond) - (v * y - a * e)).square().mean()


class EDM(Diffusion):
    r"""y_s = y + v e, v = v_max (1 - s)^7; D = c_skip y_s + c_out F(c_in y_s) with sigma_data = 1.

        c_skip = 1 / (1 + v^2),  c_out = v / sqrt(1 + v^2),  c_in = 1 / sqrt(1 + v^2)

    The loss is the mean squared error of F, ln v ~ N(-0.5, 1.2^2): EDM's law, in units of sigma_data.
    v_min = 0.002 and v_max = 80 are EDM's numbers, taken in units of the unit standard deviation of y.
    References: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    def denoise(self, y_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        v = edm_sigma(as_level(s))
        c_in = (1 + v**2).rsqrt()
        return c_in**2 * y_s + v * c_in * self.network(x0, c_in * y_s, s, cond)

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        quantile = uniform(len(x0), generator, x0).clamp(1e-6, 1 - 1e-6)
        sigma = (1.2 * torch.special.ndtri(quantile) - 0.5).exp().clamp(EDM_MIN, EDM_MAX)
        v, y = as_level(sigma), (x1 - x0) / self.scale
        c_in = (1 + v**2).rsqrt()
        y_s = y + v * gaussian(generator, x0)
        output = self.network(x0, c_in * y_s, edm_level(sigma), cond)
        return (output - (y - c_in**2 * y_s) / (v * c_in)).square().mean()
