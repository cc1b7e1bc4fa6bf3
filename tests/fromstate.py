"""What the tests of the samplers from a state share: their names, the interpolants that each takes, a correlated field."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact import GaussianBridge, Scalar, normal
from torch import Tensor

from physinterp.interpolant import BrownianInterpolant, Interpolant, LinearInterpolant, QuadraticInterpolant
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.samplers.bridge import FromState
from physinterp.types import NoiseFn

NAMES = [name for name, kind in SAMPLERS.items() if issubclass(kind, FromState)]
LINEAR, QUADRATIC, BROWNIAN = LinearInterpolant, QuadraticInterpolant, BrownianInterpolant
KINDS = dict.fromkeys(NAMES, (LINEAR, QUADRATIC, BROWNIAN))
KINDS |= dict.fromkeys(("si-bridge", "si-cal"), (LINEAR, BROWNIAN))
KINDS |= dict.fromkeys(("si-pf-heun", "si-pf-rk4"), (LINEAR, QUADRATIC))
PAIRS = [(name, kind) for name in NAMES for kind in KINDS[name]]
each_name = pytest.mark.parametrize("name", NAMES)

CHANNELS, POINTS = 2, (2, 3)
SHAPE = (CHANNELS, *POINTS)


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


def recorded(noise: NoiseFn) -> tuple[NoiseFn, list[int]]:
    """The same noise, and the numbers of the draws."""
    drawn: list[int] = []

    def draw(k: int) -> Tensor:
        drawn.append(k)
        return noise(k)

    return draw, drawn
