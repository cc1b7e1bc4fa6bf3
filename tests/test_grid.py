"""Axes and grids: points, quadrature, wavenumbers, checks, round trips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from physinterp.errors import InputError
from physinterp.grid import Axis, Grid

X = Axis("x", 16, 0.0, 4.0, "periodic")
Y = Axis("y", 8, 0.0, 1.0, "wall", "chebyshev")
GRID = Grid((X, Y))


def dataset(grid: Grid = GRID) -> xr.Dataset:
    return xr.Dataset({"b": (grid.names, np.zeros(grid.shape))}, coords=grid.coords)


@given(size=st.integers(2, 40), start=st.floats(-5, 5), length=st.floats(0.1, 10), degree=st.integers(0, 39))
def test_fejer_integrates_polynomials_below_the_number_of_nodes(size, start, length, degree):
    axis = Axis("y", size, start, length, "wall", "chebyshev")
    s = (axis.points - start) / length
    assert (np.diff(s) > 0).all()
    assert axis.weights.mean() == pytest.approx(1, abs=1e-12)
    if degree < size:
        assert (axis.weights * s**degree).mean() == pytest.approx(1 / (degree + 1), abs=1e-11)


def test_points_follow_the_boundary():
    assert Axis("x", 4, 1.0, 2.0, "periodic").points == pytest.approx([1.0, 1.5, 2.0, 2.5])
    assert Axis("x", 4, 1.0, 2.0, "wall").points == pytest.approx([1.25, 1.75, 2.25, 2.75])
    j = np.arange(8)
    assert Y.points == pytest.approx(0.5 - 0.5 * np.cos(np.pi * (j + 0.5) / 8))


def test_pole_weights_are_cell_areas():
    lat = Axis("latitude", 36, -90.0, 180.0, "pole", units="degrees_north")
    assert lat.weights.mean() == pytest.approx(1)
    assert (lat.weights * np.sin(np.deg2rad(lat.points)) ** 2).mean() == pytest.approx(1 / 3, abs=2e-3)


def test_cells_end_at_the_poles():
    """121 rows with the poles among them: the area weights of WeatherBench, sin of the upper less that of the lower edge."""
    lat = Axis("latitude", 121, -90.75, 181.5, "pole", units="degrees_north")
    assert lat.points == pytest.approx(np.linspace(-90, 90, 121)) and lat.edges[[0, 1, -1]] == pytest.approx(
        [-90, -89.25, 90]
    )
    bounds = np.deg2rad([-90, *(lat.points[1:] + lat.points[:-1]) / 2, 90])
    area = np.diff(np.sin(bounds))
    assert lat.weights == pytest.approx(area / area.mean(), abs=1e-12)


def test_a_limited_area_is_weighted_by_its_units():
    lat = Axis("latitude", 17, 28.75, 42.5, "wall", units="degrees_north")
    cos = np.cos(np.deg2rad(lat.points))
    assert lat.latitude and lat.weights == pytest.approx(cos / cos.mean(), rel=1e-9)
    assert not Axis("y", 17, 28.75, 42.5, "wall").latitude


def test_gaussian_latitudes():
    lat = Axis("latitude", 32, -90, 180, "pole", "gauss", units="degrees_north")
    nodes, weights = np.polynomial.legendre.leggauss(32)
    assert np.sin(np.deg2rad(lat.points)) == pytest.approx(nodes) and lat.weights == pytest.approx(16 * weights)
    assert ((lat.edges[:-1] < lat.points) & (lat.points < lat.edges[1:])).all()
    with pytest.raises(ValueError, match="gauss nodes need the boundary pole"):
        Axis("latitude", 32, -80, 160, "pole", "gauss")
    with pytest.raises(ValueError, match="no centres of cells"):
        _ = Y.edges


def test_edges_surround_the_points():
    assert Axis("x", 4, 0.0, 4.0, "periodic").edges == pytest.approx([-0.5, 0.5, 1.5, 2.5, 3.5])
    assert Axis("x", 4, 0.0, 4.0, "wall").edges == pytest.approx([0, 1, 2, 3, 4])


def test_wavenumbers_are_angular_and_refuse_walls():
    assert X.wavenumbers() == pytest.approx(2 * np.pi / 4 * np.arange(9))
    with pytest.raises(ValueError, match="chebyshev"):
        Y.wavenumbers()
    with pytest.raises(ValueError, match="no single spacing"):
        _ = Y.spacing


def test_grid_is_the_product_of_its_axes():
    assert GRID.shape == (16, 8)
    assert GRID.boundary == ("periodic", "wall")
    assert GRID.periodic == GRID.homogeneous == (-2,)
    forced = Grid((X, Axis("y", 8, 0.0, 1.0, "periodic", fixed=True)))
    assert forced.periodic == (-2, -1) and forced.homogeneous == (-2,)
    assert GRID.weights.shape == (16, 8)
    assert GRID.weights.mean() == pytest.approx(1)
    assert GRID.weights[3] == pytest.approx(Y.weights)


def test_round_trip_through_json():
    assert Grid.from_dict(json.loads(json.dumps(GRID.to_dict()))) == GRID


def test_wrong_axes_are_refused():
    with pytest.raises(ValueError, match="need the boundary wall"):
        Axis("x", 4, 0.0, 1.0, "periodic", "chebyshev")
    with pytest.raises(ValueError, match="must be positive"):
        Axis("x", 0, 0.0, 1.0, "periodic")


def test_check_names_the_axis_and_the_remedy():
    GRID.check(dataset())
    GRID.check(dataset().assign_coords(y=Y.points.astype(np.float32)))
    with pytest.raises(InputError, match=r"'x': expected 16 points, found 32.*with_grid\(\(32, 8\)\)"):
        GRID.check(dataset(GRID.with_shape((32, 8))))
    with pytest.raises(InputError, match=r"'y' .*chebyshev.*differs at index"):
        GRID.check(dataset().assign_coords(y=(np.arange(8) + 0.5) / 8))
    with pytest.raises(InputError, match=r"descends: use ds.sortby\('x'\)"):
        GRID.check(dataset().isel(x=slice(None, None, -1)))
    with pytest.raises(InputError, match="'y' is missing"):
        GRID.check(dataset().rename(y="z"))
    with pytest.raises(InputError, match="no coordinate"):
        GRID.check(dataset().drop_vars("x"))
    with pytest.raises(InputError, match="2 sizes"):
        GRID.with_shape((4,))
