r"""Samplers of the stochastic interpolant: from the state x0 at s = 0 to a sample of x1 given x0 at s = 1.

Below, h = s' - s is the step, xi a standard normal draw and b the drift at (s, x, x0). Every class keeps the law of x1
given x0 as steps grow, except `DriftEuler`, which has no spread; what it does at few steps is said at each class.

    name          class             steps draw noise   exact law at few steps where
    si-e          DriftEuler        no                 never: the conditional mean of a Gaussian
    si-em         EulerMaruyama     yes                C is about sigma^2
    si-foellmer   Foellmer          yes                C is about sigma^2
    si-pf         FlowMidpoint      at the start       C is at least sigma^2, from five steps
    si-bridge     BrownianBridge    yes                never: too narrow
    si-cal        CalibratedBridge  yes                always, for a Gaussian of the given covariance

C is the covariance of x1 given x0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import (
    BrownianInterpolant,
    Coefficients,
    Interpolant,
    LinearInterpolant,
    QuadraticInterpolant,
)
from physinterp.samplers.base import Grid, Sampler, plus
from physinterp.types import Conditioning, DriftFn, NoiseFn, Residual

Slope: TypeAlias = tuple[Tensor, Tensor]
"""A number and a field whose product is the slope: the product itself would be one more pass over memory."""


class FromState(Sampler, ABC):
    """A sampler that starts from the state x0: arguments and errors of every sampler here.

    Arguments:
        steps, temperature, grid: see `Sampler`.
        interpolant: the interpolant that the drift was trained with, x_s = x0 at s = 0; None is the linear one, sigma = 1.
        residual: R = C / sigma^2, for `CalibratedBridge` alone.
    Raises:
        InputError: those of `Sampler`, and an interpolant that does not start from x0.
    """

    def check(self) -> None:
        """The interpolant must start from x0."""
        super().check()
        c = self.interpolant.coefficients(torch.zeros((), dtype=torch.float64))
        if c.alpha != 1 or c.beta != 0 or bool((c.gamma != 0).any()):
            name, found = type(self).__name__, type(self.interpolant).__name__
            raise InputError(f"{name} starts from the state x0, {found} does not; use fm, ddpm or edm with it")


class DriftEuler(FromState):
    r"""SI-E: x + h b.

    The drift of the SDE without its noise. It is no sample of the conditional law and not its probability flow: for a
    Gaussian it returns the conditional mean, every member is equal and the spread is zero; of two modes it approaches
    the heavier one.
    References: Zhou et al. 2025, arXiv:2509.26282 (integrator "euler").
    """

    deterministic = True

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        return plus(x_s, (s_next - s, b(x_s, s.expand(len(x_s)), x0, cond)))


class EulerMaruyama(FromState):
    r"""SI-EM: x + h b + g0(s) sqrt(h) xi, the law of x1 given x0 as steps grow; or the same law with another diffusion g,

        x + h (b + (g^2 - g0^2)/2 score) + g sqrt(h) xi.

    Few steps are right in variance where sigma^2 is near C, and g0 is the safe choice. The first step always takes g0:
    the law at s = 0 is a point, which has no score. With g(0) = g0(0) the corrected drift is regular there; a smaller
    g(0) converges so slowly that no practical number of steps is enough (half of g0: variance +4 % at 4000 steps).

    Arguments:
        steps, interpolant, residual, temperature, grid: see `Sampler`.
        g: None for g0; a number c for c g0; or a function of s, a tensor (), to a tensor that broadcasts to the state.
    References: Chen et al. 2024, arXiv:2403.13724; Zhou et al. 2025, arXiv:2509.26282 (integrator "em").
    """

    strong_order: ClassVar[float] = 1.0

    def __init__(
        self,
        steps: int,
        interpolant: Interpolant | None = None,
        residual: Residual | None = None,
        temperature: float = 1.0,
        grid: Grid | None = None,
        g: Callable[[Tensor], Tensor] | float | None = None,
    ) -> None:
        super().__init__(steps, interpolant, residual, temperature, grid)
        self.g = g

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        h, k = s_next - s, self.interpolant.coefficients(s)
        drift = b(x_s, s.expand(len(x_s)), x0, cond)
        if self.g is None:
            return plus(x_s, (h, drift), (k.g0 * h.sqrt(), noise))
        return _with_diffusion(self.g(s) if callable(self.g) else self.g * k.g0, k, h, drift, x_s, x0, noise)


class Foellmer(FromState):
    r"""SI-EM with the diffusion of the Foellmer process, the law of x1 given x0 as steps grow.

        g_F^2 = abs(2 gamma (gamma beta' / beta - gamma'))

    linear: g_F = sigma sqrt(1 - s^2), drift (1 + s) b - (x - x0);  quadratic: g_F = sigma sqrt((1 - s)(3 - s));
    Brownian: g_F = g0. Of all diffusions it makes the law of paths least sensitive to errors of the drift. For the linear
    interpolant few steps are a little narrow where C is near sigma^2 and wider than those of `EulerMaruyama` where C
    is much smaller.
    References: Chen et al. 2024, arXiv:2403.13724.
    """

    strong_order: ClassVar[float] = 1.0

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        g, k = self.interpolant.foellmer(s), self.interpolant.coefficients(s)
        return _with_diffusion(g, k, s_next - s, b(x_s, s.expand(len(x_s)), x0, cond), x_s, x0, noise)


def _with_diffusion(g: Tensor, k: Coefficients, h: Tensor, b: Tensor, x: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """An Euler-Maruyama step with diffusion g; with g0 where x_s is a point, gamma = 0, and has no score.

    The score is read off b: b + (g^2 - g0^2)/2 score = b + q (beta b - beta' x - (beta alpha' - beta' alpha) x0).
    """
    q = (k.g0**2 - g**2) / (2 * k.gamma * (k.beta * k.eta - k.beta_dot * k.gamma))
    q, g = torch.where(k.gamma > 0, q, 0.0), torch.where(k.gamma > 0, g, k.g0)
    u, v = q * k.beta_dot, q * (k.beta * k.alpha_dot - k.beta_dot * k.alpha)
    return plus(x, (h * (1 + q * k.beta), b), (-h * u, x), (-h * v, x0), (g * h.sqrt(), noise))


class ProbabilityFlow(FromState, ABC):
    r"""The probability flow of x_s given x0 in its regular form: y = (x - x0) / tau, tau = sqrt(s).

        y(0) = sigma z,  x(1) = x0 + y(1)
        linear:     dy/dtau = (1 + s) b - tau y
        quadratic:  dy/dtau = [(3 - s) b + (1 - s) x0 - tau y] / (2 - s)
        Brownian:   dy/dtau = b

    The velocity in s is singular at s = 0, where the law is a point; y is smooth. All noise is the one draw z = noise(0),
    times the temperature: the same z gives the same member at any number of steps, up to the order of the method. The
    state of the loop is y. The default grid is `quadratic`, uniform in tau, and `order` is that in the step of tau.

    A method that needs the slope at s = 1 takes its closed form, y (linear) or 2 x0 + 3 y (quadratic), and saves an
    evaluation.

    Raises:
        InputError: those of `FromState`; another kind of interpolant; or the Brownian one with such a method, since its
            drift at s = 1 is never trained.
    """

    noisy_steps = False
    order = 2
    default_grid = "quadratic"
    closed: ClassVar[bool] = False  # whether a step needs the slope at its end
    stages: ClassVar[int] = 2

    def check(self) -> None:
        """The interpolant must be one that this sampler knows."""
        super().check()
        kind = type(self.interpolant).__name__
        if not isinstance(self.interpolant, LinearInterpolant | QuadraticInterpolant | BrownianInterpolant):
            raise InputError(f"si-pf knows the linear, quadratic and Brownian interpolants, found {kind}; use si-em")
        if self.closed and isinstance(self.interpolant, BrownianInterpolant):
            raise InputError(f"{type(self).__name__} needs the drift at s = 1, which {kind} lacks; use si-pf (midpoint)")

    @property
    def evaluations(self) -> int:
        return self.stages * self.steps - self.closed

    def start(self, x0: Tensor, noise: NoiseFn) -> Tensor:
        return self.interpolant.sigma.to(x0) * self.scaled(noise(0))

    def finish(self, x: Tensor, x0: Tensor) -> Tensor:
        """x(1) = x0 + y(1)."""
        return x0 + x

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        def slope(y: Tensor, tau: Tensor) -> Slope:
            return self.slope(b, y, tau, x0, cond)

        return self.advance(slope, x_s, s.sqrt(), s_next.sqrt())

    @abstractmethod
    def advance(self, slope: Callable[[Tensor, Tensor], Slope], y: Tensor, tau: Tensor, tau_next: Tensor) -> Tensor:
        """One step of the method for dy/dtau = slope(y, tau)."""

    def slope(self, b: DriftFn, y: Tensor, tau: Tensor, x0: Tensor, cond: Conditioning) -> Slope:
        """dy/dtau = c f, f shaped like y; in closed form at tau = 1 where the method gets there."""
        s, one = tau**2, torch.ones_like(tau)
        quadratic = isinstance(self.interpolant, QuadraticInterpolant)
        if self.closed and s == 1:
            return one, 2 * x0 + 3 * y if quadratic else y
        drift = b(plus(x0, (tau, y)) if tau > 0 else x0, s.expand(len(y)), x0, cond)
        if quadratic:
            return (3 - s) / (2 - s), plus(drift, ((1 - s) / (3 - s), x0), (-tau / (3 - s), y))
        if tau == 0 or isinstance(self.interpolant, BrownianInterpolant):
            return one, drift
        return 1 + s, plus(drift, (-tau / (1 + s), y))


class FlowMidpoint(ProbabilityFlow):
    r"""SI-PF by the midpoint rule, y + h f(y + h f(y)/2), h the step of tau: order 2, 2 evaluations per step.

    The one to take where C is at least about sigma^2 and ten evaluations are affordable; narrow below.
    """

    def advance(self, slope: Callable[[Tensor, Tensor], Slope], y: Tensor, tau: Tensor, tau_next: Tensor) -> Tensor:
        """One step of the midpoint rule."""
        h = tau_next - tau
        c, f = slope(y, tau)
        c, f = slope(plus(y, (h / 2 * c, f)), tau + h / 2)
        return plus(y, (h * c, f))


class FlowHeun(ProbabilityFlow):
    r"""SI-PF by Heun's method, the mean of the slopes at both ends: order 2, 2 evaluations per step less one.

    Wide at few steps where `FlowMidpoint` is narrow.
    """

    closed = True

    def advance(self, slope: Callable[[Tensor, Tensor], Slope], y: Tensor, tau: Tensor, tau_next: Tensor) -> Tensor:
        """One step of Heun's method."""
        h, (c, f) = tau_next - tau, slope(y, tau)
        c_next, f_next = slope(plus(y, (h * c, f)), tau_next)
        return plus(y, (h / 2 * c, f), (h / 2 * c_next, f_next))


class FlowRK4(ProbabilityFlow):
    r"""SI-PF by the classical Runge-Kutta method: order 4, 4 evaluations per step less one. For references."""

    order = 4
    closed = True
    stages = 4

    def advance(self, slope: Callable[[Tensor, Tensor], Slope], y: Tensor, tau: Tensor, tau_next: Tensor) -> Tensor:
        """One step of the classical Runge-Kutta method."""
        h = tau_next - tau
        middle = tau + h / 2
        c1, k1 = slope(y, tau)
        c2, k2 = slope(plus(y, (h / 2 * c1, k1)), middle)
        c3, k3 = slope(plus(y, (h / 2 * c2, k2)), middle)
        c4, k4 = slope(plus(y, (h * c3, k3)), tau_next)
        return plus(y, (h / 6 * c1, k1), (h / 3 * c2, k2), (h / 3 * c3, k3), (h / 6 * c4, k4))


class BrownianBridge(FromState):
    r"""SI-bridge: the law of x_s' given x_s, x0 and x1, with x1 replaced by E[x1 | x_s, x0] = x + (1 - s) b.

        x + h b + sigma sqrt(w) xi,   w = (1 - s')^2 h (linear),  h (1 - s') / (1 - s) (Brownian)

    The last step adds no noise. The spread of x1 given x_s is left out, so few steps are narrow; see `CalibratedBridge`.
    On a Brownian path, a sample converges with order 1, or 1/2 with the Brownian interpolant, whose g0 is not 0 at the end.

    Raises:
        InputError: those of `FromState`, and an interpolant whose drift at s = 0 does not carry x1 (the linear and the
            Brownian one do).
    """

    strong_order: ClassVar[float] = 1.0

    def check(self) -> None:
        """The drift at s = 0 must carry x1."""
        super().check()
        _power(self.interpolant)

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        h, drift = s_next - s, b(x_s, s.expand(len(x_s)), x0, cond)
        amplitude = self.interpolant.sigma.to(x_s) * _bridge_variance(s, s_next, _power(self.interpolant)).sqrt()
        return plus(x_s, (h, drift), (amplitude, noise))


class CalibratedBridge(FromState):
    r"""SI-cal: the bridge with the spread of x1 given x_s, which `BrownianBridge` leaves out, put back as noise.

        x + h b + sigma sqrt( w + (h / (1 - s))^2 P ) xi,   P = R (1 - s)^p / ((1 - s)^p + s R)

    with w as in `BrownianBridge`, p = 2 (linear) or 1 (Brownian), and R = C / sigma^2 an operator, `residual`, whose
    functions are applied to xi. If x1 given x0 is Gaussian with covariance C, the law is exact at every number of steps
    and on every grid; one step is the conditional mean plus noise of covariance C. A scalar in place of an operator is
    exact for a white residual alone: on a spectrum k^-3 it makes the small scales several times too strong.

    Arguments:
        steps, interpolant, temperature, grid: see `FromState`.
        residual: R; measure C as the covariance of the error of x0 + b(0, x0, x0), the one-step mean, on validation pairs.
    Raises:
        InputError: those of `BrownianBridge`, and no residual.
    """

    strong_order: ClassVar[float] = 0.75  # linear, P added as noise; 1 with the Brownian interpolant

    def check(self) -> None:
        """There must be a residual, and the drift at s = 0 must carry x1."""
        super().check()
        if self.residual is None:
            raise InputError(
                "si-cal needs a residual, the covariance of x1 given x0 measured on validation pairs; or use si-em"
            )
        _power(self.interpolant)

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        assert self.residual is not None  # by `check`
        h, p, drift = s_next - s, _power(self.interpolant), b(x_s, s.expand(len(x_s)), x0, cond)
        bridge, kept, share = _bridge_variance(s, s_next, p), (1 - s) ** p, (h / (1 - s)) ** 2

        def amplitude(r: Tensor) -> Tensor:
            return (bridge + share * r * kept / (kept + s * r)).sqrt()

        return plus(x_s, (h, drift), (self.interpolant.sigma.to(x_s), self.residual.apply(amplitude, noise)))


def _power(interpolant: Interpolant) -> int:
    """p of gamma^2 = sigma^2 s (1 - s)^p, for the interpolants with E[x1 | x_s, x0] = x_s + (1 - s) b at every s."""
    if isinstance(interpolant, LinearInterpolant):
        return 2
    if isinstance(interpolant, BrownianInterpolant):
        return 1
    found = type(interpolant).__name__
    raise InputError(
        "si-bridge and si-cal need a drift that carries x1 at s = 0, of the linear or the Brownian interpolant; "
        f"found {found}: use si-em or si-pf"
    )


def _bridge_variance(s: Tensor, s_next: Tensor, power: int) -> Tensor:
    """Variance of x_s' given x_s, x0 and x1 in units of sigma^2: h (1 - s')^p (1 - s)^(p - 2)."""
    return (s_next - s) * (1 - s_next) ** power * (1 - s) ** (power - 2)
