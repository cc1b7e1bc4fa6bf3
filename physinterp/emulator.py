"""The emulator: fields, codec and stepper together, rolled forward from an initial state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dask.array
import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from physinterp import __version__
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.initial import Block, Initial, Rows, read_initial
from physinterp.layout import layout as find_layout
from physinterp.model import Model
from physinterp.noise import Noise
from physinterp.samplers import Sampler
from physinterp.store import BYTES, Saved, Store, blocks
from physinterp.system import System
from physinterp.types import Codec, Conditioning, NoiseFn, Stepper
from physinterp.watchdog import BOUND, Watchdog, messages

MEMBERS = 16  # of a forecast that does not say how many


class SampledStepper(nn.Module):
    """The stepper of a trained model and a sampler (None for a model that needs none)."""

    def __init__(self, model: Model, sampler: Sampler | None) -> None:
        super().__init__()
        self.model, self.sampler = model, sampler

    def forward(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        """(B, C, *S) -> the same shape, one physical step later."""
        return self.model.advance(z, cond, self.sampler, noise)


class State(NamedTuple):
    """A block of a rollout: latent state (n, m, Cz, *Sz), normalised fields (n, m, C, *S), `lost_at` (n, m)."""

    z: Tensor
    x: Tensor
    lost_at: np.ndarray


class Emulator:
    """Forecasts of a system.

    A member depends on weights, initial state, seed and its number alone: not on batch, chunk, restart or the other members.

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
        bound: a member beyond it, in standard deviations of the training data, is lost; see `Watchdog`.
        provenance: attributes of every forecast; `weights` says which weights a latent state belongs to.
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
        bound: float = BOUND,
        provenance: Mapping[str, str | int | float] | None = None,
    ) -> None:
        self.system, self.stack, self.codec, self.stepper, self.dt = system, stack, codec, stepper, dt
        self.micro_batch, self.device, self.correlation = micro_batch, torch.device(device), correlation
        versions = {"physinterp": __version__, "torch": str(torch.__version__)}
        self.provenance = {"system": system.name, "correlation": correlation, **versions, **(provenance or {})}
        self.bound = bound

    @property
    def deterministic(self) -> bool:
        """Whether every member is the same."""
        s = self.stepper
        return isinstance(s, SampledStepper) and (s.sampler is None or s.sampler.deterministic)

    @property
    def _weights(self) -> str:
        return str(self.provenance.get("weights", ""))

    def watchdog(self) -> Watchdog:
        """A watchdog for `states`, to be asked afterwards what was lost."""
        return Watchdog(self.stack, self.system.parameters, self.dt, self.bound)

    @torch.inference_mode()
    def states(
        self,
        x: Tensor,
        parameters: Tensor,
        steps: int,
        members: int = 1,
        seed: int = 0,
        watchdog: Watchdog | None = None,
        first: int = 0,
    ) -> Iterator[Tensor]:
        """Roll out normalised fields; one tensor (N, M, C, *S) per step, decoded, on the CPU.

        The state stays in the codec's space; memory does not grow with the number of steps. A member that is not finite
        or leaves the bound is NaN from then on.

        Arguments:
            x: initial states (N, C, *S).
            parameters: rows of `System.conditioning` (N, P).
            steps: how many steps.
            members: ensemble size M.
            seed: of the noise.
            watchdog: from `watchdog()`, where its findings are of interest.
            first: steps from the time of the parameters to x.
        """
        rows = Rows.of(parameters.to(self.device), range(members))
        watchdog = watchdog or self.watchdog()
        x = x[rows.sample]
        watchdog.begin(rows, x, x)
        z = self._encode(x, rows)
        correlation = self.correlation if steps > 1 else 0.0  # the noise of a single step is white whatever came before
        for _, decoded in self._roll(z, rows, first, steps, seed, watchdog, correlation):
            yield decoded.unflatten(0, (len(parameters), members))

    @torch.inference_mode()
    def reconstruct(self, x: Tensor, parameters: Tensor) -> Tensor:
        """decode(encode(x)), shape (N, C, *S): what the codec alone loses."""
        cond = Conditioning(parameters.to(self.device))

        def both(i: Tensor) -> Tensor:
            return self.codec.decode(self.codec.encode(x[i].to(self.device), cond.select(i)), cond.select(i))

        return self._chunks(both, len(x))

    def rollout(
        self, initial: xr.Dataset, steps: int, members: int | None = None, seed: int | None = None
    ) -> Iterator[xr.Dataset]:
        """The forecast step by step: datasets of one lead each; memory does not grow with their number.

        Arguments and errors as in `forecast`. Each of the datasets can be continued.
        """
        start, watchdog = self._start(initial, steps, members, seed), self.watchdog()
        everything = slice(0, len(start.parameters)), slice(0, len(start.members))
        for k, state in enumerate(self._run(start, everything, steps, watchdog), 1):
            fields = {name: u[:, :, None] for name, u in self._physical(state.x).items()}
            ds = self._dataset(start, fields, range(k, k + 1), state.z.numpy(), state.lost_at)
            yield ds.assign_attrs(messages(start.attrs, watchdog.blowups))

    def forecast(
        self,
        initial: xr.Dataset,
        steps: int,
        members: int | None = None,
        seed: int | None = None,
        out: str | Path | None = None,
        chunk: int | None = None,
        overwrite: bool = False,
        layout: str = "physinterp",
    ) -> xr.Dataset:
        """Forecast from a dataset: dims (sample | init_time, member, lead_time, *space), physical units.

        The result has the coordinates and attributes of `initial`, attributes that say where it comes from, the last
        latent state as the coordinate `latent`, and as `lost_at` the lead time from which on a member is NaN because the
        watchdog gave it up (NaN where it did not; the attribute `blowups` says where and why). The result of 5 leads can
        be `initial` of 5 more: together they are the bytes of 10.

        Arguments:
            initial: the fields, dims (sample | init_time, *space) in any order, parameters as coordinates; or a forecast, to
                be continued.
            steps: leads.
            members: ensemble size, 16 where None (1 for a deterministic model); a forecast is continued with its own.
            seed: of the noise; where None that of the forecast that is continued, else 0.
            out: a zarr store, written while the forecast runs: memory does not grow with the leads. One that was
                interrupted is continued by the same call, a complete one of the same request is opened.
            chunk: rows (samples x members) at once, some megabytes where None; no value depends on it.
            overwrite: replace a forecast at `out` by this one.
            layout: `physinterp`, or `weatherbench` for names and dims that WeatherBench2 reads.
        Raises:
            InputError: data that do not fit (see `read_initial`), numbers below 1, something else at `out`, no space
                left on the disk.
        """
        start, shown = self._start(initial, steps, members, seed), find_layout(layout)
        size, watchdog = self._size(start, chunk), self.watchdog()
        if out is not None:
            template = shown.relabel(self._allocate(start, steps, partial(dask.array.zeros, chunks=-1)), self.system)
            request = self._request(start, steps, layout)
            with Store(Path(out).expanduser(), template, shown.places(self.system), request, size, overwrite) as store:
                for i, block, saved in store.remaining():
                    done = saved.leads if saved else 0
                    for k, state in enumerate(self._run(start, block, steps, watchdog, saved), done + 1):
                        after = Saved(k, state.z, state.lost_at)
                        store.write(i, self._physical(state.x), after, watchdog.blowups)
            return store.open()
        ds = self._allocate(start, steps, np.empty)
        shown.relabel(ds, self.system)  # says what is wrong with the layout before the work
        for block in blocks(len(start.parameters), len(start.members), size):
            for k, state in enumerate(self._run(start, block, steps, watchdog)):
                for name, u in self._physical(state.x).items():
                    ds[name].values[(*block, k)] = u
            ds["latent"].values[block], ds["lost_at"].values[block] = state.z, state.lost_at
        return shown.relabel(ds.assign_attrs(messages(start.attrs, watchdog.blowups)), self.system)

    # the parts of a forecast ---------------------------------------------------------------------------------------

    def _start(self, ds: xr.Dataset, steps: int, members: int | None, seed: int | None) -> Initial:
        """The initial state, with the members and the seed that are asked for."""
        for name, value in (("steps", steps), ("members", members)):
            if value is not None and value < 1:
                raise InputError(f"a forecast needs {name} of at least 1, found {value}")
        start = read_initial(ds, self.system, self.stack, self.dt, self._weights)
        if not start.members:
            start = replace(start, members=tuple(range(members or (1 if self.deterministic else MEMBERS))))
        elif members not in (None, len(start.members)):
            raise InputError(
                f"members: {members} are asked for, the data have {len(start.members)}; leave it out, or choose some"
            )
        return start if seed is None else replace(start, seed=seed)

    def _size(self, start: Initial, chunk: int | None) -> tuple[int, int]:
        """Samples and members at once: a rectangle of at most `chunk` rows."""
        if chunk is None:
            bytes_per_row = 4 * len(self.stack.names) * math.prod(self.stack.grid.shape)
            chunk = self.micro_batch * max(1, BYTES // (bytes_per_row * self.micro_batch))
        if chunk < 1:
            raise InputError(f"a chunk has at least 1 row, found {chunk}")
        return max(1, chunk // len(start.members)), min(chunk, len(start.members))

    @torch.inference_mode()
    def _run(
        self, start: Initial, block: Block, steps: int, watchdog: Watchdog, saved: Saved | None = None
    ) -> Iterator[State]:
        """The states of a block, one per step, from the start or from where an earlier run stopped."""
        parameters, members = start.parameters[block[0]], start.members[block[1]]
        rows, shape = Rows.of(parameters.to(self.device), members, block[0].start), (len(parameters), len(members))
        done, lost_at = 0, np.full(shape, np.nan) if start.lost_at is None else start.lost_at[block]
        x = None if start.x is None else start.fields(block).flatten(0, 1)
        if saved is not None:
            done, z, lost_at = saved.leads, saved.latent.flatten(0, 1), saved.lost_at
        elif x is not None:
            z = self._encode(x, rows)
        elif start.latent is not None:
            z = start.latent[block].flatten(0, 1)
        before = x if saved is None and x is not None else self._decode(z, rows)
        watchdog.begin(rows, before, first=x, lost=~z.flatten(1).isfinite().all(1))
        first = start.step + done
        states = self._roll(z, rows, first, steps - done, start.seed, watchdog, self.correlation)
        for step, (latent, fields) in enumerate(states, first + 1):
            lost = watchdog.lost.view(shape).numpy()
            lost_at = np.where(lost & np.isnan(lost_at), step * self.dt, lost_at)
            yield State(latent.unflatten(0, shape), fields.unflatten(0, shape), lost_at)

    def _roll(
        self, z: Tensor, rows: Rows, first: int, steps: int, seed: int, watchdog: Watchdog, correlation: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Latent state and normalised fields of the rows, per step after the first `first`."""
        colour = self.stepper.model.colour if isinstance(self.stepper, SampledStepper) else torch.clone
        noise = Noise(seed, tuple(z.shape[1:]), correlation, colour)
        for step in range(first, first + steps):
            told = Conditioning(self.system.told(rows.table, step * self.dt))

            def advance(i: Tensor, z: Tensor = z, step: int = step, told: Conditioning = told) -> Tensor:
                draws = noise.of(step, rows.member[i], self.device)
                return self.stepper(z[i].to(self.device), told.select(i), noise=draws)

            z = self._chunks(advance, len(z))
            x = self._decode(z, rows)
            lost = watchdog.check(x, step + 1)
            if bool(lost.any()):
                z[lost], x[lost] = torch.nan, torch.nan
            yield z, x

    def _encode(self, x: Tensor, rows: Rows) -> Tensor:
        return self._chunks(lambda i: self.codec.encode(x[i].to(self.device), rows.cond.select(i)), len(x))

    def _decode(self, z: Tensor, rows: Rows) -> Tensor:
        return self._chunks(lambda i: self.codec.decode(z[i].to(self.device), rows.cond.select(i)), len(z))

    def _chunks(self, f: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """f over micro-batches of the row numbers 0 to count - 1, the last one filled up by repeating its last row."""
        parts = []
        for part in torch.arange(count).split(self.micro_batch):
            filled = torch.cat([part, part[-1:].expand(self.micro_batch - len(part))])
            parts.append(f(filled)[: len(part)].cpu())
        return torch.cat(parts)

    # xarray --------------------------------------------------------------------------------------------------------

    def _physical(self, x: Tensor) -> dict[str, np.ndarray]:
        """Normalised fields (n, m, C, *S) as arrays (n, m, *S) in physical units."""
        values = self.stack.denormalise(x.double()).float().movedim(2, 0).numpy()
        return dict(zip(self.stack.names, values, strict=True))

    @torch.inference_mode()
    def _allocate(self, start: Initial, steps: int, empty: Callable[..., Any]) -> xr.Dataset:
        """The dataset of a forecast without its values."""
        rows = len(start.parameters), len(start.members)
        if start.latent is not None:
            shape = start.latent.shape[2:]
        else:
            row = start.fields((slice(0, 1), slice(0, 1))).flatten(0, 1)
            shape = self._encode(row, Rows.of(start.parameters[:1].to(self.device), start.members[:1])).shape[1:]
        fields = {name: empty((*rows, steps, *self.stack.grid.shape), dtype=np.float32) for name in self.stack.names}
        last = empty((*rows, *shape), dtype=np.float32)
        return self._dataset(start, fields, range(1, steps + 1), last, empty(rows, dtype=np.float64))

    def _dataset(self, start: Initial, fields: Mapping[str, Any], leads: range, latent: Any, lost_at: Any) -> xr.Dataset:
        """The dataset of some leads from the start: fields (N, M, leads, *S), then latent state and `lost_at` after them."""
        axes, rows = self.stack.grid.names, (start.row, "member")
        variables = {
            f.name: (
                (*rows, "lead_time", *axes),
                fields[f.name],
                {**start.field_attrs[f.name], "units": f.units, "long_name": f.long_name},
            )
            for f in self.stack.fields
        }
        grid = {
            name: (name, points.values, {**start.coords[name].attrs, **points.attrs})
            for name, points in self.stack.grid.coords.items()
        }
        state = {"long_name": "latent state after the last lead", "step": start.step + leads[-1], "weights": self._weights}
        lead_time = [(start.step + k) * self.dt for k in leads]
        coords: dict[str, Any] = {
            start.row: np.arange(len(start.parameters)),
            **start.coords,
            **grid,
            "member": list(start.members),
            "lead_time": ("lead_time", lead_time, {"units": self.system.time_unit}),
            "latent": ((*rows, "latent_channel", *(f"latent_{name}" for name in axes)), latent, state),
            "lost_at": (rows, lost_at, {"long_name": "lead time from which on the member is lost"}),
        }
        attrs = {k: v for k, v in start.attrs.items() if k not in ("request", "incomplete", "path")}
        return xr.Dataset(variables, coords, attrs | self.provenance | {"seed": start.seed})

    def _request(self, start: Initial, steps: int, layout: str) -> dict[str, Any]:
        """What the values of a forecast depend on."""
        settings = {"steps": steps, "members": start.members, "seed": start.seed, "layout": layout}
        settings |= {"bound": self.bound, "micro_batch": self.micro_batch, "device": self.device.type}
        return settings | self.provenance | {"initial state": start.fingerprint()}
