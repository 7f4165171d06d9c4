"""A latched request to stop an operation, which also interrupts what the operation waits for.

DIMSE and web handlers make one `Cancellation` per operation; any thread that notices a C-CANCEL or a lost connection
calls `cancel()`. Services check it between steps, and register how to interrupt a blocking call.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacs.errors import Cancelled


class Cancellation:
    """A latched request to stop one operation; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._interrupt: Callable[[], None] | None = None
        self.is_graceful = True
        """Whether a step that runs may still end in a time that its operation chooses, as after a C-CANCEL."""

    @property
    def reason(self) -> str | None:
        """The reason to stop, None while no stop is requested."""
        return self._reason

    @property
    def requested(self) -> bool:
        """Whether a stop is requested."""
        return self._reason is not None

    def cancel(self, reason: str, *, graceful: bool = True) -> None:
        """Request a stop, unless `graceful` also of the step that runs.

        The first reason stays; a registered interrupt is called once.
        """
        with self._lock:
            self.is_graceful = self.is_graceful and graceful
            if self._reason is not None:
                return
            self._reason = reason
            interrupt = self._interrupt
            if interrupt is not None:
                interrupt()

    def check(self) -> None:
        """Raise `Cancelled` if a stop is requested."""
        if self._reason is not None:
            raise Cancelled(self._reason)

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt` (which must not block) if `cancel()` is called while the body runs.

        Raises `Cancelled` on entry if it was called before, and on exit if it was called during the body, instead of
        the error of the interrupted call.
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
