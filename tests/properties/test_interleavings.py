"""Operations on the same instances, interleaved at every step, against a plain model.

Real services work on real files and both databases; `tests/properties/schedule.py` decides who goes on at each step.
The model is a register for each SOP Instance UID: it has no content, or one. Whatever the schedule, there must be an
order of the operations, in which each takes effect at one moment between its begin and its end, that explains every
response and the archive at the end.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from pacs.dicom import identifier
from pacs.dicom.levels import Root
from pacs.dicom.matching_mode import TOLERANT, Negotiated
from pacs.errors import (
    Cancelled,
    ConfigurationError,
    DuplicateInstance,
    IndexUnavailable,
    InstanceConflict,
    InstanceMissing,
    PacsError,
)
from pacs.files import object_lock
from pacs.files.local import LocalFiles
from pacs.index import maintenance as index_maintenance
from pacs.index import writer
from pacs.pixels.pool import DecoderPool
from pacs.services.fsck import Fsck, Report
from pacs.services.maintenance import Maintenance
from pacs.services.pixels import PixelService
from pacs.services.query import QueryService
from pacs.services.reindex import Reindex, Reindexed
from pacs.services.retrieve import RetrieveService
from pacs.services.storage import Storage, Stored
from pacs.services.stored_file import read_stored_file
from pacs.support.cancellation import Cancellation
from pacs.testing import study
from tests import raw
from tests.properties.schedule import WAITING, Operation, Schedule, SteppedFiles, SteppedIndex, failing, step

PROCESSES = 2
CONTENTS = 2
DATASETS = study(series=1, instances=2)
UIDS = [each.SOPInstanceUID for each in DATASETS]

Content = int | None
"""What is stored of an instance: the number of its content, None for nothing."""


def encoded(uid: int, content: int) -> bytes:
    """Return an instance with one of its contents."""
    dataset = DATASETS[uid].copy()
    dataset.InstanceNumber = 100 * uid + content
    dataset.StudyDescription = f"DESCRIPTION {uid} {content}"
    return raw.encoded(dataset, raw.EXPLICIT)


CONTENT_OF = {encoded(uid, content): content for uid in range(len(UIDS)) for content in range(CONTENTS)}


# --- the archive ---------------------------------------------------------------------------------------------------


class Archive:
    """One archive that several processes use, each with an index, a file store and services of its own."""

    def __init__(self, indexes: Sequence[SteppedIndex], root: Path, policy: Any) -> None:
        self.root = root
        self.indexes = indexes
        self.files = [SteppedFiles(root) for _ in indexes]
        pairs = list(zip(indexes, self.files, strict=True))
        self.storages = [Storage(index, files, duplicates=policy) for index, files in pairs]
        self.newest = policy == "replace"

    def store(self, process: int, uid: int, content: int, failure: str = "") -> Stored:
        """Store an instance; the index may fail."""
        dataset = DATASETS[uid]
        storage = self.storages[process]
        with failing(failure), storage.receive(dataset.SOPClassUID, UIDS[uid], raw.EXPLICIT) as reception:
            reception.write(encoded(uid, content))
            return reception.finish()

    def delete(self, process: int, uid: int) -> int:
        """Delete an instance as `pacs delete` does; return how many there were."""
        service = Maintenance(self.indexes[process], self.files[process])
        return service.delete(service.instances({"SOPInstanceUID": UIDS[uid]}))

    def find(self, process: int, uid: int, cancellation: Cancellation) -> bool:
        """Return whether a query finds an instance."""
        query = identifier.parse_query(_keys(uid), Root.STUDY, TOLERANT, Negotiated())
        service = QueryService(self.indexes[process], self.files[process])
        return any(True for _ in service.matches(query, cancellation))

    def get(self, process: int, uid: int, cancellation: Cancellation) -> Content:
        """Return the content that a retrieve sends."""
        service = RetrieveService(
            self.indexes[process], self.files[process], PixelService(self.files[process], DecoderPool(1)), 10
        )
        selected = service.select(identifier.parse_retrieve(_keys(uid), Root.STUDY, TOLERANT), cancellation)
        for instance in selected.instances:
            step("between selection and sending")
            data = service.read(selected, instance, lambda now: b"".join(service.data(now, raw.EXPLICIT)))
            return CONTENT_OF[data]
        return None

    def fsck(self, process: int, *, repair: bool) -> Report:
        """Check, and repair."""
        return Fsck(self.indexes[process], self.files[process], grace=0).run(repair=repair)

    def reindex(self, process: int) -> Reindexed:
        """Rebuild the index."""
        return Reindex(self.indexes[process], self.files[process], newest=self.newest, grace=0).run()

    def settle(self) -> None:
        """Let the database finish, and the processes check their uncertain files."""
        for index, storage in zip(self.indexes, self.storages, strict=True):
            index.commit_late()
            storage.check_uncertain_files()
            assert not storage.has_uncertain_files


def _keys(uid: int) -> Any:
    dataset = DATASETS[uid]
    keys = {
        "QueryRetrieveLevel": "IMAGE",
        "StudyInstanceUID": dataset.StudyInstanceUID,
        "SeriesInstanceUID": dataset.SeriesInstanceUID,
        "SOPInstanceUID": UIDS[uid],
    }
    asked = type(dataset)()
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return identifier.decode(raw.encoded(asked, raw.EXPLICIT), raw.EXPLICIT)


# --- the model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Effect:
    """One operation on one instance: `apply` returns the new content, or raises Impossible after this response."""

    apply: Callable[[Content], Content]
    began: int
    ended: float
    may_fail: bool = False
    """Whether it may also have had no effect."""


class Impossible(Exception):
    """The response is not possible for this content."""


def _require(condition: bool) -> None:
    if not condition:
        raise Impossible


def store_effect(policy: str, content: int, result: Any) -> Callable[[Content], Content]:
    """Return the effect of a store with this response."""

    def apply(now: Content) -> Content:
        if isinstance(result, DuplicateInstance):
            _require(policy == "reject" and now is not None)
            return now
        if isinstance(result, InstanceConflict):
            _require(policy == "keep" and now not in (None, content))
            return now
        if isinstance(result, Stored) and result.duplicate:
            _require(policy != "reject" and now == content)
            return now
        _require(now is None or (policy == "replace" and now != content))
        return content

    return apply


def read_effect(seen: Callable[[Content], bool]) -> Callable[[Content], Content]:
    """Return the effect of an operation that only looks."""

    def apply(now: Content) -> Content:
        _require(seen(now))
        return now

    return apply


def delete_effect(number: int) -> Callable[[Content], Content]:
    """Return the effect of a deletion of so many instances."""

    def apply(now: Content) -> Content:
        _require((now is not None) == bool(number))
        return None

    return apply


def is_explained(effects: Sequence[Effect], content: Content) -> bool:
    """Whether some order of the effects, each within its time, is possible."""
    if not effects:
        return True
    first_end = min(each.ended for each in effects)
    for each in effects:
        rest = [other for other in effects if other is not each]
        if each.may_fail and is_explained(rest, content):
            return True
        if each.began <= first_end:
            with suppress(Impossible):
                if is_explained(rest, each.apply(content)):
                    return True
    return False


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What an operation of a run does."""

    kind: str
    process: int
    uid: int = 0
    content: int = 0
    failure: str = ""
    is_cancelled: bool = False


UID = st.sampled_from([0, 0, 0, 1])
FAILURES = ("", "", "", "locked", "lost", "committed", "late")
PROCESS = st.integers(0, PROCESSES - 1)
STORES = st.builds(Task, st.just("store"), PROCESS, UID, st.integers(0, CONTENTS - 1), st.sampled_from(FAILURES))
OTHERS = st.builds(Task, st.sampled_from(["delete", "fsck", "repair", "reindex"]), PROCESS, UID)
READS = st.builds(Task, st.sampled_from(["find", "get"]), PROCESS, UID, is_cancelled=st.booleans())
TASKS = st.one_of(STORES, OTHERS, READS)


class Run:
    """One run of some operations, and the judgement of it."""

    def __init__(self, archive: Archive, policy: str, contents: Sequence[Content], has_orphan: bool) -> None:
        self.archive, self.policy = archive, policy
        self.contents = list(contents)
        for uid, content in enumerate(contents):
            if content is not None:
                archive.store(0, uid, content)
        self.orphan: Content = None
        self.excused: set[str] = set()
        """Keys of files about which a finding is right: the orphan, and those that stores could not be sure about."""
        if has_orphan and contents[0] is not None:
            self._lose_row()
        self.schedule = Schedule()
        self.done: list[tuple[Task, Operation]] = []

    def _lose_row(self) -> None:
        """Lose the row of the first instance, as a power cut can."""
        (gone,) = writer.remove(self.archive.indexes[0], [UIDS[0]])
        self.excused.add(gone.file_key)
        self.orphan, self.contents[0] = self.contents[0], None

    def add(self, task: Task) -> None:
        """Add an operation."""
        number, cancellation = len(self.done), Cancellation()
        self.done.append((task, self.schedule.add(f"{number} {task.kind}", self._work(task, cancellation))))
        if task.is_cancelled:
            self.schedule.add(f"{number} cancel", lambda: cancellation.cancel("C-CANCEL"))

    def _work(self, task: Task, cancellation: Cancellation) -> Callable[[], Any]:
        archive = self.archive
        return {
            "store": lambda: self._store(task),
            "delete": lambda: archive.delete(task.process, task.uid),
            "find": lambda: archive.find(task.process, task.uid, cancellation),
            "get": lambda: archive.get(task.process, task.uid, cancellation),
            "fsck": lambda: archive.fsck(task.process, repair=False),
            "repair": lambda: archive.fsck(task.process, repair=True),
            "reindex": lambda: archive.reindex(task.process),
        }[task.kind]

    def _store(self, task: Task) -> Stored:
        try:
            return self.archive.store(task.process, task.uid, task.content, task.failure)
        finally:
            self.excused |= self.archive.storages[task.process]._cleanup._uncertain.keys()

    def judge(self) -> None:
        """Compare the responses and the archive with the model."""
        self.archive.settle()
        for task, operation in self.done:
            self._judge_maintenance(task, operation.result)
        self._judge_files()
        for uid in range(len(UIDS)):
            effects = [effect for task, each in self.done if (effect := self._effect(task, each, uid)) is not None]
            found = self.archive.get(0, uid, Cancellation())
            effects.append(Effect(read_effect(lambda now, found=found: now == found), 10**9, 10**9))
            if uid == 0 and self.orphan is not None:
                adopted = store_effect("keep", self.orphan, None)
                effects.append(Effect(adopted, 0, float("inf"), may_fail=True))
            assert is_explained(effects, self.contents[uid]), f"instance {uid} is {found} at the end"

    def _effect(self, task: Task, operation: Operation, uid: int) -> Effect | None:
        if task.kind not in ("store", "delete", "find", "get") or task.uid != uid:
            return None
        result, began, ended = operation.result, operation.began, operation.ended
        if isinstance(result, Cancelled):
            assert task.is_cancelled
            return None
        if task.kind == "store" and isinstance(result, IndexUnavailable):
            assert task.failure
            return Effect(store_effect(self.policy, task.content, None), began, float("inf"), may_fail=True)
        if task.kind == "store":
            return Effect(store_effect(self.policy, task.content, result), began, ended)
        if task.kind == "delete":
            return Effect(delete_effect(result), began, ended)
        if task.kind == "find":
            return Effect(read_effect(lambda now: (now is not None) == result), began, ended)
        seen = None if isinstance(result, InstanceMissing) else result
        return Effect(read_effect(lambda now: now == seen), began, ended)

    def _judge_maintenance(self, task: Task, result: Any) -> None:
        """No finding is false; nothing is refused but a second maintenance command."""
        if isinstance(result, PacsError):
            allowed: tuple[type[PacsError], ...] = {
                "store": (IndexUnavailable, DuplicateInstance, InstanceConflict),
                "find": (Cancelled,),
                "get": (Cancelled, InstanceMissing),
                "repair": (ConfigurationError,),
                "reindex": (ConfigurationError,),
            }.get(task.kind, ())
            assert isinstance(result, allowed), result
        elif isinstance(result, Report):
            assert {each.file for each in result.findings} <= self.excused, result.findings
        elif isinstance(result, Reindexed):
            assert set(result.unusable) <= self.excused, result
            assert result.removed == 0
            assert result.added <= len(self.excused)

    def _judge_files(self) -> None:
        """Each row has its file with the right digest, and each file is in a row, but for the orphan."""
        index, files = self.archive.indexes[0], self.archive.files[0]
        rows = [row for page in index_maintenance.pages(index) for row in page]
        keys = set(LocalFiles(self.archive.root).keys())
        assert {row.file_key for row in rows} <= keys
        assert keys - {row.file_key for row in rows} <= self.excused
        for row in rows:
            arrival = read_stored_file(files, row.file_key)
            assert (arrival.header.sop_instance_uid, arrival.digest) == (row.sop_instance_uid, row.digest)
        moved = {path.name for path in (self.archive.root / "quarantine").rglob("*.dcm")}
        assert moved <= {key.rpartition("/")[2] for key in self.excused}
        assert Fsck(index, files, grace=0).run(repair=True).is_well
        assert Fsck(index, files, grace=0).run().findings == ()
        if self.orphan is None:  # its row was removed alone, so that its study has still values from it
            assert self.archive.reindex(0) == Reindexed(images=len(rows)), "the index is not what the files say"


SWITCHES = st.dictionaries(st.integers(0, 60), st.integers(1, 4), max_size=6)
"""After which steps another operation goes on, and which: races need few interruptions, each at the right place."""


@contextmanager
def archive(database_url: str, folder: Path, policy: str) -> Iterator[Callable[[], Archive]]:
    """Yield a function that makes an empty archive."""
    indexes = [SteppedIndex(database_url) for _ in range(PROCESSES)]
    number = itertools.count()

    def empty() -> Archive:
        for index in indexes:
            index.late.clear()
        with indexes[0].write() as connection:
            for table in ("image", "series", "study", "patient"):
                connection.execute(text(f"DELETE FROM {table}"))
        root = folder / str(next(number))
        shutil.rmtree(folder / str(next(number) - 2), ignore_errors=True)
        return Archive(indexes, root, policy)

    try:
        yield empty
    finally:
        for index in indexes:
            index.close()


@pytest.fixture
def empty(
    database_url: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Archive]]:
    """A function that makes an empty archive with a policy for duplicates; waiting is a step there."""
    monkeypatch.setattr(object_lock.time, "sleep", lambda seconds: step(WAITING if seconds else "grace period"))
    with archive(database_url, tmp_path, policy) as make:
        yield make


def run_and_judge(run: Run, tasks: Sequence[Task], switches: dict[int, int]) -> int:
    """Run operations by a schedule, judge them, and return the number of steps."""
    for task in tasks:
        run.add(task)
    try:
        run.schedule.run(switches)
        run.judge()
    except Exception as error:
        error.add_note("\n".join([*run.schedule.trace, *(f"{task} -> {each.result}" for task, each in run.done)]))
        raise
    return len(run.schedule.trace)


def explore(empty: Callable[[], Archive], policy: str, examples: int, operations: int) -> None:
    """Let hypothesis look for operations and a schedule that the model does not explain."""

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], print_blob=True,
    )  # fmt: skip
    @given(
        st.tuples(st.sampled_from([0, None, 1]), st.sampled_from([None, 0])),
        st.booleans(),
        st.tuples(STORES, st.lists(TASKS, min_size=1, max_size=operations - 1)),
        SWITCHES,
    )
    def runs(contents: Any, has_orphan: bool, tasks: tuple[Task, list[Task]], switches: dict[int, int]) -> None:
        run_and_judge(Run(empty(), policy, contents, has_orphan), [tasks[0], *tasks[1]], switches)

    runs()


def interrupt_everywhere(empty: Callable[[], Archive], policy: str, first: Task, second: Task) -> int:
    """Run one operation from its begin to its end at each step of another one; return the number of runs."""
    contents = (0 if policy == "replace" or first.kind != "store" else None, None)
    steps = at = 1
    while at < steps + 1:
        steps = run_and_judge(Run(empty(), policy, contents, False), [first, second], {at: 1})
        at += 1
    return steps


CHANGES = [
    Task("store", 0, 0, 1), Task("delete", 0, 0), *(Task("store", 0, 0, 1, failure) for failure in FAILURES if failure)
]  # fmt: skip
LOOKS = [Task("repair", 1), Task("reindex", 1), Task("delete", 1), Task("get", 1), Task("store", 1, 0, 0)]


@pytest.mark.parametrize("policy", ["replace"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [pytest.param(each, marks=[pytest.mark.long] if each.failure in {"lost", "committed"} else []) for each in CHANGES],
    ids=lambda task: f"{task.kind} {task.failure}".strip(),
)
def test_a_repair_at_each_step_of_a_change_is_explained(empty: Callable[[], Archive], policy: str, change: Task):
    """Of a replacement, a deletion, and stores whose index is locked or whose connection breaks at the commit."""
    interrupt_everywhere(empty, policy, change, LOOKS[0])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("policy", ["keep", "replace", "reject"])
def test_each_operation_at_each_step_of_another_is_explained(empty: Callable[[], Archive], policy: str):
    """The long form: every pair, in both orders, on both databases."""
    runs = 0
    for first, second in itertools.product(CHANGES, LOOKS):
        runs += interrupt_everywhere(empty, policy, first, second)
        runs += interrupt_everywhere(empty, policy, second, first)
    print(f"{policy}: {runs} schedules")


@pytest.mark.parametrize("policy", ["keep", "replace", "reject"])
def test_every_interleaving_is_explained(empty: Callable[[], Archive], policy: str):
    """Stores, deletions, queries, retrieves and maintenance at once: nothing lost, nothing false, no orphan."""
    explore(empty, policy, examples=15, operations=4)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("policy", ["keep", "replace", "reject"])
def test_many_interleavings_of_more_operations_are_explained(empty: Callable[[], Archive], policy: str):
    """The long form."""
    explore(empty, policy, examples=500, operations=7)
