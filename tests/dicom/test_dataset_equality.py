"""Comparison of data sets: docs/checklist.md S6, S7."""

import io
import tracemalloc
from pathlib import Path
from struct import pack

import pytest

from pacs.dicom.dataset_equality import differing, is_same
from pacs.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
from tests import real_files
from tests.dicom.test_elements import DAMAGED, ITEM, ITEM_END, SEQUENCE, SEQUENCE_END, element, explicit
from tests.real_files import CheckFiles

RLE, JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"
NATIVE_FILES = [
    path
    for path in real_files.PART10
    if real_files.transfer_syntax(path) in NATIVE[:1] + NATIVE[2:]
    and path.name not in DAMAGED
    and path.stat().st_size < 100_000
]


OLD = b"1.2.840.10008."


def same(
    first: bytes, second: bytes, first_syntax: str = IMPLICIT_LITTLE, second_syntax: str = IMPLICIT_LITTLE
) -> bool:
    """Whether two data sets are the same, compared in both orders."""
    found = is_same(io.BytesIO(first), first_syntax, io.BytesIO(second), second_syntax)
    assert is_same(io.BytesIO(second), second_syntax, io.BytesIO(first), first_syntax) == found
    return found


@pytest.mark.parametrize("target", NATIVE)
def test_s6_a_converted_file_is_the_same_instance(check_files: CheckFiles, target: str):
    """Conversion to another native transfer syntax changes no value."""

    def check(path: Path) -> None:
        data, syntax = real_files.data_set(path)
        assert same(data, b"".join(convert(io.BytesIO(data), syntax, target)), syntax, target)

    check_files(check, NATIVE_FILES)


@pytest.mark.parametrize("target", NATIVE)
def test_s7_one_changed_byte_of_a_value_makes_another_instance(check_files: CheckFiles, target: str):
    """A change of one character in one value is found, in every native transfer syntax."""

    def check(path: Path) -> None:
        data, syntax = real_files.data_set(path)
        other = data.replace(OLD, b"1.2.840.10009.", 1)
        assert OLD not in data or not same(data, b"".join(convert(io.BytesIO(other), syntax, target)), syntax, target)

    check_files(check, NATIVE_FILES)


INNER = element(0x00081155, b"1.2.3\0")
WITH_LENGTHS = element(0x00081140, pack("<HHL", 0xFFFE, 0xE000, len(INNER)) + INNER)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(SEQUENCE + ITEM + INNER + ITEM_END + SEQUENCE_END, WITH_LENGTHS, True, id="lengths or delimiters"),
        pytest.param(SEQUENCE + ITEM + ITEM_END + SEQUENCE_END, SEQUENCE + SEQUENCE_END, False, id="an empty item"),
        pytest.param(SEQUENCE + SEQUENCE_END, b"", False, id="an empty sequence"),
        pytest.param(SEQUENCE + (ITEM + INNER + ITEM_END) * 2 + SEQUENCE_END,
                     SEQUENCE + ITEM + INNER * 2 + ITEM_END + SEQUENCE_END, False, id="two items or one"),
        pytest.param(element(0x00100010, b"A "), element(0x00100010, b"A\0"), True, id="padding of another kind"),
        pytest.param(element(0x00100010, b"A"), element(0x00100010, b"A "), True, id="no padding"),
        pytest.param(element(0x00100010, b""), element(0x00100010, b"  "), True, id="nothing but padding"),
        pytest.param(element(0x00100010, b""), b"", False, id="empty or absent"),
        pytest.param(element(0x00100010, b"A"), element(0x00100010, b"a"), False, id="upper and lower case"),
        pytest.param(element(0x00280010, b"\2\0"), element(0x00280010, b"\2 "), False, id="numbers have no padding"),
        pytest.param(element(0x00420011, b"\1"), element(0x00420011, b"\1\0"), True, id="odd bytes made even"),
        pytest.param(element(0x00420011, b"\1\0"), element(0x00420011, b"\1\0\0\0"), False, id="more bytes"),
        pytest.param(element(0x00111001, b"A "), element(0x00111001, b"A\0"), False, id="private bytes are bytes"),
        pytest.param(element(0x00080000, b"\4\0\0\0") + INNER, INNER, True, id="a group length"),
        pytest.param(element(0x00020010, b"1.2 ") + INNER, INNER, True, id="group 0002"),
        pytest.param(INNER + element(0xFFFCFFFC, b"\0\0"), INNER, True, id="trailing padding"),
        pytest.param(INNER, INNER + INNER, False, id="an element twice"),
        pytest.param(b"", b"", True, id="nothing and nothing"),
    ],
)  # fmt: skip
def test_differences_that_matter_and_those_that_do_not(first: bytes, second: bytes, expected: bool):
    """Delimiters, padding and group lengths do not count; everything else does."""
    assert same(first, second) is expected


def test_a_private_element_is_text_if_a_sender_declared_it():
    """Declared LO by one and unknown to the other: padding does not count."""
    declared = explicit(0x00110010, "LO", b"ME") + explicit(0x00111001, "LO", b"AB  ")
    unknown = element(0x00110010, b"ME") + element(0x00111001, b"AB")
    assert same(declared, unknown, EXPLICIT_LITTLE)


def fragments(*values: bytes) -> bytes:
    """Encapsulated Pixel Data."""
    items = b"".join(pack("<HHL", 0xFFFE, 0xE000, len(value)) + value for value in values)
    return b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + items + SEQUENCE_END


def test_compressed_data_sets_are_compared_fragment_by_fragment():
    """In one transfer syntax the fragments are compared; in different ones they are never the same."""
    data = fragments(b"", b"abcd")
    assert same(data, data, RLE, RLE)
    assert not same(data, fragments(b"", b"abce"), RLE, RLE)
    assert not same(data, fragments(b"", b"ab", b"cd"), RLE, RLE)
    assert not same(data, data, RLE, JPEG)
    assert not same(data, explicit(0x7FE00010, "OB", b"\0\0abcd"), RLE, EXPLICIT_LITTLE)


def test_big_values_are_compared_in_constant_memory():
    """16 MiB that differ in the last byte are compared in pieces."""
    size = 16 << 20
    head = pack("<HHL", 0x7FE0, 0x0010, size)
    first, second = io.BytesIO(head + bytes(size)), io.BytesIO(head + bytes(size - 1) + b"\1")
    tracemalloc.start()
    assert not is_same(first, IMPLICIT_LITTLE, second, IMPLICIT_LITTLE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


FIRST = element(0x00080060, b"CT") + element(0x00100010, b"DOE^JOHN") + element(0x00280010, b"\2\0")


@pytest.mark.parametrize(
    ("second", "tags"),
    [
        (FIRST, []),
        (FIRST.replace(b"JOHN", b"JANE"), [0x00100010]),
        (FIRST[:-2].replace(b"CT", b"MR") + b"\3\0", [0x00080060, 0x00280010]),
        (FIRST + element(0x7FE00010, b"abcd"), [0x7FE00010]),
        (element(0x00080016, b"1.2\0") + FIRST, [0x00080016]),
        (FIRST[:10], [0x00100010, 0x00280010]),
        (b"", [0x00080060, 0x00100010, 0x00280010]),
        (FIRST.replace(b"DOE^JOHN", b"JOHN    "), [0x00100010]),
    ],
)
def test_each_differing_element_is_named_once(second: bytes, tags: list[int]):
    """Other values, and elements that only one of the data sets has, in the order of their tags."""
    for data in ((FIRST, second), (second, FIRST)):
        one, other = map(io.BytesIO, data)
        assert list(differing(one, IMPLICIT_LITTLE, other, IMPLICIT_LITTLE)) == tags


def sequence(*uids: bytes) -> bytes:
    """Return a data set with a sequence of an item for each UID, between two elements."""
    items = b"".join(ITEM + element(0x0020000E, uid) + ITEM_END for uid in uids)
    head = pack("<HHL", 0x0008, 0x1115, 0xFFFFFFFF)
    return element(0x00080060, b"CT") + head + items + SEQUENCE_END + element(0x00100010, b"DOE^JOHN")


@pytest.mark.parametrize(
    "second", [(b"1.2.3\0",), (b"1.2.4\0", b"1.2.4\0"), (), (b"1.2.4\0", b"1.2.3\0", b"1.2\0\0\0")]
)
def test_a_sequence_that_differs_is_named_itself(second: tuple[bytes, ...]):
    """Another value in an item, or more or fewer items; the elements behind it are compared, too."""
    first = sequence(b"1.2.4\0")
    other = sequence(*second).replace(b"JOHN", b"JANE")
    found = differing(io.BytesIO(first), IMPLICIT_LITTLE, io.BytesIO(other), IMPLICIT_LITTLE)
    assert list(found) == [0x00081115, 0x00100010]
