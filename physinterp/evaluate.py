"""Forecasts against truth: every score at every lead, for every initial condition, in one pass over the leads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physinterp import metrics
from physinterp.autoencoder import Identity
from physinterp.data.statistics import not_finite
from physinterp.emulator import Emulator
from physinterp.errors import InputError
from physinterp.grid import Grid


@dataclass(frozen=True)
class Cases:
    """Initial conditions and the truth that follows them, in physical units.

    Attributes:
        initial: dims (sample, *space), with parameters and `trajectory` on `sample`.
        truth: dims (sample, lead_time, *space), lazily loaded.
    """

    initial: xr.Dataset
    truth: xr.Dataset

    def check(self, names: Sequence[str]) -> None:
        """Read every value once.

        Raises:
            InputError: one is not finite; the message says where.
        """
        for ds in (self.initial, *(self.truth.isel(lead_time=k) for k in range(self.truth.sizes["lead_time"]))):
            for name in names:
                if not np.isfinite(ds[name].values).all():
                    raise InputError(not_finite(ds[name]))

    def lead(self, k: int, names: Sequence[str], space: Sequence[str]) -> Tensor:
        """The truth at lead k (from 0), shape (N, C, *S), float32."""
        ds = self.truth.isel(lead_time=k)
        return torch.from_numpy(np.stack([ds[n].transpose("sample", *space).values for n in names], axis=1))


def cases(ds: xr.Dataset, stride: int, leads: int, starts: int, dt: float) -> Cases:
    """Initial conditions spread evenly over each trajectory, each with `leads` steps of truth after it.

    Arguments:
        ds: dims (sample, time, *space), the spin-up left out.
        stride: frames per step.
        leads, starts: steps of truth, and initial conditions per trajectory.
        dt: physical time of a step.
    Raises:
        InputError: the trajectories are too short.
    """
    last = ds.sizes["time"] - 1 - leads * stride
    if last < 0:
        raise InputError(
            f"{ds.sizes['time']} frames are too few for {leads} leads of {stride} frames: ask for a lead of at most "
            f"{(ds.sizes['time'] - 1) // stride}"
        )
    first = np.unique(np.linspace(0, last, starts).round().astype(int))
    initial, truth = [], []
    for start in first:
        part = ds.isel(time=slice(start, start + leads * stride + 1, stride))
        initial.append(part.isel(time=0, drop=True))
        after = part.isel(time=slice(1, None)).rename(time="lead_time")
        truth.append(after.assign_coords(lead_time=dt * np.arange(1, leads + 1)))
    return Cases(
        *(
            xr.concat(parts, "sample", data_vars="all", coords="minimal", compat="override", join="exact")
            for parts in (initial, truth)
        )
    )


def score(forecast: Tensor, truth: Tensor, grid: Grid) -> xr.Dataset:
    """All scores and the mean spectra of one lead.

    Arguments:
        forecast: (N, M, C, *S), physical units.
        truth: (N, C, *S).
        grid: weights and periodic axes.
    Returns:
        Per case and field, band scores also per band; `spectrum` and `spectrum_truth` per field and k. A forecast that
        is not finite scores infinity.
    """
    members, weights = forecast.transpose(0, 1), torch.from_numpy(grid.weights)
    of_members, of_truth = spectrum(members, grid), spectrum(truth, grid)
    spectral = metrics.spectral_scores(of_members, of_truth)
    each = truth.expand_as(members)
    scores = {
        "vrmse_member": metrics.vrmse(members, each, weights).mean(0),
        "vrmse_mean": metrics.vrmse(members.mean(0), truth, weights),
        "vrmse_unweighted": metrics.vrmse(members, each).mean(0),
        "mae": metrics.mae(members, each, weights).mean(0),
        "crps": metrics.crps(members, truth, weights),
        "mse_of_mean": metrics.ensemble_mean_mse(members, truth, weights),
        **{name: value.mean(0) for name, value in spectral.items()},
    }
    if len(members) > 1:
        scores["variance"] = metrics.ensemble_variance(members, truth, weights)
    lost = ~torch.isfinite(forecast).flatten(3).all(-1).all(1)
    for value in scores.values():
        value[lost] = torch.inf
    ds = xr.Dataset({n: (("case", "field", "band")[: v.ndim], v.numpy()) for n, v in scores.items()})
    ds["spectrum"] = ("field", "k"), of_members.power.mean((0, 1)).numpy()
    ds["spectrum_truth"] = ("field", "k"), of_truth.power.mean(0).numpy()
    return ds.assign_coords(k=of_truth.k.numpy())


def spectrum(x: Tensor, grid: Grid) -> metrics.Spectrum:
    """Power over the periodic axes of fields (..., C, *S), physical wavenumbers.

    Along a single axis the Nyquist shell is left out: spectral solvers keep it empty, and a ratio to nothing says nothing.
    """
    spacing = [grid.axes[a].spacing for a in grid.periodic]
    s = metrics.power_spectrum(x, torch.from_numpy(grid.weights), axes=grid.periodic, spacing=spacing)
    if len(spacing) > 1:
        return s
    inside = s.k < s.nyquist * (1 - 1e-9)
    return replace(s, k=s.k[inside], power=s.power[..., inside], counts=s.counts[inside])


def evaluate(forecasts: Iterable[Tensor], truth: Cases, emulator: Emulator) -> xr.Dataset:
    """Scores and spectra of forecasts.

    Arguments:
        forecasts: one tensor (N, M, C, *S) per lead, physical units.
        truth: the cases that they forecast.
        emulator: for fields, grid and time step.
    Returns:
        Dims (lead_time, case, field[, band]) per score; `spectrum` and `spectrum_truth` (lead_time, field, k).
    """
    stack, grid = emulator.stack, emulator.stack.grid
    parts: list[xr.Dataset] = []
    parameters = torch.from_numpy(emulator.system.conditioning(truth.initial))
    members = 1
    for k, forecast in enumerate(forecasts):
        members = forecast.shape[1]
        target = truth.lead(k, stack.names, grid.names)
        scores = score(forecast, target, grid)
        if members > 1 and not isinstance(emulator.codec, Identity):
            seen = stack.denormalise(emulator.reconstruct(stack.normalise(target), parameters))
            error = metrics.ensemble_mean_mse(forecast.transpose(0, 1), seen, torch.from_numpy(grid.weights))
            scores["mse_of_mean_codec"] = ("case", "field"), error.numpy()
        parts.append(scores)
    ds = xr.concat(parts, "lead_time", data_vars="all", join="exact")
    coords: dict[str, Any] = {"field": list(stack.names), "band": list(metrics.BANDS)}
    coords["lead_time"] = emulator.dt * np.arange(1, len(parts) + 1)
    coords["trajectory"] = ("case", truth.initial["trajectory"].values)
    coords["std"] = ("field", list(stack.statistics.std))
    return ds.assign_coords(coords).assign_attrs(members=members)


def physical(
    emulator: Emulator, truth: Cases, leads: int, members: int, seed: int, seconds: list[float] | None = None
) -> Iterator[Tensor]:
    """Forecasts of all cases in physical units, one tensor (N, M, C, *S) per lead; `seconds` gets the time of each."""
    x = emulator.stack.pack(truth.initial)
    parameters = torch.from_numpy(emulator.system.conditioning(truth.initial))
    states = emulator.states(x, parameters, leads, members, seed)
    for _ in range(leads):
        begun = time.perf_counter()
        z = next(states)
        if seconds is not None:
            seconds.append(time.perf_counter() - begun)
        yield emulator.stack.denormalise(z)


def floor(emulator: Emulator, truth: Cases, leads: int) -> Iterator[Tensor]:
    """The truth encoded and decoded, as if it were a forecast of one member: what the codec alone loses."""
    parameters = torch.from_numpy(emulator.system.conditioning(truth.initial))
    for k in range(leads):
        u = truth.lead(k, emulator.stack.names, emulator.stack.grid.names)
        x = emulator.reconstruct(emulator.stack.normalise(u), parameters)
        yield emulator.stack.denormalise(x).unsqueeze(1)


DIMENSIONLESS = ("vrmse_member", "vrmse_mean", "vrmse_unweighted", "srmse", "log_spectral_distance")
PHYSICAL = {"crps": 1, "mae": 1, "variance": 2, "mse_of_mean": 2, "mse_of_mean_codec": 2}  # power of the field's unit
MEAN = "mean"
VERSION = 1  # raised when a score or a forecast of the same weights changes

DEFINITIONS = {
    "vrmse_member": "vrmse of each member, averaged over the members",
    "vrmse_mean": "vrmse of the ensemble mean",
    "vrmse_unweighted": "vrmse_member without quadrature weights, comparable with The Well's number",
    "spread_skill_codec": "spread_skill with the error against the encoded and decoded truth, for rows with a codec",
    "spectra": "srmse and log_spectral_distance along a single axis leave out the Nyquist shell, which spectral solvers "
    "keep empty",
    "intervals": "95 %, bootstrap over trajectories; the members of all initial conditions share their noise, whose part in "
    "the variance is left out",
    "evaluations": "network evaluations per physical step of one member",
    "seconds_per_step": "median over leads of the wall time of one step of all cases and members, over their number; "
    "without reading, scoring and writing",
    MEAN: "as a field: the mean of the headline fields per initial condition; crps, mae and the parts of spread_skill are "
    "first divided by the field's standard deviation over the training split, so they have no unit",
}


def with_mean(ds: xr.Dataset, headline: Sequence[str]) -> xr.Dataset:
    """The dataset with the field `mean` of the headline fields added; see DEFINITIONS."""
    chosen = ds.sel(field=list(headline))
    scaled = {k: chosen[k] / chosen["std"] ** power for k, power in PHYSICAL.items() if k in ds}
    average = chosen.assign(scaled).drop_vars("std").mean("field").assign_coords(field=MEAN)
    return xr.concat([ds.drop_vars("std"), average], "field", data_vars="all")


def rows(method: str, ds: xr.Dataset, headline: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the result file: value, 95 % interval over trajectories and count, per field, lead and score."""
    ds = with_mean(ds, headline)
    table: list[dict[str, Any]] = []

    def add(name: str, values: np.ndarray, statistic: Any) -> None:
        """Values (case, lead, field, ...) become one row per lead and field."""
        with np.errstate(invalid="ignore"):  # lost forecasts score infinity and have no interval
            low, high = metrics.block_bootstrap(values, statistic, ds["trajectory"].values)
            centre = statistic(values)
        for i, lead in enumerate(ds["lead_time"].values):
            for j, field in enumerate(ds["field"].values):
                numbers = {"value": float(centre[i, j]), "low": float(low[i, j]), "high": float(high[i, j])}
                table.append(
                    {"method": method, "field": str(field), "lead": round(float(lead), 9), "score": name}
                    | numbers
                    | {"count": len(values)}
                )

    for name in (*DIMENSIONLESS, "crps", "mae"):
        values = ds[name].transpose("case", "lead_time", "field", ...)
        if "band" in values.dims:
            for band in ds["band"].values:
                add(f"{name}_{band}", values.sel(band=band).values, metrics.mean)
        else:
            add(name, values.values, metrics.mean)
    if "variance" in ds:
        m = int(ds.attrs["members"])
        for name, error in (("spread_skill", "mse_of_mean"), ("spread_skill_codec", "mse_of_mean_codec")):
            if error in ds:
                both = xr.concat([ds["variance"] * (m + 1) / m, ds[error]], "part")
                add(name, both.transpose("case", "lead_time", "field", "part").values, metrics.ratio_of_sqrt_means)
    return table


def ratio(a: xr.DataArray, b: xr.DataArray) -> dict[str, float]:
    """Mean of a over mean of b on the same cases (dim `case`), with its paired 95 % interval."""
    statistic = metrics.bootstrap.OfMean(lambda m: m[..., 0] / m[..., 1])
    both = np.stack([a.values, b.values], axis=-1)
    low, high = metrics.block_bootstrap(both, statistic, a["trajectory"].values)
    return {"value": float(statistic(both)), "low": float(low), "high": float(high)}
