"""The results of a benchmark on a terminal: tables, and the summary in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import xarray as xr
from rich.console import Console
from rich.table import Table

from physinterp.results import Results
from physinterp.summary import summary
from physinterp.table import MEAN


def show(results: Results, console: Console) -> None:
    """Print tables, summary and where the files are."""
    for table in tables(results):
        console.print(table)
    for title, sentences in summary(results).items():
        console.print(f"\n{title}", style="bold", highlight=False)
        for sentence in sentences:
            console.print(sentence, highlight=False)
    console.print(f"\nscores, forecasts and plots: {results.folder}", highlight=False, soft_wrap=True)
    console.print(f"as a page: physinterp report {results.folder}", highlight=False, soft_wrap=True)


def tables(results: Results) -> list[Table]:
    """Errors, then what concerns ensembles, spectra and cost; both for the mean of the headline fields."""
    values = results.table.sel(field=MEAN)
    return [_errors(results, values), _others(results, values), *_ratios(results)]


def _errors(results: Results, values: xr.Dataset) -> Table:
    d, leads = results.document, results.leads()
    title = (
        f"{d['system']}, preset {d['preset_name']}, {d['data']} data, split {d['split']}: mean of "
        f"{', '.join(d['headline'])}; 95 % intervals over {d['rows'][0]['count']} initial conditions"
    )
    table = Table(title=title, title_justify="left")
    columns = [("vrmse_mean", "VRMSE, ensemble mean", lead) for lead in leads]
    columns += [("vrmse_member", "VRMSE, member", leads[0])]
    columns += [("crps", "CRPS / std", lead) for lead in leads]
    table.add_column("method", no_wrap=True)
    for _, label, lead in columns:
        table.add_column(f"{label}\nlead {lead:g}", justify="right", no_wrap=True)
    each = [values.sel(score=score).sel(lead_time=lead, method="nearest") for score, _, lead in columns]
    lowest = [float(column["value"].sel(row=list(results.scores)).min()) for column in each]
    for name in map(str, values["row"].values):
        cells = []
        for column, best in zip(each, lowest, strict=True):
            row = column.sel(row=name)
            text = _cell({k: row[k].item() for k in ("value", "low", "high")})
            cells.append(f"[bold]{text}[/bold]" if float(row["value"]) == best else text)
        table.add_row(name, *cells)
    return table


def _others(results: Results, values: xr.Dataset) -> Table:
    leads = results.leads()
    middle = leads[1 % len(leads)]
    table = Table()
    table.add_column("method", no_wrap=True)
    spread = f"spread / skill\nlead {', '.join(f'{x:g}' for x in leads)}"
    bands = f"SRMSE low, mid, high\nlead {middle:g}"
    labels = [spread, bands, "noise: temperature,\ncorrelation of steps", "evaluations\nper step", "ms\nper step"]
    for label in [*labels, "parameters", "training\nsteps", "training\ns"]:
        table.add_column(label, justify="right")

    def plain(name: str, lead: float, *scores: str) -> list[str]:
        at = values["value"].sel(row=name).sel(lead_time=lead, method="nearest")
        found = [float(at.sel(score=score)) for score in scores if score in at["score"]]
        return ["-" if math.isnan(value) else f"{value:.2g}" for value in found]

    for name in map(str, values["row"].values):
        record = results.document["methods"].get(name, {})
        ratios = [text for lead in leads for text in plain(name, lead, "spread_skill")]
        table.add_row(
            name,
            ", ".join(ratios) if set(ratios) - {"-"} else "-",
            ", ".join(plain(name, middle, "srmse_low", "srmse_mid", "srmse_high")),
            f"{record['temperature']:.2f}, {record['correlation']:g}" if "temperature" in record else "-",
            str(record.get("evaluations", "-")),
            f"{1e3 * record['seconds_per_step']:.1f}" if "evaluations" in record else "-",
            f"{record['parameters']:,}" if "parameters" in record else "-",
            str(record.get("steps", "-")),
            f"{record['seconds']:.0f}" if "seconds" in record else "-",
        )
    return table


def _ratios(results: Results) -> list[Table]:
    """Scores over those of the deterministic forecasts, one table for each of them."""
    comparisons, leads = results.document["comparisons"], results.leads()[:2]
    found = {(c["over"], c["score"], c["lead"], c["method"]): c for c in comparisons}
    labels = {"vrmse_mean": "VRMSE", "crps": "CRPS or MAE"}
    made = []
    for over in dict.fromkeys(c["over"] for c in comparisons):
        title = f"over the row {over}, on the same initial conditions; 95 % paired intervals"
        table = Table("method", title=title, title_justify="left")
        columns = [(over, score, lead) for score in labels for lead in leads]
        for _, score, lead in columns:
            table.add_column(f"{labels[score]}\nlead {lead:g}", justify="right", no_wrap=True)
        for name in dict.fromkeys(c["method"] for c in comparisons if c["over"] == over):
            table.add_row(name, *(_cell(found[*column, name], 3) for column in columns))
        made.append(table)
    return made


def _cell(row: Mapping[str, Any], digits: int = 4) -> str:
    """A value and its interval; what is not finite is None in the file."""
    value, low, high = (math.nan if row[k] is None else row[k] for k in ("value", "low", "high"))
    if math.isnan(value):
        return "lost"
    return f"{value:.{digits}f}" + ("" if math.isnan(low) else f"\n{low:.{digits}f}-{high:.{digits}f}")
