"""The look-ahead: what is begun before its turn, and what becomes of it."""

from dataclasses import dataclass, field

import pytest

from pacs.errors import NotSupported, OutOfResources
from pacs.pixels.look_ahead import MOST_BYTES, LookAhead


@dataclass
class Work:
    """Work that only says what was done with it."""

    item: str
    size_in_memory: int = 1
    closed: list[str] = field(default_factory=list)

    def close(self):
        """Note it."""
        self.closed.append(self.item)


class Beginner:
    """Begins work for each item but "bad", and knows which has begun and which was closed."""

    def __init__(self, size=1):
        self.size = size
        self.begun, self.closed = [], []

    def __call__(self, item):
        """Begin an item."""
        self.begun.append(item)
        if item == "bad":
            raise NotSupported("bad")
        return Work(item, self.size, self.closed)


def test_the_following_items_are_begun_when_one_is_taken():
    """At most two; each item is begun once."""
    begin, items = Beginner(), list("abcde")
    ahead = LookAhead(begin, 2)
    assert ahead.take("a", items[1:]).item == "a"
    assert begin.begun == ["a", "b", "c"]
    assert [ahead.take(each, items[place:]).item for place, each in enumerate(items[1:], 2)] == list("bcde")
    assert begin.begun == items
    assert begin.closed == []


def test_nothing_is_begun_while_too_much_is_in_memory():
    """One large item is begun ahead, so that there is always work."""
    begin, items = Beginner(size=MOST_BYTES), list("abcd")
    ahead = LookAhead(begin, 3)
    ahead.take("a", items[1:])
    assert begin.begun == ["a", "b"]


def test_an_error_is_raised_at_its_turn():
    """Not earlier; the others go on."""
    begin, items = Beginner(), ["a", "bad", "c"]
    ahead = LookAhead(begin, 2)
    assert ahead.take("a", items[1:]).item == "a"
    with pytest.raises(NotSupported):
        ahead.take(items[1], items[2:])
    assert ahead.take(items[2], ()).item == "c"


def test_what_there_is_no_room_for_is_begun_again_at_its_turn():
    """Such as when the server has too many open files for a moment."""
    refused = [OutOfResources("Too many open files")]

    def begin(item: str) -> Work:
        if item == "b" and refused:
            raise refused.pop()
        return Work(item)

    ahead = LookAhead(begin, 2)
    assert [ahead.take(each, "abc"[place:]).item for place, each in enumerate("abc", 1)] == ["a", "b", "c"]


def test_what_is_not_taken_is_cancelled():
    """Items that were left out, and the rest at the end."""
    begin, items = Beginner(), list("abcd")
    ahead = LookAhead(begin, 3)
    ahead.take("a", items[1:])
    assert ahead.take(items[2], items[3:]).item == "c"
    assert begin.closed == ["b"]
    ahead.close()
    assert begin.closed == ["b", "d"]
