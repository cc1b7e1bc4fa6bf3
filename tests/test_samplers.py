"""Samplers with exact drifts and denoisers of a Gaussian: moments propagated exactly, orders, costs."""

from __future__ import annotations

import math

import pytest
import torch
from exact import Counted, Scalar, full, gaussian_drift, moments, si_drift, slope

from physinterp.errors import InputError
from physinterp.interpolant import LinearInterpolant
from physinterp.samplers import SAMPLERS, DriftEuler, EulerMaruyama
from physinterp.types import Conditioning

CASES = [(0.0, 1.0, 1.0, 1.0), (-2.0, 0.7, 0.04, 0.9), (1.3, -3.0, 16.0, 0.5)]  # x0, mu, C, sigma
each_case = pytest.mark.parametrize(("x0", "mu", "c", "sigma"), CASES)

# variance of si-em over C against r = C / sigma^2, steps 1, 2, 5, 10, 50 (theory.md, "Variance of samplers")
TABLE = {
    0.01: (100, 12.6, 1.16, 0.77, 0.94),
    0.1: (10, 1.81, 1.09, 1.03, 1.00),
    0.5: (2, 1.25, 1.08, 1.04, 1.01),
    1: (1, 1.014, 0.997, 0.997, 0.999),
    2: (0.5, 0.70, 0.86, 0.93, 0.985),
    10: (0.10, 0.19, 0.41, 0.60, 0.90),
    50: (0.02, 0.04, 0.11, 0.22, 0.62),
}


def no_noise(k: int) -> torch.Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@each_case
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_si_e_is_the_conditional_mean_without_spread(x0, mu, c, sigma, steps):
    sampler, drift = DriftEuler(steps, LinearInterpolant(sigma)), si_drift(mu, c, sigma)
    assert float(sampler(drift, full(x0), noise=no_noise)) == pytest.approx(mu, abs=1e-12)
    mean, variance = moments(sampler, drift, x0)
    assert mean == pytest.approx(mu, abs=1e-12) and variance == 0


@each_case
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_si_em_has_the_exact_mean(x0, mu, c, sigma, steps):
    mean, _ = moments(EulerMaruyama(steps, LinearInterpolant(sigma)), si_drift(mu, c, sigma), x0)
    assert mean == pytest.approx(mu, abs=1e-11)


@pytest.mark.parametrize(("r", "expected"), TABLE.items())
def test_si_em_variance_against_the_table(r, expected):
    sigma = 0.8
    for steps, value in zip((1, 2, 5, 10, 50), expected, strict=True):
        _, variance = moments(EulerMaruyama(steps, LinearInterpolant(sigma)), si_drift(0.4, r * sigma**2, sigma), -1.0)
        digit = 10 ** -len(str(value).partition(".")[2])
        assert variance / (r * sigma**2) == pytest.approx(value, abs=0.55 * digit), (r, steps)


@pytest.mark.parametrize("r", [0.01, 0.3, 1.0, 7.0])
def test_si_em_variance_of_two_steps_in_closed_form(r):
    _, variance = moments(EulerMaruyama(2), si_drift(0.0, r, 1.0), 0.0)
    assert variance / r == pytest.approx((16 * r**2 / (2 * r + 1) ** 2 / 2 + 1 / 8) / r, rel=1e-12)


@each_case
def test_si_em_converges_with_its_order(x0, mu, c, sigma):
    steps = [200, 400, 800]
    errors = [moments(EulerMaruyama(n, LinearInterpolant(sigma)), si_drift(mu, c, sigma), x0)[1] / c - 1 for n in steps]
    assert abs(errors[-1]) < 0.06
    assert slope(errors, steps) == pytest.approx(EulerMaruyama.order, abs=0.15)


def test_si_em_samples_have_the_moments_of_the_recursion():
    """The loop with real draws: mean and variance within five standard errors of the recursion."""
    x0, mu, c, sigma, n = -1.0, 0.5, 0.3, 0.6, 40_000
    sampler, generator = EulerMaruyama(3, LinearInterpolant(sigma)), torch.Generator().manual_seed(0)
    draws = torch.randn(3, n, 1, 1, 1, generator=generator, dtype=torch.float64)
    x = sampler(si_drift(mu, c, sigma), full(x0).expand(n, 1, 1, 1), noise=lambda k: draws[k])
    mean, variance = moments(sampler, si_drift(mu, c, sigma), x0)
    assert float(x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
    assert float(x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


@each_case
def test_without_noise_si_em_is_si_e(x0, mu, c, sigma):
    interpolant, x = LinearInterpolant(sigma), full(x0).repeat(2, 1, 1, 1)
    cold = EulerMaruyama(4, interpolant, temperature=0.0)(si_drift(mu, c, sigma), x, noise=torch.ones_like(x).mul)
    assert torch.equal(cold, DriftEuler(4, interpolant)(si_drift(mu, c, sigma), x, noise=no_noise))


def test_si_e_converges_with_its_order_where_the_drift_is_not_affine():
    drift = Counted(lambda x, s, x0: torch.cos(3 * s) - x**2)
    exact = float(DriftEuler(2**13)(drift, full(0.5), noise=no_noise))
    steps = [32, 64, 128]
    errors = [float(DriftEuler(n)(drift, full(0.5), noise=no_noise)) - exact for n in steps]
    assert slope(errors, steps) == pytest.approx(DriftEuler.order, abs=0.1)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_are_those_that_are_made(name, steps):
    sampler = SAMPLERS[name](steps, residual=Scalar(1.0))
    denoiser = Counted(lambda x, s, x0: torch.zeros_like(x))
    x0 = torch.zeros(3, 2, 4, 4)
    x = sampler(denoiser, x0, noise=lambda k: torch.ones_like(x0))
    assert denoiser.calls == sampler.evaluations
    assert x.shape == x0.shape and x.dtype == x0.dtype and bool(torch.isfinite(x).all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_level_is_in_range_and_starts_at_zero(name):
    levels: list[float] = []
    drift = Counted(lambda x, s, x0: levels.append(float(s[0])) or torch.zeros_like(x))
    x0 = torch.zeros(2, 1, 2, 2)
    SAMPLERS[name](4, residual=Scalar(1.0))(drift, x0, noise=lambda k: torch.ones_like(x0))
    assert levels[0] == 0 and (max(levels) < 1 or name == "fm-heun") and levels == sorted(levels)


@pytest.mark.parametrize("name", SAMPLERS)
def test_bad_steps(name):
    for steps in (0, -3):
        with pytest.raises(InputError, match=f"at least 1 step, found steps = {steps}"):
            SAMPLERS[name](steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_of_a_batch_do_not_mix(name):
    """Row i depends on row i of the state and of the noise alone."""
    sampler, generator = SAMPLERS[name](3, residual=Scalar(1.0)), torch.Generator().manual_seed(1)
    x0 = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    draws = torch.randn(4, *x0.shape, generator=generator, dtype=torch.float64)
    denoiser = Counted(lambda x, s, x0: torch.tanh(x) * (1 - s) + 0.3 * x0)
    whole = sampler(denoiser, x0, noise=lambda k: draws[k])
    alone = torch.cat([sampler(denoiser, x0[i : i + 1], noise=lambda k, i=i: draws[k, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-14)
    assert sampler.deterministic == torch.equal(whole, sampler(denoiser, x0, noise=lambda k: 1 - draws[k]))


def test_the_condition_reaches_the_network():
    seen = []
    cond = Conditioning(torch.ones(2, 1))

    def drift(x, s, x0, c):
        seen.append(c)
        return torch.zeros_like(x)

    DriftEuler(2)(drift, torch.zeros(2, 1, 2, 2), cond, noise=no_noise)
    assert seen == [cond, cond]


def test_gaussian_drift_takes_a_batch():
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    assert gaussian_drift(x, torch.zeros(3, 1, 1, 1), x, 0.0, 1.0, 1.0).shape == x.shape
