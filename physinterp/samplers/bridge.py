"""Samplers of the stochastic interpolant: from the state x0 at s = 0 to a sample of x1 given x0 at s = 1."""

from __future__ import annotations

from torch import Tensor

from physinterp.samplers.base import Sampler
from physinterp.types import Conditioning, DriftFn


class DriftEuler(Sampler):
    r"""SI-E: x + h b.

    The drift of the SDE without its noise. It is no sample of the conditional law and not its probability flow: for a
    Gaussian it returns the conditional mean, every member is equal and the spread is zero.
    References: Zhou et al. 2025, arXiv:2509.26282 (integrator "euler").
    """

    deterministic = True

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        return x_s + (s_next - s) * b(x_s, s.expand(len(x_s)), x0, cond)


class EulerMaruyama(Sampler):
    r"""SI-EM: x + h b + g0(s) sqrt(h) xi, the law of x1 given x0 as steps grow.

    Few steps are right in variance where sigma^2 is near the variance of x1 given x0.
    References: Chen et al. 2024, arXiv:2403.13724; Zhou et al. 2025, arXiv:2509.26282 (integrator "em").
    """

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        h, g0 = s_next - s, self.interpolant.coefficients(s).g0
        return x_s + h * b(x_s, s.expand(len(x_s)), x0, cond) + g0 * h.sqrt() * noise
