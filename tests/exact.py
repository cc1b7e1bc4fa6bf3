"""Closed forms for x1 given x0 ~ N(mu, C), scalar, with which samplers and read-outs are checked without any network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from physinterp.interpolant import Interpolant
from physinterp.samplers import Sampler
from physinterp.types import Conditioning, DriftFn

SHAPE = (1, 1, 1, 1)


def full(value: float) -> Tensor:
    """A state with one value, float64."""
    return torch.full(SHAPE, value, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(errors: list[float], steps: list[int]) -> float:
    """Order of convergence."""
    return -float(np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0])


def law(interpolant: Interpolant, s: Tensor, x0: float, mu: float, c: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of x_s given x0, and the slope of the drift in x, 0 < s < 1."""
    k = interpolant.coefficients(s)
    variance = k.beta**2 * c + k.gamma**2
    return k.alpha * x0 + k.beta * mu, variance, (k.beta * k.beta_dot * c + k.gamma * k.eta) / variance


def gaussian_drift(x: Tensor, s: Tensor, x0: Tensor, mu: float, c: float, sigma: float) -> Tensor:
    """b = mu - x0 + (C - sigma^2 (1 - s)) / (s C + sigma^2 (1 - s)^2) (x - m) of the linear interpolant, all s."""
    slope = (c - sigma**2 * (1 - s)) / (s * c + sigma**2 * (1 - s) ** 2)
    return mu - x0 + slope * (x - ((1 - s) * x0 + s * mu))


class Counted:
    """A drift or denoiser for a sampler that counts its calls."""

    def __init__(self, f: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, x: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        assert s.shape == (len(x),) and isinstance(cond, Conditioning)
        self.calls += 1
        return self.f(x, s[:, None, None, None], x0)


def si_drift(mu: float, c: float, sigma: float) -> Counted:
    """The drift of a stochastic interpolant."""
    return Counted(lambda x, s, x0: gaussian_drift(x, s, x0, mu, c, sigma))


def one_sided_drift(interpolant: Interpolant, mu: float, c: float) -> Counted:
    """The velocity b = E[beta' y + gamma' z | y_s] of y_s = beta y + gamma z with y ~ N(mu, C), all s."""

    def f(x: Tensor, s: Tensor, x0: Tensor) -> Tensor:
        k = interpolant.coefficients(s)
        slope = (k.beta * k.beta_dot * c + k.gamma * k.eta) / (k.beta**2 * c + k.gamma**2)
        return k.beta_dot * mu + slope * (x - k.beta * mu)

    return Counted(f)


class GaussianBridge:
    """x1 given x0 ~ N(mu, C), C = sigma R sigma, on any interpolant whose gamma / sigma does not depend on sigma.

    Arguments:
        interpolant: sigma () or (C, 1, 1).
        mu: mean, shape (C, H, W).
        r: R, a symmetric matrix on the flattened state (C H W, C H W).
    """

    def __init__(self, interpolant: Interpolant, mu: Tensor, r: Tensor) -> None:
        self.unit, self.mu, self.calls = type(interpolant)(1.0), mu, 0
        self.sigma = interpolant.sigma.expand(mu.shape)
        self.values, self.vectors = torch.linalg.eigh(r)
        self.covariance = self.sigma.flatten()[:, None] * r * self.sigma.flatten()

    def __call__(self, x: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """b = alpha' x0 + beta' mu + [beta beta' C + gamma eta] [beta^2 C + gamma^2]^-1 (x - m)."""
        self.calls += 1
        k = self.unit.coefficients(s[0].clamp(min=1e-20))
        slope = (k.beta * k.beta_dot * self.values + k.gamma * k.eta) / (k.beta**2 * self.values + k.gamma**2)
        off = (x - k.alpha * x0 - k.beta * self.mu) / self.sigma
        return k.alpha_dot * x0 + k.beta_dot * self.mu + self.sigma * self.apply(lambda r: slope, off)

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f(R) x: this bridge is also the residual operator of its own law."""
        return (x.flatten(1) @ self.vectors * f(self.values) @ self.vectors.T).view_as(x)


class Scalar:
    """The residual operator R = r I."""

    def __init__(self, r: float) -> None:
        self.r = torch.tensor(r, dtype=torch.float64)

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f(r) x."""
        return f(self.r) * x


def propagate(sampler: Sampler, b: DriftFn, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean (d,) and covariance (d, d) of the flattened sample from x0 (C, H, W), for a drift that is affine in x.

    Every step is x' = p + Q (x - a) + R xi, where a is the start without noise; p, Q, R are read off the sampler's own step
    at x = a, xi = 0 and at unit vectors off it.
    """
    d, s = x0.numel(), sampler.grid()
    rows = torch.cat([torch.zeros(1, 2 * d), torch.eye(2 * d)]).to(x0)
    xi, here = rows[:, d:].reshape(-1, *x0.shape), x0.expand(2 * d + 1, *x0.shape)

    def affine(out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, q, r = out.flatten(1).split([1, d, d])
        return p[0], (q - p).T, (r - p).T

    mean, _, first = affine(sampler.start(here, lambda k: xi))
    covariance, begin = first @ first.T, mean
    x = (begin + rows[:, :d]).view_as(xi)
    for k in range(sampler.steps):
        p, q, r = affine(sampler.step(b, x, s[k], s[k + 1], here, Conditioning(), xi))
        mean, covariance = p + q @ (mean - begin), q @ covariance @ q.T + r @ r.T
    return sampler.finish(mean.view_as(x0), x0).flatten(), covariance


def moments(sampler: Sampler, b: DriftFn, x0: float) -> tuple[float, float]:
    """Exact mean and variance of the sample of a scalar state; see `propagate`."""
    mean, covariance = propagate(sampler, b, full(x0)[0])
    return float(mean), float(covariance)


class Mixture:
    """x1 given x0 ~ sum_i w_i N(m_i, sd^2), independent in every entry of the state, on an interpolant with one sigma."""

    def __init__(self, interpolant: Interpolant, weights: list[float], modes: list[float], sd: float) -> None:
        self.interpolant, self.variance = interpolant, sd**2
        self.weights, self.modes = torch.tensor([weights, modes], dtype=torch.float64)

    def __call__(self, x: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """The drifts of the modes, each weighted by its probability given x_s."""
        k = self.interpolant.coefficients(s[0].clamp(min=1e-20))
        variance = k.beta**2 * self.variance + k.gamma**2
        slope = (k.beta * k.beta_dot * self.variance + k.gamma * k.eta) / variance
        off = (x - k.alpha * x0)[..., None] - k.beta * self.modes
        posterior = torch.softmax(self.weights.log() - off**2 / (2 * variance), dim=-1)
        return k.alpha_dot * x0 + (posterior * (k.beta_dot * self.modes + slope * off)).sum(-1)
