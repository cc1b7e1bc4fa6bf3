"""Pointwise scores of one forecast: RMSE, its normalised forms, MAE, bias and correlation.

Every score takes u = forecast and v = truth of shape (..., C, *S) and returns one number per leading index
and field, (..., C). Averages over samples and times come afterwards and are the caller's choice, so the order
of root and mean is always visible. Accumulation is float64; NaN in a field gives NaN for that field.
"""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.metrics.space import anomaly, field_pair, require_unweighted, space_mean


def rmse(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""Root mean squared error over space.

        RMSE = sqrt( <(u - v)^2> ),   <.> the weighted mean over space

    The root is taken before any average over samples or times; square, average and take the root again for
    the other order.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C).
    Raises:
        ValueError: shapes differ; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    u, v = field_pair(forecast, truth, space)
    return space_mean((u - v).square(), weights, space).sqrt()


def nrmse(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    eps: float = 0.0,
    *,
    space: int = 2,
) -> Tensor:
    r"""Root mean squared error scaled by the root mean square of the truth.

        NRMSE = sqrt( <(u - v)^2> / (<v^2> + eps) )

    The mean of the field is in the denominator: a large offset makes this score small. Use `vrmse` for such
    fields. A truth that is 0 everywhere scores inf, or NaN where the forecast is 0 too.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        eps: guard for zero fields, in squared units of the field.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C).
    Raises:
        ValueError: shapes differ; the message shows both.
    References: Ohana et al. 2024, The Well, arXiv:2412.00568.
    """
    u, v = field_pair(forecast, truth, space)
    return (space_mean((u - v).square(), weights, space) / (space_mean(v.square(), weights, space) + eps)).sqrt()


def vrmse(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    eps: float = 0.0,
    *,
    space: int = 2,
) -> Tensor:
    r"""Root mean squared error scaled by the spatial standard deviation of the truth.

        VRMSE = sqrt( <(u - v)^2> / (var(v) + eps) ),   var(v) = N/(N-1) <(v - <v>)^2>,   N grid points

    Predicting the spatial mean scores sqrt((N-1)/N). One value per field; average afterwards. With weights,
    both means are weighted and the factor N/(N-1) is kept; without, the number is comparable with The Well's.
    A constant truth scores inf, or NaN where the forecast equals it: with `eps` the score of such a field is
    the eps, not skill.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        eps: guard for constant fields, in squared units of the field. The Well: 1e-7.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C).
    Raises:
        ValueError: shapes differ; the message shows both.
    References: Ohana et al. 2024, The Well, arXiv:2412.00568.
    """
    u, v = field_pair(forecast, truth, space)
    points = math.prod(v.shape[v.ndim - space :])
    unbiased = points / (points - 1) if points > 1 else math.nan
    variance = unbiased * space_mean(anomaly(v, weights, space).square(), weights, space)
    return (space_mean((u - v).square(), weights, space) / (variance + eps)).sqrt()


def vrmse_pooled(forecast: Tensor, truth: Tensor, weights: None = None, eps: float = 1e-6) -> Tensor:
    r"""The pooled VRMSE of the physics-SI paper: ONE number for all samples, fields and points together.

        VRMSE = sqrt( mean (u - v)^2 / (var(v) + eps) ),   mean and unbiased var over every axis

    A compatibility mode. The variance between fields and samples is in the denominator, and the field with
    the largest values decides: with fields of unlike scales it can be several times smaller than `vrmse`. Do
    not compare the two.

    Arguments:
        forecast: u, shape (..., C, *S), any number of axes.
        truth: v, same shape and units.
        weights: must be None: the paper's number has none.
        eps: guard, in squared units; absolute, so the number depends on the units.
    Returns:
        Dimensionless scalar, shape ().
    Raises:
        ValueError: shapes differ, or weights are given.
    References: the physics-SI paper's code, anthonyzhou-1/interpolant_pdes, `common/loss.py`.
    """
    require_unweighted("vrmse_pooled", weights)
    u, v = field_pair(forecast, truth, space=1)
    variance = v.var(correction=1) if v.numel() > 1 else v.new_full((), math.nan)
    return ((u - v).square().mean() / (variance + eps)).sqrt()


def mae(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""Mean absolute error over space.

        MAE = <|u - v|>

    The score of a one-member ensemble under the fair CRPS.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C).
    Raises:
        ValueError: shapes differ; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    u, v = field_pair(forecast, truth, space)
    return space_mean((u - v).abs(), weights, space)


def bias(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""Mean error over space, with its sign.

        bias = <u - v>,   positive where the forecast is too large

    Zero does not mean a good forecast: errors of opposite sign cancel.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C).
    Raises:
        ValueError: shapes differ; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    u, v = field_pair(forecast, truth, space)
    return space_mean(u - v, weights, space)


def pearson(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""Correlation of forecast and truth over space, per field.

        r = <u' v'> / sqrt( <u'^2> <v'^2> ),   u' = u - <u>,  v' = v - <v>

    Blind to bias and to amplitude. Fields are never pooled: offsets between fields would raise r. A constant
    forecast or truth has no correlation: NaN, not 0.

    Arguments:
        forecast: u, shape (..., C, *S).
        truth: v, same shape.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes.
    Returns:
        Dimensionless, in [-1, 1], shape (..., C).
    Raises:
        ValueError: shapes differ; the message shows both.
    References: Kochkov et al. 2021, arXiv:2102.01010 (correlation of the vorticity).
    """
    u, v = field_pair(forecast, truth, space)
    du, dv = anomaly(u, weights, space), anomaly(v, weights, space)
    scale = space_mean(du.square(), weights, space).sqrt() * space_mean(dv.square(), weights, space).sqrt()
    return torch.clamp(space_mean(du * dv, weights, space) / scale, -1.0, 1.0)
