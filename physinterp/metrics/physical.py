"""Physical quantities of a state: derivatives, energy, enstrophy, divergence, walls, Nusselt number, budgets.

Fields are float64 tensors (..., *S) on a `Grid`, velocities (..., D, *S) with one component per axis, in the
order of the axes. Derivatives are exact for what the grid holds: Fourier series on periodic axes, the
interpolating polynomial on Chebyshev nodes. Units and signs are those of the cards rbc and kolmogorov:
lengths, times and buoyancy without dimension, vorticity MINUS the curl.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike
from torch import Tensor

from physinterp.errors import InputError
from physinterp.grid import Axis, Grid
from physinterp.metrics.space import space_mean


def derivative(x: Tensor, grid: Grid, axis: int) -> Tensor:
    """Derivative of a field along one axis of its grid.

    Fourier on a periodic axis (the Nyquist mode of an even size has no derivative and is left out), the
    interpolating polynomial on Chebyshev nodes. Of noise it is as large as the grid allows.

    Arguments:
        x: shape (..., *S).
        grid: of the field.
        axis: negative number of a space axis.
    Returns:
        Units of the field per unit of length, same shape, float64.
    Raises:
        InputError: the field is not on the grid, or the axis is neither periodic nor Chebyshev.
    """
    x, d = _field(x, grid), len(grid.axes)
    if not -d <= axis < 0:
        raise InputError(f"axis={axis} must be a negative number of the axes {grid.names}, -{d} to -1: change it.")
    along = grid.axes[axis]
    x = x - x.narrow(axis, 0, 1)  # the derivative of a constant is exactly 0
    if along.nodes == "chebyshev":
        matrix = _at(along, along.points, 1).to(x.device)
        return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    if along.boundary != "periodic":
        raise InputError(
            f"axis {along.name!r} is {along.boundary} with {along.nodes} nodes: a derivative needs a periodic axis or "
            "Chebyshev nodes; interpolate the field to such a grid."
        )
    k = torch.from_numpy(along.wavenumbers()).to(x.device)
    if along.size % 2 == 0:
        k[-1] = 0
    modes = torch.fft.rfft(x, dim=axis) * (1j * k).reshape(-1, *[1] * (-1 - axis))
    return torch.fft.irfft(modes, n=along.size, dim=axis)


def vorticity_of(velocity: Tensor, grid: Grid) -> Tensor:
    """du/dy - dv/dx of a velocity (..., 2, *S): MINUS the curl, the sign of the card kolmogorov; shape (..., *S)."""
    u, v = _components(velocity, grid, 2)
    return derivative(u, grid, -1) - derivative(v, grid, -2)


def velocity_of(vorticity: Tensor, grid: Grid) -> Tensor:
    """Velocity (..., 2, *S) = (dpsi/dy, -dpsi/dx), lap psi = w, of a vorticity (..., *S) of mean 0 in a periodic box.

    Without mean flow: that is not in the vorticity. Nyquist modes of an even size have no velocity.
    """
    psi = _stream(vorticity, grid)
    return torch.stack([derivative(psi, grid, -1), -derivative(psi, grid, -2)], dim=-3)


def kinetic_energy(velocity: Tensor, grid: Grid) -> Tensor:
    r"""Mean kinetic energy per mass.

        KE = <|u|^2> / 2,   <.> the mean over space with the weights of the grid

    Arguments:
        velocity: u, shape (..., D, *S); of a vorticity: `velocity_of`.
        grid: of the fields.
    Returns:
        Squared units of velocity, shape (...).
    Raises:
        InputError: the fields are not on the grid, or there are not D components.
    References: card rbc (ke of the solver's diagnostics).
    """
    components = _components(velocity, grid)
    return _mean(torch.stack([u.square() for u in components]).sum(dim=0), grid) / 2


def enstrophy(vorticity: Tensor, grid: Grid) -> Tensor:
    r"""Mean enstrophy.

        Z = <w^2> / 2,   w the vorticity, of either sign

    Arguments:
        vorticity: w, shape (..., *S); of a velocity: `vorticity_of`.
        grid: of the field.
    Returns:
        Squared units of vorticity, shape (...).
    Raises:
        InputError: the field is not on the grid.
    References: Pope 2000, Turbulent Flows, section 6.5.
    """
    return _mean(_field(vorticity, grid).square(), grid) / 2


def divergence(velocity: Tensor, grid: Grid) -> Tensor:
    r"""Divergence of a velocity, relative to its gradient.

        sqrt( <(div u)^2> / <|grad u|^2> ),   0 for incompressible flow, 0.7 for white noise in two dimensions

    The divergence field itself is the sum of `derivative`. A flow without gradient: NaN.

    Arguments:
        velocity: u, shape (..., D, *S).
        grid: of the fields, its axes periodic or Chebyshev.
    Returns:
        Dimensionless, shape (...).
    Raises:
        InputError: the fields are not on the grid, or an axis has no derivative.
    """
    components = _components(velocity, grid)
    div = torch.stack([derivative(u, grid, i - len(components)) for i, u in enumerate(components)]).sum(dim=0)
    return (_mean(div.square(), grid) / _gradient_square(components, grid)).sqrt()


def wall_error(fields: Tensor, grid: Grid, values: ArrayLike | Tensor) -> Tensor:
    r"""Departure of fields from their values at the walls.

        sqrt( mean over the wall of (x_wall - value)^2 ),   x_wall the polynomial through the nodes, at the wall

    The walls are no grid points: an error of the field grows towards them.

    Arguments:
        fields: shape (..., C, *S).
        grid: with one Chebyshev axis between walls.
        values: at the lower and the upper wall, shape (C, 2), units of the fields; NaN where a field has none.
            rbc: buoyancy (1, 0), both velocities (0, 0), pressure NaN.
    Returns:
        Units of the fields, shape (..., C, 2): lower and upper wall.
    Raises:
        InputError: the fields are not on the grid, there is no Chebyshev axis, or the values do not fit.
    References: card rbc.
    """
    x, axis = _field(fields, grid, channels=True), _wall(grid)
    target = torch.as_tensor(values, dtype=torch.float64, device=x.device)
    channels = x.shape[-len(grid.axes) - 1]
    if target.shape != (channels, 2):
        raise InputError(
            f"wall values must have shape ({channels}, 2), a pair per field; found {tuple(target.shape)}: change it."
        )
    return (_at_walls(x, grid, axis, 0) - target[:, None]).square().mean(dim=-2).sqrt()


class Nusselt(NamedTuple):
    """Nusselt number of Rayleigh-Benard convection, three ways; their long-time means agree.

    Attributes:
        volume: 1 + <v b> / kappa, shape (...).
        lower, upper: - d<b>_x/dy at the warm and at the cold wall, shape (...).
    """

    volume: Tensor
    lower: Tensor
    upper: Tensor


def nusselt(buoyancy: Tensor, velocity: Tensor, grid: Grid, rayleigh: float | Tensor, prandtl: float | Tensor) -> Nusselt:
    r"""Heat flux in units of that of conduction.

        Nu = 1 + <v b> / kappa,   Nu_wall = - d<b>_x / dy,   kappa = (Ra Pr)^(-1/2),   height and step of b are 1

    The walls lie on the last axis of the grid. The conductive state b = 1 - y at rest has 1, three times.

    Arguments:
        buoyancy: b, shape (..., *S), 1 at the lower and 0 at the upper wall.
        velocity: shape (..., D, *S), free-fall units; its last component v is vertical.
        grid: with the Chebyshev axis last.
        rayleigh, prandtl: numbers, or tensors that broadcast to (...).
    Returns:
        Nusselt, dimensionless.
    Raises:
        InputError: the fields are not on the grid, or its last axis is not Chebyshev.
    References: card rbc (nu_vol, nu_bot, nu_top of the solver's diagnostics).
    """
    b, v = _field(buoyancy, grid), _components(velocity, grid)[-1]
    slope = _at_walls(b, grid, _wall(grid, last=True), 1).mean(dim=-2)
    flux = _mean(v * b, grid)
    return Nusselt(1 + flux * _root(rayleigh, prandtl, flux), -slope[..., 0], -slope[..., 1])


def convection_budget(
    buoyancy: Tensor,
    velocity: Tensor,
    grid: Grid,
    dt: float,
    rayleigh: float | Tensor,
    prandtl: float | Tensor,
) -> Tensor:
    r"""Residual of the kinetic-energy budget of Rayleigh-Benard convection along a rollout.

        r = dKE/dt - ( <v b> - nu <|grad u|^2> ),   nu = (Ra / Pr)^(-1/2)

    Means over two frames by Simpson's rule: of the true flow r is of fourth order in dt, and of the size of
    the rounding of stored fields. Divide by the mean of <v b> to judge it.

    Arguments:
        buoyancy: b, shape (..., T, *S), successive frames.
        velocity: shape (..., T, D, *S), its last component v vertical.
        grid: with the Chebyshev axis last.
        dt: time between frames, free-fall units.
        rayleigh, prandtl: numbers, or tensors that broadcast to (..., T).
    Returns:
        Energy per time, free-fall units, shape (..., T - 2).
    Raises:
        InputError: fewer than three frames, dt not positive, or the fields are not on the grid.
    References: card rbc.
    """
    b, components = _field(buoyancy, grid), _components(velocity, grid)
    _wall(grid, last=True)
    production = _mean(components[-1] * b, grid)
    nu = _root(prandtl, 1 / torch.as_tensor(rayleigh, dtype=torch.float64), production)
    return _residual(kinetic_energy(velocity, grid), production - nu * _gradient_square(components, grid), dt)


def kolmogorov_budget(
    vorticity: Tensor, grid: Grid, dt: float, viscosity: float = 0.01, drag: float = 0.2, forcing_mode: int = 4
) -> Tensor:
    r"""Residual of the kinetic-energy budget of Kolmogorov flow along a rollout.

        r = dKE/dt - ( k <psi cos(k y)> - nu <w^2> - 2 mu KE ),   lap psi = w,   k = 2 pi forcing_mode / Ly

    Means over two frames by Simpson's rule, as in `convection_budget`. Divide by the mean of nu <w^2> to judge it.

    Arguments:
        vorticity: w with the sign of the card, shape (..., T, *S), successive frames.
        grid: two periodic axes, x and y.
        dt: time between frames.
        viscosity, drag, forcing_mode: nu, mu and the mode of the force, those of the data.
    Returns:
        Energy per time, shape (..., T - 2).
    Raises:
        InputError: fewer than three frames, dt not positive, or the field is not on the grid.
    References: card kolmogorov.
    """
    w, psi = _field(vorticity, grid), _stream(vorticity, grid)
    k = 2 * math.pi * forcing_mode / grid.axes[-1].length
    y = torch.from_numpy(grid.axes[-1].points - grid.axes[-1].start).to(w.device)
    energy = -_mean(psi * w, grid) / 2
    power = k * _mean(psi * torch.cos(k * y), grid) - viscosity * _mean(w.square(), grid) - 2 * drag * energy
    return _residual(energy, power, dt)


def _residual(energy: Tensor, power: Tensor, dt: float) -> Tensor:
    """Mean over two frames of dE/dt - power, Simpson's rule: (..., T) to (..., T - 2)."""
    if energy.ndim < 1 or energy.shape[-1] < 3 or not 0 < dt < math.inf:
        raise InputError(
            f"a budget needs at least 3 frames on the axis before the fields and dt > 0; found times "
            f"{tuple(energy.shape)} and dt {dt}: give successive frames."
        )
    rate = (energy[..., 2:] - energy[..., :-2]) / (2 * dt)
    return rate - (power[..., :-2] + 4 * power[..., 1:-1] + power[..., 2:]) / 6


def _root(a: float | Tensor, b: float | Tensor, like: Tensor) -> Tensor:
    """sqrt(a b) on the device of another tensor."""
    return (torch.as_tensor(a, dtype=torch.float64) * torch.as_tensor(b, dtype=torch.float64)).sqrt().to(like.device)


def _mean(x: Tensor, grid: Grid) -> Tensor:
    return space_mean(x, grid.weights, len(grid.axes))


def _gradient_square(components: tuple[Tensor, ...], grid: Grid) -> Tensor:
    """<|grad u|^2>."""
    axes = range(-len(grid.axes), 0)
    means = [_mean(derivative(u, grid, axis).square(), grid) for u in components for axis in axes]
    return torch.stack(means).sum(dim=0)


def _stream(vorticity: Tensor, grid: Grid) -> Tensor:
    """Stream function psi, lap psi = w, of mean 0."""
    w = _field(vorticity, grid)
    if len(grid.axes) != 2 or set(grid.boundary) != {"periodic"}:
        raise InputError(f"a stream function needs two periodic axes; found {grid.boundary}: give the velocity instead.")
    ax, ay = grid.axes
    kx = torch.from_numpy(2 * np.pi * np.fft.fftfreq(ax.size, ax.spacing))[:, None]
    square = kx.square() + torch.from_numpy(ay.wavenumbers()).square()
    inverse = torch.where(square > 0, -1 / square, 0.0).to(w.device)
    return torch.fft.irfft2(torch.fft.rfft2(w) * inverse, s=grid.shape)


def _wall(grid: Grid, last: bool = False) -> int:
    """The Chebyshev axis, a negative number."""
    walls = [i - len(grid.axes) for i, axis in enumerate(grid.axes) if axis.nodes == "chebyshev"]
    if len(walls) != 1 or (last and walls != [-1]):
        where = "as its last" if last else "in the grid"
        raise InputError(
            f"expected one Chebyshev axis between walls {where}; found boundaries {grid.boundary}: change the grid."
        )
    return walls[0]


def _at(axis: Axis, points: ArrayLike, order: int) -> Tensor:
    """Matrix (P, n): order-th derivative at points of the polynomial through values at the Chebyshev nodes."""
    nodes, places = (2 * (np.asarray(y) - axis.start) / axis.length - 1 for y in (axis.points, points))
    series = chebyshev.chebder(np.eye(axis.size), order, 2 / axis.length, axis=0)
    to_series = np.linalg.inv(chebyshev.chebvander(nodes, axis.size - 1))
    return torch.from_numpy(chebyshev.chebvander(places, axis.size - 1 - order) @ series @ to_series)


def _at_walls(x: Tensor, grid: Grid, axis: int, order: int) -> Tensor:
    """Derivative of a field at the points P of the lower and the upper wall: (..., *S) to (..., P, 2)."""
    along = grid.axes[axis]
    matrix = _at(along, [along.start, along.start + along.length], order).to(x.device)
    walls = x.movedim(axis, -1) @ matrix.T
    return walls.reshape(*walls.shape[: -len(grid.axes)], -1, 2)


def _field(x: Tensor, grid: Grid, channels: bool = False) -> Tensor:
    d = len(grid.axes)
    if x.ndim < d + channels or tuple(x.shape[x.ndim - d :]) != grid.shape:
        raise InputError(
            f"expected a field ({'..., C' if channels else '...'}, *S) on the grid {grid.names} of shape {grid.shape}; "
            f"found shape {tuple(x.shape)}: use the grid of the data, system.with_grid."
        )
    return x.to(torch.float64)


def _components(velocity: Tensor, grid: Grid, number: int | None = None) -> tuple[Tensor, ...]:
    """Components of a velocity, one per axis."""
    u, d = _field(velocity, grid, channels=True), len(grid.axes)
    if u.shape[-d - 1] != d or number not in (None, d):
        raise InputError(
            f"a velocity on the axes {grid.names} has one component for each, shape (..., {number or d}, *S); found "
            f"{tuple(velocity.shape)}: stack the components in the order of the axes."
        )
    return u.unbind(dim=-d - 1)
