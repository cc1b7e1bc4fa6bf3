"""The emulator: fields, codec and stepper together, rolled forward from an initial state."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.model import Model
from physinterp.samplers import Sampler
from physinterp.system import System
from physinterp.types import Codec, Conditioning, NoiseFn, Stepper


class SampledStepper(nn.Module):
    """The stepper of a trained model and a sampler (None for a model that needs none)."""

    def __init__(self, model: Model, sampler: Sampler | None) -> None:
        super().__init__()
        self.model, self.sampler = model, sampler

    def forward(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        """(B, C, *S) -> the same shape, one physical step later."""
        return self.model.advance(z, cond, self.sampler, noise)


class Noise:
    r"""Standard normal draws: draw k of a member at a step depends on (seed, member, step, k) alone.

        e_t = rho e_{t-1} + sqrt(1 - rho^2) xi_t,   e_0 = xi_0

    Every e_t is standard normal, so the law of one physical step is that of white noise; with rho > 0 the errors of
    successive steps are alike, as those of a model are, and the spread grows faster with lead time. The generators
    live on the CPU, so a member is the same for every batch, order and number of other members.

    Arguments:
        seed: of all members and steps.
        shape: of a draw.
        correlation: rho in [0, 1), between successive physical steps.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], correlation: float = 0.0) -> None:
        self.seed, self.shape, self.correlation = seed, shape, correlation
        self._white: dict[tuple[int, int], tuple[torch.Generator, list[Tensor]]] = {}
        self._kept: dict[tuple[int, int], tuple[int, Tensor]] = {}  # (member, k): the last step that was asked for

    def draw(self, step: int, member: int, k: int) -> Tensor:
        """Draw k of a member at a step, shape `shape`, float32."""
        if not self.correlation:
            return self._fresh(step, member, k)
        at, e = self._kept.get((member, k), (-1, torch.empty(0)))
        if at > step:
            at = -1
        for t in range(at + 1, step + 1):
            xi = self._fresh(t, member, k)
            e = self.correlation * e + math.sqrt(1 - self.correlation**2) * xi if t else xi
        self._kept[member, k] = step, e
        return e

    def _fresh(self, step: int, member: int, k: int) -> Tensor:
        """xi: one generator per member and step, its draws in the order of k."""
        if (step, member) not in self._white:
            self._white = {key: value for key, value in self._white.items() if key[0] == step}
            digest = hashlib.blake2b(f"{self.seed}/{member}/{step}".encode(), digest_size=7).digest()
            self._white[step, member] = torch.Generator().manual_seed(int.from_bytes(digest, "big")), []
        generator, drawn = self._white[step, member]
        while len(drawn) <= k:
            drawn.append(torch.randn(self.shape, generator=generator))
        return drawn[k]

    def of(self, step: int, members: Tensor, device: torch.device) -> NoiseFn:
        """noise(k) of a batch whose rows belong to these members."""
        return lambda k: torch.stack([self.draw(step, int(m), k) for m in members]).to(device)


class Emulator:
    """Forecasts of a system.

    Arguments:
        system: the card.
        stack: fields to tensors and back.
        codec: to the space of the stepper and back.
        stepper: one step of length `dt`.
        dt: physical time of a step, in the system's time unit.
        micro_batch: rows that the stepper sees at once; the last one is filled up, because matrix products depend on
            the size of the batch in their last bit.
        device: where to compute.
        correlation: of the noise of successive steps, see `Noise`.
    """

    def __init__(
        self,
        system: System,
        stack: FieldStack,
        codec: Codec,
        stepper: Stepper,
        dt: float,
        micro_batch: int = 16,
        device: str | torch.device = "cpu",
        correlation: float = 0.0,
    ) -> None:
        self.system, self.stack, self.codec, self.stepper, self.dt = system, stack, codec, stepper, dt
        self.micro_batch, self.device, self.correlation = micro_batch, torch.device(device), correlation

    @torch.inference_mode()
    def states(self, x: Tensor, parameters: Tensor, steps: int, members: int = 1, seed: int = 0) -> Iterator[Tensor]:
        """Roll out normalised fields; one tensor (N, M, C, *S) per step, decoded, on the CPU.

        The state stays in the codec's space; memory does not grow with the number of steps.

        Arguments:
            x: initial states (N, C, *S).
            parameters: standardised parameters (N, P).
            steps: how many steps.
            members: ensemble size M.
            seed: of the noise.
        """
        n = len(x)
        rows = torch.arange(n * members)
        member = rows % members
        cond = Conditioning(parameters.repeat_interleave(members, 0).to(self.device))
        z = self._chunks(lambda i: self.codec.encode(x[i // members].to(self.device), cond.select(i)), rows)
        noise = Noise(seed, tuple(z.shape[1:]), self.correlation)
        for step in range(steps):

            def advance(i: Tensor, z: Tensor = z, step: int = step) -> Tensor:
                return self.stepper(z[i].to(self.device), cond.select(i), noise=noise.of(step, member[i], self.device))

            z = self._chunks(advance, rows)
            decoded = self._chunks(lambda i, z=z: self.codec.decode(z[i].to(self.device), cond.select(i)), rows)
            yield decoded.unflatten(0, (n, members))

    @torch.inference_mode()
    def reconstruct(self, x: Tensor, parameters: Tensor) -> Tensor:
        """decode(encode(x)), shape (N, C, *S): what the codec alone loses."""
        cond = Conditioning(parameters.to(self.device))

        def both(i: Tensor) -> Tensor:
            return self.codec.decode(self.codec.encode(x[i].to(self.device), cond.select(i)), cond.select(i))

        return self._chunks(both, torch.arange(len(x)))

    def rollout(self, initial: xr.Dataset, steps: int, members: int = 1, seed: int = 0) -> Iterator[xr.Dataset]:
        """Forecast step by step: datasets of dims (sample, member, lead_time = 1, *space), physical units.

        Arguments:
            initial: the fields in physical units, dims (sample, *space), parameters as coordinates on `sample`.
            steps, members, seed: as in `states`.
        Raises:
            InputError: steps or members below 1, or a dataset that does not fit the system (see `FieldStack.pack`).
        """
        for name, value in (("steps", steps), ("members", members)):
            if value < 1:
                raise InputError(f"a forecast needs {name} of at least 1, found {value}")
        if "sample" not in initial.dims:
            initial = initial.expand_dims("sample")
        if "time" in initial.dims:
            raise InputError("the initial state has a time axis; choose one time, as in ds.isel(time=0)")
        parameters = torch.from_numpy(self.system.conditioning(initial))
        kept = {k: v for k, v in initial.coords.items() if v.dims == ("sample",)}
        for k, x in enumerate(self.states(self.stack.pack(initial), parameters, steps, members, seed)):
            coords: dict[str, Any] = {
                "sample": initial["sample"].values if "sample" in initial.coords else np.arange(len(x)),
                "member": np.arange(members),
                "lead_time": [(k + 1) * self.dt],
            }
            ds = self.stack.unpack(x.unsqueeze(2), coords).assign_coords(kept)
            ds["lead_time"].attrs["units"] = self.system.time_unit
            yield ds

    def forecast(self, initial: xr.Dataset, steps: int, members: int = 1, seed: int = 0) -> xr.Dataset:
        """The rollout as one dataset, dims (sample, member, lead_time, *space); arguments as in `rollout`."""
        parts = list(self.rollout(initial, steps, members, seed))
        return xr.concat(parts, "lead_time", data_vars="all", coords="minimal", compat="override", join="exact")

    def _chunks(self, f: Any, rows: Tensor) -> Tensor:
        """f over micro-batches of row numbers, the last one filled up by repeating its last row."""
        parts = []
        for part in rows.split(self.micro_batch):
            filled = torch.cat([part, part[-1:].expand(self.micro_batch - len(part))])
            parts.append(f(filled)[: len(part)].cpu())
        return torch.cat(parts)
