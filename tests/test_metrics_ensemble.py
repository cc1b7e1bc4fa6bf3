"""Ensemble scores: closed forms, brute-force twins, oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics import (
    crps,
    energy_score,
    ensemble_mean_mse,
    ensemble_variance,
    mae,
    rank_histogram,
    reliability,
    rmse,
    spread_skill,
)

SCORES = [crps, energy_score, ensemble_variance, ensemble_mean_mse]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uneven(n: int) -> Tensor:
    """Weights of mean 1 along an axis that is not uniform."""
    return torch.linspace(0.5, 1.5, n, dtype=torch.float64)


def brute_force_crps(x: np.ndarray, y: float, kind: str) -> float:
    members = len(x)
    pairs = sum(abs(a - b) for a in x for b in x)
    number = members**2 if kind == "standard" else members * (members - 1)
    return np.mean([abs(a - y) for a in x]) - pairs / (2 * number)


@pytest.mark.parametrize("leading", [(), (3,), (2, 5)])
@pytest.mark.parametrize("score", SCORES)
def test_reduces_members_and_space(score, leading):
    x, y = normal(4, *leading, 2, 6, 8, seed=1), normal(*leading, 2, 6, 8, seed=2)
    whole = score(x, y)
    assert whole.shape == (*leading, 2)
    assert whole.dtype == torch.float64
    for index in np.ndindex(*leading):
        torch.testing.assert_close(whole[index], score(x[(slice(None), *index)], y[index]), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["fair", "standard"])
@pytest.mark.parametrize("members", [2, 3, 7])
def test_crps_brute_force(kind, members):
    x, y, w = normal(members, 2, 3, 4, seed=1), normal(2, 3, 4, seed=2), uneven(4)
    x[1] = x[0]  # ties
    found = crps(x, y, w, kind=kind)
    for c in range(2):
        points = [
            float(w[j]) * brute_force_crps(x[:, c, i, j].numpy(), float(y[c, i, j]), kind)
            for i in range(3)
            for j in range(4)
        ]
        assert float(found[c]) == pytest.approx(sum(points) / 12, rel=1e-12)


@pytest.mark.parametrize(("kind", "estimator"), [("fair", "fair"), ("standard", "nrg"), ("standard", "pwm")])
def test_crps_agrees_with_scoringrules(kind, estimator):
    scoringrules = pytest.importorskip("scoringrules")
    if estimator == "pwm":  # this estimator is the fair one of the two in scoringrules
        kind = "fair"
    x, y = normal(9, 2, 8, 8, seed=1), normal(2, 8, 8, seed=2)
    expected = scoringrules.crps_ensemble(y.numpy(), x.numpy(), m_axis=0, estimator=estimator, backend="numpy")
    np.testing.assert_allclose(crps(x, y, kind=kind), expected.mean((-2, -1)), rtol=1e-10)


@pytest.mark.parametrize(("kind", "estimator"), [("fair", "fair"), ("standard", "nrg")])
def test_energy_score_agrees_with_scoringrules(kind, estimator):
    scoringrules = pytest.importorskip("scoringrules")
    x, y = normal(7, 3, 2, 6, 8, seed=1), normal(3, 2, 6, 8, seed=2)
    flat = x.flatten(-2).movedim(0, -2).numpy(), y.flatten(-2).numpy()
    expected = scoringrules.es_ensemble(flat[1], flat[0], estimator=estimator, backend="numpy")
    np.testing.assert_allclose(energy_score(x, y, kind=kind), expected / math.sqrt(48), rtol=1e-10)


@pytest.mark.parametrize("kind", ["fair", "standard"])
def test_energy_score_brute_force(kind):
    x, y, w = normal(4, 2, 3, 4, seed=1), normal(2, 3, 4, seed=2), uneven(4)

    def distance(a: Tensor, b: Tensor) -> float:
        return math.sqrt(sum(float(w[j] * (a[i, j] - b[i, j]) ** 2) for i in range(3) for j in range(4)) / 12)

    for c in range(2):
        error = np.mean([distance(x[m, c], y[c]) for m in range(4)])
        pairs = sum(distance(x[m, c], x[n, c]) for m in range(4) for n in range(4)) / (12 if kind == "fair" else 16)
        assert float(energy_score(x, y, w, kind=kind)[c]) == pytest.approx(error - pairs / 2, rel=1e-12)


def test_energy_score_on_one_point_is_the_crps():
    x, y = normal(6, 3, 2, 1, 1, seed=1), normal(3, 2, 1, 1, seed=2)
    for kind in ("fair", "standard"):
        torch.testing.assert_close(energy_score(x, y, kind=kind), crps(x, y, kind=kind))


def test_crps_of_a_gaussian():
    mu, sigma = 0.3, 1.7
    y = normal(1, 4, 4, seed=3)
    x = mu + sigma * normal(40000, 1, 4, 4, seed=1)
    z = (y - mu) / sigma
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    closed = sigma * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    assert float(crps(x, y)) == pytest.approx(float(closed.mean()), abs=5e-3)


def test_fair_crps_does_not_depend_on_the_number_of_members():
    y = normal(20000, 1, 1, 1, seed=3)
    score = [float(crps(normal(m, 20000, 1, 1, 1, seed=m), y).mean()) for m in (2, 20)]
    exact = 1 / math.sqrt(math.pi)  # E|X - Y| / 2 of unit Gaussians
    assert score == pytest.approx([exact, exact], abs=0.02)
    standard = float(crps(normal(2, 20000, 1, 1, 1, seed=2), y, kind="standard").mean())
    assert standard == pytest.approx(1.5 * exact, abs=0.02)  # larger by spread / (2 M)


@pytest.mark.parametrize("kind", ["fair", "standard"])
def test_one_member(kind):
    x, y, w = normal(1, 3, 2, 6, 8, seed=1), normal(3, 2, 6, 8, seed=2), uneven(8)
    torch.testing.assert_close(crps(x, y, w, kind=kind), mae(x[0], y, w))
    torch.testing.assert_close(energy_score(x, y, w, kind=kind), rmse(x[0], y, w))
    torch.testing.assert_close(ensemble_mean_mse(x, y, w).sqrt(), rmse(x[0], y, w))
    for score in (ensemble_variance, spread_skill):
        with pytest.raises(InputError, match="at least 2 members; found 1"):
            score(x, y)


def test_equal_members():
    y = normal(2, 6, 8)
    x = torch.full((3, 2, 6, 8), 0.1, dtype=torch.float64)
    assert (ensemble_variance(x, y) == 0).all()
    assert (spread_skill(x, y) == 0).all()
    for kind in ("fair", "standard"):
        torch.testing.assert_close(crps(x, y, kind=kind), mae(x[0], y))
        torch.testing.assert_close(energy_score(x, y, kind=kind), rmse(x[0], y))


def test_variance_and_mse():
    x, y, w = normal(5, 3, 2, 6, 8, seed=1), normal(3, 2, 6, 8, seed=2), uneven(8)
    torch.testing.assert_close(ensemble_variance(x, y, w), (x.var(0) * w).mean((-2, -1)))
    torch.testing.assert_close(ensemble_mean_mse(x, y, w), ((x.mean(0) - y).square() * w).mean((-2, -1)))


@pytest.mark.parametrize("members", [2, 5, 30])
def test_spread_skill_of_a_perfect_ensemble_is_one(members):
    scale = torch.tensor([1.0, 20.0]).reshape(2, 1, 1)
    x, y = scale * normal(members, 200, 2, 8, 8, seed=1), scale * normal(200, 2, 8, 8, seed=2)
    torch.testing.assert_close(spread_skill(x, y), torch.ones(2, dtype=torch.float64), rtol=0, atol=0.03)


def test_spread_skill_means_come_before_roots():
    x, y = normal(4, 3, 5, 2, 6, 6, seed=1), normal(3, 5, 2, 6, 6, seed=2)
    variance, mse = ensemble_variance(x, y), ensemble_mean_mse(x, y)
    factor = math.sqrt(5 / 4)
    torch.testing.assert_close(spread_skill(x, y), factor * (variance.mean((0, 1)) / mse.mean((0, 1))).sqrt())
    torch.testing.assert_close(spread_skill(x, y, over=(0,)), factor * (variance.mean(0) / mse.mean(0)).sqrt())
    torch.testing.assert_close(spread_skill(x, y, over=()), factor * (variance / mse).sqrt())
    assert spread_skill(x[:, 0, 0], y[0, 0]).shape == (2,)
    with pytest.raises(ValueError, match="leading axes"):
        spread_skill(x, y, over=(2,))
    with pytest.raises(ValueError, match="leading axes"):
        spread_skill(x, y, over=(-1,))


def test_rank_histogram():
    y = torch.tensor([0.5, 1.5, -1.0, 9.0]).reshape(1, 2, 2)
    x = torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert rank_histogram(x, y)[0].tolist() == [0.25, 0.25, 0.25, 0.25]
    tied = torch.ones(1, 2, 2)
    assert rank_histogram(x, tied)[0].tolist() == [0.0, 0.5, 0.5, 0.0]
    third = rank_histogram(tied[None].expand(2, 1, 2, 2), tied)[0]
    torch.testing.assert_close(third, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=1e-15, atol=0)
    flat = rank_histogram(normal(4, 50, 2, 8, 8, seed=1), normal(50, 2, 8, 8, seed=2))
    assert flat.shape == (50, 2, 5)
    torch.testing.assert_close(flat.mean((0, 1)), torch.full((5,), 0.2, dtype=torch.float64), rtol=0, atol=0.02)
    weighted = rank_histogram(x, y, torch.tensor([0.5, 1.5]))
    assert weighted[0].tolist() == [0.125, 0.125, 0.375, 0.375]


@pytest.mark.parametrize("score", [*SCORES, rank_histogram])
def test_nan_stays_in_its_field(score):
    x, y = normal(3, 2, 2, 4, 4, seed=1), normal(2, 2, 4, 4, seed=2)
    x[2, 1, 0, 0, 0] = math.nan
    found = torch.isnan(score(x, y)).reshape(2, 2, -1).any(-1)
    assert found.tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("score", [*SCORES, spread_skill, rank_histogram])
def test_shape_errors_show_both(score):
    with pytest.raises(ValueError, match=r"\(5, 2, 8, 8\) and \(2, 8, 9\)"):
        score(torch.zeros(5, 2, 8, 8), torch.zeros(2, 8, 9))
    with pytest.raises(ValueError, match=r"forecast\[None\]"):
        score(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="M >= 1"):
        score(torch.zeros(0, 2, 8, 8), torch.zeros(2, 8, 8))


@pytest.mark.parametrize("score", [crps, energy_score])
def test_unknown_kind(score):
    with pytest.raises(InputError, match="'fair' or 'standard'; found 'pwm'"):
        score(torch.zeros(2, 1, 4, 4), torch.zeros(1, 4, 4), kind="pwm")


def test_float32_input_is_accumulated_in_float64():
    x = normal(6, 1, 64, 64, seed=1, dtype=torch.float32) + 1e4
    y = normal(1, 64, 64, seed=2, dtype=torch.float32) + 1e4
    for score in SCORES:
        assert torch.equal(score(x, y), score(x.double(), y.double()))
    torch.testing.assert_close(crps(x, y), crps(x.double() - 1e4, y.double() - 1e4), rtol=1e-12, atol=0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    factor=st.floats(1e-3, 1e3),
    offset=st.floats(-100, 100),
    kind=st.sampled_from(["fair", "standard"]),
)
def test_crps_is_homogeneous_and_exchangeable(seed, factor, offset, kind):
    x, y = normal(5, 1, 4, 6, seed=seed), normal(1, 4, 6, seed=seed + 1)
    expected = factor * crps(x, y, kind=kind)
    torch.testing.assert_close(crps(factor * x + offset, factor * y + offset, kind=kind), expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(crps(x.flip(0), y, kind=kind), crps(x, y, kind=kind), rtol=1e-13, atol=0)
    torch.testing.assert_close(crps(x.roll(2, -1), y.roll(2, -1), kind=kind), crps(x, y, kind=kind), rtol=1e-12, atol=0)


def test_reliability_brute_force():
    x, y, w = normal(3, 5, 2, 3, 4, seed=1), normal(5, 2, 3, 4, seed=2), uneven(4)
    found = reliability(x, y, w, threshold=0.2, bins=4)
    for c in range(2):
        rows = [
            (sum(float(x[m, n, c, i, j]) > 0.2 for m in range(3)), float(y[n, c, i, j]) > 0.2, float(w[j]))
            for n in range(5) for i in range(3) for j in range(4)
        ]  # fmt: skip
        for b in range(4):  # M + 1 bins: one for each count
            inside = [(event, weight) for count, event, weight in rows if count == b]
            total = sum(weight for _, weight in inside)
            assert float(found.share[c, b]) == pytest.approx(total / 60, rel=1e-12)
            assert float(found.forecast[c, b]) == pytest.approx(b / 3, rel=1e-12)
            assert float(found.observed[c, b]) == pytest.approx(sum(e * q for e, q in inside) / total, rel=1e-12)


def test_reliability_of_known_probabilities():
    p = torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = torch.rand(101, *p.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, y = (draw[1:] < p).double(), (draw[0] < p).double()
    found = reliability(x, y, threshold=0.5)
    assert found.observed.shape == (1, 10) and found.edges.tolist() == pytest.approx(np.linspace(0, 1, 11))
    torch.testing.assert_close(found.share.sum(-1), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(found.observed, found.forecast, rtol=0, atol=0.04)
    certain = reliability(y[None], y, threshold=0.5)
    assert certain.observed[0, [0, -1]].tolist() == [0, 1] and certain.observed[0, 1:-1].isnan().all()
    assert (certain.share[0, 1:-1] == 0).all()


def test_reliability_axes_and_borders():
    x, y = normal(4, 3, 5, 2, 4, 4, seed=1), normal(3, 5, 2, 4, 4, seed=2)
    assert reliability(x, y, threshold=0.0, over=()).observed.shape == (3, 5, 2, 10)
    assert reliability(x, y, threshold=torch.zeros(2, 1, 1), over=(1,)).share.shape == (3, 2, 10)
    x[0, 1, 2, 1, 0, 0] = math.nan
    lost = reliability(x, y, threshold=0.0, over=()).share.isnan().any(-1)
    assert lost[1, 2, 1] and lost.sum() == 1
    with pytest.raises(InputError, match="at least one bin"):
        reliability(x, y, threshold=0.0, bins=0)
    with pytest.raises(InputError, match="leading axes"):
        reliability(x, y, threshold=0.0, over=(2,))
