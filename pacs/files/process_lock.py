"""A folder that is locked for as long as the process that made it lives: whoever finds one unlocked knows it died."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pacs.files.disk import open_folder, sync_folder


@dataclass(frozen=True, slots=True)
class HeldFolder:
    """A folder with a name of its own, held by its descriptor."""

    path: Path
    descriptor: int

    @classmethod
    def make(cls, parent: Path) -> Self:
        """A new one in `parent`, which is made if need be; its name survives a power cut. Raises OSError."""
        parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        path = parent / uuid.uuid4().hex
        hidden = path.with_name(f".{path.name}")  # until it is locked nobody may take it for one that was left
        hidden.mkdir(mode=0o750)
        held = cls(path, open_folder(hidden))
        fcntl.flock(held.descriptor, fcntl.LOCK_EX)
        hidden.rename(path)
        for folder in (parent, parent.parent):
            sync_folder(folder)
        return held

    def release(self, *, remove: bool) -> None:
        """Let go of it, and remove it, emptied, if that is wanted. Raises OSError."""
        try:
            if remove:
                self.path.rmdir()
        finally:
            os.close(self.descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder, and keep others out. Raises OSError."""
    descriptor = open_folder(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def held_folders(parent: Path) -> list[Path]:
    """The folders in `parent`, whoever holds them or held them; none when there is no such parent."""
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]


def take(path: Path) -> HeldFolder | None:
    """The folder, held by us from now on; None while the process that made it lives, or when it is gone."""
    try:
        descriptor = open_folder(path)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return HeldFolder(path, descriptor)


def is_held(path: Path) -> bool:
    """Whether the process that made a folder still lives."""
    taken = take(path)
    if taken is not None:
        taken.release(remove=False)
    return taken is None and path.exists()
