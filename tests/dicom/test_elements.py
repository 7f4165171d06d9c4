"""The walk through a data set: bad input (docs/checklist.md 5.2 item 5) gives a clear error in bounded resources."""

import io
import tracemalloc
import zlib
from pathlib import Path
from struct import pack

import pydicom
import pytest

from pacs.dicom.bounds import DEFAULT_BOUNDS, DataSetBounds
from pacs.dicom.elements import Inflated, Source, TokenKind, encoding_of, walk
from pacs.errors import UndecodableDataSet
from tests import real_files
from tests.real_files import CheckFiles

IMPLICIT, EXPLICIT, DEFLATED, BIG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)
JPEG = "1.2.840.10008.1.2.4.50"
DAMAGED = {
    "MR_truncated.dcm": "its Pixel Data is cut off",
    "rtplan_truncated.dcm": "it is cut off within a sequence",
    "DICOMDIR-nooffset": "it is cut off",
}
"""The bundled Part 10 files whose data set is not whole."""

UNDERSTOOD_BY_US = {"emri_small_jpeg_2k_lossless_too_short.dcm": "the delimiter behind its last fragment is missing"}
"""The bundled Part 10 files which pydicom's own reader makes nothing of."""


def element(tag: int, value: bytes) -> bytes:
    """One element in Implicit VR Little Endian."""
    return pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    """One element with a short length in Explicit VR Little Endian."""
    return pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


SEQUENCE = pack("<HHL", 0x0008, 0x1140, 0xFFFFFFFF)
ITEM = pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END = pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = pack("<HHL", 0xFFFE, 0xE0DD, 0)


def nested(depth: int) -> bytes:
    """Sequences within each other, delimited."""
    return (SEQUENCE + ITEM) * depth + (ITEM_END + SEQUENCE_END) * depth


def nested_with_lengths(depth: int) -> bytes:
    """Sequences within each other, each with its length: built from the outside in."""
    heads = []
    for level in range(depth):
        inner = (depth - level - 1) * 16
        heads.append(pack("<HHL", 0x0008, 0x1140, inner + 8) + pack("<HHL", 0xFFFE, 0xE000, inner))
    return b"".join(heads)


def check(data: bytes, transfer_syntax: str, bounds: DataSetBounds = DEFAULT_BOUNDS) -> None:
    """Walk through a data set to its end."""
    encoding = encoding_of(transfer_syntax)
    source = Source(io.BytesIO(data), encoding, bounds.inflated)
    for _ in bounds.limited(walk(source, encoding, bounds.depth)):
        pass


def refuse(data: bytes, transfer_syntax: str) -> str:
    """The comment of the error that a data set gives."""
    with pytest.raises(UndecodableDataSet) as refused:
        check(data, transfer_syntax)
    return refused.value.comment


def test_walk_accepts_whole_files_and_refuses_damaged_ones(check_files: CheckFiles):
    """The walk ends without error exactly for the files that are whole."""

    def check_file(path: Path) -> None:
        data, transfer_syntax = real_files.data_set(path)
        (refuse if path.name in DAMAGED else check)(data, transfer_syntax)

    check_files(check_file)


def test_walk_finds_the_same_top_level_elements_as_pydicom(check_files: CheckFiles):
    """Tags of the top level are those of pydicom's own reader."""
    check_files(compare_top_level, [path for path in real_files.PART10 if path.name not in DAMAGED | UNDERSTOOD_BY_US])


def compare_top_level(path: Path) -> None:
    """Compare the top-level tags of a file with pydicom's."""
    data, transfer_syntax = real_files.data_set(path)
    encoding = encoding_of(transfer_syntax)
    begins = {TokenKind.ELEMENT, TokenKind.SEQUENCE, TokenKind.ENCAPSULATED}
    tokens = walk(Source(io.BytesIO(data), encoding), encoding)
    tags = {token.tag for token in tokens if token.depth == 0 and token.kind in begins}
    assert tags == {int(element.tag) for element in pydicom.dcmread(path, force=True).elements()}


@pytest.mark.parametrize("build", [nested, nested_with_lengths])
@pytest.mark.parametrize("depth", [65, 300, 1_000, 100_000])
def test_p10_deep_nesting_is_refused(build, depth: int):
    """Nesting beyond the limit is UndecodableDataSet, never a RecursionError."""
    assert "deeper than 64" in refuse(build(depth), IMPLICIT)


@pytest.mark.parametrize("build", [nested, nested_with_lengths])
def test_p10_the_allowed_depth_is_allowed(build):
    """64 sequences within each other are walked through."""
    check(build(64), IMPLICIT)


def test_p9_a_deflate_bomb_is_stopped_at_its_limit():
    """Data that inflates to more than the limit is refused before it is in memory."""
    bomb = zlib.compressobj(9, wbits=-15)
    deflated = bomb.compress(b"\0" * (64 << 20)) + bomb.flush()
    tracemalloc.start()
    inflated = Inflated(io.BytesIO(deflated), limit=32 << 20)
    with pytest.raises(UndecodableDataSet, match="too large"):
        while inflated.read(1 << 16):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("data", [b"", b"garbage that is not deflated", zlib.compress(b"abc", wbits=-15)[:-1]])
def test_an_incomplete_deflate_stream_is_refused(data: bytes):
    """Empty, invalid and truncated streams are UndecodableDataSet."""
    refuse(data, DEFLATED)


def test_a_million_tiny_elements_are_counted_and_cost_no_memory():
    """With a limit the walk ends early; without one memory stays constant."""
    storm = element(0x00080005, b"") * 1_000_000
    tracemalloc.start()
    with pytest.raises(UndecodableDataSet, match="more than 1000 elements"):
        check(storm, IMPLICIT, DataSetBounds(elements=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("data", "transfer_syntax"),
    [
        pytest.param(element(0x00080005, b"ISO_IR 100")[:-1], IMPLICIT, id="value cut off"),
        pytest.param(element(0x00080005, b"ISO_IR 100")[:5], IMPLICIT, id="head cut off"),
        pytest.param(pack("<HHL", 8, 5, 0xFFFFFFF0), IMPLICIT, id="four gigabytes announced"),
        pytest.param(pack("<HHL", 8, 5, 0xFFFFFFFF), IMPLICIT, id="undefined length of a text"),
        pytest.param(SEQUENCE, IMPLICIT, id="sequence never ends"),
        pytest.param(SEQUENCE + ITEM + ITEM_END, IMPLICIT, id="sequence delimiter missing"),
        pytest.param(SEQUENCE + element(0x00080005, b""), IMPLICIT, id="element where an item must be"),
        pytest.param(ITEM_END * 1000, IMPLICIT, id="delimiter storm"),
        pytest.param(SEQUENCE + ITEM + SEQUENCE_END, IMPLICIT, id="wrong delimiter"),
        pytest.param(
            pack("<HHL", 8, 0x1140, 8) + pack("<HHL", 0xFFFE, 0xE000, 9) + b"x" * 9, IMPLICIT, id="item too long"
        ),
        pytest.param(explicit(0x00080005, "CS", b"ISO_IR 100"), IMPLICIT, id="explicit sent as implicit"),
        pytest.param(element(0x00080005, b"ISO_IR 100"), EXPLICIT, id="implicit sent as explicit"),
        pytest.param(explicit(0x00080005, "CS", b"ISO_IR 100"), BIG, id="little endian sent as big endian"),
        pytest.param(explicit(8 << 16 | 5, "CS", b"") + b"\x08\0\x16\0\1\2\0\0", EXPLICIT, id="no VR"),
    ],
)
def test_s3_a_data_set_in_another_transfer_syntax_is_refused(data: bytes, transfer_syntax: str):
    """Each kind of damage is an UndecodableDataSet whose comment fits into an Error Comment."""
    assert len(refuse(data, transfer_syntax)) <= 64


def test_an_item_may_be_implicit_in_an_explicit_data_set():
    """Some writers change to Implicit VR within a private sequence."""
    inner = element(0x00080060, b"CT")
    data = b"\x08\0\x40\x11SQ\0\0" + pack("<L", len(inner) + 8) + pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    encoding = encoding_of(EXPLICIT)
    tokens = list(walk(Source(io.BytesIO(data), encoding), encoding))
    assert [token.encoding.implicit for token in tokens if token.tag == 0x00080060] == [True]


def tokens(data: bytes, transfer_syntax: str) -> list[tuple[TokenKind, int, bool]]:
    """The kinds and tags of a walk, and whether each is implicit."""
    encoding = encoding_of(transfer_syntax)
    return [
        (each.kind, each.tag, each.encoding.implicit) for each in walk(Source(io.BytesIO(data), encoding), encoding)
    ]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 100, 70_000])
@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG, JPEG])
def test_zero_bytes_after_a_data_set_are_of_group_0000(length: int, transfer_syntax: str):
    """Any number of them is reported as an element that does not belong to the data set."""
    data = {IMPLICIT: element(0x00080060, b"CT"), BIG: b"\0\x08\0\x60CS\0\2CT"}
    data_set = data.get(transfer_syntax, explicit(0x00080060, "CS", b"CT"))
    found = [tag for _, tag, _ in tokens(data_set + b"\0" * length, transfer_syntax)]
    assert found[0] == 0x00080060
    assert set(found[1:]) == {0}


@pytest.mark.parametrize("rest", [b"\0\0\1", b"\0" * 8 + b"\1", b"\0" * 70_000 + b"\1"])
def test_zero_bytes_before_other_bytes_are_not_padding(rest: bytes):
    """Nothing else may follow them."""
    refuse(explicit(0x00080060, "CS", b"CT") + rest, EXPLICIT)


def test_zero_bytes_alone_are_not_a_data_set():
    """A data set cannot begin with padding."""
    refuse(b"\0" * 1000, EXPLICIT)


FRAGMENTS = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"".join(
    pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in (b"", b"frame 1 ", b"frame 2 ")
)


def test_the_delimiter_after_the_last_fragment_may_be_missing():
    """No value is lost, so that the tokens are those of a complete data set."""
    assert tokens(FRAGMENTS, JPEG) == tokens(FRAGMENTS + SEQUENCE_END, JPEG)


@pytest.mark.parametrize("cut", [*range(1, 16), *range(17, 24)])
def test_s3_pixel_data_with_a_truncated_fragment_is_refused(cut: int):
    """A truncated image is never accepted."""
    assert "send it whole" in refuse(FRAGMENTS[:-cut], JPEG)


def test_compressed_pixel_data_may_be_in_an_implicit_data_set():
    """It violates PS3.5 A.4, but the first element shows it, and compressed data is never converted."""
    inner = SEQUENCE + ITEM + element(0x00080060, b"CT") + ITEM_END + SEQUENCE_END
    pixels = b"\xe0\x7f\x10\0\xff\xff\xff\xff" + FRAGMENTS[12:] + SEQUENCE_END
    found = tokens(inner + pixels, JPEG)
    assert (TokenKind.ELEMENT, 0x00080060, True) in found
    assert [kind for kind, _, _ in found].count(TokenKind.FRAGMENT) == 3


def test_the_length_of_an_unknown_vr_depends_on_its_bytes():
    """A future VR has a 32 bit length; an invalid one has a 16 bit length."""
    future = b"\x09\0\x10\x10ZZ\0\0" + pack("<L", 4) + b"abcd"
    invented = b"\x09\0\x10\x10ZZ" + pack("<H", 4) + b"abcd"
    for data in (future, invented):
        encoding = encoding_of(EXPLICIT)
        source = Source(io.BytesIO(data), encoding)
        assert [(token.vr, source.read(token.length)) for token in walk(source, encoding)] == [("UN", b"abcd")]
