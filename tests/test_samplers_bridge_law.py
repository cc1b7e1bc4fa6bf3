"""Samplers of the stochastic interpolant with exact drifts: mean and covariance of a Gaussian by recursion."""

from __future__ import annotations

import pytest
import torch
from exact import GaussianBridge, Scalar, moments, normal, propagate, si_drift, slope
from fromstate import BROWNIAN, KINDS, LINEAR, NAMES, PAIRS, QUADRATIC, SHAPE, field, make, recorded
from torch import Tensor

from physinterp.samplers import SAMPLERS, EulerMaruyama, Foellmer, Sampler

UNEVEN = (0.0, 0.05, 0.3, 0.35, 0.8, 1.0)


def scaled_errors(bridge: GaussianBridge, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Largest error of the mean in standard deviations, and largest relative error of a variance in any direction."""
    root = torch.linalg.cholesky(bridge.covariance)
    off = torch.linalg.solve_triangular(root, (mean - bridge.mu.flatten())[:, None], upper=False)
    half = torch.linalg.solve_triangular(root, covariance, upper=False)
    ratio = torch.linalg.solve_triangular(root, half.T, upper=False)
    return float(off.abs().max()), float(torch.linalg.eigvalsh(ratio - torch.eye(len(mean))).abs().max())


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


LAW = {  # steps, and the relative error of the variance that is left after them, C / sigma^2 from .01 to 50
    "si-em": ([200, 400], 0.14),
    "si-foellmer": ([200, 400], 0.14),
    "si-bridge": ([200, 400], 0.11),
    "si-pf": ([100, 200], 0.008),
    "si-pf-heun": ([100, 200], 0.004),
    "si-pf-rk4": ([100, 200], 1e-6),
}


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0] in LAW])
def test_the_law_is_approached_with_the_declared_order(name, kind, uneven):
    """Weak order: mean and covariance of the whole field by recursion, on the grid of the class and on another one."""
    steps, left = LAW[name]
    short = name == "si-bridge" and kind is BROWNIAN  # of sigma^2 / n in every direction, hence far off where C is small
    interpolant, bridge, x0 = field(kind, least=1.0 if short else 0.01)
    means, variances = [], []
    for n in steps:
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        values = 1 - (1 - u) ** 1.5 if SAMPLERS[name].noisy_steps else u**2.5
        sampler = make(name, n, interpolant, bridge, grid=values if uneven else None)
        mean, variance = scaled_errors(bridge, *propagate(sampler, bridge, x0))
        means.append(mean)
        variances.append(variance)
    order = SAMPLERS[name].order
    assert variances[-1] < left
    assert 0.9 * order < slope(variances, steps) < 1.25 * order
    if kind is QUADRATIC:  # its mean path is curved
        assert 0.8 * order < slope(means, steps) < 1.25 * order
    else:
        assert max(means) < 1e-9


@pytest.mark.parametrize("kind", KINDS["si-cal"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_si_cal_has_the_law_at_every_number_of_steps(kind, steps):
    interpolant, bridge, x0 = field(kind)
    jitter = torch.sort(torch.rand(steps - 1, generator=torch.Generator().manual_seed(steps), dtype=torch.float64))[0]
    for grid in ("uniform", "quadratic", [0.0, *jitter.tolist(), 1.0]):
        mean, variance = scaled_errors(bridge, *propagate(make("si-cal", steps, interpolant, bridge, grid=grid), bridge, x0))
        assert mean < 1e-10 and variance < 1e-9


def test_si_cal_needs_an_operator_for_a_coloured_residual():
    """C ~ k^-3, mean sigma^2: one number in its place has too little at large scales, too much at small ones."""
    r = torch.arange(1, 6, dtype=torch.float64) ** -3
    r /= r.mean()
    bridge = GaussianBridge(LINEAR(1.0), torch.zeros(1, 1, 5).double(), torch.diag(r))

    def ratios(sampler: Sampler) -> list[float]:
        variance = propagate(sampler, bridge, torch.ones(1, 1, 5).double())[1].diag()
        return [float(variance.sum() / r.sum()), float(variance[0] / r[0]), float(variance[-1] / r[-1])]

    assert ratios(make("si-cal", 5, LINEAR(1.0), Scalar(1.0))) == pytest.approx([0.72, 0.61, 2.37], abs=0.006)
    assert ratios(make("si-em", 5, LINEAR(1.0))) == pytest.approx([0.73, 0.66, 0.98], abs=0.006)
    assert ratios(make("si-cal", 5, LINEAR(1.0), bridge)) == pytest.approx([1, 1, 1], abs=1e-12)
    one = propagate(make("si-cal", 1, LINEAR(1.0), Scalar(1.0)), bridge, torch.ones(1, 1, 5).double())[1]
    torch.testing.assert_close(one, torch.eye(5).double())  # the scalar's own covariance, not C
    many = ratios(make("si-cal", 400, LINEAR(1.0), Scalar(1.0)))
    assert many == pytest.approx([1, 1, 1], abs=0.03)  # the drift's own covariance wins as steps grow


@pytest.mark.parametrize("kind", KINDS["si-e"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_si_e_has_no_spread(kind, steps):
    """Every member is the same: the conditional mean where the mean path is straight. No noise is drawn."""
    interpolant, bridge, x0 = field(kind)
    sampler = make("si-e", steps, interpolant)
    noise, drawn = recorded(lambda k: torch.ones(3, *SHAPE).double())
    x = sampler(bridge, x0.expand(3, *SHAPE), noise=noise)
    assert drawn == [] and sampler.deterministic and float((x - x[0]).abs().max()) < 1e-10
    mean, covariance = propagate(sampler, bridge, x0)
    assert float(covariance.abs().max()) < 1e-20  # rounding of the drift
    if kind is not QUADRATIC:
        torch.testing.assert_close(mean, bridge.mu.flatten(), rtol=0, atol=1e-10)


# the numbers of theory.md and papers.md -----------------------------------------------------------------------------

WHITE = {  # variance over C against C / sigma^2 at 1, 2, 5, 10, 50 steps
    ("si-bridge", 0.01): (0, 0.02, 0.15, 0.40, 0.84),
    ("si-bridge", 0.1): (0, 0.14, 0.49, 0.70, 0.93),
    ("si-bridge", 1): (0, 0.22, 0.57, 0.75, 0.95),
    ("si-bridge", 10): (0, 0.05, 0.25, 0.48, 0.86),
    ("si-bridge", 50): (0, 0.01, 0.07, 0.17, 0.60),
    ("si-foellmer", 0.04): (None, 16.9, 1.80, 1.08, 1.00),
    ("si-foellmer", 0.25): (None, 1.50, 1.01, 1.00, 1.00),
    ("si-foellmer", 1): (None, 0.88, 0.92, 0.96, 0.99),
    ("si-foellmer", 4): (None, 0.44, 0.69, 0.83, 0.96),
    ("si-foellmer", 25): (None, 0.09, 0.23, 0.39, 0.79),
    **{("si-cal", r): (1, 1, 1, 1, 1) for r in (0.01, 0.1, 1, 10, 50)},
}


@pytest.mark.parametrize(("name", "r", "expected"), [(*key, value) for key, value in WHITE.items()])
def test_variance_of_a_white_residual(name, r, expected):
    sigma = 1.7
    for steps, value in zip((1, 2, 5, 10, 50), expected, strict=True):
        sampler = make(name, steps, LINEAR(sigma), Scalar(r))
        mean, variance = moments(sampler, si_drift(0.4, r * sigma**2, sigma), -1.0)
        assert mean == pytest.approx(0.4, abs=1e-10)
        if value is not None:
            assert variance / (r * sigma**2) == pytest.approx(value, abs=0.055 if value > 10 else 0.0055), steps


COVARIANCES = {  # C / sigma^2: on the diagonal, beside it
    "balanced": (1.0, 0.6, 0.3),
    "narrow": (0.02, 0.01, 0.002),
    "wide": (64.0, 32.0, 0.0),
    "rbc": (1.0, 0.5, 0.15),
}
TRACES = {  # tr Cov / tr C: si-em, si-foellmer, si-pf, si-pf-heun at equal evaluations (Heun: one less here)
    ("balanced", 2): (1.040, 0.895, 0.429, 2.81),
    ("balanced", 5): (1.004, 0.928, 0.842, 1.146),
    ("balanced", 10): (1.000, 0.958, 0.973, 1.023),
    ("balanced", 50): (1.000, 0.991, 0.999, 1.001),
    ("balanced", 200): (1.000, 0.998, 1.000, 1.000),
    ("narrow", 2): (8.46, 52.8, 6.46, 150),
    ("narrow", 10): (0.848, 1.46, 0.349, 3.17),
    ("narrow", 200): (0.989, 1.000, 0.999, 1.006),
    ("wide", 2): (0.043, 0.048, 0.167, 0.047),
    ("wide", 10): (0.219, 0.240, 0.914, 0.575),
    ("wide", 200): (0.871, 0.879, 1.000, 0.999),
    ("rbc", 2): (1.080, 0.918, 0.383, 3.04),
    ("rbc", 10): (1.007, 0.963, 0.972, 1.025),
}


@pytest.mark.parametrize(("case", "evaluations", "expected"), [(*key, value) for key, value in TRACES.items()])
def test_variance_of_correlated_residuals(case, evaluations, expected):
    first, second, beside = COVARIANCES[case]
    interpolant = LINEAR(0.25 if case == "rbc" else 1.0)
    r = torch.tensor([[first, beside], [beside, second]], dtype=torch.float64)
    bridge = GaussianBridge(interpolant, torch.tensor([[[0.3, -2.0]]]).double(), r)
    for name, value in zip(("si-em", "si-foellmer", "si-pf", "si-pf-heun"), expected, strict=True):
        steps = evaluations // 2 if name.startswith("si-pf") else evaluations
        mean, covariance = propagate(make(name, steps, interpolant), bridge, torch.tensor([[[1.0, 0.5]]]).double())
        torch.testing.assert_close(mean, bridge.mu.flatten(), rtol=0, atol=1e-9)
        assert float(covariance.trace() / bridge.covariance.trace()) == pytest.approx(value, rel=0.014, abs=0.0006), name


# any diffusion ------------------------------------------------------------------------------------------------------


def test_the_factor_one_is_si_em_and_the_foellmer_diffusion_is_si_foellmer():
    interpolant, bridge, x0 = field(LINEAR)
    plain = propagate(EulerMaruyama(7, interpolant), bridge, x0)
    torch.testing.assert_close(propagate(EulerMaruyama(7, interpolant, g=1.0), bridge, x0), plain)
    foellmer = propagate(Foellmer(7, interpolant), bridge, x0)
    torch.testing.assert_close(propagate(EulerMaruyama(7, interpolant, g=interpolant.foellmer), bridge, x0), foellmer)


def test_si_foellmer_has_its_closed_form():
    interpolant, bridge, x0 = field(LINEAR)
    s, s1 = torch.tensor(0.3).double(), torch.tensor(0.45).double()
    x, xi = normal(4, *SHAPE, seed=5), normal(4, *SHAPE, seed=6)
    state = x0.expand_as(x)
    found = Foellmer(1, interpolant).step(bridge, x, s, s1, state, None, xi)
    drift = (1 + s) * bridge(x, s.expand(4), state, None) - (x - state)
    expected = x + (s1 - s) * drift + interpolant.sigma * (1 - s**2).sqrt() * (s1 - s).sqrt() * xi
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS["si-em"])
def test_a_diffusion_that_starts_like_g0_keeps_the_law(kind):
    interpolant, bridge, x0 = field(kind, least=0.5)
    errors = []
    for n in (150, 300):
        sampler = EulerMaruyama(n, interpolant, g=lambda s: interpolant.coefficients(s).g0 * (1 + 3 * s).sqrt())
        errors.append(scaled_errors(bridge, *propagate(sampler, bridge, x0))[1])
    assert errors[-1] < 0.08 and slope(errors, [150, 300]) == pytest.approx(EulerMaruyama.order, abs=0.1)


def test_the_first_step_takes_g0_and_a_smaller_start_converges_slowly():
    """Half of g0: 17 % too wide at 10 steps, 5 % at 1000 (and 4 % at 4000; theory.md, finding 2)."""
    bridge = GaussianBridge(LINEAR(1.0), torch.zeros(1, 1, 2).double(), torch.tensor([[1.0, 0.3], [0.3, 0.6]]).double())
    x0 = torch.ones(1, 1, 2).double()
    for g in (0.0, 0.5, 3.0, lambda s: 5 + s):
        sampler = EulerMaruyama(1, LINEAR(1.0), g=g)
        torch.testing.assert_close(propagate(sampler, bridge, x0), propagate(EulerMaruyama(1, LINEAR(1.0)), bridge, x0))
    for steps, value in ((10, 1.168), (1000, 1.052)):
        _, covariance = propagate(EulerMaruyama(steps, LINEAR(1.0), g=0.5), bridge, x0)
        assert float(covariance.trace() / bridge.covariance.trace()) == pytest.approx(value, abs=0.001)
    _, covariance = propagate(EulerMaruyama(200, LINEAR(1.0), g=2.0), bridge, x0)
    assert float(covariance.trace() / bridge.covariance.trace()) == pytest.approx(1, abs=0.01)  # a larger one forgets it
