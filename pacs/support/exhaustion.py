"""Exhausted resources of the process: the errors that say so, wherever they occur, and warnings about them."""

import errno
import logging
import time

from pacs.errors import OutOfResources

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""The errors of the system for: too many open files, no memory."""

WARNING_PERIOD = 60.0
"""Seconds between two warnings of the same kind."""

HINT = (
    "raise the limit of open files or threads of the process (ulimit -n, -u; systemd: LimitNOFILE, TasksMax), "
    "or lower limits.associations"
)


def exhaustion(error: Exception) -> OutOfResources | None:
    """Return the error of this project for one that says that a resource is exhausted, None for any other."""
    if isinstance(error, MemoryError):
        return OutOfResources("The server is out of memory")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return OutOfResources(f"The server is out of resources ({error.strerror})")
    return None


class ExhaustionWarning:
    """A warning that is logged once for many attempts that fail for the same reason."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._logged_at = float("-inf")

    def log(self, error: OutOfResources) -> None:
        """Log the sentence, the reason and what to do, at most once in `WARNING_PERIOD`."""
        if time.monotonic() > self._logged_at + WARNING_PERIOD:
            self._logged_at = time.monotonic()
            logging.getLogger("pacs").warning("%s: %s; %s", self._sentence, error.comment, HINT)
