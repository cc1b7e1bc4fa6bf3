"""Spectra and spectral scores: Parseval, single sines, brute-force twins, bands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics import BANDS, coherence, log_spectral_distance, power_spectrum, spectral_scores, srmse
from physinterp.metrics.spectral import FLOOR, bands

GRIDS = [
    ((16, 16), None),
    ((15, 15), 0.1),
    ((32, 8), (0.125, 0.125)),
    ((12, 20), (0.3, 0.1)),
    ((7, 16), (2.0, 0.5)),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(n: int) -> Tensor:
    """Weights of mean 1 along an axis that is not uniform."""
    return torch.linspace(0.5, 1.5, n, dtype=torch.float64)


def periodic(nx: int, ny: int, lx: float, ly: float) -> tuple[Tensor, Tensor]:
    x = torch.arange(nx, dtype=torch.float64) * lx / nx
    y = torch.arange(ny, dtype=torch.float64) * ly / ny
    return x[:, None], y[None, :]


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_parseval_isotropic(shape, spacing):
    x = normal(2, 3, *shape) + 4
    spectrum = power_spectrum(x, spacing=spacing)
    mean_square = x.square().mean((-2, -1))
    torch.testing.assert_close(spectrum.energy.sum(-1), mean_square, rtol=1e-12, atol=0)
    assert int(spectrum.counts.sum()) == math.prod(shape)
    assert (spectrum.counts > 0).all()
    torch.testing.assert_close(spectrum.energy[..., 0], x.mean((-2, -1)).square(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("nx", [16, 17])
def test_parseval_along_one_axis(nx):
    x, w = normal(2, 3, nx, 12) + 4, uneven(12)
    spectrum = power_spectrum(x, w, axes=(-2,), spacing=4 / nx)
    expected = (x.square() * w).mean((-2, -1))
    torch.testing.assert_close(spectrum.energy.sum(-1), expected, rtol=1e-12, atol=0)
    assert spectrum.power.shape == (2, 3, nx // 2 + 1)
    assert spectrum.counts.tolist() == [1] + [2] * ((nx - 1) // 2) + [1] * (nx % 2 == 0)  # Nyquist is not doubled
    torch.testing.assert_close(spectrum.k, 2 * math.pi / 4 * torch.arange(nx // 2 + 1, dtype=torch.float64))


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_isotropic_brute_force(shape, spacing):
    x = normal(1, *shape)
    nx, ny = shape
    dx, dy = (spacing, spacing) if not isinstance(spacing, tuple) else spacing
    dx, dy = dx or 1.0, dy or 1.0
    longest = max(nx * dx, ny * dy)
    shells: dict[int, list[float]] = {}
    i, j = np.arange(nx)[:, None], np.arange(ny)[None, :]
    for a in range(-((nx - 1) // 2), nx // 2 + 1):
        for b in range(-((ny - 1) // 2), ny // 2 + 1):
            wave = np.exp(-2j * np.pi * (a * i / nx + b * j / ny))
            power = abs((x[0].numpy() * wave).mean()) ** 2
            radius = math.hypot(a * longest / (nx * dx), b * longest / (ny * dy))
            shells.setdefault(math.floor(radius + 0.5), []).append(power)
    spectrum = power_spectrum(x, spacing=spacing)
    numbers = sorted(shells)
    np.testing.assert_allclose(spectrum.k, 2 * np.pi / longest * np.array(numbers), rtol=1e-12)
    np.testing.assert_allclose(spectrum.power[0], [np.mean(shells[n]) for n in numbers], rtol=1e-10)
    np.testing.assert_allclose(spectrum.energy[0], [np.sum(shells[n]) for n in numbers], rtol=1e-10)
    assert spectrum.nyquist == pytest.approx(math.pi / max(dx, dy))


@pytest.mark.parametrize(
    ("nx", "ny", "lx", "ly"),
    [(32, 32, 2 * math.pi, 2 * math.pi), (128, 32, 4.0, 1.0), (64, 64, 4.0, 1.0), (16, 64, 1.0, 4.0)],
)
@pytest.mark.parametrize(("a", "b"), [(3, 0), (0, 2), (4, 3)])
def test_a_sine_lands_in_its_shell(nx, ny, lx, ly, a, b):
    x, y = periodic(nx, ny, lx, ly)
    field = 1.5 * torch.sin(2 * math.pi * (a * x / lx + b * y / ly) + 0.3)
    spectrum = power_spectrum(field[None], spacing=(lx / nx, ly / ny))
    shell = int(spectrum.energy[0].argmax())
    assert float(spectrum.energy[0, shell]) == pytest.approx(1.5**2 / 2, rel=1e-12)
    assert float(spectrum.energy[0].sum()) == pytest.approx(1.5**2 / 2, rel=1e-12)
    k = 2 * math.pi * math.hypot(a / lx, b / ly)
    assert abs(float(spectrum.k[shell]) - k) <= 0.5 * float(spectrum.k[1]) * (1 + 1e-12)
    if a == 0 or b == 0:
        assert float(spectrum.k[shell]) == pytest.approx(k, rel=1e-12)


def test_a_sine_along_x_in_a_channel():
    nx, y, w = 32, torch.linspace(0, 1, 16, dtype=torch.float64), uneven(16)
    x = torch.arange(nx, dtype=torch.float64)[:, None] * 4 / nx
    field = 2 * torch.cos(2 * math.pi * 5 * x / 4) * y**2
    spectrum = power_spectrum(field[None], w, axes=(-2,), spacing=4 / nx)
    expected = 2 * float((w * y**4).mean())  # A^2/2 times the weighted mean of y^4
    assert float(spectrum.energy[0, 5]) == pytest.approx(expected, rel=1e-12)
    assert float(spectrum.k[5]) == pytest.approx(2 * math.pi * 5 / 4)


def test_white_noise_is_flat():
    spectrum = power_spectrum(normal(200, 1, 16, 16))
    flat = spectrum.power.mean((0, 1)) * 256
    error = 1 / np.sqrt(200 * spectrum.counts.numpy() / 2)
    assert (abs(flat.numpy() - 1) < 4.5 * error).all()


def test_one_space_axis():
    x = normal(3, 2, 20)
    spectrum = power_spectrum(x, axes=(-1,), space=1)
    torch.testing.assert_close(spectrum.power, torch.fft.rfft(x, norm="forward").abs().square())


@pytest.mark.parametrize("score", [srmse, log_spectral_distance, coherence])
def test_band_scores_have_a_band_axis(score):
    u, v = normal(2, 3, 4, 16, 16, seed=1), normal(2, 3, 4, 16, 16, seed=2)
    whole = score(u, v)
    assert whole.shape == (2, 3, 4, len(BANDS))
    torch.testing.assert_close(whole[1, 2, 3], score(u[1, 2, 3:], v[1, 2, 3:])[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(score(v, v), torch.full_like(whole, float(score is coherence)), rtol=0, atol=1e-14)
    assert whole.dtype == torch.float64


@pytest.mark.parametrize("eps", [FLOOR, 0.3])
@pytest.mark.parametrize("axes", [(-2, -1), (-2,)])
def test_scores_brute_force(axes, eps):
    u, v, w = normal(2, 16, 12, seed=1), 3 * normal(2, 16, 12, seed=2) + 5, uneven(12)
    weights = w if axes == (-2,) else None
    options = {"axes": axes, "spacing": 0.5}
    found = [score(u, v, weights, eps=eps, **options) for score in (srmse, log_spectral_distance)]
    p, q = (power_spectrum(x, weights, **options) for x in (u, v))
    lowest = float(p.k[1])
    r = p.nyquist / lowest
    for c in range(2):
        modes = int(q.counts[1:].sum())
        floor = eps * float(q.energy[c, 1:].sum()) / modes
        inside: dict[str, list[tuple[float, float]]] = {band: [] for band in BANDS}
        for n in range(1, len(p.k)):
            kappa = float(p.k[n]) / lowest
            ratio = (float(p.power[c, n]) + floor) / (float(q.power[c, n]) + floor)
            for band, low, high in zip(BANDS, (0, 1, 2), (1, 2, 3), strict=False):
                last = band == "high" and abs(kappa - r) < 1e-6
                if r ** (low / 3) - 1e-9 <= kappa < r ** (high / 3) - 1e-9 or last:
                    inside[band].append(((1 - ratio) ** 2, math.log10(ratio) ** 2))
            inside["total"].append(((1 - ratio) ** 2, math.log10(ratio) ** 2))
        for b, band in enumerate(BANDS):
            for s in (0, 1):
                expected = math.sqrt(np.mean([pair[s] for pair in inside[band]]))
                assert float(found[s][c, b]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize("axes", [(-2, -1), (-2,)])
def test_coherence_brute_force(axes, phases):
    u, v, w = normal(2, 16, 12, seed=1), 3 * normal(2, 16, 12, seed=2) + 5, uneven(12)
    weights = w if axes == (-2,) else None
    found = coherence(u, v, weights, axes=axes, spacing=0.5, phases=phases)
    spectrum = power_spectrum(v, weights, axes=axes, spacing=0.5)
    lowest, a, b = float(spectrum.k[1]), *(np.fft.fftn(x.numpy(), axes=axes, norm="forward") for x in (u, v))
    sizes = [(16 if axis == -2 else 12) for axis in axes]
    waves = np.meshgrid(*[2 * np.pi * np.fft.fftfreq(n, 0.5) for n in sizes], indexing="ij")
    shell = np.floor(np.sqrt(sum(k**2 for k in waves)) / lowest + 0.5).astype(int)
    for c in range(2):
        ratio = []
        for n in range(1, shell.max() + 1):
            sums = np.zeros(3)
            for index in zip(*np.nonzero(shell == n), strict=True):
                for j in range(12) if weights is not None else [None]:
                    at = (c, *index) if j is None else (c, *index, j)
                    f, g, q = a[at], b[at], 1.0 if j is None else float(w[j])
                    cross = (f * g.conjugate()).real if phases else abs(f * g.conjugate())
                    sums += q * np.array([cross, abs(f) ** 2, abs(g) ** 2])
            ratio.append(sums[0] / math.sqrt(sums[1] * sums[2]))
        assert float(found[c, 3]) == pytest.approx(np.mean(ratio), rel=1e-9)


def test_coherence_and_phases():
    v = normal(2, 1, 64, 64)
    other, moved = normal(2, 1, 64, 64, seed=5), v.roll((3, 11), (-2, -1))
    torch.testing.assert_close(coherence(moved, v), torch.ones(2, 1, 4, dtype=torch.float64))  # phases do not count
    assert (coherence(moved, v, phases=True)[..., 2] < 0.1).all()
    torch.testing.assert_close(coherence(-2 * v, v, phases=True), -torch.ones(2, 1, 4, dtype=torch.float64))
    assert coherence(other, v)[..., 2].tolist() == pytest.approx(np.full((2, 1), math.pi / 4), abs=0.02)
    assert coherence(other, v, phases=True)[..., 2].abs().max() < 0.05
    low = torch.fft.irfft2(torch.fft.rfft2(v)[..., :4], s=(64, 64))  # small scales lost along y
    assert coherence(low, v, phases=True)[0, 0, 0] > 0.9 > coherence(low, v, phases=True)[0, 0, 2]


def test_spectral_scores_of_spectra_at_hand():
    u, v = normal(2, 3, 16, 16, seed=1), normal(2, 3, 16, 16, seed=2)
    scores = spectral_scores(power_spectrum(u), power_spectrum(v))
    assert torch.equal(scores["srmse"], srmse(u, v))
    assert torch.equal(scores["log_spectral_distance"], log_spectral_distance(u, v))


def test_the_order_of_the_axes_does_not_matter():
    x = normal(2, 16, 12)
    one, other = power_spectrum(x, spacing=(0.5, 0.25)), power_spectrum(x, axes=(-1, -2), spacing=(0.25, 0.5))
    assert torch.equal(one.k, other.k) and torch.equal(one.counts, other.counts)
    torch.testing.assert_close(one.power, other.power, rtol=1e-12, atol=0)


def test_window():
    noise = power_spectrum(normal(200, 1, 16, 16), window="hann").power.mean((0, 1)) * 256
    torch.testing.assert_close(noise[3:9], torch.ones_like(noise[3:9]), rtol=0.1, atol=0)
    ramp = torch.linspace(0, 1, 128, dtype=torch.float64)[None] + 100
    plain, tapered = (power_spectrum(ramp, axes=(-1,), space=1, window=w) for w in (None, "hann"))
    assert float(tapered.energy[0, 20:].sum() / plain.energy[0, 20:].sum()) < 1e-4  # the jump between the ends leaks
    assert float(tapered.energy[0, 0]) < 1e-20
    wave = torch.sin(2 * math.pi * 10.5 * torch.arange(128, dtype=torch.float64) / 128)[None]
    assert float(power_spectrum(wave, axes=(-1,), space=1, window="hann").energy.sum()) == pytest.approx(0.5, rel=0.01)


def test_missing_and_surplus_energy():
    v = normal(1, 32, 32)
    torch.testing.assert_close(srmse(torch.zeros_like(v), v), torch.ones(1, 4, dtype=torch.float64))
    torch.testing.assert_close(srmse(3 * v, v), torch.full((1, 4), 8.0, dtype=torch.float64))
    half = log_spectral_distance(v / math.sqrt(2), v)
    torch.testing.assert_close(half, torch.full((1, 4), math.log10(2), dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(log_spectral_distance(v * math.sqrt(2), v), half, rtol=1e-9, atol=0)


def test_error_stays_in_its_band():
    x, _ = periodic(32, 32, 1.0, 1.0)
    v = normal(1, 32, 32)
    bands = []
    for wave in (1, 4, 10):
        mode = torch.sin(2 * math.pi * wave * x)
        amplitude = 2 * (v * mode).mean()
        bands.append((srmse(v + 5 * amplitude * mode, v)[0, :3] > 1e-9).tolist())
    assert bands == [[True, False, False], [False, True, False], [False, False, True]]


def test_band_edges_are_exact():
    for n in range(6, 513):  # every square size: no band empty, nothing counted twice, k_1 in low, Nyquist in high
        corner = math.floor(math.hypot(n // 2, n // 2) + 0.5)
        k = 2 * math.pi / (0.1 * n) * torch.arange(1, corner + 1, dtype=torch.float64)
        low, mid, high, total = bands(k, math.pi / 0.1)
        assert low[0] and low.any() and mid.any() and high.any() and total.all()
        assert (low.int() + mid.int() + high.int() == (torch.arange(1, corner + 1) <= n // 2).int()).all()
    k = torch.arange(1, 91, dtype=torch.float64)
    assert [int(band.sum()) for band in bands(k, 64.0)] == [3, 12, 49, 90]  # edges at 4 and 16 belong above


def test_empty_band_is_nan():
    found = srmse(normal(1, 4, 4, seed=1), normal(1, 4, 4, seed=2))
    assert torch.isnan(found[0]).tolist() == [False, True, False, False]


def test_floor():
    x, _ = periodic(32, 32, 1.0, 1.0)
    v = torch.sin(2 * math.pi * x).expand(1, 32, 32)
    rounded = v.to(torch.float32)
    assert (srmse(rounded, v) < 1e-2).all()  # float32 rounding is no error
    assert not float(srmse(rounded, v, eps=0.0)[0, 3]) < 1  # without a floor it is, or is undefined
    u = v + 1e-3 * normal(1, 32, 32)
    torch.testing.assert_close(srmse(1e5 * u, 1e5 * v), srmse(u, v))  # no units
    constant = torch.ones(1, 8, 8)
    assert torch.isnan(srmse(constant, constant)).all()
    assert torch.isinf(srmse(normal(1, 8, 8), constant)).all()


def test_channel_needs_one_axis():
    u, v, w = normal(1, 16, 12, seed=1), normal(1, 16, 12, seed=2), uneven(12)
    with pytest.raises(ValueError, match="weights vary along axis -1"):
        srmse(u, v, w)
    assert torch.isfinite(srmse(u, v, w, axes=(-2,))).all()
    assert torch.isfinite(srmse(u, v, torch.ones(12))).all()


def test_border_errors():
    x = normal(1, 8, 8)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\) and \(1, 8, 9\)"):
        srmse(x, normal(1, 8, 9))
    for axes in [(), (0, 1), (-3,), (-1, -1)]:
        with pytest.raises(ValueError, match="distinct negative"):
            power_spectrum(x, axes=axes)
    with pytest.raises(ValueError, match="two points"):
        power_spectrum(x[:, :1])
    for spacing in [(1.0, 2.0, 3.0), 0.0, (-1.0, 1.0), math.nan]:
        with pytest.raises(ValueError, match="spacing"):
            power_spectrum(x, spacing=spacing)
    with pytest.raises(InputError, match="window must be None or 'hann'"):
        power_spectrum(x, window="hamming")


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    factor=st.floats(1e-3, 1e3),
)
def test_translation_and_scale(seed, shift, factor):
    u, v = normal(1, 10, 12, seed=seed), normal(1, 10, 12, seed=seed + 1)
    for score in (srmse, log_spectral_distance):
        expected = score(u, v)
        moved = score(u.roll(shift, (-2, -1)), v)
        torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-10)  # phases do not count
        torch.testing.assert_close(score(factor * u, factor * v), expected, rtol=1e-8, atol=1e-10)
