"""The unit of work of a decoder process: one frame."""

import json
from dataclasses import dataclass, fields
from typing import Self

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.pixels.image_pixel import BITS_ALLOCATED, ImagePixel
from pacs.pixels.rendering import Rendering

MOST_FRAME = 256 * 2**20
"""The largest frame that is converted, native or compressed, in bytes."""

_NAMES = tuple(each.name for each in fields(ImagePixel))


@dataclass(frozen=True, slots=True)
class FrameJob:
    """Convert one frame from one transfer syntax into another, or render it.

    A native frame is in little endian, and one of `bits_allocated` 1 is padded to whole bytes. A compressed frame is
    one codestream, its fragments joined.
    """

    data: bytes
    source: str
    """The transfer syntax of `data`; for a native frame Explicit VR Little Endian."""
    stored: ImagePixel
    """The attributes that the instance has."""
    target: str
    """The transfer syntax of the result; for a native frame Explicit VR Little Endian, for a rendered one its form."""
    result: ImagePixel
    """The attributes of the result."""
    rendering: Rendering | None = None
    """How the frame is rendered, if it is."""

    def check(self) -> None:
        """Raise NotSupported for a frame that is too large, and UndecodablePixelData for one that cannot exist."""
        size = max(self.stored.frame_size, self.result.frame_size, len(self.data))
        if size > MOST_FRAME:
            raise NotSupported(f"A frame of {size >> 20} MiB is too large to convert (at most {MOST_FRAME >> 20} MiB)")
        if not self.data:
            raise UndecodablePixelData("A frame is empty")
        for each in (self.stored, self.result):
            if min(each.rows, each.columns, each.samples_per_pixel) < 1 or each.bits_allocated not in BITS_ALLOCATED:
                raise UndecodablePixelData(
                    f"A frame cannot have {each.rows} rows, {each.columns} columns, "
                    f"{each.samples_per_pixel} samples of {each.bits_allocated} bits"
                )

    @property
    def head(self) -> bytes:
        """Everything but `data`, encoded for `from_head`."""
        stored, result = ([getattr(each, name) for name in _NAMES] for each in (self.stored, self.result))
        rendering = self.rendering and self.rendering.encoded()
        return json.dumps([self.source, stored, self.target, result, rendering]).encode()

    @classmethod
    def from_head(cls, head: bytes, data: bytes) -> Self:
        """Return the job of an encoded `head` and its data."""
        source, stored, target, result, rendering = json.loads(head)
        rendered = rendering and Rendering.decoded(rendering)
        return cls(data, source, ImagePixel(*stored), target, ImagePixel(*result), rendered)
