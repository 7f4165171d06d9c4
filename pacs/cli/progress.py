"""Progress bars and progress lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click

from pacs.cli.interrupt import transfer
from pacs.cli.output import size
from pacs.cli.verbosity import Verbosity, verbosity

if TYPE_CHECKING:
    from pacs import client

COUNTS = ("remaining", "completed", "failed", "warning")
"""Counts of sub-operations in the responses to a retrieve, or of sent instances."""

Tell = Callable[["client.Progress"], None]
"""A function that shows the progress."""


@contextmanager
def transfer_progress(title: str) -> Iterator[Tell]:
    """Yield a function that shows progress: as a bar on a terminal, with -v as lines, else not at all.

    After Ctrl-C the next call raises KeyboardInterrupt, so that the peer gets a C-CANCEL and no file is truncated.
    """
    verbose, last = verbosity() > Verbosity.NORMAL, ""
    with (
        transfer() as check,
        _bar(title) if sys.stderr.isatty() and verbosity() is Verbosity.NORMAL else nullcontext() as bar,
    ):

        def tell(progress: "client.Progress") -> None:
            nonlocal last
            step = _step(title, progress) if verbose else ""
            if step != last:
                click.echo(step, err=True)
            elif bar is not None:
                bar(progress)
            last = step
            check()

        yield tell


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
    """Return the line for one progress report."""
    counts = (f"{name} {value}" for name in COUNTS if (value := getattr(progress, name)) is not None)
    return f"{title}: {', '.join((*counts, f'received {progress.received}', size(progress.bytes)))}"


def _state(progress: "client.Progress") -> tuple[int, int | None, str]:
    """Return the number of finished instances, the total, and a text with both."""
    counted_there = sum(each or 0 for each in (progress.completed, progress.failed, progress.warning))
    total = progress.total
    done = counted_there if total is None or progress.remaining is None else total - progress.remaining
    done = max(done, progress.received)
    said = f"{done} of {total or '?'}, {size(progress.bytes)}" if progress.bytes else f"{done} of {total or '?'}"
    return done, total, said + (f", {progress.failed} failed" if progress.failed else "")


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, with rate and time left; yield a function that advances it by a count."""
    if not sys.stderr.isatty() or verbosity() is not Verbosity.NORMAL:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task, began = bar.add_task(title, total=total, rate=""), time.monotonic()

        def advance(count: int) -> None:
            bar.advance(task, count)
            per_second = bar.tasks[task].completed / max(time.monotonic() - began, 0.001)
            bar.update(task, rate=f"{per_second:.{int(per_second < 10)}f}/s")

        yield advance
