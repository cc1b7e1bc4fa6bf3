"""What is trained: a backbone and an objective that gives it meaning."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from physinterp.samplers import Sampler
from physinterp.types import Conditioning, NoiseFn


class Model(nn.Module, ABC):
    """A backbone with an objective.

    Every objective calls its backbone in one way, backbone([x0, y], s, cond): x0 is the clean state, y a second input
    of the same shape (noisy, or zeros) and s a level that is 0 where y says nothing about the next state. The
    deterministic twin only knows y = 0, s = 0; since the backbones ignore y and s until they are trained on them, its
    weights are the warm start of every other objective.

    Arguments:
        backbone: (B, 2C, *S), (B,), cond -> (B, C, *S).
        scale: standard deviation of the one-step difference x1 - x0 per channel, shape (C,).
    """

    scale: Tensor

    def __init__(self, backbone: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("scale", scale.reshape(-1, 1, 1).clone())

    def network(self, x0: Tensor, y: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        """The raw output of the backbone, (B, C, *S)."""
        return self.backbone(torch.cat([x0, y], dim=1), s, cond)

    @abstractmethod
    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        """Mean squared error of the objective in units of `scale`, a scalar; x0, x1 (B, C, *S)."""

    def colour(self, noise: Tensor) -> Tensor:
        """The noise of the model from white noise, (B, C, *S)."""
        return noise

    @abstractmethod
    def advance(self, z: Tensor, cond: Conditioning, sampler: Sampler | None, noise: NoiseFn) -> Tensor:
        """One physical step, (B, C, *S) -> (B, C, *S); noise(k) is draw k, white noise through `colour`."""


def as_level(s: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to broadcast over a state."""
    return s[:, None, None, None]


def uniform(n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Stratified uniform numbers in [0, 1), shape (n,): one in each of n equal cells, in random order."""
    cells = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
    return (cells / n).to(like)


def gaussian(generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers shaped like a tensor, drawn on the CPU."""
    return torch.randn(like.shape, generator=generator).to(like)
