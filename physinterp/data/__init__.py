"""Opening data as xarray, whatever their format: lazily, in physical units, checked against the card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from physinterp.data import apebench, array, checksums, generate, weatherbench, well
from physinterp.data.remote import Store, located
from physinterp.errors import InputError
from physinterp.system import System, load_system, near


class Adapter(Protocol):
    """One file format; a module with these names is an adapter. A path is a Path, or a URL as a string."""

    EXPECTED: str

    def matches(self, path: Any) -> bool:
        """Whether the content at a path has this format."""
        ...

    def splits(self, path: Any) -> tuple[str, ...]:
        """Splits at a path."""
        ...

    def read(self, path: Any, split: str, system: System, verify: bool = False) -> xr.Dataset:
        """One split, lazily: dims (sample, time, *space) by name, parameters and `trajectory` on `sample`."""
        ...


ADAPTERS: dict[str, Adapter] = {"well": well, "apebench": apebench, "weatherbench": weatherbench, "array": array}
LOGGER = logging.getLogger(__name__)
REMOTE = ("well", "apebench", "weatherbench")
"""Adapters that read from URLs."""


def open_dataset(
    system: System | str,
    split: str = "train",
    data: str | Path | None = None,
    *,
    verify: bool = False,
    **options: Any,
) -> xr.Dataset:
    """One split of a system's data as a lazy dataset in physical units.

    Nothing is read but the metadata; dask loads chunks of one trajectory and 64 frames when they are needed.
    Values that are not finite are found when a chunk is packed or statistics are computed, not here.

    Arguments:
        system: a system or its name.
        split: `train`, `valid` or `test`; see `splits` for what a path holds.
        data: file, folder or URL, in any format of `ADAPTERS`; None makes the data with the embedded solver, once, or
            takes them from where the card says.
        verify: compare SHA-256 sums even where size and time of a file agree.
        options: of `physinterp.data.generate.generate`, where `data` is None.
    Returns:
        Dims (sample, time, *space), one float32 variable per field of the card. Coordinates: `time`, the
        axes, one per parameter on `sample`, `trajectory`, and for records `date` (sample, time) in UTC.
        Attributes: system, title, source, split, licence, citation.
    Raises:
        InputError: path, format, split, field, grid or time step are not what the card says, or a file is
            damaged.
    """
    card = system if isinstance(system, System) else load_system(system)
    if data is None and card.solver is None and card.data:
        data = card.data
    folder: Store
    if data is None:
        if split not in card.splits:
            raise InputError(f"no split {split!r} in the card of {card.name}: {near(split, card.splits)}")
        folder = generate.generate(card, only=[split], **options)
        card = card.with_grid(options.get("shape") or card.grid.shape)
        ds = well.read(folder, split, card, verify)
    elif options:
        raise InputError(f"options {sorted(options)} are for generated data; leave them out with data={str(data)!r}")
    else:
        folder = located(data)
        ds = adapter_of(folder, card).read(folder, split, card, verify)
    ds = _conform(ds, card, folder)
    names = ("title", "source", "licence", "citation")
    return ds.assign_attrs({"system": card.name, "split": split, "path": str(folder)} | {n: getattr(card, n) for n in names})


def splits(data: str | Path, system: System | None = None) -> tuple[str, ...]:
    """Splits at a path, in the order train, valid, test: those that it names, or those into which the card cuts its dates.

    Empty where all of it is one split without a name.
    """
    path = located(data)
    adapter = adapter_of(path, system)
    found = tuple(name for name in adapter.splits(path) if name)
    return found or (weatherbench.covered(path, system) if system is not None and adapter is weatherbench else ())


def fitted(system: System, data: Store) -> System:
    """The card with the resolution of the data at a path.

    Raises:
        InputError: nothing is there, or the card does not fit.
    """
    path = located(data)
    ds = adapter_of(path, system).read(path, next(iter(splits(path, system)), "train"), system)
    shape = tuple(ds.sizes.get(name, 0) for name in system.grid.names)
    return system.with_grid(shape) if all(shape) else system


def adapter_of(path: Store, system: System | None = None) -> Adapter:
    """The adapter whose format the content has; the card's own is tried first.

    Raises:
        InputError: nothing is there, or no format is known; the message says what was expected.
    """
    if isinstance(path, str):
        kinds = [n for n in REMOTE if system is None or (n == "weatherbench") == (system.adapter == "weatherbench")]
        for name in sorted(kinds, key=lambda n: system is None or n != system.adapter):
            if ADAPTERS[name].matches(path):
                return ADAPTERS[name]
        expected = "; ".join(ADAPTERS[name].EXPECTED for name in kinds)
        raise InputError(f"{path}: read from URLs are {expected}; download other data, and give their folder")
    if (path / checksums.REGIONS).is_file():  # what `convert` wrote, whatever it was before
        return array
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = near(path.name, siblings) if len(siblings) <= 50 and siblings else "check the path"
        raise InputError(f"{path}: no such file or folder; {hint}")
    order = sorted(ADAPTERS, key=lambda name: system is None or name != system.adapter)
    for name in order:
        if ADAPTERS[name].matches(path):
            return ADAPTERS[name]
    found = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else [f"one {path.suffix or 'plain'} file"]
    expected = " or ".join(ADAPTERS[name].EXPECTED for name in order)
    raise InputError(f"{path}: no known format (found {', '.join(found) or 'an empty folder'}); expected {expected}")


def _conform(ds: xr.Dataset, system: System, folder: Store) -> xr.Dataset:
    """The card's fields, names, order and units; the grid and the time step checked."""
    rename = {}
    for field in system.fields:
        name = next((n for n in (field.name, *field.aliases) if n in ds.data_vars), None)
        if name is None:
            raise InputError(f"{folder}: no field {field.name!r}: {near(field.name, map(str, ds.data_vars))}")
        rename[name] = field.name
    ds = ds[list(rename)].rename({old: new for old, new in rename.items() if old != new})
    for axis in system.grid.axes:
        if axis.name in ds.coords and ds.sizes[axis.name] > 1 and ds[axis.name][0] > ds[axis.name][-1]:
            ds = ds.isel({axis.name: slice(None, None, -1)})
    try:
        system.grid.check(ds)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    steps = np.diff(ds["time"].values)
    if len(steps) and np.abs(steps - system.dt).max() > 1e-3 * system.dt:
        raise InputError(
            f"{folder}: frames are {steps.min():.6g} to {steps.max():.6g} apart, the card of {system.name} "
            f"says dt = {system.dt:g}; set dt in a copy of the card"
        )
    ds = ds.transpose("sample", "time", *system.grid.names).assign_coords(system.grid.coords)
    ds["time"].attrs["units"] = system.time_unit
    for field in system.fields:
        ds[field.name].attrs.update(units=field.units, long_name=field.long_name)
    return ds


def trainable(system: System, data: Store) -> System:
    """The card at the resolution of data that have every split that training needs.

    Raises:
        InputError: one is missing, or the data name no splits.
    """
    found = splits(data, system)
    if lacking := [name for name in ("train", "valid") if name not in found]:
        raise InputError(
            f"{data}: training needs the splits train and valid, and {' and '.join(lacking)} is missing "
            f"(found {', '.join(found) or 'no names'}): name them as files, folders or groups, or give the card dates"
        )
    return fitted(system, data)


def developed(ds: xr.Dataset, system: System) -> xr.Dataset:
    """Data without their spin-up: the frames before the card's `spin_up`, where time starts before it.

    Raises:
        InputError: nothing is left.
    """
    spin_up = system.solver.spin_up if system.solver else 0.0
    if ds.attrs.get("spun_up") or float(ds["time"][0]) >= spin_up:
        return ds
    kept = ds.sel(time=slice(spin_up - 1e-6, None))
    if kept.sizes["time"] == 0:
        raise InputError(f"the data end at t = {float(ds['time'][-1]):g}, before the spin-up of {spin_up:g} is over")
    LOGGER.info("skipping the spin-up: %d frames before t = %g", ds.sizes["time"] - kept.sizes["time"], spin_up)
    return kept
