"""What a benchmark leaves behind: `scores.json`, `evaluation.nc`, the forecasts and the plots, and reading them again."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import netCDF4
import pandas as pd
import torch
import xarray as xr
from matplotlib.animation import Animation
from matplotlib.figure import Figure

from physinterp import metrics, plot
from physinterp.checkpoint import load_json, reading, replacing, save_json
from physinterp.config import home
from physinterp.data.store import NETCDF_LOCK, netcdf
from physinterp.errors import InputError
from physinterp.plan import peak_memory
from physinterp.system import System, near
from physinterp.table import CODEC, DEFINITIONS, MEAN, STATED, difference, join, ratio, rows, to_xarray, with_mean

FORMAT = 2  # raised when files of an earlier version can no longer be read
PACKAGES = ("physinterp", "torch", "numpy", "xarray", "zarr", "neuraloperator", "the-well")
COMPARED = ("deterministic", "fno")  # rows by whose scores those of the others are divided
REFERENCES = ("persistence", "climatology")  # rows that learn nothing
TRIALS = ("vrmse", "srmse", "crps", "seconds")  # scores of a trial of `physinterp tune`


@dataclass(frozen=True)
class Choice:
    """What a plot is of: a field, a lead and a method of the results."""

    field: str
    lead: float
    method: str


class Results:
    """Results of one benchmark in a folder.

        results = Results.open(folder)
        results.scores["si-em"]    # evaluation of a row, see `physinterp.evaluate.evaluate`
        results.table              # values and intervals, dims (row, field, lead_time, score)
        results.draw("spectra", results.choice(lead=2.5))

    Arguments:
        folder: where the files are.
        key: fingerprint of everything that they depend on.
        about: what they are of; `system`, `preset`, `preset_name`, `seed`, `device`, `data`, `split`, `command`, `runs`.
    """

    def __init__(self, folder: Path, key: str = "", about: dict[str, Any] | None = None) -> None:
        self.folder, self.key, self.about = folder, key, about or {}
        self.path = folder / "scores.json"
        self.evaluations: dict[str, xr.Dataset] = {}  # of all rows, the codecs alone as `codec/NAME`
        self.document: dict[str, Any] = {}

    @property
    def scores(self) -> dict[str, xr.Dataset]:
        """The evaluation of each method."""
        return {name: ds for name, ds in self.evaluations.items() if not name.startswith(CODEC)}

    @classmethod
    def open(cls, folder: Path) -> Results:
        """The results in a folder.

        Raises:
            InputError: there are none, they are damaged, or another version wrote them.
        """
        found = cls(Path(folder))
        if not found.path.is_file():
            raise InputError(
                f"{folder}: no results there (no scores.json); make some: physinterp benchmark --system rbc --out {folder}"
            )
        return found.load()

    def complete(self, weights: dict[str, Any]) -> bool:
        """Whether the files of this very benchmark, made with these weights, are all there."""
        if not self.path.exists():
            return False
        try:
            found = load_json(self.path)
        except InputError:  # not ours, or damaged: it is made anew
            return False
        expected = {"format": FORMAT, "key": self.key, "weights": weights}
        if not isinstance(found, dict) or {k: found.get(k) for k in expected} != expected:
            return False
        return all((self.folder / f).exists() for f in found["files"])

    def discard(self) -> None:
        """Forget the results of an earlier run."""
        self.path.unlink(missing_ok=True)

    def load(self) -> Results:
        """Read the files of an earlier run."""
        self._read()
        path = self.folder / "evaluation.nc"
        if not path.is_file():
            raise InputError(f"{path} is missing: run the benchmark again; what is trained is used")
        with reading(path), NETCDF_LOCK:
            with netCDF4.Dataset(path) as file:
                groups = list(file.groups)
            for group in groups:
                with netcdf(path, group=group) as ds:
                    self.evaluations[ds.attrs["method"]] = ds.load()
        return self

    def _read(self) -> None:
        """Read `scores.json`; its rows say again what they share."""
        self.document = load_json(self.path)
        found = self.document.get("format") if isinstance(self.document, dict) else None
        if found != FORMAT:
            raise InputError(
                f"{self.path}: expected results of format {FORMAT}, found {found or 'an older one'}: run the benchmark "
                "again with this version; what is trained is used"
            )
        self.document["rows"] = [self.document.get("rows_share", {}) | row for row in self.document["rows"]]

    def add(self, name: str, scores: xr.Dataset) -> None:
        """The evaluation of a row; a codec alone is `codec/NAME`."""
        self.evaluations[name] = scores

    # writing -------------------------------------------------------------------------------------------------------

    def write(self, headline: tuple[str, ...], focus: str, weights: dict[str, Any], seconds: float) -> None:
        """Write scores, evaluations and plots.

        Arguments:
            headline: fields of the row `mean`.
            focus: the row of the field panels.
            weights: hashes of the weights behind each row.
            seconds: wall time of the whole run.
        """
        self.document = {
            "format": FORMAT,
            "key": self.key,
            "weights": weights,
            "rows": join(*(rows(name, ds, headline) for name, ds in self.evaluations.items())),
            "comparisons": self._comparisons(headline),
            "methods": {name: json.loads(ds.attrs["record"]) for name, ds in self.scores.items()},
            "headline": list(headline),
            "definitions": {**metrics.definitions(), **DEFINITIONS},
            "metrics_version": metrics.VERSION,
            **{k: self.about[k] for k in self.about if k not in ("system", "preset")},
            "system": self.about["system"].name,
            "card": self.about["system"].model_dump(mode="json"),
            "settings": self.about["preset"].model_dump(mode="json"),
            "focus": focus,
            "members": self.about["preset"].members,
            "versions": {p: _version(p) for p in PACKAGES} | {"python": platform.python_version()},
            "hardware": hardware(self.about["device"]),
            "seconds": round(seconds, 1),
            "peak_memory": peak_memory(),
        }
        self._write_evaluations()
        files = []
        for name, kind, choice in self.gallery():
            plot.save(self.draw(kind, choice), self.folder / f"{name}.png")
            files.append(f"{name}.png")
        stale = set(_files(self.path)) - set(files)
        self.document["files"] = [*files, "forecast.zarr", "evaluation.nc"]
        save_json(self.document | _without_repetition(self.document["rows"]), self.path)
        self._read()
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)

    def _write_evaluations(self) -> None:
        """One netCDF group per row."""
        with replacing(self.folder / "evaluation.nc") as part, NETCDF_LOCK:
            for i, (name, ds) in enumerate(self.evaluations.items()):
                compressed = {v: {"zlib": True} for v in ds.data_vars if ds[v].ndim > 3}
                ds.assign_attrs(method=name).to_netcdf(
                    part, mode="a" if i else "w", group=name.replace("/", "-"), engine="netcdf4", encoding=compressed
                )

    def _comparisons(self, headline: tuple[str, ...]) -> list[dict[str, Any]]:
        """Scores of every learned row over those of the deterministic forecasts, on the same cases."""
        full = {name: with_mean(ds, headline) for name, ds in self.scores.items() if name not in REFERENCES}
        found = []
        for (name, ds), other, score in itertools.product(full.items(), COMPARED, ("vrmse_mean", "crps")):
            if name == other or other not in full:
                continue
            for lead in ds["lead_time"].values:
                a, b = (d[score].sel(lead_time=lead, field=MEAN) for d in (ds, full[other]))
                key = {"method": name, "over": other, "score": score, "lead": round(float(lead), 9)}
                found.append(key | ratio(a, b) | {"difference": difference(a, b)})
        return found

    # what is in them -----------------------------------------------------------------------------------------------

    @cached_property
    def system(self) -> System:
        """The card, at the resolution of the preset."""
        try:
            return System(**self.document["card"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path} is damaged (no card of the system): delete it, and run the benchmark again"
            ) from error

    @cached_property
    def table(self) -> xr.Dataset:
        """All rows as `physinterp.table.to_xarray` gives them."""
        return to_xarray(self.document["rows"], {n: r.get("evaluations", 0) for n, r in self.document["methods"].items()})

    def leads(self) -> list[float]:
        """The leads that the tables show: the first, the fifth and the last."""
        leads = self.all_leads()
        return sorted({leads[0], leads[min(4, len(leads) - 1)], leads[-1]})

    def all_leads(self) -> list[float]:
        """Every lead that was evaluated."""
        return sorted({r["lead"] for r in self.document["rows"]})

    def truth(self) -> xr.Dataset:
        """The truth of the first initial condition, dims (lead_time, *space)."""
        return self._stored("truth").isel(sample=0)

    def member(self, method: str) -> xr.Dataset | None:
        """The first member of a row from the first initial condition, dims (lead_time, *space), where it is kept."""
        if "example" in self.scores[method]:
            return self.scores[method]["example"].reset_coords(drop=True).to_dataset("field")
        return self._stored().isel(sample=0, member=0) if method == self.document["focus"] else None

    def ensemble(self, method: str) -> xr.Dataset:
        """The members of a row from the first initial condition, dims (member, lead_time, *space).

        Raises:
            InputError: the ensembles of another row are kept.
        """
        if method != (focus := self.document["focus"]):
            raise InputError(
                f"{self.folder} keeps the members of {focus} alone: choose --method {focus}, or run the benchmark with "
                f"--sampler {method}"
            )
        return self._stored().isel(sample=0)

    def _stored(self, group: str | None = None) -> xr.Dataset:
        path = self.folder / "forecast.zarr"
        if not path.is_dir():
            raise InputError(f"{path} is missing: run the benchmark again; what is trained is used")
        with reading(path):
            return xr.open_zarr(path, group=group, consolidated=False)

    def trials(self) -> xr.Dataset | None:
        """What `physinterp tune` tried on the models of these results, along `trial`; None where it has not."""
        found = []
        for name in {r["model"] for r in self.document["methods"].values() if "model" in r}:
            path = home() / "runs" / self.document["runs"] / name / "settings.json"
            if path.is_file():
                with reading(path):
                    note = load_json(path)
                    if note["weights"] in {hashes[0] for hashes in self.document["weights"].values()}:
                        found += [{s: t[s] for s in TRIALS} | {"sampler": t["setting"]["sampler"]} for t in note["trials"]]
        if not found:
            return None
        return xr.Dataset.from_dataframe(pd.DataFrame(found).rename_axis("trial")).set_coords("sampler")

    # plots ---------------------------------------------------------------------------------------------------------

    def choice(self, field: str | None = None, lead: float | None = None, method: str | None = None) -> Choice:
        """A choice by name; what is left out is the first headline field, the middle lead and the chosen sampler.

        Raises:
            InputError: there is no such field, lead or method; the message names those there are.
        """
        field = self.document["headline"][0] if field is None else field
        method = self.document["focus"] if method is None else method
        lead = self.leads()[len(self.leads()) // 2] if lead is None else lead
        for kind, name, known in (("field", field, self.system.field_names), ("method", method, self.scores)):
            if name not in known:
                raise InputError(f"no {kind} {name!r} in {self.folder}: {near(name, known)}")
        if all(abs(lead - known) > 1e-6 for known in self.all_leads()):
            raise InputError(
                f"no lead {lead:g} in {self.folder}: evaluated are {', '.join(f'{x:g}' for x in self.all_leads())}"
            )
        return Choice(field, lead, method)

    def draw(self, kind: str, choice: Choice) -> Figure | Animation:
        """A plot of PLOTS, or a score of the table against lead time, by its name there.

        Raises:
            InputError: there is no such plot, or these results cannot be drawn so.
        """
        if kind not in PLOTS and kind in self.table["score"]:
            return plot.error_growth(self.table, self.system, kind)
        if kind not in PLOTS:
            raise InputError(f"no plot {kind!r}: {near(kind, PLOTS)}")
        return PLOTS[kind](self, choice)

    def gallery(self) -> Iterator[tuple[str, str, Choice]]:
        """Name, kind and choice of every plot that a benchmark writes."""
        base, leads = self.choice(), self.leads()
        for kind in ("error", "crps", "accuracy", "pareto"):
            yield kind, kind, base
        if "mse_member" in self.scores[base.method]:
            yield "budget", "budget", base
        for lead in dict.fromkeys((leads[0], leads[-1])):
            yield f"spectra_lead_{lead:g}", "spectra", self.choice(lead=lead)
        if any("rank_histogram" in ds for ds in self.scores.values()):
            yield f"ranks_lead_{base.lead:g}", "ranks", base
        if self.scores[base.method].attrs["members"] > 1:
            yield f"spread_{base.field}", "spread", base
        for field in self.system.field_names:
            yield f"fields_{field}", "fields", self.choice(field=field)

    def _pair(self, method: str) -> tuple[xr.Dataset, xr.Dataset]:
        """A member and the truth."""
        member = self.member(method)
        if member is None:
            raise InputError(f"{self.folder} keeps no fields of {method}: run the benchmark again with this version")
        return member, self.truth()


PLOTS: dict[str, Callable[[Results, Choice], Figure | Animation]] = {
    "error": lambda r, c: plot.error_growth(r.table, r.system, "vrmse_mean", r.scores[c.method], c.method),
    "crps": lambda r, c: plot.error_growth(r.table, r.system, "crps", r.scores[c.method], c.method),
    "accuracy": lambda r, c: plot.accuracy(r.table, r.system, c.lead),
    "pareto": lambda r, c: plot.pareto(r.table, r.system, c.lead, trials=r.trials()),
    "budget": lambda r, c: plot.error_budget(r.scores[c.method], r.system, c.method),
    "spectra": lambda r, c: plot.spectra(r.evaluations, r.system, c.lead, c.method),
    "ranks": lambda r, c: plot.rank_histogram(r.scores, r.system, c.lead),
    "spread": lambda r, c: plot.spread(r.ensemble(c.method), r.truth(), r.system, c.field, c.lead, c.method),
    "fields": lambda r, c: plot.panels(*r._pair(c.method), r.system, c.field, c.method),
    "animation": lambda r, c: plot.animation(*r._pair(c.method), r.system, c.field, c.method),
}


def _without_repetition(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows that leave out what they share with the first one, such as the grid, and what that is."""
    shared = {name: table[0][name] for name in STATED}
    return {
        "rows_share": shared,
        "rows": [{k: v for k, v in row.items() if k not in shared or v != shared[k]} for row in table],
    }


def _files(path: Path) -> Sequence[str]:
    """Plots that a `scores.json` lists."""
    try:
        return [f for f in load_json(path)["files"] if f.endswith(".png")] if path.exists() else []
    except (InputError, KeyError, TypeError):
        return []


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, threads and accelerator."""
    cpu = Path("/proc/cpuinfo")
    model = (
        next((x.split(":")[1].strip() for x in cpu.read_text().splitlines() if x.startswith("model name")), "")
        if cpu.exists()
        else ""
    )
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if device.startswith("cuda") else None,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
