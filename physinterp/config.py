"""Where user files live, and the strict configuration of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from physinterp.errors import InputError
from physinterp.system import Card, System, near, validate


def home() -> Path:
    """Folder of generated data, trained models and encoded latents: `PHYSINTERP_HOME` or ~/.cache/physinterp."""
    return Path(os.environ.get("PHYSINTERP_HOME", "~/.cache/physinterp")).expanduser()


class Training(Card):
    """How every learned method of a preset is trained.

    The budget is the whole training of one method: the twin, the codec and the search of the learning rate count.

    Attributes:
        seconds: budget in wall-clock seconds; steps: or in optimiser steps (exactly one of them).
        batch: pairs per step.
        learning_rates: candidates, chosen on the validation split.
        trunk: share of the budget after which the learning rate of the twin begins to fall, and after which a copy of
            it becomes the start of the other objectives.
        twin: share of the budget at whose end the twin inside the interpolant from a forecast is complete.
        codec: share of the budget that the autoencoder takes, where there is one.
        average: decay of the moving average of the weights per step.
        clip: largest norm of the gradient.
        precision: of Lightning Fabric, "32-true" or "bf16-mixed".
    """

    seconds: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    batch: int = Field(16, gt=0)
    learning_rates: tuple[float, ...] = Field((1e-3,), min_length=1)
    trunk: float = Field(0.6, gt=0, lt=1)
    twin: float = Field(0.96, gt=0, lt=1)
    codec: float = Field(0.35, gt=0, lt=1)
    average: float = Field(0.99, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("give the budget as seconds or as steps, not both")
        if self.trunk >= self.twin:
            raise ValueError(f"the twin ends at {self.twin:g}, before the trunk at {self.trunk:g}: raise `twin`")
        return self

    def used(self, step: int, elapsed: float, budget: float) -> float:
        """Share used of a share `budget` of the whole."""
        return step / (self.steps * budget) if self.steps is not None else elapsed / (self.seconds * budget)  # type: ignore[operator]


class Preset(Card):
    """One size of a benchmark: data, networks, training, evaluation.

    Attributes:
        step: physical time of one step of the emulator, a multiple of the card's dt.
        shape: resolution, where it is not the card's.
        trajectories: per split, where they are not the card's.
        frames, spin_up: of the generated data, where they are not the card's.
        codec, backbone: of every method whose name does not say otherwise.
        networks: arguments of each network; `dcae-unet` are those of a U-Net on the latents of `dcae`.
        training: budget and optimiser.
        methods: rows of the table.
        steps: steps of the samplers, 5 for one that is not named.
        members: size of the ensembles.
        lead: leads that are forecast, in steps.
        starts: initial conditions per test trajectory, spread evenly.
        micro_batch: rows that the networks see at once when forecasting; part of the result to the last bit.
    """

    step: float = Field(gt=0)
    shape: tuple[int, int] | None = None
    trajectories: Mapping[str, int] = {}
    frames: int | None = Field(None, ge=2)
    spin_up: float | None = Field(None, ge=0)
    codec: str = "identity"
    backbone: str = "unet"
    networks: Mapping[str, Mapping[str, Any]]
    training: Training
    methods: tuple[str, ...]
    steps: Mapping[str, int]
    members: int = Field(8, ge=1)
    lead: int = Field(10, ge=1)
    starts: int = Field(1, ge=1)
    micro_batch: int = Field(16, ge=1)


class Benchmark(Card):
    """The presets of a system.

    Attributes:
        headline: fields whose mean is the row `mean` of the table.
        default: name of the default preset.
        presets: by name.
    """

    headline: tuple[str, ...] = Field(min_length=1)
    default: str
    presets: Mapping[str, Preset]

    def preset(self, name: str | None) -> Preset:
        """The preset of a name, or the default.

        Raises:
            InputError: no such preset; the message names the near ones.
        """
        name = name or self.default
        if name not in self.presets:
            raise InputError(f"no preset {name!r}: {near(name, self.presets)}")
        return self.presets[name]


def load_benchmark(system: System) -> Benchmark:
    """The benchmark of a system: `benchmarks/<system>.yaml`, or `default.yaml` with the fields and the step of the card.

    Raises:
        InputError: unknown or wrong keys; the message names them.
    """
    package = Path(str(resources.files("physinterp")))
    shipped = package / "_cards" / "benchmarks"
    folder = shipped if shipped.is_dir() else package.parent / "benchmarks"
    path = folder / f"{system.name}.yaml"
    if path.is_file():
        return validate(Benchmark, yaml.safe_load(path.read_text(encoding="utf-8")), path)
    path = folder / "default.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    presets = {name: preset | {"step": system.dt} for name, preset in values["presets"].items()}
    return validate(Benchmark, values | {"headline": system.field_names, "presets": presets}, path)
