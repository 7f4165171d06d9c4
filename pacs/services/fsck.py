"""`pacs fsck`: whether index and files agree, in both directions, and mending what does not.

The archive may be in use meanwhile: what looks wrong is looked at once more after `GRACE` before anybody is told, as it
may have been on its way in or out. Nothing that is whole is ever lost, and nothing damaged deleted: damaged files are
set aside in `quarantine`, with their rows removed, so that the sender can send the instance again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice

from pacs.dicom import part10
from pacs.dicom.levels import QueryLevel
from pacs.errors import (
    DuplicateInstance,
    InstanceDamaged,
    InstanceMissing,
    InstanceUnreadable,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files import digest
from pacs.files.store import FileStore
from pacs.index import upkeep, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.services.orphans import adopt
from pacs.services.parent_refresh import refresh
from pacs.services.progress import Progress, silent
from pacs.services.stored_file import arrival_of

GRACE = 3.0
"""Seconds until what looks wrong is looked at again."""

BATCH = 500
"""Files compared with the index at a time."""

MISSING, SIZE, DIGEST, HEAD, UNREADABLE = "missing", "size", "digest", "head", "unreadable"
ORPHAN, DUPLICATE, DAMAGED, STRAY = "orphan", "duplicate", "damaged", "stray"
LEFTOVER, JOURNAL, CHILDLESS = "leftover", "journal", "childless"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `problem` is its kind, one of the words above.

    - `missing`, `size`, `digest`, `head`, `unreadable`: the file of a row is not there, not as long as the row says,
      has other bytes than were received, says another instance than the row does, cannot be read.
    - `orphan`, `duplicate`, `damaged`, `stray`: a file in no row that holds a whole instance, one that another file
      has, none, or that has a name no file of ours has.
    - `leftover`, `journal`: what a process that died left half-written, or not yet at its place.
    - `childless`: a patient, study or series without children.
    """

    problem: str
    file: str
    """The file's key; '' where it is about none."""
    sop_instance_uid: str
    explanation: str
    done: str = ""
    """What was done about it."""
    is_mended: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and how much was looked at."""

    findings: tuple[Finding, ...]
    images: int
    """Rows of instances."""
    files: int

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong, or all was mended."""
        return all(each.is_mended for each in self.findings)


class Fsck:
    """Compares one index with its files."""

    def __init__(self, index: Index, files: FileStore, grace: float | None = None) -> None:
        self._index, self._files = index, files
        self._grace = GRACE if grace is None else grace

    def run(self, *, quick: bool = False, repair: bool = False, progress: Progress = silent) -> Report:
        """Look at everything, and mend what is wrong if that is wanted.

        With `quick` only names and sizes are looked at, and no file of a row is read. Raises IndexUnavailable,
        StorageUnavailable; the latter also, and nothing is changed, where there is no file at all for an index that has
        instances. Raises ConfigurationError when somebody else is mending this archive.
        """
        with self._files.alone("pacs fsck --repair") if repair else nullcontext():
            return self._run(quick=quick, repair=repair, progress=progress)

    def _run(self, *, quick: bool, repair: bool, progress: Progress) -> Report:
        journal = list(self._journal(repair=repair))
        look = _Look(self._index, self._files, quick=quick)
        with progress("checking", upkeep.counts(self._index)[QueryLevel.IMAGE]) as advance:
            rows, files = look.everything(advance)
        if repair and rows and not files:
            raise StorageUnavailable(
                f"there is no file for any of {rows} instances: is the folder of the files there? Nothing was changed"
            )
        findings = self._settled(look)
        if repair:
            mending = _Mending(self._index, self._files)
            findings = _in_order(findings)
            with progress("mending", len(findings)) as advance:
                for place, each in enumerate(findings):
                    findings[place] = mending.mend(each)
                    advance(1)
        childless = list(self._childless(repair=repair))
        return Report((*journal, *findings, *childless), rows, files)

    def _settled(self, look: "_Look") -> list[Finding]:
        """What is still wrong after a while."""
        if look.suspicions or look.leftovers:
            time.sleep(self._grace)
        return list(look.again())

    def _journal(self, *, repair: bool) -> Iterator[Finding]:
        """First of all: files may seem damaged that a journal has whole."""
        left = self._files.journals()
        if not left:
            return
        found = Finding(
            JOURNAL, "", "", f"{left} processes died: the next start, or --repair, brings what they had home"
        )
        if repair:
            self._files.replay()
            found = replace(found, done="brought to its place", is_mended=True)
        yield found

    def _childless(self, *, repair: bool) -> Iterator[Finding]:
        for level, count in upkeep.childless(self._index).items():
            if count:
                yield Finding(
                    CHILDLESS, "", "", f"{count} rows at {level.name} level have no children",
                    "removed" if repair else "", repair,
                )  # fmt: skip
        if repair:
            upkeep.prune(self._index)


def _in_order(findings: list[Finding]) -> list[Finding]:
    """What frees an instance's place comes before what may take it."""
    order = (SIZE, DIGEST, HEAD, ORPHAN, MISSING)
    return sorted(findings, key=lambda each: order.index(each.problem) if each.problem in order else len(order))


class _Look:
    """One look at everything, and a second one at what seemed wrong."""

    def __init__(self, index: Index, files: FileStore, *, quick: bool) -> None:
        self._index, self._files = index, files
        self._quick = quick
        self.suspicions: list[str] = []
        """File keys."""
        self.leftovers: list[str] = []
        self._strays: list[str] = []

    def everything(self, advance: Callable[[int], None]) -> tuple[int, int]:
        """Look at all rows and all files; how many there were."""
        self.leftovers = self._files.leftovers()
        rows = files = 0
        keys = self._files.keys()
        following = next(keys, None)
        for row in (each for page in upkeep.pages(self._index) for each in page):
            while following is not None and following < row.file_key:
                self.suspicions.append(following)
                following, files = next(keys, None), files + 1
            if following == row.file_key:
                following, files = next(keys, None), files + 1
            if self._wrong(row) is not None:
                self.suspicions.append(row.file_key)
            rows += 1
            advance(1)
        while following is not None:
            self.suspicions.append(following)
            following, files = next(keys, None), files + 1
        self._strays = list(self._files.strays())
        return rows, files

    def again(self) -> Iterator[Finding]:
        """What is still wrong."""
        suspicions = iter(self.suspicions)
        while batch := list(islice(suspicions, BATCH)):
            known = upkeep.with_files(self._index, batch)
            for key in batch:
                row = known.get(key)
                found = self._wrong(row) if row is not None else self._of_no_row(key)
                if found is not None:
                    yield found
        still = set(self._files.leftovers())
        for name in self.leftovers:
            if name in still:
                yield Finding(LEFTOVER, name, "", "half-written by a process that died: nobody was told it is stored")
        for name in self._strays:
            yield Finding(STRAY, name, "", "no file of this archive has such a name")

    def _wrong(self, row: StoredInstance) -> Finding | None:
        """What is wrong with the file of a row."""
        try:
            problem, explanation = self._judged(row)
        except InstanceMissing as error:
            problem, explanation = MISSING, error.comment
        except InstanceDamaged as error:
            problem, explanation = DIGEST, error.comment
        except InstanceUnreadable as error:
            problem, explanation = UNREADABLE, error.comment
        return Finding(problem, row.file_key, row.sop_instance_uid, explanation) if problem else None

    def _judged(self, row: StoredInstance) -> tuple[str, str]:
        size = self._files.size(row.file_key)
        if size != row.size:
            return SIZE, f"{size} bytes instead of {row.size}"
        if self._quick:
            return "", ""
        try:
            with self._files.open(row.file_key) as file:
                head = part10.read_file_meta(file)
        except UndecodableDataSet as error:
            return HEAD, error.comment
        if (head.sop_instance_uid, head.sop_class_uid) != (row.sop_instance_uid, row.sop_class_uid):
            return HEAD, "its head names another instance than the row"
        digest.require(row.digest, self._files.pieces(row.file_key, size, row.data_offset))
        said = (head.transfer_syntax, head.digest, head.data_offset)
        if said != (row.transfer_syntax, row.digest, row.data_offset):
            return HEAD, "its head says something else than the row"
        return "", ""

    def _of_no_row(self, key: str) -> Finding | None:
        """What a file in no row is; None when it is gone."""
        try:
            uid = arrival_of(self._files, key).header.sop_instance_uid
        except InstanceMissing:
            return None
        except InstanceUnreadable as error:
            return Finding(UNREADABLE, key, "", error.comment)
        except UndecodableDataSet as error:
            return Finding(DAMAGED, key, "", f"in no row: {error.comment}")
        known = writer.find(self._index, uid)
        if known is None or self._wrong(known) is not None:
            return Finding(ORPHAN, key, uid, "a whole instance in no row")
        if known.file_key == key:
            return None
        return Finding(DUPLICATE, key, uid, f"its instance has the file {known.file_key}")


class _Mending:
    """Mends findings one by one; what cannot be mended stays as it is, with why."""

    def __init__(self, index: Index, files: FileStore) -> None:
        self._index, self._files = index, files

    def mend(self, finding: Finding) -> Finding:
        """The finding with what was done about it. Raises IndexUnavailable, StorageUnavailable."""
        try:
            done = _MENDED[finding.problem](self, finding)
        except InstanceMissing:
            done = "gone meanwhile"
        except InstanceUnreadable as error:
            return replace(finding, explanation=error.comment)
        return replace(finding, done=done, is_mended=bool(done))

    def _forget(self, finding: Finding) -> bool:
        """Forget the instance that has a file; whether there was one."""
        gone = upkeep.forget(self._index, [finding.file])
        refresh(self._index, self._files, gone)
        return bool(gone)

    def _row_goes(self, finding: Finding) -> str:
        if self._forget(finding):
            return "row removed: send it again"
        return "its instance has another file now"

    def _file_decides(self, finding: Finding) -> str:
        """Index and file disagree: a file that is whole is right."""
        try:
            arrival_of(self._files, finding.file)
        except UndecodableDataSet:
            self._forget(finding)
            return f"row removed, file moved to {self._files.set_aside(finding.file)}: send it again"
        self._forget(finding)
        try:
            adopt(self._index, self._files, finding.file)
        except DuplicateInstance:
            return f"row removed, file {self._set_aside(finding.file)}: another file has its instance"
        return "the file is whole: row made anew from it"

    def _file_is_taken_in(self, finding: Finding) -> str:
        try:
            adopt(self._index, self._files, finding.file)
        except (UndecodableDataSet, DuplicateInstance) as error:
            return f"{self._set_aside(finding.file)}: {error.comment}"
        return "taken in again"

    def _file_is_set_aside(self, finding: Finding) -> str:
        return self._set_aside(finding.file)

    def _set_aside(self, key: str) -> str:
        """Move a file away unless it is in a row by now, as hours may have passed since it was looked at; what it is.

        Whoever receives it enters it into a row when it lies at its place, and may have had to wait for the database.
        """
        if upkeep.with_files(self._index, [key]):
            return "in a row meanwhile"
        return f"moved to {self._files.set_aside(key)}"

    def _leftover_goes(self, finding: Finding) -> str:
        self._files.clear([finding.file])
        return "removed"

    def _nothing(self, _finding: Finding) -> str:
        return ""


_MENDED: dict[str, Callable[[_Mending, Finding], str]] = {
    MISSING: _Mending._row_goes,
    SIZE: _Mending._file_decides,
    DIGEST: _Mending._file_decides,
    HEAD: _Mending._file_decides,
    UNREADABLE: _Mending._nothing,
    ORPHAN: _Mending._file_is_taken_in,
    DUPLICATE: _Mending._file_is_set_aside,
    DAMAGED: _Mending._file_is_set_aside,
    STRAY: _Mending._file_is_set_aside,
    LEFTOVER: _Mending._leftover_goes,
}
