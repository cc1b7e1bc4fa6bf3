"""Training of the models of a benchmark: who starts from whom, how the budget is split, resumption, what names a run."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor
from toy import KOLMOGOROV, PRESET, dataset

from physinterp import runs as module
from physinterp import train
from physinterp.baselines.deterministic import Deterministic
from physinterp.calibration import Shrinkage
from physinterp.checkpoint import load_json, load_tensors
from physinterp.config import Training
from physinterp.drift import ForecastDrift, StateDrift
from physinterp.errors import InputError
from physinterp.measure import residuals
from physinterp.methods import ModelName
from physinterp.runs import Runs
from physinterp.system import validate

TWIN, DRIFT, STATE = (ModelName(o, "identity", "unet") for o in ("deterministic", "interpolant", "interpolant-state"))
PLAN = {"steps": 16, "batch": 4, "learning_rates": (0.01,), "trunk": 0.5, "twin": 0.75}


def runs(**training) -> Runs:
    """Runs on random fields, in a cache that is fresh."""
    networks = {"unet": {"widths": [4, 8]}, "unet-residual": {"widths": [6]}}
    plan = Training(**(PLAN | training))
    return Runs(KOLMOGOROV, PRESET.model_copy(update={"step": 0.2, "networks": networks, "training": plan}), "toy")


@pytest.fixture(autouse=True)
def data(fresh_home, monkeypatch) -> None:
    """Two trajectories of seven frames per split, instead of those of the solver."""
    monkeypatch.setattr(Runs, "open", lambda self, split: dataset(KOLMOGOROV, samples=2, frames=7, seed=len(split)))


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """The folder of the training that each step of an optimiser belonged to."""
    taken: list[str] = []
    step = train.Trainer._step
    monkeypatch.setattr(train.Trainer, "_step", lambda self, *a: taken.append(self.folder.name) or step(self, *a))
    return taken


def copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# the drift from a forecast -----------------------------------------------------------------------------------------


def test_the_budget_of_the_drift_from_a_forecast(steps):
    """Half for the trunk, a quarter for its twin, a quarter for its network."""
    made = runs()
    made.model(DRIFT)
    assert list(Counter(steps).items()) == [(str(TWIN), 8), ("twin", 4), (str(DRIFT), 4)]
    record = made.record(DRIFT)
    assert record["steps"] == 16 and record["start"] == str(TWIN) and record["learning_rate"] == 0.01
    steps.clear()
    made.model(TWIN)
    assert steps == [str(TWIN)] * 8 and made.record(TWIN)["steps"] == 16  # its trunk is there


@pytest.mark.parametrize("twin", [0.625, 0.875])
def test_the_twin_inside_ends_where_the_plan_says(steps, twin):
    runs(twin=twin).model(DRIFT)
    assert Counter(steps) == {str(TWIN): 8, "twin": 16 * twin - 8, str(DRIFT): 16 - 16 * twin}


def test_the_twin_inside_is_complete_and_stays(monkeypatch):
    """Trained on from the trunk, it is not changed by the training of the drift; C is that of its residual."""
    ends: dict[str, dict[str, Tensor]] = {}
    fit = train.Trainer.fit

    def watched(self, model, *args, **options):
        record = fit(self, model, *args, **options)
        ends[args[3]] = copy(model)
        return record

    monkeypatch.setattr(train.Trainer, "fit", watched)
    made = runs()
    model = made.model(DRIFT)
    assert isinstance(model, ForecastDrift) and list(ends) == [str(TWIN), f"{DRIFT}, twin", str(DRIFT)]
    kept = {key: value for key, value in copy(model.twin).items() if "shrinkage" not in key}  # measured after the training
    assert same(kept, {key: ends[f"{DRIFT}, twin"][key] for key in kept}) and same(copy(model), ends[str(DRIFT)])
    trunk = load_tensors(made.folder(str(TWIN)) / "trunk.safetensors")
    assert not torch.equal(trunk["backbone.stem.conv.weight"], model.twin.backbone.stem.conv.weight)
    assert not model.training and not any(p.requires_grad for p in model.parameters())

    of_valid, of_train = (residuals(model.twin.mean, made.pairs(s, "identity"), "cpu") for s in ("valid", "train"))
    sigma = of_valid.square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(model.covariance.sigma.flatten(), sigma)
    ratio = (sigma / of_train.square().mean((0, 2, 3)).sqrt()).clamp(min=1)
    torch.testing.assert_close(model.inflation.flatten(), ratio)
    assert made.record(DRIFT)["inflation"] == pytest.approx(ratio.tolist())
    noise = model.colour(torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert float(noise.square().mean().sqrt()) == pytest.approx(float(sigma), rel=0.03)


@pytest.mark.parametrize("taken", [9, 11, 13, 15])
def test_an_interrupted_training_resumes_to_the_bit(monkeypatch, tmp_path, steps, taken):
    """In the twin inside (after 8) and in the drift (after 12): the weights of an uninterrupted training."""
    whole = copy(runs().model(DRIFT))
    monkeypatch.setenv("PHYSINTERP_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    steps.clear()
    step = train.Trainer._step

    def interrupted(self, *args):
        if len(steps) == taken:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runs().model(DRIFT)
    assert len(steps) == taken
    again = runs()
    assert same(copy(again.model(DRIFT)), whole) and len(steps) == 16 and again.record(DRIFT)["steps"] == 16
    assert not list(again.root.rglob(f"{DRIFT}/**/{train.STATE}"))  # saved elsewhere


def test_what_is_trained_is_loaded(steps):
    first = copy(runs().model(DRIFT))
    steps.clear()
    again = runs()
    assert same(copy(again.model(DRIFT)), first) and not steps and again.record(DRIFT)["reused"]


# the others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [TWIN, DRIFT])
def test_the_forecast_of_a_twin_is_weighted_by_validation_pairs(name):
    """Patterns are those of training states; on the validation pairs the residual is not correlated with the mean."""
    made = runs()
    model = made.model(name)
    twin = model.twin if isinstance(model, ForecastDrift) else model
    train, valid = (made.pairs(split, "identity") for split in ("train", "valid"))
    x0, x1, cond = valid.select(torch.arange(len(valid)))
    expected = Shrinkage(1, (16, 16), (-2, -1))
    expected.fit(train.select(torch.arange(len(train)))[1], twin.raw(x0, cond), x1)
    assert same(expected.state_dict(), twin.shrinkage.state_dict())
    gains, mean = expected.values, twin.mean(x0, cond)
    assert 0 <= float(gains.min()) < float(gains.max()) <= 1 and not torch.allclose(mean, twin.raw(x0, cond))
    products = torch.fft.rfft2(mean) * torch.fft.rfft2(x1 - mean).conj()
    correlation = products.real.mean((0, 1)).flatten() / torch.fft.rfft2(x1).abs().square().mean((0, 1)).flatten()
    inside = (gains > 0) & (gains < 1)  # (K, 1)
    assert int(inside.sum()) > 40 and float(correlation[inside.flatten()].abs().max()) < 1e-4


def test_the_twin_has_the_covariance_of_its_residual():
    made = runs()
    model = made.model(TWIN)
    assert isinstance(model, Deterministic)
    found = residuals(model.mean, made.pairs("valid", "identity"), "cpu")
    assert found.shape == (2 * 5, 1, 16, 16)
    torch.testing.assert_close(model.covariance.sigma.flatten(), found.square().mean((0, 2, 3)).sqrt())


def test_the_drift_from_the_state_starts_from_the_twin(steps):
    """Its sigma is the residual of the finished twin, before its training; R that of its own mean, after it."""
    made = runs()
    model, twin = made.model(STATE), made.model(TWIN)
    assert isinstance(model, StateDrift) and isinstance(twin, Deterministic)
    assert Counter(steps) == {str(TWIN): 16, str(STATE): 8} and made.record(STATE)["steps"] == 16
    assert torch.equal(model.covariance.sigma, twin.covariance.sigma)
    own = residuals(model.mean, made.pairs("valid", "identity"), "cpu")
    noise = model.covariance.colour(torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert float(noise.std()) == pytest.approx(float(own.square().mean().sqrt()), rel=0.05)


# names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trunk", "twin"), [(0.8, 0.8), (0.9, 0.8), (0.5, 0.4)])
def test_a_twin_that_ends_before_the_trunk(trunk, twin):
    message = f"the twin ends at {twin}, before the trunk at {trunk}: raise `twin`"
    with pytest.raises(InputError, match=f"x.yaml: .*{message}"):
        validate(Training, {"steps": 4, "trunk": trunk, "twin": twin}, "x.yaml")


def test_a_run_is_named_by_all_that_its_weights_depend_on(monkeypatch):
    def root(**changes) -> str:
        made = runs(**changes.pop("training", {}))
        return Runs(KOLMOGOROV, made.preset.model_copy(update=changes), "toy").root.name

    names = [root(), root(training={"twin": 0.875}), root(step=0.4), root(networks={"unet": {"widths": [4, 8]}})]
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    names.append(root())
    assert len(set(names)) == len(names)
    assert root() == root(steps={"si-em": 9}, members=2, lead=1, methods=("si-e",))


def test_a_note_says_where_weights_come_from():
    made = runs()
    made.model(DRIFT)
    note = load_json(made.folder(str(DRIFT)) / "model.json")
    assert note["start"] == str(TWIN) and note["preset"]["training"]["twin"] == 0.75 and note["valid_loss"] > 0
