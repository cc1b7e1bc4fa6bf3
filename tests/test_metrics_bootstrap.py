"""Intervals: coverage of independent, blocked and autocorrelated rows, pairs, borders."""

from __future__ import annotations

import numpy as np
import pytest

from physinterp.metrics import block_bootstrap, bootstrap, mean, paired_bootstrap, ratio_of_sqrt_means


def covered(draw, truth: float, repeats: int = 400, **options) -> float:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(repeats):
        low, high = block_bootstrap(draw(rng), samples=400, **options)
        inside += bool(low <= truth <= high)
    return inside / repeats


@pytest.mark.parametrize("number", [5, 10, 40])
def test_coverage_of_independent_rows(number):
    assert 0.90 <= covered(lambda rng: rng.normal(2.0, 3.0, number), 2.0) <= 0.98


@pytest.mark.parametrize("blocks", [5, 20])
def test_coverage_of_blocked_rows(blocks):
    labels = np.repeat(np.arange(blocks), 8)

    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.repeat(rng.normal(size=blocks), 8) + 0.3 * rng.normal(size=8 * blocks)

    assert 0.90 <= covered(draw, 0.0, blocks=labels) <= 0.98
    assert covered(draw, 0.0) < 0.7  # single rows pretend to be independent


def autoregressive(rng: np.random.Generator, size: tuple[int, ...], phi: float = 0.8) -> np.ndarray:
    """AR(1) series along the last axis, of mean 0 and variance 1, started in its own law."""
    noise = rng.normal(size=size) * np.sqrt(1 - phi**2)
    noise[..., 0] /= np.sqrt(1 - phi**2)
    for t in range(1, size[-1]):
        noise[..., t] += phi * noise[..., t - 1]
    return noise


def test_coverage_of_an_autocorrelated_series():
    labels = np.arange(400) // 40  # blocks of 40 steps, 9 decorrelation times of (1 + phi) / (1 - phi) / 2
    assert 0.90 <= covered(lambda rng: autoregressive(rng, (400,)), 0.0, blocks=labels) <= 0.98
    assert covered(lambda rng: autoregressive(rng, (400,)), 0.0, repeats=60) < 0.7  # single steps pretend to be independent


def test_coverage_of_autocorrelated_trajectories():
    labels = np.repeat(np.arange(16), 10)
    assert 0.90 <= covered(lambda rng: autoregressive(rng, (16, 10)).ravel(), 0.0, blocks=labels) <= 0.98


def test_coverage_of_a_paired_difference():
    rng = np.random.default_rng(2)
    labels, inside = np.repeat(np.arange(16), 10), 0
    for _ in range(400):
        hard = 3 * autoregressive(rng, (16, 10)).ravel()
        low, high = paired_bootstrap(
            hard + 0.2 + 0.3 * autoregressive(rng, (16, 10)).ravel(), hard, blocks=labels, samples=400
        )
        inside += bool(low <= 0.2 <= high)
    assert 0.90 <= inside / 400 <= 0.98


def test_coverage_of_a_ratio():
    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.stack([rng.gamma(4.0, 1.0, 20), rng.gamma(4.0, 4.0, 20)], axis=-1)

    assert 0.90 <= covered(draw, 0.5, statistic=ratio_of_sqrt_means) <= 0.98


def test_vectorised_statistics_equal_the_loop():
    rng = np.random.default_rng(0)
    rows, labels = rng.gamma(2.0, size=(30, 3, 2)), rng.choice(list("abcdef"), 30)
    for statistic in (mean, ratio_of_sqrt_means):
        fast = block_bootstrap(rows, statistic, labels, samples=100, seed=3)
        slow = block_bootstrap(rows, lambda x, f=statistic: f(x), labels, samples=100, seed=3)
        np.testing.assert_allclose(fast, slow, rtol=1e-12)
    assert fast[0].shape == (3,)
    median = block_bootstrap(rows, lambda x: np.median(x, axis=0), labels, samples=100)
    assert (median[0] < median[1]).all()


def test_paired_interval_is_shorter():
    rng = np.random.default_rng(0)
    hard = 5 * rng.normal(size=60)
    a, b = hard + 0.3 + 0.1 * rng.normal(size=60), hard + 0.1 * rng.normal(size=60)
    low, high = paired_bootstrap(a, b)
    assert 0.2 < low < 0.3 < high < 0.4
    apart = [block_bootstrap(x) for x in (a, b)]
    assert apart[0][0] < apart[1][1]  # apart, the intervals overlap
    np.testing.assert_allclose(paired_bootstrap(b, a), (-high, -low), rtol=1e-9)
    assert paired_bootstrap(a, a) == (0.0, 0.0)


def test_bootstrap_is_reproducible_and_widens_with_the_level():
    rows = np.random.default_rng(0).normal(size=25)
    assert block_bootstrap(rows, seed=4) == block_bootstrap(rows, seed=4)
    assert block_bootstrap(rows, seed=4) != block_bootstrap(rows, seed=5)
    assert block_bootstrap(rows, level=0.99)[0] < block_bootstrap(rows, level=0.8)[0]


def test_percentiles_are_expanded():
    replicates = np.arange(10001.0)
    low, high = bootstrap._interval(replicates, np.arange(10), 0.95)
    assert low == pytest.approx(85.5, abs=1)  # Phi(-2.262 sqrt(10 / 9)) = 0.00855, not 0.025
    assert high == pytest.approx(10000 - low)


def test_bootstrap_borders():
    rows = np.arange(12.0).reshape(6, 2)
    for low_high in (block_bootstrap(rows, blocks=["a"] * 6), paired_bootstrap(rows, rows, blocks=["a"] * 6)):
        assert np.isnan(low_high).all()
        assert low_high[0].shape == (2,)
    assert np.isnan(block_bootstrap([1.0])).all()
    assert block_bootstrap([1.0, 4.0, 2.0]) == (1.0, 4.0)  # few blocks: no wider than their range
    rows[0, 0] = np.nan
    assert np.isnan(block_bootstrap(rows)[0]).tolist() == [True, False]
    with pytest.raises(ValueError, match="one label per row"):
        block_bootstrap(rows, blocks=[1, 2])
    with pytest.raises(ValueError, match="at least one row"):
        block_bootstrap([])
    with pytest.raises(ValueError, match="level"):
        block_bootstrap(rows, level=95)
    with pytest.raises(ValueError, match=r"\(6, 2\) and \(5, 2\)"):
        paired_bootstrap(rows, rows[1:])
