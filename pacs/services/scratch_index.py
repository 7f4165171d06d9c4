"""A temporary index, built beside the real one and removed after use."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from pacs.errors import StorageUnavailable
from pacs.index import schema
from pacs.index.database import Index


@contextmanager
def scratch_index(folder: AbstractContextManager[Path] | None = None) -> Iterator[Index]:
    """Yield an empty index in a temporary folder, `folder` or one of the system, and remove it after use.

    Raises StorageUnavailable.
    """
    with folder or _system_folder() as path, closing(Index(f"sqlite:///{path}/index.db")) as index:
        schema.upgrade(index)
        index.is_recoverable = True  # it is of no use after a power cut
        yield index


@contextmanager
def _system_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="pacs-")
    except OSError as error:
        raise StorageUnavailable(f"Cannot create a temporary folder ({error.strerror})") from error
    with folder as path:
        yield Path(path)
