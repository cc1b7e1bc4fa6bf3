"""Physical quantities: closed forms, the solvers' own diagnostics, budgets that close."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from physinterp.errors import InputError
from physinterp.grid import Axis, Grid
from physinterp.metrics import (
    convection_budget,
    derivative,
    divergence,
    enstrophy,
    kinetic_energy,
    kolmogorov_budget,
    nusselt,
    velocity_of,
    vorticity_of,
    wall_error,
)
from physinterp.solvers.kolmogorov import KolmogorovFlow
from physinterp.solvers.rayleigh_benard import RayleighBenard
from physinterp.system import load_system

BOX = Grid((Axis("x", 32, 0.0, 2 * math.pi, "periodic"), Axis("y", 24, 1.0, 3.0, "periodic")))
CHANNEL = Grid((Axis("x", 32, 0.0, 4.0, "periodic"), Axis("y", 24, 0.0, 1.0, "wall", "chebyshev")))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(grid: Grid) -> tuple[Tensor, Tensor]:
    x, y = (torch.from_numpy(axis.points) for axis in grid.axes)
    return x[:, None], y[None, :]


def close(a: Tensor, b: Tensor | float, atol: float = 1e-10) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=torch.float64).expand_as(a), rtol=0, atol=atol)


@pytest.mark.parametrize("grid", [BOX, CHANNEL, BOX.with_shape((31, 25))])
def test_derivatives_are_exact(grid):
    (x, y), (lx, ly) = points(grid), (axis.length for axis in grid.axes)
    kx, ky = 2 * math.pi * 3 / lx, 2 * math.pi * 2 / ly
    field = torch.sin(kx * x + 0.3) * torch.cos(ky * y)
    close(derivative(field, grid, -2), kx * torch.cos(kx * x + 0.3) * torch.cos(ky * y))
    close(derivative(field, grid, -1), -ky * torch.sin(kx * x + 0.3) * torch.sin(ky * y), 1e-7)
    both = derivative(field.expand(2, 3, *grid.shape), grid, -1)
    assert both.shape == (2, 3, *grid.shape) and both.dtype == torch.float64


def test_derivative_of_polynomials():
    _, y = points(CHANNEL)
    for n in (0, 1, 7, 23):
        field = (y**n).expand(CHANNEL.shape)
        close(derivative(field, CHANNEL, -1), n * y ** max(n - 1, 0) if n else 0.0, 1e-9)


def test_kinetic_energy_and_enstrophy():
    x, y = points(BOX)
    k = 2 * math.pi / 3
    psi = torch.sin(2 * x) * torch.cos(k * y)
    velocity = torch.stack([-k * torch.sin(2 * x) * torch.sin(k * y), -2 * torch.cos(2 * x) * torch.cos(k * y)])
    close(kinetic_energy(velocity, BOX), (4 + k**2) / 8)
    close(enstrophy(-(4 + k**2) * psi, BOX), (4 + k**2) ** 2 / 8)
    close(vorticity_of(velocity, BOX), -(4 + k**2) * psi)
    close(velocity_of(-(4 + k**2) * psi, BOX), velocity)
    close(divergence(velocity, BOX), 0.0)


def test_kinetic_energy_carries_the_weights():
    _, y = points(CHANNEL)
    velocity = torch.stack([(y**3).expand(CHANNEL.shape), torch.zeros(CHANNEL.shape)])
    close(kinetic_energy(velocity, CHANNEL), 1 / 14)


def test_vorticity_and_velocity_are_inverse():
    w = torch.fft.irfft2(torch.fft.rfft2(normal(2, 5, 32, 24))[..., :12], s=(32, 24))
    modes = torch.fft.rfft2(w)
    modes[..., 16, :] = modes[..., 0, 0] = 0
    w = torch.fft.irfft2(modes, s=(32, 24))
    close(vorticity_of(velocity_of(w, BOX), BOX), w)
    assert velocity_of(w, BOX).shape == (2, 5, 2, 32, 24)


def test_divergence_of_known_fields():
    x, y = points(CHANNEL)
    zero = torch.zeros(CHANNEL.shape, dtype=torch.float64)
    k = 2 * math.pi / 4
    wave = torch.sin(k * x).expand(CHANNEL.shape)
    close(divergence(torch.stack([wave, zero]), CHANNEL), 1.0)  # compression alone
    close(divergence(torch.stack([zero, wave]), CHANNEL), 0.0)  # shear alone
    pair = torch.stack([wave, (y**2).expand(CHANNEL.shape)])  # gradient k cos, 2 y: mean squares k^2/2 and 4/3
    close(divergence(pair, CHANNEL), 1.0)  # the cross term k cos(kx) 2 y has no mean
    mixed = torch.stack([wave + y**2, zero])
    close(divergence(mixed, CHANNEL), math.sqrt(k**2 / 2 / (k**2 / 2 + 4 / 3)))
    assert float(divergence(normal(2, 64, 64), BOX.with_shape((64, 64)))) == pytest.approx(math.sqrt(0.5), abs=0.2)
    assert divergence(torch.ones(2, 32, 24), CHANNEL).isnan()


def test_wall_error():
    x, y = points(CHANNEL)
    fields = torch.stack([
        1 - y + 0.1 * torch.sin(math.pi * x / 2) * (1 - y),  # departs by 0.1 sin at the lower wall
        (y * (1 - y)).expand(CHANNEL.shape),
        (0.3 + 0 * x * y),
    ])  # fmt: skip
    values = [[1, 0], [0, 0], [math.nan, 0.5]]
    found = wall_error(fields.expand(2, 3, *CHANNEL.shape), CHANNEL, values)
    assert found.shape == (2, 3, 2)
    close(found[0, :2], torch.tensor([[0.1 / math.sqrt(2), 0], [0, 0]], dtype=torch.float64))
    assert found[1, 2, 0].isnan() and float(found[1, 2, 1]) == pytest.approx(0.2)
    line = Grid(CHANNEL.axes[1:])
    close(wall_error(fields[:, 0], line, [[1, 0], [0, 0], [0, 0]])[2], 0.3)


def test_nusselt_of_conduction_is_one():
    _, y = points(CHANNEL)
    b = (1 - y).expand(2, *CHANNEL.shape)
    for number in nusselt(b, torch.zeros(2, 2, *CHANNEL.shape), CHANNEL, 1e6, 0.7):
        close(number, torch.ones(2, dtype=torch.float64))
    found = nusselt(b, torch.ones(2, 2, *CHANNEL.shape), CHANNEL, torch.tensor([1e4, 1e6]), 1.0)
    close(found.volume, torch.tensor([1 + 50.0, 1 + 500.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def convection() -> tuple[RayleighBenard, Grid, Tensor, dict[str, Tensor], float]:
    """Frames (B, T, 4, *S) of a steady roll that still grows, and the solver's own diagnostics."""
    solver = RayleighBenard((32, 24), rayleigh=[2e4, 5e4], prandtl=[1.0, 0.5])
    grid = load_system("rbc").grid.with_shape(solver.shape)
    x, y = points(grid)
    b = 1 - y + 0.3 * torch.sin(math.pi * y) * torch.cos(math.pi * x + 0.3)
    state, dt = solver.advance(solver.state(b.expand(2, *solver.shape)), 6.0), 0.1
    frames, numbers = [], []
    for _ in range(5):
        frames.append(solver.output(state))
        numbers.append(solver.diagnostics(state))
        state = solver.advance(state, dt)
    return solver, grid, torch.stack(frames, 1), {n: torch.stack([d[n] for d in numbers], 1) for n in numbers[0]}, dt


def test_the_solver_of_convection_agrees(convection):
    solver, grid, frames, known, _ = convection
    velocity, ra, pr = frames[:, :, 2:], solver.rayleigh[:, None], solver.prandtl[:, None]
    torch.testing.assert_close(kinetic_energy(velocity, grid), known["ke"], rtol=1e-6, atol=0)
    found = nusselt(frames[:, :, 0], velocity, grid, ra, pr)
    assert (found.volume > 1.5).all()
    for number, name in zip(found, ("nu_vol", "nu_bot", "nu_top"), strict=True):
        torch.testing.assert_close(number, known[name], rtol=1e-5, atol=0)
    assert (divergence(velocity, grid) < 1e-6).all()
    values = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert (wall_error(frames[:, :, [0, 2, 3]], grid, values) < 1e-8).all()


def test_the_budget_of_convection_closes(convection):
    solver, grid, frames, known, dt = convection
    b, velocity, ra, pr = frames[:, :, 0], frames[:, :, 2:], solver.rayleigh[:, None], solver.prandtl[:, None]
    residual = convection_budget(b, velocity, grid, dt, ra, pr)
    production = (known["nu_vol"] - 1) / (ra * pr).sqrt()
    assert residual.shape == (2, 3)
    assert (residual.abs() < 1e-4 * production[:, 1:-1]).all()
    wrong = convection_budget(b, 1.02 * velocity, grid, dt, ra, pr)
    assert (wrong.abs() > 1e-3 * production[:, 1:-1]).all()  # 2 percent too fast shows


def test_the_budget_of_kolmogorov_flow_closes():
    solver = KolmogorovFlow((32, 32), viscosity=0.05, drag=0.2)
    grid = load_system("kolmogorov").grid.with_shape(solver.shape)
    state, dt, frames = solver.advance(solver.initial([0, 1]), 4.0), 0.05, []
    for _ in range(6):
        frames.append(solver.output(state)[:, 0])
        state = solver.advance(state, dt)
    w = torch.stack(frames, 1)
    residual = kolmogorov_budget(w, grid, dt, viscosity=0.05)
    dissipation = 0.05 * 2 * enstrophy(w, grid)
    assert residual.shape == (2, 4)
    assert (residual.abs() < 1e-4 * dissipation[:, 1:-1]).all()
    assert (kolmogorov_budget(-w, grid, dt, viscosity=0.05).abs() > 1e-3 * dissipation[:, 1:-1]).all()  # the sign matters
    energy = kinetic_energy(velocity_of(w, grid), grid)
    rate = (energy[:, 2:] - energy[:, :-2]) / (2 * dt)
    assert (rate.abs() > 1e-3 * dissipation[:, 1:-1]).any()  # the budget is not closed by a steady state


def test_kinetic_energy_brute_force():
    """Means over a frame by loops, on a grid with weights."""
    u, w = normal(2, 6, 5), CHANNEL.with_shape((6, 5)).weights
    total = sum(w[i, j] * float(u[c, i, j]) ** 2 for c in range(2) for i in range(6) for j in range(5)) / 30
    assert float(kinetic_energy(u, CHANNEL.with_shape((6, 5)))) == pytest.approx(total / 2, rel=1e-12)


def test_borders():
    uniform = Grid((Axis("x", 8, 0.0, 1.0, "periodic"), Axis("y", 8, 0.0, 1.0, "wall")))
    field, velocity = torch.zeros(8, 8), torch.zeros(2, 8, 8)
    with pytest.raises(InputError, match="'y' is wall with uniform nodes"):
        derivative(field, uniform, -1)
    with pytest.raises(InputError, match="axis=1 must be a negative number"):
        derivative(field, uniform, 1)
    with pytest.raises(InputError, match=r"shape \(32, 24\); found shape \(8, 8\)"):
        enstrophy(field, BOX)
    with pytest.raises(InputError, match="one component for each"):
        kinetic_energy(torch.zeros(3, 8, 8), uniform)
    with pytest.raises(InputError, match="two periodic axes"):
        velocity_of(field, uniform)
    with pytest.raises(InputError, match="one Chebyshev axis"):
        wall_error(velocity, uniform, np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"\(2, 2\), a pair per field; found \(2,\)"):
        wall_error(torch.zeros(2, 32, 24), CHANNEL, [0.0, 0.0])
    with pytest.raises(InputError, match="one Chebyshev axis"):
        nusselt(field, velocity, uniform, 1e6, 1.0)
    with pytest.raises(InputError, match="at least 3 frames"):
        kolmogorov_budget(torch.zeros(2, 32, 24), BOX, 0.1)
    with pytest.raises(InputError, match="dt > 0"):
        kolmogorov_budget(torch.zeros(3, 32, 24), BOX, 0.0)


def test_nan_stays_in_its_sample():
    velocity = normal(3, 2, 32, 24)
    velocity[1, 0, 2, 2] = math.nan
    for score in (kinetic_energy, divergence):
        assert score(velocity, CHANNEL).isnan().tolist() == [False, True, False]
