"""Identifier ⇄ `Query`: what a C-FIND, C-MOVE or C-GET asks, checked against its information model (PS3.4 C.4).

What is wrong is answered A900 with the attributes at fault; what is merely not supported is ignored in a query, with
FF01 for it, and refused in a retrieve, where ignoring a key would send too much. Where the standard leaves a choice,
the mode makes it.
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
from pacs.dicom.levels import QueryLevel, Root
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
    "level_asked",
    "parse_query",
    "parse_retrieve",
    "shown",
]  # fmt: skip

LONGEST = 16 << 20
"""The longest Identifier, in bytes; a list of 100,000 UIDs takes less than half."""
IDENTIFIER_BOUNDS = DataSetBounds(elements=20_000)
"""How deep an Identifier may be nested, and how many elements and items it may have, unless that is configured."""

BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
"""The VRs whose values are nothing to read."""

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
    """What a retrieve is about: the instances that `query`, at IMAGE level, finds; `level` is the one asked for."""

    query: Query
    level: QueryLevel


def decode(data: bytes, transfer_syntax: str, bounds: DataSetBounds = IDENTIFIER_BOUNDS) -> Dataset:
    """The Identifier these bytes hold, in bounded time and memory.

    Raises UndecodableDataSet for what is longer than `LONGEST`, beyond `bounds`, or no data set in this transfer
    syntax; a deflated one is refused (checklist P9, P10).
    """
    encoding = encoding_of(transfer_syntax)
    if len(data) > LONGEST:
        raise UndecodableDataSet(f"Identifier is longer than {LONGEST} bytes")
    return read(data, encoding, bounds)


def key_values(dataset: Dataset) -> dict[str, Any]:
    """The elements of an Identifier that have a value, as texts by keyword: for showing what was asked.

    The items of a sequence are of the same form; of what is neither text nor number there is the length.
    """
    return _key_values(View.of(dataset))


def _key_values(view: View) -> dict[str, Any]:
    found = {keyword_for_tag(each.tag) or f"{each.tag:08X}": shown(view, each) for each in view.dataset.values()}
    return {keyword: value for keyword, value in found.items() if value}


def shown(view: View, element: Element) -> Any:
    """The value of an element of an Identifier, as `key_values` has it."""
    name = vr(element)
    if name == "SQ":
        return [_key_values(View.of(item, view.terms)) for item in items(element)]
    if name in BINARY_INTEGERS or name in BINARY_FLOATS:
        return "\\".join(map(str, numbers(element)))
    if name in BULK:
        return f"{len(element.value or b'')} bytes"
    return view.text(element).strip(" \0")


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    """An answer in its transfer syntax. Raises UndecodableDataSet for one that no Identifier is sent in."""
    return write(View.of(dataset), encoding_of(transfer_syntax))


def encoding_of(transfer_syntax: str) -> Encoding:
    """How data sets are encoded in a transfer syntax. Raises UndecodableDataSet where no Identifier is sent in it."""
    encoding = _ENCODINGS.get(transfer_syntax)
    if encoding is None:
        raise UndecodableDataSet("no transfer syntax for an Identifier")
    return encoding


def parse_query(dataset: Dataset, root: Root, mode: MatchingMode, negotiated: Negotiated) -> Query:
    """What a C-FIND asks (C.4.1). Raises IdentifierError with the Offending Elements."""
    request = _IdentifierParser(View.of(dataset), root, mode, negotiated)
    request.check_request_only()
    query = Query(root, request.level, unknown_matches=mode.unknown_matches, character_set=request.view.terms)
    asked = request.asked()
    if not asked and not request.ignored and not mode.bare_level_lists_all:
        return replace(query, nothing_matches=True)
    request.check_below(asked)
    request.read([each for each in asked if request.is_answerable(each)])
    request.check_unique_keys()
    keys, combined = _combined(request.keys) if negotiated.combined_date_time else (tuple(request.keys), ())
    return replace(
        query,
        keys=keys,
        combined=combined,
        requested=tuple(request.requested),
        ignored=tuple(request.ignored),
        nothing_matches=_is_reversed(keys, combined),
    )


def parse_retrieve(
    dataset: Dataset, root: Root, mode: MatchingMode, negotiated: Negotiated | None = None
) -> RetrieveSelection:
    """What a C-MOVE or C-GET is about (C.4.2, V1, K4). Raises IdentifierError with the Offending Elements.

    In the strict mode unique keys alone select, those of the levels above may be missing only where relational
    retrieves were negotiated (C.4.2.2.2). In the tolerant one every supported key may, without wild cards; at
    least one must be a single value or list of UID, and one must be of the level asked for.
    """
    request = _IdentifierParser(View.of(dataset), root, mode, negotiated or Negotiated())
    request.check_request_only()
    request.read(request.retrievable(request.asked()))
    request.check_selective()
    keys = tuple(request.keys)
    query = Query(
        root, QueryLevel.IMAGE, keys, nothing_matches=_is_reversed(keys, ()), character_set=request.view.terms
    )
    return RetrieveSelection(query, request.level)


class _IdentifierParser:
    """An Identifier while it is being read."""

    def __init__(self, view: View, root: Root, mode: MatchingMode, negotiated: Negotiated) -> None:
        self.view = view
        self.root = root
        self.mode = mode
        self.level = level_asked(view, root)
        self.is_relational = mode.relational or negotiated.relational
        self.keys: list[Key] = []
        self.requested: list[ReturnKey] = []
        self.ignored: list[int] = []
        self._reader = KeyReader(mode, negotiated)

    def check_request_only(self) -> None:
        """Refuse what must not stand in a request, or not without a value, where the mode is strict (F6)."""
        if self.mode.ignore_request_only:
            return
        present = [tag for tag in _NOT_IN_A_REQUEST if tag in self.view.dataset]
        present += [tag for tag in _NOT_EMPTY_IN_A_REQUEST if tag in self.view.dataset and not self._text(tag)]
        if present:
            raise IdentifierError("Not allowed in a request: " + NOT_KEYS[present[0]], present)

    def _text(self, tag: int) -> str:
        return self.view.text(self.view.dataset.get_item(tag)).strip(" \0\\")

    def asked(self) -> list[Attribute]:
        """The attributes asked for, by tag; those not supported go to `ignored` (K3, M18)."""
        found = []
        for tag in key_tags(self.view):
            asked = attribute_of(tag, self.view)
            if asked is None or (asked.kept is Kept.FILE and self.level is not QueryLevel.IMAGE):
                self.ignored.append(int(tag))
            else:
                found.append(asked)
        return found

    def read(self, asked: list[Attribute]) -> None:
        """Make keys and return keys of what is asked for."""
        for each in asked:
            key, requested = self._reader.key(each, self.view, self.ignored)
            self.keys += [key] if key else []
            self.requested.append(requested)

    # --- rules of a query ------------------------------------------------------------------------------------

    def check_below(self, asked: list[Attribute]) -> None:
        """Keys below the level are refused, or ignored where the mode is tolerant (F5)."""
        below = [each for each in asked if not self.is_answerable(each)]
        if below and not self.mode.ignore_lower_keys:
            raise identifier_error("Below the query level", *below)
        self.ignored += [each.tag for each in below]

    def is_answerable(self, asked: Attribute) -> bool:
        """Whether the level asked for has this attribute, itself or from above."""
        return asked.level <= self.level

    def check_unique_keys(self) -> None:
        """Without relational queries: the level's unique key present, one value of each above it (F3, F4)."""
        if not self.is_relational:
            self.check_unique_keys_above()
        own = by_keyword(self.level.unique_key)
        if own.tag not in self.view.dataset and not self.mode.bare_level_lists_all:
            raise identifier_error("Missing", own)

    def check_unique_keys_above(self) -> None:
        """One value of the unique key of every level above (C.4.1.3.1.1)."""
        for level in self.root.above(self.level):
            own = by_keyword(level.unique_key)
            if not any(key.attribute == own and _is_single_value(key) for key in self.keys):
                raise identifier_error("One single value needed", own)

    # --- rules of a retrieve ---------------------------------------------------------------------------------

    def retrievable(self, asked: list[Attribute]) -> list[Attribute]:
        """The attributes that select what is retrieved: those with a value, and the level's unique key in any case."""
        is_strict = not self.mode.retrieve_by_other_keys
        unsupported = [tag for tag in self.ignored if is_strict or self.view.dataset.get_item(tag).value]
        if unsupported:
            raise IdentifierError("A key is not supported in a retrieve", unsupported)
        self.ignored.clear()
        others = [each for each in asked if each.keyword not in UNIQUE]
        if others and is_strict:
            raise identifier_error("Only unique keys may retrieve", *others)
        selecting = [each for each in asked if self._has_value(each) or each.keyword == self.level.unique_key]
        refused = [each for each in selecting if each.kept is Kept.FILE or not self.is_answerable(each)]
        if refused:
            raise identifier_error("Not supported in a retrieve", *refused)
        return selecting

    def _has_value(self, asked: Attribute) -> bool:
        return bool(self.view.texts(asked) or self.view.items(asked))

    def check_selective(self) -> None:
        """Nothing is universal or wild, and something selects, also at the level itself."""
        keyed = {key.attribute for key in self.keys}
        universal = [each.attribute for each in self.requested if each.attribute not in keyed]
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
                raise identifier_error("One single value needed", key.attribute)
        if not self.is_relational:
            self.check_unique_keys_above()
        if not any(self._is_of_level(key.attribute, own) for key in self.keys):
            raise identifier_error("Missing", own)
        if not any(_selects(key) for key in self.keys):
            raise identifier_error("Single value or list of UID needed", own)

    def _is_of_level(self, attribute: Attribute, own: Attribute) -> bool:
        """Whether a key selects at the level itself: its unique key or, in the tolerant mode, any that belongs to it.

        In Study Root that is Patient ID too at STUDY, where it is a required key (C.6.2.1).
        """
        if not self.mode.retrieve_by_other_keys:
            return attribute.tag == own.tag
        return self.root.level_of_key(attribute.level) is self.level


def level_asked(view: View, root: Root) -> QueryLevel:
    """The level asked for; it is never guessed (F1, F2), only its case and padding do not matter (M18).

    Raises IdentifierError for one that is missing or none of the model's.
    """
    text = view.text(view.dataset.get_item(QUERY_LEVEL)) if QUERY_LEVEL in view.dataset else ""
    name = text.strip(" \0").upper()
    if not name:
        raise IdentifierError("Missing: QueryRetrieveLevel", [QUERY_LEVEL])
    level = next((level for level in root.levels if level.name == name), None)
    if level is None:
        raise IdentifierError(f"No level of {root.title}: QueryRetrieveLevel", [QUERY_LEVEL])
    return level


# --- what a key is like ------------------------------------------------------------------------------------------


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
    """Whether a key narrows a retrieve enough: a single value, a name, or a list of UID."""
    match key.matching:
        case Single(values):
            return len(values) == 1 or key.attribute.vr == "UI"
        case SequenceKeys(keys):
            return any(_selects(each) for each in keys)
    return isinstance(key.matching, Names)


# --- ranges ------------------------------------------------------------------------------------------------------


def _combined(keys: list[Key]) -> tuple[tuple[Key, ...], tuple[DateTimeRange, ...]]:
    """The keys left over, and the pairs of date and time ranges of one form that make one range (M7, C.2.2.2.5.4)."""
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
    """Whether some range ends before it begins, so that nothing can match (M6)."""
    ranges: list[Range | DateTimeRange] = [key.matching for key in keys if isinstance(key.matching, Range)]
    bounds = [(each.low, each.high) for each in (*ranges, *combined)]
    return any(low is not None and high is not None and low > high for low, high in bounds)
