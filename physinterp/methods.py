"""The only wiring place: which objective, backbone, codec and sampler make a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from physinterp.autoencoder import Autoencoder, Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.baselines.diffusion import DDPM, EDM
from physinterp.baselines.fno import FNOBackbone
from physinterp.config import Preset
from physinterp.drift import Drift
from physinterp.errors import InputError
from physinterp.model import Model
from physinterp.nn.dcae import Decoder, Encoder
from physinterp.nn.dit import DiT
from physinterp.nn.unet import UNet
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.system import System, near
from physinterp.types import Boundary

OBJECTIVES: dict[str, type[Model]] = {
    "deterministic": Deterministic,
    "interpolant": Drift,
    "ddpm": DDPM,
    "edm": EDM,
}
BACKBONES: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "dit": DiT, "fno": FNOBackbone}
CODECS = ("identity", "dcae")


@dataclass(frozen=True)
class Method:
    """One row of METHODS and of every table.

    Attributes:
        objective: key of OBJECTIVES, or None where nothing is trained.
        sampler: key of SAMPLERS, or None where there is nothing to sample.
        backbone, codec: those of the preset where None.
    """

    objective: str | None
    sampler: str | None = None
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
    "fno": Method("deterministic", backbone="fno", codec="identity"),
    "si-e": Method("interpolant", "si-e"),
    "si-em": Method("interpolant", "si-em"),
    "ddpm": Method("ddpm", "ddpm"),
    "edm": Method("edm", "edm"),
}


@dataclass(frozen=True)
class ModelName:
    """What is trained: objective x codec x backbone. Rows that share it share the weights."""

    objective: str
    codec: str
    backbone: str

    def __str__(self) -> str:
        return f"{self.objective}-{self.codec}-{self.backbone}"

    @property
    def trunk(self) -> ModelName | None:
        """The twin whose early weights are the start of this model."""
        return None if self.objective == "deterministic" else ModelName("deterministic", self.codec, self.backbone)


def method(name: str) -> Method:
    """The method of a row, such as `si-em` or, with another codec and backbone, `si-em/dcae-dit`.

    Raises:
        InputError: no such method, codec or backbone; the message names the near ones.
    """
    base, _, variant = name.partition("/")
    if base not in METHODS:
        raise InputError(f"no method {base!r}: {near(base, METHODS)}")
    row = METHODS[base]
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
    return Method(row.objective, row.sampler, backbone, codec)


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


def make_model(
    name: ModelName, system: System, preset: Preset, channels: int, scale: Tensor, sigma: Tensor | None = None
) -> Model:
    """An untrained model on states of some channels; `sigma` is that of the interpolant."""
    networks = preset.networks
    key = name.backbone if name.codec == "identity" else f"{name.codec}-{name.backbone}"
    arguments = dict(_arguments(preset, key if key in networks else name.backbone))
    boundary: Sequence[Boundary] = system.grid.boundary
    if name.backbone != "fno":  # the library's FNO is always told the place
        arguments.update(clean_channels=channels, fixed=system.grid.fixed)
    backbone = BACKBONES[name.backbone](2 * channels, channels, boundary, parameters=len(system.parameters), **arguments)
    if name.objective == "interpolant":
        if sigma is None:
            raise ValueError("an interpolant needs sigma")
        return Drift(backbone, scale, sigma)
    return OBJECTIVES[name.objective](backbone, scale)


def make_sampler(row: Method, model: Model, steps: Mapping[str, int]) -> Sampler | None:
    """The sampler of a row with its number of steps."""
    if row.sampler is None:
        return None
    if row.sampler not in steps:
        raise InputError(f"the preset has no steps for sampler {row.sampler!r}: {near(row.sampler, steps)}")
    interpolant = model.interpolant if isinstance(model, Drift) else None
    return SAMPLERS[row.sampler](steps[row.sampler], interpolant)


def _arguments(preset: Preset, key: str) -> Mapping[str, Any]:
    if key not in preset.networks:
        raise InputError(f"the preset has no arguments for network {key!r}: {near(key, preset.networks)}")
    return preset.networks[key]
