"""Drifts and their laws: from a forecast with coloured noise, from the state, and the dressed twin to be beaten."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from exact import GaussianBridge, gaussian_drift, moments, normal, si_drift
from torch import Tensor, nn

from physinterp import drift
from physinterp.baselines.deterministic import Deterministic
from physinterp.calibration import Covariance, Shrinkage, White
from physinterp.checkpoint import load_tensors, save_tensors
from physinterp.drift import Drift, ForecastDrift, StateDrift
from physinterp.interpolant import LinearInterpolant
from physinterp.methods import METHODS, make_sampler
from physinterp.model import Model, as_level
from physinterp.optim import optimizers
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.types import Conditioning

SHAPE = C, H, W = 2, 4, 3
SCALE = torch.tensor([0.5, 2.0])
NONE = Conditioning()
FROM_STATE = [name for name in SAMPLERS if name.startswith("si-")]
RANDOM = [name for name in FROM_STATE if not SAMPLERS[name].deterministic]


class Network(nn.Module):
    """A backbone that is a formula of (x0, y, s); it counts its calls and has weights."""

    def __init__(self, f: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x0, y, s: torch.zeros_like(x0)) -> None:
        super().__init__()
        self.f, self.calls = f, 0
        self.mix, self.shift = nn.Parameter(torch.zeros(C, 2 * C)), nn.Parameter(torch.zeros(C, 1, 1))

    def forward(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        self.calls += 1
        learned = torch.einsum("ij,bjhw->bihw", self.mix, x) + self.shift
        return self.f(x[:, :C], x[:, C:], as_level(s)) + learned


def coloured() -> Covariance:
    """A covariance across channels and points, homogeneous along the first axis."""
    covariance = Covariance(C, (H, W), (-2,), rank=100).double()
    white = normal(60, *SHAPE, seed=9)
    covariance.fit(torch.tensor([0.3, 1.5]).double()[:, None, None] * (white + 0.7 * white.roll((1, 1), (1, 2))))
    return covariance


def twin() -> Deterministic:
    """x1 = x0 + scale tanh(x0)."""
    return Deterministic(Network(lambda x0, y, s: x0.tanh()), SCALE, coloured(), Shrinkage(C, (H, W), (-2,))).double().eval()


def from_forecast(network: Network | None = None) -> ForecastDrift:
    return ForecastDrift(network or Network(), SCALE, coloured(), twin()).double().eval()


def from_state(f: Callable[[Tensor, Tensor, Tensor], Tensor], covariance: Covariance) -> StateDrift:
    return StateDrift(Network(f), SCALE, covariance).double().eval()


def expected_mean(x0: Tensor) -> Tensor:
    return x0 + SCALE.double()[:, None, None] * x0.tanh()


def dense(covariance: Covariance) -> Tensor:
    """C, from what it does to unit vectors."""
    colour = covariance.colour(torch.eye(C * H * W, dtype=torch.float64).view(-1, *SHAPE)).flatten(1)
    return colour.T @ colour


def law(model: Model, sampler: Sampler, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean (d,) and covariance (d, d) of a step that is affine in its draws: its answers to unit vectors."""
    n, d = sampler.steps, x0.numel()
    draws = torch.cat([torch.zeros(1, n * d), torch.eye(n * d)]).to(x0).view(-1, n, *x0.shape)
    with torch.no_grad():
        x1 = model.advance(x0.expand(len(draws), *x0.shape), NONE, sampler, lambda k: model.colour(draws[:, k])).flatten(1)
    away = x1[1:] - x1[0]
    return x1[0], away.T @ away


def sampler_of(name: str, steps: int, model: Drift | Deterministic, temperature: float = 1.0) -> Sampler:
    return SAMPLERS[name](steps, model.interpolant, model.residual, temperature)


def close(found: tuple[Tensor, Tensor], mean: Tensor, covariance: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(found[0], mean.flatten(), rtol=rtol, atol=1e-9)
    torch.testing.assert_close(found[1], covariance, rtol=rtol, atol=1e-9)


# from the forecast of the twin -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("si-em", 1), ("si-cal", 1), ("si-cal", 2), ("si-cal", 5), ("si-foellmer", 1)])
def test_a_gaussian_residual_is_exact(name, steps):
    """Mean of the twin, covariance C: where noise and residual are white and of one variance, one step is enough."""
    model, x0 = from_forecast(), normal(*SHAPE)
    found = law(model, sampler_of(name, steps, model), x0)
    close(found, expected_mean(x0), dense(model.covariance))
    assert float(found[1].diag().std()) > 0.1  # not white


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 50])
def test_si_em_has_the_right_spread_at_any_number_of_steps(steps):
    """C times the number of a scalar with C = sigma^2: 1, 1.014, ..., never off by more than 1.5 %."""
    model, x0 = from_forecast(), normal(*SHAPE)
    _, ratio = moments(SAMPLERS["si-em"](steps), si_drift(0.0, 1.0, 1.0), 0.0)
    close(law(model, sampler_of("si-em", steps, model), x0), expected_mean(x0), ratio * dense(model.covariance))
    assert ratio == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("name", RANDOM)
def test_every_sampler_approaches_the_law(name):
    model, x0 = from_forecast(), normal(*SHAPE)
    steps = {"si-pf": 40, "si-pf-heun": 40, "si-pf-rk4": 10}.get(name, 100)
    found = law(model, sampler_of(name, steps, model), x0)
    close(found, expected_mean(x0), dense(model.covariance), rtol=0.03)
    if SAMPLERS[name].order > 1:
        close(found, expected_mean(x0), dense(model.covariance), rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_si_e_is_the_forecast_of_the_twin(steps):
    model, x0 = from_forecast(), normal(3, *SHAPE)
    found = model.advance(x0, NONE, sampler_of("si-e", steps, model), lambda k: pytest.fail("drew noise"))
    torch.testing.assert_close(found, model.twin.mean(x0, NONE), rtol=1e-13, atol=1e-13)
    assert torch.equal(model.mean(x0, NONE), model.twin.mean(x0, NONE))


@pytest.mark.parametrize("name", FROM_STATE)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_twin_takes_the_place_of_the_evaluation_at_zero(name, steps):
    model, x0 = from_forecast(), normal(2, *SHAPE)
    sampler = sampler_of(name, steps, model)
    model.advance(x0, NONE, sampler, lambda k: normal(2, *SHAPE, seed=k))
    assert model.twin.backbone.calls == 1 and model.backbone.calls == sampler.evaluations - 1


def test_the_drift_vanishes_at_zero():
    """Whatever the network says; in a batch of several levels as well."""
    model = from_forecast(Network(lambda x0, y, s: y + 7))
    x0, x_s, source = (normal(3, *SHAPE, seed=i) for i in range(3))
    zero = model.drift(source, torch.zeros(3).double(), source, x0, NONE)
    assert not zero.any() and model.backbone.calls == 0
    mixed = model.drift(torch.cat([source[:1], x_s[1:]]), torch.tensor([0.0, 0.2, 0.6]).double(), source, x0, NONE)
    assert not mixed[0].any() and bool(mixed[1:].all()) and model.backbone.calls == 1


@pytest.mark.parametrize("s", [1e-6, 0.3, 0.99])
def test_the_drift_is_that_of_a_gaussian_and_the_network_in_its_units(s):
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    model = from_forecast(Network(lambda x0, y, s: seen.append((x0, y, s)) or y.cos()))
    x0, x_s, source = (normal(2, *SHAPE, seed=i) for i in range(3))
    found = model.drift(x_s, torch.full((2,), s, dtype=torch.float64), source, x0, NONE)
    sigma, away = model.covariance.sigma, x_s - source
    gaussian = gaussian_drift(x_s, torch.tensor(s).double(), source, source, 1.0, 1.0)  # any C = sigma^2
    torch.testing.assert_close(found, gaussian + math.sqrt(s) * sigma * (away / sigma).cos())
    assert torch.equal(seen[0][0], x0) and float(seen[0][2].max()) == s
    torch.testing.assert_close(seen[0][1], away / sigma)


def test_a_sampler_has_white_noise_and_white_residual():
    model = from_forecast()
    assert isinstance(model.residual, White) and float(model.interpolant.sigma) == 1
    assert torch.equal(model.colour(normal(2, *SHAPE)), model.covariance.colour(normal(2, *SHAPE)))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature(temperature):
    model, x0 = from_forecast(), normal(*SHAPE)
    found = law(model, sampler_of("si-cal", 3, model, temperature), x0)
    close(found, expected_mean(x0), temperature**2 * dense(model.covariance))


# its loss ----------------------------------------------------------------------------------------------------------


def pairs(model: ForecastDrift, n: int) -> tuple[Tensor, Tensor]:
    """States, and the forecasts of the twin with a Gaussian residual of covariance C."""
    x0 = normal(n, *SHAPE, seed=3)
    return x0, expected_mean(x0) + model.covariance.colour(normal(n, *SHAPE, seed=4))


def test_no_network_is_the_minimiser_for_a_gaussian_residual():
    """On the same draws every perturbation is worse, and the gradient vanishes within its Monte-Carlo error."""
    n = 2000

    def loss(f: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> tuple[float, ForecastDrift]:
        model = from_forecast(Network(f) if f else None)
        value = model.loss(*pairs(model, n), NONE, torch.Generator().manual_seed(5))
        value.backward()
        return float(value.detach()), model

    best, model = loss()
    for perturbation in (
        lambda x0, y, s: torch.full_like(x0, 0.1),
        lambda x0, y, s: torch.full_like(x0, -0.1),
        lambda x0, y, s: 0.1 * y,
        lambda x0, y, s: -0.1 * y,
        lambda x0, y, s: 0.1 * x0,
        lambda x0, y, s: 0.1 * y.roll(1, 2),
        lambda x0, y, s: 0.1 * y.flip(1),
    ):
        assert loss(perturbation)[0] > best
    for gradient in (model.backbone.shift.grad, model.backbone.mix.grad):
        assert float(gradient.abs().max()) < 12 * math.sqrt(best / (n * H * W))


@pytest.mark.parametrize("training", [True, False])
def test_the_residual_is_inflated_in_training_alone(training):
    model = from_forecast(Network(lambda x0, y, s: y.sin()))
    factor = torch.tensor([1.4, 3.0]).double()[:, None, None]
    x0, x1 = pairs(model, 16)

    def loss(x1: Tensor) -> float:
        return float(model.loss(x0, x1, NONE, torch.Generator().manual_seed(0)).detach())

    plain, scaled = loss(x1), loss(expected_mean(x0) + factor * (x1 - expected_mean(x0)))
    model.inflation.copy_(factor)
    model.train(training)
    assert loss(x1) == pytest.approx(scaled if training else plain, rel=1e-12) and scaled > 1.2 * plain


def test_the_twin_is_not_trained():
    model = from_forecast().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x0, x1 = pairs(model, 8)
    generator, updates = torch.Generator().manual_seed(0), optimizers(model, 0.1)
    for _ in range(3):
        loss = model.loss(x0, x1, NONE, generator)
        model.zero_grad()
        loss.backward()
        assert all(p.grad is None for p in model.twin.parameters())
        for optimizer in updates:
            optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"backbone.mix", "backbone.shift"}


@pytest.mark.parametrize("level", [1e-30, 1e-7, 1 - 1e-7])
@pytest.mark.parametrize("kind", ["forecast", "state"])
def test_the_loss_and_its_gradient_are_finite_at_the_ends(monkeypatch, kind, level):
    monkeypatch.setattr(drift, "uniform", lambda n, generator, like: torch.full((n,), level).to(like))
    network = Network(lambda x0, y, s: y.sin())
    model = from_forecast(network) if kind == "forecast" else StateDrift(network, SCALE, coloured(), 0.0)
    model = model.float()
    x0, x1 = (x.float() for x in pairs(from_forecast(), 4))
    loss = model.loss(x0, x1, NONE, torch.Generator().manual_seed(0))
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(network.mix.grad).all())
    if level < 1e-6 and kind == "forecast":  # what is left at s = 0 is the residual itself, whose variance is C
        assert float(loss.detach()) == pytest.approx(1, abs=0.5)


def test_all_of_it_travels_with_the_weights(tmp_path):
    model = from_forecast(Network(lambda x0, y, s: y.sin()))
    model.inflation.fill_(1.7)
    nn.init.normal_(model.twin.backbone.mix)
    model.twin.shrinkage.rest.fill_(0.9)
    save_tensors(model.state_dict(), tmp_path / "w.safetensors")
    other = Deterministic(Network(lambda x0, y, s: x0.tanh()), torch.ones(C), coloured(), twin().shrinkage)
    other = ForecastDrift(Network(lambda x0, y, s: y.sin()), torch.ones(C), Covariance(C, (H, W), (-2,), 100), other)
    other = other.double().eval()
    other.load_state_dict(load_tensors(tmp_path / "w.safetensors"))
    x0, noise = normal(2, *SHAPE), lambda k: normal(2, *SHAPE, seed=k)
    a, b = (m.advance(x0, NONE, sampler_of("si-em", 3, m), noise) for m in (model, other))
    assert torch.equal(a, b) and float(other.inflation.min()) == 1.7


# from the state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_drift_from_the_state_is_exact_for_a_white_residual(steps):
    """With the network that knows the mean; sigma per channel."""
    white = Covariance(C, (H, W), (-2,), 100).double()
    white.sigma.copy_(torch.tensor([0.3, 1.5])[:, None, None])
    model, x0 = from_state(lambda x0, y, s: x0.tanh(), white), normal(*SHAPE)
    close(law(model, sampler_of("si-cal", steps, model), x0), expected_mean(x0), dense(white))
    torch.testing.assert_close(model.mean(x0[None], NONE)[0], expected_mean(x0))
    mean, covariance = law(model, sampler_of("si-e", steps, model), x0)
    close((mean, covariance), expected_mean(x0), torch.zeros_like(covariance))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_si_cal_from_the_state_is_exact_for_a_coloured_residual(steps):
    """The exact drift of a Gaussian as the network; sigma was set before, R is measured in its units."""
    covariance = coloured()
    covariance.fit(covariance.colour(normal(200, *SHAPE, seed=7)), torch.tensor([0.5, 0.8]).double()[:, None, None])
    c, sigma = dense(covariance), covariance.sigma.expand(SHAPE).flatten()
    x0 = normal(*SHAPE)
    exact = GaussianBridge(LinearInterpolant(covariance.sigma), expected_mean(x0), c / sigma[:, None] / sigma)
    scale = SCALE.double()[:, None, None]

    def network(state: Tensor, y: Tensor, s: Tensor) -> Tensor:
        slope = s / (s + (1 - s) ** 2)
        b = exact(state + scale * y, s.flatten(), state, NONE)
        return (b - slope * scale * y) / (1 - s * slope) / scale

    model = from_state(network, covariance)
    close(law(model, sampler_of("si-cal", steps, model), x0), expected_mean(x0), c, rtol=1e-8)
    plain = law(model, sampler_of("si-em", steps, model), x0)
    torch.testing.assert_close(plain[0], expected_mean(x0).flatten())
    assert not torch.allclose(plain[1], c, rtol=0.1)


# the dressed twin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_dressed_twin_is_its_mean_and_noise_of_its_residual(temperature):
    model, x0 = twin(), normal(*SHAPE)
    sampler = make_sampler(METHODS["deterministic-dressed"], model, {"si-cal": 4}, temperature)
    assert sampler.steps == sampler.evaluations == 1
    close(law(model, sampler, x0), expected_mean(x0), temperature**2 * dense(model.covariance))
    assert model.backbone.calls == 1
    noise = normal(3, *SHAPE, seed=1)
    x1 = model.advance(x0.expand(3, *SHAPE), NONE, sampler, lambda k: model.colour(noise))
    torch.testing.assert_close(x1, expected_mean(x0) + temperature * model.covariance.colour(noise))


def test_one_step_of_the_drift_without_a_network_is_the_dressed_twin():
    """What the interpolant adds beyond it is what its later steps add."""
    model, x0, noise = from_forecast(), normal(2, *SHAPE), normal(2, *SHAPE, seed=1)
    dressed = make_sampler(METHODS["deterministic-dressed"], model.twin, {})
    expected = model.twin.advance(x0, NONE, dressed, lambda k: noise)
    for name in ("si-em", "si-cal"):
        torch.testing.assert_close(model.advance(x0, NONE, sampler_of(name, 1, model), lambda k: noise), expected)


def test_drifts_need_a_sampler():
    for model in (from_forecast(), from_state(lambda x0, y, s: x0, coloured())):
        with pytest.raises(ValueError, match="a drift is advanced by a sampler and got none"):
            model.advance(normal(1, *SHAPE), NONE, None, lambda k: normal(1, *SHAPE))
