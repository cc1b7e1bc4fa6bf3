"""Names and dimensions of a forecast as other programs read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from physinterp.errors import InputError
from physinterp.system import System, near

Layout = Callable[[xr.Dataset, System], xr.Dataset]

AXES = {"lat": "latitude", "latitude": "latitude", "lon": "longitude", "longitude": "longitude"}
SECONDS = {"s": 1, "seconds": 1, "min": 60, "minutes": 60, "h": 3600, "hours": 3600, "d": 86400, "days": 86400}


def plain(ds: xr.Dataset, system: System) -> xr.Dataset:
    """Our own layout, unchanged."""
    return ds


def weatherbench(ds: xr.Dataset, system: System) -> xr.Dataset:
    """What WeatherBench2's evaluator reads.

        init_time -> time (datetime64),  lead_time -> prediction_timedelta (timedelta64),  member -> number,
        latitude, longitude

    Without our own coordinates `latent` and `lost_at`: a forecast in this layout cannot be continued.

    Raises:
        InputError: the initial conditions have no dates, the card no unit of time, or the grid no latitude and longitude.
    """
    if "init_time" not in ds.dims or not np.issubdtype(ds["init_time"].dtype, np.datetime64):
        raise InputError(
            "the layout weatherbench needs the dates of the initial states on the dimension init_time (datetime64), found "
            f"{ds['init_time'].dtype if 'init_time' in ds.dims else 'the dimension sample'}; take the layout physinterp"
        )
    if system.time_unit not in SECONDS:
        raise InputError(
            f"the layout weatherbench needs a time in hours or days, the card of {system.name} has {system.time_unit!r}; "
            "take the layout physinterp"
        )
    names = {a: AXES.get(a.lower(), "") for a in system.grid.names}
    if sorted(names.values()) != ["latitude", "longitude"]:
        raise InputError(
            f"the layout weatherbench needs the axes latitude and longitude, the card of {system.name} has "
            f"{system.grid.names}; take the layout physinterp"
        )
    seconds = ds["lead_time"].values * SECONDS[system.time_unit]
    lead = np.round(1e9 * seconds).astype("timedelta64[ns]")
    ds = ds.drop_vars(["latent", "lost_at"]).assign_coords(lead_time=("lead_time", lead))
    renamed = {"init_time": "time", "lead_time": "prediction_timedelta", "member": "number"} | names
    return ds.drop_vars("time", errors="ignore").rename({a: b for a, b in renamed.items() if a != b})


LAYOUTS: dict[str, Layout] = {"physinterp": plain, "weatherbench": weatherbench}


def layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        InputError: there is none; the message names those there are.
    """
    if name not in LAYOUTS:
        raise InputError(f"no layout {name!r}: {near(name, LAYOUTS)}")
    return LAYOUTS[name]
