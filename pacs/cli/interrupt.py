"""Ctrl-C in commands that call a peer: the command ends within seconds, whatever the peer does.

The first Ctrl-C ends the operation at the peer: with a C-CANCEL, or after the instance that is in transfer. A second
one, or `STOP_SECONDS`, ends it without the peer. `EXIT_SECONDS` later the process exits, even if a clean-up hangs.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pacs.cli.exit_status import INTERRUPTED
from pacs.errors import StopNow

STOPPING = b"pacs: stopping; press Ctrl-C again to stop immediately\n"

STOP_SECONDS = 2.0
"""Seconds for the peer to end the operation after the first Ctrl-C."""

EXIT_SECONDS = 2.0
"""Seconds for the clean-up after that."""


class Interrupt:
    """Raises KeyboardInterrupt after Ctrl-C: at once, or during a transfer in the next `check`."""

    def __init__(self) -> None:
        self._presses = 0
        self._is_transferring = False

    def press(self, _signal: int, _frame: object) -> None:
        """Handle SIGINT, and SIGALRM, which counts as another Ctrl-C."""
        self._presses += 1
        if self._presses > 2:
            os._exit(INTERRUPTED)
        signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS if self._presses == 1 else EXIT_SECONDS, EXIT_SECONDS)
        if self._presses == 1:
            os.write(2, STOPPING)  # click.echo is not safe here: the signal may have interrupted it
            if not self._is_transferring:
                raise KeyboardInterrupt
        else:
            raise StopNow

    @property
    def is_pressed(self) -> bool:
        """Whether there was a Ctrl-C."""
        return self._presses > 0

    def check(self) -> None:
        """Begin or continue a transfer: the first Ctrl-C waits for the next call. Raises KeyboardInterrupt after it."""
        self._is_transferring = True
        if self._presses:
            raise KeyboardInterrupt

    def end_transfer(self) -> None:
        """Let the first Ctrl-C act at once again."""
        self._is_transferring = False


_running: ContextVar[Interrupt | None] = ContextVar("_running", default=None)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the body, a whole command, in bounded time. Signals reach the main thread only.

    After a Ctrl-C another one is ignored: the command is about to exit, and would have another exit status.
    """
    interrupt = Interrupt()
    token = _running.set(interrupt)
    try:
        with _handling(interrupt):
            yield
    finally:
        _running.reset(token)


@contextmanager
def transfer() -> Iterator[Callable[[], None]]:
    """Yield `Interrupt.check` of the running command, for a transfer in the body."""
    interrupt = _running.get() or Interrupt()
    try:
        yield interrupt.check
    finally:
        interrupt.end_transfer()


@contextmanager
def _handling(interrupt: Interrupt) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt.press) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if interrupt.is_pressed else handler)
