"""Which series is meant: found out level by level, and compared here where a PACS does not."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from pacs.client.identifiers import data_set_of
from pacs.dicom.attributes import NOT_KEYS, by_keyword
from pacs.dicom.dataset import CHARACTER_SET, View
from pacs.dicom.keys import KeyReader, attribute_of, key_tags
from pacs.dicom.levels import QueryLevel
from pacs.dicom.matching import matches_dataset
from pacs.dicom.matching_mode import TOLERANT, Negotiated
from pacs.dicom.query import Key
from pacs.dicom.values import is_uid
from pacs.errors import IdentifierError, InvalidArgument, NothingFound, TooManyMatches

MOST_STUDIES = 500
"""How many studies are looked into for a series: one request each."""
MOST_SERIES = 2000
"""How many series of a study are looked at."""
MOST_LOOKED_INTO = 100
"""Of how many series an instance is retrieved to see what the PACS does not say."""

_READER = KeyReader(TOLERANT, Negotiated(multiple_values=True, empty_values=True))
_OF_STUDY = ("StudyInstanceUID", "PatientID", "StudyDate")
_OF_SERIES = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances")

Find = Callable[..., Iterator[Dataset]]
"""`pacs.client.find` at a PACS."""

Look = Callable[[str, str], Dataset | None]
"""The header of one instance of a series, by Study and Series Instance UID; None where the PACS gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A series that matches. What the PACS does not say is '', a number of instances that it does not say None."""

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
        """Its order in a list: by study, then Series Number."""
        number = int(self.number) if self.number.isdecimal() else 0
        return self.study_date, self.study_uid, number, self.series_uid

    def __str__(self) -> str:
        """One line: what tells a series from its neighbours, without its patient."""
        day = self.study_date
        when = f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 else day or "no date"
        count = "? images" if self.instances is None else f"{self.instances} image{'s' * (self.instances != 1)}"
        described = repr(self.description) if self.description else "no description"
        return (
            f"{when}  {self.modality or '??'}  series {self.number or '?'}  {described}  {count}  "
            f"StudyInstanceUID {self.study_uid}  SeriesInstanceUID {self.series_uid}"
        )


# --- what is asked for -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """Keys with a value, as they are sent and as they are compared here."""

    identifier: Dataset
    keys: tuple[Key, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Asked":
        """Raises InvalidArgument for what is no key, or no value of one."""
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
        """The keys of these levels."""
        return tuple(key for key in self.keys if key.attribute.level in levels)

    def sent(self, level: QueryLevel, returned: Iterable[str], **above: str) -> Dataset:
        """The Identifier that asks at a level, a study's keys including its patient's: `above` are unique keys."""
        levels = (QueryLevel.PATIENT, QueryLevel.STUDY) if level is QueryLevel.STUDY else (level,)
        tags = {key.attribute.tag for key in self.at(*levels)} | {CHARACTER_SET, *NOT_KEYS}
        found = Dataset({tag: element for tag, element in self.identifier.items() if tag in tags})
        for keyword in returned:
            if keyword not in found:
                setattr(found, keyword, None)
        for keyword, value in above.items():
            setattr(found, keyword, value)
        return found

    def takes(self, header: Dataset) -> bool:
        """Whether an image has what is asked of single images."""
        return _all_match(self.at(QueryLevel.IMAGE), header)


# --- who matches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A series, by the answers that the PACS gave about its study and about itself."""

    study: Dataset
    series: Dataset

    @property
    def uids(self) -> tuple[str, str]:
        """Its Study and its Series Instance UID."""
        study = _text(self.study, "StudyInstanceUID") or _text(self.series, "StudyInstanceUID")
        return study, _text(self.series, "SeriesInstanceUID")

    def candidate(self) -> Candidate:
        """What is said of it to people."""
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
class Chooser:
    """Finds the series that match. `find` asks the PACS; `look` gets an instance, where only its header can tell."""

    find: Find
    look: Look
    asked: Asked

    def candidates(self) -> tuple[Candidate, ...]:
        """The series that match, at least one. Raises NothingFound, TooManyMatches, and what `find` raises."""
        studies, unsaid = self._studies()
        entries = [_Entry(study, each) for study in studies for each in self._series(study)]
        kept, unsaid_too = _compared([each.series for each in entries], self.asked.at(QueryLevel.SERIES))
        found = [each for each, is_kept in zip(entries, kept, strict=True) if is_kept and all(map(is_uid, each.uids))]
        if unsaid or unsaid_too:
            _bounded(found, MOST_LOOKED_INTO, "series")
            found = [each for each in found if self._matches_within(each, (*unsaid, *unsaid_too))]
        if not found:
            raise NothingFound(f"None of {len(entries)} series that were looked at matches what was asked for")
        once = {each.uids[1]: each.candidate() for each in found}
        return tuple(sorted(once.values(), key=lambda each: each.rank))

    def _studies(self) -> tuple[list[Dataset], tuple[Key, ...]]:
        """The studies that match, and the keys of which the PACS says nothing."""
        keys = self.asked.at(QueryLevel.PATIENT, QueryLevel.STUDY)
        if not keys:
            return [Dataset()], ()
        asked = self.asked.sent(QueryLevel.STUDY, _OF_STUDY)
        answers = list(self.find(asked, level=QueryLevel.STUDY, limit=MOST_STUDIES + 1))
        _bounded(answers, MOST_STUDIES, "studies")
        kept, unsaid = _compared(answers, keys)
        studies = [each for each, is_kept in zip(answers, kept, strict=True) if is_kept]
        return [each for each in studies if is_uid(_text(each, "StudyInstanceUID"))], unsaid

    def _series(self, study: Dataset) -> list[Dataset]:
        """The series of a study; with no study, those with the UIDs asked for (a relational query, PS3.4 C.4.1.3)."""
        study_uid = _text(study, "StudyInstanceUID")
        asked = self.asked.sent(QueryLevel.SERIES, _OF_SERIES, StudyInstanceUID=study_uid)
        extended = () if study_uid else ("relational",)
        answers = list(self.find(asked, level=QueryLevel.SERIES, limit=MOST_SERIES + 1, extended=extended))
        _bounded(answers, MOST_SERIES, "series")
        return answers

    def _matches_within(self, entry: _Entry, keys: Sequence[Key]) -> bool:
        """Whether an instance of a series has what the PACS did not say of it."""
        header = self.look(*entry.uids)
        if header is None or not _all_match(keys, header):
            return False
        for keyword in ("Modality", "SeriesNumber", "SeriesDescription"):
            if not _text(entry.series, keyword) and keyword in header:
                entry.series[keyword] = header[keyword]
        return True


def _bounded(found: Sequence[Any], most: int, what: str) -> None:
    """Raises TooManyMatches."""
    if len(found) > most:
        raise TooManyMatches(f"More than {most} {what} match, too many to look into: name one more key")


def _compared(answers: Sequence[Dataset], keys: Sequence[Key]) -> tuple[list[bool], tuple[Key, ...]]:
    """Which answers match the keys, and the keys of which no answer says anything (PS3.4 C.2.2.1.3).

    Where any answer has a value for a key, the PACS supports it, and an empty one is unknown, which matches nothing.
    """
    said = [key for key in keys if any(_has(answer, key) for answer in answers)]
    return [_all_match(said, answer) for answer in answers], tuple(key for key in keys if key not in said)


def _has(answer: Dataset, key: Key) -> bool:
    view = View.of(answer)
    return bool(view.items(key.attribute) if key.attribute.vr == "SQ" else view.texts(key.attribute))


def _all_match(keys: Iterable[Key], dataset: Dataset) -> bool:
    return all(matches_dataset(key, dataset, unknown_matches=False) for key in keys)


def _text(dataset: Dataset, keyword: str) -> str:
    """The value of an element without padding, '' where there is none."""
    attribute = by_keyword(keyword)
    return "\\".join(text.strip(" \0") for text in View.of(dataset).texts(attribute))
