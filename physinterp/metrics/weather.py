"""The sphere: area weights, RMSE over time, zonal and spherical-harmonic spectra.

Scores on the sphere are those of the other modules with `latitude_weights` along the latitude axis. Latitudes
are degrees, in any order, as the data have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics.deterministic import rmse
from physinterp.metrics.spectral import Spectrum

Array = np.ndarray[Any, np.dtype[np.float64]]

EARTH_RADIUS = 6.3675e6  # metres: the mean of the polar and the equatorial radius, as in WeatherBench 2
POLE = 1e-6  # cosine of a latitude that is a pole


def latitude_weights(latitude: ArrayLike, kind: Literal["cells", "cos", "quadrature"] = "cells") -> Array:
    r"""Weights of an area mean over the sphere, one per latitude, mean 1.

        cells       sin(upper) - sin(lower), edges midway between the rows and at the poles   (WeatherBench 2)
        cos         cos(latitude)
        quadrature  exact for polynomials in sin(latitude) below degree n; on Gaussian rows below 2n

    All agree on equally spaced rows with half a step to the poles, quadrature to the order of the grid; with
    rows on the poles `cos` would give these no area. On Gaussian rows `cells` is up to 6 % off: take
    quadrature there, and `cos` for a region.

    Arguments:
        latitude: degrees, shape (n,), any order.
        kind: of the weights.
    Returns:
        Shape (n,), in the order given; reshape to (n, 1) where longitude is the last axis.
    Raises:
        InputError: no latitudes, two equal ones, or rows that do not fit the kind (one pole of two, a region);
            the message says which.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560, Eq. 1.
    """
    degrees = _latitudes(latitude)
    if kind == "quadrature":
        return _quadrature(degrees)
    if kind not in ("cells", "cos"):
        raise InputError(f"kind must be 'cells', 'cos' or 'quadrature'; found {kind!r}: choose one.")
    cosine = np.cos(np.deg2rad(degrees))
    if kind == "cos":
        if cosine.min() < POLE:
            raise InputError("cos weights give a row on a pole no area: found latitude 90 or -90; take kind='cells'.")
        return np.asarray(cosine / cosine.mean(), dtype=np.float64)
    order = np.argsort(degrees)
    rows = degrees[order]
    south, north, step = rows[0] + 90, 90 - rows[-1], float(np.diff(rows).max())
    if max(south, north) > 1.001 * step or abs(south - north) > 1e-3 * step:
        raise InputError(
            f"latitudes from {rows[0]:g} to {rows[-1]:g} in steps of {step:g} do not reach both poles alike: "
            "expected both poles or neither, and at most one step to them; take kind='quadrature' where one pole is "
            "missing, kind='cos' for a region."
        )
    edges = np.sin(np.deg2rad(np.concatenate([[-90.0], (rows[1:] + rows[:-1]) / 2, [90.0]])))
    weights = np.empty_like(rows)
    weights[order] = np.diff(edges)
    return weights / weights.mean()


def rmse_over_time(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    axis: int = 0,
    root: Literal["after", "before"] = "after",
    space: int = 2,
) -> Tensor:
    r"""Root mean squared error over space and one leading axis, the root after the mean over time or before.

        after:  sqrt( mean_t <(u - v)^2> )   (WeatherBench 2's headline)
        before: mean_t sqrt( <(u - v)^2> ) <= after

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; None is a uniform grid.
        axis: of the times, a leading axis 0, 1, ...
        root: "after" or "before" the mean over time.
        space: number of space axes.
    Returns:
        Units of the field, shape (..., C) without the axis.
    Raises:
        InputError: shapes differ (the message shows both), no such leading axis, or an unknown order.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560, section 3.1.
    """
    each = rmse(forecast, truth, weights, space=space)
    if axis not in range(each.ndim - 1):
        raise InputError(
            f"axis={axis} must be a leading axis before the channels; found shape {tuple(truth.shape)}: change it."
        )
    if root not in ("after", "before"):
        raise InputError(f"root must be 'after' or 'before'; found {root!r}: choose one.")
    return each.square().mean(dim=axis).sqrt() if root == "after" else each.mean(dim=axis)


@dataclass(frozen=True)
class ZonalSpectrum:
    """Power around circles of latitude.

    Arguments:
        latitude: of the circles, degrees, shape (J,), without poles.
        frequency: cycles per metre, shape (J, K); the zonal wavenumber is the index 0 ... K - 1.
        power: shape (..., C, J, K), squared units of the field times metres.
    """

    latitude: Tensor
    frequency: Tensor
    power: Tensor

    def at(self, frequency: Tensor) -> Tensor:
        """Power at common frequencies (F,), linear between wavenumbers, (..., C, J, F); NaN where not resolved.

        A mean over latitudes at equal wavenumber mixes wavelengths; a mean of this does not.
        """
        f = frequency.to(self.frequency).reshape(1, -1)
        place = f / self.frequency[:, 1:2]
        last = self.frequency.shape[-1] - 1
        below = place.floor().clamp(0, last - 1)
        index = below.long().expand(*self.power.shape[:-1], -1)
        low, high = self.power.gather(-1, index), self.power.gather(-1, index + 1)
        outside = (place < 0) | (place > last * (1 + POLE))
        return (low + (place - below) * (high - low)).masked_fill(outside, math.nan)


def zonal_spectrum(
    x: Tensor,
    latitude: ArrayLike,
    *,
    latitude_axis: Literal[-2, -1] = -2,
    double_nyquist: bool = False,
    radius: float = EARTH_RADIUS,
) -> ZonalSpectrum:
    r"""Power spectrum around each circle of latitude.

        S_0 = C |F_0|^2,  S_k = 2 C |F_k|^2,   F = rfft(x) / L,   C = 2 pi R cos(latitude),   L points
        sum_k S_k = (C / L) sum_l x_l^2   (Parseval)

    For even L the last mode is its own conjugate and counted once; WeatherBench 2 counts it twice and misses
    Parseval by it. Circles at the poles have no length and are left out. One spectrum per latitude: see
    `ZonalSpectrum.at` before a mean over latitudes.

    Arguments:
        x: shape (..., C, latitude, longitude), or longitude first; longitudes uniform, the whole circle.
        latitude: degrees, shape (J,), any order.
        latitude_axis: which of the last two axes is latitude.
        double_nyquist: count the last mode of an even L twice: the number of WeatherBench 2.
        radius: R, in metres.
    Returns:
        ZonalSpectrum, in the order of the latitudes.
    Raises:
        InputError: the latitudes do not belong to the field.
    References: Rasp et al. 2024, WeatherBench 2, arXiv:2308.15560 (ZonalEnergySpectrum).
    """
    field, degrees = _rows(x, latitude, latitude_axis)
    cosine = np.cos(np.deg2rad(degrees))
    kept = torch.from_numpy(np.flatnonzero(cosine > POLE)).to(x.device)
    rows, points = torch.from_numpy(degrees).to(x.device)[kept], field.shape[-1]
    length = 2 * math.pi * radius * torch.cos(torch.deg2rad(rows))[:, None]
    power = torch.fft.rfft(field.index_select(-2, kept), norm="forward").abs().square()
    twice = torch.full((power.shape[-1],), 2.0, dtype=torch.float64, device=x.device)
    twice[0] = 1
    if points % 2 == 0 and not double_nyquist:
        twice[-1] = 1
    wavenumber = torch.arange(len(twice), dtype=torch.float64, device=x.device)
    return ZonalSpectrum(rows, wavenumber / length, length * twice * power)


def harmonic_spectrum(x: Tensor, latitude: ArrayLike, *, latitude_axis: Literal[-2, -1] = -2) -> Spectrum:
    r"""Power spectrum of a field on the sphere, by degree of the spherical harmonics.

        x = sum_lm a_lm P_lm(sin(latitude)) exp(i m longitude),   <P_lm^2> = 1, so that sum_lm |a_lm|^2 = <x^2>
        energy_l = sum_m |a_lm|^2,   power_l = energy_l / (2 l + 1)

    Real Fourier transforms along longitude and quadrature along latitude. For a field without degrees beyond
    the last one here, min((L - 1) // 2, n - 1) on n Gaussian rows and min((L - 1) // 2, (n - 1) // 2) on equally
    spaced ones, coefficients and Parseval hold to 1e-12 (measured up to degree 359). Higher degrees of the
    field are not in the spectrum, and alias into it. `spectral_scores` compares two such spectra.

    Arguments:
        x: shape (..., C, latitude, longitude), or longitude first; longitudes uniform, the whole circle.
        latitude: degrees, shape (n,), any order; the whole sphere, with both poles, one or none.
        latitude_axis: which of the last two axes is latitude.
    Returns:
        Spectrum with k = l (on a sphere of radius 1), power per mode, counts 2 l + 1.
    Raises:
        InputError: the latitudes do not belong to the field, or no quadrature with positive weights has these
            rows (a region).
    References: Driscoll and Healy 1994, doi:10.1006/aama.1994.1008; Holmes and Featherstone 2002,
        doi:10.1007/s00190-002-0216-2 (recursion).
    """
    field, degrees = _rows(x, latitude, latitude_axis)
    sine, rows = np.sin(np.deg2rad(degrees)), len(degrees)
    weights = _quadrature(degrees) / rows
    top = min((field.shape[-1] - 1) // 2, rows - 1 if _gaussian(degrees) else (rows - 1) // 2)
    modes = torch.fft.rfft(field, norm="forward")[..., : top + 1].transpose(-1, -2)
    modes = modes * torch.from_numpy(weights).to(x.device)
    energy = []
    for functions in _legendre(sine, top):
        a = (modes[..., : len(functions), :] * torch.from_numpy(functions).to(x.device)).sum(dim=-1)
        square = a.real.square() + a.imag.square()
        energy.append(2 * square.sum(dim=-1) - square[..., 0])
    degree = torch.arange(top + 1, dtype=torch.float64, device=x.device)
    counts = 2 * degree.long() + 1
    return Spectrum(degree, torch.stack(energy, dim=-1) / counts, counts, float(top))


def _legendre(x: Array, top: int) -> Iterator[Array]:
    """Associated Legendre functions at x for l = 0 ... top, each (l + 1, n) for m = 0 ... l, mean square 1."""
    cosine, points = np.sqrt(1 - x**2), len(x)
    before, now = np.zeros((0, points)), np.ones((1, points))
    yield now
    for l in range(1, top + 1):  # noqa: E741
        m = np.arange(l)[:, None]
        a = np.sqrt((4 * l**2 - 1) / (l**2 - m**2))
        b = np.sqrt(((l - 1) ** 2 - m**2) / (4 * (l - 1) ** 2 - 1) + 0.0)
        inner = a * (x * now - b * np.vstack([before, np.zeros((1, points))]))
        before, now = now, np.vstack([inner, math.sqrt((2 * l + 1) / (2 * l)) * cosine * now[-1:]])
        yield now


def _quadrature(degrees: Array) -> Array:
    """Weights, mean 1, that integrate polynomials in sin(latitude) below degree n exactly."""
    n = len(degrees)
    k = np.arange(n)
    moments = np.where(k % 2 == 0, 1 / (1.0 - np.where(k % 2 == 0, k, 0) ** 2), 0.0)  # mean of the k-th Chebyshev polynomial
    weights = np.linalg.solve(np.cos(np.outer(k, np.deg2rad(90 - degrees))), moments)
    if weights.min() * n < -POLE:
        raise InputError(
            f"no quadrature of the sphere has the {n} latitudes from {degrees.min():g} to {degrees.max():g}: expected "
            "Gaussian or equally spaced rows of the whole sphere; interpolate, or take weights of another kind."
        )
    return n * weights


def _gaussian(degrees: Array) -> bool:
    """Whether the rows are the Gaussian ones, within a hundredth of their distance."""
    nodes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(len(degrees))[0]))
    return bool(np.abs(np.sort(degrees) - nodes).max() < 0.01 * 180 / len(degrees))


def _latitudes(latitude: ArrayLike) -> Array:
    degrees = np.asarray(latitude, dtype=np.float64)
    if degrees.ndim != 1 or len(degrees) < 2 or not (np.abs(degrees) <= 90 + 1e-5).all():
        found = f"shape {degrees.shape}" + (f", {degrees.min():g} to {degrees.max():g}" if degrees.size else "")
        raise InputError(f"latitude must hold at least two numbers of degrees from -90 to 90; found {found}: give degrees.")
    if len(np.unique(degrees)) < len(degrees):
        raise InputError("latitudes must differ; found equal ones: select each row once.")
    return np.clip(degrees, -90.0, 90.0)


def _rows(x: Tensor, latitude: ArrayLike, latitude_axis: int) -> tuple[Tensor, Array]:
    """The field in float64 with latitude before longitude, and its latitudes."""
    degrees = _latitudes(latitude)
    if latitude_axis not in (-2, -1) or x.ndim < 3 or x.shape[latitude_axis] != len(degrees):
        raise InputError(
            f"expected a field (..., C, *S) with {len(degrees)} latitudes on axis {latitude_axis}; found shape "
            f"{tuple(x.shape)}: set latitude_axis to -2 or -1, and add a channel axis where there is none."
        )
    return x.to(torch.float64).movedim(latitude_axis, -2), degrees
