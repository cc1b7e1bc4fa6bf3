r"""Forecasts against truth: every score at every lead, for every initial condition, in one pass over the leads.

The error budget of a forecast at a lead compares three fields with the truth there:

    floor       the truth encoded and decoded
    one step    the emulator's step from the true state one step before
    member      the forecast itself

Their squared errors, and the power of their errors per wavenumber, say what the codec loses, what one step adds to it,
and what feedback, the rollout from the emulator's own states, adds to that.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

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
from physinterp.initial import lead_times
from physinterp.system import System, near

if TYPE_CHECKING:
    from distributed import Client

LOGGER = logging.getLogger(__name__)

Pair = tuple[xr.Dataset, xr.Dataset]  # forecast and truth


@dataclass(frozen=True)
class Cases:
    """Initial conditions and the truth that follows them, in physical units.

    Attributes:
        initial: dims (sample, *space), with parameters and `trajectory` on `sample`.
        truth: dims (sample, lead_time, *space), lazily loaded.
        source: the trajectories that they were cut from, if known.
    """

    initial: xr.Dataset
    truth: xr.Dataset
    source: xr.Dataset | None = None

    def check(self, names: Sequence[str]) -> None:
        """Read every value once.

        Raises:
            InputError: one is not finite; the message says where.
        """
        for ds in (self.initial, *(self.truth.isel(lead_time=k) for k in range(self.truth.sizes["lead_time"]))):
            for name in names:
                if not np.isfinite(ds[name].values).all():
                    raise InputError(not_finite(ds if self.source is None else self.source, name))

    def lead(self, k: int, names: Sequence[str], space: Sequence[str]) -> Tensor:
        """The truth at lead k (from 0; -1 is the initial state), shape (N, C, *S), float32."""
        return _tensor(self.initial if k < 0 else self.truth.isel(lead_time=k), names, space, "sample")

    def parts(self, size: int) -> Iterator[Cases]:
        """The cases in parts of at most `size`, in order."""
        for first in range(0, self.initial.sizes["sample"], size):
            rows = slice(first, first + size)
            yield Cases(self.initial.isel(sample=rows), self.truth.isel(sample=rows))


def cases(ds: xr.Dataset, stride: int, leads: int, starts: int, dt: float) -> Cases:
    """Initial conditions spread evenly over each trajectory, each with `leads` steps of truth after it.

    Arguments:
        ds: dims (sample, time, *space), the spin-up left out.
        stride: frames per step.
        leads, starts: steps of truth, and initial conditions per trajectory.
        dt: physical time of a step.
    Raises:
        InputError: the trajectories are too short, or `stride` frames are not `dt` apart.
    """
    last = ds.sizes["time"] - 1 - leads * stride
    if last < 0:
        raise InputError(
            f"{ds.sizes['time']} frames are too few for {leads} leads of {stride} frames: ask for a lead of at most "
            f"{(ds.sizes['time'] - 1) // stride}"
        )
    apart = float(ds["time"][stride] - ds["time"][0])
    if abs(apart - dt) > 1e-3 * dt:
        raise InputError(
            f"{stride} frames are {apart:g} apart, the step is {dt:g}: take a stride of {stride * dt / apart:g}"
        )
    first = np.unique(np.linspace(0, last, starts).round().astype(int))
    initial, truth = [], []
    for start in first:
        part = ds.isel(time=slice(start, start + leads * stride + 1, stride))
        initial.append(part.isel(time=0, drop=True))
        after = part.isel(time=slice(1, None)).rename(time="lead_time")
        truth.append(after.assign_coords(lead_time=dt * np.arange(1, leads + 1)))
    both = [
        xr.concat(parts, "sample", data_vars="all", coords="minimal", compat="override", join="exact")
        for parts in (initial, truth)
    ]
    return Cases(both[0], both[1], ds)


def score(forecast: Tensor, truth: Tensor, grid: Grid, also: Sequence[str] = ()) -> xr.Dataset:
    """The scores and the mean spectra of one lead.

    Arguments:
        forecast: (N, M, C, *S), physical units.
        truth: (N, C, *S).
        grid: weights and periodic axes.
        also: further names of METRICS, see `metrics.further`.
    Returns:
        Per case and field, band scores also per band; `spectrum` and `spectrum_truth` per field and k. A forecast that
        is not finite scores infinity.
    """
    members, truth = forecast.transpose(0, 1).double().contiguous(), truth.double()  # once for all scores
    weights = torch.from_numpy(grid.weights)
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
        **metrics.further(also, members, truth, weights, grid.periodic, [grid.axes[a].spacing for a in grid.periodic]),
    }
    if len(members) > 1:
        scores["variance"] = metrics.ensemble_variance(members, truth, weights)
        ranks = metrics.rank_histogram(members, truth, weights).mean(0)
    lost = ~torch.isfinite(forecast).flatten(3).all(-1).all(1)
    for name, value in scores.items():
        value[lost] = -torch.inf if name in metrics.HIGHER else torch.inf
    ds = xr.Dataset({n: (("case", "field", "band")[: v.ndim], v.numpy()) for n, v in scores.items()})
    ds["spectrum"] = ("field", "k"), of_members.power.mean((0, 1)).numpy()
    ds["spectrum_truth"] = ("field", "k"), of_truth.power.mean(0).numpy()
    if len(members) > 1:
        ds["rank_histogram"] = ("field", "rank"), ranks.numpy()
    return ds.assign_coords(k=of_truth.k.numpy())


def spectrum(x: Tensor, grid: Grid) -> metrics.Spectrum:
    """Power over the spectral axes of fields (..., C, *S), physical wavenumbers; with a Hann window where none is periodic.

    Along a single axis the Nyquist shell is left out: spectral solvers keep it empty, and a ratio to nothing says nothing.
    """
    axes, weights = grid.spectral, torch.from_numpy(grid.weights)
    spacing = [grid.axes[a].spacing for a in axes]
    s = metrics.power_spectrum(x, weights, axes=axes, spacing=spacing, window=None if grid.periodic else "hann")
    if len(spacing) > 1:
        return s
    inside = s.k < s.nyquist * (1 - 1e-9)
    return replace(s, k=s.k[inside], power=s.power[..., inside], counts=s.counts[inside])


def budget(errors: Mapping[str, Tensor], grid: Grid) -> xr.Dataset:
    """The error budget of one lead.

    Arguments:
        errors: of `member`, `one_step` and `floor`, each (N, M, C, *S), physical units.
        grid: weights and periodic axes.
    Returns:
        `mse_*` per case and field, `error_spectrum_*` per field and k, in squared units; means over the members.
    """
    weights, ds = torch.from_numpy(grid.weights), xr.Dataset()
    for name, e in errors.items():
        s = spectrum(e, grid)
        mse = (e.double().square() * weights).flatten(3).mean(-1).mean(1)
        ds[f"mse_{name}"] = ("case", "field"), mse.masked_fill(mse.isnan(), torch.inf).numpy()  # lost
        ds[f"error_spectrum_{name}"] = ("field", "k"), s.power.mean((0, 1)).numpy()
    return ds.assign_coords(k=s.k.numpy())


def evaluate(forecasts: Iterable[Tensor], truth: Cases, emulator: Emulator, seed: int | None = None) -> xr.Dataset:
    """Scores and spectra of forecasts.

    Arguments:
        forecasts: one tensor (N, M, C, *S) per lead, physical units.
        truth: the cases that they forecast.
        emulator: that made them; for fields, grid and time step, and for its single steps in the error budget.
        seed: of the noise of those single steps; None leaves the budget out.
    Returns:
        Dims (lead_time, case, field[, band]) per score and `mse_*`; `spectrum`, `spectrum_truth` and `error_spectrum_*`
        (lead_time, field, k); `rank_histogram` (lead_time, field, rank) of ensembles.
    """
    stack, grid = emulator.stack, emulator.stack.grid
    parts: list[xr.Dataset] = []
    parameters = torch.from_numpy(emulator.system.conditioning(truth.initial))
    members = 1
    for k, forecast in enumerate(lasting(forecasts)):
        members = forecast.shape[1]
        target = truth.lead(k, stack.names, grid.names)
        scores = score(forecast, target, grid)
        seen = target
        if not isinstance(emulator.codec, Identity):
            seen = stack.denormalise(emulator.reconstruct(stack.normalise(target), parameters))
            if members > 1:
                error = metrics.ensemble_mean_mse(forecast.transpose(0, 1), seen, torch.from_numpy(grid.weights))
                scores["mse_of_mean_codec"] = ("case", "field"), error.numpy()
        if seed is not None:
            before = stack.normalise(truth.lead(k - 1, stack.names, grid.names))
            step = stack.denormalise(next(emulator.states(before, parameters, 1, 1, seed, first=k)))
            fields = {"member": forecast, "one_step": step, "floor": seen[:, None]}
            scores.update(budget({name: u - target[:, None] for name, u in fields.items()}, grid))
        parts.append(scores)
    leads = emulator.dt * np.arange(1, len(parts) + 1)
    std = list(stack.statistics.std)
    return _over_leads(parts, stack.names, grid, leads, members).assign_coords(
        std=("field", std), trajectory=("case", truth.initial["trajectory"].values)
    )


def lasting(forecasts: Iterable[Tensor]) -> Iterator[Tensor]:
    """The forecasts (N, M, C, *S) of successive leads; a member that is not finite at one is NaN at all later ones."""
    lost: Tensor | None = None
    for u in forecasts:
        now = ~u.flatten(2).isfinite().all(-1)
        lost = now if lost is None else lost | now
        yield u.masked_fill(lost.reshape(*lost.shape, *(1,) * (u.ndim - 2)), torch.nan) if bool(lost.any()) else u


def _over_leads(parts: list[xr.Dataset], names: Sequence[str], grid: Grid, leads: np.ndarray, members: int) -> xr.Dataset:
    ds = xr.concat(parts, "lead_time", data_vars="all", join="exact")
    ds = ds.assign_coords(field=list(names), band=list(metrics.BANDS), lead_time=leads)
    return ds.assign_attrs(members=members, grid=str(grid))


def compare(
    forecast: xr.Dataset,
    truth: xr.Dataset,
    system: System,
    part: int = 16,
    client: Client | None = None,
    also: Sequence[str] = (),
) -> xr.Dataset:
    """Scores and spectra of any forecast against the truth, as `evaluate` gives them, without an error budget.

    A forecast that is not finite at a lead is lost there and at every later one. Memory holds `part` cases at one lead,
    whatever their number, where the datasets are lazy.

    Arguments:
        forecast: dims (sample or init_time, lead_time, *space) and perhaps member, physical units.
        truth: the same without member; `trajectory` on the samples, where there is one, makes the blocks of intervals.
        system: the card, for fields and grid.
        part: cases at once.
        client: of dask.distributed; scores the parts on its workers.
        also: further scores, from `metrics.FURTHER`.
    Returns:
        As `evaluate`; the coordinate `std` is the standard deviation of this truth at the first lead.
    Raises:
        InputError: fields, units, cases, lead times or grids of the two differ (the message says which), or a value of
            the truth is not finite. In a forecast such a value is a blow-up.
    """
    check_pair(forecast, truth, system)
    case = "sample" if "sample" in forecast.dims else "init_time"
    if "member" not in forecast.dims:
        forecast = forecast.expand_dims("member")
    rows = [slice(i, i + part) for i in range(0, forecast.sizes[case], part)]
    pairs = ((forecast.isel({case: r}), truth.isel({case: r})) for r in rows)
    run = partial(_compare_part, system=system, case=case, also=also)
    whole = together(map(run, pairs) if client is None else _on_workers(client, run, pairs))
    for name in system.field_names:
        if count := int(whole["constant"].sel(field=name).any("lead_time").sum()):
            LOGGER.warning(
                "the truth of %s is constant in %d of %d cases: its vrmse and spectral scores are infinite or not a number "
                "there, read its mae and crps", name, count, whole.sizes["case"],
            )  # fmt: skip
    labels = truth["trajectory"].values if "trajectory" in truth.coords else np.arange(whole.sizes["case"])
    variance = (whole["second"].mean("case") - whole["first"].mean("case") ** 2).clip(min=0.0)
    known = {"std": ("field", np.sqrt(variance.values)), "trajectory": ("case", labels)}
    return whole.drop_vars(["first", "second", "constant"]).assign_coords(known)


def _on_workers(client: Client, run: Callable[[Pair], xr.Dataset], pairs: Iterable[Pair]) -> Iterator[xr.Dataset]:
    """Results in order; each leaves the workers' memory as it is taken."""
    futures = deque(client.map(run, list(pairs), pure=False))
    while futures:
        yield futures.popleft().result()


def _compare_part(pair: Pair, system: System, case: str, also: Sequence[str]) -> xr.Dataset:
    """All leads of some cases, where the truth is constant, and its moments at the first lead."""
    forecast, truth = pair
    names, grid, parts = system.field_names, system.grid, []
    weights, leads = torch.from_numpy(grid.weights), range(forecast.sizes["lead_time"])
    for k, u in enumerate(lasting(_tensor(forecast.isel(lead_time=k), names, grid.names, case) for k in leads)):
        of_lead = truth.isel(lead_time=k)
        v = _tensor(of_lead, names, grid.names, case)
        if not bool(v.isfinite().all()):
            wrong = next(n for n in names if not np.isfinite(of_lead[n].values).all())
            raise InputError(f"the truth at index {k} of lead_time: {not_finite(of_lead, wrong)}")
        flat = (v.amax((-2, -1)) == v.amin((-2, -1))).numpy()
        parts.append(score(u, v, grid, also).assign(constant=(("case", "field"), flat)))
        if k == 0:
            first, second = ((v.double() ** p * weights).mean((-2, -1)).numpy() for p in (1, 2))
    ds = _over_leads(parts, names, grid, lead_times(forecast["lead_time"], system), forecast.sizes["member"])
    return ds.assign(first=(("case", "field"), first), second=(("case", "field"), second))


def _tensor(ds: xr.Dataset, names: Sequence[str], space: Sequence[str], case: str) -> Tensor:
    """(N, M, C, *S) or, without members, (N, C, *S), float32."""
    leading = [d for d in (case, "member") if d in ds.dims]
    values = [ds[n].transpose(*leading, *space).values for n in names]
    return torch.from_numpy(np.stack(values, axis=len(leading)).astype(np.float32, copy=False))


def check_pair(forecast: xr.Dataset, truth: xr.Dataset, system: System) -> None:
    """An InputError that says which of fields, units, cases, lead times or grids of a forecast and its truth differ."""
    for what, ds in (("forecast", forecast), ("truth", truth)):
        missing = [n for n in system.field_names if n not in ds]
        if missing:
            raise InputError(f"the {what} has no {', '.join(missing)}: {near(missing[0], map(str, ds.data_vars))}")
        if "lead_time" not in ds.dims or not {"sample", "init_time"} & set(ds.dims):
            raise InputError(f"the {what} needs the dims sample or init_time, and lead_time; found {tuple(ds.dims)}")
        known = {"sample", "init_time", "lead_time", *system.grid.names, *(("member",) if what == "forecast" else ())}
        for n in system.field_names:
            if other := sorted(map(str, set(ds[n].dims) - known)):
                raise InputError(f"{n} of the {what} has the dimension {other[0]!r}: choose one of it, or take its mean")
        system.grid.check(ds)
    for n in system.field_names:
        units = [ds[n].attrs.get("units", "") for ds in (forecast, truth)]
        if all(units) and units[0] != units[1]:
            raise InputError(f"{n} is in {units[0]!r} in the forecast and in {units[1]!r} in the truth; convert one of them")
    for dim in ("sample", "init_time", "lead_time"):
        a, b = (ds[dim].values if dim in ds.dims else np.zeros(0) for ds in (forecast, truth))
        if dim == "lead_time":
            a, b = (lead_times(ds[dim], system) for ds in (forecast, truth))
        if len(a) != len(b):
            raise InputError(f"the forecast has {len(a)} and the truth {len(b)} of {dim}; select the same in both")
        if a.dtype.kind != b.dtype.kind:
            raise InputError(f"{dim} is {a.dtype} in the forecast and {b.dtype} in the truth; convert one of them")
        same = np.isclose(a, b) if a.dtype.kind == "f" else a == b
        if not same.all():
            i = int(np.flatnonzero(~same)[0])
            raise InputError(f"{dim} differs at index {i}: {a[i]} in the forecast, {b[i]} in the truth; select the same")


def together(parts: Iterable[xr.Dataset]) -> xr.Dataset:
    """The evaluation of all cases from those of parts of them: cases one after the other, the rest their mean.

    One part at a time: of each, its scores per case are kept, and spectra and histograms are added to a running sum.
    """
    kept: list[xr.Dataset] = []
    total, count = None, 0
    for ds in parts:
        of_cases = [n for n in ds if "case" in ds[n].dims]
        kept.append(ds[of_cases])
        share = ds.drop_vars(of_cases) * ds.sizes["case"]
        total = share if total is None else total + share
        count += ds.sizes["case"]
    whole = xr.concat(kept, "case", data_vars="all", join="exact")
    return whole if total is None else whole.assign((total / count).data_vars)


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


def read(forecast: xr.Dataset, system: System) -> Iterator[Tensor]:
    """A forecast in xarray, dims (sample, member, lead_time, *space), as one tensor (N, M, C, *S) per lead."""
    for k in range(forecast.sizes["lead_time"]):
        yield _tensor(forecast.isel(lead_time=k), system.field_names, system.grid.names, "sample")


def floor(emulator: Emulator, truth: Cases, leads: int) -> Iterator[Tensor]:
    """The truth encoded and decoded, as if it were a forecast of one member: what the codec alone loses."""
    parameters = torch.from_numpy(emulator.system.conditioning(truth.initial))
    for k in range(leads):
        u = truth.lead(k, emulator.stack.names, emulator.stack.grid.names)
        x = emulator.reconstruct(emulator.stack.normalise(u), parameters)
        yield emulator.stack.denormalise(x).unsqueeze(1)
