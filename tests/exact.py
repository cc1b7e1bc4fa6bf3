"""Closed forms for x1 given x0 ~ N(mu, C), scalar, with which samplers and read-outs are checked without any network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from physinterp.interpolant import Interpolant
from physinterp.samplers import Sampler
from physinterp.samplers.diffusion import edm_sigma, variance_preserving
from physinterp.types import Conditioning

SHAPE = (1, 1, 1, 1)


def full(value: float) -> Tensor:
    """A state with one value, float64."""
    return torch.full(SHAPE, value, dtype=torch.float64)


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


def ddpm_denoiser(mu: float, c: float) -> Counted:
    """E[y | y_s] of y_s = a y + v e."""

    def f(x: Tensor, s: Tensor, x0: Tensor) -> Tensor:
        a, v = variance_preserving(s)
        return mu + a * c * (x - a * mu) / (a**2 * c + v**2)

    return Counted(f)


def edm_denoiser(mu: float, c: float) -> Counted:
    """E[y | y_s] of y_s = y + v e."""
    return Counted(lambda x, s, x0: mu + c * (x - mu) / (c + edm_sigma(s) ** 2))


def moments(sampler: Sampler, b: Counted, x0: float) -> tuple[float, float]:
    """Exact mean and variance of the sample, for a drift that is affine in x.

    Every step is x' = p + q x + r xi; p, q and r are read off the sampler's own step at (x, xi) = (0, 0), (1, 0), (0, 1).
    """
    start, s = full(x0).repeat(3, 1, 1, 1), sampler.grid()
    x, xi = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)[..., None, None, None]
    begin = sampler.start(start, lambda k: xi).flatten().tolist()
    mean, variance = begin[0], (begin[2] - begin[0]) ** 2
    for k in range(sampler.steps):
        p, pq, pr = sampler.step(b, x, s[k], s[k + 1], start, Conditioning(), xi).flatten().tolist()
        mean, variance = p + (pq - p) * mean, (pq - p) ** 2 * variance + (pr - p) ** 2
    return mean, variance
