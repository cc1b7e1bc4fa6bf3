"""Scores against lead time and cost, rank histograms, and the error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physinterp import budget
from physinterp.errors import InputError
from physinterp.plot.style import FLOOR, PARTS, finite, grid_of, label, lead_label, legend, points, styles
from physinterp.system import System

TITLES = {
    "vrmse_mean": "VRMSE of the ensemble mean",
    "vrmse_member": "VRMSE of a member",
    "crps": "CRPS (one member: MAE)",
    "srmse_mid": "SRMSE of a member, middle band",
    "srmse_total": "SRMSE of a member, all bands",
}


def error_growth(
    table: xr.Dataset, system: System, score: str, scores: Mapping[str, xr.Dataset] | None = None, method: str | None = None
) -> Figure:
    """A score against lead time, one panel per field, with 95 % intervals and the codec alone in grey.

    Arguments:
        table: dims (row, field, lead_time, score): `value`, `low`, `high`, as `Results.table`.
        system: the card.
        score: name of the score.
        scores: evaluation per method, for the error budget; without it none is drawn.
        method: whose error after one step from the true state is drawn, scaled as its VRMSE.
    """
    fields = [str(f) for f in table["field"].values]
    figure, axes = grid_of(1, len(fields), 3.3 * len(fields) + 1.8, 3.7)
    names = [str(m) for m in table["row"].values]
    style = styles([n for n in names if not n.startswith("codec/")])
    chosen = table.sel(score=score)
    for ax, field in zip(axes[0], fields, strict=True):
        for name in names:
            row = chosen.sel(row=name, field=field)
            row = row.isel(lead_time=np.isfinite(row["value"].values))
            if not row.sizes["lead_time"]:
                continue
            alone = name.startswith("codec/")
            look = FLOOR if alone else style[name]
            ax.plot(
                row["lead_time"], row["value"], label=f"{name[6:]} codec alone" if alone else name, linewidth=1.5, **look
            )
            ax.fill_between(row["lead_time"], row["low"], row["high"], color=look["color"], alpha=0.15, linewidth=0)
        if (
            scores
            and method
            and "mse_one_step" in scores[method]
            and score.startswith("vrmse")
            and field in system.field_names
        ):
            _one_step(ax, scores[method].sel(field=field), method, style[method]["color"])
        ax.set(yscale="log", xlabel=lead_label(system))
        ax.set_title(label(system, field), fontsize=10)
        ax.grid(alpha=0.3, which="both", linewidth=0.4)
    axes[0, 0].set_ylabel(TITLES.get(score, score))
    legend(figure, axes[0])
    return figure


def _one_step(ax: Axes, scores: xr.Dataset, method: str, colour: str) -> None:
    """VRMSE of one step from the true previous state: that of a member times the ratio of their errors, case by case."""
    ratio = np.sqrt(scores["mse_one_step"] / scores["mse_member"])
    value = finite((scores["vrmse_member"] * ratio).mean("case"))
    ax.plot(
        value["lead_time"], value, color=colour, linewidth=1, marker=".", label=f"{method}, member:\none step from the truth"
    )


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
    shares = 100 * parts / parts.sum("part", skipna=False)
    for column, field in enumerate(fields):
        for ax, values in zip(axes[:, column], (parts, shares), strict=True):
            stack = values.sel(field=field).transpose("part", "lead_time")
            ax.stackplot(
                values["lead_time"], stack, labels=[str(p) for p in values["part"].values], colors=PARTS, alpha=0.85
            )
            ax.set_xlim(float(values["lead_time"][0]), float(values["lead_time"][-1]) or None)
        axes[0, column].set_title(label(system, field), fontsize=10)
        axes[1, column].set(xlabel=lead_label(system), ylim=(0, 100))
    axes[0, 0].set_ylabel("squared error\nover variance")
    axes[1, 0].set_ylabel("share [%]")
    legend(figure, axes[0])
    figure.suptitle(f"{system.title}: where the error of {method} comes from", fontsize=11)
    return figure


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
    fields, style = list(system.field_names), points(list(scores))
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
    figure.suptitle(f"{system.title}: rank histogram at lead {lead:g}", fontsize=11)
    return figure


def accuracy(table: xr.Dataset, system: System, lead: float, field: str = "mean") -> Figure:
    """VRMSE and CRPS of all methods against their cost, network evaluations per physical step.

    Arguments:
        table: as in `error_growth`, with the coordinate `evaluations` on `row`; methods with 0 are dotted lines.
        system: the card.
        lead: lead time, one of the table's.
        field: which field, or `mean`.
    """
    panels: Sequence[str] = ("vrmse_mean", "crps")
    figure, axes = grid_of(1, 2, 9.4, 3.9)
    table = table.sel(row=[m for m in table["row"].values if not str(m).startswith("codec/")])
    names = [str(m) for m in table["row"].values]
    style = points(names)
    for ax, score in zip(axes[0], panels, strict=True):
        for name in names:
            row = table.sel(row=name, field=field, score=score).sel(lead_time=lead, method="nearest")
            value, cost, colour = float(row["value"]), float(row["evaluations"]), style[name]["color"]
            if not np.isfinite(value):
                continue
            if cost < 1:
                ax.axhline(value, color=colour, linestyle=":", label=name)
                continue
            ax.errorbar(cost, value, yerr=_bars(row), label=name, linestyle="", markersize=7, capsize=2, **style[name])
        ax.set(xscale="log", yscale="log", xlabel="network evaluations per step", ylabel=TITLES[score])
        costs = sorted({int(c) for c in table["evaluations"].values if c >= 1})
        ax.set_xticks(costs, [str(c) for c in costs])
        ax.minorticks_off()
        ax.grid(alpha=0.3, linewidth=0.4)
    legend(figure, axes[0])
    figure.suptitle(f"{system.title}: accuracy against cost, {label(system, field)}, lead {lead:g}", fontsize=11)
    return figure


def pareto(table: xr.Dataset, system: System, lead: float, field: str = "mean", trials: xr.Dataset | None = None) -> Figure:
    """VRMSE against SRMSE of a member: accurate to the left, right at all scales below; the Pareto set is joined.

    Arguments:
        table: as in `error_growth`.
        system: the card.
        lead: lead time, one of the table's.
        field: which field, or `mean`.
        trials: of `physinterp tune` on the validation split, in a panel of their own: `vrmse` and `srmse` along
            `trial`, with the coordinate `sampler`.
    """
    spectral = ("srmse_mid", "srmse_total")
    figure, axes = grid_of(1, 2 if trials is None else 3, 10.2 if trials is None else 14.6, 4.0)
    names = [str(m) for m in table["row"].values if not str(m).startswith("codec/")]
    row = table.sel(field=field, row=names).sel(lead_time=lead, method="nearest")
    for ax, score in zip(axes[0], spectral, strict=False):
        _scatter(ax, row.sel(score="vrmse_member"), row.sel(score=score), names)
        ax.set_ylabel(TITLES[score])
    if trials is not None:
        ax = axes[0, 2]
        samplers = list(dict.fromkeys(str(s) for s in trials["sampler"].values))
        for name, look in points(samplers).items():
            mine = trials.isel(trial=trials["sampler"].values == name)
            ax.plot(mine["vrmse"], mine["srmse"], label=f"{name} (tuning)", linestyle="", markersize=6, mfc="none", **look)
        _join(ax, trials["vrmse"].values, trials["srmse"].values)
        ax.set_ylabel(TITLES["srmse_total"])
        ax.set_title("tuning: validation split, mean of leads", fontsize=10)
    for ax in axes[0]:
        ax.set(xscale="log", yscale="log", xlabel=TITLES["vrmse_member"])
        ax.grid(alpha=0.3, which="both", linewidth=0.4)
    legend(figure, axes[0])
    figure.suptitle(f"{system.title}: accuracy against spectra, {label(system, field)}, lead {lead:g}", fontsize=11)
    return figure


def _scatter(ax: Axes, x: xr.Dataset, y: xr.Dataset, names: Sequence[str]) -> None:
    """A point with error bars per row, and the Pareto set."""
    for name, look in points(names).items():
        a, b = x.sel(row=name), y.sel(row=name)
        if np.isfinite([a["value"], b["value"]]).all():
            shape = {"linestyle": "", "markersize": 7, "capsize": 2, "label": name, **look}
            ax.errorbar(a["value"], b["value"], xerr=_bars(a), yerr=_bars(b), **shape)
    _join(ax, x["value"].values, y["value"].values)


def _bars(row: xr.Dataset) -> np.ndarray | None:
    """Lengths of the error bars (2, 1), None where there is no interval."""
    bars = np.array([[row["value"] - row["low"]], [row["high"] - row["value"]]], dtype=np.float64)
    return np.maximum(bars, 0) if np.isfinite(bars).all() else None


def _join(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A line through the points of which none is better in both."""
    order = np.argsort(x)
    best, front = np.inf, []
    for i in order:
        if np.isfinite(x[i]) and y[i] < best:
            best = y[i]
            front.append(i)
    ax.plot(x[front], y[front], color="black", linewidth=0.8, zorder=0, label="Pareto set")
