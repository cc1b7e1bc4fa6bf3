"""Trained models by path or name, without their data; how they are sampled; initial states from files; the command line."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from test_cli_commands import command, line  # noqa: F401
from test_walk import NAME, trained
from toy import KOLMOGOROV, RBC, dataset

import physinterp
from physinterp import forecast, store
from physinterp.checkpoint import digest
from physinterp.emulator import SampledStepper
from physinterp.errors import InputError
from physinterp.forecast import initial_state
from physinterp.methods import ModelName
from physinterp.runs import Runs
from physinterp.system import load_system
from physinterp.tune import VERSION, Setting

DCAE, TWIN, EDM = (
    ModelName(*parts)
    for parts in (("interpolant", "dcae", "unet"), ("deterministic", "identity", "unet"), ("edm", "identity", "unet"))
)


@pytest.fixture(scope="module")
def made(session_home) -> dict[ModelName, Path]:
    """Trained models of seconds."""
    return {name: trained(name) for name in (NAME, DCAE, TWIN, EDM)}


@pytest.fixture
def copy(made, tmp_path, fresh_home, monkeypatch) -> Path:
    """The run in another PHYSINTERP_HOME without any data; the interpolant's folder in it."""
    monkeypatch.setattr(Runs, "open", lambda self, split: pytest.fail("opened the data"))
    target = fresh_home / "runs" / made[NAME].parent.name
    shutil.copytree(made[NAME].parent, target, ignore=shutil.ignore_patterns("calibration-*", "settings.json"))
    return target / str(NAME)


@pytest.fixture
def state() -> xr.Dataset:
    return dataset(KOLMOGOROV)


def tuned(folder: Path, weights: str | None = None, **settings: Setting) -> None:
    kept = {name: asdict(s) for name, s in settings.items()}
    note = {"weights": weights or digest(folder / "weights.safetensors"), "settings": kept, "trials": []}
    (folder / "settings.json").write_text(json.dumps(note))


def calibrated(folder: Path, setting: Setting, leads: int = 4, weights: str | None = None, version: int = VERSION) -> None:
    stamp = {"weights": weights or digest(folder / "weights.safetensors"), "version": version}
    note = {"stamp": stamp, "setting": asdict(setting)}
    (folder / f"calibration-{setting.sampler}-{setting.steps}-leads-{leads}.json").write_text(json.dumps(note))


def used(emulator: physinterp.Emulator) -> Setting | None:
    """How an emulator samples."""
    assert isinstance(emulator.stepper, SampledStepper)
    s = emulator.stepper.sampler
    if s is None:
        return None
    (name,) = (n for n, kind in forecast.SAMPLERS.items() if kind is type(s))
    return Setting(name, s.steps, s.temperature, emulator.correlation)


# which model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, DCAE, TWIN, EDM])
def test_a_model_without_its_data(copy, made, state, name):
    """The same forecast as where it was trained."""
    loaded = physinterp.load(copy.parent / str(name))
    trained_in, _ = Runs.of(made[name])
    stepper = SampledStepper(trained_in.model(name), loaded.stepper.sampler)
    original = trained_in.emulator(trained_in.codec(name.codec), stepper)
    ds = loaded.forecast(state, 2)
    xr.testing.assert_equal(ds.drop_attrs(), original.forecast(state, 2).drop_attrs())
    assert ds.attrs["model"] == f"{copy.parent.name}/{name}" and ds.attrs["weights"].startswith(
        digest(made[name] / "weights.safetensors")
    )
    assert ("codec" in str(name)) == False and ("/" in ds.attrs["weights"]) == (name is DCAE)  # noqa: E712
    assert ds.latent.attrs["weights"] == ds.attrs["weights"]
    assert ds.sizes["member"] == (1 if name is TWIN else 16)


def test_the_statistics_come_with_the_weights(copy):
    note = json.loads((copy / "model.json").read_text())
    note["statistics"]["mean"] = [3.5]
    (copy / "model.json").write_text(json.dumps(note))
    assert physinterp.load(copy).stack.statistics.mean == (3.5,)


def test_a_name(copy, made):
    """The interpolant of the newest run of a system, or the newest model of a name."""
    model = physinterp.load("kolmogorov").provenance["model"]
    assert model == f"{copy.parent.name}/{NAME}"
    assert physinterp.load(f"kolmogorov/{TWIN}").provenance["model"] == f"{copy.parent.name}/{TWIN}"
    newer = shutil.copytree(copy.parent, copy.parent.with_name("kolmogorov-other-0"))
    for note in newer.glob("*/model.json"):
        os.utime(note, (4e9, 4e9))
    assert physinterp.load("kolmogorov").provenance["model"] == f"{newer.name}/{NAME}"
    os.utime(copy / "model.json", (5e9, 5e9))
    assert physinterp.load(f"kolmogorov/{NAME}").provenance["model"] == f"{copy.parent.name}/{NAME}"


def test_a_relative_path(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    assert physinterp.load(str(NAME)).provenance["model"].endswith(str(NAME))
    monkeypatch.chdir(copy)
    assert physinterp.load(".").provenance["model"].endswith(str(NAME))


@pytest.mark.parametrize("name", ["rbc", "kolmogorov/ddpm-identity-unet", "kolmogorow", "kolmogorov-walk"])
def test_a_name_that_is_none(copy, name):
    with pytest.raises(InputError, match=f"no trained model '{name}'.* there are: .*kolmogorov/{NAME}"):
        physinterp.load(name)


def test_where_nothing_is_trained(fresh_home):
    with pytest.raises(InputError, match=r"none, train one with python -m physinterp.benchmark"):
        physinterp.load("rbc")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.json").unlink(), "no trained model there"),
        (lambda f: (f / "weights.safetensors").unlink(), "no trained model there"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"0" * 99), "weights.safetensors is damaged"),
        (lambda f: (f / "model.json").write_text("{"), "model.json is damaged"),
        (
            lambda f: (f / "model.json").write_text((f / "model.json").read_text().replace("statistics", "s")),
            "damaged .KeyError",
        ),
        (lambda f: shutil.copy(f.with_name(str(EDM)) / "weights.safetensors", f), "weights.safetensors is damaged"),
    ],
)
def test_a_damaged_folder(copy, damage, message):
    damage(copy)
    with pytest.raises(InputError, match=message) as error:
        physinterp.load(copy)
    assert "\n" not in str(error.value)


def test_a_model_without_its_codec(copy):
    shutil.rmtree(copy.with_name("codec-dcae"))
    with pytest.raises(InputError, match=f"codec-dcae is missing, which {DCAE} works in"):
        physinterp.load(copy.with_name(str(DCAE)))


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_none(copy, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no device 'gpu'|no CUDA device here"):
        physinterp.load(copy, device=device)


# how it is sampled -------------------------------------------------------------------------------------------------

A, B, C = Setting("si-em", 2, 1.2, 0.5), Setting("si-cal", 1, 0.8, 0.0), Setting("si-em", 5, 0.7, 0.8)


def test_nothing_is_known(copy, caplog):
    """The default, with a warning; a deterministic sampler or model needs none."""
    with caplog.at_level(logging.WARNING):
        assert used(physinterp.load(copy)) == Setting("si-em", 2, 1.0, 0.0)
        assert caplog.text.count("si-em with 2 steps is not calibrated") == 1 and f"physinterp tune {copy}" in caplog.text
        caplog.clear()
        assert used(physinterp.load(copy, "si-e")) == Setting("si-e", 2)
        assert used(physinterp.load(copy.with_name(str(TWIN)))) is None
        assert not caplog.records
        assert used(physinterp.load(copy.with_name(str(EDM)), steps=3, sampler="edm-euler")) == Setting("edm-euler", 3)


def test_what_is_calibrated_is_used(copy, caplog):
    """That of the default sampler, and for a sampler that is asked for, its own; never one of other weights or versions."""
    calibrated(copy, B, leads=9)
    with caplog.at_level(logging.WARNING):
        assert used(physinterp.load(copy)) == B
        calibrated(copy, A, leads=3)
        assert used(physinterp.load(copy)) == A
        calibrated(copy, Setting("si-em", 2, 1.3, 0.5), leads=10)
        assert used(physinterp.load(copy)).temperature == 1.3
        calibrated(copy, C)
        assert used(physinterp.load(copy, "si-em", 5)) == C
        assert used(physinterp.load(copy, "si-cal", 1)) == B
        assert not caplog.records
    for options in ({"weights": "other"}, {"version": VERSION - 1}):
        for path in copy.glob("calibration-*"):
            path.unlink()
        calibrated(copy, A, **options)
        assert used(physinterp.load(copy)) == Setting("si-em", 2)


def test_what_is_tuned_is_used(copy):
    calibrated(copy, A)
    tuned(copy, balanced=B, accurate=Setting("si-e", 1), spectral=C)
    assert used(physinterp.load(copy)) == B
    for name, expected in {"balanced": B, "accurate": Setting("si-e", 1), "spectral": C}.items():
        emulator = physinterp.load(copy, setting=name)
        assert used(emulator) == expected
        assert (
            emulator.provenance["sampler_steps"] == expected.steps
            and emulator.provenance["correlation"] == expected.correlation
        )
    assert used(physinterp.load(copy, "si-em")) == A
    twin = copy.with_name(str(TWIN))
    tuned(twin, balanced=B)
    assert used(physinterp.load(twin)) is None and used(physinterp.load(twin, setting="balanced")) == B


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda f: None, {"setting": "balanced"}, "no setting 'balanced', nothing is tuned yet: physinterp tune"),
        (lambda f: tuned(f, balanced=B), {"setting": "balance"}, "no setting 'balance': did you mean 'balanced'"),
        (
            lambda f: tuned(f, "old", balanced=B),
            {},
            "settings.json is of other weights .old, now .*tune again: physinterp tune",
        ),
        (lambda f: tuned(f, "old", balanced=B), {"setting": "balanced"}, "is of other weights"),
        (lambda f: (f / "settings.json").write_text("[]"), {}, "settings.json is damaged .TypeError.*physinterp tune"),
        (lambda f: (f / "settings.json").write_text("{"), {}, "settings.json is damaged"),
        (
            lambda f: (f / "calibration-si-em-2-leads-3.json").write_text("{}"),
            {},
            "leads-3.json is damaged .KeyError.: delete it",
        ),
        (lambda f: None, {"sampler": "si-me"}, "no sampler 'si-me' for a model 'interpolant': did you mean .*'si-em'"),
        (lambda f: None, {"sampler": "edm"}, "no sampler 'edm' for a model 'interpolant'"),
        (lambda f: None, {"sampler": "si-em", "setting": "balanced"}, "a sampler or a setting, not both"),
        (lambda f: None, {"steps": 3}, "sampler steps 3: expected at least 1, and the sampler"),
        (lambda f: None, {"sampler": "si-em", "steps": 0}, "sampler steps 0: expected at least 1"),
    ],
)
def test_sampling_that_cannot_be(copy, prepare, options, message):
    prepare(copy)
    with pytest.raises(InputError, match=message):
        physinterp.load(copy, **options)


# the initial state -------------------------------------------------------------------------------------------------


def frames(path: Path, **options) -> xr.Dataset:
    ds = dataset(KOLMOGOROV, frames=4).drop_vars("trajectory")
    ds.to_netcdf(path) if path.suffix == ".nc" else ds.to_zarr(path, **({"zarr_format": 2} | options))
    return ds


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("name", ["a.nc", "a.zarr", "a folder.zarr", "b.zarr"])
def test_files(tmp_path, name):
    ds = frames(tmp_path / name, **({"zarr_format": 3, "consolidated": True} if name == "b.zarr" else {}))
    for time in (None, 2):
        found = initial_state(tmp_path / name, KOLMOGOROV, time)
        assert "time" not in found.dims
        np.testing.assert_array_equal(found.vorticity, ds.vorticity.isel(time=time or 0))


def test_dated_files(tmp_path):
    dates = np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]")
    ds = dataset(KOLMOGOROV, samples=1, frames=2).isel(sample=0, drop=True).assign_coords(time=dates)
    ds.to_netcdf(tmp_path / "a.nc")
    found = initial_state(tmp_path / "a.nc", KOLMOGOROV, 1)
    assert found.vorticity.dims == ("init_time", "x", "y") and found.init_time.values == dates[[1]]


def test_a_record(tmp_path):
    """Of any dates, with levels and latitudes as they come: the frame and its date."""
    card = load_system("era5").with_grid((8, 16))
    names = {f.name: f.aliases[0] for f in card.fields}
    ds = dataset(card, samples=1, frames=3).isel(sample=0, drop=True)
    dates = np.datetime64("1950-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h")
    raw = ds.rename(names).assign_coords(time=dates).sortby("latitude", ascending=False)
    for field in card.fields:
        if field.level:
            raw[names[field.name]] = raw[names[field.name]].expand_dims(level=[50.0, 500.0, 850.0])
    raw.to_netcdf(tmp_path / "era5.nc")
    found = initial_state(tmp_path / "era5.nc", card, 1)
    assert found.date.values == dates[[1]] and found.sizes["sample"] == 1 and "time" not in found.dims
    for name in card.field_names:
        np.testing.assert_array_equal(found[name][0], ds[name][1])


def test_simulated_data(made):
    """Without the spin-up of the card; a frame of the file where one is asked for."""
    runs = Runs.of(made[NAME])[0]
    card, folder = runs.system, Path(runs.open("valid").attrs["path"])
    opened = physinterp.open_dataset(card, "valid", folder)
    for spin_up, time, frame in ((0.5, None, 0), (float(opened.time[2]), None, 2), (20.0, 3, 3)):
        late = card.model_copy(update={"solver": card.solver.model_copy(update={"spin_up": spin_up})})
        for path in (folder, next(folder.glob("data/valid/*.hdf5"))):
            np.testing.assert_array_equal(initial_state(path, late, time).vorticity, opened.vorticity.isel(time=frame))
    with pytest.raises(InputError, match="no frame 9, there are 0 to 8"):
        initial_state(folder, card, 9)


@pytest.mark.parametrize(
    ("prepare", "time", "message"),
    [
        (lambda p: None, None, "no such file or folder"),
        (frames, 4, "no frame 4, there are 0 to 3"),
        (frames, -1, "no frame -1, there are 0 to 3"),
        (
            lambda p: dataset(KOLMOGOROV).drop_vars("trajectory").to_netcdf(p),
            0,
            "--time 0 is given, but there is no time axis",
        ),
        (
            lambda p: p.write_bytes(b"CDF\x01" + b"0" * 50),
            None,
            "cannot be read as netCDF .*it is damaged, or of another format",
        ),
        (lambda p: p.write_text("x,y"), None, "cannot be read as netCDF"),
        (lambda p: p.write_bytes(b""), None, "cannot be read as netCDF"),
        (lambda p: p.mkdir(), None, "no known format"),
        (lambda p: (p.mkdir(), (p / "zarr.json").write_text("{")), None, "cannot be read as zarr"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, prepare, time, message):
    path = tmp_path / "a.nc"
    prepare(path)
    with pytest.raises(InputError, match=message) as error:
        initial_state(path, KOLMOGOROV, time)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "a.nc"
    dataset(KOLMOGOROV.with_grid((64, 64))).drop_vars("trajectory").to_netcdf(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"cannot be read as netCDF .*: it is damaged"):
        initial_state(path, KOLMOGOROV)


# the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def init(tmp_path, state) -> Path:
    state.to_netcdf(tmp_path / "init.nc")
    return tmp_path / "init.nc"


@pytest.fixture
def arguments(copy, init, tmp_path) -> list[object]:
    return ["forecast", copy, "--init", init, "--steps", 3, "--members", 2, "--seed", 4, "--out", tmp_path / "f.zarr"]


def test_the_command(command, arguments, copy, state, tmp_path):  # noqa: F811
    code, out, _ = command(*arguments, "--sampler", "si-em", "--sampler-steps", 1)
    assert code == 0 and out == f"{tmp_path / 'f.zarr'}: sample 3, member 2, lead_time 3, x 16, y 16\n"
    ds = xr.open_zarr(tmp_path / "f.zarr")
    expected = physinterp.load(copy, "si-em", 1).forecast(state, 3, members=2, seed=4)
    np.testing.assert_array_equal(ds.vorticity, expected.vorticity)
    assert ds.attrs["sampler"] == "si-em" and ds.attrs["sampler_steps"] == 1
    code, _, lines = command(
        "forecast", "kolmogorov", "--init", tmp_path / "f.zarr", "--steps", 1, "--out", tmp_path / "g.zarr"
    )
    rest = xr.open_zarr(tmp_path / "g.zarr")
    assert code == 0 and rest.attrs["seed"] == 4 and rest.lead_time.values.tolist() == [4 * 0.2], lines


def test_the_command_interrupted(command, arguments, tmp_path, monkeypatch, state, copy):  # noqa: F811
    monkeypatch.setattr(store, "LEADS", 1)
    steps = []
    advance = SampledStepper.forward

    def stops(self, *args, **options):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return advance(self, *args, **options)

    monkeypatch.setattr(SampledStepper, "forward", stops)
    code, out, lines = command(*arguments)
    assert code == 130 and not out and [x for x in lines if x.startswith("interrupted: ")]
    assert xr.open_zarr(tmp_path / "f.zarr").attrs["incomplete"] == "written up to lead 2 of 3 in block 1 of 1"
    code, *_ = command(*arguments)
    expected = physinterp.load(copy).forecast(state, 3, members=2, seed=4)
    assert code == 0
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "f.zarr").vorticity, expected.vorticity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--init": "nowhere.nc"}, "nowhere.nc: no such file or folder"),
        ({"--setting": "accurate"}, "nothing is tuned yet"),
        ({"--sampler": "edm"}, "no sampler 'edm' for a model 'interpolant'"),
        ({"--layout": "weatherbench"}, "the layout weatherbench needs the dates"),
        ({"--layout": "wb"}, "no layout 'wb'"),
        ({"--time": 3}, "--time 3 is given, but there is no time axis"),
        ({"--device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_the_command_cannot(command, arguments, changes, message, tmp_path):  # noqa: F811
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True)) | changes
    code, out, lines = command(*arguments[:2], *(x for pair in given.items() for x in pair))
    assert code == 2 and not out and lines[-1].startswith("error: ") and message in lines[-1]
    assert not (tmp_path / "f.zarr").exists()


def test_the_command_with_values_that_are_not_finite(command, arguments, init):  # noqa: F811
    with xr.load_dataset(init) as ds:
        ds.vorticity[0, 3, 4] = np.inf
    ds.to_netcdf(init)
    code, _, lines = command(*arguments)
    assert code == 2 and f"{init}: field 'vorticity' has 1 values that are not finite" in lines[-1]


def test_the_command_with_another_state(command, arguments, tmp_path, init):  # noqa: F811
    """A file of another system, and a store of another forecast."""
    dataset(RBC).assign_attrs(system="rbc").to_netcdf(init.with_name("rbc.nc"))
    code, _, lines = command(*(init.with_name("rbc.nc") if x == init else x for x in arguments))
    assert code == 2 and "do not fit the system 'kolmogorov', but are of 'rbc': missing fields ['vorticity']" in lines[-1]
    assert command(*arguments)[0] == 0
    code, _, lines = command(*arguments[:-2], "--seed", 5, *arguments[-2:])
    assert code == 2 and "holds another forecast (another seed)" in lines[-1]
    assert command(*arguments[:-2], "--seed", 5, *arguments[-2:], "--overwrite")[0] == 0


@pytest.mark.parametrize("wrong", [["--members", 0], ["--steps", 0], ["--members", "two"], ["--nothing"]])
def test_the_command_and_wrong_options(command, arguments, wrong):  # noqa: F811
    code, out, lines = command(*arguments, *wrong)
    assert code == 2 and not out and not [x for x in lines if "Traceback" in x]
