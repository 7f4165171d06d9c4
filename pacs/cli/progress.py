"""How far long work is: a bar on a terminal, or a line for each step; and a Ctrl-C that cuts nothing off."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from pacs.cli.output import size

if TYPE_CHECKING:
    from pacs import client

GENTLY = b"pacs: stops with the next instance; Ctrl-C again stops at once\n"

COUNTS = ("remaining", "completed", "failed", "warning")
"""What a PACS counts of a retrieve, and we of what we send."""

Tell = Callable[["client.Progress"], None]
"""Told how far it is."""


@contextmanager
def shown(title: str, *, verbose: bool = False) -> Iterator[Tell]:
    """A bar on a terminal that shows what it is told, nothing elsewhere; a line for each step where that is wanted.

    Ctrl-C is raised by what is told next, between two instances: so the peer gets a C-CANCEL, and nothing is cut off.
    """
    with _gently() as interrupt, _bar(title) if sys.stderr.isatty() and not verbose else nullcontext() as bar:

        def tell(progress: "client.Progress") -> None:
            if verbose:
                click.echo(_step(title, progress), err=True)
            elif bar is not None:
                bar(progress)
            interrupt()

        yield tell


@contextmanager
def _gently() -> Iterator[Callable[[], None]]:
    """What raises KeyboardInterrupt when Ctrl-C was pressed meanwhile; pressed again, it comes at once."""
    pressed: list[int] = []

    def press(number: int, _frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        os.write(2, GENTLY)  # printing may be what was interrupted

    def interrupt() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(title: str) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, said="")

        def tell(progress: "client.Progress") -> None:
            done, total, said = _state(progress)
            bar.update(task, completed=done, total=total, said=said)

        yield tell


def _step(title: str, progress: "client.Progress") -> str:
    """What is known at one step."""
    counts = (f"{name} {value}" for name in COUNTS if (value := getattr(progress, name)) is not None)
    return f"{title}: {', '.join((*counts, f'received {progress.received}', size(progress.bytes)))}"


def _state(progress: "client.Progress") -> tuple[int, int | None, str]:
    """How a bar stands: what is done of all that is known of, and in words how much that is."""
    counted_there = sum(each or 0 for each in (progress.completed, progress.failed, progress.warning))
    total = progress.total
    done = counted_there if total is None or progress.remaining is None else total - progress.remaining
    done = max(done, progress.received)
    said = f"{done} of {total or '?'}, {size(progress.bytes)}" if progress.bytes else f"{done} of {total or '?'}"
    return done, total, said + (f", {progress.failed} failed" if progress.failed else "")


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; call what is yielded with how much more is done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
