"""How long work says how far it is."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Called with how much more is done."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Begins a piece of work: its name, and how much there is to do."""


@contextmanager
def silent(_title: str, _total: int) -> Iterator[Advance]:
    """A `Progress` that nobody sees."""
    yield lambda _count: None
