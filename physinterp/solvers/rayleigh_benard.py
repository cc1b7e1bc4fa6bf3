r"""Two-dimensional Rayleigh-Benard convection between no-slip walls: a spectral Galerkin solver in torch.

    db/dt + u.grad b = kappa lap b,                    kappa = (Ra Pr)^(-1/2)
    du/dt + u.grad u + grad p = nu lap u + b e_y,      nu = (Ra / Pr)^(-1/2),      div u = 0

x is periodic, y runs from a warm wall (b = 1) to a cold one (b = 0). Fourier series in x; in y, for every
wavenumber, the eigenmodes of diffusion among the polynomials that fulfil the wall conditions (for velocity
the Stokes modes, free of divergence). In these modes diffusion is diagonal, pressure does not appear, and
each trajectory may change its time step at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

State = dict[str, Tensor]
Array = np.ndarray

# ARS(3,4,3): third order; the implicit part is L-stable, the explicit part is as stable as classical RK4.
_G = 0.4358665215084590
_A = 0.5529291480359398
_B1 = -1.5 * _G**2 + 4 * _G - 0.25
_B2 = 1.5 * _G**2 - 5 * _G + 1.25
_A32 = -_A * (3.75 - 15 * _G + 5.25 * _G**2) + 4 - 12.5 * _G + 4.5 * _G**2
EXPLICIT: tuple[tuple[float, ...], ...] = ((_G,), ((1 + _G) / 2 - _A32, _A32), (1 - 2 * _A, _A, _A))
IMPLICIT: tuple[tuple[float, ...], ...] = (
    (0.0,),
    (0.0, (1 - _G) / 2),
    (0.0, _B1, _B2),
)  # plus _G on the diagonal
WEIGHTS = (0.0, _B1, _B2, _G)


class RayleighBenard:
    """Solver of Rayleigh-Benard convection, batched over trajectories that step independently of each other.

        u = i phi_n'(y) exp(ikx),  v = k phi_n(y) exp(ikx),   phi = phi' = 0 at walls (k = 0: u = i chi_n)
        b = 1 - y + chi_n(y) exp(ikx),   chi = 0 at walls,   |k| < pi Nx / Lx,   degrees below Ny

    Products are integrated on 3/2 as many points, so without aliasing; time steps are ARS(3,4,3), diffusion
    implicit. A trajectory chooses its steps from its own velocity: it depends on its own initial state, Ra,
    Pr and on the sequence of durations; the other members of the batch change it by rounding only.
    The fields lie on x_i = Lx i / Nx and y_j = (1 - cos(pi (j + 1/2) / Ny)) / 2: y is not uniform, without
    the walls, so means over y need quadrature weights. Units: height, free-fall time, buoyancy step.

    Arguments:
        shape: (Nx, Ny), Nx even.
        rayleigh, prandtl: Ra and Pr, one number or one per trajectory.
        length: (Lx, Ly); Ly must be 1, the unit of length.
        cfl: bound on dt max(|u| / dx + |v| / dy). Pure advection along x is stable up to 0.9, flows at Ra 1e6
            up to 1.5; their error per time unit is 5e-5 of the fields at 1 and falls with the cube.
        max_step: largest time step, in free-fall times; at 0.1 the fields of the onset are within 3e-4.
        dtype: torch.float64 or torch.float32.
        device: where the state lives.
    Raises:
        ValueError: an argument is out of range; the message says which.
    References: Ascher, Ruuth, Spiteri 1997, Appl. Numer. Math. 25, 151 (section 2.7); Shen 1994, SIAM J. Sci.
        Comput. 15, 1489 (basis); Liu, Liu, Pego 2007, Comm. Pure Appl. Math. 60, 1443 (pressure).
    """

    fields: ClassVar[tuple[str, ...]] = ("buoyancy", "pressure", "velocity_x", "velocity_y")

    def __init__(
        self,
        shape: tuple[int, int] = (128, 32),
        rayleigh: float | Sequence[float] = 1e6,
        prandtl: float | Sequence[float] = 1.0,
        length: tuple[float, float] = (4.0, 1.0),
        cfl: float = 1.0,
        max_step: float = 0.1,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        if shape[0] < 4 or shape[0] % 2 or shape[1] < 8:
            raise ValueError(f"shape must be (Nx even and >= 4, Ny >= 8), found {tuple(shape)}")
        if length[1] != 1:
            raise ValueError(f"height is the unit of length: length must be (Lx, 1), found {tuple(length)}")
        if not (cfl > 0 and max_step > 0):
            raise ValueError(f"cfl and max_step must be positive, found {cfl} and {max_step}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, found {dtype}")
        self.shape, self.length, self.cfl, self.max_step = shape, length, cfl, max_step
        self.dtype, self.device = dtype, torch.device(device)
        self.rayleigh, self.prandtl = torch.broadcast_tensors(
            torch.as_tensor(rayleigh, dtype=torch.float64).reshape(-1),
            torch.as_tensor(prandtl, dtype=torch.float64).reshape(-1),
        )
        if not bool((self.rayleigh > 0).all() and (self.prandtl > 0).all()):
            raise ValueError(f"Ra and Pr must be positive, found {rayleigh} and {prandtl}")
        self.nu, self.kappa = (self.rayleigh / self.prandtl) ** -0.5, (self.rayleigh * self.prandtl) ** -0.5
        nx, ny = shape
        self.points = 3 * nx // 2
        self.x = torch.arange(nx, dtype=torch.float64) * (length[0] / nx)
        self.y = torch.as_tensor(0.5 - 0.5 * np.cos(np.pi * (np.arange(ny) + 0.5) / ny))
        self._tables()

    def _put(self, a: Array) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(a), dtype=self.dtype, device=self.device)

    def _tables(self) -> None:
        """Eigenmodes of every wavenumber, at the quadrature points, the output points and the walls."""
        (nx, ny), put = self.shape, self._put
        k = 2 * np.pi / self.length[0] * np.arange(nx // 2)[:, None, None]
        s, w = legendre.leggauss(3 * ny // 2)
        y, w, out, walls = (s + 1) / 2, w / 2, self.y.numpy(), np.array([0.0, 1.0])

        def inner(f: Array, d: int = 0) -> Array:
            return (w * values(f, y, d).T) @ values(f, y, d)

        def weighted(f: Array) -> Tensor:
            return put(np.swapaxes(w[:, None] * f, -1, -2))

        chi, phi, flow = dirichlet(ny), clamped(ny), dirichlet(ny - 2)
        mu, chi = eigenmodes(chi, inner(chi), inner(chi, 1))
        mass, slope, curvature = (inner(phi, d) for d in range(3))
        lam, phi = eigenmodes(phi, slope + k**2 * mass, curvature + 2 * k**2 * slope + k**4 * mass)
        lam[0], flow = eigenmodes(flow, inner(flow), inner(flow, 1))

        def velocity(points: Array, d: int = 0) -> tuple[Array, Array]:
            u, v = values(phi, points, 1 + d), k * values(phi, points, d)
            u[0] = values(flow, points, d)
            return u, v

        def buoyancy(points: Array, d: int = 0) -> Array:
            return np.broadcast_to(values(chi, points, d), (len(k), len(points), ny - 2))

        (u, v), u_y, b = velocity(y), velocity(y, 1)[0], buoyancy(y)
        test = {"u": u, "v": v, "uu_vv": -k * u, "uv": u_y + k * v, "b": b, "ub": k * b, "vb": buoyancy(y, 1)}
        self._test = {name: weighted(f) for name, f in test.items()}
        self._lift = put(np.swapaxes(w[:, None] * v, -1, -2) @ b)
        self._at_nodes = put(u), put(v), put(b), put(1 - y)
        self._at_output = *map(put, velocity(out)), put(buoyancy(out)), put(1 - out)
        self._lambda, self._mu = (torch.as_tensor(a, device=self.device) for a in (lam, mu + k[:, 0] ** 2))
        self._wall_gradient = put(values(chi, walls, 1))
        to_legendre = np.linalg.inv(legendre.legvander(2 * out - 1, ny - 1))
        self._interpolation = put(legendre.legvander(s, ny - 1) @ to_legendre)
        self._dx, self._dy = self.length[0] / nx, put(np.pi / ny * np.sqrt(y * (1 - y)))[:, None, None]

        sigma, pi = eigenmodes(np.eye(ny), inner(np.eye(ny)), inner(np.eye(ny), 1))
        q, q_y, q_yy = (values(pi, y, d) for d in range(3))
        test = {"b": q_y, "uu": -(k**2) * q, "uv": 2 * k * q_y, "vv": q_yy}
        self._pressure = {name: weighted(f) for name, f in test.items()}
        self._pressure_wall = put((values(pi, walls).T * [-1, 1]) @ velocity(walls, 2)[1])
        laplace = sigma[:, None] + k**2
        laplace[0, 0] = np.inf  # the mean of p is 0
        self._pressure_modes = put(values(pi, out) / np.swapaxes(laplace, 1, 2))

    def initial(self, seeds: Sequence[int]) -> State:
        """Fluid at rest, a linear buoyancy profile and noise, one seed per trajectory (as in The Well).

            b = db0 (1 - y) + y (1 - y) eps,   eps Gaussian with standard deviation 1e-3,   u = 0

        db0 is one of 0.2, 0.4, 0.6, 0.8, 1, chosen by the seed. Below 1, b jumps at the warm wall at t = 0.

        Arguments:
            seeds: one integer per trajectory; it alone determines the noise and db0.
        Returns:
            The state at time 0, see `state`.
        """
        y, rows = self.y, []
        for seed in seeds:
            generator = torch.Generator().manual_seed(int(seed))
            gap = (1 + torch.randint(5, (1,), generator=generator)) / 5
            noise = 1e-3 * torch.randn(self.shape, dtype=torch.float64, generator=generator)
            rows.append(gap * (1 - y) + y * (1 - y) * noise)
        return self.state(torch.stack(rows))

    def state(self, buoyancy: Tensor, velocity: Tensor | None = None) -> State:
        """Spectral state of gridded fields: their L2 projection on the modes, at time 0.

        Divergence, Nyquist modes and what violates the walls' conditions are lost; fields from `output` stay.

        Arguments:
            buoyancy: (B, Nx, Ny) on the output grid, dimensionless.
            velocity: (B, 2, Nx, Ny), x and y components in free-fall units; None is rest.
        Returns:
            "velocity" (B, Nx/2, Ny - 4, 2) and "buoyancy" (B, Nx/2, Ny - 2, 2), amplitudes by wavenumber,
            mode, real and imaginary part, and "time" (B,) float64.
        Raises:
            ValueError: the shapes do not fit.
        """
        batch = buoyancy.shape[0]
        velocity = buoyancy.new_zeros(batch, 2, *self.shape) if velocity is None else velocity
        if buoyancy.shape != (batch, *self.shape) or velocity.shape != (batch, 2, *self.shape):
            found = f"{tuple(buoyancy.shape)} and {tuple(velocity.shape)}"
            raise ValueError(f"expected buoyancy (B, *S), velocity (B, 2, *S), S {self.shape}, found {found}")
        if len(self.nu) not in (1, batch):
            raise ValueError(f"{len(self.nu)} values of Ra, Pr for {batch} trajectories: give 1 or {batch}")
        grid = torch.stack([velocity[:, 0], velocity[:, 1], buoyancy]).to(self.device, self.dtype)
        u, v, b = self._transform(torch.einsum("qj,fbxj->fqbx", self._interpolation, grid))
        b[0, :, 0::2] -= self._at_nodes[3][:, None]
        a = times_i(self._test["u"] @ u, -1) + self._test["v"] @ v
        time = torch.zeros(batch, dtype=torch.float64, device=self.device)
        return self._unpack(torch.cat([a, self._test["b"] @ b], 1), time)

    def _unpack(self, modes: Tensor, time: Tensor) -> State:
        modes = modes.unflatten(2, (-1, 2)).permute(2, 0, 1, 3)
        velocity, buoyancy = modes.split([self.shape[1] - 4, self.shape[1] - 2], 2)
        return {"velocity": velocity.contiguous(), "buoyancy": buoyancy.contiguous(), "time": time}

    def _pack(self, state: State) -> Tensor:
        """Modes as (wavenumber, velocity and buoyancy mode, trajectory and real, imaginary part)."""
        modes = torch.cat([state["velocity"], state["buoyancy"]], 2).to(self.device, self.dtype)
        return modes.permute(1, 2, 0, 3).flatten(2)

    def _split(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        return modes[:, : self.shape[1] - 4], modes[:, self.shape[1] - 4 :]

    def _transform(self, grid: Tensor) -> Tensor:
        """(fields, y, B, x) to Fourier coefficients (fields, wavenumber, y, 2 B)."""
        coefficients = torch.fft.rfft(grid, norm="forward")[..., : self.shape[0] // 2].movedim(-1, 1)
        return torch.view_as_real(coefficients.contiguous()).flatten(3)

    def _grid(self, modes: Tensor, tables: tuple[Tensor, ...], points: int) -> Tensor:
        """u, v and b as (3, y, B, x) from modes, at the points in y of the tables."""
        (a, theta), (u, v, b, conduction) = self._split(modes), tables
        coefficients = modes.new_empty(3, len(a), len(conduction), modes.shape[2])
        torch.bmm(u, times_i(a), out=coefficients[0])
        torch.bmm(v, a, out=coefficients[1])
        torch.bmm(b, theta, out=coefficients[2])
        coefficients[2, 0, :, 0::2] += conduction[:, None]
        return self._inverse(coefficients, points)

    def _inverse(self, coefficients: Tensor, points: int) -> Tensor:
        """Fourier coefficients (..., wavenumber, y, 2 B) to values (..., y, B, x)."""
        coefficients = torch.view_as_complex(coefficients.unflatten(-1, (-1, 2)))
        return torch.fft.irfft(coefficients.movedim(-3, -1), n=points, norm="forward")

    def _explicit(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        """Advection and buoyancy in weak form, and the velocity (2, y, B, x) at the quadrature points."""
        u, v, b = grid = self._grid(modes, self._at_nodes, self.points)
        flux = torch.stack([(u - v) * (u + v), u * v, u * b, v * b])
        uu_vv, uv, ub, vb = self._transform(flux)
        test = self._test
        momentum = test["uu_vv"] @ uu_vv + self._lift @ self._split(modes)[1] + times_i(test["uv"] @ uv, -1)
        heat = test["vb"] @ vb + times_i(test["ub"] @ ub, -1)
        return torch.cat([momentum, heat], 1), grid[:2]

    def _rate(self, velocity: Tensor) -> Tensor:
        """Largest |u| / dx + |v| / dy of each trajectory, (B,) float64."""
        u, v = velocity
        return ((u / self._dx).abs_() + (v / self._dy).abs_()).amax((0, 2)).double()

    def advance(self, state: State, duration: float) -> State:
        """The state after `duration`, by steps that each trajectory chooses for itself and that end there.

            dt = left / ceil(left / min(max_step, cfl / max(|u| / dx + |v| / dy)))

        The same state and duration give the same bytes; splitting a duration differently changes the steps,
        and the result by the truncation error.

        Arguments:
            state: from `initial`, `state` or `advance`; not changed.
            duration: in free-fall times, positive.
        Returns:
            The new state, "time" increased by duration.
        Raises:
            FloatingPointError: a trajectory is not finite any more, or its velocity diverges.
            ValueError: duration is not positive.
        """
        if not 0 < duration < math.inf:
            raise ValueError(f"duration must be positive and finite, found {duration}")
        modes, time = self._pack(state).unflatten(2, (-1, 2)), state["time"].to(self.device)
        nu, kappa = (c.to(self.device).expand(len(time)) for c in (self.nu, self.kappa))
        left = torch.full_like(time, duration)
        while len(active := left.nonzero()[:, 0]):
            z = modes[:, :, active].flatten(2)
            slope, velocity = self._explicit(z)
            rate = torch.clamp(self._rate(velocity) / self.cfl, min=1 / self.max_step)
            steps = torch.ceil(left[active] * rate - 1e-9).clamp(min=1)
            self._check(steps < 1e6 * max(1.0, duration / self.max_step), time + duration - left, active)
            dt = left[active] / steps
            decay = [self._lambda[..., None] * (nu[active] * dt), self._mu[..., None] * (kappa[active] * dt)]
            z = self._step(z, slope, pairs(dt.to(z)), pairs(torch.cat(decay, 1).to(z)))
            modes[:, :, active] = z.unflatten(2, (-1, 2))
            left[active] = torch.where(steps == 1, 0.0, left[active] - dt)
        everyone = torch.arange(len(time), device=self.device)
        self._check(modes.isfinite().all(0).all(0).all(-1), time + duration, everyone)
        return self._unpack(modes.flatten(2), time + duration)

    def _step(self, start: Tensor, slope: Tensor, dt: Tensor, decay: Tensor) -> Tensor:
        """One step of ARS(3,4,3); decay is dt times the diffusive rate of each mode."""
        explicit, implicit = [dt * slope], [start]  # the weights of implicit[0] are 0
        resolvent = 1 / (1 + _G * decay)
        for a, b in zip(EXPLICIT, IMPLICIT, strict=True):
            z = combine(start, a + b, explicit + implicit).mul_(resolvent)
            implicit.append(-decay * z)
            explicit.append(dt * self._explicit(z)[0])
        return combine(start, WEIGHTS + WEIGHTS, explicit + implicit)

    def _check(self, good: Tensor, time: Tensor, members: Tensor) -> None:
        """Raise for the first of the members that is not good; time is that of the whole batch."""
        if bool(good.all()):
            return
        bad = int(members[int((~good).nonzero()[0, 0])])
        rayleigh, prandtl = (float(c.expand(len(time))[bad]) for c in (self.rayleigh, self.prandtl))
        nx, ny = self.shape
        raise FloatingPointError(
            f"trajectory {bad} is not finite or diverges at time {float(time[bad]):g} (Ra {rayleigh:g}, "
            f"Pr {prandtl:g}, {nx} x {ny}, cfl {self.cfl:g}): raise the resolution or lower cfl"
        )

    def output(self, state: State) -> Tensor:
        """Fields on the output grid.

            (grad p, grad q) = (nu lap u + b e_y - u.grad u, grad q)   for all q

        Pressure is diagnosed from the state, also at t = 0 (where Dedalus data hold 0).

        Arguments:
            state: from `initial`, `state` or `advance`.
        Returns:
            (B, 4, Nx, Ny): buoyancy, pressure (integral 0), velocity x and y, in free-fall units.
        """
        modes = self._pack(state)
        u, v, b = self._grid(modes, self._at_output, self.shape[0])
        p = self._inverse(self._pressure_modes @ self._pressure_source(modes), self.shape[0])
        return torch.stack([b, p, u, v]).permute(2, 0, 3, 1).contiguous()

    def _pressure_source(self, modes: Tensor) -> Tensor:
        """(nu lap u + b e_y - u.grad u, grad q) for every q; the viscous part is a wall term as div u = 0."""
        u, v, b = self._grid(modes, self._at_nodes, self.points)
        uu, uv, vv, b = self._transform(torch.stack([u * u, u * v, v * v, b]))
        viscous = self._pressure_wall @ self._split(modes)[0]
        q, nu = self._pressure, pairs(self.nu.to(modes).expand(modes.shape[2] // 2))
        return q["uu"] @ uu + q["vv"] @ vv + times_i(q["uv"] @ uv, -1) + q["b"] @ b + nu * viscous

    def diagnostics(self, state: State) -> dict[str, Tensor]:
        """Volume and wall averages of each trajectory, exact in the discrete space.

            ke = <|u|^2> / 2,   nu_vol = 1 + <v b> / kappa,   nu_bot, nu_top = - d<b>_x / dy at y = 0, 1

        Arguments:
            state: from `initial`, `state` or `advance`.
        Returns:
            "ke", "nu_vol", "nu_bot", "nu_top", each (B,) float64.
        """
        modes = self._pack(state)
        a, theta = self._split(modes)
        weight = modes.new_full((len(a), 1, 1), 2.0)
        weight[0] = 1

        def product(f: Tensor, g: Tensor) -> Tensor:
            return (weight * f * g).unflatten(2, (-1, 2)).sum((0, 1, 3)).double()

        bottom, top = 1 - (self._wall_gradient @ theta[0, :, 0::2]).double()
        flux = product(a, self._lift @ theta)
        kappa = self.kappa.to(flux)
        return {"ke": product(a, a) / 2, "nu_vol": 1 + flux / kappa, "nu_bot": bottom, "nu_top": top}


def values(f: Array, y: Array, d: int = 0) -> Array:
    """d-th derivative of f, Legendre coefficients (..., n, degree), at points of [0, 1]: (..., points, n)."""
    f = legendre.legder(f, d, scl=2, axis=-1)
    return legendre.legvander(2 * y - 1, f.shape[-1] - 1) @ np.swapaxes(f, -1, -2)


def dirichlet(degree: int) -> Array:
    """Polynomials below the degree that are 0 at the walls: Legendre coefficients (degree - 2, degree)."""
    return np.eye(degree)[:-2] - np.eye(degree)[2:]


def clamped(degree: int) -> Array:
    """Polynomials below the degree that are 0 with their slope at the walls: (degree - 4, degree)."""
    j, one = np.arange(degree - 4)[:, None], np.eye(degree)
    return one[:-4] - (4 * j + 10) / (2 * j + 7) * one[2:-2] + (2 * j + 3) / (2 * j + 7) * one[4:]


def eigenmodes(f: Array, mass: Array, stiffness: Array) -> tuple[Array, Array]:
    """Eigenvalues, and the combinations of f that are orthonormal in mass and diagonal in stiffness."""
    inverse = np.linalg.inv(np.linalg.cholesky(mass))
    rates, vectors = np.linalg.eigh(inverse @ stiffness @ np.swapaxes(inverse, -1, -2))
    return rates, np.swapaxes(vectors, -1, -2) @ inverse @ f


def times_i(modes: Tensor, sign: int = 1) -> Tensor:
    """modes times i (or -i), real and imaginary parts adjacent in the last axis."""
    return torch.view_as_real(torch.view_as_complex(modes.unflatten(-1, (-1, 2))) * (1j * sign)).flatten(-2)


def pairs(x: Tensor) -> Tensor:
    """One value per trajectory to one per real and imaginary part."""
    return x.repeat_interleave(2, -1)


def combine(start: Tensor, factors: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    """start + sum factors_j terms_j."""
    total = start.clone()
    for factor, term in zip(factors, terms, strict=True):
        if factor:
            total.add_(term, alpha=factor)
    return total
