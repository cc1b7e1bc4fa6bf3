"""What things cost: samplers beside their networks, the noise, and the scores.

python benchmarks/speed.py --system rbc    prints a table; networks of preset quick with random weights

`over the networks` is the time of a physical step outside the networks over the time inside them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from physinterp import evaluate as ev
from physinterp.baselines.deterministic import Deterministic
from physinterp.config import load_benchmark
from physinterp.drift import Drift
from physinterp.emulator import Noise
from physinterp.methods import make_model, make_sampler, method, model_name
from physinterp.results import hardware
from physinterp.system import System, load_system
from physinterp.types import Conditioning

MEMBERS, BATCHES = 16, 4  # 16 members of 4 initial states
ROWS = (
    "deterministic-dressed",
    "si-e@2",
    "si-em@2",
    "si-em@5",
    "si-cal@2",
    "si-cal@5",
    "si-pf@2",
    "ddim@5",
    "edm@3",
    "fm@2",
)


class Clock:
    """Seconds spent inside some modules."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.seconds = 0.0
        for module in modules:
            module.register_forward_pre_hook(self._start)
            module.register_forward_hook(self._stop)

    def _start(self, *_: object) -> None:
        self.begun = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.begun


def median(run: Callable[[], float], repeats: int) -> float:
    """Median of what a measurement returns."""
    return statistics.median(run() for _ in range(repeats))


def sampler_cost(row: str, system: System, batch: int, repeats: int) -> tuple[float, float, float]:
    """Seconds of a physical step inside the networks, and outside them relative to that: sampler alone, noise too."""
    preset, what = load_benchmark(system).preset("quick"), method(row)
    name = model_name(what, preset)
    assert name is not None
    shape = (len(system.fields), *system.grid.shape)
    torch.manual_seed(0)
    model = make_model(name, system, preset, shape, torch.full(shape[:1], 0.3)).eval().requires_grad_(False)
    z = torch.randn(batch, *shape)
    if isinstance(model, Drift | Deterministic):
        model.covariance.fit(0.01 * torch.randn(64, *shape))
    sampler = make_sampler(what, model, {})
    clock = Clock([m.backbone for m in (model, getattr(model, "twin", None)) if m is not None])
    cond, step = Conditioning(torch.zeros(batch, len(system.parameters))), iter(range(10**6))
    members = torch.arange(batch) % MEMBERS
    draws = [model.colour(torch.randn(z.shape)) for _ in range(8)]

    def run(noise: Callable[[], Callable[[int], Tensor]]) -> tuple[float, float]:
        clock.seconds, begun = 0.0, time.perf_counter()
        model.advance(z, cond, sampler, noise())
        return time.perf_counter() - begun, clock.seconds

    with torch.inference_mode():
        run(lambda: draws.__getitem__)
        ready = [run(lambda: draws.__getitem__) for _ in range(repeats)]
        generated = Noise(0, shape, colour=model.colour, batch=batch)
        whole = []
        for _ in range(repeats):  # BATCHES of one physical step: members of several initial states
            at = next(step)
            times = [run(lambda at=at: generated.of(at, members, torch.device("cpu"))) for _ in range(BATCHES)]
            whole.append((sum(t for t, _ in times), sum(i for _, i in times)))
    inside = statistics.median(i for _, i in ready)
    return inside, *(statistics.median((t - i) / i for t, i in times) for times in (ready, whole))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", default="rbc")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    a = parser.parse_args()
    system = load_system(a.system)
    print(hardware("cpu"))
    print(f"{a.system}, preset quick, batch {a.batch}, median of {a.repeats}\n")
    print(f"{'row':24}{'ms in networks':>15}{'over the networks':>20}{'with drawing noise':>20}")
    for row in ROWS:
        inside, alone, whole = sampler_cost(row, system, a.batch, a.repeats)
        print(f"{row:24}{1e3 * inside:15.1f}{alone:20.1%}{whole:20.1%}")
    shape = (len(system.fields), *system.grid.shape)
    truth = torch.randn(64, *shape)
    forecast = truth[:, None] + 0.1 * torch.randn(64, 16, *shape)

    def scored() -> float:
        begun = time.perf_counter()
        ev.score(forecast, truth, system.grid)
        return time.perf_counter() - begun

    seconds = median(scored, 3)
    print(f"\nscores of 64 forecasts x 16 members: {seconds:.2f} s per lead, {20 * seconds:.0f} s for 20 leads")


if __name__ == "__main__":
    main()
