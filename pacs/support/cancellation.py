"""A request to stop, latched: once asked for it stays asked for, and what is being waited for is interrupted.

A mouth makes one `Cancellation` per operation and calls `cancel()` from whichever thread sees the C-CANCEL or the
vanished peer. The core looks at it between steps, and registers how to interrupt what it waits for meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacs.errors import Cancelled


class Cancellation:
    """A latched wish to stop one operation; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._interrupt: Callable[[], None] | None = None

    @property
    def reason(self) -> str | None:
        """Why the operation is to stop, or None while nobody asked."""
        return self._reason

    @property
    def requested(self) -> bool:
        """Whether anybody asked to stop."""
        return self._reason is not None

    def cancel(self, reason: str) -> None:
        """Ask to stop. The first reason stays; what is being waited for is interrupted once."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            interrupt = self._interrupt
            if interrupt is not None:
                interrupt()

    def check(self) -> None:
        """Raise `Cancelled` when somebody asked to stop."""
        if self._reason is not None:
            raise Cancelled(self._reason)

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` (which must not block) if `cancel()` comes while the body runs.

        Raises `Cancelled` on entry when it came before, and on exit when it came during the body, whatever the
        interrupted call raised itself.
        """
        with self._lock:
            self.check()
            outer, self._interrupt = self._interrupt, interrupt
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._interrupt = outer
        self.check()
