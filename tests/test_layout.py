"""Layouts of a forecast for other programs."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from toy import RBC, dataset, emulator

from physinterp.errors import InputError
from physinterp.grid import Axis, Grid

SPHERE = RBC.model_copy(
    update={
        "time_unit": "hours",
        "grid": Grid((Axis("longitude", 16, 0, 360, "periodic"), Axis("latitude", 8, -90, 180, "pole"))),
    }
)
DATES = np.array(["2020-01-01", "2020-01-01T12:00", "2020-03-01"], dtype="datetime64[ns]")


def dated(system=SPHERE) -> xr.Dataset:
    return dataset(system).rename(sample="init_time").assign_coords(init_time=DATES)


@pytest.mark.parametrize("stored", [False, True])
def test_weatherbench(tmp_path, stored):
    """Names, dims and types that its evaluator reads; the values are those of our layout."""
    model = emulator(system=SPHERE)
    out = {"out": tmp_path / "forecast.zarr"} if stored else {}
    ds = model.forecast(dated(), 3, members=2, layout="weatherbench", **out)
    ours = model.forecast(dated(), 3, members=2)
    if stored:
        ds = xr.open_zarr(tmp_path / "forecast.zarr", decode_timedelta=True)
    assert ds.pressure.dims == ("time", "number", "prediction_timedelta", "longitude", "latitude")
    np.testing.assert_array_equal(ds.time, DATES)
    assert ds.prediction_timedelta.dtype.kind == "m" and ds.number.values.tolist() == [0, 1]
    minutes = ds.prediction_timedelta.values / np.timedelta64(1, "m")
    np.testing.assert_array_equal(minutes, [30, 60, 90])
    assert not {"latent", "lost_at", "init_time", "lead_time"} & set(ds.variables)
    np.testing.assert_array_equal(ds.pressure, ours.pressure)


@pytest.mark.parametrize(
    ("system", "initial", "message"),
    [
        (SPHERE, dataset(SPHERE), "dates of the initial states .*, found the dimension sample"),
        (SPHERE, dataset(SPHERE).rename(sample="init_time"), "found int64"),
        (SPHERE.model_copy(update={"time_unit": "1"}), None, "a time in hours or days, the card of rbc has '1'"),
        (RBC.model_copy(update={"time_unit": "hours"}), None, r"latitude and longitude, the card of rbc has \('x', 'y'\)"),
    ],
)
def test_what_has_no_weatherbench_layout(tmp_path, system, initial, message):
    initial = dated(system) if initial is None else initial
    for out in ({}, {"out": tmp_path / "forecast.zarr"}):
        with pytest.raises(InputError, match=message):
            emulator(system=system).forecast(initial, 1, members=1, layout="weatherbench", **out)
    assert not list(tmp_path.iterdir())


def test_a_layout_that_is_none():
    with pytest.raises(InputError, match="no layout 'weather': did you mean 'weatherbench'"):
        emulator().forecast(dataset(RBC), 1, layout="weather")
