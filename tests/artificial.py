"""The results of a benchmark that nobody trained: noise around random fields, through the real evaluation and writers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from pytest import MonkeyPatch
from torch import Tensor
from toy import PRESET, RBC, dataset, emulator

from physinterp import benchmark, plot
from physinterp import evaluate as ev
from physinterp.autoencoder import Identity
from physinterp.baselines.reference import Persistence
from physinterp.emulator import Emulator
from physinterp.results import Results
from physinterp.system import System

SYSTEM = RBC.model_copy(update={"fields": (RBC.fields[0], RBC.fields[2])})  # two fields are drawn faster than four
ROWS = {  # size of the error, members, network evaluations
    "persistence": (2.0, 1, 0),
    "fno": (0.5, 1, 1),
    "deterministic": (0.2, 1, 1),
    "si-em": (0.2, 4, 2),
    "si-em/dcae-unet": (0.3, 4, 2),
}
LEADS, SAMPLES = 5, 6
WEIGHTS = {name: [None, None] if name == "persistence" else ["0123456789ab", None] for name in (*ROWS, "codec-dcae")}


def results(folder: Path, system: System = SYSTEM, budget: bool = True) -> Results:
    """A folder with the results of ROWS and empty plots; without `budget` as from an evaluation that has none."""
    e = emulator(system=system, stepper=Persistence())
    truth = ev.cases(dataset(system, SAMPLES, 2 * LEADS + 2), 2, LEADS, 1, PRESET.step)
    about = {"system": system, "preset": PRESET, "preset_name": "toy", "seed": 3, "device": "cpu", "data": "a <b> & c"}
    about |= {"split": "test", "command": "python -m physinterp.benchmark --system 'a <b>'", "runs": "none"}
    found = Results(folder, "key", about)
    for name, (size, members, evaluations) in ROWS.items():
        example: list[Tensor] = []
        forecasts = benchmark.noted(noisy(truth, system, size, members), example)
        if name == "si-em":
            forecasts = stored(list(forecasts), e, truth, folder / "forecast.zarr")
        ds = ev.evaluate(forecasts, truth, e)
        ds["example"] = ("lead_time", "field", *system.grid.names), torch.stack(example).numpy()
        record = {"seconds_per_step": 1e-3 * size}
        if evaluations:
            record |= {
                "evaluations": evaluations,
                "parameters": 1000,
                "seconds": 4.0,
                "steps": 4,
                "model": "x-identity-unet",
            }
        ds.attrs |= {"record": json.dumps(record), "weights": json.dumps(WEIGHTS[name])}
        found.add(name, parts(ds) if budget else ds)
    floor = ev.evaluate(noisy(truth, system, 0.01, 1), truth, e)
    found.add("codec/dcae", floor.assign_attrs(weights=json.dumps(WEIGHTS["codec-dcae"])))
    assert isinstance(e.codec, Identity)
    with MonkeyPatch.context() as patch:
        patch.setattr(plot, "save", lambda drawn, path: path.touch())
        patch.setattr(Results, "draw", lambda *args: None)
        found.write(system.field_names[:1], "si-em", WEIGHTS, 12.0)
    return found


def stored(forecasts: list[Tensor], e: Emulator, truth: ev.Cases, path: Path) -> list[Tensor]:
    """Forecasts, written as the benchmark does."""
    u = torch.stack(forecasts, 2)
    coords = {"sample": range(len(u)), "member": range(u.shape[1]), "lead_time": truth.truth.lead_time.values}
    e.stack.unpack(e.stack.normalise(u), coords).to_zarr(path, consolidated=False, zarr_format=2)
    known = truth.truth.drop_vars("trajectory").drop_attrs().drop_encoding()
    known.to_zarr(path, group="truth", mode="a", consolidated=False, zarr_format=2)
    return forecasts


def noisy(truth: ev.Cases, system: System, size: float, members: int) -> Iterator[Tensor]:
    """The truth and white noise that grows with the lead."""
    generator = torch.Generator().manual_seed(1)
    for k in range(LEADS):
        u = truth.lead(k, system.field_names, system.grid.names).unsqueeze(1)
        shape = (u.shape[0], members, *u.shape[2:])
        yield u + size * (1 + 0.2 * k) * torch.randn(shape, generator=generator)


def parts(ds: xr.Dataset) -> xr.Dataset:
    """The evaluation with an error budget: a tenth the codec, and one step what the first lead has."""
    error = ds["mse_of_mean"]
    first = error.isel(lead_time=0, drop=True).broadcast_like(error)
    power = 2 * ds["spectrum_truth"] * np.linspace(0.01, 0.5, LEADS)[:, None, None]
    return ds.assign(
        mse_member=error, mse_one_step=first, mse_floor=0.1 * first,
        error_spectrum_member=power, error_spectrum_one_step=0.5 * power, error_spectrum_floor=0.1 * power,
    )  # fmt: skip
