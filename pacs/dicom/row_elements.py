"""The elements that the index keeps in the row of a level (the column `kept`): encoding, merging, and column values.

They are encoded in Explicit VR Little Endian with all text in UTF-8, without group lengths and without (0008,0005). The
same values have the same bytes, in whatever encoding they were received. Values that break the rules of their VR are
kept unchanged. Only an element longer than `LONGEST` is omitted; it is in the stored file.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import zip_longest
from struct import Struct

from pydicom import Dataset
from pydicom.tag import BaseTag

from pacs.dicom.attributes import ATTRIBUTES, COLUMNS, Attribute, Kept, by_keyword, column_name
from pacs.dicom.charset import UTF_8
from pacs.dicom.dataset import CHARACTER_SET, EXPLICIT_LITTLE, Element, View, labelled, raw, write
from pacs.dicom.elements import LONG_VRS, SHORT_VRS
from pacs.dicom.levels import QueryLevel
from pacs.dicom.lru_cache import LRUCache
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS, comparable, name_groups, sounds

BINARY = BINARY_INTEGERS | BINARY_FLOATS | {"SQ", "UN"}

Column = str | int | float | bool | None

LONGEST = 0xFFFE
"""The longest value of a row element, in encoded bytes: the largest 16 bit length."""
LONGEST_COLUMN = 1024
"""The longest value of a column, in bytes of UTF-8: the limit of database indexes."""

_HEAD = Struct("<HH2sH")
_LONG_LENGTH = Struct("<L")
_LONG_VRS = frozenset(vr.encode() for vr in LONG_VRS)


def select(level: QueryLevel, dataset: Dataset) -> Dataset:
    """Return the elements of an instance for the row of a level, with its character set."""
    chosen: dict[BaseTag, Element] = {
        tag: dataset.get_item(tag) for tag in list(dataset.keys()) if tag == CHARACTER_SET or _is_kept(tag, level)
    }
    return labelled(Dataset(chosen), EXPLICIT_LITTLE, View.of(dataset).terms)


def _is_kept(tag: int, level: QueryLevel) -> bool:
    known = ATTRIBUTES.get(tag)
    return known is not None and known.level is level and known.kept in (Kept.COLUMN, Kept.ROW)


def encode(dataset: Dataset) -> bytes:
    """Encode the row elements of a data set. Never raises for invalid values."""
    return write(View.of(dataset), EXPLICIT_LITTLE, UTF_8, LONGEST)


def decode(blob: bytes) -> Dataset:
    """Decode row elements to a data set; its sequences are decoded on access."""
    elements: dict[BaseTag, Element] = {}
    at = 0
    while at < len(blob):
        group, element, name, length = _HEAD.unpack_from(blob, at)
        at += 8
        vr = name.decode("ascii")
        if vr not in SHORT_VRS:
            length = _LONG_LENGTH.unpack_from(blob, at)[0]
            at += 4
        tag = BaseTag(group << 16 | element)
        elements[tag] = raw(tag, vr, blob[at : at + length])
        at += length
    return labelled(Dataset(elements), EXPLICIT_LITTLE, UTF_8)


def merge(first: bytes, later: bytes) -> bytes:
    """Return the first row elements, with absent and empty ones filled from the later."""
    received, found = _elements(first), _elements(later)
    filling = {
        tag: element
        for tag, element in found.items()
        if tag not in received or (_is_empty(received[tag]) and not _is_empty(element))
    }
    return encode(Dataset(received | filling))


def disputed(first: bytes, later: bytes) -> bytes:
    """Return the elements of `later` that would have another value if the two were merged in the other order."""
    if first == later:
        return b""
    received = _elements(first)
    return encode(Dataset({tag: each for tag, each in _elements(later).items() if _differ(received.get(tag), each)}))


def common(first: bytes, second: bytes) -> bytes:
    """Return the elements that both have with the same value."""
    ours, theirs = _elements(first), _elements(second)
    return encode(Dataset({tag: each for tag, each in ours.items() if tag in theirs and _is_same(each, theirs[tag])}))


def replace_elements(blob: bytes, former: bytes, later: bytes) -> bytes:
    """Return the elements with those that `former` has replaced by those of `later` with the same tags."""
    rest, gone, come = _elements(blob), _elements(former), _elements(later)
    kept = {tag: element for tag, element in rest.items() if tag not in gone}
    return encode(Dataset(kept | {tag: element for tag, element in come.items() if tag in gone}))


def _differ(one: Element | None, other: Element) -> bool:
    """Whether two elements differ and neither fills the other."""
    return one is not None and not _is_same(one, other) and _is_empty(one) == _is_empty(other)


def _is_same(one: Element, other: Element) -> bool:
    return (one.VR, one.value or b"") == (other.VR, other.value or b"")


def _elements(blob: bytes) -> dict[BaseTag, Element]:
    return {element.tag: element for element in decode(blob).values()}


def _is_empty(element: Element) -> bool:
    value: bytes = element.value or b""
    return not (value if element.VR in BINARY else value.strip(b" \0\\"))


# --- columns -----------------------------------------------------------------------------------------------------


def columns(level: QueryLevel, blob: bytes) -> dict[str, Column]:
    """Return the comparable values of the columns of a level, by column name; None for an unknown value.

    A person's name has four columns: its folded component groups and, in `_sounds`, its phonetic keys between spaces.
    `irregular` is true when a value does not fit its column (several values, invalid for its VR, too long, a NUL
    within): that column is None, and the row is matched outside SQL.
    """
    if level is QueryLevel.IMAGE:
        return _plain_columns(level, blob) or general_columns(level, blob)
    known = _columns_cache.get((level, blob))
    if known is None:
        known = _plain_columns(level, blob) or general_columns(level, blob)
        _columns_cache.put((level, blob), known, 2 * len(blob) + 2000)
    return dict(known)


_columns_cache: LRUCache[tuple[QueryLevel, bytes], Mapping[str, Column]] = LRUCache(4096, 16 << 20)
"""The columns of patient, study and series, which are the same for all images of a series."""

_TEXT = re.compile(rb"[ -[\]-~]{1,64}")
"""One value in ASCII without control characters: usual values, all of which fit their columns."""
_PLAIN: dict[str, tuple[re.Pattern[bytes], Callable[[str], Column]]] = {
    "UI": (re.compile(rb"[0-9.]{1,64}"), str),
    "IS": (re.compile(rb"[+-]?[0-9]{1,18}"), int),
    **dict.fromkeys(("CS", "LO", "PN", "SH"), (_TEXT, str)),
    **{vr: (re.compile(rb"[0-9.]{2,13}"), partial(comparable, vr)) for vr in ("DA", "TM")},
}
"""For each VR of a column: the pattern of a plain value, and its conversion to the column value, None if invalid."""


def _plain_columns(level: QueryLevel, blob: bytes) -> dict[str, Column] | None:
    """Return the columns when all values are plain, else None."""
    attributes, last, empty = _layout(level)
    filled = dict(empty)
    at = 0
    while at < len(blob):
        group, element, vr, length = _HEAD.unpack_from(blob, at)
        tag, at = group << 16 | element, at + 8
        if tag > last:
            break
        if vr in _LONG_VRS:
            length, at = _LONG_LENGTH.unpack_from(blob, at)[0], at + 4
        name, expected = attributes.get(tag, ("", ""))
        if name and (value := blob[at : at + length].strip(b" \0")):
            shape, convert = _PLAIN[expected]
            if vr != expected.encode() or not shape.fullmatch(value):
                return None
            column = convert(value.decode("ascii"))
            if column is None:
                return None
            if expected == "PN":
                filled |= _name_parts(name, _names(str(column)))
            else:
                filled[name] = column
        at += length
    return filled


@cache
def _layout(level: QueryLevel) -> tuple[Mapping[int, tuple[str, str]], int, Mapping[str, Column]]:
    """Return the columns and VRs of a level by tag, the last tag, and the columns of a row without values."""
    attributes = {by_keyword(each).tag: (column_name(each), by_keyword(each).vr) for each in COLUMNS[level]}
    return attributes, max(attributes), general_columns(level, b"")


def _names(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the folded component groups of a name, as `View.names` does."""
    groups = name_groups(text)
    return (groups,) if groups else ()


def general_columns(level: QueryLevel, blob: bytes) -> dict[str, Column]:
    """Return the same as `columns`, by the general path for all values."""
    view = View.of(decode(blob))
    filled: dict[str, Column] = {"irregular": False}
    for keyword in COLUMNS[level]:
        fitting = _fill(filled, column_name(keyword), by_keyword(keyword), view)
        filled["irregular"] = filled["irregular"] or not fitting
    return filled


def _fill(filled: dict[str, Column], name: str, attribute: Attribute, view: View) -> bool:
    """Fill the columns of an attribute; return whether its value fits."""
    values: tuple[object, ...]
    if attribute.vr == "PN":
        values = names = view.names(attribute)
        parts = _name_parts(name, names)
    else:
        values = found = view.values(attribute)
        parts = {name: found[0] if found else None}
    fits = len(values) <= 1 and None not in values and all(_fits(part) for part in parts.values())
    filled.update(parts if fits else dict.fromkeys(parts))
    return fits


def _name_parts(column: str, names: tuple[tuple[str, ...], ...]) -> dict[str, Column]:
    groups = names[0] if names else ()
    by_group = zip_longest((column, f"{column}_ideographic", f"{column}_phonetic"), groups, fillvalue="")
    keys = " ".join(sounds(groups))
    return {
        **{name: group or None for name, group in by_group},
        f"{column}_sounds": f" {keys} " if keys else None,
    }


def _fits(value: Column) -> bool:
    return not isinstance(value, str) or (len(value.encode()) <= LONGEST_COLUMN and "\0" not in value)
