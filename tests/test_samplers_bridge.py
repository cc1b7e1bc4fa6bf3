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
from physinterp.samplers import (
    SAMPLERS,
    CalibratedBridge,
    DriftEuler,
    EulerMaruyama,
    FlowMidpoint,
    FlowRK4,
    Foellmer,
    Sampler,
)
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


# one draw of noise, one path ----------------------------------------------------------------------------------------


@each_name
def test_draws(name):
    """A draw per step and none other; si-pf draws once, at the start; si-e never."""
    interpolant, bridge, x0 = field(LINEAR)
    noise, drawn = recorded(lambda k: normal(2, *SHAPE, seed=k))
    sampler = make(name, 4, interpolant, bridge)
    sampler(bridge, x0.expand(2, *SHAPE), noise=noise)
    assert drawn == ([] if name == "si-e" else [0] if name.startswith("si-pf") else [0, 1, 2, 3])


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0].startswith("si-pf")])
def test_si_pf_gives_one_member_for_one_draw(name, kind):
    """Whatever the steps, up to the order of the method; the drift is not affine."""
    interpolant = kind(0.8)
    drift, z = Mixture(interpolant, [0.3, 0.7], [-1.0, 1.0], 0.4), normal(300, 1, 1, 1)
    x0 = torch.full_like(z, 0.4)

    def member(kind: type[Sampler], steps: int) -> Tensor:
        return kind(steps, interpolant)(drift, x0, noise=lambda k: z)

    exact = member(FlowMidpoint, 640) if kind is BROWNIAN else member(FlowRK4, 160)
    steps = [20, 40, 80]
    errors = [float((member(SAMPLERS[name], n) - exact).square().mean().sqrt()) for n in steps]
    order = SAMPLERS[name].order
    assert errors[-1] < 2e-3 and 0.85 * order < slope(errors, steps) < 1.35 * order
    assert float(exact.std()) > 0.5


@pytest.mark.parametrize("kind", [LINEAR, QUADRATIC])
def test_the_slope_at_the_end_has_a_closed_form(kind):
    """b = x - x0 (linear) or 2 x - x0 (quadratic) at s = 1, whatever the law: Heun and RK4 do not ask the network."""
    interpolant, bridge, x0 = field(kind)
    y, state = normal(3, *SHAPE, seed=7), x0.expand(3, *SHAPE)
    flow, one = FlowRK4(1, interpolant), torch.ones(()).double()
    calls = bridge.calls
    found = flow.slope(bridge, y, one, state, None)
    assert bridge.calls == calls
    near = flow.slope(bridge, y, one - 1e-11, state, None)
    torch.testing.assert_close(found, near, rtol=1e-5, atol=1e-5)


def increments(steps: int, fine: int) -> NoiseFn:
    """Draws of `steps` steps for a batch of `fine` paths: path i moves by one in step i of the fine grid, and rests else."""

    def draw(k: int) -> Tensor:
        width = fine // steps
        xi = torch.zeros(fine, 1, 1, 1, dtype=torch.float64)
        xi[k * width : (k + 1) * width] = math.sqrt(steps)
        return xi

    return draw


@pytest.mark.parametrize(("kind", "r"), [(LINEAR, 0.3), (LINEAR, 3.0), (QUADRATIC, 0.3), (BROWNIAN, 0.3)])
def test_strong_order(kind, r):
    """Error on the same Brownian path: a Gaussian sample is a sum over the increments, so the mean over paths is exact."""
    fine, steps = 1024, [16, 32, 64, 128]
    interpolant = kind(0.8)
    bridge = GaussianBridge(interpolant, torch.zeros(1, 1, 1).double(), torch.tensor([[r]]).double())

    def member(name: str, n: int) -> Tensor:
        return make(name, n, interpolant, bridge)(bridge, torch.zeros(fine, 1, 1, 1).double(), noise=increments(n, fine))

    limits = {name: member(name, fine) for name in ("si-em", "si-foellmer")}
    for name in ("si-em", "si-foellmer", "si-bridge", "si-cal"):
        if kind not in KINDS[name]:
            continue
        limit = limits["si-foellmer" if name == "si-foellmer" else "si-em"]
        errors = [float((member(name, n) - limit).square().mean().sqrt()) for n in steps]
        expected = SAMPLERS[name].strong_order
        if kind is BROWNIAN and name in ("si-bridge", "si-cal"):
            expected = 0.5 if name == "si-bridge" else 1.0
        assert slope(errors, steps) == pytest.approx(expected, abs=0.25 if r == 3 else 0.13), name


def test_strong_order_where_the_drift_is_not_affine():
    """One Brownian path per member, refined: the order of si-em, whose noise is additive, is one."""
    fine, steps, members = 1024, [8, 16, 32, 64], 200
    interpolant = LINEAR(0.8)
    drift, x0 = Mixture(interpolant, [0.3, 0.7], [-1.0, 1.0], 0.5), full(0.4).expand(members, 1, 1, 1)
    path = normal(fine, members, 1, 1, 1)

    def member(n: int) -> Tensor:
        xi = path.reshape(n, fine // n, members, 1, 1, 1).sum(1) / math.sqrt(fine // n)
        return EulerMaruyama(n, interpolant)(drift, x0, noise=lambda k: xi[k])

    limit = member(fine)
    errors = [float((member(n) - limit).square().mean().sqrt()) for n in steps]
    assert slope(errors, steps) == pytest.approx(EulerMaruyama.strong_order, abs=0.15)


# two modes ----------------------------------------------------------------------------------------------------------

GOALS = {0.5: 0.0, 0.6: 0.93, 0.8: 0.98}  # weight of the mode at 1: where si-e goes (theory.md)
each_mixture = pytest.mark.parametrize("weight", GOALS)


def two_modes(weight: float) -> Mixture:
    """Modes at -1 and 1 with standard deviation .1; sigma = 1."""
    return Mixture(LINEAR(1.0), [1 - weight, weight], [-1.0, 1.0], 0.1)


def modes(x: Tensor) -> tuple[float, float, float]:
    """Weight of the mode at 1, and the standard deviations of both."""
    upper = x > 0
    return float(upper.double().mean()), float(x[~upper].std()), float(x[upper].std())


@each_mixture
@pytest.mark.parametrize("start", [0.0, 5.0])
def test_two_modes_by_si_em(weight, start):
    members = 10_000
    x0 = full(start).expand(members, 1, 1, 1)
    draws = torch.Generator().manual_seed(3)

    def sample(steps: int) -> tuple[float, float, float]:
        noise = lambda k: torch.randn(x0.shape, generator=draws, dtype=torch.float64)  # noqa: E731
        return modes(EulerMaruyama(steps, LINEAR(1.0))(two_modes(weight), x0, noise=noise))

    _, lower, upper = sample(5)
    assert lower > 0.12 and upper > 0.12  # five steps are too wide within a mode
    found, lower, upper = sample(150)
    assert found == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / members))
    assert lower == pytest.approx(0.1, rel=0.01 + 4 / math.sqrt(2 * (1 - weight) * members))
    assert upper == pytest.approx(0.1, rel=0.01 + 4 / math.sqrt(2 * weight * members))


@each_mixture
@pytest.mark.parametrize("name", ["si-pf", "si-pf-heun", "si-pf-rk4"])
def test_two_modes_by_si_pf(weight, name):
    """The draws are quantiles of the normal distribution: no Monte-Carlo error but that of the grid, 1 / members."""
    members = 4000
    z = ((torch.arange(members).double() + 0.5) / members * 2 - 1).erfinv().mul(math.sqrt(2)).reshape(-1, 1, 1, 1)
    errors = []
    for steps in (5, 20, 80):
        x = SAMPLERS[name](steps, LINEAR(1.0))(two_modes(weight), torch.zeros_like(z), noise=lambda k: z)
        found, lower, upper = modes(x)
        errors.append(max(abs(lower / 0.1 - 1), abs(upper / 0.1 - 1)))
        assert found == pytest.approx(weight, abs=0.02 if steps == 5 else 1 / members)
    assert errors[0] > 5 * errors[1] and errors[-1] < 0.01


@each_mixture
@pytest.mark.parametrize("name", ["si-foellmer", "si-bridge", "si-cal"])
def test_two_modes_by_the_others(weight, name):
    """si-cal has the covariance of the whole and one step of it is Gaussian; its steps find the modes."""
    members, draws = 10_000, torch.Generator().manual_seed(4)
    x0 = full(0.0).expand(members, 1, 1, 1)
    sampler = make(name, 200, LINEAR(1.0), Scalar(1.01 - (2 * weight - 1) ** 2))
    x = sampler(two_modes(weight), x0, noise=lambda k: torch.randn(x0.shape, generator=draws, dtype=torch.float64))
    found, lower, upper = modes(x)
    assert found == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / members))
    assert lower == pytest.approx(0.1, rel=0.08) and upper == pytest.approx(0.1, rel=0.08)


@each_mixture
def test_two_modes_are_lost_by_si_e(weight):
    """Not the mean, 2 w - 1, and no sample: it nears the heavier mode; between equal ones it stops where nothing is."""
    goal = GOALS[weight]
    for start in (0.0, 0.7, -3.0) if goal else (0.0,):  # between equal modes rounding decides
        for steps in (50, 500):
            x = float(DriftEuler(steps, LINEAR(1.0))(two_modes(weight), full(start), noise=lambda k: full(1.0)))
            assert x == pytest.approx(goal, abs=0.006)
    assert goal == 0 or abs(goal - (2 * weight - 1)) > 0.3


# grids, temperature, precision, refusals ----------------------------------------------------------------------------


@each_name
def test_grids(name):
    u = torch.arange(5, dtype=torch.float64) / 4
    default = u**2 if name.startswith("si-pf") else u  # uniform in tau = sqrt(s)
    torch.testing.assert_close(make(name, 4, LINEAR(1.0)).grid(), default)
    for grid, values in (("uniform", u), ("quadratic", u**2), (u**3, u**3), ((u**3).tolist(), u**3)):
        torch.testing.assert_close(make(name, 4, LINEAR(1.0), grid=grid).grid(), values)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("cubic", "no grid 'cubic': choose one of uniform, quadratic"),
        ([0.0, 0.5, 1.0], r"a grid of 3 steps has 4 values of s, found shape \(3,\)"),
        ([0.0, 0.5, 0.5, 1.0], "increases in every step"),
        ([0.0, 0.7, 0.5, 1.0], "increases in every step"),
        ([0.1, 0.2, 0.5, 1.0], "starts at 0"),
        ([0.0, 0.2, 0.5, 0.9], "ends at 1"),
        ([0.0, 0.2, math.nan, 1.0], "increases in every step"),
    ],
)
def test_bad_grids(grid, message):
    with pytest.raises(InputError, match=message):
        EulerMaruyama(3, grid=grid)


@each_name
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_temperature_scales_the_noise(name, temperature):
    """All noise, hence the spread of a Gaussian sample; without any, a bridge is si-e."""
    interpolant, bridge, x0 = field(LINEAR)
    mean, covariance = propagate(make(name, 3, interpolant, bridge), bridge, x0)
    noise, state = recorded(lambda k: normal(2, *SHAPE, seed=k))[0], x0.expand(2, *SHAPE)
    cold = make(name, 3, interpolant, bridge, temperature=temperature)(bridge, state, noise=noise).flatten(1)
    warm = make(name, 3, interpolant, bridge)(bridge, state, noise=noise).flatten(1)
    torch.testing.assert_close(cold - mean, temperature * (warm - mean), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mean, bridge.mu.flatten(), rtol=0, atol=1e-10)
    assert (covariance.diag() > 0).all() or name == "si-e"


@each_name
def test_single_precision(name):
    """Steps in float32 differ from those in float64 by rounding alone, with x0 far from 0 and sigma per channel."""
    interpolant, bridge, x0 = field(LINEAR)
    state = x0.expand(2, *SHAPE)
    sampler = make(name, 8, interpolant, bridge)

    def drift(x: Tensor, s: Tensor, x0: Tensor, cond: Any) -> Tensor:
        assert x.dtype == s.dtype == x0.dtype
        return bridge(x.double(), s.double(), x0.double(), cond).to(x)

    double = sampler(drift, state, noise=lambda k: normal(2, *SHAPE, seed=k))
    operator = GaussianBridge(interpolant, bridge.mu, bridge.vectors @ torch.diag(bridge.values) @ bridge.vectors.T)
    operator.values, operator.vectors = bridge.values.float(), bridge.vectors.float()
    sampler = make(name, 8, interpolant, operator)
    single = sampler(drift, state.float(), noise=lambda k: normal(2, *SHAPE, seed=k).float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@each_name
def test_gradients_pass(name):
    """With respect to the state, for rewards and training through a step."""
    interpolant, bridge, x0 = field(LINEAR)
    state = x0.expand(2, *SHAPE).clone().requires_grad_()
    noise = recorded(lambda k: normal(2, *SHAPE, seed=k))[0]
    sampler = make(name, 3, interpolant, bridge)

    def total(state: Tensor) -> Tensor:
        return (sampler(bridge, state, noise=noise) * normal(*SHAPE, seed=9)).sum()

    (gradient,) = torch.autograd.grad(total(state), state)
    step = normal(2, *SHAPE, seed=8)
    difference = (total(state + 1e-4 * step) - total(state - 1e-4 * step)) / 2e-4
    torch.testing.assert_close((gradient * step).sum(), difference, rtol=1e-6, atol=1e-6)


def test_refusals():
    with pytest.raises(InputError, match="si-cal needs a residual, the covariance of x1 given x0 measured on validation"):
        CalibratedBridge(2)
    for name in ("si-bridge", "si-cal"):
        with pytest.raises(InputError, match=r"carries x1 at s = 0.*found QuadraticInterpolant: use si-em or si-pf"):
            make(name, 2, QUADRATIC(1.0))
    for name in ("si-pf-heun", "si-pf-rk4"):
        with pytest.raises(InputError, match=r"needs the drift at s = 1, which BrownianInterpolant lacks; use si-pf"):
            make(name, 2, BROWNIAN(1.0))
    with pytest.raises(InputError, match="found TrigonometricInterpolant; use si-em"):
        make("si-pf", 2, TrigonometricInterpolant(1.0))
    for name in NAMES:
        with pytest.raises(InputError, match="starts from the state x0, FlowMatchingInterpolant does not; use fm"):
            make(name, 2, FlowMatchingInterpolant())
        for temperature in (-1.0, math.nan):
            with pytest.raises(InputError, match="a temperature of at least 0, found"):
                make(name, 2, LINEAR(1.0), temperature=temperature)
