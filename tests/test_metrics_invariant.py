"""Distributions of long rollouts: closed forms, brute-force twins, borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics import invariant_statistics, wasserstein2
from physinterp.metrics.invariant import LEVELS


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(n: int) -> Tensor:
    return torch.linspace(0.5, 1.5, n, dtype=torch.float64)


@pytest.mark.parametrize("weights", [None, uneven(6)])
def test_the_distance_of_a_shifted_sample_is_the_shift(weights):
    v = normal(7, 2, 5, 6)
    shift = torch.tensor([0.3, -2.0]).reshape(2, 1, 1)
    torch.testing.assert_close(wasserstein2(v + shift, v, weights), shift.abs().flatten().double(), rtol=1e-12, atol=0)
    assert (wasserstein2(v.flip(0), v, weights) == 0).all()


def test_scale_and_order():
    v = normal(9, 1, 5, 6)
    expected = 2 * v.square().mean().sqrt()
    assert float(wasserstein2(3 * v, v)) == pytest.approx(float(expected), rel=1e-12)
    assert float(wasserstein2(v, 3 * v)) == pytest.approx(float(expected), rel=1e-12)


def test_samples_of_unlike_numbers():
    u, v, w = normal(3, 1, 2, 4, seed=1), normal(5, 1, 2, 4, seed=2), uneven(4)
    for weights in (None, w):
        each = np.ones(4) if weights is None else weights.numpy()
        fine = []  # 8 points a frame, weights in multiples of 1/6: repeat points on a common grid of probability
        for x in (u, v):
            times = np.tile(np.round(each * 6).astype(int), 2 * len(x)) * (15 // len(x))
            fine.append(np.sort(np.repeat(x.numpy().ravel(), times)))
        assert len(fine[0]) == len(fine[1])
        expected = math.sqrt(np.mean((fine[0] - fine[1]) ** 2))
        assert float(wasserstein2(u, v, weights)) == pytest.approx(expected, rel=1e-10)


def test_a_gaussian():
    found = wasserstein2(0.5 + 2 * normal(400, 1, 32, 32, seed=1), normal(300, 1, 32, 32, seed=2))
    assert float(found) == pytest.approx(math.hypot(0.5, 1.0), rel=0.01)  # means and standard deviations apart
    statistics = invariant_statistics(normal(400, 1, 32, 32), normal(100, 1, 32, 32, seed=3))
    value = statistics["value"]
    np.testing.assert_allclose(value.forecast[0], norm.ppf(LEVELS), atol=0.05)
    np.testing.assert_allclose(value.truth[0, 1:-1], norm.ppf(LEVELS)[1:-1], atol=0.03)
    assert float(value.w2) < 0.02


def test_energy_is_of_frames():
    u, v, w = normal(6, 4, 2, 5, 6, seed=1), normal(3, 2, 5, 6, seed=2), uneven(6)
    energy = invariant_statistics(u, v, w, levels=(0.0, 0.5, 1.0))["energy"]
    frames = np.sort((u.square() * w).mean((-2, -1)).reshape(24, 2).numpy() / 2, axis=0)
    np.testing.assert_allclose(energy.forecast, frames[[0, 11, 23]].T, rtol=1e-12)
    assert energy.truth.shape == (2, 3) and energy.w2.shape == (2,)


def test_weighted_quantiles():
    x = torch.arange(4, dtype=torch.float64).reshape(1, 1, 4)
    w = torch.tensor([0.4, 0.4, 0.4, 2.8], dtype=torch.float64)
    found = invariant_statistics(x, x, w, levels=(0.05, 0.15, 0.25, 0.35, 0.9))["value"]
    assert found.forecast[0].tolist() == [0, 1, 2, 3, 3]


def test_what_is_not_finite_is_seen():
    u, v = normal(4, 2, 5, 6, seed=1), normal(4, 2, 5, 6, seed=2)
    u[1, 0, 0, 0] = math.inf
    assert wasserstein2(u, v).isinf().tolist() == [True, False]
    u[1, 0, 0, 0] = math.nan
    assert wasserstein2(u, v).isnan().tolist() == [True, False]
    statistics = invariant_statistics(u, v)
    for name in ("value", "energy"):
        assert statistics[name].forecast.isnan().any(-1).tolist() == [True, False]
        assert not statistics[name].truth.isnan().any()


def test_borders():
    v = normal(4, 2, 5, 6)
    for score in (wasserstein2, invariant_statistics):
        with pytest.raises(InputError, match=r"\(4, 2, 5, 6\) and \(4, 3, 5, 6\)"):
            score(v, normal(4, 3, 5, 6))
        with pytest.raises(InputError, match="same fields and grid"):
            score(v[0, 0], v[0, 0])
    with pytest.raises(InputError, match="between 0 and 1"):
        invariant_statistics(v, v, levels=(0.5, 95))
    with pytest.raises(InputError, match="do not broadcast"):
        wasserstein2(v, v, torch.ones(4))
