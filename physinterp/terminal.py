"""The results of a benchmark on a terminal: tables, and the summary in words."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from physinterp.results import Results
from physinterp.summary import summary
from physinterp.table import CODEC, MEAN

Values = dict[tuple[str, str, float, str], dict[str, Any]]


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
    values = {(r["method"], r["field"], r["lead"], r["score"]): r for r in results.document["rows"]}
    return [_errors(results, values), _others(results, values), *_ratios(results)]


def _names(results: Results) -> list[str]:
    return list(dict.fromkeys(r["method"] for r in results.document["rows"]))


def _errors(results: Results, values: Values) -> Table:
    d, leads, names = results.document, results.leads(), _names(results)
    title = (
        f"{d['system']}, preset {d['preset_name']}, {d['data']} data, split {d['split']}: mean of "
        f"{', '.join(d['headline'])}; 95 % intervals over {next(iter(values.values()))['count']} initial conditions"
    )
    table = Table(title=title, title_justify="left")
    columns = [("vrmse_mean", "VRMSE, ensemble mean", lead) for lead in leads]
    columns += [("vrmse_member", "VRMSE, member", leads[0])]
    columns += [("crps", "CRPS / std", lead) for lead in leads]
    table.add_column("method", no_wrap=True)
    for _, label, lead in columns:
        table.add_column(f"{label}\nlead {lead:g}", justify="right", no_wrap=True)
    best = {(score, lead): _best(values, names, score, lead) for score, _, lead in columns}
    for name in names:
        table.add_row(name, *(_cell(values.get((name, MEAN, lead, score)), best[score, lead]) for score, _, lead in columns))
    return table


def _others(results: Results, values: Values) -> Table:
    leads = results.leads()
    middle = leads[1 % len(leads)]
    table = Table()
    table.add_column("method", no_wrap=True)
    spread = f"spread / skill\nlead {', '.join(f'{x:g}' for x in leads)}"
    bands = f"SRMSE low, mid, high\nlead {middle:g}"
    labels = [spread, bands, "noise: temperature,\ncorrelation of steps", "evaluations\nper step", "ms\nper step"]
    for label in [*labels, "parameters", "training\nsteps", "training\ns"]:
        table.add_column(label, justify="right")
    for name in _names(results):
        record = results.document["methods"].get(name, {})
        ratios = [_plain(values.get((name, MEAN, lead, "spread_skill"))) for lead in leads]
        srmse = [_plain(values.get((name, MEAN, middle, f"srmse_{b}"))) for b in ("low", "mid", "high")]
        table.add_row(
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
    return table


def _ratios(results: Results) -> list[Table]:
    """Scores over those of the deterministic forecasts, one table for each of them."""
    comparisons, leads = results.document["comparisons"], results.leads()[:2]
    found = {(c["method"], c["over"], c["score"], c["lead"]): c for c in comparisons}
    labels = {"vrmse_mean": "VRMSE", "crps": "CRPS or MAE"}
    made = []
    for over in dict.fromkeys(c["over"] for c in comparisons):
        table = Table(
            title=f"over the row {over}, on the same initial conditions; 95 % paired intervals", title_justify="left"
        )
        table.add_column("method", no_wrap=True)
        columns = [(over, score, lead) for score in labels for lead in leads]
        for _, score, lead in columns:
            table.add_column(f"{labels[score]}\nlead {lead:g}", justify="right", no_wrap=True)
        for name in _names(results):
            if (name, *columns[0]) in found:
                table.add_row(name, *(_cell(found.get((name, *c)), None, 3) for c in columns))
        made.append(table)
    return made


def _best(values: Values, names: list[str], score: str, lead: float) -> str | None:
    """The row with the smallest score, codecs alone left out."""
    found = {n: values.get((n, MEAN, lead, score), {}).get("value") for n in names if not n.startswith(CODEC)}
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
