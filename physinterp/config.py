"""Where user files live, and the strict configuration of a benchmark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


from pydantic import BaseModel, ConfigDict, Field, model_validator


def home() -> Path:
    """Folder of generated data, trained models and encoded latents: `PHYSINTERP_HOME` or ~/.cache/physinterp."""
    return Path(os.environ.get("PHYSINTERP_HOME", "~/.cache/physinterp")).expanduser()


class Strict(BaseModel):
    """Base of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Strict):
    """How every learned method of a preset is trained.

    The budget is the whole training of one method: the twin, the codec and the search of the learning rate count.

    Attributes:
        seconds: budget in wall-clock seconds; steps: or in optimiser steps (exactly one of them).
        batch: pairs per step.
        learning_rates: candidates, chosen on the validation split.
        trunk: share of the budget after which a copy of the twin becomes the start of the other objectives.
        codec: share of the budget that the autoencoder takes, where there is one.
        decay: share of a training over which the learning rate falls to zero.
        average: decay of the moving average of the weights per step.
        clip: largest norm of the gradient.
        precision: of Lightning Fabric, "32-true" or "bf16-mixed".
    """

    seconds: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    batch: int = Field(16, gt=0)
    learning_rates: tuple[float, ...] = Field((1e-3,), min_length=1)
    trunk: float = Field(0.6, gt=0, lt=1)
    codec: float = Field(0.35, gt=0, lt=1)
    decay: float = Field(0.5, gt=0, le=1)
    average: float = Field(0.99, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("give the budget as seconds or as steps, not both")
        return self

    def used(self, step: int, elapsed: float, budget: float) -> float:
        """Share used of a share `budget` of the whole."""
        return step / (self.steps * budget) if self.steps is not None else elapsed / (self.seconds * budget)  # type: ignore[operator]
