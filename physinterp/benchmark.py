"""The benchmark of a system: data, training, forecasts, scores, table, plots.

`python -m physinterp.benchmark --system rbc --sampler si-em`
"""

from __future__ import annotations

if __name__ == "__main__":  # answer before the heavy imports below; `main` does not return
    from physinterp.cli import main, single

    main(single)

import json
import logging
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xarray as xr
import zarr
from torch import Tensor, nn

from physinterp import __version__, metrics
from physinterp import data as datasets
from physinterp import evaluate as ev
from physinterp.autoencoder import Identity
from physinterp.baselines.reference import Climatology, Persistence, Season
from physinterp.checkpoint import fingerprint, load_json, reading, replacing
from physinterp.config import Benchmark, Preset, load_benchmark
from physinterp.data import checksums, generate
from physinterp.data.remote import located
from physinterp.data.store import NETCDF_LOCK, netcdf
from physinterp.emulator import Emulator
from physinterp.errors import InputError
from physinterp.methods import METHODS, Method, make_sampler, method, model_name, sampler_steps
from physinterp.options import Options
from physinterp.plan import AT_ONCE
from physinterp.results import Results
from physinterp.runs import Runs
from physinterp.system import load_system, near
from physinterp.table import CODEC
from physinterp.table import VERSION as TABLE_VERSION
from physinterp.tune import VERSION, Validation, calibrated

LOGGER = logging.getLogger(__name__)
CASES = 8  # initial conditions at least, where the data come from the user


def run(options: Options) -> Results:
    """Run a benchmark and write its results; see `Options`.

    Raises:
        InputError: something asked for cannot be done; the message says what to do.
    """
    begun = time.perf_counter()
    job = Job(options)
    results = Results(job.out, job.key, job.description())
    if not options.retrain and results.complete(job.weights()):
        LOGGER.info("scores of an earlier run, from %s; --retrain makes them anew", results.path)
        return results.load()
    job.check()
    if options.retrain:
        job.runs.discard()
        results.discard()
    for name in job.names:
        results.add(name, job.scores(name))
    for codec in job.codecs:
        results.add(f"{CODEC}{codec}", job.floor(codec))
    results.about["solver_seconds_per_time_unit_and_trajectory"] = job.rate()
    results.write(job.benchmark.headline, job.focus, job.weights(), time.perf_counter() - begun)
    return results


class Job:
    """One benchmark: names resolved, data opened, rows evaluated."""

    def __init__(self, options: Options) -> None:
        self.options = options
        system = load_system(options.system)
        self.benchmark: Benchmark = load_benchmark(system)
        self.preset_name = options.preset or self.benchmark.default
        preset = self.benchmark.preset(options.preset)
        self.names, self.focus = self._rows(preset)
        self.preset = self._preset(preset)
        if options.device not in ("cpu", "cuda"):
            raise InputError(f"no device {options.device!r}: {near(options.device, ('cpu', 'cuda'))}")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise InputError("there is no CUDA device here; use --device cpu")
        self.out = options.out or Path("results") / system.name
        if options.train and options.data is None:
            raise InputError("--train: there is nothing to train on; give --data PATH")
        trained = options.data if options.train or system.solver is None else None
        self.runs = Runs(system, self.preset, self.preset_name, options.seed, options.device, data=trained)
        self.data = self.runs.data if options.data is None else located(options.data)
        self.system = self.runs.system

    def _preset(self, preset: Preset) -> Preset:
        """The preset with the options put in, checked."""
        o = self.options
        for name, value in (("--steps", o.steps), ("--members", o.members), ("--lead", o.lead)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        if o.sampler is not None:
            row = method(o.sampler)
            if row.sampler is None:
                known = ", ".join(n for n, m in METHODS.items() if m.sampler)
                raise InputError(f"{o.sampler!r} has no sampler; --sampler takes one of: {known}")
            if row.deterministic and (o.members or 1) > 1:
                raise InputError(
                    f"--members {o.members}: {o.sampler} is deterministic, every member would be the same; "
                    "leave --members out or take --sampler si-em"
                )
        steps = dict(preset.steps)
        if o.steps is not None:
            sampler = method(self.focus).sampler
            if sampler is None:
                raise InputError(f"--steps {o.steps}: no row has a sampler; add one with --sampler")
            if (fixed := method(self.focus).steps) not in (None, o.steps):
                raise InputError(f"--steps {o.steps}: {self.focus} has {fixed} by definition; choose another --sampler")
            steps[sampler] = o.steps
        return preset.model_copy(
            update={"steps": steps, "members": o.members or preset.members, "lead": o.lead or preset.lead}
        )

    def _rows(self, preset: Preset) -> tuple[tuple[str, ...], str]:
        """Names of the rows, and the one that the panels show."""
        o = self.options
        names = list(preset.methods if o.methods is None else o.methods)
        if not names:
            raise InputError(f"--methods names no row; known: {', '.join(METHODS)}")
        if o.sampler is not None and o.sampler not in names:
            names.append(o.sampler)
        if sampled := [n for n in names if method(n).sampler]:
            focus = "si-em" if "si-em" in names else sampled[-1]
        else:
            focus = next((n for n in reversed(names) if n != "climatology"), names[0])
        return tuple(dict.fromkeys(names)), o.sampler or focus

    # data ----------------------------------------------------------------------------------------------------------

    @cached_property
    def split(self) -> str:
        """The split that is evaluated: test, or valid where the user's files have no test."""
        if self.data is None:
            return "test"
        found = datasets.splits(self.data, self.system)
        if not found:
            return "test"  # all of it
        for name in ("test", "valid"):
            if name in found:
                if name == "valid":
                    chosen = ", which also chose learning rates and spread" if self.runs.data is not None else ""
                    LOGGER.warning("%s has no test split: evaluating on valid%s", self.data, chosen)
                return name
        raise InputError(f"{self.data}: no split test or valid to evaluate on (found {list(found) or 'none'})")

    @cached_property
    def truth(self) -> ev.Cases:
        """Initial conditions and truth."""
        starts = self.preset.starts
        if self.data is None:
            ds = self.runs.open("test")
        else:
            ds = datasets.developed(datasets.open_dataset(self.system, self.split, self.data), self.system)
            starts = max(starts, math.ceil(CASES / ds.sizes["sample"]))
        found = ev.cases(ds, self.runs.stride, self.preset.lead, starts, self.preset.step)
        if found.truth.nbytes <= 4 * AT_ONCE:  # else every row reads it lead by lead, which takes longer than its forecasts
            found.initial.load(), found.truth.load()
        return found if "date" not in ds.coords else by_month(found)

    def check(self) -> None:
        """Find what cannot work before anything is trained: the folder of the results, and the user's data."""
        if self.data is not None:
            self.truth.check(self.system.field_names)
            if self.focus == "climatology" and "date" in self.truth.initial.coords:
                raise InputError("the climatology of a dated record is no forecast to be kept; add the row persistence")
            if self.runs.data is None:
                self._warn_range()
        else:
            frames = (self.preset.frames or (self.system.solver.frames if self.system.solver else 0)) - 1
            if self.preset.lead * self.runs.stride > frames:
                raise InputError(
                    f"--lead {self.preset.lead}: trajectories hold {frames // self.runs.stride} steps; ask for at most that"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        if not os.access(self.out, os.W_OK):
            raise InputError(f"{self.out}: cannot be written to; choose another folder with --out")

    def _warn_range(self) -> None:
        for p in self.system.parameters:
            trained = self.runs.open("train")[p.name]
            values = self.truth.initial[p.name]
            if float(values.min()) < float(trained.min()) * 0.999 or float(values.max()) > float(trained.max()) * 1.001:
                LOGGER.warning(
                    "%s = %s lies outside the training data (%g to %g): expect errors beyond the table's",
                    p.name,
                    sorted(set(values.values.tolist())),
                    trained.min(),
                    trained.max(),
                )

    # rows ----------------------------------------------------------------------------------------------------------

    @cached_property
    def key(self) -> str:
        """Fingerprint of everything that the results depend on."""
        rows = {name: self._key(name) for name in self.names}
        return fingerprint({"rows": rows, "focus": self.focus, "headline": self.benchmark.headline})

    def weights(self) -> dict[str, list[str | None]]:
        """Hashes of the trained weights behind each row, model and codec."""
        found = {}
        for name in (*self.names, *(f"codec-{c}" for c in self.codecs)):
            what = None if name.startswith("codec-") else model_name(method(name), self.preset)
            codec = name if name.startswith("codec-") else f"codec-{what.codec}" if what else ""
            found[name] = [self.runs.weights(n) for n in (str(what or ""), codec)]
        return found

    _stamp = cached_property(lambda self: checksums.stamp(self.data))  # of the user's data

    def _key(self, name: str) -> str:
        """Fingerprint of everything that the scores of a row, or of `codec-NAME`, depend on."""
        row = None if name.startswith("codec-") else method(name)
        settings = {
            "name": name,
            "weights": self.runs.key,
            "preset": self.preset.model_dump(mode="json", exclude={"methods", "steps", "members"}),
            "data": None if self.data is None else [str(self.data), self._stamp],
            "seed": self.options.seed,
            "device": self.options.device,
            "code": [__version__, metrics.VERSION, TABLE_VERSION],
        }
        if row is not None and row.sampler is not None:
            settings |= {"steps": sampler_steps(row, self.preset.steps), "members": self.preset.members, "tune": VERSION}
        return fingerprint(settings)

    @cached_property
    def codecs(self) -> tuple[str, ...]:
        """Codecs of the rows, other than the identity."""
        names = {m.codec for n in self.names if (m := model_name(method(n), self.preset)) is not None}
        return tuple(sorted(names - {"identity"}))

    def emulator(self, name: str) -> tuple[Emulator, Method, dict[str, Any]]:
        """The emulator of a row and the record of its training."""
        row = method(name)
        what = model_name(row, self.preset)
        if what is None:
            stepper: nn.Module = Persistence() if name == "persistence" else Climatology(self.runs.mean("train"))
            return self.runs.emulator(Identity(len(self.system.fields)), stepper), row, {}
        codec, model = self.runs.codec(what.codec), self.runs.model(what)
        sampler = make_sampler(row, model, self.preset.steps)
        record = self.runs.record(what)
        record = {k: v for k, v in record.items() if k not in ("system", "preset", "statistics")}
        record["model"], record["parameters"] = str(what), sum(p.numel() for p in model.parameters())
        if not isinstance(codec, Identity):
            codec_record = self.runs.record(f"codec-{what.codec}")
            record["seconds"] = record["seconds"] + codec_record["seconds"]
        record["evaluations"] = sampler.evaluations if sampler else 1
        if row.deterministic or row.sampler is None:
            return self.runs.sampled(what, sampler), row, record
        validation = Validation(self.runs, what, self.benchmark.headline, self.preset.lead)
        setting = calibrated(validation, row.sampler, sampler_steps(row, self.preset.steps))
        record |= {"temperature": setting.temperature, "correlation": setting.correlation}
        return validation.emulator(setting), row, record

    def scores(self, name: str) -> xr.Dataset:
        """The evaluation of a row, from the cache or made now."""
        focus = name == self.focus
        path = self._cache(name)
        store = self.out / "forecast.zarr"
        if (not focus or _stamp(store) == path.stem) and (ds := self._kept(name)) is not None:
            LOGGER.info("%s: scores of an earlier run", name)
            return ds
        emulator, row, record = self.emulator(name)
        members = 1 if row.deterministic else self.preset.members
        LOGGER.info("%s: forecasting %d cases x %d members", name, self.truth.initial.sizes["sample"], members)
        if focus:
            seconds = self._store(emulator, members, store, path.stem, name)
            written = xr.open_zarr(store, consolidated=False)
        parts, rates, first = [], [], 0
        example: list[Tensor] = []
        seasonal = name == "climatology" and not focus and self.season is not None
        for part in self.truth.parts(self._at_once(members)):
            count, times = part.initial.sizes["sample"], list[float]()
            if seasonal:
                forecasts = self._seasonal(part)
            elif focus:
                forecasts = ev.read(written.isel(sample=slice(first, first + count)), self.system)
            else:
                forecasts = ev.physical(emulator, part, self.preset.lead, members, self.options.seed, times)
            forecasts = forecasts if first else noted(forecasts, example)
            parts.append(ev.evaluate(forecasts, part, emulator, None if seasonal else self.options.seed))
            rates += [t / (count * members) for t in times]
            first += count
        ds = ev.together(parts)
        ds["example"] = ("lead_time", "field", *self.system.grid.names), torch.stack(example).numpy()
        rate = seconds / (first * members * self.preset.lead) if focus else statistics.median(rates or [0.0])
        ds.attrs["record"] = json.dumps({**record, "seconds_per_step": rate})
        return self._keep(name, ds)

    @cached_property
    def season(self) -> Season | None:
        """The climatology of a dated record."""
        ds = self.runs.open("train")
        return Season((x for x, _ in self.runs.states("train")), ds["date"].values.ravel()) if "date" in ds.coords else None

    def _seasonal(self, part: ev.Cases) -> Iterator[Tensor]:
        """The climatology at the dates of some cases, as forecasts."""
        for k in range(part.truth.sizes["lead_time"]):
            x = self.season(part.truth["date"].isel(lead_time=k).values)  # type: ignore[misc]
            yield self.runs.stack.denormalise(x)[:, None]

    def _at_once(self, members: int) -> int:
        """Cases that are forecast and scored together: their number does not decide the memory."""
        return max(1, AT_ONCE // (members * len(self.system.fields) * math.prod(self.system.grid.shape)))

    def _store(self, emulator: Emulator, members: int, path: Path, stamp: str, name: str) -> float:
        """Write the forecast of all cases, with the truth in the group `truth`; returns the seconds of the forecast."""
        if path.exists():
            shutil.rmtree(path)
        begun = time.perf_counter()
        initial = self.truth.initial.assign_attrs(method=name)
        emulator.forecast(initial, self.preset.lead, members, self.options.seed, out=path)
        seconds = time.perf_counter() - begun
        trajectory = ("sample", self.truth.initial["trajectory"].values.astype(object))  # zarr has no fixed-width strings
        truth = self.truth.truth.drop_attrs().drop_encoding().chunk(sample=1, lead_time=-1)
        truth.assign_coords(trajectory=trajectory).to_zarr(path, group="truth", mode="a", consolidated=False, zarr_format=2)
        zarr.open_group(str(path), mode="r+").attrs["stamp"] = stamp  # last: the store is complete
        return seconds

    def floor(self, codec: str) -> xr.Dataset:
        """The evaluation of a codec alone."""
        name = f"codec-{codec}"
        if (ds := self._kept(name)) is not None:
            return ds
        emulator = self.runs.emulator(self.runs.codec(codec), Persistence())
        return self._keep(name, ev.evaluate(ev.floor(emulator, self.truth, self.preset.lead), self.truth, emulator))

    def _cache(self, name: str) -> Path:
        return self.runs.root / "scores" / f"{name.replace('/', '-')}-{self._key(name)}.nc"

    def _keep(self, name: str, ds: xr.Dataset) -> xr.Dataset:
        ds.attrs["weights"] = json.dumps(self.weights()[name])
        with replacing(self._cache(name)) as part, NETCDF_LOCK:
            ds.to_netcdf(part, engine="netcdf4")
        return ds

    def _kept(self, name: str) -> xr.Dataset | None:
        """Scores of an earlier run, if they are of the weights that are there now."""
        path = self._cache(name)
        if not path.exists():
            return None
        with reading(path), netcdf(path) as ds:
            ds.load()
        return ds if ds.attrs["weights"] == json.dumps(self.weights()[name]) else None

    def rate(self) -> float | None:
        """Seconds per simulated time unit and trajectory of the solver that made the data."""
        return generate.rate(self.runs.open("train").attrs["path"])

    def description(self) -> dict[str, Any]:
        """What the results are of."""
        return {
            "system": self.system,
            "preset": self.preset,
            "preset_name": self.preset_name,
            "seed": self.options.seed,
            "device": self.options.device,
            "data": "generated" if self.data is None else str(self.data),
            "trained_on": "generated" if self.runs.data is None else str(self.runs.data),
            "split": self.split,
            "command": self.options.command(),
            "runs": self.runs.root.name,
        }


def by_month(found: ev.Cases) -> ev.Cases:
    """Cases of a record whose `trajectory`, the block of the bootstrap, is the month in which they begin."""
    months = found.initial["date"].values.astype("datetime64[M]").astype(str).astype(object)
    initial, truth = (ds.assign_coords(trajectory=("sample", months)) for ds in (found.initial, found.truth))
    return ev.Cases(initial, truth, found.source)


def noted(forecasts: Iterable[Tensor], example: list[Tensor]) -> Iterator[Tensor]:
    """Pass forecasts on and keep the first member of the first initial condition, (C, *S) per lead."""
    for u in forecasts:
        example.append(u[0, 0].clone())
        yield u


def _stamp(path: Path) -> str | None:
    """Which evaluation a complete forecast store belongs to."""
    return load_json(path / ".zattrs").get("stamp") if (path / ".zattrs").is_file() else None
