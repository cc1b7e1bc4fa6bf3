r"""Diffusion models of the next state: DDPM, EDM and flow matching of the normalised one-step difference.

    y_s = a(s) y + v(s) z,   y = (x1 - x0) / scale,   z ~ N(0, I),   given x0

`scale` is measured on the data, so y has unit variance per channel: that is EDM's sigma_data, 1 in these units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from physinterp.interpolant import (
    FlowMatchingInterpolant,
    OneSidedInterpolant,
    VarianceExplodingInterpolant,
    VariancePreservingInterpolant,
)
from physinterp.model import Model, as_level, gaussian, uniform
from physinterp.samplers import Sampler
from physinterp.samplers.diffusion import EDM_MIN
from physinterp.types import Conditioning, NoiseFn


class Diffusion(Model, ABC):
    r"""Advance by a sampled difference, x1 = x0 + scale y. All objectives train one network, F of the input u:

        u = (a y + v z) / q,   F = (v y - a z) / q,   q^2 = a^2 + v^2

    two orthogonal combinations of unit variance if y is N(0, I). They read back as E[y | y_s] = (a u + v F) / q and
    E[z | y_s] = (v u - a F) / q, of which calling the model gives the velocity

        b(y_s, s, x0) = E[dy_s/ds | y_s, x0] = ((a a_dot + v v_dot) u + (a_dot v - a v_dot) F) / q

    for any one-sided interpolant (a, v) = (beta, gamma). At pure noise F = E[y], the estimate of the deterministic twin,
    so training can start from the twin's weights. A subclass is a path, a law of s and a weight.

    References: Karras et al. 2022, arXiv:2206.00364, section 5; Salimans and Ho 2022, arXiv:2202.00512 (F of DDPM, "v").
    """

    path: ClassVar[OneSidedInterpolant]

    @abstractmethod
    def levels(self, u: Tensor) -> Tensor:
        """s of the training pairs from uniform numbers in [0, 1), (B,) -> (B,)."""

    def weight(self, q2: Tensor) -> Tensor:
        """Weight of |error of F|^2 at the variance q^2 of y_s, the same shape."""
        return torch.ones_like(q2)

    def forward(self, y_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """The velocity b(y_s, s, x0), shape (B, C, *S)."""
        c = self.path.coefficients(as_level(s))
        q = (c.beta**2 + c.gamma**2).sqrt()
        f = self.network(x0, y_s / q, s, cond)
        along, across = c.beta * c.beta_dot + c.gamma * c.eta, c.beta_dot * c.gamma - c.beta * c.eta
        return torch.addcmul(along / q**2 * y_s, across / q, f)

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        s, z = self.levels(uniform(len(x0), generator, x0)), gaussian(generator, x0)
        y, c = (x1 - x0) / self.scale, self.path.coefficients(as_level(s))
        q2 = c.beta**2 + c.gamma**2
        q = q2.sqrt()
        error = self.network(x0, (c.beta * y + c.gamma * z) / q, s, cond) - (c.gamma * y - c.beta * z) / q
        return (self.weight(q2) * error.square()).mean()

    def advance(self, z: Tensor, cond: Conditioning, sampler: Sampler | None, noise: NoiseFn) -> Tensor:
        if sampler is None:
            raise ValueError("a diffusion model is advanced by a sampler and got none")
        return torch.addcmul(z, self.scale, sampler(self, z, cond, noise=noise))


class DDPM(Diffusion):
    r"""a = sin(pi s/2), v = cos(pi s/2), s uniform; the loss is the mean squared error of F = v y - a z.

    q = 1 and b = pi/2 F. s = 0 is pure noise without any signal, so the samplers have no bias in the mean.
    References: Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021, arXiv:2102.09672 (the schedule).
    """

    path = VariancePreservingInterpolant()

    def levels(self, u: Tensor) -> Tensor:
        """Uniform s."""
        return u


class EDM(Diffusion):
    r"""a = 1, v = 80 (1 - s)^7, ln v ~ N(-0.5, 1.2^2) within [0.002, 80]; the loss is the mean squared error of F.

    In EDM's words c_in = c_skip^(1/2) = 1/q and c_out = v/q, with the loss weight 1/c_out^2. Its numbers are kept, in
    units of sigma_data; its mean of ln v, -1.2 at sigma_data = 0.5, becomes -0.5 = -1.2 - ln 0.5.
    References: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    path: ClassVar[VarianceExplodingInterpolant] = VarianceExplodingInterpolant()

    def levels(self, u: Tensor) -> Tensor:
        """s of log-normal noise levels v."""
        v = (1.2 * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)) - 0.5).exp()
        return self.path.inverse(v.clamp(EDM_MIN, 80.0))


class FlowMatching(Diffusion):
    r"""a = s, v = 1 - s, s uniform; the loss is the mean squared error of the velocity b = E[y - z].

    b = ((2 s - 1) u + F) / q, so an error of F weighs 1/q^2, between 1 and 2.
    References: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.
    """

    path = FlowMatchingInterpolant()

    def levels(self, u: Tensor) -> Tensor:
        """Uniform s."""
        return u

    def weight(self, q2: Tensor) -> Tensor:
        """1 / q^2."""
        return 1 / q2
