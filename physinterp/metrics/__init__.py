"""Scores of forecasts, by name.

`METRICS[name](forecast, truth, weights=None)` reduces space only: (..., C, *S) -> (..., C). Scores of
ensembles take the members first, (M, ..., C, *S); band scores append an axis `band`. `definitions()` says in
one sentence each what a number is.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from physinterp.metrics.bootstrap import block_bootstrap, mean, paired_bootstrap, ratio_of_sqrt_means
from physinterp.metrics.deterministic import bias, mae, nrmse, pearson, rmse, vrmse, vrmse_pooled
from physinterp.metrics.ensemble import (
    crps,
    ensemble_mean_mse,
    ensemble_variance,
    rank_histogram,
    spread_skill,
)
from physinterp.metrics.spectral import (
    BANDS,
    Spectrum,
    log_spectral_distance,
    power_spectrum,
    spectral_scores,
    srmse,
    srmse_pred,
)

VERSION = "1"  # raised whenever a number of METRICS changes

METRICS: dict[str, Callable[..., Tensor]] = {
    "rmse": rmse,
    "nrmse": nrmse,
    "vrmse": vrmse,
    "vrmse_pooled": vrmse_pooled,
    "mae": mae,
    "bias": bias,
    "pearson": pearson,
    "srmse": srmse,
    "log_spectral_distance": log_spectral_distance,
    "srmse_pred": srmse_pred,
    "crps": crps,
    "ensemble_variance": ensemble_variance,
    "ensemble_mean_mse": ensemble_mean_mse,
    "spread_skill": spread_skill,
    "rank_histogram": rank_histogram,
}

_DEFINITIONS = {
    "rmse": "sqrt of the weighted spatial mean of (forecast - truth)^2, per sample, time and field.",
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
    "bias": "weighted spatial mean of forecast - truth, per sample, time and field.",
    "pearson": (
        "correlation of forecast and truth over space with both weighted means removed, per sample, time and field."
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
    "srmse_pred": (
        "physics-SI paper: sqrt of the mean over bins of (1 - (P_truth + 1e-6)/(P_forecast + 1e-6))^2, P "
        "averaged over samples first, bins and bands in cycles per pixel with closed edges, total: the "
        "corner modes alone (k >= 0.5), mean over fields, unweighted."
    ),
    "crps": (
        "fair CRPS: weighted spatial mean of mean |member - truth| minus half the mean absolute "
        "difference of distinct members (1/(M(M-1))), per sample, time and field; one member: MAE."
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
}


def definitions() -> dict[str, str]:
    """One sentence per name of METRICS: what the number is with default arguments. Write it beside it."""
    return dict(_DEFINITIONS)


__all__ = [
    "BANDS",
    "METRICS",
    "VERSION",
    "Spectrum",
    "bias",
    "block_bootstrap",
    "crps",
    "definitions",
    "ensemble_mean_mse",
    "ensemble_variance",
    "log_spectral_distance",
    "mae",
    "mean",
    "nrmse",
    "paired_bootstrap",
    "pearson",
    "power_spectrum",
    "rank_histogram",
    "ratio_of_sqrt_means",
    "rmse",
    "spectral_scores",
    "spread_skill",
    "srmse",
    "srmse_pred",
    "vrmse",
    "vrmse_pooled",
]
