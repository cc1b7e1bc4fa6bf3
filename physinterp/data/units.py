"""Units as files write them."""

from __future__ import annotations

import re

from physinterp.errors import InputError
from physinterp.system import Field, System


def same_units(one: str, other: str) -> bool:
    """Whether two units are the same, however written: m**2 s**-2, m2 s-2, m^2/s^2."""
    return _powers(one) == _powers(other)


def check_units(found: str, field: Field, what: str, system: System) -> None:
    """Refuse a variable in other units than those of its field, where both are known; `what` names it and its file."""
    if found and field.units and not same_units(found, field.units):
        raise InputError(
            f"{what} is in {found!r}, the card of {system.name} has {field.name!r} in {field.units!r}; convert the file, or "
            "change the units in a copy of the card"
        )


def _powers(units: str) -> dict[str, int]:
    powers: dict[str, int] = {}
    sign = 1
    for slash, symbol, power in re.findall(r"(/)|([A-Za-z%]+)(?:\*\*|\^)?([+-]?\d+)?", units):
        if slash:
            sign = -1
        else:
            name = {"kelvin": "K", "pascal": "Pa", "dimensionless": ""}.get(symbol, symbol)
            powers[name] = powers.get(name, 0) + sign * int(power or 1)
    return {name: power for name, power in powers.items() if name and power}
