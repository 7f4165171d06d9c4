"""Room to put an index together in, beside the files of an archive, for as long as that takes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from pacs.errors import StorageUnavailable
from pacs.files.local import UPKEEP
from pacs.files.process_lock import HeldFolder, held_folders, take
from pacs.index import schema
from pacs.index.database import Index

WORK = UPKEEP
"""The folder beside the files in which indexes are put together."""


@contextmanager
def aside(folder: Path) -> Iterator[Index]:
    """An empty index in a folder of its own, which is removed at the end; what others left there is removed as well.

    Raises StorageUnavailable.
    """
    with scratch_folder(folder) as own, closing(Index(f"sqlite:///{own}/index.db")) as index:
        schema.upgrade(index)
        index.is_recoverable = True  # it is of no use after a power cut
        yield index


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end; those that processes left there that died are removed as well.

    Raises StorageUnavailable.
    """
    try:
        for path in held_folders(parent):
            if (left := take(path)) is not None:
                _remove(left)
        held = HeldFolder.make(parent)
    except OSError as error:
        raise StorageUnavailable(f"There is no room to work in ({error.strerror})") from error
    try:
        yield held.path
    finally:
        with suppress(OSError):
            _remove(held)


def _remove(held: HeldFolder) -> None:
    for path in held.path.iterdir():
        path.unlink()
    held.release(remove=True)
