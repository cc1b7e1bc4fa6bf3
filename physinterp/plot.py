"""Plots of forecasts and scores: each a function of xarray data that returns a matplotlib figure.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; the truth is black.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from physinterp.system import System

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c564b", "#7f7f7f", "#a6761d", "#4b0082")
LINES = ("-", "--", "-.", ":")


def styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour and line of each method, the same in every plot."""
    lines = cycle(LINES)
    return {n: {"color": PALETTE[i % len(PALETTE)], "linestyle": next(lines)} for i, n in enumerate(names)}


def _label(system: System, field: str) -> str:
    units = next((f.units for f in system.fields if f.name == field), "")
    return f"{field.replace('_', ' ')} [{units}]" if units not in ("", "1") else field.replace("_", " ")


def spectra(scores: Mapping[str, xr.Dataset], system: System, lead: float, floors: Mapping[str, xr.Dataset]) -> Figure:
    """Energy spectra of truth and every method at one lead time, with their ratio to the truth below.

    Arguments:
        scores: evaluation per method (`physinterp.evaluate.evaluate`).
        system: the card.
        lead: lead time, one of the evaluations'.
        floors: evaluation of each codec's reconstruction, drawn in grey.
    """
    fields = system.field_names
    figure, axes = plt.subplots(
        2,
        len(fields),
        figsize=(3.9 * len(fields) + 2.6, 6.2),
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [2, 1]},
        layout="constrained",
    )
    style = styles(list(scores))
    for column, field in enumerate(fields):
        top, bottom = axes[:, column]
        first = next(iter(scores.values())).sel(field=field).sel(lead_time=lead, method="nearest")
        k, truth = first["k"].values[1:], first["spectrum_truth"].values[1:]
        top.loglog(k, truth, color="black", linewidth=2.2, label="truth")
        drawn = [(n, ds, style[n]) for n, ds in scores.items()]
        drawn += [(f"{n} codec alone", ds, {"color": "#999999", "linestyle": ":"}) for n, ds in floors.items()]
        for name, ds, look in drawn:
            power = ds["spectrum"].sel(field=field).sel(lead_time=lead, method="nearest").values[1:]
            if not np.isfinite(power).all():
                continue
            top.loglog(k, np.maximum(power, 1e-300), label=name, linewidth=1.4, **look)
            bottom.semilogx(k, power / truth, linewidth=1.4, **look)
        top.set_ylim(max(truth.min() / 30, truth.max() * 1e-12), truth.max() * 5)
        top.set_title(_label(system, field), fontsize=10)
        bottom.axhline(1, color="black", linewidth=1)
        bottom.set(ylim=(0, 2.5), xlabel="wavenumber [rad per unit length]")
    axes[0, 0].set_ylabel("power per mode")
    axes[1, 0].set_ylabel("ratio to truth")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    periodic = " and ".join(system.grid.axes[a].name for a in system.grid.periodic)
    figure.suptitle(f"{system.title}\nspectra along {periodic} at lead {lead:g}", fontsize=11)
    return figure


def error_growth(table: Sequence[Mapping], system: System, score: str, methods: Sequence[str], title: str) -> Figure:
    """A score against lead time, one panel per field, with 95 % intervals.

    Arguments:
        table: rows of `scores.json`.
        system: the card.
        score: name of the score.
        methods: in the order of their colours.
        title: of the figure.
    """
    fields = list(dict.fromkeys(r["field"] for r in table if r["score"] == score))
    figure, axes = plt.subplots(1, len(fields), figsize=(3.3 * len(fields) + 1.8, 3.7), squeeze=False, layout="constrained")
    style = styles(methods)
    for ax, field in zip(axes[0], fields, strict=True):
        for name in methods:
            rows = [r for r in table if (r["method"], r["field"], r["score"]) == (name, field, score)]
            rows = [r for r in rows if np.isfinite(r["value"])]
            if not rows:
                continue
            lead, value, low, high = (np.array([r[k] for r in rows]) for k in ("lead", "value", "low", "high"))
            ax.plot(lead, value, label=name, linewidth=1.5, **style[name])
            ax.fill_between(lead, low, high, color=style[name]["color"], alpha=0.15, linewidth=0)
        ax.set(yscale="log", xlabel=f"lead time [{system.time_unit}]" if system.time_unit != "1" else "lead time")
        ax.set_title(_label(system, field), fontsize=10)
        ax.grid(alpha=0.3, which="both", linewidth=0.4)
    axes[0, 0].set_ylabel(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def panels(forecast: xr.Dataset, truth: xr.Dataset, system: System, field: str, method: str) -> Figure:
    """Truth, one member and its error at four lead times, in the aspect of the domain.

    Arguments:
        forecast: dims (lead_time, *space), one member.
        truth: the same dims.
        system: the card.
        field: which field.
        method: for the title.
    """
    first, second = system.grid.axes
    leads = np.unique(np.linspace(0, forecast.sizes["lead_time"] - 1, 4).round().astype(int))
    wide = first.length / second.length
    width = 2.9 * min(max(wide, 1.0), 1.6)
    figure, axes = plt.subplots(
        3,
        len(leads),
        figsize=(width * len(leads) + 1.2, 3 * width / wide + 1.6),
        squeeze=False,
        layout="constrained",
        sharex=True,
        sharey=True,
    )
    a, b = truth[field].isel(lead_time=leads), forecast[field].isel(lead_time=leads)
    signed = float(a.min()) < 0
    limit = float(np.abs(a).max())
    low, high = (-limit, limit) if signed else (float(a.min()), float(a.max()))
    error = float(np.abs(b - a).max()) or 1.0
    rows = (
        ("truth", a, low, high, "RdBu_r" if signed else "inferno"),
        (f"{method}, member 0", b, low, high, "RdBu_r" if signed else "inferno"),
        ("error", b - a, -error, error, "PuOr_r"),
    )
    for r, (name, data, vmin, vmax, cmap) in enumerate(rows):
        for c, k in enumerate(leads):
            ax = axes[r, c]
            values = data.isel(lead_time=c).transpose(second.name, first.name).values
            image = ax.pcolormesh(first.points, second.points, values, vmin=vmin, vmax=vmax, cmap=cmap, shading="nearest")
            ax.set_aspect("equal")
            if r == 0:
                ax.set_title(f"lead {float(forecast['lead_time'][k]):g}", fontsize=9)
        axes[r, 0].set_ylabel(f"{name}\n{second.name}", fontsize=9)
        figure.colorbar(image, ax=axes[r, :].tolist(), shrink=0.9, pad=0.01)
    for ax in axes[-1]:
        ax.set_xlabel(first.name)
    figure.suptitle(f"{system.title}: {_label(system, field)}", fontsize=11)
    return figure
