"""Training: one loop for every objective, with a budget, a search of the learning rate, a log and resumption.

The learning rate rises over the first 2 % of the budget, stays constant, and falls linearly to zero over the last part:

    lr(p) = lr min(1, p / 0.02) min(1, (1 - p) / decay),   p = share of the budget that is used

A training may stop where the fall begins: what starts from there instead falls over all of its own budget.

Each batch is moved by a random distance along the axes on which the equations do not vary: strided networks are not
exactly equivariant, and trajectories are few.

Weights for use are an exponential moving average. Batches depend on the seed and the number of the step alone, so with
a budget in steps an interrupted training that resumes gives the weights of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from physinterp.checkpoint import load_tensors, reading, save_tensors
from physinterp.config import Training
from physinterp.optim import optimizers
from physinterp.pairs import Batch, Pairs
from physinterp.types import Conditioning

LOGGER = logging.getLogger(__name__)

WARMUP = 0.02  # share of the budget over which the learning rate rises
SEARCH = 0.05  # share of the budget that each candidate of the learning rate gets
STATE = "state.safetensors"  # the state of a training in its folder
SAVE_SECONDS = 30.0  # between two savings of the state of a training


class Objective(Protocol):
    """Anything with a loss of two successive states."""

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        """A scalar."""
        ...


@dataclass
class _Run:
    """State of a training that is saved and resumed: raw weights, their average, moments, counters."""

    model: nn.Module
    rate: float
    step: int = 0
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        self.optimizers = optimizers(self.model, self.rate)
        self.average = {k: v.detach().clone() for k, v in self.model.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        moments = {
            f"moment.{name}.{key}": value
            for name, p in self.model.named_parameters()
            for optimizer in self.optimizers
            for key, value in optimizer.state.get(p, {}).items()
        }
        raw = {f"raw.{k}": v for k, v in self.model.state_dict().items()}
        counters = torch.tensor([self.step, self.elapsed, self.rate], dtype=torch.float64)
        return {**raw, **{f"average.{k}": v for k, v in self.average.items()}, **moments, "counters": counters}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        step, self.elapsed, self.rate = saved["counters"].tolist()
        self.step, self.optimizers = int(step), optimizers(self.model, self.rate)
        self.model.load_state_dict({k[4:]: v for k, v in saved.items() if k.startswith("raw.")})
        for name, p in self.model.named_parameters():
            self.average[name].copy_(saved[f"average.{name}"])
            owner = next(o for o in self.optimizers if any(p is q for g in o.param_groups for q in g["params"]))
            prefix = f"moment.{name}."
            found = {k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}
            owner.state[p] = {k: v.clone() if k == "step" else v.to(p.device, copy=True) for k, v in found.items()}

    def averaged(self) -> dict[str, Tensor]:
        """State dict for use: averaged parameters, the buffers as they are."""
        return {k: self.average.get(k, v).detach().clone() for k, v in self.model.state_dict().items()}

    @contextlib.contextmanager
    def use_average(self) -> Iterator[None]:
        raw = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged())
        try:
            yield
        finally:
            self.model.load_state_dict(raw)


class Trainer:
    """Trains one objective on pairs; see the module.

    Arguments:
        plan: batch, budget, rates.
        seed: of batches and noise.
        folder: log.jsonl and, until the training is complete, the state for resumption.
        device: where to train, as Lightning Fabric's accelerator ("cpu", "cuda", "auto").
    """

    def __init__(self, plan: Training, seed: int, folder: Path, device: str = "cpu") -> None:
        self.plan, self.seed, self.folder, self.decay = plan, seed, folder, 1.0
        from lightning_fabric import Fabric  # takes seconds to import, and only training needs it

        self.waited = self.spent = 0.0  # seconds, for batches and in all
        self.fabric = Fabric(accelerator=device, devices=1, precision=plan.precision)

    def fit(
        self,
        model: nn.Module,
        train: Pairs,
        valid: Pairs,
        budget: float,
        label: str,
        decay: float = 1.0,
        until: float = 1.0,
    ) -> dict[str, Any]:
        """Train in place; the model ends with averaged weights.

        Arguments:
            model: an objective (`Objective`).
            train, valid: pairs; `valid` chooses the learning rate and is reported.
            budget: share of the plan's budget that this training may use, the search included.
            label: for the progress bar.
            decay: share of this training over which the learning rate falls.
            until: stop at this share; the next call goes on from the state in the folder, also when it is
                complete, until what was trained has been saved elsewhere.
        Returns:
            Record: steps, seconds, learning_rate, valid_loss, the losses of the search, and the share of its time that it
            waited for batches.
        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.decay = decay
        state = self.folder / STATE
        model.to(self.fabric.device)
        rates = self.plan.learning_rates
        search: dict[str, float] = {}
        self.waited = self.spent = 0.0
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task(label, total=1.0)
            tick = lambda p: progress.update(bar, completed=p)  # noqa: E731
            if state.exists():
                run = _Run(model, rates[0])
                with reading(state):
                    run.restore(load_tensors(state))
                LOGGER.info("%s: resumed at step %d", label, run.step)
            elif len(rates) == 1:
                run = _Run(model, rates[0])
            else:
                run, search = self._search(model, train, valid, budget, tick)
            self._advance(run, train, budget, until, tick, state)
            save_tensors(run.tensors(), state)
            model.load_state_dict(run.averaged())
        return {
            "steps": run.step,
            "seconds": round(run.elapsed, 1),
            "learning_rate": run.rate,
            **({"search": search} if search else {}),
            "valid_loss": self.validate(model, valid),
            "pairs": len(train),
            "waiting": round(self.waited / max(self.spent, 1e-9), 4),
        }

    def _search(self, model: nn.Module, train: Pairs, valid: Pairs, budget: float, tick: Any) -> tuple[_Run, dict]:
        """Each learning rate gets the same steps from the same start, a small share of the budget; the best one goes on."""
        first = {k: v.detach().clone() for k, v in model.state_dict().items()}
        losses: dict[str, float] = {}
        best: dict[str, Tensor] = {}
        spent, steps = 0.0, None
        for rate in self.plan.learning_rates:
            model.load_state_dict(first)
            run = _Run(model, rate)
            try:
                self._advance(run, train, budget, SEARCH, tick, None, steps)
                with run.use_average():
                    loss = self.validate(model, valid)
            except FloatingPointError:
                loss = math.inf
            losses[f"{rate:g}"] = loss if math.isfinite(loss) else math.inf
            spent, steps = spent + run.elapsed, steps or (run.step if math.isfinite(loss) else None)
            if math.isfinite(loss) and loss <= min(losses.values()):
                best = {k: v.detach().clone() for k, v in run.tensors().items()}
        if not best:
            raise FloatingPointError(f"the loss is not finite at any learning rate of {list(losses)}: lower them")
        run.restore(best)
        run.elapsed, run.step = spent, run.step * len(self.plan.learning_rates)
        return run, losses

    def _advance(
        self,
        run: _Run,
        train: Pairs,
        budget: float,
        until: float,
        tick: Any,
        state: Path | None,
        steps: int | None = None,
    ) -> None:
        """Optimise until the share `until` of the budget is used, or for a number of steps where one is given."""
        model, *updates = self.fabric.setup(run.model, *run.optimizers)
        model.mark_forward_method("loss")
        full = [o.param_groups[0]["lr"] for o in run.optimizers]
        plan, begun, saved = self.plan, time.perf_counter() - run.elapsed, time.perf_counter()
        following = self._draw(train, run.step)
        with (self.folder / "log.jsonl").open("a") as log:
            while run.step < (steps or math.inf):
                p = plan.used(run.step, run.elapsed, budget)
                if p >= until and not steps:
                    break
                factor = min(1.0, (p + 1e-3) / WARMUP) * min(1.0, (1 - p) / self.decay)
                rate = run.rate * factor
                for optimizer, lr in zip(run.optimizers, full, strict=True):
                    optimizer.param_groups[0]["lr"] = lr * factor
                drawn, following = following, self._draw(train, run.step + 1)
                loss, norm = self._step(model, updates, *drawn, train.homogeneous)
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"loss is {loss.item()} at step {run.step}, learning rate {rate:.2g}: lower it")
                run.step += 1
                decay = min(plan.average, (1 + run.step) / (10 + run.step))
                parameters = dict(run.model.named_parameters())
                torch._foreach_lerp_(list(run.average.values()), [parameters[k].detach() for k in run.average], 1 - decay)
                now = time.perf_counter() - begun
                self.spent, run.elapsed = self.spent + now - run.elapsed, now
                if run.step % 10 == 1:
                    row = {"step": run.step, "seconds": round(run.elapsed, 2), "used": round(p, 4)}
                    row |= {"learning_rate": rate, "candidate": run.rate, "loss": loss.item(), "gradient_norm": norm.item()}
                    log.write(json.dumps(row) + "\n")
                    tick(p)
                if state is not None and time.perf_counter() - saved > SAVE_SECONDS:
                    save_tensors(run.tensors(), state)
                    saved = time.perf_counter()

    def _draw(self, train: Pairs, step: int) -> tuple[Callable[[], Batch], torch.Generator]:
        """The batch of a step, which depends on the seed and the step alone, and the generator that drew it."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return train.later(torch.randint(len(train), (self.plan.batch,), generator=generator)), generator

    def _step(
        self,
        model: Any,
        optimizers: list[Any],
        batch: Callable[[], Batch],
        generator: torch.Generator,
        homogeneous: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        asked = time.perf_counter()
        x0, x1, cond = _to(batch(), self.fabric.device)
        self.waited += time.perf_counter() - asked
        for axis in homogeneous:
            shift = int(torch.randint(x0.shape[axis], (), generator=generator))
            x0, x1 = x0.roll(shift, axis), x1.roll(shift, axis)
        loss = model.loss(x0, x1, cond, generator)
        model.zero_grad()
        self.fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self.plan.clip)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach(), norm

    @torch.no_grad()
    def validate(self, model: Any, valid: Pairs, batches: int = 8) -> float:
        """Mean loss over pairs spread evenly over the validation split, with the same noise every time."""
        training = model.training
        model.eval()
        generator = torch.Generator().manual_seed(0)
        count = min(len(valid), batches * self.plan.batch)
        index = torch.linspace(0, len(valid) - 1, count).long()
        index = index[torch.randperm(count, generator=generator)]
        losses = []
        for rows in index.split(self.plan.batch):
            x0, x1, cond = _to(valid.select(rows), self.fabric.device)
            losses.append(model.loss(x0, x1, cond, generator).item() * len(rows))
        model.train(training)
        return sum(losses) / count


def _to(batch: Batch, device: torch.device) -> Batch:
    x0, x1, cond = batch
    parameters = None if cond.parameters is None else cond.parameters.to(device)
    return x0.to(device), x1.to(device), Conditioning(parameters)
