"""FieldStack and statistics: exact inverses, any order of dimensions, floors, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

from physinterp.data.statistics import Statistics, moments, statistics, vector_fields
from physinterp.errors import InputError
from physinterp.fields import FieldStack
from physinterp.system import load_system

SYSTEM = load_system("rbc").with_grid((8, 6))
NAMES = SYSTEM.field_names


@pytest.fixture
def ds() -> xr.Dataset:
    rng = np.random.default_rng(0)
    dims = ("sample", "time", *SYSTEM.grid.names)
    data = {n: (dims, (5 + 3 * rng.standard_normal((2, 5, 8, 6))).astype(np.float32)) for n in NAMES}
    return xr.Dataset(data, coords={"time": 0.25 * np.arange(5), **SYSTEM.grid.coords})


@pytest.fixture
def stack(ds) -> FieldStack:
    return FieldStack(SYSTEM.fields, SYSTEM.grid, statistics(ds, NAMES))


def test_unpack_inverts_pack_and_restores_attributes(ds, stack):
    x = stack.pack(ds)
    assert x.shape == (2, 5, 4, 8, 6) and x.dtype == torch.float32
    assert x.mean((0, 1, 3, 4)) == pytest.approx(np.zeros(4), abs=1e-6)
    back = stack.unpack(x, {"sample": None, "time": ds.time.values, "Prandtl": ("sample", [1.0, 2.0])})
    for field in SYSTEM.fields:
        assert back[field.name].dims == ds[field.name].dims
        assert back[field.name].values == pytest.approx(ds[field.name].values, rel=1e-6, abs=1e-6)
        assert back[field.name].attrs == {"units": field.units, "long_name": field.long_name}
    assert list(back.coords) == ["time", "Prandtl", "x", "y"]
    torch.testing.assert_close(stack.pack(back), x)


def test_dimensions_and_fields_may_come_in_any_order(ds, stack):
    shuffled = ds[list(reversed(NAMES))].transpose("y", "sample", "x", "time")
    assert torch.equal(stack.pack(shuffled), stack.pack(ds))
    swapped = stack.pack(ds.transpose("time", "sample", ...))
    assert torch.equal(swapped.transpose(0, 1), stack.pack(ds))
    assert torch.equal(stack.pack(ds.isel(sample=0, time=2)), stack.pack(ds)[0, 2])


def test_aliases_are_found(ds):
    system = load_system("kolmogorov").with_grid((12, 12))
    data = xr.Dataset({"u": (("x", "y"), np.ones((12, 12)))}, coords=system.grid.coords)
    stats = Statistics(("vorticity",), (0.5,), (2.0,), (1.0,))
    assert FieldStack(system.fields, system.grid, stats).pack(data).unique().tolist() == [0.25]


def test_normalise_and_denormalise_are_inverse(stack):
    u = torch.randn(3, 4, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(stack.denormalise(stack.normalise(u)), u)
    pressure = (u[0, 1] - stack.statistics.mean[1]) / stack.statistics.std[1]
    torch.testing.assert_close(stack.normalise(u)[0, 1], pressure)


def test_errors_say_what_is_there(ds, stack):
    with pytest.raises(InputError, match=r"missing fields \['buoyancy'\]: did you mean 'bouyancy'"):
        stack.pack(ds.rename(buoyancy="bouyancy"))
    with pytest.raises(InputError, match="'x': expected 8 points, found 4"):
        stack.pack(ds.isel(x=slice(0, 4)))
    broken = ds.copy(deep=True)
    broken["pressure"][1, 3, 2, 2] = np.nan
    with pytest.raises(InputError, match=r"'pressure' has 1 values .* in sample 1, first at time index 3"):
        stack.pack(broken)
    with pytest.raises(InputError, match="'pressure'"):
        moments(broken, NAMES)
    with pytest.raises(InputError, match="no statistics of field"):
        FieldStack(SYSTEM.fields, SYSTEM.grid, stack.statistics.select(NAMES[:2]))
    with pytest.raises(ValueError, match="expected shape"):
        stack.unpack(torch.zeros(2, 3, 8, 6), {"time": None})
    with pytest.raises(ValueError, match="leading dims"):
        stack.unpack(torch.zeros(2, 4, 8, 6), {})


def test_statistics_equal_numpy_and_do_not_depend_on_chunks(ds):
    stats = statistics(ds.chunk(sample=1, time=2), NAMES, stride=2)
    for i, name in enumerate(NAMES):
        u = ds[name].values.astype(np.float64)
        assert stats.mean[i] == pytest.approx(u.mean())
        assert stats.std[i] == pytest.approx(u.std())
        assert stats.delta_std[i] == pytest.approx((u[:, 2:] - u[:, :-2]).std())
    assert Statistics.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def test_constant_fields_have_a_floor(ds):
    ds["pressure"][:] = 0.1
    ds["buoyancy"][:] = 0.0
    stats = statistics(ds, NAMES)
    assert stats.std[0] == 1.0 and stats.std[1] == pytest.approx(1e-7)
    assert FieldStack(SYSTEM.fields, SYSTEM.grid, stats).pack(ds)[:, :, :2].abs().max() < 0.1


def test_too_few_frames_and_missing_fields(ds):
    with pytest.raises(InputError, match="5 frames are too few for stride 5"):
        moments(ds, NAMES, stride=5)
    with pytest.raises(InputError, match=r"no field 'presure'.*'pressure'"):
        moments(ds, ["presure"])


def test_vectors_need_all_components():
    assert vector_fields(("b", "u_x", "u_y"), ("x", "y")) == {"b": ("b",), "u": ("u_x", "u_y")}
    assert vector_fields(("u_x",), ("x", "y")) == {"u_x": ("u_x",)}
