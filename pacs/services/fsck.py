"""`pacs fsck`: compares index and files in both directions, and repairs what differs.

The archive may be in use meanwhile: what looks wrong is checked again after `GRACE`, and when no other operation works
on the same file, because the instance may be arriving or being deleted. No complete instance is ever lost, and nothing
damaged is deleted: damaged files are moved into the quarantine, with their rows removed, so that the sender can send
the instance again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from pacs.dicom import part10
from pacs.dicom.levels import QueryLevel
from pacs.errors import (
    DuplicateInstance,
    InstanceDamaged,
    InstanceInUse,
    InstanceMissing,
    InstanceUnreadable,
    StorageUnavailable,
    UndecodableDataSet,
)
from pacs.files import digest
from pacs.files.store import FolderStore
from pacs.index import maintenance, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.services import orphans
from pacs.services.parent_refresh import refresh
from pacs.services.progress import Progress, no_progress
from pacs.services.stored_file import read_stored_file

GRACE = 3.0
"""Seconds until what looks wrong is checked again."""

RACES = 10
"""How often a file is looked at again because its row has changed meanwhile."""

MISSING, SIZE, DIGEST, HEAD, UNREADABLE = "missing", "size", "digest", "head", "unreadable"
ORPHAN, DUPLICATE, DAMAGED, STRAY = "orphan", "duplicate", "damaged", "stray"
LEFTOVER, JOURNAL, CHILDLESS = "leftover", "journal", "childless"


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """One difference between index and files. `problem` is its kind, one of the words above.

    - `missing`, `size`, `digest`, `head`, `unreadable`: the file of a row is missing, has another size than the row
      says, other bytes than were received, a head that disagrees with the row, or cannot be read.
    - `orphan`, `duplicate`, `damaged`, `stray`: a file in no row that contains a complete instance, the instance of
      another file, or no complete instance, or whose name is no key.
    - `leftover`, `journal`: a half-written file, or the journal, of a process that died. A leftover is no damage. Nor
      is a journal while a server lives: there was no power cut, so that the files are as they were written.
    - `childless`: patients, studies or series without children.
    """

    problem: str
    file: str
    """The key of the file; '' for none."""
    sop_instance_uid: str
    explanation: str
    done: str = ""
    """What the repair did."""
    is_repaired: bool = False
    is_damage: bool = True
    """Whether something is wrong, and does not only wait for the next start to be removed."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check."""

    findings: tuple[Inconsistency, ...]
    images: int
    """Checked rows of instances."""
    files: int
    """Checked files."""

    @property
    def is_well(self) -> bool:
        """Whether nothing was wrong, or all was repaired."""
        return all(each.is_repaired for each in self.damage)

    @property
    def damage(self) -> tuple[Inconsistency, ...]:
        """The findings that are more than leftovers of processes that died."""
        return tuple(each for each in self.findings if each.is_damage)


class Fsck:
    """Compares an index with its files."""

    def __init__(self, index: Index, files: FolderStore, grace: float | None = None) -> None:
        self._index, self._files = index, files
        self._grace = GRACE if grace is None else grace

    def run(self, *, quick: bool = False, repair: bool = False, progress: Progress = no_progress) -> Report:
        """Check all rows and files, and with `repair` repair what is wrong.

        With `quick` only names and sizes are checked, and files in a row are not read. Raises IndexUnavailable,
        StorageUnavailable; the latter also, without a change, when a repair finds no file at all but the index has
        instances. Raises ConfigurationError while another maintenance command runs.
        """
        with self._files.maintenance_lock("pacs fsck --repair") if repair else nullcontext():
            return self._run(quick=quick, repair=repair, progress=progress)

    def _run(self, *, quick: bool, repair: bool, progress: Progress) -> Report:
        journal = list(self._journal(repair=repair))
        check = _Check(self._index, self._files, quick=quick)
        with progress("checking", maintenance.counts(self._index)[QueryLevel.IMAGE]) as advance:
            rows, files = check.everything(advance)
        findings = self._confirmed(check)
        if repair:
            self._require_files(rows, findings)
            repair_one = _Repair(self._index, self._files).repair
            findings = _in_order(findings)
            with progress("repairing", len(findings)) as advance:
                for place, each in enumerate(findings):
                    findings[place] = repair_one(each)
                    advance(1)
            self._files.incomplete_note().remove()
        childless = list(self._childless(repair=repair))
        return Report((*journal, *findings, *childless), rows, files)

    def _require_files(self, rows: int, findings: Sequence[Inconsistency]) -> None:
        """Raise StorageUnavailable if rows have lost their files and there is no file at all."""
        if any(each.problem == MISSING for each in findings) and next(self._files.keys(), None) is None:
            raise StorageUnavailable(
                f"the index has {rows} instances, but there is no file: check files.url; nothing was changed"
            )

    def _confirmed(self, check: "_Check") -> list[Inconsistency]:
        """Return what is still wrong after the grace period."""
        if check.suspected or check.leftovers:
            time.sleep(self._grace)
        return list(check.again())

    def _journal(self, *, repair: bool) -> Iterator[Inconsistency]:
        """Report, and replay, journals. First of all, because files may seem damaged that a journal has complete."""
        left = self._files.abandoned_journals()
        if not left:
            return
        found = _of_dead_processes(left, is_harmless=self._files.is_running())
        if repair:
            self._files.replay_journals()
            found = replace(found, done="restored", is_repaired=True)
        yield found

    def _childless(self, *, repair: bool) -> Iterator[Inconsistency]:
        for level, count in maintenance.childless(self._index).items():
            if count:
                yield Inconsistency(
                    CHILDLESS, "", "", f"{count} rows at {level.name} level have no children",
                    "removed" if repair else "", repair,
                )  # fmt: skip
        if repair:
            maintenance.prune(self._index)


def _of_dead_processes(journals: int, *, is_harmless: bool) -> Inconsistency:
    if is_harmless:
        explanation = "its files are complete, as a server still runs; the next start removes it"
    else:
        explanation = "files may be incomplete until the next start or --repair restores them"
    died = "journal of a process that died" if journals == 1 else f"journals of {journals} processes that died"
    return Inconsistency(JOURNAL, "", "", f"{died}: {explanation}", is_damage=not is_harmless)


def _in_order(findings: list[Inconsistency]) -> list[Inconsistency]:
    """Sort findings: those whose repair removes a row come before those whose repair may add the same instance."""
    order = (SIZE, DIGEST, HEAD, ORPHAN, MISSING)
    return sorted(findings, key=lambda each: order.index(each.problem) if each.problem in order else len(order))


class _Check:
    """A check of everything, and a second one of what seemed wrong."""

    def __init__(self, index: Index, files: FolderStore, *, quick: bool) -> None:
        self._index, self._files = index, files
        self._quick = quick
        self.suspected: list[str] = []
        """Keys of files that seemed wrong."""
        self.leftovers: list[str] = []
        self._strays: list[str] = []

    def everything(self, advance: Callable[[int], None]) -> tuple[int, int]:
        """Check all rows and all files, and return how many there are of each."""
        self.leftovers = self._files.leftovers()
        rows = files = 0
        keys = self._files.keys()
        following = next(keys, None)
        for row in (each for page in maintenance.pages(self._index) for each in page):
            while following is not None and following < row.file_key:
                self.suspected.append(following)
                following, files = next(keys, None), files + 1
            if following == row.file_key:
                following, files = next(keys, None), files + 1
            if self._wrong(row) is not None:
                self.suspected.append(row.file_key)
            rows += 1
            advance(1)
        while following is not None:
            self.suspected.append(following)
            following, files = next(keys, None), files + 1
        self._strays = list(self._files.strays())
        return rows, files

    def again(self) -> Iterator[Inconsistency]:
        """Check again what seemed wrong, and yield what is wrong."""
        yield from (found for key in self.suspected if (found := self._persisting(key)) is not None)
        still = set(self._files.leftovers())
        for name in self.leftovers:
            if name in still:
                explanation = "half-written by a process that died, and never acknowledged"
                yield Inconsistency(LEFTOVER, name, "", explanation, is_damage=False)
        for name in self._strays:
            yield Inconsistency(STRAY, name, "", "its name is not that of a stored file")

    def _persisting(self, key: str) -> Inconsistency | None:
        """Return what is wrong with a file and stays wrong while nothing else is done with it, None for nothing."""
        for _ in range(RACES):
            row = self._row(key)
            found = self._wrong(row) if row is not None else self._wrong_file(key)
            if found is None:
                return None
            try:
                with self._files.lock([key]):
                    is_missing = orphans.is_missing(self._files, key)
                    if self._row(key) == row and is_missing == (found.problem == MISSING):
                        return found
            except InstanceInUse:
                return None
        return None

    def _row(self, key: str) -> StoredInstance | None:
        return maintenance.with_files(self._index, [key]).get(key)

    def _wrong(self, row: StoredInstance) -> Inconsistency | None:
        """Return what is wrong with the file of a row, None for nothing."""
        try:
            problem, explanation = self._compare(row)
        except InstanceMissing as error:
            problem, explanation = MISSING, error.comment
        except InstanceDamaged as error:
            problem, explanation = DIGEST, error.comment
        except InstanceUnreadable as error:
            problem, explanation = UNREADABLE, error.comment
        return Inconsistency(problem, row.file_key, row.sop_instance_uid, explanation) if problem else None

    def _compare(self, row: StoredInstance) -> tuple[str, str]:
        """Return problem and explanation, both '' when the file agrees with the row."""
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
            return HEAD, "its File Meta Information names another instance than the row"
        digest.require(row.digest, self._files.pieces(row.file_key, size, row.data_offset))
        said = (head.transfer_syntax, head.digest, head.data_offset)
        if said != (row.transfer_syntax, row.digest, row.data_offset):
            return HEAD, "its File Meta Information disagrees with the row"
        return "", ""

    def _wrong_file(self, key: str) -> Inconsistency | None:
        """Return what is wrong with a file in no row; None when it is gone or in a row by now."""
        try:
            uid = read_stored_file(self._files, key).header.sop_instance_uid
        except InstanceMissing:
            return None
        except InstanceUnreadable as error:
            return Inconsistency(UNREADABLE, key, "", error.comment)
        except UndecodableDataSet as error:
            return Inconsistency(DAMAGED, key, "", f"not in the index: {error.comment}")
        known = writer.find(self._index, uid)
        if known is not None and known.file_key == key:
            return None
        if known is None or self._persisting(known.file_key) is not None:
            return Inconsistency(ORPHAN, key, uid, "a complete instance that is not in the index")
        return Inconsistency(DUPLICATE, key, uid, f"its instance has the file {known.file_key}")


class _Repair:
    """Repairs findings one by one; what cannot be repaired stays as it is, and the finding says why."""

    def __init__(self, index: Index, files: FolderStore) -> None:
        self._index, self._files = index, files

    def repair(self, finding: Inconsistency) -> Inconsistency:
        """Repair a finding and return it with what was done. Raises IndexUnavailable, StorageUnavailable."""
        try:
            done = _REPAIRS[finding.problem](self, finding)
        except InstanceMissing:
            done = "gone meanwhile"
        except (InstanceUnreadable, InstanceInUse) as error:
            return replace(finding, explanation=error.comment)
        return replace(finding, done=done, is_repaired=bool(done))

    def _remove_row(self, finding: Inconsistency) -> bool:
        """Remove the row with a file, and return whether there was one."""
        gone = maintenance.forget(self._index, [finding.file])
        refresh(self._index, self._files, gone)
        return bool(gone)

    def _without_file(self, finding: Inconsistency) -> str:
        if self._remove_row(finding):
            return "row removed: send it again"
        return "its instance has another file now"

    def _disagreeing(self, finding: Inconsistency) -> str:
        """Index and file disagree: if the file is complete the row is made from it, else both go."""
        try:
            arrival = read_stored_file(self._files, finding.file)
        except UndecodableDataSet:
            self._remove_row(finding)
            return f"row removed, file {self._move_away(finding.file)}: send it again"
        try:
            with orphans.locked(self._files, finding.file):
                self._remove_row(finding)
                former = orphans.add_row(self._index, self._files, arrival)
        except DuplicateInstance:
            return f"row removed, file {self._move_away(finding.file)}: another file has its instance"
        refresh(self._index, self._files, former)
        return "the file is complete: row made again from it"

    def _adopt(self, finding: Inconsistency) -> str:
        try:
            orphans.adopt(self._index, self._files, finding.file)
        except (UndecodableDataSet, DuplicateInstance) as error:
            return f"{self._move_away(finding.file)}: {error.comment}"
        return "added to the index"

    def _quarantine(self, finding: Inconsistency) -> str:
        return self._move_away(finding.file)

    def _move_away(self, key: str) -> str:
        """Move a file into the quarantine unless it is in a row by now, and return what was done.

        Hours may have passed since the check, and a reception whose file is in place may have waited for the database.
        """
        moved = orphans.take_away(self._index, self._files, key, self._files.quarantine)
        return f"moved to {moved}" if moved is not None else "in a row meanwhile"

    def _leftover(self, finding: Inconsistency) -> str:
        self._files.remove_leftovers([finding.file])
        return "removed"

    def _nothing(self, _finding: Inconsistency) -> str:
        return ""


_REPAIRS: dict[str, Callable[[_Repair, Inconsistency], str]] = {
    MISSING: _Repair._without_file,
    SIZE: _Repair._disagreeing,
    DIGEST: _Repair._disagreeing,
    HEAD: _Repair._disagreeing,
    UNREADABLE: _Repair._nothing,
    ORPHAN: _Repair._adopt,
    DUPLICATE: _Repair._quarantine,
    DAMAGED: _Repair._quarantine,
    STRAY: _Repair._quarantine,
    LEFTOVER: _Repair._leftover,
}
