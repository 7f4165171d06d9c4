"""A thread-safe LRU cache with a limit on its entries and on its bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """A cache of at most `size` bytes and `entries` entries; it drops the least recently used first. Thread-safe.

    All callers get the same object, so values must not be changed.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._entries, self._size = entries, size
        self._cached: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """Return the value of a key, None when the cache does not have it."""
        with self._lock:
            found = self._cached.get(key)
            if found is None:
                return None
            self._cached.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Add a value that takes about `size` bytes with its key, unless it fills more than a quarter."""
        if size > self._size // 4:
            return
        with self._lock:
            former = self._cached.pop(key, None)
            self._cached[key] = value, size
            self._bytes += size - (former[1] if former else 0)
            while self._bytes > self._size or len(self._cached) > self._entries:
                _, (_, dropped) = self._cached.popitem(last=False)
                self._bytes -= dropped
