"""The command line: options, messages and exit codes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from physinterp.data_cli import app as data

UNSOUND, ERROR, INTERRUPTED = 1, 2, 130

OPTIONS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
app = typer.Typer(help="Emulators of physical systems with stochastic interpolants.", **OPTIONS)
app.add_typer(data, name="data")
single = typer.Typer(**OPTIONS)  # `python -m physinterp.benchmark`: one command without a name

Model = Annotated[Path, typer.Argument(help="Folder of a trained interpolant, as in PHYSINTERP_HOME/runs/*/interpolant-*.")]
Leads = Annotated[int, typer.Option(min=1, help="Leads that count, in steps.")]


@single.command()
@app.command()
def benchmark(
    system: Annotated[str, typer.Option(help="System: a card, such as rbc or kolmogorov.")],
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Row with a sampler, such as si-em or si-e, for forecast.zarr and the field panels; "
            "added to the table if it is not there. Default: si-em."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Size: tiny, quick or paper. Default: the benchmark's (quick).")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Evaluate on these files (The Well's HDF5 folder or APEBench's h5), never train on them: the "
            "test split, else valid. Default: data of the embedded solver."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Rows of the table, separated by commas; another codec and backbone as in "
            "si-em/dcae-dit. Default: all of the preset."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the chosen sampler. Default: the preset's (quick: 2).")] = None,
    members: Annotated[int | None, typer.Option(help="Ensemble size. Default: the preset's (quick: 4 or 5).")] = None,
    lead: Annotated[int | None, typer.Option(help="Leads to forecast, in steps. Default: the preset's (quick: 10).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of training and forecasts.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: results/SYSTEM.")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train and score again. Default: use what is cached.")] = False,
) -> None:
    """Train what is missing, forecast the test split, and compare the methods in a table and plots.

    Writes scores.json, forecast.zarr and PNG plots to --out. Data, weights and scores are cached in PHYSINTERP_HOME
    (default ~/.cache/physinterp).
    """
    from physinterp.benchmark import Options, run

    rows = tuple(m.strip() for m in methods.split(",") if m.strip()) if methods is not None else None
    options = Options(
        system=system, sampler=sampler, preset=preset, data=data, methods=rows, steps=steps, members=members,
        lead=lead, seed=seed, device=device, out=out, retrain=retrain,
    )  # fmt: skip
    with _interruptible():
        run(options).show(_console())


@app.command()
def tune(model: Model, leads: Leads = 5) -> None:
    """Try samplers, steps and temperatures of a trained model on its validation split.

    Prints the scores of all trials with the Pareto set marked, and keeps the named settings accurate (smallest VRMSE of a
    member), balanced (CRPS) and spectral (SRMSE) beside the weights, in settings.json.
    """
    with _interruptible():
        from physinterp.tune import SCORES, Validation
        from physinterp.tune import tune as walk

        validation = Validation.of(model, leads)
        trials, chosen = walk(validation)
        title = f"{validation.name}, validation split, mean of leads 1 to {validation.leads}"
        table = Table(title=title, title_justify="left")
        for label in ("sampler", "steps", "temperature", "correlation", "VRMSE", "SRMSE", "CRPS", "ms per step", "Pareto"):
            table.add_column(label, justify="right")
        for t in trials:
            s, named = t.setting, [name for name, setting in chosen.items() if setting == t.setting]
            numbers = [f"{getattr(t, score):.4f}" for score in SCORES[:-1]] + [f"{1e3 * t.seconds:.1f}"]
            mark = ", ".join(named) or ("" if t.dominated(trials) else "x")
            table.add_row(s.sampler, str(s.steps), f"{s.temperature:.2f}", f"{s.correlation:g}", *numbers, mark)
        _console().print(table)


@app.command()
def doctor(
    model: Model,
    sampler: Annotated[str, typer.Option(help="Sampler to examine, as used.")] = "si-em",
    steps: Annotated[int, typer.Option(min=1, help="Its steps.")] = 2,
    leads: Leads = 10,
) -> None:
    """Ask a trained model whether its samplers keep their law and its spread is the size of its error.

    Exit code 0 where nothing is off, 1 where something is; each such line says the likely cause.
    """
    with _interruptible():
        from physinterp.doctor import examine, usual
        from physinterp.tune import Validation

        validation = Validation.of(model, leads)
        findings = examine(validation, usual(validation, sampler, steps))
        table = Table(title=f"{validation.name}, {sampler} with {steps} steps, validation split", title_justify="left")
        for label in ("question", "measured", "expected", ""):
            table.add_column(label)
        for f in findings:
            table.add_row(f.question, f.measured, f.expected, "sound" if f.sound else f"OFF: {f.cause}")
        _console().print(table)
    if not all(f.sound for f in findings):
        raise typer.Exit(UNSOUND)


def _console() -> Console:
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 175  # piped: wide enough for the tables
    return Console(width=width)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:  # before typer makes its own message of it
        _interrupted()


def main(command: Callable[..., Any] = app) -> None:
    """Run a command: one line and exit code 2 for input that cannot be used, 130 for Ctrl-C."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, omit_repeated_times=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", datefmt="[%X]", handlers=[handler])
    logging.getLogger("physinterp").setLevel(logging.INFO)
    from physinterp.errors import InputError

    try:
        command()
    except KeyboardInterrupt:
        _interrupted()
    except (InputError, FloatingPointError) as error:
        _stop(str(error), ERROR)
    except OSError as error:
        _stop(f"{error.strerror or error}{': ' + str(error.filename) if error.filename else ''}", ERROR)


def _interrupted() -> None:
    _stop("interrupted: what is finished is kept, and the same command goes on from there", INTERRUPTED)


def _stop(message: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True).print(
        f"error: {message}" if code == ERROR else message, markup=False, highlight=False
    )
    sys.exit(code)
