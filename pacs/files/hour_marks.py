"""Marks of the hours in which a server stores objects: after an unclean stop the next start looks only there.

A mark is a file in the folder of the running server (`pacs.files.running_marker`), such as `2026-11-30-15.9f0c…`. It is
durable before the first object of its hour gets its name, and it is removed once the rows of all its objects are
durable. Each process has marks of its own.
"""

import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pacs.files.disk import sync_file, sync_folder
from pacs.support import private

PRUNE_SECONDS = 5.0
"""Seconds from the first object of an hour until the marks of earlier hours are removed, and between two attempts."""

_NAME = re.compile(r"(\d{4})-(\d\d)-(\d\d)-(\d\d)\.[0-9a-f]{32}")


def marked_hours(folder: Path) -> set[str]:
    """Return the hours, such as `2026/11/30/15`, of the marks in the folder of a server. Raises OSError."""
    return {"/".join(found.groups()) for each in os.listdir(folder) if (found := _NAME.fullmatch(each)) is not None}


@dataclass(eq=False, slots=True)
class _Mark:
    path: Path
    in_flight: int = 0
    """Objects that have or get their names, and of which it is not yet certain whether they have a row."""


class HourMarks:
    """The marks of this process in `folder`. Thread-safe.

    `make_rows_durable` makes all rows durable that were committed before, and returns whether it could.
    """

    def __init__(self, folder: Path, make_rows_durable: Callable[[], bool]) -> None:
        self._folder, self._make_rows_durable = folder, make_rows_durable
        self._lock = threading.Lock()
        self._marks: dict[str, _Mark] = {}
        """By hour; in each the next object may be stored."""
        self._finished: list[_Mark] = []
        """Of earlier hours; their objects have their rows, which may not be durable."""
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def enter(self, hour: str) -> None:
        """Mark an hour in which an object is about to get its name; call `leave` afterwards. Raises OSError."""
        with self._lock:
            if hour not in self._marks:
                self._marks[hour] = self._new_mark(hour)
                self._prune_later()
            self._marks[hour].in_flight += 1

    def leave(self, hour: str) -> None:
        """Note that an object has its row, or will not get one."""
        with self._lock:
            self._marks[hour].in_flight -= 1

    def prune(self) -> None:
        """Remove the marks of earlier hours in which no object is in flight, once their rows are durable."""
        with self._lock:
            done = [hour for hour, mark in self._marks.items() if hour < max(self._marks) and not mark.in_flight]
            # From here on, an object that is late in its hour gets a mark of its own.
            self._finished += [self._marks.pop(hour) for hour in done]
            finished = list(self._finished)
        if finished and self._make_rows_durable():
            self._remove(finished)

    def close(self) -> None:
        """Prune no more; the marks stay."""
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _new_mark(self, hour: str) -> _Mark:
        """Create a mark durably; its name is no other's, so that removing another one never removes it."""
        path = self._folder / f"{hour.replace('/', '-')}.{uuid.uuid4().hex}"
        if not self._is_closed:  # stores go on although the folder of a running server was removed
            private.make_folder(self._folder)
        path.touch(private.FILE, exist_ok=False)
        sync_file(path)
        sync_folder(self._folder)
        return _Mark(path)

    def _remove(self, finished: Iterable[_Mark]) -> None:
        with suppress(OSError):  # the next start looks at an hour more
            for mark in finished:
                mark.path.unlink(missing_ok=True)
                self._finished.remove(mark)

    def _prune_later(self) -> None:
        """Start the timer if there is something to prune; called with the lock held."""
        if self._timer is None and not self._is_closed and (len(self._marks) > 1 or self._finished):
            timer = threading.Timer(PRUNE_SECONDS, self._run)
            timer.name, timer.daemon = "pacs-hour-marks", True
            with suppress(RuntimeError):  # no more threads: the next hour tries again
                timer.start()
                self._timer = timer

    def _run(self) -> None:
        self.prune()
        with self._lock:
            self._timer = None
            self._prune_later()
