r"""Kolmogorov flow: forced, damped two-dimensional turbulence in vorticity form on a periodic rectangle.

    dw/dt + psi_y w_x - psi_x w_y = nu lap w - mu w - k cos(k y),   lap psi = w

The advecting velocity is (psi_y, -psi_x), so w is MINUS the curl of the velocity: the convention of APEBench.
With the usual curl zeta = -w the same equation holds with the forcing + k cos(k y). The first axis is x, the
second y.

References: Kassam & Trefethen 2005, SIAM J. Sci. Comput. 26, 1214 (ETDRK4, Eqs. 2.5 and 2.26); Basdevant
1983, J. Comput. Phys. 50, 209 (four transforms per evaluation); Koehler et al. 2024, arXiv:2411.00180 (the
scenario).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]

CHECK = 0.1
"""Longest time between two choices of the step, in time units; the speed changes little over it."""


class KolmogorovFlow:
    r"""Pseudo-spectral Kolmogorov flow, fourth-order exponential time stepping (ETDRK4), 2/3 dealiasing.

        w_hat' = L w_hat + N_hat(w),   L = -nu |k|^2 - mu,   N = -u . grad w - k cos(k y)

    The state keeps the wavenumbers |k_x| <= Nx/3, |k_y| <= Ny/3 alone: a Galerkin truncation without
    aliasing. At 64 x 64 and nu = 0.01 it is slightly under-resolved, as the data of APEBench are (their
    wavenumbers above the cut-off differ).

    The step is chosen per trajectory and at least every 0.1 time units: the largest d / n, n in {1, 2, 3, 4,
    6, 8, 12, ...}, that keeps `cfl` = dt max(|u| / dx + |v| / dy) and `max_step`, where d divides the
    duration. A trajectory therefore depends on its own state and on the durations asked for, and on the other
    rows of the batch through rounding alone (a vectorised transform may round differently at another batch
    size).

    Arguments:
        shape: grid points (Nx, Ny).
        viscosity: nu.
        drag: mu; 0.2 is what acts in the released APEBench scenario with its setting -0.1.
        forcing_mode: number of periods of the forcing along y; k above is 2 pi forcing_mode / length.
        length: side (or sides) of the periodic box.
        cfl: Courant number of the advective step; above about 1.3 the scheme is unstable.
        max_step: upper bound of the step, in time units.
        dtype: float64, or float32 for speed.
        device: where the tensors of the state live.
    """

    fields = ("vorticity",)

    def __init__(
        self,
        shape: Sequence[int] = (64, 64),
        viscosity: float = 0.01,
        drag: float = 0.2,
        forcing_mode: int = 4,
        length: float | Sequence[float] = 2 * math.pi,
        cfl: float = 0.8,
        max_step: float = 0.05,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        if min(self.shape) < 12 or min(self.shape) / 3 <= forcing_mode:
            raise ValueError(f"shape {self.shape} is too coarse; use at least 12 points and more than 3 x forcing_mode")
        self.viscosity, self.drag, self.forcing_mode = viscosity, drag, forcing_mode
        self.cfl, self.max_step, self.dtype, self.device = cfl, max_step, dtype, torch.device(device)
        lx, ly = (length, length) if isinstance(length, (int, float)) else map(float, length)
        self.spacing = (lx / self.shape[0], ly / self.shape[1])
        mode_x = torch.fft.fftfreq(self.shape[0], 1 / self.shape[0], dtype=torch.float64)[:, None]
        mode_y = torch.fft.rfftfreq(self.shape[1], 1 / self.shape[1], dtype=torch.float64)[None, :]
        kx, ky = 2 * math.pi / lx * mode_x, 2 * math.pi / ly * mode_y
        k2 = kx**2 + ky**2
        keep = ((3 * mode_x).abs() <= self.shape[0]) & (3 * mode_y <= self.shape[1])
        inverse = torch.where(k2 > 0, 1 / k2, 0.0) * keep
        self._linear = -viscosity * k2 - drag
        self._keep = self._real(keep)
        # (u, v)_hat = i (-k_y, k_x) w_hat / |k|^2, since psi_hat = -w_hat / |k|^2
        self._velocity = self._complex(1j * torch.stack([-ky * inverse, kx * inverse]))
        # -(u . grad w)_hat = (k_y^2 - k_x^2) (u v)_hat + k_x k_y (u^2 - v^2)_hat
        self._advection = self._real(torch.stack([(ky**2 - kx**2) * keep, kx * ky * keep]))
        wavenumber = 2 * math.pi * forcing_mode / ly
        phase = 2 * math.pi * forcing_mode / self.shape[1] * torch.arange(self.shape[1], dtype=torch.float64)
        force = (-wavenumber * torch.cos(phase)).expand(self.shape)
        self._force = self._complex(torch.fft.rfft2(force) * keep)
        self._cache: dict[float, tuple[Tensor, ...]] = {}

    def initial(self, seeds: Sequence[int]) -> State:
        """Random Fourier series up to wavenumber 5 per axis, zero mean, scaled to max |w| = 1.

        Each seed has its own CPU generator, so a state is the same on every device and in every batch, and
        the same function (up to the scale) on every grid.

        Arguments:
            seeds: one integer per trajectory.
        Returns:
            The state at time 0.
        """
        states = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(int(seed))
            modes = torch.randn(11, 6, 2, generator=generator, dtype=torch.float64)
            spectrum = torch.zeros(self.shape[0], self.shape[1] // 2 + 1, dtype=torch.complex128)
            rows = torch.arange(-5, 6) % self.shape[0]
            spectrum[rows, :6] = torch.view_as_complex(modes)
            spectrum[0, 0] = 0
            field = torch.fft.irfft2(spectrum, s=self.shape, norm="forward")
            states.append(self.state(field[None] / field.abs().max()))
        return {name: torch.cat([state[name] for state in states]) for name in states[0]}

    def state(self, vorticity: Tensor) -> State:
        """The state at time 0 of a vorticity on the grid, shape (B, Nx, Ny); high wavenumbers are dropped."""
        if vorticity.ndim != 3 or tuple(vorticity.shape[1:]) != self.shape:
            raise ValueError(
                f"expected vorticity of shape (B, {self.shape[0]}, {self.shape[1]}), found {tuple(vorticity.shape)}"
            )
        spectrum = torch.fft.rfft2(self._real(vorticity)) * self._keep
        time = torch.zeros(len(vorticity), dtype=torch.float64, device=self.device)
        return {"spectrum": torch.view_as_real(spectrum).contiguous(), "time": time}

    def advance(self, state: State, duration: float) -> State:
        """The state `duration` time units later.

        Arguments:
            state: as `initial` and `state` return it: `spectrum`, shape (B, Nx, Ny // 2 + 1, 2), and `time`,
                shape (B,).
        Raises:
            FloatingPointError: a trajectory is no longer finite.
        """
        spectrum = torch.view_as_complex(state["spectrum"]).clone()
        intervals = max(1, math.ceil(duration / CHECK - 1e-9))
        interval = duration / intervals
        for i in range(intervals):
            counts = self._substeps(spectrum, interval)
            if min(counts) == 0:
                raise self._diverged(state["time"], i * interval, counts.index(0))
            for n in sorted(set(counts)):
                rows = [row for row, count in enumerate(counts) if count == n]
                part = spectrum[rows]
                for _ in range(n):
                    part = self._step(part, self._coefficients(interval / n))
                spectrum[rows] = part
        finite = torch.isfinite(torch.view_as_real(spectrum)).flatten(1).all(1)
        if not finite.all():
            raise self._diverged(state["time"], duration, int((~finite).nonzero()[0]))
        return {"spectrum": torch.view_as_real(spectrum).contiguous(), "time": state["time"] + duration}

    def output(self, state: State) -> Tensor:
        """The vorticity on the grid, shape (B, 1, Nx, Ny)."""
        return torch.fft.irfft2(torch.view_as_complex(state["spectrum"]), s=self.shape)[:, None]

    def _substeps(self, spectrum: Tensor, interval: float) -> list[int]:
        """Steps per trajectory over one interval; 0 where the state is not finite."""
        speed = torch.fft.irfft2(self._velocity * spectrum[:, None], s=self.shape).abs()
        rate = (speed[:, 0] / self.spacing[0] + speed[:, 1] / self.spacing[1]).flatten(1).amax(1)
        counts = []
        for r in rate.tolist():
            needed = interval * max(r / self.cfl, 1 / self.max_step)
            if not math.isfinite(needed) or needed > 2**20:
                counts.append(0)
                continue
            power = 2 ** max(0, math.ceil(math.log2(needed) - 1e-9))
            counts.append(3 * power // 4 if power >= 4 and 3 * power / 4 >= needed else power)
        return counts

    def _tendency(self, spectrum: Tensor) -> Tensor:
        """N_hat: the forcing, and advection in Basdevant's form (two transforms back and two forth)."""
        u, v = torch.fft.irfft2(self._velocity * spectrum[:, None], s=self.shape).unbind(1)
        products = torch.fft.rfft2(torch.stack([u * v, u * u - v * v], 1))
        return (self._advection * products).sum(1) + self._force

    def _step(self, w: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """One step of ETDRK4 (Kassam & Trefethen, Eq. 2.25)."""
        full, half, q, f1, f2, f3 = coefficients
        n0 = self._tendency(w)
        halfway = half * w
        a = halfway + q * n0
        na = self._tendency(a)
        b = halfway + q * na
        nb = self._tendency(b)
        c = half * a + q * (2 * nb - n0)
        nc = self._tendency(c)
        return full * w + f1 * n0 + f2 * (na + nb) + f3 * nc

    def _coefficients(self, h: float) -> tuple[Tensor, ...]:
        """Exponentials and phi functions of h L, as means over a circle (no cancellation near h L = 0)."""
        if h not in self._cache:
            points = torch.exp(1j * math.pi * (torch.arange(32, dtype=torch.float64) + 0.5) / 32)
            hl = h * self._linear
            z = hl[..., None] + points
            e, z3 = torch.exp(z), z**3
            # the circle is symmetric about the real axis, so its upper half and the real part suffice
            phi = (
                (torch.exp(z / 2) - 1) / z,
                (-4 - z + e * (4 - 3 * z + z**2)) / z3,
                2 * (2 + z + e * (z - 2)) / z3,
                (-4 - 3 * z - z**2 + e * (4 - z)) / z3,
            )
            values = (torch.exp(hl), torch.exp(hl / 2), *(h * p.real.mean(-1) for p in phi))
            self._cache[h] = tuple(self._real(value) for value in values)
        return self._cache[h]

    def _diverged(self, time: Tensor, elapsed: float, row: int) -> FloatingPointError:
        return FloatingPointError(
            f"Kolmogorov flow: trajectory {row} is not finite at t = {float(time[row]) + elapsed:g} "
            f"(shape {self.shape}, viscosity {self.viscosity:g}, drag {self.drag:g}, "
            f"forcing_mode {self.forcing_mode:g}, cfl {self.cfl:g}, max_step {self.max_step:g}); "
            "lower cfl or max_step, refine the grid, or check the initial state"
        )

    def _real(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)

    def _complex(self, x: Tensor) -> Tensor:
        return x.to(self.device, torch.complex128 if self.dtype == torch.float64 else torch.complex64)
