"""What was worked out before, for as long as it is asked for and there is room: bounded in entries and in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """A cache of at most `size` bytes and `entries` entries; the longest unused ones go first. Any thread may use it.

    Values are shared by all who get them: they must not be changed.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._entries, self._size = entries, size
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """What was put under this key, None when it is no longer known."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                return None
            self._held.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Remember a value that takes about `size` bytes with its key, unless it would fill more than a quarter."""
        if size > self._size // 4:
            return
        with self._lock:
            former = self._held.pop(key, None)
            self._held[key] = value, size
            self._bytes += size - (former[1] if former else 0)
            while self._bytes > self._size or len(self._held) > self._entries:
                _, (_, dropped) = self._held.popitem(last=False)
                self._bytes -= dropped
