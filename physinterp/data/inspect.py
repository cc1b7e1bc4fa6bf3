"""What a path holds, what physinterp would do with it, and what is wrong with it, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from physinterp.config import load_benchmark
from physinterp.data import ADAPTERS, Adapter, array, open_dataset
from physinterp.data.containers import SUFFIXES, arrays, is_zarr
from physinterp.data.draft import as_text, draft
from physinterp.data.hdf5 import opened
from physinterp.data.parts import check_times
from physinterp.data.remote import Location, Store, located, location
from physinterp.data.statistics import moments
from physinterp.errors import InputError
from physinterp.system import System, load_system, systems, validate

SMALL = 1e9
"""Bytes of a split up to which all of its values are read."""


@dataclass
class Report:
    """Lines under three headings.

    Attributes:
        found: by subject.
        use: what physinterp would do, one line each.
        wrong: what is in the way, one line each.
    """

    found: dict[str, str] = field(default_factory=dict)
    use: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def inspect(data: str | Path, system: System | str | None = None, values: bool | None = None) -> Report:
    """Look at a file, folder, store or URL.

    Arguments:
        data: where.
        system: the card to read it with; None tries all cards.
        values: read all values of the training split; None does so up to 1 GB.
    Returns:
        What was found; trouble with the data is in its `wrong`, not raised.
    """
    report, path = Report(), located(data)
    try:
        if isinstance(path, Path) and not path.exists():
            raise InputError(f"{path}: no such file or folder")
        formats = [name for name, adapter in ADAPTERS.items() if adapter.matches(path)]
        report.found |= {"format": ", ".join(formats) or "none that is known"} | _files(path)
        if not formats:
            raise InputError(f"{path}: expected {' or '.join(adapter.EXPECTED for adapter in ADAPTERS.values())}")
        report.found |= _contents(location(path))
    except InputError as error:
        report.wrong.append(str(error))
        return report
    given = system if isinstance(system, System) or system is None else load_system(system)
    cards = [given] if given is not None else [load_system(name) for name in systems()]
    problems: dict[str, str] = {}
    for card in cards:
        for name in sorted(formats, key=lambda n: n != card.adapter):
            try:
                if given is None and name == "array" and not _named(path, card):
                    continue  # any array would do for a card of one field
                fits, remarks = _fitted(ADAPTERS[name], path, card)
                splits = _splits(ADAPTERS[name], path, card)
                sets = {s: open_dataset(fits, s, path) for s in splits or ["train"]}
            except InputError as error:
                problems.setdefault(card.name, str(error))
                continue
            _describe(report, fits, sets, bool(splits))
            report.use += [f"open it as {card.name} with the adapter {name}", *remarks]
            _plan(report, fits, sets, bool(splits))
            _check_values(report, fits, next(iter(sets.values())), values)
            return report
    if given is not None:
        report.wrong += list(problems.values())
        return report
    native = {card.name for card in cards if card.adapter in formats}
    report.wrong += [f"{name}: {text}" for name, text in problems.items() if name in native]
    try:
        found = draft(path, formats)
        if found is not None:
            report.use.append(
                f"with a card such as this, saved as card.yaml and put right where it is not:\n{as_text(found)}"
            )
            inner = inspect(data, validate(System, found, "card"), values)
            report.found |= inner.found
            report.use += inner.use
            report.wrong += inner.wrong
    except InputError as error:
        report.wrong.append(str(error))
    report.wrong.append("no card fits: write one (name, adapter, fields, grid, dt), and give it with --system card.yaml")
    return report


def _files(path: Store) -> dict[str, str]:
    """Number and size of the files."""
    if not isinstance(path, Path):
        return {"files": str(path)}
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {"files": f"{len(files)}, {sum(p.stat().st_size for p in files) / 1e6:.4g} MB"}


def _contents(path: Location) -> dict[str, str]:
    """Arrays of the first file."""
    if isinstance(path, Path) and path.is_dir() and not is_zarr(path):
        inside = sorted(p for p in path.rglob("*") if p.suffix in array.SUFFIXES and p.name[0] != ".")
        return _contents(inside[0]) if inside else {}
    found: dict[str, Any] = {}
    if path.suffix in SUFFIXES:
        with opened(path) as file:
            file.visititems(lambda name, item: found.update({name: item}))
            shapes = {name: (item.shape, item.dtype) for name, item in found.items() if isinstance(item, h5py.Dataset)}
    elif isinstance(path, Path):
        shapes = {name or "array": (item.stored.shape, item.stored.dtype) for name, item in arrays(path).items()}
    else:
        shapes = {}
    text = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'number'} {dtype}" for name, (shape, dtype) in shapes.items())
    return {f"arrays in {path.name}": text} if text else {}


def _fitted(adapter: Adapter, path: Store, card: System) -> tuple[System, list[str]]:
    """The card with the resolution and step of the data, and what had to be changed."""
    raw, remarks = _raw(adapter, path, card), []
    shape = tuple(raw.sizes.get(name, 0) for name in card.grid.names)
    if all(shape) and shape != card.grid.shape:
        remarks.append(f"the resolution is {shape}, not the card's {card.grid.shape}: use system.with_grid({shape})")
        card = card.with_grid(shape)
    time = np.asarray(raw["time"].values, dtype=np.float64)
    check_times(time, path)
    if len(time) > 1 and abs(time[1] - time[0] - card.dt) > 1e-3 * card.dt:
        step = float(f"{time[1] - time[0]:.6g}")
        remarks.append(f"the step is {step:g}, not the card's {card.dt:g}: set dt in a copy of the card")
        card = card.model_copy(update={"dt": step})
    return card, remarks


def _raw(adapter: Adapter, path: Store, card: System) -> xr.Dataset:
    """A split as it is stored."""
    return adapter.read(path, next(iter(_splits(adapter, path, card)), "train"), card)


def _splits(adapter: Adapter, path: Store, card: System) -> list[str]:
    """Splits of the data, or those into which the card cuts them."""
    return [name for name in adapter.splits(path) if name] or ([] if card.solver else list(card.splits))


def _describe(report: Report, card: System, sets: Mapping[str, xr.Dataset], named: bool) -> None:
    report.found |= {
        "fields": ", ".join(f.name + (f" [{f.units}]" if f.units else "") for f in card.fields),
        "grid": "; ".join(
            f"{a.name} {a.size} {a.boundary} {a.nodes}, {_range(a.points)} {a.units}".strip() for a in card.grid.axes
        ),
        "step": f"{card.dt:g} {card.time_unit.removesuffix('1')}".strip(),
    }
    for split, ds in sets.items():
        n, size = ds.sizes["sample"], 4 * math.prod(ds.sizes.values()) * len(card.fields)
        report.found[split if named else "unnamed split"] = (
            f"{n} {'trajectory' if n == 1 else 'trajectories'} of {ds.sizes['time']} frames, "
            f"t = {_range(ds['time'].values)}, {size / 1e6:.4g} MB"
        )
    for p in card.parameters:
        values = np.unique(np.concatenate([ds[p.name].values.ravel() for ds in sets.values()]))
        report.found[f"parameter {p.name}"] = ", ".join(f"{v:g}" for v in values[:8]) + (" ..." if len(values) > 8 else "")


def _plan(report: Report, card: System, sets: Mapping[str, xr.Dataset], named: bool) -> None:
    """Splits, spin-up and step."""
    if not named:
        report.use.append(
            "evaluate all of it; to train on it, name the splits train, valid and test: files, groups or dates"
        )
    ds = next(iter(sets.values()))
    time, spin_up = ds["time"].values, card.solver.spin_up if card.solver else 0.0
    if ds.attrs.get("spun_up"):
        report.use.append("use all frames: the files count time from the end of their warm-up")
    elif time[0] < spin_up:
        early = int((time < spin_up - 1e-6).sum())
        report.use.append(f"leave out the spin-up: {early} frames before t = {spin_up:g}")
        if early == len(time):
            report.wrong.append(f"all frames are before the end of the spin-up at t = {spin_up:g}")
    benchmark = load_benchmark(card)
    step = benchmark.preset(None).step
    stride = step / card.dt
    if abs(stride - round(stride)) < 1e-6 and stride >= 1:
        report.use.append(f"forecast in steps of {step:g}, {round(stride)} frames (preset {benchmark.default})")
    else:
        report.wrong.append(f"the step {step:g} of the preset {benchmark.default} is no multiple of {card.dt:g}")


def _check_values(report: Report, card: System, ds: xr.Dataset, values: bool | None) -> None:
    """Values that are not finite, and fields that do not vary."""
    size = 4 * math.prod(ds.sizes.values()) * len(card.fields)
    if values is False or (values is None and (size > SMALL or "://" in ds.attrs["path"])):
        report.use.append(f"values were not looked at ({size / 1e9:.3g} GB): --values reads them all")
        return
    try:
        found = moments(ds, card.field_names) if ds.sizes["time"] > 1 else {}
    except InputError as error:
        report.wrong.append(str(error))
        return
    for name, row in found.items():
        report.found[f"values of {name}"] = (
            f"{row['mean']:.4g} +- {row['std']:.4g}, changes by {row['rms_delta']:.3g} per frame"
        )
        if row["std"] <= 1e-6 * row["rms"] or row["rms"] == 0:
            report.wrong.append(f"field {name!r} is constant ({row['mean']:g}): leave it out of the card")
        elif row["rms_delta"] <= 1e-6 * row["std"]:
            report.wrong.append(f"field {name!r} does not change in time: it is no field to forecast")


def _named(path: Store, card: System) -> bool:
    """Whether own arrays name the fields of a card, and not only arrays that could be those."""
    here = arrays(*next(iter(array.sources(location(path)).values())))
    return "field" in here or set(card.field_names) <= set(here)


def _range(values: np.ndarray) -> str:
    return f"{values[0]:.4g} to {values[-1]:.4g}"
