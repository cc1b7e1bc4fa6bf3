"""Sunlight against closed forms and published events; season and hour."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from physinterp.data.forcings import SOLAR_CONSTANT, _sun, forcings, solar_radiation
from physinterp.grid import Axis, Grid

GRID = Grid(
    (
        Axis("latitude", 36, -90.0, 180.0, "pole", units="degrees_north"),
        Axis("longitude", 24, 0.0, 360.0, "periodic", units="degrees_east"),
    )
)


def dates(*values: str) -> xr.DataArray:
    return xr.DataArray(np.array(values, dtype="datetime64[ns]"), dims="time")


def sun(date: str) -> tuple[float, float, float]:
    delta, hour, distance = _sun(np.array([date], dtype="datetime64[ns]"))
    return np.rad2deg(delta[0]), np.rad2deg(hour[0]), distance[0]


def daily_mean(delta: float, distance: float) -> np.ndarray:
    """S0 / (pi R^2) (h0 sin(phi) sin(delta) + cos(phi) cos(delta) sin(h0)), h0 the hour angle of sunset."""
    phi, delta = np.deg2rad(GRID.axes[0].points), np.deg2rad(delta)
    h0 = np.arccos(np.clip(-np.tan(phi) * np.tan(delta), -1, 1))
    return (
        SOLAR_CONSTANT
        / (np.pi * distance**2)
        * (h0 * np.sin(phi) * np.sin(delta) + np.cos(phi) * np.cos(delta) * np.sin(h0))
    )


@pytest.mark.parametrize(
    ("day", "delta", "distance"),
    [
        ("2020-03-20T03:50", 0.0, 0.99597),  # equinox
        ("2020-06-20T21:44", 23.4366, 1.01620),  # solstice: polar day, polar night
        ("2020-09-22T13:31", 0.0, 1.00373),
        ("2020-12-21T10:02", -23.4366, 0.98375),
    ],
)
def test_daily_means_at_equinox_and_solstice(day, delta, distance):
    assert sun(day)[0] == pytest.approx(delta, abs=0.01) and sun(day)[2] == pytest.approx(distance, abs=2e-4)
    middle = np.datetime64(day, "ns") + np.timedelta64(12, "h")
    mean = solar_radiation(xr.DataArray(middle), GRID, hours=24.0)
    assert mean.dims == GRID.names and mean.dtype == np.float32
    expected = daily_mean(delta, distance)
    # the declination changes by at most 0.2 degrees on either side within the day, which cancels but for its curvature
    np.testing.assert_allclose(mean.mean("longitude"), expected, atol=1.0)
    if delta > 20:
        assert float(mean[0].max()) == 0 and float(mean[-1].min()) > 500


@pytest.mark.parametrize(
    ("date", "distance"), [("2020-01-05T07:48", 0.98324), ("2020-07-04T11:35", 1.01669), ("1960-01-04T00:00", 0.98328)]
)
def test_distance_of_the_sun(date, distance):
    assert sun(date)[2] == pytest.approx(distance, abs=2e-4)


@pytest.mark.parametrize(
    ("day", "minutes"), [("2021-02-11", -14.24), ("2021-11-03", 16.45), ("2021-04-15", 0.0), ("2021-06-13", 0.0)]
)
def test_the_equation_of_time(day, minutes):
    """Apparent noon at Greenwich is so many minutes before 12 h."""
    hour = sun(f"{day}T12:00")[1]
    assert ((hour + 180) % 360 - 180) * 4 == pytest.approx(minutes, abs=0.3)


def test_the_sphere_receives_a_quarter():
    """The mean over the sphere is S0 / (4 R^2) at every moment, the noon maximum S0 / R^2."""
    date = dates("2019-08-01T05:00", "2020-02-29T18:00")
    s = solar_radiation(date, GRID.with_shape((180, 360)))
    assert s.dims == ("time", "latitude", "longitude") and float(s.min()) == 0 and s.attrs["units"] == "W m-2"
    for i in range(2):
        full = SOLAR_CONSTANT / sun(str(date.values[i]))[2] ** 2
        weights = GRID.with_shape((180, 360)).weights
        assert float((s[i] * weights).mean()) == pytest.approx(full / 4, rel=1e-3)
        assert float(s[i].max()) == pytest.approx(full, rel=1e-3)


def test_the_sun_stands_over_the_longitude_where_it_is_noon():
    s = solar_radiation(dates("2021-04-15T12:00", "2021-04-15T18:00", "2021-04-15T00:00"), GRID)
    assert [float(s.longitude[int(i)]) for i in s.isel(latitude=20).argmax("longitude")] == [0.0, 270.0, 180.0]


def test_means_over_hours_are_of_the_hours_before():
    date = dates("2021-04-15T12:00")
    parts = [solar_radiation(date - np.timedelta64(60 * k, "m"), GRID, 1.0) for k in range(6)]
    np.testing.assert_allclose(solar_radiation(date, GRID, 6.0), sum(parts) / 6, atol=1e-3)
    moment = solar_radiation(date - np.timedelta64(30, "m"), GRID)
    curvature = SOLAR_CONSTANT * (1 - np.sinc(1 / 24))  # of the cosine of the hour angle over an hour
    assert float(np.abs(parts[0] - moment).where(moment > 300).max()) == pytest.approx(curvature, rel=0.1)


def test_season_and_hour():
    date = xr.DataArray(np.array([["2020-01-01T00", "2020-07-01T18"], ["2021-01-01T06", "2021-07-02T12"]], "datetime64[ns]"),
                        dims=("sample", "time"))  # fmt: skip
    ds = forcings(date, GRID)
    assert ds.toa_incident_solar_radiation.dims == ("sample", "time", *GRID.names)
    assert ds.hour_sin.values == pytest.approx(np.array([[0, -1], [1, 0]]), abs=1e-6)
    assert ds.hour_cos.values == pytest.approx(np.array([[1, 0], [0, -1]]), abs=1e-6)
    assert ds.day_of_year_cos.values[:, 0] == pytest.approx([1, 1], abs=1e-4)
    # the middle of a leap year is 2 July 0 h, of another 2 July 12 h
    assert ds.day_of_year_sin.values[0, 1] == pytest.approx(2 * np.pi * 6 / 24 / 366, abs=1e-4) and ds.hour_sin.dims == (
        "sample",
        "time",
    )
    assert ds.day_of_year_cos.values[1, 1] == pytest.approx(-1, abs=1e-6)
