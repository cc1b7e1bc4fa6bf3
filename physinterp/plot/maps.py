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
from physinterp.plot.style import error_scale, grid_of, label, scale
from physinterp.system import System


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
    width, height = _size(system)
    figure, axes = grid_of(3, len(leads), width * len(leads) + 1.2, 3 * height + 1.6, sharex=True, sharey=True)
    a, b = truth[field].isel(lead_time=leads).load(), forecast[field].isel(lead_time=leads).load()
    same = scale(a)
    rows = (("truth", a, same), (f"{method}, member 0", b, same), ("error", b - a, error_scale(float(np.abs(b - a).max()))))
    for r, (name, values, colours) in enumerate(rows):
        for c, lead in enumerate(values["lead_time"].values):
            image = _map(axes[r, c], system, values.isel(lead_time=c), colours)
            if r == 0:
                axes[r, c].set_title(f"lead {lead:g}", fontsize=9)
        axes[r, 0].set_ylabel(f"{name}\n{system.grid.names[1]}", fontsize=9)
        figure.colorbar(image, ax=axes[r, :].tolist(), shrink=0.9, pad=0.01)
    for ax in axes[-1]:
        ax.set_xlabel(system.grid.names[0])
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
    mean, same = u.mean("member"), scale(v)
    shown = [("mean of the members", mean)] + [(f"member {i}", u.isel(member=i)) for i in range(2)]
    above = [("truth", v), *shown]
    below = [("standard deviation", u.std("member", ddof=1))] + [(f"|{name} - truth|", abs(x - v)) for name, x in shown]
    largest = max(float(x.max()) for _, x in below) or 1.0
    size: dict[str, Any] = {"cmap": "viridis", "vmin": 0.0, "vmax": largest}
    rows: list[tuple[list[tuple[str, xr.DataArray]], dict[str, Any]]] = [(above, same), (below, size)]
    width, height = _size(system)
    figure, axes = grid_of(2, len(above), width * len(above) + 1.2, 2 * height + 1.7, sharex=True, sharey=True)
    for line, (row, colours) in zip(axes, rows, strict=True):
        for ax, (name, values) in zip(line, row, strict=True):
            image = _map(ax, system, values, colours)
            ax.set_title(name, fontsize=9)
        figure.colorbar(image, ax=line.tolist(), shrink=0.9, pad=0.01)
        line[0].set_ylabel(system.grid.names[1])
    for ax in axes[-1]:
        ax.set_xlabel(system.grid.names[0])
    figure.suptitle(f"{system.title}: {label(system, field)}, {method} at lead {float(u['lead_time']):g}", fontsize=11)
    return figure


def animation(forecast: xr.Dataset, truth: xr.Dataset, system: System, field: str, method: str) -> FuncAnimation:
    """Truth, one member and its error, one frame per lead time; `plot.save` writes it as GIF.

    Arguments: as in `panels`.
    """
    a, b = truth[field].load(), forecast[field].load()
    same = scale(a)
    rows = (("truth", a, same), (f"{method}, member 0", b, same), ("error", b - a, error_scale(float(np.abs(b - a).max()))))
    width, height = _size(system)
    below = width > 1.3 * height  # wide domains one below the other, others side by side
    shape = (3, 1) if below else (1, 3)
    figure, axes = grid_of(*shape, (width + 1.6) * shape[1], (height + 0.6) * shape[0] + 0.4, sharex=True, sharey=True)
    images = []
    for ax, (name, values, colours) in zip(axes.flat, rows, strict=True):
        images.append(_map(ax, system, values.isel(lead_time=0), colours))
        ax.set_title(name, fontsize=9)
        figure.colorbar(images[-1], ax=ax, shrink=0.9)
    title = figure.suptitle(" ", fontsize=11)

    def draw(k: int) -> list[Any]:
        for image, (_, values, _) in zip(images, rows, strict=True):
            image.set_array(_values(system, values.isel(lead_time=k)))
        title.set_text(f"{label(system, field)}, lead {float(a['lead_time'][k]):g}")
        return [*images, title]

    return FuncAnimation(figure, draw, frames=a.sizes["lead_time"], interval=250)


def _size(system: System) -> tuple[float, float]:
    """Inches of a map, in the aspect of the domain."""
    first, second = system.grid.axes
    wide = first.length / second.length
    width = 2.9 * min(max(wide, 1.0), 1.6)
    return width, width / wide


def _values(system: System, field: xr.DataArray) -> np.ndarray:
    """(*space) with the first axis to the right."""
    return field.transpose(*reversed(system.grid.names)).values


def _map(ax: Axes, system: System, field: xr.DataArray, colours: dict[str, Any]) -> QuadMesh:
    first, second = system.grid.axes
    image = ax.pcolormesh(first.points, second.points, _values(system, field), shading="nearest", **colours)
    ax.set_aspect("equal")
    return image
