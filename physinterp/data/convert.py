"""A local copy of a data set as training reads it fastest: uncompressed zarr, one trajectory and few frames per chunk.

    FOLDER/{train,valid,test}.zarr    `fields` (sample, time, field, *space), float32, and all coordinates
    FOLDER/card.yaml                  the card of the copy: the adapter `array`, the grid and the step that it has
    FOLDER/regions.jsonl              what is done: a line per region, with the SHA-256 of its values

A conversion may be interrupted at any time; the same call goes on after the last region that was written whole.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
import zarr

from physinterp.checkpoint import fingerprint
from physinterp.data import checksums, open_dataset
from physinterp.data.parts import FRAMES
from physinterp.data.remote import Store
from physinterp.errors import InputError
from physinterp.system import System, near

CHUNK_BYTES = 4 << 20
"""Largest size of a stored chunk, if that is more than one frame."""
ARRAY = "fields"
DATES = "seconds since 1970-01-01"


@dataclass(frozen=True)
class Choice:
    """What to take of a data set; None takes all.

    Attributes:
        fields: names on the card.
        samples: first trajectory, and the one after the last.
        times: first and last time, both included.
        stride: every so many frames.
    """

    fields: tuple[str, ...] | None = None
    samples: tuple[int | None, int | None] = (None, None)
    times: tuple[float | None, float | None] = (None, None)
    stride: int = 1

    def of(self, ds: xr.Dataset, system: System) -> xr.Dataset:
        """The chosen part of a dataset.

        Raises:
            InputError: an unknown field, or nothing is left.
        """
        names = system.field_names if self.fields is None else self.fields
        for name in names:
            if name not in system.field_names:
                raise InputError(f"no field {name!r} of {system.name}: {near(name, system.field_names)}")
        first, last = self.times
        edge = 1e-6 * system.dt
        frames = slice(None if first is None else first - edge, None if last is None else last + edge)
        chosen = ds[list(names)].isel(sample=slice(*self.samples)).sel(time=frames).isel(time=slice(None, None, self.stride))
        if not chosen.sizes["sample"] or not chosen.sizes["time"]:
            raise InputError(
                f"nothing is left: {ds.sizes['sample']} trajectories from t = {ds['time'].values[0]:g} to "
                f"{ds['time'].values[-1]:g} in {ds.attrs['path']}, asked for {self}"
            )
        return chosen

    def card(self, system: System) -> System:
        """The card of what is chosen."""
        fields = tuple(f for f in system.fields if self.fields is None or f.name in self.fields)
        return system.model_copy(
            update={
                **{"adapter": "array", "fields": fields, "dt": system.dt * self.stride},
                **{"solver": None, "splits": {}, "data": "", "regrid": None},
            }
        )


@dataclass(frozen=True)
class Plan:
    """What a conversion will write.

    Attributes:
        datasets: per split, lazily.
        card: of the copy.
        folder: where to.
        done: regions that are there already.
    """

    datasets: Mapping[str, xr.Dataset]
    card: System
    folder: Path
    done: frozenset[tuple[str, int, int]] = field(default_factory=frozenset)

    @property
    def frame(self) -> int:
        """Bytes of one frame."""
        return 4 * len(self.card.fields) * math.prod(self.card.grid.shape)

    @property
    def bytes(self) -> int:
        """Of all regions that are to be written."""
        return sum(stop - start for *_, start, stop in self.todo()) * self.frame

    @property
    def chunk(self) -> int:
        """Frames per chunk."""
        return max(1, min(FRAMES, CHUNK_BYTES // self.frame))

    def regions(self) -> Iterator[tuple[str, int, int, int]]:
        """Split, trajectory, first frame and the one after the last, in whole chunks."""
        length = self.chunk * max(1, FRAMES // self.chunk)
        for split, ds in self.datasets.items():
            for sample in range(ds.sizes["sample"]):
                for start in range(0, ds.sizes["time"], length):
                    yield split, sample, start, min(start + length, ds.sizes["time"])

    def todo(self) -> list[tuple[str, int, int, int]]:
        """Regions that are not there yet."""
        return [r for r in self.regions() if r[:3] not in self.done]

    def seconds(self) -> float:
        """How long it will take, from reading one region."""
        todo = self.todo()
        if not todo:
            return 0.0
        begun = time.perf_counter()
        split, sample, start, stop = todo[0]
        _values(self.datasets[split], self.card.field_names, sample, slice(start, stop))
        return (time.perf_counter() - begun) * self.bytes / ((stop - start) * self.frame)

    @property
    def key(self) -> str:
        """Of everything that decides the content."""
        about = {
            split: [ds.attrs["path"], dict(ds.sizes), *(ds[n].values.astype(str).tolist() for n in ("time", "trajectory"))]
            for split, ds in self.datasets.items()
        }
        return fingerprint({"card": self.card.model_dump(mode="json"), "data": about, "chunk": self.chunk})


def plan(
    system: System,
    splits: Sequence[str],
    data: Store | None,
    folder: str | Path,
    choice: Choice | None = None,
    **options: Any,
) -> Plan:
    """Open what is to be converted and look what of it is there already.

    Arguments:
        system, data, options: as in `open_dataset`.
        splits: which.
        folder: where the copy goes.
        choice: what of each split.
    Raises:
        InputError: the folder holds something else, or there is too little space.
    """
    choice, folder = choice or Choice(), Path(folder).expanduser()
    opened = {split: open_dataset(system, split, data, **options) for split in splits}
    chosen = {split: choice.of(ds, system) for split, ds in opened.items()}
    shape = tuple(next(iter(chosen.values())).sizes[name] for name in system.grid.names)
    made = Plan(chosen, choice.card(system).with_grid(shape), folder)
    notes = folder / checksums.REGIONS
    if notes.is_file():
        lines = notes.read_text(encoding="utf-8").split("\n")[:-1]  # a line without an end was not written whole
        if not lines or json.loads(lines[0])["key"] != made.key:
            raise InputError(f"{folder} holds another conversion: choose another folder, or delete it")
        entries = [json.loads(line) for line in lines[1:]]
        made = Plan(chosen, made.card, folder, frozenset((e["split"], e["sample"], e["start"]) for e in entries))
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no conversion: choose another folder")
    free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.is_dir())).free
    if made.bytes > free:
        raise InputError(f"{folder}: {made.bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free; free some")
    return made


def convert(made: Plan, report: Callable[[int], None] = lambda n: None) -> Path:
    """Write what a plan lacks.

    Arguments:
        made: see `plan`.
        report: called with the bytes of each region as it is done.
    Returns:
        The folder; `open_dataset(FOLDER, split, FOLDER)` opens it, as does the card of the original.
    Raises:
        InputError: values are not finite or cannot be read; the message says where.
    """
    folder = made.folder
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / checksums.REGIONS
    if not notes.is_file():
        for split, ds in made.datasets.items():
            _allocate(folder / f"{split}.zarr", ds, made)
        card = yaml.safe_dump(made.card.model_dump(mode="json"), sort_keys=False)
        (folder / "card.yaml").write_text(card, encoding="utf-8")
        notes.write_text(json.dumps({"key": made.key}) + "\n", encoding="utf-8")
    stores = {split: zarr.open_array(folder / f"{split}.zarr", path=ARRAY, mode="r+") for split in made.datasets}
    with notes.open("r+", encoding="utf-8") as file:
        file.truncate(notes.read_bytes().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        for split, sample, start, stop in made.todo():
            values = _values(made.datasets[split], made.card.field_names, sample, slice(start, stop))
            stores[split][sample, start:stop] = values
            entry = {"split": split, "array": ARRAY, "sample": sample, "start": start, "stop": stop}
            entry["sha256"] = checksums.region(values[None], 0, slice(None))
            file.write(json.dumps(entry) + "\n")
            file.flush()
            report(values.nbytes)
    return folder


def _values(ds: xr.Dataset, names: Sequence[str], sample: int, frames: slice) -> np.ndarray:
    """Some frames of one trajectory, (time, field, *space)."""
    part = ds.isel(sample=sample, time=frames)
    values = np.stack([part[name].values for name in names], 1).astype(np.float32, copy=False)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        frame, channel = bad[0][:2].tolist()
        raise InputError(
            f"{ds.attrs['path']}: field {names[channel]!r} is not finite at t = {part['time'].values[frame]:g} of "
            f"trajectory {part['trajectory'].item()}; leave it out with --samples or --times, or fill the gaps"
        )
    return values


def _allocate(store: Path, ds: xr.Dataset, made: Plan) -> None:
    """Metadata and coordinates; no chunk of the fields."""
    names = made.card.field_names
    coords = ds.coords.to_dataset().assign_coords(field=list(names))
    text = {n: coords[n].astype(str) for n in coords.variables if coords[n].dtype.kind in "OUS"}
    attrs = {k: v for k, v in ds.attrs.items() if k != "path"} | {"from": ds.attrs["path"]}
    coords = coords.assign_coords(text).assign_attrs(attrs)
    if "date" in coords:
        coords["date"].encoding.update(units=DATES, dtype="int64")
    coords.to_zarr(store, mode="w", consolidated=False, zarr_format=2)  # which every version of zarr reads
    space = made.card.grid.shape
    zarr.open_group(store, mode="r+").create_array(
        ARRAY,
        shape=(ds.sizes["sample"], ds.sizes["time"], len(names), *space),
        chunks=(1, min(made.chunk, ds.sizes["time"]), len(names), *space),
        dtype="float32",
        compressors=None,
        fill_value=float("nan"),
        attributes={"_ARRAY_DIMENSIONS": ["sample", "time", "field", *made.card.grid.names]},
    )
