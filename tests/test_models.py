"""Objectives on exact and trained networks: preconditioning, warm start, minimisers; the baselines that learn nothing."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from exact import gaussian_drift
from safetensors.torch import load_file
from torch import Tensor, nn

from physinterp.baselines.deterministic import Deterministic
from physinterp.baselines.diffusion import DDPM, EDM, Diffusion, FlowMatching
from physinterp.baselines.fno import FNOBackbone
from physinterp.baselines.reference import Climatology, Persistence
from physinterp.calibration import Covariance, Shrinkage
from physinterp.checkpoint import save_tensors
from physinterp.drift import StateDrift
from physinterp.interpolant import LinearInterpolant, OneSidedInterpolant, TrigonometricInterpolant
from physinterp.model import Model, as_level, gaussian, uniform
from physinterp.nn.dit import DiT
from physinterp.nn.unet import UNet
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.types import Conditioning

C, H, W = 2, 16, 8
SCALE = torch.tensor([0.5, 2.0])
SIGMA = torch.tensor([0.3, 0.7])
COLUMN = SCALE[:, None, None]
BACKBONES = {
    "unet": lambda: UNet(2 * C, C, ("periodic", "wall"), widths=(8, 16), parameters=1, clean_channels=C),
    "dit": lambda: DiT(2 * C, C, ("periodic", "wall"), width=16, depth=2, heads=2, patch=4, parameters=1, clean_channels=C),
}


def white(sigma: Tensor = SIGMA) -> Covariance:
    """The covariance sigma^2 I per channel."""
    covariance = Covariance(C, (H, W), (-2,))
    covariance.sigma.copy_(sigma[:, None, None])
    return covariance


OBJECTIVES = {
    "deterministic": lambda backbone: Deterministic(backbone, SCALE, white(), Shrinkage(C, (H, W), (-2,))),
    "interpolant": lambda backbone: StateDrift(backbone, SCALE, white()),
    "ddpm": lambda backbone: DDPM(backbone, SCALE),
    "edm": lambda backbone: EDM(backbone, SCALE),
    "flow-matching": lambda backbone: FlowMatching(backbone, SCALE),
}
FROM_NOISE = ("ddpm", "edm", "flow-matching")


def states(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, C, H, W, generator=torch.Generator().manual_seed(seed))


def condition(n: int) -> Conditioning:
    return Conditioning(torch.linspace(-1, 1, n)[:, None])


def fit(model: Model, x0: Tensor, x1: Tensor, steps: int, rate: float = 3e-3) -> list[float]:
    optimizer, generator = torch.optim.Adam(model.parameters(), rate), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        loss = model.loss(x0, x1, condition(len(x0)), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Formula(nn.Module):
    """A backbone that is a formula of (x0, y, s)."""

    def __init__(self, f) -> None:
        super().__init__()
        self.f = f
        self.shift = nn.Parameter(torch.zeros(C, 1, 1))

    def forward(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        return self.f(x[:, :C], x[:, C:], as_level(s)) + self.shift


# preconditioning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.0, 0.2, 0.7, 0.99])
def test_the_drift_of_an_exact_mean_is_the_exact_drift(s):
    x0, x_s = states(3).double(), states(3, 1).double()
    mu = torch.tanh(x0) + 1.5
    model = OBJECTIVES["interpolant"](Formula(lambda x0, y, s: (torch.tanh(x0) + 1.5 - x0) / COLUMN)).double()
    found = model.drift(x_s, torch.full((3,), s).double(), x0, x0, Conditioning())
    for channel, sigma in enumerate(SIGMA.double().tolist()):
        one = [t[:, channel] for t in (x_s, x0, mu)]
        expected = gaussian_drift(one[0], torch.tensor(s).double(), one[1], one[2], sigma**2, sigma)
        torch.testing.assert_close(found[:, channel], expected, rtol=1e-6, atol=1e-6)


def test_the_second_input_of_the_drift_is_the_scaled_departure():
    seen = []
    model = OBJECTIVES["interpolant"](Formula(lambda x0, y, s: seen.append((x0, y)) or torch.zeros_like(x0)))
    x0, x_s = states(2), states(2, 1)
    model.drift(x_s, torch.zeros(2), x0, x0, Conditioning())
    assert torch.equal(seen[0][0], x0)
    torch.testing.assert_close(seen[0][1], (x_s - x0) / COLUMN)


def denoiser(model: Diffusion, y_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
    return model.path.clean(model(y_s, s, x0, cond), y_s, x0, as_level(s))


def test_edm_preconditioning_is_that_of_karras():
    """c_skip, c_out and c_in for sigma_data = 1: the input and the target of the network have unit variance."""
    model = EDM(Formula(lambda x0, y, s: y.cos()), SCALE).double()
    y_s, s = states(4).double(), torch.tensor([0.0, 0.3, 0.6, 0.75]).double()
    v = 80 * (1 - as_level(s)) ** 7
    expected = y_s / (1 + v**2) + v / (1 + v**2).sqrt() * (y_s / (1 + v**2).sqrt()).cos()
    torch.testing.assert_close(denoiser(model, y_s, s, states(4).double(), Conditioning()), expected, rtol=1e-9, atol=1e-9)


def test_ddpm_preconditioning_is_the_v_prediction():
    model = DDPM(Formula(lambda x0, y, s: y.cos()), SCALE).double()
    y_s, s = states(4).double(), torch.tensor([0.0, 0.3, 0.6, 1.0]).double()
    a, v = torch.sin(math.pi / 2 * as_level(s)), torch.cos(math.pi / 2 * as_level(s))
    found = denoiser(model, y_s, s, states(4).double(), Conditioning())
    torch.testing.assert_close(found, a * y_s + v * y_s.cos(), rtol=1e-12, atol=1e-12)


def test_flow_matching_preconditioning_is_the_velocity_of_a_standard_normal():
    """b = (2 s - 1) / q^2 y_s + F / q."""
    zeros, ones = (FlowMatching(Formula(lambda x0, y, s, c=c: c + 0 * y), SCALE).double() for c in (0.0, 1.0))
    y_s, s = states(4).double(), torch.tensor([0.0, 0.2, 0.5, 1.0]).double()
    variance = as_level(s) ** 2 + (1 - as_level(s)) ** 2
    base = zeros(y_s, s, y_s, Conditioning())
    torch.testing.assert_close(base, (2 * as_level(s) - 1) / variance * y_s, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((ones(y_s, s, y_s, Conditioning()) - base) ** 2, (1 / variance).expand_as(y_s))


# targets -----------------------------------------------------------------------------------------------------------

SOURCES = {"ddpm": TrigonometricInterpolant(0.0), "flow-matching": LinearInterpolant(0.0)}


def telling(model_of, y: Tensor, z: Tensor) -> Diffusion:
    """A model whose network knows y and z and predicts its own target, (v y - a z) / sqrt(a^2 + v^2)."""

    def f(x0: Tensor, u: Tensor, s: Tensor) -> Tensor:
        c = model.path.coefficients(s)
        return (c.gamma * y - c.beta * z) / (c.beta**2 + c.gamma**2).sqrt()

    model: Diffusion = model_of(Formula(f)).double()
    return model


@pytest.mark.parametrize("name", FROM_NOISE)
def test_the_target_of_a_model_is_that_of_its_interpolant(name):
    y, z, x0 = (states(4, i).double() for i in range(3))
    s = torch.tensor([0.0, 0.3, 0.6, 0.95]).double()
    model = telling(OBJECTIVES[name], y, z)
    assert isinstance(model.path, OneSidedInterpolant)
    bridge = model.path.bridge(x0, y, as_level(s), z)
    torch.testing.assert_close(model(bridge.x_s, s, x0, Conditioning()), bridge.target, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SOURCES)
def test_the_target_is_that_of_an_interpolant_whose_source_is_the_noise(name):
    """Flow matching is the linear and DDPM the trigonometric interpolant from x0 = z with sigma = 0: the same pair
    of input and target, so the same minimiser."""
    y, z, other = (states(4, i).double() for i in range(3))
    s = torch.tensor([0.0, 0.3, 0.6, 0.95]).double()
    model, two_sided = telling(OBJECTIVES[name], y, z), SOURCES[name].bridge(z, y, as_level(s), other)
    one_sided = model.path.bridge(other, y, as_level(s), z)
    torch.testing.assert_close(one_sided.x_s, two_sided.x_s, rtol=1e-12, atol=1e-12)
    found = model(two_sided.x_s, s, other, Conditioning())
    torch.testing.assert_close(found, two_sided.target, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FROM_NOISE)
def test_the_loss_is_that_of_the_paper(name):
    """Flow matching: |b - (y - z)|^2. DDPM: |F - (v y - a z)|^2. EDM: (v^2 + 1) / v^2 |D - y|^2."""
    levels: list[Tensor] = []
    network = Formula(lambda x0, u, s: levels.append(s) or (u + 0.3 * x0).sin())
    model = OBJECTIVES[name](network).double().requires_grad_(False)
    x0, y = states(8).double(), states(8, 1).double()
    found = float(model.loss(x0, x0 + COLUMN.double() * y, Conditioning(), torch.Generator().manual_seed(4)))
    s, generator = levels.pop().flatten(), torch.Generator().manual_seed(4)
    uniform(8, generator, y)
    bridge = model.path.bridge(x0, y, as_level(s), gaussian(generator, y))
    b = model(bridge.x_s, s, x0, Conditioning())
    if name == "edm":
        v = 80 * (1 - as_level(s)) ** 7
        error = (1 + v**2).sqrt() / v * (denoiser(model, bridge.x_s, s, x0, Conditioning()) - y)
    else:
        error = (b - bridge.target) * (2 / math.pi if name == "ddpm" else 1)
    assert found == pytest.approx(float(error.square().mean()), rel=1e-9)


def test_levels_of_edm_have_the_law_of_karras():
    """ln v has the mean -1.2 - ln(sigma_data) for EDM's sigma_data = 0.5, and v keeps within EDM's levels."""
    u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    levels = EDM(nn.Identity(), SCALE).levels
    log = EDM.path.coefficients(levels(u)).gamma.log()
    assert float(log.mean()) == pytest.approx(-1.2 - math.log(0.5), abs=0.02)
    assert float(log.std()) == pytest.approx(1.2, abs=0.01)
    v = EDM.path.coefficients(levels(torch.tensor([0.0, 1.0]).double())).gamma
    assert 0.001999 < float(v[0]) < 0.01 and 50 < float(v[1]) < 80.001


# minimisers --------------------------------------------------------------------------------------------------------

MEAN, VARIANCE = 0.4, 0.5  # of (x1 - x0) / scale


def drift_network(x0: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """What the network has to say for x1 - x0 ~ scale N(MEAN, VARIANCE): the exact drift, preconditioning undone."""
    c = COLUMN**2 * VARIANCE
    sigma = SIGMA[:, None, None]
    slope = (c - sigma**2 * (1 - s)) / (s * c + sigma**2 * (1 - s) ** 2)
    departure = COLUMN * y
    drift = COLUMN * MEAN + slope * (departure - s * COLUMN * MEAN)
    k = s / (s + (1 - s) ** 2)
    return (drift - k * departure) / (1 - s * k) / COLUMN


def one_sided_network(path: OneSidedInterpolant):
    """The same for a model from noise: (v E[y] - a E[z]) / q from the input y_s / q."""

    def f(x0: Tensor, u: Tensor, s: Tensor) -> Tensor:
        c = path.coefficients(s)
        a, v, q = c.beta, c.gamma, (c.beta**2 + c.gamma**2).sqrt()
        off = (q * u - a * MEAN) / (a**2 * VARIANCE + v**2)
        return (v * (MEAN + a * VARIANCE * off) - a * v * off) / q

    return f


EXACT = {
    "deterministic": lambda x0, y, s: torch.full_like(x0, MEAN),
    "interpolant": drift_network,
    "ddpm": one_sided_network(DDPM.path),
    "edm": one_sided_network(EDM.path),
    "flow-matching": one_sided_network(FlowMatching.path),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_exact_network_minimises_the_loss(name):
    """On the same draws, every perturbation of the exact conditional mean is worse; its gradient vanishes."""
    n = 256
    x0 = states(n)
    x1 = x0 + COLUMN * (MEAN + math.sqrt(VARIANCE) * states(n, 1))

    def loss(f) -> Tensor:
        return OBJECTIVES[name](Formula(f)).loss(x0, x1, Conditioning(), torch.Generator().manual_seed(3)).detach()

    best = float(loss(EXACT[name]))
    assert math.isfinite(best)
    for perturbation in (
        lambda x0, y, s: torch.full_like(x0, 0.1),
        lambda x0, y, s: torch.full_like(x0, -0.1),
        lambda x0, y, s: 0.2 * x0,
        *(
            ()
            if name == "deterministic"
            else (lambda x0, y, s: 0.1 * y, lambda x0, y, s: -0.1 * y, lambda x0, y, s: 0.1 * s)
        ),
    ):
        assert float(loss(lambda x0, y, s, p=perturbation: EXACT[name](x0, y, s) + p(x0, y, s))) > best
    model = OBJECTIVES[name](Formula(EXACT[name]))
    model.loss(x0, x1, Conditioning(), torch.Generator().manual_seed(3)).backward()
    samples = n * H * W
    assert float(model.backbone.shift.grad.abs().max()) < 12 * math.sqrt(best / samples)


def check_the_law(model: Model, sampler: Sampler) -> None:
    """Moments of x1 per channel within the error of 4000 samples and of the sampler."""
    x0, generator = torch.full((4000, C, 1, 1), 0.7), torch.Generator().manual_seed(5)
    with torch.no_grad():
        x1 = model.advance(x0, Conditioning(), sampler, lambda k: model.colour(torch.randn(x0.shape, generator=generator)))
    assert ((x1 - x0).mean(0).flatten() / SCALE).tolist() == pytest.approx([MEAN] * C, abs=0.06)
    assert ((x1 - x0).var(0).flatten() / SCALE**2).tolist() == pytest.approx([VARIANCE] * C, rel=0.15)


def test_sampling_the_exact_drift_gives_the_law():
    model = OBJECTIVES["interpolant"](Formula(EXACT["interpolant"]))
    check_the_law(model, SAMPLERS["si-em"](40, model.interpolant))


@pytest.mark.parametrize(
    ("name", "sampler", "steps"),
    [
        ("ddpm", "ddpm", 200),
        ("ddpm", "ddim", 60),
        ("edm", "edm", 40),
        ("edm", "edm-euler", 150),
        ("flow-matching", "fm", 5),
        ("flow-matching", "fm-euler", 60),
        ("flow-matching", "fm-heun", 10),
    ],
)
def test_sampling_the_exact_networks_from_noise_gives_the_law(name, sampler, steps):
    """Objective and sampler fit together."""
    check_the_law(OBJECTIVES[name](Formula(EXACT[name])), SAMPLERS[sampler](steps))


# warm start --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=BACKBONES)
def twin(request) -> tuple[Deterministic, str]:
    torch.manual_seed(0)
    model = OBJECTIVES["deterministic"](BACKBONES[request.param]())
    fit(model, states(8), states(8, 1), 20)
    assert float(model.network(states(1), torch.zeros(1, C, H, W), torch.zeros(1), condition(1)).detach().abs().max()) > 1e-3
    return model.eval().requires_grad_(False), request.param


def started(twin, name: str) -> Model:
    model = OBJECTIVES[name](BACKBONES[twin[1]]())
    model.backbone.load_state_dict(twin[0].backbone.state_dict())
    return model.eval().requires_grad_(False)


def test_a_warm_drift_is_the_gaussian_drift_of_the_twin(twin):
    model = started(twin, "interpolant")
    x0, x_s, cond = states(3), states(3, 1), condition(3)
    mean = twin[0].mean(x0, cond)
    for s in (0.0, 0.31, 0.9):
        expected = gaussian_drift(x_s, torch.tensor(s), x0, mean, 1.0, 1.0)  # any C = sigma^2
        found = model.drift(x_s, torch.full((3,), s), x0, x0, cond)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_warm_si_e_gives_the_forecast_of_the_twin(twin):
    model = started(twin, "interpolant")
    x0, cond = states(3), condition(3)
    for steps in (1, 2, 5):
        x1 = model.advance(x0, cond, SAMPLERS["si-e"](steps, model.interpolant), lambda k: x0)
        torch.testing.assert_close(x1, twin[0].mean(x0, cond), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FROM_NOISE)
def test_a_warm_denoiser_estimates_what_the_twin_does(twin, name):
    model = started(twin, name)
    x0, e, cond = states(3), states(3, 1), condition(3)
    pure = 80 * e if name == "edm" else e
    found = x0 + COLUMN * denoiser(model, pure, torch.zeros(3), x0, cond)
    tolerance = 0.015 * float(COLUMN.max() * e.abs().max()) if name == "edm" else 1e-4  # c_skip leaves v / (1 + v^2) e
    torch.testing.assert_close(found, twin[0].mean(x0, cond), rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", ["ddim", "fm-euler"])
def test_one_step_of_a_warm_flow_gives_the_forecast_of_the_twin(twin, name):
    model = started(twin, "ddpm" if name == "ddim" else "flow-matching")
    x0, cond = states(3), condition(3)
    x1 = model.advance(x0, cond, SAMPLERS[name](1), lambda k: states(3, 7))
    torch.testing.assert_close(x1, twin[0].mean(x0, cond), rtol=1e-4, atol=1e-4)


# training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_fall_on_a_linear_problem(name):
    torch.manual_seed(1)
    x0 = states(16)
    x1 = x0 + COLUMN * 0.5 * (x0 - x0.roll(1, 2))
    losses = fit(OBJECTIVES[name](BACKBONES["unet"]()), x0, x1, 60)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-10:]) < (0.5 if name in ("deterministic", "interpolant") else 0.85) * sum(losses[:10])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_depends_on_its_generator_alone(name):
    torch.manual_seed(0)
    model = OBJECTIVES[name](BACKBONES["unet"]())
    fit(model, states(4), states(4, 1), 2)
    draw = lambda n: model.loss(states(4), states(4, 1), condition(4), torch.Generator().manual_seed(n)).item()  # noqa: E731
    first = draw(0)
    torch.randn(7)
    assert draw(0) == first
    assert (draw(1) == first) == (name == "deterministic")


def test_a_model_that_samples_needs_a_sampler():
    for name in ("interpolant", *FROM_NOISE):
        with pytest.raises(ValueError, match="advanced by a sampler"):
            OBJECTIVES[name](BACKBONES["unet"]()).advance(states(1), condition(1), None, lambda k: states(1))


def test_scale_and_sigma_travel_with_the_weights(tmp_path):
    model = OBJECTIVES["interpolant"](BACKBONES["unet"]())
    save_tensors(model.state_dict(), tmp_path / "w.safetensors")
    other = StateDrift(BACKBONES["unet"](), torch.ones(C), white(torch.ones(C)))
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert other.covariance.sigma.flatten().tolist() == SIGMA.tolist() and other.scale.flatten().tolist() == SCALE.tolist()
    assert other.interpolant.sigma.flatten().tolist() == SIGMA.tolist()


def test_levels_are_stratified():
    u = uniform(64, torch.Generator().manual_seed(0), torch.zeros(1))
    assert sorted((64 * u).long().tolist()) == list(range(64)) and u.tolist() != sorted(u.tolist())
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert gaussian(torch.Generator(), x).dtype == torch.float64 and gaussian(torch.Generator(), x).shape == x.shape


@pytest.mark.parametrize(("at_zero", "expected"), [(0.0, 0), (0.25, 16), (1 / 2, 32)])
def test_the_share_of_pairs_at_zero(at_zero, expected):
    levels = []
    network = Formula(lambda x0, y, s: levels.append(s.flatten()) or torch.zeros_like(x0))
    model = StateDrift(network, SCALE, white(), at_zero)
    model.loss(states(64), states(64, 1), Conditioning(), torch.Generator().manual_seed(0))
    assert int((levels[0] == 0).sum()) == pytest.approx(expected, abs=1)
    assert 0.95 < float(levels[0].max()) < 1


# baselines ---------------------------------------------------------------------------------------------------------


def fno(boundary=("periodic", "wall"), parameters: int = 0) -> FNOBackbone:
    torch.manual_seed(0)
    return FNOBackbone(2 * C, C, boundary, modes=(6, 4), width=8, layers=2, parameters=parameters)


def test_fno_sees_the_clean_state_alone():
    network = fno()
    x = torch.cat([states(2), states(2, 1)], 1)
    y = torch.cat([states(2), states(2, 2)], 1)
    out = network(x, torch.zeros(2), Conditioning())
    assert out.shape == (2, C, H, W)
    assert torch.equal(out, network(y, torch.ones(2), Conditioning()))


def test_fno_is_conditioned_on_parameters():
    network = fno(parameters=1).requires_grad_(False)
    x = torch.cat([states(1), states(1)], 1).repeat(2, 1, 1, 1)
    out = network(x, torch.zeros(2), condition(2))
    assert float((out[0] - out[1]).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="physical parameters"):
        network(x, torch.zeros(2), Conditioning())


def test_fno_weights_are_tensors(tmp_path):
    network = fno()
    assert all(isinstance(v, Tensor) for v in network.state_dict().values())
    save_tensors(
        Deterministic(network, SCALE, white(), Shrinkage(C, (H, W), (-2,))).state_dict(), tmp_path / "w.safetensors"
    )
    other = Deterministic(fno(), torch.ones(C), white(), Shrinkage(C, (H, W), (-2,)))
    nn.init.zeros_(next(other.parameters()))
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    expected = Deterministic(network, SCALE, white(), Shrinkage(C, (H, W), (-2,))).mean(states(2), Conditioning())
    assert torch.equal(other.mean(states(2), Conditioning()), expected)


def test_reference_forecasts():
    z, none = states(3), Conditioning()
    assert torch.equal(Persistence()(z, none, noise=lambda k: z), z)
    mean = states(1)[0]
    forecast = Climatology(mean)(z, none, noise=lambda k: z)
    assert forecast.shape == z.shape and all(torch.equal(row, mean) for row in forecast)


def test_deterministic_mean():
    model = Deterministic(Formula(lambda x0, y, s: torch.ones_like(x0) + y + s), SCALE, white(), Shrinkage(C, (H, W), (-2,)))
    x0 = states(2)
    loss = partial(model.loss, x0, x0 + COLUMN, Conditioning(), torch.Generator())
    torch.testing.assert_close(model.mean(x0, Conditioning()), x0 + COLUMN)
    assert float(loss().detach()) == pytest.approx(0, abs=1e-12)
    model.shrinkage.values.fill_(0.75)
    model.shrinkage.rest.fill_(0.75)
    torch.testing.assert_close(model.mean(x0, Conditioning()), 0.75 * (x0 + COLUMN))
    assert float(loss().detach()) == pytest.approx(0, abs=1e-12)  # the network is not trained through it
    assert torch.equal(model.advance(x0, Conditioning(), None, lambda k: x0), model.mean(x0, Conditioning()))
    sampler = SAMPLERS["si-cal"](1, model.interpolant, model.residual, temperature=0.0)
    dressed = model.advance(x0, Conditioning(), sampler, lambda k: x0)
    torch.testing.assert_close(dressed, model.mean(x0, Conditioning()))
