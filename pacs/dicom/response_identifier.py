"""Makes the Identifier of a Pending C-FIND response (PS3.4 C.4.1.1.3.2, docs/checklist.md F6).

It has each supported attribute of the request, with zero length where the value is unknown. Besides these it has only
the level, the unique keys of the level and those above, Retrieve AE Title, Instance Availability, and the character set
where text is not ASCII.
"""

from collections.abc import Iterable

from pydicom import Dataset, Sequence
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag

from pacs.dicom import charset, row_elements
from pacs.dicom.attributes import Attribute, Kept, by_keyword
from pacs.dicom.charset import UTF_8
from pacs.dicom.dataset import (
    AMBIGUOUS,
    CHARACTER_SET,
    EXPLICIT_LITTLE,
    Element,
    View,
    is_plain,
    labelled,
    raw,
    vr,
    write,
)
from pacs.dicom.levels import QueryLevel
from pacs.dicom.matching import matching_items
from pacs.dicom.query import Key, Match, Query, ReturnKey, SequenceKeys

_TIMEZONE = 0x00080201


def match_data_set(match: Match, query: Query, extra: Dataset | None = None) -> Dataset:
    """Return the attributes of a match that the query asks for, and its unique keys; text is in UTF-8.

    `extra` holds the attributes that were read from its file (`Kept.FILE`). What only a C-FIND response carries is
    added by `make_response_identifier`.
    """
    view = View(Dataset(_MatchElements(match, query, extra).elements()), UTF_8)
    return labelled(row_elements.decode(write(view, EXPLICIT_LITTLE, UTF_8)), EXPLICIT_LITTLE, UTF_8)


def make_response_identifier(
    match: Match, query: Query, retrieve_ae_title: str, extra: Dataset | None = None
) -> Dataset:
    """Return the Identifier of the C-FIND response for a match, in a character set that the query allows.

    `extra` holds the attributes that were read from its file (`Kept.FILE`).
    """
    elements = _MatchElements(match, query, extra).elements()
    constant = [raw(*each) for each in constant_elements(query.level, retrieve_ae_title)]
    view = View(Dataset(elements | {each.tag: each for each in constant}), UTF_8)
    terms = charset.choose(list(view.all_texts()), query.character_set)
    written = row_elements.decode(write(view, EXPLICIT_LITTLE, terms or UTF_8))
    if terms:
        written[CHARACTER_SET] = raw(CHARACTER_SET, "CS", _even("\\".join(terms)))
    return labelled(written, EXPLICIT_LITTLE, terms)


class _MatchElements:
    """Collects the elements of a match, in UTF-8."""

    def __init__(self, match: Match, query: Query, extra: Dataset | None) -> None:
        self._match = match
        self._query = query
        self._keys = {key.attribute: key for key in query.keys}
        self._rows = {level: View(row_elements.decode(blob), UTF_8) for level, blob in match.kept.items()}
        self._extra = View.of(extra if extra is not None else Dataset())

    def elements(self) -> dict[BaseTag, Element]:
        query = self._query
        levels = (*query.root.above(query.level), query.level)
        unique = [ReturnKey(by_keyword(level.unique_key)) for level in levels]
        found = [self._element(each) for each in (*query.return_keys, *unique)]
        found += _creators(each.attribute for each in query.return_keys)
        found += self._timezone()
        return {element.tag: element for element in found}

    def _element(self, return_key: ReturnKey) -> Element:
        attribute = return_key.attribute
        if attribute.kept is Kept.COMPUTED:
            value = computed_value(attribute, self._match.computed.get(attribute.keyword, ()))
            return raw(attribute.tag, attribute.vr, value)
        source = self._extra if attribute.kept is Kept.FILE else self._rows.get(attribute.level, self._extra)
        return _returned(return_key, self._keys.get(attribute), source, self._query.unknown_matches)

    def _timezone(self) -> list[Element]:
        """Return Timezone Offset From UTC of an instance, where it is known."""
        row = self._rows.get(QueryLevel.IMAGE)
        if self._query.level is not QueryLevel.IMAGE or row is None or _TIMEZONE not in row.dataset:
            return []
        return [row.dataset.get_item(_TIMEZONE)]


def constant_elements(level: QueryLevel, retrieve_ae_title: str) -> tuple[tuple[int, str, bytes], ...]:
    """Return what only a C-FIND response carries, the same for all matches at a level: tags, VRs and values."""
    return (
        (0x00080052, "CS", _even(level.name)),
        (0x00080054, "AE", _even(retrieve_ae_title)),
        (0x00080056, "CS", b"ONLINE"),
    )


def computed_value(attribute: Attribute, value: int | tuple[str, ...]) -> bytes:
    """Encode the value of a computed attribute."""
    text = str(value) if isinstance(value, int) else "\\".join(value)
    return _even(text, b"\0" if attribute.vr == "UI" else b" ")


def _returned(return_key: ReturnKey, key: Key | None, source: View, unknown_matches: bool) -> Element:
    """Return the element of a return key, in UTF-8; of a sequence the items that match (M8)."""
    attribute = return_key.attribute
    if return_key.items:
        items = matching_items(key, attribute, source, unknown_matches)
        nested = (
            {each.attribute: each for each in key.matching.keys}
            if key and isinstance(key.matching, SequenceKeys)
            else {}
        )
        chosen = [_item(return_key.items, nested, item, unknown_matches) for item in items]
        return DataElement(BaseTag(attribute.tag), "SQ", Sequence(chosen))
    found = source.element(attribute)
    if found is not None and source.terms == UTF_8 and is_plain(found):
        return found._replace(tag=BaseTag(attribute.tag))
    alone = Dataset({found.tag: found} if found is not None else {})
    for written in row_elements.decode(write(View(alone, source.terms), EXPLICIT_LITTLE, UTF_8)).values():
        return raw(attribute.tag, vr(written), written.value or b"")
    return raw(attribute.tag, AMBIGUOUS.get(attribute.vr, attribute.vr), b"")


def _item(return_keys: Iterable[ReturnKey], keys: dict[Attribute, Key], item: View, unknown_matches: bool) -> Dataset:
    found = [_returned(each, keys.get(each.attribute), item, unknown_matches) for each in return_keys]
    found += _creators(each.attribute for each in return_keys)
    return Dataset({element.tag: element for element in found})


def _creators(attributes: Iterable[Attribute]) -> list[Element]:
    """Return the private creators of these attributes, in the blocks of the request."""
    private = {each.tag & 0xFFFF0000 | each.tag >> 8 & 0xFF: each.creator for each in attributes if each.creator}
    return [raw(tag, "LO", creator.encode()) for tag, creator in private.items()]


def _even(text: str, padding: bytes = b" ") -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)
