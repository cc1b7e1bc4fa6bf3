"""Records in WeatherBench2's layout: every layout of coordinates, dates, levels, splits, the reference files, bad input."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import yaml

from physinterp.data import open_dataset, sphere, splits, store, trainable
from physinterp.data.forcings import static
from physinterp.data.sphere import grid_of
from physinterp.data.statistics import KEYS, moments
from physinterp.data.units import same_units
from physinterp.errors import InputError
from physinterp.evaluate import cases
from physinterp.system import System, load_system

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "era5"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference data at {SHARED}")

ERA5 = load_system("era5").with_grid((6, 12))
FRAMES = 40


def undivided(system: System, **changes: object) -> System:
    """The system without splits: all dates."""
    return system.model_copy(update={"splits": {}, **changes})


CARD = undivided(ERA5)


def record(
    frames: int = FRAMES, start: str = "2018-01-01", hours: int = 6, levels: tuple[int, ...] = (500, 850)
) -> xr.Dataset:
    """Random fields with the names, attributes and order [longitude, latitude] of the public store."""
    rng = np.random.default_rng(3)
    latitude, longitude = (axis.points for axis in CARD.grid.axes)
    date = np.datetime64(start, "ns") + np.arange(frames) * np.timedelta64(hours, "h")
    shape = (frames, len(longitude), len(latitude))
    units = {
        "2m_temperature": "K", "10m_u_component_of_wind": "m s**-1", "10m_v_component_of_wind": "m s**-1",
        "mean_sea_level_pressure": "Pa", "geopotential": "m**2 s**-2", "temperature": "K",
    }  # fmt: skip
    variables = {}
    for name, unit in units.items():
        deep = name in ("geopotential", "temperature")
        dims = ("time", "level", "longitude", "latitude") if deep else ("time", "longitude", "latitude")
        values = rng.standard_normal((frames, len(levels), *shape[1:]) if deep else shape).astype(np.float32)
        variables[name] = (dims, values, {"units": unit})
    ground = rng.random(shape[1:]).astype(np.float32)
    variables["land_sea_mask"] = (("longitude", "latitude"), ground, {"units": "(0 - 1)"})
    variables["geopotential_at_surface"] = (("longitude", "latitude"), 9.80665 * ground, {"units": "m**2 s**-2"})
    coords = {"time": date, "level": list(levels), "longitude": longitude, "latitude": latitude}
    return xr.Dataset(variables, coords=coords)


def save(ds: xr.Dataset, path: Path, chunk: int = 8) -> Path:
    """NetCDF, or zarr of format 2 (`.2.zarr`) or 3, in chunks of some frames."""
    if path.suffix == ".nc":
        ds.to_netcdf(path)
        return path
    version = 2 if path.name.endswith(".2.zarr") else 3
    encoding = {
        n: {"chunks": tuple(chunk if d == "time" else s for d, s in ds[n].sizes.items())}
        for n in ds.data_vars
        if "time" in ds[n].dims
    }
    ds.to_zarr(path, zarr_format=version, encoding=encoding, consolidated=version == 2)
    return path


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    return record()


@pytest.fixture(scope="module")
def nc(truth, tmp_path_factory) -> Path:
    return save(truth, tmp_path_factory.mktemp("era5") / "a.nc")


@pytest.fixture(scope="module")
def zarr(truth, tmp_path_factory) -> Path:
    return save(truth, tmp_path_factory.mktemp("era5") / "a.zarr")


def expected(truth: xr.Dataset, name: str) -> np.ndarray:
    """Of a field, (time, latitude, longitude)."""
    of = {"z500": ("geopotential", 500), "t850": ("temperature", 850)}
    da = (
        truth[of[name][0]].sel(level=of[name][1])
        if name in of
        else truth[CARD.fields[CARD.field_names.index(name)].aliases[0]]
    )
    return da.transpose("time", "latitude", "longitude").values


LAYOUTS = {
    "as it is": lambda ds: ds,
    "latitude first, descending": lambda ds: ds.transpose(..., "latitude", "longitude").isel(latitude=slice(None, None, -1)),
    "from -180": lambda ds: ds.assign_coords(longitude=(ds.longitude + 180) % 360 - 180).sortby("longitude"),
    "shuffled": lambda ds: ds.isel(longitude=[5, 3, 0, 11, 7, 6, 1, 2, 4, 10, 9, 8], level=[1, 0]),
    "float32 coordinates": lambda ds: ds.assign_coords({n: ds[n].astype(np.float32) for n in ("latitude", "longitude")}),
    "cyclic point": lambda ds: xr.concat(
        [ds, ds.isel(longitude=[0]).assign_coords(longitude=[360.0])], "longitude", data_vars="minimal"
    ),
    "other names": lambda ds: ds.rename(latitude="lat", longitude="lon", time="valid_time", level="pressure_level"),
    "told by units": lambda ds: ds.rename(latitude="j", longitude="i").pipe(
        lambda d: d.assign_coords(j=d.j.assign_attrs(units="degrees_north"), i=d.i.assign_attrs(units="degrees_east"))
    ),
    "levels in Pa": lambda ds: ds.assign_coords(level=("level", 100.0 * ds.level.values, {"units": "Pa"})),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_told_by_their_coordinates(truth, tmp_path, layout):
    ds = open_dataset(CARD, "train", save(LAYOUTS[layout](truth), tmp_path / "a.nc"))
    assert ds.z500.dims == ("sample", "time", "latitude", "longitude")
    assert ds.latitude.values.tolist() == [-75, -45, -15, 15, 45, 75] and ds.longitude.values.tolist() == list(
        range(0, 360, 30)
    )
    ds = ds.load()
    for name in CARD.field_names:
        np.testing.assert_array_equal(ds[name][0], expected(truth, name))


@pytest.mark.parametrize("name", ["a.nc", "a.2.zarr", "a.zarr"])
def test_formats(truth, tmp_path, name):
    (tmp_path / "a folder").mkdir()
    path = save(truth, tmp_path / "a folder" / ".." / "a folder" / name)  # spaces and .. in the path
    ds = open_dataset(CARD, "train", path)
    assert list(ds.data_vars) == list(CARD.field_names) and ds.sizes["time"] == FRAMES
    assert all(dask.is_dask_collection(ds[n].data) and ds[n].dtype == np.float32 for n in ds.data_vars)
    ds = ds.load()
    for field in CARD.field_names:
        np.testing.assert_array_equal(ds[field][0], expected(truth, field))
    assert ds.attrs["path"] == str(path) and ds.z500.attrs["units"] == "m2 s-2"


def test_times_and_dates_live_together(nc, truth):
    ds = open_dataset(CARD, "train", nc)
    assert ds.time.values.tolist() == [6.0 * i for i in range(FRAMES)] and ds.time.attrs["units"] == "h"
    np.testing.assert_array_equal(ds.date[0], truth.time)
    assert ds.date.dims == ("sample", "time") and ds.trajectory.values.tolist() == ["2018-01-01T00"]
    initial = ds.isel(time=3, drop=True)
    assert initial.date.dims == ("sample",) and initial.date.values[0] == np.datetime64("2018-01-01T18")


def test_forecasts_know_their_dates(nc, truth):
    """`date` is that of the initialisation on initial states, and of validity on the truth."""
    found = cases(open_dataset(CARD, "train", nc), stride=2, leads=3, starts=2, dt=12.0)
    np.testing.assert_array_equal(found.initial.date, truth.time[[0, 33]])
    valid = found.initial.date.values[:, None] + (found.truth.lead_time.values * np.timedelta64(3600, "s")).astype(
        "timedelta64[s]"
    )
    np.testing.assert_array_equal(found.truth.date, valid)
    assert found.truth.date.dims == ("sample", "lead_time")


def test_splits_are_dates_of_the_card(truth, tmp_path):
    dates = {
        "train": {"start": "2018-01-01", "end": "2018-01-03"},
        "test": {"start": "2018-01-05", "end": "2018-01-31"},
        "valid": {"start": "2019-01-01", "end": "2019-01-02"},
    }
    card = System.model_validate(CARD.model_dump() | {"splits": dates})
    path = save(truth, tmp_path / "a.nc")
    train, test = (open_dataset(card, split, path) for split in ("train", "test"))
    assert train.date.values.min() == np.datetime64("2018-01-01T00") and train.date.values.max() == np.datetime64(
        "2018-01-03T18"
    )
    np.testing.assert_array_equal(test.msl[0], expected(truth, "msl")[16:])
    assert splits(path, card) == ("train", "test") and splits(path) == ()
    with pytest.raises(InputError, match="2018-01-01T00 to 2018-01-10T18, nothing of split 'valid'"):
        open_dataset(card, "valid", path)
    with pytest.raises(InputError, match="no split 'tests' in the card of era5: did you mean 'test'"):
        open_dataset(card, "tests", path)


def test_a_split_that_the_file_covers_in_part_is_said(nc, caplog):
    with caplog.at_level(logging.WARNING):
        open_dataset(ERA5, "valid", nc)
    assert "only 2018-01-01T00 to 2018-01-10T18 of split valid (2018-01-01 to 2019-12-16)" in caplog.text
    assert splits(nc, ERA5) == ("valid",)  # the others are told to be missing before anything is trained
    with pytest.raises(InputError, match=r"training needs the splits train and valid, and train is missing \(found valid\)"):
        trainable(ERA5, nc)


def test_a_folder_of_files_is_one_record(truth, tmp_path):
    save(truth.isel(time=slice(24, None)), tmp_path / "a.nc")  # not in the order of the names
    save(truth.isel(time=slice(0, 24)), tmp_path / "b.zarr")
    ds = open_dataset(CARD, "train", tmp_path)
    for name in CARD.field_names:
        np.testing.assert_array_equal(ds[name][0], expected(truth, name))
    save(truth.isel(time=slice(20, 30)), tmp_path / "c.nc")
    with pytest.raises(InputError, match=r"'time' 2018-01-06T00 follows 2018-01-06T18"):
        open_dataset(CARD, "train", tmp_path)


def test_gaps_are_borders_of_samples(truth, tmp_path, caplog):
    kept = np.delete(np.arange(FRAMES), [12, 13, 27])  # runs of 12, 13 and 12
    with caplog.at_level(logging.WARNING):
        ds = open_dataset(CARD, "train", save(truth.isel(time=kept), tmp_path / "a.nc"))
    assert dict(ds.sizes) == {"sample": 3, "time": 12, "latitude": 6, "longitude": 12}
    assert ds.trajectory.values.tolist() == ["2018-01-01T00", "2018-01-04T12", "2018-01-08T00"]
    for i, first in enumerate((0, 14, 28)):
        np.testing.assert_array_equal(ds.t850[i], expected(truth, "t850")[first : first + 12])
        np.testing.assert_array_equal(ds.date[i], truth.time[first : first + 12])
    assert "2 gaps, the first from 2018-01-03T18 to 2018-01-04T12: 3 samples of 12 frames, 1 frames left out" in caplog.text


def test_variables_may_have_unlike_chunks(truth, tmp_path):
    kept = truth.isel(time=np.delete(np.arange(FRAMES), [20]))
    encoding = {n: {"chunks": (5 + i, *kept[n].shape[1:])} for i, n in enumerate(kept.data_vars) if "time" in kept[n].dims}
    kept.to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    ds = open_dataset(CARD, "train", tmp_path / "a.zarr").load()
    for name in CARD.field_names:
        np.testing.assert_array_equal(ds[name][1], expected(truth, name)[21 : 21 + ds.sizes["time"]])


def test_a_long_record_is_not_cut_to_its_shortest_part(truth, tmp_path):
    kept = np.delete(np.arange(FRAMES), [10])  # runs of 10 and 29: three times 9 or 10 keep most
    ds = open_dataset(CARD, "train", save(truth.isel(time=kept), tmp_path / "a.nc"))
    assert ds.sizes["sample"] * (ds.sizes["time"] - 1) == max(
        sum(run // n for run in (10, 29)) * (n - 1) for n in range(1, 30)
    )  # fmt: skip


def test_frames_finer_than_the_step(tmp_path):
    hourly = record(frames=50, start="2018-01-01T03", hours=1)
    ds = open_dataset(CARD, "train", save(hourly, tmp_path / "a.nc"))
    assert ds.sizes["time"] == 8 and ds.date.values[0, 0] == np.datetime64("2018-01-01T06")
    np.testing.assert_array_equal(ds.u10[0], expected(hourly, "u10")[3::6])
    with pytest.raises(InputError, match="steps of 5 h, and the card of era5 says dt = 6 h"):
        open_dataset(CARD, "train", save(record(hours=5), tmp_path / "b.nc"))
    with pytest.raises(InputError, match="steps of 12 h, and the card of era5 says dt = 6 h"):
        open_dataset(CARD, "train", save(record(hours=12), tmp_path / "c.nc"))


def daily(dates: np.ndarray, path: Path, **encoding: str) -> Path:
    """Sea level pressure on some days."""
    axes = CARD.grid.axes
    coords = {"time": dates, "latitude": axes[0].points, "longitude": axes[1].points}
    values = np.arange(len(dates))[:, None, None] + np.zeros(CARD.grid.shape)
    ds = xr.Dataset({"mean_sea_level_pressure": (("time", "latitude", "longitude"), values, {"units": "Pa"})}, coords)
    ds.to_netcdf(path, encoding={"time": encoding} if encoding else {})
    return path


DAILY = undivided(load_system("natlantic"), grid=CARD.grid)


def test_leap_days(tmp_path, caplog):
    year = np.arange("2016-02-01", "2016-04-01", dtype="datetime64[D]").astype("datetime64[ns]")
    assert open_dataset(DAILY, "train", daily(year, tmp_path / "with.nc")).sizes["time"] == 60
    without = year[year != np.datetime64("2016-02-29")]
    with caplog.at_level(logging.WARNING):
        ds = open_dataset(DAILY, "train", daily(without, tmp_path / "without.nc"))
    assert ds.sizes["sample"] == 2 and ds.sizes["time"] == 28
    assert "1 gaps, the first from 2016-02-28T00 to 2016-03-01T00 (all of them leap days)" in caplog.text


@pytest.mark.parametrize("name", ["a b.nc", "a b.2.zarr", "a b.zarr"])
@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_other_calendars_are_refused(tmp_path, calendar, name):
    """And what the message advises works."""
    days = xr.date_range("2001-02-01", periods=40, freq="D", calendar=calendar, use_cftime=True)
    ds = record(40).assign_coords(time=days)
    save(ds, tmp_path / name)
    known = rf"{name}: 'time' begins 2001-02-01 00:00:00 in the calendar '{calendar}'.*ds\.(convert_calendar\(.*\)); missing"
    with pytest.raises(InputError, match=known):
        open_dataset(DAILY, "train", tmp_path / name)
    save(ds.convert_calendar("standard", align_on="date"), tmp_path / f"standard {name}")
    assert open_dataset(DAILY, "train", tmp_path / f"standard {name}").sizes["time"] > 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([0, 1, 2, 2, 3], r"'time' 2018-01-01T12 comes twice \(index 3, 1 such places\)"),
        ([0, 1, 3, 2, 4], r"'time' 2018-01-01T12 follows 2018-01-01T18"),
    ],
)
def test_duplicate_and_unsorted_times(truth, tmp_path, change, message):
    path = save(truth.isel(time=change), tmp_path / "a.nc")
    with pytest.raises(InputError, match=rf"a.nc: {message}.*sortby"):
        open_dataset(CARD, "train", path)


def test_irregular_times(truth, tmp_path):
    time = truth.time.values.copy()
    time[5:] += np.timedelta64(90, "m")
    path = save(truth.assign_coords(time=time), tmp_path / "a.nc")
    with pytest.raises(InputError, match=r"a.nc: 'time' goes from 2018-01-02T00 to 2018-01-02T07:30:00, no multiple of 6 h"):
        open_dataset(CARD, "train", path)
    time[5] = np.datetime64("NaT")
    with pytest.raises(InputError, match=r"c.nc: 'time' has no date at index 5"):
        open_dataset(CARD, "train", save(truth.assign_coords(time=time), tmp_path / "c.nc"))
    with pytest.raises(InputError, match=r"d.nc: 'time' has no date at index 0"):
        open_dataset(CARD, "train", save(truth.isel(time=slice(0)), tmp_path / "d.nc"))
    path = save(truth.assign_coords(time=np.arange(FRAMES)), tmp_path / "b.nc")
    with pytest.raises(InputError, match=r"b.nc: 'time' has no dates \(units 'none'\); expected units such as 'hours since"):
        open_dataset(CARD, "train", path)


def test_names_levels_and_units_that_are_not_there(truth, tmp_path):
    def opened(ds: xr.Dataset, card: System = CARD) -> None:
        path = tmp_path / "a.nc"
        path.unlink(missing_ok=True)
        open_dataset(card, "train", save(ds, path))

    with pytest.raises(
        InputError, match="no variable msl or mean_sea_level_pressure for field 'msl': did you mean 'mean_sea_level_p'"
    ):
        opened(truth.rename(mean_sea_level_pressure="mean_sea_level_p"))
    with pytest.raises(InputError, match="'geopotential' has no level 500 hPa for field 'z500'; near ones: 450, 600"):
        opened(truth.assign_coords(level=[600, 450]))
    with pytest.raises(
        InputError, match="'mean_sea_level_pressure' is in 'hPa', the card of era5 has 'msl' in 'Pa'; convert"
    ):
        opened(truth.assign(mean_sea_level_pressure=truth.mean_sea_level_pressure.assign_attrs(units="hPa")))
    with pytest.raises(InputError, match="'temperature' has no levels"):
        opened(truth.assign(temperature=truth["2m_temperature"]))
    fields = [f.model_copy(update={"level": None}) for f in CARD.fields]
    with pytest.raises(InputError, match="'geopotential' has 2 levels, field 'z500' none; give it `level:`"):
        opened(truth, CARD.model_copy(update={"fields": tuple(fields)}))
    with pytest.raises(InputError, match="the levels of 'geopotential' are in 'm'; expected hPa or Pa"):
        opened(truth.assign_coords(level=truth.level.assign_attrs(units="m")))
    with pytest.raises(InputError, match="'2m_temperature' of field 't2m' does not depend on 'time'"):
        opened(truth.assign({"2m_temperature": truth["2m_temperature"].isel(time=0, drop=True)}))


def test_units_are_compared_however_written():
    for one, other in [
        ("m**2 s**-2", "m2 s-2"),
        ("m^2/s^2", "m2 s-2"),
        ("kg kg**-1", "1"),
        ("K", "kelvin"),
        ("m/s", "m s**-1"),
    ]:
        assert same_units(one, other)
    for one, other in [("hPa", "Pa"), ("degC", "K"), ("m s-1", "m s-2"), ("m", "m2 s-2")]:
        assert not same_units(one, other)


def test_other_grids_are_refused_or_regridded(nc, truth):
    fine = undivided(load_system("era5"))
    with pytest.raises(
        InputError, match=r"a.nc: latitude: expected 32 points from -87.1875 to 87.1875, found 6.*regrid: conservative"
    ):
        open_dataset(fine, "train", nc)
    coarse = CARD.with_grid((3, 6)).model_copy(update={"regrid": "conservative"})
    ds = open_dataset(coarse, "train", nc)
    assert dask.is_dask_collection(ds.msl.data) and ds.msl.dtype == np.float32
    u, area = expected(truth, "msl"), CARD.grid.weights
    np.testing.assert_allclose((ds.msl.values[0] * coarse.grid.weights).mean((1, 2)), (u * area).mean((1, 2)), atol=1e-6)


def test_limited_areas_out_of_larger_ones(nc, truth):
    """10 W to 100 E out of 0 to 330 E."""
    axes = (
        {"name": "latitude", "size": 3, "start": -30.0, "length": 90.0, "boundary": "wall", "units": "degrees_north"},
        {"name": "longitude", "size": 4, "start": -45.0, "length": 120.0, "boundary": "wall", "units": "degrees_east"},
    )
    card = System.model_validate(CARD.model_dump() | {"grid": {"axes": axes}})
    ds = open_dataset(card, "train", nc)
    assert ds.longitude.values.tolist() == [-30, 0, 30, 60] and ds.latitude.values.tolist() == [-15, 15, 45]
    np.testing.assert_array_equal(ds.msl[0], expected(truth, "msl")[:, 2:5][:, :, [11, 0, 1, 2]])
    assert card.grid.weights[:, 0] == pytest.approx(
        np.cos(np.deg2rad([-15, 15, 45])) / np.cos(np.deg2rad([-15, 15, 45])).mean()
    )


def test_derived_fields_of_the_wind(truth, tmp_path):
    """Named in a card and not in the files: from the components, at the level, on the grid of the files."""
    rng = np.random.default_rng(5)
    deep = truth.geopotential
    wind = {f"{c}_component_of_wind": (deep.dims, rng.standard_normal(deep.shape).astype(np.float32)) for c in "uv"}
    ds = truth.assign({name: (*value, {"units": "m s**-1"}) for name, value in wind.items()})
    path = save(ds, tmp_path / "wind.zarr")
    fields = [
        {"name": "vorticity", "levels": [500], "aliases": ["vorticity"], "units": "s-1"},
        {"name": "zeta", "aliases": ["vorticity"], "level": 850, "units": "s-1"},
        {"name": "divergence", "levels": [500], "aliases": ["divergence"], "units": "s-1"},
        {"name": "wind_speed", "levels": [850], "aliases": ["wind_speed"], "units": "m s-1"},
        {"name": "gust", "aliases": ["10m_wind_speed"], "units": "m s-1"},
    ]
    card = System.model_validate(CARD.model_dump() | {"fields": fields})
    found = open_dataset(card, "train", path)
    u, v = (ds[f"{c}_component_of_wind"] for c in "uv")
    order = ("time", *card.grid.names)
    for name, f, level in (
        ("vorticity500", sphere.vorticity, 500), ("zeta", sphere.vorticity, 850),
        ("divergence500", sphere.divergence, 500), ("wind_speed850", sphere.wind_speed, 850),
    ):  # fmt: skip
        expected = f(u.sel(level=level), v.sel(level=level)).sortby("latitude").transpose(*order)
        np.testing.assert_allclose(found[name][0], expected, rtol=1e-5, atol=1e-12)
    at_10m = np.hypot(ds["10m_u_component_of_wind"], ds["10m_v_component_of_wind"]).sortby("latitude").transpose(*order)
    np.testing.assert_allclose(found.gust[0], at_10m, rtol=1e-6)
    u = u.copy(deep=True)
    u[3, 0, 2, 1] = np.nan
    broken = open_dataset(card, "train", save(ds.assign(u_component_of_wind=u), tmp_path / "nan.zarr"))
    with pytest.raises(InputError, match=r"nan.zarr: 'u_component_of_wind' of field .* is not finite at time 2018-01-01T18"):
        broken.vorticity500.load()
    with pytest.raises(InputError, match="no variable vorticity500 or v_component_of_wind for field 'vorticity500'"):
        open_dataset(card, "train", save(ds.drop_vars("v_component_of_wind"), tmp_path / "half.zarr"))
    with pytest.raises(InputError, match=r"'u_component_of_wind' has no levels .* field 'vorticity500' is at 500 hPa"):
        flat = ds.assign({name: ds[name].isel(level=0, drop=True) for name in wind})
        open_dataset(card, "train", save(flat, tmp_path / "flat.zarr"))
    knots = System.model_validate(CARD.model_dump() | {"fields": [fields[-1] | {"units": "knots"}]})
    with pytest.raises(InputError, match="'gust' is derived in 'm s-1', the card of era5 has 'knots'"):
        open_dataset(knots, "train", path)


@pytest.mark.parametrize("size", [(32, 64), (121, 240)])
@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_the_grids_of_weatherbench_by_a_card(method, size, tmp_path):
    """A smooth field keeps its values and, if conservative, its mean on 64 x 32 points, and on 240 x 121 with the poles."""
    source = load_system("era5").with_grid((60, 120)).grid
    phi, lam = np.meshgrid(*(np.deg2rad(axis.points) for axis in source.axes), indexing="ij")
    height = 100 + np.sin(phi) + np.cos(phi) * np.cos(lam)
    date = np.datetime64("2018-01-01", "ns") + np.arange(2) * np.timedelta64(6, "h")
    coords = {"time": date, **{axis.name: axis.points for axis in source.axes}}
    ds = xr.Dataset({"z": (("time", *source.names), np.stack([height, 2 * height]), {"units": "m"})}, coords)
    half = 90 / (size[0] - 1) if size[0] % 2 else 0.0  # with poles the cells reach half a cell beyond them
    axes = [
        {"name": "latitude", "size": size[0], "start": -90 - half, "length": 180 + 2 * half, "boundary": "pole"},
        {"name": "longitude", "size": size[1], "start": 0, "length": 360, "boundary": "periodic"},
    ]
    for axis, units in zip(axes, ("degrees_north", "degrees_east"), strict=True):
        axis["units"] = units
    card = {"fields": [{"name": "z", "units": "m"}], "grid": {"axes": axes}, "regrid": method}
    card = System.model_validate(CARD.model_dump() | card)
    z = open_dataset(card, "train", save(ds, tmp_path / "a.nc")).z[0].values
    assert z.shape == (2, *size)
    phi, lam = np.meshgrid(*(np.deg2rad(axis.points) for axis in card.grid.axes), indexing="ij")
    expected = 100 + np.sin(phi) + np.cos(phi) * np.cos(lam)
    np.testing.assert_allclose(z, [expected, 2 * expected], rtol=1e-3)
    if method == "conservative":
        assert (z[0] * card.grid.weights).mean() == pytest.approx((height * source.weights).mean(), rel=1e-6)


def test_static_fields(nc, truth):
    ds = static(str(nc), CARD)
    np.testing.assert_allclose(ds.land_sea_mask, truth.land_sea_mask.T)
    np.testing.assert_allclose(ds.orography, truth.land_sea_mask.T, rtol=1e-6)
    assert ds.orography.attrs == {"units": "m", "long_name": "orography"} and ds.orography.dims == CARD.grid.names
    with pytest.raises(InputError, match=r"no such file or folder|expected WeatherBench2"):
        static(nc.parent / "nothing", CARD)


def test_values_that_are_missing(truth, tmp_path):
    """NaN is refused with its place and date, and filled under the mask that the card names."""
    sst = truth["2m_temperature"].where(truth.land_sea_mask < 0.5)
    path = save(truth.assign({"2m_temperature": sst}), tmp_path / "a.nc")
    ds = open_dataset(CARD, "train", path)
    with pytest.raises(
        InputError, match=r"a.nc: '2m_temperature' of field 't2m' is not finite at time 2018-01-01T00, latitude"
    ):
        ds.t2m.load()
    fields = [f.model_copy(update={"mask": "land_sea_mask", "fill": 270.0}) if f.name == "t2m" else f for f in CARD.fields]
    card = CARD.model_copy(update={"fields": tuple(fields)})
    filled = open_dataset(card, "train", path).t2m[0].values
    wet = (truth.land_sea_mask < 0.5).T.values
    np.testing.assert_array_equal(filled[:, wet], expected(truth, "t2m")[:, wet])
    assert (filled[:, ~wet] == 270).all()
    outside = truth["mean_sea_level_pressure"].copy()
    outside[17, 2, 4] = np.inf
    ds = open_dataset(card, "train", save(truth.assign({"mean_sea_level_pressure": outside}), tmp_path / "b.nc"))
    with pytest.raises(InputError, match=r"not finite at time 2018-01-05T06, latitude 45.0, longitude 60.0 \(and 0 more"):
        ds.msl.load()


def test_shards_are_whole_files(truth, tmp_path):
    shape = (4, 12, 6)
    encoding = {
        n: {"chunks": shape, "shards": (16, 12, 6)}
        for n in truth.data_vars
        if truth[n].dims == ("time", "longitude", "latitude")
    }
    truth.to_zarr(tmp_path / "a.zarr", zarr_format=3, encoding=encoding, consolidated=False)
    np.testing.assert_array_equal(open_dataset(CARD, "train", tmp_path / "a.zarr").msl[0], expected(truth, "msl"))
    (tmp_path / "a.zarr" / "mean_sea_level_pressure" / "c" / "2" / "0" / "0").unlink()
    with pytest.raises(InputError, match=r"\(2018-01-09T00 to 2018-01-10T18\) is missing, one of 3"):
        open_dataset(CARD, "train", tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["a.2.zarr", "a.zarr"])
def test_a_missing_chunk_is_found(truth, tmp_path, name):
    path = save(truth, tmp_path / name)
    chunk = "2.0.0.0" if name == "a.2.zarr" else "c/2/0/0/0"
    (path / "temperature" / chunk).unlink()
    with pytest.raises(
        InputError, match=rf"chunk {chunk} of 'temperature' \(2018-01-05T00 to 2018-01-06T18\) is missing, one of 5"
    ):
        open_dataset(CARD, "train", path)
    shutil.rmtree(path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(CARD, "train", path)


def test_damaged_files(truth, nc, zarr, tmp_path):
    whole = nc.read_bytes()
    short = tmp_path / "short.nc"
    short.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"short.nc: cannot be read \(.*\); it is probably truncated"):
        open_dataset(CARD, "train", short)
    short.write_bytes(b"")
    with pytest.raises(InputError, match=r"short.nc: the file is empty \(0 bytes\)"):
        open_dataset(CARD, "train", short)
    with pytest.raises(InputError, match=r"short.nc: the file is empty \(0 bytes\)"):
        open_dataset(CARD, "train", tmp_path)
    for content in (b"", b"nothing"):
        copy = tmp_path / f"copy{len(content)}.zarr"
        shutil.copytree(zarr, copy)
        chunk = copy / "mean_sea_level_pressure" / "c" / "1" / "0" / "0"
        chunk.write_bytes(content)
        ds = open_dataset(CARD, "train", copy)
        with pytest.raises(
            InputError, match=r"copy\d.zarr: 'mean_sea_level_pressure' from 2018-01-01T00 to 2018-01-10T18 cannot be read"
        ):
            ds.msl.load()
        (copy / "zarr.json").write_bytes(content)
        with pytest.raises(InputError, match=r"copy\d.zarr(: cannot be read|/zarr.json: the file is empty)"):
            open_dataset(CARD, "train", copy)
    (tmp_path / "plain").mkdir()
    xr.Dataset({"a": ("x", [1.0])}, {"x": [0]}).to_netcdf(tmp_path / "plain" / "a.nc")
    with pytest.raises(InputError, match="no known format"):
        open_dataset(CARD, "train", tmp_path / "plain")


def test_blocks_are_whole_chunks_and_bounded(truth, zarr, monkeypatch):
    monkeypatch.setattr(store, "FRAMES", 20)
    assert open_dataset(CARD, "train", zarr).msl.data.chunks[1] == (16, 16, 8)
    monkeypatch.setattr(store, "BYTES", 1)
    assert open_dataset(CARD, "train", zarr).msl.data.chunks[1] == (8,) * 5
    reads = []
    monkeypatch.setattr(store, "persistent", lambda read, *a: reads.append(a) or read())
    both = undivided(CARD, fields=(CARD.fields[0], CARD.fields[0].model_copy(update={"name": "z850", "level": 850.0})))
    ds = open_dataset(both, "train", zarr)
    reads.clear()
    ds.load()
    assert len(reads) == 5  # the levels of a chunk come with one reading
    np.testing.assert_array_equal(ds.z850[0], truth.geopotential.sel(level=850).transpose("time", "latitude", "longitude"))


# the cards and the reference files --------------------------------------------------------------------------------------


def test_cards():
    era5, full = load_system("era5"), load_system("era5_13levels")
    assert era5.field_names == ("z500", "t850", "t2m", "u10", "v10", "msl") and era5.grid.shape == (32, 64)
    assert len(full.fields) == 69 and full.field_names[:2] == ("z50", "z100") and full.fields[-1] == era5.fields[-1]
    assert full.fields[7].level == 500 and full.fields[7].long_name == "geopotential at 500 hPa"
    assert set(era5.field_names) <= set(full.field_names) and full.grid == era5.grid and full.data == era5.data
    assert era5.data.endswith("1959-2023_01_10-6h-64x32_equiangular_conservative.zarr")


@needs_shared
def test_statistics_of_the_card():
    ours = moments(open_dataset("natlantic", "train", SHARED / "ncep_msl_natlantic_2001-2008_daily_2p5deg.nc"), ["msl"])[
        "msl"
    ]
    kept = yaml.safe_load((Path(__file__).parents[1] / "datasets" / "natlantic" / "stats.yaml").read_text())
    assert ours == pytest.approx({key: kept[key]["msl"] for key in KEYS}, rel=1e-5)


def piece(name: str, fields: dict[str, tuple[str, str, float | None]], dt: float, time_unit: str) -> tuple[System, Path]:
    """A card for a reference file: name -> (variable, units, level); the grid is that of the file."""
    path = SHARED / name
    values = {
        "fields": [{"name": n, "aliases": [v], "units": u, "level": level} for n, (v, u, level) in fields.items()],
        "grid": grid_of(xr.open_dataset(path)).to_dict(),
        "dt": dt,
        "time_unit": time_unit,
        "splits": {},
    }
    return System.model_validate(load_system("natlantic").model_dump() | values), path


def rmse_of_persistence(u: np.ndarray, lead: int, system: System) -> float:
    return float(np.sqrt((system.grid.weights * (u[lead:].astype(np.float64) - u[:-lead]) ** 2).mean()))


@needs_shared
def test_north_atlantic_pressure():
    """The numbers of the README: persistence and climatology in Pa, 2007 and 2008."""
    system, path = load_system("natlantic"), SHARED / "ncep_msl_natlantic_2001-2008_daily_2p5deg.nc"
    parts = {split: open_dataset(system, split, path) for split in ("train", "valid", "test")}
    assert [parts[s].sizes["time"] for s in ("train", "valid", "test")] == [1811, 350, 731]
    test = parts["test"].msl[0].values
    for lead, number in ((1, 641), (2, 908), (3, 1023), (5, 1155)):
        assert rmse_of_persistence(test, lead, system) == pytest.approx(number, rel=3e-3)
    everything = open_dataset(undivided(system), "train", path)
    assert everything.sizes["time"] == 2922 and everything.date.values[0, -1] == np.datetime64("2008-12-31")
    days = (everything.date.values[0] - np.datetime64("2001-01-01")) / np.timedelta64(1, "D")
    angle = 2 * np.pi * days / 365.2425
    design = np.stack([np.ones_like(angle), *(f(k * angle) for k in (1, 2) for f in (np.cos, np.sin))], 1)
    u = everything.msl[0].values.reshape(2922, -1).astype(np.float64)
    climatology = design[2192:] @ np.linalg.lstsq(design[:2192], u[:2192])[0]
    error = ((climatology - u[2192:]) ** 2).reshape(-1, *system.grid.shape)
    assert np.sqrt((system.grid.weights * error).mean()) == pytest.approx(907, rel=2e-3)


@needs_shared
def test_temperature_of_the_united_kingdom():
    """Hourly, descending latitude; persistence in K over the last 120 hours."""
    system, path = piece("era5_t2m_uk_2019-03-01_24_hourly_0p25deg.nc", {"t2m": ("2m_temperature", "K", None)}, 1.0, "h")
    ds = open_dataset(system, "train", path)
    assert dict(ds.sizes) == {"sample": 1, "time": 576, "latitude": 33, "longitude": 49}
    assert float(ds.latitude[0]) == 50 and 270 < float(ds.t2m.mean()) < 290
    test = ds.t2m[0, 456:].values
    for lead, number in ((1, 0.40), (3, 1.04), (6, 1.76), (12, 2.34), (24, 1.69)):
        assert rmse_of_persistence(test, lead, system) == pytest.approx(number, abs=0.006)


@needs_shared
def test_iberian_winters():
    fields = {
        "msl": ("mean_sea_level_pressure", "Pa", None),
        "t850": ("temperature", "K", 850.0),
        "q850": ("specific_humidity", "kg kg-1", 850.0),
    }
    ds = open_dataset(
        *(lambda c: (c[0], "train", c[1]))(piece("ncep_iberia_djf_1983-2002_daily_2p5deg.nc", fields, 1.0, "d"))
    )
    assert dict(ds.sizes) == {"sample": 20, "time": 90, "latitude": 5, "longitude": 7}  # 1805 days: 5 are 29 February
    assert ds.trajectory.values[[0, -1]].tolist() == ["1982-12-01T00", "2001-12-01T00"]
    assert np.diff(ds.date.values[:, 0]).min() == np.timedelta64(365, "D")
    assert 99e3 < float(ds.msl.mean()) < 103e3 and 265 < float(ds.t850.mean()) < 285 and 0 < float(ds.q850.min()) < 0.01


@needs_shared
def test_ensemble_of_data_assimilations():
    fields = {
        f"{n}{p}": (v, u, float(p))
        for n, v, u in (("z", "geopotential", "m2 s-2"), ("t", "temperature", "K"))
        for p in (500, 850)
    }
    system, path = piece("era5_eda_members0-7_2017-01-01_02_12hourly_3deg.nc", fields, 12.0, "h")
    ds = open_dataset(system, "train", path)
    assert dict(ds.sizes) == {"sample": 8, "time": 4, "latitude": 61, "longitude": 120}
    assert ds.number.values.tolist() == list(range(8)) and ds.trajectory.values[2] == "2017-01-01T00/number=2"
    with xr.open_dataset(path) as raw:
        theirs = raw.temperature.sel(number=3, level=850).sortby("latitude").values
    np.testing.assert_allclose(ds.t850[3], theirs, rtol=1e-6)
    w = system.grid.weights
    assert float((ds.z500[:, 0].values * w).mean()) / 9.80665 == pytest.approx(5660, abs=60)


@needs_shared
def test_global_snapshot_on_gaussian_latitudes():
    full = undivided(load_system("era5_13levels"))
    system, path = piece(
        "era5_global_1959-01-02T00_64x32_13levels.nc", {"sst": ("sea_surface_temperature", "K", None)}, 6.0, "h"
    )
    assert system.grid.axes[0].nodes == "gauss"
    levels = full.model_copy(update={"fields": full.fields[:65], "grid": system.grid})
    ds = open_dataset(levels, "train", path).load()
    assert dict(ds.sizes) == {"sample": 1, "time": 1, "latitude": 32, "longitude": 64} and len(ds.data_vars) == 65
    assert ds.date.values.tolist() == [[np.datetime64("1959-01-02", "ns").astype(int)]]
    means = [float((ds[f"t{p}"].values * system.grid.weights).mean()) for p in (1000, 850, 500)]
    assert 280 < means[0] < 295 and means[0] > means[1] > means[2] > 245
    regridded = open_dataset(undivided(full, fields=full.fields[20:26], regrid="conservative"), "train", path)
    areas = full.grid.weights
    assert float((regridded.t850.values * areas).mean()) == pytest.approx(means[1], rel=1e-6)


@needs_shared
def test_monthly_means_have_no_dates():
    fields = {"u200": ("u_component_of_wind", "m s-1", 200.0), "z500": ("geopotential", "m2 s-2", 500.0)}
    system, path = piece("eraint_monthly_uvz_3deg.nc", fields, 1.0, "d")
    ds = open_dataset(system, "train", path)
    assert dict(ds.sizes) == {"sample": 2, "time": 1, "latitude": 61, "longitude": 120}
    assert (
        ds.month.values.tolist() == [1, 7]
        and ds.trajectory.values.tolist() == ["month=1", "month=7"]
        and "date" not in ds.coords
    )
    jet = ds.u200.isel(time=0).mean("longitude")  # the subtropical jet of each winter
    assert float(jet[0].sel(latitude=slice(20, 45)).max()) > 35 and float(jet[1].sel(latitude=slice(-45, -20)).max()) > 30
    with pytest.raises(InputError, match="no dimension has dates, which the splits"):
        open_dataset(system.model_copy(update={"splits": load_system("natlantic").splits}), "train", path)
