"""What the commands print: lines, tables, bars, and the one line at which they end early."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

UNSOUND, ERROR, INTERRUPTED = 1, 2, 130  # exit codes
CONNECT = 10.0
"""Seconds to wait for a scheduler."""


class Group(typer.core.TyperGroup):
    """Commands that can be interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with interruptible():
            return super().invoke(ctx)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Answer Ctrl-C before typer makes its own message of it."""
    try:
        yield
    except KeyboardInterrupt:
        stop("interrupted: what is finished is kept, and the same command goes on from there", INTERRUPTED)


def stop(message: str, code: int) -> NoReturn:
    """End with one line on stderr."""
    Console(stderr=True, soft_wrap=True).print(message, markup=False, highlight=False)
    sys.exit(code)


@contextlib.contextmanager
def scheduled(address: str | None, threads: int | None) -> Iterator[None]:
    """The scheduler of dask while the block lasts."""
    import dask

    from physinterp.errors import InputError

    if address is None:
        with dask.config.set({"scheduler": "threads"} | ({"num_workers": threads} if threads else {})), _dask_bar():
            yield
        return
    try:
        from distributed import Client

        client = Client(address, timeout=CONNECT)
    except ImportError as error:
        raise InputError("--scheduler needs dask.distributed: pip install 'dask[distributed]'") from error
    except (OSError, ValueError) as error:
        raise InputError(f"no scheduler at {address} ({error}); start one with `dask scheduler`") from error
    with client:
        yield


@contextlib.contextmanager
def _dask_bar() -> Iterator[None]:
    from dask.callbacks import Callback

    with _progress("computing", TextColumn("{task.completed} of {task.total} tasks")) as (progress, task):

        def done(key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
            total = sum(len(state[k]) for k in ("ready", "waiting", "running", "finished"))
            progress.update(task, total=total, completed=len(state["finished"]))

        with Callback(posttask=done):
            yield


@contextlib.contextmanager
def bar(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A progress bar of bytes on a terminal; what it gives is called with those that are done."""
    with _progress(label, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as (progress, task):
        progress.update(task, total=total)
        yield lambda count: progress.advance(task, count)


@contextlib.contextmanager
def _progress(label: str, *columns: Any) -> Iterator[tuple[Progress, Any]]:
    console = Console(stderr=True)
    with Progress(TextColumn(label), BarColumn(), *columns, console=console, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task(label, total=None)


def console() -> Console:
    """Standard output, wide enough for tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 175)


def say(text: str) -> None:
    """One line of plain text."""
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def duration(seconds: float) -> str:
    """12 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
