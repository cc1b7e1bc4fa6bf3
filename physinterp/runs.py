"""Trained models of one benchmark: what is cached is used, what is missing is trained.

Every learned method has the same budget. A codec takes its share first; the twin (`Deterministic`) takes the rest; every
other objective starts from the twin as it was when its learning rate began to fall, and counts that time as its own. The
drift from a forecast first lets its own twin finish early, and learns the residual of that one in what is left.
"""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
import xarray as xr
from torch import Tensor, nn

from physinterp import __version__
from physinterp.autoencoder import Autoencoder, Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.checkpoint import digest, fingerprint, load_json, load_tensors, reading, save_json, save_tensors
from physinterp.config import Preset, Training, home
from physinterp.data import open_dataset
from physinterp.data.statistics import Statistics, statistics
from physinterp.drift import ForecastDrift, StateDrift
from physinterp.emulator import Emulator, SampledStepper
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.methods import ModelName, make_codec, make_model
from physinterp.model import Model
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.system import System
from physinterp.train import STATE, Pairs, Trainer
from physinterp.types import Conditioning

LOGGER = logging.getLogger(__name__)
Provenance: TypeAlias = dict[str, str | int | float]
FORMAT = 3  # raised when weights trained by an earlier version must not be reused


class Reconstruction(nn.Module):
    """The codec as an objective: the first state of a pair is reconstructed."""

    def __init__(self, codec: Autoencoder) -> None:
        super().__init__()
        self.codec = codec

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        """Mean squared error of the normalised fields."""
        return self.codec.loss(x0, cond)


class Runs:
    """Data, codecs and models of a system and a preset.

    Arguments:
        system, preset: card and preset; name: of the preset, for the folder.
        seed: of weights, batches and noise in training.
        device: where to train.
        root: folder of the models, where it is not that of the preset.
        known: statistics of the training split, where they are known; else the data are opened for them.
    """

    def __init__(
        self,
        system: System,
        preset: Preset,
        name: str,
        seed: int = 0,
        device: str = "cpu",
        root: Path | None = None,
        known: Statistics | None = None,
    ) -> None:
        self.system = system.with_grid(preset.shape) if preset.shape else system
        self.preset, self.seed, self.device = preset, seed, device
        self.stride = round(preset.step / system.dt)
        if self.stride < 1 or abs(self.stride * system.dt - preset.step) > 1e-6 * preset.step:
            raise InputError(f"step {preset.step:g} is no multiple of the card's dt = {system.dt:g}; choose one that is")
        self.root = root or home() / "runs" / f"{system.name}-{name}-{self.key}"
        self.latents = home() / "latents" / self.root.name
        self._known = known
        self._trained: dict[str, nn.Module] = {}
        self._reused: set[str] = set()
        self._packed: dict[str, tuple[Tensor, Tensor]] = {}
        self._states: dict[tuple[str, str], Tensor] = {}

    @classmethod
    def of(cls, folder: Path, device: str = "cpu") -> tuple[Runs, ModelName]:
        """The run and the name of the model in a folder.

        Raises:
            InputError: there is no trained model; the message lists those there are.
        """
        folder = folder.resolve()
        note = folder / "model.json"
        if not note.is_file() or not (folder / "weights.safetensors").is_file():
            known = sorted(str(p.parent) for p in (home() / "runs").glob("*/*-*-*/model.json"))
            raise InputError(f"{folder}: no trained model there; trained so far: {', '.join(known) or 'none'}")
        found = load_json(note)
        name = ModelName.parse(folder.name)
        try:
            system, preset, seed = System(**found["system"]), Preset(**found["preset"]), int(found["seed"])
            measured = Statistics.from_dict(found["statistics"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{note} is damaged ({type(error).__name__}): delete its folder, and train again") from error
        return cls(system, preset, folder.parent.name, seed, device, folder.parent, measured), name

    def discard(self) -> None:
        """Delete weights, latents and scores of earlier runs of this preset and seed; the data stay."""
        for path in (self.root, self.latents):
            if path.exists():
                shutil.rmtree(path)

    # data ----------------------------------------------------------------------------------------------------------

    def open(self, split: str) -> xr.Dataset:
        """A split of the generated data, lazily; makes it where it is not cached."""
        p = self.preset
        counts = {k: p.trajectories.get(k, s.trajectories) for k, s in self.system.splits.items()}
        return open_dataset(
            self.system, split, splits=counts, shape=p.shape, frames=p.frames, spin_up=p.spin_up, device=self.device
        )

    @cached_property
    def stack(self) -> FieldStack:
        """Fields to tensors, with the statistics of the training split."""
        names = self.system.field_names
        known = self._known or statistics(self.open("train"), names, self.stride)
        return FieldStack(self.system.fields, self.system.grid, known)

    def packed(self, split: str) -> tuple[Tensor, Tensor]:
        """Normalised states (N, T, C, *S) and parameters (N, P) of a split."""
        if split not in self._packed:
            ds = self.open(split)
            self._packed[split] = (self.stack.pack(ds), torch.from_numpy(self.system.conditioning(ds)))
        return self._packed[split]

    def pairs(self, split: str, codec: str) -> Pairs:
        """Successive states of a split in the space of a codec; latents are encoded once and kept on disk."""
        x, parameters = self.packed(split)
        homogeneous = self.system.grid.homogeneous
        if codec == "identity":
            return Pairs(x, parameters, self.stride, homogeneous)
        if (split, codec) not in self._states:
            network = self.codec(codec)
            path = self.latents / f"{codec}-{self.weights(f'codec-{codec}')}-{split}.safetensors"
            if not path.exists():
                LOGGER.info("encoding %s with %s", split, codec)
                save_tensors({"states": self._encode(x, parameters, network)}, path)
            self._states[split, codec] = load_tensors(path)["states"]
        return Pairs(self._states[split, codec], parameters, self.stride, homogeneous)

    @torch.inference_mode()
    def _encode(self, x: Tensor, parameters: Tensor, codec: nn.Module) -> Tensor:
        latents = []
        for states, p in zip(x, parameters, strict=True):
            chunks = states.split(64)
            z = [codec.encode(c.to(self.device), _repeat(p, len(c), self.device)).cpu() for c in chunks]  # type: ignore[operator]
            latents.append(torch.cat(z))
        return torch.stack(latents)

    # models --------------------------------------------------------------------------------------------------------

    @cached_property
    def key(self) -> str:
        """Fingerprint of everything that the weights depend on."""
        parts = {"step", "trajectories", "frames", "spin_up", "networks", "training"}
        settings = {
            "format": FORMAT,
            "system": self.system.model_dump(mode="json"),
            "preset": self.preset.model_dump(mode="json", include=parts),
            "seed": self.seed,
        }
        return fingerprint(settings)

    def folder(self, name: str) -> Path:
        """Where a trained network lives."""
        return self.root / name

    def weights(self, name: ModelName | str) -> str | None:
        """Short hash of the trained weights, None where there are none yet."""
        return digest(self.folder(str(name)) / "weights.safetensors")

    def trained(self, name: ModelName | str) -> bool:
        """Whether there are weights, and the note that says what they are."""
        return all((self.folder(str(name)) / file).is_file() for file in ("weights.safetensors", "model.json"))

    def codec(self, name: str) -> Autoencoder | Identity:
        """A trained codec."""
        torch.manual_seed(self.seed)
        codec = make_codec(name, self.system, self.preset).to(self.device)
        if isinstance(codec, Identity):
            return codec
        key = f"codec-{name}"
        if key not in self._trained:
            codec.latent_shape(self.system.grid.shape)

            def train(folder: Path) -> dict[str, Any]:
                data = self.pairs("train", "identity"), self.pairs("valid", "identity")
                record = self._trainer(folder).fit(Reconstruction(codec), *data, self.preset.training.codec, key, decay=0.7)
                x, p = self.packed("train")
                batches = (
                    (c.to(self.device), _repeat(p[n], len(c), self.device)) for n in range(len(x)) for c in x[n].split(64)
                )
                codec.fit_standardisation(batches)
                return record

            self._trained[key] = self._ready(key, codec, train)
        return self._trained[key]  # type: ignore[return-value]

    def model(self, name: ModelName) -> Model:
        """A trained model."""
        key = str(name)
        if key not in self._trained:
            model = self._untrained(name, measured=not self.trained(key))
            self._trained[key] = self._ready(key, model, lambda folder: self._train(name, model, folder))
        return self._trained[key]  # type: ignore[return-value]

    def record(self, name: ModelName | str) -> dict[str, Any]:
        """What was written beside the weights: steps, seconds, losses, versions; `reused` says if this run trained it."""
        record = load_json(self.folder(str(name)) / "model.json")
        return record | {"reused": str(name) in self._reused}

    def emulator(
        self, codec: nn.Module, stepper: nn.Module, correlation: float = 0.0, provenance: Provenance | None = None
    ) -> Emulator:
        """The emulator of a codec and a stepper, with noise of a correlation between steps."""
        p = self.preset
        codec, stepper = codec.to(self.device), stepper.to(self.device)
        return Emulator(
            self.system, self.stack, codec, stepper, p.step, p.micro_batch, self.device, correlation,  # type: ignore[arg-type]
            provenance=provenance,
        )  # fmt: skip

    def sampled(self, name: ModelName, sampler: Sampler | None, correlation: float = 0.0) -> Emulator:
        """The emulator of a trained model and a sampler; its forecasts say which weights and which sampler made them."""
        stepper, codec = SampledStepper(self.model(name), sampler), self.codec(name.codec)
        weights = [self.weights(name), *([] if name.codec == "identity" else [self.weights(f"codec-{name.codec}")])]
        provenance: Provenance = {"model": f"{self.root.name}/{name}", "weights": "/".join(map(str, weights))}
        if sampler is not None:
            key = next(key for key, kind in SAMPLERS.items() if kind is type(sampler))
            provenance |= {"sampler": key, "sampler_steps": sampler.steps, "temperature": sampler.temperature}
        return self.emulator(codec, stepper, correlation, provenance)

    def _untrained(self, name: ModelName, measured: bool = True) -> Model:
        """A model to be trained; or, with a scale that is not measured, to take weights, which hold it: no data are read."""
        codec = self.codec(name.codec)
        shape = codec.latent_channels, *codec.latent_shape(self.system.grid.shape)
        scale = self.pairs("train", name.codec).difference_std() if measured else torch.ones(shape[0])
        torch.manual_seed(self.seed)
        return make_model(name, self.system, self.preset, shape, scale).to(self.device)

    def _train(self, name: ModelName, model: Model, folder: Path) -> dict[str, Any]:
        plan, train, valid = self.preset.training, self.pairs("train", name.codec), self.pairs("valid", name.codec)
        share, fall = self._share(name), 1 - plan.trunk
        if name.trunk is None:
            self._trunk(name)
            search = {k: v for k, v in load_json(folder / "trunk.json").items() if k == "search"}
            record = search | self._trainer(folder).fit(model, train, valid, share, str(name), decay=fall)
        else:
            trunk, begun = self._trunk(name.trunk)
            if isinstance(model, ForecastDrift):
                record = self._train_from_forecast(name, model, folder, trunk, begun["learning_rate"])
            else:
                model.backbone.load_state_dict(trunk.backbone.state_dict())
                if isinstance(model, StateDrift):
                    twin = self.model(name.trunk)
                    model.covariance.sigma.copy_(twin.covariance.sigma)  # type: ignore[operator, union-attr, arg-type]
                record = self._trainer(folder).fit(model, train, valid, share * fall, str(name))
            record |= {key: record[key] + begun[key] for key in ("steps", "seconds")} | {"start": str(name.trunk)}
        if isinstance(model, Deterministic):
            model.covariance.fit(residuals(model.mean, valid, self.device))
        if isinstance(model, StateDrift):
            model.covariance.fit(residuals(model.mean, valid, self.device), model.covariance.sigma)
        return record

    def _train_from_forecast(
        self, name: ModelName, model: ForecastDrift, folder: Path, trunk: Deterministic, rate: float
    ) -> dict[str, Any]:
        """Its twin to the end of a shorter training, the covariance of that twin's residual, then the drift."""
        plan, train, valid = self.preset.training, self.pairs("train", name.codec), self.pairs("valid", name.codec)
        share, rates = self._share(name), plan.model_copy(update={"learning_rates": (rate,)})
        model.twin.load_state_dict(trunk.state_dict())
        twin = self._trainer(folder / "twin", rates).fit(
            model.twin.requires_grad_(True), train, valid, share * (plan.twin - plan.trunk), f"{name}, twin"
        )
        model.twin.requires_grad_(False)
        of_valid, of_train = (residuals(model.mean, pairs, self.device) for pairs in (valid, train))
        model.covariance.fit(of_valid)
        ratio = of_valid.square().mean((0, 2, 3)) / of_train.square().mean((0, 2, 3))
        model.inflation.copy_(ratio.sqrt().clamp(min=1)[:, None, None])
        drift = self._trainer(folder, rates).fit(model, train, valid, share * (1 - plan.twin), str(name))
        sums = {key: twin[key] + drift[key] for key in ("steps", "seconds")}
        return drift | sums | {"inflation": model.inflation.flatten().tolist()}

    def _share(self, name: ModelName) -> float:
        """Share of the budget that is left for a model beside its codec."""
        return 1.0 if name.codec == "identity" else 1 - self.preset.training.codec

    def _trunk(self, name: ModelName) -> tuple[Deterministic, dict[str, Any]]:
        """The twin where its learning rate begins to fall, and the record of its training until there."""
        folder = self.folder(str(name))
        path, note = folder / "trunk.safetensors", folder / "trunk.json"
        twin = self._untrained(name)
        if not (path.exists() and note.exists()):
            plan, train, valid = self.preset.training, self.pairs("train", name.codec), self.pairs("valid", name.codec)
            share, fall = self._share(name), 1 - plan.trunk
            record = self._trainer(folder).fit(twin, train, valid, share, str(name), decay=fall, until=plan.trunk)
            save_tensors(twin.state_dict(), path)
            save_json(record, note)
        with reading(path):
            twin.load_state_dict(load_tensors(path, self.device))
        return twin, load_json(note)  # type: ignore[return-value]

    def _ready(self, key: str, network: nn.Module, train: Any) -> nn.Module:
        """Load the weights of a network, or train and save them."""
        folder = self.folder(key)
        weights, note = folder / "weights.safetensors", folder / "model.json"
        if self.trained(key):
            LOGGER.info("%s: weights of an earlier run", key)
            with reading(weights):
                network.load_state_dict(load_tensors(weights, self.device))
            self._reused.add(key)
        else:
            record = train(folder)
            save_tensors(network.state_dict(), weights)
            save_json(record | self._provenance(), note)
            for state in (folder / STATE, folder / "twin" / STATE):
                state.unlink(missing_ok=True)
        return network.eval().requires_grad_(False)

    def _provenance(self) -> dict[str, Any]:
        return {
            "physinterp": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": self.system.model_dump(mode="json"),
            "preset": self.preset.model_dump(mode="json"),
            "statistics": self.stack.statistics.to_dict(),
            "seed": self.seed,
        }

    def _trainer(self, folder: Path, plan: Training | None = None) -> Trainer:
        return Trainer(plan or self.preset.training, self.seed, folder, self.device)


@torch.inference_mode()
def residuals(
    mean: Callable[[Tensor, Conditioning], Tensor], pairs: Pairs, device: str, batch: int = 64, most: int = 1024
) -> Tensor:
    """x1 - E[x1 | x0] on pairs spread evenly, shape (N, C, *S), on the CPU."""
    index = torch.linspace(0, len(pairs) - 1, min(len(pairs), most)).long()
    found = []
    for rows in index.split(batch):
        x0, x1, cond = pairs.select(rows)
        parameters = None if cond.parameters is None else cond.parameters.to(device)
        found.append(x1 - mean(x0.to(device), Conditioning(parameters)).cpu())
    return torch.cat(found)


def _repeat(parameters: Tensor, count: int, device: str) -> Conditioning:
    return Conditioning(parameters.expand(count, -1).to(device))
