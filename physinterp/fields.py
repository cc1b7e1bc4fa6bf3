"""FieldStack: the only place where names of fields meet channel numbers, and units meet normalised values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physinterp.data.statistics import Statistics, not_finite
from physinterp.errors import InputError
from physinterp.grid import Grid
from physinterp.system import Field, near


class FieldStack:
    """Datasets in physical units to normalised tensors (..., C, *S) and back.

        x = (u - mean) / std   per field

    Arithmetic is float64, tensors are float32: `unpack(pack(ds))` equals `ds` to float32 rounding.

    Arguments:
        fields: in the order of the channels.
        grid: in the order of the space dimensions.
        statistics: of the training split; may hold more fields.
    """

    def __init__(self, fields: Sequence[Field], grid: Grid, statistics: Statistics) -> None:
        self.fields = tuple(fields)
        self.grid = grid
        self.statistics = statistics.select(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(field.name for field in self.fields)

    def pack(self, ds: xr.Dataset) -> Tensor:
        """Normalised float32 tensor, shape (..., C, *S); leading dims stay in the order of the data.

        Dimensions may come in any order; a field may have the name of one of its aliases.

        Raises:
            InputError: a field is missing, the grid differs, or a value is not finite.
        """
        names = self._found(ds)
        self.grid.check(ds)
        leading = tuple(dim for dim in ds[names[0]].dims if dim not in self.grid.names)
        stacked = np.empty((*(ds.sizes[dim] for dim in leading), len(names), *self.grid.shape), dtype=np.float32)
        channel = -1 - len(self.grid.axes)
        for i, (name, mean, std) in enumerate(zip(names, self.statistics.mean, self.statistics.std, strict=True)):
            da = ds[name]
            if set(da.dims) != {*leading, *self.grid.names}:
                raise InputError(f"field {name!r} has dimensions {da.dims}, expected {(*leading, *self.grid.names)}")
            values = np.asarray(da.transpose(*leading, *self.grid.names).values, dtype=np.float64)
            if not np.isfinite(values).all():
                raise InputError(not_finite(ds, name))
            np.moveaxis(stacked, channel, 0)[i] = (values - mean) / std
        return torch.from_numpy(stacked)

    def unpack(self, x: Tensor, coords: Mapping[str, Any]) -> xr.Dataset:
        """The dataset of a normalised tensor: the inverse of `pack`, with units and names restored.

        Arguments:
            x: shape (..., C, *S).
            coords: the first keys name the leading dims of `x` in order, with their values (None: no
                coordinate); further entries are coordinates in xarray's form, e.g. `{"sample": None, "time":
                t, "Prandtl": ("sample", pr)}`.
        """
        count = x.ndim - 1 - len(self.grid.axes)
        if count < 0 or tuple(x.shape[count:]) != (len(self.fields), *self.grid.shape):
            raise ValueError(f"expected shape (..., {len(self.fields)}, {self.grid.shape}), found {tuple(x.shape)}")
        if len(coords) < count:
            raise ValueError(f"expected names of {count} leading dims {tuple(x.shape[:count])}, found {list(coords)}")
        leading = tuple(coords)[:count]
        values = self.denormalise(x.detach().to("cpu", torch.float64)).to(torch.float32).numpy()
        variables = {
            field.name: (
                (*leading, *self.grid.names),
                values[(slice(None),) * count + (i,)],
                {"units": field.units, "long_name": field.long_name},
            )
            for i, field in enumerate(self.fields)
        }
        known = {key: value for key, value in coords.items() if value is not None}
        return xr.Dataset(variables, coords={**known, **self.grid.coords})

    def normalise(self, u: Tensor) -> Tensor:
        """(u - mean) / std, shape (..., C, *S), in the dtype and on the device of `u`."""
        return (u - self._column(self.statistics.mean, u)) / self._column(self.statistics.std, u)

    def denormalise(self, x: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        return x * self._column(self.statistics.std, x) + self._column(self.statistics.mean, x)

    def _column(self, values: Sequence[float], like: Tensor) -> Tensor:
        column = torch.tensor(values, dtype=torch.float64).to(like)
        return column.reshape(-1, *(1,) * len(self.grid.axes))

    def _found(self, ds: xr.Dataset) -> list[str]:
        """The name of each field in a dataset."""
        names = [next((n for n in (f.name, *f.aliases) if n in ds.data_vars), None) for f in self.fields]
        missing = [field.name for field, name in zip(self.fields, names, strict=True) if name is None]
        if missing:
            raise InputError(f"missing fields {missing}: {near(missing[0], map(str, ds.data_vars))}")
        return [name for name in names if name is not None]
