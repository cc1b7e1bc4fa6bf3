"""The learned drift of a stochastic interpolant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physinterp.interpolant import LinearInterpolant
from physinterp.model import Model, as_level, gaussian, uniform
from physinterp.samplers import Sampler
from physinterp.types import Conditioning, NoiseFn


class Drift(Model):
    r"""Drift b(x_s, s, x0) of the linear interpolant, preconditioned by its Gaussian form.

    If x1 given x0 is N(mu, sigma^2 I), the drift is exactly

        b = (1 - s c) (mu - x0) + c (x_s - x0),   c(s) = s / (s + (1 - s)^2)

    so the network predicts mu - x0 in units of `scale` and starts, with the weights of the deterministic twin, as the
    exact drift of the twin's forecast with white residual. What it learns beyond is how the residual is not white.
    Its second input is (x_s - x0) / scale. The loss is the mean over everything of |b - target|^2 / scale^2.

    Arguments:
        backbone, scale: see `Model`.
        sigma: noise of the interpolant per channel, shape (C,): the residual's standard deviation of the twin.
        at_zero: share of the training pairs at s = 0, where a sampler of n steps makes 1/n of its evaluations.
        power: the others take s = u^power with u uniform.
    References: Zhou et al. 2025, arXiv:2509.26282; Chen et al. 2024, arXiv:2403.13724.
    """

    sigma: Tensor

    def __init__(self, backbone: nn.Module, scale: Tensor, sigma: Tensor, at_zero: float = 0.75, power: float = 1.0) -> None:
        super().__init__(backbone, scale)
        self.register_buffer("sigma", sigma.reshape(-1, 1, 1).clone())
        self.at_zero, self.power = at_zero, power

    @property
    def interpolant(self) -> LinearInterpolant:
        """The interpolant with this model's sigma."""
        return LinearInterpolant(self.sigma)

    def forward(self, x_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """b(x_s, s, x0), shape (B, C, *S)."""
        change = self.scale * self.network(x0, (x_s - x0) / self.scale, s, cond)
        level = as_level(s)
        c = level / (level + (1 - level) ** 2)
        return (1 - level * c) * change + c * (x_s - x0)

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        u = uniform(len(x0), generator, x0)
        s = ((u - self.at_zero).clamp(min=0) / (1 - self.at_zero)) ** self.power
        bridge = self.interpolant.bridge(x0, x1, as_level(s), gaussian(generator, x0))
        return ((self(bridge.x_s, s, x0, cond) - bridge.target) / self.scale).square().mean()

    def advance(self, z: Tensor, cond: Conditioning, sampler: Sampler | None, noise: NoiseFn) -> Tensor:
        if sampler is None:
            raise ValueError("a drift is advanced by a sampler and got none")
        return sampler(self, z, cond, noise=noise)
