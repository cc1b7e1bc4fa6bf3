"""What a user asks of a benchmark."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What a user asks for; None leaves the choice to the preset.

    Attributes:
        system: name of the card.
        sampler: a row of METHODS with a sampler, shown in `forecast.zarr` and in the field panels.
        preset: name of the preset.
        data: evaluate on these files, not on the generated test split; with a card that has no solver, train on them, too.
        train: train on `data` though the card has a solver.
        methods: rows of the table, where not those of the preset.
        steps: sampler steps of the row `sampler`.
        members: ensemble size.
        lead: number of leads.
        seed: of training and of forecasts.
        device: "cpu" or "cuda".
        out: folder of the results.
        retrain: train again.
    """

    system: str
    sampler: str | None = None
    preset: str | None = None
    data: str | Path | None = None
    train: bool = False
    methods: tuple[str, ...] | None = None
    steps: int | None = None
    members: int | None = None
    lead: int | None = None
    seed: int = 0
    device: str = "cpu"
    out: Path | None = None
    retrain: bool = False

    def command(self) -> str:
        """The command line that asks for this."""
        words = ["python", "-m", "physinterp.benchmark"]
        for option in fields(self):
            value = getattr(self, option.name)
            if value is True and option.name != "retrain":
                words.append(f"--{option.name}")
            elif value != option.default and option.name != "retrain":
                words += [f"--{option.name}", ",".join(value) if isinstance(value, tuple) else str(value)]
        return shlex.join(words)
