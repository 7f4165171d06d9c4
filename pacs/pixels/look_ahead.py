"""Begins conversions before their turn, so that all decoder processes work while one instance is sent or written."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar

from pacs.errors import OutOfResources, PacsError

MOST_BYTES = 64 << 20
"""Bytes of frames in memory at which nothing further is begun."""


class Begun(Protocol):
    """Something that has begun, such as a `Conversion`."""

    @property
    def size_in_memory(self) -> int:
        """The bytes that it has in memory at most."""

    def close(self) -> None:
        """Cancel what has not been done."""


Item = TypeVar("Item")
Result = TypeVar("Result", bound=Begun)


class LookAhead(Generic[Item, Result]):
    """Begins the work for items, in order, before their turn.

    `begin` begins it for one item and may raise PacsError, which is raised at the item's turn. `at_most` is the number
    of items that are begun ahead; usually that of decoder processes.
    """

    def __init__(self, begin: Callable[[Item], Result], at_most: int) -> None:
        self._begin_one = begin
        self._at_most = at_most
        self._ahead: deque[tuple[Item, Result | PacsError]] = deque()

    def take(self, item: Item, following: Iterable[Item] = ()) -> Result:
        """Return what was begun for an item, now or before, and begin the items after it. Raises as `begin`.

        The caller closes the result. What was begun for other items than these is cancelled.
        """
        while self._ahead and self._ahead[0][0] is not item:
            self._cancel(self._ahead.popleft()[1])
        taken = self._ahead.popleft()[1] if self._ahead else self._try(item)
        self.begin(following)
        if isinstance(taken, PacsError):
            raise taken
        return taken

    def begin(self, following: Iterable[Item]) -> None:
        """Begin the items after the one that was taken last, as far as there is room; keep their errors for `take`."""
        for each in islice(following, len(self._ahead), self._at_most):
            if self.size_in_memory >= MOST_BYTES:
                break
            begun = self._try(each)
            if isinstance(begun, OutOfResources):
                break  # there may be room at its turn
            self._ahead.append((each, begun))

    @property
    def size_in_memory(self) -> int:
        """The bytes in memory for the items that were begun ahead."""
        return sum(work.size_in_memory for _, work in self._ahead if not isinstance(work, PacsError))

    def close(self) -> None:
        """Cancel what was begun ahead."""
        while self._ahead:
            self._cancel(self._ahead.popleft()[1])

    def _try(self, item: Item) -> Result | PacsError:
        try:
            return self._begin_one(item)
        except PacsError as error:
            return error

    def _cancel(self, work: Result | PacsError) -> None:
        if not isinstance(work, PacsError):
            work.close()
