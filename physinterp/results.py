"""What a benchmark leaves behind: `scores.json`, the table and the plots."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from rich.console import Console
from rich.table import Table

from physinterp import evaluate as ev
from physinterp import metrics, plot
from physinterp.checkpoint import load_json, replacing, save_json

PACKAGES = ("physinterp", "torch", "numpy", "xarray", "zarr", "neuraloperator", "the-well")
COMPARED = ("deterministic", "fno")  # their error is what the CRPS of an ensemble is divided by


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

    def complete(self) -> bool:
        """Whether the files of this very benchmark are all there."""
        if not self.path.exists():
            return False
        try:
            found = load_json(self.path)
        except ValueError:  # not ours, or damaged: it is made anew
            return False
        ours = isinstance(found, dict) and found.get("key") == self.key
        return ours and all((self.folder / f).exists() for f in found["files"])

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

    def write(self, headline: tuple[str, ...], focus: str, seconds: float) -> None:
        """Write scores and plots."""
        table = [r for name, ds in self.scores.items() for r in ev.rows(name, ds, headline)]
        table += [r for name, ds in self.floors.items() for r in ev.rows(f"codec/{name}", ds, headline)]
        self.document = {
            "key": self.key,
            "rows": table,
            "comparisons": self._comparisons(headline),
            "methods": {name: json.loads(ds.attrs["record"]) for name, ds in self.scores.items()},
            "headline": list(headline),
            "definitions": {**metrics.definitions(), **ev.DEFINITIONS},
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
        save_json({**self.document, "files": files}, self.path)

    def _comparisons(self, headline: tuple[str, ...]) -> list[dict[str, Any]]:
        """CRPS of every ensemble over the error of the deterministic forecasts, on the same cases."""
        full = {name: ev.with_mean(ds, headline) for name, ds in self.scores.items()}
        found = []
        for name, ds in full.items():
            for other in COMPARED:
                if ds.attrs["members"] == 1 or other not in full:
                    continue
                for lead in ds["lead_time"].values:
                    a, b = (d["crps"].sel(lead_time=lead, field=ev.MEAN) for d in (ds, full[other]))
                    found.append(
                        {"method": name, "over": other, "score": "crps", "lead": round(float(lead), 9)} | ev.ratio(a, b)
                    )
        return found

    def _plots(self, focus: str) -> list[str]:
        system, table = self.about["system"], self.document["rows"]
        names = list(self.scores)
        leads = next(iter(self.scores.values()))["lead_time"].values
        figures = {
            f"spectra_lead_{lead:g}.png": plot.spectra(self.scores, system, float(lead), self.floors)
            for lead in (leads[0], leads[-1])
        }
        figures["error.png"] = plot.error_growth(table, system, "vrmse_mean", names, "VRMSE of the ensemble mean")
        figures["crps.png"] = plot.error_growth(table, system, "crps", names, "CRPS (one member: MAE)")
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

    def table(self) -> Table:
        """The results as a table: headline fields, first, a middle and the last lead."""
        d = self.document
        leads = sorted({r["lead"] for r in d["rows"]})
        shown = sorted({leads[0], leads[min(4, len(leads) - 1)], leads[-1]})
        value = {(r["method"], r["field"], r["lead"], r["score"]): r for r in d["rows"]}
        title = (
            f"{d['system']}, preset {d['preset_name']}, {d['data']} data, split {d['split']}: mean of "
            f"{', '.join(d['headline'])}; 95 % intervals over {next(iter(value.values()))['count']} initial conditions"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("method", no_wrap=True)
        for lead in shown:
            table.add_column(f"VRMSE\nlead {lead:g}", justify="right")
        for lead in shown[:2]:
            table.add_column(f"CRPS\nlead {lead:g}", justify="right")
        table.add_column(f"spread/skill\nlead {' / '.join(f'{x:g}' for x in shown)}", justify="right")
        table.add_column(f"SRMSE low / mid / high\nlead {shown[1 % len(shown)]:g}", justify="right")
        table.add_column("evals\n/step", justify="right")
        table.add_column("ms\n/step", justify="right")
        table.add_column("train\ns", justify="right")
        for name in dict.fromkeys(r["method"] for r in d["rows"]):
            record = d["methods"].get(name, {})

            def cell(lead: float, score: str, name: str = name) -> str:
                return _cell(value.get((name, ev.MEAN, lead, score)))

            plain = [_plain(value.get((name, ev.MEAN, lead, "spread_skill"))) for lead in shown]
            bands = [_plain(value.get((name, ev.MEAN, shown[1 % len(shown)], f"srmse_{b}"))) for b in ("low", "mid", "high")]
            table.add_row(
                name,
                *(cell(lead, "vrmse_mean") for lead in shown),
                *(cell(lead, "crps") for lead in shown[:2]),
                " / ".join(plain) if any(p != "-" for p in plain) else "-",
                " / ".join(bands),
                str(record.get("evaluations", "-")),
                f"{1e3 * record['seconds_per_step']:.1f}" if "seconds_per_step" in record else "-",
                f"{record['seconds']:.0f}" if "seconds" in record else "-",
            )
        return table

    def notes(self) -> list[str]:
        """What the table needs said in words: the floors, and what the intervals leave open."""
        d, lines = self.document, []
        first = min(r["lead"] for r in d["rows"])
        value = {
            (r["method"], r["field"]): r["value"] for r in d["rows"] if r["lead"] == first and r["score"] == "vrmse_mean"
        }
        for codec in dict.fromkeys(m for m, _ in value if m.startswith("codec/")):
            parts = []
            for (method, field), loss in value.items():
                if method == codec and field != ev.MEAN:
                    change = value.get(("persistence", field))
                    parts.append(f"{field} {loss:.3f}" + (f" (one-step change {change:.3f})" if change else ""))
            lines.append(f"{codec} loses (VRMSE): " + ", ".join(parts))
        for c in d["comparisons"]:
            if c["lead"] == first and c["over"] == "deterministic":
                lines.append(
                    f"CRPS of {c['method']} over the MAE of deterministic at lead {first:g}: "
                    f"{c['value']:.3f} [{c['low'] or np.nan:.3f}, {c['high'] or np.nan:.3f}]"
                )
        return lines

    def show(self, console: Console) -> None:
        """Print table and notes."""
        console.print(self.table())
        for line in self.notes():
            console.print(line, highlight=False)
        console.print(f"scores, forecasts and plots: {self.folder}", highlight=False)


def _plain(row: dict[str, Any] | None) -> str:
    return "-" if row is None else "lost" if row["value"] is None else f"{row['value']:.2g}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["value"] is None:
        return "lost"
    if row["low"] is None or not np.isfinite(row["low"]):
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f}\n[{row['low']:.4f}, {row['high']:.4f}]"


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
