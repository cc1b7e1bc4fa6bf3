"""Numbers as other programs compute them, for comparison with theirs alone; none takes weights.

The other compatibility modes are arguments of this package's own scores: The Well's RMSE, MAE and LInfinity are
`rmse`, `mae` and `linf`, its NRMSE, NMAE and VRMSE are `nrmse`, `nmae` and `vrmse` with eps = 1e-7, without
weights; WeatherBench 2's numbers are `rmse`, `acc` and `crps` with `latitude_weights`, and `zonal_spectrum` with
double_nyquist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from physinterp.metrics.space import anomaly, field_pair, in_blocks, require_unweighted
from physinterp.metrics.spectral import BANDS, band_rms, half_power, twice

WELL_EPS = 1e-7  # of The Well, in squared units of the field


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
        InputError: shapes differ, or weights are given.
    References: the physics-SI paper's code, anthonyzhou-1/interpolant_pdes, `common/loss.py`.
    """
    require_unweighted("vrmse_pooled", weights)
    u, v = field_pair(forecast, truth, space=1)
    mse = in_blocks(lambda u, v: (u - v).square().mean(-1), u, v, space=1).mean()
    mean = in_blocks(lambda v: v.mean(-1), v, space=1).mean()
    square = in_blocks(lambda v: (v - mean).square().mean(-1), v, space=1).mean()
    variance = square * v.numel() / (v.numel() - 1) if v.numel() > 1 else math.nan
    return (mse / (variance + eps)).sqrt()


def srmse_pred(forecast: Tensor, truth: Tensor, weights: None = None, eps: float = 1e-6, *, space: int = 2) -> Tensor:
    r"""Spectral error of the physics-SI paper: truth over forecast, spectra averaged over the batch first.

        sRMSE = mean over fields of sqrt( mean over bins of a band of (1 - (P(v) + eps) / (P(u) + eps))^2 )
        P = mean over all leading axes of |FFT ortho|^2, averaged over the modes of each bin

    A compatibility mode: missing energy is unbounded, surplus energy at most 1, the other way round from
    `srmse`. Bins: floor(sqrt(d) min(n) / 2) of equal width up to the corner, open below, closed above, k
    their upper edge in cycles per pixel, whatever the spacing. Bands: three, log-spaced from the first k to
    0.5, closed at both ends. What the paper's code calls total is the corner alone, k >= 0.5. Edges are
    float32 as in that code: on some sizes (48, 96, 100) the first bin drops out of low. With the arguments
    exchanged, sample by sample and field by field, it is the number of Rozet et al. 2025, arXiv:2507.02608.

    Arguments:
        forecast: u, shape (..., C, *S); every leading axis belongs to the batch: call it per lead time.
        truth: v, same shape and units.
        weights: must be None: the paper's number has none.
        eps: absolute, in squared units of the field: the number depends on the units.
        space: number of space axes, all of them used.
    Returns:
        Dimensionless, shape (4,): low, mid, high and the corner; NaN for an empty band.
    Raises:
        InputError: shapes differ, or weights are given.
    References: the physics-SI paper's code, anthonyzhou-1/interpolant_pdes, `common/loss.py`.
    """
    require_unweighted("srmse_pred", weights)
    u, v = field_pair(forecast, truth, space)
    sizes = u.shape[u.ndim - space :]
    edges, index, times = _pixel_bins(sizes)
    counts = torch.bincount(index, times, minlength=len(edges)).clamp(min=1)

    def binned(x: Tensor) -> Tensor:  # (C, bins)
        p = in_blocks(lambda x: _sums(x, index, times, len(edges), space), x, space=space)
        p = p.flatten(0, -3).mean(dim=0) if p.ndim > 2 else p
        return (math.prod(sizes) * p / counts.to(p.device))[:, 1:]

    k = edges[1:]
    limits = torch.logspace(math.log2(k[0]), -1.0, steps=len(BANDS), base=2.0, dtype=torch.float32)
    bands = [(lower <= k) & (k <= upper) for lower, upper in pairwise(limits)]
    ratio = (binned(v) + eps) / (binned(u) + eps)
    return band_rms(1 - ratio, torch.stack([*bands, limits[-1] <= k]).to(u.device)).mean(dim=0)


def pearson_well(forecast: Tensor, truth: Tensor, weights: None = None, *, space: int = 2) -> Tensor:
    r"""Correlation over space as The Well computes it.

        r = <u' v'> / (s_u s_v + 1e-7),   s unbiased (N - 1),  N grid points

    A field correlates with itself by (N-1)/N, and by less where its variance is near 1e-7. Use `pearson`.

    Arguments:
        forecast: u, shape (..., C, *S).
        truth: v, same shape.
        weights: must be None: The Well's number has none.
        space: number of space axes.
    Returns:
        Dimensionless, shape (..., C).
    Raises:
        InputError: shapes differ, or weights are given.
    References: the_well 1.2.0, `benchmark/metrics/spatial.py:PearsonR`.
    """
    require_unweighted("pearson_well", weights)
    u, v = field_pair(forecast, truth, space)

    def correlation(u: Tensor, v: Tensor) -> Tensor:
        a, b = (anomaly(x, None, space).flatten(-space) for x in (u, v))
        variances = [x.square().sum(dim=-1) / (x.shape[-1] - 1) for x in (a, b)]
        return (a * b).mean(dim=-1) / (variances[0].sqrt() * variances[1].sqrt() + WELL_EPS)

    return in_blocks(correlation, u, v, space=space)


def binned_spectral_mse(
    forecast: Tensor, truth: Tensor, weights: None = None, *, relative: bool = False, space: int = 2
) -> Tensor:
    r"""Energy of the error in three bands of wavenumber, as The Well computes it.

        e_b = sum over the modes k of band b of |F_k(u) - F_k(v)|^2,   F_k = (1/N) sum_j x_j exp(-i k r_j)

    The three sum to the mean squared error: phases count, and the mean of the field is in the first band.
    Bands in radians per pixel, whatever the spacing: [0, e_1), [e_1, e_2), [e_2, pi sqrt(d)], e log-spaced
    from 2 pi / max(n), in float32 as in that program. An axis that is not periodic leaks into the last band.

    Arguments:
        forecast: u, shape (..., C, *S), physical units.
        truth: v, same shape and units.
        weights: must be None: The Well's number has none.
        relative: divide each band by the truth's energy in it, plus 1e-7 (The Well's nmse).
        space: number of space axes, all of them used.
    Returns:
        Squared units of the field, or dimensionless, shape (..., C, 3): low, mid, high.
    Raises:
        InputError: shapes differ, or weights are given.
    References: the_well 1.2.0, `benchmark/metrics/spectral.py:binned_spectral_mse`.
    """
    require_unweighted("binned_spectral_mse", weights)
    u, v = field_pair(forecast, truth, space)
    sizes = u.shape[u.ndim - space :]
    start, end = math.log10(2 * math.pi / max(sizes)), math.log10(math.pi * math.sqrt(space) + 1e-6)
    edges = torch.logspace(start, end, 4, dtype=torch.float32)
    edges[0] = 0
    k, times = _radii(sizes, 2 * math.pi)
    band = torch.bucketize(k, edges, right=True) - 1

    def energy(x: Tensor) -> Tensor:
        return _sums(x, band, times, len(edges), space)[..., :-1]

    def score(u: Tensor, v: Tensor) -> Tensor:
        return energy(u - v) / (energy(v) + WELL_EPS) if relative else energy(u - v)

    return in_blocks(score, u, v, space=space)


def _sums(x: Tensor, index: Tensor, times: Tensor, bins: int, space: int) -> Tensor:
    """Sums of the power of a field over the modes of each bin, (..., bins); modes and `times` as of `_radii`."""
    p = half_power(x, tuple(range(-space, 0))).flatten(-space) * times.to(x.device)
    return p.new_zeros((*p.shape[:-1], bins)).index_add_(-1, index.to(x.device), p)


def _pixel_bins(sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Edges (bins + 1,), cycles per pixel, the bin of each mode and its times; float32 as in the paper's code."""
    k, times = _radii(sizes)
    bins = math.floor(math.sqrt(len(sizes)) * min(sizes) / 2)
    edges = torch.linspace(0.0, float(k.max()), bins + 1, dtype=torch.float32)
    return edges, torch.bucketize(k, edges), times


def _radii(sizes: Sequence[int], unit: float = 1.0) -> tuple[Tensor, Tensor]:
    """|k| of each mode of `half_power` in units per pixel, float32, and how many modes it stands for; both flat."""
    *full, half = sizes
    frequencies = [*(torch.fft.fftfreq(n, dtype=torch.float32) for n in full), torch.fft.rfftfreq(half, dtype=torch.float32)]
    k = sum(torch.meshgrid(*((unit * f).square() for f in frequencies), indexing="ij"), torch.zeros(())).sqrt()
    return k.flatten(), twice(half).expand(k.shape).flatten()
