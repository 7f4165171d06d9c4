"""The comparable form of values by Value Representation (PS3.5 6.2): dates, times and their ranges, names, UIDs.

The functions take text and know no data set. The comparable form has no padding (docs/checklist.md M2). Dates and times
are compared by value (M1), numbers as numbers (M13), names without case, accents and trailing delimiters (M15), and
everything else character by character.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import jellyfish

from pacs.dicom.query import Comparable

TRAILING_PADDING_ONLY = frozenset({"LT", "ST", "UC", "UR", "UT"})
"""The text VRs whose leading spaces are significant (PS3.5 Table 6.2-1)."""
ONE_VALUE = frozenset({"LT", "ST", "UR", "UT"})
"""The text VRs that hold one value only: a backslash in them is a character (PS3.5 6.2)."""
WILDCARDS_ALLOWED = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
"""The VRs that wild card matching applies to (PS3.4 C.2.2.2.4)."""
RANGES_ALLOWED = frozenset({"DA", "TM", "DT"})
"""The VRs that range matching applies to (PS3.4 C.2.2.2.5)."""
BINARY_INTEGERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "AT"})
BINARY_FLOATS = frozenset({"FL", "FD"})

Range = tuple[str | None, str | None]
"""The comparable bounds of a range, both inclusive; None is an open end."""

_PADDING = " \0"
_LONGEST_DATE_TIME = 256


def stripped(vr: str, text: str) -> str:
    """Return the text without padding, which never influences a match (M2)."""
    return text.rstrip(_PADDING) if vr in TRAILING_PADDING_ONLY else text.strip(_PADDING)


def comparable(vr: str, text: str) -> Comparable | None:
    """Return the comparable form of one value; None when it is empty or breaks the rules of its VR.

    DA gives `YYYYMMDD`, TM `HHMMSS.FFFFFF`, DT `YYYYMMDDHHMMSS.FFFFFF` in UTC (a value without offset is taken as
    UTC); missing components get their lowest value. IS and binary integers give an int, DS and binary
    floats a number, PN its folded text, and everything else the text without padding.
    """
    bare = stripped(vr, text)
    if not bare:
        return None
    if vr in RANGES_ALLOWED:
        bounds = first_and_last(vr, bare)
        return bounds[0] if bounds else None
    if vr == "IS" or vr in BINARY_INTEGERS:
        number = _number(bare)
        return number if isinstance(number, int) else None
    if vr == "DS" or vr in BINARY_FLOATS:
        return _number(bare)
    return fold(bare) if vr == "PN" else bare


# --- numbers -----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def _number(text: str) -> int | float | None:
    """Return an integral number as int, others as float; None for text that is no number and for infinity."""
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        return None
    exact = Decimal(text)
    if abs(exact) < 2**63 and exact == exact.to_integral_value():
        return int(exact)
    number = float(exact)
    return number if abs(number) != float("inf") else None


# --- dates and times ---------------------------------------------------------------------------------------------

_DA = re.compile(r"(?P<Y>[0-9]{4})(?P<dot>\.?)(?P<m>[0-9]{2})(?P=dot)(?P<d>[0-9]{2})")
_TM = re.compile(
    r"(?P<H>[0-9]{2})(?:(?P<colon>:?)(?P<M>[0-9]{2})(?:(?P=colon)(?P<S>[0-9]{2})(?:\.(?P<f>[0-9]{1,6}))?)?)?"
)
_DT = re.compile(
    r"(?P<Y>[0-9]{4})(?:(?P<m>[0-9]{2})(?:(?P<d>[0-9]{2})(?:(?P<H>[0-9]{2})(?:(?P<M>[0-9]{2})"
    r"(?:(?P<S>[0-9]{2})(?:\.(?P<f>[0-9]{1,6}))?)?)?)?)?)?(?P<offset>[+-][0-9]{4})?"
)
_SHAPES = {"DA": _DA, "TM": _TM, "DT": _DT}
_LIMITS = {"m": (1, 12), "d": (1, 31), "H": (0, 23), "M": (0, 59), "S": (0, 60)}

# A hyphen before four digits that can be an offset from UTC belongs to it: "2020-0500" is a value, not a range.
_DT_TOKEN = r"[0-9]{4,14}(?:\.[0-9]{1,6})?(?:\+[0-9]{4}|-(?:0[0-9]|1[0-2])[0-5][0-9](?![0-9]))?"  # noqa: S105
_RANGE = {
    "DA": re.compile(r"([0-9.]*) *(-?) *([0-9.]*)"),
    "TM": re.compile(r"([0-9.:]*) *(-?) *([0-9.:]*)"),
    "DT": re.compile(rf"({_DT_TOKEN})? *(-?) *({_DT_TOKEN})?"),
}


def parse_range(vr: str, text: str) -> Range:
    """Return the bounds of a DA, TM or DT key (C.2.2.2.5, M6); a single value is both bounds.

    Accepts `a-b`, `a-`, `-b`, with optional spaces around the hyphen; `-` alone is open at both ends: universal
    matching. A lower bound or single value of reduced precision is the beginning of its unit, an upper bound the end:
    `-1030` includes 10:30:59.999999 and a leap second. A reversed range is returned unchanged and matches nothing. In
    DT a hyphen before four digits that can be an offset from UTC belongs to the value. Raises ValueError.
    """
    bare = text.strip(_PADDING)
    found = _RANGE[vr].fullmatch(bare) if len(bare) <= _LONGEST_DATE_TIME else None
    if found is None or not bare:
        raise ValueError(vr)
    first, hyphen, second = (found[1] or "", found[2], found[3] or "")
    if not hyphen and second:
        raise ValueError(vr)
    low = _required_bounds(vr, first)[0] if first else None
    if not hyphen:
        return low, low
    return low, _required_bounds(vr, second)[1] if second else None


def _required_bounds(vr: str, text: str) -> tuple[str, str]:
    bounds = first_and_last(vr, text)
    if bounds is None:
        raise ValueError(vr)
    return bounds


def first_and_last(vr: str, text: str) -> tuple[str, str] | None:
    """Return the first and last moment of a date or time of any precision; None for an invalid one."""
    found = _SHAPES[vr].fullmatch(text)
    if found is None:
        return None
    given = {name: part for name, part in found.groupdict().items() if part and name in "YmdHMSf"}
    if not _is_possible(given):
        return None
    low, high = _filled(given, _lowest), _filled(given, _highest)
    if vr == "DA":
        return low[:8], low[:8]
    if vr == "TM":
        return low[8:], high[8:]
    return _in_utc(low, high, found["offset"])


def _is_possible(given: dict[str, str]) -> bool:
    for name, (least, most) in _LIMITS.items():
        if name in given and not least <= int(given[name]) <= most:
            return False
    if "Y" not in given:
        return True
    return given["Y"] != "0000" and int(given.get("d", "1")) <= _days(given)


def last_day_of(date: str) -> str:
    """Return the last day of the month of a date `YYYYMMDD`; the date itself where there is no such month."""
    given = {"Y": date[:4], "m": date[4:6]}
    return f"{date[:6]}{_days(given):02}" if _is_possible(given) else date


def _days(given: dict[str, str]) -> int:
    """Return the number of days of the month."""
    year, month = int(given.get("Y", "2000")), int(given.get("m", "12"))
    return 31 if month == 12 else (datetime(year, month + 1, 1) - timedelta(days=1)).day


def _lowest(name: str, _: dict[str, str]) -> str:
    return {"Y": "0000", "m": "01", "d": "01", "H": "00", "M": "00", "S": "00"}[name]


def _highest(name: str, given: dict[str, str]) -> str:
    # A minute without seconds includes a leap second, so that 23:59:60 is within 2359.
    return {"Y": "0000", "m": "12", "d": f"{_days(given):02}", "H": "23", "M": "59", "S": "60"}[name]


def _filled(given: dict[str, str], fill: Callable[[str, dict[str, str]], str]) -> str:
    parts = [given.get(name) or fill(name, given) for name in "YmdHMS"]
    return "".join(parts) + "." + given.get("f", "").ljust(6, "0" if fill is _lowest else "9")


def _in_utc(low: str, high: str, offset: str | None) -> tuple[str, str] | None:
    if offset is None:
        return low, high
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    signed = -minutes if offset[0] == "-" else minutes
    if int(offset[3:5]) > 59 or not -12 * 60 <= signed <= 14 * 60:
        return None
    try:
        return _shifted(low, -signed), _shifted(high, -signed)
    except OverflowError:
        return None


def _shifted(moment: str, minutes: int) -> str:
    """Return the moment `minutes` later; seconds, which may be a leap second, do not change."""
    moved = datetime.strptime(moment[:12], "%Y%m%d%H%M") + timedelta(minutes=minutes)
    return f"{moved.year:04}{moved:%m%d%H%M}{moment[12:]}"


# --- names -------------------------------------------------------------------------------------------------------

_ACCENTS = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
# Letters that Unicode does not decompose, and wide characters that would become wild cards.
_LETTERS = str.maketrans(
    {
        "ł": "l", "ø": "o", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i", "ħ": "h", "ŧ": "t",
        "ĸ": "k", "ŋ": "n", "ŀ": "l",
    }
)  # fmt: skip
_NO_WILDCARDS = str.maketrans({"＊": "∗", "﹡": "∗", "？": "⸮", "﹖": "⸮", "⁇": "⸮", "⁈": "⸮", "⁉": "⸮"})
_SPACES = re.compile(r"\s+")
_AROUND_DELIMITERS = re.compile(r" ?\^ ?")
_WORDS = re.compile(r"[^\w]+|_")


def fold(text: str) -> str:
    """Return a name in comparable form: lower case, no accents, single spaces, no trailing delimiters (M15).

    Full and half width forms are equal; Japanese voicing marks and the vowel signs of other scripts are kept.
    """
    letters = text.casefold() if text.isascii() else _without_accents(text)
    spaced = _SPACES.sub(" ", letters.strip(_PADDING))
    return _AROUND_DELIMITERS.sub("^", spaced).rstrip(" ^")


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.translate(_NO_WILDCARDS))
    apart = unicodedata.normalize("NFKD", apart.casefold())
    letters = "".join(char for char in apart if not _is_accent(char))
    return unicodedata.normalize("NFC", letters.translate(_LETTERS))


def _is_accent(char: str) -> bool:
    return char > "\u02ff" and any(first <= ord(char) <= last for first, last in _ACCENTS)


def name_groups(text: str) -> tuple[str, ...]:
    """Return the folded component groups of a name, at most three (PS3.5 6.2.1.2), without empty ones at the end."""
    groups = [fold(group) for group in text.split("=")[:3]]
    while groups and not groups[-1]:
        groups.pop()
    return tuple(groups)


def sounds(groups: Sequence[str]) -> tuple[str, ...]:
    """Return a phonetic key for each word of the folded groups: Soundex for Latin words, else the word."""
    words = (word for group in groups for word in _WORDS.split(group))
    return tuple(dict.fromkeys(_phonetic_key(word) for word in words if word))


def _phonetic_key(word: str) -> str:
    latin = "".join(char for char in word if char.isascii() and char.isalpha())
    return jellyfish.soundex(latin) if latin and word.isascii() else word


# --- UIDs --------------------------------------------------------------------------------------------------------

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*")
_TOLERANT_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def is_uid(text: str, strict: bool = False) -> bool:
    """Whether the text is a UID of at most 64 characters (PS3.5 9.1).

    Components with leading zeros violate the standard but are common, so only `strict` rejects them.
    """
    return len(text) <= 64 and (_UID if strict else _TOLERANT_UID).fullmatch(text) is not None


# --- text --------------------------------------------------------------------------------------------------------


def other_normal_forms(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts with all accents composed, and with all decomposed, as far as these differ from `texts`."""
    forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in texts if not text.isascii())
    return tuple(dict.fromkeys(form for form in forms if form not in texts))
