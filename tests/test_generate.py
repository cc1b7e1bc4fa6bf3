"""Making data: files, seeds, keys, resuming, errors."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from physinterp.data import generate as module
from physinterp.data import open_dataset, well
from physinterp.data.generate import generate, plan, rate
from physinterp.errors import InputError
from physinterp.solvers import SOLVERS
from physinterp.solvers.kolmogorov import KolmogorovFlow
from physinterp.system import load_system

KOLMOGOROV, RBC = load_system("kolmogorov"), load_system("rbc")
SMALL = {"shape": (16, 16), "frames": 4, "spin_up": 1.5, "batch": 2}
COUNTS = {"train": 3, "valid": 1}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PHYSINTERP_HOME", str(tmp_path))
    return tmp_path


def content(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.rglob("*.hdf5")):
        with h5py.File(path) as file:
            found[path.name + path.parent.name] = file["t0_fields/vorticity"][:]
    return found


def test_files_frames_and_seeds(home, caplog):
    with caplog.at_level(logging.INFO):
        folder = generate(KOLMOGOROV, splits=COUNTS, **SMALL)
    assert folder.parent == home / "data"
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert names == [
        "checksums.json",
        "data/train/kolmogorov_00.hdf5",
        "data/train/kolmogorov_01.hdf5",
        "data/valid/kolmogorov_00.hdf5",
        "generation.json",
        "stats.yaml",
    ]
    ds = open_dataset(KOLMOGOROV.with_grid((16, 16)), "train", folder)
    assert ds.time.values == pytest.approx([1.5, 1.6, 1.7, 1.8])
    solver = KolmogorovFlow((16, 16))
    state = solver.advance(solver.initial([1]), 1.5)
    assert ds.vorticity[1, 0].values == pytest.approx(solver.output(state)[0, 0].numpy(), abs=1e-5)
    later = solver.output(solver.advance(state, 0.1))[0, 0].numpy()
    assert ds.vorticity[1, 1].values == pytest.approx(later, abs=1e-5)
    seeds = []
    for path in sorted(folder.rglob("*.hdf5")):
        with h5py.File(path) as file:
            seeds += file.attrs["seeds"].tolist()
            assert file.attrs["viscosity"] == 0.01
    assert seeds == [0, 1, 2, 1000000]
    seconds = rate(folder)
    assert seconds is not None and seconds > 0
    assert "s per time unit and trajectory" in caplog.text


def test_without_spin_up_the_first_frame_is_the_initial_state():
    ds = open_dataset("kolmogorov", "train", splits={"train": 1}, **(SMALL | {"spin_up": 0.0}))
    assert ds.time.values[0] == 0
    assert float(abs(ds.vorticity[0, 0]).max()) == pytest.approx(1)


def test_complete_data_are_found_again(monkeypatch):
    folder = generate(KOLMOGOROV, splits=COUNTS, **SMALL)
    monkeypatch.setattr(module, "_make", None)
    assert generate(KOLMOGOROV, splits=COUNTS, **SMALL) == folder


def test_every_parameter_of_the_content_is_in_the_key():
    options = [
        {},
        {"splits": COUNTS},
        {"shape": (32, 32)},
        {"frames": 9},
        {"spin_up": 1.0},
        {"seed": 1},
        {"batch": 3},
        {"dtype": torch.float32},
        {"parameters": {"viscosity": 0.02}},
    ]
    keys = [plan(KOLMOGOROV, **option).key for option in options]
    assert len(set(keys)) == len(keys)
    assert plan(KOLMOGOROV).key == plan(KOLMOGOROV, shape=(64, 64)).key


@pytest.mark.parametrize("calls", [1, 3, 4])
def test_an_interrupted_run_continues_bitwise(tmp_path, monkeypatch, calls):
    whole = content(generate(KOLMOGOROV, tmp_path / "whole", COUNTS, **SMALL))
    advance, made = KolmogorovFlow.advance, []

    def interrupted(self, state, duration):
        made.append(duration)
        if len(made) > calls:
            raise KeyboardInterrupt
        return advance(self, state, duration)

    monkeypatch.setattr(KolmogorovFlow, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(KOLMOGOROV, tmp_path / "part", COUNTS, **SMALL)
    folder = tmp_path / "part" / "data" / "train"
    assert [p.name for p in folder.iterdir()] == ["kolmogorov_00.partial.safetensors"]
    made.clear()
    monkeypatch.setattr(KolmogorovFlow, "advance", lambda *args: made.append(1) or advance(*args))
    resumed = content(generate(KOLMOGOROV, tmp_path / "part", COUNTS, **SMALL))
    assert len(made) == 3 * 5 - calls
    assert not list(folder.glob("*.partial.*"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[k], resumed[k]) for k in whole)


def test_a_batch_in_progress_is_kept_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    saved = []
    save = module._save
    monkeypatch.setattr(module, "_save", lambda *args: saved.append(args[1][0]) or save(*args))
    generate(KOLMOGOROV, tmp_path, {"train": 1}, **SMALL)
    assert saved == [1, 2, 3, 4, 5]


def test_a_broken_checkpoint_starts_the_batch_again(tmp_path, caplog):
    whole = content(generate(KOLMOGOROV, tmp_path / "a", COUNTS, **SMALL))
    partial = tmp_path / "b" / "data" / "train" / "kolmogorov_00.partial.safetensors"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"broken")
    again = content(generate(KOLMOGOROV, tmp_path / "b", COUNTS, **SMALL))
    assert "cannot be read" in caplog.text
    assert all(np.array_equal(whole[k], again[k]) for k in whole)


def test_open_dataset_makes_the_split_that_is_asked_for(home):
    ds = open_dataset("kolmogorov", "valid", splits=COUNTS, **SMALL)
    assert dict(ds.sizes) == {"sample": 1, "time": 4, "x": 16, "y": 16}
    assert not list(home.rglob("data/train"))
    assert open_dataset("kolmogorov", "train", splits=COUNTS, **SMALL).attrs["path"] == ds.attrs["path"]


def test_combinations_of_parameters(home):
    values = {"Rayleigh": [1e4, 2e4], "Prandtl": 0.5}
    folder = generate(RBC, splits={"train": 1}, shape=(16, 8), frames=2, spin_up=0.25, parameters=values)
    names = sorted(p.name for p in folder.rglob("*.hdf5"))
    assert names == ["rbc_Rayleigh_1e4_Prandtl_0.5_00.hdf5", "rbc_Rayleigh_2e4_Prandtl_0.5_00.hdf5"]
    ds = open_dataset(RBC.with_grid((16, 8)), "train", folder)
    assert ds.Rayleigh.values.tolist() == [1e4, 2e4] and ds.Prandtl.values.tolist() == [0.5, 0.5]
    assert abs(float(ds.buoyancy.isel(time=0, y=0).mean()) - 1) < 0.1
    with h5py.File(folder / "data" / "train" / names[1]) as file:
        assert file.attrs["seeds"].tolist() == [1]


def test_every_solver_has_a_card():
    assert {load_system(name).solver.name for name in ("kolmogorov", "rbc")} == set(SOLVERS)


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(well, "write", fail)
    with pytest.raises(InputError, match=r"no space left in .*PHYSINTERP_HOME.*run again to continue"):
        generate(KOLMOGOROV, tmp_path, COUNTS, **SMALL)
    assert not list(tmp_path.rglob("*.hdf5"))
    with pytest.raises(InputError, match="no space left"):
        generate(KOLMOGOROV, tmp_path / "b", {"train": 10**5}, frames=10**5)


def test_another_run_in_the_folder_is_refused(tmp_path):
    generate(KOLMOGOROV, tmp_path, {"train": 1}, **SMALL)
    with pytest.raises(InputError, match=r"holds another run; .*'frames': \(4, 5\)"):
        generate(KOLMOGOROV, tmp_path, {"train": 1}, **(SMALL | {"frames": 5}))
    assert json.loads((tmp_path / "generation.json").read_text())["recipe"]["frames"] == 4
    (tmp_path / "generation.json").unlink()
    with pytest.raises(InputError, match="not generated here"):
        generate(KOLMOGOROV, tmp_path, {"train": 1}, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"trian": 1}}, "no split 'trian'.*did you mean 'train'"),
        ({"parameters": {"viscosty": 1}}, "no parameter 'viscosty'.*'viscosity'"),
        ({"frames": 1}, "at least 2 frames"),
        ({"splits": {"train": 2_000_000, "valid": 1}}, "'train' and 'valid' would share"),
        ({"only": ["tset"]}, "did you mean 'test'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        generate(KOLMOGOROV, **options)
    with pytest.raises(InputError, match="no embedded solver"):
        generate(KOLMOGOROV.model_copy(update={"solver": None}))


def test_divergence_is_reported():
    unstable = {"viscosity": 1e-9, "cfl": 1e9, "max_step": 1e9}
    system = KOLMOGOROV.model_copy(update={"solver": KOLMOGOROV.solver.model_copy(update={"defaults": unstable})})
    with pytest.raises(FloatingPointError, match="lower cfl"):
        generate(system, splits={"train": 1}, shape=(64, 64), frames=3, spin_up=60.0)
