"""Data made here by an embedded solver, in The Well's layout: resumable, split by initial condition.

    ROOT/data/{train,valid,test}/NAME_00.hdf5 ...   one file per batch of trajectories
    ROOT/generation.json                            every parameter of the run, its key and its rate
    ROOT/checksums.json, ROOT/stats.yaml            see data/well.py and data/statistics.py

A finished file is never made again. A batch in progress keeps its state and frames in
`NAME_00.partial.safetensors`, written every 20 s and on interruption; the next run continues from it, on the
same device bitwise as if it had not stopped.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from torch import Tensor

from physinterp.checkpoint import load_json, load_tensors, save_json, save_tensors
from physinterp.config import home
from physinterp.data import well
from physinterp.data.recipe import Batch, Recipe, batches, plan
from physinterp.data.statistics import write_stats
from physinterp.errors import InputError
from physinterp.solvers import SOLVERS, Solver
from physinterp.system import System, near

log = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds between two checkpoints of a batch."""

Position = tuple[int, dict[str, Tensor]]
"""Advances made, and the state after them."""


def generate(
    system: System,
    root: str | Path | None = None,
    splits: Mapping[str, int] | None = None,
    *,
    shape: Sequence[int] | None = None,
    parameters: Mapping[str, float | Sequence[float]] | None = None,
    seed: int = 0,
    frames: int | None = None,
    spin_up: float | None = None,
    batch: int = 16,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    only: Sequence[str] | None = None,
) -> Path:
    """Make the data of a system with its embedded solver, or find them where they are complete.

    Arguments:
        system: a card with a `solver`.
        root: folder of the data; None is PHYSINTERP_HOME/data/NAME-KEY, where KEY is the hash of all
            parameters.
        splits: trajectories per split (and per combination of parameters); None is the card's.
        shape: grid; None is the card's.
        parameters: values of parameters or solver settings; several values make all combinations.
        seed: shifts all seeds by 10 million times itself; splits keep disjoint seeds.
        frames: stored frames per trajectory, `system.dt` apart; None is the card's.
        spin_up: simulated time before the first stored frame; None is the card's.
        batch: trajectories per file, advanced together.
        device: where the solver runs; no part of the key.
        dtype: of the solver; files are float32.
        only: make these splits now and leave the others for later.
    Returns:
        The folder.
    Raises:
        InputError: no solver, unknown names, another run in `root`, or no space left.
        FloatingPointError: the solver diverged.
    """
    recipe = plan(system, splits, shape, parameters, seed, frames, spin_up, batch, dtype)
    system = system.with_grid(recipe.shape)
    folder = Path(root) if root is not None else home() / "data" / f"{system.name}-{recipe.key}"
    wanted = tuple(recipe.splits) if only is None else tuple(only)
    for name in wanted:
        if name not in recipe.splits:
            raise InputError(f"no split {name!r}: {near(name, recipe.splits)}")
    _check_run(folder, recipe)
    todo = [b for name in wanted for b in batches(recipe, system, folder, name) if not b.path.is_file()]
    if not todo:
        return folder
    with _room(folder):
        _claim(folder, recipe, todo, len(system.fields))
        started, simulated = time.monotonic(), 0.0
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            duration = recipe.spin_up + (recipe.frames - 1) * recipe.dt
            task = bar.add_task(f"{system.name} data", total=duration * sum(len(b.seeds) for b in todo))
            for item in todo:
                simulated += _make(item, recipe, system, device, lambda units: bar.advance(task, units))
        _finish(folder, recipe, system, wanted, (time.monotonic() - started) / max(simulated, 1e-9), str(device))
    return folder


def rate(folder: str | Path) -> float | None:
    """Seconds per simulated time unit and trajectory of the last run that made files in a folder."""
    path = Path(folder) / "generation.json"
    return load_json(path).get("seconds_per_time_unit_and_trajectory") if path.is_file() else None


def _make(
    batch: Batch, recipe: Recipe, system: System, device: str | torch.device, report: Callable[[float], None]
) -> float:
    """Run one batch to its file; returns the simulated time times trajectories of this call."""
    arguments = {name.lower(): value for name, value in batch.settings.items()}
    try:
        solver: Solver = SOLVERS[recipe.solver](
            shape=recipe.shape,
            length=recipe.length,
            dtype=getattr(torch, recipe.dtype),
            device=device,
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{system.name}: the solver refuses its settings: {error}") from error
    if solver.fields != system.field_names:
        raise InputError(f"the card's fields {system.field_names} are not those of the solver {solver.fields}")
    # the first `warm` advances are the spin-up; frame i is the output after `warm` + i advances
    warm = math.ceil(recipe.spin_up - 1e-9)
    lengths = [recipe.spin_up / max(warm, 1)] * warm + [recipe.dt] * (recipe.frames - 1)
    position, frames = _restore(batch, solver, device)
    begun, saved = position[0], time.monotonic()
    report(sum(lengths[:begun]) * len(batch.seeds))
    try:
        for step in range(begun, len(lengths)):
            if len(frames) == step - warm:
                frames.append(_frame(solver, position[1]))
            # one assignment, so that an interruption never finds a step that belongs to another state
            position = (step + 1, solver.advance(position[1], lengths[step]))
            report(lengths[step] * len(batch.seeds))
            if time.monotonic() - saved > PATIENCE:
                _save(batch, position, frames)
                saved = time.monotonic()
    except BaseException:
        _save(batch, position, frames)
        raise
    frames.append(_frame(solver, position[1]))
    values = torch.stack(frames, 1).numpy()
    fields = {name: values[:, :, i] for i, name in enumerate(solver.fields)}
    times = recipe.spin_up + recipe.dt * np.arange(recipe.frames)
    scalars = {p.name: batch.settings[p.name] for p in system.parameters}
    others = {k: v for k, v in batch.settings.items() if k not in scalars}
    well.write(batch.path, system, fields, times, scalars, {**others, "seeds": list(batch.seeds), "key": recipe.key})
    batch.partial.unlink(missing_ok=True)
    return sum(lengths[begun:]) * len(batch.seeds)


def _frame(solver: Solver, state: dict[str, Tensor]) -> Tensor:
    return solver.output(state).to("cpu", torch.float32)


def _save(batch: Batch, position: Position, frames: list[Tensor]) -> None:
    step, state = position
    tensors = {f"state.{name}": value for name, value in state.items()} | {"step": torch.tensor(step)}
    save_tensors(tensors | ({"frames": torch.stack(frames)} if frames else {}), batch.partial)


def _restore(batch: Batch, solver: Solver, device: str | torch.device) -> tuple[Position, list[Tensor]]:
    """Position and frames of a batch in progress, or its initial condition."""
    if batch.partial.is_file():
        try:
            tensors = load_tensors(batch.partial)
            step, frames = int(tensors.pop("step")), list(tensors.pop("frames", []))
            log.info("%s: continuing after %d steps", batch.path.name, step)
            return (step, {name.removeprefix("state."): value.to(device) for name, value in tensors.items()}), frames
        except (InputError, KeyError) as error:
            log.warning("%s cannot be read (%s); this batch starts again", batch.partial, error)
    return (0, solver.initial(batch.seeds)), []


def _check_run(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder with the data of another run."""
    note = folder / "generation.json"
    if not note.is_file():
        if well.splits(folder):
            raise InputError(f"{folder} holds data that were not generated here; choose another folder")
        return
    found, ours = load_json(note), _plain(recipe)
    if found["key"] != recipe.key:
        different = {k: (found["recipe"].get(k), v) for k, v in ours.items() if found["recipe"].get(k) != v}
        raise InputError(f"{folder} holds another run; (found, asked): {different}; choose another folder or delete it")


def _claim(folder: Path, recipe: Recipe, todo: Sequence[Batch], channels: int) -> None:
    """Note the recipe in the folder; refuse too small a disk."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = 4 * channels * math.prod(recipe.shape) * recipe.frames * sum(len(b.seeds) for b in todo)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, "No space left on device")
    note = folder / "generation.json"
    if not note.is_file():
        save_json({"key": recipe.key, "recipe": _plain(recipe)}, note)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON gives it back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def _finish(folder: Path, recipe: Recipe, system: System, splits: Sequence[str], speed: float, device: str) -> None:
    note = folder / "generation.json"
    found = load_json(note)
    save_json(found | {"seconds_per_time_unit_and_trajectory": speed, "device": device}, note)
    if "train" in splits:
        write_stats(folder / "stats.yaml", well.read(folder, "train", system), system, f"training split, {recipe.key}")
    log.info("%s: %.3g s per time unit and trajectory on %s, in %s", system.name, speed, device, folder)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A full disk as one clear line; what was finished stays and a later run continues from it."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error) or "errno = 28" in str(error)
        if not full:  # h5py raises RuntimeError
            raise
        raise InputError(
            f"no space left in {folder}: finished files are kept; free space, or set PHYSINTERP_HOME to a "
            "larger disk, and run again to continue"
        ) from error
