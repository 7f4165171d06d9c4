"""Data sets of careless writers (decision 88): each is read without loss, and the same after any conversion."""

import io
import itertools
import zlib
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.dicom import dataset
from pacs.dicom.dataset_equality import is_same
from pacs.dicom.elements import Source, TokenKind, encoding_of, walk
from pacs.dicom.header import NOT_IN_A_DATA_SET, read_header
from pacs.dicom.levels import QueryLevel
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
from pacs.errors import UndecodableDataSet
from tests.dicom.test_elements import ITEM, ITEM_END, SEQUENCE_END, element, explicit, refuse
from tests.dicom.test_fast_scan import agree
from tests.dicom.test_fast_scan import data_sets as plain_data_sets

NO_VRS = (b"  ", b"\0\0", b"??", b"--", b"lo", b"A ", b"ZZ")
UIDS = {0x00080016: b"1.2.840.10008.5.1.4.1.1.2\0", 0x00080018: b"1.2.3\0", 0x0020000D: b"1.2\0", 0x0020000E: b"1.4\0"}
CREATOR = 0x00110010


def no_vr(tag: int, letters: bytes, value: bytes, *, is_long: bool = False, order: str = "<") -> bytes:
    """An element whose VR is no VR, with a length of 16 bits, or of 32 bits behind two zero bytes."""
    length = pack(order + "HL", 0, len(value)) if is_long else pack(order + "H", len(value))
    return pack(order + "HH", tag >> 16, tag & 0xFFFF) + letters + length + value


def sequence(tag: int, content: bytes, length: int | None = None, *, is_implicit: bool = True) -> bytes:
    """A sequence that announces `length` instead of its own."""
    head = pack("<HH", tag >> 16, tag & 0xFFFF) + (b"" if is_implicit else b"SQ\0\0")
    return head + pack("<L", len(content) if length is None else length) + content


def item(content: bytes) -> bytes:
    """An item of defined length."""
    return pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def read(data: bytes, transfer_syntax: str) -> list[tuple[TokenKind, int, str, bytes]]:
    """The kind, tag and VR of each token, and the value of each element."""
    encoding = encoding_of(transfer_syntax)
    source = Source(io.BytesIO(data), encoding)
    return [
        (each.kind, each.tag, each.vr, source.read(each.length) if each.kind is TokenKind.ELEMENT else b"")
        for each in walk(source, encoding)
    ]


def values(data: bytes, transfer_syntax: str) -> dict[int, bytes]:
    """The values of all elements by tag, without group lengths."""
    found = read(data, transfer_syntax)
    return {tag: value for kind, tag, _, value in found if kind is TokenKind.ELEMENT and tag & 0xFFFF}


def converted(data: bytes, source: str, target: str) -> bytes:
    """A whole data set in another transfer syntax."""
    return b"".join(convert(io.BytesIO(data), source, target))


def is_converted_without_loss(data: bytes, transfer_syntax: str) -> bool:
    """Whether each native transfer syntax, and each that is made from that, has the same values."""
    ways = [path for path in itertools.permutations(NATIVE, 2) if path[0] != transfer_syntax]
    for first, second in ways:
        once = converted(data, transfer_syntax, first)
        twice = converted(once, first, second)
        if not is_same(io.BytesIO(data), transfer_syntax, io.BytesIO(twice), second):
            return False
        if values(converted(twice, second, IMPLICIT_LITTLE), IMPLICIT_LITTLE) != values(
            converted(data, transfer_syntax, IMPLICIT_LITTLE), IMPLICIT_LITTLE
        ):
            return False
    return True


# --- no VR -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_long", [False, True], ids=["16 bit length", "32 bit length"])
@pytest.mark.parametrize("value", [b"", b"\1\0"], ids=["empty", "a number"])
@pytest.mark.parametrize("letters", NO_VRS)
def test_two_bytes_that_are_no_vr_are_read_by_their_length(letters: bytes, value: bytes, is_long: bool):
    """In the data set and as the first element of an item, at its end and before other elements."""
    padding = no_vr(0x00280120, letters, value, is_long=is_long)
    following = explicit(0x00281050, "DS", b"40")
    for data in (padding, padding + following):
        whole = explicit(0x00080060, "CS", b"CT") + data
        expected = {0x00080060: b"CT", 0x00280120: value} | ({0x00281050: b"40"} if data != padding else {})
        assert values(whole, EXPLICIT_LITTLE) == expected
        assert is_converted_without_loss(whole, EXPLICIT_LITTLE)


@pytest.mark.parametrize("letters", [each for each in NO_VRS if each != b"ZZ"])
def test_a_known_attribute_has_the_vr_of_the_standard(letters: bytes):
    """Its words are swapped with the byte order; a private value has none that is known."""
    big = pack(">HH2sH", 8, 0x60, b"CS", 2) + b"CT" + no_vr(0x00280010, letters, b"\2\0", order=">")
    assert values(converted(big, EXPLICIT_BIG, EXPLICIT_LITTLE), EXPLICIT_LITTLE)[0x00280010] == b"\0\2"
    private = explicit(CREATOR, "LO", b"ACME") + no_vr(0x00111001, letters, b"\1\2")
    assert [vr for _, _, vr, _ in read(private, EXPLICIT_LITTLE)] == ["LO", "UN"]


@pytest.mark.parametrize("letters", [b"  ", b"??", b"--", b"\0\0"])
def test_the_first_element_of_an_item_may_have_no_vr(letters: bytes):
    """It is not taken for an item in Implicit VR."""
    inner = no_vr(0x00280120, letters, b"\1\0") + explicit(0x00281050, "DS", b"40")
    whole = sequence(0x00081140, item(inner), is_implicit=False) + explicit(0x00100020, "LO", b"P1")
    assert values(whole, EXPLICIT_LITTLE) == {0x00280120: b"\1\0", 0x00281050: b"40", 0x00100020: b"P1"}
    assert is_converted_without_loss(whole, EXPLICIT_LITTLE)


@pytest.mark.parametrize("value", [b"", b"\1\0"], ids=["empty", "a number"])
@pytest.mark.parametrize("letters", [b"  ", b"??", b"--", b"\0\0"])
def test_the_first_element_of_a_large_data_set_may_have_no_vr(letters: bytes, value: bytes):
    """Its bytes are no length although as many bytes follow."""
    first = no_vr(0x00080005, letters, value)
    whole = first + explicit(0x00080060, "CS", b"CT")
    pixels = b"\xe0\x7f\x10\0OW\0\0" + pack("<L", 1 << 20) + bytes(1 << 20)
    assert values(whole + pixels, EXPLICIT_LITTLE) == {0x00080005: value, 0x00080060: b"CT", 0x7FE00010: bytes(1 << 20)}
    assert is_converted_without_loss(whole, EXPLICIT_LITTLE)
    if value:
        inner = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + ITEM + first + ITEM_END + SEQUENCE_END
        assert values(inner + pixels, EXPLICIT_LITTLE) == {0x00080005: value, 0x7FE00010: bytes(1 << 20)}


def test_an_element_without_vr_in_a_deflated_data_set_is_read():
    """What follows an empty one is looked at before it is passed."""
    data = explicit(0x00080060, "CS", b"CT") + no_vr(0x00280120, b"??", b"") + explicit(0x00281050, "DS", b"40")
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(data) + deflate.flush()
    assert values(deflated, DEFLATED_LITTLE) == {0x00080060: b"CT", 0x00280120: b"", 0x00281050: b"40"}


@pytest.mark.parametrize("letters", [b"\1\2", b"C\0", b"\xff\xff"])
def test_s3_other_bytes_in_place_of_a_vr_are_refused(letters: bytes):
    """They are rather a length: the element is in Implicit VR."""
    refuse(explicit(0x00080060, "CS", b"CT") + no_vr(0x00280120, letters, b"\1\0"), EXPLICIT_LITTLE)


# --- sequences -------------------------------------------------------------------------------------------------

REFERENCE = element(0x00081150, b"1.2.840.10008\0") + element(0x00081155, b"1.2.3\0")
NAME = element(0x00100010, b"DOE^JOHN")


@pytest.mark.parametrize("missing", [1, 2, 8, 13, 17, 20])
def test_a_sequence_may_be_shorter_than_its_item(missing: int):
    """Its length ends within an element of the item, whose own length is right."""
    content = item(REFERENCE)
    data = sequence(0x00081140, content, len(content) - missing) + NAME
    assert read(data, IMPLICIT_LITTLE) == read(sequence(0x00081140, content) + NAME, IMPLICIT_LITTLE)
    assert is_converted_without_loss(data, IMPLICIT_LITTLE)
    assert dataset.read(data, encoding_of(IMPLICIT_LITTLE))[0x00081140][0][0x00081155].value == "1.2.3"


@pytest.mark.parametrize("counted", [0, 1, 2])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_sequence_may_count_fewer_items_than_it_has(counted: int, is_last: bool):
    """An item can be nowhere else, within an item too."""
    content = item(REFERENCE) * 3
    short = sequence(0x00081140, content, counted * len(item(REFERENCE)))
    after = b"" if is_last else NAME
    assert read(short + after, IMPLICIT_LITTLE) == read(sequence(0x00081140, content) + after, IMPLICIT_LITTLE)
    nested = sequence(0x00081115, item(short) * 2) + after
    assert read(nested, IMPLICIT_LITTLE) == read(
        sequence(0x00081115, item(sequence(0x00081140, content)) * 2) + after, IMPLICIT_LITTLE
    )
    assert is_converted_without_loss(nested, IMPLICIT_LITTLE)


def test_an_item_that_may_be_too_long_is_refused():
    """If an element begins where its sequence ends, it may be in the item or behind the sequence."""
    content = item(REFERENCE)
    assert "longer than its sequence" in refuse(
        sequence(0x00081140, content, len(content) - 14) + NAME, IMPLICIT_LITTLE
    )


def test_a_sequence_is_never_longer_than_what_encloses_it():
    """The item of an inner sequence must end within the outer item, another within the data set."""
    inner = sequence(0x00081140, item(REFERENCE), 10)
    assert "longer than" in refuse(sequence(0x00081115, item(inner)[:4] + pack("<L", 30) + inner), IMPLICIT_LITTLE)
    assert "send it whole" in refuse(inner[:-1], IMPLICIT_LITTLE)


@pytest.mark.parametrize("delimiters", [ITEM_END, SEQUENCE_END, ITEM_END + SEQUENCE_END])
def test_a_stray_delimiter_at_the_end_ends_nothing(delimiters: bytes):
    """It is stored, and left out when the data set is converted; zero bytes may follow."""
    assert read(NAME + delimiters, IMPLICIT_LITTLE) == read(NAME, IMPLICIT_LITTLE)
    assert converted(NAME + delimiters, IMPLICIT_LITTLE, EXPLICIT_LITTLE) == explicit(0x00100010, "PN", b"DOE^JOHN")
    padded = explicit(0x00100010, "PN", b"DOE^JOHN") + delimiters + bytes(10)
    assert [tag for _, tag, _, _ in read(padded, EXPLICIT_LITTLE)] == [0x00100010, 0]


@pytest.mark.parametrize("rest", [ITEM_END + NAME, ITEM_END * 3, pack("<HHL", 0xFFFE, 0xE00D, 2) + b"ab", ITEM])
def test_other_delimiters_are_refused(rest: bytes):
    """One before an element, a storm of them, one with a value, an item."""
    assert "delimiter" in refuse(NAME + rest, IMPLICIT_LITTLE)


def test_a_length_and_a_delimiter_may_both_end_an_item_and_a_sequence():
    """The delimiter behind the defined length ends nothing."""
    content = item(REFERENCE) + ITEM_END + item(REFERENCE) + ITEM_END
    data = sequence(0x00081140, content) + SEQUENCE_END + NAME
    assert read(data, IMPLICIT_LITTLE) == read(sequence(0x00081140, item(REFERENCE) * 2) + NAME, IMPLICIT_LITTLE)
    assert is_converted_without_loss(data, IMPLICIT_LITTLE)


def test_a_code_string_of_old_reports_is_no_sequence():
    """(0040,A170) was Observation Class; another value that has no items is kept as it is."""
    old = element(0x0040A170, b"CLINICAL")
    inner = element(0x0040A043, b"not a sequence")
    data = old + sequence(0x0040A730, item(old + inner))
    found = [(tag, vr, value) for kind, tag, vr, value in read(data, IMPLICIT_LITTLE) if kind is TokenKind.ELEMENT]
    assert found == [
        (0x0040A170, "CS", b"CLINICAL"), (0x0040A170, "CS", b"CLINICAL"), (0x0040A043, "UN", b"not a sequence"),
    ]  # fmt: skip
    assert is_converted_without_loss(data, IMPLICIT_LITTLE)
    dataset.write(dataset.View.of(dataset.read(data, encoding_of(IMPLICIT_LITTLE))), encoding_of(EXPLICIT_LITTLE))


def test_an_attribute_of_the_index_that_is_no_sequence_has_no_items():
    """The row is without it; nothing recurses."""
    wanted = element(0x00400275, b"NO ITEM ")
    made = b"".join(element(tag, value) for tag, value in UIDS.items())
    header = read_header(io.BytesIO(made + wanted), IMPLICIT_LITTLE)
    assert b"NO ITEM" not in header.kept[QueryLevel.SERIES]


# --- any of them, nested and mixed -------------------------------------------------------------------------------

leaves = st.builds(
    lambda tag, letters, value: (tag, no_vr(tag, letters, value)),
    st.sampled_from([0x00080070, 0x00100010, 0x00280010, 0x00280120, 0x00291001]),
    st.sampled_from([b"  ", b"\0\0", b"??", b"--", b"LO", b"US"]),
    st.sampled_from([b"", b"\1\0", b"ABCD", b"SH\0\0"]),
)


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 2) -> bytes:
    """An instance in Explicit VR with elements without VR, short sequences and needless delimiters."""
    elements = {tag: explicit(tag, "UI", uid) for tag, uid in UIDS.items()} if depth == 2 else {}
    elements |= dict(draw(st.lists(leaves, max_size=4)))
    if depth and draw(st.booleans()):
        some = draw(st.lists(data_sets(depth - 1), max_size=3))
        content = b"".join(item(each) + draw(st.sampled_from([b"", ITEM_END])) for each in some)
        length = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
        after = draw(st.sampled_from([b"", SEQUENCE_END]))
        elements[0x00081140] = sequence(0x00081140, content, length, is_implicit=False) + after
    return b"".join(elements[tag] for tag in sorted(elements))


def accepts(data: bytes, transfer_syntax: str) -> bool:
    """Whether the walk reads a data set to its end, and finds nothing in it that is not stored or not converted."""
    try:
        found = read(data, transfer_syntax)
    except UndecodableDataSet:
        return False
    return not any(kind is TokenKind.ENCAPSULATED or tag >> 16 in NOT_IN_A_DATA_SET for kind, tag, _, _ in found)


@settings(max_examples=60, deadline=None)
@given(made=data_sets(), end=st.sampled_from([b"", ITEM_END, ITEM_END + SEQUENCE_END]))
def test_s13_what_is_accepted_is_converted_without_loss(made: bytes, end: bytes):
    """Whatever the walk reads, every native transfer syntax has, and the fast scan finds the same or leaves it."""
    data = explicit(0x00080005, "CS", b"ISO_IR 100") + made + end
    agree(data, EXPLICIT_LITTLE)
    if accepts(data, EXPLICIT_LITTLE):
        assert is_converted_without_loss(data, EXPLICIT_LITTLE)


PIECES = (b"??", b"--", b"  ", b"\0\0", ITEM, ITEM_END, SEQUENCE_END, b"\x10\0\0\0", b"\4\0")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), syntax=st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE]))
def test_s13_what_is_accepted_of_mutated_data_sets_is_converted_without_loss(data: st.DataObject, syntax: str):
    """Delimiters, lengths and VRs that are none, anywhere."""
    plain = plain_data_sets(syntax == IMPLICIT_LITTLE)
    made = bytearray(data.draw(plain if syntax == IMPLICIT_LITTLE else st.one_of(plain, data_sets())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(made), 2000)))
        piece = data.draw(st.sampled_from(PIECES) | st.binary(max_size=4))
        made[at : at + data.draw(st.sampled_from([0, len(piece)]))] = piece
    agree(bytes(made), syntax)
    if accepts(bytes(made), syntax):
        assert is_converted_without_loss(bytes(made), syntax)
