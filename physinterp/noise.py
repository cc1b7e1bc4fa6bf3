"""The noise of a rollout: reproducible per member and step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from physinterp.types import NoiseFn

ROWS = 8  # coloured at once, always as many: matrix products depend on their size in their last bit


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
        colour: what a model makes of white noise (B, C, *S); the rows of a batch that belong to one member share it.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        correlation: float = 0.0,
        colour: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        self.seed, self.shape, self.correlation = seed, shape, correlation
        self.colour = colour
        self._coloured: dict[tuple[int, int, int], Tensor] = {}  # of one step, as is what follows
        self._batch: dict[int, tuple[tuple[int, ...], Tensor]] = {}  # per draw: the last batch, and its members
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
        names = tuple(members.tolist())

        def draws(k: int) -> Tensor:
            self._colour(step, sorted(set(names)), k, device)
            if k not in self._batch or self._batch[k][0] != names:  # other initial states often have the same members
                self._batch[k] = names, torch.stack([self._coloured[step, m, k] for m in names])
            return self._batch[k][1]

        return draws

    def _colour(self, step: int, members: list[int], k: int, device: torch.device) -> None:
        """Put the draws of the members through `colour` where that is not done yet."""
        if self._coloured and next(iter(self._coloured))[0] != step:
            self._coloured.clear()
            self._batch.clear()
        todo = [m for m in members if (step, m, k) not in self._coloured]
        for first in range(0, len(todo), ROWS):
            part = todo[first : first + ROWS]
            filled = [*part, *part[-1:] * (ROWS - len(part))]
            noise = self.colour(torch.stack([self.draw(step, m, k) for m in filled]).to(device))
            self._coloured |= {(step, m, k): e for m, e in zip(part, noise, strict=False)}
