"""What to generate: every parameter that decides the content of the files, and the files themselves."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from physinterp.errors import InputError
from physinterp.system import System, near

FORMAT = 1
"""Raised when a change of the solvers or of the files makes older data unlike new ones."""
SEED_STRIDE = 10_000_000


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the content of the files; its hash names the folder.

    Attributes:
        settings: one mapping of solver arguments and parameters per combination.
        splits: per split (trajectories per combination, first seed).
    """

    system: str
    solver: str
    shape: tuple[int, ...]
    length: tuple[float, ...]
    dt: float
    frames: int
    spin_up: float
    settings: tuple[dict[str, float], ...]
    splits: dict[str, tuple[int, int]]
    batch: int
    dtype: str
    format: int = FORMAT

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Batch:
    """One file: trajectories of one split and one combination of parameters."""

    path: Path
    settings: dict[str, float]
    seeds: tuple[int, ...]

    @property
    def partial(self) -> Path:
        """Where the batch in progress is kept."""
        return self.path.with_suffix(".partial.safetensors")


def plan(
    system: System,
    splits: Mapping[str, int] | None = None,
    shape: Sequence[int] | None = None,
    parameters: Mapping[str, float | Sequence[float]] | None = None,
    seed: int = 0,
    frames: int | None = None,
    spin_up: float | None = None,
    batch: int = 16,
    dtype: torch.dtype = torch.float64,
) -> Recipe:
    """The recipe of a run: the card's defaults with the given values put in; arguments as in `generate`."""
    solver = system.solver
    if solver is None:
        raise InputError(f"{system.name} has no embedded solver: give data=PATH of downloaded data ({system.source})")
    counts = dict(splits) if splits is not None else {name: split.trajectories for name, split in system.splits.items()}
    for name in counts:
        if name not in system.splits:
            raise InputError(f"no split {name!r} in the card of {system.name}: {near(name, system.splits)}")
    values = {p.name: p.default for p in system.parameters} | dict(solver.defaults)
    for name in parameters or {}:
        if name not in values:
            raise InputError(f"no parameter {name!r} of {system.name}: {near(name, values)}")
    lists = {
        k: np.atleast_1d(np.asarray(v, dtype=np.float64)).tolist() for k, v in (values | dict(parameters or {})).items()
    }
    settings = tuple(dict(zip(lists, combination, strict=True)) for combination in itertools.product(*lists.values()))
    frames = solver.frames if frames is None else frames
    spin_up = solver.spin_up if spin_up is None else spin_up
    if min([frames - 1, batch, *counts.values()]) < 1 or spin_up < 0 or seed < 0:
        raise InputError(
            f"expected at least 2 frames, 1 trajectory per split and batch, spin_up and seed >= 0; found "
            f"frames {frames}, splits {counts}, batch {batch}, spin_up {spin_up}, seed {seed}"
        )
    seeds = {name: (n, system.splits[name].seed + SEED_STRIDE * seed) for name, n in counts.items()}
    ranges = sorted((first, first + n * len(settings), name) for name, (n, first) in seeds.items())
    for (_, end, one), (start, _, other) in itertools.pairwise(ranges):
        if start < end:
            raise InputError(f"splits {one!r} and {other!r} would share initial conditions; ask for fewer trajectories")
    grid = system.grid.with_shape(shape) if shape is not None else system.grid
    return Recipe(
        system.name,
        solver.name,
        grid.shape,
        tuple(axis.length for axis in grid.axes),
        system.dt,
        frames,
        spin_up,
        settings,
        seeds,
        batch,
        str(dtype).removeprefix("torch."),
    )


def batches(recipe: Recipe, system: System, folder: Path, split: str) -> list[Batch]:
    """The files of a split, named as those of The Well, with the seeds of each."""
    count, first = recipe.splits[split]
    found = []
    names = [parameter.name for parameter in system.parameters]
    varied = [k for k in recipe.settings[0] if k not in names and len({s[k] for s in recipe.settings}) > 1]
    for c, settings in enumerate(recipe.settings):
        seeds = range(first + c * count, first + (c + 1) * count)
        label = "".join(f"_{name}_{_label(settings[name])}" for name in (*names, *varied))
        for i, start in enumerate(range(0, count, recipe.batch)):
            path = folder / "data" / split / f"{recipe.system}{label}_{i:02d}.hdf5"
            found.append(Batch(path, settings, tuple(seeds[start : start + recipe.batch])))
    return found


def _label(value: float) -> str:
    """1e6, 0.5, 2e-3: as in The Well's file names."""
    mantissa, _, exponent = f"{value:g}".partition("e")
    if not exponent and abs(value) >= 1000:
        mantissa, _, exponent = f"{value:.5e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa
