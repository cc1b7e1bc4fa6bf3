"""Results read again, the page, and the commands plot, report, demo and plan; the page in a browser where there is one."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import matplotlib
import numpy as np
import pytest
import xarray as xr
from artificial import LEADS, ROWS, SAMPLES, SYSTEM, WEIGHTS, results
from matplotlib.figure import Figure
from PIL import Image
from toy import KOLMOGOROV, dataset

from physinterp import benchmark, cli, plot, report
from physinterp.checkpoint import digest
from physinterp.config import load_benchmark
from physinterp.methods import METHODS, ModelName, make_model
from physinterp.options import Options
from physinterp.plan import Plan
from physinterp.plot.style import scale
from physinterp.results import PLOTS, Choice, Results
from physinterp.summary import about, summary
from physinterp.system import load_system
from physinterp.table import ratio, with_mean
from physinterp.terminal import tables

needs_browser = pytest.mark.skipif(browser.EXECUTABLE is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def found(artificial_results) -> Results:
    return Results.open(artificial_results)


@pytest.fixture(scope="module")
def file(found, tmp_path_factory) -> Path:
    """The page, with empty plots, which are drawn faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Results, "draw", lambda *args: Figure(figsize=(1, 1)))
        return report.write(found, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(file) -> str:
    return file.read_text(encoding="utf-8")


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """A page is made faster."""
    monkeypatch.setattr(report, "_figures", lambda results: "")


@pytest.fixture
def copy(artificial_results, tmp_path) -> Path:
    """The folder in a place of its own, to be damaged."""
    return shutil.copytree(artificial_results, tmp_path / "copy")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line in this process: exit code, stdout, lines of stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["physinterp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err.splitlines()

    return call


# results -----------------------------------------------------------------------------------------------------------


def test_the_evaluations_come_back(tmp_path):
    written = results(tmp_path)
    found = Results.open(tmp_path)
    assert list(found.scores) == list(ROWS) and list(found.evaluations) == [*ROWS, "codec/dcae"]
    for name, ds in written.scores.items():
        xr.testing.assert_equal(ds, found.scores[name])
        assert found.scores[name].attrs["method"] == name
    assert found.document == written.document and found.system == written.system == SYSTEM


def test_the_table_holds_the_rows(found):
    t = found.table
    assert dict(t.sizes) == {
        "row": len(ROWS) + 1,
        "field": len(SYSTEM.fields) + 1,
        "lead_time": LEADS,
        "score": t.sizes["score"],
    }
    for r in found.document["rows"]:
        row = t.sel(row=r["method"], field=r["field"], lead_time=r["lead"], score=r["score"])
        assert float(row["value"]) == r["value"] and float(row["low"]) == r["low"] and row["count"] == r["count"] == SAMPLES
    assert np.isnan(t["value"].sel(row="fno", score="spread_skill")).all()  # one member has no spread
    assert t["evaluations"].sel(row="si-em") == 2 and t["evaluations"].sel(row="persistence") == 0


def test_a_member_of_every_row_is_kept(found):
    with xr.open_zarr(found.folder / "forecast.zarr", consolidated=False) as store:
        member = found.member("si-em")
        np.testing.assert_array_equal(member["buoyancy"], store["buoyancy"].isel(sample=0, member=0))
        np.testing.assert_array_equal(found.ensemble("si-em")["buoyancy"], store["buoyancy"].isel(sample=0))
    for name in ROWS:
        assert dict(found.member(name).sizes) == {"lead_time": LEADS, "x": 16, "y": 8}


def test_rows_say_once_what_they_share(found):
    """The file does not repeat the grid in every row; read again, every row is whole."""
    written = json.loads(found.path.read_text())
    assert written["rows_share"].keys() == {"version", "grid", "weights", "eps", "count"}
    assert not [r for r in written["rows"] if "grid" in r]
    assert {r["weights"] for r in written["rows"] if "weights" in r} == {"none"}
    assert all(r["grid"] == str(SYSTEM.grid) and r["count"] == SAMPLES for r in found.document["rows"])
    assert {r["weights"] for r in found.document["rows"] if r["score"] == "crps"} == {"quadrature"}


def test_results_are_complete_or_not(copy):
    def complete(key: str = "key", weights: dict = WEIGHTS) -> bool:
        return Results(copy, key, {}).complete(weights)

    assert complete() and not complete("other") and not complete(weights={})
    (copy / "evaluation.nc").rename(copy / "away")
    assert not complete()
    (copy / "away").rename(copy / "evaluation.nc")
    document = json.loads((copy / "scores.json").read_text())
    (copy / "scores.json").write_text(json.dumps(document | {"format": 1}))
    assert not complete()


def damage(folder: Path, what: str) -> None:
    """Breaks a folder of results in one way."""
    path = folder / "scores.json"
    document = json.loads(path.read_text())
    if what == "nothing there":
        shutil.rmtree(folder)
    elif what == "no JSON":
        path.write_text("{")
    elif what == "older":
        path.write_text(json.dumps({k: v for k, v in document.items() if k != "format"}))
    elif what == "newer":
        path.write_text(json.dumps(document | {"format": 99}))
    elif what == "a list":
        path.write_text("[1]")
    elif what == "card":
        path.write_text(json.dumps(document | {"card": {"name": "rbc"}}))
    elif what == "no evaluation":
        (folder / "evaluation.nc").unlink()
    elif what == "evaluation":
        (folder / "evaluation.nc").write_bytes(b"x")
    elif what == "no forecast":
        shutil.rmtree(folder / "forecast.zarr")


DAMAGE = {
    "nothing there": "no results there (no scores.json); make some: physinterp benchmark --system rbc --out",
    "no JSON": "scores.json is damaged",
    "older": "scores.json: expected results of format 2, found an older one: run the benchmark again",
    "newer": "expected results of format 2, found 99",
    "a list": "found an older one",
    "card": "scores.json is damaged (no card of the system)",
    "no evaluation": "evaluation.nc is missing: run the benchmark again",
    "evaluation": "evaluation.nc is damaged",
    "no forecast": "forecast.zarr is missing: run the benchmark again",
}


@pytest.mark.parametrize("name", ["report", "plot"])
@pytest.mark.parametrize("what", DAMAGE)
def test_results_that_cannot_be_read(command, copy, name, what):
    damage(copy, what)
    code, out, lines = command(name, copy, *(["fields"] if name == "plot" else []))
    assert code == 2 and not out and len(lines) == 1, (out, lines)
    assert lines[0].startswith("error: ") and DAMAGE[what] in lines[0] and str(copy) in lines[0]
    assert not copy.exists() or not [p for p in copy.iterdir() if p.name.endswith(".part") or p.name == "report.html"]


# summary -----------------------------------------------------------------------------------------------------------


def test_who_wins_by_how_much_and_how_sure(found):
    said = summary(found)["Who wins, by how much, how sure"]
    for score, label in (("vrmse_mean", "VRMSE of the ensemble mean"), ("crps", "CRPS")):
        for lead in found.leads():
            row = found.table.sel(field="mean", score=score, lead_time=lead, row=list(ROWS))
            best = str(row["value"].idxmin("row").item())
            line = next(s for s in said if s.startswith(f"{label}, lead {lead:g}: {best} wins with "))
            value, low, high = (float(row[k].sel(row=best)) for k in ("value", "low", "high"))
            assert f"wins with {value:.4f} [{low:.4f}, {high:.4f}]" in line
            order = [str(m) for m in row["row"].values[np.argsort(row["value"].values)]]
            a, b = (with_mean(found.scores[m], ["buoyancy"])[score].sel(field="mean").sel(lead_time=lead, method="nearest")
                    for m in (order[1], best))  # fmt: skip
            more = ratio(a, b)
            if more["low"] > 1 and more["value"] < 2:
                assert f"{order[1]} has {100 * (more['value'] - 1):.1f} % more" in line
            assert "persistence has" in line and "times as much" in line


def test_rows_that_cannot_be_told_apart_are_named(found):
    twin = Results(found.folder, "", {}).load()
    twin.add("another", twin.scores["si-em"])
    twin.document["methods"]["another"] = twin.document["methods"]["si-em"]
    twin.document["rows"] += [r | {"method": "another"} for r in twin.document["rows"] if r["method"] == "si-em"]
    said = " ".join(summary(twin)["Who wins, by how much, how sure"])
    assert "si-em wins with" in said and "another cannot be told from it" in said


def test_the_rest_of_the_summary(found):
    said = summary(found)
    assert "5 methods forecast" in said["What was done"][0] and f"{SAMPLES} initial conditions" in said["What was done"][0]
    cost = said["At what cost"]
    assert any(s.startswith("si-em: 2 network evaluations, 0.2 ms, 1,000 parameters, 4 s of training") for s in cost)
    assert "too cautious at leads 0.5 and 2.5" in said["Do the ensembles know their error?"][1]  # noise without an error
    sources = said["Where the error comes from"]
    assert any(re.search(r"^si-em: at lead 0.5 codec 10 % and one step 90 %; at lead 2.5 codec ", s) for s in sources)
    assert any(s.startswith("codec/dcae alone loses (VRMSE): buoyancy 0.0") and "one-step change" in s for s in sources)


def test_lost_forecasts_are_said(found):
    here = Results(found.folder, "", {}).load()
    for score in ("vrmse_member", "vrmse_mean", "crps"):
        values = here.scores["fno"][score]
        here.scores["fno"][score] = values.where(values["lead_time"] < 1.9, np.inf)
    said = " ".join(summary(here)["Who wins, by how much, how sure"])
    assert "fno lost forecasts (values that are not finite) from lead 2 on" in said


def test_the_terminal_says_it_too(found):
    assert [t.row_count for t in tables(found)] == [6, 6, 3, 3]


# the page ----------------------------------------------------------------------------------------------------------


class Parsed(HTMLParser):
    """Open tags, attributes and texts; every tag must be closed in order."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, tag


def test_the_page_needs_nothing_else(page):
    parsed = Parsed(page)
    assert len(page.encode()) < 10e6
    for tag, attributes in parsed.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), (tag, value[:80])
        assert tag not in ("iframe", "object", "embed")
    assert "url(" not in page and "@import" not in page and "fetch(" not in page
    assert all(a.get("alt") is not None for t, a in parsed.tags if t == "img")


def test_text_from_outside_is_escaped(page):
    assert "a &lt;b&gt; &amp; c" in page and "<b> & c" not in page


def test_the_sections_are_there(page, found):
    for title in ("Summary", "Scores", "Truth, forecasts, errors", "Plots", "Exact definitions", "How to reproduce"):
        assert f"<h2>{title}</h2>" in page
    for text in (
        found.document["command"].replace("'", "&#x27;").replace("<", "&lt;").replace(">", "&gt;"),
        "seed",
        "0123456789ab",
    ):
        assert text in page
    for name in found.document["definitions"]:
        assert f"<dt>{name}</dt>" in page
    kinds = {kind for _, kind, _ in found.gallery()} - {"fields"}
    assert kinds == set(PLOTS) - {"fields", "animation"} and page.count("<figure><img src=") == len(
        [k for _, k, _ in found.gallery() if k != "fields"]
    )


def test_the_table_of_the_page_holds_the_scores(page, found):
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    for name in (*ROWS, "codec/dcae"):
        row = next(r for r in body.split("<tr>") if f'data-value="{name}"' in r)
        cells = re.findall(r'<td data-value="([^"]*)">', row)
        expected = [found.table["value"].sel(row=name, field="mean", score=s).sel(lead_time=x, method="nearest").item()
                    for s in ("vrmse_mean", "crps") for x in found.leads()]  # fmt: skip
        assert [float(c) for c in cells[: len(expected)]] == expected
    assert body.count("<b>") == 2 * len(found.leads()) + 1  # one smallest per column of errors
    middle = found.table["value"].sel(field="mean", score="vrmse_mean").sel(lead_time=found.choice().lead, method="nearest")
    order = re.findall(r'<th scope="row" data-value="([^"]*)">', body)
    assert order == [*sorted(ROWS, key=lambda name: float(middle.sel(row=name))), "codec/dcae"]
    head = page[page.index("<thead>") : page.index("</thead>")].split("<th ")
    assert [i for i, h in enumerate(head[1:]) if "aria-sort" in h] == [1 + found.leads().index(found.choice().lead)]


def maps(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def decoded(source: str) -> np.ndarray:
    assert source.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def test_the_maps_of_the_page(page, found):
    """The right way up, and the colours of the truth's range."""
    data = maps(page)
    assert data["leads"] == ["0.5", "1", "1.5", "2", "2.5"] and data["methods"] == list(ROWS)
    assert set(data["fields"]) == set(SYSTEM.field_names)
    field = data["fields"]["buoyancy"]
    truth = found.truth()["buoyancy"].load()
    colours = scale(truth)
    for k in (0, 4):
        image = decoded(field["truth"][k])
        assert image.shape == (8, 32, 3)  # 16 x 8 points on a domain of 4 x 1
        places = {"x": 4 * (np.arange(32) - 0.5) / 32, "y": 1 - (np.arange(8) + 0.5) / 8}  # of the pixels, from above
        at = truth.isel(lead_time=k).sel(places, method="nearest").transpose("y", "x")
        level = (at.values - colours["vmin"]) / (colours["vmax"] - colours["vmin"])
        np.testing.assert_allclose(image, 255 * matplotlib.colormaps[colours["cmap"]](level)[..., :3], atol=8)
    assert field["range"] == [f"{colours['vmin']:.2g}", f"{colours['vmax']:.2g}"]
    for name in ROWS:
        pictures = field["methods"][name]
        assert len(pictures) == LEADS and len({p[0] for p in pictures}) == LEADS
        assert pictures[0][2] == f"{float(found.table['value'].sel(row=name, field='buoyancy', score='vrmse_mean')[0]):.4f}"


def test_a_map_at_the_resolution_of_the_grid_is_the_field():
    u = dataset(KOLMOGOROV, 1, 2).isel(sample=0).rename(time="lead_time")["vorticity"]
    found = report._resampled(u, KOLMOGOROV, (16, 16))
    np.testing.assert_array_equal(found, u.transpose("lead_time", "y", "x").values[:, ::-1])


def test_what_every_method_is_in_words(page):
    for name in METHODS:
        assert about(name), name
    assert about("si-em@5/dcae-dit").startswith("stochastic interpolant, Euler-Maruyama: an ensemble; with 5 steps; codec")
    assert "from the state itself" in about("si-e-state") and "without noise" in about("si-e-state")
    assert all(f"<dt>{name}</dt>" in page for name in ROWS)


def test_numbers_of_the_table():
    digits = ["0.000123", "0.0210", "0.200", "1.07", "12.3", "123", "12,346"]
    assert [report._digits(v) for v in (0.000123, 0.021, 0.2, 1.0656, 12.34, 123.4, 12345.6)] == digits


def test_methods_are_bold_as_words():
    found = report._list(["si-em beats si-em/dcae-unet, si-e and <x>; si-empty"], ["si-e", "si-em", "si-em/dcae-unet"])
    bold = "<b>si-em</b> beats <b>si-em/dcae-unet</b>, <b>si-e</b> and &lt;x&gt;; si-empty"
    assert found == f"<ul><li>{bold}</li></ul>"


def test_pictures_of_values():
    """The ends of the range, beyond it, and what is not finite."""
    u = np.array([[-1.0, 1.0, 5.0, np.nan]])
    image = decoded(report._picture(u, {"cmap": "gray", "vmin": -1.0, "vmax": 1.0}))
    np.testing.assert_array_equal(image[0, :, 0], [0, 255, 255, report.LOST[0]])


def test_many_maps_are_smaller():
    few, many = (report._shape(KOLMOGOROV.with_grid((512, 512)), n) for n in (1, 500))
    assert few == (512, 512) and many[0] * many[1] * 500 <= report.PIXELS * 1.1 and many[0] == many[1] > 50


def test_a_page_without_fields(copy, without_plots):
    """Scores that an earlier version kept hold no member: only the chosen sampler has maps."""
    here = Results.open(copy)
    for name in ROWS:
        here.add(name, here.scores[name].drop_vars("example"))
    data = maps(report.page(here))
    assert data["methods"] == ["si-em"]


# commands ----------------------------------------------------------------------------------------------------------


def test_plot(command, copy, tmp_path, monkeypatch):
    code, out, _ = command("plot", copy, "accuracy", "--lead", 2, "--out", tmp_path / "a.png")
    assert code == 0 and out.strip() == str(tmp_path / "a.png") and (tmp_path / "a.png").stat().st_size > 1000
    asked = []
    monkeypatch.setattr(Results, "draw", lambda self, *what: asked.append(what))
    monkeypatch.setattr(plot, "save", lambda drawn, path: asked.append(path))
    code, out, _ = command("plot", copy, "animation", "--field", "velocity_x", "--method", "fno")
    assert code == 0 and asked == [("animation", Choice("velocity_x", 2.5, "fno")), copy / "animation.gif"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("spectrum", "no plot 'spectrum': did you mean 'spectra'"),
        ("fields --field bouyancy", "no field 'bouyancy'"),
        ("fields --method si-me", "no method 'si-me'"),
        ("spectra --lead 9", "no lead 9 in"),
        ("spread --method fno", "keeps the members of si-em alone"),
        ("error --out a.xyz", "no format 'xyz'"),
    ],
)
def test_plots_that_cannot_be_made(command, copy, arguments, message):
    code, out, lines = command("plot", copy, *arguments.split())
    assert code == 2 and not out and len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


def test_the_help_names_every_plot(command):
    text = " ".join(command("plot", "--help")[1].split())
    assert all(kind in text for kind in PLOTS)


def test_report(command, copy, tmp_path, without_plots):
    code, out, _ = command("report", copy, "--out", tmp_path / "b.html")
    assert (
        code == 0
        and out.strip() == str(tmp_path / "b.html")
        and (tmp_path / "b.html").read_text().startswith("<!DOCTYPE html>")
    )


@pytest.mark.parametrize("name", ["report", "plot", "plan", "demo"])
def test_ctrl_c(command, copy, monkeypatch, name, fresh_home):
    """One line and 130; no page and no plot that is half written."""

    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    for target in ((report, "_figures"), (plot, "save"), (Plan, "__init__"), (benchmark, "run")):
        monkeypatch.setattr(*target, stop)
    before = sorted(p.name for p in copy.iterdir())
    arguments = {"report": [copy], "plot": [copy, "error"], "plan": ["--system", "rbc"], "demo": ["--out", copy]}[name]
    code, out, lines = command(name, *arguments)
    assert (code, out, [x for x in lines if x]) == (130, "", [
        "interrupted: what is finished is kept, and the same command goes on from there"])  # fmt: skip
    assert sorted(p.name for p in copy.iterdir()) == before


def test_a_full_disk(command, copy, monkeypatch, without_plots):
    """The page that was there stays."""

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (copy / "report.html").write_text("the page of an earlier run")
    monkeypatch.setattr(Path, "write_text", full)
    code, out, lines = command("report", copy)
    assert code == 2 and not out and len(lines) == 1 and "no space left to write" in lines[0] and "report.html" in lines[0]
    assert (copy / "report.html").read_text() == "the page of an earlier run"


def test_demo(command, copy, monkeypatch, tmp_path, without_plots):
    """The loop itself is that of the benchmark; here what it is asked, and the page."""
    asked = []
    monkeypatch.setattr(benchmark, "run", lambda options: asked.append(options) or Results.open(copy))
    code, out, _ = command("demo", "--out", tmp_path)
    assert code == 0 and asked == [Options("kolmogorov", sampler="si-em", preset="demo", out=tmp_path)]
    path = Path(out.strip().splitlines()[-1].removeprefix("the page: "))
    assert path.is_absolute() and path.read_text().startswith("<!DOCTYPE html>")
    preset = load_benchmark(load_system("kolmogorov")).preset("demo")
    assert preset.methods == ("persistence", "fno", "deterministic", "si-e", "si-em", "edm")
    spent = preset.training.seconds * (2 + 2 * (1 - preset.training.trunk))  # two whole trainings, two from the trunk on
    assert spent < 150


def test_the_command_of_options():
    made = Options("rbc", sampler="si-em", methods=("fno", "si-em"), data=Path("a b"), retrain=True, seed=2)
    assert made.command() == (
        "python -m physinterp.benchmark --system rbc --sampler si-em --data 'a b' --methods fno,si-em --seed 2"
    )


# plan --------------------------------------------------------------------------------------------------------------


def test_plan(command, fresh_home):
    made = Plan("kolmogorov", "tiny")
    networks = {n.name: n for n in made.networks}
    assert set(networks) == {f"{o}-{c}-unet" for o in ("deterministic", "interpolant") for c in ("identity", "dcae")} | {
        "codec-dcae", "deterministic-identity-fno", "ddpm-identity-unet", "edm-identity-unet"
    }  # fmt: skip
    name = ModelName.parse("interpolant-identity-unet")
    import torch

    model = make_model(name, made.system, made.preset, (1, 32, 32), torch.ones(1))
    assert networks[str(name)].parameters == sum(p.numel() for p in model.parameters())
    assert all(n.activations > n.parameters for n in made.networks) and not any(n.ready for n in made.networks)
    assert made.disk()["data"] == 4 * 32 * 32 * 21 * (4 + 2 + 2)
    assert all(value > 0 for value in made.seconds().values()) and all(value > 0 for value in made.memory().values())
    assert not fresh_home.exists()  # nothing is made
    code, out, _ = command("plan", "--system", "kolmogorov", "--preset", "tiny")
    assert code == 0 and "interpolant-dcae-unet" in out and "memory, at most" in out and "min" in out


def test_the_plan_follows_the_budget(fresh_home):
    """Seconds are those of the preset: a whole training, what is left after the trunk, and the codec's share."""
    made = Plan("kolmogorov", "demo")
    t = made.preset.training
    seconds = {n.name: n.seconds for n in made.networks}
    assert seconds["deterministic-identity-unet"] == seconds["deterministic-identity-fno"] == t.seconds
    assert seconds["edm-identity-unet"] == seconds["interpolant-identity-unet"] == pytest.approx((1 - t.trunk) * t.seconds)


def test_what_is_there_costs_nothing(fresh_home, monkeypatch):
    made = Plan("kolmogorov", "tiny")
    folder = made.runs.folder("edm-identity-unet")
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"x")
    assert digest(folder / "weights.safetensors")
    edm = next(n for n in made.networks if n.name == "edm-identity-unet")
    assert edm.ready and edm.seconds == 0


@pytest.mark.slow
@pytest.mark.parametrize("system", ["kolmogorov", "rbc"])
def test_the_memory_of_a_run_is_that_of_its_plan(tmp_path, system):
    """Within 20 %; each in a process of its own."""
    environment = os.environ | {"PHYSINTERP_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", "from physinterp.cli import main; main()", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600).stdout

    line = next(x for x in run("plan", "--system", system, "--preset", "tiny").splitlines() if "memory, at most" in x)
    planned = 1e6 * float(line.split("│")[-2].replace("MB", "").replace(",", ""))
    run("benchmark", "--system", system, "--preset", "tiny", "--out", str(tmp_path / "out"))
    used = json.loads((tmp_path / "out" / "scores.json").read_text())["peak_memory"]
    assert planned == pytest.approx(used, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--system rcb", "no system 'rcb': did you mean 'rbc'"),
        ("--system rbc --preset quik", "no preset 'quik': did you mean 'quick'"),
    ],
)
def test_plans_of_nothing(command, arguments, message):
    code, out, lines = command("plan", *arguments.split())
    assert code == 2 and not out and len(lines) == 1 and message in lines[0]


# in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(file):
    """The page, opened."""
    here = browser.Browser()
    here.open(file)
    yield here
    here.close()


def names(chromium) -> list[str]:
    """Rows of the first table, from above."""
    return chromium.run("[...document.querySelector('table').tBodies[0].rows].map(r => r.cells[0].dataset.value)")


@needs_browser
def test_no_errors_and_no_network(chromium):
    assert chromium.problems() == []
    assert chromium.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


@needs_browser
def test_sorting_sorts(chromium, found):
    """By mouse and by key, up and down; empty cells stay last."""
    chromium.run("document.querySelectorAll('thead button')[1].click()")
    value = found.table["value"].sel(field="mean", score="vrmse_mean", lead_time=0.5)
    ascending = [str(m) for m in value["row"].values[np.argsort(value.values)]]
    assert names(chromium) == ascending
    assert chromium.run("document.querySelectorAll('thead th')[1].ariaSort") == "ascending"
    chromium.run("document.querySelectorAll('thead button')[1].focus()")
    chromium.press("Enter")
    assert names(chromium) == ascending[::-1]
    assert chromium.run("document.querySelectorAll('thead th')[1].ariaSort") == "descending"
    chromium.press("Tab")  # to the next column
    chromium.press("Enter")
    assert chromium.run("[...document.querySelectorAll('thead th')].slice(0, 4).map(h => h.ariaSort)") == [
        None,
        None,
        "ascending",
        None,
    ]
    cost = 1 + 2 * len(found.leads()) + 2
    for _ in range(2):
        chromium.run(f"document.querySelectorAll('thead button')[{cost}].click()")
        assert set(names(chromium)[-2:]) == {"persistence", "codec/dcae"}
    chromium.run("document.querySelector('thead button').click()")
    assert names(chromium) == sorted((*ROWS, "codec/dcae"))


@needs_browser
def test_the_slider_moves_the_picture(chromium, page):
    data = maps(page)["fields"]
    shown = "['truth', 'forecast-first', 'error-second'].map(id => document.getElementById(id).src)"

    def expected(field: str, first: str, second: str, k: int) -> list[str]:
        f = data[field]
        return [f["truth"][k], f["methods"][first][k][0], f["methods"][second][k][1]]

    assert chromium.run(shown) == expected("buoyancy", "si-em", "deterministic", 0)
    chromium.run("document.getElementById('slider').focus()")
    chromium.press("ArrowRight")
    assert chromium.run(shown) == expected("buoyancy", "si-em", "deterministic", 1)
    assert chromium.run("document.getElementById('lead').textContent").strip() == "1"
    chromium.press("End")
    assert chromium.run(shown) == expected("buoyancy", "si-em", "deterministic", LEADS - 1)
    assert chromium.run("document.getElementById('over').textContent") == data["buoyancy"]["error"][-1]
    for name, value in (("field", "velocity_x"), ("first", "fno"), ("second", "persistence")):
        chromium.run(f"document.getElementById('{name}').value = '{value}';"
                     f"document.getElementById('{name}').dispatchEvent(new Event('input', {{bubbles: true}}))")  # fmt: skip
    assert chromium.run(shown) == expected("velocity_x", "fno", "persistence", LEADS - 1)
    assert "fno" in chromium.run("document.getElementById('forecast-first').alt")
    assert chromium.problems() == []


@needs_browser
def test_it_reads_in_dark_and_light_and_on_small_screens(chromium):
    """Contrast of text and ground, and no sideways scrolling of the page."""
    contrast = """(() => {
        const part = x => x <= .04 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
        const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => part(x / 255));
                             return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
        const s = getComputedStyle(document.body), soft = getComputedStyle(document.querySelector('figcaption'));
        const back = light(s.backgroundColor);
        const ratio = ink => (Math.max(ink, back) + .05) / (Math.min(ink, back) + .05);
        return [s, soft].map(e => ratio(light(e.color)));
    })()"""
    grounds = set()
    for scheme in ("light", "dark"):
        chromium.appearance(scheme)
        assert min(chromium.run(contrast)) > 4.5, scheme  # WCAG AA
        grounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    chromium.appearance("light")
    for width in (1280, 400):
        chromium.size(width, 900)
        assert chromium.run("document.documentElement.scrollWidth") <= width
    chromium.size(1280, 900)
    chromium.appearance(media="print")
    assert chromium.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    chromium.appearance()
