"""Small systems, states and emulators for tests: the shipped cards at a low resolution, untrained or formula steppers."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import nn

from physinterp.autoencoder import Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.config import Preset, Training
from physinterp.data.statistics import Statistics
from physinterp.drift import Drift
from physinterp.emulator import Emulator, SampledStepper
from physinterp.fields import FieldStack
from physinterp.methods import ModelName, make_codec, make_model, make_sampler, method
from physinterp.system import System, load_system

RBC = load_system("rbc").with_grid((16, 8))
KOLMOGOROV = load_system("kolmogorov").with_grid((16, 16))

PRESET = Preset(
    step=0.5,
    networks={
        "unet": {"widths": [8, 16]},
        "fno": {"modes": [4, 4], "width": 8, "layers": 2},
        "dcae": {"latent_channels": 4, "widths": [8, 16], "patch": 1},
        "dcae-unet": {"widths": [8, 16]},
    },
    training=Training(steps=4),
    methods=("si-em",),
    steps={"si-e": 2, "si-em": 2, "ddpm": 3, "edm": 2},
)


def statistics(system: System) -> Statistics:
    """Some numbers that differ between fields."""
    n = len(system.fields)
    return Statistics(system.field_names, tuple(0.5 * i for i in range(n)), tuple(1.0 + i for i in range(n)), (1.0,) * n)


def dataset(system: System, samples: int = 3, frames: int | None = None, seed: int = 0) -> xr.Dataset:
    """Random smooth fields in physical units, dims (sample[, time], *space), with parameters and trajectories."""
    rng = np.random.default_rng(seed)
    leading = {"sample": samples} | ({"time": frames} if frames else {})
    shape = (*leading.values(), *system.grid.shape)
    values = {}
    for field in system.fields:
        u = rng.standard_normal(shape)
        values[field.name] = ((*leading, *system.grid.names), (u + np.roll(u, 1, -1) + np.roll(u, 1, -2)).astype(np.float32))
    coords = {p.name: ("sample", np.full(samples, p.default)) for p in system.parameters}
    times = {"time": system.dt * np.arange(frames)} if frames else {}
    trajectory = ("sample", [f"a/{i}" for i in range(samples)])
    return xr.Dataset(values, coords={**system.grid.coords, **coords, **times, "trajectory": trajectory})


def emulator(
    name: str = "si-em",
    system: System = RBC,
    micro_batch: int = 4,
    codec: str = "identity",
    stepper: nn.Module | None = None,
    correlation: float = 0.0,
    bound: float = 1e9,
) -> Emulator:
    """An emulator of random weights, or of the given stepper."""
    torch.manual_seed(0)
    stack = FieldStack(system.fields, system.grid, statistics(system))
    options = {"correlation": correlation, "bound": bound}
    if stepper is not None:
        return Emulator(system, stack, Identity(len(system.fields)), stepper, 0.5, micro_batch, **options)
    row = method(name)
    assert row.objective is not None
    encoder = make_codec(codec, system, PRESET).eval()
    shape = (encoder.latent_channels, *encoder.latent_shape(system.grid.shape))
    what = ModelName(row.objective, codec, row.backbone or "unet")
    model = make_model(what, system, PRESET, shape, torch.full(shape[:1], 0.3)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in [*model.parameters(), *encoder.parameters()]:  # layers that start at zero would hide what is tested
            if not p.is_complex():
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    if isinstance(model, Drift | Deterministic):
        white = torch.randn(40, *shape, generator=generator)
        model.covariance.fit(0.3 * (white + white.roll(1, -2)))
    stepper = SampledStepper(model, make_sampler(row, model, PRESET.steps))
    return Emulator(system, stack, encoder, stepper, 0.5, micro_batch, **options)
