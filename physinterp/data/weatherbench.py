"""Weather and climate records in WeatherBench2's layout: netCDF or zarr (2 and 3), local or remote.

    one file or store, a folder of several (one after the other in time), or a URL such as gs://BUCKET/NAME.zarr

Dimensions are told by their coordinates: time by its dates, latitude and longitude as in `physinterp.data.sphere`, levels
by name and units. Any order, direction, convention of longitudes and larger area will do. Further dimensions, such as
`number` of an ensemble, become samples.

Times. `time` is what a rollout counts: a float in the unit of the card, 0 at the first frame of a sample. `date`
(sample, time), datetime64 in UTC, is when that was: an initial state keeps it as the date of its initialisation, to which a
forecast adds its lead time. Where frames are missing, a record is cut into samples of equal length. Of records finer than
the card's step, the frames at multiples of that step after 1970-01-01T00 are taken.

References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array
import numpy as np
import xarray as xr

from physinterp.data import sphere
from physinterp.data.remote import Store
from physinterp.data.store import check_chunks, lazy, opened, persistent, stamp, stores
from physinterp.data.units import check_units, same_units
from physinterp.errors import InputError
from physinterp.system import DURATIONS, Field, System, near

LOGGER = logging.getLogger(__name__)

EXPECTED = "WeatherBench2: a netCDF file or zarr store with latitude and longitude, or a folder of them"
LEVELS = ("level", "pressure_level", "isobaricInhPa", "plev")
HECTOPASCALS = {"hpa": 1.0, "millibars": 1.0, "millibar": 1.0, "mbar": 1.0, "mb": 1.0, "": 1.0, "pa": 0.01}

WIND, SURFACE_WIND = (tuple(f"{height}{c}_component_of_wind" for c in "uv") for height in ("", "10m_"))
DERIVED = {
    "wind_speed": (sphere.wind_speed, WIND),
    "10m_wind_speed": (sphere.wind_speed, SURFACE_WIND),
    "vorticity": (sphere.vorticity, WIND),
    "divergence": (sphere.divergence, WIND),
}
"""What is computed where a field asks for it and the files have it not: the function, and its variables."""


def matches(path: Store) -> bool:
    """Whether there are stores with latitudes and longitudes at a path."""
    found = stores(path)
    if isinstance(path, str) or not found:
        return bool(found)
    ds = opened(found[0])
    return all(sphere.candidates(ds, kind) for kind in sphere.UNITS)


def splits(path: Store) -> tuple[str, ...]:
    """One unnamed split, which the card divides by dates."""
    return ("",) if stores(path) else ()


def read(path: Store, split: str, system: System, verify: bool = False) -> xr.Dataset:
    """The dates of a split (all, where the card has no splits) as a lazy dataset, dims (sample, time, *space).

    Arguments:
        path: file, store, folder of these, or URL.
        split: its dates are in the card.
        system: fields, grid and step; says how other grids come to this one.
        verify: look for missing chunks in remote stores, too.
    """
    if system.splits and split not in system.splits:
        raise InputError(f"no split {split!r} in the card of {system.name}: {near(split, system.splits)}")
    parts = [_frames(store, system, verify) for store in stores(path)]
    if not parts:
        raise InputError(f"{path}: expected {EXPECTED}")
    if undated := [part.attrs["store"] for part in parts if "time" not in part.coords]:
        if len(parts) > 1 or system.splits:
            raise InputError(f"{undated[0]}: no dimension has dates, which the splits of a card and a folder of files need")
        return _samples(parts[0], [0], 1, system)
    parts.sort(key=lambda part: part["time"].values[0])
    try:
        ds = xr.concat(parts, "time", data_vars="all", coords="minimal", compat="override", join="exact")
    except ValueError as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: {len(parts)} stores differ in more than time ({text}); give the path of one") from error
    _increasing(ds["time"].values, np.repeat([p.attrs["store"] for p in parts], [p.sizes["time"] for p in parts]))
    ds = _stepped(_period(ds, split, system, path), system, path)
    return _samples(ds, *_cut(ds["time"].values, system, path), system)


def covered(path: Store, system: System) -> tuple[str, ...]:
    """The splits of the card of which the files have dates; all, where they have no dates."""
    found = [dates for store in stores(path) if (dates := dates_of(opened(store), store)[1]) is not None]
    if not found:
        return tuple(system.splits)
    first, last = min(dates.min() for dates in found), max(dates.max() for dates in found)
    day = np.timedelta64(1, "D")
    return tuple(
        name
        for name, s in system.splits.items()
        if not (s.start and s.end) or (np.datetime64(s.start) <= last and first < np.datetime64(s.end) + day)
    )


# one store -----------------------------------------------------------------------------------------------------------


def _frames(store: Store, system: System, verify: bool) -> xr.Dataset:
    """All frames of a store: the fields of the card on its grid, dims (time, ..., *space); `time` has the dates, if any."""
    ds = opened(store)
    dim, dates = dates_of(ds, store)
    blocks: dict[str, dask.array.Array] = {}  # one per variable: its levels are read together

    def values(field: Field) -> tuple[str, xr.DataArray]:
        name, level = find(ds, field, system, store)
        variable = ds[name].variable
        if dim is not None and dim not in variable.dims:
            raise InputError(f"{store}: variable {name!r} of field {field.name!r} does not depend on {dim!r}; see `static`")
        if name not in blocks:
            if verify or not isinstance(store, str):
                check_chunks(variable.sizes, store, name, dim, dates)
            blocks[name] = lazy(variable, store, name, dim, dates)
        coords = {d: ds[d] for d in variable.dims if d in ds.coords}
        da = xr.DataArray(blocks[name], coords, variable.dims, name).isel(level, drop=True)
        return name, da.rename({dim: "time"}) if dim is not None else da.expand_dims("time")

    def checked(da: xr.DataArray, name: str, field: Field) -> xr.DataArray:
        mask = still(ds, field.mask, system, store).values > 0 if field.mask else None
        places = {str(d): da[d].values if d in da.coords else np.arange(n) for d, n in da.sizes.items()}
        check = Finite(f"{store}: {name!r} of field {field.name!r}", places, mask, field.fill)
        return da.copy(data=da.data.map_blocks(check, dtype=np.float32, meta=da.data._meta))

    fields = {}
    for field in system.fields:
        if derived := _derived(ds, field):
            function, parts = derived
            wind = [values(p) for p in parts]
            name, da = field.name, function(*(checked(u, n, p) for (n, u), p in zip(wind, parts, strict=True)))
            if field.units and not same_units(da.attrs["units"], field.units):
                found = da.attrs["units"]
                raise InputError(f"field {name!r} is derived in {found!r}, the card of {system.name} has {field.units!r}")
        else:
            name, da = values(field)
        da = _placed(da, system, store).transpose("time", ..., *system.grid.names)
        fields[field.name] = checked(da, name, field)
    dims = {name: da.dims for name, da in fields.items()}
    if len(set(dims.values())) > 1:
        raise InputError(f"{store}: the fields differ in their dimensions: {dims}; keep those of one kind in a file")
    ds = xr.Dataset(fields, attrs={"store": str(store)})
    return ds if dates is None else ds.assign_coords(time=dates)


def _derived(ds: xr.Dataset, field: Field) -> tuple[Callable[..., xr.DataArray], list[Field]] | None:
    """The function of a field that is not there itself, and the fields it is a function of."""
    names = (field.name, *field.aliases)
    if any(n in ds.data_vars for n in names):
        return None
    found = next((DERIVED[n] for n in names if n in DERIVED), None)
    return found and (found[0], [field.model_copy(update={"aliases": (n,), "units": "m s-1"}) for n in found[1]])


@dataclass(frozen=True)
class Finite:
    """Fills a block (time, ..., *space) under its mask, and refuses what else is not finite, with its place and date."""

    name: str
    places: dict[str, np.ndarray]
    mask: np.ndarray | None
    fill: float

    def __call__(self, block: np.ndarray, block_info: Any = None) -> np.ndarray:
        """The block, filled."""
        if self.mask is not None:
            block = np.where(np.isnan(block) & self.mask, np.float32(self.fill), block)
        wrong = ~np.isfinite(block)
        if wrong.any():
            begins = [start for start, _ in block_info[0]["array-location"]]
            first = np.argwhere(wrong)[0] + begins
            where = [f"{dim} {_label(values[i])}" for (dim, values), i in zip(self.places.items(), first, strict=True)]
            raise InputError(
                f"{self.name} is not finite at {', '.join(where)} (and {wrong.sum() - 1} more points of this block); name "
                "the mask of the field in the card, or leave these dates out"
            )
        return block


def dates_of(ds: xr.Dataset, store: Store) -> tuple[str | None, np.ndarray | None]:
    """The dimension with dates, and the dates."""
    found = [str(d) for d in ds.dims if d in ds.coords and ds[d].dtype.kind == "M"]
    other = [str(d) for d in ds.dims if d in ds.coords and ds[d].dtype == object]
    if other:
        calendar = ds[other[0]].encoding.get("calendar") or getattr(ds[other[0]].values[0], "calendar", "unknown")
        raise InputError(
            f"{store}: {other[0]!r} begins {ds[other[0]].values[0]} in the calendar {calendar!r}; expected the standard: "
            "convert with ds.convert_calendar('standard', align_on='date'); missing days become borders of samples"
        )
    if not found and "time" in ds.dims:
        units = ds["time"].attrs.get("units", "none")
        raise InputError(f"{store}: 'time' has no dates (units {units!r}); expected units such as 'hours since 1959-01-01'")
    if len(found) > 1 and "time" not in found:
        raise InputError(f"{store}: several dimensions have dates ({', '.join(found)}); rename the one that runs to 'time'")
    if not found:
        return None, None
    dim = "time" if "time" in found else found[0]
    dates = ds[dim].values.astype("datetime64[ns]")
    if len(dates) == 0 or np.isnat(dates).any():
        raise InputError(f"{store}: {dim!r} has no date at index {np.isnat(dates).argmax() if len(dates) else 0}; write it")
    return dim, dates


def levels_of(da: xr.DataArray) -> np.ndarray:
    """Levels of a variable in hPa, none where it has none."""
    dim = next((d for d in LEVELS if d in da.coords), None)
    if dim is None:
        return np.empty(0)
    return np.atleast_1d(da[dim].values) * HECTOPASCALS.get(str(da[dim].attrs.get("units", "")).lower(), 1.0)


def find(ds: xr.Dataset, field: Field, system: System, store: Store) -> tuple[str, dict[Hashable, int]]:
    """The variable of a field, and the index of its level.

    Raises:
        InputError: there is none, its units are others than the card's, or it has no such level.
    """
    name = next((n for n in (field.name, *field.aliases) if n in ds.data_vars), None)
    if name is None:
        names = " or ".join((field.name, *field.aliases))
        wanted = field.aliases[0] if field.aliases else field.name
        raise InputError(f"{store}: no variable {names} for field {field.name!r}: {near(wanted, map(str, ds.data_vars))}")
    da = ds[name]
    check_units(str(da.attrs.get("units", "")), field, f"{store}: {name!r}", system)
    dim = next((d for d in LEVELS if d in da.coords), None)
    if dim is None or field.level is None:
        if dim is not None and dim in da.dims:
            raise InputError(
                f"{store}: {name!r} has {da.sizes[dim]} levels, field {field.name!r} none; give it `level:` in the card"
            )
        if field.level is not None and name != field.name:
            raise InputError(
                f"{store}: {name!r} has no levels (dims {da.dims}), and field {field.name!r} is at {field.level:g} hPa"
            )
        return name, {}
    units = str(da[dim].attrs.get("units", "")).lower()
    if units not in HECTOPASCALS:
        raise InputError(f"{store}: the levels of {name!r} are in {units!r}; expected hPa or Pa")
    levels = levels_of(da)
    distance = np.abs(levels - field.level)
    if distance.min() > 1e-3:
        close = ", ".join(f"{levels[i]:g}" for i in np.argsort(distance)[:3])
        raise InputError(f"{store}: {name!r} has no level {field.level:g} hPa for field {field.name!r}; near ones: {close}")
    return name, {dim: int(distance.argmin())} if dim in da.dims else {}


def _placed(da: xr.DataArray, system: System, store: Store) -> xr.DataArray:
    """On the grid of the card."""
    try:
        if system.regrid and not sphere.has(da, system.grid):
            return sphere.regrid(da, system.grid, system.regrid)
        return sphere.select(da, system.grid)
    except InputError as error:
        raise InputError(f"{store}: {error}") from error


def still(ds: xr.Dataset, name: str, system: System, store: Store) -> xr.DataArray:
    """A variable that does not change, on the grid of the card; the first of each further dimension."""
    if name not in ds:
        raise InputError(f"{store}: no variable {name!r}: {near(name, map(str, ds.data_vars))}")
    space = sphere.coordinates(ds[name])
    da = ds[name].isel({d: 0 for d in ds[name].dims if d not in space}, drop=True)
    da = da.reset_coords(drop=True).astype(np.float32)
    return _placed(persistent(da.load, store, f"{name!r} "), system, store)


# times ---------------------------------------------------------------------------------------------------------------


def _increasing(dates: np.ndarray, origin: np.ndarray) -> None:
    """Refuse dates that repeat or go back."""
    wrong = np.flatnonzero(np.diff(dates) <= np.timedelta64(0, "ns"))
    if len(wrong):
        i = int(wrong[0]) + 1
        fault = "comes twice" if dates[i] == dates[i - 1] else f"follows {stamp(dates[i - 1])}"
        raise InputError(
            f"{origin[i]}: 'time' {stamp(dates[i])} {fault} (index {i}, {len(wrong)} such places); sort it with "
            "ds.sortby('time').drop_duplicates('time')"
        )


def _period(ds: xr.Dataset, split: str, system: System, path: Store) -> xr.Dataset:
    """The dates of a split."""
    chosen = system.splits.get(split)
    if chosen is None or chosen.start is None or chosen.end is None:
        return ds
    dates = ds["time"].values
    first, last = np.datetime64(chosen.start, "ns"), np.datetime64(chosen.end, "ns") + np.timedelta64(1, "D")
    inside = np.flatnonzero((dates >= first) & (dates < last))
    span = f"{stamp(dates[0])} to {stamp(dates[-1])}"
    if len(inside) == 0:
        raise InputError(
            f"{path}: 'time' has {span}, nothing of split {split!r} ({chosen.start} to {chosen.end}); change the dates in a "
            f"copy of the card of {system.name}"
        )
    if dates[0] > first + _step(system) or dates[-1] < last - _step(system):
        LOGGER.warning("%s: only %s of split %s (%s to %s)", path, span, split, chosen.start, chosen.end)
    return ds.isel(time=slice(int(inside[0]), int(inside[-1]) + 1))


def _step(system: System) -> np.timedelta64:
    """dt of the card."""
    if system.time_unit not in DURATIONS:
        raise InputError(f"time_unit {system.time_unit!r} in the card of {system.name}: {near(system.time_unit, DURATIONS)}")
    return np.timedelta64(round(system.dt * DURATIONS[system.time_unit] * 1e9), "ns")


def _stepped(ds: xr.Dataset, system: System, path: Store) -> xr.Dataset:
    """The frames at the card's step; gaps of whole steps may be between them."""
    dates, step = ds["time"].values, _step(system)
    if len(dates) < 2:
        return ds
    steps = np.diff(dates)
    usual = np.sort(steps)[len(steps) // 2]
    unit = min(usual, step)
    said = f"the card of {system.name} says dt = {system.dt:g} {system.time_unit}"
    if len(odd := np.flatnonzero(steps % unit)):
        i = int(odd[0])
        raise InputError(
            f"{path}: 'time' goes from {stamp(dates[i])} to {stamp(dates[i + 1])}, no multiple of {_text(unit)} ({said}); "
            "interpolate to equal steps or drop this date"
        )
    if (steps > step).all() or step % unit:
        raise InputError(f"{path}: 'time' goes in steps of {_text(usual)}, and {said}; set dt in a copy of the card")
    if usual >= step:
        return ds
    kept = np.flatnonzero(dates.astype(np.int64) % step.astype(np.int64) == 0)
    if len(kept) == 0:
        raise InputError(f"{path}: 'time' has steps of {_text(usual)} but none at multiples of {_text(step)} after 0 h UTC")
    return ds.isel(time=kept)


def _cut(dates: np.ndarray, system: System, path: Store) -> tuple[list[int], int]:
    """First frames and common length of samples without gaps: of all lengths that which keeps most pairs of frames."""
    step = _step(system)
    gaps = np.flatnonzero(np.diff(dates) != step) + 1
    starts = [0, *gaps.tolist()]
    sizes = np.diff([*starts, len(dates)])
    lengths = np.arange(1, sizes.max() + 1)
    values, counts = np.unique(sizes, return_counts=True)
    pairs = sum(count * (size // lengths) * (lengths - 1) for size, count in zip(values, counts, strict=True))
    length = int(lengths[len(lengths) - 1 - np.argmax(pairs[::-1])])
    cut = [a + k * length for a, size in zip(starts, sizes, strict=True) for k in range(size // length)]
    if len(gaps):
        before, after = dates[gaps - 1], dates[gaps]
        day = np.timedelta64(1, "D")
        leap = all(stamp(d)[5:10] == "02-29" for d in before + step) and (after - before <= day + step).all()
        LOGGER.warning(
            "%s: 'time' has %d gaps, the first from %s to %s%s: %d samples of %d frames, %d frames left out",
            *(path, len(gaps), stamp(before[0]), stamp(after[0]), " (all of them leap days)" if leap else ""),
            *(len(cut), length, len(dates) - len(cut) * length),
        )
    return cut, length


def _label(value: Any) -> str:
    return stamp(value) if isinstance(value, np.datetime64) else str(value)


def _text(duration: np.timedelta64) -> str:
    hours = duration / np.timedelta64(1, "h")
    return f"{hours / 24:g} d" if hours % 24 == 0 else f"{hours:g} h"


def _samples(ds: xr.Dataset, starts: Sequence[int], length: int, system: System) -> xr.Dataset:
    """Samples of equal length, each member of the further dimensions a sample of its own."""
    extra = {str(d): n for d, n in ds.sizes.items() if d not in ("time", *system.grid.names)}
    dates = ds["time"].values if "time" in ds.coords else None
    time = np.round(system.dt * np.arange(length), 6)
    parts = []
    block = max(
        max(da.chunks[0]) for da in ds.data_vars.values() if da.chunks
    )  # alike in all samples: dask would cut each at the borders of all
    for start in starts:
        for index in itertools.product(*map(range, extra.values())):
            part = ds.isel(dict(zip(extra, index, strict=True)) | {"time": slice(start, start + length)})
            part = part.chunk(time=block) if len(starts) > 1 else part
            label = [f"{d}={part[d].values if d in part.coords else i}" for d, i in zip(extra, index, strict=True)]
            if dates is not None:
                part = part.assign_coords(date=("time", dates[start : start + length]))
                label.insert(0, stamp(dates[start]))
            parts.append(part.assign_coords(time=time, trajectory="/".join(label)))
    own = [str(name) for name in parts[0].coords if name not in parts[0].dims]
    ds = xr.concat(parts, "sample", data_vars="all", coords=own, compat="override", join="exact", combine_attrs="drop")
    absent = [p for p in system.parameters if p.name not in ds.coords]
    return ds.assign_coords({p.name: ("sample", np.full(len(parts), p.default)) for p in absent})
