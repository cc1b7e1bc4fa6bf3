"""What is measured of a trained model on pairs of states: its residuals, and from them weights, covariance and inflation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from physinterp.baselines.deterministic import Deterministic
from physinterp.calibration import PATTERNS
from physinterp.drift import ForecastDrift, StateDrift
from physinterp.model import Model
from physinterp.pairs import Pairs
from physinterp.types import Conditioning

VALUES, FEWEST, MOST = 2**23, 4 * PATTERNS, 1024
"""Numbers in the states that are measured together, which bounds the memory, but between a fewest and a most of states."""


@torch.inference_mode()
def forecasts(step: Callable[[Tensor, Conditioning], Tensor], pairs: Pairs, device: str) -> tuple[Tensor, Tensor]:
    """The step of a model from x0, and x1, on pairs spread evenly, both (N, C, *S) on the CPU."""
    found, truths = [], []
    for rows in _spread(pairs):
        x0, x1, cond = pairs.select(rows)
        parameters = None if cond.parameters is None else cond.parameters.to(device)
        found.append(step(x0.to(device), Conditioning(parameters)).cpu())
        truths.append(x1)
    return torch.cat(found), torch.cat(truths)


def residuals(mean: Callable[[Tensor, Conditioning], Tensor], pairs: Pairs, device: str) -> Tensor:
    """x1 - E[x1 | x0] on pairs spread evenly, shape (N, C, *S), on the CPU."""
    means, truths = forecasts(mean, pairs, device)
    return truths - means


def shrink(twin: Deterministic, train: Pairs, valid: Pairs, device: str) -> None:
    """Measure how far the forecasts of a trained twin are to be trusted."""
    states = torch.cat([train.select(rows)[1] for rows in _spread(train)])
    twin.shrinkage.fit(states, *forecasts(twin.raw, valid, device))


def calibrate(model: Model, train: Pairs, valid: Pairs, device: str) -> None:
    """Measure what a model needs after its training, or a drift from a forecast between that of its twin and its own."""
    if isinstance(model, ForecastDrift):
        shrink(model.twin, train, valid, device)
        of_valid, of_train = (residuals(model.mean, pairs, device) for pairs in (valid, train))
        model.covariance.fit(of_valid)
        ratio = of_valid.square().mean((0, 2, 3)) / of_train.square().mean((0, 2, 3))
        model.inflation.copy_(ratio.sqrt().clamp(min=1)[:, None, None])
    elif isinstance(model, Deterministic):
        shrink(model, train, valid, device)
        model.covariance.fit(residuals(model.mean, valid, device))
    elif isinstance(model, StateDrift):
        model.covariance.fit(residuals(model.mean, valid, device), model.covariance.sigma)


def _spread(pairs: Pairs, batch: int = 64) -> tuple[Tensor, ...]:
    """Numbers of pairs, spread evenly, in batches."""
    values = pairs.select(torch.zeros(1, dtype=torch.long))[1].numel()
    count = min(len(pairs), max(FEWEST, min(MOST, VALUES // values)))
    return torch.linspace(0, len(pairs) - 1, count).long().split(batch)
