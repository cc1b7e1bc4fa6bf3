"""Forecasts that learn nothing: persistence and climatology."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from physinterp.types import Conditioning, NoiseFn

DAY, YEAR = 86400.0, 365.2425 * 86400.0  # seconds


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


class Season:
    r"""The climatology of a dated record: at each point the mean and two harmonics of the year and of the day.

        u(t) = a_0 + sum_{k = 1, 2} sum_{T in {year, day}} a_kT cos(2 pi k t / T) + b_kT sin(2 pi k t / T)

    by least squares over the training split; the year only where it lasts one, the day only where dates are closer.

    Arguments:
        states: normalised states (B, C, *S) in the order of the dates, in parts.
        dates: of all states, datetime64.
    """

    def __init__(self, states: Iterable[Tensor], dates: np.ndarray) -> None:
        seconds = dates.astype("datetime64[s]").astype(np.float64)
        yearly, daily = np.ptp(seconds) >= YEAR - DAY, len(seconds) > 1 and np.diff(seconds).min() < DAY
        self.periods = [p for p, used in ((YEAR, yearly), (DAY, daily)) if used]
        features, start, products = self._features(dates), 0, torch.zeros(())
        for x in states:
            rows, start = features[start : start + len(x)], start + len(x)
            products = products + torch.einsum("bf,b...->f...", rows, x.double().cpu())
        inverse = torch.linalg.pinv(features.T @ features, hermitian=True)
        self.coefficients = torch.einsum("fg,g...->f...", inverse, products)

    def __call__(self, dates: np.ndarray) -> Tensor:
        """Normalised states (B, C, *S) at some dates (B,)."""
        return torch.einsum("bf,f...->b...", self._features(dates), self.coefficients).float()

    def _features(self, dates: np.ndarray) -> Tensor:
        seconds = torch.from_numpy(dates.astype("datetime64[s]").astype(np.float64))
        phases = [2 * torch.pi * k * seconds / period for period in self.periods for k in (1, 2)]
        return torch.stack([torch.ones_like(seconds), *(f(p) for p in phases for f in (torch.cos, torch.sin))], 1)
