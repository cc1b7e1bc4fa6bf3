"""Layouts of a forecast for other programs."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from toy import RBC, dataset, emulator

from physinterp import store
from physinterp.errors import InputError
from physinterp.system import load_system

ERA5 = load_system("era5").with_grid((8, 16))
Z850 = ERA5.fields[0].model_copy(update={"name": "z850", "level": 850.0})
SPHERE = ERA5.model_copy(update={"fields": (*ERA5.fields[:3], Z850)})  # z500, t850, t2m, z850
DATES = np.array(["2020-01-01", "2020-01-01T12:00", "2020-03-01"], dtype="datetime64[ns]")
UNDATED = SPHERE.model_copy(update={"adapter": "array", "dated": False})


def dated(system=SPHERE) -> xr.Dataset:
    return dataset(system).rename(sample="init_time").assign_coords(init_time=DATES)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("row", ["init_time", "sample"])
def test_weatherbench(tmp_path, monkeypatch, stored, row):
    """Names, dims and types that its evaluator reads; the values are those of our layout."""
    monkeypatch.setattr(store, "LEADS", 2)
    model, initial = emulator(system=SPHERE), dated()
    ours = model.forecast(initial, 3, members=2)
    if row == "sample":
        initial = dataset(SPHERE).assign_coords(date=("sample", DATES), time=0.0)
    out = {"out": tmp_path / "forecast.zarr", "chunk": 2} if stored else {}
    ds = model.forecast(initial, 3, members=2, layout="weatherbench", **out)
    if stored:
        ds = xr.open_zarr(tmp_path / "forecast.zarr", decode_timedelta=True)
        assert ds.geopotential.encoding["chunks"] == (1, 2, 2, 1, 8, 16)
    assert set(ds.data_vars) == {"geopotential", "temperature", "2m_temperature"}
    assert ds["2m_temperature"].dims == ("time", "number", "prediction_timedelta", "latitude", "longitude")
    assert ds.geopotential.dims == ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
    np.testing.assert_array_equal(ds.time, DATES)
    np.testing.assert_array_equal(ds.prediction_timedelta / np.timedelta64(1, "m"), [30, 60, 90])
    assert ds.prediction_timedelta.dtype.kind == "m" and ds.number.values.tolist() == [0, 1]
    assert not {"latent", "lost_at", "init_time", "lead_time", "sample", "date"} & set(ds.variables)
    for name, variable, level in (
        ("z500", "geopotential", 500),
        ("z850", "geopotential", 850),
        ("t850", "temperature", 850),
    ):
        np.testing.assert_array_equal(ds[variable].sel(level=level), ours[name])
        assert ds[variable].attrs["units"] == ours[name].attrs["units"]
    np.testing.assert_array_equal(ds["2m_temperature"], ours.t2m)


def test_what_it_writes_can_be_read_as_data(tmp_path):
    """A lead of a forecast in the layout is a state in WeatherBench2's layout."""
    model = emulator(system=SPHERE)
    model.forecast(dated(), 2, members=1, layout="weatherbench", out=tmp_path / "f.zarr")
    lead = xr.open_zarr(tmp_path / "f.zarr").isel(prediction_timedelta=0, number=0, drop=True)
    lead.rename(time="init_time").load().to_netcdf(tmp_path / "lead.nc")
    read = xr.open_dataset(tmp_path / "lead.nc")
    again, expected = model.forecast(read, 1, members=1), model.forecast(dated(), 1, members=1).isel(lead_time=0, member=0)
    direct = model.forecast(expected[list(SPHERE.field_names)].drop_vars(["lead_time", "member"]), 1, members=1)
    for name in SPHERE.field_names:
        np.testing.assert_array_equal(again[name], direct[name])


@pytest.mark.parametrize(
    ("system", "initial", "message"),
    [
        (UNDATED, dataset(SPHERE), "dates .datetime64. of the initial states, .*, found none"),
        (UNDATED, dataset(SPHERE).rename(sample="init_time"), "found int64"),
        (SPHERE.model_copy(update={"time_unit": "1"}), None, "a time in s, min, h, d, the card of era5 has '1'"),
        (RBC.model_copy(update={"time_unit": "h"}), None, "expected one dimension of latitudes"),
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
