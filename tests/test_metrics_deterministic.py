"""Pointwise scores: closed forms, grid weights, invariances, correlation times, names."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics import DIAGNOSTICS, METRICS, VERSION, definitions, metric, space
from physinterp.metrics.deterministic import acc, bias, correlation_time, linf, mae, nmae, nrmse, pearson, rmse, vrmse
from physinterp.metrics.space import anomaly, grid_weights, space_mean

SCORES = [rmse, nrmse, vrmse, mae, nmae, linf, bias, pearson]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def chebyshev(n: int) -> tuple[Tensor, Tensor]:
    """Chebyshev-Gauss nodes on [0, 1] and Fejer's quadrature weights of mean 1."""
    angle = math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    weights = torch.ones(n, dtype=torch.float64)
    for j in range(1, n // 2 + 1):
        weights -= 2 * torch.cos(2 * j * angle) / (4 * j**2 - 1)
    return 0.5 - 0.5 * torch.cos(angle), weights / weights.mean()


@pytest.mark.parametrize("leading", [(), (3,), (2, 5)])
@pytest.mark.parametrize("score", SCORES)
def test_reduces_space_alone(score, leading):
    u, v = normal(*leading, 4, 8, 6, seed=1), normal(*leading, 4, 8, 6, seed=2)
    whole = score(u, v)
    assert whole.shape == (*leading, 4)
    assert whole.dtype == torch.float64
    for index in np.ndindex(*leading):  # batch = loop
        torch.testing.assert_close(whole[index], score(u[index], v[index]), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("space", [1, 3])
@pytest.mark.parametrize("score", SCORES)
def test_other_numbers_of_space_axes(score, space):
    u, v = normal(2, 4, 12, seed=1), normal(2, 4, 12, seed=2)
    shape = (12,) if space == 1 else (3, 2, 2)
    assert torch.allclose(
        score(u.reshape(2, 4, *shape), v.reshape(2, 4, *shape), space=space),
        score(u.reshape(2, 4, 3, 4), v.reshape(2, 4, 3, 4)),
    )


def test_closed_forms():
    v = normal(2, 3, 8, 8) + 5
    error = torch.tensor([1.0, -2.0]).repeat(32).reshape(8, 8)
    u = v + error
    assert torch.allclose(rmse(u, v), torch.tensor(2.5, dtype=torch.float64).sqrt())
    assert torch.allclose(mae(u, v), torch.tensor(1.5, dtype=torch.float64))
    assert torch.allclose(nmae(u, v), 1.5 / v.abs().mean((-2, -1)))
    assert torch.allclose(bias(u, v), torch.tensor(-0.5, dtype=torch.float64))
    assert torch.allclose(nrmse(u, v) ** 2, 2.5 / v.square().mean((-2, -1)))
    assert torch.allclose(vrmse(u, v) ** 2, 2.5 / v.var((-2, -1)))


@pytest.mark.parametrize("score", [rmse, nrmse, vrmse, mae, nmae, bias, linf])
def test_equal_fields_score_zero(score):
    v = normal(2, 3, 8, 8)
    assert (score(v, v) == 0).all()


def test_vrmse_of_the_spatial_mean():
    v = normal(5, 2, 8, 4) + 100
    mean = v.mean((-2, -1), keepdim=True).expand_as(v)
    torch.testing.assert_close(vrmse(mean, v), torch.full((5, 2), math.sqrt(31 / 32), dtype=torch.float64))


def test_vrmse_of_the_weighted_mean():
    v, (_, w) = normal(5, 2, 8, 16), chebyshev(16)
    mean = (v * w).mean((-2, -1), keepdim=True).expand_as(v)
    torch.testing.assert_close(vrmse(mean, v, w), torch.full((5, 2), math.sqrt(127 / 128), dtype=torch.float64))


def test_weighted_brute_force():
    u, v, (_, w) = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2), chebyshev(4)
    for c in range(2):
        points = [(float(u[c, i, j]), float(v[c, i, j]), float(w[j])) for i in range(3) for j in range(4)]
        total = sum(q for *_, q in points)
        mse = sum(q * (a - b) ** 2 for a, b, q in points) / total
        a_mean, b_mean = (sum(q * p[k] for p in points for q in [p[2]]) / total for k in (0, 1))
        a_var = sum(q * (a - a_mean) ** 2 for a, _, q in points) / total
        b_var = sum(q * (b - b_mean) ** 2 for _, b, q in points) / total
        cov = sum(q * (a - a_mean) * (b - b_mean) for a, b, q in points) / total
        assert float(rmse(u, v, w)[c]) == pytest.approx(math.sqrt(mse), rel=1e-12)
        assert float(vrmse(u, v, w)[c]) == pytest.approx(math.sqrt(mse / (b_var * 12 / 11)), rel=1e-12)
        assert float(pearson(u, v, w)[c]) == pytest.approx(cov / math.sqrt(a_var * b_var), rel=1e-12)


def test_chebyshev_weights_integrate():
    y, w = chebyshev(16)
    field = (y**6).expand(1, 8, 16)
    zero = torch.zeros_like(field)
    assert float(bias(field, zero, w)) == pytest.approx(1 / 7, rel=1e-12)
    assert float(rmse(field, zero, w)) == pytest.approx(math.sqrt(1 / 13), rel=1e-12)
    assert float(bias(field, zero)) > 1.2 / 7  # the plain mean over-weights the walls


def test_uniform_weights_change_nothing():
    u, v = normal(3, 2, 8, 8, seed=1), normal(3, 2, 8, 8, seed=2)
    for score in SCORES:
        for weights in (torch.ones(8), np.ones((8, 1)), torch.ones(8, 8)):
            torch.testing.assert_close(score(u, v, weights), score(u, v), rtol=1e-14, atol=1e-14)


def test_float32_input_is_accumulated_in_float64():
    v = normal(1, 512, 512, dtype=torch.float32) + 1e4
    u = v + 0.125  # exact in float32 here
    assert float(bias(u, v)) == 0.125
    torch.testing.assert_close(vrmse(u, v), vrmse(u.double(), v.double()), rtol=0, atol=0)
    exact = v.double().var()
    assert float(vrmse(u, v)) == pytest.approx(float(0.125 / exact.sqrt()), rel=1e-12)


def test_constant_fields():
    constant = torch.full((1, 7, 7), 0.1, dtype=torch.float64)  # 0.1 is not exact: its mean rounds
    other = normal(1, 7, 7)
    assert torch.isinf(vrmse(other, constant)).all()
    assert torch.isnan(vrmse(constant, constant)).all()
    assert torch.isfinite(vrmse(other, constant, eps=1e-3)).all()
    assert torch.isnan(pearson(other, constant)).all()
    assert torch.isnan(pearson(constant, other)).all()
    assert torch.isinf(nrmse(other, torch.zeros_like(other))).all()
    assert torch.isnan(vrmse(other[:, :1, :1], other[:, 1:2, :1])).all()  # one point has no variance
    _, w = chebyshev(7)
    assert (anomaly(constant, w) == 0).all()


@pytest.mark.parametrize("score", SCORES)
def test_nan_stays_in_its_field(score):
    u, v = normal(2, 3, 4, 4, seed=1), normal(2, 3, 4, 4, seed=2)
    u[1, 2, 0, 0] = math.nan
    found = torch.isnan(score(u, v))
    assert found[1, 2]
    assert found.sum() == 1


def test_pearson():
    v = normal(3, 2, 8, 8)
    torch.testing.assert_close(pearson(3 * v - 7, v), torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(pearson(-v, v), -torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(pearson(1e-9 * v, v), torch.ones(3, 2, dtype=torch.float64))
    u = normal(3, 2, 8, 8, seed=5)
    expected = np.corrcoef(u[1, 1].flatten(), v[1, 1].flatten())[0, 1]
    assert float(pearson(u, v)[1, 1]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_shape_error_shows_both(score):
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) and \(2, 3, 8, 9\)"):
        score(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9))


def test_border_errors():
    x = torch.zeros(3, 8, 8)
    with pytest.raises(ValueError, match="channel axis"):
        rmse(x[0], x[0])
    with pytest.raises(ValueError, match="do not broadcast"):
        rmse(x, x, torch.ones(5))
    with pytest.raises(ValueError, match="do not broadcast"):
        rmse(x, x, torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match="mean 1"):
        rmse(x, x, 2 * torch.ones(8))
    with pytest.raises(ValueError, match="mean 1"):
        rmse(x, x, torch.full((8,), math.nan))


def test_space_mean_over_some_axes():
    x, (_, w) = normal(2, 8, 16), chebyshev(16)
    torch.testing.assert_close(space_mean(x, w, axes=(-1,)), (x * w).mean(-1))
    assert torch.equal(space_mean(x, axes=()), x)
    assert grid_weights(np.ones(16, dtype=np.float32), (8, 16)).dtype == torch.float64


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    factor=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1.0, 1.0]),
    offset=st.floats(-10, 10),
    weighted=st.booleans(),
)
def test_scale_and_offset(seed, factor, sign, offset, weighted):
    u, v = normal(2, 6, 8, seed=seed), normal(2, 6, 8, seed=seed + 1)
    w = chebyshev(8)[1] if weighted else None
    a = sign * factor
    for score in (vrmse, pearson):  # invariant under one affine map of both
        torch.testing.assert_close(score(a * (u + offset), a * (v + offset), w), score(u, v, w), rtol=1e-9, atol=1e-9)
    for score in (rmse, mae):  # homogeneous
        torch.testing.assert_close(score(a * u, a * v, w), factor * score(u, v, w), rtol=1e-10, atol=0)
    torch.testing.assert_close(bias(u + offset, v, w), bias(u, v, w) + offset)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.tuples(st.integers(-7, 7), st.integers(-7, 7)))
def test_translation_changes_nothing(seed, shift):
    u, v = normal(2, 6, 8, seed=seed), normal(2, 6, 8, seed=seed + 1)
    for score in SCORES:
        moved = [x.roll(shift, dims=(-2, -1)) for x in (u, v)]
        torch.testing.assert_close(score(*moved), score(u, v), rtol=1e-10, atol=1e-10)


def test_linf():
    u, v = normal(2, 3, 6, 8, seed=1), normal(2, 3, 6, 8, seed=2)
    assert float(linf(u, v)[1, 2]) == max(abs(float(u[1, 2, i, j] - v[1, 2, i, j])) for i in range(6) for j in range(8))


@pytest.mark.parametrize("centred", [False, True])
def test_acc_brute_force(centred):
    u, v, c, (_, w) = normal(5, 2, 3, 4, seed=1), normal(5, 2, 3, 4, seed=2), normal(2, 3, 4, seed=3), chebyshev(4)
    found = acc(u, v, w, climatology=c, centred=centred)
    q = w.numpy() / 12
    for n, k in np.ndindex(5, 2):
        a, b = ((x[n, k] - c[k]).numpy() for x in (u, v))
        if centred:
            a, b = a - (q * a).sum(), b - (q * b).sum()
        expected = (q * a * b).sum() / math.sqrt((q * a * a).sum() * (q * b * b).sum())
        assert float(found[n, k]) == pytest.approx(expected, rel=1e-12)


def test_acc_is_of_anomalies():
    u, v, c = normal(5, 2, 6, 8, seed=1), normal(5, 2, 6, 8, seed=2), 100 * normal(2, 6, 8, seed=3)
    torch.testing.assert_close(acc(u + c, v + c, climatology=c), acc(u, v, climatology=0.0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(acc(u, v, climatology=7.0, centred=True), pearson(u, v))
    assert (acc(u + c, v + c, climatology=c) - acc(u + c, v + c, climatology=c, centred=True)).abs().max() > 1e-3
    assert acc(c.expand(5, 2, 6, 8), v + c, climatology=c).isnan().all()  # climatology has no anomaly
    with pytest.raises(InputError, match=r"\(5, 2, 6, 8\); found \(3, 2, 6, 8\)"):
        acc(u, v, climatology=torch.zeros(3, 2, 6, 8))
    with pytest.raises(InputError, match="climatology must broadcast"):
        acc(u, v, climatology=torch.zeros(1, 5, 2, 6, 8))


def rollout(correlations: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Forecast and truth (T, 1, 16, 16) of given correlations, exactly."""
    v, z = normal(len(correlations), 1, 16, 16, seed=seed), normal(len(correlations), 1, 16, 16, seed=seed + 1)
    v, z = (x - x.mean((-2, -1), keepdim=True) for x in (v, z))
    z = z - v * (z * v).mean((-2, -1), keepdim=True) / v.square().mean((-2, -1), keepdim=True)
    v, z = (x / x.square().mean((-2, -1), keepdim=True).sqrt() for x in (v, z))
    r = torch.tensor(correlations, dtype=torch.float64).reshape(-1, 1, 1, 1)
    return r * v + (1 - r**2).sqrt() * z, v


@pytest.mark.parametrize(
    ("correlations", "time", "censored"),
    [
        ([0.95, 0.85, 0.75, 0.2], 2.5, False),
        ([0.6, 0.5, 0.4, 0.3], 0.5, False),  # between the initial state, r = 1, and the first step
        ([0.9, 0.9, 0.9, 0.9], 4, True),
        ([0.9, 0.7, 0.95, 0.9], 1.5, False),  # a recovery does not count
        ([0.9, 0.9, 0.9, -0.1], 3.1, False),
    ],
)
def test_correlation_time(correlations, time, censored):
    u, v = rollout(correlations)
    found = correlation_time(u, v, dt=0.25)
    assert float(found.time) == pytest.approx(0.25 * time, rel=1e-9)
    assert found.censored.tolist() == [censored]


def test_correlation_time_per_sample_and_field():
    parts = [rollout([0.95, 0.85, 0.75]), rollout([0.6, 0.5, 0.4]), rollout([0.9, 0.9, 0.9])]
    u, v = (torch.stack([p[k] for p in parts]).expand(3, 3, 2, 16, 16) for k in (0, 1))
    found = correlation_time(u, v)
    assert found.time.shape == found.censored.shape == (3, 2)
    torch.testing.assert_close(found.time[:, 0], torch.tensor([2.5, 0.5, 3.0], dtype=torch.float64))
    assert found.censored[:, 1].tolist() == [False, False, True]
    earlier = correlation_time(u, v, threshold=0.92).time[:, 0]
    torch.testing.assert_close(earlier, torch.tensor([1.3, 0.2, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_rollout_that_blows_up_is_decorrelated(bad):
    u, v = rollout([0.9, 0.9, 0.9, 0.9])
    u[2:] = bad
    found = correlation_time(u, v)
    assert float(found.time) == pytest.approx(2 + 0.1 / 0.9) and not found.censored.any()
    u[0, 0, 3, 3] = math.nan
    assert float(correlation_time(u, v).time) == pytest.approx(0.2)


def test_correlation_time_of_an_unusable_truth():
    u, v = rollout([0.9, 0.9, 0.5, 0.9])
    v[1] = 1.0
    assert correlation_time(u, v).time.isnan().all()
    u[0] = math.nan
    assert float(correlation_time(u, v).time) == pytest.approx(0.2)  # it had ended before
    with pytest.raises(InputError, match="time axis"):
        correlation_time(u[0], v[0])
    with pytest.raises(InputError, match="threshold must be between 0 and 1"):
        correlation_time(u, v, threshold=1.0)
    with pytest.raises(InputError, match="dt positive"):
        correlation_time(u, v, dt=0.0)
    with pytest.raises(InputError, match=r"\(4, 1, 16, 16\) and \(3, 1, 16, 16\)"):
        correlation_time(u, v[1:])


def test_names_and_definitions():
    assert not set(METRICS) & set(DIAGNOSTICS)
    assert set(definitions()) == set(METRICS) | set(DIAGNOSTICS)
    assert all(name == function.__name__ for name, function in {**METRICS, **DIAGNOSTICS}.items())
    assert all(text.endswith(".") and "\n" not in text for text in definitions().values())
    assert VERSION == "1"


def test_an_unknown_name_gets_the_near_ones():
    assert metric("vrmse") is vrmse
    with pytest.raises(InputError, match="no metric 'vmrse': did you mean 'vrmse'"):
        metric("vmrse")


@pytest.mark.parametrize("name", METRICS)
def test_blocks_and_repeated_truth_change_nothing(name, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 4, 2, 6, 8, generator=generator)
    u = v + 0.3 * torch.randn(5, *v.shape, generator=generator)
    of_ensemble = name in (
        "crps", "energy_score", "ensemble_variance", "ensemble_mean_mse", "spread_skill", "rank_histogram", "reliability"
    )  # fmt: skip
    options = {"acc": {"climatology": v.mean(0)}, "reliability": {"threshold": 0.1}}.get(name, {})
    each = v.expand_as(u)
    whole = METRICS[name](u, v if of_ensemble else each.clone(), **options)
    monkeypatch.setattr(space, "BLOCK", 150)
    cut = METRICS[name](u, v if of_ensemble else each, **options)
    whole, cut = (vars(x) if name == "reliability" else x for x in (whole, cut))
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=0, equal_nan=True)
