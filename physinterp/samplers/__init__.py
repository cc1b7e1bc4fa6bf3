"""Samplers by name."""

from __future__ import annotations

from physinterp.samplers.base import Sampler
from physinterp.samplers.bridge import (
    BrownianBridge,
    CalibratedBridge,
    DriftEuler,
    EulerMaruyama,
    FlowHeun,
    FlowMidpoint,
    FlowRK4,
    Foellmer,
)
from physinterp.samplers.diffusion import (
    DDIM,
    Ancestral,
    EDMEuler,
    EDMHeun,
    FlowMatchingEuler,
    FlowMatchingHeun,
    FlowMatchingMidpoint,
    TruncatedAncestral,
)

SAMPLERS: dict[str, type[Sampler]] = {
    "si-e": DriftEuler,
    "si-em": EulerMaruyama,
    "si-foellmer": Foellmer,
    "si-pf": FlowMidpoint,
    "si-pf-heun": FlowHeun,
    "si-pf-rk4": FlowRK4,
    "si-bridge": BrownianBridge,
    "si-cal": CalibratedBridge,
    "ddpm": Ancestral,
    "ddim": DDIM,
    "tsm": TruncatedAncestral,
    "edm": EDMHeun,
    "edm-euler": EDMEuler,
    "fm": FlowMatchingMidpoint,
    "fm-euler": FlowMatchingEuler,
    "fm-heun": FlowMatchingHeun,
}

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "BrownianBridge",
    "CalibratedBridge",
    "DriftEuler",
    "EDMEuler",
    "EDMHeun",
    "EulerMaruyama",
    "FlowHeun",
    "FlowMatchingEuler",
    "FlowMatchingHeun",
    "FlowMatchingMidpoint",
    "FlowMidpoint",
    "FlowRK4",
    "Foellmer",
    "Sampler",
    "TruncatedAncestral",
]
