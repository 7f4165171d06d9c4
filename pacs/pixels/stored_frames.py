"""Finds the frames of Pixel Data as they are stored, and checks their number against the attributes."""

from collections.abc import Callable
from dataclasses import dataclass

from pacs.dicom.syntaxes import is_native
from pacs.errors import UndecodableDataSet, UndecodablePixelData
from pacs.pixels.attributes import read_image_pixel
from pacs.pixels.encapsulation import EncapsulatedFrames
from pacs.pixels.frame_header import FrameHeader, read_frame_header
from pacs.pixels.image_pixel import ImagePixel
from pacs.pixels.native_frames import NativeFrames, words
from pacs.pixels.survey import PixelElement, SurveyedDataSet
from pacs.pixels.tags import PIXEL_DATA

_HEAD = 1 << 20
"""The bytes of a frame in which its header is looked for: profiles and comments before it may be long."""

Read = Callable[[int, int], bytes]
"""Reads bytes of a data set by offset and length."""


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """The frames of one Pixel Data, in the transfer syntax of its data set, and its attributes."""

    frames: EncapsulatedFrames | NativeFrames
    attributes: ImagePixel
    surplus: int
    """The frames behind those that the attributes declare."""

    def header(self, transfer_syntax: str) -> FrameHeader:
        """Return the header of the first frame, a compressed one. Raises UndecodablePixelData and NotSupported."""
        return read_frame_header(transfer_syntax, self.frames.read(0, _HEAD))  # type: ignore[call-arg]


def stored_frames(data_set: SurveyedDataSet, pixels: PixelElement, transfer_syntax: str, read: Read) -> StoredFrames:
    """Return the frames of a Pixel Data. Raises UndecodablePixelData."""
    attributes = read_image_pixel(data_set)
    if pixels.fragments is None:
        return _native(pixels, attributes, transfer_syntax, read)
    wanted = attributes.number_of_frames
    frames = pixels.fragments.frames(wanted, transfer_syntax, read, data_set.extended_offset_table)
    return StoredFrames(frames, attributes, len(frames) - wanted)


def _native(pixels: PixelElement, attributes: ImagePixel, transfer_syntax: str, read: Read) -> StoredFrames:
    """Return the frames of native Pixel Data. In a compressed transfer syntax its length must be exact."""
    expected = native_length(attributes)
    found = pixels.length * 8 // attributes.frame_bits
    if found and found < attributes.number_of_frames:
        raise UndecodablePixelData(f"Pixel Data has {found} of {attributes.number_of_frames} frames", [PIXEL_DATA])
    if pixels.length < expected or (pixels.length > expected + 1 and not is_native(transfer_syntax)):
        comment = f"Pixel Data has {pixels.length} bytes, but its attributes say {expected}"
        raise UndecodablePixelData(comment, [PIXEL_DATA])

    def read_value(offset: int, length: int) -> bytes:
        return read(pixels.offset + offset, length)

    is_swapped = pixels.vr == "OW" and not pixels.little
    reader = words(read_value) if is_swapped else read_value
    surplus = found - attributes.number_of_frames if pixels.length > expected + 1 else 0  # one byte more is padding
    return StoredFrames(NativeFrames(attributes.number_of_frames, attributes.frame_bits, reader), attributes, surplus)


def native_length(image: ImagePixel) -> int:
    """Return the bytes of native Pixel Data, without padding."""
    return (image.number_of_frames * image.frame_bits + 7) // 8


def check_pixels(data_set: SurveyedDataSet, transfer_syntax: str) -> None:
    """Raise UndecodablePixelData and UndecodableDataSet for Pixel Data that contradicts the transfer syntax."""
    if len(data_set.pixels) > 1:
        raise UndecodablePixelData("Pixel Data (7FE0,0010) occurs twice in a data set", [PIXEL_DATA])
    in_fragments = [pixels for pixels in data_set.pixels if pixels.fragments is not None]
    if is_native(transfer_syntax) and (in_fragments or data_set.other_fragments):
        raise UndecodableDataSet("Pixel data is in fragments, but its transfer syntax is native", [PIXEL_DATA])
