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
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics.space import field_pair, grid_weights, in_blocks, space_mean

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
    window: Literal["hann"] | None = None,
    space: int = 2,
) -> Spectrum:
    r"""Power spectrum of a field along its periodic axes.

        p(k) = < |F_k|^2 >,   F_k = (1/N) sum_j x_j exp(-i k r_j),   <.> the weighted mean over the other axes
        power_n = mean of p over shell n,   energy_n = sum of p over shell n,   sum_n energy_n = <x^2>

    Two axes give the isotropic spectrum, one axis the spectrum along it. A sine of amplitude A puts energy
    A^2/2 into its shell. Non-square boxes and unequal spacing count through |k|: give `spacing`, else every
    grid step has length 1. On an axis that is not periodic the jump between its ends leaks into every shell:
    leave it out of `axes`, or, where it is uniform, give a window; the sum of the energy is then a smoothed
    variance and no longer <x^2>.

    Arguments:
        x: shape (..., C, *S).
        weights: quadrature weights, broadcastable to S, mean 1; they may vary along the axes that are
            averaged over only.
        axes: the periodic axes, negative numbers.
        spacing: grid step along each of `axes`, units of length; one number serves all of them; None is 1.
        window: "hann" takes the mean off and tapers along `axes`, of mean square 1: white noise keeps its power.
        space: number of space axes.
    Returns:
        Spectrum with K shells.
    Raises:
        InputError: an axis that is no space axis or has fewer than two points; weights vary along a spectral
            axis; spacing does not fit; an unknown window.
    References: Pope 2000, Turbulent Flows, section 6.5.
    """
    if window not in (None, "hann"):
        raise InputError(f"window must be None or 'hann'; found {window!r}: choose one.")
    shells = _Shells(x, weights, axes, spacing, space)

    def power(x: Tensor) -> Tensor:
        return shells.mean(half_power(_hann(x, shells.axes) if window else x, shells.axes))

    return shells.spectrum(in_blocks(power, x, space=space))


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
        InputError: shapes differ (the message shows both), or as in `power_spectrum`.
    References: Rozet et al. 2025, Lost in latent space, arXiv:2507.02608 (ratio of the same direction).
    """
    p, q, bands = _power_pair(forecast, truth, weights, axes, spacing, eps, space)
    return band_rms(1 - p / q, bands)


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
        InputError: shapes differ (the message shows both), or as in `power_spectrum`.
    References: Rabiner and Juang 1993, Fundamentals of Speech Recognition, section 4.5 (there in decibels).
    """
    p, q, bands = _power_pair(forecast, truth, weights, axes, spacing, eps, space)
    return band_rms((p / q).log10(), bands)


def coherence(
    forecast: Tensor,
    truth: Tensor,
    weights: ArrayLike | Tensor | None = None,
    *,
    phases: bool = False,
    axes: Sequence[int] = (-2, -1),
    spacing: float | Sequence[float] | None = None,
    eps: float = FLOOR,
    space: int = 2,
) -> Tensor:
    r"""Cross spectrum over the root of both power spectra, in three bands and in total.

        coherence = mean over the shells n of a band of (c_n + f) / sqrt( (p_n(u) + f) (p_n(v) + f) )
        c_n = mean over shell n of |F_k(u) conj F_k(v)|,   with `phases` of its real part

    1 where the fields agree up to a factor. By default the absolute value is taken mode by mode, as Rozet et
    al. do: phases do not count, and independent noise still scores pi/4 = 0.79 in shells of many modes. With
    `phases` the number is the correlation of both fields at that scale: 0 for independent ones, -1 for
    opposite ones. Shells, bands, floor f and empty bands are those of `srmse`.

    Arguments:
        forecast: u, shape (..., C, *S).
        truth: v, same shape and units.
        weights: quadrature weights, broadcastable to S, mean 1; they may vary along the axes that are
            averaged over only.
        phases: whether the phases of the modes count.
        axes: the periodic axes, negative numbers.
        spacing: grid step along each of `axes`, units of length; None is 1.
        eps: floor of the power, relative to the truth's mean power per mode.
        space: number of space axes.
    Returns:
        Dimensionless, in [-1, 1], shape (..., C, 4), the bands low, mid, high, total.
    Raises:
        InputError: shapes differ (the message shows both), or as in `power_spectrum`.
    References: Rozet et al. 2025, Lost in latent space, arXiv:2507.02608.
    """
    u, v = field_pair(forecast, truth, space)
    shells = _Shells(u, weights, axes, spacing, space)

    def powers(u: Tensor, v: Tensor) -> Tensor:
        a, b = _modes(u, shells.axes), _modes(v, shells.axes)
        power = [_product(a, a), _product(b, b)]
        cross = _product(a, b) if phases else (power[0] * power[1]).sqrt()
        return torch.stack([shells.mean(p) for p in (*power, cross)], dim=-1)

    p, q, c = in_blocks(powers, u, v, space=space)[..., 1:, :].unbind(dim=-1)
    floor = _floor(q, shells.counts[1:], eps)
    ratio = (c + floor) / ((p + floor) * (q + floor)).sqrt()
    return torch.stack([ratio[..., band].mean(dim=-1) for band in bands(shells.k[1:], shells.nyquist)], dim=-1)


def spectral_scores(forecast: Spectrum, truth: Spectrum, eps: float = FLOOR) -> dict[str, Tensor]:
    """`srmse` and `log_spectral_distance` of spectra that are at hand, broadcast against each other.

    Arguments:
        forecast, truth: of `power_spectrum`, with the same shells.
        eps: floor of the power, relative to the truth's mean power per mode.
    Returns:
        Two tensors (..., C, 4), by name.
    """
    p, q, bands = _raised(forecast, truth, eps)
    return {"srmse": band_rms(1 - p / q, bands), "log_spectral_distance": band_rms((p / q).log10(), bands)}


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
    floor = _floor(of_v.power[..., 1:], of_v.counts[1:], eps)
    return of_u.power[..., 1:] + floor, of_v.power[..., 1:] + floor, bands(of_v.k[1:], of_v.nyquist)


def _floor(power: Tensor, counts: Tensor, eps: float) -> Tensor:
    return eps * (power * counts).sum(dim=-1, keepdim=True) / counts.sum()


def bands(k: Tensor, nyquist: float) -> Tensor:
    """Shells of low, mid, high and total: boolean, shape (4, K). Compares cubes, so that edges are exact."""
    r = nyquist / float(k[0])
    cubed = (k / k[0]) ** 3
    from_mid, from_high = cubed >= r * (1 - EDGE), cubed >= r**2 * (1 - EDGE)
    resolved = k <= nyquist * (1 + EDGE)
    return torch.stack([~from_mid, from_mid & ~from_high, from_high & resolved, torch.ones_like(resolved)])


def band_rms(x: Tensor, masks: Tensor) -> Tensor:
    """Root mean square of x (..., K) over the shells of each band: (..., 4); NaN for an empty band."""
    return torch.stack([x[..., band].square().mean(dim=-1).sqrt() for band in masks], dim=-1)


def _modes(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Fourier coefficients of a real field; of each conjugate pair along the last of the axes, one."""
    return torch.fft.rfftn(x, dim=sorted(axes), norm="forward")


def half_power(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """|F_k|^2 of `_modes`."""
    modes = _modes(x, axes)
    return _product(modes, modes)


def twice(points: int) -> Tensor:
    """How many modes each mode of `_modes` stands for along the last axis, of so many points: itself and its conjugate."""
    number = torch.arange(points // 2 + 1)
    return torch.where((number == 0) | (2 * number == points), 1.0, 2.0).to(torch.float64)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Real part of a conj(b)."""
    return torch.addcmul(a.real * b.real, a.imag, b.imag)


def _hann(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Without its mean and tapered to 0 at the ends of the axes; both with the taper, of mean square 1."""
    taper = torch.ones((), dtype=torch.float64, device=x.device)
    for axis in axes:
        n = x.shape[axis]
        sine = torch.sin(math.pi * (torch.arange(n, dtype=torch.float64, device=x.device) + 0.5) / n)
        taper = taper * sine.square().reshape(-1, *[1] * (-1 - axis))
    return (x - (x * taper).mean(dim=axes, keepdim=True) / taper.mean()) * (taper / taper.square().mean().sqrt())


class _Shells:
    """Shells of the modes of fields x: `axes`, and `k`, `counts` and `nyquist` of `Spectrum`."""

    def __init__(
        self,
        x: Tensor,
        weights: ArrayLike | Tensor | None,
        axes: Sequence[int],
        spacing: float | Sequence[float] | None,
        space: int,
    ) -> None:
        self.axes, self._space = _spectral_axes(x, axes, space), space
        self._weights = None if weights is None else _even(weights, x.shape[x.ndim - space :], self.axes).to(x.device)
        along = sorted(zip(self.axes, _steps(spacing, self.axes), strict=True))
        sizes, steps = [x.shape[axis] for axis, _ in along], [step for _, step in along]
        longest = max(n * d for n, d in zip(sizes, steps, strict=True))
        *full, half = sizes
        numbers = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in full]
        numbers.append(torch.fft.rfftfreq(half, 1 / half, dtype=torch.float64))
        squares = [(m * (longest / (n * d))).square() for m, n, d in zip(numbers, sizes, steps, strict=True)]
        k = sum(torch.meshgrid(*squares, indexing="ij"), torch.zeros((), dtype=torch.float64)).sqrt()
        times = twice(half).expand(k.shape).flatten()
        shell, index = (k.flatten() + 0.5).floor().long().unique(return_inverse=True)
        self.k, self.nyquist = 2 * math.pi / longest * shell.to(x.device, torch.float64), math.pi / max(steps)
        self.counts = torch.bincount(index, times).round().long().to(x.device)
        self._index, self._times = index.to(x.device), times.to(x.device)

    def mean(self, p: Tensor) -> Tensor:
        """Means over shells, and over the other space axes, of a quantity p per mode, as of `_modes`."""
        others = tuple(axis for axis in range(-self._space, 0) if axis not in self.axes)
        p = space_mean(p, self._weights, self._space, axes=others).flatten(-len(self.axes))
        total = p.new_zeros((*p.shape[:-1], len(self.k))).index_add_(-1, self._index, p * self._times)
        return total / self.counts

    def spectrum(self, power: Tensor) -> Spectrum:
        """Spectrum of these shells."""
        return Spectrum(self.k, power, self.counts, self.nyquist)


def _spectral_axes(x: Tensor, axes: Sequence[int], space: int) -> tuple[int, ...]:
    axes = tuple(axes)
    if not axes or len(set(axes)) < len(axes) or any(not -space <= axis < 0 for axis in axes) or x.ndim <= space:
        raise InputError(
            f"axes={axes} must be distinct negative numbers of space axes, -{space} to -1, of a field "
            f"(..., C, *S); found shape {tuple(x.shape)}. Set `space` to the number of space axes."
        )
    if any(x.shape[axis] < 2 for axis in axes):
        raise InputError(
            f"a spectrum needs at least two points along each of axes={axes}; found shape {tuple(x.shape)}. "
            "Leave axes of one point out."
        )
    return axes


def _steps(spacing: float | Sequence[float] | None, axes: tuple[int, ...]) -> tuple[float, ...]:
    given = np.ravel(np.asarray(1.0 if spacing is None else spacing, dtype=np.float64))
    steps = tuple(given.tolist()) * (len(axes) if len(given) == 1 else 1)
    if len(steps) != len(axes) or not all(step > 0 and math.isfinite(step) for step in steps):
        raise InputError(f"spacing must be one positive number per spectral axis {axes}; found {spacing}.")
    return steps


def _even(weights: ArrayLike | Tensor, grid: Sequence[int], axes: tuple[int, ...]) -> Tensor:
    """The weights, of size 1 along the spectral axes; refused where they vary there."""
    w = grid_weights(weights, grid)
    for axis in axes:
        if float((w - w.narrow(axis, 0, 1)).abs().max()) > 1e-6:
            raise InputError(
                f"weights vary along axis {axis}: a spectrum needs a uniform, periodic axis. Leave {axis} "
                f"out of axes={axes}: the spectrum is then averaged over that axis with its weights."
            )
        w = w.narrow(axis, 0, 1)
    return w
