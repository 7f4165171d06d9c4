"""Reports how an Identifier is interpreted, element by element, to explain the result of a query.

`make_report` lets `pacs.dicom.identifier` parse the Identifier again and reports how each element is used. The parser
does not keep the reason why it ignores an element; the tables here give it. Queries are answered without this module.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from pacs.dicom.attributes import NOT_KEYS, Attribute, Kept, attribute
from pacs.dicom.dataset import View, vr
from pacs.dicom.identifier import QUERY_LEVEL, parse_query, parse_retrieve, requested_level, shown
from pacs.dicom.keys import KeyReader, attribute_of, key_tags
from pacs.dicom.levels import DimseOperation, Model, QueryLevel
from pacs.dicom.matching_mode import STRICT, MatchingMode, Negotiated
from pacs.dicom.query import (
    Comparable,
    DateTimeRange,
    Empty,
    Key,
    Matching,
    Names,
    Query,
    Range,
    SequenceKeys,
    Single,
    SoundsLike,
    Wildcard,
)
from pacs.errors import IdentifierError

MAX_ELEMENTS = 500
"""The most elements of an Identifier that a report has."""

MAX_VALUES = 10
"""The most values of a list that are shown."""


class ElementUse(Enum):
    """How an element of an Identifier is used."""

    MATCHED = "matched"
    RETURNED = "returned only"
    IGNORED = "ignored"
    REFUSED = "refused"
    NO_KEY = "not a key"


@dataclass(frozen=True, slots=True)
class ReportedElement:
    """One element of an Identifier and its use.

    `path` is its keyword, preceded by those of the enclosing sequences; the tag where there is no keyword. `asked` is
    its value as received. `matching` is None for universal matching and for elements that are not matched, `attribute`
    for elements that are not supported.
    """

    path: str
    tag: int
    vr: str
    asked: str
    use: ElementUse
    attribute: Attribute | None = None
    matching: Matching | DateTimeRange | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class IdentifierReport:
    """The interpretation of an Identifier in one matching mode. `query` is None when it is refused, with `error`.

    For a retrieve, `query` selects the instances at IMAGE level. `level` is that of the request, None when missing.
    """

    parts: tuple[ReportedElement, ...]
    level: QueryLevel | None
    query: Query | None = None
    error: IdentifierError | None = None


def make_report(dataset: Dataset, model: Model, mode: MatchingMode, negotiated: Negotiated) -> IdentifierReport:
    """Return the report of an Identifier."""
    query, error = _parsed(dataset, model, mode, negotiated)
    view = View.of(dataset)
    try:
        level = requested_level(view, model.root, mode)
    except IdentifierError:
        level = None
    walk = _ReportBuilder(level, model.operation is not DimseOperation.FIND, mode, KeyReader(mode, negotiated))
    parts = islice(walk.parts(view), MAX_ELEMENTS)
    return IdentifierReport(tuple(_with_parser_result(parts, query, error)), level, query, error)


def _parsed(
    dataset: Dataset, model: Model, mode: MatchingMode, negotiated: Negotiated
) -> tuple[Query | None, IdentifierError | None]:
    try:
        if model.operation is DimseOperation.FIND:
            return parse_query(dataset, model.root, mode, negotiated), None
        return parse_retrieve(dataset, model.root, mode, negotiated).query, None
    except IdentifierError as error:
        return None, error


def _with_parser_result(
    parts: Iterator[ReportedElement], query: Query | None, error: IdentifierError | None
) -> Iterator[ReportedElement]:
    """Yield the elements, with those that the parser found at fault or combined marked."""
    combined = {each: both for both in (query.combined if query else ()) for each in (both.date, both.time)}
    at_fault = set(error.tags) if error else set()
    for part in parts:
        if part.tag in at_fault and "." not in part.path:
            yield replace(part, use=ElementUse.REFUSED, reason=part.reason or (error.comment if error else ""))
        elif part.attribute in combined and "." not in part.path:
            yield replace(part, matching=combined[part.attribute])
        else:
            yield part


# --- element by element ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ReportBuilder:
    """Reports the elements of an Identifier. `level` is None when the Identifier has none."""

    level: QueryLevel | None
    is_retrieve: bool
    mode: MatchingMode
    reader: KeyReader

    def parts(self, view: View, prefix: str = "") -> Iterator[ReportedElement]:
        """Yield each element of a data set, followed by those of its items."""
        asked = set(key_tags(view))
        for tag in sorted(view.dataset.keys()):
            part = self._part(int(tag), view, prefix)
            if tag not in asked:
                yield replace(part, use=ElementUse.NO_KEY, reason=_reason_not_a_key(part.tag) + self._synonym(part))
                continue
            found = attribute_of(part.tag, view)
            judged = self._judge(part, found, view, is_nested=bool(prefix))
            yield judged
            for item in view.items(found) if found is not None and judged.use is not ElementUse.IGNORED else ():
                yield from self.parts(item, f"{part.path}.")

    def _synonym(self, part: ReportedElement) -> str:
        """Return the level for which the Identifier has another name."""
        is_other = part.tag == QUERY_LEVEL and self.level is not None and part.asked.strip().upper() != self.level.name
        return f": {self.level.name}, in the tolerant matching mode only" if is_other and self.level is not None else ""

    def _part(self, tag: int, view: View, prefix: str) -> ReportedElement:
        element = view.dataset.get_item(tag)
        value = shown(view, element)
        count = len(value) if isinstance(value, list) else 0
        text = (f"{count} item" + "s" * (count != 1)) if isinstance(value, list) else str(value)
        return ReportedElement(prefix + _name(tag), tag, vr(element), text, ElementUse.IGNORED)

    def _judge(self, part: ReportedElement, found: Attribute | None, view: View, *, is_nested: bool) -> ReportedElement:
        if found is None:
            return replace(part, reason=_reason_not_supported(part.tag, view))
        part = replace(part, attribute=found)
        if not is_nested:
            level = self.level if self.level is not None else QueryLevel.IMAGE
            if found.kept is Kept.FILE and (level is not QueryLevel.IMAGE or self.is_retrieve):
                return replace(part, reason=_ONLY_IN_FILES)
            if found.level > level:
                use = ElementUse.IGNORED if self.mode.ignore_lower_keys else ElementUse.REFUSED
                return replace(part, use=use, reason=f"belongs to level {found.level.name}, below the query level")
        return self._read(part, found, view)

    def _read(self, part: ReportedElement, found: Attribute, view: View) -> ReportedElement:
        try:
            key, _ = self.reader.key(found, view, [])
        except IdentifierError as error:
            return replace(part, use=ElementUse.REFUSED, reason=error.comment)
        if key is not None:
            reason = _FOLDED if found.vr == "PN" else self._tolerated(key, found, view)
            return replace(part, use=ElementUse.MATCHED, matching=key.matching, reason=reason)
        if self.is_retrieve:
            return replace(part, reason="has no value to match, and a retrieve returns no keys")
        return replace(part, use=ElementUse.RETURNED, reason=self._tolerated(key, found, view))

    def _tolerated(self, key: Key | None, found: Attribute, view: View) -> str:
        """Return what the strict mode says of a key that it reads in another way; '' for a sequence."""
        try:
            strict, _ = replace(self.reader, mode=STRICT).key(found, view, [])
        except IdentifierError as error:
            return f"only in the tolerant matching mode; strict: {error.comment}" if found.vr != "SQ" else ""
        return _EQUIVALENT if strict != key and found.vr != "SQ" else ""


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


_ONLY_IN_FILES = "is only in the files, which are read only for a query at IMAGE level"

_FOLDED = "names are compared without case and accents"

_EQUIVALENT = "composed and decomposed accents are equal, in the tolerant matching mode only"

_NOT_KEYS = {
    "SpecificCharacterSet": "the character set of the keys and the responses",
    "QueryRetrieveLevel": "the query level",
    "QueryRetrieveView": "only stored instances are found: there is no enhanced or classic view",
    "TimezoneOffsetFromUTC": "dates and times of keys are compared without conversion",
}
"""Reasons why an element is not a key, by keyword."""

_NO_KEYS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (lambda tag: tag in NOT_KEYS, "is in responses and is not a key"),
    (lambda tag: not tag & 0xFFFF or tag == 0x00080001, "a length, which is not a key"),
    (lambda tag: tag >> 16 < 0x0008, "its group does not belong in a data set"),
    (lambda tag: True, "the creator of private elements"),
)
"""Reasons why an element is not a key: the first that applies."""


def _reason_not_a_key(tag: int) -> str:
    return _NOT_KEYS.get(NOT_KEYS.get(tag, "")) or next(why for applies, why in _NO_KEYS if applies(tag))


_UNSUPPORTED: tuple[tuple[Callable[[int, View], bool], str], ...] = (
    (lambda tag, view: not tag >> 16 & 1 and attribute(tag) is None, "not an element of PS3.6"),
    (lambda tag, view: not tag >> 16 & 1, "bulk data, which is not matched"),
    (lambda tag, view: not _creator(tag, view), "private, and the Identifier does not have its creator"),
    (lambda tag, view: True, "private, with a VR that is not known or not matched"),
)
"""Reasons why an element is not supported (K3, M17): the first that applies."""


def _reason_not_supported(tag: int, view: View) -> str:
    return "not supported: " + next(why for applies, why in _UNSUPPORTED if applies(tag, view))


def _creator(tag: int, view: View) -> str:
    creator = tag & 0xFFFF0000 | tag >> 8 & 0xFF
    return view.text(view.dataset.get_item(creator)).strip(" \0") if creator in view.dataset else ""


# --- as text ----------------------------------------------------------------------------------------------------


def matching_kind(part: ReportedElement) -> str:
    """Return the kind of matching (PS3.4 C.2.2.2) of an element that is matched or returned, '' for others."""
    matching = part.matching
    if part.use is ElementUse.RETURNED:
        return "universal"
    if isinstance(matching, Single):
        several = "list of UID" if part.attribute and part.attribute.vr == "UI" else "multiple values"
        return "single value" if len(matching.values) == 1 else several
    if isinstance(matching, Names):
        patterns = [pattern for groups in matching.alternatives for pattern in groups]
        return "wild card" if any("*" in each or "?" in each for each in patterns) else "single value"
    return _KINDS[type(matching)] if matching is not None else ""


_KINDS: dict[type[Matching | DateTimeRange], str] = {
    Wildcard: "wild card",
    Range: "range",
    DateTimeRange: "combined date and time range",
    SoundsLike: "fuzzy semantic",
    Empty: "empty value",
    SequenceKeys: "sequence",
}


def matching_text(part: ReportedElement) -> str:
    """Return the values that are compared, as text."""
    match part.matching:
        case Single(values) | Wildcard(values):
            return _any_of(values)
        case Range(low, high) | DateTimeRange(low=low, high=high):
            return f"from {low}" * bool(low) + " " * bool(low and high) + f"to {high}" * bool(high) or "any value"
        case Names(alternatives):
            return _any_of(["=".join(groups) for groups in alternatives])
        case SoundsLike(keys):
            return "sounds like " + " and ".join(keys)
        case Empty():
            return "no value"
        case SequenceKeys():
            return "one item that matches all its keys"
    return ""


def _any_of(values: tuple[Comparable, ...] | list[str]) -> str:
    more = len(values) - MAX_VALUES
    return " or ".join(map(str, values[:MAX_VALUES])) + (f" or {more} more" if more > 0 else "")


# --- comparison ----------------------------------------------------------------------------------------------------


def differences(one: IdentifierReport, other: IdentifierReport) -> tuple[str, ...]:
    """Return where the first report differs from the other, as sentences about the first."""
    before = {(part.path, part.tag): part for part in other.parts}
    found = [
        f"{part.path} is {_use_text(part)}"
        for part in one.parts
        if (was := before.get((part.path, part.tag))) is not None and _use_text(was) != _use_text(part)
    ]
    return (*found, *_query_differences(one.query, other.query))


def _use_text(part: ReportedElement) -> str:
    how = " ".join(filter(None, (matching_kind(part), matching_text(part))))
    return part.use.value + f" ({how or part.reason})" * bool(how or part.reason)


def _query_differences(one: Query | None, other: Query | None) -> Iterator[str]:
    if one is None or other is None:
        return
    if one.unknown_matches and not other.unknown_matches and one.keys:
        yield "an unknown value matches too (C.2.2.1.2)"
    if other.unknown_matches and not one.unknown_matches and one.keys:
        yield "an unknown value matches nothing"
    if one.nothing_matches != other.nothing_matches:
        yield "nothing matches" if one.nothing_matches else "something may match"
