"""The Rayleigh-Benard solver: an independent reference run, exact solutions, invariants, reproducibility."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from physinterp.solvers.rayleigh_benard import EXPLICIT, IMPLICIT, WEIGHTS, RayleighBenard

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "rayleigh_benard_dedalus"
SERIES = ("ke", "nu_vol", "nu_bot", "nu_top")
REFERENCE = DATA / "rb_solver_reference_Ra1e5_Pr1_128x64.h5"


def reference_buoyancy(solver: RayleighBenard) -> Tensor:
    x, y = math.pi * solver.x[:, None] / 2, solver.y
    waves = torch.cos(x + 0.3) - 0.7 * torch.cos(2 * x + 1.1) + 0.5 * torch.cos(3 * x + 2.0)
    return (1 - y + 0.05 * torch.sin(math.pi * y) * waves)[None]


def convecting(solver: RayleighBenard, batch: int = 1) -> dict[str, Tensor]:
    """A state in motion: large noise, different in each trajectory, advanced for a short while."""
    y = solver.y
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(batch, solver.shape[0], 1, dtype=torch.float64, generator=generator)
    return solver.advance(solver.state(1 - y + y * (1 - y) * noise), 2.0)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("nx", [96, pytest.param(128, marks=pytest.mark.slow)])
def test_agrees_with_dedalus(nx):
    """All 21 times, at 32 positions in x that every grid has."""
    h5py = pytest.importorskip("h5py")
    if not REFERENCE.exists():
        pytest.skip(f"reference data not found: {REFERENCE}")
    solver = RayleighBenard((nx, 64), rayleigh=1e5, prandtl=1.0)
    state = solver.state(reference_buoyancy(solver))
    with h5py.File(REFERENCE) as file:
        names = ("buoyancy", "pressure", "velocity")
        b, p, u = (torch.as_tensor(file[name][:, ::4]).double() for name in names)
        series = {name: torch.as_tensor(file["diagnostics_fine"][name][:]) for name in SERIES}
    for n in range(21):
        state = solver.advance(state, 1.0) if n else state
        fields = solver.output(state)[0, :, :: nx // 32]
        assert relative(fields[0], b[n]) < 1e-4
        if n:
            assert relative(fields[2:], u[n].movedim(-1, 0)) < 3e-4
            assert relative(fields[1], p[n]) < 5e-3
        for name, value in solver.diagnostics(state).items():
            torch.testing.assert_close(value[0], series[name][n], rtol=1e-3, atol=1e-7)


def test_tableau_has_third_order():
    square = np.zeros((2, 4, 4))
    for i in range(3):
        square[0, i + 1, : i + 1] = EXPLICIT[i]
        square[1, i + 1, : i + 1] = IMPLICIT[i]
        square[1, i + 1, i + 1] = WEIGHTS[3]
    weights = np.array(WEIGHTS)
    nodes = square[0].sum(1)
    assert np.allclose(nodes, square[1].sum(1), atol=1e-9)
    assert np.allclose([weights.sum(), weights @ nodes, weights @ nodes**2], [1, 1 / 2, 1 / 3], atol=1e-9)
    assert np.allclose(weights @ square @ nodes, 1 / 6, atol=1e-9)
    assert np.isclose(weights @ square[0] @ square[0] @ nodes, 1 / 24, atol=1e-6)  # as classical RK4


def test_error_falls_with_the_cube_of_the_step():
    def fields(step: float) -> Tensor:
        solver = RayleighBenard((32, 16), 1e4, 1.0, cfl=1e9, max_step=step)
        return solver.output(solver.advance(start, 1.0))[0, [0, 2, 3]]

    solver = RayleighBenard((32, 16), 1e4, 1.0)
    start = solver.advance(solver.state(reference_buoyancy(solver)), 4.0)
    exact = fields(1 / 320)
    errors = [relative(fields(step), exact) for step in (1 / 20, 1 / 40, 1 / 80)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    assert slopes.min() > 2.6, (errors, slopes)


def test_conduction_is_a_fixed_point():
    solver = RayleighBenard((16, 16), 1e5, 1.0)
    conduction = (1 - solver.y).expand(2, 16, 16)
    state = solver.advance(solver.state(conduction), 3.0)
    b, p, u, v = solver.output(state).unbind(1)
    torch.testing.assert_close(b, conduction, rtol=0, atol=1e-12)
    torch.testing.assert_close(p, (solver.y - solver.y**2 / 2 - 1 / 3).expand_as(p), rtol=0, atol=1e-12)
    assert max(u.abs().max(), v.abs().max()) < 1e-12
    for name, value in solver.diagnostics(state).items():
        assert (value - (0.0 if name == "ke" else 1.0)).abs().max() < 1e-12


def test_diffusion_decays_at_the_exact_rate():
    """Fields of y alone diffuse: d/dt sin(pi y) = -c pi^2 sin(pi y), each trajectory at its Ra and Pr."""
    solver = RayleighBenard((8, 24), rayleigh=[1e3, 1e4], prandtl=[1.0, 4.0], max_step=0.02)
    wave = torch.sin(math.pi * solver.y).expand(2, 8, 24)
    state = solver.state(1 - solver.y + 0.1 * wave, torch.stack([wave, 0 * wave], 1))
    b, _, u, v = solver.output(solver.advance(state, 2.0)).unbind(1)
    for field, start, c in ((b - 1 + solver.y, 0.1 * wave, solver.kappa), (u, wave, solver.nu)):
        rate = (-2 * math.pi**2 * c).exp()[:, None, None]
        torch.testing.assert_close(field, start * rate, rtol=0, atol=1e-7)
    assert v.abs().max() < 1e-12


def test_divergence_and_wall_values_vanish_and_fields_are_kept():
    solver = RayleighBenard((32, 24), 1e5, 1.0)
    state = convecting(solver)
    fields = solver.output(state)
    b, p, u, v = fields[0]
    nodes = 2 * solver.y.numpy() - 1
    legendre = np.polynomial.legendre
    columns = np.stack([b, u, v]).transpose(2, 0, 1).reshape(24, -1)
    coefficients = np.linalg.solve(legendre.legvander(nodes, 23), columns)
    walls = legendre.legval(np.array([-1.0, 1.0]), coefficients).reshape(3, 32, 2)
    assert np.abs(walls - np.array([[[1, 0]], [[0, 0]], [[0, 0]]])).max() < 1e-11
    v_y = legendre.legval(nodes, legendre.legder(coefficients, scl=2)).reshape(3, 32, 24)[2]
    k = 1j * np.pi / 2 * np.arange(17)[:, None]
    u_x = np.fft.irfft(k * np.fft.rfft(u.numpy(), axis=0), n=32, axis=0)
    assert u.abs().max() > 0.01
    assert np.abs(u_x + v_y).max() < 1e-10
    assert abs(torch.linalg.solve(legendre_matrix(solver), p.mean(0))[0]) < 1e-12  # the mean of p
    again = solver.output(solver.state(fields[:, 0], fields[:, 2:]))
    torch.testing.assert_close(again, fields, rtol=0, atol=1e-11)


def test_budgets_of_energy_and_heat_close():
    """Advection conserves: explicit d<|u|^2>/2 = d<theta^2>/2 = <v b>; heat leaves through the walls."""
    solver = RayleighBenard((32, 24), 1e5, 0.7)
    state = convecting(solver, 2)
    modes = solver._pack(state)
    tendency = solver._unpack(solver._explicit(modes)[0], state["time"])
    weight = torch.full((16, 1, 1), 2.0, dtype=torch.float64)
    weight[0] = 1
    flux = (solver.diagnostics(state)["nu_vol"] - 1) * solver.kappa
    for name in ("velocity", "buoyancy"):
        gain = (weight * state[name] * tendency[name]).sum((1, 2, 3))
        torch.testing.assert_close(gain, flux, rtol=1e-11, atol=0)
    # heat content: d<b>/dt = kappa (Nu_bot - Nu_top), by central differences of small steps
    means = []
    for step in (1e-3, 3e-3):
        fields = solver.output(solver.advance(state, step))[:, 0].mean(1)
        means.append(torch.linalg.solve(legendre_matrix(solver), fields.mT)[0])
    middle = solver.diagnostics(solver.advance(state, 2e-3))
    rate = solver.kappa * (middle["nu_bot"] - middle["nu_top"])
    torch.testing.assert_close((means[1] - means[0]) / 2e-3, rate, rtol=1e-2, atol=1e-5)


def legendre_matrix(solver: RayleighBenard) -> Tensor:
    return torch.as_tensor(np.polynomial.legendre.legvander(2 * solver.y.numpy() - 1, solver.shape[1] - 1))


def test_trajectory_depends_on_its_own_seed_alone():
    solver = RayleighBenard((32, 16), 1e5, 1.0)
    together, alone = solver.initial([5, 6, 7]), solver.initial([6])
    for name in together:
        assert torch.equal(together[name][1:2], alone[name])
    assert not torch.equal(together["buoyancy"][0], together["buoyancy"][1])


def test_trajectory_is_independent_of_its_batch():
    """Fast and slow flows share a batch: each takes its own steps."""
    parameters = {"rayleigh": [1e6, 1e4, 1e5], "prandtl": [1.0, 2.0, 0.5]}
    together = RayleighBenard((32, 16), **parameters)
    state = convecting(together, 3)
    after = together.output(together.advance(state, 1.0))
    for n in range(3):
        alone = RayleighBenard((32, 16), **{name: value[n] for name, value in parameters.items()})
        one = {name: value[n : n + 1] for name, value in state.items()}
        assert relative(alone.output(alone.advance(one, 1.0)), after[n : n + 1]) < 1e-12


def test_resume_is_bitwise(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    solver = RayleighBenard((32, 16), 1e6, 1.0)
    state = convecting(solver, 2)
    safetensors.save_file(state, tmp_path / "state.safetensors")
    there = solver.advance(solver.advance(state, 0.5), 0.5)
    loaded = safetensors.load_file(tmp_path / "state.safetensors")
    again = RayleighBenard((32, 16), 1e6, 1.0)
    back = again.advance(again.advance(loaded, 0.5), 0.5)
    assert all(torch.equal(there[name], back[name]) for name in there)
    assert torch.equal(there["time"], torch.full((2,), 3.0, dtype=torch.float64))


def test_single_precision_follows_double():
    fields = []
    for dtype in (torch.float64, torch.float32):
        solver = RayleighBenard((32, 16), 1e5, 1.0, dtype=dtype)
        state = solver.advance(solver.state(reference_buoyancy(solver)), 2.0)
        fields.append(solver.output(state))
    assert fields[1].dtype == torch.float32
    assert relative(fields[1][:, [0, 2, 3]].double(), fields[0][:, [0, 2, 3]]) < 1e-5


def test_errors_say_what_to_do():
    solver = RayleighBenard((16, 16), 2e5, 1.0)
    state = convecting(solver, 2)
    broken = {name: value.clone() for name, value in state.items()}
    broken["buoyancy"][1, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"1 is.*time 2.*Ra 200000, Pr 1, 16 x 16.*lower cfl"):
        solver.advance(broken, 0.5)
    huge = {name: value * (1e9 if name == "velocity" else 1) for name, value in state.items()}
    with pytest.raises(FloatingPointError, match="diverges"):
        solver.advance(huge, 0.5)
    with pytest.raises(ValueError, match="duration"):
        solver.advance(state, 0.0)
    with pytest.raises(ValueError, match="expected buoyancy"):
        solver.state(torch.zeros(1, 8, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="shape"):
        RayleighBenard((15, 16))
    with pytest.raises(ValueError, match="3 values of Ra, Pr for 1"):
        RayleighBenard((16, 16), [1e4, 1e5, 1e6]).initial([0])


@pytest.mark.slow
@pytest.mark.parametrize(("prandtl", "series"), [(1.0, (101, 103)), (0.5, (102,))])
def test_statistics_agree_with_dedalus(prandtl, series):
    """Nusselt number and kinetic energy of 8 trajectories, t = 25 to 50, against one Dedalus run per seed."""
    h5py = pytest.importorskip("h5py")
    if not DATA.exists():
        pytest.skip(f"reference data not found: {DATA}")
    solver = RayleighBenard((128, 32), 1e6, prandtl)
    state = solver.advance(solver.initial(range(8)), 25.0)
    rows = []
    for _ in range(50):
        state = solver.advance(state, 0.5)
        diagnostics = solver.diagnostics(state)
        rows.append(torch.stack([diagnostics[name] for name in SERIES]))
    ours = torch.stack(rows).mean(0)
    with h5py.File(DATA / "diagnostics.h5") as file:
        runs = [file[f"Rayleigh_1e6_Prandtl_{prandtl:g}_seed_{seed}"] for seed in series]
        theirs = torch.tensor([[run[name][100:].mean() for name in SERIES] for run in runs]).T
    difference = (ours.mean(1) - theirs.mean(1)).abs()
    spread = ours.std(1) * (1 / ours.shape[1] + 1 / theirs.shape[1]) ** 0.5
    assert (difference < 3.5 * spread).all(), (ours.mean(1), theirs.mean(1), spread)
