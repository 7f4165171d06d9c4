"""Limits on the structure of a received data set, so that reading it takes bounded time (docs/checklist.md P9, P10)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pacs.dicom.elements import DEPTH_LIMIT, INFLATED_LIMIT, Token
from pacs.errors import UndecodableDataSet

SHORTEST = 8
"""The smallest size of an element or item, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetBounds:
    """The limits of a data set: nesting depth, number of elements and items (None: unlimited), bytes when inflated.

    All other code can read again what the default depth and size allow.
    """

    depth: int = DEPTH_LIMIT
    elements: int | None = None
    inflated: int = INFLATED_LIMIT

    def need_no_check_for(self, size: int) -> bool:
        """Whether a data set of `size` bytes, not deflated, needs no check beyond those of every reader."""
        return self.depth == DEPTH_LIMIT and (self.elements is None or size <= self.elements * SHORTEST)

    def limited(self, tokens: Iterable[Token]) -> Iterator[Token]:
        """Yield the tokens. Raises UndecodableDataSet when there are too many."""
        for count, token in enumerate(tokens, start=1):
            if self.elements is not None and count > self.elements:
                raise UndecodableDataSet(f"The data set has more than {self.elements} elements", [token.tag])
            yield token


DEFAULT_BOUNDS = DataSetBounds()
"""The limits of every reader."""
