"""Energy spectra of forecasts beside the truth's, and the error budget per wavenumber."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physinterp import budget
from physinterp.plot.style import PARTS, grid_of, label, lead_text, legend, name_of, styles
from physinterp.system import System


def spectra(scores: Mapping[str, xr.Dataset], system: System, lead: float, method: str | None = None) -> Figure:
    """Energy spectra of truth and every method at one lead time, their ratio to the truth, and the error budget.

    Arguments:
        scores: evaluation per row (`physinterp.evaluate.evaluate`); a codec alone, `codec/NAME`, is drawn in grey.
        system: the card.
        lead: lead time, one of the evaluations'.
        method: whose error budget is drawn, where its evaluation has one.
    """
    fields = list(system.field_names)
    parts = budget.of_wavenumbers(scores[method]) if method is not None else None
    heights = [2, 1] if parts is None else [2, 1, 1.2]
    size = (3.9 * len(fields) + 2.6, 2.1 * sum(heights))
    figure, axes = grid_of(len(heights), len(fields), *size, sharex=True, gridspec_kw={"height_ratios": heights})
    for column, field in enumerate(fields):
        top, bottom = axes[:2, column]
        _compare(top, bottom, {n: _at(ds, field, lead) for n, ds in scores.items()})
        top.set_title(label(system, field), fontsize=10)
        if parts is not None:
            _stack(axes[2, column], parts.sel(field=field).sel(lead_time=lead, method="nearest"))
        axes[-1, column].set_xlabel(f"wavenumber [rad / {_length(system)}]")
    axes[0, 0].set_ylabel(
        "power per mode" + (" [squared units]" if any(f.units not in ("", "1") for f in system.fields) else "")
    )
    axes[1, 0].set_ylabel("ratio to truth")
    if parts is not None:
        axes[2, 0].set_ylabel(f"error of {method}\nover truth (power)")
    legend(figure, axes[:, 0])
    along = " and ".join(system.grid.axes[a].name for a in system.grid.spectral)
    what = f"spectra along {along}" if along else "spectra"
    figure.suptitle(f"{system.title}\n{what} at {lead_text(system, lead)}", fontsize=11)
    return figure


def _length(system: System) -> str:
    """The unit of length of the axes that the spectra are along."""
    units = {system.grid.axes[a].units for a in system.grid.spectral}
    return units.pop().removesuffix("_east") if len(units) == 1 and all(units) else "unit length"


def _at(scores: xr.Dataset, field: str, lead: float) -> xr.Dataset:
    """Spectra of a field at a lead, without the mean (k = 0)."""
    both = scores[["spectrum", "spectrum_truth"]].sel(field=field).sel(lead_time=lead, method="nearest")
    return both.isel(k=slice(1, None))


def _compare(top: Axes, bottom: Axes, found: Mapping[str, xr.Dataset]) -> None:
    """Power above, its ratio to the truth's below."""
    first = next(iter(found.values()))
    k, truth = first["k"].values, first["spectrum_truth"].values
    top.loglog(k, truth, color="black", linewidth=2.2, label="truth")
    for name, look in styles(found).items():
        power = found[name]["spectrum"].values
        if np.isfinite(power).all():
            top.loglog(k, np.maximum(power, 1e-300), label=name_of(name), linewidth=1.4, **look)
            ratio = np.divide(power, truth, out=np.full_like(power, np.nan), where=truth > 0)
            bottom.semilogx(k, ratio, linewidth=1.4, **look)
    if (highest := truth.max()) > 0:
        top.set_ylim(max(truth.min() / 30, highest * 1e-12), highest * 5)
    bottom.axhline(1, color="black", linewidth=1)
    bottom.set_ylim(0, 2.5)
    for ax in (top, bottom):
        ax.minorticks_off()


def _stack(ax: Axes, parts: xr.DataArray) -> None:
    """The parts of the error one above the other, on logarithmic axes: each edge is a sum."""
    edges = parts.isel(k=slice(1, None)).cumsum("part").transpose("part", "k").values
    edges = np.where(np.isfinite(edges), edges, np.nan)  # a shell in which the truth has nothing
    low = np.full(edges.shape[1], 1e-12)
    for name, edge, colour in zip(parts["part"].values, edges, PARTS, strict=True):
        ax.fill_between(
            parts["k"].values[1:], low, np.maximum(edge, low), color=colour, alpha=0.75, lw=0, label=f"error: {name}"
        )
        low = np.maximum(edge, low)
    top = min(np.nanmax(edges[-1], initial=1.0), 1e3)  # more is in shells where the truth has next to nothing
    ax.axhline(1, color="black", linewidth=1)
    ax.set(xscale="log", yscale="log", ylim=(max(float(np.nanmin(edges[-1], initial=1.0)) / 10, 1e-8), top * 2))
    ax.minorticks_off()
