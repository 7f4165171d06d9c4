"""Markers of running servers: they tell the next start whether the last server stopped uncleanly."""

from contextlib import suppress
from pathlib import Path

from pacs.files.disk import write_text
from pacs.files.io_errors import Writing
from pacs.files.process_lock import LockedFolder, is_locked, process_folders

_MARKING = Writing("The marker of a running server cannot be written")


SERVER = "server"
"""The file in a marker that says which server it is of."""


class RunningMarker:
    """A new empty folder in `parent`, locked while this process lives. Raises StorageUnavailable.

    A marker without a lock is that of a process that died. While another server lives there was no power cut, so that
    such markers say nothing.
    """

    def __init__(self, parent: Path) -> None:
        with _MARKING:
            found = process_folders(parent)
            self._own = LockedFolder.create(parent)
            self._abandoned = [] if any(map(is_locked, found)) else found

    def describe(self, server: str) -> None:
        """Say in the marker which server it is of. Raises StorageUnavailable."""
        with _MARKING:
            write_text(self._own.path / SERVER, server)

    @property
    def is_after_unclean_stop(self) -> bool:
        """Whether the last server stopped uncleanly and no other server runs."""
        return bool(self._abandoned)

    def forget_unclean_stop(self) -> None:
        """Remove the markers of processes that died. Raises StorageUnavailable."""
        for path in self._abandoned:
            with _MARKING, suppress(FileNotFoundError):  # another process that started at the same time was first
                (path / SERVER).unlink(missing_ok=True)
                path.rmdir()

    def release(self, *, is_clean: bool) -> None:
        """Release the lock; without `is_clean` the next start takes this for an unclean stop."""
        with suppress(OSError):  # then the next start looks for instances that are not missing: that costs time only
            if is_clean:
                (self._own.path / SERVER).unlink(missing_ok=True)
            self._own.release(remove=is_clean)


def is_any_running(parent: Path) -> bool:
    """Whether a server that has its marker in `parent` lives. Raises StorageUnavailable."""
    with _MARKING:
        return any(map(is_locked, process_folders(parent)))


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
