"""Data sets and Identifiers for tests, with raw values: pydicom would refuse or correct invalid ones."""

import struct
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.dicom import charset, identifier, matching, row_elements
from pacs.dicom.attributes import Kept
from pacs.dicom.dataset import EXPLICIT_LITTLE, View, raw, write
from pacs.dicom.levels import QueryLevel, Root
from pacs.dicom.matching_mode import TOLERANT, MatchingMode, Negotiated
from pacs.dicom.query import Match, Query
from pacs.dicom.response_identifier import make_response_identifier

NOTHING_NEGOTIATED = Negotiated()
STRUCT = {"US": "<H", "SS": "<h", "UL": "<L", "SL": "<l", "FL": "<f", "FD": "<d"}


def dataset(charset_: str = "", **values: Any) -> Dataset:
    """A data set by keyword: text (in the character set), bytes as they are, numbers, or a list of items."""
    terms = charset.parse(charset_)
    made = _dataset(values, terms)
    if charset_:
        made[0x00080005] = raw(0x00080005, "CS", charset_.encode())
    return made


def _dataset(values: dict[str, Any], terms: charset.Terms) -> Dataset:
    elements = [_element(keyword, value, terms) for keyword, value in values.items()]
    return Dataset({element.tag: element for element in elements})


def _element(keyword: str, value: Any, terms: charset.Terms):
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = dictionary_VR(tag)
    if isinstance(value, list):
        items = [write(View.of(_dataset(item, terms), terms), EXPLICIT_LITTLE) for item in value]
        value = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in items)
    elif isinstance(value, (int, float)):
        value = struct.pack(STRUCT[vr], value) if vr in STRUCT else str(value).encode()
    elif isinstance(value, str):
        value = charset.encode(value, terms if charset.is_known(terms) else charset.UTF_8)
    return raw(tag, vr, value)


def ask(
    level: str = "STUDY",
    root: Root = Root.STUDY,
    mode: MatchingMode = TOLERANT,
    negotiated: Negotiated = NOTHING_NEGOTIATED,
    charset_: str = "",
    **keys: Any,
) -> Query:
    """Return the query of a C-FIND with these keys."""
    return identifier.parse_query(dataset(charset_, QueryRetrieveLevel=level, **keys), root, mode, negotiated)


def rows(stored: Dataset) -> dict[QueryLevel, bytes]:
    """Return the row elements of an instance at every level."""
    return {level: row_elements.encode(row_elements.select(level, stored)) for level in QueryLevel}


def is_found(query: Query, stored: Dataset, **computed: Any) -> bool:
    """Whether the entity of an instance matches a query, row by row."""
    if query.nothing_matches:
        return False
    kept_rows = {level: row_elements.decode(blob) for level, blob in rows(stored).items()}
    for key in query.keys:
        if key.attribute.kept is Kept.FILE:
            found = matching.matches_dataset(key, stored, query.unknown_matches)
        else:
            found = matching.matches(key, kept_rows, computed, query.unknown_matches)
        if not found:
            return False
    return all(matching.matches_combined(each, kept_rows, query.unknown_matches) for each in query.combined)


def answer(query: Query, stored: Dataset, **computed: Any) -> Dataset:
    """Return the response Identifier for an instance's entity."""
    kept_rows = {level: blob for level, blob in rows(stored).items() if level <= query.level}
    return make_response_identifier(Match(query.level, kept_rows, computed), query, "PACS", stored)


def texts(answered: Dataset) -> dict[str, str]:
    """Return the values of a response as pydicom reads them."""
    return {element.keyword: str(element.value) for element in answered if element.VR != "SQ"}
