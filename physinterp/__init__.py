"""Emulation of physical systems with stochastic interpolants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physinterp.data import open_dataset
    from physinterp.emulator import Emulator
    from physinterp.forecast import load

__version__ = "0.1.0"
__all__ = ["Emulator", "load", "open_dataset"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the command line answers without loading torch."""
    if name == "Emulator":
        from physinterp.emulator import Emulator

        return Emulator
    if name == "load":
        from physinterp.forecast import load

        return load
    if name == "open_dataset":
        from physinterp.data import open_dataset

        return open_dataset
    raise AttributeError(f"module 'physinterp' has no attribute {name!r}")
