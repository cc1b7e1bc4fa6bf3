"""The doctor on a process whose law is known: silent on an exact model, and right about what is broken on purpose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from toy import KOLMOGOROV, PRESET

from physinterp import doctor
from physinterp.baselines.deterministic import Deterministic
from physinterp.calibration import Covariance, Shrinkage
from physinterp.data.statistics import Statistics
from physinterp.doctor import SKILL, Finding, examine
from physinterp.drift import ForecastDrift, StateDrift
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.grid import Grid
from physinterp.methods import ModelName
from physinterp.model import Model
from physinterp.runs import Runs
from physinterp.samplers import SAMPLERS, EulerMaruyama, FlowMidpoint
from physinterp.system import System
from physinterp.tune import Setting, Validation

RHO, SIGMA = 0.8, 0.3
TRAJECTORIES, FRAMES = 16, 7
USED, FLOW = Setting("si-em", 2), Setting("si-pf", 5, 0.9)
FORECAST, STATE, TWIN = (
    ModelName(o, "identity", "unet") for o in ("interpolant", "interpolant-state", "deterministic")
)  # fmt: skip


class Damping(nn.Module):
    """The backbone of the forecast rho x0, in units of scale = 1."""

    def forward(self, x: Tensor, s: Tensor, cond: object) -> Tensor:
        return (RHO - 1) * x[:, : x.shape[1] // 2]


class Nothing(nn.Module):
    """The backbone of a drift from the forecast that is exact for a Gaussian residual."""

    def forward(self, x: Tensor, s: Tensor, cond: object) -> Tensor:
        return torch.zeros_like(x[:, : x.shape[1] // 2])


class Process(Runs):
    """x(t + 1) = rho x(t) + r, r Gaussian with power (1 + k^2 / 9)^-slope, and exact models of it: nothing is trained.

    Arguments:
        slope: 0 is white.
        profile: factor on r along the last axis.
        system: the card.
        white: whether the models take r for white noise of its variance.
        seed: of all draws.
    """

    def __init__(
        self,
        slope: float = 2.0,
        profile: Tensor | None = None,
        system: System = KOLMOGOROV,
        white: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(system, PRESET.model_copy(update={"step": system.dt}), "process")
        self.slope, self.profile, self.generator = slope, profile, torch.Generator().manual_seed(seed)
        covariance = Covariance(1, system.grid.shape, system.grid.periodic)
        if white:
            covariance.sigma.fill_(SIGMA)
        else:
            covariance.fit(self.residual(2048))
        one = torch.ones(1)
        twin = Deterministic(Damping(), one, covariance, Shrinkage(1, system.grid.shape, system.grid.periodic))
        self.models: dict[ModelName, Model] = {
            FORECAST: ForecastDrift(Nothing(), one, covariance, twin).eval(),
            STATE: StateDrift(Damping(), one, covariance).eval(),
            TWIN: twin.eval(),
        }
        x = [self.residual(TRAJECTORIES) / (1 - RHO**2) ** 0.5]
        for _ in range(FRAMES - 1):
            x.append(RHO * x[-1] + self.residual(TRAJECTORIES))
        trajectories = ("sample", [str(i) for i in range(TRAJECTORIES)])
        coords = {"time": system.dt * np.arange(FRAMES), "trajectory": trajectories}
        vorticity = ("sample", "time", *system.grid.names), torch.stack(x, 1)[:, :, 0].numpy()
        self.data = xr.Dataset({"vorticity": vorticity}, coords | system.grid.coords)

    def residual(self, n: int) -> Tensor:
        """r, shape (n, 1, *S)."""
        height, width = self.system.grid.shape
        k = torch.fft.fftfreq(height, 1 / height)[:, None].square() + torch.fft.fftfreq(width, 1 / width).square()
        amplitude = (1 + k / 9) ** (-self.slope / 2)
        white = torch.randn(n, 1, height, width, generator=self.generator)
        r = torch.fft.ifft2(torch.fft.fft2(white) * amplitude / amplitude.square().mean().sqrt()).real
        return SIGMA * r * (1 if self.profile is None else self.profile)

    @cached_property
    def stack(self) -> FieldStack:
        return FieldStack(self.system.fields, self.system.grid, Statistics(("vorticity",), (0.0,), (1.0,), (1.0,)))

    def open(self, split: str) -> xr.Dataset:
        return self.data

    def model(self, name: ModelName) -> Model:
        return self.models[name]


def on(process: Process, name: ModelName = FORECAST) -> Validation:
    return Validation(process, name, ("vorticity",), leads=3)


def findings(process: Process, setting: Setting = USED, name: ModelName = FORECAST, seed: int = 100) -> dict[str, Finding]:
    """By a word of each question."""
    found = examine(on(process, name), setting, seed=seed)
    keys = ("si-e", "residual", "variance", "means", "points", "low", "mid", "high", "skill")
    by_key = {next(k for k in keys if re.search(rf"\b{k}\b", f.question)): f for f in found}
    assert len(by_key) == len(found)
    return by_key


def unsound(found: dict[str, Finding]) -> set[str]:
    return {key for key, finding in found.items() if not finding.sound}


def numbers(finding: Finding) -> list[float]:
    return [float(x) for x in finding.measured.split(",")]


@pytest.fixture(scope="module")
def process(session_home) -> Process:
    return Process()


def walled(*walls: str) -> System:
    """The card with walls at the ends of some axes."""
    axes = (replace(a, boundary="wall", fixed=False) if a.name in walls else a for a in KOLMOGOROV.grid.axes)
    return KOLMOGOROV.model_copy(update={"grid": Grid(tuple(axes))})


# a sound model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "steps"), [("si-em", 2), ("si-cal", 2), ("si-foellmer", 10), ("si-pf", 5)])
def test_an_exact_model_is_sound(process, sampler, steps):
    found = findings(process, Setting(sampler, steps))
    assert unsound(found) == set(), found
    assert set(found) == {"si-e", "residual", "variance", "means", "points", "low", "mid", "high", "skill"}
    assert numbers(found["si-e"]) == [0] and numbers(found["points"]) == [0]
    assert numbers(found["variance"])[0] == pytest.approx(1, abs=0.12)  # 16 members from each of 8 states
    assert all(numbers(found[band])[0] == pytest.approx(1, abs=0.35) for band in ("low", "mid", "high"))
    assert numbers(found["residual"])[0] == pytest.approx(1, abs=0.15)
    assert len(numbers(found["skill"])) == 3  # the leads of the trajectories


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 20))])
def test_no_false_alarm(seed):
    found = findings(Process(seed=seed), seed=1000 * seed)
    assert unsound(found) == set(), found


def test_an_exact_drift_from_the_state_is_sound():
    """The published form, whose noise is white, on a residual that is."""
    assert unsound(findings(Process(slope=0.0), name=STATE)) == set()


def test_an_exact_model_with_a_wall_is_sound():
    assert unsound(findings(Process(profile=torch.linspace(0.5, 1.5, 16), system=walled("y")))) == set()


def test_bands_are_asked_for_where_there_are_any():
    found = findings(Process(system=walled("x", "y")))
    assert set(found) == {"si-e", "residual", "variance", "means", "points", "skill"} and unsound(found) == set()


def test_every_finding_says_what_is_expected(process):
    for finding in examine(on(process), USED):
        assert finding.question.endswith("?") and finding.measured and finding.expected
        assert finding.cause and "\n" not in finding.question + finding.measured + finding.cause


def test_a_sampler_without_spread_gets_one_question(process):
    found = findings(process, Setting("si-e", 2))
    assert set(found) == {"si-e"} and found["si-e"].sound


def test_no_interpolant(process):
    with pytest.raises(InputError, match="deterministic-identity-unet is no interpolant: the doctor examines models"):
        findings(process, name=TWIN)


# what is asked of the model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting("si-e", 2), [Setting("si-e", 2)]),
        (USED, [Setting("si-e", 2), Setting("si-em", 50), Setting("si-pf", 25), Setting("si-cal", 1), USED]),
        (FLOW, [Setting("si-e", 2), Setting("si-pf", 25), Setting("si-em", 50), Setting("si-cal", 1), FLOW]),
    ],
)
def test_only_what_is_used_is_forecast(process, monkeypatch, setting, expected):
    asked: list[Setting] = []
    emulator = Validation.emulator
    monkeypatch.setattr(Validation, "emulator", lambda self, s: (asked.append(s), emulator(self, s))[1])
    findings(process, setting)
    assert asked == expected


def test_every_state_has_its_own_noise(process):
    validation, seed = on(process), 7
    ensemble, second = doctor._rollout(validation, USED, 4, 5, seed, leads=2)
    x, parameters = validation.initial(5)
    each = [list(validation.emulator(USED).states(x[n : n + 1], parameters[n : n + 1], 2, 4, seed + n)) for n in range(5)]
    assert torch.equal(ensemble, torch.cat([first for first, _ in each]).double())
    assert torch.equal(second, torch.cat([last for _, last in each]).double())
    noise = ensemble - RHO * x[:, None]
    assert not any(torch.allclose(noise[n], noise[m], atol=0.1) for n in range(5) for m in range(n))


@pytest.mark.parametrize("dims", [1, 4, 64])
def test_the_limits_of_one_law(dims):
    """Of Gaussians of few or many degrees of freedom, whose spread depends on the state: no false alarm in 99 of 100.

    Where a field has many, half of the variance, or a mean that is 0.6 spreads off, is always found.
    """
    generator = torch.Generator().manual_seed(dims)
    size = torch.linspace(0.2, 2, 8)[:, None, None, None, None]

    def ensemble(spread: float = 1.0, mean: float = 0.0) -> Tensor:
        return size * (mean + spread * torch.randn(8, 16, 1, 1, dims, generator=generator).double())

    def sound(count: int, **options: float) -> Tensor:
        asked = [doctor._same_law(USED, "si-pf", ensemble(**options), ensemble()) for _ in range(count)]
        return torch.tensor([[f.sound for f in found] for found in asked]).double().mean(0)

    assert bool((sound(300) >= 0.98).all())
    if dims == 64:
        assert float(sound(50, spread=0.5**0.5)[0]) == 0 == float(sound(50, mean=0.6)[1])


def test_a_sampler_without_any_noise():
    still, reference = torch.zeros(8, 16, 1, 2, 2), torch.randn(8, 16, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for law, known, expected in ((still, reference, "0.000"), (reference, still, None), (still, still, "1.000")):
        variance, means = doctor._same_law(USED, "si-pf", law.double(), known.double())
        assert variance.sound == (expected == "1.000") and "nan" not in variance.expected + means.expected
        assert expected is None or variance.measured == expected


# broken samplers ---------------------------------------------------------------------------------------------------


class Loud(EulerMaruyama):
    """Noise of twice the strength."""

    def step(self, b, x_s, s, s_next, x0, cond, noise):
        return super().step(b, x_s, s, s_next, x0, cond, 2 * noise)


class LateNoise(EulerMaruyama):
    """No noise in the first half."""

    def step(self, b, x_s, s, s_next, x0, cond, noise):
        return super().step(b, x_s, s, s_next, x0, cond, noise if s >= 0.5 else 0 * noise)


class Backwards(EulerMaruyama):
    """The drift with the wrong sign."""

    def step(self, b, x_s, s, s_next, x0, cond, noise):
        return super().step(lambda *a: -b(*a), x_s, s, s_next, x0, cond, noise)


class WithoutScore(EulerMaruyama):
    """The diffusion of the Foellmer process with the drift of another one."""

    def step(self, b, x_s, s, s_next, x0, cond, noise):
        h = s_next - s
        return x_s + h * b(x_s, s.expand(len(x_s)), x0, cond) + (1 - s**2).sqrt() * h.sqrt() * noise


class Shifted(EulerMaruyama):
    """Half a spread beside the mean, everywhere."""

    def finish(self, x, x0):
        return x + 0.5 * SIGMA


class Drawn(EulerMaruyama):
    """A sampler that draws though it is said to be deterministic."""


class Flat(ForecastDrift):
    """Trained at s = 0 alone: what is right there is its answer everywhere."""

    def drift(self, x_s, s, source, x0, cond):
        return torch.zeros_like(x_s)


def off(
    process: Process, monkeypatch, sampler: type, name: str = "si-em", setting: Setting = USED
) -> tuple[set[str], dict[str, Finding]]:
    monkeypatch.setitem(SAMPLERS, name, sampler)
    found = findings(process, setting)
    return unsound(found), found


def test_noise_that_is_too_strong(process, monkeypatch):
    wrong, found = off(process, monkeypatch, Loud)
    assert "variance" in wrong and "means" not in wrong and "skill" in wrong
    assert numbers(found["variance"])[0] == pytest.approx(4, rel=0.12)
    assert "too strong" in found["variance"].cause and "si-em" in found["variance"].cause


@pytest.mark.parametrize("sampler", [LateNoise, Backwards])
def test_noise_that_is_too_weak(process, monkeypatch, sampler):
    wrong, found = off(process, monkeypatch, sampler)
    assert "variance" in wrong and "too weak" in found["variance"].cause


def test_a_score_that_is_missing(process, monkeypatch):
    """Also where the temperature makes up for it."""
    for temperature in (1.0, 0.6):
        setting = Setting("si-foellmer", 5, temperature)
        wrong, found = off(process, monkeypatch, WithoutScore, "si-foellmer", setting)
        assert "variance" in wrong and "too strong" in found["variance"].cause


def test_a_drift_trained_at_one_end(process, monkeypatch):
    """All samplers are too narrow together, and a temperature hides it from the rest."""
    model = process.model(FORECAST)
    flat = Flat(model.backbone, model.scale, model.covariance, model.twin).eval()
    monkeypatch.setitem(process.models, FORECAST, flat)
    found = findings(process, replace(USED, temperature=0.625**-0.5))
    assert unsound(found) == {"residual"} and "not trained at all s" in found["residual"].cause
    assert numbers(found["residual"])[0] == pytest.approx(1 / 3, rel=0.1)


def test_a_mean_that_is_moved(process, monkeypatch):
    wrong, found = off(process, monkeypatch, Shifted)
    assert "means" in wrong and "variance" not in wrong
    assert numbers(found["means"])[0] == pytest.approx(0.5, abs=0.1) and "moves the mean" in found["means"].cause


def test_a_flow_is_not_measured_by_itself(process, monkeypatch):
    class ShiftedFlow(FlowMidpoint):
        def finish(self, x, x0):
            return super().finish(x, x0) + 0.5 * SIGMA

    monkeypatch.setitem(SAMPLERS, "si-pf", ShiftedFlow)
    assert "means" in unsound(findings(process, Setting("si-pf", 5)))


def test_noise_in_a_deterministic_sampler(process, monkeypatch):
    wrong, found = off(process, monkeypatch, Drawn, "si-e")
    assert wrong == {"si-e"} and "noise enters" in found["si-e"].cause


# a wrong spread ----------------------------------------------------------------------------------------------------


def test_a_collapsed_spread(process):
    """The law of the drift is that of temperature 1 and stays sound; what is used is not."""
    found = findings(process, replace(USED, temperature=0.1))
    assert unsound(found) == {"low", "mid", "high", "skill"}
    assert numbers(found["skill"]) == pytest.approx([0.1] * 3, abs=0.03)
    assert all("too narrow" in found[band].cause for band in ("low", "mid", "high"))
    assert "temperature" in found["skill"].cause


@pytest.mark.parametrize(("temperature", "sound"), [(0.7, False), (1.0, True), (1.4, False)])
def test_the_size_of_the_spread(process, temperature, sound):
    """In bands there is room for a factor of 2; over all of them there is not."""
    found = findings(process, replace(USED, temperature=temperature))
    assert unsound(found) == (set() if sound else {"skill"})
    assert (SKILL[0] < numbers(found["skill"])[0] < SKILL[1]) == sound


def test_white_noise_on_a_smooth_residual():
    """The spread as a whole is right: only the bands show that it sits at the wrong wavenumbers."""
    found = findings(Process(slope=6.0, white=True))
    assert {"high", "low"} <= unsound(found) <= {"high", "mid", "low"}
    assert numbers(found["high"])[0] > 2 > 1 / 2 > numbers(found["low"])[0]
    assert "no error" in found["high"].cause and "too narrow" in found["low"].cause


@pytest.mark.parametrize("empty", [(), (3,), (0, 15)])
def test_points_without_spread(empty: Sequence[int]):
    """A residual that is nothing at some distance from a wall: the ensemble stays still there."""
    profile = torch.ones(16)
    profile[list(empty)] = 0.0
    found = findings(Process(profile=profile, system=walled("y")))
    assert numbers(found["points"])[0] == pytest.approx(len(empty) / 16, abs=1e-3)
    assert found["points"].sound == (not empty) and "covariance is empty there" in found["points"].cause
