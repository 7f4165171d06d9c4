"""Finds the instances that a folder lacks, by C-FIND level by level, and plans the retrieves that bring them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path

from pydicom import Dataset

from pacs.client.contexts import MAX_STORAGE_CONTEXTS
from pacs.client.identifiers import uids
from pacs.client.receive.store_scp import path_of
from pacs.dicom.attributes import NOT_KEYS, by_keyword
from pacs.dicom.levels import UNIQUE_KEYS, QueryLevel, Root
from pacs.dicom.values import is_uid
from pacs.errors import NothingFound, NotSupported, OperationFailed
from pacs.support.chunks import chunks

UIDS_PER_REQUEST = 500
"""Maximum number of UIDs in one request. With 65 characters each, they fit into a value with a 16-bit length."""

PATIENT_ID, STUDY, SERIES, INSTANCE = (UNIQUE_KEYS[level] for level in QueryLevel)

Keys = dict[str, list[str]]
"""Values of the unique keys, by keyword."""


@dataclass(frozen=True, slots=True)
class RetrieveJob:
    """One retrieve: its unique keys, its level, and the SOP Classes of the instances, empty if unknown."""

    keys: Mapping[str, list[str]]
    level: QueryLevel
    sop_classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RetrievePlan:
    """The retrieves that bring the missing instances.

    `total` is the number of missing instances, None if unknown; `present` are the files that exist already.
    """

    jobs: tuple[RetrieveJob, ...]
    total: int | None = None
    present: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _RemoteSeries:
    """A series at the PACS: its keys, the SOP Class of each instance ('' if unknown), and the files present here."""

    keys: Keys
    instances: Mapping[str, str]
    present: Mapping[str, Path]

    @property
    def missing(self) -> list[str]:
        """The SOP Instance UIDs of the missing instances."""
        return [uid for uid in self.instances if uid not in self.present]

    @property
    def sop_classes(self) -> set[str]:
        """The SOP Classes of the missing instances."""
        return {self.instances[uid] for uid in self.missing}


@dataclass(frozen=True, slots=True)
class MissingInstances:
    """Plans retrieves for a folder. `find` queries the PACS for the matches of keys at a level."""

    find: Callable[..., Iterator[Dataset]]
    to: Path
    root: Root

    def plan(self, requested: Dataset, level: QueryLevel) -> RetrievePlan:
        """Return the plan for the instances that match the keys at a level and are not in the folder.

        The plan covers all instances if the folder has none of the studies, or if the PACS cannot list them. Raises
        NothingFound if nothing matches, and what `find` raises.
        """
        selected = self._select(requested, level)
        if not selected:
            raise NothingFound("Nothing at the peer matches the keys")
        try:
            groups = [self._with_studies(keys) for keys in selected]
            if not any(is_uid(uid) and (self.to / uid).is_dir() for keys in groups for uid in keys[STUDY]):
                classes = map(self._classes_in, groups)
                return RetrievePlan(tuple(map(RetrieveJob, selected, repeat(level), classes)))
            return self._plan(groups)
        except (OperationFailed, NotSupported):
            return RetrievePlan(tuple(RetrieveJob(keys, level) for keys in selected))  # present ones will be skipped

    def remaining_jobs(self, job: RetrieveJob) -> tuple[RetrieveJob, ...]:
        """Return the jobs for what a retrieve did not bring, with SOP Classes; empty if the PACS cannot list them."""
        try:
            return self._plan([self._with_studies(dict(job.keys))]).jobs
        except (OperationFailed, NotSupported, NothingFound):
            return ()

    def uids_of(self, keys: Keys) -> set[str]:
        """Return the SOP Instance UIDs that the PACS lists below some unique keys. Raises what `find` raises."""
        return {uid for each in self._series(self._with_studies(keys)) for uid in each.instances}

    def count_of(self, keys: Keys, level: QueryLevel) -> int | None:
        """Return the number of instances that the PACS counts for some unique keys, None if it does not."""
        keyword = f"NumberOf{level.name.title()}RelatedInstances"
        counts = [each.get(keyword) for each in self._matches(keys, {keyword: ""}, level)]
        return None if None in counts or "" in counts or not counts else sum(map(int, counts))

    def _plan(self, groups: Iterable[Keys]) -> RetrievePlan:
        return _plan([each for keys in groups for each in self._series(keys)])

    # --- requested keys -------------------------------------------------------------------------------------------

    def _select(self, requested: Dataset, level: QueryLevel) -> list[Keys]:
        """Return the unique keys of the request: the given ones, or those that the PACS finds by the other keys."""
        given = {keyword: list(uids(requested, keyword)) for keyword in UNIQUE_KEYS.values() if keyword in requested}
        names = {by_keyword(keyword).tag for keyword in UNIQUE_KEYS.values()}
        is_wild = any(sign in value for value in given.get(PATIENT_ID, ()) for sign in "*?")
        if level.unique_key in given and not is_wild and not requested.keys() - names - NOT_KEYS.keys():
            return [given]
        return self._look_up(requested, level)

    def _look_up(self, requested: Dataset, level: QueryLevel) -> list[Keys]:
        """Return the unique keys of the matches, grouped by their parents."""
        *above, own = [each.unique_key for each in self.root.levels if each <= level]
        names, keys = (*above, own), Dataset(dict(requested.items()))
        for name in names:
            if name not in keys:
                setattr(keys, name, "")
        matches = [[_value(each, requested, name) for name in names] for each in self.find(keys, level=level)]
        found: list[Keys] = []
        for parents, group in groupby(sorted(matches), key=lambda each: each[:-1]):
            uids = list(dict.fromkeys(each[-1] for each in group if each[-1]))
            found += [_keys(above, parents) | {own: part} for part in chunks(uids, UIDS_PER_REQUEST)]
        return found

    # --- contents of the PACS -------------------------------------------------------------------------------------

    def _classes_in(self, keys: Keys) -> tuple[str, ...]:
        """Return the SOP Classes in the studies of some keys, none if the PACS does not return them for each."""
        found = set[str]()
        for studies in chunks(keys[STUDY], UIDS_PER_REQUEST):
            above = {each: keys[each] for each in (PATIENT_ID,) if each in keys} | {STUDY: list(studies)}
            for match in self._matches(above, {"SOPClassesInStudy": ""}, QueryLevel.STUDY):
                in_study = [uid for uid in uids(match, "SOPClassesInStudy") if is_uid(uid)]
                if not in_study:
                    return ()
                found.update(in_study)
        return tuple(sorted(found)) if len(found) <= MAX_STORAGE_CONTEXTS else ()

    def _with_studies(self, keys: Keys) -> Keys:
        if STUDY in keys:
            return keys
        return keys | {STUDY: self._uids(keys, STUDY, QueryLevel.STUDY)}

    def _series(self, keys: Keys) -> Iterator[_RemoteSeries]:
        """Yield the requested series, or every series of the studies, with its instances."""
        for study in keys[STUDY]:
            above = {each: keys[each] for each in (PATIENT_ID,) if each in keys} | {STUDY: [study]}
            for series in keys.get(SERIES) or self._uids(above, SERIES, QueryLevel.SERIES):
                within = above | {SERIES: [series]}
                instances = dict.fromkeys(keys[INSTANCE], "") if INSTANCE in keys else self._instances(within)
                paths = {uid: path_of(self.to, study, series, uid) for uid in instances}
                yield _RemoteSeries(within, instances, {uid: path for uid, path in paths.items() if path.exists()})

    def _instances(self, series: Keys) -> dict[str, str]:
        matches = self._matches(series, {INSTANCE: "", "SOPClassUID": ""}, QueryLevel.IMAGE)
        found = {str(each.get(INSTANCE, "")): str(each.get("SOPClassUID", "") or "") for each in matches}
        return {uid: sop_class for uid, sop_class in found.items() if is_uid(uid)}

    def _uids(self, keys: Keys, keyword: str, level: QueryLevel) -> list[str]:
        """Return the UIDs below some keys."""
        found = dict.fromkeys(str(each.get(keyword, "")) for each in self._matches(keys, {keyword: ""}, level))
        return [uid for uid in found if is_uid(uid)]

    def _matches(self, keys: Keys, returned: Mapping[str, str], level: QueryLevel) -> Iterator[Dataset]:
        """Yield the matches below some keys. Skip those of a PACS that ignores the keys and returns other UIDs."""
        for each in self.find({**keys, **returned}, level=level):
            uids = {keyword: values for keyword, values in keys.items() if keyword != PATIENT_ID}
            if all(str(each.get(keyword, "") or values[0]) in values for keyword, values in uids.items()):
                yield each


def _value(match: Dataset, requested: Dataset, keyword: str) -> str:
    """Return a unique key of a match, or of the request if the match omits it; '' for an invalid UID."""
    value = str(match.get(keyword, "") or requested.get(keyword, "") or "")
    return value if keyword == PATIENT_ID or is_uid(value) else ""


def _keys(keywords: Iterable[str], values: Iterable[str]) -> Keys:
    return {keyword: [value] for keyword, value in zip(keywords, values, strict=True) if value}


def _plan(series: list[_RemoteSeries]) -> RetrievePlan:
    """Return the plan for some series. Series that are missing completely share a job."""
    if not any(each.instances for each in series):
        raise NothingFound("Nothing at the peer matches the keys")
    jobs: list[RetrieveJob] = []
    for _, group in groupby(series, key=lambda each: each.keys[STUDY]):
        of_study = list(group)
        jobs += _series_jobs([each for each in of_study if each.missing and not each.present])
        for each in of_study:
            if each.missing and each.present:
                named = (each.keys | {INSTANCE: part} for part in chunks(each.missing, UIDS_PER_REQUEST))
                jobs += (RetrieveJob(keys, QueryLevel.IMAGE, _sop_classes([each])) for keys in named)
    present = [path for each in series for path in each.present.values()]
    return RetrievePlan(tuple(jobs), sum(len(each.missing) for each in series), tuple(present))


def _series_jobs(series: list[_RemoteSeries]) -> Iterator[RetrieveJob]:
    """Yield jobs for complete series of one study."""
    for part in chunks((uid for each in series for uid in each.keys[SERIES]), UIDS_PER_REQUEST):
        yield RetrieveJob(series[0].keys | {SERIES: part}, QueryLevel.SERIES, _sop_classes(series))


def _sop_classes(series: Iterable[_RemoteSeries]) -> tuple[str, ...]:
    """Return the SOP Classes of the missing instances, none if one of them is unknown."""
    found = set().union(*(each.sop_classes for each in series))
    return () if "" in found or len(found) > MAX_STORAGE_CONTEXTS else tuple(sorted(found))
