"""The learned drift of a stochastic interpolant."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from physinterp.baselines.deterministic import Deterministic
from physinterp.calibration import Covariance, White
from physinterp.interpolant import Interpolant, LinearInterpolant
from physinterp.model import Model, as_level, gaussian, uniform
from physinterp.samplers import Sampler
from physinterp.types import Conditioning, NoiseFn, Residual


class Drift(Model, ABC):
    """A drift b(x_s, s) of the linear interpolant between a source and x1, given x0; a subclass says from where and how.

    Arguments:
        backbone, scale: see `Model`.
        covariance: of the residual of the conditional mean.
    """

    def __init__(self, backbone: nn.Module, scale: Tensor, covariance: Covariance) -> None:
        super().__init__(backbone, scale)
        self.covariance = covariance

    @property
    @abstractmethod
    def interpolant(self) -> Interpolant:
        """The interpolant, with the sigma that goes with the noise of `colour`."""

    @property
    @abstractmethod
    def residual(self) -> Residual:
        """The covariance of x1 given x0 in units of that noise."""

    @abstractmethod
    def mean(self, x0: Tensor, cond: Conditioning) -> Tensor:
        """The forecast in one step without noise, source + b(source, 0), (B, C, *S)."""

    @abstractmethod
    def source(self, x0: Tensor, cond: Conditioning) -> Tensor:
        """Where the interpolant starts, (B, C, *S)."""

    @abstractmethod
    def drift(self, x_s: Tensor, s: Tensor, source: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """b(x_s, s) given the state x0 and its source, (B, C, *S)."""

    @abstractmethod
    def levels(self, u: Tensor) -> Tensor:
        """The law of s in training: s from uniform draws u, (B,)."""

    def advance(self, z: Tensor, cond: Conditioning, sampler: Sampler | None, noise: NoiseFn) -> Tensor:
        if sampler is None:
            raise ValueError("a drift is advanced by a sampler and got none")

        def b(x_s: Tensor, s: Tensor, source: Tensor, cond: Conditioning) -> Tensor:
            return self.drift(x_s, s, source, z, cond)

        return sampler(b, self.source(z, cond), cond, noise=noise)


class StateDrift(Drift):
    r"""The interpolant from the state itself with white noise, the published form.

    If x1 given x0 is N(mu, sigma^2 I), the drift is exactly

        b = (1 - s c) (mu - x0) + c (x_s - x0),   c(s) = s / (s + (1 - s)^2)

    so the network predicts mu - x0 in units of `scale` and starts, with the weights of the deterministic twin, as the
    exact drift of the twin's forecast with white residual. Its second input is (x_s - x0) / scale. The loss is the
    mean over everything of |b - target|^2 / scale^2.

    Arguments:
        backbone, scale, covariance: see `Drift`; the sigma of the interpolant is that of `covariance`.
        at_zero: share of the training pairs at s = 0, where a sampler of n steps makes 1/n of its evaluations; the
            others take s uniform.
    References: Zhou et al. 2025, arXiv:2509.26282; Chen et al. 2024, arXiv:2403.13724.
    """

    def __init__(self, backbone: nn.Module, scale: Tensor, covariance: Covariance, at_zero: float = 0.75) -> None:
        super().__init__(backbone, scale, covariance)
        self.at_zero = at_zero

    @property
    def interpolant(self) -> LinearInterpolant:
        return LinearInterpolant(self.covariance.sigma)

    @property
    def residual(self) -> Covariance:
        return self.covariance

    def mean(self, x0: Tensor, cond: Conditioning) -> Tensor:
        return x0 + self.drift(x0, x0.new_zeros(len(x0)), x0, x0, cond)

    def source(self, x0: Tensor, cond: Conditioning) -> Tensor:
        return x0

    def levels(self, u: Tensor) -> Tensor:
        return (u - self.at_zero).clamp(min=0) / (1 - self.at_zero)

    def drift(self, x_s: Tensor, s: Tensor, source: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        change = self.scale * self.network(x0, (x_s - x0) / self.scale, s, cond)
        level = as_level(s)
        c = _slope(level)
        return (1 - level * c) * change + c * (x_s - x0)

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        s = self.levels(uniform(len(x0), generator, x0))
        bridge = self.interpolant.bridge(x0, x1, as_level(s), gaussian(generator, x0))
        return ((self.drift(bridge.x_s, s, x0, x0, cond) - bridge.target) / self.scale).square().mean()


class ForecastDrift(Drift):
    r"""The interpolant from the forecast mu(x0) of a deterministic twin, with noise of the colour of its residual.

        x_s = (1 - s) mu + s x1 + (1 - s) sqrt(s) C^(1/2) z,   C the covariance of x1 - mu on validation pairs
        b = c (x_s - mu) + sqrt(s) sigma G((x_s - mu) / sigma, x0, s),   c(s) = s / (s + (1 - s)^2)

    With G = 0 this is the exact drift of the twin's forecast with a Gaussian residual of covariance C: in the
    coordinates C^(-1/2) x noise and residual are white and of one variance, where few steps of `si-em` already have the
    right spread. The network G, which starts at zero, learns how the residual depends on the state and where it is
    not Gaussian. b vanishes at s = 0, so that evaluation is free: the twin takes its place.

    The twin's errors are smaller on the pairs it was trained on. There x1 - mu is scaled by `inflation` to its size
    on validation pairs. The loss is the mean over everything of |b - target|^2 / sigma^2, s uniform.

    Arguments:
        backbone, scale, covariance: see `Drift`.
        twin: the deterministic twin, not trained any more.
    References: Zhou et al. 2025, arXiv:2509.26282 (the interpolant); a mean and a generative model of its residual:
        Mardani et al. 2023, arXiv:2309.15214.
    """

    inflation: Tensor

    def __init__(self, backbone: nn.Module, scale: Tensor, covariance: Covariance, twin: Deterministic) -> None:
        super().__init__(backbone, scale, covariance)
        self.twin = twin.requires_grad_(False)
        self.register_buffer("inflation", torch.ones_like(self.scale))

    @property
    def interpolant(self) -> LinearInterpolant:
        return LinearInterpolant(1.0)

    @property
    def residual(self) -> White:
        return White()

    def mean(self, x0: Tensor, cond: Conditioning) -> Tensor:
        return self.twin.mean(x0, cond)

    def source(self, x0: Tensor, cond: Conditioning) -> Tensor:
        return self.mean(x0, cond)

    def levels(self, u: Tensor) -> Tensor:
        return u

    def colour(self, noise: Tensor) -> Tensor:
        return self.covariance.colour(noise)

    def drift(self, x_s: Tensor, s: Tensor, source: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        if not s.any():
            return x_s.new_zeros(()).expand_as(x_s)
        level, sigma, away = as_level(s), self.covariance.sigma, x_s - source
        return torch.addcmul(_slope(level) * away, level.sqrt() * sigma, self.network(x0, away / sigma, s, cond))

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            mean = self.source(x0, cond)
            if self.training:
                x1 = mean + self.inflation * (x1 - mean)
            s = self.levels(uniform(len(x0), generator, x0))
            bridge = self.interpolant.bridge(mean, x1, as_level(s), self.colour(gaussian(generator, x0)))
        return ((self.drift(bridge.x_s, s, mean, x0, cond) - bridge.target) / self.covariance.sigma).square().mean()


def _slope(level: Tensor) -> Tensor:
    """c(s) = s / (s + (1 - s)^2): of the drift in x_s where C = sigma^2."""
    return level / (level + (1 - level) ** 2)
