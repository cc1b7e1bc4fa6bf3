r"""Mean, spread and one-step change of each field, from the training split alone, in one lazy pass.

    mean = <u>,   std^2 = <(u - mean)^2>,   delta = u(t + stride) - u(t),   rms^2 = <u^2>

<.> is the plain mean over samples, times and points (no quadrature weights, as in The Well), accumulated in
float64: per chunk the mean and the sum of squared deviations, and these merged in the order of the chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
import yaml

from physinterp.checkpoint import fingerprint, replacing
from physinterp.data.parts import FRAMES
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

    Chunked (dask) data are read once, chunk by chunk, on whatever scheduler dask has been told to use; the numbers depend
    on the chunks alone, to the last bit, and not on threads or workers.

    Raises:
        InputError: a field is missing, there are no more than `stride` frames, or values are not finite.
    """
    return _summary(ds, names, stride)[0]


def not_finite(ds: xr.Dataset, name: str) -> str:
    """Where a field has its first value that is not finite, as a message with the path of the data."""
    da, path = ds[name], f"{ds.attrs['path']}: " if "path" in ds.attrs else ""
    for sample in range(da.sizes.get("sample", 1)):
        block = da.isel(sample=sample) if "sample" in da.dims else da
        count, first = 0, None
        for start in range(0, block.sizes.get("time", 1), FRAMES):
            frames = block.isel(time=slice(start, start + FRAMES)) if "time" in block.dims else block
            bad = np.argwhere(~np.isfinite(np.asarray(frames.values)))
            count += len(bad)
            if first is None and len(bad):
                first = dict(zip(map(str, block.dims), bad[0].tolist(), strict=True))
                first |= {"time": first["time"] + start} if "time" in first else {}
        if first is not None:
            where = ", ".join(f"{key} index {value}" for key, value in first.items())
            coords = {n: c.values[()] for n, c in block.isel(first).coords.items()}
            for key, label in (("time", "t"), ("init_time", "init_time"), ("lead_time", "lead_time")):
                if (value := coords.get(key)) is not None:
                    where += f" ({label} = {f'{value:.6g}' if isinstance(value, float) else value})"
            if "trajectory" in coords:
                where += f", of trajectory {coords['trajectory']}"
            said = f" in sample {sample}" if "sample" in da.dims else ""
            return (
                f"{path}field {name!r} has {count} values that are not finite{said}, first at {where}; leave this sample "
                "out or fill the gaps"
            )
    return f"{path}the moments of field {name!r} overflow; rescale its units"


def write_stats(path: str | Path, ds: xr.Dataset, system: System, comment: str = "", stride: int = 1) -> None:
    """Write a `stats.yaml` with The Well's keys; components `name_x, name_y` become a list under `name`.

    A further key, `source`, says from what: the hash of all values and coordinates, trajectories, frames and stride.
    """
    values, digest = _summary(ds, system.field_names, stride)
    tables: dict[str, dict[str, Any]] = {key: {} for key in KEYS}
    vectors = vector_fields(system.field_names, system.grid.names)
    for key in KEYS:
        for name, components in vectors.items():
            numbers = [float(f"{values[c][key]:.6g}") for c in components]
            tables[key][name] = numbers[0] if components == (name,) else numbers
    tables["source"] = {
        "hash": digest,
        "system": system.name,
        "split": str(ds.attrs.get("split", "train")),
        "trajectories": ds.sizes.get("sample", 1),
        "frames": ds.sizes["time"],
        "stride": stride,
    }
    header = "".join(f"# {line}\n" for line in comment.splitlines())
    with replacing(Path(path)) as part:
        part.write_text(header + yaml.safe_dump(tables, sort_keys=True), encoding="utf-8")


def _summary(ds: xr.Dataset, names: Sequence[str], stride: int) -> tuple[dict[str, dict[str, float]], str]:
    """The moments, and the hash of the values and coordinates that they were computed from."""
    missing = [name for name in names if name not in ds]
    if missing:
        raise InputError(f"no field {missing[0]!r} in the data: {near(missing[0], map(str, ds.data_vars))}")
    if stride < 1 or ds.sizes.get("time", 0) <= stride:
        raise InputError(f"{ds.sizes.get('time', 0)} frames are too few for stride {stride}; need at least {stride + 1}")
    rows = {}
    for name in names:
        da = ds[name]
        u = dask.array.asarray(da.data)
        both = (dask.array.asarray(da.isel(time=s).data) for s in (slice(stride, None), slice(None, -stride)))
        axes = tuple(range(u.ndim))
        _, (later, earlier) = dask.array.core.unify_chunks(*(part for x in both for part in (x, axes)))
        rows[name] = _rows(u), _rows(later, earlier)
    results, blocks = {}, {}
    for name, (of_field, of_change) in dask.compute(rows)[0].items():
        (mean, variance), (mean_delta, variance_delta) = _merged(of_field), _merged(of_change)
        if not np.isfinite([mean, variance]).all():
            raise InputError(not_finite(ds, name))
        std, std_delta = variance**0.5, variance_delta**0.5
        row = (mean, std, float(np.hypot(mean, std)), mean_delta, std_delta, float(np.hypot(mean_delta, std_delta)))
        results[name] = dict(zip(KEYS, row, strict=True))
        blocks[name] = of_field[..., 3].ravel().tolist()
    coords = {str(name): np.asarray(c.values).astype(str).tolist() for name, c in sorted(ds.coords.items(), key=str)}
    return results, fingerprint({"blocks": blocks, "coords": coords, "stride": stride})


def _rows(u: dask.array.Array, *minus: dask.array.Array) -> dask.array.Array:
    """Per chunk: count, mean, sum of squared deviations, digest of the bytes; shape (*chunks, 4)."""
    chunks = (*((1,) * n for n in u.numblocks), (4,))
    empty = np.empty((0,) * (u.ndim + 1))
    return dask.array.map_blocks(_row, u, *minus, new_axis=u.ndim, chunks=chunks, dtype=np.float64, meta=empty)


def _row(block: np.ndarray, *minus: np.ndarray) -> np.ndarray:
    content = np.ascontiguousarray(block).data
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "big")  # exact in float64
    values = block.astype(np.float64)
    for other in minus:
        values -= other
    mean = values.mean()
    with np.errstate(invalid="ignore"):  # infinities show in the mean, and are looked for then
        values -= mean
    row = [block.size, mean, np.vdot(values, values), digest]
    return np.array(row, dtype=np.float64).reshape((1,) * block.ndim + (4,))


def _merged(rows: np.ndarray) -> tuple[float, float]:
    """Mean and variance of all chunks, added in their order (Chan, Golub and LeVeque 1979, equation 2.1)."""
    count, mean, squares = 0.0, 0.0, 0.0
    for n, m, s, _ in rows.reshape(-1, 4).tolist():
        gap, total = m - mean, count + n
        mean += gap * n / total
        squares += s + gap**2 * count * n / total
        count = total
    return mean, squares / count


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
