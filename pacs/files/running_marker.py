"""Markers of running servers: they tell the next start whether the last server stopped uncleanly, and where to look."""

from contextlib import suppress
from pathlib import Path

from pacs.files.disk import write_text
from pacs.files.hour_marks import marked_hours
from pacs.files.io_errors import Writing
from pacs.files.object_keys import KeyClock
from pacs.files.process_lock import LockedFolder, is_locked, process_folders

_MARKING = Writing("The marker of a running server cannot be written")

_CLOCK = "clock"
"""The file with the clock of a server. Without it, a marker is that of an earlier version, which marked no hours."""

SERVER = "server"
"""The file in a marker that says which server it is of."""


class RunningMarker:
    """A new folder in `parent`, locked while this process lives. Raises StorageUnavailable.

    It contains the clock of the server and its `HourMarks`. A marker without a lock is that of a process that died.
    While another server lives there was no power cut, so that such markers say nothing.
    """

    def __init__(self, parent: Path, clock: KeyClock) -> None:
        with _MARKING:
            found = process_folders(parent)
            self._own = LockedFolder.create(parent, {_CLOCK: clock.encode()})
            self._abandoned = [] if any(map(is_locked, found)) else found

    def describe(self, server: str) -> None:
        """Say in the marker which server it is of. Raises StorageUnavailable."""
        with _MARKING:
            write_text(self._own.path / SERVER, server)

    @property
    def folder(self) -> Path:
        """The folder for the marks of hours."""
        return self._own.path

    @property
    def is_after_unclean_stop(self) -> bool:
        """Whether the last server stopped uncleanly and no other server runs."""
        return bool(self._abandoned)

    def hours(self) -> set[str] | None:
        """Return the hours marked by the servers that stopped uncleanly; None when one of them marked none.

        Raises StorageUnavailable.
        """
        with _MARKING:
            if not all((each / _CLOCK).exists() for each in self._abandoned):
                return None
            return {hour for each in self._abandoned for hour in marked_hours(each)}

    def forget_unclean_stop(self) -> None:
        """Remove the markers of processes that died. Raises StorageUnavailable."""
        for path in self._abandoned:
            with _MARKING, suppress(FileNotFoundError):  # another process that started at the same time was first
                _remove(path)

    def release(self, *, is_clean: bool) -> None:
        """Release the lock; without `is_clean` the next start takes this for an unclean stop."""
        with suppress(OSError):  # then the next start looks for instances that are not missing: that costs time only
            if is_clean:
                _remove(self._own.path)
        with suppress(OSError):
            self._own.release(remove=False)


def _remove(folder: Path) -> None:
    """Remove a marker; it is hidden first, so that a cut never leaves one without its clock. Raises OSError."""
    hidden = folder.with_name(f".{folder.name}")
    folder.rename(hidden)
    for each in hidden.iterdir():
        each.unlink()
    hidden.rmdir()


def is_any_running(parent: Path) -> bool:
    """Whether a server that has its marker in `parent` lives. Raises StorageUnavailable."""
    with _MARKING:
        return any(map(is_locked, process_folders(parent)))


def running_clock(parent: Path) -> KeyClock | None:
    """Return the clock of a server that has its marker in `parent` and lives, None for none. Raises OSError."""
    for each in process_folders(parent):
        if is_locked(each):
            with suppress(FileNotFoundError, ValueError):  # of an earlier version, or damaged
                return KeyClock.decode((each / _CLOCK).read_text("ascii"))
    return None


def running_servers(parent: Path) -> list[str]:
    """Return what the servers that live say in their markers, '' for one of an earlier version.

    Raises StorageUnavailable.
    """
    with _MARKING:
        return [_description(each) for each in process_folders(parent) if is_locked(each)]


def _description(marker: Path) -> str:
    with suppress(FileNotFoundError):
        return (marker / SERVER).read_text("utf-8")
    return ""
