"""The frames of one image, each read and converted when it is asked for: as stored, native, or rendered."""

from collections import deque
from concurrent.futures import Future
from functools import cached_property
from typing import BinaryIO, NamedTuple

from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.syntaxes import EXPLICIT_LITTLE, is_native
from pacs.errors import InvalidArgument, NoPixelData
from pacs.pixels import capabilities
from pacs.pixels.display import Display
from pacs.pixels.display_elements import DisplayElements
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.frames_in_flight import NamedJob
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.pool import DecoderPool
from pacs.pixels.rendering import PNG, Window
from pacs.pixels.seekable import SeekableDataSet, Spool, Wait, temporary_file, wait_without_limit
from pacs.pixels.stored_frames import StoredFrames, check_pixels, stored_frames
from pacs.pixels.survey import survey
from pacs.pixels.tags import DOUBLE_FLOAT_PIXEL_DATA, FLOAT_PIXEL_DATA

_BOUNDS = DataSetBounds(elements=5_000_000)
"""The most elements of a data set whose frames are read, so that this takes a bounded time."""


class Look(NamedTuple):
    """How a frame is rendered."""

    window: Window | str | None = None
    """As in `Display.rendering`."""
    form: str = PNG
    """The form of the picture, one of `pacs.pixels.rendering`."""
    size: tuple[int, int] | None = None
    """The most columns and rows; a larger picture is reduced, in its proportions."""
    quality: int = 90
    """Of JPEG, from 1 to 100."""


DEFAULT_LOOK = Look()


class Frames:
    """The frames of the data set from the position of `data` to its end. Frames are counted from 1, as in DICOM.

    Raises NoPixelData for one without an image, NotSupported, UndecodableDataSet and UndecodablePixelData. Its methods
    raise these for a single frame, InvalidArgument for one that there is not, and what `wait` raises.
    """

    def __init__(
        self,
        data: BinaryIO,
        transfer_syntax: str,
        pool: DecoderPool,
        wait: Wait = wait_without_limit,
        *,
        spool: Spool = temporary_file,
    ) -> None:
        self._pool, self._wait = pool, wait
        self._input = SeekableDataSet(data, transfer_syntax, wait, spool)
        self._elements = DisplayElements(self._input.read)
        try:
            self._stored = self._survey()
        except BaseException:
            self._input.close()
            raise

    def _survey(self) -> StoredFrames:
        self._input.inflate()
        walk = self._elements.noting(lambda source, encoding: _BOUNDS.limited(self._input.walk(source, encoding)))
        *_, whole = deque(survey(self._input.source(), self._input.encoding, walk), maxlen=1)
        if not whole.pixels:
            is_float = FLOAT_PIXEL_DATA in whole or DOUBLE_FLOAT_PIXEL_DATA in whole
            raise NoPixelData("Float pixel data is not rendered" if is_float else "The instance has no pixel data")
        check_pixels(whole, self.transfer_syntax)
        return stored_frames(whole, whole.pixels[0], self.transfer_syntax, self._input.read)

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax of the stored frames."""
        return self._input.transfer_syntax

    @property
    def attributes(self) -> ImagePixel:
        """How the frames are encoded, by the attributes of the data set."""
        return self._stored.attributes

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.attributes.number_of_frames

    @cached_property
    def display(self) -> Display:
        """How the frames are to be displayed."""
        return Display(self._elements, self.attributes)

    def stored(self, frame: int) -> bytes:
        """Return a frame as it is stored: its codestream, or native words in little endian."""
        return self._stored.frames.read(self._index(frame))

    def native(self, frame: int) -> tuple[bytes, ImagePixel]:
        """Return a native frame in little endian, decoded if it is compressed, and its attributes."""
        if is_native(self.transfer_syntax):
            return self.stored(frame), self.attributes
        header = self._stored.header(self.transfer_syntax)
        result = capabilities.decoded(self.transfer_syntax, self.attributes, header)
        job = FrameJob(self.stored(frame), self.transfer_syntax, self.attributes, EXPLICIT_LITTLE, result)
        return self._result(frame, job), result

    def rendered(self, frame: int, look: Look = DEFAULT_LOOK) -> bytes:
        """Return a frame as a picture."""
        return self._result(frame, self._rendering_job(frame, look))

    def picture(self, look: Look = DEFAULT_LOOK) -> ImagePixel:
        """Return the attributes of the pictures of this look: rows, columns and samples of 8 bits."""
        stored = self.attributes
        columns, rows = _reduced(stored.columns, stored.rows, look.size)
        is_grey = stored.photometric_interpretation.startswith("MONOCHROME")
        colour, samples = ("MONOCHROME2", 1) if is_grey else ("RGB", 3)
        return ImagePixel(rows, columns, samples, colour, 0, 8, 8, 7, 0)

    def _rendering_job(self, frame: int, look: Look) -> FrameJob:
        index = self._index(frame)
        rendering = self.display.rendering(index, look.window, look.quality)
        source = EXPLICIT_LITTLE if is_native(self.transfer_syntax) else self.transfer_syntax
        data = self._stored.frames.read(index)
        return FrameJob(data, source, self.attributes, look.form, self.picture(look), rendering)

    def _result(self, frame: int, job: FrameJob) -> bytes:
        named = NamedJob(job, f"Frame {frame} of {len(self)}: " if len(self) > 1 else "")
        with named.named_in_errors():
            future: Future[bytes] = self._pool.submit(job)
            try:
                self._wait(future)
            except BaseException:
                future.cancel()
                raise
            return future.result()

    def _index(self, frame: int) -> int:
        if not 1 <= frame <= len(self):
            raise InvalidArgument(f"there is no frame {frame}: the image has {len(self)}")
        return frame - 1

    def close(self) -> None:
        """Remove the temporary file of an inflated data set. Does not close `data`."""
        self._input.close()


def _reduced(columns: int, rows: int, most: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size of a picture that fits into the given one."""
    factor = min(1.0, most[0] / columns, most[1] / rows) if most else 1.0
    return max(1, round(columns * factor)), max(1, round(rows * factor))
