"""Emulation of physical systems with stochastic interpolants."""

__version__ = "0.1.0"
