"""Parses the Identifier of a C-FIND, C-MOVE or C-GET into a `Query`, and checks it (PS3.4 C.4).

An invalid Identifier is refused with A900 and the attributes at fault. A key that is not supported is ignored in a
query, with status FF01, and refused in a retrieve, where ignoring it would send too much. The matching mode decides
what the standard leaves open.
"""

from dataclasses import dataclass, replace
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from pacs.dicom.attributes import NOT_KEYS, UNIQUE, Attribute, Kept, by_keyword
from pacs.dicom.bounds import DataSetBounds
from pacs.dicom.dataset import CHARACTER_SET, Element, View, items, numbers, read, vr, write
from pacs.dicom.elements import Encoding
from pacs.dicom.keys import KeyReader, attribute_of, identifier_error, key_tags
from pacs.dicom.levels import LEVEL_SYNONYMS, QueryLevel, Root
from pacs.dicom.matching_mode import MatchingMode, Negotiated
from pacs.dicom.query import DateTimeRange, Key, Names, Query, Range, ReturnKey, SequenceKeys, Single, Wildcard
from pacs.dicom.values import BINARY_FLOATS, BINARY_INTEGERS
from pacs.errors import IdentifierError, UndecodableDataSet

__all__ = [
    "RetrieveSelection",
    "decode",
    "encode",
    "encoding_of",
    "key_values",
    "parse_query",
    "parse_retrieve",
    "requested_level",
    "shown",
]  # fmt: skip

LONGEST = 16 << 20
"""The longest Identifier, in bytes; a list of 100,000 UIDs needs less than half."""
IDENTIFIER_BOUNDS = DataSetBounds(elements=20_000)
"""The default limits on the nesting and the number of elements of an Identifier."""

BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
"""The VRs whose values are not shown as text."""

QUERY_LEVEL = 0x00080052
_ENCODINGS = {
    "1.2.840.10008.1.2": Encoding(implicit=True),
    "1.2.840.10008.1.2.1": Encoding(),
    "1.2.840.10008.1.2.2": Encoding(little=False),
}
_NOT_IN_A_REQUEST = (0x00080053, 0x00080056)
_NOT_EMPTY_IN_A_REQUEST = (CHARACTER_SET, 0x00080201)


@dataclass(frozen=True, slots=True)
class RetrieveSelection:
    """The instances of a retrieve: those that `query` finds at IMAGE level; `level` is the level of the request."""

    query: Query
    level: QueryLevel


def decode(data: bytes, transfer_syntax: str, bounds: DataSetBounds = IDENTIFIER_BOUNDS) -> Dataset:
    """Return the Identifier that is encoded in `data`, in bounded time and memory.

    Raises UndecodableDataSet for data longer than `LONGEST`, beyond `bounds`, or not valid in this transfer syntax; a
    deflated Identifier is refused (docs/checklist.md P9, P10).
    """
    encoding = encoding_of(transfer_syntax)
    if len(data) > LONGEST:
        raise UndecodableDataSet(f"Identifier is longer than {LONGEST} bytes")
    return read(data, encoding, bounds)


def key_values(dataset: Dataset) -> dict[str, Any]:
    """Return the elements of an Identifier that have a value, as text by keyword, to show them.

    The items of a sequence have the same form; values that are neither text nor numbers are shown as their length.
    """
    return _key_values(View.of(dataset))


def _key_values(view: View) -> dict[str, Any]:
    found = {keyword_for_tag(each.tag) or f"{each.tag:08X}": shown(view, each) for each in view.dataset.values()}
    return {keyword: value for keyword, value in found.items() if value}


def shown(view: View, element: Element) -> Any:
    """Return the value of an element as `key_values` shows it."""
    name = vr(element)
    if name == "SQ":
        return [_key_values(View.of(item, view.terms)) for item in items(element)]
    if name in BINARY_INTEGERS or name in BINARY_FLOATS:
        return "\\".join(map(str, numbers(element)))
    if name in BULK:
        return f"{len(element.value or b'')} bytes"
    return view.text(element).strip(" \0")


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    """Encode a response Identifier. Raises UndecodableDataSet for a transfer syntax that Identifiers do not have."""
    return write(View.of(dataset), encoding_of(transfer_syntax))


def encoding_of(transfer_syntax: str) -> Encoding:
    """Return the encoding of a transfer syntax. Raises UndecodableDataSet for one that Identifiers do not have."""
    encoding = _ENCODINGS.get(transfer_syntax)
    if encoding is None:
        raise UndecodableDataSet("an Identifier cannot have this transfer syntax")
    return encoding


def parse_query(dataset: Dataset, root: Root, mode: MatchingMode, negotiated: Negotiated) -> Query:
    """Parse the Identifier of a C-FIND (C.4.1). Raises IdentifierError with the Offending Elements."""
    request = _IdentifierParser(View.of(dataset), root, mode, negotiated)
    request.check_request_only()
    query = Query(root, request.level, unknown_matches=mode.unknown_matches, character_set=request.view.terms)
    requested = request.attributes()
    if not requested and not request.ignored and not mode.bare_level_lists_all:
        return replace(query, nothing_matches=True)
    request.check_below(requested)
    request.read([each for each in requested if request.is_answerable(each)])
    request.check_unique_keys()
    keys, combined = _combined(request.keys) if negotiated.combined_date_time else (tuple(request.keys), ())
    return replace(
        query,
        keys=keys,
        combined=combined,
        return_keys=tuple(request.return_keys),
        ignored=tuple(request.ignored),
        nothing_matches=_is_reversed(keys, combined),
    )


def parse_retrieve(
    dataset: Dataset, root: Root, mode: MatchingMode, negotiated: Negotiated | None = None
) -> RetrieveSelection:
    """Parse the Identifier of a C-MOVE or C-GET (C.4.2, V1, K4). Raises IdentifierError with the Offending Elements.

    In the strict mode only unique keys are allowed, and those of the levels above may be missing only with negotiated
    relational retrieve (C.4.2.2.2). In the tolerant mode all supported keys are allowed, without wild cards; at least
    one must be a single value or list of UID, and one must belong to the level of the request.
    """
    request = _IdentifierParser(View.of(dataset), root, mode, negotiated or Negotiated())
    request.check_request_only()
    request.read(request.retrievable(request.attributes()))
    request.check_selective()
    keys = tuple(request.keys)
    query = Query(
        root, QueryLevel.IMAGE, keys, nothing_matches=_is_reversed(keys, ()), character_set=request.view.terms
    )
    return RetrieveSelection(query, request.level)


class _IdentifierParser:
    """Parses one Identifier; collects its keys, return keys and ignored tags."""

    def __init__(self, view: View, root: Root, mode: MatchingMode, negotiated: Negotiated) -> None:
        self.view = view
        self.root = root
        self.mode = mode
        self.level = requested_level(view, root, mode)
        self.is_relational = mode.relational or negotiated.relational
        self.keys: list[Key] = []
        self.return_keys: list[ReturnKey] = []
        self.ignored: list[int] = []
        self._reader = KeyReader(mode, negotiated)

    def check_request_only(self) -> None:
        """In the strict mode, refuse elements that a request must not have, or not without a value (F6)."""
        if self.mode.ignore_request_only:
            return
        present = [tag for tag in _NOT_IN_A_REQUEST if tag in self.view.dataset]
        present += [tag for tag in _NOT_EMPTY_IN_A_REQUEST if tag in self.view.dataset and not self._text(tag)]
        if present:
            raise IdentifierError("Not allowed in a request: " + NOT_KEYS[present[0]], present)

    def _text(self, tag: int) -> str:
        return self.view.text(self.view.dataset.get_item(tag)).strip(" \0\\")

    def attributes(self) -> list[Attribute]:
        """Return the attributes of all keys, by tag; add those that are not supported to `ignored` (K3, M18)."""
        found = []
        for tag in key_tags(self.view):
            requested = attribute_of(tag, self.view)
            if requested is None or (requested.kept is Kept.FILE and self.level is not QueryLevel.IMAGE):
                self.ignored.append(int(tag))
            else:
                found.append(requested)
        return found

    def read(self, requested: list[Attribute]) -> None:
        """Read the keys and return keys of these attributes."""
        for each in requested:
            key, return_key = self._reader.key(each, self.view, self.ignored)
            self.keys += [key] if key else []
            self.return_keys.append(return_key)

    # --- rules of a query ------------------------------------------------------------------------------------

    def check_below(self, requested: list[Attribute]) -> None:
        """Refuse keys below the level; ignore them in the tolerant mode (F5)."""
        below = [each for each in requested if not self.is_answerable(each)]
        if below and not self.mode.ignore_lower_keys:
            raise identifier_error("Below the query level", *below)
        self.ignored += [each.tag for each in below]

    def is_answerable(self, requested: Attribute) -> bool:
        """Whether an attribute belongs to the level of the request or one above it."""
        return requested.level <= self.level

    def check_unique_keys(self) -> None:
        """Without relational queries, require the unique key of the level and one value of those above it (F3, F4)."""
        if not self.is_relational:
            self.check_unique_keys_above()
        own = by_keyword(self.level.unique_key)
        if own.tag not in self.view.dataset and not self.mode.bare_level_lists_all:
            raise identifier_error("Missing", own)

    def check_unique_keys_above(self) -> None:
        """Require a single value of the unique key of every level above (C.4.1.3.1.1)."""
        for level in self.root.above(self.level):
            own = by_keyword(level.unique_key)
            if not any(key.attribute == own and _is_single_value(key) for key in self.keys):
                raise identifier_error("A single value is needed", own)

    # --- rules of a retrieve ---------------------------------------------------------------------------------

    def retrievable(self, requested: list[Attribute]) -> list[Attribute]:
        """Return the attributes that select instances: those with a value, and always the unique key of the level."""
        is_strict = not self.mode.retrieve_by_other_keys
        unsupported = [tag for tag in self.ignored if is_strict or self.view.dataset.get_item(tag).value]
        if unsupported:
            raise IdentifierError("A key is not supported in a retrieve", unsupported)
        self.ignored.clear()
        others = [each for each in requested if each.keyword not in UNIQUE]
        if others and is_strict:
            raise identifier_error("Only unique keys may retrieve", *others)
        selecting = [each for each in requested if self._has_value(each) or self._is_needed(each, requested)]
        refused = [each for each in selecting if each.kept is Kept.FILE or not self.is_answerable(each)]
        if refused:
            raise identifier_error("Not supported in a retrieve", *refused)
        return selecting

    def _is_needed(self, empty: Attribute, requested: list[Attribute]) -> bool:
        """Whether an empty key is the unique key of the level, which another key with a value may replace."""
        own = by_keyword(self.level.unique_key)
        others = (each for each in requested if each != own and self._has_value(each) and self._is_of_level(each, own))
        return empty == own and not (self.mode.ignore_empty_unique_key and any(others))

    def _has_value(self, requested: Attribute) -> bool:
        return bool(self.view.texts(requested) or self.view.items(requested))

    def check_selective(self) -> None:
        """Refuse universal keys and wild cards; require a selecting key, and one at the level of the request."""
        keyed = {key.attribute for key in self.keys}
        universal = [each.attribute for each in self.return_keys if each.attribute not in keyed]
        if universal:
            raise identifier_error("Universal matching in a retrieve", *universal)
        if self.ignored:
            raise IdentifierError("A key is not supported in a retrieve", self.ignored)
        wild = [key.attribute for key in self.keys if _is_wild(key)]
        if wild:
            raise identifier_error("Wild card in a retrieve", *wild)
        self._check_selecting_keys()

    def _check_selecting_keys(self) -> None:
        own = by_keyword(self.level.unique_key)
        for key in self.keys:
            if key.attribute.keyword == "PatientID" and not _is_single_value(key):
                raise identifier_error("A single value is needed", key.attribute)
        if not self.is_relational:
            self.check_unique_keys_above()
        if not any(self._is_of_level(key.attribute, own) for key in self.keys):
            raise identifier_error("Missing", own)
        if not any(_selects(key) for key in self.keys):
            raise identifier_error("A single value or list of UID is needed", own)

    def _is_of_level(self, attribute: Attribute, own: Attribute) -> bool:
        """Whether a key belongs to the level of the request; in the strict mode only its unique key does.

        In Study Root, Patient ID is a key of the STUDY level (C.6.2.1).
        """
        if not self.mode.retrieve_by_other_keys:
            return attribute.tag == own.tag
        return self.root.level_of_key(attribute.level) is self.level


def requested_level(view: View, root: Root, mode: MatchingMode) -> QueryLevel:
    """Return the Query/Retrieve Level, without regard to case and padding (F1, F2, M18).

    Raises IdentifierError when it is missing or not a level of the model.
    """
    text = view.text(view.dataset.get_item(QUERY_LEVEL)) if QUERY_LEVEL in view.dataset else ""
    name = text.strip(" \0").upper()
    if not name:
        raise IdentifierError("Missing: QueryRetrieveLevel", [QUERY_LEVEL])
    if mode.level_synonyms:
        name = LEVEL_SYNONYMS.get(name, name)
    level = next((level for level in root.levels if level.name == name), None)
    if level is None:
        raise IdentifierError(f"Not a level of {root.title}: QueryRetrieveLevel", [QUERY_LEVEL])
    return level


# --- kinds of keys ------------------------------------------------------------------------------------------


def _is_single_value(key: Key) -> bool:
    return isinstance(key.matching, Single) and len(key.matching.values) == 1


def _is_wild(key: Key) -> bool:
    match key.matching:
        case Wildcard():
            return True
        case Names(alternatives):
            return any("*" in pattern or "?" in pattern for patterns in alternatives for pattern in patterns)
        case SequenceKeys(keys):
            return any(_is_wild(each) for each in keys)
    return False


def _selects(key: Key) -> bool:
    """Whether a key is specific enough for a retrieve: a single value, a name, or a list of UID."""
    match key.matching:
        case Single(values):
            return len(values) == 1 or key.attribute.vr == "UI"
        case SequenceKeys(keys):
            return any(_selects(each) for each in keys)
    return isinstance(key.matching, Names)


# --- ranges ------------------------------------------------------------------------------------------------------


def _combined(keys: list[Key]) -> tuple[tuple[Key, ...], tuple[DateTimeRange, ...]]:
    """Join pairs of a date and a time range of the same form (M7, C.2.2.2.5.4); return the other keys and the pairs."""
    by_keyword = {key.attribute.keyword: key for key in keys}
    pairs = [(key, by_keyword.get(key.attribute.keyword.replace("Date", "Time"))) for key in keys]
    joined = [(date, time, both) for date, time in pairs if time and (both := _joined(date, time))]
    used = {key.attribute for date, time, _ in joined for key in (date, time)}
    return tuple(key for key in keys if key.attribute not in used), tuple(both for _, _, both in joined)


def _joined(date: Key, time: Key) -> DateTimeRange | None:
    first, second = date.matching, time.matching
    are_kept = date.attribute.kept is not Kept.FILE and time.attribute.kept is not Kept.FILE
    is_pair = date.attribute.vr == "DA" and time.attribute.vr == "TM" and are_kept
    if not (is_pair and isinstance(first, Range) and isinstance(second, Range)):
        return None
    if (first.low is None, first.high is None) != (second.low is None, second.high is None):
        return None
    low = f"{first.low}{second.low}" if first.low else None
    high = f"{first.high}{second.high}" if first.high else None
    return DateTimeRange(date.attribute, time.attribute, low, high)


def _is_reversed(keys: tuple[Key, ...], combined: tuple[DateTimeRange, ...]) -> bool:
    """Whether a range ends before it begins, so that nothing can match (M6)."""
    ranges: list[Range | DateTimeRange] = [key.matching for key in keys if isinstance(key.matching, Range)]
    bounds = [(each.low, each.high) for each in (*ranges, *combined)]
    return any(low is not None and high is not None and low > high for low, high in bounds)
