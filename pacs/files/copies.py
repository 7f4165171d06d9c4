"""A folder of copies: the objects of a file store under the same keys, made durable all at once.

It has the layout of a `LocalFiles`, so that a backup can be made from an archive, and an archive from a backup. A copy
is complete or not there; copies are durable once `sync` has returned.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pacs.errors import ConfigurationError, InstanceUnreadable
from pacs.files.digest import require
from pacs.files.disk import open_folder, sync_file, sync_file_system, sync_folder
from pacs.files.io_errors import READING, Writing
from pacs.files.layout import INCOMING, PIECE
from pacs.files.process_lock import try_lock
from pacs.support import private

_WRITING = Writing("The copy cannot be written")


class Copies:
    """The copies in the folder `root`, which is made with the first one. For one thread; to be closed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptor: int | None = None
        """Of the root, open since the first copy: its sync reports write errors since then."""
        self._unsynced: list[str] = []

    def has(self, key: str, size: int) -> bool:
        """Whether there is a copy of this size."""
        try:
            return (self._root / key).stat().st_size == size
        except OSError:
            return False

    def pieces(self, key: str, size: int, start: int = 0) -> Iterator[bytes]:
        """Read a copy of `size` bytes from position `start` on. Raises InstanceUnreadable."""
        with READING, (self._root / key).open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise InstanceUnreadable("The size of the stored file has changed")
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    def put(self, key: str, pieces: Iterable[bytes], head_size: int, digest: str) -> None:
        """Copy an object; `digest` is the SHA-256 of the bytes after its head, in hexadecimal.

        Raises InstanceDamaged when they have another one, what `pieces` raises, and StorageUnavailable; then there is
        no copy.
        """
        with self._new_copy(key) as partial, open(partial, "wb", opener=private.opener) as copy:
            require(digest, _write_each(copy, pieces), head_size)

    def link(self, key: str, link: Callable[[str, Path], None]) -> None:
        """Make a copy by `link(key, path)`, which creates a hard link. Raises StorageUnavailable."""
        with self._new_copy(key) as partial:
            link(key, partial)

    def delete(self, key: str) -> None:
        """Remove a copy. Raises StorageUnavailable."""
        with _WRITING, suppress(FileNotFoundError):
            (self._root / key).unlink()

    def keys(self) -> Iterator[str]:
        """Yield the keys of all copies, in no order."""
        for folder, folders, names in os.walk(self._root):
            if Path(folder) == self._root:
                folders[:] = [each for each in folders if each.isdecimal()]
            yield from (str(Path(folder, name).relative_to(self._root)) for name in names if Path(folder) != self._root)

    def sync(self) -> None:
        """Make all copies durable. Raises StorageUnavailable."""
        with _WRITING:
            if self._descriptor is not None and not sync_file_system(self._descriptor):
                self._sync_each()
            self._unsynced.clear()

    def close(self) -> None:
        """Close the folder. Closing twice does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def _new_copy(self, key: str) -> Iterator[Path]:
        """Yield a temporary path and rename it to the copy's after the body; remove it when the body raises."""
        target = self._root / key
        partial = self._root / INCOMING / target.name
        with _WRITING:
            for folder in (target.parent, partial.parent):
                private.make_folder(folder)
            if self._descriptor is None:
                self._descriptor = open_folder(self._root)
            try:
                partial.unlink(missing_ok=True)
                yield partial
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        self._unsynced.append(key)

    def _sync_each(self) -> None:
        folders = {self._root}
        for key in self._unsynced:
            path = self._root / key
            sync_file(path)
            folders |= {each for each in path.parents if each.is_relative_to(self._root)}
        for folder in folders:
            sync_folder(folder)


def _write_each(file: BinaryIO, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Write the pieces to a file and yield each."""
    for piece in pieces:
        file.write(piece)
        yield piece


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Create a folder if it does not exist, and lock it against other processes in the `with` block.

    Raises ConfigurationError while another process has it, StorageUnavailable.
    """
    with Writing(f"{folder} cannot be written"):
        private.make_folder(folder)
        locked = try_lock(folder)
    if locked is None:
        raise ConfigurationError(f"another process is writing to {folder}: wait until it has ended")
    try:
        yield
    finally:
        locked.release(remove=False)
