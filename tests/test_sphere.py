"""The sphere: grids told by coordinates, regridding that keeps constants and integrals, derivatives of known flows."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physinterp.data.sphere import (
    EARTH_RADIUS,
    divergence,
    grid_of,
    has,
    locate,
    regrid,
    select,
    vorticity,
    wind_speed,
)
from physinterp.errors import InputError
from physinterp.grid import Axis, Grid


def globe(rows: int, columns: int, poles: bool = False, start: float = 0.0, nodes: str = "uniform") -> Grid:
    half = 90 / (rows - 1) if poles else 0.0
    latitude = Axis("latitude", rows, -90 - half, 180 + 2 * half, "pole", nodes, units="degrees_north")
    return Grid((latitude, Axis("longitude", columns, start, 360.0, "periodic", units="degrees_east")))


WB = globe(32, 64)
WITH_POLES = globe(121, 240, poles=True)


def area(west: float, south: float, rows: int = 9, columns: int = 13, step: float = 2.5) -> Grid:
    return Grid(
        (
            Axis("latitude", rows, south - step / 2, step * rows, "wall", units="degrees_north"),
            Axis("longitude", columns, west - step / 2, step * columns, "wall", units="degrees_east"),
        )
    )


def on(grid: Grid, f=lambda phi, lam: np.sin(phi) + 0 * lam) -> xr.DataArray:
    phi, lam = np.meshgrid(*(np.deg2rad(axis.points) for axis in grid.axes), indexing="ij")
    return xr.DataArray(f(phi, lam), dims=grid.names, coords=grid.coords)


def random(grid: Grid, seed: int = 0, leading: tuple[int, ...] = ()) -> xr.DataArray:
    values = np.random.default_rng(seed).standard_normal((*leading, *grid.shape))
    dims = tuple(f"d{i}" for i in range(len(leading)))
    return xr.DataArray(values, dims=(*dims, *grid.names), coords=grid.coords)


def integral(da: xr.DataArray, grid: Grid) -> np.ndarray:
    return (da.transpose(..., *grid.names).values * grid.weights).mean((-2, -1))


GRIDS = [
    WB, WITH_POLES, globe(36, 72), globe(61, 120, True), globe(32, 64, nodes="gauss"), globe(8, 16, start=-180.0),
    area(-70, 30), area(170, -10), area(-10, 70, rows=8), area(0, 0),
]  # fmt: skip


# grids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.shape}{g.axes[1].start:g}{g.axes[0].nodes}")
def test_a_grid_is_told_by_its_coordinates(grid):
    found = grid_of(on(grid))
    assert found.boundary == grid.boundary and found.shape == grid.shape and found.axes[0].nodes == grid.axes[0].nodes
    for a, b in zip(found.axes, grid.axes, strict=True):
        assert a.points == pytest.approx(b.points) and a.weights == pytest.approx(b.weights) and a.units == b.units


@pytest.mark.parametrize("grid", [WB, area(170, -10)], ids=["globe", "across the date line"])
def test_any_order_direction_and_convention(grid):
    u = on(grid, lambda phi, lam: np.sin(phi) + np.cos(lam))
    rng = np.random.default_rng(1)
    changed = u.assign_coords(longitude=(u.longitude + 180) % 360 - 180).astype(np.float32)
    changed = changed.isel({n: rng.permutation(grid.shape[i]) for i, n in enumerate(grid.names)}).transpose()
    assert has(changed, grid)
    np.testing.assert_array_equal(select(changed, grid), u.astype(np.float32))
    assert grid_of(changed).shape == grid.shape and grid_of(changed).boundary == grid.boundary
    # its own grid begins at another longitude, but the points are the same
    own = grid_of(changed).axes[1].points % 360
    assert np.sort(own) == pytest.approx(np.sort(grid.axes[1].points % 360), abs=1e-4)


def test_points_are_located_or_not():
    assert locate([350, 0, 10, 20], Axis("x", 3, -15.0, 30.0, "wall", units="degrees_east")).tolist() == [0, 1, 2]
    assert locate([90, 60, 30, 0], Axis("y", 2, 15.0, 60.0, "wall", units="degrees_north")).tolist() == [2, 1]
    assert locate([90, 60, 31, 0], Axis("y", 2, 15.0, 60.0, "wall", units="degrees_north")) is None
    with pytest.raises(InputError, match=r"latitude: expected 121 points from -90 to 90, found 32 from -87.1875 to 87.1875"):
        select(on(WB), WITH_POLES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: u.drop_vars("latitude"), "expected one dimension of latitudes with its coordinate, found none"),
        (lambda u: u.isel(latitude=[0, 1, 3, 4, 8]), "latitudes are neither equally spaced nor Gaussian"),
        (lambda u: u.isel(longitude=[0, 1, 3, 4, 8]), "longitudes are not equally spaced"),
        (lambda u: u.isel(longitude=[0]), "needs two latitudes and two longitudes, found 32 and 1"),
    ],
)  # fmt: skip
def test_what_is_no_grid(change, message):
    with pytest.raises(InputError, match=message):
        grid_of(change(on(WB).drop_attrs()))


def test_curvilinear_coordinates_are_refused():
    values = np.zeros((3, 4))
    ds = xr.Dataset({"u": (("y", "x"), values)}, {"lat": (("y", "x"), values), "lon": (("y", "x"), values)})
    with pytest.raises(InputError, match="curvilinear"):
        grid_of(ds)


# regridding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [WB, WITH_POLES, globe(32, 64, nodes="gauss"), globe(61, 120, True, start=-180.0)])
@pytest.mark.parametrize("target", [WB, WITH_POLES, globe(7, 9, start=11.0)])
def test_conservative_keeps_constants_and_the_integral(source, target):
    u = random(source, leading=(2,))
    v = regrid(u, target)
    assert v.dims == ("d0", *target.names) and v.longitude.values == pytest.approx(target.axes[1].points)
    np.testing.assert_allclose(integral(v, target), integral(u, source), atol=1e-13)
    np.testing.assert_allclose(regrid(u * 0 + 3.25, target), 3.25, rtol=1e-13)
    assert float(v.max()) <= float(u.max()) and float(v.min()) >= float(u.min())


@given(rows=st.integers(2, 40), columns=st.integers(2, 40), poles=st.booleans(), start=st.floats(-180, 180))
@settings(max_examples=25, deadline=None)
def test_conservative_to_any_grid(rows, columns, poles, start):
    target = globe(rows, columns, poles, start)
    u = random(WB)
    np.testing.assert_allclose(integral(regrid(u, target), target), integral(u, WB), atol=1e-12)


def test_conservative_is_the_area_mean():
    """By hand: four cells of the sphere are one cell of a grid half as fine."""
    u, w = random(WB), WB.weights
    blocks = (u.values * w).reshape(16, 2, 32, 2).sum((1, 3)) / w.reshape(16, 2, 32, 2).sum((1, 3))
    shifted = Grid((WB.axes[0].__class__("latitude", 16, -90.0, 180.0, "pole", units="degrees_north"),
                    Axis("longitude", 32, 5.625 / 2, 360.0, "periodic", units="degrees_east")))  # fmt: skip
    np.testing.assert_allclose(regrid(u, shifted), blocks, atol=1e-13)


def test_regridding_to_itself_changes_nothing():
    for method in ("conservative", "bilinear"):
        np.testing.assert_allclose(regrid(random(WITH_POLES), WITH_POLES, method), random(WITH_POLES), atol=1e-13)


def test_bilinear_is_second_order_and_periodic():
    def f(phi: np.ndarray, lam: np.ndarray) -> np.ndarray:
        return np.cos(phi) * np.cos(lam - 0.3) + np.sin(phi) ** 2

    target = globe(19, 33, start=-170.0)
    errors = [
        float(np.abs(regrid(on(globe(n, 2 * n), f), target, "bilinear") - on(target, f))[1:-1].max()) for n in (40, 80)
    ]
    assert errors[1] < 0.3 * errors[0] < 3e-3
    linear = on(area(0, 0), lambda phi, lam: 2 * phi - lam + 1)
    inside = area(1, 1, rows=4, columns=5, step=1.3)
    np.testing.assert_allclose(
        regrid(linear, inside, "bilinear"), on(inside, lambda phi, lam: 2 * phi - lam + 1), atol=1e-12
    )
    with pytest.raises(
        InputError, match=r"latitude 25 of the target is outside of the data, which reach from -1.25 to 21.25"
    ):
        regrid(linear, area(0, 5), "bilinear")


def test_areas_stay_inside():
    u = random(area(-70, 30, rows=17, columns=33))
    coarse = regrid(u, area(-65, 35, rows=5, columns=10, step=5.0))
    assert coarse.shape == (5, 10) and np.isfinite(coarse).all()
    with pytest.raises(InputError, match="longitude 15 of the target is outside"):
        regrid(u, area(-65, 35, rows=5, columns=17, step=5.0))


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_masked_points_count_for_nothing(method):
    u = random(WB)
    land = np.zeros(WB.shape, dtype=bool)
    land[10:16, 20:40] = True
    v = regrid(u.where(~land, np.nan), globe(8, 16), method)
    assert np.isnan(v).any() and not np.isnan(v).all()
    filled = regrid(u.where(~land, 1e9), globe(8, 16), method)
    untouched = np.abs(filled) < 1e3
    np.testing.assert_allclose(v.values[untouched], filled.values[untouched], atol=1e-12)
    constant = regrid((u * 0 + 2).where(~land, np.nan), globe(8, 16), method)
    np.testing.assert_allclose(constant.values[~np.isnan(constant)], 2, rtol=1e-12)


def test_a_dataset_is_regridded_lazily():
    u = random(WB, leading=(6,)).astype(np.float32).rename(d0="time")
    ds = xr.Dataset({"u": u.chunk(time=2).assign_attrs(units="K"), "n": ("time", np.arange(6))}, attrs={"title": "t"})
    out = regrid(ds, WITH_POLES)
    assert dask.is_dask_collection(out.u.data) and out.u.chunks[0] == (2, 2, 2) and out.u.dtype == np.float32
    np.testing.assert_array_equal(out.u, regrid(u, WITH_POLES))
    assert out.u.attrs["units"] == "K" and out.n.values.tolist() == list(range(6)) and out.attrs == {"title": "t"}


# derivatives ---------------------------------------------------------------------------------------------------------

OMEGA = 7e-6
MESHES = [WB, WITH_POLES, globe(32, 64, nodes="gauss")]


@pytest.mark.parametrize("grid", MESHES, ids=["centres", "poles", "gauss"])
def test_solid_body_rotation(grid):
    """u = Omega a cos(phi): vorticity 2 Omega sin(phi), no divergence."""
    u = on(grid, lambda phi, lam: OMEGA * EARTH_RADIUS * np.cos(phi) + 0 * lam)
    zeta, d = vorticity(u, 0 * u), divergence(u, 0 * u)
    exact = on(grid, lambda phi, lam: 2 * OMEGA * np.sin(phi) + 0 * lam)
    assert float(np.abs(zeta - exact).max()) < 2 * OMEGA * 2e-3
    assert float(np.abs(d).max()) < 1e-18 and zeta.attrs["units"] == "s-1"
    assert wind_speed(u, 0 * u).values == pytest.approx(u.values)


def flow(grid: Grid, tilt: bool = False) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """(u, v, zeta) of a stream function psi: u = -psi_phi / a, v = psi_lambda / (a cos), zeta = -l (l + 1) psi / a^2."""
    a = EARTH_RADIUS
    if tilt:  # rotation about an axis in the plane of the equator, l = 1: the flow crosses the poles
        u = on(grid, lambda p, x: np.sin(p) * np.cos(x) / a)
        v = on(grid, lambda p, x: -np.sin(x) / a + 0 * p)
        return u, v, on(grid, lambda p, x: -2 * np.cos(p) * np.cos(x) / a**2)
    # l = 4, m = 3: psi = sin(p) cos(p)^3 cos(3 x)
    u = on(grid, lambda p, x: -(np.cos(p) ** 4 - 3 * np.sin(p) ** 2 * np.cos(p) ** 2) * np.cos(3 * x) / a)
    v = on(grid, lambda p, x: -3 * np.sin(p) * np.cos(p) ** 2 * np.sin(3 * x) / a)
    return u, v, on(grid, lambda p, x: -20 * np.sin(p) * np.cos(p) ** 3 * np.cos(3 * x) / a**2)


@pytest.mark.parametrize(("poles", "nodes"), [(False, "uniform"), (True, "uniform"), (False, "gauss")])
def test_a_rossby_haurwitz_wave_converges(poles, nodes):
    errors = []
    for n in (33, 66):
        grid = globe(n, 2 * n, poles, nodes=nodes)
        u, v, exact = flow(grid)
        scale = float(np.abs(exact).max())
        errors.append(float(np.abs(vorticity(u, v) - exact).max()) / scale)
        assert float(np.abs(divergence(u, v)).max()) / scale < 2 * errors[-1]
        # a potential instead of a stream function: its divergence is that vorticity
        np.testing.assert_allclose(divergence(v, -u), vorticity(u, v), atol=1e-12 * scale)
    assert errors[0] < 1e-3 and errors[1] < 0.15 * errors[0]


@pytest.mark.parametrize("grid", [globe(64, 128), globe(91, 180, True)], ids=["centres", "poles"])
def test_flow_across_the_poles(grid):
    u, v, exact = flow(grid, tilt=True)
    error = np.abs(vorticity(u, v) - exact) / float(np.abs(exact).max())
    assert float(error.max()) < 1e-3 and float(error.isel(latitude=slice(4, -4)).max()) < 1e-5


def test_a_limited_area_and_any_order():
    grid = area(-30, 20, rows=40, columns=60, step=1.0)
    u, v, exact = flow(grid)
    turned = [f.isel(latitude=slice(None, None, -1)).transpose().chunk(longitude=7) for f in (u, v)]
    zeta = vorticity(*turned)
    assert dask.is_dask_collection(zeta.data) and zeta.dims == grid.names
    np.testing.assert_allclose(zeta, vorticity(u, v), rtol=1e-12)
    assert float((np.abs(zeta - exact) / np.abs(exact).max()).max()) < 1e-3
    with pytest.raises(InputError, match="derivatives need values everywhere"):
        vorticity(u.where(u > 0), v)
