"""Invariant statistics: do long rollouts visit values as often as the truth does?

Beyond the time at which forecasts lose the truth, a state-by-state error says nothing; distributions over
space, time and members do. Long means long: hundreds of frames, spin-up left out, of forecast and truth alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics.space import grid_weights, in_blocks, once, space_mean

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


def wasserstein2(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""Wasserstein-2 distance between the distributions of the values of two samples, per field.

        W2 = sqrt( integral_0^1 (Q_u(p) - Q_v(p))^2 dp ),   Q the quantile function of all values together

    All leading axes and all points are one sample; their numbers may differ. Exact for the samples at hand:
    two finite samples of one distribution are apart too, so print beside it the distance of two halves of the
    truth. A shift scores itself. NaN in a field gives NaN.

    Arguments:
        forecast: u, shape (..., C, *S).
        truth: v, shape (..., C, *S), same fields and grid, any leading axes.
        weights: quadrature weights of the points, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Units of the field, shape (C,).
    Raises:
        InputError: fields or grids differ; the message shows both shapes.
    References: Villani 2009, Optimal Transport, Eq. 6.1 (in one dimension by quantiles).
    """
    return _distances(_samples(forecast, truth, weights, space), weights is None)


@dataclass(frozen=True)
class Distributions:
    """Quantiles of a quantity in forecast and truth, and how far the two distributions are apart.

    Arguments:
        levels: probabilities, shape (Q,).
        forecast, truth: quantiles, shape (C, Q); NaN where a value is NaN.
        w2: Wasserstein-2 distance, shape (C,).
    """

    levels: Tensor
    forecast: Tensor
    truth: Tensor
    w2: Tensor


def invariant_statistics(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    space: int = 2,
) -> dict[str, Distributions]:
    r"""Distributions of the values, and of half their mean square, over long rollouts.

        value: of w at all points and frames;   energy: of <w^2> / 2 of each frame

    With w the vorticity the second is the enstrophy, with w a velocity component its kinetic energy.

    Arguments:
        forecast: w, shape (..., C, *S): frames, members, initial states.
        truth: shape (..., C, *S), same fields and grid, any leading axes.
        weights: quadrature weights of the points, broadcastable to S, mean 1; None is a uniform grid.
        levels: of the quantiles, between 0 and 1.
        space: number of space axes.
    Returns:
        {"value": ..., "energy": ...}.
    Raises:
        InputError: fields or grids differ (the message shows both shapes), or a level out of range.
    """
    p = torch.tensor(levels, dtype=torch.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"levels must lie between 0 and 1; found {tuple(levels)}: change them.")
    _check(forecast, truth, space)
    frames = [
        in_blocks(lambda x: space_mean(x.square(), weights, space), x, space=space)[..., None] / 2 for x in (forecast, truth)
    ]
    return {
        "value": _distributions(forecast, truth, weights, p, space),
        "energy": _distributions(frames[0], frames[1], None, p, 1),
    }


def _distributions(
    forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None, levels: Tensor, space: int
) -> Distributions:
    samples = _samples(forecast, truth, weights, space)
    of_forecast, of_truth = (
        torch.stack([_quantiles(a, p, levels.to(a.device)) for a, p in zip(*sample, strict=True)]) for sample in samples
    )
    return Distributions(levels, of_forecast, of_truth, _distances(samples, weights is None))


def _check(forecast: Tensor, truth: Tensor, space: int) -> None:
    if forecast.ndim < space + 1 or forecast.shape[-space - 1 :] != truth.shape[-space - 1 :]:
        raise InputError(
            f"forecast and truth must have the same fields and grid (C, *S) at the end; found {tuple(forecast.shape)} "
            f"and {tuple(truth.shape)} with {space} space axes: select the same fields, or set `space`."
        )


def _samples(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None, space: int) -> list[tuple[Tensor, Tensor]]:
    """Of forecast and truth: values in ascending order (C, N) and the probability up to each, (C, N)."""
    _check(forecast, truth, space)
    pairs = []
    for x in (forecast, truth):
        x = once(x if x.dtype == torch.float32 else x.to(torch.float64), space=space + 1)[0]
        values = x.movedim(-space - 1, 0).clone(memory_format=torch.contiguous_format).flatten(1)
        number = values.shape[-1]
        if weights is None:
            ordered = values.numpy(force=True)
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # a field each; ten times faster than torch's on a CPU
                list(pool.map(np.ndarray.sort, ordered))
            values = torch.from_numpy(ordered).to(x.device)
            upto = (torch.arange(1, number + 1, dtype=torch.float64, device=x.device) / number).expand_as(values)
        else:
            grid = x.shape[x.ndim - space :]
            w = grid_weights(weights, grid, x.device).expand(grid).flatten()
            values, order = values.sort(dim=-1)
            upto = w[order % len(w)].cumsum(dim=-1)
            upto = upto / upto[:, -1:]
        pairs.append((values, upto))
    return pairs


def _distances(samples: list[tuple[Tensor, Tensor]], even: bool) -> Tensor:
    """W2 of each field, (C,), of `_samples`; `even`: all values of a sample have the same probability."""
    u, v = samples
    few, many = sorted((u[0], v[0].to(u[0].device)), key=lambda values: values.shape[1])
    if even and many.shape[1] % few.shape[1] == 0:  # each of the few is a quantile of as many of the others
        many = many.unflatten(1, (few.shape[1], -1))
        return in_blocks(lambda a, b: (a - b).square().mean(dim=-1), many, few[..., None], space=1).mean(dim=-1).sqrt()
    return torch.stack([_distance(a, p, b, q) for a, p, b, q in zip(*u, *v, strict=True)])


def _distance(a: Tensor, p: Tensor, b: Tensor, q: Tensor) -> Tensor:
    """W2 of two sorted samples, a with cumulative probability p, b with q: both quantile functions are steps."""
    edges = torch.from_numpy(np.sort(torch.cat([p.new_zeros(1), p, q.to(p.device)]).numpy(force=True), kind="stable")).to(p)
    width = edges.diff()
    middle, width = ((edges[1:] + edges[:-1]) / 2)[width > 0], width[width > 0]
    gap = _quantiles(a, p, middle) - _quantiles(b.to(a.device), q.to(a.device), middle)
    return (gap.square() * width).sum().sqrt()


def _quantiles(a: Tensor, p: Tensor, levels: Tensor) -> Tensor:
    """Smallest value up to which there is the probability of each level; NaN in the sample gives NaN."""
    found = a[torch.searchsorted(p, levels).clamp(max=len(a) - 1)].to(torch.float64)
    return found.masked_fill(a[-1].isnan(), torch.nan)
