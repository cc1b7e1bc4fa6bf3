"""The watchdog of a rollout: a member whose values are not finite, or far from the training data, is lost, and said so."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physinterp.fields import FieldStack
from physinterp.initial import Rows
from physinterp.system import Parameter

LOGGER = logging.getLogger(__name__)

BOUND = 50.0  # standard deviations of the training data
MESSAGES = 10
FAR = 10.0  # standard deviations: sound values hardly get there


@dataclass(frozen=True)
class Blowup:
    """Where a member was lost.

    Attributes:
        variable: the field in which it was worst.
        place: coordinate per axis of its worst value.
        value: that value, in standard deviations from the training mean; it may be NaN.
        step, lead_time: the first step without values, from 1, and its physical time.
        sample, member: which forecast: index of the sample, number of the member.
        cause: the likely one, in words.
    """

    variable: str
    place: dict[str, float]
    value: float
    step: int
    lead_time: float
    sample: int
    member: int
    cause: str

    def __str__(self) -> str:
        where = ", ".join(f"{name} = {at:.6g}" for name, at in self.place.items())
        what = f"{self.value:.3g} standard deviations from its mean" if math.isfinite(self.value) else "not finite"
        return (
            f"sample {self.sample}, member {self.member} is lost from step {self.step} (lead time {self.lead_time:.6g}) on: "
            f"{self.variable} is {what} at {where}; likely cause: {self.cause}"
        )


class Watchdog:
    """Finds lost members: |x| <= bound fails for a normalised value x, which a NaN does too.

    Arguments:
        stack: names, grid and normalisation of the fields.
        parameters: of the card, in the order of the columns that `begin` is given.
        dt: physical time of a step.
        bound: in standard deviations of the training data.
    Attributes:
        blowups: what was found, in the order of finding.
    """

    def __init__(self, stack: FieldStack, parameters: Sequence[Parameter], dt: float, bound: float = BOUND) -> None:
        self.stack, self.parameters, self.dt, self.bound = stack, tuple(parameters), dt, bound
        self.blowups: list[Blowup] = []

    def begin(self, rows: Rows, x: Tensor, first: Tensor | None = None, lost: Tensor | None = None) -> None:
        """Take up a batch of rows.

        Arguments:
            rows: what each of them is.
            x: their normalised fields (R, C, *S) before the first step that is checked.
            first: those of the initial state, where they are known.
            lost: rows that are lost already, (R,).
        """
        self._rows, self._peak = rows, _peaks(x)
        self._first = None if first is None else _peaks(first)
        self.lost = torch.zeros(len(rows.sample), dtype=torch.bool) if lost is None else lost.clone()

    def check(self, x: Tensor, step: int) -> Tensor:
        """Rows that are lost by a step (from 1), shape (R,) of bool; x (R, C, *S), normalised, on the CPU."""
        peak = _peaks(x)
        lost = ~(peak <= self.bound).all(1)
        if bool(lost.any()):
            for row in (lost & ~self.lost).nonzero().flatten().tolist():
                self._report(row, x[row].numpy(), step)
            self.lost |= lost
        self._peak = peak
        return self.lost

    def _report(self, row: int, x: np.ndarray, step: int) -> None:
        """Record a member that is lost now; the first of a field is logged."""
        size = np.where(np.isfinite(x), np.abs(x), np.inf)
        channel, *index = map(int, np.unravel_index(size.argmax(), x.shape))
        axes = self.stack.grid.axes
        found = Blowup(
            variable=self.stack.names[channel],
            place={axis.name: float(axis.points[i]) for axis, i in zip(axes, index, strict=True)},
            value=float(x[channel, *index]),
            step=step,
            lead_time=step * self.dt,
            sample=int(self._rows.sample[row]),
            member=int(self._rows.member[row]),
            cause=self._cause(row, size),
        )
        if found.variable not in {b.variable for b in self.blowups}:
            LOGGER.warning("%s", found)
        self.blowups.append(found)

    def _cause(self, row: int, size: np.ndarray) -> str:
        """What may have done it, from the state at the start, the parameters and the step before."""
        if self._first is not None and float(self._first[row].max()) > FAR:
            peak, channel = self._first[row].max(0)
            return (
                f"{self.stack.names[int(channel)]} of the initial state is up to {float(peak):.3g} standard deviations from "
                "the training mean; check its units, and that the model is of this system"
            )
        for i, parameter in enumerate(self.parameters):
            if abs(float(self._rows.table[row, i])) > 1 + 1e-6:
                low, high = parameter.values
                return f"the parameter {parameter.name} lies outside {low:g} to {high:g}, the range of the card"
        before = float(self._peak[row].max())
        if before > FAR:
            return (
                f"growth over several steps, {before:.3g} standard deviations in the step before: the rollout is unstable; "
                "try a sampler with less noise, or train longer"
            )
        share = float((size > self.bound).mean())
        if share > 0.5:
            return (
                f"a network that returns {share:.0%} unusable values for a sound state ({before:.3g} standard deviations): "
                "its weights are damaged, or it overflows"
            )
        return (
            f"a jump from a sound state ({before:.3g} standard deviations) at {share:.2%} of the values: too much noise, or "
            "a state unlike the training data"
        )


def messages(attrs: Mapping[str, Any], blowups: Sequence[Blowup]) -> dict[str, str]:
    """The attribute `blowups` of a forecast, one line per lost member: those in `attrs`, then the new ones; at most ten."""
    lines = list(dict.fromkeys([*attrs.get("blowups", "").splitlines(), *map(str, blowups[:MESSAGES])]))
    return {"blowups": "\n".join(lines[:MESSAGES])} if lines else {}


def _peaks(x: Tensor) -> Tensor:
    """Largest absolute value per row and channel, NaN where there is a NaN: (R, C, *S) -> (R, C)."""
    low, high = x.flatten(2).aminmax(dim=2)
    return torch.maximum(-low, high)
