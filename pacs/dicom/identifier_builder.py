"""Builds Identifiers from mappings of keys to values.

A key is a keyword of PS3.6, "gggg,eeee", (group, element), or a path of keywords through sequences.
"""

import re
import struct
from collections.abc import Iterable, Mapping
from datetime import date
from datetime import time as clock
from typing import Any

from pydicom import Dataset, Sequence
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag

from pacs.dicom import charset
from pacs.dicom.dataset import CHARACTER_SET, View, dictionary_vr, packed, raw
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS
from pacs.errors import InvalidArgument

Identifier = Dataset | Mapping[Any, Any]
"""Keys and values, by keyword, by "gggg,eeee", by (group, element), or by a path of keywords through sequences."""

_TAG = re.compile(r"\(?([0-9a-fA-F]{4}),? ?([0-9a-fA-F]{4})\)?")
_TEXT_VRS = charset.CUSTOMIZABLE | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}


def data_set_of(identifier: Identifier) -> Dataset:
    """Return the keys as a new data set, with texts as given. Raises InvalidArgument for an invalid key.

    Non-ASCII texts are encoded in the character set that the data set names, otherwise in Latin-1 or UTF-8.
    """
    if isinstance(identifier, Dataset):
        return _in_a_character_set(Dataset(dict(identifier.items())))
    texts = list(_texts(identifier.values()))
    found = Dataset()
    stated = identifier.get("SpecificCharacterSet") or ""
    terms = charset.parse(stated) if stated else charset.choose(texts, ())
    if terms or "SpecificCharacterSet" in identifier:  # some AEs state theirs only where it is a return key
        put_code(found, CHARACTER_SET, "\\".join(terms))
    for key, value in identifier.items():
        if key != "SpecificCharacterSet":
            _put(found, path_of(key), value, terms)
    return found


def _in_a_character_set(dataset: Dataset) -> Dataset:
    """Set Specific Character Set if the data set has none but needs one, and return the data set."""
    texts = list(View.of(dataset).all_texts())
    if CHARACTER_SET not in dataset and (terms := charset.choose(texts, ())):
        put_code(dataset, CHARACTER_SET, "\\".join(terms))
    return dataset


def put_code(dataset: Dataset, tag: int, text: str) -> None:
    """Set an element of VR CS."""
    dataset[tag] = raw(tag, "CS", text.encode("ascii"))


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)
        elif isinstance(value, Mapping):
            yield from _texts(value.values())


def path_of(key: object) -> list[int]:
    """Return the tags on the path of a key. Raises InvalidArgument."""
    if isinstance(key, int):
        return [int(key)]
    if isinstance(key, tuple) and len(key) == 2 and all(isinstance(each, int) for each in key):
        return [key[0] << 16 | key[1]]
    if isinstance(key, str) and key:
        return [_tag(part) for part in key.split(".")]
    raise InvalidArgument(f"A key is a keyword, a tag or a path of keywords, not {key!r}")


def _tag(text: str) -> int:
    tag = tag_for_keyword(text)
    if text and tag is not None:  # the dictionary has an element with an empty keyword
        return tag
    found = _TAG.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"{text!r} is neither a keyword of PS3.6 nor a tag like 0010,0020")
    return int(found[1], 16) << 16 | int(found[2], 16)


def _put(dataset: Dataset, path: list[int], value: object, terms: charset.Terms) -> None:
    """Set a value at the end of a path, creating one item for each sequence on the way."""
    tag, *rest = path
    if rest and _vr(tag) != "SQ" and not tag >> 16 & 1:
        raise InvalidArgument(f"{keyword_for_tag(tag) or f'{tag:08X}'} is not a sequence and contains no other keys")
    if rest:
        items = dataset[tag].value if tag in dataset else None
        if not items:
            items = Sequence([Dataset()])
            dataset.add(DataElement(BaseTag(tag), "SQ", items))
        _put(items[0], rest, value, terms)
    else:
        dataset[tag] = _element(tag, value, terms)


def _element(tag: int, value: object, terms: charset.Terms) -> Any:
    vr = _vr(tag)
    if vr == "SQ":
        return DataElement(BaseTag(tag), "SQ", Sequence(_items(value)))
    if value is None:
        return raw(tag, vr, b"")
    values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not values or values == [""]:
        return raw(tag, vr, b"")
    try:
        if vr in _TEXT_VRS:
            text = "\\".join(_text(each, vr) for each in values)
            return raw(tag, vr, charset.encode(text, terms if vr in charset.CUSTOMIZABLE else ()))
        if vr in BINARY_INTEGERS or vr in BINARY_FLOATS:
            return raw(tag, vr, packed(vr, [_number(part, vr) for each in values for part in _parts(each)]))
        pieces = [each for each in values if isinstance(each, bytes)]
        if pieces != values:
            raise TypeError(vr)
        return raw(tag, vr, b"".join(pieces))
    except (ValueError, TypeError, LookupError, OverflowError, struct.error) as error:
        raise InvalidArgument(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) of VR {vr} cannot be {value!r}") from error


_FORMATS = {"DA": "%Y%m%d", "TM": "%H%M%S", "DT": "%Y%m%d%H%M%S"}


def _text(value: object, vr: str) -> str:
    """A value as text; Python's dates and times in the format of their VR."""
    return value.strftime(_FORMATS[vr]) if vr in _FORMATS and isinstance(value, date | clock) else str(value)


def _parts(value: object) -> list[Any]:
    """Return the values that backslashes separate in a text; any other value as it is."""
    return list(value.split("\\")) if isinstance(value, str) else [value]


def _number(value: object, vr: str) -> int | float:
    """A value of a binary VR, from text too. Raises ValueError."""
    if vr == "AT" and isinstance(value, str):
        return _tag(value)
    return float(str(value)) if vr in BINARY_FLOATS else int(str(value))


def _items(value: Any) -> list[Dataset]:
    """Return the items of a sequence key; one empty item for an empty value (PS3.4 C.2.2.2.6)."""
    if value in (None, "", []):
        return [Dataset()]
    given = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(each, Dataset | Mapping) for each in given):
        raise InvalidArgument(f"The items of a sequence are mappings or data sets, not {value!r}")
    return [data_set_of(each) for each in given]


def _vr(tag: int) -> str:
    vr = dictionary_vr(tag)
    return "LO" if vr == "UN" and tag >> 16 & 1 else vr
