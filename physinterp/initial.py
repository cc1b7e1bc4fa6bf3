"""The initial state of a forecast: any dataset with the fields, checked and made to fit the card."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physinterp.data.weatherbench import find
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.system import DURATIONS, System
from physinterp.types import Conditioning

LOGGER = logging.getLogger(__name__)

Block = tuple[slice, slice]  # of samples and members
STARTS = ("sample", "init_time")
REPLACED = {"lead_time", "member", "latent", "lost_at"}  # coordinates that a forecast makes itself


@dataclass(frozen=True)
class Rows:
    """The rows of a batch, each one member of one initial condition.

    Attributes:
        sample: index of the initial condition, (R,).
        member: number of the member, (R,).
        table: `System.conditioning` of each row at the start, (R, P).
    """

    sample: Tensor
    member: Tensor
    table: Tensor

    @property
    def cond(self) -> Conditioning:
        """What codecs are told, which is the same at all times."""
        return Conditioning(self.table)

    @classmethod
    def of(cls, parameters: Tensor, members: Sequence[int], first: int = 0) -> Rows:
        """Every member of every sample, samples first; parameters (n, P), of samples numbered from `first`."""
        sample = torch.arange(len(parameters)).repeat_interleave(len(members))
        member = torch.tensor(members).repeat(len(parameters))
        return cls(sample + first, member, parameters[sample])


@dataclass(frozen=True)
class Initial:
    """What a forecast of N initial conditions and M members starts from, or is continued from.

    Attributes:
        x: normalised fields (N, 1 or M, C, *S), one for all members where they share it; None where there is a latent state.
        latent: state of the stepper (N, M, Cz, *Sz), None where a forecast begins.
        parameters: standardised, (N, P).
        members: numbers of the members, none where a forecast begins from one state for all.
        seed: of the forecast that is continued, 0 where one begins.
        step: steps that are done.
        lost_at: lead time at which a member was lost, NaN where it was not, (N, M); None where one begins.
        row: name of the dimension of the initial conditions, `sample` or `init_time`.
        coords, attrs, field_attrs: of the data, to be kept.
    """

    x: Tensor | None
    latent: Tensor | None
    parameters: Tensor
    members: tuple[int, ...]
    seed: int
    step: int
    lost_at: np.ndarray | None
    row: str
    coords: Mapping[str, xr.Variable]
    attrs: Mapping[str, Any]
    field_attrs: Mapping[str, Mapping[str, Any]]

    def fields(self, block: Block) -> Tensor:
        """Normalised fields of a block, (n, m, C, *S)."""
        if self.x is None:
            raise ValueError("the forecast begins from a latent state")
        x = self.x[block[0]]
        return x[:, block[1]] if x.shape[1] > 1 else x.expand(-1, len(self.members[block[1]]), *x.shape[2:])

    def fingerprint(self) -> str:
        """Short hash of everything that values and coordinates depend on."""
        parts = [t.contiguous().numpy().tobytes() for t in (self.x, self.latent, self.parameters) if t is not None]
        words = repr((self.members, self.step, self.row, [(k, v.dims, v.values.tolist()) for k, v in self.coords.items()]))
        return hashlib.sha256(b"/".join([*parts, words.encode()])).hexdigest()[:12]


def read_initial(ds: xr.Dataset, system: System, stack: FieldStack, dt: float, weights: str) -> Initial:
    """Check a dataset and read the initial state in it.

    Fields may have the name of an alias and dimensions any order. A dataset with a `lead_time` is a forecast to be
    continued: from its latent state where that is of the last lead and of these weights, else from the fields.

    Arguments:
        ds: the fields in physical units, dims (sample | init_time[, member][, lead_time], *space) or some of them.
        dt: physical time of a step.
        weights: what a latent state must be of.
    Raises:
        InputError: fields, parameters or coordinates are missing (all are named), or units, grid or times do not fit.
    """
    if "incomplete" in ds.attrs:
        raise InputError(f"the forecast is not finished ({ds.attrs['incomplete']}): finish it before it is continued")
    ds = conform(ds, system)
    step = 0
    if "lead_time" in ds.coords:
        if "date" in ds.coords and "lead_time" in ds["date"].dims:
            ds = ds.drop_vars("date")  # of the leads, not of the start
        ds = ds.isel(lead_time=-1) if "lead_time" in ds.dims else ds
        step = _step(ds["lead_time"], dt, system)
    row = "init_time" if "init_time" in ds.dims or ("init_time" in ds.coords and "sample" not in ds.dims) else "sample"
    for dim in (row, "member"):
        if dim not in ds.dims and (dim == row or dim in ds.coords):
            ds = ds.expand_dims(dim)
        if ds.sizes.get(dim) == 0:
            raise InputError(f"the data hold no initial state: the dimension {dim!r} is empty")
    leading = [d for d in (row, "member") if d in ds.dims]
    latent = _latent(ds, row, step, weights) if step else None
    x = None
    if latent is None:
        x = stack.pack(ds.transpose(*leading, ...))
        x = x if "member" in leading else x.unsqueeze(1)
    return Initial(
        x=x,
        latent=latent,
        parameters=torch.from_numpy(system.conditioning(ds.rename({row: "sample"}) if row != "sample" else ds)),
        members=tuple(ds["member"].values.astype(int).tolist()) if "member" in leading else (),
        seed=int(ds.attrs.get("seed", 0)) if step else 0,
        step=step,
        lost_at=_rows(ds["lost_at"], row).values if {"lost_at", "member"} <= set(ds.coords) else None,
        row=row,
        coords={
            str(name): da.variable.compute()
            for name, da in ds.coords.items()
            if set(da.dims) <= {row, "member", *system.grid.names} and name not in REPLACED
        },
        attrs=ds.attrs,
        field_attrs={name: ds[name].attrs for name in system.field_names},
    )


def conform(ds: xr.Dataset, system: System) -> xr.Dataset:
    """The card's fields under the card's names, checked; see `read_initial`."""
    axes = system.grid.names
    missing = {
        "fields": [f.name for f in system.fields if not {f.name, *f.aliases} & set(ds.data_vars)],
        "parameters": [p.name for p in system.parameters if p.name not in ds.coords],
        "dimensions": [name for name in axes if name not in ds.dims],
        "coordinates": [name for name in axes if name in ds.dims and name not in ds.coords],
    }
    if any(missing.values()):
        other = ds.attrs.get("system", system.name)
        of = f", but are of {other!r}" if other != system.name else ""
        raise InputError(
            f"the data do not fit the system {system.name!r}{of}: "
            + ", ".join(f"missing {kind} {names}" for kind, names in missing.items() if names)
            + f" (found fields {sorted(map(str, ds.data_vars))}, coordinates {sorted(map(str, ds.coords))}, dimensions "
            f"{sorted(map(str, ds.dims))}); rename or add them, parameters as in ds.assign_coords(NAME=value)"
        )
    found = {f.name: find(ds, f, system, "the initial state") for f in system.fields}
    fields = {name: ds[of].isel(level, drop=True) for name, (of, level) in found.items()}
    ds = ds.drop_vars(list(ds.data_vars)).assign(fields)
    _check_dims(ds, axes, system.field_names)
    for parameter in system.parameters:
        if not np.isfinite(ds[parameter.name].values).all():
            raise InputError(
                f"parameter {parameter.name!r} has values that are not finite: {ds[parameter.name].values.tolist()}"
            )
    system.grid.check(ds)
    return ds


def _check_dims(ds: xr.Dataset, axes: Sequence[str], fields: Sequence[str]) -> None:
    if "time" in ds.dims:
        raise InputError(
            f"the initial state has a time axis of {ds.sizes['time']}: choose one time, as in ds.isel(time=0), or start "
            "from each, as in ds.rename(time='init_time')"
        )
    if set(STARTS) <= set(ds.dims):
        raise InputError("the initial states have both dimensions sample and init_time: choose one sample or one time")
    for name in fields:
        if other := set(ds[name].dims) - {*STARTS, "member", "lead_time", *axes}:
            raise InputError(
                f"field {name!r} has the dimension {min(map(str, other))!r}, expected {tuple(axes)}: choose one of it"
            )
    if "member" in ds.coords and ds["member"].dtype.kind not in "iu":
        raise InputError(f"members are numbered from 0, found {ds['member'].values.tolist()}: leave the coordinate out")


def lead_times(da: xr.DataArray, system: System) -> np.ndarray:
    """Lead times in the unit of time of the card; xarray reads those in hours or days as timedelta64."""
    if da.dtype.kind == "m":
        if system.time_unit not in DURATIONS:
            raise InputError(
                f"lead_time is {da.dtype}, the card of {system.name} has times in {system.time_unit!r}: give numbers, as in "
                "ds.assign_coords(lead_time=[...]), or open the store with decode_timedelta=False"
            )
        return np.asarray(da.values / np.timedelta64(1, "s") / DURATIONS[system.time_unit])
    return np.asarray(da.values, dtype=np.float64)


def _step(lead_time: xr.DataArray, dt: float, system: System) -> int:
    """Number of steps of a lead time."""
    lead = float(lead_times(lead_time, system))
    step = round(lead / dt)
    if step < 1 or abs(step * dt - lead) > 1e-6 * dt * step:
        raise InputError(f"the forecast ends at lead time {lead:g}, no multiple of the model's step of {dt:g}")
    return step


def _latent(ds: xr.Dataset, row: str, step: int, weights: str) -> Tensor | None:
    """The latent state of a forecast, if it is of its last lead and of these weights; says so where it is not."""
    if not {"latent", "member"} <= set(ds.coords):
        reason = "the data have no latent state"
    elif ds["latent"].attrs.get("step") != step:
        reason = f"the latent state is of step {ds['latent'].attrs.get('step')}, the last lead of step {step}"
    elif ds["latent"].attrs.get("weights") != weights:
        reason = "the latent state is of other weights"
    else:
        return torch.from_numpy(_rows(ds["latent"], row).values.astype(np.float32))
    LOGGER.warning(
        "%s: continuing from the fields, which agrees with an uninterrupted forecast within the error of the codec, not to "
        "the bit",
        reason,
    )
    return None


def _rows(da: xr.DataArray, row: str) -> xr.DataArray:
    """With the leading dims (row, member), also where a selection has dropped them."""
    bare = da.reset_coords(drop=True)
    return bare.expand_dims([d for d in (row, "member") if d not in bare.dims]).transpose(row, "member", ...)
