r"""Mean, spread and one-step change of each field, from the training split alone, in one lazy pass.

    mean = <u>,   std^2 = <u^2> - <u>^2,   delta = u(t + stride) - u(t),   rms^2 = <u^2>

<.> is the plain mean over samples, times and points (no quadrature weights, as in The Well), accumulated in
float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
import yaml

from physinterp.errors import InputError
from physinterp.system import System, near

KEYS = ("mean", "std", "rms", "mean_delta", "std_delta", "rms_delta")
FLOOR = 1e-6


@dataclass(frozen=True)
class Statistics:
    """What `FieldStack` normalises with; one value per field, in physical units.

    Attributes:
        names: fields, in the order of the values.
        mean: mean of the field.
        std: standard deviation, at least 1e-6 of the rms; 1 for a field that is zero everywhere.
        delta_std: standard deviation of the change over one step of the emulator, at least 1e-6 of `std`.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    delta_std: tuple[float, ...]

    def select(self, names: Sequence[str]) -> Statistics:
        """The statistics of some fields, in their order."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise InputError(f"no statistics of field {missing[0]!r}: {near(missing[0], self.names)}")
        rows = [self.names.index(name) for name in names]
        mean, std, delta = (tuple(values[i] for i in rows) for values in (self.mean, self.std, self.delta_std))
        return Statistics(tuple(names), mean, std, delta)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {key: list(values) for key, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Statistics:
        """Inverse of `to_dict`."""
        return cls(
            tuple(map(str, values["names"])),
            *(tuple(map(float, values[key])) for key in ("mean", "std", "delta_std")),
        )


def statistics(ds: xr.Dataset, names: Sequence[str], stride: int = 1) -> Statistics:
    """Statistics of a training split, floored for constant fields.

    Arguments:
        ds: dims (sample, time, *space), physical units; give the training split and nothing else.
        names: fields.
        stride: frames per step of the emulator.
    """
    values = moments(ds, names, stride)
    std = [values[name]["std"] for name in names]
    floor = [FLOOR * values[name]["rms"] if values[name]["rms"] > 0 else 1.0 for name in names]
    std = [max(s, f) for s, f in zip(std, floor, strict=True)]
    delta = [max(values[name]["std_delta"], FLOOR * s) for name, s in zip(names, std, strict=True)]
    return Statistics(tuple(names), tuple(values[name]["mean"] for name in names), tuple(std), tuple(delta))


def moments(ds: xr.Dataset, names: Sequence[str], stride: int = 1) -> dict[str, dict[str, float]]:
    """The six numbers of The Well's `stats.yaml` per field, without a floor.

    Chunked (dask) data are read once, chunk by chunk.

    Raises:
        InputError: a field is missing, there are no more than `stride` frames, or values are not finite.
    """
    missing = [name for name in names if name not in ds]
    if missing:
        raise InputError(f"no field {missing[0]!r} in the data: {near(missing[0], map(str, ds.data_vars))}")
    if ds.sizes.get("time", 0) <= stride:
        raise InputError(f"{ds.sizes.get('time', 0)} frames are too few for stride {stride}; need at least {stride + 1}")
    sums = {}
    for name in names:
        u = ds[name].astype(np.float64)
        later, earlier = u.isel(time=slice(stride, None)), u.isel(time=slice(None, -stride))
        d = later.drop_vars("time", errors="ignore") - earlier.drop_vars("time", errors="ignore")
        sums[name] = [f.mean(skipna=False).data for f in (u, u**2, d, d**2)]
    results = {}
    for name, values in dask.compute(sums)[0].items():
        mean, square, mean_delta, square_delta = map(float, values)
        if not np.isfinite([mean, square]).all():
            raise InputError(not_finite(ds[name]))
        std = [max(second - first**2, 0.0) ** 0.5 for first, second in ((mean, square), (mean_delta, square_delta))]
        row = (mean, std[0], square**0.5, mean_delta, std[1], square_delta**0.5)
        results[name] = dict(zip(KEYS, row, strict=True))
    return results


def not_finite(da: xr.DataArray) -> str:
    """Where a field has its first value that is not finite, as a message."""
    for sample in range(da.sizes.get("sample", 1)):
        block = da.isel(sample=sample) if "sample" in da.dims else da
        bad = np.argwhere(~np.isfinite(np.asarray(block.values)))
        if len(bad):
            index = dict(zip(map(str, block.dims), bad[0].tolist(), strict=True))
            where = ", ".join(f"{key} index {value}" for key, value in index.items())
            return (
                f"field {da.name!r} has {len(bad)} values that are not finite in sample {sample}, first at "
                f"{where}; leave this sample out or fill the gaps before training"
            )
    return f"the moments of field {da.name!r} overflow; rescale its units"


def write_stats(path: str | Path, ds: xr.Dataset, system: System, comment: str = "") -> None:
    """Write a `stats.yaml` with The Well's keys; components `name_x, name_y` become a list under `name`."""
    values = moments(ds, system.field_names)
    tables: dict[str, dict[str, Any]] = {key: {} for key in KEYS}
    vectors = vector_fields(system.field_names, system.grid.names)
    for key in KEYS:
        for name, components in vectors.items():
            numbers = [float(f"{values[c][key]:.6g}") for c in components]
            tables[key][name] = numbers[0] if components == (name,) else numbers
    header = "".join(f"# {line}\n" for line in comment.splitlines())
    Path(path).write_text(header + yaml.safe_dump(tables, sort_keys=True), encoding="utf-8")


def vector_fields(names: Sequence[str], axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group components: a name with one component per axis is a vector, any other name a scalar.

    `("b", "velocity_x", "velocity_y")` on axes x, y gives `{"b": ("b",), "velocity": ("velocity_x",
    "velocity_y")}`.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        stem, _, axis = name.rpartition("_")
        components = tuple(f"{stem}_{a}" for a in axes)
        if stem and axis in axes and all(c in names for c in components):
            groups[stem] = components
        else:
            groups[name] = (name,)
    return groups
