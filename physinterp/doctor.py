"""Questions to a trained interpolant: does its sampler keep the law of its drift, and is its spread the size of its error?

One drift has many samplers. With many steps, Euler-Maruyama and the probability flow have one law whatever the drift
is, as long as its score is consistent; where they differ, a sampler is wrong or the drift is not trained where it is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from physinterp import evaluate as ev
from physinterp import metrics
from physinterp.drift import Drift
from physinterp.errors import InputError
from physinterp.samplers import SAMPLERS
from physinterp.system import near
from physinterp.tune import Setting, Validation, calibrated

STEPS = {"si-em": 50, "si-pf": 25, "si-e": 2}  # many enough for the law, and what stands for a forecast without spread
LAW = 0.15  # largest relative difference of variances, and of means in units of the spread, of two samplers with many steps
BANDS = (1 / 3, 3.0)  # of spread over error in a band of wavenumbers
SKILL = (0.8, 1.25)  # of spread over skill
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


def examine(validation: Validation, setting: Setting, members: int = 16, states: int = 8) -> list[Finding]:
    """Ask a trained drift and one way to sample it everything that this module knows.

    Arguments:
        validation: the model and its validation split.
        setting: the sampler as it is used.
        members: ensemble size.
        states: initial states of the one-step questions, spread over the split.
    Raises:
        InputError: the model is no interpolant.
    """
    _check(validation)
    many = Setting(setting.sampler, max(STEPS.get(setting.sampler, STEPS["si-em"]), setting.steps))
    other = "si-em" if setting.sampler.startswith("si-pf") else "si-pf"  # a sampler is not measured by itself
    used, law, reference = (
        _step(validation, s, members, states) for s in (setting, many, Setting(other, STEPS[other]))
    )  # fmt: skip
    deterministic = SAMPLERS[setting.sampler].deterministic
    found = [_silent(_step(validation, Setting("si-e", STEPS["si-e"]), 2, states))]
    if deterministic:
        return found
    found += _same_law(many, other, law, reference)
    found.append(_still(used))
    found += _bands(validation, used, states)
    found.append(_spread_skill(validation, setting))
    return found


def _step(validation: Validation, setting: Setting, members: int, states: int) -> Tensor:
    """One step from some validation states, (N, M, C, *S), normalised."""
    emulator = validation.emulator(setting)
    x, parameters = validation.initial(states)
    return next(emulator.states(x, parameters, 1, members, seed=2)).double()


def _silent(ensemble: Tensor) -> Finding:
    spread = float((ensemble - ensemble[:, :1]).abs().max())
    return Finding("is si-e without spread?", f"{spread:.2g}", "0", spread == 0, "noise enters a deterministic sampler")


def _same_law(many: Setting, other: str, law: Tensor, reference: Tensor) -> list[Finding]:
    """Mean and variance of a sampler and of another one, each with many steps."""
    members = law.shape[1]
    variance, known = (e.var(1).mean() for e in (law, reference))
    ratio = float(variance / known)
    gap = (law.mean(1) - reference.mean(1)).square().mean() - (variance + known) / members  # sampling noise taken off
    shift = math.sqrt(max(float(gap / known), 0.0))
    name = f"{many.sampler} with {many.steps} steps"
    causes = (
        f"the noise of {many.sampler} is {'too strong' if ratio > 1 else 'too weak'} for its drift, or the drift is not "
        "trained at all s: train longer, or look at the sampler",
        f"{many.sampler} moves the mean, or the drift is not trained at all s",
    )
    return [
        Finding(
            f"variance of {name} over that of {other}?", f"{ratio:.3f}", f"1 within {LAW}", abs(ratio - 1) <= LAW, causes[0]
        ),
        Finding("distance of their means, in spreads?", f"{shift:.3f}", f"below {LAW}", shift <= LAW, causes[1]),
    ]


def _still(ensemble: Tensor) -> Finding:
    """Points that hardly spread, though nothing is known exactly anywhere."""
    spread = ensemble.var(1).mean(0).sqrt()  # over states and members, (C, *S)
    share = float((spread < QUIET * spread.flatten(1).mean(1)[:, None, None]).double().mean())
    return Finding(
        "share of points without spread?",
        f"{share:.3f}",
        f"below {STILL}",
        share <= STILL,
        "the residual covariance is empty there: fit it on more validation pairs, or with more eigenvectors",
    )


def _bands(validation: Validation, ensemble: Tensor, states: int) -> list[Finding]:
    """Spread over error per band of wavenumbers."""
    grid, members = validation.grid, ensemble.shape[1]
    if not grid.periodic:
        return []
    spread = ev.spectrum(ensemble - ensemble.mean(1, keepdim=True), grid)
    error = ev.spectrum(ensemble.mean(1) - validation.truth(states), grid)
    variance = spread.energy.sum((0, 1, 2)) / (len(ensemble) * (members - 1))
    squared = error.energy.sum((0, 1)) / len(ensemble) - variance / members  # the mean's own noise taken off
    found = []
    for band, shells in zip(metrics.BANDS[:3], metrics.spectral.bands(spread.k[1:], spread.nyquist), strict=False):
        v, e = float(variance[1:][shells].sum()), float(squared[1:][shells].sum())
        ratio = math.sqrt(v / e) if e > 0 else math.inf
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


def _spread_skill(validation: Validation, setting: Setting) -> Finding:
    ratios = validation.spread_skill(setting, validation.leads, members=4)
    worst = max(ratios, key=lambda r: abs(math.log(r)) if r > 0 else math.inf)
    return Finding(
        f"spread over skill of {setting.sampler}, leads 1 to {len(ratios)}?",
        ", ".join(f"{r:.2f}" for r in ratios),
        f"{SKILL[0]} to {SKILL[1]}",
        SKILL[0] <= worst <= SKILL[1],
        "calibrate: temperature for the first lead, correlation of the noise for the growth",
    )
