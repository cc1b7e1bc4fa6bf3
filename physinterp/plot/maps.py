"""Fields as maps: truth, forecast and error, the members of an ensemble, and an animation."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from physinterp.errors import InputError
from physinterp.plot.style import error_scale, grid_of, label, lead_text, scale, sides, units
from physinterp.system import System

Rows = list[tuple[str, xr.DataArray, dict[str, Any]]]  # name, values and colours


def panels(forecast: xr.Dataset, truth: xr.Dataset, system: System, field: str, method: str) -> Figure:
    """Truth, one member and its error at four lead times, in the aspect of the domain.

    Arguments:
        forecast: dims (lead_time, *space), one member.
        truth: the same dims.
        system: the card.
        field: which field.
        method: for the labels.
    """
    leads = np.unique(np.linspace(0, forecast.sizes["lead_time"] - 1, 4).round().astype(int))
    rows = _rows(forecast[field].isel(lead_time=leads), truth[field].isel(lead_time=leads), method)
    width, height = _size(system)
    figure, axes = grid_of(3, len(leads), width * len(leads) + 1.2, 3 * height + 1.6, sharex=True, sharey=True)
    for line, (name, values, colours) in zip(axes, rows, strict=True):
        for ax, lead in zip(line, values["lead_time"].values, strict=True):
            image = _map(ax, system, values.sel(lead_time=lead), colours)
            if name == "truth":
                ax.set_title(lead_text(system, lead), fontsize=9)
        figure.colorbar(image, ax=line.tolist(), shrink=0.9, pad=0.01, label=units(system, field))
        line[0].set_ylabel(f"{name}\n{line[0].get_ylabel()}", fontsize=9)
    _outer(axes)
    figure.suptitle(f"{system.title}: {label(system, field)}", fontsize=11)
    return figure


def spread(ensemble: xr.Dataset, truth: xr.Dataset, system: System, field: str, lead: float, method: str) -> Figure:
    """Mean and members of an ensemble beside the truth; below, their errors beside the standard deviation of the members.

    Everything below has one colour scale: where the spread is right, error and deviation are as large in the same places.

    Arguments:
        ensemble: dims (member, lead_time, *space).
        truth: dims (lead_time, *space).
        system: the card.
        field: which field.
        lead: lead time, the nearest there is.
        method: for the title.
    Raises:
        InputError: there is one member.
    """
    if ensemble.sizes["member"] < 2:
        raise InputError(
            f"{method} has one member; the spread of an ensemble takes two: run the benchmark with --sampler si-em"
        )
    u = ensemble[field].sel(lead_time=lead, method="nearest").load()
    v = truth[field].sel(lead_time=lead, method="nearest").load()
    shown = {"mean of the members": u.mean("member"), "member 0": u.isel(member=0), "member 1": u.isel(member=1)}
    above = {"truth": v, **shown}
    below = {"standard deviation": u.std("member", ddof=1)} | {f"|{n} - truth|": abs(x - v) for n, x in shown.items()}
    size = {"cmap": "viridis", "vmin": 0.0, "vmax": max(float(x.max()) for x in below.values()) or 1.0}
    width, height = _size(system)
    figure, axes = grid_of(2, len(above), width * len(above) + 1.2, 2 * height + 1.7, sharex=True, sharey=True)
    for line, row, colours in zip(axes, (above, below), (scale(v), size), strict=True):
        for ax, (name, values) in zip(line, row.items(), strict=True):
            image = _map(ax, system, values, colours)
            ax.set_title(name, fontsize=9)
        figure.colorbar(image, ax=line.tolist(), shrink=0.9, pad=0.01, label=units(system, field))
    _outer(axes)
    at = lead_text(system, float(u["lead_time"]))
    figure.suptitle(f"{system.title}: {label(system, field)}, {method} at {at}", fontsize=11)
    return figure


def animation(forecast: xr.Dataset, truth: xr.Dataset, system: System, field: str, method: str) -> FuncAnimation:
    """Truth, one member and its error, one frame per lead time; `plot.save` writes it as GIF.

    Arguments: as in `panels`.
    """
    rows = _rows(forecast[field], truth[field], method)
    leads = rows[0][1]["lead_time"].values
    width, height = _size(system)
    shape = (3, 1) if width > 1.3 * height else (1, 3)  # wide domains one below the other, others side by side
    figure, axes = grid_of(*shape, (width + 1.6) * shape[1], (height + 0.6) * shape[0] + 0.4, sharex=True, sharey=True)
    images = []
    for ax, (name, values, colours) in zip(axes.flat, rows, strict=True):
        images.append(_map(ax, system, values.isel(lead_time=0), colours))
        ax.set_title(name, fontsize=9)
        figure.colorbar(images[-1], ax=ax, shrink=0.9, label=units(system, field))
    _outer(axes)
    title = figure.suptitle(" ", fontsize=11)

    def draw(k: int) -> list[Any]:
        for image, (_, values, _) in zip(images, rows, strict=True):
            image.set_array(_values(system, values.isel(lead_time=k)))
        title.set_text(f"{label(system, field)}, {lead_text(system, leads[k])}")
        return [*images, title]

    return FuncAnimation(figure, draw, frames=len(leads), interval=250)


def _rows(forecast: xr.DataArray, truth: xr.DataArray, method: str) -> Rows:
    """Truth and forecast with the colours of the truth, and the error."""
    v, u = truth.load(), forecast.load()
    same, error = scale(v), u - v
    return [
        ("truth", v, same),
        (f"{method}, member 0", u, same),
        ("error", error, error_scale(float(np.abs(error).max()))),
    ]


def _size(system: System) -> tuple[float, float]:
    """Inches of a map, in the aspect of the domain."""
    right, up = sides(system.grid)
    wide = right.length / up.length
    width = 2.9 * min(max(wide, 1.0), 1.6)
    return width, width / wide


def _values(system: System, field: xr.DataArray) -> np.ndarray:
    """(up, right)."""
    return field.transpose(*(axis.name for axis in reversed(sides(system.grid)))).values


def _map(ax: Axes, system: System, field: xr.DataArray, colours: dict[str, Any]) -> QuadMesh:
    right, up = sides(system.grid)
    image = ax.pcolormesh(right.points, up.points, _values(system, field), shading="nearest", **colours)
    ax.set(aspect="equal", xlabel=_name(right), ylabel=_name(up))
    return image


def _name(axis: Any) -> str:
    """x [m]; a longitude says its units by its name."""
    return axis.name if axis.units.startswith("degrees") or not axis.units else f"{axis.name} [{axis.units}]"


def _outer(axes: np.ndarray) -> None:
    """Labels at the left and below alone."""
    for ax in axes.flat:
        ax.label_outer()
