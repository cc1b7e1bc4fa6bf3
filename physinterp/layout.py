"""Names and dimensions of a forecast as other programs read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from physinterp.data.sphere import coordinates
from physinterp.errors import InputError
from physinterp.system import DURATIONS, Field, System, near

Place = tuple[str, tuple[int, ...]]  # a variable, and the index after its lead


@dataclass(frozen=True)
class Layout:
    """How a forecast looks.

    Attributes:
        relabel: makes the dataset of our own layout one of this; leading dims stay (sample, member, lead_time), renamed.
        places: where each field is in it.
    """

    relabel: Callable[[xr.Dataset, System], xr.Dataset]
    places: Callable[[System], Mapping[str, Place]]


def unchanged(ds: xr.Dataset, system: System) -> xr.Dataset:
    """Our own layout."""
    return ds


def _by_name(system: System) -> dict[str, Place]:
    return {name: (name, ()) for name in system.field_names}


def weatherbench(ds: xr.Dataset, system: System) -> xr.Dataset:
    """What WeatherBench2's evaluator reads.

        time (datetime64, of initialisation), number, prediction_timedelta (timedelta64)[, level (hPa)], latitude, longitude

    Variables have the first alias of the card, such as `geopotential`; fields on levels are one variable, with NaN where
    the card has no such level. Without our
    coordinates `latent` and `lost_at`: a forecast in this layout cannot be continued.

    Raises:
        InputError: the initial states have no dates, the card no unit of time, or the grid no latitude and longitude.
    """
    row = str(ds[system.field_names[0]].dims[0])
    dates = ds.coords.get("init_time" if row == "init_time" else "date")
    if dates is None or dates.dims != (row,) or dates.dtype.kind != "M":
        raise InputError(
            "the layout weatherbench needs the dates (datetime64) of the initial states, as the dimension init_time or the "
            f"coordinate date, found {'none' if dates is None else dates.dtype}; take the layout physinterp"
        )
    if system.time_unit not in DURATIONS:
        raise InputError(
            f"the layout weatherbench needs a time in {', '.join(DURATIONS)}, the card of {system.name} has "
            f"{system.time_unit!r}; take the layout physinterp"
        )
    names = dict(zip(coordinates(ds), ("latitude", "longitude"), strict=True))
    seconds = ds["lead_time"].values * DURATIONS[system.time_unit]
    other = {"time", "date", "latent", "lost_at", *([row] if row == "sample" else [])} & set(ds.coords)
    lead_time = np.round(1e9 * seconds).astype("timedelta64[ns]")
    ds = ds.drop_vars([*system.field_names, *other]).assign(_fields(ds, system))
    ds = ds.assign_coords({row: (row, dates.values), "lead_time": ("lead_time", lead_time)})
    renamed = {row: "time", "lead_time": "prediction_timedelta", "member": "number"} | names
    return ds.rename({old: new for old, new in renamed.items() if old != new})


def _fields(ds: xr.Dataset, system: System) -> dict[str, xr.DataArray]:
    """The variables; the fields of one on levels together, NaN at the levels that only others have."""
    parts: dict[str, dict[float | None, xr.DataArray]] = {}
    for field in system.fields:
        parts.setdefault(_variable(field), {})[field.level] = ds[field.name].reset_coords(drop=True)
    found, levels = {}, _levels(system)
    for name, on in parts.items():
        first = next(iter(on.values()))
        if None not in on:
            each = [on.get(level, xr.full_like(first, np.nan)) for level in levels]
            whole = xr.concat(each, "level", join="exact", combine_attrs="drop_conflicts").assign_coords(level=levels)
            first = whole.transpose(*first.dims[:3], "level", ...)
        found[name] = first
    return found


def _levels(system: System) -> list[float]:
    return sorted({field.level for field in system.fields if field.level is not None})


def _places(system: System) -> dict[str, Place]:
    levels = _levels(system)
    return {f.name: (_variable(f), () if f.level is None else (levels.index(f.level),)) for f in system.fields}


def _variable(field: Field) -> str:
    return field.aliases[0] if field.aliases else field.name


LAYOUTS: dict[str, Layout] = {"physinterp": Layout(unchanged, _by_name), "weatherbench": Layout(weatherbench, _places)}


def layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        InputError: there is none; the message names those there are.
    """
    if name not in LAYOUTS:
        raise InputError(f"no layout {name!r}: {near(name, LAYOUTS)}")
    return LAYOUTS[name]
