"""Numbers of other programs: The Well itself where it is installed, brute-force twins elsewhere."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from physinterp.errors import InputError
from physinterp.metrics import (
    binned_spectral_mse,
    linf,
    mae,
    nmae,
    nrmse,
    pearson_well,
    rmse,
    srmse,
    srmse_pred,
    vrmse,
    vrmse_pooled,
)

COMPATIBLE = [vrmse_pooled, srmse_pred, pearson_well, binned_spectral_mse]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fields(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Forecast and truth (2, 3, 4, *shape): fields of unlike scales, with offsets."""
    scale = torch.tensor([1.0, 0.02, 5.0, 30.0]).reshape(4, *[1] * len(shape))
    v = scale * (normal(2, 3, 4, *shape, dtype=dtype) + 2)
    return v + 0.3 * scale * normal(2, 3, 4, *shape, seed=1, dtype=dtype), v


def well(u: Tensor, v: Tensor, space: int = 2) -> tuple[Tensor, Tensor, SimpleNamespace]:
    """Arguments of a metric of The Well: channels last."""
    return u.movedim(-space - 1, -1), v.movedim(-space - 1, -1), SimpleNamespace(n_spatial_dims=space)


def test_spatial_metrics_of_the_well():
    spatial = pytest.importorskip("the_well.benchmark.metrics.spatial")
    u, v = fields(32, 16)
    at = well(u, v)
    for ours, theirs in (
        (rmse(u, v), spatial.RMSE),
        (rmse(u, v).square(), spatial.MSE),
        (mae(u, v), spatial.MAE),
        (nmae(u, v, eps=1e-7), spatial.NMAE),
        (linf(u, v), spatial.LInfinity),
        (nrmse(u, v, eps=1e-7), spatial.NRMSE),
        (nrmse(u, v, eps=1e-7).square(), spatial.NMSE),
        (vrmse(u, v, eps=1e-7), spatial.VRMSE),
        (vrmse(u, v, eps=1e-7).square(), spatial.VMSE),
        (pearson_well(u, v), spatial.PearsonR),
    ):
        torch.testing.assert_close(ours, theirs.eval(*at), rtol=1e-10, atol=0)
    torch.testing.assert_close(vrmse(u, v)[:, :, 2:], spatial.VRMSE.eval(*at)[:, :, 2:], rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (15, 20), (8, 6, 10), (40,)])
def test_binned_spectral_mse_of_the_well(shape):
    spectral = pytest.importorskip("the_well.benchmark.metrics.spectral")
    u, v = fields(*shape)
    expected = spectral.binned_spectral_mse.eval(*well(u, v, len(shape)))
    for relative, name in ((False, "mse"), (True, "nmse")):
        found = binned_spectral_mse(u, v, relative=relative, space=len(shape))
        assert found.shape == (2, 3, 4, 3)
        for band in range(3):
            other = expected[f"spectral_error_{name}_per_bin_{band}"]
            torch.testing.assert_close(found[..., band], other, rtol=1e-6, atol=0)


def test_binned_spectral_mse_brute_force():
    u, v = normal(1, 8, 6, seed=1), normal(1, 8, 6, seed=2)
    found, i, j = binned_spectral_mse(u, v)[0], np.arange(8)[:, None], np.arange(6)
    edges = [0, *np.geomspace(2 * np.pi / 8, np.pi * math.sqrt(2) + 1e-6, 4)[1:]]
    energy = np.zeros(3)
    for a in range(-4, 4):
        for b in range(-3, 3):
            mode = ((u - v)[0].numpy() * np.exp(-2j * np.pi * (a * i / 8 + b * j / 6))).mean()
            k = 2 * np.pi * math.hypot(a / 8, b / 6)
            energy[next(n for n in range(3) if edges[n] <= k < edges[n + 1])] += abs(mode) ** 2
    np.testing.assert_allclose(found, energy, rtol=1e-10)
    torch.testing.assert_close(found.sum(-1), rmse(u, v)[0].square())  # Parseval


def test_pearson_well_of_a_field_with_itself():
    v = normal(2, 3, 8, 8) + 5
    torch.testing.assert_close(pearson_well(v, v), torch.full((2, 3), 63 / 64, dtype=torch.float64), rtol=1e-6, atol=0)
    assert (pearson_well(1e-4 * v, 1e-4 * v) < 0.95).all()
    assert (pearson_well(torch.ones_like(v), v) == 0).all()


@pytest.mark.parametrize("score", COMPATIBLE)
def test_borders(score):
    with pytest.raises(InputError, match=r"\(2, 3, 8, 8\) and \(2, 3, 8, 9\)"):
        score(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 9))
    with pytest.raises(InputError, match="unweighted"):
        score(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), torch.ones(8))


def test_vrmse_pooled():
    u, v = fields(16, 16)
    pooled = vrmse_pooled(u, v)
    assert pooled.shape == ()
    expected = math.sqrt(np.mean((u - v).numpy() ** 2) / (np.var(v.numpy(), ddof=1) + 1e-6))
    assert float(pooled) == pytest.approx(expected, rel=1e-12)
    assert float(pooled) < 0.6 * float(vrmse(u, v).mean())  # the variance between fields is in the denominator


def periodic(nx: int, ny: int, lx: float, ly: float) -> tuple[Tensor, Tensor]:
    x = torch.arange(nx, dtype=torch.float64) * lx / nx
    y = torch.arange(ny, dtype=torch.float64) * ly / ny
    return x[:, None], y[None, :]


def twin_of_srmse_pred(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The definition in float64 loops, for square grids whose edges do not suffer from float32."""
    size = u.shape[-1]
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f[None, :])
    edges = np.linspace(0, radius.max(), math.floor(math.sqrt(2) * size / 2) + 1)
    k = edges[1:]
    limits = k[0] * (0.5 / k[0]) ** (np.arange(4) / 3)
    fields = []
    for c in range(u.shape[1]):
        spectra = []
        for x in (u, v):
            p = (abs(np.fft.fft2(x[:, c], norm="ortho")) ** 2).mean(0)
            bins = [p[(low < radius - 1e-7) & (radius <= high + 1e-7)] for low, high in zip(edges, k, strict=False)]
            spectra.append(np.array([b.mean() if b.size else 0.0 for b in bins]))
        square = (1 - (spectra[1] + 1e-6) / (spectra[0] + 1e-6)) ** 2
        masks = [(a - 1e-7 <= k) & (k <= b + 1e-7) for a, b in pairwise(limits)]
        masks.append(k >= 0.5 - 1e-7)
        fields.append([math.sqrt(square[mask].mean()) for mask in masks])
    return np.mean(fields, axis=0)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_srmse_pred_brute_force(size):
    u, v = normal(3, 2, size, size, seed=1), normal(3, 2, size, size, seed=2)
    found = srmse_pred(u, v)
    assert found.shape == (4,)
    np.testing.assert_allclose(found, twin_of_srmse_pred(u.numpy(), v.numpy()), rtol=1e-9)
    torch.testing.assert_close(srmse_pred(u[:, None], v[:, None]), found)  # all leading axes are the batch


def test_srmse_pred_has_the_other_direction():
    v = normal(2, 1, 32, 32)
    assert (srmse_pred(torch.zeros_like(v), v) > 1e4).all()
    assert (srmse_pred(1e3 * v, v) < 1.001).all()
    assert torch.isfinite(srmse_pred(v[0], v[0])).all()  # no leading axis at all


def test_srmse_pred_keeps_the_float32_edges():
    base = normal(1, 1, 48, 48)
    x, _ = periodic(48, 48, 1.0, 1.0)
    changed = base + 3 * torch.sin(2 * math.pi * x)  # in the first bin alone
    assert float(srmse_pred(changed, base)[0]) < 1e-12  # which drops out of low at this size
    assert float(srmse(changed, base)[0, 0, 0]) > 0
