"""The Kolmogorov solver against runs of another program, its order, invariances and errors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from physinterp.solvers.kolmogorov import KolmogorovFlow

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
REFERENCE = SHARED / "kolmogorov_apebench" / "kolmogorov_solver_reference.h5"
needs_reference = pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no reference data at {REFERENCE}")


def initial(n: int) -> torch.Tensor:
    x = torch.arange(n, dtype=torch.float64)[:, None] * (2 * math.pi / n)
    y = x.T
    w = 2 * torch.sin(x + 0.3) * torch.cos(2 * y) + 1.5 * torch.cos(2 * x - y + 0.7) + torch.sin(3 * y + 0.2)
    return w[None]


def distances(viscosity: float, n: int, end: float) -> np.ndarray:
    """Relative L2 distances to the converged reference at its output times."""
    solver = KolmogorovFlow((n, n), viscosity)
    state, now, found = solver.state(initial(n)), 0.0, []
    with h5py.File(REFERENCE) as file:
        for t, truth in zip(file["t"][:], file[f"nu_{viscosity}/w_converged"][:], strict=True):
            if t > end:
                break
            state = solver.advance(state, t - now) if t > now else state
            now = t
            w = solver.output(state)[0, 0, :: n // 64, :: n // 64].numpy()
            found.append(np.linalg.norm(w - truth) / np.linalg.norm(truth))
    assert float(state["time"]) == pytest.approx(now)
    return np.array(found)


@needs_reference
def test_viscous_flow_agrees_with_the_reference():
    assert distances(0.05, 64, 10.0).max() < 2e-5


@needs_reference
def test_turbulent_flow_agrees_with_the_reference():
    assert distances(0.01, 128, 4.0).max() < 1e-3


@needs_reference
@pytest.mark.slow
def test_turbulent_flow_agrees_with_the_reference_at_its_resolution():
    assert distances(0.01, 192, 10.0).max() < 1e-4


def test_order_is_four():
    def final(step: float) -> torch.Tensor:
        solver = KolmogorovFlow((32, 32), 0.02, cfl=1e9, max_step=step)
        return solver.output(solver.advance(solver.state(initial(32)), 1.0))

    exact = final(0.1 / 64)
    errors = [float((final(0.1 / n) - exact).norm()) for n in (2, 4, 8)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 3.8 and max(orders) < 4.5


def test_decay_without_advection_is_exact():
    # a wave of wavenumber m along y is a steady solution of advection: dw/dt = -(nu m^2 + mu) w - [m = k] k
    solver = KolmogorovFlow((16, 16), viscosity=0.1, drag=0.2, forcing_mode=2)
    y = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    state = solver.advance(solver.state(torch.cos(2 * y).expand(1, 16, 16)), 3.0)
    rate = 0.1 * 4 + 0.2
    expected = math.exp(-3 * rate) - 2 * (1 - math.exp(-3 * rate)) / rate
    torch.testing.assert_close(solver.output(state)[0, 0, 0], expected * torch.cos(2 * y))


def test_a_trajectory_depends_on_its_own_seed():
    solver = KolmogorovFlow((32, 32))
    batch, alone = solver.initial([3, 1, 2]), solver.initial([2])
    assert torch.equal(batch["spectrum"][2], alone["spectrum"][0])
    batch, alone = solver.advance(batch, 2.0), solver.advance(alone, 2.0)
    torch.testing.assert_close(batch["spectrum"][2], alone["spectrum"][0], rtol=1e-9, atol=1e-9)


def test_initial_states_are_normalised_and_the_same_on_every_grid():
    coarse = KolmogorovFlow((32, 32)).output(KolmogorovFlow((32, 32)).initial(range(4)))
    assert coarse.abs().amax((1, 2, 3)) == pytest.approx(np.ones(4))
    assert coarse.mean((1, 2, 3)) == pytest.approx(np.zeros(4), abs=1e-12)
    fine = KolmogorovFlow((64, 64)).output(KolmogorovFlow((64, 64)).initial(range(4)))[:, :, ::2, ::2]
    scale = (coarse * fine).sum((1, 2, 3)) / (fine * fine).sum((1, 2, 3))
    torch.testing.assert_close(coarse, scale[:, None, None, None] * fine)


def test_a_shift_along_x_commutes_with_the_flow():
    solver = KolmogorovFlow((32, 32))
    state = solver.initial([5])
    w = solver.output(state)[:, 0]
    shifted = solver.advance(solver.state(w.roll(7, 1)), 1.0)
    torch.testing.assert_close(solver.output(shifted), solver.output(solver.advance(state, 1.0)).roll(7, 2))


def test_resuming_from_bytes_is_bitwise():
    solver = KolmogorovFlow((32, 32))
    half = solver.advance(solver.initial([1, 2]), 0.5)
    again = KolmogorovFlow((32, 32)).advance(load(save(half)), 0.5)
    assert torch.equal(again["spectrum"], solver.advance(half, 0.5)["spectrum"])


def test_float32_follows_float64():
    double, single = KolmogorovFlow((32, 32)), KolmogorovFlow((32, 32), dtype=torch.float32)
    a, b = double.advance(double.initial([1]), 1.0), single.advance(single.initial([1]), 1.0)
    assert single.output(b).dtype == torch.float32
    torch.testing.assert_close(single.output(b).double(), double.output(a), rtol=0, atol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="too coarse"):
        KolmogorovFlow((8, 8))
    solver = KolmogorovFlow((16, 16))
    with pytest.raises(ValueError, match=r"expected vorticity of shape \(B, 16, 16\)"):
        solver.state(torch.zeros(16, 16))
    state = solver.state(torch.zeros(2, 16, 16, dtype=torch.float64))
    state["spectrum"][1, 1, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"trajectory 1 is not finite at t = 0 .*lower cfl"):
        solver.advance(state, 1.0)
