"""Scores of an ensemble: CRPS, spread, error of the ensemble mean, their ratio, rank histogram.

The member axis comes first: forecast x of shape (M, ..., C, *S), truth y of shape (..., C, *S). Members are
taken to be exchangeable. Accumulation is float64; NaN in any member or in the truth gives NaN for that field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.metrics.space import ensemble_pair, space_mean


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
        ValueError: shapes do not belong together (the message shows both), or an unknown kind.
    References: Zamo and Naveau 2018, doi:10.1007/s11004-017-9709-7; Ferro 2014, doi:10.1002/qj.2270.
    """
    if kind not in ("fair", "standard"):
        raise ValueError(f"kind must be 'fair' or 'standard'; found {kind!r}.")
    x, y = ensemble_pair(forecast, truth, space)
    error = x - y
    members = error.shape[0]
    score = error.abs().mean(dim=0)
    if members > 1:
        rank = torch.arange(1, members + 1, dtype=torch.float64, device=error.device)
        pairs = members * (members - 1) if kind == "fair" else members**2
        coefficient = (2 * rank - members - 1) / pairs
        score = score - torch.tensordot(coefficient, error.sort(dim=0).values, dims=1)
    return space_mean(score, weights, space)


def ensemble_variance(
    forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2
) -> Tensor:
    r"""Variance of the members about their mean, averaged over space.

        variance = < sum_m (x_m - xbar)^2 / (M - 1) >

    Unbiased in M. One member has no variance: NaN, not 0. Averages over samples belong before any root.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: shape (..., C, *S); its shape is checked, its values are not used.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Squared units of the field, shape (..., C).
    Raises:
        ValueError: shapes do not belong together; the message shows both.
    References: Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1.
    """
    x, _ = ensemble_pair(forecast, truth, space)
    x = x - x[:1]  # equal members give exactly 0
    variance = (x - x.mean(dim=0)).square().sum(dim=0) / (x.shape[0] - 1)  # 0 / 0 = NaN for one member
    return space_mean(variance, weights, space)


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
        ValueError: shapes do not belong together; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    x, y = ensemble_pair(forecast, truth, space)
    return space_mean((x.mean(dim=0) - y).square(), weights, space)


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
    average ratios. One member: NaN. No error at all: inf, or NaN where the spread is 0 too.

    Arguments:
        forecast: x, shape (M, ..., C, *S), physical units.
        truth: y, shape (..., C, *S), same units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        over: leading axes of the truth (0, 1, ...) that <.> runs over; None takes all, () takes none.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C) without the axes `over`: (C,) by default, (..., C) for over=().
    Raises:
        ValueError: shapes do not belong together (the message shows both), or `over` names no leading axis.
    References: Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1.
    """
    variance = ensemble_variance(forecast, truth, weights, space=space)
    mse = ensemble_mean_mse(forecast, truth, weights, space=space)
    leading = range(variance.ndim - 1)
    over = tuple(leading) if over is None else tuple(over)
    if any(axis not in leading for axis in over):
        raise ValueError(
            f"over={over} must name leading axes of the truth: found shape {tuple(truth.shape)}, which has "
            f"{tuple(leading)} before the channel axis."
        )
    if over:
        variance, mse = variance.mean(dim=over), mse.mean(dim=over)
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
        ValueError: shapes do not belong together; the message shows both.
    References: Hamill 2001, doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2.
    """
    x, y = ensemble_pair(forecast, truth, space)
    below, ties = (x < y).sum(dim=0), (x == y).sum(dim=0)
    share = (1 / (ties + 1).to(torch.float64)).masked_fill(x.isnan().any(dim=0) | y.isnan(), math.nan)
    ranks = [share * ((below <= r) & (r <= below + ties)) for r in range(x.shape[0] + 1)]
    return torch.stack([space_mean(rank, weights, space) for rank in ranks], dim=-1)
