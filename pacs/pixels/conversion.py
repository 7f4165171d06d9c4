"""Convert a data set from one transfer syntax into another, pixel data included."""

import os
from collections.abc import Iterator
from typing import BinaryIO

from pacs.dicom.elements import UNDEFINED, Encoding, encoding_of
from pacs.dicom.syntaxes import (
    CHUNK,
    DEFLATED_LITTLE,
    TokenWriter,
    convert,
    deflated,
    element_head,
    even,
    is_native,
    is_signed,
    joined,
    swapped,
)
from pacs.errors import UndecodablePixelData
from pacs.pixels import native_frames
from pacs.pixels.encapsulation import encapsulated
from pacs.pixels.frames_in_flight import FramesInFlight
from pacs.pixels.plan import Image, Plan
from pacs.pixels.pool import DecoderPool
from pacs.pixels.seekable import SeekableDataSet, Spool, Wait, temporary_file, wait_without_limit
from pacs.pixels.survey import survey
from pacs.pixels.tags import PIXEL_DATA


class Conversion:
    """A conversion that has begun: iterate it once for the pieces of the converted data set, and close it.

    Creating it reads everything but the pixel data and submits the first frames, so that several conversions can be
    begun ahead. Raises NotSupported when the instance cannot be converted into `target`, UndecodableDataSet, and
    UndecodablePixelData; iterating it raises these too, and what `wait` raises. Its first piece comes when the first
    frame is converted, so that most failures come before it. `wait` is also called with a future that is done, between
    many elements. `spool` keeps a deflated data set inflated.
    """

    def __init__(
        self,
        data: BinaryIO,
        source: str,
        target: str,
        pool: DecoderPool,
        wait: Wait = wait_without_limit,
        *,
        spool: Spool = temporary_file,
    ) -> None:
        self._source, self._target = source, target
        self._input = SeekableDataSet(data, source, wait, spool)
        self._at_most = pool.processes + 1
        self._plan = Plan(source, target, self._input.read)
        try:
            if not self._is_without_pixels:
                self._survey()
            self._frames = FramesInFlight(self._plan.jobs(), pool, wait)
        except BaseException:
            self._input.close()
            raise

    @property
    def _is_without_pixels(self) -> bool:
        """Whether the pixel data stays as it is, so that only the data set is encoded again."""
        return self._source == self._target or (is_native(self._source) and is_native(self._target))

    def _survey(self) -> None:
        self._input.inflate()
        for data_set in survey(self._input.source(), self._input.encoding, self._input.walk):
            self._plan.add(data_set)
            self._whole = data_set

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each removal or change beyond the encoding, such as of signatures over pixel data."""
        return tuple(self._plan.notices)

    @property
    def size_in_memory(self) -> int:
        """The bytes of all frames that are in memory at most, or will be once they are decoded."""
        return max((image.size_in_memory(self._at_most) for image in self._plan.images.values()), default=0)

    def __iter__(self) -> Iterator[bytes]:
        if self._is_without_pixels:
            self._input.data.seek(self._input.start)
            return convert(self._input.data, self._source, self._target)
        pieces = joined(self._pieces())
        return even(deflated(pieces) if self._target == DEFLATED_LITTLE else pieces, self._target)

    def _pieces(self) -> Iterator[bytes]:
        self._frames.first()
        encoding, target = self._input.encoding, encoding_of(self._target)
        if self._can_copy(target):
            yield from self._copied(target)
            return
        source = self._input.source()
        signed = is_signed(self._input.data, encoding)
        writer, skipping = TokenWriter(source, target, signed), self._plan.edits.skipping()
        index = -1
        for index, token in enumerate(self._input.walk(source, encoding)):
            image = self._plan.images.get(index)
            if skipping.is_within:
                self._drop(image)
            else:
                yield self._plan.edits.inserted_before(index, target)
                yield from self._pixel_data(image, target) if image is not None else ()
            if not skipping.skips(index, token):
                yield from writer.encoded(token)
        yield self._plan.edits.inserted_before(index + 1, target)

    def _can_copy(self, target: Encoding) -> bool:
        """Return whether all is in the target encoding already, except for elements outside of sequences."""
        whole = self._whole
        is_regular = whole.is_regular and target.little and not target.implicit
        return is_regular and all(each in whole.starts or each == whole.end for each in self._plan.edits.places)

    def _copied(self, target: Encoding) -> Iterator[bytes]:
        """Yield all as it is, except for the elements that change: a second walk would take much longer."""
        edits, whole, position = self._plan.edits, self._whole, 0
        size = self._input.data.seek(0, os.SEEK_END) - self._input.start
        for index in edits.places:
            start = whole.starts.get(index, size)
            yield from self._span(position, start)
            yield edits.inserted_before(index, target)
            if index in self._plan.images:
                yield from self._pixel_data(self._plan.images[index], target)
            position = whole.ends.get(index, size) if edits.is_removed(index) else start
        yield from self._span(position, size)

    def _span(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of the data set."""
        for position in range(start, end, CHUNK):
            yield self._input.read(position, min(CHUNK, end - position))

    def _pixel_data(self, image: Image, target: Encoding) -> Iterator[bytes]:
        frames = (self._frame(image) for _ in range(len(image)))
        if not is_native(image.target):
            yield element_head(PIXEL_DATA, "OB", UNDEFINED, target)
            yield from encapsulated(frames, len(image) == 1)
            return
        vr = "OW" if image.result.bits_allocated > 8 else "OB"
        padding = image.length % 2
        yield element_head(PIXEL_DATA, vr, image.length + padding, target)
        is_swapped = vr == "OW" and not target.little
        for piece in native_frames.joined(frames, image.result.frame_bits):
            yield swapped(piece, 2) if is_swapped else piece
        yield bytes(padding)

    def _drop(self, image: Image | None) -> None:
        """Drop the frames of an image whose sequence is removed."""
        for _ in range(len(image) if image is not None else 0):
            self._frames.take()

    def _frame(self, image: Image) -> bytes:
        frame = self._frames.take()
        if is_native(image.target) and len(frame) != image.result.frame_size:
            comment = f"A decoded frame has {len(frame)} bytes instead of {image.result.frame_size}"
            raise UndecodablePixelData(comment, [PIXEL_DATA])
        return frame

    def close(self) -> None:
        """Cancel what has not begun. Does not close `data`."""
        self._frames.cancel()
        self._input.close()
