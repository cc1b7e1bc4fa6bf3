"""The results of a benchmark as one HTML file that needs nothing else: `report.html` beside this file, filled in."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from physinterp import plot
from physinterp.checkpoint import replacing
from physinterp.plot.style import error_scale, label, lead_text, scale, sides, time_unit
from physinterp.results import REFERENCES, Results
from physinterp.summary import WORDS, about, summary
from physinterp.system import System
from physinterp.table import CODEC, DEFINITIONS, MEAN

PIXELS = 4_500_000  # of all maps together, about a byte each; the page stays under 10 MB
LEADS = 12  # at most, of the maps
COLOURS = 96  # of a colour map; few make small files
LOST = (128, 128, 128)  # colour of a value that is not finite

SORTED = ' aria-sort="ascending"'
COSTS = [("evaluations", "per step"), ("time", "ms per step"), ("size", "parameters"), ("training", "s")]

CAPTIONS = {
    "error": "Error of the ensemble mean against lead time, lower is better; bands are 95 % intervals. Grey: the codec "
    "alone. Below: where the error of one method comes from: lost by the codec, added by one step, grown by feedback.",
    "crps": "Error of the ensemble as a whole against lead time, lower is better; below as above.",
    "accuracy": "Error against cost: to the left is cheaper, below is better. Dotted lines cost no network evaluation; "
    "a line joins the rows of one method with other numbers of steps.",
    "pareto": "Accuracy against spectra, one member: to the left is more accurate, below has the truth's structures at all "
    "scales. No row is better in both than one on the line. Where "
    "the truth has no energy in the smallest scales, the score of all bands measures those alone.",
    "budget": "Where the squared error of a member comes from: lost by the codec, added by one step, grown by feedback.",
    "spectra": "Energy at each scale, large ones at the left. Middle: over that of the truth, 1 is right. Below, where "
    "shown: the error's energy over the truth's, by cause; 1 is the black line.",
    "ranks": "Rank of the truth among the members: flat is right, hollow too little spread, a hump too much, a slope bias.",
    "spread": "One ensemble at one time: where its standard deviation is large its error should be.",
}


def write(results: Results, path: Path | None = None) -> Path:
    """Write the page.

    Arguments:
        results: of a benchmark.
        path: the file; None is `report.html` beside the results.
    Returns:
        The file.
    """
    path = path or results.folder / "report.html"
    with replacing(path) as part:
        part.write_text(page(results), encoding="utf-8")
    return path


def page(results: Results) -> str:
    """The page as text."""
    d, maps = results.document, _maps(results)
    fields = [MEAN, *results.system.field_names] if len(results.system.field_names) > 1 else [MEAN]
    template = Template(resources.files("physinterp").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_text(f"{results.system.title}: which emulator?"),
        subtitle=_text(f"benchmark {d['system']}, preset {d['preset_name']}, {d['data']} data, split {d['split']}"),
        summary="".join(f"<h3>{_text(t)}</h3>{text}" for t, text in _summary(results).items()),
        words=_definitions(WORDS),
        table=_table(results, fields[0]),
        tables="".join(
            f"<details><summary>{_text(_title(results, f))}</summary>{_table(results, f)}</details>" for f in fields[1:]
        ),
        maps=json.dumps(maps).replace("</", "<\\/"),
        fields=_options(maps["fields"]),
        first=_options(maps["methods"], d["focus"]),
        second=_options(maps["methods"], _rival(results)),
        last=len(maps["leads"]) - 1,
        figures=_figures(results),
        definitions=_exact(results),
        reproduce=_reproduce(results),
    )


# text and tables ---------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return html.escape(str(value))


def _summary(results: Results) -> dict[str, str]:
    """Titles and paragraphs, with what the methods are after what was done."""
    said = {title: _list(sentences, results.scores) for title, sentences in summary(results).items()}
    first, done, *others = said.items()
    methods = "The methods", _definitions({name: about(name) for name in results.scores})
    return dict([first, done, methods, *others])


def _list(sentences: Iterable[str], names: Iterable[str]) -> str:
    """Sentences with the names of methods in bold."""
    known = "|".join(re.escape(_text(name)) for name in sorted(names, key=len, reverse=True))
    bold = (re.sub(rf"(?<![\w/-])({known})(?![\w/@-])", r"<b>\1</b>", _text(s)) for s in sentences)
    return f"<ul>{''.join(f'<li>{s}</li>' for s in bold)}</ul>"


def _definitions(words: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{_text(w)}</dt><dd>{_text(meaning)}</dd>' for w, meaning in words.items())}</dl>"


def _exact(results: Results) -> str:
    """Definitions of the scores of these results, and folded those of the others."""
    d = results.document
    scores = {r["score"] for r in d["rows"]} | set(DEFINITIONS)
    used = {name for name in d["definitions"] if any(s == name or s.startswith(f"{name}_") for s in scores)}
    parts = [{n: d["definitions"][n] for n in sorted(names)} for names in (used, d["definitions"].keys() - used)]
    return f"{_definitions(parts[0])}<details><summary>Other scores</summary>{_definitions(parts[1])}</details>"


def _options(names: Iterable[str], chosen: str | None = None) -> str:
    return "".join(f"<option{' selected' if n == chosen else ''}>{_text(n)}</option>" for n in names)


def _title(results: Results, field: str) -> str:
    headline = results.document["headline"]
    if field != MEAN or len(headline) == 1:
        return (headline[0] if field == MEAN else field).replace("_", " ")
    return f"mean of {', '.join(headline)}"


def _table(results: Results, field: str) -> str:
    """Scores of all rows for one field, with intervals, the best single guess at the middle lead first, codecs alone last;
    every column can be sorted by."""
    leads, found = results.leads(), results.table.sel(field=field)
    middle = leads[len(leads) // 2]
    crps = "CRPS / std" if field == MEAN else "CRPS"
    scores = [("VRMSE", "vrmse_mean", lead) for lead in leads] + [(crps, "crps", lead) for lead in leads]
    scores += [("spread / skill", "spread_skill", middle), ("SRMSE mid", "srmse_mid", middle)]
    scores = [column for column in scores if column[1] in found["score"]]
    first = _at(found, "vrmse_mean", middle)["value"].fillna(np.inf).to_series()
    names = sorted(map(str, found["row"].values), key=lambda name: (name.startswith(CODEC), first[name]))
    methods = [name for name in names if not name.startswith(CODEC)]
    lowest = {c: float(_at(found.sel(row=methods), *c[1:])["value"].min()) for c in scores if c[1] != "spread_skill"}
    rows = []
    for name in names:
        cells = [_score(_at(found.sel(row=name), *c[1:]), lowest.get(c)) for c in scores]
        record = results.document["methods"].get(name, {})
        if "evaluations" in record:
            speed = 1e3 * record["seconds_per_step"]
            cells += [_number(record["evaluations"]), _number(speed, f"{speed:.1f}"), _number(record["parameters"])]
            cells.append(_number(record["seconds"], f"{record['seconds']:.0f}"))
        else:
            cells += ["<td></td>"] * len(COSTS)
        rows.append(f'<tr><th scope="row" data-value="{_text(name)}">{_text(name)}</th>{"".join(cells)}</tr>')
    columns = [(name, lead_text(results.system, lead)) for name, _, lead in scores]
    heads = "".join(
        f'<th scope="col"{SORTED if i == 1 + leads.index(middle) else ""}><button type="button">{_text(name)} '
        f"<small>{_text(unit)}</small></button></th>"
        for i, (name, unit) in enumerate([("method", "\N{NO-BREAK SPACE}"), *columns, *COSTS])
    )
    caption = f"{_text(_title(results, field))}; below each number its 95 % interval; bold: the smallest"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_text(_title(results, field))}"><table class="sortable">'
        f"<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _at(table: xr.Dataset, score: str, lead: float) -> xr.Dataset:
    return table.sel(score=score).sel(lead_time=lead, method="nearest")


def _number(value: float, text: str | None = None) -> str:
    return f'<td data-value="{value}">{text or f"{value:,}"}</td>'


def _score(row: xr.Dataset, lowest: float | None) -> str:
    """A cell with a value and its interval; where `lowest` is None, for spread / skill, a row may have none."""
    value, low, high = (float(row[k]) for k in ("value", "low", "high"))
    if not math.isfinite(value):
        return "<td></td>" if lowest is None else '<td data-value="1e300">lost</td>'
    text = f"<b>{_digits(value)}</b>" if value == lowest else _digits(value)
    if math.isfinite(low):
        text += f"<small>{_digits(low)}\N{EN DASH}{_digits(high)}</small>"
    return f'<td data-value="{value!r}">{text}</td>'


def _digits(value: float) -> str:
    return f"{value:#.3g}" if value < 100 else f"{value:,.0f}"


def _reproduce(results: Results) -> str:
    """Command, data, seed, versions and hardware."""
    d = results.document
    hardware = [f"{d['hardware']['processor']}, {d['hardware']['cores']} cores, {d['hardware']['threads']} threads"]
    hardware += [d["hardware"]["accelerator"]] if d["hardware"]["accelerator"] else []
    facts = {
        "data": f"{d['data']}, split {d['split']}",
        "seed": d["seed"],
        "versions": ", ".join(f"{name} {version}" for name, version in d["versions"].items()),
        "hardware": "; ".join(hardware),
        "wall time": f"{d['seconds']:.0f} s",
        "weights": ", ".join(f"{name} {hashes[0]}" for name, hashes in d["weights"].items() if hashes[0]) or "none",
        "system": f"{results.system.source}; {results.system.licence}",
        "cite": results.system.citation,
        "settings": json.dumps(d["settings"]),
    }
    return f"<pre><code>{_text(d['command'])}</code></pre>{_definitions({k: str(v) for k, v in facts.items()})}"


# pictures ----------------------------------------------------------------------------------------------------------


def _figures(results: Results) -> str:
    """Every plot of the gallery but the maps of fields, which the slider shows."""
    made = []
    for name, kind, choice in results.gallery():
        if kind in CAPTIONS:
            drawn = results.draw(kind, choice)
            if isinstance(drawn, Figure):
                source = _source(plot.png(drawn))
                alt = f"plot {name.replace('_', ' ')}"
                caption = f"<figcaption>{_text(CAPTIONS[kind])}</figcaption>"
                made.append(f'<figure><img src="{source}" alt="{_text(alt)}">{caption}</figure>')
    return "".join(made)


def _rival(results: Results) -> str:
    """The row that is shown beside the chosen sampler: its deterministic twin where there is one."""
    names = [n for n in results.scores if n != results.document["focus"]]
    return "deterministic" if "deterministic" in names else (names or list(results.scores))[-1]


def _maps(results: Results) -> dict[str, Any]:
    """Truth, forecast and error of each field, method and lead as pictures, the first initial condition.

    Returns:
        leads: labels; methods: names; bars: pictures of the two colour maps; fields: per field its label, `range` of the
        colours, `truth` (one picture per lead), `error` (largest error that the colours show, per lead), and `methods`:
        per method [forecast, error, VRMSE of the ensemble mean] per lead.
    """
    members = {name: m for name in results.scores if (m := results.member(name)) is not None}
    truth = results.truth().load()
    keep = np.unique(np.linspace(0, truth.sizes["lead_time"] - 1, LEADS).round().astype(int))
    truth = truth.isel(lead_time=keep)
    members = {name: m.isel(lead_time=keep).load() for name, m in members.items()}
    shape = _shape(results.system, len(keep) * len(results.system.fields) * (1 + 2 * len(members)))
    fields = {
        f: _maps_of(results, f, truth[f], {n: m[f] for n, m in members.items()}, shape) for f in results.system.field_names
    }
    ramp = np.linspace(-1, 1, 256)[None].repeat(8, 0)
    any_error = _picture(ramp, error_scale(1.0))
    bars = {f: _picture(ramp, scale(truth[f]) | {"vmin": -1.0, "vmax": 1.0}) for f in fields}
    for name, found in fields.items():
        found["bars"] = [bars[name], any_error]
    leads = [f"{float(x):g}" for x in truth["lead_time"]]
    return {"leads": leads, "unit": time_unit(results.system), "methods": list(members), "fields": fields}


def _maps_of(
    results: Results, field: str, truth: xr.DataArray, members: Mapping[str, xr.DataArray], shape: tuple[int, int]
) -> dict[str, Any]:
    same, system = scale(truth), results.system
    errors = {name: _resampled(m, system, shape) - _resampled(truth, system, shape) for name, m in members.items()}
    learned = [np.sqrt(np.square(e).mean((1, 2))) for n, e in errors.items() if n not in REFERENCES] or [np.ones(len(truth))]
    limits = np.nan_to_num(3 * np.nanmedian(np.where(np.isfinite(learned), learned, np.nan), 0), nan=1.0)
    table = results.table["value"].sel(field=field, score="vrmse_mean").sel(lead_time=truth["lead_time"], method="nearest")
    shown = {}
    for name, member in members.items():
        pictures = [_picture(u, same) for u in _resampled(member, system, shape)]
        wrong = [_picture(e, error_scale(float(x))) for e, x in zip(errors[name], limits, strict=True)]
        score = [f"{v:.4f}" if np.isfinite(v) else "lost" for v in table.sel(row=name).values]
        shown[name] = list(zip(pictures, wrong, score, strict=True))
    return {
        "label": label(system, field),
        "range": [_plain(same["vmin"]), _plain(same["vmax"])],
        "truth": [_picture(v, same) for v in _resampled(truth, system, shape)],
        "error": [_plain(float(x)) for x in limits],
        "methods": shown,
    }


def _plain(value: float) -> str:
    """A number at the end of a colour bar."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _shape(system: System, count: int) -> tuple[int, int]:
    """Height and width of a picture: the resolution of the grid in the aspect of the domain, or less if there are many."""
    right, up = sides(system.grid)
    width = max(right.size, round(up.size * right.length / up.length))
    height = width * up.length / right.length
    factor = min(1.0, math.sqrt(PIXELS / (count * width * height)))
    return max(8, round(height * factor)), max(8, round(width * factor))


def _resampled(values: xr.DataArray, system: System, shape: tuple[int, int]) -> np.ndarray:
    """(lead, height, width) of (lead_time, *space): the nearest point of the grid."""
    right, up = sides(system.grid)
    index = []
    for axis, size in ((up, shape[0]), (right, shape[1])):
        edge = 0.5 / axis.size if axis.boundary == "periodic" else 0.0  # the first point is in the middle of its cell
        places = axis.start + axis.length * ((np.arange(size) + 0.5) / size - edge)
        index.append(np.abs(places[:, None] - axis.points).argmin(1))
    u = values.transpose("lead_time", up.name, right.name).values
    return u[:, index[0][::-1, None], index[1]]


def _picture(values: np.ndarray, colours: Mapping[str, Any]) -> str:
    """A map (height, width) as a PNG of few colours, in base64."""
    low, high = colours["vmin"], colours["vmax"]
    level = (values - low) / ((high - low) or 1.0) * (COLOURS - 1)
    level = np.where(np.isfinite(values), np.clip(np.round(level), 0, COLOURS - 1), COLOURS).astype(np.uint8)
    palette = (255 * matplotlib.colormaps[colours["cmap"]](np.linspace(0, 1, COLOURS))[:, :3]).round().astype(np.uint8)
    image = Image.frombytes("P", level.shape[::-1], level.tobytes())
    image.putpalette([*palette.ravel().tolist(), *LOST])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _source(buffer.getvalue())


def _source(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
