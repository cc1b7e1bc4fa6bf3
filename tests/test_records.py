"""Training and evaluation on data that no embedded solver made: a record of weather, files of The Well, own arrays."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from physinterp import benchmark, runs
from physinterp.baselines.reference import Season
from physinterp.benchmark import Options, run
from physinterp.config import Training, load_benchmark
from physinterp.data import convert, open_dataset
from physinterp.errors import InputError
from physinterp.methods import ModelName
from physinterp.pairs import HeldPairs, WindowPairs
from physinterp.runs import Runs
from physinterp.system import load_system

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
        waves = [np.sin(y) * np.sin(2 * np.pi * (x - 0.05 * t) + n + k) for n in range(3)]
        np.save(folder / f"{split}.npy", np.stack(waves).astype(np.float32))
    return folder


# a record ----------------------------------------------------------------------------------------------------------


@needs_shared
def test_persistence_and_climatology_of_a_record(short, tmp_path):
    """Against the numbers of the data's README: all days of 2007 and 2008, in Pa."""
    short(starts=726, lead=5)
    found = run(Options("natlantic", data=NATLANTIC, methods=("persistence", "climatology"), out=tmp_path / "out"))
    rmse = {
        name: np.sqrt(ds["mse_of_mean"].sel(field="msl").mean("case")).sel(lead_time=[1, 2, 3, 5]).values
        for name, ds in found.scores.items()
    }
    np.testing.assert_allclose(rmse["persistence"], [641, 908, 1023, 1155], rtol=0.01)
    np.testing.assert_allclose(rmse["climatology"], 907, rtol=0.02)  # fitted on one year less
    blocks = next(iter(found.scores.values()))["trajectory"].values
    assert len(set(blocks)) == 24 and blocks[0] == "2007-01" and len(blocks) == 726
