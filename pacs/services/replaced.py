"""Reading the file of an instance that may be replaced or deleted between the search that found it and its turn."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from pacs.errors import InstanceUnreadable

ATTEMPTS = 20
"""How often an instance is looked up: each time it has been replaced again, within the time to open its file."""


class InFile(Protocol):
    """An instance in a stored file: a `StoredInstance`, or a `Match` at IMAGE level."""

    @property
    def file_key(self) -> str | None:
        """The key of the file. An instance that replaces another one has a file of its own."""


Found = TypeVar("Found", bound=InFile)
Result = TypeVar("Result")


def read_current(
    found: Found, read: Callable[[Found], Result], find_again: Callable[[], Found | None]
) -> Result | None:
    """Return `read(found)`. If its file cannot be read, do so with what `find_again` returns, which may be newer.

    Returns None when that finds nothing: the instance was deleted. Raises what `read` raises for the file that the
    index has now, and what `find_again` raises.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return read(found)
        except InstanceUnreadable:
            now = find_again()
            if now is None:
                return None
            if now.file_key == found.file_key:
                raise
            found = now
    return read(found)
