"""Samplers by name."""

from __future__ import annotations

from physinterp.samplers.base import Sampler
from physinterp.samplers.bridge import DriftEuler, EulerMaruyama
from physinterp.samplers.diffusion import Ancestral, EDMHeun

SAMPLERS: dict[str, type[Sampler]] = {
    "si-e": DriftEuler,
    "si-em": EulerMaruyama,
    "ddpm": Ancestral,
    "edm": EDMHeun,
}

__all__ = ["SAMPLERS", "Ancestral", "DriftEuler", "EDMHeun", "EulerMaruyama", "Sampler"]
