"""The only wiring place: which objective, backbone, codec and sampler make a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from physinterp.autoencoder import Autoencoder, Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.baselines.diffusion import DDPM, EDM, FlowMatching
from physinterp.baselines.fno import FNOBackbone
from physinterp.calibration import Covariance, Shrinkage
from physinterp.config import Preset
from physinterp.drift import Drift, ForecastDrift, StateDrift
from physinterp.errors import InputError
from physinterp.model import Model
from physinterp.nn.dcae import Decoder, Encoder
from physinterp.nn.dit import DiT
from physinterp.nn.unet import UNet
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.system import System, near

OBJECTIVES: dict[str, type[Model]] = {
    "deterministic": Deterministic,
    "interpolant": ForecastDrift,
    "interpolant-state": StateDrift,
    "ddpm": DDPM,
    "edm": EDM,
    "flow-matching": FlowMatching,
}
BACKBONES: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "dit": DiT, "fno": FNOBackbone}
CODECS = ("identity", "dcae")


@dataclass(frozen=True)
class Method:
    """One row of METHODS and of every table.

    Attributes:
        objective: key of OBJECTIVES, or None where nothing is trained.
        sampler: key of SAMPLERS, or None where there is nothing to sample.
        steps: of the sampler, those of the preset where None.
        backbone, codec: those of the preset where None.
    """

    objective: str | None
    sampler: str | None = None
    steps: int | None = None
    backbone: str | None = None
    codec: str | None = None

    @property
    def deterministic(self) -> bool:
        """Whether every member would be the same."""
        return self.sampler is None or SAMPLERS[self.sampler].deterministic


METHODS: dict[str, Method] = {
    "persistence": Method(None),
    "climatology": Method(None),
    "deterministic": Method("deterministic"),
    "deterministic-dressed": Method("deterministic", "si-cal", steps=1),
    "fno": Method("deterministic", backbone="fno", codec="identity"),
    **{name: Method("interpolant", name) for name in SAMPLERS if name.startswith("si-")},
    "si-e-state": Method("interpolant-state", "si-e"),
    "si-em-state": Method("interpolant-state", "si-em"),
    "si-cal-state": Method("interpolant-state", "si-cal"),
    "ddpm": Method("ddpm", "ddpm"),
    "ddim": Method("ddpm", "ddim"),
    "tsm": Method("ddpm", "tsm"),
    "edm": Method("edm", "edm"),
    "edm-euler": Method("edm", "edm-euler"),
    "fm": Method("flow-matching", "fm"),
    "fm-euler": Method("flow-matching", "fm-euler"),
    "fm-heun": Method("flow-matching", "fm-heun"),
}


@dataclass(frozen=True)
class ModelName:
    """What is trained: objective x codec x backbone. Rows that share it share the weights."""

    objective: str
    codec: str
    backbone: str

    def __str__(self) -> str:
        return f"{self.objective}-{self.codec}-{self.backbone}"

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """The model of a folder's name, such as `interpolant-identity-unet`.

        Raises:
            InputError: it names no objective, codec and backbone.
        """
        objective, codec, backbone = [*text.rsplit("-", 2), "", ""][:3]
        known = {"objective": (objective, OBJECTIVES), "codec": (codec, CODECS), "backbone": (backbone, BACKBONES)}
        for kind, (value, names) in known.items():
            if value not in names:
                raise InputError(f"{text!r} names no model: no {kind} {value!r}, {near(value, names)}")
        return cls(objective, codec, backbone)

    @property
    def trunk(self) -> ModelName | None:
        """The twin whose early weights are the start of this model."""
        return None if self.objective == "deterministic" else ModelName("deterministic", self.codec, self.backbone)


def method(name: str) -> Method:
    """The method of a row, such as `si-em`, with other steps `si-em@50`, with another codec and backbone `si-em/dcae-dit`.

    Raises:
        InputError: no such method, number of steps, codec or backbone; the message names the near ones.
    """
    front, _, variant = name.partition("/")
    base, at, count = front.partition("@")
    if base not in METHODS:
        raise InputError(f"no method {base!r}: {near(base, METHODS)}")
    row = METHODS[base]
    if at:
        if not count.isdecimal() or int(count) < 1:
            raise InputError(f"{name!r}: @{count} is no number of steps; write METHOD@STEPS, as in si-em@5")
        if row.sampler is None or row.steps is not None:
            raise InputError(f"{name!r}: method {base!r} has no choice of steps; leave out '@{count}'")
        row = replace(row, steps=int(count))
    if not variant:
        return row
    codec, _, backbone = variant.partition("-")
    if row.objective is None or row.backbone is not None:
        raise InputError(f"method {base!r} has no choice of codec and backbone; leave out '/{variant}'")
    for kind, value, known in (("codec", codec, CODECS), ("backbone", backbone, tuple(BACKBONES))):
        if value not in known:
            raise InputError(f"{name!r}: no {kind} {value!r}: {near(value, known)}; write METHOD/CODEC-BACKBONE")
    if backbone == "fno" and row.objective != "deterministic":
        raise InputError(f"{name!r}: the fno does not see noise; only `deterministic` can use it")
    return replace(row, backbone=backbone, codec=codec)


def model_name(row: Method, preset: Preset) -> ModelName | None:
    """What a row needs trained, or None."""
    if row.objective is None:
        return None
    return ModelName(row.objective, row.codec or preset.codec, row.backbone or preset.backbone)


def make_codec(codec: str, system: System, preset: Preset) -> Autoencoder | Identity:
    """An untrained codec on the fields of a system."""
    channels = len(system.fields)
    if codec == "identity":
        return Identity(channels)
    arguments = dict(_arguments(preset, codec))
    latent, bound = arguments.pop("latent_channels"), arguments.pop("bound", 5.0)
    shared: dict[str, Any] = {"boundary": system.grid.boundary, "parameters": len(system.parameters), **arguments}
    return Autoencoder(Encoder(channels, latent, **shared), Decoder(channels, latent, **shared), bound)


def make_model(name: ModelName, system: System, preset: Preset, shape: Sequence[int], scale: Tensor) -> Model:
    """An untrained model on states of a shape (C, *S)."""
    objective = OBJECTIVES[name.objective]
    if objective in (DDPM, EDM, FlowMatching):
        return objective(_backbone(name, system, preset, shape), scale)
    state = shape[0], shape[1:], system.grid.periodic
    if objective is ForecastDrift:
        twin = make_model(ModelName("deterministic", name.codec, name.backbone), system, preset, shape, scale)
        if not isinstance(twin, Deterministic):
            raise TypeError(f"the twin of {name} is no deterministic model")
        return ForecastDrift(_backbone(name, system, preset, shape), scale, Covariance(*state), twin)
    if objective is StateDrift:
        return StateDrift(_backbone(name, system, preset, shape), scale, Covariance(*state))
    return Deterministic(_backbone(name, system, preset, shape), scale, Covariance(*state), Shrinkage(*state))


def _backbone(name: ModelName, system: System, preset: Preset, shape: Sequence[int]) -> nn.Module:
    """The backbone of a model; the residual network of a `ForecastDrift` starts anew, the others from their twin."""
    networks, boundary, channels = preset.networks, system.grid.boundary, shape[0]
    keys = [name.backbone if name.codec == "identity" else f"{name.codec}-{name.backbone}", name.backbone]
    residual = name.objective == "interpolant"
    if residual:
        keys = [f"{keys[0]}-residual", *keys]
    arguments = dict(_arguments(preset, next((k for k in keys if k in networks), name.backbone)))
    if name.backbone != "fno":  # the library's FNO is always told the place
        arguments.update(clean_channels=None if residual else channels, fixed=system.grid.fixed)
    multiple = 1 if name.backbone == "fno" else arguments.get("patch", 1)
    if name.backbone == "unet":
        multiple *= 2 ** (len(arguments["widths"]) - 1)
    if any(n % multiple for n, b in zip(shape[1:], boundary, strict=True) if b == "periodic"):
        raise InputError(
            f"{name}: its periodic axes have to be divisible by {multiple}, found {tuple(shape[1:])}: take another preset, "
            "or lower `patch` or the number of `widths` in it"
        )
    told = len(system.parameters) + 4 * system.dated
    return BACKBONES[name.backbone](2 * channels, channels, boundary, parameters=told, **arguments)


def sampler_steps(row: Method, steps: Mapping[str, int]) -> int:
    """Steps of the sampler of a row: its own, else those of the preset, else STEPS."""
    return row.steps or steps.get(row.sampler or "", STEPS)


STEPS = 5  # of a sampler for which a preset says nothing


def make_sampler(row: Method, model: Model, steps: Mapping[str, int], temperature: float = 1.0) -> Sampler | None:
    """The sampler of a row with its number of steps and the temperature of its noise."""
    if row.sampler is None:
        return None
    count = sampler_steps(row, steps)
    if isinstance(model, Drift | Deterministic):
        return SAMPLERS[row.sampler](count, model.interpolant, model.residual, temperature)
    return SAMPLERS[row.sampler](count, temperature=temperature)


def _arguments(preset: Preset, key: str) -> Mapping[str, Any]:
    if key not in preset.networks:
        raise InputError(f"the preset has no arguments for network {key!r}: {near(key, preset.networks)}")
    return preset.networks[key]
