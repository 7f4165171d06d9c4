"""Stored files whose reads fail in the middle, as on a disk with bad sectors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from pacs.files.local import LocalFiles


def damage_after_buffer(file: BinaryIO) -> None:
    """Make every later read of an open file fail, except for the bytes that are in its buffer already."""
    file.peek(1)  # type: ignore[attr-defined]
    write_only = os.open("/tmp", os.O_TMPFILE | os.O_WRONLY)
    os.truncate(write_only, os.fstat(file.fileno()).st_size)
    os.lseek(write_only, os.lseek(file.fileno(), 0, os.SEEK_CUR), os.SEEK_SET)
    os.dup2(write_only, file.fileno())
    os.close(write_only)


@contextmanager
def bad_sectors(files: LocalFiles) -> Iterator[None]:
    """Make reads of all files that `files` opens meanwhile fail behind the first buffer."""
    real = files.open

    def damaged(key: str) -> BinaryIO:
        file = real(key)
        damage_after_buffer(file)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", damaged)
        yield
