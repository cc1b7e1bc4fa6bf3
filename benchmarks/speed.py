"""What things cost: samplers beside their networks, the noise, scores, writing a forecast, the watchdog.

python benchmarks/speed.py --system rbc                 all of it; networks of preset quick with random weights
python benchmarks/speed.py samplers|scores|writing      one part of it

The first table is of samplers: the time of a physical step in the evaluations of the drift (its network, input and scale),
what the sampler adds to that, and what it adds together with the drawing and colouring of its noise.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from physinterp import evaluate as ev
from physinterp.autoencoder import Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.baselines.reference import Persistence
from physinterp.config import load_benchmark
from physinterp.data.statistics import Statistics
from physinterp.drift import Drift
from physinterp.emulator import Emulator, SampledStepper
from physinterp.fields import FieldStack
from physinterp.initial import Rows
from physinterp.methods import make_model, make_sampler, method, model_name
from physinterp.metrics import FURTHER
from physinterp.noise import Noise
from physinterp.results import hardware
from physinterp.samplers import Sampler
from physinterp.system import System, load_system
from physinterp.table import rows
from physinterp.types import Conditioning, DriftFn, NoiseFn

MEMBERS, BATCHES = 16, 4  # 16 members of 4 initial states, as in a forecast with batches of 16
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


def median(run: Callable[[], float], repeats: int) -> float:
    """Median of what a measurement returns."""
    return statistics.median(run() for _ in range(repeats))


def sampler_cost(row: str, system: System, batch: int, repeats: int) -> tuple[float, float, float]:
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
    cond, members = Conditioning(torch.zeros(batch, len(system.parameters))), torch.arange(batch) % MEMBERS
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
        generated = Noise(0, shape, colour=model.colour, batch=batch)
        for step in range(repeats):
            outside, evaluations = run(draws.__getitem__)
            alone.append(outside / evaluations)
            inside.append(evaluations)
            of_step = generated.of(step, members, torch.device("cpu"))
            times = [run(of_step) for _ in range(BATCHES)]  # members of several initial states
            whole.append(sum(t for t, _ in times) / sum(i for _, i in times))
    return statistics.median(inside), statistics.median(alone), statistics.median(whole)


def samplers(system: System, batch: int, repeats: int) -> None:
    """Print the time of a step in the evaluations of the drift, and what the sampler adds."""
    print(f"{system.name}, preset quick, batch {batch}, median of {repeats}\n")
    print(f"{'row':24}{'ms in evaluations':>18}{'sampler over them':>20}{'with drawing noise':>20}")
    for row in ROWS:
        inside, alone, whole = sampler_cost(row, system, batch, repeats)
        print(f"{row:24}{1e3 * inside:18.1f}{alone:20.1%}{whole:20.1%}")


def scores() -> None:
    """Print the time of all scores, with intervals, of 64 forecasts of 20 leads and 16 members at 64 x 64."""
    system = load_system("kolmogorov").with_grid((64, 64))
    generator, (name,) = np.random.default_rng(0), system.field_names
    dims = ("sample", "lead_time", *system.grid.names)
    coords = {**system.grid.coords, "lead_time": np.arange(1.0, 21.0)}
    u = generator.standard_normal((64, 20, 64, 64), dtype=np.float32)
    x = u[:, None] + 0.3 * generator.standard_normal((64, MEMBERS, 20, 64, 64), dtype=np.float32)
    truth = xr.Dataset({name: (dims, u)}, coords)
    forecast = xr.Dataset({name: (("sample", "member", *dims[1:]), x)}, coords)
    for also in ((), FURTHER):
        begun = time.perf_counter()
        count = len({r["score"] for r in rows("x", ev.compare(forecast, truth, system, also=also), (name,))})
        seconds = time.perf_counter() - begun
        print(f"{count} scores of 64 forecasts x 20 leads x {MEMBERS} members at 64 x 64: {seconds:.1f} s")


def some_emulator(system: System, trained: bool) -> tuple[Emulator, xr.Dataset]:
    """An emulator with a network of random weights, or with persistence, and one initial state."""
    count = len(system.fields)
    stack = FieldStack(system.fields, system.grid, Statistics(system.field_names, *[(x,) * count for x in (0.0, 1.0, 1.0)]))
    stepper: nn.Module = Persistence()
    if trained:
        preset, what, shape = load_benchmark(system).preset("quick"), method("si-em@2"), (count, *system.grid.shape)
        name = model_name(what, preset)
        assert name is not None
        torch.manual_seed(0)
        model = make_model(name, system, preset, shape, torch.full(shape[:1], 0.01)).eval().requires_grad_(False)
        stepper = SampledStepper(model, make_sampler(what, model, {}))
    x = torch.randn(1, count, *system.grid.shape)
    initial = stack.unpack(x, {"sample": [0], **{p.name: ("sample", [p.default]) for p in system.parameters}})
    return Emulator(system, stack, Identity(count), stepper, system.dt, bound=1e9), initial


def peak(steps: int) -> None:
    """Print the peak memory of a forecast that is written while it runs, in MB."""
    emulator, initial = some_emulator(load_system("kolmogorov").with_grid((64, 64)), trained=False)
    with tempfile.TemporaryDirectory() as folder:
        emulator.forecast(initial, steps, MEMBERS, out=Path(folder) / "f.zarr")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def writing(system: System, repeats: int) -> None:
    """Print what writing and the watchdog cost a rollout, and the peak memory of short and long forecasts."""
    (emulator, initial), steps = some_emulator(system, trained=True), 16
    alone, written = [], []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        for _ in emulator.rollout(initial, steps, MEMBERS):
            pass
        alone.append(time.perf_counter() - begun)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            emulator.forecast(initial, steps, MEMBERS, out=Path(folder) / "f.zarr")
            written.append(time.perf_counter() - begun)
    rollout, stored = statistics.median(alone[1:]), statistics.median(written[1:])  # the first warms up
    watchdog, x = emulator.watchdog(), torch.randn(MEMBERS, len(system.fields), *system.grid.shape)
    watchdog.begin(Rows.of(torch.zeros(1, len(system.parameters)), range(MEMBERS)), x)

    def check() -> float:
        begun = time.perf_counter()
        watchdog.check(x, 1)
        return time.perf_counter() - begun

    share = median(check, 50) * steps / rollout
    print(f"{system.name}, si-em@2, {MEMBERS} members: {1e3 * rollout / steps:.1f} ms per step")
    print(f"writing costs {stored / rollout - 1:+.1%} of the rollout, the watchdog {share:.2%}")
    few, many = (
        float(subprocess.run([sys.executable, __file__, "peak", "--steps", str(n)], check=True, capture_output=True).stdout)
        for n in (10, 1000)
    )
    print(f"peak memory of a written forecast: {few:.0f} MB of 10 steps, {many:.0f} MB of 1000 ({many / few - 1:+.1%})")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("all", "samplers", "scores", "writing", "peak"), default="all")
    parser.add_argument("--system", default="rbc")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1000, help="of `peak` alone")
    a = parser.parse_args()
    if a.what == "peak":
        return peak(a.steps)
    system = load_system(a.system)
    print(hardware("cpu"))
    if a.what in ("all", "samplers"):
        samplers(system, a.batch, a.repeats)
    if a.what in ("all", "scores"):
        scores()
    if a.what in ("all", "writing"):
        writing(system, min(a.repeats, 5))


if __name__ == "__main__":
    main()
