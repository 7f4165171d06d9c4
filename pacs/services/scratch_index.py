"""A temporary index, built beside the real one and removed after use."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pacs.errors import StorageUnavailable
from pacs.files.local import UPKEEP
from pacs.files.process_lock import HeldFolder, held_folders, take
from pacs.index import schema
from pacs.index.database import Index

WORK = UPKEEP
"""The folder, inside the file store, for temporary indexes."""


@contextmanager
def scratch_index(folder: Path | None = None) -> Iterator[Index]:
    """Yield an empty index in a new folder of `folder` or of the system's temporary folder, and remove it after use.

    Raises StorageUnavailable.
    """
    own_folder = scratch_folder(folder) if folder is not None else _system_folder()
    with own_folder as own, closing(Index(f"sqlite:///{own}/index.db")) as index:
        schema.upgrade(index)
        index.is_recoverable = True  # it is of no use after a power cut
        yield index


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` and remove it after use, with the folders of processes that have died.

    Raises StorageUnavailable.
    """
    try:
        for path in held_folders(parent):
            if (left := take(path)) is not None:
                _remove(left)
        held = HeldFolder.make(parent)
    except OSError as error:
        raise StorageUnavailable(f"Cannot create a temporary folder ({error.strerror})") from error
    try:
        yield held.path
    finally:
        with suppress(OSError):
            _remove(held)


@contextmanager
def _system_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="pacs-")
    except OSError as error:
        raise StorageUnavailable(f"Cannot create a temporary folder ({error.strerror})") from error
    with folder as path:
        yield Path(path)


def _remove(held: HeldFolder) -> None:
    for path in held.path.iterdir():
        path.unlink()
    held.release(remove=True)
