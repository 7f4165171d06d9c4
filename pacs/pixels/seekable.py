"""A data set that is read by position; a deflated one is inflated to a temporary file before."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import BinaryIO, TypeVar

from pacs.dicom.elements import CUT_OFF, Encoding, Inflated, Source, Token, encoding_of, walk
from pacs.dicom.syntaxes import CHUNK, DEFLATED_LITTLE, EXPLICIT_LITTLE
from pacs.errors import OutOfResources, UndecodableDataSet

Item = TypeVar("Item")

Wait = Callable[[Future[bytes]], object]
"""Returns when a future is done; may raise, for example Cancelled. It must be called before each `Future.result`."""

Spool = Callable[[Iterable[bytes]], AbstractContextManager[BinaryIO]]
"""Writes pieces to a temporary file, which it yields at its beginning; may raise, for example StorageUnavailable."""

STEPS = 4096
"""The elements and fragments that are passed between two calls of `wait`, so that a cancel is noticed soon."""

_NOTHING: Future[bytes] = Future()
_NOTHING.set_result(b"")


def wait_without_limit(future: Future[bytes]) -> None:
    """Wait until a future is done."""
    wait_for((future,))


@contextmanager
def temporary_file(pieces: Iterable[bytes]) -> Iterator[BinaryIO]:
    """Write pieces to a temporary file of the system. Raises OutOfResources."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError as error:
        raise _no_file(error) from error
    with file:
        try:
            file.writelines(pieces)
            file.seek(0)
        except OSError as error:
            raise _no_file(error) from error
        yield file


def _no_file(error: OSError) -> OutOfResources:
    return OutOfResources(f"No temporary file can be written: {error.strerror}")


class SeekableDataSet:
    """The data set from the position of `data` to its end. `wait` is also called between many elements."""

    def __init__(self, data: BinaryIO, transfer_syntax: str, wait: Wait, spool: Spool) -> None:
        self.data, self.transfer_syntax = data, transfer_syntax
        self.start = data.tell()
        self._wait, self._spool = wait, spool
        self._steps = 0
        self._inflated = ExitStack()

    @property
    def encoding(self) -> Encoding:
        """How its elements are encoded."""
        return encoding_of(self.transfer_syntax)

    def inflate(self) -> None:
        """Inflate it to a temporary file if it is deflated, because frames are read by their position."""
        if self.transfer_syntax == DEFLATED_LITTLE:
            pieces = self._stepping(iter(partial(Inflated(self.data).read, CHUNK), b""))
            self.data = self._inflated.enter_context(self._spool(pieces))
            self.start, self.transfer_syntax = 0, EXPLICIT_LITTLE

    def source(self) -> Source:
        """Return the source of a walk, at the beginning."""
        self.data.seek(self.start)
        return Source(self.data, self.encoding)

    def walk(self, source: Source, encoding: Encoding) -> Iterator[Token]:
        """Yield the tokens of the data set."""
        return self._stepping(walk(source, encoding))

    def _stepping(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items; call `wait` between many of them."""
        for each in items:
            self._step()
            yield each

    def _step(self) -> None:
        self._steps += 1
        if self._steps % STEPS == 0:
            self._wait(_NOTHING)

    def read(self, offset: int, length: int) -> bytes:
        """Read a part of the data set without moving its position. Raises UndecodableDataSet behind its end."""
        self._step()
        position = self.data.tell()
        self.data.seek(self.start + offset)
        data = self.data.read(length)
        self.data.seek(position)
        if len(data) < length:
            raise UndecodableDataSet(CUT_OFF)
        return data

    def close(self) -> None:
        """Remove the temporary file. Does not close `data`."""
        self._inflated.close()
