"""Scores against lead time and cost, rank histograms, and the error budget."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physinterp import budget
from physinterp.errors import InputError
from physinterp.plot.style import PARTS, grid_of, label, lead_label, lead_text, legend, logarithmic, name_of, styles
from physinterp.system import System
from physinterp.table import MEAN

TITLES = {
    "vrmse_mean": "VRMSE of the ensemble mean",
    "vrmse_member": "VRMSE of a member",
    "crps": "CRPS (one member: MAE)",
    "srmse_mid": "SRMSE of a member, middle band",
    "srmse_total": "SRMSE of a member, all bands",
}


def error_growth(
    table: xr.Dataset, system: System, score: str, scores: xr.Dataset | None = None, method: str = ""
) -> Figure:
    """A score against lead time, one panel per field, with 95 % intervals and the codec alone in grey.

    Arguments:
        table: dims (row, field, lead_time, score): `value`, `low`, `high`, as `physinterp.table.to_xarray` gives.
        system: the card.
        score: name of the score.
        scores: evaluation of a method; where it has an error budget, its shares are drawn below.
        method: name of that method.
    """
    fields = [*system.field_names, MEAN] if len(system.fields) > 1 else list(system.field_names)
    parts = budget.of_leads(scores) if scores is not None else None
    heights = [2.4] if parts is None else [2.4, 1]
    figure, axes = grid_of(
        len(heights), len(fields), 3.3 * len(fields) + 1.8, 1.5 * sum(heights),
        sharex=True, gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    look, chosen = styles(map(str, table["row"].values)), table.sel(score=score)
    for ax, field in zip(axes[0], fields, strict=True):
        for name in look:
            row = chosen.sel(row=name, field=field)
            row = row.isel(lead_time=np.isfinite(row["value"].values))
            if row.sizes["lead_time"]:
                ax.plot(row["lead_time"], row["value"], label=name_of(name), linewidth=1.5, **look[name])
                ax.fill_between(
                    row["lead_time"], row["low"], row["high"], color=look[name]["color"], alpha=0.15, linewidth=0
                )
        logarithmic(ax, "y")
        ax.set_title(label(system, field), fontsize=10)
        ax.grid(alpha=0.3, which="both", linewidth=0.4)
    axes[0, 0].set_ylabel(TITLES.get(score, score.replace("_", " ")))
    if parts is not None:
        for ax, field in zip(axes[1], fields, strict=True):
            _shares(ax, parts.mean("field") if field == MEAN else parts.sel(field=field))
        axes[1, 0].set_ylabel(f"share in the\nsquared error of\n{method} [%]")
    for ax in axes[-1]:
        ax.set_xlabel(lead_label(system))
    legend(figure, axes[:, 0])
    return figure


def error_budget(scores: xr.Dataset, system: System, method: str) -> Figure:
    """The squared error of a member by cause against lead time: codec, one step, feedback; shares below.

    Arguments:
        scores: evaluation of the method, with an error budget.
        system: the card.
        method: for the title.
    Raises:
        InputError: the evaluation has no error budget.
    """
    parts = budget.of_leads(scores)
    if parts is None:
        raise InputError(f"the evaluation of {method} has no error budget: choose a row that is trained")
    fields = list(system.field_names)
    figure, axes = grid_of(2, len(fields), 3.1 * len(fields) + 1.6, 4.6, sharex=True, sharey="row")
    for (top, bottom), field in zip(axes.T, fields, strict=True):
        _stack(top, parts.sel(field=field))
        _shares(bottom, parts.sel(field=field))
        top.set_title(label(system, field), fontsize=10)
        bottom.set_xlabel(lead_label(system))
    axes[0, 0].set_ylabel("squared error\nover variance")
    axes[1, 0].set_ylabel("share [%]")
    legend(figure, axes[0])
    figure.suptitle(f"{system.title}\nwhere the error of {method} comes from", fontsize=11)
    return figure


def _stack(ax: Axes, parts: xr.DataArray) -> None:
    """Parts (lead_time, part), one above the other."""
    leads, names = parts["lead_time"].values, [f"error: {p}" for p in parts["part"].values]
    ax.stackplot(leads, parts.transpose("part", "lead_time"), labels=names, colors=PARTS, alpha=0.85)
    if len(leads) > 1:
        ax.set_xlim(leads[0], leads[-1])


def _shares(ax: Axes, parts: xr.DataArray) -> None:
    """The same in percent of their sum."""
    _stack(ax, 100 * parts / parts.sum("part", skipna=False))
    ax.set_ylim(0, 100)


def rank_histogram(scores: Mapping[str, xr.Dataset], system: System, lead: float) -> Figure:
    """How often the truth has each rank among the members: flat where spread and bias are right.

    Arguments:
        scores: evaluation per method; those without `rank_histogram` (no ensemble) are left out.
        system: the card.
        lead: lead time, one of the evaluations'.
    Raises:
        InputError: no method has a rank histogram.
    """
    found = {n: ds["rank_histogram"] for n, ds in scores.items() if "rank_histogram" in ds}
    if not found:
        raise InputError("no row has a rank histogram; it takes an ensemble: run the benchmark with --sampler si-em")
    fields, style = list(system.field_names), styles(scores, "marker")
    figure, axes = grid_of(1, len(fields), 2.9 * len(fields) + 1.8, 3.2, sharey=True)
    for ax, field in zip(axes[0], fields, strict=True):
        for name, frequency in found.items():
            f = frequency.sel(field=field).sel(lead_time=lead, method="nearest").values
            ax.plot(range(len(f)), len(f) * f, label=name, linewidth=1.2, markersize=5, **style[name])
        ax.axhline(1, color="black", linewidth=1)
        ax.set_xticks(range(len(f)))
        ax.set(xlabel="rank of the truth", ylim=(0, None))
        ax.set_title(label(system, field), fontsize=10)
    axes[0, 0].set_ylabel("frequency over 1 / (members + 1)")
    legend(figure, axes[0])
    figure.suptitle(f"{system.title}\nrank histogram at {lead_text(system, lead)}", fontsize=11)
    return figure


def accuracy(table: xr.Dataset, system: System, lead: float, field: str = MEAN) -> Figure:
    """VRMSE and CRPS of all methods against their cost, network evaluations per physical step; a line joins a method's rows.

    Arguments:
        table: as in `error_growth`, with the coordinate `evaluations` on `row`; rows with 0 are dotted lines, the codec
            alone a grey one.
        system: the card.
        lead: lead time, one of the table's.
        field: which field, or `mean`.
    """
    figure, axes = grid_of(1, 2, 9.4, 3.9)
    for ax, score in zip(axes[0], ("vrmse_mean", "crps"), strict=True):
        paths: dict[str, list[tuple[float, float, str]]] = {}  # si-em, si-em@5 and si-em@10 are one method
        for name, look in styles(map(str, table["row"].values), "marker").items():
            row = table.sel(row=name, field=field, score=score).sel(lead_time=lead, method="nearest")
            value, cost = float(row["value"]), float(row["evaluations"])
            if np.isfinite(value) and cost < 1:
                ax.axhline(value, color=look["color"], linestyle=":", label=name_of(name))
            elif np.isfinite(value):
                ax.errorbar(cost, value, yerr=_bars(row), label=name, linestyle="", markersize=7, capsize=2, **look)
                paths.setdefault(re.sub(r"@\d+", "", name), []).append((cost, value, look["color"]))
        for path in paths.values():
            costs_of, values, colours = zip(*sorted(path), strict=True)
            ax.plot(costs_of, values, color=colours[0], linewidth=1.2, zorder=0)
        title = TITLES[score].replace("CRPS", "CRPS / std" if field == MEAN else "CRPS")
        ax.set(xscale="log", xlabel="network evaluations per step", ylabel=title)
        logarithmic(ax, "y")
        costs = sorted({int(c) for c in table["evaluations"].values if c >= 1})
        ax.set_xticks(costs, [str(c) for c in costs])
        ax.grid(alpha=0.3, linewidth=0.4)
    legend(figure, axes[0])
    what = f"{label(system, field)}, {lead_text(system, lead)}"
    figure.suptitle(f"{system.title}: accuracy against cost, {what}", fontsize=11)
    return figure


def pareto(table: xr.Dataset, system: System, lead: float, field: str = MEAN, trials: xr.Dataset | None = None) -> Figure:
    """VRMSE against SRMSE of a member: accurate to the left, right at all scales below; the Pareto set is joined.

    Arguments:
        table: as in `error_growth`; the codec alone, in grey, is the floor of what its methods can reach.
        system: the card.
        lead: lead time, one of the table's.
        field: which field, or `mean`.
        trials: of `physinterp tune` on the validation split, in a panel of their own: `vrmse` and `srmse` along
            `trial`, with the coordinate `sampler`.
    """
    spectral = ("srmse_mid", "srmse_total")
    figure, axes = grid_of(1, 2 if trials is None else 3, 10.2 if trials is None else 14.6, 4.0)
    names = [str(m) for m in table["row"].values]
    samplers = [] if trials is None else [str(s) for s in trials["sampler"].values]
    look = styles(dict.fromkeys([*names, *samplers]), "marker")
    row = table.sel(field=field).sel(lead_time=lead, method="nearest")
    for ax, score in zip(axes[0], spectral, strict=False):
        for name in names:
            x, y = (row.sel(row=name, score=s) for s in ("vrmse_member", score))
            if np.isfinite([x["value"], y["value"]]).all():
                bars = {"xerr": _bars(x), "yerr": _bars(y), "linestyle": "", "markersize": 7, "capsize": 2}
                ax.errorbar(x["value"], y["value"], label=name_of(name), **bars, **look[name])
        methods = row["value"].sel(row=[n for n in names if name_of(n) == n])
        _join(ax, methods.sel(score="vrmse_member").values, methods.sel(score=score).values)
        ax.set_ylabel(TITLES[score])
    if trials is not None:
        ax = axes[0, 2]
        for name in dict.fromkeys(samplers):
            mine = trials.isel(trial=trials["sampler"].values == name)
            label_ = f"{name} (tuning)"
            ax.plot(mine["vrmse"], mine["srmse"], label=label_, linestyle="", markersize=6, mfc="none", **look[name])
        _join(ax, trials["vrmse"].values, trials["srmse"].values)
        ax.set_ylabel(TITLES["srmse_total"])
        ax.set_title("tuning: validation split, mean of leads", fontsize=10)
    for ax in axes[0]:
        logarithmic(ax, "x", "y")
        ax.set_xlabel(TITLES["vrmse_member"])
        ax.grid(alpha=0.3, which="both", linewidth=0.4)
    legend(figure, axes[0])
    what = f"{label(system, field)}, {lead_text(system, lead)}"
    figure.suptitle(f"{system.title}: accuracy against spectra, {what}", fontsize=11)
    return figure


def _bars(row: xr.Dataset) -> np.ndarray | None:
    """Lengths of the error bars (2, 1), None where there is no interval."""
    bars = np.array([[row["value"] - row["low"]], [row["high"] - row["value"]]], dtype=np.float64)
    return np.maximum(bars, 0) if np.isfinite(bars).all() else None


def _join(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A line through the points of which none is better in both."""
    best, front = np.inf, []
    for i in np.lexsort((y, x)):
        if np.isfinite(x[i]) and y[i] < best:
            best = y[i]
            front.append(i)
    ax.plot(x[front], y[front], color="black", linewidth=0.8, zorder=0, label="Pareto set")
