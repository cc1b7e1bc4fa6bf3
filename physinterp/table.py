"""Rows of the result file: evaluations become numbers with intervals and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from physinterp import metrics
from physinterp.errors import InputError

DIMENSIONLESS = ("vrmse_member", "vrmse_mean", "vrmse_unweighted", "srmse", "log_spectral_distance")
BUDGET = ("mse_member", "mse_one_step", "mse_floor")
PHYSICAL = {  # power of the field's unit
    **dict.fromkeys(("crps", "mae", "rmse", "linf", "bias", "energy_score"), 1),
    **dict.fromkeys(("variance", "mse_of_mean", "mse_of_mean_codec", *BUDGET), 2),
}
MEAN = "mean"
CODEC = "codec/"  # a codec alone is the row `codec/NAME`
VERSION = 3  # raised when a score or a forecast of the same weights changes

DEFINITIONS = {
    "vrmse_member": "vrmse of each member, averaged over the members",
    "vrmse_mean": "vrmse of the ensemble mean",
    "vrmse_unweighted": "vrmse_member without quadrature weights, comparable with The Well's number",
    "mse_member": "weighted spatial mean of (member - truth)^2, averaged over the members",
    "mse_one_step": "the same of one step of one member from the true state one step before",
    "mse_floor": "the same of the truth encoded and decoded; 0 where there is no codec",
    "spread_skill_codec": "spread_skill with the error against the encoded and decoded truth, for rows with a codec",
    "spectra": "srmse and log_spectral_distance along a single axis leave out the Nyquist shell, which spectral solvers "
    "keep empty",
    "intervals": "95 %, bootstrap over trajectories; the members of all initial conditions share their noise, whose part in "
    "the variance is left out",
    "evaluations": "network evaluations per physical step of one member",
    "seconds_per_step": "median over leads of the wall time of one step of all cases and members, over their number; "
    "without reading, scoring and writing",
    MEAN: "as a field: the mean of the headline fields per initial condition; crps, mae, mse and the parts of spread_skill "
    "are first divided by the field's standard deviation over the training split, so they have no unit",
}


def with_mean(ds: xr.Dataset, headline: Sequence[str]) -> xr.Dataset:
    """The dataset with the field `mean` of the headline fields added; see DEFINITIONS."""
    chosen = ds.sel(field=list(headline))
    scaled = {k: chosen[k] / chosen["std"] ** power for k, power in PHYSICAL.items() if k in ds}
    average = chosen.assign(scaled).drop_vars("std").mean("field").assign_coords(field=MEAN)
    return xr.concat([ds.drop_vars("std"), average], "field", data_vars="all")


def rows(method: str, ds: xr.Dataset, headline: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the result file: value, 95 % interval over trajectories, count and what they were computed with, per field,
    lead and score; see `STATED`."""
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
                key = {"method": method, "field": str(field), "lead": round(float(lead), 9), "score": name}
                weights = "none" if name == "vrmse_unweighted" else "quadrature"
                stated = {"version": metrics.VERSION, "grid": ds.attrs["grid"], "weights": weights, "eps": 0.0}
                table.append(key | numbers | {"count": len(values)} | stated)

    for name in (*DIMENSIONLESS, "crps", "mae", *(n for n in (*BUDGET, *metrics.FURTHER) if n in ds)):
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


STATED = ("version", "grid", "weights", "eps", "count")  # what must agree before values stand in one table


def join(*tables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of several tables as one.

    Raises:
        InputError: rows of one score, field and lead were computed in different ways; the message names them.
    """
    whole = [row for table in tables for row in table]
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in whole:
        other = first.setdefault((row["score"], row["field"], row["lead"]), row)
        for name in STATED:
            if row[name] != other[name]:
                raise InputError(
                    f"{row['score']} of {row['method']} and {other['method']} do not compare: {name} is {row[name]} and "
                    f"{other[name]}; score both anew on the same cases with the same version"
                )
    return whole


def to_xarray(table: Sequence[Mapping[str, Any]], evaluations: Mapping[str, int] | None = None) -> xr.Dataset:
    """Rows as arrays, for the plots.

    Arguments:
        table: of `rows` or `join`.
        evaluations: of the network per physical step, by method; 0 where it is not said.
    Returns:
        `value`, `low`, `high` and `count`, dims (row, field, lead_time, score), NaN where something is lost or absent; the
        coordinate `evaluations` on `row`.
    """
    frame = pd.DataFrame(list(table)).rename(columns={"method": "row", "lead": "lead_time"})
    axes = ["row", "field", "lead_time", "score"]
    found = xr.Dataset.from_dataframe(frame.set_index(axes)[["value", "low", "high", "count"]].astype(float))
    found = found.where(np.isfinite(found))
    order = {axis: list(dict.fromkeys(frame[axis])) for axis in axes}
    return found.sel(order).assign_coords(evaluations=("row", [(evaluations or {}).get(m, 0) for m in order["row"]]))


def ratio(a: xr.DataArray, b: xr.DataArray) -> dict[str, float]:
    """Mean of a over mean of b on the same cases (dim `case`), with its paired 95 % interval."""
    statistic = metrics.bootstrap.OfMean(lambda m: m[..., 0] / m[..., 1])
    both = np.stack([a.values, b.values], axis=-1)
    low, high = metrics.block_bootstrap(both, statistic, a["trajectory"].values)
    return {"value": float(statistic(both)), "low": float(low), "high": float(high)}


def difference(a: xr.DataArray, b: xr.DataArray) -> dict[str, float]:
    """Mean of a minus mean of b on the same cases (dim `case`), with its paired 95 % interval."""
    with np.errstate(invalid="ignore"):  # lost forecasts score infinity
        low, high = metrics.paired_bootstrap(a.values, b.values, blocks=a["trajectory"].values)
        return {"value": float(a.mean() - b.mean()), "low": float(low), "high": float(high)}
