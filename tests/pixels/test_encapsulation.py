"""Frames among the fragments of encapsulated Pixel Data: by offset tables, by number, by first and last bytes."""

import io
from struct import pack

import pytest

from pacs.dicom.elements import Source, encoding_of
from pacs.errors import UndecodablePixelData
from pacs.pixels.encapsulation import encapsulated
from pacs.pixels.survey import survey

JPEG, JPEG_2000, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
JPEG_XL, DEFLATED_FRAME = "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.8.1"

SOI, EOI = b"\xff\xd8\xff\xc3", b"\xff\xd9"
A, B, C = (SOI + letter * 6 + EOI for letter in (b"A", b"B", b"C"))
BODY = b"a fragment in the middle"


def item(value: bytes) -> bytes:
    """An item with this value, as it is."""
    return pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def pixel_data(fragments: list[bytes], table: bytes = b"", end: bytes = pack("<HHL", 0xFFFE, 0xE0DD, 0)) -> bytes:
    """Encapsulated Pixel Data."""
    head = pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return head + item(table) + b"".join(map(item, fragments)) + end


def frames_of(data: bytes, wanted: int, syntax: str = JPEG) -> list[bytes]:
    """Return the frames that are found in a data set."""
    file = io.BytesIO(data)
    *_, level = survey(Source(file, encoding_of(syntax)), encoding_of(syntax))
    fragments = level.pixels[0].fragments
    assert fragments is not None

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    frames = fragments.frames(wanted, syntax, read, level.extended_offset_table)
    found = [frames.read(number) for number in range(len(frames))]
    assert [len(frame) for frame in found] == [frames.size(number) for number in range(len(frames))]
    return found


def offsets(*values: int) -> bytes:
    """A Basic Offset Table."""
    return pack(f"<{len(values)}L", *values)


def extended(fragments: list[bytes], *values: int) -> bytes:
    """Pixel Data after an Extended Offset Table."""
    table = pack("<HH2sHL", 0x7FE0, 0x0001, b"OV", 0, len(values) * 8) + pack(f"<{len(values)}Q", *values)
    return table + pixel_data(fragments)


STEP = 8 + len(A)
"""From the item of A to the next one."""

CASES = {
    "one frame, one fragment": (pixel_data([A]), 1, JPEG, [A]),
    "one frame, several fragments": (pixel_data([A[:4], A[4:10], A[10:]]), 1, JPEG, [A]),
    "one frame of an unknown form": (pixel_data([BODY, BODY]), 1, JPEG, [BODY + BODY]),
    "one fragment a frame, empty table": (pixel_data([A, B, C]), 3, JPEG, [A, B, C]),
    "one fragment a frame, with table": (pixel_data([A, B], offsets(0, STEP)), 2, JPEG, [A, B]),
    "several fragments a frame, with table": (
        pixel_data([BODY, A, BODY], offsets(0, 8 + len(BODY))), 2, JPEG, [BODY, A + BODY],
    ),
    "several fragments a frame, empty table": (pixel_data([A[:6], A[6:], B[:8], B[8:]]), 2, JPEG, [A, B]),
    "a table with one entry for several frames": (pixel_data([A, B], offsets(0)), 2, JPEG, [A, B]),
    "a table that counts from itself": (pixel_data([A, B], offsets(12, 12 + STEP)), 2, JPEG, [A, B]),
    "a table of zeros": (pixel_data([A, B], offsets(0, 0)), 2, JPEG, [A, B]),
    "a table that does not ascend": (pixel_data([A, B, C], offsets(0, 2 * STEP, STEP)), 3, JPEG, [A, B, C]),
    "a table of odd length": (pixel_data([A, B], b"\0\0\0\0\0\0"), 2, JPEG, [A, B]),
    "a table longer than there are fragments": (pixel_data([A, B], offsets(0, STEP, 2 * STEP)), 2, JPEG, [A, B]),
    "a damaged table, several fragments a frame": (
        pixel_data([A[:6], A[6:], B[:8], B[8:]], offsets(0, 7)), 2, JPEG, [A, B],
    ),
    "an extended offset table": (extended([BODY, A, BODY], 0, 8 + len(BODY)), 2, JPEG, [BODY, A + BODY]),
    "a damaged extended offset table": (extended([A, B], 0, 1 << 60), 2, JPEG, [A, B]),
    "a fragment of zero length": (pixel_data([A, b"", B]), 2, JPEG, [A, B]),
    "a fragment of zero length first": (pixel_data([b"", A, B]), 2, JPEG, [A, B]),
    "a fragment of odd length": (pixel_data([A[:5], A[5:]]), 1, JPEG, [A]),
    "padding after the end of a frame": (
        pixel_data([BODY, EOI + bytes(3), BODY, EOI]), 2, JPEG, [BODY + EOI + bytes(3), BODY + EOI],
    ),
    "no sequence delimiter": (pixel_data([A, B], end=b""), 2, JPEG, [A, B]),
    "frames known by their end alone": (pixel_data([BODY, EOI, BODY, EOI]), 2, JPEG, [BODY + EOI] * 2),
    "more frames than wanted": (pixel_data([A, B, C]), 1, JPEG, [A, B, C]),
    "more frames than wanted, with table": (
        pixel_data([BODY] * 3, offsets(0, 32, 64)), 2, DEFLATED_FRAME, [BODY] * 3,
    ),
    "JPEG 2000 by codestreams": (
        pixel_data([b"\xff\x4f\xff\x51ab", BODY, b"\xff\x4f\xff\x51cd", BODY]), 2, JPEG_2000,
        [b"\xff\x4f\xff\x51ab" + BODY, b"\xff\x4f\xff\x51cd" + BODY],
    ),
    "RLE by its header": (
        pixel_data([pack("<LL", 1, 64), BODY, pack("<LL", 3, 64)]), 2, RLE,
        [pack("<LL", 1, 64) + BODY, pack("<LL", 3, 64)],
    ),
    "JPEG XL by codestreams": (
        pixel_data([b"\xff\x0aab", BODY, b"\xff\x0acd"]), 2, JPEG_XL, [b"\xff\x0aab" + BODY, b"\xff\x0acd"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_frames_are_found(case: str):
    """Whatever the tables say, each frame is found, its fragments joined."""
    data, wanted, syntax, expected = CASES[case]
    assert frames_of(data, wanted, syntax) == expected


MISSING = {
    "no fragments": (pixel_data([]), 2, JPEG, "Pixel Data has 0 of 2 frames"),
    "not even a table": (
        pixel_data([])[:12] + pack("<HHL", 0xFFFE, 0xE0DD, 0), 1, JPEG, "Pixel Data has 0 of 1 frames",
    ),
    "only empty fragments": (pixel_data([b"", b""]), 2, JPEG, "Pixel Data has 0 of 2 frames"),
    "fewer fragments": (pixel_data([A, B, C]), 5, JPEG, "Pixel Data has 3 of 5 frames"),
    "fewer codestreams": (pixel_data([A[:6], A[6:], B[:8], B[8:]]), 3, JPEG, "Pixel Data has 2 of 3 frames"),
    "fewer frames in RLE": (pixel_data([pack("<LL", 1, 64), BODY, BODY]), 2, RLE, "Pixel Data has 1 of 2 frames"),
    "nothing to tell": (
        pixel_data([BODY] * 3), 2, DEFLATED_FRAME,
        "Pixel Data has 3 fragments for 2 frames, and no valid offset table",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_missing_frames_are_said(case: str):
    """Fewer frames than the instance declares are refused, with both numbers."""
    data, wanted, syntax, sentence = MISSING[case]
    with pytest.raises(UndecodablePixelData) as error:
        frames_of(data, wanted, syntax)
    assert error.value.comment == sentence


@pytest.mark.parametrize(("frames", "table"), [([A], bytes(4)), ([A, B + b"odd", C], b"")])
def test_encapsulated_frames_are_found_again(frames: list[bytes], table: bytes):
    """One fragment a frame, of even length; the table has one entry for a single frame, else it is empty."""
    value = b"".join(encapsulated(frames, len(frames) == 1))
    assert value.startswith(item(table))
    head = pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    assert frames_of(head + value, len(frames)) == [frame + bytes(len(frame) % 2) for frame in frames]
