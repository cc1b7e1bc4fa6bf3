"""The pre-flight: ratios rise with the stride, decorrelation of a known process, suggestions."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import xarray as xr

from physinterp.data.preflight import preflight
from physinterp.errors import InputError


def series(persistence: float, frames: int = 400, samples: int = 6, size: int = 16, seed: int = 0) -> xr.Dataset:
    """Smooth fields whose Fourier modes are AR(1) processes: correlation persistence^lag."""
    rng = np.random.default_rng(seed)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size)))
    colour = 1 / (1 + k) ** 2

    def draw() -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(rng.standard_normal((samples, size, size))) * colour).real

    u = [draw()]
    for _ in range(frames - 1):
        u.append(persistence * u[-1] + np.sqrt(1 - persistence**2) * draw())
    dims = ("sample", "time", "y", "x")
    values = np.stack(u, 1).astype(np.float32)
    return xr.Dataset({"u": (dims, 5 + 3 * values), "v": (dims, values)}, {"time": np.arange(frames)}).chunk(
        time=64, sample=1
    )


def test_ratios_rise_with_the_stride():
    found = preflight(series(0.97), ["u", "v"])
    assert [r.stride for r in found.rows] == [1, 2, 4, 8, 16, 32, 64]
    for name in ("change", "path", "swd", "mmd", "sigma"):
        values = [getattr(r, name) for r in found.rows]
        known = values[:5] if name in ("swd", "mmd") else values[:6]  # then they are at the floor of so many states
        assert all(a < b for a, b in itertools.pairwise(known)) and min(values[5:]) > values[3], (name, values)
    assert found.rows[0].swd < 0.5 and found.rows[0].mmd < 0.5
    for row in found.rows[:5]:
        assert row.correlation == pytest.approx(0.97**row.stride, abs=0.08)
        assert row.sigma == pytest.approx(np.sqrt(1 - 0.97 ** (2 * row.stride)), abs=0.08)
    assert found.decorrelation == pytest.approx(np.log(0.5) / np.log(0.97), rel=0.25)
    assert found.stride == 2 and found.steps == 2 and "nearer to the next state than noise" in found.advice


@pytest.mark.parametrize(
    ("persistence", "steps", "advice"), [(0.8, 5, "frames are far apart"), (0.1, 10, "almost independent")]
)
def test_frames_that_are_far_apart(persistence, steps, advice):
    found = preflight(series(persistence, 100), ["u", "v"])
    assert (found.stride, found.steps) == (1, steps) and advice in found.advice


def test_constant_fields_and_few_frames():
    ds = series(0.9, 5, 2)
    ds["v"] = ds.v * 0 + 2
    assert np.isfinite(preflight(ds, ["u", "v"]).rows[0].path)
    with pytest.raises(InputError, match="2 frames are too few"):
        preflight(ds.isel(time=slice(2)), ["u"])
    with pytest.raises(InputError, match=r"a.h5: field 'u' has 256 values that are not finite in sample 0.*\(t = 1\)"):
        preflight(ds.where(ds.time != 1).assign_attrs(path="a.h5"), ["u"])


def test_it_is_quick():
    ds = series(0.97, 100, 4, 64)
    begun = time.perf_counter()
    preflight(ds, ["u", "v"])
    assert time.perf_counter() - begun < 10
