"""Samplers of the stochastic interpolant with exact drifts: mean and covariance by recursion, mixtures, orders, limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from exact import GaussianBridge, Mixture, Scalar, full, moments, propagate, si_drift
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import (
    BrownianInterpolant,
    FlowMatchingInterpolant,
    Interpolant,
    LinearInterpolant,
    QuadraticInterpolant,
    TrigonometricInterpolant,
)
from physinterp.samplers import SAMPLERS, CalibratedBridge, DriftEuler, EulerMaruyama, FlowMidpoint, FlowRK4, Foellmer, Sampler
from physinterp.samplers.bridge import FromState
from physinterp.types import NoiseFn

NAMES = [name for name, kind in SAMPLERS.items() if issubclass(kind, FromState)]
LINEAR, QUADRATIC, BROWNIAN = LinearInterpolant, QuadraticInterpolant, BrownianInterpolant
KINDS = {name: (LINEAR, QUADRATIC, BROWNIAN) for name in NAMES}
KINDS |= {name: (LINEAR, BROWNIAN) for name in ("si-bridge", "si-cal")}
KINDS |= {name: (LINEAR, QUADRATIC) for name in ("si-pf-heun", "si-pf-rk4")}
PAIRS = [(name, kind) for name in NAMES for kind in KINDS[name]]
each_pair = pytest.mark.parametrize(("name", "kind"), PAIRS, ids=[f"{n}-{k.__name__.lower()[:-11]}" for n, k in PAIRS])
each_name = pytest.mark.parametrize("name", NAMES)

CHANNELS, POINTS = 2, (2, 3)
SHAPE = (CHANNELS, *POINTS)
UNEVEN = (0.0, 0.05, 0.3, 0.35, 0.8, 1.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def field(kind: type[Interpolant], least: float = 0.01, most: float = 50.0) -> tuple[Interpolant, GaussianBridge, Tensor]:
    """A correlated field of two channels: C / sigma^2 with eigenvalues least ... most in random directions; far-off x0."""
    interpolant = kind(torch.tensor([0.3, 2.0], dtype=torch.float64)[:, None, None])
    d = math.prod(SHAPE)
    vectors = torch.linalg.qr(normal(d, d))[0]
    r = vectors @ torch.diag(torch.logspace(math.log10(least), math.log10(most), d, dtype=torch.float64)) @ vectors.T
    bridge = GaussianBridge(interpolant, normal(*SHAPE, seed=1), (r + r.T) / 2)
    return interpolant, bridge, 3 * normal(*SHAPE, seed=2) + torch.tensor([-40.0, 7.0]).double()[:, None, None]


def make(name: str, steps: int, interpolant: Interpolant, bridge: Any = None, **options: Any) -> Sampler:
    """A sampler; si-cal with the right covariance."""
    return SAMPLERS[name](steps, interpolant, residual=bridge or Scalar(1.0), **options)


def scaled_errors(bridge: GaussianBridge, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Largest error of the mean in standard deviations, and largest relative error of a variance in any direction."""
    root = torch.linalg.cholesky(bridge.covariance)
    off = torch.linalg.solve_triangular(root, (mean - bridge.mu.flatten())[:, None], upper=False)
    half = torch.linalg.solve_triangular(root, covariance, upper=False)
    ratio = torch.linalg.solve_triangular(root, half.T, upper=False)
    return float(off.abs().max()), float(torch.linalg.eigvalsh(ratio - torch.eye(len(mean))).abs().max())


def slope(errors: list[float], steps: list[int]) -> float:
    """Order of convergence."""
    return -float(np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0])


def recorded(noise: NoiseFn) -> tuple[NoiseFn, list[int]]:
    """The same noise, and the numbers of the draws."""
    drawn: list[int] = []

    def draw(k: int) -> Tensor:
        drawn.append(k)
        return noise(k)

    return draw, drawn


# the law of a Gaussian ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "si-e"])
def test_samples_have_the_moments_of_the_recursion(name):
    """The loop with real draws on an uneven grid: every mean and covariance within five standard errors."""
    members = 20_000
    interpolant, bridge, x0 = field(LINEAR)
    sampler = make(name, 5, interpolant, bridge, grid=UNEVEN)
    mean, covariance = propagate(sampler, bridge, x0)
    draws = normal(5, members, *SHAPE)
    x = sampler(bridge, x0.expand(members, *SHAPE), noise=lambda k: draws[k]).flatten(1)
    spread = covariance.diag()
    assert bool(((x.mean(0) - mean).abs() < 5 * (spread / members).sqrt()).all())
    error = ((spread[:, None] * spread + covariance**2) / members).sqrt()
    assert bool(((torch.cov(x.T) - covariance).abs() < 5 * error).all())


ERRORS = {  # steps, and the error of the variance that is left, C / sigma^2 from .01 to 50
    "si-em": ([200, 400], 0.07),
    "si-foellmer": ([200, 400], 0.06),
    "si-bridge": ([200, 400], 0.08),
    "si-pf": ([60, 120], 0.002),
    "si-pf-heun": ([60, 120], 0.008),
    "si-pf-rk4": ([30, 60], 1e-4),
}


@pytest.mark.parametrize("grid", [None, "uneven"])
@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0] in ERRORS])
def test_the_law_is_approached_with_the_order_that_is_declared(name, kind, grid):
    """Mean and covariance of the whole field by recursion, on the grid of the class and on s = 1 - (1 - k/n)^1.5."""
    steps, left = ERRORS[name]
    wide = name == "si-bridge" and kind is BROWNIAN  # its variance is short by h sigma^2, whatever C is
    interpolant, bridge, x0 = field(kind, least=1.0 if wide else 0.01)
    means, variances = [], []
    for n in steps:
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        values = 1 - (1 - u) ** 1.5 if SAMPLERS[name].noisy_steps else u**2.5
        sampler = make(name, n, interpolant, bridge, grid=None if grid is None else values)
        mean, variance = scaled_errors(bridge, *propagate(sampler, bridge, x0))
        means.append(mean)
        variances.append(variance)
    print(name, kind.__name__, grid, means, variances, slope(variances, steps))
    order = SAMPLERS[name].order
    assert variances[-1] < left
    assert slope(variances, steps) == pytest.approx(order, abs=0.15 * order)
    if kind is QUADRATIC:
        assert slope(means, steps) == pytest.approx(order, abs=0.15 * order)
    else:
        assert max(means) < 1e-8
