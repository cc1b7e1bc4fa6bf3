"""The sphere: area weights, WeatherBench 2's numbers by twins of its formulas, zonal and harmonic spectra."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import lpmv
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics import (
    acc,
    crps,
    harmonic_spectrum,
    latitude_weights,
    rmse,
    rmse_over_time,
    spectral_scores,
    zonal_spectrum,
)
from physinterp.metrics.weather import EARTH_RADIUS


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_poles(n: int) -> np.ndarray:
    return np.linspace(-90, 90, n)


def without_poles(n: int) -> np.ndarray:
    return -90 + (np.arange(n) + 0.5) * 180 / n


def gaussian(n: int) -> np.ndarray:
    return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(n)[0]))


GRIDS = [with_poles(19), without_poles(18), gaussian(18)]
ONE_POLE = with_poles(19)[1:]  # as the 720 rows of 721 that many models keep


@pytest.mark.parametrize("latitude", [*GRIDS, with_poles(181), without_poles(64), gaussian(32)])
def test_cells_of_weatherbench(latitude):
    radians = np.deg2rad(latitude)
    bounds = [-np.pi / 2, *((radians[1:] + radians[:-1]) / 2), np.pi / 2]
    area = np.array([math.sin(b) - math.sin(a) for a, b in pairwise(bounds)])
    np.testing.assert_allclose(latitude_weights(latitude), area / area.mean(), rtol=1e-12)
    order = np.random.default_rng(0).permutation(len(latitude))
    np.testing.assert_allclose(latitude_weights(latitude[order]), latitude_weights(latitude)[order], rtol=0, atol=0)
    np.testing.assert_allclose(latitude_weights(latitude[::-1].astype(np.float32)), (area / area.mean())[::-1], rtol=1e-4)


def test_kinds_of_weights_agree_where_they_should():
    latitude = without_poles(64)
    np.testing.assert_allclose(latitude_weights(latitude), latitude_weights(latitude, "cos"), rtol=1e-12)
    poles = with_poles(61)  # GraphCast's: sines of half steps, the poles' caps apart
    delta = np.deg2rad(3.0)
    area = np.cos(np.deg2rad(poles)) * np.sin(delta / 2)
    area[[0, -1]] = np.sin(delta / 4) ** 2
    np.testing.assert_allclose(latitude_weights(poles), area / area.mean(), rtol=1e-9)
    exact = np.polynomial.legendre.leggauss(16)[1] * 8
    np.testing.assert_allclose(latitude_weights(gaussian(16), "quadrature"), exact, rtol=1e-10)
    worst = np.abs(latitude_weights(gaussian(16)) / exact - 1).max()
    assert worst == pytest.approx(0.057, abs=0.001)  # what the cells miss


@pytest.mark.parametrize("latitude", [*GRIDS, ONE_POLE])
def test_quadrature_is_exact(latitude):
    w, x = latitude_weights(latitude, "quadrature"), np.sin(np.deg2rad(latitude))
    degree = 2 * len(x) if np.allclose(latitude, gaussian(len(x))) else len(x)
    for k in range(degree):
        assert (w * x**k).mean() == pytest.approx(0 if k % 2 else 1 / (k + 1), abs=1e-13)
    assert w.mean() == pytest.approx(1)


def test_mean_of_a_known_field():
    latitude = without_poles(90)
    field = torch.from_numpy(np.sin(np.deg2rad(latitude)) ** 2)[None, :, None].expand(1, 90, 4)
    w = latitude_weights(latitude)[:, None]
    assert float(rmse(field, torch.zeros_like(field), w)) == pytest.approx(math.sqrt(1 / 5), rel=1e-3)


@pytest.mark.parametrize(
    ("latitude", "kind", "message"),
    [
        (with_poles(19)[:-1], "cells", "kind='quadrature' where one pole is missing"),
        (np.arange(30, 71, 2.5), "cells", "kind='cos' for a region"),
        (np.arange(30, 71, 2.5), "quadrature", "no quadrature"),
        (with_poles(19), "cos", "on a pole no area"),
        (np.deg2rad(without_poles(9)) * 100, "cells", "from -90 to 90"),
        (np.array([0.0, 10.0, 10.0]), "cells", "found equal ones"),
        (np.zeros((2, 3)), "cells", "shape"),
        (without_poles(9), "area", "found 'area'"),
    ],
)
def test_latitudes_that_do_not_fit(latitude, kind, message):
    with pytest.raises(InputError, match=message):
        latitude_weights(latitude, kind)


def test_weights_of_a_region():
    w = latitude_weights(np.arange(30, 71, 2.5), "cos")
    assert w.mean() == pytest.approx(1) and w[0] / w[-1] == pytest.approx(math.cos(math.pi / 6) / math.cos(math.radians(70)))


def twin_mean(x: np.ndarray, w: np.ndarray) -> float:
    return sum(w[i] * x[i, j] for i in range(x.shape[0]) for j in range(x.shape[1])) / (w.sum() * x.shape[1])


def test_rmse_over_time_two_ways():
    u, v, latitude = normal(6, 2, 9, 4, seed=1), normal(6, 2, 9, 4, seed=2), with_poles(9)
    u[3] *= 3
    w = latitude_weights(latitude)
    mse = np.array([[twin_mean(((u - v)[t, c] ** 2).numpy(), w) for c in range(2)] for t in range(6)])
    after, before = (rmse_over_time(u, v, w[:, None], root=root) for root in ("after", "before"))
    np.testing.assert_allclose(after, np.sqrt(mse.mean(0)), rtol=1e-12)
    np.testing.assert_allclose(before, np.sqrt(mse).mean(0), rtol=1e-12)
    assert (before < after).all()
    moved = rmse_over_time(u[:, None].expand(6, 3, 2, 9, 4), v[:, None].expand(6, 3, 2, 9, 4), w[:, None], axis=0)
    torch.testing.assert_close(moved, after.expand(3, 2))
    with pytest.raises(InputError, match="leading axis"):
        rmse_over_time(u, v, axis=1)
    with pytest.raises(InputError, match="'after' or 'before'"):
        rmse_over_time(u, v, root="never")


def test_acc_and_crps_of_weatherbench():
    u, v, c = (normal(3, 2, 9, 4, seed=s) for s in (1, 2, 3))
    w = latitude_weights(with_poles(9))
    found = acc(u, v, w[:, None], climatology=c)
    x, y = normal(5, 2, 9, 4, seed=4), v[0]
    fair = crps(x, y, w[:, None])
    for k in range(2):
        for n in range(3):
            a, b = (u - c)[n, k].numpy(), (v - c)[n, k].numpy()
            scale = math.sqrt(twin_mean(a * a, w) * twin_mean(b * b, w))
            assert float(found[n, k]) == pytest.approx(twin_mean(a * b, w) / scale, rel=1e-12)
        e, members = x[:, k].numpy(), range(5)
        skill = np.mean([abs(e[m] - y[k].numpy()) for m in members], axis=0)
        spread = sum(abs(e[m] - e[n]) for m in members for n in members) / (5 * 4)
        assert float(fair[k]) == pytest.approx(twin_mean(skill - spread / 2, w), rel=1e-12)


@pytest.mark.parametrize("points", [8, 9])
@pytest.mark.parametrize("double", [False, True])
def test_zonal_spectrum_brute_force(points, double):
    x, latitude = normal(2, 3, 5, points), with_poles(5)[::-1]
    found = zonal_spectrum(x, latitude, double_nyquist=double)
    assert found.latitude.tolist() == pytest.approx([45, 0, -45])
    assert found.power.shape == (2, 3, 3, points // 2 + 1)
    for j, degrees in enumerate([45, 0, -45]):
        length = 2 * math.pi * 6367.5e3 * math.cos(math.radians(degrees))
        row = x[1, 2, j + 1].numpy()
        for k in range(points // 2 + 1):
            f = sum(row[n] * np.exp(-2j * np.pi * k * n / points) for n in range(points)) / points
            once = k == 0 or (2 * k == points and not double)
            assert float(found.power[1, 2, j, k]) == pytest.approx((1 if once else 2) * length * abs(f) ** 2, rel=1e-9)
            assert float(found.frequency[j, k]) == pytest.approx(k / length, rel=1e-12)


@pytest.mark.parametrize("points", [16, 15])
def test_zonal_parseval(points):
    x, latitude = normal(2, 9, points), without_poles(9)
    found = zonal_spectrum(x, latitude)
    length = 2 * math.pi * EARTH_RADIUS * torch.cos(torch.deg2rad(torch.from_numpy(latitude)))
    torch.testing.assert_close(found.power.sum(-1), length * x.square().mean(-1), rtol=1e-12, atol=0)
    doubled = zonal_spectrum(x, latitude, double_nyquist=True).power.sum(-1)
    assert ((doubled > found.power.sum(-1)) == (points % 2 == 0)).all()
    swapped = zonal_spectrum(x.transpose(-1, -2), latitude, latitude_axis=-1)
    assert torch.equal(swapped.power, found.power)


def test_zonal_spectrum_at_common_frequencies():
    x, latitude = normal(1, 4, 64), np.array([-60.0, -30.0, 30.0, 60.0])
    found = zonal_spectrum(x, latitude)
    at = found.at(found.frequency[1])
    torch.testing.assert_close(at[0, 1], found.power[0, 1], rtol=1e-9, atol=0)
    even = found.power[0, 0, : 64 // 2 // 2 + 1]
    half = found.frequency[0, 1] / 2 + found.frequency[0, :16]
    torch.testing.assert_close(found.at(half)[0, 0], (even[:-1] + even[1:17]) / 2, rtol=1e-9, atol=0)
    high = 2 * math.pi * EARTH_RADIUS * math.cos(math.pi / 6)
    assert found.at(torch.tensor([33 / high])).isnan()[0, :, 0].tolist() == [False, True, True, False]


def harmonic(l: int, m: int, latitude: np.ndarray, points: int, phase: float = 0.3) -> Tensor:  # noqa: E741
    """Y_lm of mean square 1 over the sphere."""
    scale = math.sqrt((2 * l + 1) * math.factorial(l - m) / math.factorial(l + m) * (2 if m else 1))
    row = scale * lpmv(m, l, np.sin(np.deg2rad(latitude)))
    longitude = 2 * np.pi * np.arange(points) / points
    return torch.from_numpy(row[:, None] * np.cos(m * longitude + (phase if m else 0.0)))[None]


@pytest.mark.parametrize("latitude", [*GRIDS, ONE_POLE])
@pytest.mark.parametrize(("l", "m"), [(0, 0), (1, 0), (1, 1), (2, 1), (5, 3), (8, 0), (8, 7), (8, 8)])
def test_a_single_harmonic(latitude, l, m):  # noqa: E741
    field = harmonic(l, m, latitude, 36)
    spectrum = harmonic_spectrum(2 * field, latitude)
    expected = torch.zeros_like(spectrum.energy)
    expected[0, l] = 4
    torch.testing.assert_close(spectrum.energy, expected, rtol=0, atol=1e-12)
    assert spectrum.counts.tolist() == [2 * n + 1 for n in range(len(spectrum.k))]
    assert len(spectrum.k) - 1 == (17 if np.allclose(latitude, gaussian(len(latitude))) else (len(latitude) - 1) // 2)


@pytest.mark.parametrize("latitude", [with_poles(19), gaussian(10)])
def test_harmonic_parseval(latitude):
    fields = [
        normal(1, seed=10 * n + m) * harmonic(n, m, latitude, 20, phase=n + m) for n in range(10) for m in range(n + 1)
    ]
    field = torch.stack(fields).sum(0)
    spectrum = harmonic_spectrum(field, latitude)
    w = torch.from_numpy(latitude_weights(latitude, "quadrature"))[:, None]
    torch.testing.assert_close(spectrum.energy.sum(-1), (field.square() * w).mean((-2, -1)), rtol=1e-12, atol=0)
    order = np.random.default_rng(0).permutation(len(latitude))
    shuffled = harmonic_spectrum(field[:, order].transpose(-1, -2), latitude[order], latitude_axis=-1)
    torch.testing.assert_close(shuffled.power, spectrum.power, rtol=1e-10, atol=1e-13)


def test_harmonics_of_high_degree():
    latitude = gaussian(180)
    x = np.sin(np.deg2rad(latitude))
    p = np.polynomial.legendre.legval(x, [0] * 179 + [math.sqrt(2 * 179 + 1)])
    zonal = torch.from_numpy(p)[None, :, None].expand(1, 180, 360)
    sectoral = np.ones(180)
    for m in range(1, 151):
        sectoral = sectoral * np.sqrt((2 * m + 1) / (2 * m)) * np.cos(np.deg2rad(latitude))
    wave = math.sqrt(2) * np.cos(150 * 2 * np.pi * np.arange(360) / 360)
    spectrum = harmonic_spectrum(zonal + torch.from_numpy(sectoral[:, None] * wave), latitude)
    expected = torch.zeros_like(spectrum.energy)
    expected[0, [150, 179]] = 1
    torch.testing.assert_close(spectrum.energy, expected, rtol=0, atol=1e-12)


def test_harmonic_spectra_are_scored_like_others():
    latitude = gaussian(32)
    v = normal(3, 2, 32, 64)
    scores = spectral_scores(harmonic_spectrum(2 * v, latitude), harmonic_spectrum(v, latitude))
    torch.testing.assert_close(scores["srmse"], torch.full((3, 2, 4), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("spectrum", [zonal_spectrum, harmonic_spectrum])
def test_borders(spectrum):
    with pytest.raises(InputError, match=r"with 9 latitudes on axis -2; found shape \(2, 8, 16\)"):
        spectrum(torch.zeros(2, 8, 16), without_poles(9))
    with pytest.raises(InputError, match="add a channel axis"):
        spectrum(torch.zeros(9, 16), without_poles(9))
    with pytest.raises(InputError, match="latitude_axis"):
        spectrum(torch.zeros(9, 2, 16), without_poles(9), latitude_axis=-3)
