"""The figure of docs/samplers.md: variance against steps, in closed form and of a trained model.

python docs/samplers.py                  draws docs/samplers.png from docs/samplers.json
python docs/samplers.py --model FOLDER   measures a trained interpolant first, and writes docs/samplers.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from physinterp.calibration import White
from physinterp.interpolant import LinearInterpolant
from physinterp.samplers import SAMPLERS, Sampler
from physinterp.types import Conditioning

HERE = Path(__file__).parent
STEPS = (1, 2, 3, 5, 10, 20, 50)
NAMES = ("si-em", "si-foellmer", "si-pf", "si-bridge", "si-cal")
RATIOS = (0.1, 1.0, 10.0)
COLOURS = dict(zip(NAMES, ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00"), strict=True))


class Scaled:
    """A residual of variance r in units of sigma^2."""

    def __init__(self, r: float) -> None:
        self.r = r

    def apply(self, f, x: Tensor) -> Tensor:
        """f(r) x."""
        return f(torch.tensor(self.r, dtype=x.dtype)) * x


def variance(sampler: Sampler, r: float) -> float:
    """Exact variance of a sample over r, x1 given x0 ~ N(0, r), sigma = 1: each step is affine in x and in the noise."""

    def drift(x: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
        s = s[:, None, None, None]
        return (r - (1 - s)) / (s * r + (1 - s) ** 2) * x

    count = sampler.steps + 1
    draws = torch.eye(count, dtype=torch.float64)[:, :, None, None, None]  # draw k is 1 in row k alone
    x = sampler(drift, torch.zeros(count, 1, 1, 1, dtype=torch.float64), noise=lambda k: draws[:, k])
    return float(x.square().sum()) / r


def closed_form() -> dict[float, dict[str, list[float]]]:
    """Variance over the true one, per ratio C / sigma^2, sampler and number of steps."""
    interpolant = LinearInterpolant(1.0)
    return {r: {n: [variance(SAMPLERS[n](k, interpolant, Scaled(r)), r) for k in STEPS] for n in NAMES} for r in RATIOS}


def measure(folder: Path, members: int = 16, states: int = 8) -> dict[str, object]:
    """Variance of one step of a trained model over that of si-em with 200 steps, mean of states and fields."""
    from physinterp.tune import Setting, Validation

    validation = Validation.of(folder, 1)

    def spread(name: str, steps: int) -> float:
        x, parameters = validation.initial(states)
        emulator = validation.emulator(Setting(name, steps))
        return float(next(emulator.states(x, parameters, 1, members, seed=3)).double().var(1).mean())

    reference = spread("si-em", 200)
    return {
        "model": f"{validation.runs.system.name}, {folder.name}",
        "members": members,
        "states": states,
        "variance": {name: [spread(name, steps) / reference for steps in STEPS] for name in NAMES},
    }


def draw(measured: list[dict]) -> None:
    """Write docs/samplers.png."""
    exact = closed_form()
    count = len(exact) + len(measured)
    figure, axes = plt.subplots(1, count, figsize=(3.1 * count, 3.4), sharey=True, layout="constrained")
    panels = [(f"exact, C = {r:g} $\\sigma^2$", curves) for r, curves in exact.items()]
    panels += [(f"trained: {m['model'].replace(', ', chr(10))}", m["variance"]) for m in measured]
    for ax, (title, curves) in zip(axes, panels, strict=True):
        ax.axhline(1, color="0.6", lw=0.8)
        for name in NAMES:
            evaluations = [SAMPLERS[name](k, None, White()).evaluations for k in STEPS]
            ax.plot(evaluations, curves[name], "o-", ms=3, lw=1.3, color=COLOURS[name], label=name)
        ax.set(title=title, xscale="log", yscale="log", ylim=(0.02, 20), xlabel="network evaluations")
        ax.title.set_fontsize(9)
    axes[0].set_ylabel("variance / true variance")
    axes[-1].legend(fontsize=7, frameon=False)
    figure.savefig(HERE / "samplers.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="folders of trained interpolants")
    found = [measure(folder) for folder in parser.parse_args().model]
    path = HERE / "samplers.json"
    if found:
        path.write_text(json.dumps(found, indent=1) + "\n")
    draw(json.loads(path.read_text()) if path.exists() else [])
