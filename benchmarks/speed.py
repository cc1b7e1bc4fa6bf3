"""What samplers cost beside their networks and their noise. Scores, stores and the watchdog: benchmarks/streaming.py.

python benchmarks/speed.py --system rbc    prints a table; networks of preset quick with random weights

The table: the time of a physical step in the evaluations of the drift (its network, input and scale; of the twin also
the weights of its patterns), what the sampler adds to that, and what it adds with the drawing and colouring of its noise.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from physinterp.baselines.deterministic import Deterministic
from physinterp.config import load_benchmark
from physinterp.drift import Drift
from physinterp.methods import make_model, make_sampler, method, model_name
from physinterp.noise import Noise
from physinterp.results import hardware
from physinterp.samplers import Sampler
from physinterp.system import System, load_system
from physinterp.types import Conditioning, DriftFn, NoiseFn

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


class Timed:
    """A sampler that keeps the seconds of its calls and, of these, of the evaluations of its drift."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.whole, self.inside = sampler, 0.0, 0.0

    def __call__(self, b: DriftFn, x0: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        def timed(x_s: Tensor, s: Tensor, x0: Tensor, cond: Conditioning) -> Tensor:
            begun = time.perf_counter()
            value = b(x_s, s, x0, cond)
            self.inside += time.perf_counter() - begun
            return value

        begun = time.perf_counter()
        value = self.sampler(timed, x0, cond, noise=noise)
        self.whole += time.perf_counter() - begun
        return value


def sampler_cost(
    row: str, system: System, batch: int, repeats: int, members: int, states: int
) -> tuple[float, float, float]:
    """Seconds of the evaluations of a physical step; relative to them the sampler's own; and that with drawing noise."""
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
    assert sampler is not None
    cond = Conditioning(system.told(torch.zeros(batch, len(system.parameters) + system.dated)))
    batches = (torch.arange(members * states) % members).split(batch)
    draws = [model.colour(torch.randn(z.shape)) for _ in range(8)]

    def run(noise: NoiseFn) -> tuple[float, float]:
        """Seconds outside and inside the evaluations, the source of the interpolant among them."""
        timed, begun = Timed(sampler), time.perf_counter()
        model.advance(z, cond, timed, noise)  # type: ignore[arg-type]
        inside = timed.inside + (time.perf_counter() - begun - timed.whole)
        return timed.whole - timed.inside, inside

    with torch.inference_mode():
        run(draws.__getitem__)
        alone, whole, inside = [], [], []
        generated = Noise(0, shape, colour=model.colour)
        for step in range(repeats):
            outside, evaluations = run(draws.__getitem__)
            alone.append(outside / evaluations)
            inside.append(evaluations)
            times = [run(generated.of(step, rows, torch.device("cpu"))) for rows in batches if len(rows) == batch]
            whole.append(sum(t for t, _ in times) / sum(i for _, i in times))
    return statistics.median(inside), statistics.median(alone), statistics.median(whole)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", default="rbc")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--states", type=int, default=4)
    a = parser.parse_args()
    system = load_system(a.system)
    print(hardware("cpu"))
    print(f"{a.system}, preset quick, batch {a.batch}, {a.members} members of {a.states} states, median of {a.repeats}\n")
    print(f"{'row':24}{'ms in evaluations':>18}{'sampler over them':>20}{'with drawing noise':>20}")
    for row in ROWS:
        inside, alone, whole = sampler_cost(row, system, a.batch, a.repeats, a.members, a.states)
        print(f"{row:24}{1e3 * inside:18.1f}{alone:20.1%}{whole:20.1%}")


if __name__ == "__main__":
    main()
