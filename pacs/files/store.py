"""The file store: bytes streamed in, committed, read out in ranges, deleted. No paths and no renames above this line.

A key is made by the store, never from what a peer sent: the hour of arrival and a UUIDv7, such as
`2026/11/21/03/01990f3c-….dcm`. Keys in byte order are in order of arrival.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import BinaryIO, Protocol, Self


class Incoming(Protocol):
    """One object on its way in. Leaving the `with` block without `commit()` discards it without a trace."""

    @property
    def key(self) -> str:
        """The key the object will have."""

    @property
    def size(self) -> int:
        """How many bytes were written behind the head."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what was written behind the head, in hexadecimal."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes behind the head. Raises StorageUnavailable when they cannot be taken."""

    def body(self) -> BinaryIO:
        """A reader of what was written so far, without the head, for looking at it before it is committed."""

    def commit(self, head: bytes) -> None:
        """Put `head` (exactly as long as was announced) before the rest and make the whole durable.

        When this returns, the object survives a power cut and is visible under its key. Raises StorageUnavailable.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class FileStore(Protocol):
    """Where the instances' bytes are."""

    def start(self) -> int:
        """Clear what an unclean stop left half-written, and be ready to take in many objects; how many were cleared.

        To be called by what serves, before anything relies on what is stored; `close` ends it. Raises
        StorageUnavailable.
        """

    def join(self) -> None:
        """As `start`, beside a process that started already: nothing is cleared. Raises StorageUnavailable."""

    def close(self) -> None:
        """Have done with what was begun by `start`: everything is where it belongs. Twice does no harm."""

    def create(self, head_size: int, arrived: datetime) -> Incoming:
        """Begin an object whose first `head_size` bytes come at commit. Raises StorageUnavailable."""

    def open(self, key: str) -> BinaryIO:
        """Open a stored object as a seekable file.

        This and reading from it raise InstanceUnreadable when the object is missing or cannot be read, never OSError.
        """

    def pieces(self, key: str, size: int, start: int) -> Iterator[bytes]:
        """An object of `size` bytes from `start` on, piece by piece as they are asked for; the first opens it.

        Raises InstanceUnreadable when it is not there, is not so long, or cannot be read.
        """

    def size(self, key: str) -> int:
        """The object's length in bytes. Raises InstanceUnreadable."""

    def secure(self, keys: Collection[str]) -> None:
        """Have it that these objects survive a power cut, whoever wrote them. Raises StorageUnavailable.

        What was committed here does already: this is for what came into the store by other means, and for promises.
        """

    def delete(self, key: str) -> None:
        """Remove an object durably; one that is not there is no error. Raises StorageUnavailable."""

    def probe(self) -> None:
        """Write something durably, and remove it. Raises StorageUnavailable when it cannot be taken."""

    def space(self) -> tuple[int, int]:
        """How many bytes are free where the objects are, and how many there are in all. Raises StorageUnavailable."""

    def keys(self, since: datetime | None = None) -> Iterator[str]:
        """The keys of all committed objects, oldest first; with `since`, from that hour on."""

    # --- looking after it -----------------------------------------------------------------------------------------

    def alone(self, who: str) -> AbstractContextManager[None]:
        """Keep others who ask for the same away in the `with` block, in this process and in others.

        Raises ConfigurationError with the `who` of the one that is there, StorageUnavailable.
        """

    def leftovers(self) -> list[str]:
        """The names of what was left half-written by processes that died. Raises StorageUnavailable."""

    def clear(self, names: Collection[str]) -> int:
        """Remove those of these leftovers that still are some; how many. Raises StorageUnavailable."""

    def journals(self) -> int:
        """How many processes died and left objects that have to be brought to their place by `replay`."""

    def replay(self) -> None:
        """Bring to its place what processes that died left to be. Raises StorageUnavailable."""

    def strays(self) -> Iterator[str]:
        """The names of files that lie among the objects and cannot be any. Raises StorageUnavailable."""

    def set_aside(self, name: str) -> str:
        """Move an object or a stray to where nobody touches it, durably; its name there.

        Raises InstanceMissing when it is not there, StorageUnavailable.
        """
