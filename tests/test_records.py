"""Training and evaluation on data that no embedded solver made: a record of weather, files of The Well, own arrays."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from physinterp import benchmark, evaluate, runs
from physinterp.autoencoder import Identity
from physinterp.baselines.reference import Season
from physinterp.benchmark import Options, run
from physinterp.config import Training, load_benchmark
from physinterp.data import convert, open_dataset
from physinterp.data.statistics import Statistics
from physinterp.emulator import Emulator
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.methods import ModelName
from physinterp.pairs import HeldPairs, WindowPairs
from physinterp.runs import Runs
from physinterp.system import System, load_system, validate

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
NATLANTIC = SHARED / "era5" / "ncep_msl_natlantic_2001-2008_daily_2p5deg.nc"
DEDALUS = SHARED / "rayleigh_benard_dedalus"
APEBENCH = SHARED / "kolmogorov_apebench" / "KolmFlow_64_shared.h5"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference data at {SHARED}")
TWIN = ModelName("deterministic", "identity", "unet")


@pytest.fixture
def short(fresh_home, monkeypatch):
    """The presets of a system with a training of some steps, in an empty home."""

    def change(**values) -> None:
        def short_one(card):
            found = load_benchmark(card)
            preset = found.preset("tiny").model_copy(update={"training": Training(steps=6, batch=4), "members": 2} | values)
            return found.model_copy(update={"presets": {"tiny": preset}, "default": "tiny"})

        monkeypatch.setattr(benchmark, "load_benchmark", short_one)
        monkeypatch.setattr("physinterp.tune.load_benchmark", short_one)

    change()
    return change


@pytest.fixture
def blank(monkeypatch) -> None:
    """No plots."""
    monkeypatch.setattr("physinterp.results.Results.draw", lambda *a, **k: None)
    monkeypatch.setattr("physinterp.plot.save", lambda *a, **k: None)


def own(folder: Path, splits=("train", "valid", "test"), size: int = 9) -> Path:
    """Five lines of card and a file per split: (sample, time, y, x), waves that move along x between walls."""
    folder.mkdir(exist_ok=True)
    axes = [
        {"name": "y", "size": size, "start": 0, "length": 1, "boundary": "wall"},
        {"name": "x", "size": 12, "start": 0, "length": 1, "boundary": "periodic"},
    ]
    card = {"name": "mine", "adapter": "array", "fields": [{"name": "u"}], "grid": {"axes": axes}, "dt": 0.5}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    t, y, x = np.meshgrid(np.arange(12), np.linspace(0, 3, size), np.arange(12) / 12, indexing="ij")
    for k, split in enumerate(splits):
        waves = np.stack([np.sin(y) * np.sin(2 * np.pi * (x - 0.05 * t) + n + k) for n in range(3)])
        waves += 0.1 * np.random.default_rng(k).standard_normal(waves.shape)
        np.save(folder / f"{split}.npy", waves.astype(np.float32))
    return folder


# a record ----------------------------------------------------------------------------------------------------------


@needs_shared
def test_persistence_and_climatology_of_a_record(short, tmp_path):
    """Against the numbers of the data's README, on every third day of 2007 and 2008, in Pa."""
    short(starts=243, lead=5)
    job = benchmark.Job(Options("natlantic", data=NATLANTIC, methods=("persistence", "climatology"), out=tmp_path / "out"))
    rmse = {}
    for name in job.names:
        ds = job.scores(name).sel(field="msl", lead_time=[1, 2, 3, 5])
        rmse[name] = np.sqrt(ds["mse_of_mean"].mean("case")).values
    np.testing.assert_allclose(rmse["persistence"], [641, 908, 1023, 1155], rtol=0.03)
    np.testing.assert_allclose(rmse["climatology"], 907, rtol=0.03)
    blocks = ds["trajectory"].values
    assert len(set(blocks)) == 24 and blocks[0] == "2007-01" and len(blocks) == 243


@needs_shared
def test_a_record_from_end_to_end(short, tmp_path, caplog):
    """Trained on its dates, evaluated on others, with a grid of odd sides between walls; the copy of it is the same."""
    short(starts=6, lead=2)
    rows = ("persistence", "climatology", "fno", "si-em", "deterministic/identity-dit")
    found = run(Options("natlantic", data=NATLANTIC, methods=rows, out=tmp_path / "out"))
    assert found.document["data"] == found.document["trained_on"] == str(NATLANTIC) and found.document["split"] == "test"
    assert {r["method"] for r in found.document["rows"]} == set(rows)
    assert all(np.isfinite(r["value"]) for r in found.document["rows"] if r["score"].startswith(("crps", "mse", "vrmse")))
    truth = xr.open_zarr(tmp_path / "out" / "forecast.zarr", group="truth", consolidated=False)
    with xr.open_dataset(NATLANTIC) as ds:
        first = ds["mean_sea_level_pressure"].sel(time="2007-01-02").sortby("latitude").values
    np.testing.assert_allclose(truth["msl"][0, 0], first, rtol=1e-6)
    note = next(Path(runs.home(), "runs").glob("natlantic-*/interpolant-identity-unet/model.json"))
    again, name = Runs.of(note.parent)
    assert str(name) == note.parent.name and again.data == NATLANTIC and again.open("train").sizes["time"] == 1811
    assert again.open("train")["date"].values.max() < np.datetime64("2005-12-18")


@needs_shared
def test_a_converted_record_gives_the_same_pairs(short, tmp_path):
    card = load_system("natlantic")
    convert.convert(convert.plan(card, ("train", "valid", "test"), NATLANTIC, tmp_path / "copy"))
    preset = load_benchmark(card).preset("tiny")
    one, other = (Runs(card, preset, "a", data=path) for path in (NATLANTIC, tmp_path / "copy"))
    assert one.key != other.key and one.stack.statistics == other.stack.statistics
    index = torch.tensor([0, 5, 1809])
    (x0, x1, _), (y0, y1, _) = (r.pairs("train", "identity").select(index) for r in (one, other))
    assert torch.equal(x0, y0) and torch.equal(x1, y1)


def test_the_season():
    """Mean, year and day are found; a record shorter than a year has none of the year."""
    dates = np.datetime64("2001-01-01T00", "h") + 6 * np.arange(4 * 800)
    hours = (dates - dates[0]).astype(float)

    def truth(h: np.ndarray) -> torch.Tensor:
        u = 3 + 2 * np.cos(2 * np.pi * (h - 500) / (24 * 365.2425)) + np.sin(2 * np.pi * h / 24)
        return torch.from_numpy(u)[:, None, None, None].expand(-1, 1, 2, 3)

    season = Season(truth(hours).float().split(100), dates)
    later = hours + 24 * 900
    torch.testing.assert_close(season(dates + 24 * 900), truth(later).float(), atol=1e-4, rtol=1e-4)
    assert Season(truth(hours[:400]).split(100), dates[:400]).periods == [86400.0]
    daily = dates[0] + np.arange(3200) * np.timedelta64(1, "D")
    assert Season(truth(hours).float().split(100), daily).periods == season.periods[:1]


def hourly(path: Path) -> System:
    """A record of which every step is told by the clock, u(t + 6 h) = u(t) + season + hour, in a file, and its card."""
    axes = [
        {"name": "latitude", "size": 4, "start": -90, "length": 180, "boundary": "pole", "units": "degrees_north"},
        {"name": "longitude", "size": 8, "start": 0, "length": 360, "boundary": "periodic", "units": "degrees_east"},
    ]
    splits = {"train": {"start": "2001-01-01", "end": "2001-01-10"}, "valid": {"start": "2001-01-12", "end": "2001-01-14"}}
    splits["test"] = {"start": "2001-02-01", "end": "2001-02-10"}
    card = {"name": "hourly", "adapter": "weatherbench", "fields": [{"name": "u"}], "grid": {"axes": axes}, "dt": 6}
    system = validate(System, {**card, "time_unit": "h", "splits": splits}, "card")
    dates = np.datetime64("2001-01-01", "ns") + 6 * np.arange(200) * np.timedelta64(1, "h")
    days = (dates - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    steps = np.sin(2 * np.pi * days / 365.2425) + np.cos(2 * np.pi * days)
    values = np.tile((np.cumsum(steps) - steps)[:, None, None], (1, 4, 8)).astype(np.float32)
    coords = {"time": dates} | system.grid.coords
    xr.Dataset({"u": (("time", "latitude", "longitude"), values)}, coords).to_netcdf(path)
    return system


class Clock(torch.nn.Module):
    """A step that knows nothing but the season and the hour."""

    def forward(self, z, cond, *, noise):
        year, _, _, hour = cond.parameters.T  # sines, then cosines
        return z + (year + hour)[:, None, None, None] / 50


def test_every_step_is_told_the_season_and_the_hour(tmp_path):
    system = hourly(tmp_path / "a.nc")
    stack = FieldStack(system.fields, system.grid, Statistics(("u",), (0.0,), (50.0,), (1.0,)))
    model = Emulator(system, stack, Identity(1), Clock(), 6.0)
    ds = open_dataset(system, "test", tmp_path / "a.nc").load()
    of = {"rtol": 0, "atol": 2e-2}  # days are kept to the minute
    whole = model.forecast(ds.isel(time=3), 9, members=2)
    np.testing.assert_allclose(whole["u"][0, 1], ds["u"][0, 4:13], **of)
    part = model.forecast(model.forecast(ds.isel(time=3), 4, members=2), 5)
    np.testing.assert_array_equal(part["u"][:, :, -1], whole["u"][:, :, -1])
    at = ds.isel(time=[3, 8], sample=0).assign_coords(time=ds["date"].values[0, [3, 8]]).rename(time="init_time")
    np.testing.assert_allclose(model.forecast(at, 2, members=1)["u"][1, 0, 1], ds["u"][0, 10], **of)
    truth = evaluate.cases(ds, 1, 6, 5, 6.0)
    scores = evaluate.evaluate(evaluate.physical(model, truth, 6, 1, 0), truth, model, seed=0)
    assert float(scores["mse_member"].max()) < 1e-3 and float(scores["mse_one_step"].max()) < 1e-3
    frame = ds.isel(time=3, sample=0).drop_vars("date").assign_coords(time=ds["date"].values[0, 3])
    np.testing.assert_array_equal(model.forecast(frame, 3, members=1)["u"], whole["u"][:, :1, :3])
    leads = whole.isel(member=[0]).assign_coords(date=(("sample", "lead_time"), ds["date"].values[:, 4:13]))
    with pytest.raises(InputError, match="the data have no dates, from which hourly takes season and hour"):
        model.forecast(leads, 1)  # these are dates of the leads
    with pytest.raises(InputError, match="the data have no dates, from which hourly takes season and hour"):
        model.forecast(ds.isel(time=3).drop_vars("date"), 1)
    with pytest.raises(InputError, match=r"expected 'date' to have a date per initial state, found .*NaT"):
        model.forecast(ds.isel(time=3).assign_coords(date=("sample", np.array(["NaT"], "M8[ns]"))), 1)


def test_pairs_of_a_record_are_told_the_season_and_the_hour(fresh_home, tmp_path, monkeypatch):
    system = hourly(tmp_path / "a.nc")
    convert.convert(convert.plan(system, ("train", "valid"), tmp_path / "a.nc", tmp_path / "copy"))
    preset = load_benchmark(system).preset("tiny")
    held = Runs(system, preset, "held", data=tmp_path / "a.nc").pairs("train", "identity")
    monkeypatch.setattr(runs, "HELD", 0)
    read = Runs(system, preset, "read", data=tmp_path / "copy").pairs("train", "identity")
    assert isinstance(held, HeldPairs) and isinstance(read, WindowPairs)
    assert load_system(tmp_path / "copy").dated and not load_system("rbc").dated
    days = 366 + 0.25 * (index := torch.tensor([0, 1, 2, 38]))
    expected = torch.stack([f(2 * torch.pi * days / per) for f in (torch.sin, torch.cos) for per in (365.2425, 1.0)], 1)
    for pairs in (held, read):
        torch.testing.assert_close(pairs.select(index)[2].parameters, expected, rtol=0, atol=2e-3)


@needs_shared
def test_a_large_record_has_to_be_converted_first(short, tmp_path, monkeypatch):
    """Said at once, not after the statistics."""
    monkeypatch.setattr(runs, "HELD", 0)
    monkeypatch.setattr(runs, "statistics", lambda *a: pytest.fail("too late"))
    with pytest.raises(InputError, match=r"windows are read from a local copy of such data: physinterp data convert"):
        run(Options("natlantic", data=NATLANTIC, out=tmp_path / "out"))


# files of other programs -------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(("system", "data", "shape"), [("rbc", DEDALUS, (128, 32)), ("kolmogorov", APEBENCH, (64, 64))])
def test_training_on_files(short, blank, caplog, tmp_path, monkeypatch, system, data, shape):
    """With --train: nothing is generated, the grid is that of the files, the spin-up is left out."""
    monkeypatch.setattr("physinterp.data.generate.generate", lambda *a, **k: pytest.fail("generated"))
    short(lead=2, step=0.5 if system == "rbc" else 0.4)
    with caplog.at_level(logging.INFO):
        found = run(Options(system, data=data, train=True, methods=("persistence", "deterministic"), out=tmp_path / "out"))
    assert "evaluating on valid, which also chose learning rates and spread" in caplog.text
    assert found.system.grid.shape == shape and found.document["trained_on"] == str(data)
    assert "--train" in found.document["command"]
    made = Runs.of(next(Path(runs.home(), "runs").glob("*/deterministic-*")))[0]
    frames = 200 - 120 if system == "rbc" else 30
    assert made.pairs("train", "identity").states.shape[:2] == (2 if system == "rbc" else 4, frames)


@needs_shared
def test_files_without_train_are_evaluated_only(short, tmp_path):
    with pytest.raises(InputError, match=r"--train: there is nothing to train on; give --data PATH"):
        run(Options("rbc", train=True, out=tmp_path / "out"))
    message = r"training needs the splits train and valid, and train is missing \(found valid\): name them as files"
    with pytest.raises(InputError, match=message):
        run(Options("rbc", data=own(tmp_path / "a", ("valid",)), train=True, out=tmp_path / "out"))


# own arrays --------------------------------------------------------------------------------------------------------


def test_an_own_array_from_end_to_end(short, blank, tmp_path):
    """Five lines of card: presets of `default.yaml`, the step of the card, an axis of odd length between walls."""
    folder = own(tmp_path / "a")
    found = run(Options(str(folder / "card.yaml"), data=folder, methods=("persistence", "si-em"), out=tmp_path / "out"))
    assert found.document["headline"] == ["u"] and found.document["split"] == "test"
    value = {(r["method"], r["lead"]): r["value"] for r in found.document["rows"] if r["score"] == "vrmse_mean"}
    assert value["persistence", 0.5] > 0.1 and ("si-em", 1.5) in value


def test_other_data_are_another_run(short, tmp_path):
    card = load_system(own(tmp_path / "a") / "card.yaml")
    preset = load_benchmark(card).preset("tiny")
    one = Runs(card, preset, "tiny", data=tmp_path / "a")
    assert Runs(card, preset, "tiny", data=tmp_path / "a").root == one.root
    mean, values = one.stack.statistics.mean[0], np.load(tmp_path / "a" / "train.npy")
    np.save(tmp_path / "a" / "train.npy", values + 1)
    other = Runs(card, preset, "tiny", data=tmp_path / "a")
    assert other.root != one.root
    assert other.stack.statistics.mean[0] == pytest.approx(mean + 1, abs=1e-4)


MISSING = {
    "valid": (("train", "test"), "training needs the splits train and valid, and valid is missing (found train, test)"),
    "test": (("train",), "training needs the splits train and valid, and valid is missing (found train)"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_split_is_missing(short, tmp_path, case):
    splits, message = MISSING[case]
    folder = own(tmp_path / "a", splits)
    with pytest.raises(InputError) as error:
        run(Options(str(folder / "card.yaml"), data=folder, out=tmp_path / "out"))
    assert message in str(error.value) and not (tmp_path / "out").exists()


def test_splits_without_names_are_not_trained_on(short, tmp_path):
    folder = own(tmp_path / "a")
    with pytest.raises(InputError, match=r"train and valid is missing \(found no names\)"):
        run(Options(str(folder / "card.yaml"), data=folder / "train.npy", out=tmp_path / "out"))


def test_no_data_at_all(short, tmp_path):
    with pytest.raises(InputError, match=r"natlantic has no solver that makes data: give --data PATH \(NCEP"):
        run(Options("natlantic", out=tmp_path / "out"))


# larger than memory ------------------------------------------------------------------------------------------------


def test_pairs_from_files_are_those_from_memory(fresh_home, tmp_path, monkeypatch):
    """The same numbers, the same bits, whatever is held: so a training is the same, too."""
    card = load_system(own(tmp_path / "a", size=8) / "card.yaml")
    preset = load_benchmark(card).preset("tiny").model_copy(update={"training": Training(steps=6, batch=4)})
    held, read = (Runs(card, preset, name, data=tmp_path / "a") for name in ("held", "read"))
    one, _ = held.pairs("train", "identity"), held.pairs("valid", "identity")
    monkeypatch.setattr(runs, "HELD", 0)
    other = read.pairs("train", "identity")
    assert isinstance(one, HeldPairs) and isinstance(other, WindowPairs) and len(one) == len(other) == 3 * 11
    index = torch.tensor([32, 0, 10, 11, 17])
    for a, b in ((one.select(index), other.select(index)), (one.select(index), other.later(index)())):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and torch.equal(a[2].parameters, b[2].parameters)
    torch.testing.assert_close(one.difference_std(), other.difference_std(), rtol=0.01, atol=0)
    assert torch.equal(held.mean("train"), read.mean("train"))
    weights = held.model(TWIN).state_dict(), read.model(TWIN).state_dict()
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():  # the scale of the loss is the only difference
        torch.testing.assert_close(value, weights[1][key], rtol=0.05, atol=0.05)


MEMORY = """
import resource, sys
import dask, numpy as np, torch
from lightning_fabric import Fabric
from physinterp import runs
from physinterp.config import Training, load_benchmark
from physinterp.methods import ModelName
from physinterp.system import load_system
card, path = load_system(sys.argv[1]), sys.argv[2]
networks = {"unet": {"widths": [4]}, "dcae": {"latent_channels": 1, "widths": [4], "patch": 4}, "dcae-unet": {"widths": [4]}}
update = {"networks": networks, "training": Training(steps=4, batch=2)}
preset = load_benchmark(card).preset("tiny").model_copy(update=update)
runs.HELD = 2**26
made = runs.Runs(card, preset, "big", data=path)
torch.ones(4, 4).mm(torch.ones(4, 4))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 450_000_000,) * 2)
try:
    np.ones(made.open("train").nbytes // 4, dtype=np.float32)
    sys.exit("the limit does not hold")
except MemoryError:
    pass
with dask.config.set(scheduler="synchronous"):
    assert type(made.pairs("train", "identity")).__name__ == "WindowPairs"
    for codec in ("identity", "dcae"):
        made.model(ModelName("deterministic", codec, "unet"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_on_data_larger_than_memory(fresh_home, tmp_path):
    """Pixels and latents: 0.6 GB (zeros that take no disk) under a limit of 0.45 GB more than what the imports take."""
    (tmp_path / "card.yaml").write_text(
        "name: big\nadapter: array\nfields: [{name: u}]\ngrid: {axes: [{name: y, size: 128, start: 0, length: 1, boundary: "
        "wall}, {name: x, size: 128, start: 0, length: 1, boundary: periodic}]}\ndt: 1\n"
    )
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    kind.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split, count in (("train", 45), ("valid", 1)):
            group, space = file.create_group(split), h5py.h5s.create_simple((count, 200, 128, 128))
            h5py.h5d.create(group.id, b"u", h5py.h5t.NATIVE_FLOAT, space, kind)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "card.yaml"), str(tmp_path / "a.h5")],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},  # threads reserve addresses, which count here
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
