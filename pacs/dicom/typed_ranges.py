"""Dates, times and ranges as people type them against the rules of PS3.5 6.2, where their meaning is certain.

A text is understood if it can be read in exactly one way: `2024-01` is a month, because 01 is no date. Understood are a
year or month in DA, dates and times in ISO 8601, and ends of a range behind the end of a month or day:
`20240201-20240231`, `000000-240000`.
"""

import re
from collections.abc import Iterator

from pacs.dicom.values import Range, first_and_last, last_day_of, parse_range

_ISO = re.compile(
    r"(?P<year>(?:19|20)[0-9]{2})(?:(?P<sign>-?)(?P<month>[0-9]{2})(?:(?P=sign)(?P<day>[0-9]{2})"
    r"(?:[T ]?(?P<time>[0-9:]{2,8}(?:\.[0-9]{1,6})?)(?P<offset>Z|[+-][0-9]{2}:?[0-9]{2})?)?)?)?"
)
_TIME = re.compile(r"[0-9]{2}(?::?[0-9]{2}){0,2}(?:\.[0-9]{1,6})?")
_MIDNIGHT = re.compile(r"24(?:00(?:00(?:\.0{1,6})?)?)?")
_LONGEST = 64


def parse_typed_range(vr: str, text: str) -> Range:
    """Return the bounds of a DA, TM or DT key as it was typed, without padding.

    A year, month or day includes all of it. Raises ValueError for a text without a meaning, or with several.
    """
    readings = set(_readings(vr, text)) if len(text) <= _LONGEST else set()
    if len(readings) != 1:
        raise ValueError(vr)
    return readings.pop()


def _readings(vr: str, text: str) -> Iterator[Range]:
    """Yield each possible meaning: a single value, and a range for each hyphen."""
    if whole := _bounds(vr, text, is_end=False):
        yield whole
    for found in re.finditer("-", text):
        first, second = text[: found.start()].strip(" "), text[found.end() :].strip(" ")
        low = _bounds(vr, first, is_end=False) if first else (None, None)
        high = _bounds(vr, second, is_end=True) if second else (None, None)
        if low and high and (first or second):
            yield low[0], high[1]


def _bounds(vr: str, text: str, *, is_end: bool) -> Range | None:
    """Return the first and last moment of a date or time as typed; None for what is none."""
    found: Range | None = first_and_last(vr, text)
    if found is not None:
        return found
    if vr == "TM":
        return first_and_last("TM", "23") if is_end and _is_midnight(text) else None
    compact = _compact(text, is_end=is_end)
    moments = first_and_last("DT", compact) if compact and (vr == "DT" or len(compact) <= len("20240131")) else None
    return (moments[0][:8], moments[1][:8]) if moments and vr == "DA" else moments


def _compact(text: str, *, is_end: bool) -> str | None:
    """Return a date, with or without time, as PS3.5 writes it; the end of a range within its month and day."""
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    date = found["year"] + (found["month"] or "") + (found["day"] or "")
    if is_end and "28" < (found["day"] or "") <= "31":
        date = min(date, last_day_of(date))
    time, offset = found["time"] or "", (found["offset"] or "").replace(":", "").replace("Z", "+0000")
    if time and (not _TIME.fullmatch(time) or bool(found["sign"]) != (":" in time)):
        return None
    return date + ("23" if is_end and _is_midnight(time) else time.replace(":", "")) + offset


def _is_midnight(time: str) -> bool:
    """Whether a time is 24:00, the end of a day (ISO 8601)."""
    return _TIME.fullmatch(time) is not None and _MIDNIGHT.fullmatch(time.replace(":", "")) is not None


def standard_date(text: str) -> str:
    """Return a DA key that was typed, as PS3.5 writes it: `2014-10-23` gives 20141023, `2014` a range.

    A text that is standard already, or has no certain meaning, is returned as it is.
    """
    try:
        parse_range("DA", text)
    except ValueError:
        pass
    else:
        return text
    try:
        low, high = parse_typed_range("DA", text)
    except ValueError:
        return text
    return low if low and low == high else f"{low or ''}-{high or ''}"
