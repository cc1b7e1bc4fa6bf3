"""Samplers from noise with the exact velocity of y ~ N(mu, c): closed forms at every number of steps, orders, draws."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from exact import Counted, full, moments, one_sided_drift
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import (
    FlowMatchingInterpolant,
    LinearInterpolant,
    VarianceExplodingInterpolant,
    VariancePreservingInterpolant,
)
from physinterp.samplers import SAMPLERS, Sampler, TruncatedAncestral
from physinterp.samplers.diffusion import EDM_MIN, FromNoise
from physinterp.types import Conditioning

NAMES = [name for name, kind in SAMPLERS.items() if issubclass(kind, FromNoise)]
FLOWS = [name for name in NAMES if not SAMPLERS[name].noisy_steps]
EULER = ("ddim", "edm-euler", "fm-euler")
LAWS = [(0.0, 0.04), (1.0, 0.25), (1.0, 1.0), (3.0, 4.0), (-2.0, 0.0025)]  # mu, c
each_law = pytest.mark.parametrize(("mu", "c"), LAWS)
each_count = pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])


def found(name: str, steps: int, mu: float, c: float, **options) -> tuple[float, float]:
    """Exact mean and variance of the samples of y; the state, here 5, must not matter."""
    sampler = SAMPLERS[name](steps, **options)
    return moments(sampler, one_sided_drift(sampler.interpolant, mu, c), 5.0)


# closed forms, with a path and a grid of their own ------------------------------------------------------------------

V_MAX, V_MIN = 80.0, 0.002


def trailing(n: int) -> list[tuple[float, float]]:
    """(a, v) of DDPM and DDIM from pure noise to y: equal angles."""
    return [(math.sin(math.pi / 2 * k / n), math.cos(math.pi / 2 * k / n)) for k in range(n)] + [(1.0, 0.0)]


def straight(n: int) -> list[tuple[float, float]]:
    """(a, v) of flow matching."""
    return [(k / n, 1 - k / n) for k in range(n + 1)]


def karras(n: int) -> list[tuple[float, float]]:
    """(a, v) of EDM, by the formula of its paper."""
    first, last = V_MAX ** (1 / 7), V_MIN ** (1 / 7)
    return [(1.0, (first + k / max(n - 1, 1) * (last - first)) ** 7) for k in range(n)] + [(1.0, 0.0)]


LEVELS = {"ddim": trailing, "edm-euler": karras, "fm-euler": straight}


def cosine(p: tuple[float, float], q: tuple[float, float], c: float) -> float:
    """Cosine of the angle between (a sqrt(c), v) at two levels."""
    (a, v), (a1, v1) = p, q
    return (a * a1 * c + v * v1) / math.sqrt((a * a * c + v * v) * (a1 * a1 * c + v1 * v1))


@pytest.mark.parametrize("name", EULER)
@each_law
@each_count
def test_the_first_order_flows_keep_the_cosines_of_their_angles(name, mu, c, steps):
    levels = LEVELS[name](steps)
    a, v = levels[0]
    kept = v * v / (a * a * c + v * v)  # the start leaves out a y
    for p, q in pairwise(levels):
        kept *= cosine(p, q, c) ** 2
    mean, variance = found(name, steps, mu, c)
    assert variance / c == pytest.approx(kept, rel=1e-9, abs=1e-15)
    n = steps + (name == "edm-euler")  # whose start is one more angle, sqrt(c) / 80
    assert variance / c <= math.cos(math.pi / 2 / n) ** (2 * n) + 1e-12
    factor = math.sqrt(kept * c) / v  # of the noise of the start, and of the mean that the start leaves out
    assert mean == pytest.approx(mu * (1 - a * factor), abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 100])
def test_ddim_has_the_least_loss_of_any_first_order_flow_where_c_is_one(steps):
    _, variance = found("ddim", steps, 1.0, 1.0)
    assert variance == pytest.approx(math.cos(math.pi / 2 / steps) ** (2 * steps), rel=1e-9, abs=1e-15)


def flow_factor(method: str, n: int, c: float) -> float:
    """Product of the stability functions of a flow-matching method along its grid."""

    def slope(s: float) -> float:
        return (s * c - (1 - s)) / (s * s * c + (1 - s) ** 2)

    factor, h = 1.0, 1 / n
    for s in (k / n for k in range(n)):
        factor *= {
            "fm-euler": 1 + h * slope(s),
            "fm": 1 + h * slope(s + h / 2) * (1 + h / 2 * slope(s)),
            "fm-heun": 1 + h / 2 * (slope(s) + slope(s + h) * (1 + h * slope(s))),
        }[method]
    return factor


@pytest.mark.parametrize("name", ["fm-euler", "fm", "fm-heun"])
@each_law
@each_count
def test_flow_matching_is_the_product_of_its_steps(name, mu, c, steps):
    mean, variance = found(name, steps, mu, c)
    assert mean == pytest.approx(mu, abs=1e-9)
    assert variance == pytest.approx(flow_factor(name, steps, c) ** 2, rel=1e-9, abs=1e-15)


@each_law
@each_count
def test_edm_heun_is_the_product_of_its_steps(mu, c, steps):
    factor = 1.0
    for (_, v), (_, v1) in pairwise(karras(steps)):
        h, slope, slope1 = v1 - v, v / (c + v * v), v1 / (c + v1 * v1)
        factor *= 1 + h / 2 * (slope + slope1 * (1 + h * slope)) if v1 else 1 + h * slope
    mean, variance = found("edm", steps, mu, c)
    assert mean == pytest.approx(mu * (1 - factor), rel=1e-9, abs=1e-9)
    assert variance == pytest.approx((factor * V_MAX) ** 2, rel=1e-8, abs=1e-15)


def chain_variance(levels: list[tuple[float, float]], c: float) -> float:
    """c less what each step leaves out, (a' (1 - kept))^2 Var[y | y_s], carried to the end by Cov[y, y_s'] / Var[y_s']."""
    variance = c
    for (a, v), (a1, v1) in pairwise(levels):
        out = (a1 * (1 - (a * v1 / (a1 * v)) ** 2)) ** 2 * c * v * v / (a * a * c + v * v)
        variance -= out * (a1 * c / (a1 * a1 * c + v1 * v1)) ** 2
    return variance


@each_law
@each_count
def test_ddpm_leaves_out_the_spread_of_its_estimate(mu, c, steps):
    mean, variance = found("ddpm", steps, mu, c)
    assert mean == pytest.approx(mu, abs=1e-9)
    assert variance == pytest.approx(chain_variance(trailing(steps), c), rel=1e-8, abs=1e-12)
    assert variance <= c


@each_law
@pytest.mark.parametrize(("steps", "skip"), [(1, 0.99), (10, 0.9), (3, 0.5), (5, 0.0)])
def test_tsm_is_a_chain_that_ends_early(mu, c, steps, skip):
    angles = [math.pi / 2 * (1 - skip) * k / steps for k in range(steps)]
    levels = [(math.sin(x), math.cos(x)) for x in angles] + [(1.0, 0.0)]
    mean, variance = found("tsm", steps, mu, c, skip=skip)
    assert mean == pytest.approx(mu, abs=1e-9)
    assert variance == pytest.approx(chain_variance(levels, c), rel=1e-8, abs=1e-12)
    if skip == 0:
        assert variance == pytest.approx(found("ddpm", steps, mu, c)[1], rel=1e-12, abs=1e-15)


@each_law
def test_tsm_is_practically_deterministic_at_any_number_of_steps(mu, c):
    a, v = math.sin(math.pi / 20), math.cos(math.pi / 20)  # the last level for skip = 0.9
    limit = a * a * c / (a * a * c + v * v)
    ratios = [found("tsm", n, mu, c)[1] / c for n in (1, 10, 100, 400)]
    assert ratios == sorted(ratios) and ratios[0] == pytest.approx(0, abs=1e-12)
    assert ratios[-1] == pytest.approx(limit, rel=0.02) and limit < 0.1
    assert limit - ratios[-1] == pytest.approx((limit - ratios[-2]) / 4, rel=0.15)  # first order to the wrong law


@each_law
def test_one_step_is_the_conditional_mean(mu, c):
    for name in ("ddpm", "tsm", "ddim", "fm-euler"):
        mean, variance = found(name, 1, mu, c)
        assert mean == pytest.approx(mu, abs=1e-12) and variance == pytest.approx(0, abs=1e-15)


# orders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tsm"])
@pytest.mark.parametrize(("mu", "c"), [(1.0, 0.04), (3.0, 4.0)])
def test_the_bias_vanishes_with_the_declared_order(name, mu, c):
    """That of the midpoint rule with one order more, because the velocity of a Gaussian is linear."""
    limit, steps = c, [60, 120, 240]
    if name in ("edm", "edm-euler"):  # what the first level below infinity and the last one above 0 leave out
        limit = c * V_MAX**2 / (c + V_MAX**2) * c / (c + V_MIN**2)
    errors = np.array([found(name, n, mu, c)[1] - limit for n in steps])
    order = -np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]
    assert order == pytest.approx(3 if name == "fm" else SAMPLERS[name].order, abs=0.25)
    assert abs(errors[-1]) < 0.09 * c and abs(limit / c - 1) < 1e-3
    assert found(name, steps[-1], mu, c)[0] == pytest.approx(mu, abs=0.03 * mu if "edm" in name else 1e-9)


def two_modes(sampler: Sampler, m: float, c: float) -> Counted:
    """The velocity for y = m or -m, each with variance c."""

    def f(x: Tensor, s: Tensor, x0: Tensor) -> Tensor:
        k = sampler.interpolant.coefficients(s)
        variance = k.beta**2 * c + k.gamma**2
        mode = m * torch.tanh(k.beta * m * x / variance)
        off = (x - k.beta * mode) / variance
        return k.beta_dot * (mode + k.beta * c * off) + k.eta * k.gamma * off

    return Counted(f)


@pytest.mark.parametrize("name", FLOWS)
def test_flows_use_one_draw_and_give_the_same_member_at_any_number_of_steps(name):
    x0 = torch.zeros(1, 1, 1, 9, dtype=torch.float64)
    z = torch.linspace(-1.9, 2.2, 9, dtype=torch.float64).expand_as(x0)
    drawn: list[int] = []
    members = []
    for n in (100, 200, 400):
        sampler = SAMPLERS[name](n)
        members.append(sampler(two_modes(sampler, 1.0, 0.2), x0, noise=lambda k: drawn.append(k) or z))
    assert drawn == [0, 0, 0] and not SAMPLERS[name].deterministic
    coarse, fine = ((a - b).abs().max() for a, b in pairwise(members))
    assert math.log2(coarse / fine) == pytest.approx(SAMPLERS[name].order, abs=0.2)
    assert float(fine) < 0.01 and bool((members[-1].diff(dim=-1) > 0).all())  # a flow keeps the order of its members


@pytest.mark.parametrize(("mu", "c"), [(1.0, 0.25), (1.0, 1.0), (1.0, 4.0)])
def test_midpoint_flow_matching_is_near_the_law_from_two_steps(mu, c):
    for steps, error in ((2, 0.041), (5, 0.005)):
        assert found("fm", steps, mu, c)[1] == pytest.approx(c, rel=error)
    assert found("fm-heun", 5, mu, c)[1] == pytest.approx(c, rel=0.06)


# the numbers of the project's notes on the reference implementation, [mean,] variance / c ----------------------------


@pytest.mark.parametrize(
    ("mu", "c", "expected"),
    [
        (1, 1, (0.25, 0.78, 0.98)),
        (1, 0.04, (0.04, 0.60, 0.95)),
        (3, 0.25, (0.16, 0.75, 0.97)),
        (0, 0.0025, (0.003, 0.16, 0.85)),
    ],
)
def test_notes_on_flow_matching(mu, c, expected):
    for steps, value in zip((2, 10, 100), expected, strict=True):
        mean, variance = found("fm-euler", steps, mu, c)
        assert mean == pytest.approx(mu, abs=1e-9) and variance / c == pytest.approx(value, abs=0.0085)


@pytest.mark.parametrize(
    ("mu", "c", "mean", "euler", "heun", "fine"),
    [(1, 1, 0.98, 0.57, 1.39, 1.02), (1, 0.04, 1.0, 0.49, 1.69, 1.03), (3, 0.25, 2.98, 0.54, 1.49, 1.02)],
)
def test_notes_on_edm(mu, c, mean, euler, heun, fine):
    """Euler and Heun at ten steps, Heun at forty."""
    for name, steps, value in (("edm-euler", 10, euler), ("edm", 10, heun), ("edm", 40, fine)):
        at, variance = found(name, steps, mu, c)
        assert variance / c == pytest.approx(value, abs=0.0125), (name, steps)
        assert at == pytest.approx(mean, abs=0.012), (name, steps)


def test_edm_heun_is_much_too_wide_at_few_steps():
    """The numbers of its docstring."""
    for steps, value in ((3, 19), (5, 3.6), (10, 1.38), (18, 1.09), (40, 1.02)):
        assert found("edm", steps, 0.0, 1.0)[1] == pytest.approx(value, rel=0.015)


def test_notes_on_tsm():
    """Another schedule than theirs, whose last levels are a^2 = .033 (skip .9) and .016 (skip .99): of the same size."""
    for mu, c, most in ((1, 1, 0.033), (1, 0.04, 0.001), (3, 0.25, 0.009)):
        mean, variance = found("tsm", 10, mu, c)
        assert mean == pytest.approx(mu, abs=1e-9) and 0.2 * most < variance / c < 1.2 * most


# one step ------------------------------------------------------------------------------------------------------------

PAIRS = [(0.0, 0.3), (0.2, 0.25), (0.5, 0.9), (0.7, 1.0)]


def point(sampler: Sampler, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Counted]:
    """y, z, y_s and the velocity that knows both, so that E[y] = y and E[z] = z."""
    y, z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bridge = sampler.interpolant.bridge(torch.zeros_like(y), y, s, z)
    return y, z, bridge.x_s, Counted(lambda x, s, x0: bridge.target)


def step(sampler: Sampler, b: Counted, x: Tensor, s: Tensor, s1: Tensor, noise: Tensor) -> Tensor:
    return sampler.step(b, x, s, s1, torch.full_like(x, 9.0), Conditioning(), noise)


@pytest.mark.parametrize("name", EULER)
@pytest.mark.parametrize("path", ["own", "other"])
@pytest.mark.parametrize(("s", "s1"), PAIRS)
def test_the_first_order_flows_are_one_map(name, path, s, s1):
    """a' E[y] + v' E[z] on the path of each; DDIM on any path."""
    other = FlowMatchingInterpolant() if name == "ddim" and path == "other" else None
    sampler, s, s1 = SAMPLERS[name](4, other), torch.tensor(s).double(), torch.tensor(s1).double()
    y, z, x, b = point(sampler, s)
    c = sampler.interpolant.coefficients(s1)
    torch.testing.assert_close(step(sampler, b, x, s, s1, full(0.0)), c.beta * y + c.gamma * z, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", ["ddpm", "tsm"])
@pytest.mark.parametrize(("s", "s1"), PAIRS)
def test_ddpm_draws_from_the_law_between_two_levels(name, s, s1):
    """Gaussian conditioning: y_s = r y_s' + sqrt(v^2 - r^2 v'^2) e, given y."""
    sampler, s, s1 = SAMPLERS[name](4), torch.tensor(s).double(), torch.tensor(s1).double()
    y, _, x, b = point(sampler, s)
    xi = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (a, v), (a1, v1) = ((math.sin(math.pi / 2 * float(t)), math.cos(math.pi / 2 * float(t))) for t in (s, s1))
    gain = a / a1 * v1**2 / v**2
    expected = a1 * y + gain * (x - a * y) + math.sqrt(v1**2 - gain * a / a1 * v1**2) * xi
    torch.testing.assert_close(step(sampler, b, x, s, s1, xi), expected, rtol=1e-10, atol=1e-10)


# levels and draws ----------------------------------------------------------------------------------------------------


def test_levels():
    v = SAMPLERS["edm"](6).interpolant.coefficients(SAMPLERS["edm"](6).grid()).gamma
    assert v.tolist() == pytest.approx([level for _, level in karras(6)], rel=1e-9) and v[0] == V_MAX and v[-1] == 0
    assert V_MIN == EDM_MIN and float(v[-2]) == pytest.approx(EDM_MIN)
    low = SAMPLERS["edm-euler"](5, VarianceExplodingInterpolant(20.0))
    assert low.interpolant.coefficients(low.grid()).gamma[[0, 4, 5]].tolist() == pytest.approx([20, EDM_MIN, 0])
    assert SAMPLERS["ddim"](4).grid().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert TruncatedAncestral(10).grid().tolist() == pytest.approx([0.01 * k for k in range(10)] + [1])
    assert TruncatedAncestral(2, grid=[0, 0.5, 1]).grid().tolist() == [0, 0.5, 1]
    for name in NAMES:
        kind = SAMPLERS[name]
        first = kind(3).interpolant.coefficients(kind(3).grid()[:1])
        assert float(first.gamma / (first.beta + 1e-300)) >= V_MAX  # noise, or next to it


@pytest.mark.parametrize("name", ["ddpm", "tsm"])
def test_chains_use_a_draw_for_the_start_and_one_for_each_step(name):
    drawn: list[int] = []
    x0 = torch.zeros(2, 1, 4, 4)
    SAMPLERS[name](3)(Counted(lambda x, s, x0: x), x0, noise=lambda k: drawn.append(k) or torch.ones_like(x0))
    assert drawn == [3, 0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_without_noise_every_member_is_the_mean(name):
    sampler, x0 = SAMPLERS[name](5, temperature=0.0), torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    y = sampler(one_sided_drift(sampler.interpolant, 2.0, 0.5), x0, noise=lambda k: torch.randn(3, 1, 1, 1).double())
    assert y.flatten().tolist() == pytest.approx([2.0] * 3, rel=0.03) and float(y.var()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_moments_of_the_recursion(name):
    """The loop in single precision with real draws: mean and variance within five standard errors."""
    n, mu, c = 20_000, -1.0, 0.4
    sampler, generator = SAMPLERS[name](4), torch.Generator().manual_seed(0)
    draws = torch.randn(5, n, 1, 1, 1, generator=generator)
    drift = one_sided_drift(sampler.interpolant, mu, c)
    y = sampler(drift, torch.zeros(n, 1, 1, 1), noise=lambda k: draws[k]).double()
    mean, variance = moments(sampler, drift, 0.0)
    assert float(y.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
    assert float(y.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


# errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [-0.1, 1.0, math.nan])
def test_bad_skip(skip):
    with pytest.raises(InputError, match=r"a share of the chain in \[0, 1\), found skip = "):
        TruncatedAncestral(3, skip=skip)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_starts_from_a_state_is_refused(name):
    with pytest.raises(InputError, match="found LinearInterpolant"):
        SAMPLERS[name](3, LinearInterpolant())


def test_edm_needs_its_path():
    with pytest.raises(InputError, match=r"EDMHeun .* needs beta = 1, found VariancePreservingInterpolant"):
        SAMPLERS["edm"](3, VariancePreservingInterpolant())
