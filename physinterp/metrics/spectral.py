"""Spectra and the scores built on them.

A spectrum is taken along periodic, uniformly spaced space axes only and averaged over the others with their
quadrature weights: both axes for turbulence in a periodic box, the axis between the periodic boundaries for a
channel with walls.

Shells: |k| in units of the lowest wavenumber k_1 = 2 pi / L, L the longest spectral axis, rounded to the
nearest whole number n. Shell n is centred on n k_1 and one k_1 wide; shell 0 is the mean alone; the corners
beyond the Nyquist wavenumber are kept, so that nothing of the variance is lost. Shells without any mode are
left out. Wavenumbers are angular.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.metrics.space import field_pair, grid_weights, require_unweighted, space_mean

BANDS = ("low", "mid", "high", "total")
FLOOR = 1e-12  # of the truth's mean power per mode: the white noise that float32 rounding leaves, and no more
EDGE = 1e-9  # relative rounding allowed where a wavenumber lies on a band edge


@dataclass(frozen=True)
class Spectrum:
    """Power in shells of wavenumber.

    Arguments:
        k: centres of the shells, shape (K,), radians per unit of length; k[0] = 0 is the mean of the field.
        power: mean per mode, shape (..., C, K), squared units of the field.
        counts: modes in each shell, shape (K,).
        nyquist: lowest Nyquist wavenumber of the spectral axes, radians per unit of length.
    """

    k: Tensor
    power: Tensor
    counts: Tensor
    nyquist: float

    @property
    def energy(self) -> Tensor:
        """Shell sum, power * counts. All shells together: the mean of the squared field (Parseval)."""
        return self.power * self.counts


def power_spectrum(
    x: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    axes: Sequence[int] = (-2, -1),
    spacing: float | Sequence[float] | None = None,
    space: int = 2,
) -> Spectrum:
    r"""Power spectrum of a field along its periodic axes.

        p(k) = < |F_k|^2 >,   F_k = (1/N) sum_j x_j exp(-i k r_j),   <.> the weighted mean over the other axes
        power_n = mean of p over shell n,   energy_n = sum of p over shell n,   sum_n energy_n = <x^2>

    Two axes give the isotropic spectrum, one axis the spectrum along it. A sine of amplitude A puts energy
    A^2/2 into its shell. Non-square boxes and unequal spacing count through |k|: give `spacing`, else every
    grid step has length 1. On an axis that is not periodic the number would mean nothing; leave such an axis
    out of `axes`.

    Arguments:
        x: shape (..., C, *S).
        weights: quadrature weights, broadcastable to S, mean 1; they may vary along the axes that are
            averaged over only.
        axes: the periodic axes, negative numbers.
        spacing: grid step along each of `axes`, units of length; one number serves all of them; None is 1.
        space: number of space axes.
    Returns:
        Spectrum with K shells.
    Raises:
        ValueError: an axis that is no space axis or has fewer than two points; weights vary along a spectral
            axis; spacing does not fit.
    References: Pope 2000, Turbulent Flows, section 6.5.
    """
    axes = _spectral_axes(x, axes, space)
    if weights is not None:
        _refuse_uneven(weights, x.shape[x.ndim - space :], axes)
    steps = _steps(spacing, axes)
    sizes = [x.shape[axis] for axis in axes]

    modes = torch.fft.fftn(x.to(torch.float64), dim=axes, norm="forward")
    others = tuple(axis for axis in range(-space, 0) if axis not in axes)
    p = space_mean(modes.real.square() + modes.imag.square(), weights, space, axes=others).flatten(-len(axes))

    shell, counts = _shells(sizes, steps)
    kept = counts > 0
    total = p.new_zeros((*p.shape[:-1], len(counts))).index_add_(-1, shell.to(p.device), p)
    lowest = 2 * math.pi / max(n * d for n, d in zip(sizes, steps, strict=True))
    return Spectrum(
        k=(lowest * torch.arange(len(counts), dtype=torch.float64))[kept].to(p.device),
        power=total[..., kept] / counts[kept].to(p.device),
        counts=counts[kept].to(p.device),
        nyquist=math.pi / max(steps),
    )


def srmse(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    axes: Sequence[int] = (-2, -1),
    spacing: float | Sequence[float] | None = None,
    eps: float = FLOOR,
    space: int = 2,
) -> Tensor:
    r"""Spectral error: relative departure of the power from the truth's, in three bands and in total.

        sRMSE = sqrt( mean over the shells n of a band of (1 - (p_n(u) + f) / (p_n(v) + f))^2 )
        p the power per mode, f = eps * (mean of p(v) over all modes but k = 0): no units enter

    The truth is in the denominator: missing energy costs at most 1, surplus energy any amount. Phases do not
    count. Per sample and field; average afterwards. With r = k_Nyquist / k_1 the bands are, exactly and
    without overlap, low [1, r^(1/3)), mid [r^(1/3), r^(2/3)), high [r^(2/3), r] times k_1; total is all of
    k >= k_1, corners included. Shells are those of `power_spectrum`; each counts once. A band without a shell
    is NaN (square grids of 5 x 5 and below). A truth without variance scores inf, or NaN where the forecast
    has none either.

    Arguments:
        forecast: u, shape (..., C, *S).
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; they may vary along the axes that are
            averaged over only.
        axes: the periodic axes, negative numbers; (-2, -1) is isotropic, one axis the spectrum along it.
        spacing: grid step along each of `axes`, units of length; None is 1.
        eps: floor of the power, relative. The default is the rounding of float32 input; 0 is none.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C, 4), the bands low, mid, high, total.
    Raises:
        ValueError: shapes differ (the message shows both), or as in `power_spectrum`.
    References: Rozet et al. 2025, Lost in latent space, arXiv:2507.02608 (ratio of the same direction).
    """
    p, q, bands = _power_pair(forecast, truth, weights, axes, spacing, eps, space)
    return _band_rms(1 - p / q, bands)


def log_spectral_distance(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    axes: Sequence[int] = (-2, -1),
    spacing: float | Sequence[float] | None = None,
    eps: float = FLOOR,
    space: int = 2,
) -> Tensor:
    r"""Distance of two spectra in decades, in three bands and in total.

        LSD = sqrt( mean over the shells n of a band of log10((p_n(u) + f) / (p_n(v) + f))^2 )

    Symmetric up to the floor f: half the power and twice the power cost the same, 0.30. Bands, shells, floor
    and empty bands are those of `srmse`.

    Arguments:
        forecast: u, shape (..., C, *S).
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; they may vary along the axes that are
            averaged over only.
        axes: the periodic axes, negative numbers.
        spacing: grid step along each of `axes`, units of length; None is 1.
        eps: floor of the power, relative to the truth's mean power per mode.
        space: number of space axes.
    Returns:
        Decades of power, shape (..., C, 4), the bands low, mid, high, total.
    Raises:
        ValueError: shapes differ (the message shows both), or as in `power_spectrum`.
    References: Rabiner and Juang 1993, Fundamentals of Speech Recognition, section 4.5 (there in decibels).
    """
    p, q, bands = _power_pair(forecast, truth, weights, axes, spacing, eps, space)
    return _band_rms((p / q).log10(), bands)


def spectral_scores(forecast: Spectrum, truth: Spectrum, eps: float = FLOOR) -> dict[str, Tensor]:
    """`srmse` and `log_spectral_distance` of spectra that are at hand, broadcast against each other.

    Arguments:
        forecast, truth: of `power_spectrum`, with the same shells.
        eps: floor of the power, relative to the truth's mean power per mode.
    Returns:
        Two tensors (..., C, 4), by name.
    """
    p, q, bands = _raised(forecast, truth, eps)
    return {"srmse": _band_rms(1 - p / q, bands), "log_spectral_distance": _band_rms((p / q).log10(), bands)}


def srmse_pred(forecast: Tensor, truth: Tensor, weights: None = None, eps: float = 1e-6, *, space: int = 2) -> Tensor:
    r"""Spectral error of the physics-SI paper: truth over forecast, spectra averaged over the batch first.

        sRMSE = mean over fields of sqrt( mean over bins of a band of (1 - (P(v) + eps) / (P(u) + eps))^2 )
        P = mean over all leading axes of |FFT ortho|^2, averaged over the modes of each bin

    A compatibility mode: missing energy is unbounded, surplus energy at most 1, the other way round from
    `srmse`. Bins: floor(sqrt(d) min(n) / 2) of equal width up to the corner, open below, closed above, k
    their upper edge in cycles per pixel, whatever the spacing. Bands: three, log-spaced from the first k to
    0.5, closed at both ends. What the paper's code calls total is the corner alone, k >= 0.5. Edges are
    float32 as in that code: on some sizes (48, 96, 100) the first bin drops out of low.

    Arguments:
        forecast: u, shape (..., C, *S); every leading axis belongs to the batch: call it per lead time.
        truth: v, same shape and units.
        weights: must be None: the paper's number has none.
        eps: absolute, in squared units of the field: the number depends on the units.
        space: number of space axes, all of them used.
    Returns:
        Dimensionless, shape (4,): low, mid, high and the corner; NaN for an empty band.
    Raises:
        ValueError: shapes differ, or weights are given.
    References: the physics-SI paper's code, anthonyzhou-1/interpolant_pdes, `common/loss.py`.
    """
    require_unweighted("srmse_pred", weights)
    u, v = field_pair(forecast, truth, space)
    edges, index = _pixel_bins(u.shape[u.ndim - space :])
    counts = torch.bincount(index, minlength=len(edges)).clamp(min=1).to(torch.float64)

    def binned(x: Tensor) -> Tensor:  # (C, bins)
        p = torch.fft.fftn(x, dim=tuple(range(-space, 0)), norm="ortho").abs().square()
        p = p.flatten(0, -space - 2).mean(dim=0) if p.ndim > space + 1 else p
        p = p.flatten(-space)
        sums = p.new_zeros((p.shape[0], len(edges))).index_add_(-1, index.to(p.device), p)
        return (sums / counts.to(p.device))[:, 1:]

    k = edges[1:]
    limits = torch.logspace(math.log2(k[0]), -1.0, steps=len(BANDS), base=2.0, dtype=torch.float32)
    bands = [(lower <= k) & (k <= upper) for lower, upper in pairwise(limits)]
    ratio = (binned(v) + eps) / (binned(u) + eps)
    return _band_rms(1 - ratio, torch.stack([*bands, limits[-1] <= k]).to(u.device)).mean(dim=0)


def _power_pair(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None,
    axes: Sequence[int],
    spacing: float | Sequence[float] | None,
    eps: float,
    space: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Power per shell of forecast and truth, without the mean, raised by the floor; the bands (4, K)."""
    u, v = field_pair(forecast, truth, space)
    of_u = power_spectrum(u, weights, axes=axes, spacing=spacing, space=space)
    return _raised(of_u, power_spectrum(v, weights, axes=axes, spacing=spacing, space=space), eps)


def _raised(of_u: Spectrum, of_v: Spectrum, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    floor = eps * of_v.energy[..., 1:].sum(dim=-1, keepdim=True) / of_v.counts[1:].sum()
    return of_u.power[..., 1:] + floor, of_v.power[..., 1:] + floor, bands(of_v.k[1:], of_v.nyquist)


def bands(k: Tensor, nyquist: float) -> Tensor:
    """Shells of low, mid, high and total: boolean, shape (4, K). Compares cubes, so that edges are exact."""
    r = nyquist / float(k[0])
    cubed = (k / k[0]) ** 3
    from_mid, from_high = cubed >= r * (1 - EDGE), cubed >= r**2 * (1 - EDGE)
    resolved = k <= nyquist * (1 + EDGE)
    return torch.stack([~from_mid, from_mid & ~from_high, from_high & resolved, torch.ones_like(resolved)])


def _band_rms(x: Tensor, masks: Tensor) -> Tensor:
    """Root mean square of x (..., K) over the shells of each band: (..., 4); NaN for an empty band."""
    return torch.stack([x[..., band].square().mean(dim=-1).sqrt() for band in masks], dim=-1)


def _shells(sizes: Sequence[int], steps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Shell number of each mode, flat, and the modes per shell."""
    longest = max(n * d for n, d in zip(sizes, steps, strict=True))
    squares = [
        (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * (longest / (n * d))).square()
        for n, d in zip(sizes, steps, strict=True)
    ]
    k = sum(torch.meshgrid(*squares, indexing="ij"), torch.zeros((), dtype=torch.float64)).sqrt()
    shell = (k.flatten() + 0.5).floor().long()
    return shell, torch.bincount(shell)


def _pixel_bins(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Edges (bins + 1,), cycles per pixel, and the bin of each mode, flat; float32 as in the paper's code."""
    squares = [torch.fft.fftfreq(n, dtype=torch.float32).square() for n in sizes]
    k = sum(torch.meshgrid(*squares, indexing="ij"), torch.zeros(())).sqrt()
    bins = math.floor(math.sqrt(len(sizes)) * min(sizes) / 2)
    edges = torch.linspace(0.0, float(k.max()), bins + 1, dtype=torch.float32)
    return edges, torch.bucketize(k.flatten(), edges)


def _spectral_axes(x: Tensor, axes: Sequence[int], space: int) -> tuple[int, ...]:
    axes = tuple(axes)
    if not axes or len(set(axes)) < len(axes) or any(not -space <= axis < 0 for axis in axes) or x.ndim <= space:
        raise ValueError(
            f"axes={axes} must be distinct negative numbers of space axes, -{space} to -1, of a field "
            f"(..., C, *S); found shape {tuple(x.shape)}. Set `space` to the number of space axes."
        )
    if any(x.shape[axis] < 2 for axis in axes):
        raise ValueError(
            f"a spectrum needs at least two points along each of axes={axes}; found shape {tuple(x.shape)}. "
            "Leave axes of one point out."
        )
    return axes


def _steps(spacing: float | Sequence[float] | None, axes: tuple[int, ...]) -> tuple[float, ...]:
    given = np.ravel(np.asarray(1.0 if spacing is None else spacing, dtype=np.float64))
    steps = tuple(given.tolist()) * (len(axes) if len(given) == 1 else 1)
    if len(steps) != len(axes) or not all(step > 0 and math.isfinite(step) for step in steps):
        raise ValueError(f"spacing must be one positive number per spectral axis {axes}; found {spacing}.")
    return steps


def _refuse_uneven(weights: ArrayLike | Tensor, grid: Sequence[int], axes: tuple[int, ...]) -> None:
    w = grid_weights(weights, grid)
    for axis in axes:
        if float((w - w.narrow(axis, 0, 1)).abs().max()) > 1e-6:
            raise ValueError(
                f"weights vary along axis {axis}: a spectrum needs a uniform, periodic axis. Leave {axis} "
                f"out of axes={axes}: the spectrum is then averaged over that axis with its weights."
            )
