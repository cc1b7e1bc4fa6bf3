"""The results of a benchmark in plain words: who wins, by how much, how sure that is, and at what cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from physinterp import budget
from physinterp.plot.style import lead_text, time_unit
from physinterp.results import Results
from physinterp.table import CODEC, MEAN, ratio, with_mean

SCORES = {"vrmse_mean": "Best single guess", "crps": "Best ensemble"}
NAMES = {"vrmse_mean": "VRMSE of the ensemble mean", "crps": "CRPS"}
METHODS = {  # by the beginning of a name
    "persistence": "the state does not change: what a forecast must beat",
    "climatology": "the mean of the training data, at the time of the year and day where they are dated",
    "fno": "Fourier neural operator, trained by the squared error: one forecast",
    "deterministic": "the twin: the same network as the interpolant's, trained by the squared error: one forecast",
    "deterministic-dressed": "the twin with random noise of the covariance of its error added at each step: an ensemble",
    "si": "stochastic interpolant: from the twin's forecast to the next state",
    "si-e": "stochastic interpolant without noise: one forecast",
    "si-em": "stochastic interpolant, Euler-Maruyama: an ensemble",
    "si-cal": "stochastic interpolant, exact for a Gaussian residual at any number of steps: an ensemble",
    "ddpm": "diffusion from noise, many steps (DDPM): an ensemble",
    "ddim": "diffusion from noise, fewer steps (DDIM): an ensemble",
    "tsm": "diffusion that starts near the state (truncated): an ensemble",
    "edm": "diffusion from noise with the networks and steps of Karras et al.: an ensemble",
    "fm": "flow matching from noise: an ensemble",
}
WORDS = {
    "VRMSE": "size of the error over the size of the field's own variations: 0 is perfect, 1 is no better than one constant",
    "CRPS": "error of an ensemble as a whole: small where the members surround the truth closely; for one forecast its mean "
    "absolute error; in standard deviations of the field",
    "SRMSE": "error of the energy at each scale: 0 where a forecast has as much of each size of structure as the truth",
    "spread / skill": "spread of the members over the error of their mean: 1 where an ensemble knows its own error, less "
    "where it is too sure",
    "lead": "time between the state from which a forecast starts and the state that it forecasts",
    "member": "one forecast of an ensemble; members differ in their random noise",
    "evaluation": "one pass through a neural network; a step of the forecast takes one or more, for each member",
    "[low, high]": "95 % interval: how far the number could move had other initial conditions been drawn; it says nothing "
    "of another training",
    "cannot be told": "the 95 % interval of the ratio of the two scores, on the same initial conditions, holds 1",
    "codec": "turns fields into the numbers on which the network works, and back; what it loses no network can win back",
}


def summary(results: Results) -> dict[str, list[str]]:
    """Titles and sentences.

    Every comparison is between two rows on the same initial conditions: its interval is that of the ratio of their scores.
    """
    parts = {
        "In short": _verdict(results),
        "What was done": _setting(results),
        "Who wins, by how much, how sure": [*_winners(results), *_lost(results)],
        "At what cost": _costs(results),
        "Do the ensembles know their error?": _spread(results),
        "Where the error comes from": [*_sources(results), *_codecs(results)],
    }
    return {title: found for title, sentences in parts.items() if (found := list(sentences))}


def about(row: str) -> str:
    """What a row is, in words."""
    front, _, variant = row.partition("/")
    name, _, steps = front.partition("@")
    beginnings = ["-".join(name.split("-")[:n]) for n in range(name.count("-") + 1, 0, -1)]
    text = next((METHODS[b] for b in beginnings if b in METHODS), "")
    text += "; from the state itself, as published" * name.endswith("-state")
    text += f"; with {steps} steps" if steps else ""
    return text + (f"; codec and backbone {variant}" if variant else "")


def _verdict(results: Results) -> Iterator[str]:
    """The best row per score by lead, and how the others stand at the middle one."""
    for score, label in SCORES.items():
        best = dict(_best(results, score))
        if not best:
            continue
        leads: dict[str, list[str]] = {}
        for lead, name in best.items():
            leads.setdefault(name, []).append(f"{lead:g}")
        won = [f"{name} at lead{'s' if len(at) > 1 else ''} {_listed(at)}" for name, at in leads.items()]
        won = won if len(leads) > 1 else [f"{name} at every lead"]
        lead = list(best)[len(best) // 2]
        record = results.document["methods"][best[lead]]
        cost = f" Its cost: {_cost(record)}." if "evaluations" in record else ""
        standing = f"At {lead_text(results.system, lead)}: {_standing(results, score, lead, best[lead])}."
        yield f"{label} ({NAMES[score]}): {', '.join(won)}. {standing}{cost}"


def _setting(results: Results) -> Iterator[str]:
    d, first = results.document, next(iter(results.scores.values()))
    leads, unit = results.all_leads(), time_unit(results.system)
    blocks = "months" if re.fullmatch(r"\d{4}-\d\d", str(first["trajectory"].values[0])) else "trajectories"
    cases, trajectories = first.sizes["case"], len(set(first["trajectory"].values.tolist()))
    yield (
        f"{len(results.scores)} methods forecast {results.system.title} from {cases} initial conditions in {trajectories} "
        f"{blocks} that no training saw, over {len(leads)} leads from {leads[0]:g} to {leads[-1]:g} {unit}".rstrip()
        + f"; ensembles have {d['members']} members. Numbers here are of {_of_fields(d['headline'])}."
    )
    yield (
        "All that learn had the same data and the same total time to train, once each: another training would move the "
        "numbers a little, which the intervals do not show."
    )


def _winners(results: Results) -> Iterator[str]:
    """Who has the smallest score at each lead, and how much more the others have."""
    for score, label in NAMES.items():
        for lead, best in _best(results, score):
            yield f"{label}, {lead_text(results.system, lead)}: {_standing(results, score, lead, best)}."


def _standing(results: Results, score: str, lead: float, best: str) -> str:
    """The best row of a score at a lead, and how much more the others have."""
    d = results.document
    at = {n: _of_cases(ds, score, d["headline"]).sel(lead_time=lead, method="nearest") for n, ds in results.scores.items()}
    order = sorted((n for n, v in at.items() if np.isfinite(v).all()), key=lambda n: float(at[n].mean()))
    others = {name: ratio(at[name], at[best]) for name in order if name != best}
    row = results.table.sel(row=best, field=MEAN, score=score).sel(lead_time=lead, method="nearest")
    return "; ".join([f"{best} wins with {_interval(row)}", *_margin(others, d["focus"])])


def _margin(others: Mapping[str, Mapping[str, float]], focus: str) -> Iterator[str]:
    """How much more the others have: those that cannot be told from the best, the first that can, the chosen sampler."""
    tied = [name for name, r in others.items() if r["low"] <= 1]
    if tied:
        yield f"{_listed(tied)} cannot be told from it"
    shown = [name for name in others if name not in tied]
    for name in [*shown[:1], *(n for n in shown[1:] if n in (focus, "persistence"))]:
        yield f"{name} has {_more(others[name])}"


def _more(r: Mapping[str, float]) -> str:
    """A ratio in words."""
    known = np.isfinite([r["low"], r["high"]]).all()
    if r["value"] < 2:
        text, low, high = (f"{100 * (r[k] - 1):.1f}" for k in ("value", "low", "high"))
        return f"{text} % more" + (f" [{low}, {high}]" if known else "")
    return f"{r['value']:.1f} times as much" + (f" [{r['low']:.1f}, {r['high']:.1f}]" if known else "")


def _lost(results: Results) -> Iterator[str]:
    """Rows whose forecasts did not stay finite."""
    for name, ds in results.scores.items():
        errors = ds["vrmse_member"].transpose("lead_time", ...).values
        lost = ~np.isfinite(errors).all((1, 2))
        if lost.any():
            first = ds["lead_time"].values[lost][0]
            yield f"{name} lost forecasts (values that are not finite) from lead {first:g} on."


def _costs(results: Results) -> Iterator[str]:
    d = results.document
    methods = {name: r for name, r in d["methods"].items() if "evaluations" in r}
    if not methods:
        return
    where = (
        d["hardware"]["accelerator"] or _counted(d["hardware"]["threads"], "thread") + f" of {d['hardware']['processor']}"
    )
    yield f"Per step of one member, on {where}; an ensemble costs that times its members."
    winners = [name for score in SCORES for _, name in _best(results, score)]
    dear = max(methods, key=lambda name: methods[name]["seconds_per_step"])
    for name in dict.fromkeys([*winners, d["focus"], dear]):
        if name in methods:
            yield f"{name}: {_cost(methods[name])}{' (the slowest row)' if name == dear else ''}."
    memory = f" and {d['peak_memory'] / 1e9:.1f} GB of memory" if "peak_memory" in d else ""
    yield f"Everything took {_duration(d['seconds'])}{memory}, with the data and trainings that were not there already."


def _cost(record: Mapping[str, Any]) -> str:
    return (
        f"{_counted(record['evaluations'], 'network evaluation')}, {1e3 * record['seconds_per_step']:.1f} ms, "
        f"{record['parameters']:,} parameters, {record['seconds']:.0f} s of training"
    )


def _best(results: Results, score: str) -> Iterator[tuple[float, str]]:
    """The row with the smallest score, per lead."""
    values = results.table["value"].sel(field=MEAN, score=score, row=list(results.scores))
    for lead in results.leads():
        at = values.sel(lead_time=lead, method="nearest")
        if at.notnull().any():
            yield lead, str(at.idxmin("row").item())


def _spread(results: Results) -> Iterator[str]:
    """Spread over skill of each ensemble."""
    if "spread_skill" not in results.table["score"]:
        return
    table = results.table["value"].sel(score="spread_skill", field=MEAN).sel(lead_time=results.leads(), method="nearest")
    yield (
        f"Spread over the error of the mean at leads {_listed([f'{x:g}' for x in results.leads()])}; 1 is right, less is "
        "too sure, more too cautious."
    )
    for name in results.scores:
        values = table.sel(row=name).values
        if np.isfinite(values).all():
            yield f"{name}: {', '.join(f'{v:.2f}' for v in values)}, {_calibration(values, results.leads())}."


def _calibration(ratios: np.ndarray, leads: list[float]) -> str:
    off = {f"{lead:g}": v for lead, v in zip(leads, ratios, strict=True) if round(abs(v - 1), 2) > 0.1}
    wrong = {"too sure": [x for x, v in off.items() if v < 1], "too cautious": [x for x, v in off.items() if v > 1]}
    parts = [f"{word} at lead{'s' if len(at) > 1 else ''} {_listed(at)}" for word, at in wrong.items() if at]
    return " and ".join(parts) or "right within 10 %"


def _sources(results: Results) -> Iterator[str]:
    """Shares of the error budget, of the chosen sampler and of every row with a codec."""
    focus, leads = results.document["focus"], results.leads()
    found = []
    for name, ds in results.scores.items():
        parts = budget.of_leads(ds)
        if parts is None or not (name == focus or float(ds["mse_floor"].max()) > 0):
            continue
        parts = parts.sel(field=results.document["headline"]).mean("field")
        shares = (100 * parts / parts.sum("part", skipna=False)).sel(lead_time=leads, method="nearest")
        at = [f"at lead {lead:g} {_shares(v)}" for lead, v in zip(leads, shares.values, strict=True) if np.isfinite(v).all()]
        if at:
            found.append(f"{name}: {'; '.join(at)}.")
    if found:
        yield (
            "Shares of the squared error of a member. Codec: lost by encoding and decoding; one step: added by a step from "
            "the true state; feedback: added because each step starts from the forecast and not from the truth."
        )
    yield from found


def _shares(values: np.ndarray) -> str:
    return _listed([f"{part} {v:.0f} %" for part, v in zip(budget.PARTS, values, strict=True) if round(v) > 0])


def _codecs(results: Results) -> Iterator[str]:
    """What each codec alone loses, beside the change of one step."""
    table = results.table["value"].sel(score="vrmse_mean", lead_time=results.leads()[0])
    for codec in (name for name in results.evaluations if name.startswith(CODEC)):
        parts = []
        for field in results.system.field_names:
            loss = float(table.sel(row=codec, field=field))
            text = f"{field} {loss:.4f}"
            if "persistence" in results.scores:
                change = float(table.sel(row="persistence", field=field))
                text += f" (one-step change {change:.4f}{', the codec decides' if loss > change / 2 else ''})"
            parts.append(text)
        yield f"{codec} alone loses (VRMSE): {', '.join(parts)}."


def _of_cases(scores: xr.Dataset, score: str, headline: list[str]) -> xr.DataArray:
    """A score per lead and case, the mean over the headline fields."""
    return with_mean(scores[[score]], headline)[score].sel(field=MEAN)


def _interval(row: xr.Dataset) -> str:
    text = f"{float(row['value']):.4f}"
    return text + (f" [{float(row['low']):.4f}, {float(row['high']):.4f}]" if np.isfinite(row["low"]) else "")


def _of_fields(headline: list[str]) -> str:
    return f"the mean of {_listed(headline)}" if len(headline) > 1 else headline[0]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
