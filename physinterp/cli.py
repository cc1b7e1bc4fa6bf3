"""The command line: options, messages and exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

ERROR, INTERRUPTED = 2, 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


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
    members: Annotated[int | None, typer.Option(help="Ensemble size. Default: the preset's (quick: 5).")] = None,
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
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 175  # piped: wide enough for the tables
    try:
        run(options).show(Console(width=width))
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
