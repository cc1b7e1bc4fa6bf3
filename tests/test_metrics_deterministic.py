"""Pointwise scores: closed forms, grid weights, invariances, agreement with The Well."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from physinterp.metrics import METRICS, VERSION, definitions
from physinterp.metrics.deterministic import bias, mae, nrmse, pearson, rmse, vrmse, vrmse_pooled
from physinterp.metrics.space import anomaly, grid_weights, space_mean

SCORES = [rmse, nrmse, vrmse, mae, bias, pearson]


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
    assert torch.allclose(bias(u, v), torch.tensor(-0.5, dtype=torch.float64))
    assert torch.allclose(nrmse(u, v) ** 2, 2.5 / v.square().mean((-2, -1)))
    assert torch.allclose(vrmse(u, v) ** 2, 2.5 / v.var((-2, -1)))


@pytest.mark.parametrize("score", [rmse, nrmse, vrmse, mae, bias, vrmse_pooled])
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


def test_vrmse_agrees_with_the_well():
    spatial = pytest.importorskip("the_well.benchmark.metrics.spatial")
    scale = torch.tensor([1.0, 0.5, 5.0, 30.0]).reshape(4, 1, 1)
    v = scale * (normal(2, 3, 4, 32, 16, dtype=torch.float32) + 2)
    u = v + 0.3 * scale * normal(2, 3, 4, 32, 16, seed=1, dtype=torch.float32)
    last = [x.double().movedim(-3, -1) for x in (u, v)]
    meta = SimpleNamespace(n_spatial_dims=2)
    torch.testing.assert_close(vrmse(u, v), spatial.VRMSE.eval(*last, meta), rtol=1e-6, atol=0)
    torch.testing.assert_close(nrmse(u, v), spatial.NRMSE.eval(*last, meta), rtol=1e-6, atol=0)
    torch.testing.assert_close(vrmse(u, v, eps=1e-7), spatial.VRMSE.eval(*last, meta), rtol=1e-12, atol=0)


def test_vrmse_pooled():
    scale = torch.tensor([1.0, 0.02, 5.0, 30.0]).reshape(4, 1, 1)
    v = scale * (normal(2, 4, 16, 16) + 3)
    u = v + 0.4 * scale * normal(2, 4, 16, 16, seed=1)
    pooled = vrmse_pooled(u, v)
    assert pooled.shape == ()
    expected = math.sqrt(np.mean((u - v).numpy() ** 2) / (np.var(v.numpy(), ddof=1) + 1e-6))
    assert float(pooled) == pytest.approx(expected, rel=1e-12)
    assert float(pooled) < 0.6 * float(vrmse(u, v).mean())  # the variance between fields is in the denominator
    with pytest.raises(ValueError, match="unweighted"):
        vrmse_pooled(u, v, torch.ones(16))


@pytest.mark.parametrize("score", [*SCORES, vrmse_pooled])
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


def test_names_and_definitions():
    assert set(definitions()) == set(METRICS)
    assert all(name == function.__name__ for name, function in METRICS.items())
    assert all(text.endswith(".") and "\n" not in text for text in definitions().values())
    assert VERSION == "1"
