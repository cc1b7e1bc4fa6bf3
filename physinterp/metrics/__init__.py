"""Scores of forecasts, by name.

`METRICS[name](forecast, truth, weights=None)` reduces space only: (..., C, *S) -> (..., C). Scores of
ensembles take the members first, (M, ..., C, *S); band scores append an axis `band`; `correlation_time` and
`reliability` return a few such tensors with names. `DIAGNOSTICS[name](fields, grid, ...)` are physical
quantities of one state or rollout. `definitions()` says in one sentence each what a number is. Spectra are
`power_spectrum`, `zonal_spectrum` and `harmonic_spectrum`; intervals are `block_bootstrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics.bootstrap import block_bootstrap, mean, paired_bootstrap, ratio_of_sqrt_means
from physinterp.metrics.compat import binned_spectral_mse, pearson_well, srmse_pred, vrmse_pooled
from physinterp.metrics.deterministic import (
    CorrelationTime,
    acc,
    bias,
    correlation_time,
    linf,
    mae,
    nmae,
    nrmse,
    pearson,
    rmse,
    vrmse,
)
from physinterp.metrics.ensemble import (
    Reliability,
    crps,
    energy_score,
    ensemble_mean_mse,
    ensemble_variance,
    rank_histogram,
    reliability,
    spread_skill,
)
from physinterp.metrics.invariant import Distributions, invariant_statistics, wasserstein2
from physinterp.metrics.physical import (
    Nusselt,
    convection_budget,
    derivative,
    divergence,
    enstrophy,
    kinetic_energy,
    kolmogorov_budget,
    nusselt,
    velocity_of,
    vorticity_of,
    wall_error,
)
from physinterp.metrics.spectral import (
    BANDS,
    Spectrum,
    coherence,
    log_spectral_distance,
    power_spectrum,
    spectral_scores,
    srmse,
)
from physinterp.metrics.weather import ZonalSpectrum, harmonic_spectrum, latitude_weights, rmse_over_time, zonal_spectrum
from physinterp.system import near

VERSION = "1"  # raised whenever a number of METRICS changes

METRICS: dict[str, Callable[..., Tensor | CorrelationTime | Reliability]] = {
    "rmse": rmse,
    "rmse_over_time": rmse_over_time,
    "nrmse": nrmse,
    "vrmse": vrmse,
    "vrmse_pooled": vrmse_pooled,
    "mae": mae,
    "nmae": nmae,
    "linf": linf,
    "bias": bias,
    "pearson": pearson,
    "pearson_well": pearson_well,
    "acc": acc,
    "correlation_time": correlation_time,
    "srmse": srmse,
    "log_spectral_distance": log_spectral_distance,
    "coherence": coherence,
    "srmse_pred": srmse_pred,
    "binned_spectral_mse": binned_spectral_mse,
    "crps": crps,
    "energy_score": energy_score,
    "ensemble_variance": ensemble_variance,
    "ensemble_mean_mse": ensemble_mean_mse,
    "spread_skill": spread_skill,
    "rank_histogram": rank_histogram,
    "reliability": reliability,
    "wasserstein2": wasserstein2,
}

# of one number per case and field, which a table of scores has on request
HIGHER = ("pearson", "coherence")  # of these, where higher is better
FURTHER = ("rmse", "nrmse", "nmae", "linf", "bias", "pearson", "coherence", "energy_score")

DIAGNOSTICS: dict[str, Callable[..., Tensor | Nusselt]] = {
    "kinetic_energy": kinetic_energy,
    "enstrophy": enstrophy,
    "divergence": divergence,
    "wall_error": wall_error,
    "nusselt": nusselt,
    "convection_budget": convection_budget,
    "kolmogorov_budget": kolmogorov_budget,
}

_DEFINITIONS = {
    "rmse": "sqrt of the weighted spatial mean of (forecast - truth)^2, per sample, time and field.",
    "rmse_over_time": (
        "sqrt of the mean over one leading axis (time) and of the weighted spatial mean of (forecast - truth)^2, per field."
    ),
    "nrmse": ("sqrt of the weighted spatial mean of (forecast - truth)^2 over that of truth^2, per sample, time and field."),
    "vrmse": (
        "sqrt of the weighted spatial mean of (forecast - truth)^2 over the unbiased (N-1) spatial "
        "variance of the truth, per sample, time and field; eps 0."
    ),
    "vrmse_pooled": (
        "physics-SI paper: sqrt of mean (forecast - truth)^2 over unbiased variance of the truth + 1e-6, "
        "both over samples, fields and points together, unweighted."
    ),
    "mae": "weighted spatial mean of |forecast - truth|, per sample, time and field.",
    "nmae": "weighted spatial mean of |forecast - truth| over that of |truth|, per sample, time and field.",
    "linf": "largest |forecast - truth| in space, per sample, time and field.",
    "bias": "weighted spatial mean of forecast - truth, per sample, time and field.",
    "pearson": (
        "correlation of forecast and truth over space with both weighted means removed, per sample, time and field."
    ),
    "pearson_well": (
        "The Well: spatial mean of the product of both anomalies over the product of their unbiased (N-1) "
        "standard deviations + 1e-7, unweighted, per sample, time and field."
    ),
    "acc": (
        "weighted spatial mean of the product of the departures of forecast and truth from a given climatology over "
        "the root of the product of their mean squares, uncentred, per sample, time and field."
    ),
    "correlation_time": (
        "time at which pearson first falls below 0.8, linear between steps, in units of dt = 1, per sample and field, "
        "with a flag where it never does; a forecast that is not finite has correlation 0."
    ),
    "srmse": (
        "sqrt of the mean over wavenumber shells of (1 - p_forecast/p_truth)^2, p the mean power per mode "
        "plus 1e-12 of the truth's mean power per mode, per sample, time and field; low, mid, high: "
        "log-spaced and half-open between the first and the Nyquist wavenumber; total: all shells from "
        "the first, corners included."
    ),
    "log_spectral_distance": (
        "sqrt of the mean over wavenumber shells of log10(p_forecast/p_truth)^2, in decades, with the "
        "power, shells and bands of srmse."
    ),
    "coherence": (
        "mean over wavenumber shells of c/sqrt(p_forecast p_truth), c the mean per mode of |F_forecast F_truth| (phases "
        "do not count), each plus 1e-12 of the truth's mean power per mode, with the power, shells and bands of srmse."
    ),
    "srmse_pred": (
        "physics-SI paper: sqrt of the mean over bins of (1 - (P_truth + 1e-6)/(P_forecast + 1e-6))^2, P "
        "averaged over samples first, bins and bands in cycles per pixel with closed edges, total: the "
        "corner modes alone (k >= 0.5), mean over fields, unweighted."
    ),
    "binned_spectral_mse": (
        "The Well: sum of |F_forecast - F_truth|^2 over the modes of three bands, log-spaced from 2 pi / max(n) to "
        "pi sqrt(d) radians per pixel, the first from 0, unweighted, per sample, time and field."
    ),
    "crps": (
        "fair CRPS: weighted spatial mean of mean |member - truth| minus half the mean absolute "
        "difference of distinct members (1/(M(M-1))), per sample, time and field; one member: MAE."
    ),
    "energy_score": (
        "fair energy score: mean over members of the root of the weighted spatial mean of (member - truth)^2 minus half "
        "the mean of the same distance between distinct members (1/(M(M-1))), per sample, time and field; one member: RMSE."
    ),
    "ensemble_variance": (
        "weighted spatial mean of the unbiased (M-1) variance of the members, per sample, time and field."
    ),
    "ensemble_mean_mse": "weighted spatial mean of (ensemble mean - truth)^2, per sample, time and field.",
    "spread_skill": (
        "sqrt((M+1)/M) times sqrt of mean ensemble variance (M-1) over sqrt of mean squared error of the "
        "ensemble mean, both means over space and all leading axes, per field."
    ),
    "rank_histogram": (
        "weighted spatial frequency of each rank 0 ... M of the truth among the members, ties shared "
        "equally, per sample, time and field."
    ),
    "reliability": (
        "frequency of truth > threshold among the points where the share of members above it lies in each of 10 equal "
        "bins of probability, weighted over space and all leading axes together, per field."
    ),
    "wasserstein2": (
        "sqrt of the integral over probability of the squared difference of the quantile functions of forecast and "
        "truth, weighted points and all leading axes together, per field."
    ),
    "kinetic_energy": "half the weighted spatial mean of the squared velocity.",
    "enstrophy": "half the weighted spatial mean of the squared vorticity.",
    "divergence": (
        "root of the weighted spatial mean of the squared divergence over that of the squared velocity gradient, spectral "
        "derivatives."
    ),
    "wall_error": (
        "root mean square over each wall of the difference of the field's polynomial there and the wall value, per field."
    ),
    "nusselt": (
        "1 + weighted spatial mean of vertical velocity times buoyancy over kappa = (Ra Pr)^(-1/2), and minus the mean "
        "buoyancy gradient at the lower and at the upper wall."
    ),
    "convection_budget": (
        "rate of change of the kinetic energy minus buoyancy production plus dissipation, mean over two frames by Simpson's "
        "rule."
    ),
    "kolmogorov_budget": (
        "rate of change of the kinetic energy minus the work of the force plus viscous dissipation and drag, mean over two "
        "frames by Simpson's rule."
    ),
}


def metric(name: str) -> Callable[..., Tensor | CorrelationTime | Reliability]:
    """The score of a name.

    Raises:
        InputError: no such score; the message names the near ones.
    """
    if name not in METRICS:
        raise InputError(f"no metric {name!r}: {near(name, METRICS)}")
    return METRICS[name]


def further(
    names: Sequence[str],
    members: Tensor,
    truth: Tensor,
    weights: Tensor,
    axes: Sequence[int],
    spacing: Sequence[float],
) -> dict[str, Tensor]:
    """Scores of FURTHER per case and field; those of a single forecast are means over the members.

    Arguments:
        names: of the scores.
        members: (M, N, C, *S), physical units.
        truth: (N, C, *S).
        weights, axes, spacing: of the grid, as in `coherence`.
    Raises:
        InputError: no such score, or one of another form.
    """
    found = {}
    for name in names:
        f, each = metric(name), truth.expand_as(members)
        if name not in FURTHER:
            raise InputError(f"the score {name!r} has no place in a table: {near(name, FURTHER)}; call METRICS[{name!r}]")
        if name == "energy_score":
            found[name] = energy_score(members, truth, weights)
        elif name == "coherence":
            if not axes:
                raise InputError("coherence needs a periodic axis, and this grid has none; leave it out")
            found[name] = coherence(members, each, weights, axes=axes, spacing=spacing).mean(0)
        else:
            found[name] = cast(Tensor, f(members, each, weights)).mean(0)
    return found


def definitions() -> dict[str, str]:
    """One sentence per name of METRICS and DIAGNOSTICS: the number with default arguments. Write it beside it."""
    return dict(_DEFINITIONS)


__all__ = [
    "BANDS",
    "DIAGNOSTICS",
    "FURTHER",
    "HIGHER",
    "METRICS",
    "VERSION",
    "CorrelationTime",
    "Distributions",
    "Nusselt",
    "Reliability",
    "Spectrum",
    "ZonalSpectrum",
    "acc",
    "bias",
    "binned_spectral_mse",
    "block_bootstrap",
    "coherence",
    "convection_budget",
    "correlation_time",
    "crps",
    "definitions",
    "derivative",
    "divergence",
    "energy_score",
    "ensemble_mean_mse",
    "ensemble_variance",
    "enstrophy",
    "further",
    "harmonic_spectrum",
    "invariant_statistics",
    "kinetic_energy",
    "kolmogorov_budget",
    "latitude_weights",
    "linf",
    "log_spectral_distance",
    "mae",
    "mean",
    "metric",
    "nmae",
    "nrmse",
    "nusselt",
    "paired_bootstrap",
    "pearson",
    "pearson_well",
    "power_spectrum",
    "rank_histogram",
    "ratio_of_sqrt_means",
    "reliability",
    "rmse",
    "rmse_over_time",
    "spectral_scores",
    "spread_skill",
    "srmse",
    "srmse_pred",
    "velocity_of",
    "vorticity_of",
    "vrmse",
    "vrmse_pooled",
    "wall_error",
    "wasserstein2",
    "zonal_spectrum",
]
