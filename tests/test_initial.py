"""Initial states: any dataset with the fields, whatever its order and names; what does not fit is said in one line."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import xarray as xr
from toy import KOLMOGOROV, RBC, dataset, emulator

from physinterp.errors import InputError


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    """The same fields to the bit."""
    assert list(a.data_vars) == list(b.data_vars)
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values, b[name].values)


def in_units(ds: xr.Dataset, units: str) -> xr.Dataset:
    return ds.assign({name: ds[name].assign_attrs(units=units) for name in ds.data_vars})


# what is accepted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.transpose("y", "x", "sample"),
        lambda ds: ds[["velocity_y", "pressure", "buoyancy", "velocity_x"]],
        lambda ds: ds.assign(temperature=ds.pressure.expand_dims(level=3), mask=("x", np.ones(16))),
        lambda ds: in_units(ds, "dimensionless"),
        lambda ds: ds.assign_coords(Rayleigh=1e6, Prandtl=1.0),
        lambda ds: ds.astype(np.float64),
        lambda ds: ds.chunk(sample=1),
    ],
)
def test_forms_of_the_same_state(change):
    model = emulator()
    same(model.forecast(change(dataset(RBC)), 2, members=2), model.forecast(dataset(RBC), 2, members=2))


def test_aliases():
    initial = dataset(KOLMOGOROV)
    model = emulator(system=KOLMOGOROV)
    same(model.forecast(initial.rename(vorticity="w"), 2, members=2), model.forecast(initial, 2, members=2))


def test_dates():
    """The dimension init_time in place of sample; all that is on it stays."""
    initial = dataset(RBC)
    dates = np.array(["2020-01-01", "2020-02-01T06:00", "2021-03-01"], dtype="datetime64[ns]")
    dated = initial.rename(sample="init_time").assign_coords(init_time=dates)
    ds = emulator().forecast(dated, 2, members=2)
    assert ds.buoyancy.dims == ("init_time", "member", "lead_time", "x", "y") and ds.trajectory.dims == ("init_time",)
    np.testing.assert_array_equal(ds.init_time, dates)
    same(ds, emulator().forecast(initial, 2, members=2))
    one = emulator().forecast(dated.isel(init_time=1), 2, members=2)
    assert one.init_time.values == dates[[1]]
    same(one, ds.isel(init_time=[1]))


def test_one_state_keeps_its_labels():
    initial = dataset(RBC).assign_coords(sample=[7, 8, 9], time=3.5)
    ds = emulator().forecast(initial.isel(sample=2), 1, members=1)
    assert ds.sample.values.tolist() == [9] and float(ds.time) == 3.5 and ds.trajectory.values == "a/2"
    same(ds, emulator().forecast(initial, 1, members=1).isel(sample=[2]))


def test_an_ensemble_of_initial_states():
    """With members of its own: each starts from its state, with the noise of its number."""
    initial = dataset(RBC)
    states = xr.concat([initial, 1.1 * initial], "member", coords="minimal").assign_coords(member=[0, 3])
    ds = emulator().forecast(states, 2)
    assert ds.member.values.tolist() == [0, 3]
    for i, member in enumerate((0, 3)):
        alone = emulator().forecast(states.isel(member=i, drop=True), 2, members=4)
        same(ds.isel(member=[i]), alone.isel(member=[member]))


def test_coordinates_and_attributes_stay():
    initial = dataset(RBC).assign_coords(station=("x", np.arange(16)), area=(("x", "y"), np.ones((16, 8))), run="b")
    initial["x"].attrs["axis"] = "X"
    initial["pressure"].attrs = {"units": "1", "standard_name": "p"}
    ds = emulator().forecast(initial.assign_attrs(title="mine", seed=5), 2, members=1)
    assert ds.attrs["title"] == "mine" and ds.attrs["seed"] == 0 and ds.attrs["system"] == "rbc"
    assert {"physinterp", "torch", "correlation"} <= set(ds.attrs)
    assert ds.x.attrs == {"axis": "X"} and str(ds.run.values) == "b"
    assert ds.pressure.attrs == {"units": "1", "standard_name": "p", "long_name": "kinematic pressure, zero mean"}
    xr.testing.assert_equal(ds.station.drop_vars("run"), initial.station.drop_vars("run"))
    np.testing.assert_array_equal(ds.area, np.ones((16, 8)))


def test_units_in_other_words():
    system = RBC.model_copy(update={"fields": tuple(f.model_copy(update={"units": "m s-1"}) for f in RBC.fields)})
    made = emulator(system=system)
    for units in ("m/s", "m s**-1", "s-1 m"):
        assert made.forecast(in_units(dataset(system), units), 1, members=1).pressure.attrs["units"] == "m s-1"
    with pytest.raises(InputError, match="'buoyancy' is in 'km/s', the card of rbc has 'buoyancy' in 'm s-1'"):
        made.forecast(in_units(dataset(system), "km/s"), 1)


# what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ds: ds.drop_vars(["pressure", "velocity_y", "Prandtl", "y"]),
            r"'rbc': missing fields \['pressure', 'velocity_y'\], missing parameters \['Prandtl'\], missing coordinates",
        ),
        (lambda ds: ds.isel(y=0).drop_vars("Rayleigh"), r"missing parameters \['Rayleigh'\], missing dimensions \['y'\]"),
        (lambda ds: dataset(KOLMOGOROV).assign_attrs(system="kolmogorov"), "system 'rbc', but are of 'kolmogorov': missing"),
        (lambda ds: in_units(ds, "K"), "'buoyancy' is in 'K', the card of rbc has 'buoyancy' in '1'; convert"),
        (lambda ds: ds.assign_coords(Prandtl=np.nan), "parameter 'Prandtl' has values that are not finite"),
        (lambda ds: ds.expand_dims(time=2), r"time axis of 2: choose one time, as in ds.isel\(time=0\), or start from each"),
        (lambda ds: ds.expand_dims(init_time=2), "both dimensions sample and init_time"),
        (lambda ds: ds.expand_dims(level=2), "field 'buoyancy' has the dimension 'level', expected"),
        (lambda ds: ds.isel(sample=[]), "no initial state: the dimension 'sample' is empty"),
        (lambda ds: ds.expand_dims(member=["a", "b"]), r"members are numbered from 0, found \['a', 'b'\]"),
        (lambda ds: ds.isel(x=slice(8)), "'x': expected 16 points, found 8"),
        (lambda ds: ds.sortby("y", ascending=False), "it descends"),
        (
            lambda ds: ds.where(ds.x > 0.1).assign_attrs(path="a.h5").assign_coords(time=2.5),
            r"a.h5: field 'buoyancy' has 8 values .* in sample 0, first at x index 0, y index 0 \(t = 2.5\)",
        ),
        (lambda ds: ds.assign(pressure=ds.pressure.isel(sample=0)), "field 'pressure' has dimensions"),
    ],
)
def test_states_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message) as error:
        emulator().forecast(change(dataset(RBC)), steps=1)
    assert "\n" not in str(error.value)


# continuing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["identity", "dcae"])
@pytest.mark.parametrize("through", [lambda ds, path: ds, "netcdf", "zarr"])
def test_five_and_five_are_ten(tmp_path, codec, through):
    """To the bit, also from a file, with noise that remembers, and after a choice of samples and members."""
    model = emulator(codec=codec, correlation=0.6)
    ten = model.forecast(dataset(RBC), 4, members=3, seed=7)
    five = model.forecast(dataset(RBC), 2, members=3, seed=7)
    if through == "netcdf":
        five.to_netcdf(tmp_path / "five.nc")
        five = xr.open_dataset(tmp_path / "five.nc")
    elif through == "zarr":
        five = model.forecast(dataset(RBC), 2, members=3, seed=7, out=tmp_path / "five.zarr")
    rest = model.forecast(five, 2)
    whole = xr.concat([five.load(), rest], "lead_time", data_vars="all", coords="minimal", compat="override", join="exact")
    same(whole, ten)
    np.testing.assert_array_equal(rest.latent, ten.latent)
    np.testing.assert_array_equal(whole.lead_time, ten.lead_time)
    assert rest.attrs["seed"] == 7 and rest.latent.attrs == ten.latent.attrs and rest.attrs.keys() >= ten.attrs.keys()
    some = model.forecast(five.isel(sample=[2, 0], member=[1]), 2)
    same(some, ten.isel(sample=[2, 0], member=[1], lead_time=slice(2, None)))
    same(model.forecast(five.isel(sample=1, member=2), 2), ten.isel(sample=[1], member=[2], lead_time=slice(2, None)))


def test_every_lead_of_a_rollout_can_be_continued():
    model = emulator()
    whole = model.forecast(dataset(RBC), 4, members=2)
    for k, ds in enumerate(model.rollout(dataset(RBC), 3, members=2), 1):
        same(model.forecast(ds, 4 - k), whole.isel(lead_time=slice(k, None)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ds: ds.drop_vars("latent"), "the data have no latent state"),
        (lambda ds: ds.isel(lead_time=slice(0, 2)), "the latent state is of step 3, the last lead of step 2"),
        (lambda ds: ds.assign_coords(latent=ds.latent.assign_attrs(weights="b")), "the latent state is of other weights"),
    ],
)
def test_continuing_from_the_fields(caplog, change, reason):
    """Within rounding in pixel space, with the same noise; and said."""
    model = emulator(correlation=0.6)
    previous = change(model.forecast(dataset(RBC), 3, members=2, seed=3))
    with caplog.at_level(logging.WARNING):
        rest = model.forecast(previous, 1)
    assert caplog.text.count(reason) == 1 and "not to the bit" in caplog.text
    expected = model.forecast(dataset(RBC), 4, members=2, seed=3).sel(lead_time=rest.lead_time)
    for name in RBC.field_names:
        np.testing.assert_allclose(rest[name], expected[name], rtol=1e-3, atol=1e-3)


def test_continuing_from_the_fields_of_an_autoencoder():
    """Off by what the codec loses."""
    model = emulator("deterministic", codec="dcae")
    whole = model.forecast(dataset(RBC), 3)
    exact, floor = (model.forecast(ds, 1).pressure for ds in (whole.isel(lead_time=slice(0, 3)), whole.drop_vars("latent")))
    assert exact.shape == floor.shape and not np.array_equal(exact, floor)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda ds: ds.assign_coords(lead_time=[0.3]), {}, "ends at lead time 0.3, no multiple of the model's step of 0.5"),
        (lambda ds: ds, {"members": 3}, "members: 3 are asked for, the data have 2"),
        (lambda ds: ds, {"steps": 0}, "steps of at least 1, found 0"),
    ],
)
def test_forecasts_that_cannot_be_continued(change, options, message):
    previous = change(emulator().forecast(dataset(RBC), 1, members=2))
    with pytest.raises(InputError, match=message):
        emulator().forecast(previous, **({"steps": 1} | options))


def test_lead_times_that_xarray_has_read_as_timedelta():
    system = RBC.model_copy(update={"time_unit": "h"})
    model = emulator(system=system)
    five = model.forecast(dataset(system), 2, members=2)
    read = five.assign_coords(lead_time=(five.lead_time.values * 3600).astype("timedelta64[s]"))
    same(model.forecast(read, 1), model.forecast(five, 1))
