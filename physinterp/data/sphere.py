"""Fields on a sphere: coordinates, regridding, derivatives.

A field has one dimension of latitudes and one of longitudes, in degrees, found by the coordinates' standard_name, units
(`degrees_north`, `degrees_east`) or name, in any order and direction; longitudes may count from 0 or from -180.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import xarray as xr
from scipy.interpolate import CubicSpline

from physinterp.errors import InputError
from physinterp.grid import Array, Axis, Grid

X = TypeVar("X", xr.Dataset, xr.DataArray)

EARTH_RADIUS = 6.371229e6
"""Metres, as in ERA5."""

UNITS = {
    "latitude": ("degrees_north", "degree_north", "degrees_n"),
    "longitude": ("degrees_east", "degree_east", "degrees_e"),
}
TOLERANCE = 1e-5
"""Of the length of an axis, as in `Grid.check`: what float32 coordinates need."""


# places --------------------------------------------------------------------------------------------------------------


def candidates(ds: xr.Dataset | xr.DataArray, kind: str) -> list[str]:
    """Names of the coordinates that are a `latitude` or a `longitude`."""
    return [
        str(name)
        for name, c in ds.coords.items()
        if c.attrs.get("standard_name") == kind
        or str(c.attrs.get("units", "")).lower() in UNITS[kind]
        or str(name).lower() in (kind, kind[:3])
    ]


def coordinates(ds: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Names of the latitude and the longitude dimension.

    Raises:
        InputError: none, several, or coordinates that depend on two dimensions (curvilinear grids).
    """
    found = []
    for kind in UNITS:
        names = candidates(ds, kind)
        lines = [name for name in names if ds[name].dims == (name,)]
        if len(lines) != 1:
            raise InputError(
                f"expected one dimension of {kind}s with its coordinate, found {names or 'none'} in dimensions "
                f"{tuple(ds.dims)}; interpolate curvilinear grids, and name the dimensions latitude and longitude"
            )
        found.append(lines[0])
    return found[0], found[1]


def axes(grid: Grid) -> tuple[Axis, Axis]:
    """The latitude and the longitude axis of a grid; an InputError where it is not of that kind."""
    latitude = [axis for axis in grid.axes if axis.latitude]
    longitude = [axis for axis in grid.axes if axis.units == "degrees_east"]
    if len(grid.axes) != 2 or len(latitude) != 1 or len(longitude) != 1:
        raise InputError(
            f"expected a grid of one axis in degrees_north and one in degrees_east, found "
            f"{[(axis.name, axis.units) for axis in grid.axes]}; set the units of the axes in the card"
        )
    return latitude[0], longitude[0]


def grid_of(ds: xr.Dataset | xr.DataArray) -> Grid:
    """The grid of a dataset: latitudes equally spaced (whole sphere or part of it) or Gaussian, longitudes equally spaced.

    Raises:
        InputError: coordinates of another kind; the message says where they differ.
    """
    names = coordinates(ds)
    latitude, longitude = (np.unique(np.asarray(ds[name].values, dtype=np.float64)) for name in names)
    if min(len(latitude), len(longitude)) < 2:
        raise InputError(f"a grid needs two latitudes and two longitudes, found {len(latitude)} and {len(longitude)}")
    return Grid((_latitude(latitude, names[0]), _longitude(longitude, names[1])))


def _latitude(points: Array, name: str) -> Axis:
    size, span = len(points), float(points[-1] - points[0])
    step = span / (size - 1)
    even = np.abs(points - np.linspace(points[0], points[-1], size)).max() < TOLERANCE * 180
    # the whole sphere: no further row would fit before either pole
    whole = max(90 + points[0], 90 - points[-1]) < step - TOLERANCE * 180
    if even:
        start = float(points[0]) - step / 2
        return Axis(name, size, start, span + step, "pole" if whole else "wall", units="degrees_north")
    if whole:
        axis = Axis(name, size, -90.0, 180.0, "pole", "gauss", units="degrees_north")
        if np.abs(points - axis.points).max() < TOLERANCE * 180:
            return axis
    worst = int(np.abs(np.diff(points) - step).argmax())
    raise InputError(
        f"latitudes are neither equally spaced nor Gaussian: from {points[worst]:.6g} to {points[worst + 1]:.6g} is not the "
        f"mean step {step:.6g}; interpolate them"
    )


def _longitude(points: Array, name: str) -> Axis:
    circle = np.unique(np.round(points % 360, 9) % 360)
    gaps = np.diff([*circle, circle[0] + 360])
    last = int(gaps.argmax())  # a part of the circle begins after its largest gap
    step = float(np.median(np.delete(gaps, last)))
    if np.abs(np.delete(gaps, last) - step).max() > TOLERANCE * 360:
        worst = circle[int(np.abs(np.delete(gaps, last) - step).argmax())]
        raise InputError(
            f"longitudes are not equally spaced near {worst:.6g}: expected steps of {step:.6g}; interpolate first"
        )
    if gaps[last] - step < TOLERANCE * 360:
        return Axis(name, len(circle), float(points[0]), 360.0, "periodic", units="degrees_east")
    first = float(circle[(last + 1) % len(circle)])
    first -= 360.0 * (np.abs(points - first).min() > TOLERANCE * 360)
    return Axis(name, len(circle), first - step / 2, step * len(circle), "wall", units="degrees_east")


def locate(found: Any, axis: Axis) -> np.ndarray | None:
    """Where the points of an axis are among coordinates of any order, direction, convention and extent; None if not all are.

    Arguments:
        found: coordinates in degrees, shape (n,).
    Returns:
        Indices into `found`, shape (axis.size,).
    """
    distance = np.abs(np.asarray(found, dtype=np.float64)[None, :] - axis.points[:, None])
    if not axis.latitude:
        distance = np.abs((distance + 180) % 360 - 180)
    index = distance.argmin(1)
    return index if distance.min(1).max() <= TOLERANCE * axis.length else None


def has(ds: xr.Dataset | xr.DataArray, grid: Grid) -> bool:
    """Whether all points of a grid are among those of the data."""
    pairs = zip(coordinates(ds), axes(grid), strict=True)
    return all(locate(ds[name].values, axis) is not None for name, axis in pairs)


def select(ds: X, grid: Grid) -> X:
    """The points of a grid out of data that have them, with the names, order and direction of the grid.

    Raises:
        InputError: the data lack a point.
    """
    names, found = coordinates(ds), {}
    for name, axis in zip(names, axes(grid), strict=True):
        index = locate(ds[name].values, axis)
        if index is None:
            here = np.asarray(ds[name].values, dtype=np.float64)
            raise InputError(
                f"{axis.name}: expected {axis.size} points from {axis.points[0]:g} to {axis.points[-1]:g}, found "
                f"{len(here)} from {here[0]:g} to {here[-1]:g}, which lack some; in a copy of the card, set the grid of the "
                "data, or `regrid: conservative` (or bilinear)"
            )
        found[name] = _slice(index)
    renamed = {name: axis.name for name, axis in zip(names, axes(grid), strict=True) if name != axis.name}
    return ds.isel(found).rename(renamed).assign_coords(grid.coords).transpose(..., *grid.names)


def _slice(index: np.ndarray) -> slice | np.ndarray:
    """A slice where indices go in steps of 1 or -1: files are then read in one piece."""
    for sign in (1, -1):
        if len(index) > 1 and (np.diff(index) == sign).all():
            stop = int(index[-1]) + sign
            return slice(int(index[0]), stop if stop >= 0 else None, sign)
    return index


# regridding ----------------------------------------------------------------------------------------------------------


def regrid(ds: X, grid: Grid, method: Literal["conservative", "bilinear"] = "conservative") -> X:
    r"""Fields on another grid of latitudes and longitudes, lazily.

        conservative    v_i = sum_j A_ij u_j / sum_j A_ij,   A_ij the area that cells i and j share
        bilinear        linear in longitude and in latitude; beyond the outermost row, its value

    First-order conservative regridding keeps constants and, between whole spheres, the area integral, to rounding. NaN is
    a mask: means are over the valid part of a cell, and NaN where that is less than half of it.

    Arguments:
        ds: any leading dimensions; variables without latitude and longitude stay as they are.
        grid: the target: of a card, of other data (`grid_of`), or with other numbers of points (`grid.with_shape`).
        method: conservative to coarsen, bilinear to refine.
    Returns:
        Dimensions and coordinates of `grid`, the dtype of the data.
    Raises:
        InputError: the target is not inside the area of the data.
    """
    if isinstance(ds, xr.Dataset):
        names = set(coordinates(ds))
        return ds.map(lambda da: regrid(da, grid, method) if names <= set(da.dims) else da, keep_attrs=True)
    source = grid_of(ds)
    weigh = {"conservative": _overlap, "bilinear": _linear}[method]
    rows, columns = (weigh(a, b) for a, b in zip(source.axes, axes(grid), strict=True))
    target = [axis.name + " of the target" for axis in axes(grid)]
    result = xr.apply_ufunc(
        partial(_weighted, rows=rows, columns=columns),
        _whole(ds, source),
        input_core_dims=[source.names],
        output_core_dims=[target],
        dask="parallelized",
        output_dtypes=[ds.dtype],
        dask_gufunc_kwargs={"output_sizes": dict(zip(target, (len(rows), len(columns)), strict=True))},
        keep_attrs=True,
    )
    result = result.rename({a: b.name for a, b in zip(target, axes(grid), strict=True)})
    return result.assign_coords(grid.coords).transpose(..., *grid.names)


def _whole(da: xr.DataArray, grid: Grid) -> xr.DataArray:
    """A field in the order of its own grid, each chunk with the whole area."""
    da = select(da, grid)
    return da.chunk(dict.fromkeys(grid.names, -1)) if da.chunks else da


def _weighted(u: np.ndarray, rows: Array, columns: Array) -> np.ndarray:
    """Means (..., I, K) of u (..., J, L) with weights (I, J) and (K, L), both of sum 1 along their last axis."""
    valid = ~np.isnan(u)
    if valid.all():
        return (rows @ u.astype(np.float64) @ columns.T).astype(u.dtype)
    part = rows @ valid.astype(np.float64) @ columns.T
    total = rows @ np.where(valid, u, 0).astype(np.float64) @ columns.T
    return np.where(part > 0.5 - 1e-9, total / np.maximum(part, 1e-9), np.nan).astype(u.dtype)


def _overlap(source: Axis, target: Axis) -> Array:
    """Part of each target cell that lies in each source cell, shape (target, source), rows of sum 1."""
    if source.latitude:
        a, b = (np.sin(np.deg2rad(axis.edges)) for axis in (source, target))
        shifts: tuple[float, ...] = (0.0,)
    else:
        a, b, shifts = source.edges, target.edges, (-720.0, -360.0, 0.0, 360.0, 720.0)
    shared = np.zeros((target.size, source.size))
    for shift in shifts:
        high = np.minimum(b[1:, None], a[None, 1:] + shift)
        shared += np.maximum(high - np.maximum(b[:-1, None], a[None, :-1] + shift), 0)
    covered = shared.sum(1) / np.diff(b)
    if covered.min() < 0.5:
        raise _outside(source, target, int(covered.argmin()))
    return shared / shared.sum(1, keepdims=True)


def _linear(source: Axis, target: Axis) -> Array:
    """Weights of linear interpolation, shape (target, source), rows of sum 1."""
    x, at = source.points, target.points
    columns = np.arange(source.size)
    if not source.latitude:  # one more point on both sides of the circle
        at = (at - source.edges[0]) % 360 + source.edges[0]
        if source.boundary == "periodic":
            x, columns = np.array([x[-1] - 360, *x, x[0] + 360]), np.array([columns[-1], *columns, 0])
    beyond = np.maximum(source.edges[0] - at, at - source.edges[-1])
    if beyond.max() > TOLERANCE * source.length:
        raise _outside(source, target, int(beyond.argmax()))
    at = np.clip(at, x[0], x[-1])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    right = (at - x[i]) / (x[i + 1] - x[i])
    weights = np.zeros((target.size, source.size))
    np.add.at(weights, (np.arange(target.size), columns[i]), 1 - right)
    np.add.at(weights, (np.arange(target.size), columns[i + 1]), right)
    return weights


def _outside(source: Axis, target: Axis, i: int) -> InputError:
    return InputError(
        f"{target.name} {target.points[i]:g} of the target is outside of the data, which reach from {source.edges[0]:g} to "
        f"{source.edges[-1]:g}; choose a grid inside of that"
    )


# derived fields ------------------------------------------------------------------------------------------------------


def wind_speed(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    """sqrt(u^2 + v^2), m s-1."""
    return xr.apply_ufunc(np.hypot, u, v, dask="parallelized", output_dtypes=[u.dtype]).assign_attrs(
        units="m s-1", long_name="wind speed"
    )


def vorticity(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    r"""Vertical component of the relative vorticity on the sphere, s-1.

        zeta = ( dv/dlambda - d(u cos phi)/dphi ) / (a cos phi)

    Arguments, accuracy and result as in `divergence`.
    """
    return _differentiated(v, -u).assign_attrs(units="s-1", long_name="relative vorticity")


def divergence(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    r"""Horizontal divergence on the sphere, s-1.

        D = ( du/dlambda + d(v cos phi)/dphi ) / (a cos phi)

    Derivatives of cubic splines along the circles of latitude and, where the grid is the whole sphere and has an even
    number of longitudes, along whole meridians, across the poles; elsewhere to the borders of the area. Fourth order, third
    next to poles and borders. At a pole, the flux out of the circle of the next row over its area (second order), or NaN
    if the longitudes are no full circle.

    Arguments:
        u, v: eastward and northward wind, m s-1, on the same points.
    Returns:
        Dimensions of u, latitudes and longitudes ascending.
    References: Holton and Hakim 2013, An Introduction to Dynamic Meteorology, chapter 4.
    """
    return _differentiated(u, v).assign_attrs(units="s-1", long_name="divergence")


def _differentiated(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    grid = grid_of(u)
    return xr.apply_ufunc(
        partial(_divergence, latitude=grid.axes[0], longitude=grid.axes[1]),
        _whole(u, grid),
        _whole(v, grid),
        input_core_dims=[grid.names, grid.names],
        output_core_dims=[grid.names],
        dask="parallelized",
        output_dtypes=[u.dtype],
    )


def _divergence(u: np.ndarray, v: np.ndarray, latitude: Axis, longitude: Axis) -> np.ndarray:
    phi, lam = np.deg2rad(latitude.points), np.deg2rad(longitude.points)
    cos = np.cos(phi)[:, None]
    flux = v.astype(np.float64) * cos
    polar = cos[:, 0] < 1e-9
    around = longitude.boundary == "periodic"
    along = _derivative(u.astype(np.float64), lam, -1, around)
    if around and latitude.boundary == "pole" and longitude.size % 2 == 0:
        # down the other side: both factors of v cos(phi) change their sign over a pole
        back = slice(-1 - int(polar[-1]), -1 - len(phi) + int(polar[0]) if polar[0] else None, -1)
        other = np.roll(flux[..., back, :], longitude.size // 2, -1)
        circle = np.concatenate([flux, other], -2)
        across = _derivative(circle, np.concatenate([phi, np.pi - phi[back]]), -2, True)[..., : len(phi), :]
    else:
        across = _derivative(flux, phi, -2, False)
    result = (along + across) / (EARTH_RADIUS * np.where(polar[:, None], np.nan, cos))
    if around:
        for pole, row, sign in ((0, 1, 1.0), (-1, -2, -1.0)):
            if polar[pole]:
                cap = EARTH_RADIUS * (1 - np.sqrt(1 - cos[row] ** 2))
                result[..., pole, :] = sign * flux[..., row, :].mean(-1, keepdims=True) / cap
    return result.astype(v.dtype)


def _derivative(f: np.ndarray, x: np.ndarray, axis: int, periodic: bool) -> np.ndarray:
    """Of the cubic spline through all points; with period 2 pi, or with the not-a-knot condition at its ends."""
    if not np.isfinite(f).all():
        raise InputError("derivatives need values everywhere, found NaN or infinity; choose an area without them")
    if not periodic:
        return np.asarray(CubicSpline(x, f, axis)(x, 1))
    closed = np.concatenate([f, np.take(f, [0], axis)], axis)
    return np.asarray(CubicSpline([*x, x[0] + 2 * np.pi], closed, axis, bc_type="periodic")(x, 1))
