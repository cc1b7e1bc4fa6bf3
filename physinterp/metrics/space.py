"""Means over space: the one place where grid weights enter a score.

A field has shape (..., C, *S): any leading axes (sample, time), channels C, then `space` axes S. Scores
reduce S alone. Everything here works in float64, whatever the type of the input, a few fields at a time: blocks
that fit the cache of a processor take a third of the time of whole arrays. NaN anywhere in a field gives NaN for
that field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.errors import InputError

MEAN_TOLERANCE = 1e-4  # how far the mean of given weights may be from 1: rounding, no more
BLOCK = 2**17  # values that are worked on at once: 1 MB of float64


def field_pair(forecast: Tensor, truth: Tensor, space: int = 2) -> tuple[Tensor, Tensor]:
    """Forecast and truth on one device, checked to be the same fields on the same grid.

    Arguments:
        forecast: shape (..., C, *S).
        truth: the same shape.
        space: number of space axes, at the end.
    Raises:
        InputError: shapes differ, or there are too few axes; the message shows the shapes.
    """
    if forecast.shape != truth.shape:
        raise InputError(
            f"forecast and truth must have the same shape (..., C, *S); found {tuple(forecast.shape)} and "
            f"{tuple(truth.shape)}. Select the same times, fields and grid for both before scoring."
        )
    return _field(forecast, space, "forecast"), _field(truth, space, "truth").to(forecast.device)


def in_blocks(score: Callable[..., Tensor], *fields: Tensor, space: int = 2) -> Tensor:
    """A score of fields that reduces their space and keeps their leading axes, a few fields at a time, in float64.

    Arguments:
        score: of tensors with the same leading axes, (..., *S) to (...) and perhaps further axes.
        fields: the same leading axes each; blocks count the values of the first. Not cut on accelerators.
        space: number of space axes, at the end, which are not cut.
    """
    first, *others = once(*fields, space=space)
    if first.shape != fields[0].shape:
        found, leading = in_blocks(score, first, *others, space=space), fields[0].shape[: first.ndim - space]
        return found.expand(*leading, *found.shape[len(leading) :])
    axis = next((a for a in range(first.ndim - space) if first.shape[a] > 1), None)
    if axis is None or first.numel() <= BLOCK or first.device.type != "cpu":
        return score(*(x.to(torch.float64) for x in fields))
    size = max(1, BLOCK * first.shape[axis] // first.numel())
    parts = zip(*(x.split(size, axis) for x in fields), strict=True)
    return torch.cat([in_blocks(score, *part, space=space) for part in parts], dim=axis)


def ensemble_pair(forecast: Tensor, truth: Tensor, space: int = 2) -> tuple[Tensor, Tensor]:
    """Ensemble (M, ..., C, *S) and truth (..., C, *S) on one device, checked to belong together.

    Arguments:
        forecast: members on the first axis, then the axes of the truth.
        truth: shape (..., C, *S).
        space: number of space axes, at the end.
    Raises:
        InputError: no member, or the shapes differ behind the member axis; the message shows both.
    """
    if forecast.ndim == 0 or forecast.shape[1:] != truth.shape or forecast.shape[0] < 1:
        raise InputError(
            f"forecast must have shape (M, *truth.shape) with M >= 1 members; found {tuple(forecast.shape)} "
            f"and {tuple(truth.shape)}. Move the member axis to the front; one forecast needs forecast[None]."
        )
    return forecast, _field(truth, space, "truth").to(forecast.device)


def once(*fields: Tensor, space: int = 2) -> list[Tensor]:
    """The fields, of size 1 along the leading axes along which each of them is repeated (`expand`)."""
    for axis in range(fields[0].ndim - space):
        if fields[0].shape[axis] > 1 and all(x.stride(axis) == 0 for x in fields):
            fields = tuple(x.narrow(axis, 0, 1) for x in fields)
    return list(fields)


def space_mean(
    x: Tensor, weights: ArrayLike | Tensor | None = None, space: int = 2, axes: Sequence[int] | None = None
) -> Tensor:
    """Mean over space with quadrature weights, in float64.

        <x> = sum_i w_i x_i / sum_i w_i

    Arguments:
        x: shape (..., *S).
        weights: broadcastable to S, mean 1; None is a uniform grid.
        space: number of space axes, at the end.
        axes: negative; reduce these space axes only. None reduces all of them. The weights must not vary
            along the others.
    Returns:
        Shape (...), and the space axes that were not reduced; units of x.
    Raises:
        InputError: the weights do not fit S, or their mean is not 1.
    """
    axes = tuple(range(-space, 0)) if axes is None else tuple(axes)
    x = x.to(torch.float64)
    if weights is not None:
        x = x * grid_weights(weights, x.shape[x.ndim - space :], x.device)
    return x.mean(dim=axes) if axes else x


def anomaly(x: Tensor, weights: ArrayLike | Tensor | None = None, space: int = 2) -> Tensor:
    """Departure from the mean over space, x - <x>; exactly 0 everywhere for a constant field.

    The first grid point is subtracted before the mean is taken, so that no rounding is left of a constant
    field.
    """
    x = x.to(torch.float64)
    x = x - x.flatten(-space)[..., 0].unflatten(-1, (-1, *[1] * space))
    return x.sub_(space_mean(x, weights, space).unflatten(-1, (-1, *[1] * space)))


def grid_weights(weights: ArrayLike | Tensor, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Quadrature weights as a float64 tensor with as many axes as the grid, of mean exactly 1.

    Arguments:
        weights: broadcastable to `shape`, mean 1 within rounding.
        shape: the grid S.
        device: where the tensor goes.
    Raises:
        InputError: the weights do not broadcast to S, or their mean is further from 1 than rounding.
    """
    w = torch.as_tensor(weights, dtype=torch.float64, device=device)
    w = w[(None,) * (len(shape) - w.ndim)] if w.ndim < len(shape) else w
    if w.ndim > len(shape) or any(a not in (1, b) for a, b in zip(w.shape, shape, strict=True)):
        raise InputError(
            f"weights of shape {tuple(w.shape)} do not broadcast to the grid {tuple(shape)}. "
            "Give one weight per grid point, or size 1 along axes where they are equal."
        )
    mean = w.mean()
    if not abs(mean - 1) < MEAN_TOLERANCE:
        raise InputError(f"weights must have mean 1; found mean {mean:.6g}. Divide them by their mean.")
    return w / mean


def require_unweighted(name: str, weights: object) -> None:
    """Refuse weights in a score that repeats the number of a program that has none."""
    if weights is not None:
        raise InputError(f"{name} repeats an unweighted number of another program: found weights, call it with None.")


def _field(x: Tensor, space: int, name: str) -> Tensor:
    if space < 1 or x.ndim < space + 1:
        raise InputError(
            f"{name} must have shape (..., C, *S) with {space} space axes; found {tuple(x.shape)}. "
            "Set `space` to the number of space axes, or add a channel axis."
        )
    return x
