"""End to end: a tiny benchmark with all rows, what it leaves behind, reuse, other data, interruption and bad input."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import matplotlib.image
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

from physinterp import benchmark, cli, metrics, plot, runs, terminal, train, tune
from physinterp.benchmark import Options, run
from physinterp.config import Benchmark, Training, load_benchmark
from physinterp.data import well
from physinterp.errors import InputError
from physinterp.methods import method
from physinterp.results import Results
from physinterp.solvers.kolmogorov import KolmogorovFlow
from physinterp.system import load_system

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
DEDALUS = SHARED / "rayleigh_benard_dedalus"
APEBENCH = SHARED / "kolmogorov_apebench" / "KolmFlow_64_shared.h5"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference data at {SHARED}")
ROOT = Path(__file__).parents[1]


# the preset `tiny` as shipped --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(session_home, tmp_path_factory) -> tuple[Options, Results]:
    options = Options("kolmogorov", sampler="si-em", preset="tiny", out=tmp_path_factory.mktemp("tiny"))
    return options, run(options)


@pytest.fixture(scope="module")
def document(tiny) -> dict:
    return json.loads((tiny[0].out / "scores.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} in JSON"))


def test_every_row_of_the_preset_is_there(document):
    preset = load_benchmark(load_system("kolmogorov")).preset("tiny")
    found = {r["method"] for r in document["rows"]}
    assert set(preset.methods) <= found and found - set(preset.methods) == {"codec/dcae"}
    assert {"persistence", "climatology", "deterministic", "fno", "ddpm", "edm", "si-e", "si-em"} <= found
    leads = {round(preset.step * (k + 1), 9) for k in range(preset.lead)}
    for name in found:
        mine = [r for r in document["rows"] if r["method"] == name]
        assert {r["lead"] for r in mine} == leads and {r["field"] for r in mine} == {"vorticity", "mean"}


def test_schema_of_the_scores(document):
    stated = {"version", "grid", "weights", "eps", "count"}
    assert document["rows_share"].keys() == stated and document["peak_memory"] > 1e8
    for said in document["rows"]:
        assert said.keys() - stated == {"method", "field", "lead", "score", "value", "low", "high"}
        row = document["rows_share"] | said
        assert row.keys() - said.keys() and row["weights"] == ("none" if "unweighted" in row["score"] else "quadrature")
        assert isinstance(row["lead"], float) and row["count"] == 2
        assert row["value"] is None or isinstance(row["value"], float)
        name = row["score"].removesuffix("_" + row["score"].rpartition("_")[2])
        assert {row["score"], name} & set(document["definitions"]), row["score"]
    assert {"rows", "definitions", "seed", "versions", "hardware", "seconds", "split", "data", "system", "settings"} <= set(
        document
    )
    assert document["system"] == "kolmogorov" and document["seed"] == 0 and document["split"] == "test"
    assert document["versions"]["torch"] == torch.__version__ and document["hardware"]["threads"] >= 1
    assert document["metrics_version"] == metrics.VERSION and document["solver_seconds_per_time_unit_and_trajectory"] > 0
    for name, record in document["methods"].items():
        assert record["seconds_per_step"] > 0, name
        if name not in ("persistence", "climatology"):
            assert {"steps", "seconds", "learning_rate", "valid_loss", "parameters", "evaluations"} <= record.keys()
    costs = {name: record["evaluations"] for name, record in document["methods"].items() if "evaluations" in record}
    steps = load_benchmark(load_system("kolmogorov")).preset("tiny").steps
    assert costs["deterministic"] == costs["fno"] == 1 and costs["si-em"] == costs["si-em/dcae-unet"] == steps["si-em"]
    assert costs["ddpm"] == steps["ddpm"] and costs["edm"] == 2 * steps["edm"] - 1
    assert costs["si-cal"] == steps["si-cal"] and costs["deterministic-dressed"] == 1
    for name, record in document["methods"].items():
        calibrated = method(name).sampler is not None and not method(name).deterministic
        assert ({"temperature", "correlation"} <= record.keys()) == calibrated, name
        assert not calibrated or (0.25 <= record["temperature"] <= 4 and 0 <= record["correlation"] < 1)


def test_comparisons_are_ratios_of_means_over_the_same_cases(document):
    value = {(r["method"], r["lead"], r["score"]): r["value"] for r in document["rows"] if r["field"] == "mean"}
    learned = set(document["methods"]) - {"persistence", "climatology"}
    leads, scores = {lead for _, lead, _ in value}, ("vrmse_mean", "crps")
    expected = {(a, b, s, x) for a in learned for b in ("deterministic", "fno") for s in scores for x in leads if a != b}
    found = {(c["method"], c["over"], c["score"], c["lead"]): c for c in document["comparisons"]}
    assert found.keys() == expected and len(document["comparisons"]) == len(expected)
    for (name, over, score, lead), c in found.items():
        assert c["value"] == pytest.approx(value[name, lead, score] / value[over, lead, score])
        assert c["low"] <= c["value"] <= c["high"]
    equal = [c for c in document["comparisons"] if (c["method"], c["over"], c["score"]) == ("si-e", "deterministic", "crps")]
    assert all(0.5 < c["value"] < 1.5 for c in equal)  # the forecast of its own twin


def test_the_budget_of_every_method_is_the_same(document):
    budget = load_benchmark(load_system("kolmogorov")).preset("tiny").training.steps
    steps = {name: record["steps"] for name, record in document["methods"].items() if "steps" in record}
    assert all(n in (budget, budget + 1) for name, n in steps.items() if "/" not in name), steps
    assert all(n < budget for name, n in steps.items() if "dcae" in name)  # the codec took its share


def test_a_short_training_beats_persistence(document):
    value = {
        (r["method"], r["score"]): r["value"] for r in document["rows"] if r["lead"] == 0.4 and r["field"] == "vorticity"
    }
    for name in ("deterministic", "si-e"):
        assert value[name, "vrmse_mean"] < value["persistence", "vrmse_mean"], name
    for name in ("si-em", "si-em/dcae-unet"):
        assert value[name, "crps"] < value["persistence", "crps"], name
    assert value["codec/dcae", "vrmse_mean"] < 0.5 * value["persistence", "vrmse_mean"]
    assert value["si-e", "crps"] == pytest.approx(value["si-e", "mae"])


def test_plots_are_pictures_of_something(tiny):
    names = {p.name for p in tiny[0].out.glob("*.png")}
    assert names == {f"{name}.png" for name, _, _ in tiny[1].gallery()}
    expected = {
        "error",
        "crps",
        "accuracy",
        "pareto",
        "spectra_lead_0.4",
        "spectra_lead_1.2",
        "spread_vorticity",
        "fields_vorticity",
    }
    assert {f"{name}.png" for name in expected} <= names
    for name in names:
        image = matplotlib.image.imread(tiny[0].out / name)[..., :3]
        assert min(image.shape[:2]) > 200 and image.std() > 0.03, name
        assert len(np.unique((image * 255).astype(int) @ [1, 256, 65536])) > 20, name


def test_forecasts_and_truth_are_stored_and_give_the_scores(tiny, document):
    store = tiny[0].out / "forecast.zarr"
    forecast = xr.open_zarr(store, consolidated=False)
    truth = xr.open_zarr(store, group="truth", consolidated=False)
    assert dict(forecast.vorticity.sizes) == {"sample": 2, "member": 3, "lead_time": 3, "x": 32, "y": 32}
    assert forecast.latent.shape[:2] == (2, 3) and forecast.attrs["sampler"] == "si-em"
    assert forecast.vorticity.dims == ("sample", "member", "lead_time", "x", "y")
    assert forecast.attrs["method"] == "si-em" and forecast.lead_time.values == pytest.approx([0.4, 0.8, 1.2])
    assert truth.vorticity.shape == (2, 3, 32, 32)
    assert [str(t) for t in forecast.trajectory.values] == [str(t) for t in truth.trajectory.values]
    x = torch.from_numpy(forecast.vorticity.transpose("lead_time", "member", "sample", "x", "y").values)[:, :, :, None]
    for k, lead in enumerate((0.4, 0.8, 1.2)):
        y = torch.from_numpy(truth.vorticity.isel(lead_time=k).values)[:, None]
        crps = float(metrics.crps(x[k], y).mean())
        row = next(r for r in document["rows"]
                   if (r["method"], r["field"], r["lead"], r["score"]) == ("si-em", "vorticity", lead, "crps"))  # fmt: skip
        assert row["value"] == pytest.approx(crps, rel=1e-5)


def test_the_table_and_the_notes(tiny, capsys):
    from rich.console import Console

    terminal.show(tiny[1], Console(width=200))
    text = capsys.readouterr().out
    for name in (
        "persistence",
        "si-em/dcae-unet",
        "codec/dcae",
        "VRMSE",
        "CRPS",
        "95 % intervals over 2 initial conditions",
        "temperature",
        "over the row deterministic, on the same initial conditions; 95 % paired intervals",
        "over the row fno",
    ):
        assert name in text
    assert "codec/dcae alone loses (VRMSE): vorticity" in text and "CRPS, lead 0.4: " in text


def test_the_tables_of_ratios(tiny, document):
    """One for each deterministic row, of all other learned rows."""
    _, other, *ratios = terminal.tables(tiny[1])
    learned = [name for name in document["methods"] if name not in ("persistence", "climatology")]
    found = {(c["method"], c["over"], c["score"], c["lead"]): c for c in document["comparisons"]}
    for over, table in zip(("deterministic", "fno"), sorted(ratios, key=lambda t: t.title), strict=True):
        names, *columns = [list(column.cells) for column in table.columns]
        assert f"over the row {over}," in table.title and names == [name for name in learned if name != over]
        keys = [(score, lead) for score in ("vrmse_mean", "crps") for lead in (0.4, 1.2)]
        headers = [str(column.header) for column in table.columns[1:]]
        assert headers == [f"{'VRMSE' if s == 'vrmse_mean' else 'CRPS or MAE'}\nlead {lead:g}" for s, lead in keys]
        for key, cells in zip(keys, columns, strict=True):
            c = found["si-em", over, *key]
            assert cells[names.index("si-em")] == f"{c['value']:.3f}\n{c['low']:.3f}-{c['high']:.3f}"
    noise = dict(zip(other.columns[0].cells, other.columns[3].cells, strict=True))
    record = document["methods"]["si-cal"]
    assert noise["si-cal"] == f"{record['temperature']:.2f}, {record['correlation']:g}"
    assert noise["si-e"] == noise["deterministic"] == noise["codec/dcae"] == "-"


def test_nothing_half_written_is_left(tiny, session_home):
    for folder in (session_home, tiny[0].out):
        assert not [p for p in folder.rglob("*") if p.suffix in (".part", ".old", ".tmp") or ".partial." in p.name]


def test_scores_do_not_depend_on_how_many_cases_are_held_at_once(tiny, monkeypatch, tmp_path):
    options, results = tiny
    monkeypatch.setattr(benchmark, "AT_ONCE", 1)
    job = benchmark.Job(replace(options, out=tmp_path / "other"))
    monkeypatch.setattr(job, "_kept", lambda name: None)
    monkeypatch.setattr(job, "_keep", lambda name, ds: ds)
    tmp_path.joinpath("other").mkdir()
    for name in ("si-em", "deterministic"):
        found = job.scores(name)
        for score in ("crps", "vrmse_mean", "spectrum", "mse_one_step", "example"):
            np.testing.assert_allclose(found[score], results.scores[name][score], rtol=1e-5, err_msg=score)


def forbid(monkeypatch) -> None:
    monkeypatch.setattr(train.Trainer, "fit", lambda *args, **options: pytest.fail("trained again"))


def blank(monkeypatch) -> None:
    """Empty plots, which are drawn faster."""
    for name in ("accuracy", "error_budget", "error_growth", "panels", "pareto", "rank_histogram", "spectra", "spread"):
        monkeypatch.setattr(plot, name, lambda *args, **options: Figure(figsize=(1, 1)))


def test_a_second_run_reuses_everything(tiny, monkeypatch, caplog, session_home):
    forbid(monkeypatch)
    before = {p: p.stat().st_mtime_ns for p in session_home.rglob("*") if p.is_file()}
    with caplog.at_level(logging.INFO):
        again = run(tiny[0])
    assert "scores of an earlier run" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in session_home.rglob("*") if p.is_file()} == before
    assert again.document == tiny[1].document


def test_another_folder_reuses_scores_and_weights(tiny, monkeypatch, caplog, tmp_path, document):
    """Only the forecast that is stored is made again, bitwise."""
    forbid(monkeypatch)
    blank(monkeypatch)
    with caplog.at_level(logging.INFO):
        again = run(Options("kolmogorov", sampler="si-em", preset="tiny", out=tmp_path))
    assert "persistence: scores of an earlier run" in caplog.text and "si-em: forecasting" in caplog.text
    assert [r["value"] for r in again.document["rows"]] == [r["value"] for r in document["rows"]]
    old, new = (xr.open_zarr(out / "forecast.zarr", consolidated=False).vorticity.values for out in (tiny[0].out, tmp_path))
    np.testing.assert_array_equal(old, new)


# a smaller benchmark -----------------------------------------------------------------------------------------------


def micro(system: str = "kolmogorov", **changes) -> Benchmark:
    """A benchmark of seconds, instead of the shipped one."""
    card = load_system(system)
    preset = {
        "step": 2 * card.dt,
        "shape": (16, 16),
        "trajectories": {"train": 2, "valid": 1, "test": 2},
        "frames": 9,
        "spin_up": 1.0,
        "networks": {
            "unet": {"widths": [8]},
            "fno": {"modes": [4, 4], "width": 8, "layers": 2},
            "dcae": {"latent_channels": 4, "widths": [8, 16]},
            "dcae-unet": {"widths": [8]},
        },
        "training": Training(steps=10, batch=4, learning_rates=(0.01,)),
        "methods": ("persistence", "deterministic", "si-em"),
        "steps": {"si-e": 2, "si-em": 2, "ddpm": 2, "edm": 2},
        "members": 2,
        "lead": 2,
        "micro_batch": 4,
    }
    headline = card.field_names[:1]
    return Benchmark(headline=headline, default="micro", presets={"micro": preset | changes})


@pytest.fixture
def small(fresh_home, monkeypatch):
    """Puts a micro benchmark in the place of the shipped ones, in an empty home."""
    blank(monkeypatch)

    def put(system: str = "kolmogorov", **changes) -> None:
        monkeypatch.setattr(benchmark, "load_benchmark", lambda name: micro(system, **changes))

    put()
    return put


@pytest.fixture
def labels(monkeypatch) -> list[str]:
    """What is trained, in order."""
    made, fit = [], train.Trainer.fit
    monkeypatch.setattr(train.Trainer, "fit", lambda self, *a, **o: made.append(a[4]) or fit(self, *a, **o))
    return made


def weights(home: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in home.rglob("weights.safetensors")}


def test_a_method_that_is_added_later_is_all_that_is_trained(small, labels, tmp_path):
    out = tmp_path / "out"
    run(Options("kolmogorov", methods=("persistence", "deterministic"), out=out))
    assert set(labels) == {"deterministic-identity-unet"}
    labels.clear()
    added = run(Options("kolmogorov", methods=("persistence", "deterministic", "ddpm"), out=out))
    assert labels == ["ddpm-identity-unet"]
    assert {r["method"] for r in added.document["rows"]} == {"persistence", "deterministic", "ddpm"}
    labels.clear()
    run(Options("kolmogorov", methods=("deterministic",), sampler="si-em/dcae-unet", out=out))
    assert labels == ["codec-dcae", "deterministic-dcae-unet", "interpolant-dcae-unet, twin", "interpolant-dcae-unet"]
    labels.clear()
    run(Options("kolmogorov", methods=("deterministic", "deterministic-dressed", "si-e/dcae-unet"), out=out))
    assert not labels  # their models are there


def test_the_twin_is_trained_once_and_the_order_of_rows_does_not_matter(small, tmp_path, monkeypatch, fresh_home):
    run(Options("kolmogorov", methods=("deterministic", "si-em", "edm"), out=tmp_path / "a"))
    first = weights(fresh_home)
    for path in fresh_home.rglob("log.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == sorted(set(steps)), path
    monkeypatch.setenv("PHYSINTERP_HOME", str(tmp_path / "other"))
    run(Options("kolmogorov", methods=("edm", "si-em", "deterministic"), out=tmp_path / "b"))
    assert first == weights(tmp_path / "other") and len(first) == 3


def test_provenance_beside_the_weights(small, tmp_path, fresh_home):
    run(Options("kolmogorov", methods=("si-em",), out=tmp_path / "a"))
    note = json.loads(next(fresh_home.rglob("interpolant-*/model.json")).read_text())
    assert {"physinterp", "torch", "system", "preset", "statistics", "seed", "steps", "valid_loss", "start"} <= note.keys()
    assert note["start"] == "deterministic-identity-unet" and note["system"]["name"] == "kolmogorov"
    found = load_file(next(fresh_home.rglob("interpolant-*/weights.safetensors")))
    assert 0 < float(found["covariance.sigma"]) != 1  # the residual of the twin
    assert float(found["inflation"]) >= 1 and "twin.backbone.stem.conv.weight" in found
    note = json.loads(next(fresh_home.rglob("calibration-si-em-2-leads-*.json")).read_text())
    assert note["setting"]["sampler"] == "si-em" and note["spread_skill_before"] > 0
    assert note["spread_skill"].keys() == {str(c) for c in tune.CORRELATIONS}


def test_no_table_of_ratios_without_a_deterministic_row(small, tmp_path):
    found = run(Options("kolmogorov", methods=("persistence", "si-em"), out=tmp_path / "out"))
    assert found.document["comparisons"] == [] and len(terminal.tables(found)) == 2


def test_options_change_what_they_say(small, tmp_path, monkeypatch):
    out = tmp_path / "out"
    base = run(Options("kolmogorov", out=out))
    found = run(Options("kolmogorov", sampler="si-em", steps=3, members=4, lead=3, out=out))
    assert found.document["methods"]["si-em"]["evaluations"] == 3
    assert {r["lead"] for r in found.document["rows"]} == {0.2, 0.4, 0.6}
    assert xr.open_zarr(out / "forecast.zarr", consolidated=False).sizes["member"] == 4
    seed = run(Options("kolmogorov", seed=1, out=out))
    assert seed.document["methods"]["si-em"]["valid_loss"] != base.document["methods"]["si-em"]["valid_loss"]
    forbid(monkeypatch)
    mean_seeking = run(Options("kolmogorov", sampler="si-e", out=out))  # its model is there
    store = xr.open_zarr(out / "forecast.zarr", consolidated=False)
    assert store.attrs["method"] == "si-e" and store.sizes["member"] == 1
    assert {r["method"] for r in mean_seeking.document["rows"]} == {"persistence", "deterministic", "si-em", "si-e"}


def test_retrain(small, labels, tmp_path, fresh_home):
    options = {"methods": ("deterministic",), "out": tmp_path / "out"}
    run(Options("kolmogorov", **options))
    first = weights(fresh_home)
    labels.clear()
    run(Options("kolmogorov", retrain=True, **options))
    assert set(labels) == {"deterministic-identity-unet"} and weights(fresh_home) == first


def test_retrain_keeps_everything_until_the_input_is_known_to_be_good(command, small, tmp_path, fresh_home):
    run(Options("kolmogorov", methods=("deterministic",), out=tmp_path / "out"))
    before = weights(fresh_home)
    code, lines = command("--system", "kolmogorov", "--retrain", "--data", "nowhere.h5")
    assert code == 2 and "nowhere.h5" in lines[0] and weights(fresh_home) == before


def test_retrain_leaves_no_scores_of_the_old_weights(small, labels, tmp_path, fresh_home):
    names = ("persistence", "deterministic", "si-em")
    run(Options("kolmogorov", methods=names, out=tmp_path / "out"))
    run(Options("kolmogorov", methods=("deterministic",), out=tmp_path / "one", retrain=True))
    labels.clear()
    run(Options("kolmogorov", methods=names, out=tmp_path / "out"))
    assert labels == [
        "interpolant-identity-unet, twin",
        "interpolant-identity-unet",
    ]  # discarded with the twin and the scores


def test_latents_belong_to_the_weights_of_their_codec(small, labels, tmp_path, fresh_home):
    options = {"methods": ("si-em/dcae-unet",), "sampler": "si-em/dcae-unet", "out": tmp_path / "a"}
    run(Options("kolmogorov", **options))
    codec = next(fresh_home.rglob("codec-dcae/weights.safetensors"))
    other = {k: v * 1.01 for k, v in load_file(codec).items()}
    save_file(other, codec)
    count = len(list(fresh_home.rglob("latents/*/*.npy")))
    for folder in fresh_home.rglob("*-dcae-unet"):
        shutil.rmtree(folder)
    labels.clear()
    run(Options("kolmogorov", **options))
    assert "interpolant-dcae-unet" in labels and len(list(fresh_home.rglob("latents/*/*.npy"))) == 2 * count


@pytest.mark.parametrize(
    "pattern",
    [
        "weights.safetensors",
        "trunk.safetensors",
        "model.json",
        "trunk.json",
        "calibration-*.json",
        "*.nc",
        "generation.json",
        "checksums.json",
    ],
)
def test_a_damaged_file_of_ours_is_named(command, small, tmp_path, fresh_home, pattern):
    names = ("deterministic",) if pattern == "*.nc" else ("deterministic", "si-em")
    run(Options("kolmogorov", methods=names, out=tmp_path / "out"))
    if pattern.startswith("trunk"):
        shutil.rmtree(next(fresh_home.rglob("interpolant-identity-unet")))
    path = next(fresh_home.rglob(pattern))
    path.write_bytes(b"x")
    code, lines = command("--system", "kolmogorov", "--methods", "deterministic,si-em", out="new")
    lines = [line for line in lines if "error" in line]
    assert code == 2 and len(lines) == 1 and str(path) in lines[0] and "delete it" in lines[0]


def test_scores_of_something_else_are_not_taken(small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for text in ("{broken", "[1]", "{}"):
        (out / "scores.json").write_text(text)
        run(Options("kolmogorov", methods=("persistence",), out=out))
        assert json.loads((out / "scores.json").read_text())["system"] == "kolmogorov"


def test_a_step_that_is_no_multiple(small, tmp_path):
    small(step=0.25)
    with pytest.raises(InputError, match=r"step 0.25 is no multiple of the card's dt = 0.1"):
        run(Options("kolmogorov", out=tmp_path))


# a user's data -----------------------------------------------------------------------------------------------------


@needs_shared
def test_data_of_the_well(small, monkeypatch, caplog, tmp_path):
    """Another solver's files: evaluated on valid, which is said; the spin-up skipped; never trained on."""
    small("rbc", shape=None, trajectories={"train": 1, "valid": 1, "test": 1}, frames=5, spin_up=16.0,
          networks={"unet": {"widths": [4, 8], "patch": 2}}, training=Training(steps=4, batch=2))  # fmt: skip
    asked = []
    read = well.read
    monkeypatch.setattr(well, "read", lambda path, split, *a: asked.append((Path(path), split)) or read(path, split, *a))
    with caplog.at_level(logging.INFO):
        found = run(Options("rbc", data=DEDALUS, out=tmp_path / "out"))
    assert {split for path, split in asked if path == DEDALUS} == {"valid"}
    assert {split for path, split in asked if path != DEDALUS} == {"train", "valid"}
    assert "no test split: evaluating on valid" in caplog.text
    spin_up = load_system("rbc").solver.spin_up
    assert f"skipping the spin-up: {4 * spin_up:.0f} frames before t = {spin_up:g}" in caplog.text
    assert found.document["split"] == "valid" and found.document["data"] == str(DEDALUS)
    rows = found.document["rows"]
    assert {r["count"] for r in rows} == {8} and {r["low"] for r in rows} == {None}  # one trajectory: no interval
    truth = xr.open_zarr(tmp_path / "out" / "forecast.zarr", group="truth", consolidated=False)
    with h5py.File(next((DEDALUS / "data" / "valid").iterdir())) as file:
        np.testing.assert_array_equal(truth.buoyancy[0, 0], file["t0_fields/buoyancy"][0, round(4 * spin_up) + 2])
    value = {
        (r["method"], r["score"]): r["value"]
        for r in found.document["rows"]
        if r["lead"] == 0.5 and r["field"] == "buoyancy"
    }
    assert 0.02 < value["persistence", "vrmse_mean"] < 0.5


@needs_shared
def test_data_of_apebench(small, caplog, tmp_path):
    small(shape=None, trajectories={"train": 1, "valid": 1, "test": 1}, networks={"unet": {"widths": [4, 8], "patch": 2}})
    with caplog.at_level(logging.INFO):
        found = run(Options("kolmogorov", data=APEBENCH, methods=("persistence", "deterministic"), out=tmp_path / "out"))
    assert "evaluating on valid" in caplog.text and "spin-up" not in caplog.text  # its times start after the warm-up
    assert {r["count"] for r in found.document["rows"]} == {8}
    value = {(r["method"], r["score"]): r["value"] for r in found.document["rows"] if r["lead"] == 0.2}
    with h5py.File(APEBENCH) as file:
        u = file["valid/u"][:]
    starts = np.linspace(0, 25, 4).round().astype(int)  # two trajectories, eight cases, four frames after each
    expected = np.sqrt(((u[:, starts] - u[:, starts + 2]) ** 2).mean((2, 3)) / u[:, starts + 2].var((2, 3), ddof=1)).mean()
    assert value["persistence", "vrmse_mean"] == pytest.approx(expected, rel=1e-4)
    assert all(r["low"] < r["value"] < r["high"] for r in found.document["rows"] if r["score"] == "crps")


def test_files_made_here_are_read_as_data(small, tmp_path, fresh_home):
    """The generated test split, given as a path, scores as it does without."""
    own = run(Options("kolmogorov", methods=("persistence",), out=tmp_path / "a"))
    folder = next((fresh_home / "data").iterdir())
    card = load_system("kolmogorov")
    assert card.solver is not None and card.solver.spin_up > 1.8
    with pytest.raises(InputError, match=r"the data end at t = 1.8, before the spin-up of 20 is over"):
        run(Options("kolmogorov", methods=("persistence",), data=folder, out=tmp_path / "b"))
    assert own.document["data"] == "generated"


# command line ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs `python -m physinterp.benchmark`, or another program, in this process: exit code, lines of stderr."""

    def call(*arguments: str, out: str = "out", program=cli.single) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["physinterp", *map(str, arguments), "--out", str(tmp_path / out)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(program)
        code = stop.value.code or 0
        return int(code), capsys.readouterr().err.splitlines()

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--system kolmogorow", "no system 'kolmogorow': did you mean 'kolmogorov'"),
        ("--system rbc --preset tinny", "no preset 'tinny': did you mean 'tiny'"),
        ("--system rbc --preset tiny --sampler si-me", "no method 'si-me': did you mean 'si-"),
        (
            "--system rbc --preset tiny --sampler fno",
            "'fno' has no sampler; --sampler takes one of: deterministic-dressed, si-e, si-em",
        ),
        ("--system rbc --preset tiny --methods persistense,fno", "no method 'persistense': did you mean 'persistence'"),
        ("--system rbc --preset tiny --methods si-em/dcae-unte", "no backbone 'unte': did you mean 'unet'"),
        ("--system rbc --preset tiny --steps 0", "--steps must be at least 1, found 0"),
        ("--system rbc --preset tiny --members -1", "--members must be at least 1, found -1"),
        ("--system rbc --preset tiny --lead 0", "--lead must be at least 1, found 0"),
        ("--system rbc --preset tiny --lead 99", "--lead 99: trajectories hold 10 steps; ask for at most that"),
        ("--system rbc --preset tiny --methods ,", "--methods names no row; known: persistence"),
        ("--system rbc --preset tiny --methods fno --steps 3", "--steps 3: no row has a sampler"),
        (
            "--system rbc --preset tiny --sampler deterministic-dressed --steps 3",
            "--steps 3: deterministic-dressed has 1 by definition; choose another --sampler",
        ),
        ("--system rbc --preset tiny --device cpux", "no device 'cpux': did you mean 'cpu'"),
        ("--system rbc --preset tiny --sampler si-e --members 4", "--members 4: si-e is deterministic"),
        ("--system kolmogorov --preset tiny --data nowhere.h5", "nowhere.h5: no such file or folder"),
    ],
)
def test_options_that_cannot_be_used(command, fresh_home, arguments, message):
    code, lines = command(*arguments.split())
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("error: ") and message in lines[0]
    assert not fresh_home.exists()  # found before anything is made


def test_the_benchmark_is_a_command_of_physinterp(command, fresh_home):
    code, lines = command("benchmark", "--system", "kolmogorow", program=cli.app)
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: no system 'kolmogorow': did you mean 'kolmogorov'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(command, fresh_home):
    code, lines = command("--system", "rbc", "--preset", "tiny", "--device", "cuda")
    assert (code, lines) == (2, ["error: there is no CUDA device here; use --device cpu"])


@pytest.mark.parametrize("arguments", ["", "--system rbc --steps two", "--system rbc --stepps 2", "--nothing"])
def test_options_that_are_none(command, arguments):
    code, lines = command(*arguments.split())
    assert code == 2 and not [line for line in lines if "Traceback" in line]
    assert any("rror" in line for line in lines) and len(lines) < 12


def user_file(path: Path, size: int = 16, frames: int = 12, split: str = "test", name: str = "u") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group(split)
        group[name] = np.random.default_rng(0).standard_normal((2, frames, size, size)).astype(np.float32)
        group["t"] = 0.1 * np.arange(frames)
    return path


def truncated(path: Path) -> Path:
    content = user_file(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def with_nan(path: Path, frame: int) -> Path:
    with h5py.File(user_file(path), "r+") as file:
        file["test/u"][1, frame, 3, 4] = np.nan
    return path


def other(path: Path) -> Path:
    path.write_text("a,b\n1,2\n")
    return path


def well_of(path: Path, system: str) -> Path:
    card = load_system(system).with_grid((16, 16))
    rng = np.random.default_rng(0)
    fields = {n: rng.standard_normal((1, 12, 16, 16)) for n in card.field_names}
    well.write(
        path / "data" / "test" / "a.hdf5", card, fields, 0.1 * np.arange(12), {p.name: p.default for p in card.parameters}
    )
    return path


DATA = {
    "truncated": (lambda p: truncated(p / "a.h5"), "a.h5: cannot be read as HDF5"),
    "format": (lambda p: other(p / "a.csv"), "a.csv: no known format (found one .csv file)"),
    "other files": (lambda p: other(p / "a.csv").parent, "no known format (found a.csv); expected "),
    "empty": (lambda p: p, "no known format (found an empty folder); expected"),
    "no test or valid": (
        lambda p: user_file(p / "a.h5", split="train"),
        "no split test or valid to evaluate on (found ['train'",
    ),
    "field": (lambda p: well_of(p / "w", "rbc"), "no field 'vorticity'"),
    "grid": (lambda p: user_file(p / "a.h5", size=20), "'x': expected 16 points, found 20"),
    "NaN at first": (lambda p: with_nan(p / "a.h5", 0), "field 'vorticity' has 1 values that are not finite in sample"),
    "NaN later": (lambda p: with_nan(p / "a.h5", 4), "field 'vorticity' has 1 values that are not finite in sample"),
    "short": (
        lambda p: user_file(p / "a.h5", frames=4),
        "4 frames are too few for 2 leads of 2 frames: ask for a lead of at",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used(command, small, fresh_home, tmp_path, case):
    folder = tmp_path / "data"
    folder.mkdir()
    make, message = DATA[case]
    code, lines = command("--system", "kolmogorov", "--data", make(folder))
    assert code == 2 and len(lines) == 1, lines
    assert lines[0].startswith("error: ") and message in lines[0]
    assert not fresh_home.exists() and not (tmp_path / "out").exists()  # found before anything is made or trained


def full(*args: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


WRITERS = {
    "data": (well, "write"),
    "weights": ("physinterp.checkpoint", "save_file"),
    "scores": (xr.Dataset, "to_netcdf"),
    "forecasts": (xr.Dataset, "to_zarr"),
    "plots": ("matplotlib.figure.Figure", "savefig"),
}


@pytest.mark.parametrize("place", WRITERS)
def test_no_space_left(command, small, fresh_home, tmp_path, place):
    target, name = WRITERS[place]
    arguments = ("--system", "kolmogorov", "--methods", "persistence,si-em")
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(target, str):
            patch.setattr(f"{target}.{name}", full)
        else:
            patch.setattr(target, name, full)
        code, lines = command(*arguments)
    assert code == 2 and len(lines) == 1 and "no space left" in lines[0], lines
    assert not (tmp_path / "out" / "scores.json").exists()
    hidden = [
        p for folder in (fresh_home, tmp_path / "out") for p in folder.rglob("*") if p.suffix in (".part", ".old", ".tmp")
    ]
    assert not hidden
    assert command(*arguments)[0] == 0
    assert len(json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]) > 10


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[list, dict[str, bytes]]:
    """Scores and weights of the micro benchmark in one go."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHYSINTERP_HOME", str(folder))
        patch.setattr(benchmark, "load_benchmark", lambda name: micro())
        blank(patch)
        run(Options("kolmogorov", methods=("persistence", "si-em"), out=folder / "out"))
    rows = json.loads((folder / "out" / "scores.json").read_text())["rows"]
    return [r["value"] for r in rows], weights(folder)


def interrupt_after(calls: int, function):
    count = [0]

    def wrapped(*args, **options):
        count[0] += 1
        if count[0] > calls:
            raise KeyboardInterrupt
        return function(*args, **options)

    return wrapped


@pytest.mark.parametrize(
    ("target", "name", "calls"),
    [
        (KolmogorovFlow, "advance", 5),  # in the middle of a batch of trajectories
        (train.Trainer, "_step", 3),  # in the twin
        (train.Trainer, "_step", 7),  # in the twin inside the drift
        (train.Trainer, "_step", 10),  # in the drift
        (runs, "save_tensors", 1),
        (tune.Validation, "spread_skill", 2),  # between two candidates of the calibration
        (xr.Dataset, "to_zarr", 1),  # between two leads
        (Results, "gallery", 0),
    ],
)
def test_ctrl_c(command, small, uninterrupted, fresh_home, tmp_path, monkeypatch, target, name, calls):
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    arguments = ("--system", "kolmogorov", "--methods", "persistence,si-em")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, interrupt_after(calls, getattr(target, name)))
        code, lines = command(*arguments)
    assert code == 130
    said = "interrupted: what is finished is kept, and the same command goes on from there"
    assert [line for line in lines if line.strip()] == [said]
    assert not (tmp_path / "out" / "scores.json").exists()
    for store in tmp_path.rglob("forecast.zarr"):
        assert xr.open_zarr(store, consolidated=False).sizes["lead_time"] == 2
    assert command(*arguments)[0] == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    values, trained = uninterrupted
    assert [r["value"] for r in found["rows"]] == values  # to the bit
    assert weights(fresh_home) == trained


def python(*arguments: str, home: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PHYSINTERP_HOME": str(home),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment, timeout=300, cwd=home
    )


def test_help_names_every_option_with_its_default(tmp_path):
    done = python("physinterp.benchmark", "--help", home=tmp_path)
    assert done.returncode == 0 and not done.stderr
    text = " ".join(done.stdout.split())
    options = "system sampler preset data methods steps members lead seed device out retrain"
    blocks = {f"--{name}": text.index(f"--{name}") for name in options.split()}
    order = sorted(blocks.values())
    for word, start in blocks.items():
        end = next((x for x in order if x > start), len(text))
        said = text[start:end].lower()
        assert "default" in said or (word == "--system" and "required" in said), (word, said)


def test_one_line_of_a_real_process(tmp_path):
    done = python("physinterp.benchmark", "--system", "rcb", home=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: no system 'rcb': did you mean 'rbc'?") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_in_a_real_process(tmp_path):
    home = tmp_path / "home"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PHYSINTERP_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "physinterp.benchmark", "--system", "kolmogorov", "--methods", "persistence"]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    for _ in range(600):
        time.sleep(0.1)
        if list(home.rglob("generation.json")):
            break
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and "interrupted: what is finished is kept" in err
    assert list(home.rglob("*.partial.safetensors")) and not list(home.rglob("*.hdf5"))
