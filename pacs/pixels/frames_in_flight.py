"""Keeps a few frames of one conversion in a pool of decoders at a time, and takes them in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.pool import DecoderPool

MOST_BYTES = 256 << 20
"""Bytes of frames in memory, stored and converted, at which no further frame is submitted."""


class NamedJob(NamedTuple):
    """A job, and the name of its frame in error messages: '' when there is only one."""

    job: FrameJob
    name: str

    @property
    def size_in_memory(self) -> int:
        """The bytes of the frame, stored and converted."""
        return len(self.job.data) + self.job.result.frame_size

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Say in errors which frame it is."""
        try:
            yield
        except (UndecodablePixelData, NotSupported) as error:
            raise type(error)(self.name + error.comment, error.tags) from error


class FramesInFlight:
    """Submits the next jobs while the results of earlier ones are taken.

    In flight are at most one more than there are processes, and fewer when they have `MOST_BYTES`.
    """

    def __init__(self, jobs: Iterator[NamedJob], pool: DecoderPool, wait: Callable[["Future[bytes]"], object]) -> None:
        self._jobs = jobs
        self._pool = pool
        self._wait = wait
        self._waiting: deque[tuple[Future[bytes], NamedJob]] = deque()
        self._waited_for: Future[bytes] | None = None
        try:
            self._fill()
        except BaseException:
            self.cancel()
            raise

    def _fill(self) -> None:
        while self._has_room and (named := next(self._jobs, None)) is not None:
            with named.named_in_errors():
                self._waiting.append((self._pool.submit(named.job), named))

    @property
    def _has_room(self) -> bool:
        in_memory = sum(work.size_in_memory for _, work in self._waiting)
        return len(self._waiting) <= self._pool.processes and in_memory < MOST_BYTES

    def first(self) -> bytes:
        """Wait for the next frame without taking it; b'' if there is none."""
        return self._result(*self._waiting[0]) if self._waiting else b""

    def take(self) -> bytes:
        """Return the next frame. Raises as `DecoderPool.submit`, with the number of the frame."""
        frame = self._result(*self._waiting[0])
        self._waiting.popleft()
        self._fill()
        return frame

    def _result(self, future: "Future[bytes]", named: NamedJob) -> bytes:
        if future is not self._waited_for:
            self._wait(future)
            self._waited_for = future
        with named.named_in_errors():
            return future.result()

    def cancel(self) -> None:
        """Cancel what has not begun."""
        self._jobs = iter(())
        while self._waiting:
            self._waiting.popleft()[0].cancel()
