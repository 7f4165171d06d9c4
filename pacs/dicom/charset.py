"""Character sets: decoding of text and the choice of the set for a response (PS3.3 C.12.1.1.2, PS3.5 6.1).

A character set is the tuple of the Defined Terms of (0008,0005), in the spelling of the standard; `()` means that the
data set states none. Decoding never raises and never loses bytes: text that is not valid in the stated set is decoded
as UTF-8, and otherwise as Latin-1. pydicom gives the Python codec of each Defined Term. The ISO 2022 code extensions
are implemented here, because those of pydicom replace bytes that they cannot decode.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from pydicom.charset import python_encoding

Terms = tuple[str, ...]

LATIN_1: Terms = ("ISO_IR 100",)
UTF_8: Terms = ("ISO_IR 192",)

CUSTOMIZABLE = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
"""The VRs whose text depends on Specific Character Set (PS3.5 6.1.2.2)."""

_ALIASES = {
    "UTF8": "ISO_IR 192", "LATIN1": "ISO_IR 100", "ISO88591": "ISO_IR 100", "ASCII": "ISO_IR 6",
    "USASCII": "ISO_IR 6", "GB18030": "GB18030", "GBK": "GBK", "ISO2022GBK": "GBK", "GB2312": "ISO 2022 IR 58",
    "ISO202258": "ISO 2022 IR 58",
}  # fmt: skip
_NOT_ALPHANUMERIC = re.compile(r"[^A-Z0-9]")
_NUMBERED = re.compile(r"(ISO2022IR|ISO2022|ISOIR|IR|)([0-9]{1,3})")
_ALONE = ("ISO_IR 192", "GBK", "GB18030")
_CODECS = {
    **python_encoding, "": "ascii", "ISO_IR 6": "ascii", "ISO 2022 IR 6": "ascii", "ISO 2022 IR 58": "gb2312",
    "ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15",
}  # fmt: skip


def spelled(term: str) -> str:
    """Return a Defined Term in the spelling of PS3.3; devices also write `ISO-IR 192`, `ISO_IR_100` or `utf8`.

    An unknown term is returned unchanged.
    """
    letters = _NOT_ALPHANUMERIC.sub("", term.upper())
    if letters in _ALIASES:
        return _ALIASES[letters]
    found = _NUMBERED.fullmatch(letters)
    if found is None:
        return term.strip(" \0")
    prefix = "ISO 2022 IR " if found[1].startswith("ISO2022") else "ISO_IR "
    return prefix + found[2] if prefix + found[2] in _CODECS else "ISO 2022 IR " + found[2]


DEFINED_TERMS = tuple(sorted(term for term in _CODECS if term and spelled(term) == term))
"""The supported Defined Terms, in the spelling of PS3.3."""


def parse(value: str) -> Terms:
    r"""Return the Defined Terms of a (0008,0005): `('', 'ISO 2022 IR 87')` for `\ISO 2022 IR 87`, `()` for none."""
    terms = [spelled(term) if term.strip(" \0") else "" for term in value.split("\\")]
    if not any(terms):
        return ()
    # A set without code extensions excludes all others (PS3.3 Table C.12-5).
    return (terms[0],) if terms[0] in _ALONE else tuple(terms)


def is_known(terms: Terms) -> bool:
    """Whether every Defined Term is one of PS3.3."""
    return all(term in _CODECS for term in terms)


def python_codec(term: str) -> str:
    """Return the Python codec of a Defined Term; UTF-8 for an unknown one."""
    return _CODECS.get(term, "utf_8")


# --- code extensions (PS3.5 6.1.2.5) -----------------------------------------------------------------------------

_ESCAPE = re.compile(rb"\x1b(?:\$\([D]|\$\)[AC]|\$B|\$@|\([BJ]|[-)][A-Zb])")
_CONTROLS = re.compile(rb"([\x00-\x20]+)")
_G0_MULTI_BYTE = {b"\x1b$B": "iso2022_jp", b"\x1b$@": "iso2022_jp", b"\x1b$(D": "iso2022_jp_2"}
_G0_ASCII = (b"\x1b(B", b"\x1b(J")
_G1 = {
    b"\x1b-A": "latin_1", b"\x1b-B": "iso8859_2", b"\x1b-C": "iso8859_3", b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7", b"\x1b-G": "iso8859_6", b"\x1b-H": "iso8859_8", b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9", b"\x1b-b": "iso8859_15", b"\x1b-T": "tis_620",
    b"\x1b)I": "shift_jis", b"\x1b$)C": "euc_kr", b"\x1b$)A": "gb2312",
}  # fmt: skip
_ESCAPES = {
    "ISO 2022 IR 87": b"\x1b$B", "ISO 2022 IR 159": b"\x1b$(D", "ISO 2022 IR 13": b"\x1b)I",
    "ISO 2022 IR 149": b"\x1b$)C", "ISO 2022 IR 58": b"\x1b$)A", "ISO 2022 IR 100": b"\x1b-A",
    "ISO 2022 IR 101": b"\x1b-B", "ISO 2022 IR 109": b"\x1b-C", "ISO 2022 IR 110": b"\x1b-D",
    "ISO 2022 IR 126": b"\x1b-F", "ISO 2022 IR 127": b"\x1b-G", "ISO 2022 IR 138": b"\x1b-H",
    "ISO 2022 IR 144": b"\x1b-L", "ISO 2022 IR 148": b"\x1b-M", "ISO 2022 IR 166": b"\x1b-T",
    "ISO 2022 IR 203": b"\x1b-b",
}  # fmt: skip
_DELIMITERS = "\\^=\r\n\f\t"


def decode(value: bytes, terms: Terms) -> str:
    """Return the text of a value, decoded in its character set, else as UTF-8, else as Latin-1."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    for attempt in (_decode_stated, _decode_utf_8):
        try:
            return attempt(value, terms)
        except (UnicodeError, LookupError):
            continue
    return value.decode("latin_1")


def _decode_utf_8(value: bytes, _: Terms) -> str:
    return value.decode("utf_8")


def _decode_stated(value: bytes, terms: Terms) -> str:
    if not terms or b"\x1b" not in value or terms[0] in _ALONE:
        return value.decode(_codec(terms))
    return "".join(_decoded_fragments(value, _codec(terms)))


def _codec(terms: Terms) -> str:
    return _CODECS[terms[0]] if terms else "utf_8"


def _decoded_fragments(value: bytes, first: str) -> Iterator[str]:
    """Yield the fragments between escape sequences, each decoded in the code element that was designated last."""
    starts = [found.start() for found in _ESCAPE.finditer(value)]
    g1 = first
    for start, end in pairwise([0, *starts, len(value)]):
        found = _ESCAPE.match(value, start)
        escape, fragment = (found[0], value[found.end() : end]) if found else (b"", value[start:end])
        if escape in _G0_MULTI_BYTE:
            # Padding, spaces and line breaks are no part of its characters; some writers escape back after them only.
            for text in _CONTROLS.split(fragment):
                is_control = text[:1] <= b" "
                yield text.decode("ascii") if is_control else (escape + text).decode(_G0_MULTI_BYTE[escape])
            continue
        g1 = _G1.get(escape, g1) if escape not in _G0_ASCII else g1
        yield _decode_g1(fragment, g1, first)


def _decode_g1(fragment: bytes, g1: str, first: str) -> str:
    """Decode a fragment; from a delimiter on in the first set, unless that cannot decode it."""
    head, delimiter, tail = re.fullmatch(rb"(?s)([^\\^=\r\n\f\t]*)(.?)(.*)", fragment).groups()  # type: ignore[union-attr]
    if not delimiter:
        return fragment.decode(g1)
    try:
        return head.decode(g1) + (delimiter + tail).decode(first)
    except UnicodeError:
        return fragment.decode(g1)


# --- writing -----------------------------------------------------------------------------------------------------


def encode(text: str, terms: Terms) -> bytes:
    """Encode the text in this character set. Raises UnicodeEncodeError for characters that it does not have."""
    if len(terms) > 1:
        return b"".join(_encode_component(part, terms) for part in re.split(r"([\\^=\r\n\f\t])", text))
    return b"".join(_encode_char(char, terms[0]) for char in text) if _is_jis(terms) else text.encode(_codec(terms))


def _is_jis(terms: Terms) -> bool:
    return bool(terms) and _CODECS.get(terms[0]) == "shift_jis"


def _encode_component(text: str, terms: Terms) -> bytes:
    """Encode one component: escape sequences where the set changes, the first set at its end (PS3.5 6.1.2.5.3)."""
    out, current = bytearray(), terms[0]
    for char in text:
        wanted = next((term for term in _candidates(current, terms) if _can_hold(char, term)), None)
        if wanted is None:
            raise UnicodeEncodeError("ISO 2022", text, 0, len(text), "in none of the sets")
        out += _designation(current, wanted, terms[0]) + _encode_char(char, wanted)
        current = wanted
    return bytes(out) + _designation(current, terms[0], terms[0])


def _candidates(current: str, terms: Terms) -> Iterator[str]:
    yield from (terms[0], current)
    yield from terms[1:]


def _designation(current: str, wanted: str, first: str) -> bytes:
    if current == wanted:
        return b""
    escape = _ESCAPES.get(wanted, b"") if wanted != first else b""
    leaves_g0 = _ESCAPES.get(current) in _G0_MULTI_BYTE and escape not in _G0_MULTI_BYTE
    return (_to_ascii(first) if leaves_g0 else b"") + escape


def _to_ascii(first: str) -> bytes:
    return b"\x1b(J" if _CODECS.get(first) == "shift_jis" else b"\x1b(B"


def _can_hold(char: str, term: str) -> bool:
    try:
        _encode_char(char, term)
    except (UnicodeError, LookupError):
        return False
    return True


def _encode_char(char: str, term: str) -> bytes:
    """Encode one character in the code element of a Defined Term, without its escape sequence."""
    codec = _CODECS.get(term, term)
    encoded = char.encode(codec)
    if codec == "shift_jis" and len(encoded) > 1:
        raise UnicodeEncodeError(codec, char, 0, 1, "not in JIS X 0201")
    if not codec.startswith("iso2022"):
        return encoded
    escape = _ESCAPES[term]
    if not encoded.startswith(escape):
        raise UnicodeEncodeError(codec, char, 0, 1, "not in this code element")
    return encoded.removeprefix(escape).removesuffix(b"\x1b(B")


def can_hold(texts: Iterable[str], terms: Terms) -> bool:
    """Whether every text is unchanged after encoding and decoding in this character set."""
    try:
        return is_known(terms) and all(decode(encode(text, terms), terms) == text for text in texts)
    except (UnicodeError, LookupError):
        return False


def choose(texts: Sequence[str], preferred: Terms) -> Terms:
    """Return the character set of a response: none for ASCII, else the first that fits: preferred, Latin-1, UTF-8."""
    if all(text.isascii() and "\x1b" not in text for text in texts):
        return ()
    return next((terms for terms in (preferred, LATIN_1) if terms and can_hold(texts, terms)), UTF_8)
