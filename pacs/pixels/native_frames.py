"""The frames of native pixel data: reading each, and joining frames of one bit a pixel."""

from collections.abc import Callable, Iterable, Iterator

from pacs.dicom.syntaxes import swapped


class NativeFrames:
    """The frames of a native Pixel Data, read by `read(offset, length)` in its value."""

    def __init__(self, count: int, frame_bits: int, read: Callable[[int, int], bytes]) -> None:
        self._count = count
        self._bits = frame_bits
        self._read = read

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._count

    def size(self, frame: int) -> int:
        """Return the bytes of a frame."""
        return (self._bits + 7) // 8

    def read(self, frame: int) -> bytes:
        """Read a frame; one of one bit a pixel is padded to whole bytes."""
        first, last = frame * self._bits, (frame + 1) * self._bits
        data = self._read(first // 8, (last + 7) // 8 - first // 8)
        if not (first % 8 or last % 8):
            return data
        bits = int.from_bytes(data, "little") >> first % 8
        return (bits & (1 << self._bits) - 1).to_bytes(self.size(frame), "little")


def words(read: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    """Return a function that reads 16 bit words in big endian as little endian (PS3.5 7.3)."""

    def read_words(offset: int, length: int) -> bytes:
        skipped = offset % 2
        data = swapped(read(offset - skipped, length + skipped + (length + skipped) % 2), 2)
        return data[skipped : skipped + length]

    return read_words


def joined(frames: Iterable[bytes], frame_bits: int) -> Iterator[bytes]:
    """Yield native frames one after the other, without the padding between frames of one bit a pixel (PS3.5 8.1.1)."""
    if not frame_bits % 8:
        yield from frames
        return
    bits, width = 0, 0
    for frame in frames:
        bits |= (int.from_bytes(frame, "little") & (1 << frame_bits) - 1) << width
        width += frame_bits
        yield (bits & (1 << width // 8 * 8) - 1).to_bytes(width // 8, "little")
        bits >>= width // 8 * 8
        width %= 8
    if width:
        yield bytes((bits,))
