"""Finds the series that match some keys, level by level; compares here what the PACS does not match."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom import Dataset

from pacs.dicom.attributes import NOT_KEYS, by_keyword
from pacs.dicom.dataset import CHARACTER_SET, View
from pacs.dicom.identifier_builder import data_set_of
from pacs.dicom.keys import KeyReader, attribute_of, key_tags
from pacs.dicom.levels import QueryLevel
from pacs.dicom.matching import matches_dataset
from pacs.dicom.matching_mode import TOLERANT, Negotiated
from pacs.dicom.near_miss import find_near_miss
from pacs.dicom.query import Key
from pacs.dicom.values import is_uid
from pacs.errors import IdentifierError, InvalidArgument, NothingFound, TooManyMatches

MAX_STUDIES = 500
"""Maximum number of studies to search, one request each."""
MAX_STUDIES_FOR_HINTS = 20
"""Maximum number of studies to search once more for a value that differs only in case."""
MAX_SERIES = 2000
"""Maximum number of series of a study."""
MAX_HEADERS = 100
"""Maximum number of series of which an instance is retrieved to compare keys that the PACS does not return."""

# Keys that only this archive understands are refused before another PACS would answer something else.
_MODE = replace(TOLERANT, asterisk_matches_all=False, typed_dates=False)
_READER = KeyReader(_MODE, Negotiated(multiple_values=True, empty_values=True))
_OF_STUDY = ("StudyInstanceUID", "PatientID", "StudyDate")
_OF_SERIES = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances")

Find = Callable[..., Iterator[Dataset]]
"""`pacs.client.find`, bound to a PACS."""

GetHeader = Callable[[str, str], Dataset | None]
"""Returns the header of one instance of a series, by Study and Series Instance UID; None if the PACS has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A matching series. A text that the PACS does not return is '', a number of instances None."""

    study_uid: str
    series_uid: str
    patient_id: str = ""
    study_date: str = ""
    modality: str = ""
    number: str = ""
    description: str = ""
    instances: int | None = None

    @property
    def rank(self) -> tuple[str, str, int, str]:
        """Sort key: by study, then by Series Number."""
        number = int(self.number) if self.number.isdecimal() else 0
        return self.study_date, self.study_uid, number, self.series_uid

    def __str__(self) -> str:
        """One line that distinguishes the series from others, without patient data."""
        day = self.study_date
        when = f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 else day or "no date"
        count = "? images" if self.instances is None else f"{self.instances} image{'s' * (self.instances != 1)}"
        described = repr(self.description) if self.description else "no description"
        return (
            f"{when}  {self.modality or '??'}  series {self.number or '?'}  {described}  {count}  "
            f"StudyInstanceUID {self.study_uid}  SeriesInstanceUID {self.series_uid}"
        )


# --- keys --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeriesKeys:
    """Keys with a value: as sent, and as compared here."""

    identifier: Dataset
    keys: tuple[Key, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SeriesKeys":
        """Parse the keys. Raises InvalidArgument for an invalid key or value."""
        identifier = data_set_of({name: value for name, value in given.items() if value not in (None, "")})
        view, keys = View.of(identifier), []
        for tag in key_tags(view):
            attribute = attribute_of(tag, view)
            if attribute is None:
                raise InvalidArgument(f"({tag.group:04X},{tag.element:04X}) cannot be a key")
            try:
                key, _ = _READER.key(attribute, view, [])
            except IdentifierError as error:
                raise InvalidArgument(str(error)) from error
            keys += [key] if key else []
        return cls(identifier, tuple(keys))

    def at(self, *levels: QueryLevel) -> tuple[Key, ...]:
        """Return the keys of these levels."""
        return tuple(key for key in self.keys if key.attribute.level in levels)

    def identifier_for(self, level: QueryLevel, returned: Iterable[str], **above: str) -> Dataset:
        """Return the Identifier for a level; STUDY level includes patient keys. `above` are unique keys."""
        levels = (QueryLevel.PATIENT, QueryLevel.STUDY) if level is QueryLevel.STUDY else (level,)
        tags = {key.attribute.tag for key in self.at(*levels)} | {CHARACTER_SET, *NOT_KEYS}
        found = Dataset({tag: element for tag, element in self.identifier.items() if tag in tags})
        for keyword in returned:
            if keyword not in found:
                setattr(found, keyword, None)
        for keyword, value in above.items():
            setattr(found, keyword, value)
        return found

    def matches_image(self, header: Dataset) -> bool:
        """Return whether an image matches the image keys."""
        return _all_match(self.at(QueryLevel.IMAGE), header)


# --- search ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SeriesEntry:
    """A series, by the matches for its study and for itself."""

    study: Dataset
    series: Dataset

    @property
    def uids(self) -> tuple[str, str]:
        """Its Study and Series Instance UID."""
        study = _text(self.study, "StudyInstanceUID") or _text(self.series, "StudyInstanceUID")
        return study, _text(self.series, "SeriesInstanceUID")

    def candidate(self) -> Candidate:
        """Return the description for users."""
        study_uid, series_uid = self.uids
        count = _text(self.series, "NumberOfSeriesRelatedInstances")
        return Candidate(
            study_uid=study_uid,
            series_uid=series_uid,
            patient_id=_text(self.study, "PatientID"),
            study_date=_text(self.study, "StudyDate"),
            modality=_text(self.series, "Modality"),
            number=_text(self.series, "SeriesNumber"),
            description=_text(self.series, "SeriesDescription"),
            instances=int(count) if count.isdecimal() else None,
        )


@dataclass(slots=True)
class SeriesFinder:
    """Finds the matching series. `find` queries the PACS; `get_header` retrieves a header for keys that it does not
    return.
    """

    find: Find
    get_header: GetHeader
    keys: SeriesKeys

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the matching series, at least one. Raises NothingFound, TooManyMatches, and what `find` raises."""
        studies, unanswered = self._studies()
        entries = [_SeriesEntry(study, each) for study in studies for each in self.series_of(study)]
        kept, unanswered_series = _compare([each.series for each in entries], self.keys.at(QueryLevel.SERIES))
        found = [each for each, is_kept in zip(entries, kept, strict=True) if is_kept and all(map(is_uid, each.uids))]
        if unanswered or unanswered_series:
            _check_limit(found, MAX_HEADERS, "series")
            found = [each for each in found if self._matches_within(each, (*unanswered, *unanswered_series))]
        if not found:
            raise NothingFound(self._nothing_found(len(entries), studies))
        once = {each.uids[1]: each.candidate() for each in found}
        return tuple(sorted(once.values(), key=lambda each: each.rank))

    def _studies(self) -> tuple[list[Dataset], tuple[Key, ...]]:
        """Return the matching studies, and the keys that the PACS does not return."""
        keys = self.keys.at(QueryLevel.PATIENT, QueryLevel.STUDY)
        if not keys:
            return [Dataset()], ()
        matches = self.studies_with()
        _check_limit(matches, MAX_STUDIES, "studies")
        kept, unanswered = _compare(matches, keys)
        studies = [each for each, is_kept in zip(matches, kept, strict=True) if is_kept]
        return [each for each in studies if is_uid(_text(each, "StudyInstanceUID"))], unanswered

    def studies_with(self, *returned: str) -> list[Dataset]:
        """Return the studies that the PACS finds, more than `MAX_STUDIES` if there are too many."""
        identifier = self.keys.identifier_for(QueryLevel.STUDY, (*_OF_STUDY, *returned))
        return list(self.find(identifier, level=QueryLevel.STUDY, limit=MAX_STUDIES + 1))

    def series_of(self, study: Dataset, *returned: str) -> list[Dataset]:
        """Return the series of a study; without a study, those with the given UIDs by a relational query (PS3.4
        C.4.1.3).
        """
        study_uid = _text(study, "StudyInstanceUID")
        identifier = self.keys.identifier_for(QueryLevel.SERIES, (*_OF_SERIES, *returned), StudyInstanceUID=study_uid)
        extended = () if study_uid else ("relational",)
        matches = list(self.find(identifier, level=QueryLevel.SERIES, limit=MAX_SERIES + 1, extended=extended))
        _check_limit(matches, MAX_SERIES, "series")
        return matches

    def _nothing_found(self, count: int, studies: Sequence[Dataset]) -> str:
        """Return that nothing matches, and the value that differs from a key only in case, if there is one."""
        sentence = f"None of the {count} series found matches the keys"
        for key, text in self._near_misses(studies[:MAX_STUDIES_FOR_HINTS]):
            return f"{sentence}: {key.attribute.keyword} {text!r} differs only in case"
        return sentence

    def _near_misses(self, studies: Sequence[Dataset]) -> Iterator[tuple[Key, str]]:
        """Yield keys with the values that they miss only in case: of studies if there are none, otherwise of series."""
        levels = (QueryLevel.SERIES,) if studies else (QueryLevel.PATIENT, QueryLevel.STUDY)
        for key in self.keys.at(*levels):
            rest = [each for each in self.keys.at(*levels) if each is not key]
            fewer = replace(self, keys=replace(self.keys, keys=tuple(rest)))
            if studies:
                found = [each for study in studies for each in fewer.series_of(study, key.attribute.keyword)]
            else:
                found = fewer.studies_with(key.attribute.keyword) if rest else []
            texts = (text for match in found for text in View.of(match).texts(key.attribute))
            if text := find_near_miss(key, texts):
                yield key, text

    def _matches_within(self, entry: _SeriesEntry, keys: Sequence[Key]) -> bool:
        """Return whether an instance of the series matches the keys that the PACS did not return."""
        header = self.get_header(*entry.uids)
        if header is None or not _all_match(keys, header):
            return False
        for keyword in ("Modality", "SeriesNumber", "SeriesDescription"):
            if not _text(entry.series, keyword) and keyword in header:
                entry.series[keyword] = header[keyword]
        return True


def _check_limit(found: Sequence[Any], most: int, what: str) -> None:
    """Raise TooManyMatches above the limit."""
    if len(found) > most:
        raise TooManyMatches(f"More than {most} {what} match, too many to search: add another key")


def _compare(matches: Sequence[Dataset], keys: Sequence[Key]) -> tuple[list[bool], tuple[Key, ...]]:
    """Return which matches have the keys, and the keys without a value in any match (PS3.4 C.2.2.1.3).

    If any match has a value for a key, the PACS supports the key; an empty value is then unknown and matches nothing.
    """
    answered = [key for key in keys if any(_has(match, key) for match in matches)]
    return [_all_match(answered, match) for match in matches], tuple(key for key in keys if key not in answered)


def _has(match: Dataset, key: Key) -> bool:
    view = View.of(match)
    return bool(view.items(key.attribute) if key.attribute.vr == "SQ" else view.texts(key.attribute))


def _all_match(keys: Iterable[Key], dataset: Dataset) -> bool:
    return all(matches_dataset(key, dataset, unknown_matches=False) for key in keys)


def _text(dataset: Dataset, keyword: str) -> str:
    """Return the value of an element without padding, '' if it is absent."""
    attribute = by_keyword(keyword)
    return "\\".join(text.strip(" \0") for text in View.of(dataset).texts(attribute))
