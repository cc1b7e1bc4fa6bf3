"""Where the values of a field sit: axes, boundaries, quadrature weights and wavenumbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from physinterp.errors import InputError
from physinterp.types import Boundary

Array = np.ndarray[Any, np.dtype[np.float64]]
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Axis:
    """One axis of a tensor-product grid.

        uniform, periodic    x_i = start + length i / size
        uniform otherwise    x_i = start + length (i + 1/2) / size                       (centres of equal cells)
        chebyshev            x_i = start + length (1 - cos(pi (i + 1/2) / size)) / 2     (Chebyshev-Gauss nodes)
        gauss                sin(x_i) = i-th node of Gauss-Legendre quadrature           (latitudes of spectral models)

    End points of a wall or pole axis are never grid points. Cells of a latitude end at the poles: 121 rows with the poles
    among them, 1.5 degrees apart, are start -90.75, length 181.5, and the polar cells are half as wide.

    Arguments:
        name: name of the dimension, as in the files.
        size: number of points.
        start: coordinate where the axis begins.
        length: extent in `units`; degrees on a pole axis.
        boundary: `periodic`, `wall`, or `pole` (latitude of a whole sphere).
        nodes: `uniform`, `chebyshev` or `gauss`.
        units: of the coordinate; empty where it is dimensionless; `degrees_north` makes it a latitude.
        fixed: whether the equations vary along the axis though it is periodic, as with a steady forcing; networks are
            then told the place.
    """

    name: str
    size: int
    start: float
    length: float
    boundary: Boundary
    nodes: Literal["uniform", "chebyshev", "gauss"] = "uniform"
    units: str = ""
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.length <= 0:
            raise ValueError(f"axis {self.name!r}: size and length must be positive, found {self.size} and {self.length}")
        if self.nodes == "chebyshev" and self.boundary != "wall":
            raise ValueError(f"axis {self.name!r}: chebyshev nodes need the boundary wall, found {self.boundary}")
        if self.nodes == "gauss" and (self.boundary, self.start, self.length) != ("pole", -90, 180):
            raise ValueError(f"axis {self.name!r}: gauss nodes need the boundary pole, start -90 and length 180")

    @property
    def latitude(self) -> bool:
        """Whether cells have the area of a zone of the sphere."""
        return self.boundary == "pole" or self.units == "degrees_north"

    @cached_property
    def points(self) -> Array:
        """Coordinates, ascending, shape (size,)."""
        i = np.arange(self.size, dtype=np.float64)
        if self.nodes == "chebyshev":
            return self.start + self.length * (0.5 - 0.5 * np.cos(np.pi * (i + 0.5) / self.size))
        if self.nodes == "gauss":
            return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(self.size)[0]))
        return self.start + self.length * (i + (0.0 if self.boundary == "periodic" else 0.5)) / self.size

    @cached_property
    def edges(self) -> Array:
        """Bounds of the cells around the points, ascending, shape (size + 1,)."""
        if self.nodes == "chebyshev":
            raise ValueError(f"axis {self.name!r} has chebyshev nodes, which are no centres of cells")
        if self.nodes == "gauss":
            sines = np.cumsum([-1.0, *np.polynomial.legendre.leggauss(self.size)[1]])
            return np.rad2deg(np.arcsin(np.clip(sines, -1.0, 1.0)))
        centred = 0.5 if self.boundary == "periodic" else 0.0
        edges = self.start + self.length * (np.arange(self.size + 1) - centred) / self.size
        return np.clip(edges, -90.0, 90.0) if self.latitude else edges

    @cached_property
    def weights(self) -> Array:
        """Quadrature weights of the mean over the axis, mean 1, shape (size,).

        Uniform, area of the cell on a latitude (difference of the sines of its edges; the weights of Gauss on Gauss nodes),
        or Fejer's first rule on Chebyshev-Gauss nodes, which integrates polynomials below degree `size` exactly.
        """
        if self.nodes == "chebyshev":
            theta = np.pi * (np.arange(self.size) + 0.5) / self.size
            j = np.arange(1, self.size // 2 + 1)
            series = np.cos(2 * np.outer(theta, j)) / (4 * j**2 - 1)
            return 1 - 2 * series.sum(1)
        if self.latitude:
            area = np.diff(np.sin(np.deg2rad(self.edges)))
            return np.asarray(area / area.mean(), dtype=np.float64)
        return np.ones(self.size)

    @property
    def spacing(self) -> float:
        """Distance of neighbouring points of a uniform axis."""
        if self.nodes != "uniform":
            raise ValueError(f"axis {self.name!r} has {self.nodes} nodes and no single spacing; use `points`")
        return self.length / self.size

    def wavenumbers(self) -> Array:
        """Angular wavenumbers 2 pi m / length in the order of `rfft`, shape (size // 2 + 1,)."""
        if self.nodes != "uniform" or self.boundary != "periodic":
            raise ValueError(
                f"axis {self.name!r} is {self.boundary} with {self.nodes} nodes; wavenumbers need a uniform periodic axis"
            )
        return np.asarray(2 * np.pi * np.fft.rfftfreq(self.size, self.spacing), dtype=np.float64)


@dataclass(frozen=True, config=STRICT)
class Grid:
    """A tensor-product grid; the order of the axes is the order of the space dimensions of every tensor."""

    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        return ", ".join(f"{a.name} {a.size} {a.nodes} {a.boundary} length {a.length:g}" for a in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the space dimensions."""
        return tuple(axis.name for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points per axis, *S."""
        return tuple(axis.size for axis in self.axes)

    @property
    def boundary(self) -> tuple[Boundary, ...]:
        """Boundary per axis."""
        return tuple(axis.boundary for axis in self.axes)

    @property
    def fixed(self) -> tuple[bool, ...]:
        """Whether the place matters on an axis though it is periodic, per axis."""
        return tuple(axis.fixed for axis in self.axes)

    @property
    def periodic(self) -> tuple[int, ...]:
        """Periodic axes as negative axis numbers, e.g. (-2, -1)."""
        return tuple(i - len(self.axes) for i, axis in enumerate(self.axes) if axis.boundary == "periodic")

    @property
    def spectral(self) -> tuple[int, ...]:
        """Axes of spectra: the periodic ones; in a limited area, which has none, the uniform ones that are no latitude."""
        uniform = (i - len(self.axes) for i, a in enumerate(self.axes) if a.nodes == "uniform" and not a.latitude)
        return self.periodic or tuple(uniform)

    @property
    def homogeneous(self) -> tuple[int, ...]:
        """Periodic axes along which the equations do not vary, as negative axis numbers."""
        return tuple(a for a in self.periodic if not self.axes[a].fixed)

    @cached_property
    def weights(self) -> Array:
        """Quadrature weights of a spatial mean, mean 1, shape *S."""
        weights = np.ones(())
        for axis in self.axes:
            weights = weights[..., None] * axis.weights
        return weights

    @property
    def coords(self) -> dict[str, xr.Variable]:
        """Coordinates for an xarray dataset."""
        return {
            axis.name: xr.Variable(axis.name, axis.points, {"units": axis.units} if axis.units else {}) for axis in self.axes
        }

    def with_shape(self, shape: Sequence[int]) -> Grid:
        """The same domain with other numbers of points."""
        if len(shape) != len(self.axes):
            raise InputError(f"expected a shape with {len(self.axes)} sizes {self.names}, found {tuple(shape)}")
        return Grid(tuple(replace(axis, size=int(size)) for axis, size in zip(self.axes, shape, strict=True)))

    def check(self, ds: xr.Dataset | xr.DataArray) -> None:
        """Compare the coordinates of a dataset with this grid (to 1e-5 of the length; float32 files pass).

        Raises:
            InputError: an axis is absent or differs; the message names it and says what was expected and
                found.
        """
        for axis in self.axes:
            if axis.name not in ds.dims:
                raise InputError(
                    f"grid axis {axis.name!r} is missing: expected dimensions {self.names}, found "
                    f"{tuple(ds.dims)}; rename the dimensions of the data or change the grid in the card"
                )
            if ds.sizes[axis.name] != axis.size:
                shape = tuple(ds.sizes.get(name, 0) for name in self.names)
                raise InputError(
                    f"grid axis {axis.name!r}: expected {axis.size} points, found {ds.sizes[axis.name]}; "
                    f"use system.with_grid({shape}) for data of this resolution"
                )
            if axis.name not in ds.coords:
                raise InputError(
                    f"grid axis {axis.name!r} has no coordinate in the data; add it: ds.assign_coords(system.grid.coords)"
                )
            self._check_points(axis, np.asarray(ds[axis.name].values, dtype=np.float64))

    @staticmethod
    def _check_points(axis: Axis, found: Array) -> None:
        error = np.abs(found - axis.points)
        if error.max() <= 1e-5 * axis.length:
            return
        i = int(error.argmax())
        if np.abs(found[::-1] - axis.points).max() <= 1e-5 * axis.length:
            remedy = f"it descends: use ds.sortby({axis.name!r})"
        else:
            remedy = "interpolate the data to the grid of the card, or write a card with this grid"
        raise InputError(
            f"grid axis {axis.name!r} ({axis.nodes}, {axis.boundary}) differs at index {i}: "
            f"expected {axis.points[i]:.6g}, found {found[i]:.6g} "
            f"(range {found.min():.6g} to {found.max():.6g}); {remedy}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON and YAML."""
        return {"axes": [asdict(axis) for axis in self.axes]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Inverse of `to_dict`."""
        return TypeAdapter(cls).validate_python(values)
