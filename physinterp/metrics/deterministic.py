"""Pointwise scores of one forecast: RMSE, its normalised forms, MAE, bias, correlations and the time they last.

Every score takes u = forecast and v = truth of shape (..., C, *S) and returns one number per leading index
and field, (..., C). Averages over samples and times come afterwards and are the caller's choice, so the order
of root and mean is always visible. Accumulation is float64; NaN in a field gives NaN for that field.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics.space import anomaly, field_pair, in_blocks, space_mean


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
        InputError: shapes differ; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    u, v = field_pair(forecast, truth, space)
    return _mse(u, v, weights, space).sqrt()


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
        InputError: shapes differ; the message shows both.
    References: Ohana et al. 2024, The Well, arXiv:2412.00568.
    """
    u, v = field_pair(forecast, truth, space)
    scale = in_blocks(lambda v: space_mean(v.square(), weights, space), v, space=space) + eps
    return (_mse(u, v, weights, space) / scale).sqrt()


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
        InputError: shapes differ; the message shows both.
    References: Ohana et al. 2024, The Well, arXiv:2412.00568.
    """
    u, v = field_pair(forecast, truth, space)
    points = math.prod(v.shape[v.ndim - space :])
    unbiased = points / (points - 1) if points > 1 else math.nan
    return (_mse(u, v, weights, space) / (unbiased * _variance(v, weights, space) + eps)).sqrt()


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
        InputError: shapes differ; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    u, v = field_pair(forecast, truth, space)
    return in_blocks(lambda u, v: space_mean((u - v).abs(), weights, space), u, v, space=space)


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
        InputError: shapes differ; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560.
    """
    u, v = field_pair(forecast, truth, space)
    return in_blocks(lambda u, v: space_mean(u - v, weights, space), u, v, space=space)


def nmae(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    eps: float = 0.0,
    *,
    space: int = 2,
) -> Tensor:
    r"""Mean absolute error scaled by the mean magnitude of the truth.

        NMAE = <|u - v|> / (<|v|> + eps)

    A large offset of the field makes this score small, as it does `nrmse`.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        eps: guard for zero fields, units of the field. The Well: 1e-7.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C).
    Raises:
        InputError: shapes differ; the message shows both.
    References: Ohana et al. 2024, The Well, arXiv:2412.00568.
    """
    u, v = field_pair(forecast, truth, space)
    scale = in_blocks(lambda v: space_mean(v.abs(), weights, space), v, space=space) + eps
    return mae(u, v, weights, space=space) / scale


def linf(forecast: Tensor, truth: Tensor, weights: ArrayLike | Tensor | None = None, *, space: int = 2) -> Tensor:
    r"""Largest absolute error in space.

        Linf = max |u - v|

    Grows with the number of points: compare on one grid.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: not used: a maximum has none.
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C).
    Raises:
        InputError: shapes differ; the message shows both.
    References: Ohana et al. 2024, The Well, arXiv:2412.00568 (LInfinity).
    """
    u, v = field_pair(forecast, truth, space)
    return in_blocks(lambda u, v: (u - v).abs().flatten(-space).amax(dim=-1), u, v, space=space)


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
        InputError: shapes differ; the message shows both.
    References: Kochkov et al. 2021, arXiv:2102.01010 (correlation of the vorticity).
    """
    u, v = field_pair(forecast, truth, space)
    return in_blocks(lambda u, v: _correlation(u, v, weights, True, space), u, v, space=space)


def acc(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    climatology: ArrayLike | Tensor,
    centred: bool = False,
    space: int = 2,
) -> Tensor:
    r"""Anomaly correlation: correlation of the departures of forecast and truth from a climatology.

        ACC = <a b> / sqrt( <a^2> <b^2> ),   a = u - c,  b = v - c;   centred: a - <a> and b - <b> instead

    Uncentred as in WeatherBench 2; the WMO's is centred, and they differ in the third digit: say which one is
    printed. One value per time; average afterwards. A forecast or truth without an anomaly: NaN.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; on the sphere `latitude_weights`.
        climatology: c at the valid times of the truth, broadcastable to its shape, same units.
        centred: whether the mean anomaly over space is removed.
        space: number of space axes.
    Returns:
        Dimensionless, in [-1, 1], shape (..., C).
    Raises:
        InputError: shapes differ or the climatology does not fit; the message shows both.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560, Eq. 7.
    """
    u, v = field_pair(forecast, truth, space)
    c = torch.as_tensor(climatology, dtype=torch.float64, device=u.device)
    if c.ndim > v.ndim or any(a not in (1, b) for a, b in zip(c.shape[::-1], v.shape[::-1], strict=False)):
        raise InputError(
            f"climatology must broadcast to the truth {tuple(v.shape)}; found {tuple(c.shape)}. Select it at the "
            "valid times of the truth, or give one of shape (C, *S)."
        )

    def correlation(u: Tensor, v: Tensor, c: Tensor) -> Tensor:
        return _correlation(u - c, v - c, weights, centred, space)

    return in_blocks(correlation, u, v, c.expand_as(v), space=space)


class CorrelationTime(NamedTuple):
    """How long a rollout stays correlated with the truth.

    Attributes:
        time: per sample and field, shape (..., C), in the unit of dt.
        censored: true where the correlation lasts to the end of the rollout; `time` is then its length, a
            lower bound. Count such samples before averaging.
    """

    time: Tensor
    censored: Tensor


def correlation_time(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    threshold: float = 0.8,
    dt: float = 1.0,
    space: int = 2,
) -> CorrelationTime:
    r"""Time at which the `pearson` correlation of a rollout with the truth falls below a threshold.

        t = dt (j - 1 + (r_(j-1) - threshold) / (r_(j-1) - r_j)),   j the first step with r_j < threshold, r_0 = 1

    Steps 1 ... T are the frames; the initial state, where both agree, is not among them. Per sample: the mean
    of times is not the time of the mean correlation. From the step on at which a forecast is not finite, or
    has no variance, r counts as 0: a rollout that blows up is never dropped. A later recovery changes nothing.

    Arguments:
        forecast: u, shape (..., T, C, *S).
        truth: v, same shape. A frame without variance, or with NaN, before the end of the correlation: NaN.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        threshold: of the correlation, between 0 and 1.
        dt: time between frames.
        space: number of space axes.
    Returns:
        Times and censoring flags, each of shape (..., C).
    Raises:
        InputError: shapes differ (the message shows both), there is no time axis, threshold or dt out of range.
    References: Kochkov et al. 2021, arXiv:2102.01010.
    """
    v = field_pair(forecast, truth, space)[1]
    if v.ndim < space + 2 or v.shape[-space - 2] < 1:
        raise InputError(
            f"correlation_time needs a time axis, shape (..., T, C, *S); found {tuple(v.shape)}: stack the frames."
        )
    if not (0 < threshold < 1 and 0 < dt < math.inf):
        raise InputError(f"threshold must be between 0 and 1 and dt positive; found {threshold} and {dt}: change them.")
    r = pearson(forecast, truth, weights, space=space)
    if r.isnan().any():
        variance = _variance(v, weights, space)
        r = torch.where(r.isnan() & variance.isfinite() & (variance > 0), 0.0, r)

    before = torch.cat([torch.ones_like(r[..., :1, :]), r[..., :-1, :]], dim=-2)
    steps = r.shape[-2]
    step = torch.arange(steps, dtype=torch.float64, device=r.device)[:, None]
    crossing = step + (before - threshold) / (before - r)
    ended = ~(r >= threshold)
    first = ended.to(torch.int8).argmax(dim=-2, keepdim=True)
    censored = ~ended.any(dim=-2)
    return CorrelationTime(dt * torch.where(censored, float(steps), crossing.gather(-2, first).squeeze(-2)), censored)


def _mse(u: Tensor, v: Tensor, weights: ArrayLike | Tensor | None, space: int) -> Tensor:
    return in_blocks(lambda u, v: space_mean((u - v).square(), weights, space), u, v, space=space)


def _variance(v: Tensor, weights: ArrayLike | Tensor | None, space: int) -> Tensor:
    return in_blocks(lambda v: space_mean(anomaly(v, weights, space).square(), weights, space), v, space=space)


def _correlation(a: Tensor, b: Tensor, weights: ArrayLike | Tensor | None, centred: bool, space: int) -> Tensor:
    """<a b> / sqrt(<a^2> <b^2>), with both means taken off before or not; NaN where one of them is 0."""
    if centred:
        a, b = anomaly(a, weights, space), anomaly(b, weights, space)
    scale = space_mean(a.square(), weights, space).sqrt() * space_mean(b.square(), weights, space).sqrt()
    return torch.clamp(space_mean(a * b, weights, space) / scale, -1.0, 1.0)
