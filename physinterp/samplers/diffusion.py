r"""Samplers of the diffusion and flow-matching baselines: from noise at s = 0 to the normalised difference y at s = 1.

    y_s = a(s) y + v(s) z,   y = (x1 - x0) / scale,   z ~ N(0, I);   a = beta, v = gamma of a one-sided interpolant

`b` is the velocity E[dy_s/ds | y_s, x0] for every one of them, as it is the drift for every other sampler; what a published
step says with the denoiser or the noise is read off it: E[y] = interpolant.clean(b), E[z] = interpolant.noise(b). `scale`
is measured on the data, so y has unit variance per channel: that is EDM's sigma_data, 1 in these units. The sampler
returns y; the model makes x1 = x0 + scale y of it. Below, a prime marks the end of a step from s to s' = s + h.

    name        class                 evaluations  law with the exact network
    ddpm        Ancestral             n            exact as steps grow; few steps are narrow
    tsm         TruncatedAncestral    n            never: the right mean, hardly any spread
    ddim        DDIM                  n            exact as steps grow; few steps are narrow
    edm-euler   EDMEuler              n            exact as steps grow; few steps are narrow
    edm         EDMHeun               2 n - 1      exact as steps grow; fewer than ten steps are much too wide
    fm-euler    FlowMatchingEuler     n            exact as steps grow; few steps are narrow
    fm          FlowMatchingMidpoint  2 n          exact as steps grow; near it from two steps
    fm-heun     FlowMatchingHeun      2 n          exact as steps grow; near it from five steps

The three Euler methods are one map, y_s' = a' E[y] + v' E[z], on three paths. For y ~ N(mu, c) let w_k be the angle between
(a sqrt(c), v) at s_k and at s_k+1: each step keeps the share cos^2 w_k of the variance. From pure noise the angles add up
to pi/2, so n steps on any path and grid keep at most cos^2n(pi / 2n): .25, .61, .78, .98 for n = 2, 5, 10, 100 (EDM, whose
start is not quite pure noise, has sqrt(c) / v_max as one more angle).
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor

from physinterp.errors import InputError
from physinterp.interpolant import (
    FlowMatchingInterpolant,
    Interpolant,
    OneSidedInterpolant,
    VarianceExplodingInterpolant,
    VariancePreservingInterpolant,
)
from physinterp.samplers.base import Grid, Sampler, plus
from physinterp.types import Conditioning, DriftFn, NoiseFn, Residual

EDM_MIN = 0.002
"""The least noise level of EDM before 0, in units of the standard deviation of y."""


class FromNoise(Sampler, ABC):
    """A sampler that starts from the noise v(0) z and ends at y.

    Where the steps draw noise k = 0 ... n - 1, the start is draw n. Otherwise it is draw 0 and the only one, and the same z
    gives the same member at any number of steps, up to the order of the method; `deterministic` means no noise at all.

    Arguments:
        steps, temperature, grid: see `Sampler`.
        interpolant: the path of y, one-sided; None is that of the class.
        residual: not used.
    Raises:
        InputError: those of `Sampler`, and an interpolant that is not one-sided.
    """

    path: ClassVar[type[OneSidedInterpolant]]

    def __init__(
        self,
        steps: int,
        interpolant: Interpolant | None = None,
        residual: Residual | None = None,
        temperature: float = 1.0,
        grid: Grid | None = None,
    ) -> None:
        super().__init__(steps, interpolant or self.path(), residual, temperature, grid)
        if not isinstance(self.interpolant, OneSidedInterpolant):
            found = type(self.interpolant).__name__
            raise InputError(f"{type(self).__name__} starts from noise and needs a one-sided interpolant, found {found}")

    def start(self, x0: Tensor, noise: NoiseFn) -> Tensor:
        _, v = self.level(x0.new_zeros(()))
        return v * self.scaled(noise(self.steps if self.noisy_steps else 0))

    def level(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Signal a and noise v at s."""
        c = self.interpolant.coefficients(s)
        return c.beta, c.gamma


class ReversedChain(FromNoise, ABC):
    """The step of DDPM and TSM, which differ in their grids; see `Ancestral`."""

    path = VariancePreservingInterpolant

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        (a, v), (a1, v1) = self.level(s), self.level(s_next)
        y = self.interpolant.clean(b(x_s, s.expand(len(x_s)), x0, cond), x_s, x0, s)
        r = a / a1
        kept = (r * v1 / v) ** 2
        return plus(r * (v1 / v) ** 2 * x_s, (a1 * (1 - kept), y), (v1 * (1 - kept).sqrt(), noise))


class Ancestral(ReversedChain):
    r"""DDPM: from s to s' by the law of y_s' given y_s and y, with y replaced by its estimate E[y | y_s].

        r = a / a':  r v'^2 / v^2 x + a' (1 - r^2 v'^2 / v^2) E[y] + v' sqrt(1 - r^2 v'^2 / v^2) xi

    s = 0 is pure noise (no signal at all) and the first level of every grid, so the mean is right. A step leaves out the
    spread of y given y_s, so few steps are narrow.
    References: Ho et al. 2020, arXiv:2006.11239, equation 7; Lin et al. 2023, arXiv:2305.08891 (zero terminal signal).
    """


class TruncatedAncestral(ReversedChain):
    r"""TSM: the first n steps of a DDPM chain of n / (1 - skip), and its estimate of y in place of the others.

        s = 0, h, 2 h, ..., (n - 1) h, 1,   h = (1 - skip) / n

    The jump to s = 1 returns E[y | y_s]. For y ~ N(mu, c) it has the mean mu and, at the end of a fine chain, the variance
    c a^2 c / (a^2 c + v^2): next to nothing, since all levels visited are nearly pure noise. A member is close to the
    conditional mean (good pointwise errors) and an ensemble has hardly any spread, however many the steps.

    Arguments:
        steps, interpolant, residual, temperature: see `FromNoise`.
        grid: replaces the one above.
        skip: the share of the chain that is left out, in [0, 1).
    Raises:
        InputError: those of `FromNoise`, and a skip outside [0, 1).
    References: Shehata, Holzschuh, Thuerey 2025, Improved sampling of diffusion models in fluid dynamics with
        Tweedie's formula, ICLR.
    """

    def __init__(
        self,
        steps: int,
        interpolant: Interpolant | None = None,
        residual: Residual | None = None,
        temperature: float = 1.0,
        grid: Grid | None = None,
        skip: float = 0.9,
    ) -> None:
        if not 0 <= skip < 1:
            raise InputError(f"tsm leaves out a share of the chain in [0, 1), found skip = {skip}")
        visited = [(1 - skip) * k / steps for k in range(steps)]
        super().__init__(steps, interpolant, residual, temperature, [*visited, 1.0] if grid is None else grid)
        self.skip = skip


class DDIM(FromNoise):
    r"""DDIM without noise in its steps (eta = 0), for a model of DDPM: a' E[y] + v' E[z].

    The levels are trailing: the first is pure noise, s = 0, and the last is one step before s = 1, so the mean is right.
    References: Song, Meng, Ermon 2020, arXiv:2010.02502, equation 12; Lin et al. 2023, arXiv:2305.08891 (trailing levels).
    """

    noisy_steps = False
    path = VariancePreservingInterpolant

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        a1, v1 = self.level(s_next)
        velocity = b(x_s, s.expand(len(x_s)), x0, cond)
        y, z = self.interpolant.clean(velocity, x_s, x0, s), self.interpolant.noise(velocity, x_s, x0, s)
        return plus(a1 * y, (v1, z))


class NoiseLevelFlow(FromNoise, ABC):
    r"""The flow of EDM, dx/dv = E[z] = (x - E[y]) / v with v = v_max (1 - s)^7.

    The grid is that of EDM: uniform in v^(1/7), which is in s, from v_max to v_min, then v = 0. The start leaves out y,
    one part in v_max; the last step leaves out the share v_min^2 / c of a variance c, however many the steps.
    """

    noisy_steps = False
    path: ClassVar[type[VarianceExplodingInterpolant]] = VarianceExplodingInterpolant

    def __init__(
        self,
        steps: int,
        interpolant: Interpolant | None = None,
        residual: Residual | None = None,
        temperature: float = 1.0,
        grid: Grid | None = None,
    ) -> None:
        path = interpolant or self.path()
        if not isinstance(path, VarianceExplodingInterpolant):
            raise InputError(
                f"{type(self).__name__} integrates over the noise level and needs beta = 1, found {type(path).__name__}"
            )
        last = float(path.inverse(torch.tensor(EDM_MIN, dtype=torch.float64)))
        visited = [last * k / max(steps - 1, 1) for k in range(steps)]
        super().__init__(steps, path, residual, temperature, [*visited, 1.0] if grid is None else grid)

    def slope(self, b: DriftFn, x: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        """dx/dv, shaped like x, s < 1."""
        return self.interpolant.noise(b(x, s.expand(len(x)), x0, cond), x, x0, s)


class EDMEuler(NoiseLevelFlow):
    r"""EDM by Euler's method, x + (v' - v) E[z].

    References: Karras et al. 2022, arXiv:2206.00364, equations 3 and 5.
    """

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        (_, v), (_, v1) = self.level(s), self.level(s_next)
        return plus(x_s, (v1 - v, self.slope(b, x_s, s, x0, cond)))


class EDMHeun(NoiseLevelFlow):
    r"""EDM by Heun's method, the mean of the slopes at both ends of a step; the last step, to v = 0, is Euler's.

    For a Gaussian with c = 1 the variance is 19, 3.6, 1.38, 1.09 and 1.02 times the right one after 3, 5, 10, 18 and 40
    steps: from 80 to 0.002 the levels of fewer than ten steps are too far apart.
    References: Karras et al. 2022, arXiv:2206.00364, algorithm 1 without churn, equation 5.
    """

    order = 2

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        (_, v), (_, v1) = self.level(s), self.level(s_next)
        first = self.slope(b, x_s, s, x0, cond)
        x = plus(x_s, (v1 - v, first))
        if v1 == 0:
            return x
        half = (v1 - v) / 2
        return plus(x_s, (half, first), (half, self.slope(b, x, s_next, x0, cond)))


class StraightFlow(FromNoise, ABC):
    r"""The flow of flow matching, dx/ds = b on y_s = s y + (1 - s) z: straight where y and z determine each other."""

    noisy_steps = False
    path = FlowMatchingInterpolant


class FlowMatchingEuler(StraightFlow):
    r"""Flow matching by Euler's method, x + h b.

    References: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.
    """

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        return plus(x_s, (s_next - s, b(x_s, s.expand(len(x_s)), x0, cond)))


class FlowMatchingMidpoint(StraightFlow):
    r"""Flow matching by the midpoint rule, x + h b(x + h b(x, s) / 2, s + h / 2).

    For a Gaussian with c from 1/4 to 4 two steps are within 4 % of the variance and five within 0.5 %.
    References: Lipman et al. 2022, arXiv:2210.02747.
    """

    order = 2

    @property
    def evaluations(self) -> int:
        return 2 * self.steps

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        h = s_next - s
        middle = plus(x_s, (h / 2, b(x_s, s.expand(len(x_s)), x0, cond)))
        return plus(x_s, (h, b(middle, (s + h / 2).expand(len(x_s)), x0, cond)))


class FlowMatchingHeun(StraightFlow):
    r"""Flow matching by Heun's method, x + h/2 (b(x, s) + b(x + h b(x, s), s')).

    The last step needs the velocity at s = 1, where it is regular: b = x.
    References: Lipman et al. 2022, arXiv:2210.02747.
    """

    order = 2

    @property
    def evaluations(self) -> int:
        return 2 * self.steps

    def step(
        self, b: DriftFn, x_s: Tensor, s: Tensor, s_next: Tensor, x0: Tensor, cond: Conditioning, noise: Tensor
    ) -> Tensor:
        h = s_next - s
        first = b(x_s, s.expand(len(x_s)), x0, cond)
        last = b(plus(x_s, (h, first)), s_next.expand(len(x_s)), x0, cond)
        return plus(x_s, (h / 2, first), (h / 2, last))
