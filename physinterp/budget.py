"""The error budget: what the codec loses, what one step adds, what feedback adds.

A member's squared error e is split by two forecasts that are easier than its own: one step from the true previous state
(o), and the truth through the codec alone (f). With each clipped to the error that contains it,

    codec = min(f, e),   one step = min(max(o, f), e) - codec,   feedback = e - codec - one step

so that no part is negative and the parts add up to e.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

PARTS = ("codec", "one step", "feedback")


def of_leads(scores: xr.Dataset) -> xr.DataArray | None:
    """Mean squared error over the field's variance over the training split, by part.

    Arguments:
        scores: evaluation of a method (`physinterp.evaluate.evaluate`).
    Returns:
        Dims (lead_time, field, part), dimensionless, NaN where a forecast is lost; None where the evaluation has no budget.
    """
    if "mse_member" not in scores:
        return None
    errors = (scores[f"mse_{name}"].mean("case") for name in ("member", "one_step", "floor"))
    return _parts(*errors) / scores["std"] ** 2


def of_wavenumbers(scores: xr.Dataset) -> xr.DataArray | None:
    """Power of the error over the power of the truth, by part.

    Arguments:
        scores: evaluation of a method.
    Returns:
        Dims (lead_time, field, k, part), 2 where forecast and truth are unrelated and alike in power; None where the
        evaluation has no budget.
    """
    if "error_spectrum_member" not in scores:
        return None
    errors = (scores[f"error_spectrum_{name}"] for name in ("member", "one_step", "floor"))
    return _parts(*errors) / scores["spectrum_truth"]


def _parts(total: xr.DataArray, one_step: xr.DataArray, floor: xr.DataArray) -> xr.DataArray:
    total = total.where(np.isfinite(total))
    codec = floor.where(floor < total, total)
    at_least = one_step.where(one_step > floor, floor)
    first = at_least.where(at_least < total, total)
    parts = xr.Dataset(dict(zip(PARTS, (codec, first - codec, total - first), strict=True)))
    return parts.to_dataarray("part").transpose(..., "part")
