"""Names and dimensions of a forecast as other programs read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from physinterp.data.sphere import coordinates
from physinterp.data.weatherbench import DURATIONS
from physinterp.errors import InputError
from physinterp.system import Field, System, near

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

    Variables have the first alias of the card, such as `geopotential`; fields on levels are one variable. Without our
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
    variables: dict[str, list[xr.DataArray]] = {}
    for field in system.fields:
        u = ds[field.name]
        variables.setdefault(_variable(field), []).append(
            u if field.level is None else u.expand_dims(level=[field.level], axis=3)
        )
    fields = {name: parts[0] if len(parts) == 1 else xr.concat(parts, "level") for name, parts in variables.items()}
    other = {"time", "date", "latent", "lost_at", *([row] if row == "sample" else [])} & set(ds.coords)
    ds = ds.drop_vars([*system.field_names, *other]).assign(fields)
    ds = ds.assign_coords(
        {row: (row, dates.values), "lead_time": ("lead_time", np.round(1e9 * seconds).astype("timedelta64[ns]"))}
    )
    renamed = {row: "time", "lead_time": "prediction_timedelta", "member": "number"} | names
    return ds.rename({old: new for old, new in renamed.items() if old != new})


def _levels(system: System) -> dict[str, Place]:
    """Fields on levels are one variable, levels in the order of the card."""
    found: dict[str, Place] = {}
    for field in system.fields:
        before = sum(name == _variable(field) for name, _ in found.values())
        found[field.name] = _variable(field), () if field.level is None else (before,)
    return found


def _variable(field: Field) -> str:
    return field.aliases[0] if field.aliases else field.name


LAYOUTS: dict[str, Layout] = {"physinterp": Layout(unchanged, _by_name), "weatherbench": Layout(weatherbench, _levels)}


def layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        InputError: there is none; the message names those there are.
    """
    if name not in LAYOUTS:
        raise InputError(f"no layout {name!r}: {near(name, LAYOUTS)}")
    return LAYOUTS[name]
