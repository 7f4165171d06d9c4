"""Which instances of what is asked for a folder does not have: found out by C-FIND, level by level."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydicom import Dataset

from pacs.client.contexts import ROOM
from pacs.client.identifiers import uids
from pacs.client.receive.store_scp import path_of
from pacs.dicom.attributes import NOT_KEYS, by_keyword
from pacs.dicom.levels import UNIQUE_KEYS, QueryLevel, Root
from pacs.dicom.values import is_uid
from pacs.errors import NothingFound, NotSupported, OperationFailed
from pacs.support.chunks import chunks

UIDS_AT_ONCE = 500
"""How many UIDs one request names: with 65 characters each they fit into a value with a length of 16 bits."""

PATIENT_ID, STUDY, SERIES, INSTANCE = (UNIQUE_KEYS[level] for level in QueryLevel)

Keys = dict[str, list[str]]
"""Unique keys of the levels, by keyword."""


@dataclass(frozen=True, slots=True)
class Job:
    """One retrieve: its unique keys, its level, and the SOP Classes that will come, none where that is not known."""

    keys: Mapping[str, list[str]]
    level: QueryLevel
    sop_classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """The retrieves that bring what is missing, how many instances those are (None where that is not known), and the
    files of what is there.
    """

    jobs: tuple[Job, ...]
    total: int | None = None
    held: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Series:
    """A series as the PACS has it: its keys, the SOP Class of each instance ('' where unknown), its files here."""

    keys: Keys
    instances: Mapping[str, str]
    held: Mapping[str, Path]

    @property
    def missing(self) -> list[str]:
        """The SOP Instance UIDs of what is not here."""
        return [uid for uid in self.instances if uid not in self.held]

    @property
    def sop_classes(self) -> set[str]:
        """The SOP Classes of what is not here."""
        return {self.instances[uid] for uid in self.missing}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Finds out what is missing. `find` asks the PACS for the matches of keys at a level."""

    find: Callable[..., Iterator[Dataset]]
    to: Path
    root: Root

    def missing(self, asked: Dataset, level: QueryLevel) -> Missing:
        """What the folder lacks of what is asked for at a level.

        Where it has nothing of the studies, or the PACS does not say what is in them, all of it. Raises NothingFound
        where nothing matches, and what `find` raises.
        """
        selected = self._selected(asked, level)
        if not selected:
            raise NothingFound("Nothing at the peer matches what was asked for")
        everything = Missing(tuple(Job(keys, level) for keys in selected))
        try:
            groups = [self._with_studies(keys) for keys in selected]
            if not any(is_uid(uid) and (self.to / uid).is_dir() for keys in groups for uid in keys[STUDY]):
                return everything
            return self._lacking(groups)
        except (OperationFailed, NotSupported):
            return everything  # what is there is skipped when it arrives

    def rest(self, job: Job) -> tuple[Job, ...]:
        """What is missing of a retrieve that was tried, with its SOP Classes; none where the PACS does not say."""
        try:
            return self._lacking([self._with_studies(dict(job.keys))]).jobs
        except (OperationFailed, NotSupported, NothingFound):
            return ()

    def _lacking(self, groups: Iterable[Keys]) -> Missing:
        return _lacking([each for keys in groups for each in self._series(keys)])

    # --- what is asked for --------------------------------------------------------------------------------------

    def _selected(self, asked: Dataset, level: QueryLevel) -> list[Keys]:
        """The unique keys of all that is asked for: those given, or those that the PACS finds by the others."""
        given = {keyword: list(uids(asked, keyword)) for keyword in UNIQUE_KEYS.values() if keyword in asked}
        names = {by_keyword(keyword).tag for keyword in UNIQUE_KEYS.values()}
        is_wild = any(sign in value for value in given.get(PATIENT_ID, ()) for sign in "*?")
        if level.unique_key in given and not is_wild and not asked.keys() - names - NOT_KEYS.keys():
            return [given]
        return self._found(asked, level)

    def _found(self, asked: Dataset, level: QueryLevel) -> list[Keys]:
        """The unique keys of the matches, those with the same parent together."""
        *above, own = [each.unique_key for each in self.root.levels if each <= level]
        names, keys = (*above, own), Dataset(dict(asked.items()))
        for name in names:
            if name not in keys:
                setattr(keys, name, "")
        matches = [[_value(each, asked, name) for name in names] for each in self.find(keys, level=level)]
        found: list[Keys] = []
        for parents, group in groupby(sorted(matches), key=lambda each: each[:-1]):
            uids = list(dict.fromkeys(each[-1] for each in group if each[-1]))
            found += [_keys(above, parents) | {own: part} for part in chunks(uids, UIDS_AT_ONCE)]
        return found

    # --- what there is of it at the PACS ------------------------------------------------------------------------

    def _with_studies(self, keys: Keys) -> Keys:
        if STUDY in keys:
            return keys
        return keys | {STUDY: self._uids(keys, STUDY, QueryLevel.STUDY)}

    def _series(self, keys: Keys) -> Iterator[_Series]:
        """Every series of some studies, or those asked for, with its instances."""
        for study in keys[STUDY]:
            above = {each: keys[each] for each in (PATIENT_ID,) if each in keys} | {STUDY: [study]}
            for series in keys.get(SERIES) or self._uids(above, SERIES, QueryLevel.SERIES):
                within = above | {SERIES: [series]}
                instances = dict.fromkeys(keys[INSTANCE], "") if INSTANCE in keys else self._instances(within)
                paths = {uid: path_of(self.to, study, series, uid) for uid in instances}
                yield _Series(within, instances, {uid: path for uid, path in paths.items() if path.exists()})

    def _instances(self, series: Keys) -> dict[str, str]:
        matches = self._below(series, {INSTANCE: "", "SOPClassUID": ""}, QueryLevel.IMAGE)
        found = {str(each.get(INSTANCE, "")): str(each.get("SOPClassUID", "") or "") for each in matches}
        return {uid: sop_class for uid, sop_class in found.items() if is_uid(uid)}

    def _uids(self, keys: Keys, keyword: str, level: QueryLevel) -> list[str]:
        """The UIDs of what the PACS has under some keys."""
        found = dict.fromkeys(str(each.get(keyword, "")) for each in self._below(keys, {keyword: ""}, level))
        return [uid for uid in found if is_uid(uid)]

    def _below(self, keys: Keys, wanted: Mapping[str, str], level: QueryLevel) -> Iterator[Dataset]:
        """The matches of a level under some keys; those of a PACS that ignores them and say otherwise are let go by."""
        for each in self.find({**keys, **wanted}, level=level):
            uids = {keyword: values for keyword, values in keys.items() if keyword != PATIENT_ID}
            if all(str(each.get(keyword, "") or values[0]) in values for keyword, values in uids.items()):
                yield each


def _value(match: Dataset, asked: Dataset, keyword: str) -> str:
    """A unique key of a match, or of what was asked for where the match leaves it out; '' for a UID that is none."""
    value = str(match.get(keyword, "") or asked.get(keyword, "") or "")
    return value if keyword == PATIENT_ID or is_uid(value) else ""


def _keys(keywords: Iterable[str], values: Iterable[str]) -> Keys:
    return {keyword: [value] for keyword, value in zip(keywords, values, strict=True) if value}


def _lacking(series: list[_Series]) -> Missing:
    """The retrieves of what is missing of these series, those that are missing as a whole together."""
    if not any(each.instances for each in series):
        raise NothingFound("Nothing at the peer matches what was asked for")
    jobs: list[Job] = []
    for _, group in groupby(series, key=lambda each: each.keys[STUDY]):
        of_study = list(group)
        jobs += _whole([each for each in of_study if each.missing and not each.held])
        for each in of_study:
            if each.missing and each.held:
                named = (each.keys | {INSTANCE: part} for part in chunks(each.missing, UIDS_AT_ONCE))
                jobs += (Job(keys, QueryLevel.IMAGE, _classes([each])) for keys in named)
    held = [path for each in series for path in each.held.values()]
    return Missing(tuple(jobs), sum(len(each.missing) for each in series), tuple(held))


def _whole(series: list[_Series]) -> Iterator[Job]:
    """The retrieves of whole series of one study."""
    for part in chunks((uid for each in series for uid in each.keys[SERIES]), UIDS_AT_ONCE):
        yield Job(series[0].keys | {SERIES: part}, QueryLevel.SERIES, _classes(series))


def _classes(series: Iterable[_Series]) -> tuple[str, ...]:
    """The SOP Classes of what is missing, none where one of them is not known."""
    found = set().union(*(each.sop_classes for each in series))
    return () if "" in found or len(found) > ROOM else tuple(sorted(found))
