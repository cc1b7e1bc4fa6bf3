"""Trained models of one benchmark: what is cached is used, what is missing is trained.

Every learned method has the same budget. A codec takes its share first; the twin (`Deterministic`) takes the rest; every
other objective starts from the twin as it was when its learning rate began to fall, and counts that time as its own. The
drift from a forecast first lets its own twin finish early, and learns the residual of that one in what is left.
"""

from __future__ import annotations

import logging
import math
import platform
import shutil
from collections.abc import Iterator
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
from physinterp.data import checksums, developed, latents, open_dataset, trainable
from physinterp.data.remote import Store, located
from physinterp.data.statistics import Statistics, statistics
from physinterp.data.windows import Windows
from physinterp.drift import ForecastDrift, StateDrift
from physinterp.emulator import Emulator, SampledStepper
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.measure import calibrate
from physinterp.methods import ModelName, make_codec, make_model
from physinterp.model import Model
from physinterp.pairs import HeldPairs, Pairs, WindowPairs
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.system import System
from physinterp.train import STATE, Trainer
from physinterp.types import Conditioning

LOGGER = logging.getLogger(__name__)
Provenance: TypeAlias = dict[str, str | int | float]
FORMAT = 5  # raised when weights trained by an earlier version must not be reused
HELD = 2**30  # bytes of a split up to which it is held in memory; a larger one is read window by window
FRAMES = 64  # states that are read or encoded at once


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
        known: statistics of the training split, where they are known; the card then has the resolution of the data.
        data: file, folder or URL to train on, at the resolution that it has; None is what the embedded solver makes, or,
            without one, what the card names as its source.
    Raises:
        InputError: the step is no multiple of the card's, or there are no data to train on.
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
        data: Store | None = None,
    ) -> None:
        if data is None and system.solver is None:
            data = system.data or None
            if data is None:
                raise InputError(f"{system.name} has no solver that makes data: give --data PATH ({system.source.strip()})")
        found = None if data is None else located(data)
        self.data = found.absolute() if isinstance(found, Path) else found
        if known is None:
            shape = preset.shape or system.grid.shape
            system = system.with_grid(shape) if self.data is None else trainable(system, self.data)
        self.system, self.preset, self.seed, self.device = system, preset, seed, device
        self.stride = round(preset.step / system.dt)
        if self.stride < 1 or abs(self.stride * system.dt - preset.step) > 1e-6 * preset.step:
            raise InputError(f"step {preset.step:g} is no multiple of the card's dt = {system.dt:g}; choose one that is")
        self.root = root or home() / "runs" / f"{system.name}-{name}-{self.key}"
        self.latents = home() / "latents" / self.root.name
        self._known = known
        self._trained: dict[str, nn.Module] = {}
        self._reused: set[str] = set()
        self._pairs: dict[tuple[str, str], Pairs] = {}
        if known is None and self.data is not None:
            self._windows("train", self.open("train"))  # says now what could not be read in training

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
        return cls(system, preset, folder.parent.name, seed, device, folder.parent, measured, found.get("data")), name

    def discard(self) -> None:
        """Delete weights, latents and scores of earlier runs of this preset and seed; the data stay."""
        for path in (self.root, self.latents):
            if path.exists():
                shutil.rmtree(path)

    # data ----------------------------------------------------------------------------------------------------------

    def open(self, split: str) -> xr.Dataset:
        """A split of the data, lazily and without spin-up; the solver makes it where it is not there yet."""
        if self.data is not None:
            return developed(open_dataset(self.system, split, self.data), self.system)
        p = self.preset
        counts = {k: p.trajectories.get(k, s.trajectories) for k, s in self.system.splits.items()}
        return open_dataset(
            self.system, split, splits=counts, shape=p.shape, frames=p.frames, spin_up=p.spin_up, device=self.device
        )

    @cached_property
    def stack(self) -> FieldStack:
        """Fields to tensors, with the statistics of the training split, which are computed once and kept."""
        known, path = self._known, self.root / "statistics.json"
        if known is None and path.is_file():
            with reading(path):
                known = Statistics.from_dict(load_json(path))
        if known is None:
            known = statistics(self.open("train"), self.system.field_names, self.stride)
            save_json(known.to_dict(), path)
        return FieldStack(self.system.fields, self.system.grid, known)

    def states(self, split: str) -> Iterator[tuple[Tensor, Conditioning]]:
        """Normalised states (B, C, *S) of a split in their order, some of one trajectory at once, and their conditioning."""
        ds = self.open(split)
        parameters = torch.from_numpy(self.system.conditioning(ds)).to(self.device)
        for n, p in enumerate(parameters):
            for first in range(0, ds.sizes["time"], FRAMES):
                x = self.stack.pack(ds.isel(sample=n, time=slice(first, first + FRAMES))).to(self.device)
                yield x, Conditioning(p.expand(len(x), -1))

    def mean(self, split: str) -> Tensor:
        """Mean normalised state of a split, (C, *S)."""
        total, count = torch.zeros(()), 0
        for x, _ in self.states(split):
            total, count = total + x.double().sum(0).cpu(), count + len(x)
        return (total / count).float()

    def pairs(self, split: str, codec: str) -> Pairs:
        """Successive states of a split in the space of a codec.

        Fields of a small split are held in memory, those of a large one read window by window. Latents are encoded once
        for a codec and data, and memory-mapped.
        """
        if (split, codec) not in self._pairs:
            ds = self.open(split)
            windows = self._windows(split, ds) if codec == "identity" else None
            if windows is not None:
                self._pairs[split, codec] = WindowPairs(windows, self.stack)
            else:
                states = self.stack.pack(ds) if codec == "identity" else self._latents(split, codec, ds)
                parameters = torch.from_numpy(self.system.conditioning(ds))
                homogeneous, dt = self.system.grid.homogeneous, self.system.dt
                self._pairs[split, codec] = HeldPairs(
                    states, parameters, self.stride, homogeneous, lambda table, frames: self.system.told(table, dt * frames)
                )
        return self._pairs[split, codec]

    def _windows(self, split: str, ds: xr.Dataset) -> Windows | None:
        """Windows of a split that is too large to be held in memory."""
        if 4 * math.prod(ds.sizes.values()) * len(self.system.fields) <= HELD:
            return None
        path = ds.attrs["path"]
        spin_up = open_dataset(self.system, split, path).sizes["time"] - ds.sizes["time"]
        return Windows(self.system, split, path, stride=self.stride, frames=slice(spin_up, None))

    def _latents(self, split: str, name: str, ds: xr.Dataset) -> Tensor:
        """Encoded states (N, T, Cz, *Sz) of a split; the name of the file is the hash of the codec and the data."""
        codec = self.codec(name)
        key = fingerprint(
            [self.weights(f"codec-{name}"), checksums.stamp(ds.attrs["path"]), self.stack.statistics.to_dict()]
        )
        path = self.latents / f"{name}-{split}-{key}.npy"
        if not path.exists():
            LOGGER.info("encoding %s with %s", split, name)
            shape = codec.latent_channels, *codec.latent_shape(self.system.grid.shape)
            encoded = (codec.encode(x, cond).cpu().numpy() for x, cond in self.states(split))
            with torch.inference_mode():
                latents.write(path, (ds.sizes["sample"], ds.sizes["time"], *shape), encoded)
        return latents.read(path)

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
        return fingerprint(settings if self.data is None else settings | {"data": checksums.stamp(self.data)})

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
                codec.fit_standardisation(self.states("train"))
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
        if not isinstance(model, ForecastDrift):
            calibrate(model, train, valid, self.device)
        return record

    def _train_from_forecast(
        self, name: ModelName, model: ForecastDrift, folder: Path, trunk: Deterministic, rate: float
    ) -> dict[str, Any]:
        """Its twin to the end of a shorter training, what is measured of that twin, then the drift."""
        plan, train, valid = self.preset.training, self.pairs("train", name.codec), self.pairs("valid", name.codec)
        share, rates = self._share(name), plan.model_copy(update={"learning_rates": (rate,)})
        model.twin.load_state_dict(trunk.state_dict())
        twin = self._trainer(folder / "twin", rates).fit(
            model.twin.requires_grad_(True), train, valid, share * (plan.twin - plan.trunk), f"{name}, twin"
        )
        model.twin.requires_grad_(False)
        calibrate(model, train, valid, self.device)
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
            "data": None if self.data is None else str(self.data),
        }

    def _trainer(self, folder: Path, plan: Training | None = None) -> Trainer:
        return Trainer(plan or self.preset.training, self.seed, folder, self.device)
