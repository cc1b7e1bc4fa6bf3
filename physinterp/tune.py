r"""Choices that are made after training, on the validation split: the spread of a sampler, and which sampler to use.

With the variance v of the members and the squared error e^2 of their mean without noise, an ensemble of M has

    (spread / skill)^2 = (1 + 1/M) v / (e^2 + v / M)

which is 1 where v = e^2. `calibrate` measures it at the first lead and sets the temperature to e / sqrt(v). Then it takes
the correlation of the noise between steps, and the temperature, with the smallest

    max over leads of w |log(spread / skill)|,   w = 2 at the first lead, else 1

because the errors of a model in successive steps are alike: noise drawn anew in every step gives ensembles that grow too
slowly. The spread is taken as proportional to the temperature.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physinterp import evaluate as ev
from physinterp.checkpoint import load_json, reading, save_json
from physinterp.config import load_benchmark
from physinterp.emulator import Emulator
from physinterp.errors import InputError
from physinterp.grid import Grid
from physinterp.methods import Method, ModelName, make_sampler
from physinterp.runs import Runs
from physinterp.samplers import SAMPLERS
from physinterp.table import MEAN, with_mean

LOGGER = logging.getLogger(__name__)

VERSION = 1  # raised when calibrations of the same weights change
CORRELATIONS = (0.0, 0.5, 0.8)  # candidates
TEMPERATURES = (0.25, 4.0)  # bounds
CASES = 16


class Unusable(InputError):
    """A sampler that cannot be used with a model: its forecasts are not finite, or it has no spread."""


@dataclass(frozen=True)
class Setting:
    """How a trained model is sampled.

    Attributes:
        sampler, steps: key of SAMPLERS and its steps.
        temperature: factor on the noise.
        correlation: of the noise of successive physical steps, see `emulator.Noise`.
    """

    sampler: str
    steps: int
    temperature: float = 1.0
    correlation: float = 0.0


class Validation:
    """A trained model and the validation split on which its sampling is chosen.

    Arguments:
        runs: where the model lives.
        name: the model.
        headline: fields that count.
        leads: how far to roll out; cut where the trajectories are shorter.
        starts: initial conditions per trajectory; at least CASES in all of data that no solver made.
    """

    def __init__(self, runs: Runs, name: ModelName, headline: Sequence[str], leads: int, starts: int = 2) -> None:
        self.runs, self.name, self.headline = runs, name, tuple(headline)
        ds = runs.open("valid")
        if runs.data is not None:
            starts = max(starts, math.ceil(CASES / ds.sizes["sample"]))
        self.leads = min(leads, (ds.sizes["time"] - 1) // runs.stride)
        self.cases = ev.cases(ds, runs.stride, self.leads, starts, runs.preset.step)

    @classmethod
    def of(cls, folder: Path, leads: int) -> Validation:
        """The validation of the model in a folder."""
        runs, name = Runs.of(folder)
        return cls(runs, name, load_benchmark(runs.system).headline, leads)

    @property
    def grid(self) -> Grid:
        """Of the fields."""
        return self.runs.system.grid

    @property
    def count(self) -> int:
        """Of the cases."""
        return self.cases.initial.sizes["sample"]

    def initial(self, states: int) -> tuple[Tensor, Tensor]:
        """Normalised initial states (N, C, *S), spread over the cases, and their parameters (N, P).

        Where there are fewer cases than states, some come more than once.
        """
        chosen = self.cases.initial.isel(sample=self._spread(states))
        return self.runs.stack.pack(chosen), torch.from_numpy(self.runs.system.conditioning(chosen))

    def truth(self, states: int, lead: int = 0) -> Tensor:
        """The normalised truth after `initial` at a lead (from 0), encoded and decoded, (N, C, *S), float64."""
        truth = self.runs.stack.normalise(self.cases.lead(lead, self.runs.stack.names, self.grid.names))
        parameters = torch.from_numpy(self.runs.system.conditioning(self.cases.initial))
        rows = self._spread(states)
        emulator = self.runs.emulator(self.runs.codec(self.name.codec), nn.Identity())
        return emulator.reconstruct(truth[rows], parameters[rows]).double()

    def _spread(self, states: int) -> list[int]:
        return torch.linspace(0, self.count - 1, states).round().long().tolist()

    def emulator(self, setting: Setting) -> Emulator:
        """The model sampled in some way."""
        model = self.runs.model(self.name)
        row = Method(self.name.objective, setting.sampler)
        sampler = make_sampler(row, model, {setting.sampler: setting.steps}, setting.temperature)
        return self.runs.sampled(self.name, sampler, setting.correlation)

    def spread_skill(self, setting: Setting, leads: int, members: int, seed: int = 1) -> list[float]:
        """Spread over skill per lead of forecasts of all cases, which share their noise; see `ratio`."""
        x, parameters = self.initial(self.count)
        forecasts = self.emulator(setting).states(x, parameters, leads, members, seed)
        return [self.ratio(ensemble, self.truth(self.count, k)) for k, ensemble in enumerate(forecasts)]

    def ratio(self, ensemble: Tensor, truth: Tensor) -> float:
        """Spread over skill of ensembles (N, M, C, *S) of the headline fields, in units of their standard deviation.

        The error is taken against the encoded and decoded truth: what the codec loses is not the sampler's to spread.
        """
        fields = [self.runs.stack.names.index(f) for f in self.headline]
        weights = torch.from_numpy(self.grid.weights)
        ensemble, members = ensemble[:, :, fields].double(), ensemble.shape[1]

        def mean(value: Tensor) -> Tensor:
            return (value * weights).mean()

        variance, error = mean(ensemble.var(1)), mean((ensemble.mean(1) - truth[:, fields]).square())
        return float(((1 + 1 / members) * variance / error).sqrt())


def calibrate(validation: Validation, setting: Setting, members: int = 2) -> tuple[Setting, dict[str, Any]]:
    """The temperature and the correlation that bring spread over skill near 1 at all leads; see the module.

    Returns:
        The setting, and what was measured: spread over skill at the first lead as it was, and per lead for each candidate.
    Raises:
        Unusable: there is no spread, no error, or no rollout that stays finite.
    """
    first = validation.spread_skill(setting, 1, members)[0]
    if not (math.isfinite(first) and first > 0):
        raise Unusable(f"{setting.sampler} cannot be calibrated: spread over skill is {first} at the first lead")
    variance = first**2 / max(1 + (1 - first**2) / members, 1e-3)  # v / e^2
    setting = _scaled(setting, 1 / math.sqrt(variance))
    tried = {}
    for correlation in CORRELATIONS:
        ratios = validation.spread_skill(replace(setting, correlation=correlation), validation.leads, members)
        if all(math.isfinite(r) and r > 0 for r in ratios):
            tried[correlation] = torch.tensor(ratios).log()
    if not tried:
        raise Unusable(f"{setting.sampler} cannot be calibrated: its rollouts on the validation split are not finite")
    factors = {c: _centred(logs) for c, logs in tried.items()}
    best = min(factors, key=lambda c: factors[c][1])
    setting = _scaled(replace(setting, correlation=best), factors[best][0])
    measured = {str(c): [round(r, 3) for r in logs.exp().tolist()] for c, logs in tried.items()}
    return setting, {"spread_skill_before": first, "spread_skill": measured}


def _centred(logs: Tensor) -> tuple[float, float]:
    """The factor on the temperature with the smallest largest weighted departure of the logarithms (leads,), and that."""
    shift = torch.linspace(-1, 1, 2001)
    weight = torch.ones(len(logs))
    weight[0] = 2
    worst, k = (weight * (logs + shift[:, None]).abs()).amax(1).min(0)
    return math.exp(float(shift[k])), float(worst)


def _scaled(setting: Setting, factor: float) -> Setting:
    """The setting at another temperature, within bounds."""
    low, high = TEMPERATURES
    return replace(setting, temperature=round(min(max(setting.temperature * factor, low), high), 3))


def calibrated(validation: Validation, sampler: str, steps: int) -> Setting:
    """The calibrated setting of a sampler, kept beside the weights and measured where it is not there."""
    runs, name = validation.runs, validation.name
    stamp = {"weights": runs.weights(name), "version": VERSION}
    path = runs.folder(str(name)) / f"calibration-{sampler}-{steps}-leads-{validation.leads}.json"
    if path.exists():
        with reading(path):
            kept = load_json(path)
        if kept["stamp"] == stamp:
            return Setting(**kept["setting"])
    LOGGER.info("%s: calibrating the spread of %s with %d steps", name, sampler, steps)
    setting, about = calibrate(validation, Setting(sampler, steps))
    save_json({"stamp": stamp, "setting": asdict(setting), **about}, path)
    return setting


FACTORS = (0.5, 0.75, 1.0)  # of the calibrated temperature
WALK: Mapping[str, Mapping[str, tuple[int, ...]]] = {  # samplers of an objective and their numbers of steps
    "interpolant": {"si-e": (1, 2), "si-em": (2, 5), "si-cal": (1, 2, 5), "si-pf": (1, 2), "si-foellmer": (2, 5)},
    "interpolant-state": {"si-e": (1, 2), "si-em": (2, 5), "si-cal": (1, 2, 5), "si-pf": (1, 2), "si-foellmer": (2, 5)},
    "deterministic": {"si-cal": (1,)},
    "ddpm": {"ddpm": (5, 10), "ddim": (2, 5, 10), "tsm": (5,)},
    "edm": {"edm": (3, 5, 10), "edm-euler": (5, 10)},
    "flow-matching": {"fm": (1, 2, 5), "fm-euler": (2, 5, 10), "fm-heun": (1, 2, 5)},
}
SCORES = ("vrmse", "srmse", "crps", "seconds")
CHOSEN_BY = {"accurate": "vrmse", "balanced": "crps", "spectral": "srmse"}


@dataclass(frozen=True)
class Trial:
    """One setting on the validation split, lower is better in every score.

    Attributes:
        setting: how the model was sampled.
        vrmse: of a member; srmse: of a member, low and middle band, for in the high one the truth
            may have nothing to compare with; crps: in standard deviations of the training split; each the
            mean over headline fields, cases and leads.
        seconds: per physical step of one member, see `cost`.
    """

    setting: Setting
    vrmse: float
    srmse: float
    crps: float
    seconds: float

    def dominated(self, others: Sequence[Trial]) -> bool:
        """Whether another trial is at least as good in every score and better in one."""
        mine = [getattr(self, s) for s in SCORES]
        for other in others:
            theirs = [getattr(other, s) for s in SCORES]
            if theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)):
                return True
        return False


def settings(objective: str) -> Iterator[tuple[str, int]]:
    """Samplers and steps that are tried for an objective."""
    for sampler, counts in WALK[objective].items():
        for steps in counts:
            yield sampler, steps


def variants(validation: Validation, sampler: str, steps: int) -> list[Setting]:
    """A deterministic sampler as it is, another at its calibrated temperature and below."""
    if SAMPLERS[sampler].deterministic:
        return [Setting(sampler, steps)]
    base = calibrated(validation, sampler, steps)
    return [replace(base, temperature=round(base.temperature * f, 3)) for f in FACTORS]


def cost(validation: Validation, tried: Sequence[tuple[str, int]], rounds: int = 5) -> dict[tuple[str, int], float]:
    """Wall time per physical step of one member, in seconds, of samplers and steps.

    The samplers take turns, so that other work of the machine meets all of them; each turn is a full micro-batch. The
    shortest of the rounds, after a first one to warm up. The temperature costs nothing.
    """
    x, parameters = validation.initial(1)
    emulators = [validation.emulator(Setting(*which)) for which in tried]
    rollouts = [e.states(x, parameters, 1 + rounds, e.micro_batch) for e in emulators]
    turns: list[list[float]] = [[] for _ in tried]
    for _ in range(1 + rounds):
        for rollout, seconds in zip(rollouts, turns, strict=True):
            begun = time.perf_counter()
            next(rollout)
            seconds.append(time.perf_counter() - begun)
    shortest = (min(seconds[1:]) / e.micro_batch for seconds, e in zip(turns, emulators, strict=True))
    return dict(zip(tried, shortest, strict=True))


def walk(validation: Validation, members: int = 4) -> tuple[list[Trial], dict[str, str]]:
    """Try every sampler, number of steps and temperature of a model on the validation split.

    What is done is kept in `trials.json` beside the weights: the same call goes on where an earlier one stopped.

    Returns:
        The trials, and why a sampler was left out, by `sampler@steps`.
    Raises:
        InputError: all were left out.
    """
    name, tried = validation.name, {f"{sampler}@{n}": (sampler, n) for sampler, n in settings(validation.name.objective)}
    path = validation.runs.folder(str(name)) / "trials.json"
    stamp: dict[str, Any] = {"weights": validation.runs.weights(name), "version": VERSION}
    stamp |= {"leads": validation.leads, "cases": validation.count, "members": members, "headline": [*validation.headline]}
    done = _done(path, stamp)
    left = [key for key in tried if key not in done]
    if left:
        LOGGER.info("%s: timing %d samplers", name, len(tried))
        seconds = cost(validation, list(tried.values()))  # of all, in one session, to be compared
        for key in tried.keys() - left:
            if isinstance(done[key], list):
                done[key] = [t | {"seconds": seconds[tried[key]]} for t in done[key]]
    else:
        LOGGER.info("%s: all of it was tried before; delete %s to try again", name, path)
    for k, key in enumerate(left, 1 + len(tried) - len(left)):
        LOGGER.info("%s: trying %s, %d of %d", name, key, k, len(tried))
        count = 1 if SAMPLERS[tried[key][0]].deterministic else members
        try:
            done[key] = [asdict(trial(validation, s, count, seconds[tried[key]])) for s in variants(validation, *tried[key])]
        except Unusable as error:
            LOGGER.warning("%s: %s is left out: %s", name, key, error)
            done[key] = str(error)
        save_json({"stamp": stamp, "done": done}, path)
    trials = [Trial(Setting(**t.pop("setting")), **t) for key in tried if isinstance(done[key], list) for t in done[key]]
    if not trials:
        raise InputError(
            f"no sampler of {name} can be used, {len(tried)} were tried: forecasts of the validation split have to be "
            "finite; train it again"
        )
    return trials, {key: done[key] for key in tried if isinstance(done[key], str)}


def _done(path: Path, stamp: Mapping[str, Any]) -> dict[str, Any]:
    """Trials (or why there are none) by `sampler@steps` of an earlier walk with the same stamp."""
    if not path.exists():
        return {}
    with reading(path):
        kept = load_json(path)
        return kept["done"] if kept["stamp"] == stamp else {}


def trial(validation: Validation, setting: Setting, members: int, seconds: float) -> Trial:
    """The scores of a setting on the validation split.

    Raises:
        Unusable: a forecast is not finite.
    """
    emulator = validation.emulator(setting)
    forecasts = ev.physical(emulator, validation.cases, validation.leads, members, 1)
    ds = with_mean(ev.evaluate(forecasts, validation.cases, emulator), validation.headline).sel(field=MEAN)
    spectral = ds["srmse"].sel(band=["low", "mid"])
    vrmse, srmse, crps = (float(x.mean()) for x in (ds["vrmse_member"], spectral, ds["crps"]))
    if not all(math.isfinite(x) for x in (vrmse, srmse, crps)):
        raise Unusable(f"{setting.sampler} loses forecasts of the validation split at temperature {setting.temperature:g}")
    return Trial(setting, vrmse, srmse, crps, seconds)


def choose(trials: Sequence[Trial]) -> dict[str, Setting]:
    """The named settings: `accurate`, `balanced` and `spectral` have the smallest VRMSE, CRPS and SRMSE."""
    return {name: min(trials, key=lambda t: getattr(t, score)).setting for name, score in CHOSEN_BY.items()}


def tune(validation: Validation) -> tuple[list[Trial], dict[str, Setting]]:
    """Walk, choose, and keep both beside the weights in `settings.json`, with what was left out and why."""
    trials, left_out = walk(validation)
    chosen = choose(trials)
    note = {
        "weights": validation.runs.weights(validation.name),
        "settings": {name: asdict(setting) for name, setting in chosen.items()},
        "trials": [asdict(t) | {"pareto": not t.dominated(trials)} for t in trials],
        "left_out": left_out,
    }
    save_json(note, validation.runs.folder(str(validation.name)) / "settings.json")
    return trials, chosen
