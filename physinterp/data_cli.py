"""The command group `physinterp data`: make, copy, look at and measure data."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from physinterp.console import bar, console, duration, say, scheduled
from physinterp.errors import InputError

WRONG = 1

app = typer.Typer(help="Make, copy, look at and measure data.", add_completion=False, rich_markup_mode=None)

System = Annotated[str, typer.Argument(help="System: a card, such as rbc, or the path of a card.yaml.")]
Data = Annotated[str | None, typer.Option(help="File, folder or URL. Default: data of the embedded solver.")]
Out = Annotated[Path, typer.Option(help="Folder of the copy.")]
Splits = Annotated[str | None, typer.Option(help="Splits, separated by commas. Default: all there are.")]
Fields = Annotated[str | None, typer.Option(help="Fields, separated by commas. Default: all of the card.")]
Samples = Annotated[str | None, typer.Option(help="Trajectories FIRST:LAST, the last one left out, from 0.")]
Times = Annotated[str | None, typer.Option(help="Times FIRST:LAST, both included, in the card's unit.")]
Stride = Annotated[int, typer.Option(min=1, help="Every so many frames.")]
Dry = Annotated[bool, typer.Option("--plan", help="Say what would be done, and how long it would take, and stop.")]


@app.command()
def generate(
    system: System,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: PHYSINTERP_HOME/data/NAME-KEY.")] = None,
    trajectories: Annotated[
        str | None, typer.Option(help="Per split, such as train=40,test=8. Default: the card's.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Grid, such as 256,64. Default: the card's.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE or NAME=V1,V2; several make all combinations.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Frames per trajectory. Default: the card's.")] = None,
    spin_up: Annotated[float | None, typer.Option(min=0, help="Time before the first frame. Default: the card's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Shifts all seeds.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Trajectories per file, advanced together.")] = 16,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    splits: Splits = None,
    dry: Dry = False,
) -> None:
    """Make data with the embedded solver, in The Well's layout; what is there is kept."""
    from physinterp.config import home
    from physinterp.data import generate as solver
    from physinterp.data.recipe import batches, plan

    card = _card(system)
    options: dict[str, Any] = {
        "splits": {k: int(_number(v, f"--trajectories {k}")) for k, v in _pairs(trajectories, "--trajectories").items()}
        or None,
        "shape": [int(_number(v, "--shape")) for v in _list(shape) or ()] or None,
        "parameters": {
            k: [_number(v, k) for v in vs.split(",")] for p in parameter or () for k, vs in [_pair(p, "--parameter")]
        },
        "seed": seed,
        "frames": frames,
        "spin_up": spin_up,
        "batch": batch,
    }
    recipe = plan(card, **options)
    wanted = [name for name in recipe.splits if name in (_list(splits) or recipe.splits)]
    folder = out or home() / "data" / f"{card.name}-{recipe.key}"
    count = sum(len(b.seeds) for name in wanted for b in batches(recipe, card, folder, name) if not b.path.is_file())
    size = 4 * len(card.fields) * math.prod(recipe.shape) * recipe.frames * count
    units = count * (recipe.spin_up + (recipe.frames - 1) * recipe.dt)
    known = _known_rate(card.name, recipe.shape)
    when = f"about {duration(known * units)}" if known else "how long will be seen as it runs"
    say(f"to make: {count} trajectories of {recipe.frames} frames, {size / 1e6:.4g} MB, {when}")
    if not dry:
        say(str(solver.generate(card, out, **options, device=device, only=_list(splits))))


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="File or folder behind https://, s3://, gs:// or hf://.")],
    out: Out,
    files: Annotated[list[str] | None, typer.Option(help="Only files like this, such as 'data/train/*Prandtl_1*'.")] = None,
    system: Annotated[str | None, typer.Option(help="Card: take trajectories, fields and times, not files.")] = None,
    splits: Splits = None,
    fields: Fields = None,
    samples: Samples = None,
    times: Times = None,
    stride: Stride = 1,
    dry: Dry = False,
) -> None:
    """Copy remote data: whole files, or, with --system, a part of them as `convert` writes it.

    What is interrupted goes on where it stopped; what comes is compared with its checksum.
    """
    from physinterp.data import fetch as remote
    from physinterp.data.remote import Remote

    if system is not None:
        convert(system, out, url, splits, fields, samples, times, stride, dry)
        return
    if any((splits, fields, samples, times, stride > 1)):
        raise InputError("--splits, --fields, --samples, --times and --stride need --system, the card that names them")
    items = remote.plan(url, out, files or ("*",))
    left = sum(item.left for item in items)
    first = next((item for item in items if item.left), None)
    estimate = ""
    if first is not None and first.size:
        begun = time.perf_counter()
        Remote(first.remote.url).fetch(0, probe := min(first.size, 1 << 20))
        estimate = f", about {duration(left / probe * (time.perf_counter() - begun))}"
    there = sum(not item.left for item in items)
    say(f"{len(items)} files, {there} of them are there; {left / 1e6:.4g} MB to {out}{estimate}")
    if dry:
        return
    with bar(left, "fetching") as report:
        for item in items:
            remote.fetch(item, report)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="File, folder, store or URL.")],
    system: Annotated[
        str | None, typer.Option(help="Card to read it with. Default: the first of all cards that fits.")
    ] = None,
    values: Annotated[bool | None, typer.Option(help="Read all values of the training split. Default: up to 1 GB.")] = None,
) -> None:
    """Say what is there, what physinterp would do with it, and what is wrong. Exit code 1 where something is wrong."""
    from physinterp.data.inspect import inspect as look

    report = look(path, system, values)
    screen = console()
    table = Table(title=path, title_justify="left", show_header=False)
    for subject, text in report.found.items():
        table.add_row(subject, Text(text))
    if report.found:
        screen.print(table)
    for line in report.use:
        screen.print(f"would: {line}", markup=False, highlight=False, soft_wrap=True)
    for line in report.wrong:
        screen.print(f"WRONG: {line}", markup=False, highlight=False, soft_wrap=True)
    if report.wrong:
        raise typer.Exit(WRONG)


@app.command()
def stats(
    system: System,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="File. Default: stats.yaml in the folder of the data.")] = None,
    stride: Stride = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: one per core.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a dask.distributed scheduler.")] = None,
) -> None:
    """Mean, spread and change of every field of the training split, in one pass; the numbers depend on the data alone."""
    from physinterp.data import open_dataset
    from physinterp.data.remote import location
    from physinterp.data.statistics import write_stats

    card = _card(system, data)
    ds = open_dataset(card, "train", data)
    path = location(ds.attrs["path"])
    say(f"train: {ds.sizes['sample']} x {ds.sizes['time']} frames, {ds.nbytes / 1e6:.4g} MB")
    if out is None and not isinstance(path, Path):
        raise InputError(f"{path}: give the file of the statistics with --out")
    target = out or Path(str(path if path.is_dir() else path.parent)) / "stats.yaml"
    with scheduled(scheduler, threads):
        write_stats(target, ds, card, f"Training split of {path}", stride)
    say(str(target))


@app.command()
def convert(
    system: System,
    out: Out,
    data: Data = None,
    splits: Splits = None,
    fields: Fields = None,
    samples: Samples = None,
    times: Times = None,
    stride: Stride = 1,
    dry: Dry = False,
) -> None:
    """Copy data into a local zarr that training reads fast; what is interrupted goes on where it stopped."""
    from physinterp.data import convert as conversion
    from physinterp.data import splits as splits_at

    card = _card(system, data)
    there = splits_at(data, card) if data is not None else tuple(card.splits)
    wanted = _list(splits) or there or ("train",)
    choice = conversion.Choice(_list(fields), _range(samples, int, "--samples"), _range(times, float, "--times"), stride)
    plan = conversion.plan(card, wanted, data, out, choice)
    todo = plan.todo()
    for split, ds in plan.datasets.items():
        count = ds.sizes["sample"]
        say(f"{split}: {count} {'trajectory' if count == 1 else 'trajectories'} of {ds.sizes['time']} frames")
    say(f"{plan.bytes / 1e6:.4g} MB to {out}, {plan.chunk} frames per chunk, about {duration(plan.seconds())}")
    if not dry and todo:
        with bar(plan.bytes, "converting") as report:
            conversion.convert(plan, report)


@app.command()
def bench(
    system: System,
    data: Data = None,
    split: Annotated[str, typer.Option(help="Split.")] = "train",
    preset: Annotated[
        str | None, typer.Option(help="Whose batch, step and network to use. Default: the benchmark's.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows per batch. Default: the preset's.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure each.")] = 3.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """How fast windows are read, against a bare loop over the same arrays, and how long a trainer waits for them."""
    from physinterp.config import load_benchmark
    from physinterp.data import bench as measure
    from physinterp.data.windows import Windows

    card = _card(system, data)
    chosen = load_benchmark(card).preset(preset)
    size = batch or chosen.training.batch
    windows = Windows(card, split, data, batch=size, stride=max(1, round(chosen.step / card.dt)))
    bare, ours = measure.rates(windows, seconds)
    table = _table(f"{card.name}, {split}, batches of {size}", "", "samples/s", "MB/s", "share")
    table.add_row("bare loop", f"{bare.windows:.0f}", f"{bare.megabytes:.0f}", "")
    table.add_row("windows", f"{ours.windows:.0f}", f"{ours.megabytes:.0f}", f"{ours.share(bare):.0%}")
    console().print(table)
    share, work = _waiting(windows, chosen, device, seconds)
    say(f"a trainer waits {share:.1%} of its time ({1e3 * work:.0f} ms per step)")


@app.command()
def preflight(
    system: System,
    data: Data = None,
    split: Annotated[str, typer.Option(help="Split.")] = "train",
) -> None:
    """Will interpolants help? Compares the way from the present state to the next one with that from noise."""
    from physinterp.data import developed, open_dataset
    from physinterp.data.preflight import preflight as look

    card = _card(system, data)
    found = look(developed(open_dataset(card, split, data), card), card.field_names)
    labels = ("stride", "time", "change", "path", "SWD", "MMD", "correlation", "sigma")
    table = _table(f"{card.name}, {split}: state over noise", *labels)
    for r in found.rows:
        numbers = (r.change, r.path, r.swd, r.mmd, r.correlation, r.sigma)
        mark = " *" if r.stride == found.stride else ""
        table.add_row(f"{r.stride}{mark}", f"{r.stride * card.dt:g}", *(f"{n:.3f}" for n in numbers))
    screen = console()
    screen.print(table)
    longest = found.rows[-1].stride * card.dt
    lasting = f"longer than {longest:g}" if found.decorrelation is None else f"{found.decorrelation * card.dt:.3g}"
    screen.print(f"decorrelation time (0.5): {lasting}", highlight=False)
    screen.print(
        f"suggested: stride {found.stride} (step {found.stride * card.dt:g}), sigma at most {found.sigma:.2g}, "
        f"{found.steps} steps; {found.advice}",
        highlight=False,
    )  # fmt: skip


def _waiting(windows: Any, preset: Any, device: str, seconds: float) -> tuple[float, float]:
    """Train the preset's deterministic network on windows: the share of the time waited for them, seconds per step."""
    import torch

    from physinterp.data.statistics import Statistics
    from physinterp.fields import FieldStack
    from physinterp.methods import ModelName, make_model
    from physinterp.pairs import WindowPairs
    from physinterp.train import Trainer

    card, first = windows.system, windows[0].states
    axes = (0, 1, *range(3, first.ndim))  # (B, 2, C, *S)
    mean, std = first.mean(axes).tolist(), first.std(axes).clamp(min=1e-6).tolist()
    measured = Statistics(windows.names, tuple(mean), tuple(std), tuple(std))
    pairs = WindowPairs(windows, FieldStack(card.fields, card.grid, measured))
    name = ModelName("deterministic", "identity", preset.backbone)
    model = make_model(name, card, preset, first.shape[2:], torch.ones(len(std)))
    changes = {"seconds": seconds, "steps": None, "learning_rates": (1e-4,), "batch": windows.batch}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(preset.training.model_copy(update=changes), 0, Path(folder), device)
        record = trainer.fit(model, pairs, pairs, 1.0, "training")
    return record["waiting"], record["seconds"] / record["steps"]


def _card(name: str, data: str | None = None) -> Any:
    """A card, at the resolution of the data where there are any."""
    from physinterp.data import fitted
    from physinterp.system import load_system

    card = load_system(name)
    return card if data is None else fitted(card, data)


def _table(title: str, *labels: str) -> Table:
    table = Table(title=title, title_justify="left")
    for label in labels:
        table.add_column(label, justify="right")
    return table


def _known_rate(name: str, shape: tuple[int, ...]) -> float | None:
    """Seconds per time unit and trajectory of an earlier run at this resolution."""
    from physinterp.checkpoint import load_json
    from physinterp.config import home

    for note in sorted((home() / "data").glob(f"{name}-*/generation.json"), reverse=True):
        found = load_json(note)
        if tuple(found["recipe"]["shape"]) == tuple(shape) and found.get("seconds_per_time_unit_and_trajectory"):
            return float(found["seconds_per_time_unit_and_trajectory"])
    return None


def _list(text: str | None) -> tuple[str, ...] | None:
    return tuple(t.strip() for t in text.split(",") if t.strip()) if text is not None else None


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise InputError(f"{option} {text!r}: expected NAME=VALUE")
    return name.strip(), value.strip()


def _pairs(text: str | None, option: str) -> dict[str, str]:
    return dict(_pair(item, option) for item in _list(text) or ())


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name}: expected a number, found {text!r}") from error


def _range(text: str | None, kind: type, option: str) -> tuple[Any, Any]:
    """FIRST:LAST, either of which may be left out."""
    if text is None:
        return None, None
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return tuple(kind(t) if t.strip() else None for t in (first, last))  # type: ignore[return-value]
    except ValueError as error:
        raise InputError(f"{option} {text!r}: expected FIRST:LAST, such as 0:10") from error
