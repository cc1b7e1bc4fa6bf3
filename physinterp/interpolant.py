r"""Stochastic interpolants between a source x0 and a target x1: the algebra, without networks.

    x_s = alpha(s) x0 + beta(s) x1 + gamma(s) z,   z ~ N(0, I),   s in [0, 1]

with a reference diffusion g0(s). A network that regresses to

    target = alpha' x0 + beta' x1 + eta z,   eta = gamma' - g0^2 / (2 gamma)

learns b(s, x, x0) = E[target | x_s = x, x0], the drift of dX = b ds + g0 dW, whose law at every s is that of x_s given
x0. x_s and b are two linear equations for the two unknowns E[x1 | x_s, x0] and E[z | x_s, x0]: one learned drift gives
the denoiser, the noise, the score, the probability flow and the drift for any other diffusion. For a network that does
not see x0, these read-outs hold where alpha = 0.
At s = 0 and s = 1 all is finite wherever it has a limit, which for a read-out b must determine; elsewhere nan or inf.

References: Albergo, Boffi, Vanden-Eijnden 2023, arXiv:2303.08797; Chen et al. 2024, arXiv:2403.13724 (a fixed x0).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi

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
    """Coefficients of an interpolant and the read-outs of its drift; see the module for the equations.

    The read-outs take b = b(x_s, s, x0), the state x_s and x0, all shaped like the state, and s, which broadcasts to it,
    such as (B, 1, 1, 1). A subclass writes `coefficients`, and a read-out where the general quotient is 0/0 at an end.

    Arguments:
        sigma: strength of the noise in units of the state, a number or a tensor (C, 1, 1). Near the standard deviation
            of x1 given x0, two to five Euler-Maruyama steps have the right variance; ten times off, they do not.
    """

    def __init__(self, sigma: float | Tensor = 1.0) -> None:
        self.sigma = sigma if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64)

    @abstractmethod
    def coefficients(self, s: Tensor) -> Coefficients:
        """Coefficients at s, a tensor that broadcasts to the state, such as (B, 1, 1, 1)."""

    def bridge(self, x0: Tensor, x1: Tensor, s: Tensor, z: Tensor) -> Bridge:
        """The interpolant at s (broadcastable to the state) with noise z, and the regression target of the drift."""
        c = self.coefficients(s)
        x_s = c.alpha * x0 + c.beta * x1 + c.gamma * z
        return Bridge(x_s, target=c.alpha_dot * x0 + c.beta_dot * x1 + c.eta * z)

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        r"""E[x1 | x_s, x0] = (eta x - gamma b - (alpha eta - alpha' gamma) x0) / (beta eta - beta' gamma): the denoiser."""
        c = self.coefficients(s)
        rest = c.eta * x_s - c.gamma * b - (c.alpha * c.eta - c.alpha_dot * c.gamma) * x0
        return rest / (c.beta * c.eta - c.beta_dot * c.gamma)

    def noise(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        r"""E[z | x_s, x0] = (beta b - beta' x - (beta alpha' - beta' alpha) x0) / (beta eta - beta' gamma)."""
        c = self.coefficients(s)
        rest = c.beta * b - c.beta_dot * x_s - (c.beta * c.alpha_dot - c.beta_dot * c.alpha) * x0
        return rest / (c.beta * c.eta - c.beta_dot * c.gamma)

    def score(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """Gradient of log p(x_s | x0) = -E[z | x_s, x0] / gamma.

        No limit where gamma = 0: x_s = x0 is a point mass at s = 0 and says nothing of z; at s = 1 b does not
        determine the score, except for the Brownian and the mirror interpolant.
        """
        return -self.noise(b, x_s, x0, s) / self.coefficients(s).gamma

    def drift(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor, g: Tensor | float) -> Tensor:
        """Drift b + (g^2 - g0^2) / 2 score for diffusion g and the same law; no limit at a given x0 unless g(0) = g0(0)."""
        excess = g**2 - self.coefficients(s).g0 ** 2
        return torch.where(excess == 0, b, b + excess / 2 * self.score(b, x_s, x0, s))

    def velocity(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """Velocity b - g0^2 / 2 score of the probability flow dX/ds: the drift for g = 0. No limit at a given x0."""
        return self.drift(b, x_s, x0, s, 0.0)

    def foellmer(self, s: Tensor) -> Tensor:
        r"""Diffusion with the least bound on the error of the path: g_F^2 = |2 gamma^2 beta' / beta - 2 gamma gamma'|."""
        c = self.coefficients(s)
        return (2 * c.gamma**2 * c.beta_dot / c.beta - 2 * c.gamma * c.eta - c.g0**2).abs().sqrt()

    def drift_from_clean(self, clean: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """b from E[x1 | x_s, x0], s < 1, with which a denoiser enters any sampler: the inverse of `clean`."""
        c = self.coefficients(s)
        noise = (x_s - c.alpha * x0 - c.beta * clean) / c.gamma
        return c.alpha_dot * x0 + c.beta_dot * clean + c.eta * noise

    def drift_from_noise(self, noise: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """b from E[z | x_s, x0] = -gamma score, 0 < s < 1: the inverse of `noise`, and of `score`."""
        c = self.coefficients(s)
        clean = (x_s - c.alpha * x0 - c.gamma * noise) / c.beta
        return c.alpha_dot * x0 + c.beta_dot * clean + c.eta * noise


class ConditionalInterpolant(Interpolant):
    r"""From a given x0: x_s = alpha (x0 + M_s) + beta x1 with a Gaussian martingale M, M_0 = 0, and g0 dW = alpha dM.

    The source diffuses while it fades: eta / gamma = alpha' / alpha. The SDE starts at the point x0, and x_s and b are
    two equations for E[x0 + M] and E[x1], regular at both ends if beta'(0) != 0.
    """

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """E[x1 | x_s, x0] = (alpha' x - alpha b) / (alpha' beta - alpha beta')."""
        c = self.coefficients(s)
        return (c.alpha_dot * x_s - c.alpha * b) / (c.alpha_dot * c.beta - c.alpha * c.beta_dot)

    def drift_from_clean(self, clean: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """b = beta' E[x1] + alpha' / alpha (x - beta E[x1])."""
        c = self.coefficients(s)
        return c.beta_dot * clean + c.alpha_dot / c.alpha * (x_s - c.beta * clean)

    def _wiener(self, s: Tensor, alpha: Tensor, beta: Tensor, alpha_dot: Tensor, beta_dot: Tensor) -> Coefficients:
        """M = sigma W: gamma = sigma sqrt(s) alpha, eta = sigma sqrt(s) alpha', g0 = sigma alpha."""
        sigma, spread = self.sigma.to(s), self.sigma.to(s) * s.sqrt()
        return Coefficients(alpha, beta, spread * alpha, alpha_dot, beta_dot, g0=sigma * alpha, eta=spread * alpha_dot)


class LinearInterpolant(ConditionalInterpolant):
    r"""alpha = 1 - s, beta = s, gamma = sigma (1 - s) sqrt(s), g0 = sigma (1 - s), eta = -sigma sqrt(s).

        E[x1] = x + (1 - s) b,   E[z] = (x - x0 - s b) / (sigma sqrt(s)),   velocity = (1 + s)/2 b + (1 - s)/(2 s) (x - x0)

    The noise is the Wiener path sigma (1 - s) W_s (Zhou et al. 2025, arXiv:2509.26282). The Foellmer process has the
    drift (1 + s) b - (x - x0). At s = 1 every b is x - x0, so it knows no score there.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        one = torch.ones_like(s)
        return self._wiener(s, alpha=1 - s, beta=s, alpha_dot=-one, beta_dot=one)

    def foellmer(self, s: Tensor) -> Tensor:
        """g_F = sigma sqrt(1 - s^2)."""
        return self.sigma.to(s) * (1 - s**2).sqrt()


class QuadraticInterpolant(ConditionalInterpolant):
    r"""alpha = 1 - s, beta = s^2, gamma = sigma (1 - s) sqrt(s), g0 = sigma (1 - s), eta = -sigma sqrt(s).

        E[x1] = (x + (1 - s) b) / (s (2 - s)),   E[z] = (2 x - (2 - s) x0 - s b) / (sigma (2 - s) sqrt(s))

    beta'(0) = 0, so b(0) = -x0 knows nothing of x1; the mean path is curved, so few Euler steps miss the mean.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        return self._wiener(s, alpha=1 - s, beta=s**2, alpha_dot=-torch.ones_like(s), beta_dot=2 * s)

    def foellmer(self, s: Tensor) -> Tensor:
        """g_F = sigma sqrt((1 - s) (3 - s)); not g0 at s = 0, where a step must still be taken with g0."""
        return self.sigma.to(s) * ((1 - s) * (3 - s)).sqrt()


class BrownianInterpolant(ConditionalInterpolant):
    r"""alpha = 1 - s, beta = s, gamma = sigma sqrt(s (1 - s)), g0 = sigma, eta = -sigma sqrt(s / (1 - s)).

        E[x1] = x + (1 - s) b,   score = (s b - (x - x0)) / (sigma^2 s),   velocity = (x - x0) / (2 s) + b / 2

    The Brownian bridge, its own Foellmer process. The target is singular at s = 1: weigh the loss with 1 - s, or stay
    away from s = 1. References: Singh and Lagun 2025, arXiv:2506.02276.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        one, sigma = torch.ones_like(s), self.sigma.to(s)
        gamma, eta = sigma * (s * (1 - s)).sqrt(), -sigma * (s / (1 - s)).sqrt()
        return Coefficients(1 - s, s, gamma, alpha_dot=-one, beta_dot=one, g0=sigma * one, eta=eta)

    def score(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """(s b - (x - x0)) / (sigma^2 s), finite at s = 1."""
        return (s * b - (x_s - x0)) / (self.sigma.to(s) ** 2 * s)

    def foellmer(self, s: Tensor) -> Tensor:
        """g_F = sigma = g0."""
        return self.sigma.to(s) * torch.ones_like(s)


class TrigonometricInterpolant(ConditionalInterpolant):
    r"""alpha = cos(pi s/2), beta = sin(pi s/2), gamma = sigma alpha sqrt(s), g0 = sigma alpha, eta = sigma alpha' sqrt(s).

        E[x1] = beta x + 2/pi alpha b,   E[z] = (alpha x - x0 - 2/pi beta b) / (sigma sqrt(s))

    alpha^2 + beta^2 = 1 keeps the variance between two independent densities of equal variance. Successive states are
    not independent: half-way, equal states come out sqrt(2) too large.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        alpha, beta = torch.sin(pi / 2 * (1 - s)), torch.sin(pi / 2 * s)
        return self._wiener(s, alpha, beta, alpha_dot=-pi / 2 * beta, beta_dot=pi / 2 * alpha)

    def foellmer(self, s: Tensor) -> Tensor:
        """g_F = sigma sqrt(pi s alpha / beta - alpha^2)."""
        alpha = torch.sin(pi / 2 * (1 - s))
        return self.sigma.to(s) * (alpha * (2 / torch.sinc(s / 2) - alpha)).sqrt()


class OneSidedInterpolant(Interpolant):
    r"""From noise: x_s = beta x1 + gamma z, alpha = g0 = 0, eta = gamma'. x0 is at most a condition of the network.

    b is the velocity of the probability flow, which starts at s = 0 from noise of standard deviation gamma(0) = sigma;
    with g_F it becomes the reverse SDE of score-based diffusion.
    """

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """E[x1 | x_s] = (gamma' x - gamma b) / (beta gamma' - beta' gamma)."""
        c = self.coefficients(s)
        d = c.beta * c.eta - c.beta_dot * c.gamma
        return torch.addcmul(c.eta / d * x_s, -c.gamma / d, b)

    def noise(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """E[z | x_s] = (beta b - beta' x) / (beta gamma' - beta' gamma)."""
        c = self.coefficients(s)
        d = c.beta * c.eta - c.beta_dot * c.gamma
        return torch.addcmul(c.beta / d * b, -c.beta_dot / d, x_s)

    @staticmethod
    def _from_noise(beta: Tensor, gamma: Tensor, beta_dot: Tensor, gamma_dot: Tensor) -> Coefficients:
        zero = torch.zeros_like(beta)
        return Coefficients(zero, beta, gamma, alpha_dot=zero, beta_dot=beta_dot, g0=zero, eta=gamma_dot)


class FlowMatchingInterpolant(OneSidedInterpolant):
    r"""beta = s, gamma = sigma (1 - s): flow matching (Lipman et al. 2022, arXiv:2210.02747), with the target x1 - sigma z.

    E[x1] = x + (1 - s) b,   sigma E[z] = x - s b
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        one, sigma = torch.ones_like(s), self.sigma.to(s)
        return self._from_noise(beta=s, gamma=sigma * (1 - s), beta_dot=one, gamma_dot=-sigma * one)


class VariancePreservingInterpolant(OneSidedInterpolant):
    r"""beta = sin(pi s/2), gamma = sigma cos(pi s/2), exactly (0, sigma) at s = 0 and (1, 0) at s = 1.

        E[x1] = beta x + 2/pi cos(pi s/2) b,   sigma E[z] = cos(pi s/2) x - 2/pi beta b

    DDPM (Ho et al. 2020, arXiv:2006.11239); for sigma = 1 the target is -pi/2 times "v" of Salimans and Ho 2022.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        sigma, cos, sin = self.sigma.to(s), torch.sin(pi / 2 * (1 - s)), torch.sin(pi / 2 * s)
        return self._from_noise(beta=sin, gamma=sigma * cos, beta_dot=pi / 2 * cos, gamma_dot=-pi / 2 * sigma * sin)


class VarianceExplodingInterpolant(OneSidedInterpolant):
    r"""beta = 1, gamma = sigma (1 - s)^7: EDM, whose levels are uniform in s; sigma is the largest one.

        E[x1] = x + (1 - s)/7 b,   b = gamma' (x - E[x1]) / gamma

    sigma = 80 is for x1 of unit variance. References: Karras et al. 2022, arXiv:2206.00364.
    """

    def __init__(self, sigma: float | Tensor = 80.0) -> None:
        super().__init__(sigma)

    def coefficients(self, s: Tensor) -> Coefficients:
        one, zero, sigma = torch.ones_like(s), torch.zeros_like(s), self.sigma.to(s)
        return self._from_noise(one, sigma * (1 - s) ** 7, beta_dot=zero, gamma_dot=-7 * sigma * (1 - s) ** 6)

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """x + (1 - s)/7 b."""
        return x_s + (1 - s) / 7 * b

    def inverse(self, gamma: Tensor) -> Tensor:
        """The s at which the noise has the standard deviation gamma <= sigma."""
        return 1 - (gamma / self.sigma.to(gamma)) ** (1 / 7)


class MirrorInterpolant(Interpolant):
    r"""alpha = 0, beta = 1, gamma = sigma sqrt(s (1 - s)), g0 = sigma, eta = -sigma sqrt(s / (1 - s)).

        E[x1] = x + (1 - s) b,   score = b / (sigma^2 s),   velocity = (1 - 1/(2 s)) b

    The SDE goes from one sample of x1 to another, the probability flow back to the same. Singular as the Brownian one.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        one, zero, sigma = torch.ones_like(s), torch.zeros_like(s), self.sigma.to(s)
        gamma, eta = sigma * (s * (1 - s)).sqrt(), -sigma * (s / (1 - s)).sqrt()
        return Coefficients(zero, one, gamma, alpha_dot=zero, beta_dot=zero, g0=sigma * one, eta=eta)

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """x + (1 - s) b."""
        return x_s + (1 - s) * b

    def score(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """b / (sigma^2 s), finite at s = 1."""
        return b / (self.sigma.to(s) ** 2 * s)

    def foellmer(self, s: Tensor) -> Tensor:
        """g_F = sigma sqrt(|1 - 2 s|)."""
        return self.sigma.to(s) * (1 - 2 * s).abs().sqrt()


class EncodingDecodingInterpolant(Interpolant):
    r"""alpha = cos^2(pi s) for s < 1/2, beta = cos^2(pi s) for s > 1/2, gamma = sigma sin^2(pi s), g0 = 0, eta = gamma'.

        s > 1/2:  E[x1] = x - tan(pi s)/(2 pi) b,   sigma E[z] = x + cot(pi s)/(2 pi) b
        s <= 1/2: E[z] = (x - alpha x0) / gamma, and no state holds x1, whose read-out is nan

    A flow between two densities: x0 is encoded into pure noise at s = 1/2, which is decoded into x1.
    """

    def coefficients(self, s: Tensor) -> Coefficients:
        sigma, sin2 = self.sigma.to(s), torch.sin(pi * torch.minimum(s, 1 - s)) ** 2
        e, d, zero = (s < 0.5).to(s), (s > 0.5).to(s), torch.zeros_like(s)  # encoding, decoding
        cos2, slope = 1 - sin2, (e - d) * pi * torch.sin(2 * pi * torch.minimum(s, 1 - s))
        return Coefficients(e * cos2, d * cos2, sigma * sin2, -e * slope, -d * slope, g0=zero, eta=sigma * slope)

    def clean(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """E[x1 | x_s] after s = 1/2, nan before."""
        return torch.where(s > 0.5, x_s + torch.tan(pi * (1 - s)) / (2 * pi) * b, torch.nan)

    def noise(self, b: Tensor, x_s: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """E[z | x_s, x0]: known from the state before s = 1/2, a read-out of b after."""
        c = self.coefficients(s)
        decoded = (x_s - b / (2 * pi * torch.tan(pi * (1 - s)))) / self.sigma.to(s)
        return torch.where(s > 0.5, decoded, (x_s - c.alpha * x0) / c.gamma)
