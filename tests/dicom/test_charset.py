"""Character sets: checklist M14, and the examples of PS3.5 Annexes H to K."""

import pytest

from pacs.dicom import charset
from pacs.dicom.charset import can_hold, choose, decode, encode, parse

WRITTEN = [
    ("ISO_IR 100", "Buc^Jérôme", b"Buc^J\xe9r\xf4me"),
    ("ISO_IR 101", "Wałęsa", b"Wa\xb3\xeasa"),
    ("ISO_IR 109", "Ħanżon", b"\xa1an\xbfon"),
    ("ISO_IR 110", "Līga", b"L\xefga"),
    ("ISO_IR 144", "Люкceмбypг", b"\xbb\xee\xdace\xdc\xd1yp\xd3"),
    ("ISO_IR 127", "قباني^لنزار", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1"),
    ("ISO_IR 126", "Διονυσιος", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2"),
    ("ISO_IR 138", "שרון^דבורה", b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4"),
    ("ISO_IR 148", "Çavuşoğlu", b"\xc7avu\xfeo\xf0lu"),
    ("ISO_IR 203", "Œ €", b"\xbc \xa4"),
    ("ISO_IR 166", "นามสกุล", b"\xb9\xd2\xc1\xca\xa1\xd8\xc5"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東", "Wang^XiaoDong=王^小東".encode()),
    ("GB18030", "Wang^XiaoDong=王^小东", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
    ("GBK", "王^小东", b"\xcd\xf5^\xd0\xa1\xb6\xab"),
    (
        "\\ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    ("ISO 2022 IR 6\\ISO 2022 IR 159", "丂", b"\x1b$(D0!\x1b(B"),
    (
        "\\ISO 2022 IR 149",
        "Hong^Gildong=洪^吉洞=홍^길동",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    ("\\ISO 2022 IR 58", "Wang=王^小东", b"Wang=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab"),
    ("ISO 2022 IR 100\\ISO 2022 IR 144", "Jérôme=Люк", b"J\xe9r\xf4me=\x1b-L\xbb\xee\xda"),
]


@pytest.mark.parametrize(("terms", "text", "written"), WRITTEN, ids=[row[0] for row in WRITTEN])
def test_m14_text_of_every_character_set_is_read_and_written(terms, text, written):
    """The bytes of the standard's examples are the text, and the text is the bytes."""
    assert decode(written, parse(terms)) == text
    assert encode(text, parse(terms)) == written


@pytest.mark.parametrize(
    ("value", "terms"),
    [
        ("ISO-IR 192", ("ISO_IR 192",)),
        ("ISO_IR_100", ("ISO_IR 100",)),
        ("iso_ir 100 ", ("ISO_IR 100",)),
        ("ISO IR 144", ("ISO_IR 144",)),
        ("UTF-8", ("ISO_IR 192",)),
        ("ISO 2022 GBK", ("GBK",)),
        ("ISO 2022 58", ("ISO 2022 IR 58",)),
        ("ISO2022IR87", ("ISO 2022 IR 87",)),
        ("\\ISO 2022 IR 87", ("", "ISO 2022 IR 87")),
        ("ISO_IR 192\\ISO 2022 IR 87", ("ISO_IR 192",)),
        ("", ()),
        ("\\", ()),
    ],
)
def test_m14_misspelled_terms_are_accepted(value, terms):
    """Spellings that devices use are mapped to the Defined Term."""
    assert parse(value) == terms


def test_m14_bytes_without_character_set_are_utf_8_or_else_latin_1():
    """Without a character set, valid UTF-8 is decoded as UTF-8, and other bytes as Latin-1."""
    assert decode("Jérôme".encode(), ()) == "Jérôme"
    assert decode("Jérôme".encode("latin_1"), ()) == "Jérôme"


@pytest.mark.parametrize("terms", ["klingon", "ISO_IR 999", "\\ISO 2022 IR 999"])
def test_m14_an_unknown_set_falls_back_and_is_never_written(terms):
    """An unsupported set is treated as missing, and no response uses it."""
    assert decode("Jérôme".encode(), parse(terms)) == "Jérôme"
    assert choose(["Jérôme"], parse(terms)) == ("ISO_IR 100",)


@pytest.mark.parametrize("terms", ["ISO_IR 192", "GB18030", "ISO_IR 13", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149", ""])
def test_m14_no_byte_is_ever_lost(terms):
    """Any bytes in any stated set are decoded, and different bytes give different texts."""
    seen = {
        decode(b"A" + bytes([high, low]) + b"\x1b$B\xff", parse(terms)) for high in (0x81, 0xFE) for low in (0x5C, 0xFF)
    }
    assert len(seen) == 4
    assert "\ufffd" not in "".join(seen)


def test_m14_a_backslash_within_a_character_is_no_separator():
    """The second byte of a character of Shift JIS, GBK or GB18030 may be 5CH; the text has no backslash then."""
    assert b"\x5c" in "表".encode("shift_jis")
    assert decode("表".encode("shift_jis"), ("ISO_IR 13",)) == "表"
    assert b"\x5c" in "乗".encode("gbk")
    assert decode("乗\\乙".encode("gbk"), ("GBK",)).split("\\") == ["乗", "乙"]
    assert decode("乗".encode("gb18030"), ("GB18030",)) == "乗"
    assert decode(b"\x1b$B;\\\x1b(B\\A", parse("\\ISO 2022 IR 87")).count("\\") == 1


def test_m14_missing_escape_sequences_are_tolerated():
    """Korean after a delimiter without a new escape sequence is still Korean where the first set is ASCII."""
    assert decode(b"\x1b$)C\xc8\xab^\xb1\xe6\xb5\xbf", parse("\\ISO 2022 IR 149")) == "홍^길동"


@pytest.mark.parametrize("padding", [b" ", b"\0", b"   ", b"\r\n"])
@pytest.mark.parametrize(
    ("start", "back"),
    [(b"\x1b$B;3ED", b"\x1b(B"), (b"\x1b$B;3ED", b"\x1b(J"), (b"\x1b$(D0!", b"\x1b(B"), (b"\x1b$@;3ED", b"")],
)
def test_m14_padding_before_the_escape_sequence_back_is_padding(start: bytes, back: bytes, padding: bytes):
    """Some writers pad a text of two bytes a character and then return to ASCII; spaces within it stay too."""
    terms = parse("\\ISO 2022 IR 87\\ISO 2022 IR 159")
    assert decode(start + padding + back, terms) == decode(start + back, terms) + padding.decode("ascii")
    within = start + padding + start[-2:] + back
    assert decode(within, terms) == decode(start, terms) + padding.decode("ascii") + decode(start, terms)[-1]


@pytest.mark.parametrize(
    ("texts", "preferred", "chosen"),
    [
        (["DOE^JOHN"], "ISO_IR 192", ()),
        (["DOE^JOHN"], "", ()),
        (["Jérôme"], "", ("ISO_IR 100",)),
        (["Jérôme"], "ISO_IR 192", ("ISO_IR 192",)),
        (["Jérôme"], "ISO_IR 144", ("ISO_IR 100",)),
        (["Люк"], "ISO_IR 144", ("ISO_IR 144",)),
        (["Люк", "Jérôme"], "ISO_IR 144", ("ISO_IR 192",)),
        (["山田"], "\\ISO 2022 IR 87", ("", "ISO 2022 IR 87")),
        (["山田", "홍"], "\\ISO 2022 IR 87", ("ISO_IR 192",)),
        (["表\\山"], "ISO_IR 13", ("ISO_IR 192",)),
        (["小东"], "GB18030", ("GB18030",)),
    ],
)
def test_m14_a_response_is_encoded_in_a_suitable_character_set(texts, preferred, chosen):
    """None for ASCII, the requestor's own if it can encode every text, else Latin-1, else UTF-8."""
    assert choose(texts, parse(preferred)) == chosen


def test_m14_a_character_set_fits_a_text_that_is_unchanged_after_encoding():
    """A round trip decides, not the absence of an error."""
    assert can_hold(["Jérôme"], ("ISO_IR 100",))
    assert not can_hold(["山"], ("ISO_IR 100",))
    assert not can_hold(["a\x1b$B"], ("", "ISO 2022 IR 87"))


def test_every_defined_term_has_a_python_codec():
    """Python has all codecs of the tables."""
    for term in charset._CODECS:
        assert charset.decode(b"ABC", (term,)) == "ABC"
        assert "x".encode(charset.python_codec(term))
