"""Choosing how a trained model is sampled: what is tried, what is best, what is kept, and the folder it starts from."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy import PRESET, RBC

from physinterp import metrics, train, tune
from physinterp.checkpoint import digest
from physinterp.config import Training, load_benchmark
from physinterp.errors import InputError
from physinterp.methods import BACKBONES, CODECS, OBJECTIVES, Method, ModelName, make_model, make_sampler
from physinterp.runs import Runs
from physinterp.samplers import SAMPLERS
from physinterp.system import load_system
from physinterp.tune import CHOSEN_BY, FACTORS, SCORES, WALK, Setting, Trial, Unusable, Validation
from physinterp.types import Conditioning

NAME = ModelName("interpolant", "identity", "unet")
FRAMES, STEP = 9, 0.2  # of the trajectories below, 0.1 apart


def trained(name: ModelName = NAME) -> Path:
    """The folder of a model of seconds, trained once per PHYSINTERP_HOME."""
    sizes = {"shape": (16, 16), "trajectories": {"train": 2, "valid": 2}, "frames": FRAMES, "spin_up": 1.0, "step": STEP}
    training = Training(steps=10, batch=4, learning_rates=(0.01,))
    preset = PRESET.model_copy(update={**sizes, "training": training})
    runs = Runs(load_system("kolmogorov"), preset, "walk", seed=3)
    runs.model(name)
    return runs.folder(str(name))


@pytest.fixture(scope="module")
def folder(session_home) -> Path:
    return trained()


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """The folder in a place of its own, to be damaged."""
    return shutil.copytree(folder, tmp_path / "run" / folder.name)


@pytest.fixture
def no_training(monkeypatch) -> None:
    monkeypatch.setattr(train.Trainer, "fit", lambda *args, **options: pytest.fail("trained again"))


# what is tried -----------------------------------------------------------------------------------------------------


def test_every_objective_is_walked():
    assert set(WALK) == set(OBJECTIVES)
    for objective in OBJECTIVES:
        tried = list(tune.settings(objective))
        assert tried == [(sampler, n) for sampler in WALK[objective] for n in WALK[objective][sampler]]
        assert tried and len(set(tried)) == len(tried)
        assert all(list(counts) == sorted(counts) and counts[0] >= 1 for counts in WALK[objective].values())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_everything_that_is_tried_can_be_used(objective):
    """Built for a model of the objective, and one step of it is finite."""
    torch.manual_seed(0)
    model = make_model(ModelName(objective, "identity", "unet"), RBC, PRESET, (4, 16, 8), torch.ones(4)).eval()
    z, cond = torch.randn(1, 4, 16, 8), Conditioning(torch.zeros(1, len(RBC.parameters)))
    for name, steps in tune.settings(objective):
        sampler = make_sampler(Method(objective, name), model, {name: steps}, 0.5)
        assert type(sampler) is SAMPLERS[name] and sampler.steps == steps and sampler.temperature == 0.5
        with torch.inference_mode():
            out = model.advance(z, cond, sampler, lambda k: torch.randn(z.shape))
        assert out.shape == z.shape and out.isfinite().all(), (name, steps)


@pytest.fixture
def stub(tmp_path) -> Callable[[str], SimpleNamespace]:
    """A validation that knows its model and a folder only."""
    runs = SimpleNamespace(folder=lambda name: tmp_path / name, weights=lambda name: "abc")
    known = {"runs": runs, "leads": 2, "count": 4, "headline": ("u",)}
    return lambda objective: SimpleNamespace(name=ModelName(objective, "identity", "unet"), **known)


def tried_as(setting: Setting, members: int, seconds: float) -> Trial:
    """A trial that tells what it was asked for."""
    return Trial(setting, float(members), 0.0, 0.0, seconds)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_walk(objective, stub, monkeypatch):
    """In the order of WALK: a deterministic sampler once with one member, the others at parts of their temperature."""
    tried = list(tune.settings(objective))
    measured: list[tuple[str, int]] = []

    def calibrated(validation: object, sampler: str, steps: int) -> Setting:
        measured.append((sampler, steps))
        return Setting(sampler, steps, temperature=1.234 + steps, correlation=0.5)

    monkeypatch.setattr(tune, "calibrated", calibrated)
    monkeypatch.setattr(tune, "cost", lambda validation, tried: {which: k for k, which in enumerate(tried)})
    monkeypatch.setattr(tune, "trial", lambda validation, *rest: tried_as(*rest))
    expected = []
    for k, (sampler, steps) in enumerate(tried):
        if SAMPLERS[sampler].deterministic:
            expected.append(tried_as(Setting(sampler, steps), 1, k))
        else:
            settings = (Setting(sampler, steps, round((1.234 + steps) * f, 3), 0.5) for f in FACTORS)
            expected += [tried_as(setting, 6, k) for setting in settings]
    assert tune.walk(stub(objective), members=6) == (expected, {})
    assert measured == [s for s in tried if not SAMPLERS[s[0]].deterministic]
    assert FACTORS[-1] == 1.0  # the calibrated setting itself is among them


@pytest.fixture
def unusable(monkeypatch) -> Callable[..., None]:
    """Lets some samplers fail in the calibration."""
    monkeypatch.setattr(tune, "cost", lambda validation, tried: dict.fromkeys(tried, 1.0))
    monkeypatch.setattr(tune, "trial", lambda validation, *rest: tried_as(*rest))

    def fail(error: Exception, *samplers: str) -> None:
        def calibrated(validation: object, sampler: str, steps: int) -> Setting:
            if sampler in samplers:
                raise error
            return Setting(sampler, steps)

        monkeypatch.setattr(tune, "calibrated", calibrated)

    return fail


def test_the_walk_goes_on_without_what_cannot_be_calibrated(unusable, stub, caplog):
    unusable(Unusable("no spread"), "ddim", "tsm")
    trials, left_out = tune.walk(stub("ddpm"))
    assert [t.setting.sampler for t in trials] == ["ddpm"] * 2 * len(FACTORS)
    assert left_out == dict.fromkeys(("ddim@2", "ddim@5", "ddim@10", "tsm@5"), "no spread")
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [f"ddpm-identity-unet: {which} is left out: no spread" for which in left_out]


def test_nothing_is_left_of_the_walk(unusable, stub):
    unusable(Unusable("no spread"), "ddpm", "ddim", "tsm")
    with pytest.raises(InputError, match=r"no sampler of ddpm-identity-unet can be used, 6 were tried: .* train it again"):
        tune.walk(stub("ddpm"))


def test_a_walk_goes_on_where_it_stopped(unusable, stub, monkeypatch, tmp_path):
    """After an error, such as a full disk; not with other numbers of members, nor from a damaged note."""
    unusable(InputError("no space"), "ddim")
    with pytest.raises(InputError, match="no space"):
        tune.walk(stub("ddpm"))
    asked = []
    monkeypatch.setattr(tune, "trial", lambda validation, *rest: asked.append(rest[0].sampler) or tried_as(*rest))
    unusable(Unusable("no spread"), "tsm")
    trials, left_out = tune.walk(stub("ddpm"))
    assert set(asked) == {"ddim"} and left_out == {"tsm@5": "no spread"}
    assert [(t.setting.sampler, t.setting.steps) for t in trials[:: len(FACTORS)]] == list(tune.settings("ddpm"))[:-1]
    asked.clear()
    assert tune.walk(stub("ddpm")) == (trials, left_out) and not asked
    assert tune.walk(stub("ddpm"), members=5)[0] != trials and set(asked) == {"ddpm", "ddim"}
    (tmp_path / "ddpm-identity-unet" / "trials.json").write_text("[]")
    with pytest.raises(InputError, match=r"trials\.json is damaged .*: delete it"):
        tune.walk(stub("ddpm"))


def test_progress(unusable, stub, caplog):
    unusable(Unusable("no spread"), "tsm")
    caplog.set_level("INFO", "physinterp")
    tune.walk(stub("ddpm"))
    lines = [r.getMessage() for r in caplog.records if "trying" in r.getMessage()]
    assert lines == [
        f"ddpm-identity-unet: trying {which}, {k} of 6"
        for k, which in enumerate(("ddpm@5", "ddpm@10", "ddim@2", "ddim@5", "ddim@10", "tsm@5"), 1)
    ]


def test_samplers_take_turns_in_their_timing(monkeypatch):
    """By a clock that only they move: the first round warms up, of the others the shortest counts."""
    clock, order = [0.0], []
    turns = {"si-e": [1.0, 8.0, 4.0, 8.0], "si-em": [50.0, 2.0, 30.0, 12.0]}

    def states(name: str, x: object, parameters: object, steps: int, members: int) -> Iterator[None]:
        assert members == 4
        for seconds in turns[name][:steps]:
            order.append(name)
            clock[0] += seconds
            yield

    def emulator(setting: Setting) -> SimpleNamespace:
        return SimpleNamespace(states=partial(states, setting.sampler), micro_batch=4)

    monkeypatch.setattr(tune.time, "perf_counter", lambda: clock[0])
    validation = SimpleNamespace(initial=lambda n: (None, None), emulator=emulator)
    tried = [("si-e", 2), ("si-em", 5)]
    assert tune.cost(validation, tried, rounds=3) == {("si-e", 2): 1.0, ("si-em", 5): 0.5}
    assert order == ["si-e", "si-em"] * 4


# what is best ------------------------------------------------------------------------------------------------------


def some(count: int, values: int, seed: int = 0) -> list[Trial]:
    """Trials of random scores with many ties."""
    rng = random.Random(seed)
    return [Trial(Setting("si-em", i + 1), *(float(rng.randint(1, values)) for _ in SCORES)) for i in range(count)]


def scores(trial: Trial) -> tuple[float, ...]:
    return tuple(getattr(trial, s) for s in SCORES)


@pytest.mark.parametrize(("count", "values"), [(1, 1), (5, 1), (40, 2), (60, 4), (60, 1000)])
def test_the_pareto_set_is_that_of_its_definition(count, values):
    """Dominated: another is nowhere worse and somewhere better."""
    trials = some(count, values)

    def better(a: Trial, b: Trial) -> bool:
        pairs = list(zip(scores(a), scores(b), strict=True))
        return not any(x > y for x, y in pairs) and any(x < y for x, y in pairs)

    for trial in trials:
        assert trial.dominated(trials) == any(better(other, trial) for other in trials)
    front = [t for t in trials if not t.dominated(trials)]
    assert front and all(t in front or t.dominated(front) for t in trials)
    for score in SCORES:  # the smallest score is on the front
        assert min(getattr(t, score) for t in front) == min(getattr(t, score) for t in trials)


def test_equal_scores_and_lost_forecasts():
    a, b = Trial(Setting("si-em", 2), 1.0, 2.0, 3.0, 4.0), Trial(Setting("si-pf", 2), 1.0, 2.0, 3.0, 4.0)
    assert not a.dominated([a, b]) and not b.dominated([a, b]) and not a.dominated([])
    lost = replace(b, vrmse=torch.inf, srmse=torch.inf, crps=torch.inf)
    assert lost.dominated([a, lost]) and not a.dominated([a, lost])
    assert tune.choose([lost, a]) == dict.fromkeys(CHOSEN_BY, a.setting)


@pytest.mark.parametrize("seed", range(4))
def test_the_named_settings(seed):
    trials = some(30, 10, seed)
    chosen = tune.choose(trials)
    assert CHOSEN_BY == {"accurate": "vrmse", "balanced": "crps", "spectral": "srmse"} and chosen.keys() == CHOSEN_BY.keys()
    for name, score in CHOSEN_BY.items():
        smallest = min(getattr(t, score) for t in trials)
        assert chosen[name] == next(t.setting for t in trials if getattr(t, score) == smallest)


# a trained model ---------------------------------------------------------------------------------------------------


def test_the_run_of_a_folder(folder, no_training):
    runs, name = Runs.of(folder)
    assert name == NAME and runs.root == folder.parent and runs.folder(str(name)) == folder
    assert (runs.seed, runs.stride, runs.system.grid.shape) == (3, 2, (16, 16))
    again = Runs(load_system("kolmogorov"), runs.preset, "walk", seed=3)
    assert again.root == runs.root and again.key == runs.key
    ours, theirs = runs.model(name).state_dict(), again.model(name).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert runs.weights(name) == digest(folder / "weights.safetensors") and not runs.model(name).training


def test_the_run_of_a_folder_that_was_moved(copy, no_training):
    """A model is at home where it lies."""
    runs, name = Runs.of(copy)
    assert runs.folder(str(name)) == copy and runs.weights(name)
    runs.model(name)


def test_no_trained_model(folder, tmp_path):
    with pytest.raises(InputError, match="no trained model there") as error:
        Runs.of(tmp_path)
    assert str(tmp_path) in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_half_a_model(copy, name):
    (copy / name).unlink()
    with pytest.raises(InputError, match="no trained model there"):
        Runs.of(copy)


def test_nothing_trained_so_far(fresh_home, tmp_path):
    with pytest.raises(InputError, match=r"trained so far:\s+none"):
        Runs.of(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"system": {"name": "x"}}'])
def test_a_damaged_note(copy, content):
    (copy / "model.json").write_text(content)
    with pytest.raises(InputError, match=r"model\.json is damaged \(.+\): delete "):
        Runs.of(copy)


@pytest.mark.parametrize("names", itertools.product(OBJECTIVES, CODECS, BACKBONES), ids="-".join)
def test_names_of_models(names):
    assert ModelName.parse("-".join(names)) == ModelName(*names) and str(ModelName(*names)) == "-".join(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' names no model: no objective ''"),
        ("unet", "no objective 'unet'"),
        ("identity-unet", "no objective 'identity'"),
        ("codec-dcae", "no objective 'codec'"),
        ("interpolant-unet", "no codec 'unet'"),
        ("interpolation-identity-unet", "no objective 'interpolation', did you mean 'interpolant'"),
        ("interpolant-identiti-unet", "no codec 'identiti', did you mean 'identity'"),
        ("interpolant-identity-unett", "no backbone 'unett', did you mean 'unet'"),
        ("interpolant-identity-unet-e2a2c281da17", "no objective 'interpolant-identity'"),  # of an earlier version
        ("Interpolant-identity-unet", "no objective 'Interpolant'"),
    ],
)
def test_names_that_are_no_models(text, message):
    with pytest.raises(InputError) as error:
        ModelName.parse(text)
    assert message in str(error.value) and "known: " in str(error.value)


def test_the_validation_of_a_folder(folder, no_training):
    validation = Validation.of(folder, leads=3)
    runs = validation.runs
    assert validation.headline == load_benchmark(load_system("kolmogorov")).headline and validation.leads == 3
    assert validation.grid == runs.system.grid and validation.name == NAME
    valid = runs.open("valid")
    initial, truth = validation.cases.initial, validation.cases.truth
    assert dict(truth.sizes) == {"sample": 4, "lead_time": 3, "x": 16, "y": 16}  # two starts of two trajectories
    assert set(initial.trajectory.values) == set(valid.trajectory.values)
    assert truth.lead_time.values == pytest.approx([0.2, 0.4, 0.6])
    for case, start in enumerate((0, 0, 2, 2)):  # frames: the first, and the last with three steps after it
        rows = valid.vorticity.isel(sample=case % 2)
        assert (initial.vorticity.isel(sample=case) == rows.isel(time=start)).all()
        assert (truth.vorticity.isel(sample=case, lead_time=1) == rows.isel(time=start + 4)).all()


def test_leads_are_cut_where_trajectories_end(folder):
    most = (FRAMES - 1) // 2
    validation = Validation.of(folder, leads=50)
    assert validation.leads == most == validation.cases.truth.sizes["lead_time"]
    assert validation.cases.initial.sizes["sample"] == 2  # there is only one start


def test_states_of_the_questions(folder):
    validation = Validation.of(folder, leads=3)
    stack, x0 = validation.runs.stack, validation.runs.stack.pack(validation.cases.initial)
    for states, rows in ((1, [0]), (2, [0, 3]), (4, [0, 1, 2, 3]), (7, [0, 0, 1, 2, 2, 2, 3])):
        x, parameters = validation.initial(states)
        assert torch.equal(x, x0[rows]) and parameters.shape == (len(rows), 0)
        truth = validation.truth(states)
        first = stack.pack(validation.cases.truth.isel(lead_time=0, sample=rows)).double()
        assert truth.dtype == torch.float64
        torch.testing.assert_close(truth, first, rtol=0, atol=1e-5)


def test_scores_of_a_trial(folder):
    """Against the members of the same forecast, scored one by one."""
    validation, setting = Validation.of(folder, leads=2), Setting("si-em", 2, 0.7, 0.5)
    found = tune.trial(validation, setting, members=3, seconds=0.25)
    forecast = validation.emulator(setting).forecast(validation.cases.initial, 2, members=3, seed=1)
    u = torch.from_numpy(forecast.vorticity.transpose("member", "sample", "lead_time", "x", "y").values)[:, :, :, None]
    v = torch.from_numpy(validation.cases.truth.vorticity.values)[:, :, None]
    std = validation.runs.stack.statistics.std[0]
    each = v.expand_as(u)
    assert found.setting == setting and found.seconds == 0.25
    assert found.vrmse == pytest.approx(float(metrics.vrmse(u, each).mean()), rel=1e-4)
    assert found.crps == pytest.approx(float(metrics.crps(u, v).mean()) / std, rel=1e-4)
    spacing = validation.grid.axes[0].spacing
    assert found.srmse == pytest.approx(float(metrics.srmse(u, each, spacing=spacing)[..., :2].mean()), rel=1e-3)


def test_a_trial_of_one_member(folder):
    """CRPS is the mean absolute error."""
    validation, setting = Validation.of(folder, leads=2), Setting("si-e", 1)
    found = tune.trial(validation, setting, members=1, seconds=0.25)
    forecast = validation.emulator(setting).forecast(validation.cases.initial, 2).vorticity.isel(member=0)
    error = abs(forecast.values - validation.cases.truth.vorticity.transpose(*forecast.dims).values).mean()
    assert found.crps == pytest.approx(float(error) / validation.runs.stack.statistics.std[0], rel=1e-4)


def test_the_cost_of_samplers(folder):
    """More steps take longer."""
    seconds = tune.cost(Validation.of(folder, leads=2), [("si-em", 1), ("si-em", 12)])
    assert 0 < 2 * seconds["si-em", 1] < seconds["si-em", 12] < 1


def test_a_model_that_is_lost(copy, short):
    validation = Validation.of(copy, leads=2)
    for p in validation.runs.model(NAME).parameters():
        p.fill_(torch.nan)
    with pytest.raises(Unusable, match="si-em loses forecasts of the validation split at temperature 0"):
        tune.trial(validation, Setting("si-em", 2, 0.0), members=2, seconds=1.0)
    with pytest.raises(InputError, match="no sampler of interpolant-identity-unet can be used, 3 were tried"):
        tune.tune(validation)
    assert not (copy / "settings.json").exists()


@pytest.fixture
def short(monkeypatch) -> dict[str, tuple[int, ...]]:
    """A walk of two samplers."""
    walk = {"si-e": (1, 2), "si-em": (2,)}
    monkeypatch.setattr(tune, "WALK", {"interpolant": walk})
    return walk


def test_tuning_keeps_what_it_found(copy, short, no_training, monkeypatch):
    validation = Validation.of(copy, leads=2)
    trials, chosen = tune.tune(validation)
    assert [(t.setting.sampler, t.setting.steps) for t in trials] == [("si-e", 1), ("si-e", 2)] + [("si-em", 2)] * 3
    assert chosen == tune.choose(trials)
    base = Setting(**json.loads((copy / "calibration-si-em-2-leads-2.json").read_text())["setting"])
    assert [t.setting.temperature for t in trials[2:]] == [round(base.temperature * f, 3) for f in FACTORS]
    note = json.loads((copy / "settings.json").read_text())
    assert note.keys() == {"weights", "settings", "trials", "left_out"} and note["left_out"] == {}
    assert note["weights"] == validation.runs.weights(NAME)
    assert {name: Setting(**kept) for name, kept in note["settings"].items()} == chosen
    for kept, t in zip(note["trials"], trials, strict=True):
        assert kept == asdict(t) | {"pareto": not t.dominated(trials)}
        assert all(kept[score] > 0 for score in SCORES)
    assert any(kept["pareto"] for kept in note["trials"])

    monkeypatch.setattr(tune, "calibrate", lambda *args, **options: pytest.fail("calibrated again"))
    again, _ = tune.tune(Validation.of(copy, leads=2))
    assert again == trials
    (copy / "trials.json").unlink()
    again, _ = tune.tune(Validation.of(copy, leads=2))
    assert [scores(t)[:-1] for t in again] == [scores(t)[:-1] for t in trials]  # all but the seconds, to the bit
