"""A card for data that no card fits, from what their files say of themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from physinterp.data import array, sphere, weatherbench, well
from physinterp.data.containers import arrays
from physinterp.data.hdf5 import opened, text
from physinterp.data.remote import Store, location
from physinterp.data.store import opened as opened_store
from physinterp.data.store import stores
from physinterp.errors import InputError

GAP = np.timedelta64(14, "D")  # between two splits of a record
LINE = 160  # characters
DIVIDED = 20 * GAP  # a shorter record is not divided


def draft(path: Store, formats: list[str]) -> dict[str, Any] | None:
    """The keys of a card for data in one of some formats, None where nothing can be said.

    Of weather and of The Well's sets everything is in the files but what is worth forecasting; of an array the names
    of its axes, their lengths and boundaries and the step are left to be put right.

    Raises:
        InputError: the coordinates are of a kind that no grid has.
    """
    if "weatherbench" in formats:
        return _of_weather(path)
    if "well" in formats:
        return _of_the_well(path)
    return _of_arrays(path) if "array" in formats and isinstance(path, Path) else None


def as_text(card: Mapping[str, Any]) -> str:
    """A card in YAML, a line per key where that is not too long."""

    def entry(one: dict[str, Any]) -> str:
        line = yaml.safe_dump(one, default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]
        return line if len(line) < LINE else yaml.safe_dump(one, default_flow_style=None, sort_keys=False).rstrip()

    return "\n".join(entry({key: value}) for key, value in card.items())


# weather -------------------------------------------------------------------------------------------------------------


def _of_weather(path: Store) -> dict[str, Any]:
    """All variables with dates (all at all, where there are none) on their own grid, and splits by date of a long record."""
    first = stores(path)[0]
    ds = opened_store(first)
    dim, _ = weatherbench.dates_of(ds, first)
    grid = sphere.grid_of(ds)
    space = set(grid.names)
    names = [
        str(n) for n, v in ds.data_vars.items() if space <= set(v.dims) and v.dtype.kind == "f" and dim in (None, *v.dims)
    ]
    order = [str(d) for d in ds[names[0]].dims if d in space] if names else grid.names
    axes = [next(a for a in grid.axes if a.name == name) for name in order]
    card: dict[str, Any] = {
        "name": Path(str(path)).stem,
        "adapter": "weatherbench",
        "fields": [_weather_field(ds[name]) for name in names],
        "grid": {"axes": [_axis(a.name, a.size, a.start, a.length, a.boundary, a.nodes, a.units) for a in axes]},
    }
    found = [weatherbench.dates_of(opened_store(store), store)[1] for store in stores(path)]
    dates = np.sort(np.concatenate([d for d in found if d is not None])) if dim is not None else np.array([], "M8[ns]")
    hours = float(np.median(np.diff(dates)) / np.timedelta64(1, "h")) if len(dates) > 1 else 24.0
    card |= {"dt": hours / 24 if hours % 24 == 0 else hours, "time_unit": "d" if hours % 24 == 0 else "h"}
    if len(dates) and dates[-1] - dates[0] >= DIVIDED:
        card["splits"] = _divided(dates)
    return card


def _weather_field(da: xr.DataArray) -> dict[str, Any]:
    """The keys of one variable."""
    field = {"name": str(da.name)} | {k: str(da.attrs[k]) for k in ("units", "long_name") if k in da.attrs}
    levels = [float(f"{v:g}") for v in weatherbench.levels_of(da)]
    if not levels:
        return field
    return field | {"levels": [int(v) if v.is_integer() else v for v in levels], "aliases": [str(da.name)]}


def _divided(dates: np.ndarray) -> dict[str, Any]:
    """Eight, one and one tenths of a record, two weeks apart."""
    first, last = dates[[0, -1]].astype("datetime64[D]")
    cuts = [first + int(share * (last - first).astype(int)) for share in (0.8, 0.9)]
    starts, ends = [first, *(c + GAP // 2 for c in cuts)], [*(c - GAP // 2 for c in cuts), last]
    return {s: {"start": a.item(), "end": b.item()} for s, a, b in zip(well.SPLITS, starts, ends, strict=True)}


# The Well ------------------------------------------------------------------------------------------------------------


def _of_the_well(path: Store) -> dict[str, Any] | None:
    """The fields that change in time, the axes, and the scalars that differ between trajectories."""
    folders = [files for files in well.split_files(location(path)).values() if files]
    with opened(folders[0][0]) as file:
        axes = text(file["dimensions"].attrs["spatial_dims"])
        if len(axes) != 2:
            return None
        time = np.asarray(file["dimensions/time"], dtype=np.float64).reshape(-1)
        fields = [
            "_".join([name, "".join(component)]).rstrip("_")
            for order in range(3)
            for name, data in file.get(f"t{order}_fields", {}).items()
            if data.attrs["time_varying"]
            for component in itertools.product(axes, repeat=order)
        ]
        kinds = {
            axis: np.asarray(group.attrs["bc_type"]).astype(str).item().lower()
            for group in file.get("boundary_conditions", {}).values()
            for axis in text(group.attrs["associated_dims"])
        }
        lines = [_line(a, np.asarray(file["dimensions"][a], dtype=np.float64), kinds.get(a, "periodic")) for a in axes]
        name = str(file.attrs.get("dataset_name", folders[0][0].stem))
    scalars: dict[str, set[float]] = {}
    for place in folders[0]:
        with opened(place) as file:
            for key, data in file.get("scalars", {}).items():
                if not data.attrs.get("time_varying", False):
                    scalars.setdefault(key, set()).update(np.asarray(data, dtype=np.float64).reshape(-1).tolist())
    parameters = [_parameter(key, sorted(values)) for key, values in scalars.items() if len(values) > 1]
    card: dict[str, Any] = {
        "name": name,
        "adapter": "well",
        "fields": [{"name": n} for n in fields],
        "grid": {"axes": lines},
    }
    card |= {"dt": _short(np.diff(time[:2])[0]) if len(time) > 1 else 1.0}
    return card | ({"parameters": parameters} if parameters else {})


def _line(name: str, points: np.ndarray, kind: str) -> dict[str, Any]:
    """An axis with equal steps, or with Chebyshev-Gauss nodes between walls."""
    n, span = len(points), points.max() - points.min()
    step, boundary = span / max(n - 1, 1), "periodic" if kind == "periodic" else "wall"
    if n > 1 and np.abs(np.abs(np.diff(points)) - step).max() < 1e-3 * step:
        return _axis(name, n, points.min() - (0 if boundary == "periodic" else step / 2), n * step, boundary)
    length = span / math.cos(math.pi / (2 * n))
    start = points.min() - (length - span) / 2
    nodes = start + length * (1 - np.cos(np.pi * (np.arange(n) + 0.5) / n)) / 2
    if n < 2 or np.abs(np.sort(points) - nodes).max() > 1e-3 * span:
        raise InputError(f"axis {name!r} has neither equal steps nor Chebyshev-Gauss nodes: interpolate to one of them")
    return _axis(name, n, start, length, boundary, "chebyshev")


def _parameter(name: str, values: list[float]) -> dict[str, Any]:
    """On a logarithmic scale, where the values are over a decade and more."""
    low, middle, high = (_short(values[i]) for i in (0, len(values) // 2, -1))
    scale = {"transform": "log10"} if low > 0 and high >= 10 * low else {}
    return {"name": name, "default": middle, "values": [low, high]} | scale


# arrays --------------------------------------------------------------------------------------------------------------


def _of_arrays(path: Path) -> dict[str, Any] | None:
    """The largest array of a file, (sample, time, y, x), or (sample, time, y, x, field) where it has five dimensions."""
    file, group = next(iter(array.sources(path).values()))
    here = {n: a.stored for n, a in arrays(file, group).items() if a.stored.ndim in (4, 5)}
    if not here:
        return None
    name, stored = max(here.items(), key=lambda item: math.prod(item[1].shape))
    fields = [f"{name or 'field'}_{i}" for i in range(stored.shape[4])] if stored.ndim == 5 else [n or "field" for n in here]
    lines = [_axis(a, n, 0.0, 1.0, "periodic") for a, n in zip("yx", stored.shape[2:4], strict=True)]
    return {
        "name": path.stem,
        "adapter": "array",
        "fields": [{"name": n} for n in fields],
        "grid": {"axes": lines},
        "dt": 1,
    }


def _axis(
    name: str, size: int, start: float, length: float, boundary: str, nodes: str = "uniform", units: str = ""
) -> dict[str, Any]:
    line = {"name": name, "size": size, "start": _short(start), "length": _short(length), "boundary": boundary}
    line |= {"nodes": nodes} if nodes != "uniform" else {}
    line |= {"units": units} if units else {}
    return line | ({"fixed": True} if units and boundary == "periodic" else {})


def _short(value: float) -> float:
    """Without what float32 adds."""
    return float(f"{value:.7g}")
