r"""Will interpolants help these data? Questions to a training split before anything is trained.

An interpolant starts from the present state, a diffusion model from noise. For a stride of s frames, with fields in units
of their standard deviation and z ~ N(0, I):

    path   = rms(u(t+s) - u(t)) / rms(u(t+s) - z)                       length of the way from the state over that from noise
    SWD    = D(u(t), u(t+s)) / D(z, u(t+s)),   D^2 = mean over directions and ranks of (sorted(a) - sorted(b))^2
    MMD    = the same ratio with D^2 = <k(a, a')> + <k(b, b')> - 2 <k(a, b)>,   k Gaussian of the median distance

over a set of states. The sets are paired, so all three are 0 for s = 0 and rise with s; path goes to about 0.7 to 1 where
successive states are independent, the others to a floor that depends on the number of states.

References: Bonneel et al. 2015 (sliced Wasserstein), Gretton et al. 2012 (MMD), Zhou et al. 2025, arXiv:2509.26282.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import dask
import numpy as np
import xarray as xr

from physinterp.data.statistics import not_finite
from physinterp.errors import InputError

POINTS = 1024
"""Largest number of grid points per field that is looked at."""
CHANGE = 0.35
"""Largest change over a suggested step, in standard deviations of the field that changes most."""


@dataclass(frozen=True)
class Row:
    """One stride.

    Attributes:
        stride: frames.
        change: rms of u(t+s) - u(t) of the field that changes most, in its standard deviations.
        path, swd, mmd: ratios; see the module.
        correlation: of the anomalies of the field that forgets fastest.
        sigma: rms of u(t+s) - r u(t) with the best r, in standard deviations: what persistence leaves to be drawn.
    """

    stride: int
    change: float
    path: float
    swd: float
    mmd: float
    correlation: float
    sigma: float


@dataclass(frozen=True)
class Preflight:
    """Answers.

    Attributes:
        rows: per stride.
        decorrelation: stride, between those looked at, where the anomalies of the fastest field correlate by 0.5; None
            where they do so for longer.
        stride: suggested frames per step of the emulator.
        sigma: an upper bound of the interpolant's noise there; training measures it.
        steps: suggested steps of a sampler.
        advice: in words.
    """

    rows: tuple[Row, ...]
    decorrelation: float | None
    stride: int
    sigma: float
    steps: int
    advice: str


def preflight(ds: xr.Dataset, names: Sequence[str], states: int = 256, directions: int = 128, seed: int = 0) -> Preflight:
    """Look at pairs of states at growing distance.

    Arguments:
        ds: dims (sample, time, *space): the training split without its spin-up.
        names: fields.
        states: pairs per stride, from at most 16 trajectories.
        directions: of the sliced Wasserstein distance.
        seed: of states, directions and noise.
    Raises:
        InputError: there are too few frames, or values are not finite.
    """
    frames = ds.sizes["time"]
    if frames < 3:
        raise InputError(f"{frames} frames are too few to compare strides; need at least 3")
    strides = [2**k for k in range(7) if 2**k <= max(1, (frames - 1) // 2)]
    rng = np.random.default_rng(seed)
    u = _states(ds, names, strides, states, rng)  # (1 + strides, N, C, points)
    u -= u.mean((0, 1), keepdims=True)
    spread = np.sqrt(np.square(u).mean((0, 1, 3), keepdims=True))
    u /= np.where(spread > 0, spread, 1.0)
    noise = rng.standard_normal(u.shape[1:])
    directions_ = rng.standard_normal((u[0, 0].size, directions))
    directions_ /= np.linalg.norm(directions_, axis=0)
    rows = tuple(_row(s, u[0], later, noise, directions_) for s, later in zip(strides, u[1:], strict=True))
    good = [r for r in rows if r.change <= CHANGE]
    best = good[-1] if good else rows[0]
    steps = 2 if best.change <= CHANGE else 5 if best.change <= 1 else 10
    return Preflight(rows, _crossing(rows, 0.5), best.stride, best.sigma, steps, _advice(best, bool(good)))


def _states(
    ds: xr.Dataset, names: Sequence[str], strides: Sequence[int], states: int, rng: np.random.Generator
) -> np.ndarray:
    """Some states and those that follow them, (1 + strides, N, C, points), float64."""
    space = [d for d in ds[names[0]].dims if d not in ("sample", "time")]
    thin = max(1, math.ceil((math.prod(ds.sizes[d] for d in space) / POINTS) ** (1 / len(space))))
    thinned = ds[list(names)].isel({d: slice(None, None, thin) for d in space})
    samples = rng.choice(ds.sizes["sample"], min(16, ds.sizes["sample"]), replace=False)
    sample = np.sort(np.resize(samples, states))
    first = rng.integers(0, ds.sizes["time"] - max(strides), states)
    at = {"sample": xr.DataArray(sample, dims="n")}
    loaded = dask.compute(*(thinned.isel(at | {"time": xr.DataArray(first + s, dims="n")}) for s in (0, *strides)))
    values = np.stack([_flat(part, names, space) for part in loaded])
    if not np.isfinite(values).all():
        channel = int(np.argwhere(~np.isfinite(values))[0][2])
        raise InputError(not_finite(ds, names[channel]))
    return values.astype(np.float64)


def _flat(part: xr.Dataset, names: Sequence[str], space: Sequence[Hashable]) -> np.ndarray:
    """(N, C, points)."""
    return np.stack([part[n].transpose("n", *space).values.reshape(part.sizes["n"], -1) for n in names], 1)


def _row(stride: int, now: np.ndarray, later: np.ndarray, noise: np.ndarray, directions: np.ndarray) -> Row:
    change = np.sqrt(np.square(later - now).mean((0, 2)))
    correlation = (later * now).mean((0, 2)) / np.sqrt(np.square(later).mean((0, 2)) * np.square(now).mean((0, 2)) + 1e-300)
    path = math.sqrt(np.square(later - now).mean() / np.square(later - noise).mean())
    a, b, z = (x.reshape(len(x), -1) for x in (now, later, noise))
    swd = _sliced(a @ directions, b @ directions) / _sliced(z @ directions, b @ directions)
    rest = np.sqrt(np.clip(1 - correlation**2, 0, 1))
    return Row(stride, float(change.max()), path, swd, _mmd(a, b) / _mmd(z, b), float(correlation.min()), float(rest.max()))


def _sliced(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced Wasserstein-2 distance of two sets from their projections (N, directions)."""
    return float(np.sqrt(np.square(np.sort(a, 0) - np.sort(b, 0)).mean()))


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Maximum mean discrepancy of two sets (N, D), biased, so never negative."""
    both = np.concatenate([a, b]).astype(np.float32)
    squares = np.square(both).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0)
    n = len(a)
    k = np.exp(-distances / np.median(distances[:n, n:]))
    return float(np.sqrt(max(k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean(), 0.0)))


def _crossing(rows: Sequence[Row], level: float) -> float | None:
    """Stride at which the correlation falls below a level, by linear interpolation from 1 at stride 0."""
    before, above = 0.0, 1.0
    for row in rows:
        if row.correlation < level:
            return before + (row.stride - before) * (above - level) / (above - row.correlation)
        before, above = float(row.stride), row.correlation
    return None


def _advice(best: Row, good: bool) -> str:
    if good:
        return (
            f"the state is much nearer to the next state than noise is (path {best.path:.2f}): "
            "an interpolant should need few steps"
        )
    if best.change <= 1:
        return f"frames are far apart (change {best.change:.2f} of the spread): store them more often if you can"
    return "successive frames are almost independent: an interpolant starts no nearer than noise; store frames more often"
