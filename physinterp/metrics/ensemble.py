"""Scores of an ensemble: CRPS, energy score, spread, error of its mean, rank histogram, reliability.

The member axis comes first: forecast x of shape (M, ..., C, *S), truth y of shape (..., C, *S). Members are
taken to be exchangeable. Accumulation is float64; NaN in any member or in the truth gives NaN for that field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pdist

from physinterp.errors import InputError
from physinterp.metrics.space import ensemble_pair, grid_weights, in_blocks, space_mean


def crps(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    kind: Literal["fair", "standard"] = "fair",
    space: int = 2,
) -> Tensor:
    r"""Continuous ranked probability score of an ensemble, averaged over space.

        CRPS = < mean_m |x_m - y| - S / 2 >,
        S = sum_{m,n} |x_m - x_n| / (M (M-1))  (fair)   or   / M^2  (standard)
          = 2 sum_i (2 i - M - 1) x_(i) / (M (M-1)),   x_(i) sorted, i = 1 ... M: O(M log M)

    Fair estimates the score of the distribution the members are drawn from and may be compared across
    ensemble sizes; it can be negative at a point. Standard scores the M members themselves and is larger by
    S_fair / (2 M): label which one is printed. With one member S is 0 and both are the MAE.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        kind: "fair" (M >= 2 for a meaningful spread) or "standard".
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C).
    Raises:
        InputError: shapes do not belong together (the message shows both), or an unknown kind.
    References: Zamo and Naveau 2018, doi:10.1007/s11004-017-9709-7; Ferro 2014, doi:10.1002/qj.2270.
    """
    x, y = ensemble_pair(forecast, truth, space)
    members, pairs = x.shape[0], _pairs(x.shape[0], kind)
    rank = torch.arange(1, members + 1, dtype=torch.float64, device=x.device)
    coefficient = (2 * rank - members - 1) / max(pairs, 1)

    def score(x: Tensor, y: Tensor) -> Tensor:
        error = x - y
        mean = space_mean(error.abs(), weights, space).mean(dim=0)
        if members == 1:
            return mean
        ordered = torch.from_numpy(np.sort(error.numpy(force=True), axis=0))  # ten times faster than torch's on a CPU
        return mean - torch.tensordot(coefficient, space_mean(ordered.to(error.device), weights, space), dims=1)

    return _in_blocks(score, x, y, space=space)


def energy_score(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    kind: Literal["fair", "standard"] = "fair",
    space: int = 2,
) -> Tensor:
    r"""Energy score of an ensemble of whole fields: the CRPS with a distance of fields.

        ES = mean_m |x_m - y| - S / 2,   |a| = sqrt( <a^2> ),   <.> the weighted mean over space
        S = sum_{m,n} |x_m - x_n| / (M (M-1))  (fair)   or   / M^2  (standard)

    Unlike the CRPS it notices wrong correlations between points, though weakly. The distance is a root mean
    square: the Euclidean norm of other programs is sqrt(N) times larger, N grid points. With one member S is 0
    and both kinds are the RMSE.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        kind: "fair" (M >= 2 for a meaningful spread) or "standard".
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C).
    Raises:
        InputError: shapes do not belong together (the message shows both), or an unknown kind.
    References: Gneiting and Raftery 2007, doi:10.1198/016214506000001437, Eq. 22.
    """
    x, y = ensemble_pair(forecast, truth, space)
    pairs, grid = _pairs(x.shape[0], kind), y.shape[y.ndim - space :]
    root = None if weights is None else grid_weights(weights, grid, x.device).sqrt()

    def score(x: Tensor, y: Tensor) -> Tensor:
        error = space_mean((x - y).square(), weights, space).sqrt().mean(dim=0)
        rows = (x if root is None else x * root).flatten(-space).movedim(0, -2).flatten(0, -3)  # (cases, M, N)
        none = error.new_zeros(1)  # there may be no cases
        spread = torch.cat([none, *(pdist(row).sum()[None] for row in rows)])[1:].reshape(error.shape)
        return error - spread / (math.sqrt(math.prod(grid)) * max(pairs, 1))

    return _in_blocks(score, x, y, space=space)


def _in_blocks(score: Callable[..., Tensor], x: Tensor, *others: Tensor, space: int) -> Tensor:
    """`in_blocks` of an ensemble (M, ..., C, *S) and of fields (..., C, *S): the members of a case stay together."""
    inner, *outer = x.movedim(0, -space - 1), *(y.unsqueeze(-space - 1) for y in others)

    def with_members_first(x: Tensor, *others: Tensor) -> Tensor:
        return score(x.movedim(-space - 1, 0), *(y.squeeze(-space - 1) for y in others))

    return in_blocks(with_members_first, inner, *outer, space=space + 1)


def _pairs(members: int, kind: str) -> int:
    """Divisor of a sum over all ordered pairs of members."""
    if kind not in ("fair", "standard"):
        raise InputError(f"kind must be 'fair' or 'standard'; found {kind!r}: choose one.")
    return members * (members - 1) if kind == "fair" else members**2


def ensemble_variance(
    forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2
) -> Tensor:
    r"""Variance of the members about their mean, averaged over space.

        variance = < sum_m (x_m - xbar)^2 / (M - 1) >

    Unbiased in M. One member has no variance. Averages over samples belong before any root.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: shape (..., C, *S); its shape is checked, its values are not used.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Squared units of the field, shape (..., C).
    Raises:
        InputError: shapes do not belong together (the message shows both), or there is one member only.
    References: Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1.
    """
    x, y = ensemble_pair(forecast, truth, space)
    if x.shape[0] < 2:
        raise InputError("a spread needs at least 2 members; found 1: run an ensemble, or score its error alone.")

    def variance(x: Tensor, y: Tensor) -> Tensor:
        x = x - x[:1]  # equal members give exactly 0
        return space_mean((x - x.mean(dim=0)).square().sum(dim=0) / (x.shape[0] - 1), weights, space)

    return _in_blocks(variance, x, y, space=space)


def ensemble_mean_mse(
    forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2
) -> Tensor:
    r"""Mean squared error of the ensemble mean.

        MSE = < (xbar - y)^2 >,   xbar = mean over the members

    Contains variance / M of sampling error: small ensembles score worse.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Squared units of the field, shape (..., C).
    Raises:
        InputError: shapes do not belong together; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    x, y = ensemble_pair(forecast, truth, space)
    return _in_blocks(lambda x, y: space_mean((x.mean(dim=0) - y).square(), weights, space), x, y, space=space)


def spread_skill(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    over: Sequence[int] | None = None,
    space: int = 2,
) -> Tensor:
    r"""Ratio of ensemble spread to the error of the ensemble mean, corrected for the number of members.

        SSR = sqrt( (M+1)/M ) sqrt( <variance> ) / sqrt( <mse> ),   <.> over space and over the leading axes
        `over`

    1 for a perfect ensemble of any size; below 1 it is overconfident. The means come before the roots: do not
    average ratios. No error at all: inf, or NaN where the spread is 0 too.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        over: leading axes of the truth (0, 1, ...) that <.> runs over; None takes all, () takes none.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C) without the axes `over`: (C,) by default, (..., C) for over=().
    Raises:
        InputError: shapes do not belong together (the message shows both), one member, or `over` names no
            leading axis.
    References: Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1.
    """
    variance = ensemble_variance(forecast, truth, weights, space=space)
    mse = ensemble_mean_mse(forecast, truth, weights, space=space)
    variance, mse = _mean_over(over, truth, variance, mse, space=space)
    members = forecast.shape[0]
    return math.sqrt((members + 1) / members) * (variance / mse).sqrt()


def rank_histogram(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""How often the truth falls between which members: the frequency of each of its M + 1 ranks.

        h_r = < P(r members lie below the truth) >,   r = 0 ... M,   sum_r h_r = 1

    Flat, 1/(M+1), for a perfect ensemble; U-shaped when it is overconfident. A truth that ties with j members
    is shared equally by the j + 1 ranks it could take. Flatness is necessary, not sufficient; neighbouring
    points are correlated.

    Arguments:
        forecast: x, shape (M, ..., C, *S).
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Frequencies, shape (..., C, M + 1).
    Raises:
        InputError: shapes do not belong together; the message shows both.
    References: Hamill 2001, doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2.
    """
    x, y = ensemble_pair(forecast, truth, space)
    top = x.shape[0]

    def frequencies(x: Tensor, y: Tensor) -> Tensor:
        below, ties = (a.sum(dim=0, dtype=torch.int32).long() for a in (x < y, x == y))
        share = (1 / (ties + 1).to(torch.float64)).masked_fill(_lost(x, y), math.nan)
        most = int(ties.max())  # a tie is shared by the ranks from below to below + ties
        shares = [_binned(share * (j <= ties), (below + j).clamp(max=top), top + 1, weights, space) for j in range(most + 1)]
        return torch.stack(shares).sum(dim=0)

    return _in_blocks(frequencies, x, y, space=space)


@dataclass(frozen=True)
class Reliability:
    """How often an event happens where it is forecast with a given probability.

    Arguments:
        edges: of the bins of probability, shape (B + 1,); the last bin holds its upper edge.
        forecast: mean forecast probability in each bin, shape (..., C, B); NaN where a bin is empty.
        observed: frequency of the event in each bin, same shape; equal to `forecast` when reliable.
        share: of the points in each bin, same shape; its sum over the bins is 1.
    """

    edges: Tensor
    forecast: Tensor
    observed: Tensor
    share: Tensor


def reliability(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    threshold: float | Tensor,
    bins: int = 10,
    over: Sequence[int] | None = None,
    space: int = 2,
) -> Reliability:
    r"""Observed frequency of the event y > threshold against its forecast probability.

        q = mean_m [x_m > threshold],   observed_b = <[q in b] [y > threshold]> / <[q in b]>,
        forecast_b = <[q in b] q> / <[q in b]>,   <.> over space and over the leading axes `over`

    Bins of equal width on [0, 1]. A perfect ensemble of few members departs from the diagonal towards the
    base rate, because q is a noisy estimate: judge small ensembles against that.

    Arguments:
        forecast: x, shape (M, ..., C, *S).
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        threshold: of the event, units of the field; a tensor broadcasts to the truth, as (C, 1, 1).
        bins: number of bins; M + 1 has one for each value that q can take.
        over: leading axes of the truth (0, 1, ...) that <.> runs over; None takes all, () takes none.
        space: number of space axes.
    Returns:
        Reliability, per field and bin.
    Raises:
        InputError: shapes do not belong together (the message shows both), no bin, or `over` names no leading
            axis.
    References: Wilks 2019, Statistical Methods in the Atmospheric Sciences, section 9.4.
    """
    x, y = ensemble_pair(forecast, truth, space)
    if bins < 1:
        raise InputError(f"reliability needs at least one bin of probability; found bins={bins}: give more.")

    def sums(x: Tensor, y: Tensor, level: Tensor) -> Tensor:
        q = (x > level).sum(dim=0, dtype=torch.int32).to(torch.float64) / x.shape[0]
        q = q.masked_fill(_lost(x, y), math.nan)
        index = (q.nan_to_num(0.0) * bins + 1e-9).long().clamp(max=bins - 1)
        of_bins = (torch.ones_like(q), q, (y > level).to(torch.float64))
        return torch.stack([_binned(q * 0 + f, index, bins, weights, space) for f in of_bins], dim=-1)

    level = torch.as_tensor(threshold, dtype=torch.float64, device=x.device).expand(y.shape)
    found = _in_blocks(sums, x, y, level, space=space).unbind(dim=-1)
    share, forecast_sum, observed_sum = _mean_over(over, truth, *found, space=space)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    return Reliability(edges, forecast_sum / share, observed_sum / share, share)


def _lost(x: Tensor, y: Tensor) -> Tensor:
    """Points at which a member or the truth is not a number."""
    return x.amax(dim=0).isnan() | y.isnan()


def _binned(values: Tensor, index: Tensor, bins: int, weights: ArrayLike | Tensor | None, space: int) -> Tensor:
    """Sum over the points of each bin, over the number of all points: (..., *S) to (..., bins); NaN in all bins or none."""
    if weights is not None:
        values = values * grid_weights(weights, values.shape[values.ndim - space :], values.device)
    values, index = values.flatten(-space), index.flatten(-space)
    sums = values.new_zeros(*values.shape[:-1], bins).scatter_add_(-1, index, values)
    return sums / values.shape[-1] + 0 * values.sum(dim=-1, keepdim=True)


def _mean_over(over: Sequence[int] | None, truth: Tensor, *scores: Tensor, space: int) -> list[Tensor]:
    """Means of scores (..., C) or (..., C, bins) over leading axes of the truth; None is all of them."""
    leading = range(truth.ndim - space - 1)
    over = tuple(leading) if over is None else tuple(over)
    if any(axis not in leading for axis in over):
        raise InputError(
            f"over={over} must name leading axes of the truth: found shape {tuple(truth.shape)}, which has "
            f"{tuple(leading)} before the channel axis."
        )
    return [score.mean(dim=over) if over else score for score in scores]
