"""Forecasts that learn nothing: persistence and climatology."""

from __future__ import annotations

from torch import Tensor, nn

from physinterp.types import Conditioning, NoiseFn


class Persistence(nn.Module):
    """The next state is the present one."""

    def forward(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        return z


class Climatology(nn.Module):
    """The next state is the mean of the training split at each point, whatever the present.

    Arguments:
        mean: the mean field, shape (C, *S), in the space of the stepper.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())

    def forward(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        return self.mean.expand_as(z).clone()
