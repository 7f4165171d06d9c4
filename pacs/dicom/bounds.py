"""Limits on what a data set may be made of, so that what a stranger sends costs bounded time (checklist P9, P10)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pacs.dicom.elements import DEPTH_LIMIT, INFLATED_LIMIT, Token
from pacs.errors import UndecodableDataSet

SHORTEST = 8
"""An element or item has at least so many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetBounds:
    """How deep the sequences of a data set may be nested, how many elements and items it may have (None for any
    number), and how many bytes when inflated. The defaults for depth and size are what every reader can read again.
    """

    depth: int = DEPTH_LIMIT
    elements: int | None = None
    inflated: int = INFLATED_LIMIT

    def are_kept_by(self, size: int) -> bool:
        """Whether a data set of `size` bytes, not deflated, keeps them as far as every reader looks anyway."""
        return self.depth == DEPTH_LIMIT and (self.elements is None or size <= self.elements * SHORTEST)

    def counted(self, tokens: Iterable[Token]) -> Iterator[Token]:
        """The tokens, as long as there are not too many. Raises UndecodableDataSet."""
        for count, token in enumerate(tokens, start=1):
            if self.elements is not None and count > self.elements:
                raise UndecodableDataSet(f"The data set has more than {self.elements} elements", [token.tag])
            yield token


DEFAULT_BOUNDS = DataSetBounds()
"""What every reader holds to."""
