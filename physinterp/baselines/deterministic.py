"""The deterministic twin: the network and the budget of the drift, trained by the mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physinterp.calibration import Covariance, Shrinkage, White
from physinterp.interpolant import LinearInterpolant
from physinterp.model import Model
from physinterp.samplers import Sampler
from physinterp.types import Conditioning, NoiseFn


class Deterministic(Model):
    r"""mu = W (x0 + scale F(x0)), an estimate of E[x1 | x0]; loss |x1 - x0 - scale F|^2 / scale^2.

    W, which is 1 while F is trained, gives every pattern of the forecast the weight it deserves on other data.

    Any backbone: with a residual U-Net or a transformer it is the twin of the drift, with an FNO the FNO baseline.
    Advanced by one step of the sampler `si-cal` it is dressed: mu + C^(1/2) xi, with the covariance of its own residual.

    Arguments:
        backbone, scale: see `Model`.
        covariance, shrinkage: C, of x1 - mu, and W: measured on validation pairs after training.
    """

    interpolant = LinearInterpolant(1.0)
    residual = White()

    def __init__(self, backbone: nn.Module, scale: Tensor, covariance: Covariance, shrinkage: Shrinkage) -> None:
        super().__init__(backbone, scale)
        self.covariance, self.shrinkage = covariance, shrinkage

    def raw(self, x0: Tensor, cond: Conditioning) -> Tensor:
        """x0 + scale F(x0), (B, C, *S)."""
        change = self.network(x0, x0.new_zeros(()).expand_as(x0), x0.new_zeros(len(x0)), cond)
        return torch.addcmul(x0, self.scale, change)

    def mean(self, x0: Tensor, cond: Conditioning) -> Tensor:
        """E[x1 | x0], shape (B, C, *S)."""
        return self.shrinkage(self.raw(x0, cond))

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        return ((self.raw(x0, cond) - x1) / self.scale).square().mean()

    def colour(self, noise: Tensor) -> Tensor:
        return self.covariance.colour(noise)

    def advance(self, z: Tensor, cond: Conditioning, sampler: Sampler | None, noise: NoiseFn) -> Tensor:
        if sampler is None:
            return self.mean(z, cond)

        def b(x_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
            return self.mean(x0, cond) - x0

        return sampler(b, z, cond, noise=noise)
