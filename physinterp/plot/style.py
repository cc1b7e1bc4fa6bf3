"""What all plots share: colours, labels, colour scales, and writing a figure to a file."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.animation import Animation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

from physinterp.checkpoint import replacing
from physinterp.errors import InputError
from physinterp.grid import Axis, Grid
from physinterp.system import System, near
from physinterp.table import CODEC, MEAN

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))  # 5, and 11 markers, with 8 colours: no two of 40 rows look alike
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
GREY = "#BBBBBB"
PARTS = (GREY, "#56B4E9", "#D55E00")  # of the error budget: codec, one step, feedback
RESOLUTION = 110  # dots per inch
GREYS = 32  # colours of a GIF for text and lines
FORMATS = ("png", "svg", "pdf")


def styles(names: Iterable[str], mark: str = "linestyle") -> dict[str, dict[str, Any]]:
    """Colour and line, or `marker`, of each row, the same in every plot of the same rows; grey for a codec alone."""
    marks: Sequence[Any] = LINES if mark == "linestyle" else MARKERS
    names = list(names)
    methods = [n for n in names if not n.startswith(CODEC)]
    look: dict[str, dict[str, Any]] = {n: {"color": GREY, mark: marks[3]} for n in names}
    return look | {n: {"color": PALETTE[i % len(PALETTE)], mark: marks[i % len(marks)]} for i, n in enumerate(methods)}


def name_of(row: str) -> str:
    """A row in a legend."""
    return f"{row.removeprefix(CODEC)} codec alone" if row.startswith(CODEC) else row


def label(system: System, field: str) -> str:
    """A field with its units; the mean of the headline fields, which has none, is that field where there is one alone."""
    if field == MEAN:
        return "mean of the headline fields" if len(system.fields) > 1 else system.field_names[0].replace("_", " ")
    return _with_units(field.replace("_", " "), units(system, field))


def units(system: System, field: str) -> str:
    """Of a field, empty where it has none."""
    return next((f.units for f in system.fields if f.name == field and f.units != "1"), "")


def time_unit(system: System) -> str:
    """Of lead times, empty where it has none."""
    return "" if system.time_unit == "1" else system.time_unit


def lead_label(system: System) -> str:
    """The lead time with its units."""
    return _with_units("lead time", time_unit(system))


def lead_text(system: System, lead: float) -> str:
    """lead 6 h."""
    return f"lead {lead:g} {time_unit(system)}".rstrip()


def _with_units(text: str, units: str) -> str:
    return f"{text} [{units}]" if units else text


def sides(grid: Grid) -> tuple[Axis, Axis]:
    """The axis to the right and the one upwards: the first and the second, but a latitude points up."""
    first, second = grid.axes
    return (second, first) if first.latitude else (first, second)


def grid_of(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes (rows, columns); width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def logarithmic(ax: Axes, *which: str) -> None:
    """Logarithmic axes, x or y, of what is drawn, with plain numbers."""
    for name in which:
        ax.set(**{f"{name}scale": "log"})
        axis, (low, high) = (ax.xaxis, ax.get_xlim()) if name == "x" else (ax.yaxis, ax.get_ylim())
        wide, few = high > 300 * low, (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else few if high > 5 * low else (1.5, *range(1, 10))))
        axis.set_major_formatter("{x:g}")
    ax.minorticks_off()  # each costs time to lay out


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


class Gif(PillowWriter):
    """A GIF whose palette is greys and the colour maps of the figure, so that no map loses its ends."""

    _frames: list[Image.Image]

    def finish(self) -> None:
        """Write the file."""
        maps = {c.get_cmap().name: c.get_cmap() for ax in self.fig.axes for c in ax.collections}
        each = (256 - GREYS) // len(maps)
        colours = [matplotlib.colormaps["gray"](np.linspace(0, 1, GREYS))]
        colours += [m(np.linspace(0, 1, each)) for m in maps.values()]
        palette = Image.new("P", (1, 1))
        palette.putpalette((255 * np.concatenate(colours)[:, :3]).round().astype(np.uint8).tobytes())
        frames = [frame.convert("RGB") for frame in self._frames]
        self._frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        super().finish()


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
            drawn.save(made, writer=Gif(fps=4), dpi=RESOLUTION)
            shutil.copyfile(made, part)
