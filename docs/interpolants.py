"""The figure of interpolants.md: interpolants between densities with two and three modes, with their exact drifts.

python docs/interpolants.py        writes interpolants.png beside this file and prints the numbers of the page
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from physinterp import interpolant as si

STEPS, PATHS, SAMPLES = 200, 16, 5_000
S = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
X = torch.linspace(-2.2, 2.2, 441, dtype=torch.float64)
SDE, FLOW, DRIFT = "#0072B2", "#009E73", "#D55E00"


@dataclass(frozen=True)
class Modes:
    """A density on the line: a mixture of Gaussians of one standard deviation (0 is a sum of points)."""

    means: tuple[float, ...]
    weights: tuple[float, ...]
    sd: float

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        mode = torch.multinomial(torch.tensor(self.weights), n, replacement=True, generator=generator)
        return torch.tensor(self.means).double()[mode] + self.sd * torch.randn(n, generator=generator).double()


TWO, THREE = Modes((-1.0, 1.0), (0.5, 0.5), 0.15), Modes((-1.5, -0.2, 1.2), (0.3, 0.3, 0.4), 0.15)


class Law:
    """x_s between independent x0 and x1: a mixture over pairs of modes, each pair with the formula of a Gaussian."""

    def __init__(self, interpolant: si.Interpolant, source: Modes, target: Modes) -> None:
        self.interpolant, self.source, self.target = interpolant, source, target

    def pairs(self, x: Tensor, s: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each pair of modes at (x, s): log of weight times density, drift, score."""
        c, v0, v1 = self.interpolant.coefficients(s.clamp(min=1e-30)), self.source.sd**2, self.target.sd**2
        k = c.alpha**2 * v0 + c.beta**2 * v1 + c.gamma**2
        slope = (c.alpha * c.alpha_dot * v0 + c.beta * c.beta_dot * v1 + c.gamma * c.eta) / k
        for m0, p0 in zip(self.source.means, self.source.weights, strict=True):
            for m1, p1 in zip(self.target.means, self.target.weights, strict=True):
                off = x - c.alpha * m0 - c.beta * m1
                log = torch.tensor(p0 * p1).double().log() - (2 * torch.pi * k).log() / 2 - off**2 / (2 * k)
                yield log, c.alpha_dot * m0 + c.beta_dot * m1 + slope * off, -off / k

    def at(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Density, drift b and score: sums over pairs, weighted by the posterior probability of the pair given x."""
        log, drift, score = (torch.stack(part) for part in zip(*self.pairs(x, s), strict=True))
        weight = log.softmax(0)
        return log.logsumexp(0).exp(), (weight * drift).sum(0), (weight * score).sum(0)

    def sde(self, x: Tensor, generator: torch.Generator, noise: float = 1.0) -> Tensor:
        """States at the s of S, shape (STEPS + 1, N), by Euler-Maruyama from x at s = 0; noise = 0 is the drift alone."""
        states = [x]
        for s, s_next in pairwise(S):
            h, g0 = s_next - s, self.interpolant.coefficients(s).g0
            xi = torch.randn(len(x), generator=generator, dtype=torch.float64)
            x = x + h * self.at(x, s)[1] + noise * g0 * h.sqrt() * xi
            states.append(x)
        return torch.stack(states)

    def flow(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """States at the tau^2 of S, by Heun's method in tau = sqrt(s), where the flow out of a point is regular."""

        def slope(x: Tensor, tau: Tensor) -> Tensor:
            _, b, score = self.at(x, tau**2)
            return 2 * tau * (b - self.interpolant.coefficients(tau**2).g0 ** 2 / 2 * score)

        noise = self.interpolant.coefficients(S[1] ** 2).gamma
        states = [x, x + noise * torch.randn(len(x), generator=generator, dtype=torch.float64)]  # the only draw
        for tau, tau_next in pairwise(S[1:]):
            x, h = states[-1], tau_next - tau
            first = slope(x, tau)
            states.append(x + h / 2 * (first + slope(x + h * first, tau_next)))
        return torch.stack(states)


def shade(axes: Axes, law: Law) -> None:
    """p(x_s) over s, in grey; the scale saturates, for a point has no bound."""
    s = torch.linspace(0, 1, 201, dtype=torch.float64).clamp(1e-5, 1 - 1e-5)
    density = law.at(X[:, None], s)[0]
    axes.pcolormesh(s, X, density / (density + 0.4), cmap="Greys", vmin=0, vmax=1.1, shading="auto", rasterized=True)
    axes.set(xlim=(0, 1), ylim=(float(X[0]), float(X[-1])))


def row(axes: Sequence[Axes], law: Law, label: str, generator: torch.Generator) -> None:
    """One example: paths of the SDE, of the flow and of the drift alone, and what they give at s = 1."""
    x0 = law.source.sample(SAMPLES, generator)
    paths = {
        "SDE": (law.sde(x0, generator), S, SDE),
        "flow": (law.flow(x0, generator), S**2, FLOW),
        "drift alone": (law.sde(x0, generator, noise=0.0), S, DRIFT),
    }
    axes[0].plot(S, paths["SDE"][0][:, :PATHS], color=SDE, lw=0.7)
    axes[1].plot(S**2, paths["flow"][0][:, :PATHS], color=FLOW, lw=0.7)
    if law.source.sd == 0:
        axes[0].plot(S, paths["drift alone"][0][:, 0], color=DRIFT, lw=2.2)
    for panel in axes[:2]:
        shade(panel, law)
    axes[0].set_ylabel(label)
    exact = law.at(X, torch.ones(1).double())[0]
    axes[2].fill_between(X, exact, color="0.8", label="exact p(x1)")
    for name, (states, _, colour) in paths.items():
        end = states[-1]
        if law.source.sd == 0 and name == "drift alone":
            axes[2].axvline(float(end[0]), color=colour, lw=2.2, label=name)
        else:
            axes[2].hist(end.numpy(), bins=88, range=(-2.2, 2.2), density=True, histtype="step", color=colour, label=name)
        means = torch.tensor(law.target.means).double()
        nearest = (end[:, None] - means).abs().argmin(1).bincount(minlength=len(means)) / SAMPLES
        print(f"{label:28s} {name:12s} mean {end.mean():6.3f}  sd {end.std():6.3f}  modes {[f'{p:.2f}' for p in nearest]}")
    axes[2].set(xlim=(float(X[0]), float(X[-1])), yticks=[])


def figure() -> Figure:
    """All panels."""
    generator = torch.Generator().manual_seed(0)
    fig = plt.figure(figsize=(10.5, 9.6), layout="constrained")
    grid = fig.add_gridspec(4, 6, height_ratios=(1, 1, 1, 0.8))
    point = Modes((0.5,), (1.0,), 0.0)
    rows = (
        ("from x0 = 0.5 to two modes", Law(si.LinearInterpolant(1.0), point, TWO)),
        ("from x0 = 0.5 to three modes", Law(si.LinearInterpolant(1.0), point, THREE)),
        ("from two modes to three", Law(si.LinearInterpolant(1.0), TWO, THREE)),
    )
    for i, (label, law) in enumerate(rows):
        axes = [fig.add_subplot(grid[i, 2 * j : 2 * j + 2]) for j in range(3)]
        row(axes, law, label, generator)
        if i == 0:
            axes[0].set_title("SDE, and its drift without noise", fontsize=10)
            axes[1].set_title("probability flow", fontsize=10)
            axes[2].set_title("at s = 1", fontsize=10)
    axes[2].legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.45, 1.0))
    for panel in axes[:2]:
        panel.set_xlabel("s")
    kinds: dict[str, type[si.Interpolant]] = {
        "linear": si.LinearInterpolant,
        "Brownian": si.BrownianInterpolant,
        "trigonometric": si.TrigonometricInterpolant,
        "encoding-decoding": si.EncodingDecodingInterpolant,
        "flow matching": si.FlowMatchingInterpolant,
        "mirror": si.MirrorInterpolant,
    }
    for j, (name, kind) in enumerate(kinds.items()):
        small = fig.add_subplot(grid[3, j])
        shade(small, Law(kind(1.0), TWO, THREE))
        small.set_title(name, fontsize=9)
        small.set(xlabel="s", yticks=[] if j else [-2, 0, 2])
    return fig


if __name__ == "__main__":
    figure().savefig(Path(__file__).with_suffix(".png"), dpi=90)
