"""The command line: options, messages and exit codes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from physinterp.console import ERROR, UNSOUND, Group, console, interruptible, say, stop
from physinterp.data_cli import app as data

OPTIONS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
app = typer.Typer(help="Emulators of physical systems with stochastic interpolants.", cls=Group, **OPTIONS)
app.add_typer(data, name="data")
single = typer.Typer(**OPTIONS)  # `python -m physinterp.benchmark`: one command without a name

Model = Annotated[
    str,
    typer.Argument(help="A trained model: a system, as rbc, one of its models, as rbc/edm-identity-unet, or its folder."),
]
ResultsFolder = Annotated[
    Path, typer.Argument(help="Folder of the results of a benchmark, such as results/rbc.", metavar="RESULTS")
]
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
        str | None,
        typer.Option(
            help="File, folder or URL in any format that `physinterp data inspect` knows: evaluate on its split test, else "
            "valid. A card without a solver also trains on it. Default: data of the embedded solver."
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train on --data, too, not on data of the embedded solver.")
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Rows of the table, separated by commas; other steps as in si-em@5, another codec and backbone as in "
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
    with interruptible():
        from physinterp.benchmark import Options, run
        from physinterp.terminal import show

        rows = tuple(m.strip() for m in methods.split(",") if m.strip()) if methods is not None else None
        options = Options(
            system=system, sampler=sampler, preset=preset, data=data, train=train, methods=rows, steps=steps,
            members=members, lead=lead, seed=seed, device=device, out=out, retrain=retrain,
        )  # fmt: skip
        show(run(options), console())


@app.command()
def tune(model: Model, leads: Leads = 5) -> None:
    """Try samplers, steps and temperatures of a trained model on its validation split.

    Prints the scores of all trials with the Pareto set marked, and keeps the named settings accurate (smallest VRMSE of a
    member), balanced (CRPS) and spectral (SRMSE) beside the weights, in settings.json.
    """
    from physinterp.forecast import folder
    from physinterp.tune import SCORES, Validation
    from physinterp.tune import tune as walk

    validation = Validation.of(folder(model), leads)
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
    console().print(table)


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
    from physinterp.doctor import examine, usual
    from physinterp.forecast import folder
    from physinterp.tune import Validation

    validation = Validation.of(folder(model), leads)
    findings = examine(validation, usual(validation, sampler, steps))
    table = Table(title=f"{validation.name}, {sampler} with {steps} steps, validation split", title_justify="left")
    for label in ("question", "measured", "expected", ""):
        table.add_column(label)
    for f in findings:
        table.add_row(f.question, f.measured, f.expected, "sound" if f.sound else f"OFF: {f.cause}")
    console().print(table)
    if not all(f.sound for f in findings):
        raise typer.Exit(UNSOUND)


@app.command()
def plot(
    results: ResultsFolder,
    kind: Annotated[
        str,
        typer.Argument(
            help="error, crps, accuracy, pareto, budget, spectra, ranks, spread, fields or animation (a GIF); or against "
            "lead time a score by its name in scores.json, such as spread_skill.",
        ),
    ],
    field: Annotated[str | None, typer.Option(help="Field of the maps. Default: the first headline field.")] = None,
    lead: Annotated[
        float | None, typer.Option(help="Lead time, in units of time. Default: the middle one of the table.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Row of the maps and of the error budget. Default: the --sampler.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File, .png, .svg or .pdf. Default: RESULTS/KIND.png (or .gif).")] = None,
) -> None:
    """Draw one plot of the results of a benchmark."""
    from physinterp.plot import save
    from physinterp.results import Results

    found = Results.open(results)
    path = out or results / f"{kind}.{'gif' if kind == 'animation' else 'png'}"
    save(found.draw(kind, found.choice(field, lead, method)), path)
    say(str(path))


@app.command()
def report(
    results: ResultsFolder,
    out: Annotated[Path | None, typer.Option(help="File. Default: report.html in the folder.")] = None,
) -> None:
    """Write the results of a benchmark as one HTML page: summary, tables, maps with a slider, plots, definitions."""
    from physinterp.report import write
    from physinterp.results import Results

    say(str(write(Results.open(results), out)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/demo"),
) -> None:
    """Show the whole loop on Kolmogorov flow: simulate, train, forecast, compare, and write the page; under 5 minutes."""
    from physinterp.benchmark import Options, run
    from physinterp.report import write
    from physinterp.terminal import show

    results = run(Options("kolmogorov", sampler="si-em", preset="demo", out=out))
    show(results, console())
    say(f"the page: {write(results).resolve()}")


@app.command()
def plan(
    system: Annotated[str, typer.Option(help="System: a card, such as rbc or kolmogorov.")],
    preset: Annotated[str | None, typer.Option(help="Size: tiny, quick or paper. Default: the benchmark's (quick).")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of the training; what is there already costs nothing.")
    ] = 0,
    data: Annotated[str | None, typer.Option(help="Files to train on. Default: data of the embedded solver.")] = None,
) -> None:
    """Say what a benchmark will cost on this machine before it starts: parameters, memory, disk and time."""
    from physinterp.plan import Plan

    found = Plan(system, preset, seed, data)
    networks = Table(title=f"{found.system.name}, preset {found.preset_name}", title_justify="left")
    for column in ("network", "parameters", "kept per state in training, MB", "training, s"):
        networks.add_column(column, justify="left" if column == "network" else "right")
    for n in found.networks:
        time = "there already" if n.ready else f"{n.seconds:,.0f}"
        networks.add_row(n.name, f"{n.parameters:,}", f"{n.activations / 1e6:,.1f}", time)
    totals = Table()
    for column in ("", "of that", "sum"):
        totals.add_column(column)
    megabytes, minutes = (lambda b: f"{b / 1e6:,.0f} MB"), (lambda s: f"{s / 60:,.1f} min")
    for label, parts, text in (
        ("time on this processor", found.seconds(), minutes),
        ("memory, at most", found.memory(), megabytes),
        ("disk", found.disk(), megabytes),
    ):
        each = ", ".join(f"{name} {text(value)}" for name, value in parts.items())
        totals.add_row(label, each, text(sum(parts.values())))
    console().print(networks)
    console().print(totals)


@app.command()
def forecast(
    model: Model,
    init: Annotated[
        str, typer.Option(help="Initial states: netCDF or zarr, a forecast to continue, or data of the system, also a URL.")
    ],
    out: Annotated[Path, typer.Option(help="The zarr store to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Leads.")] = 10,
    members: Annotated[int | None, typer.Option(min=1, help="Ensemble size. Default: 16, 1 if deterministic.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise. Default: 0, or that of a forecast continued.")] = None,
    time: Annotated[int | None, typer.Option(help="Frame of --init, from 0. Default: the first after the spin-up.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Such as si-em. Default: as tuned or calibrated.")] = None,
    sampler_steps: Annotated[int | None, typer.Option(min=1, help="Of --sampler. Default: the preset's.")] = None,
    setting: Annotated[str | None, typer.Option(help="Kept by tune: accurate, balanced or spectral.")] = None,
    layout: Annotated[str, typer.Option(help="physinterp or weatherbench.")] = "physinterp",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a forecast at --out.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Forecast from the states in a file with a trained model, into a zarr store that is written on the way."""
    from physinterp.forecast import initial_state, load

    emulator = load(model, sampler, sampler_steps, setting, device)
    state = initial_state(init, emulator.system, time)
    ds = emulator.forecast(state, steps, members, seed, out, overwrite=overwrite, layout=layout)
    sizes = ", ".join(f"{name} {size}" for name, size in ds[emulator.system.field_names[0]].sizes.items())
    say(f"{out}: {sizes}")


def main(command: Callable[..., Any] = app) -> None:
    """Run a command: one line and exit code 2 for input that cannot be used, 130 for Ctrl-C."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, omit_repeated_times=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", datefmt="[%X]", handlers=[handler])
    logging.getLogger("physinterp").setLevel(logging.INFO)
    from physinterp.errors import InputError

    try:
        command()
    except (InputError, FloatingPointError) as error:
        stop(f"error: {error}", ERROR)
    except OSError as error:
        stop(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", ERROR)
