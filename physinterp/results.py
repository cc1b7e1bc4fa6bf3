"""What a benchmark leaves behind: `scores.json`, the table and the plots."""

from __future__ import annotations

import itertools
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import xarray as xr
from rich.console import Console
from rich.table import Table

from physinterp import metrics, plot
from physinterp.checkpoint import load_json, replacing, save_json
from physinterp.errors import InputError
from physinterp.table import DEFINITIONS, MEAN, difference, join, ratio, rows, with_mean

PACKAGES = ("physinterp", "torch", "numpy", "xarray", "zarr", "neuraloperator", "the-well")
COMPARED = ("deterministic", "fno")  # rows by whose scores those of the others are divided
REFERENCES = ("persistence", "climatology")  # rows that learn nothing


class Results:
    """Results of one benchmark under a folder.

    Arguments:
        folder: where the files go.
        key: fingerprint of everything that they depend on.
        about: what they are of; `system`, `preset`, `preset_name`, `seed`, `device`, `data`, `split`.
    """

    def __init__(self, folder: Path, key: str, about: dict[str, Any]) -> None:
        self.folder, self.key, self.about = folder, key, about
        self.path = folder / "scores.json"
        self.scores: dict[str, xr.Dataset] = {}
        self.floors: dict[str, xr.Dataset] = {}
        self.document: dict[str, Any] = {}

    def complete(self, weights: dict[str, Any]) -> bool:
        """Whether the files of this very benchmark, made with these weights, are all there."""
        if not self.path.exists():
            return False
        try:
            found = load_json(self.path)
        except InputError:  # not ours, or damaged: it is made anew
            return False
        if not isinstance(found, dict) or (found.get("key"), found.get("weights")) != (self.key, weights):
            return False
        return all((self.folder / f).exists() for f in found["files"])

    def discard(self) -> None:
        """Forget the results of an earlier run."""
        self.path.unlink(missing_ok=True)

    def load(self) -> Results:
        """Read the results of an earlier run."""
        self.document = load_json(self.path)
        return self

    def add(self, name: str, scores: xr.Dataset) -> None:
        """The evaluation of a row."""
        self.scores[name] = scores

    def add_floor(self, codec: str, scores: xr.Dataset) -> None:
        """The evaluation of a codec alone."""
        self.floors[codec] = scores

    def write(self, headline: tuple[str, ...], focus: str, weights: dict[str, Any], seconds: float) -> None:
        """Write scores and plots.

        Arguments:
            headline: fields of the row `mean`.
            focus: the row of the field panels.
            weights: hashes of the weights behind each row.
            seconds: wall time of the whole run.
        """
        named = {**self.scores, **{f"codec/{name}": ds for name, ds in self.floors.items()}}
        values = join(*(rows(name, ds, headline) for name, ds in named.items()))
        self.document = {
            "key": self.key,
            "weights": weights,
            "rows": values,
            "comparisons": self._comparisons(headline),
            "methods": {name: json.loads(ds.attrs["record"]) for name, ds in self.scores.items()},
            "headline": list(headline),
            "definitions": {**metrics.definitions(), **DEFINITIONS},
            "metrics_version": metrics.VERSION,
            **{k: self.about[k] for k in self.about if k not in ("system", "preset")},
            "system": self.about["system"].name,
            "settings": self.about["preset"].model_dump(mode="json"),
            "focus": focus,
            "members": self.about["preset"].members,
            "versions": {p: _version(p) for p in PACKAGES} | {"python": platform.python_version()},
            "hardware": hardware(self.about["device"]),
            "seconds": round(seconds, 1),
        }
        files = self._plots(focus)
        stale = set(_files(self.path)) - set(files)
        save_json({**self.document, "files": files}, self.path)
        self.document = load_json(self.path)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)

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

    def _plots(self, focus: str) -> list[str]:
        system, values = self.about["system"], self.document["rows"]
        names = list(self.scores)
        leads = next(iter(self.scores.values()))["lead_time"].values
        figures = {
            f"spectra_lead_{lead:g}.png": plot.spectra(self.scores, system, float(lead), self.floors)
            for lead in (leads[0], leads[-1])
        }
        figures["error.png"] = plot.error_growth(values, system, "vrmse_mean", names, "VRMSE of the ensemble mean")
        figures["crps.png"] = plot.error_growth(values, system, "crps", names, "CRPS (one member: MAE)")
        store = self.folder / "forecast.zarr"
        with xr.open_zarr(store, consolidated=False) as f, xr.open_zarr(store, group="truth", consolidated=False) as t:
            for field in system.field_names:
                member = f.isel(sample=0, member=0)
                figures[f"fields_{field}.png"] = plot.panels(member, t.isel(sample=0), system, field, focus)
        for name, figure in figures.items():
            with replacing(self.folder / name) as part:
                figure.savefig(part, dpi=110, format="png")
            plt.close(figure)
        return [*figures, store.name]

    # table ---------------------------------------------------------------------------------------------------------

    def leads(self) -> list[float]:
        """The leads that the tables show: the first, the fifth and the last."""
        leads = sorted({r["lead"] for r in self.document["rows"]})
        return sorted({leads[0], leads[min(4, len(leads) - 1)], leads[-1]})

    def _values(self) -> dict[tuple[str, str, float, str], dict[str, Any]]:
        return {(r["method"], r["field"], r["lead"], r["score"]): r for r in self.document["rows"]}

    def tables(self) -> list[Table]:
        """Errors, then what concerns ensembles, spectra and cost; both for the mean of the headline fields."""
        d, leads, value = self.document, self.leads(), self._values()
        names = list(dict.fromkeys(r["method"] for r in d["rows"]))
        title = (
            f"{d['system']}, preset {d['preset_name']}, {d['data']} data, split {d['split']}: mean of "
            f"{', '.join(d['headline'])}; 95 % intervals over {next(iter(value.values()))['count']} initial conditions"
        )
        errors = Table(title=title, title_justify="left")
        columns = [("vrmse_mean", "VRMSE, ensemble mean", lead) for lead in leads]
        columns += [("vrmse_member", "VRMSE, member", leads[0])]
        columns += [("crps", "CRPS / std", lead) for lead in leads]
        errors.add_column("method", no_wrap=True)
        for _, label, lead in columns:
            errors.add_column(f"{label}\nlead {lead:g}", justify="right", no_wrap=True)
        best = {(score, lead): _best(value, names, score, lead) for score, _, lead in columns}
        for name in names:
            cells = [_cell(value.get((name, MEAN, lead, score)), best[score, lead]) for score, _, lead in columns]
            errors.add_row(name, *cells)

        middle = leads[1 % len(leads)]
        other = Table()
        other.add_column("method", no_wrap=True)
        spread = f"spread / skill\nlead {', '.join(f'{x:g}' for x in leads)}"
        bands = f"SRMSE low, mid, high\nlead {middle:g}"
        labels = [spread, bands, "noise: temperature,\ncorrelation of steps", "evaluations\nper step", "ms\nper step"]
        for label in [*labels, "parameters", "training\nsteps", "training\ns"]:
            other.add_column(label, justify="right")
        for name in names:
            record = d["methods"].get(name, {})
            ratios = [_plain(value.get((name, MEAN, lead, "spread_skill"))) for lead in leads]
            srmse = [_plain(value.get((name, MEAN, middle, f"srmse_{b}"))) for b in ("low", "mid", "high")]
            other.add_row(
                name,
                ", ".join(ratios) if any(r != "-" for r in ratios) else "-",
                ", ".join(srmse),
                f"{record['temperature']:.2f}, {record['correlation']:g}" if "temperature" in record else "-",
                str(record.get("evaluations", "-")),
                f"{1e3 * record['seconds_per_step']:.1f}" if "evaluations" in record else "-",
                f"{record['parameters']:,}" if "parameters" in record else "-",
                str(record.get("steps", "-")),
                f"{record['seconds']:.0f}" if "seconds" in record else "-",
            )
        return [errors, other, *self._ratios(names, leads[:2])]

    def _ratios(self, names: list[str], leads: list[float]) -> list[Table]:
        """Scores over those of the deterministic forecasts, one table for each of them."""
        found = {(c["method"], c["over"], c["score"], c["lead"]): c for c in self.document["comparisons"]}
        labels = {"vrmse_mean": "VRMSE", "crps": "CRPS or MAE"}
        tables = []
        for over in dict.fromkeys(c["over"] for c in self.document["comparisons"]):
            table = Table(
                title=f"over the row {over}, on the same initial conditions; 95 % paired intervals", title_justify="left"
            )
            table.add_column("method", no_wrap=True)
            columns = [(over, score, lead) for score in labels for lead in leads]
            for _, score, lead in columns:
                table.add_column(f"{labels[score]}\nlead {lead:g}", justify="right", no_wrap=True)
            for name in names:
                if (name, *columns[0]) in found:
                    table.add_row(name, *(_cell(found.get((name, *c)), None, 3) for c in columns))
            tables.append(table)
        return tables

    def notes(self) -> list[str]:
        """What the tables need said in words: who wins, against what, and what the codec alone loses."""
        d, value, lines = self.document, self._values(), []
        names = list(d["methods"])
        leads = self.leads()
        for score, label in (("vrmse_mean", "VRMSE of the ensemble mean"), ("crps", "CRPS")):
            wins = [f"{_best(value, names, score, lead)} at lead {lead:g}" for lead in leads]
            lines.append(f"best {label}: {', '.join(wins)}")
        codecs = dict.fromkeys(r["method"] for r in d["rows"] if r["method"].startswith("codec/"))
        for codec in codecs:
            lines.append(self._floor(codec, leads[0], value))
        return lines

    def _floor(self, codec: str, lead: float, value: dict[tuple[str, str, float, str], dict[str, Any]]) -> str:
        parts = []
        for method, field, at, score in value:
            if (method, at, score) != (codec, lead, "vrmse_mean") or field == MEAN:
                continue
            loss = value[method, field, at, score]["value"]
            change = value.get(("persistence", field, at, score), {}).get("value")
            text = f"{field} {loss:.4f}"
            if change is not None:
                text += f" (one-step change {change:.4f}{', the codec decides' if loss > change / 2 else ''})"
            parts.append(text)
        return f"{codec} alone loses (VRMSE): {', '.join(parts)}"

    def show(self, console: Console) -> None:
        """Print table and notes."""
        for table in self.tables():
            console.print(table)
        for line in self.notes():
            console.print(line, highlight=False)
        console.print(f"scores, forecasts and plots: {self.folder}", highlight=False)


def _best(value: dict[Any, dict[str, Any]], names: list[str], score: str, lead: float) -> str | None:
    """The row with the smallest score, codecs alone left out."""
    found = {n: value.get((n, MEAN, lead, score), {}).get("value") for n in names if not n.startswith("codec/")}
    known = {n: v for n, v in found.items() if v is not None}
    return min(known, key=lambda n: known[n]) if known else None


def _plain(row: dict[str, Any] | None) -> str:
    return "-" if row is None or row["value"] is None else f"{row['value']:.2g}"


def _cell(row: dict[str, Any] | None, best: str | None, digits: int = 4) -> str:
    if row is None:
        return "-"
    if row["value"] is None:
        return "lost"
    text = f"{row['value']:.{digits}f}"
    if row["low"] is not None:
        text += f"\n{row['low']:.{digits}f}-{row['high']:.{digits}f}"
    return f"[bold]{text}[/bold]" if row["method"] == best else text


def _files(path: Path) -> list[str]:
    """Files of the results that a `scores.json` lists."""
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
