"""The SHA-256 of an object: the digest of the received data set, without the head before it."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256

from pacs.errors import InstanceDamaged
from pacs.files.disk import Buffer

BESIDE = 1 << 16
"""Fewer bytes are not worth another thread."""

_MOST = 2


class _Threads:
    """The threads that compute digests in this process."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)  # threads do not survive a fork

    def renew(self) -> None:
        """Begin without threads; they are started when they are needed."""
        self._pool = ThreadPoolExecutor(_MOST, thread_name_prefix="pacs-digest")

    def begin(self, update: Callable[[Buffer], None], data: Buffer) -> Future[None] | None:
        """Call `update` in a thread; return None when the system allows no more threads."""
        try:
            return self._pool.submit(update, data)
        except RuntimeError:
            return None


_THREADS = _Threads()


class RunningDigest:
    """The SHA-256 of bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._hash = sha256()

    def update(self, data: Buffer) -> None:
        """Add the next bytes."""
        self._hash.update(data)

    @contextmanager
    def updating(self, data: Buffer) -> Iterator[None]:
        """Add the next bytes during the `with` block, in another thread if they are many; they must not change.

        It takes as long as to write the same bytes to a file, and both release the interpreter lock.
        """
        task = _THREADS.begin(self._hash.update, data) if memoryview(data).nbytes >= BESIDE else None
        if task is None:
            self._hash.update(data)
        try:
            yield
        finally:
            if task is not None:
                task.result()

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        return self._hash.digest()

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far in hexadecimal."""
        return self._hash.hexdigest()


def require(digest: str, pieces: Iterable[bytes], head_size: int = 0) -> None:
    """Raise InstanceDamaged unless `pieces`, without their first `head_size` bytes, have this SHA-256 in hexadecimal.

    Raises what `pieces` raises.
    """
    found, seen = sha256(), 0
    for piece in pieces:
        found.update(memoryview(piece)[max(0, head_size - seen) :])
        seen += len(piece)
    if found.hexdigest() != digest:
        raise InstanceDamaged("The stored file does not contain what was received")
