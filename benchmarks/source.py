"""Where the interpolant starts, and the law of s in training: measured on the validation split.

python benchmarks/source.py --system rbc --backbone unet --steps 700    adds rows to benchmarks/results/source.json

Every variant has the twin of the row `deterministic` and the same number of optimiser steps as it, its own twin counted.
Scores are ratios on the same cases: VRMSE of `si-e` over that of the twin, CRPS of `si-em` over the twin's mean absolute
error, both with 2 steps, temperature 1 and independent noise, mean of the headline fields.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import xarray as xr
from torch import Tensor

from physinterp import evaluate as ev
from physinterp.config import load_benchmark
from physinterp.methods import OBJECTIVES, ModelName
from physinterp.runs import Runs
from physinterp.system import load_system
from physinterp.table import MEAN, ratio, with_mean
from physinterp.tune import Setting, Validation

RESULTS = Path(__file__).parent / "results" / "source.json"
LEADS = (1, 5)
LAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "s = u": lambda u: u,
    "s = u^4": lambda u: u**4,
    "half at 0": lambda u: (2 * u - 1).clamp(min=0),
    "3/4 at 0": lambda u: (4 * u - 3).clamp(min=0),
}
KINDS = {"state": "interpolant-state", "forecast": "interpolant"}  # objectives
VARIANTS = [("state", law) for law in LAWS] + [("forecast", law) for law in ("s = u", "s = u^4")]


def measured(runs: Runs, name: ModelName, reference: xr.Dataset, members: int) -> dict[str, dict[str, float]]:
    """The ratios of one variant to its twin."""
    ratios = {}
    for sampler, score, of, count in (("si-e", "vrmse_mean", "vrmse_mean", 1), ("si-em", "crps", "mae", members)):
        ds = scores(runs, name, Setting(sampler, 2), count)
        ratios |= {f"{sampler} {score} lead {k}": ratio(ds[score][k - 1], reference[of][k - 1]) for k in LEADS}
    return ratios


def scores(runs: Runs, name: ModelName, setting: Setting | None, members: int) -> xr.Dataset:
    """Scores on the validation split, per lead and case."""
    headline = load_benchmark(runs.system).headline
    validation = Validation(runs, name, headline, max(LEADS))
    emulator = validation.emulator(setting) if setting else runs.sampled(name, None)
    forecasts = ev.physical(emulator, validation.cases, validation.leads, members, 1)
    return with_mean(ev.evaluate(forecasts, validation.cases, emulator), headline).sel(field=MEAN)


def main() -> None:
    """Train and score all variants of one system and backbone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", required=True)
    parser.add_argument("--backbone", default="unet")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=4)
    a = parser.parse_args()
    preset = load_benchmark(load_system(a.system)).preset("quick")
    training = preset.training.model_copy(update={"seconds": None, "steps": a.steps})
    preset = preset.model_copy(update={"training": training, "backbone": a.backbone})
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        names = {kind: ModelName(kind, "identity", a.backbone) for kind in ("deterministic", *KINDS.values())}
        root = Path(temporary)
        system = load_system(a.system)
        base = Runs(system, preset, "source", a.seed, root=root / "twin")
        reference = scores(base, names["deterministic"], None, 1)
        for source, law in VARIANTS:
            shutil.copytree(root / "twin", root / "variant")
            runs = Runs(system, preset, "source", a.seed, root=root / "variant")
            with patch.object(OBJECTIVES[KINDS[source]], "levels", lambda self, u, law=law: LAWS[law](u)):
                found.append(
                    vars(a) | {"source": source, "law": law} | measured(runs, names[KINDS[source]], reference, a.members)
                )
            shutil.rmtree(root / "variant")
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
