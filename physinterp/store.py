"""A zarr store that a forecast is written to while it runs: allocated first, filled slab by slab, continued after a stop."""

from __future__ import annotations

import errno
import json
import logging
import math
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
import zarr
from numcodecs import Blosc
from torch import Tensor

from physinterp.checkpoint import ROOM, load_json, load_tensors, replacing, save_tensors
from physinterp.errors import InputError
from physinterp.initial import Block
from physinterp.layout import Place
from physinterp.watchdog import messages

LOGGER = logging.getLogger(__name__)

LEADS = 8  # in a slab, at most
BYTES = 1 << 22  # in a slab, about
QUEUE = 2  # slabs that wait to be written
COMPRESSOR = Blosc("lz4", clevel=1, shuffle=Blosc.SHUFFLE)  # half the time of zarr's own for noise-like values, and smaller
QUIET = 10.0  # seconds between two words on how far it is


def blocks(samples: int, members: int, size: tuple[int, int]) -> list[Block]:
    """Rectangles of at most `size` that cover all samples and members."""
    starts = ((n, m) for n in range(0, samples, size[0]) for m in range(0, members, size[1]))
    return [(slice(n, min(n + size[0], samples)), slice(m, min(m + size[1], members))) for n, m in starts]


class Saved(NamedTuple):
    """Where a block stands: leads that are done, latent state (n, m, Cz, *Sz) and `lost_at` (n, m) after them."""

    leads: int
    latent: Tensor
    lost_at: np.ndarray


class Store:
    """The writer of a forecast, a context in which `write` is called for every step in turn.

    A slab (a block of samples and members x up to 8 leads) is one chunk of each field. One thread writes the slabs, of which
    at most two wait. After each, the state of the rollout is kept, from which the same request goes on: the bytes are those
    of an uninterrupted forecast. Until all is written, the attribute `incomplete` says how far it is, and the rest is NaN.

    Arguments:
        path: of the store.
        template: the dataset without values, in its layout: dims (sample, member, lead_time, *space) in this order, by
            whatever name.
        places: where each field that `write` is given has its place: a variable, and its index after the lead.
        request: what the forecast is of, in JSON's types.
        size: samples and members in a block; a store that is continued keeps its own.
        overwrite: replace a forecast that is there.
    Raises:
        InputError: there is something else at the path, or no space left.
    """

    def __init__(
        self,
        path: Path,
        template: xr.Dataset,
        places: Mapping[str, Place],
        request: Mapping[str, Any],
        size: tuple[int, int],
        overwrite: bool = False,
    ) -> None:
        self.path, self.places = path, dict(places)
        template = template.assign_attrs(request=json.dumps(request, sort_keys=True))
        if path.exists():
            self._check(template.attrs["request"], overwrite)
        if not path.exists():
            self._allocate(template, size)
        self._group = zarr.open_group(str(path), mode="r+")
        names = {variable for variable, _ in places.values()} | {"latent", "lost_at"} & set(template.coords)
        self._arrays: dict[str, Any] = {name: self._group[name] for name in names}
        self._first, _ = next(iter(places.values()))
        samples, members, self.leads = template[self._first].shape[:3]
        chunks = self._arrays[self._first].chunks
        self._per_slab, self.blocks = chunks[2], blocks(samples, members, (chunks[0], chunks[1]))
        self._slab: list[Mapping[str, np.ndarray]] = []
        self._pending: deque[Future[None]] = deque()
        self._broken, self._said = False, time.monotonic()

    def __enter__(self) -> Store:
        self._thread = ThreadPoolExecutor(1, "forecast")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)  # what was handed over is written, also on Ctrl-C
        if kind is not None:
            return
        self._wait(0)
        if "incomplete" in self._attrs():
            del self._group.attrs["incomplete"]
            zarr.consolidate_metadata(str(self.path))
        self._state.unlink(missing_ok=True)

    def remaining(self) -> Iterator[tuple[int, Block, Saved | None]]:
        """Number and slices of the blocks to do, and where one stands that was begun."""
        if "incomplete" not in self._attrs():
            LOGGER.info("%s: complete, of an earlier run", self.path)
            return
        at, saved = self._load()
        if saved and saved.leads < self.leads:
            LOGGER.info("%s: an earlier run has %s", self.path, self._progress(at, saved.leads))
            yield at, self.blocks[at], saved
        for i in range(at + 1 if saved else 0, len(self.blocks)):
            yield i, self.blocks[i], None

    def write(self, i: int, fields: Mapping[str, np.ndarray], after: Saved, found: Sequence[Any]) -> None:
        """One more lead of block i.

        Arguments:
            fields: physical, (n, m, *S).
            after: where the block stands then.
            found: everything that the watchdog has found so far.
        Raises:
            InputError: an earlier slab could not be written.
        """
        self._slab.append(fields)
        if len(self._slab) < self._per_slab and after.leads < self.leads:
            return
        values = {name: np.stack([u[name] for u in self._slab], axis=2) for name in self.places}
        self._slab = []
        if time.monotonic() - self._said > QUIET:
            self._said = time.monotonic()
            LOGGER.info("%s: %s", self.path, self._progress(i, after.leads))
        self._wait(QUEUE - 1)
        self._pending.append(self._thread.submit(self._save, i, values, after, tuple(found)))

    def open(self) -> xr.Dataset:
        """The store, lazily."""
        return xr.open_zarr(self.path)

    def _wait(self, most: int) -> None:
        """Until at most so many slabs wait; the error of the thread, if it had one."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def _save(self, i: int, values: Mapping[str, np.ndarray], after: Saved, found: Sequence[Any]) -> None:
        """Write a slab, then where the block stands after it; nothing after an error."""
        if self._broken:
            return
        block = self.blocks[i]
        try:
            for name, (variable, index) in self.places.items():
                leads = slice(after.leads - values[name].shape[2], after.leads)
                self._arrays[variable][(*block, leads, *index)] = values[name]
            if "latent" in self._arrays and after.leads == self.leads:
                self._arrays["latent"][block] = after.latent.numpy()
                self._arrays["lost_at"][block] = after.lost_at
            state = {
                "position": torch.tensor([i, after.leads]),
                "latent": after.latent,
                "lost_at": torch.tensor(after.lost_at),
            }
            save_tensors(state, self._state)
            self._group.attrs.update(messages(self._group.attrs, found) | {"incomplete": self._progress(i, after.leads)})
        except (OSError, RuntimeError, InputError) as error:
            self._broken = True
            reason = " ".join(str(error).split())
            if getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(self.path.parent).free < ROOM:
                reason = "no space left on the device"
            raise InputError(
                f"{self.path} cannot be written ({reason}): mend that, and the same call goes on from there"
            ) from error

    def _load(self) -> tuple[int, Saved | None]:
        """The block that was begun last, and where it stands."""
        if not self._state.exists():
            return 0, None
        state = load_tensors(self._state)
        at, done = state["position"].tolist()
        return at, Saved(done, state["latent"], state["lost_at"].numpy())

    def _progress(self, i: int, done: int) -> str:
        return f"written up to lead {done} of {self.leads} in block {i + 1} of {len(self.blocks)}"

    @property
    def _state(self) -> Path:
        """Where the block that was begun stands; zarr does not look into the folder of an array."""
        return self.path / self._first / ".state.safetensors"

    def _attrs(self) -> dict[str, Any]:
        return load_json(self.path / ".zattrs")

    def _check(self, request: str, overwrite: bool) -> None:
        """Remove a forecast that is to be replaced, refuse what is something else."""
        found = self._attrs().get("request") if (self.path / ".zattrs").is_file() else None
        if found is None:
            raise InputError(f"{self.path} exists, and is no forecast of physinterp: choose another path")
        if overwrite:
            shutil.rmtree(self.path)
        elif found != request:
            old, new = json.loads(found), json.loads(request)
            other = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            raise InputError(
                f"{self.path} holds another forecast (another {', '.join(other)}): choose another path, or overwrite it"
            )

    def _allocate(self, template: xr.Dataset, size: tuple[int, int]) -> None:
        """All metadata and coordinates; the fields are NaN."""
        shapes = {variable: template[variable].shape for variable, _ in self.places.values()}
        indexed = {variable: len(index) for variable, index in self.places.values()}
        samples, members, leads = next(iter(shapes.values()))[:3]
        size = min(size[0], samples), min(size[1], members)
        row = 4 * sum(math.prod(shape[3:]) for shape in shapes.values())
        leads = min(max(1, BYTES // (row * size[0] * size[1])), LEADS, leads)
        chunks: dict[str, tuple[int, ...]] = {
            name: (*size, leads, *(1,) * indexed[name], *shape[3 + indexed[name] :]) for name, shape in shapes.items()
        }
        chunks |= {name: (*size, *template[name].shape[2:]) for name in ("latent", "lost_at") if name in template.coords}
        encoding = {name: {"chunks": chunk, "compressors": (COMPRESSOR,)} for name, chunk in chunks.items()}
        todo = template.drop_encoding().assign_attrs(incomplete="nothing is written yet")
        with replacing(self.path) as part:
            todo.to_zarr(part, mode="w", compute=False, consolidated=True, encoding=encoding, zarr_format=2)
