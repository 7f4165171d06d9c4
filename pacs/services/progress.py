"""The protocol by which long work reports its progress."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Called with the number of units done since the last call."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Begins a piece of work, given its name and total number of units."""


@contextmanager
def no_progress(_title: str, _total: int) -> Iterator[Advance]:
    """A `Progress` that reports nothing."""
    yield lambda _count: None
