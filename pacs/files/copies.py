"""A folder of copies: the objects of a file store under the same keys, made durable all at once.

A folder of copies is laid out as a `LocalFiles` is, so that one can be made of the other: a backup from the archive,
and an archive from the backup. Copies are whole or not there; they are durable once `sync` has returned.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pacs.errors import ConfigurationError, InstanceMissing, InstanceUnreadable, StorageUnavailable
from pacs.files.digest import require
from pacs.files.disk import open_folder, sync_file_system, sync_folder
from pacs.files.local import INCOMING, PIECE
from pacs.files.process_lock import take


class Copies:
    """The copies in the folder `root`, made when the first comes. For one thread; `close()` it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptor: int | None = None
        """Of the root since the first copy came: a sync by it tells what failed since."""
        self._unsynced: list[str] = []

    def has(self, key: str, size: int) -> bool:
        """Whether there is a copy of so many bytes."""
        try:
            return (self._root / key).stat().st_size == size
        except OSError:
            return False

    def pieces(self, key: str, size: int, start: int = 0) -> Iterator[bytes]:
        """A copy from `start` on, piece by piece. Raises InstanceUnreadable when it is not whole."""
        try:
            with (self._root / key).open("rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    raise InstanceUnreadable("The file has not the length it had")
                file.seek(start)
                while piece := file.read(PIECE):
                    yield piece
        except FileNotFoundError as error:
            raise InstanceMissing("The file is missing") from error
        except OSError as error:
            raise InstanceUnreadable(f"The file cannot be read ({error.strerror})") from error

    def put(self, key: str, pieces: Iterable[bytes], head_size: int, digest: str) -> None:
        """Copy an object whose bytes behind the head have that SHA-256, in hexadecimal.

        Raises InstanceDamaged when they have not, and what `pieces` raises: nothing is copied then. StorageUnavailable.
        """
        with self._arriving(key) as partial, partial.open("wb") as copy:
            require(digest, _written(copy, pieces), head_size)

    def link(self, key: str, source: Path) -> None:
        """Have the file `source` itself as the copy, which costs no room. Raises StorageUnavailable."""
        with self._arriving(key) as partial:
            try:
                os.link(source, partial)
            except OSError as error:
                if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    why = f"files cannot be linked there ({error.strerror}): leave out --link"
                    raise StorageUnavailable(why) from error
                raise

    def delete(self, key: str) -> None:
        """Remove a copy. Raises StorageUnavailable."""
        with _writing(), suppress(FileNotFoundError):
            (self._root / key).unlink()

    def keys(self) -> Iterator[str]:
        """The keys of all copies, in no order."""
        for folder, folders, names in os.walk(self._root):
            if Path(folder) == self._root:
                folders[:] = [each for each in folders if each.isdecimal()]
            yield from (str(Path(folder, name).relative_to(self._root)) for name in names if Path(folder) != self._root)

    def sync(self) -> None:
        """Make durable what was copied. Raises StorageUnavailable."""
        with _writing():
            if self._descriptor is not None and not sync_file_system(self._descriptor):
                self._sync_each()
            self._unsynced.clear()

    def close(self) -> None:
        """Let go of the folder. Twice does no harm."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def _arriving(self, key: str) -> Iterator[Path]:
        """The path for a copy on its way, which has its place when the body ends; nothing is left where that raises."""
        target = self._root / key
        partial = self._root / INCOMING / target.name
        with _writing():
            for folder in (target.parent, partial.parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
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
            with path.open("rb") as file:
                os.fsync(file.fileno())
            folders |= {each for each in path.parents if each.is_relative_to(self._root)}
        for folder in folders:
            sync_folder(folder)


def _written(file: BinaryIO, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        file.write(piece)
        yield piece


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep others who ask for the same out of a folder, which is made if need be.

    Raises ConfigurationError when somebody is in it, StorageUnavailable.
    """
    with _writing():
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        held = take(folder)
    if held is None:
        raise ConfigurationError(f"somebody else is at work in {folder}: expected that to end first")
    try:
        yield
    finally:
        held.release(remove=False)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"The copy cannot be written ({error.strerror})") from error
