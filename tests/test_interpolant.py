"""Interpolants: hand derivatives against autograd, read-outs against exact laws, limits at both ends, special cases."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from exact import gaussian_drift, law
from torch import Tensor

from physinterp.interpolant import (
    BrownianInterpolant,
    Coefficients,
    EncodingDecodingInterpolant,
    FlowMatchingInterpolant,
    Interpolant,
    LinearInterpolant,
    MirrorInterpolant,
    QuadraticInterpolant,
    TrigonometricInterpolant,
    VarianceExplodingInterpolant,
    VariancePreservingInterpolant,
)


class FreeInterpolant(Interpolant):
    """Coefficients without relations to each other: all terms of the general read-outs count."""

    def coefficients(self, s: Tensor) -> Coefficients:
        sigma, one = self.sigma.to(s), torch.ones_like(s)
        eta = sigma * (1 - 2 * s - s / (2 * (1 - s)))
        return Coefficients(1 - s**2, s, sigma * s * (1 - s), -2 * s, one, g0=sigma * s, eta=eta)


DOCS = Path(__file__).parents[1] / "docs"
CONDITIONAL = [LinearInterpolant, QuadraticInterpolant, BrownianInterpolant, TrigonometricInterpolant]
ONE_SIDED = [FlowMatchingInterpolant, VariancePreservingInterpolant, VarianceExplodingInterpolant]
OURS = [*CONDITIONAL, *ONE_SIDED, MirrorInterpolant, EncodingDecodingInterpolant]
KINDS = [*OURS, FreeInterpolant]
S = torch.linspace(0.03, 0.97, 14, dtype=torch.float64)  # without 1/2, where encoding and decoding meet
SPREAD = torch.linspace(-2.5, 2.5, len(S), dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)
CASES = [(0.0, 1.0, 1.0, 1.0), (-2.0, 0.7, 0.04, 0.9), (1.3, -3.0, 16.0, 0.5)]  # x0, mu, C, sigma
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_of_ours = pytest.mark.parametrize("kind", OURS)
each_case = pytest.mark.parametrize(("x0", "mu", "c", "sigma"), CASES)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def derivative(f, s: Tensor) -> Tensor:
    s = s.clone().requires_grad_()
    return torch.autograd.grad((f(s) + 0 * s).sum(), s)[0]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, **CLOSE)


class Exact:
    """The drift and all that it can be read for, of x1 given x0 ~ N(mu, C) at values of s.

    The states lie `off` standard deviations from the mean of x_s, shaped like s.
    """

    def __init__(self, interpolant: Interpolant, s: Tensor, x0: float, mu: float, c: float, off: Tensor = SPREAD) -> None:
        self.interpolant, self.s, w = interpolant, s, interpolant.coefficients(s)
        self.m, self.k, slope = law(interpolant, s, x0, mu, c)
        off = self.k.sqrt() * off
        self.x, self.x0 = self.m + off, torch.full_like(s, x0)
        self.b = w.alpha_dot * x0 + w.beta_dot * mu + slope * off
        self.clean, self.noise, self.score = mu + w.beta * c * off / self.k, w.gamma * off / self.k, -off / self.k
        self.k_dot = derivative(lambda s: law(interpolant, s, x0, mu, c)[1], s)
        self.m_dot = derivative(lambda s: law(interpolant, s, x0, mu, c)[0], s)
        self.velocity = self.m_dot + self.k_dot / self.k / 2 * off

    def read(self, name: str, *more: Tensor) -> Tensor:
        return getattr(self.interpolant, name)(self.b, self.x, self.x0, self.s, *more)


# coefficients

POINT = ([1, 0], [0, 1])  # alpha, beta of everything that leads from x0 to x1
END_POINTS = {
    **{kind: (*POINT, [0, 0]) for kind in [*CONDITIONAL, EncodingDecodingInterpolant, FreeInterpolant]},
    FlowMatchingInterpolant: ([0, 0], [0, 1], [0.7, 0]),
    VariancePreservingInterpolant: ([0, 0], [0, 1], [0.7, 0]),
    VarianceExplodingInterpolant: ([0, 0], [1, 1], [0.7, 0]),
    MirrorInterpolant: ([0, 0], [1, 1], [0, 0]),
}


@each_kind
def test_end_points(kind):
    ends = kind(0.7).coefficients(ENDS)
    assert (ends.alpha.tolist(), ends.beta.tolist(), ends.gamma.tolist()) == END_POINTS[kind]


@each_kind
def test_derivatives_against_autograd(kind):
    interpolant = kind(0.7)
    c = interpolant.coefficients(S)
    torch.testing.assert_close(c.alpha_dot, derivative(lambda s: interpolant.coefficients(s).alpha, S))
    torch.testing.assert_close(c.beta_dot, derivative(lambda s: interpolant.coefficients(s).beta, S))
    gamma_dot = derivative(lambda s: interpolant.coefficients(s).gamma, S)
    torch.testing.assert_close(c.eta, gamma_dot - c.g0**2 / (2 * c.gamma), rtol=1e-12, atol=1e-12)


@each_kind
def test_the_target_is_the_velocity_minus_half_the_diffusion(kind):
    """target = d x_s / ds at fixed z, less what the noise of the SDE adds by itself."""
    interpolant = kind(0.7)
    x0, x1, z = torch.randn(3, len(S), dtype=torch.float64)
    bridge = interpolant.bridge(x0, x1, S, z)
    velocity = derivative(lambda s: interpolant.bridge(x0, x1, s, z).x_s, S)
    c = interpolant.coefficients(S)
    torch.testing.assert_close(bridge.target, velocity - c.g0**2 / (2 * c.gamma) * z)


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_the_source_diffuses_while_it_fades(kind):
    """gamma z = alpha M with a martingale M: Var M grows as g0^2 / alpha^2, and the target holds alpha' M."""
    interpolant = kind(0.7)
    c = interpolant.coefficients(S)
    variance_dot = derivative(lambda s: (interpolant.coefficients(s).gamma / interpolant.coefficients(s).alpha) ** 2, S)
    close(variance_dot, (c.g0 / c.alpha) ** 2)
    close(c.eta / c.gamma, c.alpha_dot / c.alpha)


# read-outs


@each_kind
@each_case
def test_read_outs_with_the_exact_drift(kind, x0, mu, c, sigma):
    e = Exact(kind(sigma), S, x0, mu, c)
    known = S > 0.5 if kind is EncodingDecodingInterpolant else S > 0  # x_s holds x1
    assert torch.equal(e.read("clean").isnan(), ~known)
    close(e.read("clean")[known], e.clean[known])
    close(e.read("noise"), e.noise)
    close(e.read("score"), e.score)
    close(e.read("velocity"), e.velocity)
    # the read-outs and the state agree with each other
    w = e.interpolant.coefficients(S)
    whole = w.alpha * x0 + w.beta * e.read("clean") + w.gamma * e.read("noise")
    close(whole[known], e.x[known])


@each_kind
@each_case
def test_every_diffusion_keeps_the_law(kind, x0, mu, c, sigma):
    """dX = drift ds + g dW with slope a in x keeps m and K: the drift is m' on m, and K' = 2 a K + g^2."""
    e = Exact(kind(sigma), S, x0, mu, c)
    w = e.interpolant.coefficients(S)
    foellmer = e.interpolant.foellmer(S).nan_to_num(nan=0.3)  # none where nothing is known of x1
    for g in (w.g0, 0 * S, 0.6 + S, foellmer):
        a = (e.k_dot - g**2) / (2 * e.k)
        torch.testing.assert_close(e.read("drift", g), e.m_dot + a * (e.x - e.m), rtol=1e-10, atol=1e-9)
    assert torch.equal(e.read("drift", w.g0), e.b) and torch.equal(e.read("drift", 0.0), e.read("velocity"))


@each_kind
@each_case
def test_round_trips(kind, x0, mu, c, sigma):
    e = Exact(kind(sigma), S, x0, mu, c)
    known = S > 0.5 if kind is EncodingDecodingInterpolant else S > 0
    state = (e.x, e.x0, S)
    back = e.interpolant.drift_from_clean(e.read("clean"), *state)
    close(back[known], e.b[known])
    back = e.interpolant.drift_from_noise(e.read("noise"), *state)
    close(back[known], e.b[known])
    back = e.interpolant.drift_from_noise(-e.interpolant.coefficients(S).gamma * e.read("score"), *state)
    close(back[known], e.b[known])


@each_kind
def test_closed_forms_are_the_general_ones(kind):
    e = Exact(kind(0.7), S, 1.3, -0.2, 2.0)
    late = S > 0.5 if kind is EncodingDecodingInterpolant else S > 0
    for name in ("clean", "noise", "score"):
        general = getattr(Interpolant, name)(e.interpolant, e.b, e.x, e.x0, S)
        close(e.read(name)[late], general[late])
    general = Interpolant.drift_from_clean(e.interpolant, e.clean, e.x, e.x0, S)
    close(e.interpolant.drift_from_clean(e.clean, e.x, e.x0, S), general)
    gamma_dot = derivative(lambda s: kind(0.7).coefficients(s).gamma, S)
    w = e.interpolant.coefficients(S)
    squared = (2 * w.gamma**2 * w.beta_dot / w.beta - 2 * w.gamma * gamma_dot).abs()
    close(e.interpolant.foellmer(S)[late] ** 2, squared[late])


DOCUMENTED = {  # (s, x, x0, b, sigma) -> the formulas of the docstrings
    LinearInterpolant: {
        "clean": lambda s, x, x0, b, sigma: x + (1 - s) * b,
        "noise": lambda s, x, x0, b, sigma: (x - x0 - s * b) / (sigma * s.sqrt()),
        "velocity": lambda s, x, x0, b, sigma: (1 + s) / 2 * b + (1 - s) / (2 * s) * (x - x0),
        "foellmer": lambda s, x, x0, b, sigma: (1 + s) * b - (x - x0),
    },
    QuadraticInterpolant: {
        "clean": lambda s, x, x0, b, sigma: (x + (1 - s) * b) / (s * (2 - s)),
        "noise": lambda s, x, x0, b, sigma: (2 * x - (2 - s) * x0 - s * b) / (sigma * (2 - s) * s.sqrt()),
        "foellmer": lambda s, x, x0, b, sigma: (3 - s) / (2 - s) * b - 2 * x / (s * (2 - s)) + x0 / s,
    },
    BrownianInterpolant: {
        "clean": lambda s, x, x0, b, sigma: x + (1 - s) * b,
        "velocity": lambda s, x, x0, b, sigma: (x - x0) / (2 * s) + b / 2,
        "foellmer": lambda s, x, x0, b, sigma: b,
    },
    TrigonometricInterpolant: {
        "clean": lambda s, x, x0, b, sigma: (math.pi / 2 * s).sin() * x + 2 / math.pi * (math.pi / 2 * s).cos() * b,
        "noise": lambda s, x, x0, b, sigma: (
            ((math.pi / 2 * s).cos() * x - x0 - 2 / math.pi * (math.pi / 2 * s).sin() * b) / (sigma * s.sqrt())
        ),
    },
    FlowMatchingInterpolant: {
        "clean": lambda s, x, x0, b, sigma: x + (1 - s) * b,
        "noise": lambda s, x, x0, b, sigma: (x - s * b) / sigma,
        "velocity": lambda s, x, x0, b, sigma: b,
    },
    VariancePreservingInterpolant: {
        "clean": lambda s, x, x0, b, sigma: (math.pi / 2 * s).sin() * x + 2 / math.pi * (math.pi / 2 * s).cos() * b,
        "noise": lambda s, x, x0, b, sigma: (
            ((math.pi / 2 * s).cos() * x - 2 / math.pi * (math.pi / 2 * s).sin() * b) / sigma
        ),
    },
    MirrorInterpolant: {"velocity": lambda s, x, x0, b, sigma: (1 - 1 / (2 * s)) * b},
}


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_documented_formulas(kind):
    """For any b, also one that is no drift."""
    x, x0, b = torch.randn(3, len(S), dtype=torch.float64)
    interpolant = kind(0.7)
    for name, formula in DOCUMENTED[kind].items():
        if name == "foellmer":
            found = interpolant.drift(b, x, x0, S, interpolant.foellmer(S))
        else:
            found = getattr(interpolant, name)(b, x, x0, S)
        close(found, formula(S, x, x0, b, 0.7))


@pytest.mark.parametrize("kind", [*CONDITIONAL, *ONE_SIDED])
def test_foellmer_is_the_diffusion_of_least_error(kind):
    """An error of b costs (d drift / d b)^2 / g^2 on the path; g_F has the smallest cost of all g."""
    interpolant, x = kind(0.8), torch.zeros_like(S)

    def cost(g: Tensor) -> Tensor:
        slope = interpolant.drift(x + 1, x, x, S, g) - interpolant.drift(x, x, x, S, g)
        return slope**2 / g**2

    best = interpolant.foellmer(S)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert bool((cost(factor * best) > cost(best)).all()), factor


@each_case
def test_closed_form_of_the_linear_drift(x0, mu, c, sigma):
    interpolant = LinearInterpolant(sigma)
    m, k, slope = law(interpolant, S, x0, mu, c)
    x = m + k.sqrt()
    torch.testing.assert_close(
        gaussian_drift(x, S, torch.tensor(x0, dtype=torch.float64), mu, c, sigma), mu - x0 + slope * (x - m)
    )
    # s = 0 is no singularity: the mean of the change, and the slope of the limit
    at_zero = gaussian_drift(torch.tensor(x0 + 0.1), torch.tensor(0.0), torch.tensor(x0), mu, c, sigma)
    assert float(at_zero) == pytest.approx(mu - x0 + 0.1 * (c - sigma**2) / sigma**2)


# limits at s = 0 and s = 1

BOTH, START, END, NONE = (True, True), (True, False), (False, True), (False, False)
LIMITS = {  # which read-outs have a limit that b determines, at s = 0 and at s = 1; and g_F in units of sigma
    LinearInterpolant: (BOTH, END, NONE, END, (1, 0)),
    QuadraticInterpolant: (END, END, NONE, END, (math.sqrt(3), 0)),
    BrownianInterpolant: (BOTH, END, END, END, (1, 1)),
    TrigonometricInterpolant: (BOTH, END, NONE, END, (1, 0)),
    FlowMatchingInterpolant: (BOTH, BOTH, START, BOTH, (math.inf, 0)),
    VariancePreservingInterpolant: (BOTH, BOTH, START, BOTH, (math.inf, 0)),
    VarianceExplodingInterpolant: (BOTH, START, START, BOTH, (math.sqrt(14), 0)),
    MirrorInterpolant: (BOTH, END, END, END, (1, 1)),
    EncodingDecodingInterpolant: (END, NONE, NONE, BOTH, (math.nan, 0)),
}
READ_OUTS = ("clean", "noise", "score", "velocity")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", LIMITS)
def test_limits_at_both_ends(kind, dtype):
    """Finite and right wherever there is a limit; nan or inf, and no number that looks right, elsewhere."""
    sigma, tolerance = 0.5, {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    inside = ENDS + torch.tensor([1e-13, -1e-13], dtype=torch.float64)
    start = 0.0 if END_POINTS[kind][0] == [1, 0] else 0.8  # a given x0 is a point
    limit = Exact(kind(sigma), inside, 1.5, -0.5, 0.25, off=torch.tensor([start, 0.8], dtype=torch.float64))
    for name, finite in zip(READ_OUTS, LIMITS[kind], strict=False):
        found = getattr(kind(sigma), name)(limit.b.to(dtype), limit.x.to(dtype), limit.x0.to(dtype), ENDS.to(dtype))
        assert found.dtype == dtype and tuple(found.isfinite().tolist()) == finite, (name, found)
        where = torch.tensor(finite)
        torch.testing.assert_close(found.double()[where], getattr(limit, name)[where], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@each_of_ours
def test_coefficients_are_finite_at_both_ends(kind, dtype):
    for name, values in vars(kind(0.5).coefficients(ENDS.to(dtype))).items():
        singular = name == "eta" and kind in (BrownianInterpolant, MirrorInterpolant)  # no limit at s = 1
        assert values.dtype == dtype and values.isfinite().tolist() == [True, not singular], name
    found = kind(0.5).foellmer(ENDS.to(dtype)).double()
    expected = 0.5 * torch.tensor(LIMITS[kind][4], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0.01 if dtype is torch.bfloat16 else 1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [LinearInterpolant, BrownianInterpolant, TrigonometricInterpolant])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_foellmer_drift_starts_and_ends(kind, dtype):
    """g_F = g0 where the score is singular, so the drift is b there."""
    interpolant, s = kind(0.7), ENDS.to(dtype)
    b, x, x0 = torch.randn(3, 2).to(dtype)
    assert torch.equal(interpolant.drift(b, x, x0, s, interpolant.foellmer(s)), b)
    clean, tolerance = interpolant.clean(b, x0, x0, s), 0.03 if dtype is torch.bfloat16 else 1e-5
    back = interpolant.drift_from_clean(clean, x0, x0, s)  # a denoiser starts as a drift
    torch.testing.assert_close(back[0], b[0], rtol=tolerance, atol=tolerance)


# the same classes, under other names


@pytest.mark.parametrize("sigma", [1.0, 0.6])
def test_flow_matching(sigma):
    """Its pairs are (1 - s) z + s x1 and x1 - z, those of the noiseless linear interpolant from the source z."""
    x0, x1, z = torch.randn(3, len(S), dtype=torch.float64)
    bridge = FlowMatchingInterpolant(sigma).bridge(x0, x1, S, z)
    close(bridge.x_s, (1 - S) * sigma * z + S * x1)
    close(bridge.target, x1 - sigma * z)
    linear = LinearInterpolant(0.0).bridge(sigma * z, x1, S, torch.randn_like(z))
    close(bridge.x_s, linear.x_s)
    close(bridge.target, linear.target)


def test_variance_preserving_diffusion():
    """DDPM's v = a e - r y at alpha_bar = a^2, its noise and its clean estimate; the noiseless trigonometric interpolant."""
    x0, y, e = torch.randn(3, len(S), dtype=torch.float64)
    interpolant = VariancePreservingInterpolant()
    bridge = interpolant.bridge(x0, y, S, e)
    a, r = torch.sin(math.pi / 2 * S), torch.cos(math.pi / 2 * S)
    v = a * e - r * y
    close(bridge.x_s, a * y + r * e)
    close(bridge.target, -math.pi / 2 * v)
    close(interpolant.clean(bridge.target, bridge.x_s, x0, S), a * bridge.x_s - r * v)
    close(interpolant.noise(bridge.target, bridge.x_s, x0, S), r * bridge.x_s + a * v)
    trigonometric = TrigonometricInterpolant(0.0).bridge(e, y, S, torch.randn_like(e))
    close(bridge.x_s, trigonometric.x_s)
    close(bridge.target, trigonometric.target)


def test_variance_exploding_diffusion():
    """EDM: dx / dv = (x - D) / v on v = 80 (1 - s)^7, and D predicts y."""
    x0, y, e, d = torch.randn(4, len(S), dtype=torch.float64)
    interpolant = VarianceExplodingInterpolant()
    v = 80 * (1 - S) ** 7
    v_dot = derivative(lambda s: 80 * (1 - s) ** 7, S)
    bridge = interpolant.bridge(x0, y, S, e)
    close(bridge.x_s, y + v * e)
    close(interpolant.clean(bridge.target, bridge.x_s, x0, S), y)
    b = interpolant.drift_from_clean(d, bridge.x_s, x0, S)
    close(b, v_dot * (bridge.x_s - d) / v)
    close(interpolant.clean(b, bridge.x_s, x0, S), d)
    close(interpolant.inverse(v), S)
    assert interpolant.inverse(torch.tensor([80.0, 0.0])).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_foellmer_is_the_reverse_sde_of_diffusion(kind):
    """Noising dX = (ln beta)' X dt + g dW, backwards in s: g^2 = -gamma^2 d ln(gamma^2 / beta^2) / ds."""
    interpolant = kind(0.8)

    def log_ratio(s: Tensor) -> Tensor:
        c = interpolant.coefficients(s)
        return 2 * (c.gamma / c.beta).log()

    gamma = interpolant.coefficients(S).gamma
    close(interpolant.foellmer(S) ** 2, -(gamma**2) * derivative(log_ratio, S))


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_one_denoiser_serves_all(kind):
    """The denoiser of y + v z makes every one-sided drift: x_s / beta is such a state with v = gamma / beta."""
    e = Exact(kind(0.8), S, 0.0, 0.5, 0.3)
    w = e.interpolant.coefficients(S)
    v, state = w.gamma / w.beta, e.x / w.beta
    denoised = 0.5 + 0.3 / (0.3 + v**2) * (state - 0.5)
    close(e.interpolant.drift_from_clean(denoised, e.x, e.x0, S), e.b)


def test_the_mirror_leads_back():
    """The probability flow of the mirror interpolant moves x1 away and back to where it was."""
    for mu, c in ((0.4, 0.09), (-1.0, 4.0)):
        first, last = Exact(MirrorInterpolant(0.8), S, 0.0, mu, c), Exact(MirrorInterpolant(0.8), 1 - S, 0.0, mu, c)
        close(first.velocity / (first.x - mu), -last.velocity / (last.x - mu))
        close(first.k, last.k)


# two and three modes: docs/interpolants.md and its script


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("interpolants", DOCS / "interpolants.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not EncodingDecodingInterpolant])
def test_read_outs_of_two_modes(kind, page):
    """From a point, the drift of a mixture holds the score of a mixture, and the denoiser that belongs to it."""
    interpolant, x0 = kind(0.8), torch.full_like(S, 0.4)
    w = interpolant.coefficients(S)
    x = w.alpha * x0 + torch.linspace(-2, 2, len(S)).double() * (w.beta + w.gamma)
    law = page.Law(interpolant, page.Modes((0.4,), (1.0,), 0.0), page.TWO)
    _, b, score = law.at(x, S)
    log_density = derivative(lambda x: law.at(x, S)[0].log(), x)
    close(score, log_density)
    close(interpolant.score(b, x, x0, S), score)
    close(interpolant.clean(b, x, x0, S), (x - w.alpha * x0 + w.gamma**2 * score) / w.beta)  # Tweedie


@each_kind
def test_drift_and_score_move_the_density(kind, page):
    """Between two modes and three, the continuity equation: dp/ds = -d(p v)/dx with v = b - g0^2 / 2 score."""
    law = page.Law(kind(0.8), page.TWO, page.THREE)
    x, s = torch.linspace(-2, 2, 15).double()[:, None].expand(15, len(S)), S.expand(15, len(S))

    def flux(x: Tensor) -> Tensor:
        p, b, score = law.at(x, s)
        return p * (b - law.interpolant.coefficients(s).g0 ** 2 / 2 * score)

    close(derivative(lambda s: law.at(x, s)[0], s), -derivative(flux, x))


def test_the_drift_alone_misses_both_modes(page):
    generator, point = torch.Generator().manual_seed(0), page.Modes((0.5,), (1.0,), 0.0)
    x0 = torch.full((1000,), 0.5, dtype=torch.float64)
    law = page.Law(LinearInterpolant(1.0), point, page.TWO)
    end = law.sde(x0[:1], generator, noise=0.0)[-1]
    density = law.at(torch.cat([end, torch.tensor([1.0])]), torch.ones(1).double())[0]
    assert abs(float(end)) < 1e-3 and density[0] < 1e-6 * density[1]
    uneven = page.Law(LinearInterpolant(1.0), point, page.Modes((-1.0, 1.0), (0.4, 0.6), page.TWO.sd))
    assert float(uneven.sde(x0[:1], generator, noise=0.0)[-1]) == pytest.approx(0.90, abs=0.005)
    for end in (law.sde(x0, generator)[-1], law.flow(x0, generator)[-1]):
        assert float((end > 0).double().mean()) == pytest.approx(0.5, abs=0.08)
        assert float(end.abs().mean()) == pytest.approx(1, abs=0.03) and float(end.abs().std()) == pytest.approx(
            0.15, rel=0.15
        )


def test_the_code_of_the_page_runs():
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "interpolants.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(block, {})


# shapes


@each_kind
def test_sigma_per_channel(kind):
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)[:, None, None]
    x0, x1, z = torch.randn(3, 4, 2, 3, 5, dtype=torch.float64)
    s = 0.5 + torch.rand(4, dtype=torch.float64)[:, None, None, None] / 2
    both = kind(sigma).bridge(x0, x1, s, z)
    g = kind(sigma).foellmer(s)
    assert both.x_s.shape == both.target.shape == x0.shape and torch.broadcast_shapes(g.shape, x0.shape) == x0.shape
    for channel, value in enumerate((0.5, 2.0)):
        one = kind(value).bridge(x0, x1, s, z)
        torch.testing.assert_close(both.x_s[:, channel], one.x_s[:, channel])
        torch.testing.assert_close(both.target[:, channel], one.target[:, channel])
    state = (both.target, both.x_s, x0, s)  # target and state of one path determine its ends
    torch.testing.assert_close(kind(sigma).clean(*state), x1)
    torch.testing.assert_close(kind(sigma).noise(*state), z)
    for found in (kind(sigma).score(*state), kind(sigma).velocity(*state), kind(sigma).drift(*state, g)):
        assert found.shape == x0.shape and bool(found.isfinite().all())


@each_kind
def test_dtype_follows_s(kind):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        s = torch.rand(2).to(dtype)
        assert {v.dtype for v in vars(kind(0.3).coefficients(s)).values()} == {dtype}
        assert kind(0.3).foellmer(s).dtype == dtype
        for name in READ_OUTS:
            assert getattr(kind(0.3), name)(s, s, s, s).dtype == dtype, name
