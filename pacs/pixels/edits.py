"""Changes to the elements of a data set while it is written: removed, replaced and inserted ones.

Elements are named by the number of their token in a walk through the data set, which is the same in each walk.
"""

from typing import NamedTuple

from pacs.dicom.elements import Encoding, Token, TokenKind
from pacs.dicom.syntaxes import WORDS, element_head, swapped
from pacs.pixels.attributes import Changes
from pacs.pixels.survey import SurveyedDataSet


class NewElement(NamedTuple):
    """An element that is inserted; its value is in little endian."""

    tag: int
    vr: str
    data: bytes

    def encoded(self, target: Encoding) -> bytes:
        """Return the element in the target encoding."""
        width = 1 if target.little else WORDS.get(self.vr, 1)
        data = swapped(self.data, width) if width > 1 else self.data
        return element_head(self.tag, self.vr, len(data), target) + data


class Edits:
    """What is removed and inserted."""

    def __init__(self) -> None:
        self._removed: set[int] = set()
        self._inserted: dict[int, dict[int, NewElement]] = {}
        """By the number of the token that follows, and by tag."""

    def change(self, data_set: SurveyedDataSet, changes: Changes) -> None:
        """Change elements of a data set."""
        for tag, change in changes.items():
            indices = data_set.indices(tag)
            self._removed.update(indices)
            if change is not None:
                place = indices[0] if indices else data_set.place(tag)
                self._inserted.setdefault(place, {})[tag] = NewElement(tag, *change)
            if change is not None or indices:
                data_set.changed.add(tag)

    def remove_items(self, data_set: SurveyedDataSet, tag: int, count: int, removed: list[int]) -> None:
        """Remove items of a sequence that has `count` of them; the whole sequence if none is left."""
        if removed and len(removed) == count:
            self._removed.update(data_set.indices(tag))
        self._removed.update(removed)

    def is_removed(self, index: int) -> bool:
        """Return whether a token is removed."""
        return index in self._removed

    @property
    def places(self) -> list[int]:
        """The numbers of the tokens that are removed, and of those before which something is inserted."""
        return sorted(self._removed | self._inserted.keys())

    def inserted_before(self, index: int, target: Encoding) -> bytes:
        """Return the elements that are inserted before a token, in tag order."""
        inserted = self._inserted.get(index)
        return b"".join(element.encoded(target) for _, element in sorted(inserted.items())) if inserted else b""

    def skipping(self) -> "Skipping":
        """Return what tells, during a walk, which tokens are removed."""
        return Skipping(self._removed)


_NESTING = {
    TokenKind.SEQUENCE: 1, TokenKind.ITEM: 1, TokenKind.ENCAPSULATED: 1,
    TokenKind.SEQUENCE_END: -1, TokenKind.ITEM_END: -1, TokenKind.ENCAPSULATED_END: -1,
}  # fmt: skip
"""By how much a token changes the nesting of a walk."""


class Skipping:
    """Tells which tokens of a walk are within what is removed."""

    def __init__(self, removed: set[int]) -> None:
        self._removed = removed
        self._depth = 0

    @property
    def is_within(self) -> bool:
        """Whether the walk is within a sequence or an item that is removed."""
        return self._depth > 0

    def skips(self, index: int, token: Token) -> bool:
        """Return whether a token is removed. It must be called with each token."""
        if not (self._depth or index in self._removed):
            return False
        self._depth += _NESTING.get(token.kind, 0)
        return True
