"""System cards: one strict YAML file describes one physical problem."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
import xarray as xr
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as field

from physinterp.errors import InputError
from physinterp.grid import Grid

M = TypeVar("M", bound=BaseModel)


class Card(BaseModel):
    """Base of everything in a card: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Field(Card):
    """One scalar field.

    In a card, `{name: z, levels: [500, 850], ...}` is short for a field per level, named z500 and z850.

    Attributes:
        aliases: other names under which files may hold it.
        level: pressure in hPa, for a field that files hold together with other levels.
        mask: variable of the files, positive where the field need not have values.
        fill: the value there.
    """

    name: str
    units: str = ""
    long_name: str = ""
    aliases: tuple[str, ...] = ()
    level: float | None = None
    mask: str = ""
    fill: float = 0.0


DURATIONS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
"""Time units of a card, in seconds."""
YEAR = 365.2425
"""Days."""


class Parameter(Card):
    """A physical parameter on which the emulator is conditioned.

    Attributes:
        name: as in the files; the solver's argument is the same name in lower case.
        transform: applied before a network sees it.
        default: the value of the embedded data, and of files that do not state one.
        values: lower and upper end of the sensible range.
    """

    name: str
    transform: Literal["identity", "log10"] = "identity"
    default: float
    values: tuple[float, float]
    units: str = ""

    def standardise(self, value: Any) -> Any:
        """Transform, then map the range `values` to [-1, 1]; independent of any data set."""
        f = np.log10 if self.transform == "log10" else np.asarray
        low, high = (float(f(v)) for v in self.values)
        return (f(np.asarray(value, dtype=np.float64)) - (low + high) / 2) / ((high - low) / 2 or 1.0)


class Simulation(Card):
    """How the embedded solver makes the data of a card.

    Attributes:
        name: key in `physinterp.solvers.SOLVERS`.
        defaults: constructor arguments of the solver that are not parameters.
        spin_up: time before the first stored frame, in the system's time unit.
        frames: stored frames per trajectory.
    """

    name: str
    defaults: Mapping[str, float] = {}
    spin_up: float = field(default=0.0, ge=0)
    frames: int = field(ge=2)


class Split(Card):
    """Trajectories of a split: those of the embedded solver, or a range of dates of one record.

    Attributes:
        trajectories, seed: how many; trajectory i starts from the seed `seed` + i.
        start, end: first and last day (UTC), both included.
    """

    trajectories: int = field(default=0, ge=0)
    seed: int = field(default=0, ge=0)
    start: date | None = None
    end: date | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Split:
        seeded = {"trajectories", "seed"} <= self.model_fields_set
        dated = self.start is not None and self.end is not None
        if (self.trajectories or self.seed) if dated else (self.start or self.end or not seeded):
            raise ValueError("expected either trajectories and seed, or start and end")
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"the end {self.end} is before the start {self.start}")
        return self


class System(Card):
    """One card = one problem.

    Attributes:
        name: name of the card's folder and of the system everywhere.
        title: on plots and pages; the name where there is none.
        adapter: key in `physinterp.data.ADAPTERS`: the format of its data.
        fields: in the order of the channels.
        grid: where the values sit.
        dt: time between stored frames, in `time_unit`.
        parameters: in the order of the conditioning vector.
        solver: how to make the data here; None where they have to be downloaded.
        splits: by initial condition for the embedded solver, or by date. Frames on both sides of a border are alike:
            leave a gap of some decorrelation times between dates.
        data: path or URL where the data are, if none is given and there is no solver.
        regrid: how fields on another grid of the sphere come to this one; None refuses them.
        dated: whether the data have dates, of which networks are told the season and the hour; those of the adapter
            `weatherbench` have, where the card does not say otherwise.
    """

    name: str
    title: str = ""
    adapter: str
    fields: tuple[Field, ...] = field(min_length=1)
    grid: Grid
    dt: float = field(gt=0)
    time_unit: str = ""
    parameters: tuple[Parameter, ...] = ()
    solver: Simulation | None = None
    splits: Mapping[str, Split] = {}
    data: str = ""
    regrid: Literal["conservative", "bilinear"] | None = None
    dated: bool = False
    source: str = ""
    licence: str = ""
    citation: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_field_per_level(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("fields"), list | tuple):
            return values
        values = {"dated": values.get("adapter") == "weatherbench", "title": values.get("name", ""), **values}
        fields: list[Any] = []
        for entry in values["fields"]:
            if not isinstance(entry, dict) or "levels" not in entry:
                fields.append(entry)
                continue
            one = {key: value for key, value in entry.items() if key != "levels"}
            name, long_name = one.get("name", ""), one.get("long_name", "")
            for level in entry["levels"]:
                text = f"{long_name} at {level:g} hPa"
                fields.append(one | {"name": f"{name}{level:g}", "long_name": text, "level": level})
        return {**values, "fields": fields}

    @model_validator(mode="after")
    def _timed(self) -> System:
        if self.dated and self.time_unit not in DURATIONS:
            raise ValueError(f"dates need a time_unit, found {self.time_unit!r}: {near(self.time_unit, DURATIONS)}")
        return self

    @model_validator(mode="after")
    def _disjoint(self) -> System:
        ranges = sorted((s.seed, s.seed + s.trajectories, name) for name, s in self.splits.items())
        for (_, end, first), (start, _, second) in itertools.pairwise(ranges):
            if start < end:
                raise ValueError(f"splits {first!r} and {second!r} share seeds; move the seed of {second!r} to {end}")
        dates = sorted((s.start, s.end, name) for name, s in self.splits.items() if s.start and s.end)
        for (_, last, first), (begun, _, second) in itertools.pairwise(dates):
            if begun <= last:
                raise ValueError(f"splits {first!r} and {second!r} share dates: start {second!r} some days after {last}")
        return self

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(f.name for f in self.fields)

    def with_grid(self, shape: Sequence[int]) -> System:
        """The same system at another resolution."""
        return self.model_copy(update={"grid": self.grid.with_shape(shape)})

    def conditioning(self, ds: xr.Dataset) -> np.ndarray:
        """Standardised parameters of a dataset, (sample, P), and of a record the day of the first time, (sample, P + 1).

        Coordinates hold the values: days since 2000 of `date` (sample[, time]) or `init_time`; float32, to the minute.

        Raises:
            InputError: a parameter is no coordinate of the dataset, or a record has no dates.
        """
        columns = []
        for parameter in self.parameters:
            if parameter.name not in ds.coords:
                raise InputError(
                    f"parameter {parameter.name!r} is no coordinate of the data "
                    f"(found {sorted(map(str, ds.coords))}); "
                    f"add it: ds.assign_coords({parameter.name}=('sample', values))"
                )
            values = parameter.standardise(ds[parameter.name].values)
            columns.append(np.broadcast_to(values, (ds.sizes.get("sample", 1),)))
        if self.dated:
            columns.append(self._days(ds))
        if not columns:
            return np.zeros((ds.sizes.get("sample", 1), 0), dtype=np.float32)
        return np.stack(columns, -1).astype(np.float32)

    def _days(self, ds: xr.Dataset) -> np.ndarray:
        """Days since 2000 of the first time of each sample, (sample,)."""
        names = [n for n in ("init_time", "date", "sample", "time") if n in ds.coords and ds[n].dtype.kind == "M"]
        if not names:
            raise InputError(
                f"the data have no dates, from which {self.name} takes season and hour (found coordinates "
                f"{sorted(map(str, ds.coords))}); add them: ds.assign_coords(date=('sample', dates))"
            )
        date = ds[names[0]].isel(time=0) if "time" in ds[names[0]].dims else ds[names[0]]
        days = (date.values - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
        if date.ndim > 1 or np.isnan(days).any():
            found = f"dimensions {date.dims}, dates {[str(d) for d in np.ravel(date.values)[:3]]}"
            raise InputError(f"expected {names[0]!r} to have a date per initial state, found {found}")
        return np.broadcast_to(days, (ds.sizes.get("sample", 1),))

    def told(self, table: torch.Tensor, time: torch.Tensor | float = 0.0) -> torch.Tensor:
        """What networks are told: the parameters, (B, P), and of a record sines and cosines of year and day, (B, P + 4).

        Arguments:
            table: rows of `conditioning`.
            time: since then, in `time_unit`, () or (B,).
        """
        if not self.dated:
            return table
        day = table[:, -1].double() + torch.as_tensor(time, dtype=torch.float64) * DURATIONS[self.time_unit] / DURATIONS["d"]
        angle = 2 * torch.pi * torch.stack([day / YEAR, day], 1)
        return torch.cat([table[:, :-1], angle.sin().to(table), angle.cos().to(table)], 1)


def near(name: str, names: Iterable[str]) -> str:
    """A phrase for error messages: the names close to a wrong one, and all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def systems() -> tuple[str, ...]:
    """Names of the cards that come with the package."""
    root = _cards()
    return tuple(sorted(p.name for p in root.iterdir() if (p / "card.yaml").is_file())) if root.is_dir() else ()


def load_system(name: str | Path) -> System:
    """The system of a name, a card file or a folder with a `card.yaml`.

    Raises:
        InputError: no such card, or a card with unknown keys or wrong values; the message names file and key.
    """
    path = Path(name)
    if str(name) in systems():
        path = _cards() / str(name) / "card.yaml"
    elif path.is_dir() and (path / "card.yaml").is_file():
        path = path / "card.yaml"
    elif not path.is_file():
        raise InputError(f"no system {str(name)!r}: {near(str(name), systems())}; or give the path of a card.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping with the keys of a card, found {type(values).__name__}")
    return validate(System, values, path)


def validate(model: type[M], values: Mapping[str, Any], source: str | Path) -> M:
    """Build a strict model; every error names the source, the key, and for an unknown key the near ones."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(map(str, item["loc"])) or "(whole)"
            if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
                lines.append(f"unknown key {key!r}: {near(str(item['loc'][-1]), _keys(model, item['loc'][:-1]))}")
            else:
                lines.append(f"key {key!r}: {item['msg']} (found {str(item['input'])[:60]!r})")
        raise InputError(f"{source}: {'; '.join(lines)}") from error


def _cards() -> Path:
    """Folder of the cards: `datasets/` of a checkout, else `_cards` inside the installed package."""
    package = Path(str(resources.files("physinterp")))
    return package / "_cards" if (package / "_cards").is_dir() else package.parent / "datasets"


def _keys(model: Any, loc: Sequence[str | int]) -> list[str]:
    """Keys that the (sub)model at a location accepts."""
    kind: Any = model
    for part in loc:
        annotation = _annotations(kind).get(str(part))
        if annotation is not None:
            kind = _model(annotation) or kind
    return list(_annotations(kind))


def _annotations(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        fields = getattr(kind, "__pydantic_fields__", {})
        return {name: info.annotation for name, info in fields.items()}
    return {name: info.annotation for name, info in kind.model_fields.items()}


def _model(annotation: Any) -> Any:
    """The model inside an annotation such as tuple[Field, ...] or Mapping[str, Split]."""
    if isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or issubclass(annotation, BaseModel)):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model(a)) is not None), None)
