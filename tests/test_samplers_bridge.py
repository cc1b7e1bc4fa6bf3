"""Samplers of the stochastic interpolant: draws and paths, orders along a path, mixtures, grids, precision, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact import GaussianBridge, Mixture, Scalar, full, normal, propagate, slope
from fromstate import BROWNIAN, KINDS, LINEAR, NAMES, PAIRS, QUADRATIC, SHAPE, each_name, field, make, recorded
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import FlowMatchingInterpolant, TrigonometricInterpolant
from physinterp.samplers import SAMPLERS, CalibratedBridge, DriftEuler, EulerMaruyama, FlowMidpoint, FlowRK4, Sampler
from physinterp.types import NoiseFn

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
    found = torch.mul(*flow.slope(bridge, y, one, state, None))
    assert bridge.calls == calls
    near = torch.mul(*flow.slope(bridge, y, one - 1e-11, state, None))
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
