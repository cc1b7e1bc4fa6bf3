"""What all plots share: colours, labels, colour scales, and writing a figure to a file."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.animation import Animation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from physinterp.checkpoint import replacing
from physinterp.errors import InputError
from physinterp.system import System, near

PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#8c564b", "#7f7f7f", "#a6761d", "#4b0082", "#44AA99"),
)
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
FLOOR = {"color": "#999999", "linestyle": ":"}  # the codec alone
PARTS = ("#999999", "#56B4E9", "#D55E00")  # of the error budget: codec, one step, feedback
RESOLUTION = 110  # dots per inch
FORMATS = ("png", "svg", "pdf")


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of each method, the same in every plot of the same methods."""
    return {n: {"color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)]} for i, n in enumerate(names)}


def points(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method."""
    return {n: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]} for i, n in enumerate(names)}


def label(system: System, field: str) -> str:
    """A field with its units."""
    return _with_units(field.replace("_", " "), next((f.units for f in system.fields if f.name == field), ""))


def lead_label(system: System) -> str:
    """The lead time with its units."""
    return _with_units("lead time", system.time_unit)


def _with_units(text: str, units: str) -> str:
    return f"{text} [{units}]" if units not in ("", "1") else text


def grid_of(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes (rows, columns); width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend at the right, each name once."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(found.values(), found.keys(), loc="outside right center", fontsize=8, frameon=False)


def scale(values: xr.DataArray) -> dict[str, Any]:
    """Colour map and its range: diverging about zero for a field with both signs, else sequential."""
    low, high = float(values.min()), float(values.max())
    if low < 0 < high:
        limit = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return {"cmap": "inferno", "vmin": low, "vmax": high}


def error_scale(limit: float) -> dict[str, Any]:
    """Colour map and range of an error."""
    return {"cmap": "PuOr_r", "vmin": -(limit or 1.0), "vmax": limit or 1.0}


def finite(values: xr.DataArray) -> xr.DataArray:
    """NaN, which is not drawn, where a value is not finite."""
    return values.where(np.isfinite(values))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=RESOLUTION, format="png")
    return buffer.getvalue()


def save(drawn: Figure | Animation, path: Path) -> None:
    """Write a figure in the format of the path's ending, or an animation as GIF, whole or not at all.

    Raises:
        InputError: the ending is no format.
    """
    known, ending = FORMATS if isinstance(drawn, Figure) else ("gif",), path.suffix.lstrip(".")
    if ending not in known:
        raise InputError(f"{path}: no format {ending!r} for this plot: {near(ending, known)}")
    with replacing(path) as part:
        if isinstance(drawn, Figure):
            drawn.savefig(part, dpi=RESOLUTION, format=ending)
            return
        with tempfile.TemporaryDirectory() as folder:  # the writer takes the format from the ending
            made = Path(folder) / "animation.gif"
            drawn.save(made, writer=PillowWriter(fps=4), dpi=RESOLUTION)
            shutil.copyfile(made, part)
