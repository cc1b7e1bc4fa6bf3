r"""Stochastic interpolants between two successive states: the algebra, without networks.

    x_s = alpha(s) x0 + beta(s) x1 + gamma(s) z,   z ~ N(0, I),   s in [0, 1]

with a reference diffusion g0(s). A network that regresses to

    target = alpha' x0 + beta' x1 + eta z,   eta = gamma' - g0^2 / (2 gamma)

learns b(s, x, x0) = E[target | x_s = x, x0], the drift of dX = b ds + g0 dW, X_0 = x0, whose law at s = 1 is that of x1
given x0. eta is written in closed form per class, because the two terms of its definition diverge at s = 0.

References: Albergo, Boffi, Vanden-Eijnden 2023, arXiv:2303.08797; Chen et al. 2024, arXiv:2403.13724 (the forecasting
form with a fixed x0); Zhou et al. 2025, arXiv:2509.26282 (emulation of physics).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """Values at s, each broadcastable to the state: alpha, beta, gamma, derivatives in s, g0 and eta."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    alpha_dot: Tensor
    beta_dot: Tensor
    g0: Tensor
    eta: Tensor


@dataclass(frozen=True)
class Bridge:
    """A point on the bridge and what the network has to predict there, both shaped like the state."""

    x_s: Tensor
    target: Tensor


class Interpolant(ABC):
    """Coefficients of an interpolant; see the module for the equations.

    Arguments:
        sigma: strength of the noise in units of the state, a number or a tensor that broadcasts to the state
            (C, 1, 1). Near the standard deviation of x1 given x0, two to five Euler-Maruyama steps already
            have the right variance; ten times off, they do not.
    """

    def __init__(self, sigma: float | Tensor = 1.0) -> None:
        self.sigma = sigma if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64)

    @abstractmethod
    def coefficients(self, s: Tensor) -> Coefficients:
        """Coefficients at s, a tensor that broadcasts to the state, such as (B, 1, 1, 1)."""

    def bridge(self, x0: Tensor, x1: Tensor, s: Tensor, z: Tensor) -> Bridge:
        """The interpolant at s (broadcastable to the state) with noise z, and the regression target of the drift."""
        c = self.coefficients(s)
        return Bridge(
            x_s=c.alpha * x0 + c.beta * x1 + c.gamma * z,
            target=c.alpha_dot * x0 + c.beta_dot * x1 + c.eta * z,
        )

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        r"""E[x1 | x_s, x0] = (eta x - gamma b - (alpha eta - alpha' gamma) x0) / (beta eta - beta' gamma), 0 < s < 1."""
        c = self.coefficients(s)
        return (c.eta * x_s - c.gamma * b - (c.alpha * c.eta - c.alpha_dot * c.gamma) * x0) / _determinant(c)

    def noise(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        r"""E[z | x_s, x0] = (beta b - beta' x - (beta alpha' - beta' alpha) x0) / (beta eta - beta' gamma), 0 < s < 1."""
        c = self.coefficients(s)
        return (c.beta * b - c.beta_dot * x_s - (c.beta * c.alpha_dot - c.beta_dot * c.alpha) * x0) / _determinant(c)

    def score(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """Gradient of log p(x_s | x0) = -E[z | x_s, x0] / gamma, 0 < s < 1."""
        return -self.noise(b, x_s, x0, s) / self.coefficients(s).gamma


def _determinant(c: Coefficients) -> Tensor:
    return c.beta * c.eta - c.beta_dot * c.gamma


class LinearInterpolant(Interpolant):
    r"""alpha = 1 - s, beta = s, gamma = sigma (1 - s) sqrt(s), g0 = sigma (1 - s), eta = -sigma sqrt(s).

    The interpolant of Zhou et al. 2025: the noise is the Wiener path sigma (1 - s) W_s.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        one, sigma = torch.ones_like(s), self.sigma.to(s)
        return Coefficients(
            alpha=1 - s,
            beta=s,
            gamma=sigma * (1 - s) * s.sqrt(),
            alpha_dot=-one,
            beta_dot=one,
            g0=sigma * (1 - s),
            eta=-sigma * s.sqrt(),
        )


class QuadraticInterpolant(Interpolant):
    r"""alpha = 1 - s, beta = s^2, gamma = sigma (1 - s) sqrt(s), g0 = sigma (1 - s), eta = -sigma sqrt(s).

    beta'(0) = 0 makes the drift at s = 0 independent of x1; the mean path is curved, so few Euler steps miss the mean.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        sigma = self.sigma.to(s)
        return Coefficients(
            alpha=1 - s,
            beta=s**2,
            gamma=sigma * (1 - s) * s.sqrt(),
            alpha_dot=-torch.ones_like(s),
            beta_dot=2 * s,
            g0=sigma * (1 - s),
            eta=-sigma * s.sqrt(),
        )


class BrownianInterpolant(Interpolant):
    r"""alpha = 1 - s, beta = s, gamma = sigma sqrt(s (1 - s)), g0 = sigma, eta = -sigma sqrt(s / (1 - s)).

    The Brownian bridge. Its target is singular at s = 1: weigh the loss with 1 - s, or stay away from s = 1.
    References: Singh and Lagun 2025, arXiv:2506.02276.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        one, sigma = torch.ones_like(s), self.sigma.to(s)
        return Coefficients(
            alpha=1 - s,
            beta=s,
            gamma=sigma * (s * (1 - s)).sqrt(),
            alpha_dot=-one,
            beta_dot=one,
            g0=sigma * one,
            eta=-sigma * (s / (1 - s)).sqrt(),
        )
