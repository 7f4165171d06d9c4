"""Counts what the index has while a server runs, so that /metrics shows it without counting rows."""

import threading
import time
from collections.abc import Callable

from pacs.errors import IndexUnavailable
from pacs.index import holdings
from pacs.index.database import Index
from pacs.index.holdings import Holdings
from pacs.support.threads import start_thread

INTERVAL = 60.0
"""Seconds between two counts."""

STOP_SECONDS = 5.0

LARGEST_SHARE = 0.01
"""The share of the time that may be spent on counting all rows; in between only new rows are counted."""


class HoldingsCounter:
    """Counts between `start` and `stop`, in a thread of its own, and gives each result to `publish`."""

    def __init__(self, index: Index, publish: Callable[[Holdings], object]) -> None:
        self._index, self._publish = index, publish
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._last: Holdings | None = None
        self._next_complete_count = 0.0

    def start(self) -> None:
        """Start counting. Raises OutOfResources."""
        self._thread = start_thread("pacs-holdings", self._run)

    def stop(self) -> None:
        """Count no more, and wait for a running count to end, whose connection could not be closed otherwise."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._publish(self.count())
            except IndexUnavailable:
                self._last = None  # the index may be another one when it is back
            self._stopped.wait(INTERVAL)

    def count(self) -> Holdings:
        """Count all rows, or only new ones while a complete count would cost too much. Raises IndexUnavailable."""
        began = time.monotonic()
        is_complete = self._last is None or began >= self._next_complete_count
        self._last = holdings.count(self._index, None if is_complete else self._last)
        if is_complete:
            now = time.monotonic()
            self._next_complete_count = now + (now - began) / LARGEST_SHARE
        return self._last
