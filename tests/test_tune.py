"""Calibration of the spread: known temperature and correlation, what is kept on disk, what cannot be calibrated."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from toy import KOLMOGOROV, PRESET, statistics

from physinterp import tune
from physinterp.autoencoder import Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.calibration import Covariance, Shrinkage
from physinterp.emulator import Emulator, SampledStepper
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.methods import ModelName
from physinterp.samplers import Sampler
from physinterp.tune import TEMPERATURES, Setting, Unusable, Validation, calibrate, calibrated
from physinterp.types import Conditioning

LEADS = 6
CANDIDATES = (0.0, 0.5, 0.8)
DRESSED = Setting("si-cal", 1)


@cache
def growth(rho: float, leads: int) -> list[float]:
    """Variance of the sum of an autoregression of variance 1, after each step."""
    e = torch.eye(leads, dtype=torch.float64)
    sums = torch.tensor([[rho ** abs(i - j) for j in range(leads)] for i in range(leads)], dtype=torch.float64)
    return [float((e[: k + 1].sum(0) @ sums) @ e[: k + 1].sum(0)) for k in range(leads)]


class Known:
    """Stands in for a `Validation`: errors of a random walk of correlated steps, and a sampler with noise of some size.

    Arguments:
        error, rho: standard deviation and correlation of the model's error per step.
        noise: standard deviation that the sampler gives it at temperature 1.
    """

    leads = LEADS

    def __init__(self, error: float, noise: float, rho: float) -> None:
        self.error, self.noise, self.rho = error, noise, rho
        self.asked: list[Setting] = []

    def spread_skill(self, setting: Setting, leads: int, members: int) -> list[float]:
        self.asked.append(setting)
        found = []
        for of_error, of_noise in zip(growth(self.rho, leads), growth(setting.correlation, leads), strict=True):
            error, v = self.error**2 * of_error, (setting.temperature * self.noise) ** 2 * of_noise
            found.append(math.sqrt((1 + 1 / members) * v / (error + v / members)))
        return found


@pytest.fixture(autouse=True)
def candidates(monkeypatch) -> None:
    """Of the correlation: others may be shipped."""
    assert tune.CORRELATIONS[0] == 0 and all(0 <= c < 1 for c in tune.CORRELATIONS)
    monkeypatch.setattr(tune, "CORRELATIONS", CANDIDATES)


# what is known in closed form --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", CANDIDATES)
@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("members", [2, 5])
def test_the_right_temperature_and_correlation_are_found(rho, ratio, members):
    validation = Known(error=0.3 * ratio, noise=0.3, rho=rho)
    setting, measured = calibrate(validation, Setting("si-em", 2), members)
    assert setting == Setting("si-em", 2, temperature=pytest.approx(ratio, abs=0.002), correlation=rho)
    assert validation.spread_skill(setting, LEADS, members) == pytest.approx([1] * LEADS, abs=0.01)
    q = 1 / ratio**2
    assert measured["spread_skill_before"] == pytest.approx(math.sqrt((1 + 1 / members) * q / (1 + q / members)))
    assert measured["spread_skill"].keys() == {str(c) for c in CANDIDATES}
    assert measured["spread_skill"][str(rho)] == pytest.approx([1] * LEADS, abs=0.01)
    assert [s.correlation for s in validation.asked[:-1]] == [0.0, *CANDIDATES]


@pytest.mark.parametrize(("rho", "left"), [(0.65, 0.1), (0.95, 0.2)])
@pytest.mark.parametrize("members", [2, 50])
def test_between_the_candidates_the_worst_lead_decides(rho, left, members):
    """The first one counts twice. To first order in the temperature: the noise in the mean of few members is left out."""
    validation = Known(error=0.3, noise=0.3, rho=rho)

    def worst(setting: Setting) -> float:
        logs = [abs(math.log(r)) for r in validation.spread_skill(setting, LEADS, members)]
        return max(2 * logs[0], *logs[1:])

    setting, _ = calibrate(validation, Setting("si-em", 2), members)
    others = [replace(setting, correlation=c, temperature=t) for c in CANDIDATES for t in np.linspace(0.5, 2, 301)]
    best = min(others, key=worst)
    assert setting.correlation == best.correlation and worst(best) < left
    assert worst(setting) < worst(best) + (0.002 if members == 50 else 0.4 * worst(best))


@pytest.mark.parametrize(("error", "expected"), [(1e3, TEMPERATURES[1]), (1e-3, TEMPERATURES[0])])
def test_the_temperature_is_bounded(error, expected):
    """Also where the spread is so much too large that its excess over that of any ensemble is rounding."""
    assert calibrate(Known(error, 0.3, 0.5), Setting("si-em", 2))[0].temperature == expected


@pytest.mark.parametrize("first", [math.nan, math.inf, 0.0])
def test_a_spread_that_is_none(monkeypatch, first):
    validation = Known(0.3, 0.3, 0.0)
    monkeypatch.setattr(validation, "spread_skill", lambda setting, leads, members: [first] * leads)
    with pytest.raises(Unusable, match=f"si-em cannot be calibrated: spread over skill is {first} at the first lead"):
        calibrate(validation, Setting("si-em", 2))


def test_rollouts_that_are_lost(monkeypatch):
    validation, known = Known(0.3, 0.3, 0.8), Known.spread_skill

    def lost(*correlations: float) -> None:
        monkeypatch.setattr(validation, "spread_skill", lambda setting, leads, members: [
            *known(validation, setting, leads, members)[:-1],
            math.nan if leads > 1 and setting.correlation in correlations else 1.0])  # fmt: skip

    lost(0.8)
    setting, measured = calibrate(validation, Setting("si-em", 2))
    assert setting.correlation == 0.5 and measured["spread_skill"].keys() == {"0.0", "0.5"}
    lost(*CANDIDATES)
    with pytest.raises(Unusable, match="si-em cannot be calibrated: its rollouts on the validation split are not finite"):
        calibrate(validation, Setting("si-em", 2))


# with forecasts ----------------------------------------------------------------------------------------------------


class Nothing(nn.Module):
    """A backbone for which nothing changes, or everything is lost."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        return torch.full_like(x[:, :1], self.value)


def walks(error: float, rho: float, samples: int = 4, frames: int = 2 * LEADS + 5) -> xr.Dataset:
    """Fields that move by an autoregression of independent points in every step of two frames."""
    rng = np.random.default_rng(0)
    e, steps = np.zeros((samples, *KOLMOGOROV.grid.shape)), []
    for _ in range(frames):
        e = rho * e + math.sqrt(1 - rho**2 if steps else 1) * rng.standard_normal(e.shape)
        steps.append(error * e)
    u = np.repeat(np.cumsum(steps, 0), 2, axis=0)[:frames].swapaxes(0, 1).astype(np.float32)
    coords = {**KOLMOGOROV.grid.coords, "time": 0.25 * np.arange(frames), "trajectory": ("sample", list("abcd")[:samples])}
    return xr.Dataset({"vorticity": (("sample", "time", *KOLMOGOROV.grid.names), u)}, coords=coords)


def on(ds: xr.Dataset, sigma: float = 0.25, backbone: nn.Module | None = None, folder: Path | None = None) -> Validation:
    """The validation of a dressed forecast of no change, whose noise has standard deviation sigma."""
    covariance = Covariance(1, KOLMOGOROV.grid.shape, (-2, -1))
    covariance.sigma.fill_(sigma)
    model = Deterministic(backbone or Nothing(), torch.ones(1), covariance, Shrinkage(1, KOLMOGOROV.grid.shape, (-2, -1)))
    stack = FieldStack(KOLMOGOROV.fields, KOLMOGOROV.grid, statistics(KOLMOGOROV))

    def emulator(codec: Identity, stepper: nn.Module, correlation: float = 0.0) -> Emulator:
        return Emulator(KOLMOGOROV, stack, codec, stepper, 0.5, 8, correlation=correlation)

    def sampled(name: ModelName, sampler: Sampler, correlation: float) -> Emulator:
        return emulator(Identity(1), SampledStepper(model, sampler), correlation)

    runs = SimpleNamespace(
        data=None,
        system=KOLMOGOROV, stack=stack, stride=2, preset=PRESET, open={"valid": ds}.__getitem__, emulator=emulator,
        sampled=sampled, codec=lambda name: Identity(1), model=lambda name: model, weights=lambda name: "a",
        folder=lambda name: folder / name if folder else None,
    )  # fmt: skip
    return Validation(runs, ModelName("deterministic", "identity", "unet"), ("vorticity",), LEADS)


@pytest.mark.parametrize(("rho", "correlation"), [(0.0, 0.0), (0.8, 0.0), (0.8, 0.8)])
def test_spread_over_skill_of_forecasts(rho, correlation):
    """Of a random walk, in closed form, within the error of 256 points and the noise that all cases share."""
    found = on(walks(0.5, rho)).spread_skill(Setting("si-cal", 1, 1.6, correlation), LEADS, members=12)
    v, error = ([c**2 * g for g in growth(r, LEADS)] for c, r in ((1.6 * 0.25, correlation), (0.5, rho)))
    expected = [math.sqrt((1 + 1 / 12) * a / (b + a / 12)) for a, b in zip(v, error, strict=True)]
    assert found == pytest.approx(expected, rel=0.1)
    assert len(on(walks(0.5, rho)).spread_skill(DRESSED, 1, 2)) == 1


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_error_of_a_known_model_is_calibrated(rho):
    setting, _ = calibrate(on(walks(0.5, rho)), DRESSED, members=6)
    assert setting.correlation == rho and setting.temperature == pytest.approx(2, rel=0.1)


def test_leads_are_cut_where_the_trajectories_are_short():
    assert on(walks(0.5, 0.0, frames=2 * LEADS + 1)).leads == LEADS
    assert on(walks(0.5, 0.0, frames=9)).leads == 4


def test_a_forecast_without_error_or_spread():
    with pytest.raises(Unusable, match="si-cal cannot be calibrated: spread over skill is nan at the first lead"):
        calibrate(on(walks(0.0, 0.0), sigma=0.0), DRESSED)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_cannot_be_used(value):
    with pytest.raises(Unusable, match="si-cal cannot be calibrated: spread over skill is nan at the first lead"):
        calibrate(on(walks(0.5, 0.0), backbone=Nothing(value)), DRESSED)


# what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The samplers that were calibrated, instead of doing so."""
    names: list[str] = []

    def record(validation: Validation, setting: Setting) -> tuple[Setting, dict]:
        names.append(setting.sampler)
        return Setting(setting.sampler, setting.steps, 1.0 + len(names), 0.5), {"spread_skill_before": math.nan}

    monkeypatch.setattr(tune, "calibrate", record)
    return names


def test_a_calibration_is_kept_beside_the_weights(made, tmp_path):
    validation = on(walks(0.5, 0.0), folder=tmp_path)
    first = calibrated(validation, "si-cal", 1)
    assert first == Setting("si-cal", 1, 2.0, 0.5) == calibrated(validation, "si-cal", 1)
    path = tmp_path / "deterministic-identity-unet" / f"calibration-si-cal-1-leads-{validation.leads}.json"
    kept = json.loads(path.read_text())
    assert kept["setting"] == {"sampler": "si-cal", "steps": 1, "temperature": 2.0, "correlation": 0.5}
    assert made == ["si-cal"] and kept["stamp"]["weights"] == "a" and kept["spread_skill_before"] is None
    calibrated(validation, "si-em", 1)
    calibrated(validation, "si-cal", 2)
    assert made == ["si-cal", "si-em", "si-cal"] and calibrated(validation, "si-cal", 1) == first


@pytest.mark.parametrize("change", ["weights", "leads", "version"])
def test_a_calibration_of_something_else_is_made_again(made, tmp_path, monkeypatch, change):
    validation = on(walks(0.5, 0.0), folder=tmp_path)
    calibrated(validation, "si-cal", 1)
    if change == "weights":
        validation.runs.weights = lambda name: "b"
    elif change == "leads":
        validation.leads -= 1
    else:
        monkeypatch.setattr(tune, "VERSION", tune.VERSION + 1)
    again = calibrated(validation, "si-cal", 1)
    assert made == ["si-cal"] * 2 and again.temperature == 3
    assert calibrated(validation, "si-cal", 1) == again and len(made) == 2


def test_a_damaged_calibration_is_named(made, tmp_path):
    validation = on(walks(0.5, 0.0), folder=tmp_path)
    calibrated(validation, "si-cal", 1)
    path = next(tmp_path.rglob("calibration-*.json"))
    path.write_text("{broken")
    with pytest.raises(InputError, match=rf"{path} is damaged .*: delete it"):
        calibrated(validation, "si-cal", 1)
