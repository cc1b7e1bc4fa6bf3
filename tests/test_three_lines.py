"""Every system goes through the same three lines: files of The Well, of APEBench and of a dated record."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from toy import PRESET, dataset, statistics

import physinterp
from physinterp.data import well
from physinterp.methods import ModelName
from physinterp.runs import Runs
from physinterp.system import System, load_system

NAME = ModelName("interpolant", "identity", "unet")


def model(card: System, data: Path) -> None:
    """Random weights, kept as those of a training."""
    preset = PRESET.model_copy(update={"step": card.dt})
    runs = Runs(card, preset, "toy", known=statistics(card), data=None if card.solver else str(data))
    network = runs._untrained(NAME, measured=False)
    noise = torch.randn(40, len(card.fields), *card.grid.shape, generator=torch.Generator().manual_seed(0))
    network.covariance.fit(0.3 * (noise + noise.roll(1, -2)))
    runs._ready(str(NAME), network, lambda folder: {"steps": 0, "seconds": 0.0})


def of_the_well(card: System, folder: Path) -> Path:
    values = {n: dataset(card, 2, 3)[n].values for n in card.field_names}
    well.write(
        folder / "data" / "test" / "a.hdf5",
        card,
        values,
        card.dt * np.arange(3),
        {p.name: p.default for p in card.parameters},
    )
    return folder


def of_apebench(card: System, folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["test/u"] = dataset(card, 2, 3)["vorticity"].values
        file["test/t"] = card.dt * np.arange(3)
    return folder / "a.h5"


def of_dates(card: System, folder: Path) -> Path:
    days = np.datetime64("2007-01-01", "ns") + np.arange(3) * np.timedelta64(1, "D")
    ds = dataset(card, 1, 3).isel(sample=0, drop=True).assign_coords(time=days)
    ds["msl"].attrs["units"] = "Pa"
    ds.to_netcdf(folder / "a.nc")
    return folder / "a.nc"


@pytest.mark.parametrize(
    ("name", "shape", "write"),
    [("rbc", (16, 8), of_the_well), ("kolmogorov", (16, 16), of_apebench), ("natlantic", (16, 32), of_dates)],
)
def test_three_lines(name, shape, write, tmp_path, fresh_home):
    system = load_system(name).with_grid(shape)
    data, out = write(system, tmp_path), tmp_path / "forecast.zarr"
    model(system, data)

    emulator = physinterp.load(name)
    states = physinterp.open_dataset(system, "test", data).isel(time=0)
    forecast = emulator.forecast(states, steps=2, members=3, out=out)

    for ds in (forecast, xr.open_zarr(out, consolidated=False)):
        assert {"member": 3, "lead_time": 2} | dict(zip(system.grid.names, shape, strict=True)) == {
            dim: n for dim, n in ds[system.field_names[0]].sizes.items() if dim not in ("sample", "init_time")
        }
        for field in system.fields:
            u = ds[field.name]
            assert u.attrs["units"] == field.units and u.attrs["long_name"] == field.long_name
            assert np.isfinite(u).all() and float(u.std("member").mean()) > 0
        assert ds.attrs["sampler"] == "si-em" and ds.attrs["seed"] == 0
