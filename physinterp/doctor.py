"""Questions to a trained interpolant: does its sampler keep the law of its drift, and is its spread the size of its error?

One drift has many samplers. With many steps, Euler-Maruyama and the probability flow have one law whatever the drift
is, as long as its score is consistent; where they differ, a sampler is wrong or the drift is not trained where it is asked.
Every initial state of every ensemble draws noise of its own, so the states are independent samples of such a difference: a
limit on it is a tolerance plus t standard errors of the mean over states, t the quantile CONFIDENCE of Student's law. A
model within the tolerance passes such a question with a probability of at least 0.99.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from scipy import stats
from torch import Tensor

from physinterp import evaluate as ev
from physinterp import metrics
from physinterp.drift import Drift
from physinterp.errors import InputError
from physinterp.grid import Grid
from physinterp.samplers import SAMPLERS
from physinterp.system import near
from physinterp.tune import Setting, Validation, calibrated

LOGGER = logging.getLogger(__name__)

STEPS = {"si-em": 50, "si-pf": 25, "si-e": 2}  # many enough for the law, and what stands for a forecast without spread
CONFIDENCE = 0.995
VARIANCES = 1.1  # tolerated factor between the variances of two samplers with many steps
MEANS = 0.2  # tolerated distance of their means, in units of the spread
RESIDUAL = Setting("si-cal", 1)  # the mean with noise of the covariance that was measured on the validation split
OWN = (1 / 2, 2.0)  # tolerated variance of many steps over that of the residual
BANDS = (1 / 2, 2.0)  # of spread over error in a band of wavenumbers
SKILL = (0.8, 1.25)  # of spread over skill
TINY = 1e-30  # variance of an ensemble that has none
QUIET = 0.05  # spread of a point in units of its field's, below which it is called still
STILL = 0.02  # largest share of still points


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        question: what was asked.
        measured: the number or numbers, as text.
        expected: what a sound model gives.
        sound: whether it does.
        cause: the likely cause where it does not.
    """

    question: str
    measured: str
    expected: str
    sound: bool
    cause: str = ""


def usual(validation: Validation, sampler: str, steps: int) -> Setting:
    """The way a model is sampled in a benchmark: calibrated where there is noise.

    Raises:
        InputError: the model is no interpolant, or the sampler is none of an interpolant.
    """
    _check(validation)
    known = [name for name in SAMPLERS if name.startswith("si-")]
    if sampler not in known:
        raise InputError(f"no sampler {sampler!r} of an interpolant: {near(sampler, known)}")
    return Setting(sampler, steps) if SAMPLERS[sampler].deterministic else calibrated(validation, sampler, steps)


def _check(validation: Validation) -> None:
    if not isinstance(validation.runs.model(validation.name), Drift):
        raise InputError(f"{validation.name} is no interpolant: the doctor examines models of the rows si-*")


def examine(validation: Validation, setting: Setting, members: int = 16, states: int = 8, seed: int = 100) -> list[Finding]:
    """Ask a trained drift and one way to sample it everything that this module knows.

    Arguments:
        validation: the model and its validation split.
        setting: the sampler as it is used.
        members: ensemble size.
        states: initial states of the questions to many steps, at least 2, spread over the split; the others take up to
            four times as many.
        seed: of the first state; every other one and every other ensemble has a seed of its own after it, none of them
            that of the calibration.
    Raises:
        InputError: the model is no interpolant.
    """
    _check(validation)
    found = [_silent(next(_rollout(validation, Setting("si-e", STEPS["si-e"]), 2, 1, seed)))]
    if SAMPLERS[setting.sampler].deterministic:
        return found
    many = Setting(setting.sampler, max(STEPS.get(setting.sampler, STEPS["si-em"]), setting.steps))
    other = "si-em" if setting.sampler.startswith("si-pf") else "si-pf"  # a sampler is not measured by itself
    law, reference, residual = (
        next(_rollout(validation, s, members, states, seed + k * states))
        for k, s in enumerate((many, Setting(other, STEPS[other]), RESIDUAL))
    )
    found += _same_law(many, other, law, reference)
    found.append(_own_spread(many, law, residual))
    cases = min(4 * states, validation.count)
    used = _rollout(validation, setting, members, cases, seed + 3 * states, validation.leads)
    first = next(used)
    found.append(_still(first))
    found += _bands(validation.grid, first, validation.truth(cases))
    ratios = (validation.ratio(e, validation.truth(cases, k)) for k, e in enumerate(chain([first], used)))
    found.append(_spread_skill(setting, list(ratios)))
    return found


def _rollout(
    validation: Validation, setting: Setting, members: int, states: int, seed: int, leads: int = 1
) -> Iterator[Tensor]:
    """Ensembles from some validation states, (N, M, C, *S) per lead, normalised; state n has the seed `seed` + n."""
    which = f"{leads} x {states} x {members} forecasts of {setting.sampler}@{setting.steps}"
    LOGGER.info("%s: %s", validation.name, which)
    emulator = validation.emulator(setting)
    initial = zip(*(part.split(1) for part in validation.initial(states)), strict=True)
    each = [emulator.states(x, parameters, leads, members, seed + n) for n, (x, parameters) in enumerate(initial)]
    return (torch.cat(ensembles).double() for ensembles in zip(*each, strict=True))


def _silent(ensemble: Tensor) -> Finding:
    spread = float((ensemble - ensemble[:, :1]).abs().max())
    return Finding("is si-e without spread?", f"{spread:.2g}", "0", spread == 0, "noise enters a deterministic sampler")


def _same_law(many: Setting, other: str, law: Tensor, reference: Tensor) -> list[Finding]:
    """Mean and variance of a sampler and of another one, each with many steps.

    Per state, so that all count alike: log(v / v') and (|m - m'|^2 - (v + v') / M) / v', where the noise of the means m of
    M members is taken off. Both are 0 on average where the laws are one.
    """
    variance, known = (e.var(1).flatten(1).mean(1).clamp(min=TINY) for e in (law, reference))
    ratios = (variance / known).log()
    ratio, factor = math.exp(ratios.mean()), math.exp(math.log(VARIANCES) + _error(ratios))
    apart = (law.mean(1) - reference.mean(1)).square().flatten(1).mean(1)
    gaps = (apart - (variance + known) / law.shape[1]) / known
    shift, most = math.sqrt(max(float(gaps.mean()), 0.0)), math.sqrt(MEANS**2 + _error(gaps))
    name = f"{many.sampler} with {many.steps} steps"
    causes = (
        f"the noise of {many.sampler} is {'too strong' if ratio > 1 else 'too weak'} for its drift, or the drift is not "
        "trained at all s: train longer, or look at the sampler",
        f"{many.sampler} moves the mean, or the drift is not trained at all s",
    )
    sound = 1 / factor <= ratio <= factor, shift <= most
    expected = f"{1 / factor:.2f} to {factor:.2f}", f"below {most:.2f}"
    return [
        Finding(f"variance of {name} over that of {other}?", f"{ratio:.3f}", expected[0], sound[0], causes[0]),
        Finding("distance of their means, in spreads?", f"{shift:.3f}", expected[1], sound[1], causes[1]),
    ]


def _error(samples: Tensor) -> float:
    """t standard errors of the mean of independent samples (N,)."""
    n = len(samples)
    return float(stats.t.ppf(CONFIDENCE, n - 1) * samples.std() / math.sqrt(n))


def _own_spread(many: Setting, law: Tensor, residual: Tensor) -> Finding:
    """Variance of the drift over that of the residual: what a temperature hides, and samplers of a wrong drift share.

    The mean over states, since the residual is that of all of them: one by one they may differ.
    """
    variance, known = (e.var(1).flatten(1).mean(1) for e in (law, residual))
    samples = variance / known.mean().clamp(min=TINY)
    ratio, error = float(samples.mean()), _error(samples)
    low, high = max(OWN[0] - error, 0.0), OWN[1] + error
    return Finding(
        f"variance of {many.sampler} with {many.steps} steps over that of the residual?",
        f"{ratio:.3f}",
        f"{low:.2f} to {high:.2f}",
        low <= ratio <= high,
        "the drift is not trained at all s" + (", or knows its training split too well" if ratio < 1 else ""),
    )


def _still(ensemble: Tensor) -> Finding:
    """Points that hardly spread, though nothing is known exactly anywhere."""
    spread = ensemble.var(1).mean(0).sqrt()  # over states and members, (C, *S)
    share = float((spread < QUIET * spread.flatten(1).mean(1)[:, None, None]).double().mean())
    return Finding(
        "share of points without spread?",
        f"{share:.3f}",
        f"below {STILL}",
        share <= STILL,
        "the residual covariance is empty there: fit it on more validation pairs, or with more patterns",
    )


def _bands(grid: Grid, ensemble: Tensor, truth: Tensor) -> list[Finding]:
    """Spread over error per band of wavenumbers."""
    members = ensemble.shape[1]
    if not grid.periodic:
        return []
    spread = ev.spectrum(ensemble - ensemble.mean(1, keepdim=True), grid)
    error = ev.spectrum(ensemble.mean(1) - truth, grid)
    variance = spread.energy.sum((0, 1, 2)) / (len(ensemble) * (members - 1))
    squared = error.energy.sum((0, 1)) / len(ensemble) - variance / members  # the mean's own noise taken off
    found = []
    for band, shells in zip(metrics.BANDS[:3], metrics.spectral.bands(spread.k[1:], spread.nyquist), strict=False):
        v, e = float(variance[1:][shells].sum()), float(squared[1:][shells].sum())
        ratio = math.inf if e <= 0 else math.sqrt(v / e)
        cause = (
            "too narrow: fit the residual again or raise the temperature" if ratio < 1 else "noise where there is no error"
        )
        found.append(
            Finding(
                f"spread over error at {band} wavenumbers?",
                f"{ratio:.2f}",
                f"{BANDS[0]:.2f} to {BANDS[1]:.0f}",
                BANDS[0] <= ratio <= BANDS[1],
                cause,
            )
        )
    return found


def _spread_skill(setting: Setting, ratios: list[float]) -> Finding:
    worst = max(ratios, key=lambda r: abs(math.log(r)) if r > 0 else math.inf)
    return Finding(
        f"spread over skill of {setting.sampler}, leads 1 to {len(ratios)}?",
        ", ".join(f"{r:.2f}" for r in ratios),
        f"{SKILL[0]} to {SKILL[1]}",
        SKILL[0] <= worst <= SKILL[1],
        "calibrate: temperature for the first lead, correlation of the noise for the growth",
    )
