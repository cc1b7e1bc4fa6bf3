"""What scoring, streaming and watching cost, against what they may cost. Run on an idle machine.

python benchmarks/streaming.py scores      64 forecasts x 20 leads x 16 members x 2 fields at 64 x 64, all scores: under 30 s
python benchmarks/streaming.py memory      peak of a forecast to a store: 1000 steps within 5 % of 10
python benchmarks/streaming.py writing     time of a forecast to a store over one that keeps nothing: under 5 %
python benchmarks/streaming.py watchdog    time of its checks over that of the steps: under 2 %
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor, nn

from physinterp import evaluate, metrics
from physinterp.autoencoder import Identity
from physinterp.config import load_benchmark
from physinterp.data.statistics import Statistics
from physinterp.emulator import Emulator
from physinterp.fields import FieldStack
from physinterp.methods import make_model, make_sampler, method, model_name
from physinterp.results import hardware
from physinterp.system import System, load_system
from physinterp.types import Conditioning, NoiseFn
from physinterp.watchdog import Watchdog

CASES, LEADS, MEMBERS, FIELDS, GRID = 64, 20, 16, 2, (64, 64)
OPTIONS = {"acc": {"climatology": torch.zeros(1, *GRID)}, "reliability": {"threshold": 1.0}}
OF_TIME = ("rmse_over_time", "correlation_time")  # need all leads at once
OF_ENSEMBLES = (
    "crps", "energy_score", "ensemble_variance", "ensemble_mean_mse", "spread_skill", "rank_histogram", "reliability"
)  # fmt: skip


class Bounded(nn.Module):
    """si-em with two steps on the network of preset quick, untrained; what it returns is kept in the range of the data."""

    def __init__(self, system: System) -> None:
        super().__init__()
        row, preset = method("si-em@2"), load_benchmark(system).preset("quick")
        name = model_name(row, preset)
        assert name is not None
        shape = (len(system.fields), *system.grid.shape)
        torch.manual_seed(0)
        self.model = make_model(name, system, preset, shape, torch.full(shape[:1], 0.3)).eval().requires_grad_(False)
        self.sampler = make_sampler(row, self.model, {})

    def forward(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        """One step."""
        return self.model.advance(z, cond, self.sampler, noise).nan_to_num(0.0).clamp(-4, 4)


class Still(nn.Module):
    """The state itself: a step that costs nothing and allocates little."""

    def forward(self, z: Tensor, cond: Conditioning, *, noise: NoiseFn) -> Tensor:
        """One step."""
        return z + 0


def emulator(system: System, stepper: nn.Module) -> tuple[Emulator, xr.Dataset]:
    """An emulator without training, and one initial state."""
    n, generator = len(system.fields), torch.Generator().manual_seed(0)
    stack = FieldStack(system.fields, system.grid, Statistics(system.field_names, (0.0,) * n, (1.0,) * n, (1.0,) * n))
    coords = {"sample": [0], **{p.name: ("sample", [p.default]) for p in system.parameters}}
    state = stack.unpack(torch.randn(1, n, *system.grid.shape, generator=generator), coords)
    return Emulator(system, stack, Identity(n), stepper, system.dt, micro_batch=MEMBERS), state


def scores(leads: int, repeats: int) -> None:
    """Seconds of every score, the best of the repeats."""
    system = load_system("kolmogorov").with_grid(GRID)
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(leads, CASES, FIELDS, *GRID, generator=generator)
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, run: Callable[[], object]) -> None:
        found = []
        for _ in range(repeats):
            begun = time.perf_counter()
            run()
            found.append(time.perf_counter() - begun)
        spent[name] += min(found)

    for v in truth:
        u = v[:, None] + 0.3 * torch.randn(CASES, MEMBERS, FIELDS, *GRID, generator=generator)
        timed("evaluate.score", lambda v=v, u=u: evaluate.score(u, v, system.grid))
        members = u.transpose(0, 1)
        each = v.expand_as(members)
        for name, f in metrics.METRICS.items():
            if name not in OF_TIME:
                pair = (members, v) if name in OF_ENSEMBLES else (members, each)
                timed(name, lambda f=f, pair=pair, name=name: f(*pair, **OPTIONS.get(name, {})))
    for _ in range(MEMBERS):
        u = truth + 0.3 * torch.randn(truth.shape, generator=generator)
        timed("rmse_over_time", lambda u=u: metrics.rmse_over_time(u, truth))
        timed("correlation_time", lambda u=u: metrics.correlation_time(u.transpose(0, 1), truth.transpose(0, 1)))
    for name, seconds in spent.items():
        print(f"{name:24}{seconds:8.2f} s")
    whole = spent.pop("evaluate.score")
    print(f"\n{leads} leads x {CASES} cases x {MEMBERS} members x {FIELDS} fields, {torch.get_num_threads()} threads")
    print(f"what the evaluation computes, which shares spectra and errors: {whole:.1f} s (to be under 30 s)")
    print(f"every name of METRICS, each from the start: {sum(spent.values()):.1f} s")


def peak(steps: int) -> float:
    """Peak memory of a forecast to a store in a process of its own, in MB."""
    run = [sys.executable, __file__, "memory", "--steps", str(steps)]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def streamed(steps: int) -> None:
    """Write a forecast and print the peak memory of this process in MB (Linux)."""
    made, state = emulator(load_system("kolmogorov").with_grid(GRID), Still())
    with tempfile.TemporaryDirectory() as folder:
        made.forecast(state, steps, members=MEMBERS, out=Path(folder) / "f.zarr")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(int(found[1]) / 1024)


def memory() -> None:
    """Peak memory against the number of steps."""
    few, many = peak(10), peak(1000)
    print(f"peak of 10 steps {few:.0f} MB, of 1000 steps {many:.0f} MB: {many / few - 1:+.1%} (to be within 5 %)")


def writing(name: str, steps: int, repeats: int) -> None:
    """What a store adds to a rollout that keeps nothing, in turns, each of them first in every other one."""
    made, state = emulator(load_system(name), Bounded(load_system(name)))
    clocks = {"wall": time.perf_counter, "processor": time.process_time}

    def timed(stored: bool, seed: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            begun = [clock() for clock in clocks.values()]
            if stored:
                made.forecast(state, steps, members=MEMBERS, seed=seed, out=Path(folder) / "f.zarr")
            else:
                for _ in made.rollout(state, steps, MEMBERS, seed=seed):
                    pass
            return [clock() - t for clock, t in zip(clocks.values(), begun, strict=True)]

    timed(True, 0)
    turns = [{stored: timed(stored, i) for stored in ((False, True) if i % 2 else (True, False))} for i in range(repeats)]
    print(f"writing {steps} steps x {MEMBERS} members of {name} adds, to be under 5 %; {repeats} turns:")
    for k, clock in enumerate(clocks):
        pairs = torch.tensor([[turn[True][k], turn[False][k]] for turn in turns])
        drawn = pairs[torch.randint(repeats, (2000, repeats), generator=torch.Generator().manual_seed(0))].sum(1)
        low, high = torch.quantile(drawn[:, 0] / drawn[:, 1] - 1, torch.tensor([0.025, 0.975])).tolist()
        whole = pairs.sum(0)
        print(
            f"    {clock} time {whole[0] / whole[1] - 1:+.1%} [{low:+.1%}, {high:+.1%}], {whole[1] / repeats:.1f} s without"
        )


def watching(name: str, steps: int, repeats: int) -> None:
    """What the watchdog adds to a rollout."""
    made, state = emulator(load_system(name), Bounded(load_system(name)))
    x, parameters = made.stack.pack(state), torch.from_numpy(made.system.conditioning(state))
    shares = []
    for i in range(repeats):
        watchdog, spent = made.watchdog(), [0.0]

        def check(u: Tensor, step: int, watchdog: Watchdog = watchdog, spent: list[float] = spent) -> Tensor:
            begun = time.perf_counter()
            lost = Watchdog.check(watchdog, u, step)
            spent[0] += time.perf_counter() - begun
            return lost

        watchdog.check = check  # type: ignore[method-assign]
        begun = time.perf_counter()
        for _ in made.states(x, parameters, steps, MEMBERS, seed=i, watchdog=watchdog):
            pass
        shares.append(spent[0] / (time.perf_counter() - begun - spent[0]))
    print(f"the watchdog adds {statistics.median(shares):.2%} to a step of {name} (to be under 2 %)")


def main() -> None:
    """One measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scores", "memory", "writing", "watchdog"])
    parser.add_argument("--system", default="rbc")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    if a.what == "memory" and a.steps:
        return streamed(a.steps)
    print(hardware("cpu"))
    if a.what == "scores":
        scores(a.steps or LEADS, a.repeats)
    elif a.what == "memory":
        memory()
    else:
        {"writing": writing, "watchdog": watching}[a.what](a.system, a.steps or 40, a.repeats)


if __name__ == "__main__":
    main()
