"""Comparison of the fast and the general scan: the same header, or the same error."""

import io
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.dicom import row_elements
from pacs.dicom.attributes import ATTRIBUTES
from pacs.dicom.elements import LONG_VRS, encoding_of
from pacs.dicom.fast_scan import FastScan, FastScanUnsupported
from pacs.dicom.header import _BULK, _FAST_SCAN_TAGS, Header, general_header, read_header
from pacs.dicom.levels import QueryLevel
from pacs.dicom.lru_cache import LRUCache
from pacs.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, KEPT
from pacs.errors import PacsError
from tests import real_files
from tests.real_files import CheckFiles

UIDS = {0x00080016: "1.2.840.10008.5.1.4.1.1.2", 0x00080018: "1.2.3", 0x0020000D: "1.2.4", 0x0020000E: "1.2.5"}
TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "UC", "UT")
BINARY_VRS = ("AT", "FD", "FL", "OB", "OW", "SL", "SS", "UL", "UN", "US", "ZZ")


def outcome(way, data: bytes, syntax: str) -> Header | tuple[object, ...]:
    """Return the header that a scan gives, or the content of its error."""
    try:
        return way(io.BytesIO(b"before" + data), syntax, 6)
    except PacsError as error:
        return type(error), error.comment, error.tags


def fast(file: io.BytesIO, syntax: str, start: int) -> Header:
    """The header as it is read for the index, after others of the same series."""
    file.seek(start)
    first = read_header(file, syntax)
    file.seek(start)
    assert read_header(file, syntax) == first
    return first


def general(file: io.BytesIO, syntax: str, start: int) -> Header:
    """Return the header of the general scan."""
    file.seek(start)
    return general_header(file, syntax)


def agree(data: bytes, syntax: str) -> None:
    """Check that both scans give the same header and the same columns."""
    found, expected = outcome(fast, data, syntax), outcome(general, data, syntax)
    assert found == expected
    if isinstance(found, Header):
        for level in QueryLevel:
            blob = found.kept[level]
            assert (
                row_elements.columns(level, blob)
                == row_elements.general_columns(level, blob)
                == row_elements.columns(level, blob)
            )


def encoded(tag: int, vr: str, value: bytes, implicit: bool) -> bytes:
    """An element of a data set."""
    head = pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + pack("<L", len(value)) + value
    if vr in LONG_VRS:
        return head + vr.encode() + pack("<HL", 0, len(value)) + value
    return head + vr.encode() + pack("<H", len(value) & 0xFFFF) + value


def sequence(tag: int, items: list[bytes], implicit: bool, undefined: tuple[bool, bool]) -> bytes:
    """A sequence whose own length, and whose items' lengths, may be undefined."""
    inside = b""
    for item in items:
        length = 0xFFFFFFFF if undefined[1] else len(item)
        inside += pack("<HHL", 0xFFFE, 0xE000, length) + item
        inside += pack("<HHL", 0xFFFE, 0xE00D, 0) if undefined[1] else b""
    length = 0xFFFFFFFF if undefined[0] else len(inside)
    inside += pack("<HHL", 0xFFFE, 0xE0DD, 0) if undefined[0] else b""
    return pack("<HH", tag >> 16, tag & 0xFFFF) + (b"" if implicit else b"SQ\0\0") + pack("<L", length) + inside


texts = st.one_of(
    st.sampled_from([b"", b" ", b"1", b"12 ", b"20240101", b"A\\B ", b"DOE^JANE", b"1.2.3\0", b"-5", b"+7 ", b"1e3 "]),
    st.text("ABCäöü^=\\* \x1b\0", max_size=12).map(lambda text: text.encode("utf_8")),
    st.binary(max_size=12),
)
wanted_tags = st.sampled_from(sorted(ATTRIBUTES))
any_tags = st.one_of(wanted_tags, wanted_tags, st.integers(0x00080000, 0x7FDFFFFF), st.sampled_from([0x00280103, 2]))


@st.composite
def elements(draw: st.DrawFn, implicit: bool, tags: st.SearchStrategy[int] = any_tags) -> tuple[int, bytes]:
    """An element, most often with the VR of PS3.6 and a text."""
    tag = draw(tags)
    known = ATTRIBUTES.get(tag)
    vr = known.vr if known and draw(st.integers(0, 9)) else draw(st.sampled_from(TEXT_VRS + BINARY_VRS))
    if vr != "SQ":
        return tag, encoded(tag, vr.split(" ")[0], draw(texts), implicit)
    inner = st.lists(elements(implicit), max_size=2).map(lambda some: b"".join(each for _, each in some))
    undefined = draw(st.tuples(st.booleans(), st.booleans()))
    return tag, sequence(tag, draw(st.lists(inner, max_size=2)), implicit, undefined)


@st.composite
def data_sets(draw: st.DrawFn, implicit: bool) -> bytes:
    """A data set that may be plain, with its UIDs more often than not, its tags in order more often than not."""
    made = {tag: encoded(tag, "UI", uid.encode() + b"\0" * (len(uid) % 2), implicit) for tag, uid in UIDS.items()}
    if draw(st.integers(0, 3)) == 0:
        terms = draw(st.sampled_from([b"ISO_IR 100", b"ISO_IR 192", b"X "]))
        made[0x00080005] = encoded(0x00080005, "CS", terms, implicit)
    made |= dict(draw(st.lists(elements(implicit), max_size=12)))
    if draw(st.booleans()):
        made[0x7FE00010] = encoded(0x7FE00010, "OW", bytes(draw(st.sampled_from([0, 2, 40_000, 70_000]))), implicit)
    tags = sorted(made) if draw(st.integers(0, 9)) else draw(st.permutations(sorted(made)))
    return b"".join(made[tag] for tag in tags)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_fast_and_general_scan_agree_on_generated_data_sets(syntax: str, data: st.DataObject):
    """Any elements, in any order."""
    agree(data.draw(data_sets(syntax == IMPLICIT_LITTLE)), syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_fast_and_general_scan_agree_on_mutated_data_sets(syntax: str, data: st.DataObject):
    """Bytes replaced, removed and inserted: the same header or the same error."""
    made = bytearray(data.draw(data_sets(syntax == IMPLICIT_LITTLE)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(made), 2000)))
        made[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    agree(bytes(made), data.draw(st.sampled_from([syntax, syntax, EXPLICIT_LITTLE, sorted(KEPT)[-1]])))


def test_fast_and_general_scan_agree_on_real_files(check_files: CheckFiles):
    """Whole, cut off, padded, and with the wrong transfer syntax."""
    check_files(check_agreement)


def check_agreement(path: Path) -> None:
    """Check that both scans agree on a file and on damaged copies of it."""
    data, syntax = real_files.data_set(path)
    for content in (data, data[:-1], data[: len(data) // 2], data + b"\0" * 9):
        agree(content, syntax)
    agree(data, IMPLICIT_LITTLE)
    agree(data, EXPLICIT_LITTLE)


def test_most_real_files_take_the_fast_path():
    """The fast path does not support big endian, deflated and damaged files only."""
    taken = 0
    for path in real_files.PART10:
        data, syntax = real_files.data_set(path)
        try:
            FastScan(io.BytesIO(data), encoding_of(syntax), _FAST_SCAN_TAGS, _BULK)
        except FastScanUnsupported:
            continue
        taken += 1
    assert taken > len(real_files.PART10) * 0.7


def test_a_header_does_not_depend_on_earlier_headers():
    """The same bytes in another character set are a different text."""
    uids = b"".join(encoded(tag, "UI", uid.encode() + b"\0" * (len(uid) % 2), False) for tag, uid in UIDS.items())
    for terms in (b"ISO_IR 100", b"ISO_IR 192", b"ISO_IR 101", b""):
        name = encoded(0x00100010, "PN", "Ä".encode(), False)
        study = uids.index(pack("<HH", 0x0020, 0x000D))
        agree(encoded(0x00080005, "CS", terms, False) + uids[:study] + name + uids[study:], EXPLICIT_LITTLE)


def test_the_cache_is_bounded_in_entries_and_in_bytes():
    """The least recently used are dropped first; a value that is too large is not cached."""
    memory: LRUCache[int, str] = LRUCache(3, 100)
    for number in range(3):
        memory.put(number, str(number), 20)
    assert memory.get(0) == "0"
    memory.put(3, "3", 20)
    assert [memory.get(number) for number in range(4)] == ["0", None, "2", "3"]
    memory.put(4, "4", 26)
    assert memory.get(4) is None
    for number in range(5, 8):
        memory.put(number, "x", 25)
    memory.put(8, "x", 25)
    memory.put(9, "x", 1)
    assert [memory.get(number) for number in range(5, 10)] == [None, None, "x", "x", "x"]
