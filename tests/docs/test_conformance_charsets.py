"""Checks section 4 of the conformance statement (character sets) on a running server."""

import struct

import pytest

from pacs.testing import serving, uid
from tests import raw
from tests.archives import identifier
from tests.docs.requests import COMMENT, CT, FIND, Requestor, store
from tests.docs.statement import covers, rows
from tests.raw import IMPLICIT


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A server for all tests of the module."""
    with serving(tmp_path_factory.mktemp("query")) as running:
        yield running


# --- character sets ----------------------------------------------------------------------------------------------

CODECS = {
    "6": ("ascii", "Smith"), "100": ("latin-1", "Müller"), "101": ("iso8859-2", "Wałęsa"), "109": ("iso8859-3", "Ħal"),
    "110": ("iso8859-4", "Ķēniņš"), "126": ("iso8859-7", "Διονύσιος"), "127": ("iso8859-6", "قباني"),
    "138": ("iso8859-8", "שרון"), "144": ("iso8859-5", "Люкceмбypг"), "148": ("iso8859-9", "Çavuşoğlu"),
    "203": ("iso8859-15", "Šimunek€"), "166": ("tis-620", "สมชาย"), "13": ("shift-jis", "ﾔﾏﾀﾞ"),
    "192": ("utf-8", "山田"), "GBK": ("gbk", "王小东"), "GB18030": ("gb18030", "王小东"),
    "87": ("iso2022_jp", "山田"), "159": ("iso2022_jp_2", "丂"), "149": ("euc-kr", "홍길동"),
    "58": ("gb2312", "王小东"),
}  # fmt: skip
"""Python codec and a name for each character set, by its number."""

ESCAPES = {
    "100": b"\x1b-A", "101": b"\x1b-B", "109": b"\x1b-C", "110": b"\x1b-D", "144": b"\x1b-L", "127": b"\x1b-G",
    "126": b"\x1b-F", "138": b"\x1b-H", "148": b"\x1b-M", "203": b"\x1b-b", "166": b"\x1b-T", "13": b"\x1b)I",
    "149": b"\x1b$)C", "58": b"\x1b$)A",
}  # fmt: skip
"""The escape sequences of PS3.3 C.12.1.1.2; the codecs of 87 and 159 write their own."""


def written(term: str) -> tuple[str, bytes, str]:
    """Return (0008,0005) for a Defined Term, a name in it, and the name as text."""
    number = term.rsplit(maxsplit=1)[-1]
    codec, name = CODECS[number]
    if not term.startswith("ISO 2022"):
        return term, name.encode(codec), name
    return "\\" + term, ESCAPES.get(number, b"") + name.encode(codec), name


def element(tag: int, content: bytes) -> bytes:
    """Return an element in Implicit VR Little Endian."""
    content += b" " * (len(content) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(content)) + content


def named(term: str, name: bytes, number: int) -> tuple[bytes, str]:
    """Return an instance with this Patient's Name and character set, and its SOP Instance UID."""
    own = uid(f"charset {number}")
    values = {
        0x00080005: term.encode(), 0x00080016: CT.encode(), 0x00080018: own.encode(), 0x00100010: name,
        0x00100020: f"CS{number}".encode(), 0x0020000D: f"1.2.77.{number}".encode(),
        0x0020000E: f"1.2.78.{number}".encode(),
    }  # fmt: skip
    encoded = {tag: each + b"\0" * (len(each) % 2) if tag != 0x00100010 else each for tag, each in values.items()}
    encoded[0x00080005] = term.encode()
    return b"".join(element(tag, each) for tag, each in encoded.items()), own


@covers("Requests and stored values are decoded by their own Specific Character Set")
@pytest.mark.parametrize("term", [row[0] for row in rows("4. Character sets", "Specific Character Set")])
def test_every_character_set_in_requests_and_instances(archive, term):
    """A name stored in it matches a key in UTF-8, and vice versa."""
    number = rows("4. Character sets", "Specific Character Set").index([term])
    stated, name, as_text = written(term)
    for place, (charset, content) in enumerate([(stated, name), ("ISO_IR 192", as_text.encode())]):
        data, own = named(charset, content, 2 * number + place)
        answer = store(archive.port, data, syntax=IMPLICIT, sop_class=CT, instance=own)
        assert answer.status == 0x0000, answer.text(COMMENT)
    for asked, key in (("ISO_IR 192", as_text.encode()), (stated, name), (stated.replace(" ", "-"), name)):
        query = element(0x00080005, asked.encode()) + identifier("STUDY") + element(0x00100010, key)
        with Requestor(archive.port) as requestor:
            *pending, final = requestor.ask(raw.C_FIND, FIND, query + element(0x00100020, b"CS*"))
        found = {each.dataset().PatientID for each in pending}
        assert final.status == 0x0000
        assert {f"CS{2 * number}", f"CS{2 * number + 1}"} <= found, asked


@covers("Bytes that are invalid in the stated character set")
@pytest.mark.parametrize(
    ("stated", "stored", "name"),
    [
        ("", "Jörg^Unsaid".encode(), "Jörg^Unsaid"),
        ("", "Jürg^Unsaid".encode("latin-1"), "Jürg^Unsaid"),
        ("ISO_IR 6", "Jöns^Ascii".encode(), "Jöns^Ascii"),
        ("ISO_IR 192", "Jäns^NotUTF".encode("latin-1"), "Jäns^NotUTF"),
    ],
)
def test_bytes_in_no_stated_character_set(archive, stated, stored, name):
    """They are decoded as UTF-8 if valid, else as Latin-1."""
    number = 500 + [*"UUAN"].index(name.split("^")[1][0]) + ("ü" in name)
    data, own = named(stated, stored, number)
    assert store(archive.port, data, syntax=IMPLICIT, sop_class=CT, instance=own).status == 0x0000
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found(
            "STUDY", SpecificCharacterSet="ISO_IR 192", PatientName=name, PatientID=f"CS{number}"
        )
    assert found.PatientName == name


@covers("A response is written without a character set if it is ASCII")
@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        ("Plain^Ascii", "ISO_IR 144", None),
        ("Люк^Cyrillic", "ISO_IR 144", "ISO_IR 144"),
        ("Mül^Latin", "ISO_IR 144", "ISO_IR 100"),
        ("Mül^Latin", "ISO_IR 192", "ISO_IR 192"),
        ("山田^Han", "ISO_IR 100", "ISO_IR 192"),
    ],
)
def test_the_character_set_of_a_response(archive, name, asked, answered):
    """The first of none, the requestor's, Latin-1 and UTF-8 that can represent the match."""
    number = 600 + len(name)
    data, own = named("ISO_IR 192", name.encode(), number)
    store(archive.port, data, syntax=IMPLICIT, sop_class=CT, instance=own)
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found("STUDY", SpecificCharacterSet=asked, PatientID=f"CS{number}", PatientName="")
    assert found.get("SpecificCharacterSet") == answered
    assert found.PatientName == name
