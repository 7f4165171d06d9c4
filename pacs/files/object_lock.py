"""The lock of a stored object, held while a row is committed for its file or the file is deleted or moved.

A file is locked from its creation until its store has ended, because the descriptor that wrote it has a lock. The
kernel releases the lock when its process dies.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from pacs.errors import InstanceInUse, InstanceUnreadable
from pacs.files.io_errors import READING

PAUSE = 0.01
"""Seconds between two attempts: flock itself waits without a limit."""


@contextmanager
def lock_files(paths: Iterable[str], seconds: float) -> Iterator[set[str]]:
    """Lock files in the `with` block, waiting at most `seconds` in all; yield the paths of those that are locked.

    The others are missing, or cannot be opened. Raises InstanceInUse when the time is over,
    StorageUnavailable.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as locks:
        locked = set()
        for path in sorted(paths):  # always in the same order, so that there is no deadlock
            descriptor = _lock(path, deadline)
            if descriptor is not None:
                locks.callback(os.close, descriptor)
                locked.add(path)
        yield locked


def _lock(path: str, deadline: float) -> int | None:
    """Return the descriptor of a locked file, None when it cannot be opened."""
    while (descriptor := _try_lock(path)) == _BUSY:
        if time.monotonic() >= deadline:
            raise InstanceInUse("The stored file is in use by another operation: try again later")
        time.sleep(PAUSE)
    return descriptor


_BUSY = -1


def _try_lock(path: str) -> int | None:
    with suppress(InstanceUnreadable), READING:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with ExitStack() as closing:
            closing.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _BUSY
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return _BUSY  # another file has its name since: a journal was replayed
            closing.pop_all()
            return descriptor
    return None
