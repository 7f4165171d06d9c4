"""Frames are read, converted and written a few at a time, however many there are."""

import io
import tracemalloc
from concurrent.futures import Future
from contextlib import closing
from struct import pack

import pytest
from pydicom.encaps import encapsulate

from pacs.dicom.syntaxes import EXPLICIT_LITTLE
from pacs.errors import Cancelled, OutOfResources, UndecodablePixelData
from pacs.pixels import frames_in_flight, plan
from pacs.pixels import transfer_syntaxes as syntaxes
from pacs.pixels.conversion import Conversion
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.pool import DecoderPool
from tests.pixels.converting import InProcessPool, encoded
from tests.pixels.samples import sample

RLE = syntaxes.RLE_LOSSLESS


class PoolByHand(InProcessPool):
    """Converts a frame when it is waited for, so that a test sees what is in flight."""

    def __init__(self, processes: int) -> None:
        super().__init__(processes)
        self.waiting: dict[Future[bytes], FrameJob] = {}
        self.most = 0

    def submit(self, job: FrameJob) -> "Future[bytes]":
        """Queue a job."""
        future: Future[bytes] = Future()
        self.waiting[future] = job
        self.most = max(self.most, len(self.waiting))
        return future

    def wait(self, future: "Future[bytes]") -> None:
        """Do a job, if it has not been done."""
        if (job := self.waiting.pop(future, None)) is not None:
            future.set_result(super().submit(job).result())


def conversion_of(frames: int, pool: InProcessPool, **options) -> Conversion:
    """Begin the conversion of an instance with so many frames."""
    data = encoded(sample(RLE, frames=frames).compressed)
    return Conversion(io.BytesIO(data), RLE, EXPLICIT_LITTLE, pool, **options)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_one_frame_more_than_there_are_processes_is_in_flight(processes: int):
    """So that each process has the next one when it ends one."""
    pool = PoolByHand(processes)
    with closing(conversion_of(20, pool, wait=pool.wait)) as conversion:
        assert len(pool.waiting) == processes + 1
        assert len(b"".join(conversion)) > 20 * 48 * 64 * 2
    assert pool.most == processes + 1
    assert len(pool.jobs) == 20


def test_large_frames_are_in_flight_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """On a machine with many cores they would fill its memory, for each association."""
    monkeypatch.setattr(frames_in_flight, "MOST_BYTES", 1000)
    monkeypatch.setattr(plan, "MOST_BYTES", 1000)
    pool = PoolByHand(5)
    with closing(conversion_of(20, pool, wait=pool.wait)) as conversion:
        assert conversion.size_in_memory < 2 * 48 * 64 * 2
        assert len(b"".join(conversion)) > 20 * 48 * 64 * 2
    assert pool.most == 1


def test_size_in_memory_is_that_of_the_frames_in_flight():
    """Stored and converted; 0 when no pixel is converted."""
    stored = len(sample(RLE, frames=20).compressed.PixelData) / 20
    with closing(conversion_of(20, InProcessPool(2))) as conversion:
        assert conversion.size_in_memory == pytest.approx(3 * (stored + 48 * 64 * 2), rel=0.1)
    with closing(Conversion(io.BytesIO(b""), RLE, RLE, InProcessPool())) as conversion:
        assert conversion.size_in_memory == 0


def test_closing_cancels_what_has_not_begun():
    """Also before the first piece, and in the middle."""
    for pieces in (0, 1):
        pool = PoolByHand(2)
        conversion = conversion_of(200, pool, wait=pool.wait)
        iterator = iter(conversion)
        for _ in range(pieces):
            next(iterator)
        waiting = list(pool.waiting)
        conversion.close()
        assert waiting
        assert all(future.cancelled() for future in waiting)


def test_an_error_of_wait_ends_the_conversion():
    """Such as that the requestor has cancelled."""

    def cancel(_: "Future[bytes]") -> None:
        raise Cancelled("The requestor cancelled")

    with closing(conversion_of(3, PoolByHand(2), wait=cancel)) as conversion, pytest.raises(Cancelled):
        next(iter(conversion))


def test_a_damaged_first_frame_fails_before_the_first_piece():
    """So that nothing has been sent yet."""
    made = sample(syntaxes.JPEG_LS_LOSSLESS)
    made.compressed.PixelData = encapsulate([made.compressed.PixelData[20:120]])
    data = encoded(made.compressed)
    with (
        closing(
            Conversion(io.BytesIO(data), syntaxes.JPEG_LS_LOSSLESS, EXPLICIT_LITTLE, InProcessPool())
        ) as conversion,
        pytest.raises(UndecodablePixelData),
    ):
        next(iter(conversion))


def test_a_decoder_pool_that_is_closed_is_said():
    """The instance is not damaged."""
    pool = DecoderPool(1)
    pool.close()
    with pytest.raises(OutOfResources):
        conversion_of(3, pool)  # type: ignore[arg-type]


def test_decoder_processes_convert_the_same():
    """The pool of the server and the one of these tests."""
    with DecoderPool(2) as pool, closing(conversion_of(20, pool)) as conversion:  # type: ignore[arg-type]
        in_processes = b"".join(conversion)
    with closing(conversion_of(20, InProcessPool())) as conversion:
        assert b"".join(conversion) == in_processes


class Repeated(io.RawIOBase):
    """A data set with the same frame many times, which is in memory once."""

    def __init__(self, head: bytes, frame: bytes, count: int) -> None:
        self._head, self._frame, self._position = head, frame, 0
        self._size = len(head) + count * len(frame)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read from the position, no further than the end."""
        end = self._size if size < 0 else min(self._position + size, self._size)
        pieces = []
        while self._position < end:
            piece = self._piece(end)
            pieces.append(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def _piece(self, end: int) -> bytes:
        behind = self._position - len(self._head)
        if behind < 0:
            return self._head[self._position : end]
        at = behind % len(self._frame)
        return self._frame[at : at + end - self._position]


def test_memory_does_not_grow_with_the_number_of_frames():
    """Half a gigabyte of frames passes through a few megabytes; only their positions are kept."""
    frames = 1000
    made = sample(RLE, size=(512, 512), frames=1)
    made.compressed.NumberOfFrames = frames
    data = encoded(made.compressed)
    at = data.index(b"\xe0\x7f\x10\0OB") + 12
    table = 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    frame = data[at + table : -8]
    file = Repeated(data[:at] + pack("<HHL", 0xFFFE, 0xE000, 0), frame, frames)
    pool = PoolByHand(2)
    with closing(Conversion(file, RLE, EXPLICIT_LITTLE, pool, pool.wait)) as conversion:  # type: ignore[arg-type]
        pool.jobs = Nothing()
        tracemalloc.start()
        written = sum(map(len, conversion))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert written > frames * 512 * 512 * 2
    assert most < 12 << 20


class Nothing(list[FrameJob]):
    """A list that keeps nothing."""

    def append(self, _: FrameJob) -> None:
        """Drop it."""
