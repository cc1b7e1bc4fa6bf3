"""What drives the atmosphere from outside and is known ahead: the ground, sunlight, season and time of day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from physinterp.data.remote import located
from physinterp.data.sphere import axes
from physinterp.data.store import opened, stores
from physinterp.data.units import same_units
from physinterp.data.weatherbench import EXPECTED, still
from physinterp.errors import InputError
from physinterp.grid import Grid
from physinterp.system import System

SOLAR_CONSTANT = 1361.0
"""Total solar irradiance at one astronomical unit, W m-2."""

GRAVITY = 9.80665
"""Standard gravity, m s-2."""
STATIC = {"orography": (("orography", "geopotential_at_surface"), "m"), "land_sea_mask": (("land_sea_mask", "lsm"), "1")}
"""Static fields: names in files, units."""


def static(path: str | Path, system: System) -> xr.Dataset:
    """Orography (m) and land-sea mask (1 on land) on the grid of the card, those of them that the files have.

    Arguments:
        path: file, store, folder of these, or URL, as `data` of `open_dataset`.
        system: the card.
    Raises:
        InputError: there is neither file nor store at the path.
    """
    found: dict[str, xr.DataArray] = {}
    at = stores(located(path))
    if not at:
        raise InputError(f"{path}: expected {EXPECTED}")
    for store in at:
        ds = opened(store)
        for target, (names, units) in STATIC.items():
            name = next((n for n in names if n in ds), None)
            if name is not None and target not in found:
                da = still(ds, name, system, store)
                if same_units(ds[name].attrs.get("units", units), "m2 s-2"):
                    da = da / GRAVITY
                found[target] = da.assign_attrs(units=units, long_name=target.replace("_", " "))
    return xr.Dataset(found)


def forcings(date: xr.DataArray, grid: Grid, hours: float = 0.0) -> xr.Dataset:
    r"""Forcings at given times, on a grid.

    `toa_incident_solar_radiation` (see `solar_radiation`); `day_of_year_sin, _cos` of 2 pi times the elapsed part of the
    year; `hour_sin, _cos` of 2 pi times the elapsed part of the day (UTC).

    Arguments:
        date: datetime64, UTC, any dims, such as `date` of `open_dataset`.
        grid: latitudes and longitudes.
        hours: see `solar_radiation`.
    """
    values = date.values.astype("datetime64[ns]")
    day, year = values.astype("datetime64[D]"), values.astype("datetime64[Y]")
    start, end = year.astype("datetime64[ns]"), (year + 1).astype("datetime64[ns]")
    parts = {"day_of_year": (values - start) / (end - start), "hour": (values - day) / np.timedelta64(1, "D")}
    ds = xr.Dataset({"toa_incident_solar_radiation": solar_radiation(date, grid, hours)})
    for name, part in parts.items():
        for kind, f in (("sin", np.sin), ("cos", np.cos)):
            attributes = {"units": "1", "long_name": f"{kind} of the {name.replace('_', ' ')}"}
            ds[f"{name}_{kind}"] = date.dims, f(2 * np.pi * part).astype(np.float32), attributes
    return ds


def solar_radiation(date: xr.DataArray, grid: Grid, hours: float = 0.0) -> xr.DataArray:
    r"""Sunlight on a horizontal plane at the top of the atmosphere, W m-2.

        S = S0 / R^2 max(0, sin phi sin delta + cos phi cos delta cos h)

    Declination delta, hour angle h and distance R (in astronomical units) from the low-precision formulae of the
    Astronomical Almanac: 0.01 degrees and 2e-4 in R from 1950 to 2050, that is 0.4 W m-2; S0 = 1361 W m-2 is constant
    (the solar cycle changes it by 0.1 %). ERA5's variable of this name is a sum over the hour before, in J m-2: it is
    3600 times this with hours = 1.

    Arguments:
        date: datetime64, UTC, any dims.
        grid: latitudes and longitudes.
        hours: 0 for the moment itself, else the mean over so many hours before it, every 5 minutes.
    Returns:
        Dims of `date`, then of the grid, float32.
    References: Michalsky 1988, Solar Energy 40, 227-235, table 1.
    """
    latitude, longitude = axes(grid)
    phi, lam = np.deg2rad(latitude.points)[:, None], np.deg2rad(longitude.points)
    end = date.values.astype("datetime64[ns]")
    count = max(1, round(12 * hours))
    total = np.zeros((*date.shape, latitude.size, longitude.size))
    for i in range(count):
        moment = end - np.timedelta64(round(3600e9 * hours * (i + 0.5) / count), "ns")
        delta, greenwich, distance = (part[..., None, None] for part in _sun(moment))
        height = np.sin(phi) * np.sin(delta) + np.cos(phi) * np.cos(delta) * np.cos(greenwich + lam)
        total += SOLAR_CONSTANT / distance**2 * np.maximum(height, 0) / count
    result = xr.DataArray(total.astype(np.float32), grid.coords, (*date.dims, latitude.name, longitude.name))
    result = result.assign_coords({name: date[name] for name in date.dims if name in date.coords})
    attributes = {"units": "W m-2", "long_name": "incident solar radiation at the top of the atmosphere"}
    return result.transpose(*date.dims, *grid.names).assign_attrs(attributes)


def _sun(date: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Declination and Greenwich hour angle of the sun (radians), its distance (astronomical units)."""
    days = (date - np.datetime64("2000-01-01T12:00", "ns")) / np.timedelta64(1, "D")
    anomaly = np.deg2rad(357.528 + 0.9856003 * days)
    ecliptic = np.deg2rad(280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.deg2rad(23.439 - 4e-7 * days)
    ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    sidereal = np.deg2rad(280.46062 + 360.98564737 * days)
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly)
    return np.arcsin(np.sin(tilt) * np.sin(ecliptic)), sidereal - ascension, distance
