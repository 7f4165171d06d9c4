"""Power cuts: the recorded disk operations of an archive, cut off at every point, and the recovery after each cut.

SIGKILL keeps the page cache, so that a kill proves nothing about power cuts. Here strace records the daemon while it
stores instances, and `tests.crash.disk` repeats its file operations up to a point and drops unsynced data, all of it or
in part. The real recovery starts on the resulting disk. The recovery is recorded and cut as well.
"""

import itertools
import random
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

from pacs.archive import Archive
from pacs.config import Config, from_settings
from pacs.dicom.levels import QueryLevel
from pacs.index import maintenance, schema
from pacs.services.backup import Backups
from tests.clock.clock import DAY, HOUR, turned
from tests.crash import disk, trace
from tests.crash.client import SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, associated
from tests.crash.disk import SURVIVALS, Disk
from tests.crash.examining import ALTERED, HALF, LOST, RETURNED, STRAY, Faults
from tests.crash.load import Instance, eventually, uid
from tests.crash.servers import ROOT, Server, Site, strace
from tests.crash.table import table
from tests.crash.trace import NEVER, Call

MEMORY = Path("/dev/shm")

SENDERS = {
    "small": (9_000, 1_000, 40_000),
    "more": (9_000,),
    "large": (1_200_000,),
    "both": (9_000, 1_100_000, 900_000),
}
"""Senders and the sizes of their instances, in bytes of pixels. Each fourth is sent again with other pixels."""


# --- the recording -----------------------------------------------------------------------------------------------

Contents = Mapping[str, Sequence[str]]
"""SOP Instance UIDs, and the digests of their possible contents."""


@dataclass
class Recording:
    """Recorded disk operations of processes that ran one after the other, and the instances they concern."""

    root: Path
    """The recorded folder, as it was before."""
    calls: list[Call]
    sent: Contents = field(default_factory=dict)
    """Instances that may be there: digests of their versions. They must be once they are acknowledged."""
    kept: Contents = field(default_factory=dict)
    """Instances that must be there at every point."""
    gone: Collection[str] = ()
    """Instances that must not be there after the end."""
    resume: Callable[[Path], None] = lambda _root: None
    """Does what a user has to do after a cut, before the archive starts."""

    def answers(self) -> list[tuple[int, str]]:
        """Return the position and SOP Instance UID of each success response."""
        return [(place, name) for place, name, status in trace.answers(self.calls) if status == 0]


def arriving(folder: Path, instances: int, seconds: float = 0, workers: int = 1) -> Recording:
    """Record a daemon that starts empty, receives `instances` from each sender, and stops cleanly.

    It is idle for `seconds` before it stops; its journal is settled after five.
    """
    site, sent = _site(folder, workers), dict[str, list[str]]()
    with _recorded(site, folder / "trace") as server:
        _send_all(server.port, range(instances), sent)
        threading.Event().wait(seconds)
        assert server.stop() == 0
    return Recording(_emptied(folder), _calls(folder / "trace"), sent)


def turning(folder: Path, instances: int, _seconds: float = 0) -> Recording:
    """Record two daemons, one after the other, while the clock is turned: back and forward, by an hour to a year.

    The first one is killed, so that the second one recovers; before it starts, the clock is turned as well.
    """
    site, sent = _site(folder), dict[str, list[str]]()
    numbers = iter(range(10**6))
    with turned(folder) as clock:
        for name, jumps in (("first", (-26 * HOUR, HOUR, -370 * DAY)), ("second", (26 * HOUR, -370 * DAY, HOUR))):
            with _recorded(site, folder / name, *clock.prefix) as server:
                for jump in jumps:
                    _send_all(server.port, list(itertools.islice(numbers, instances)), sent)
                    clock.jump(jump)
                if name == "second":
                    assert server.stop() == 0
            clock.jump(-26 * HOUR)
    calls = trace.joined(_calls(folder / "first"), _calls(folder / "second"))
    return Recording(_emptied(folder), calls, sent)


def deleting(folder: Path, instances: int, _seconds: float = 0) -> Recording:
    """Record `pacs delete` of all studies but one."""
    site, sent = _filled(folder, instances)
    _copied(folder)
    chosen = "\\".join(uid("study", name) for name in SENDERS if name != "both")
    _run(site, folder / "trace", "delete", f"StudyInstanceUID={chosen}", "--yes")
    gone = {each: digests for each, digests in sent.items() if not _is_of("both", each)}
    kept = {each: digests for each, digests in sent.items() if each not in gone}
    return Recording(_restored(folder), _calls(folder / "trace"), gone, kept, gone)


def restoring(folder: Path, instances: int, _seconds: float = 0) -> Recording:
    """Record `pacs restore` into an empty archive; after a cut it is run again unless it was complete."""
    site, sent = _filled(folder, instances)
    subprocess.run(site.command("backup", folder / "backup"), cwd=ROOT, check=True, capture_output=True)
    _emptied(folder)
    _run(site, folder / "trace", "restore", folder / "backup")

    def resume(root: Path) -> None:
        with Archive(_config(root)) as archive:
            schema.upgrade(archive.index)
            if archive.files.interrupted_restore() or not maintenance.counts(archive.index)[QueryLevel.IMAGE]:
                Backups(archive.index, archive.files).restore(folder / "backup")

    return Recording(_emptied(folder), _calls(folder / "trace"), kept=sent, resume=resume)


def completing(folder: Path, instances: int, _seconds: float = 0) -> Recording:
    """Record a daemon that completes an index whose database is lost; after a cut the next start goes on."""
    site, sent = _filled(folder, instances)
    (site.folder / "pacs.db").unlink()
    _copied(folder)
    with _recorded(site, folder / "trace") as server:
        assert eventually(lambda: len(_found(server.port)) == len(sent))
        assert server.stop() == 0

    def resume(root: Path) -> None:
        with Archive(_config(root)) as archive:
            archive.prepare()
            archive.healing.start()
            assert eventually(lambda: archive.healing.progress() is None)

    return Recording(_restored(folder), _calls(folder / "trace"), kept=sent, resume=resume)


def _found(port: int) -> list[str]:
    """Return the instances that the archive finds; none while it refuses queries."""
    with suppress(ConnectionError), associated(port, retrieves=True) as client:
        keys = [{STUDY_INSTANCE_UID: uid("study", name)} for name in SENDERS]
        images = [each | {SERIES_INSTANCE_UID: uid("series", *each.values()), SOP_INSTANCE_UID: ""} for each in keys]
        return [match[SOP_INSTANCE_UID] for each in images for match in client.find("IMAGE", each)]
    return []


LOADS: Mapping[str, Callable[[Path, int, float], Recording]] = {
    "while instances arrive": arriving,
    "while instances arrive, four workers": partial(arriving, workers=4),
    "while the clock is turned": turning,
    "while studies are deleted": deleting,
    "during a restore": restoring,
    "while an index is completed": completing,
}
"""What is recorded and cut."""

RECOVERED = ("while instances arrive", "while the clock is turned")
"""The loads after whose cuts the recovery is recorded and cut as well."""


def _site(folder: Path, workers: int = 1) -> Site:
    """Return the site that is recorded, in a new folder."""
    (folder / "disk").mkdir(parents=True)
    settings = ("storage.duplicates=replace", "web.enabled=false", f"server.workers={workers}")
    return Site(folder / "disk" / "data", settings=settings, log=folder / "serve.log")


def _filled(folder: Path, instances: int) -> tuple[Site, dict[str, list[str]]]:
    """Return a site with instances, and the digest of each."""
    site, sent = _site(folder), dict[str, list[str]]()
    server = site.start()
    try:
        _send_all(server.port, range(instances), sent)
        assert server.stop() == 0
    finally:
        server.kill()
    return site, {each: digests[-1:] for each, digests in sent.items()}


def _emptied(folder: Path) -> Path:
    """Empty the folder of the site, and return it."""
    shutil.rmtree(folder / "disk")
    (folder / "disk").mkdir()
    return folder / "disk"


def _copied(folder: Path) -> None:
    shutil.copytree(folder / "disk", folder / "before")


def _restored(folder: Path) -> Path:
    """Make the folder of the site as it was when it was copied, and return it."""
    shutil.rmtree(folder / "disk")
    (folder / "before").rename(folder / "disk")
    return folder / "disk"


def _run(site: Site, log: Path, *words: object) -> None:
    """Run a command of `pacs` under strace; the log is complete at the end."""
    command = [strace(), *trace.command(log)[1:], *site.command(*words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: _is_complete(log)), "strace did not end"


@contextmanager
def _recorded(site: Site, log: Path, *prefix: object) -> Iterator[Server]:
    """Run `pacs serve` of a site under strace; the log is complete at the end."""
    strace()
    server = site.start(*trace.command(log), *prefix)
    try:
        yield server
    finally:
        server.kill()
        assert eventually(server.is_gone)
        assert eventually(lambda: _is_complete(log)), "strace did not end"


def _is_complete(log: Path) -> bool:
    """Whether no process has a log open any more."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if descriptor.readlink() == log:
                return False
    return True


def _calls(log: Path) -> list[Call]:
    found = trace.calls(log)
    assert not disk.unknown(found), disk.unknown(found)
    return found


def _send_all(port: int, numbers: Sequence[int], sent: dict[str, list[str]]) -> None:
    """Send instances with these numbers from all senders at once."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_send, port, name, numbers, sizes, sent) for name, sizes in SENDERS.items()]:
            done.result()


def _send(port: int, name: str, numbers: Sequence[int], sizes: Sequence[int], sent: dict[str, list[str]]) -> None:
    study = uid("study", name)
    with associated(port) as client:
        for number in numbers:
            for version in range(1 + (number % 4 == 3)):
                instance = Instance(uid("instance", name, number), study, sizes[number % len(sizes)], version)
                data = instance.data
                sent.setdefault(instance.uid, []).append(sha256(data).hexdigest())
                response = client.store(instance.uid, data)
                assert response.status == 0, f"{response.status:04X}"


def _is_of(name: str, instance: str) -> bool:
    """Whether a sender sent an instance."""
    return instance in {uid("instance", name, number) for number in range(1000)}


# --- the cuts ----------------------------------------------------------------------------------------------------


@dataclass
class Point:
    """The moment of a power cut: the disk, the running calls, and the acknowledged instances."""

    disk: Disk
    place: int
    under_way: Sequence[Call]
    required: Contents
    """Instances that must be there, with the content that was acknowledged last or the next one."""
    allowed: Contents
    """Instances that may be there."""
    gone: Collection[str] = ()
    """Instances that must not be there."""


def points(recording: Recording, base: Disk) -> Iterator[Point]:
    """Yield every moment between two changes of the disk, with the instances acknowledged before the second one."""
    allowed = {**recording.sent, **recording.kept}
    under_way: dict[int, Call] = {}
    answers = iter(recording.answers())
    following = next(answers, None)
    counts: Counter[str] = Counter()
    for place, call, is_end in _events(recording.calls):
        if not is_end:
            if base.is_concerned(call):
                under_way[call.began] = call
            base.begin(call)
            continue
        if call.began not in under_way:
            base.end(call)
            continue
        while following is not None and following[0] < place:
            counts[following[1]] += 1
            following = next(answers, None)
        required = {**_required(recording.sent, counts), **recording.kept}
        yield Point(base, place, list(under_way.values()), required, allowed)
        del under_way[call.began]
        base.end(call)
    counts.update(name for _, name in [*([following] if following else ()), *answers])
    yield Point(base, NEVER, (), {**_required(recording.sent, counts), **recording.kept}, allowed, recording.gone)


def _events(calls: Sequence[Call]) -> Iterator[tuple[int, Call, bool]]:
    """Yield the beginnings and ends of calls, in order."""
    events = [(call.began, 0, call) for call in calls] + [
        (call.ended, 1, call) for call in calls if call.ended != NEVER
    ]
    for place, is_end, call in sorted(events, key=lambda event: event[:2]):
        yield place, call, bool(is_end)


def _required(sent: Contents, counts: Mapping[str, int]) -> Contents:
    return {name: sent[name][count - 1 : count + 1] for name, count in counts.items()}


@dataclass
class Totals:
    """The results of cuts, by what survived of the unsynced data."""

    cuts: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    """Acknowledged instances looked for."""
    faults: dict[str, Faults] = field(default_factory=dict)
    worst: list[str] = field(default_factory=list)
    """Descriptions of the cuts with a fault."""

    def add(self, survival: str, point: Point, faults: Faults) -> None:
        """Add a cut."""
        self.cuts[survival] += 1
        self.acknowledged[survival] += len(point.required)
        self.faults[survival] = self.faults.get(survival, Counter()) + faults
        if faults.total():
            self.worst.append(f"{dict(faults)} with {survival} at {point.place}")

    def __str__(self) -> str:
        head = ("unsynced data that survives", "cuts", "acknowledged", LOST, ALTERED, HALF, RETURNED, STRAY)
        rows = [
            (name, self.cuts[name], self.acknowledged[name], *(self.faults[name][kind] for kind in head[3:]))
            for name in self.cuts
        ]
        total = ("all", *(sum(int(row[column]) for row in rows) for column in range(1, len(head))))
        return table(head, [*rows, total])


def cut(recording: Recording, totals: Totals, chosen: Callable[[int], Collection[str]]) -> None:
    """Cut a recording at its points; `chosen` returns the survivals to try, by the number of a point."""
    for number, point in enumerate(points(recording, Disk(recording.root))):
        for survival in chosen(number):
            with _disk_after(point, survival, number) as folder:
                recording.resume(folder)
                totals.add(survival, point, recover(folder, point))


@contextmanager
def _disk_after(point: Point, survival: str, seed: int) -> Iterator[Path]:
    """Write the disk after a cut to a temporary folder."""
    parent = Path(tempfile.mkdtemp(prefix="pacs-cut-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        point.disk.leave(parent / "disk", SURVIVALS[survival](seed), point.under_way)
        yield parent / "disk"
    finally:
        shutil.rmtree(parent)


def _config(root: Path) -> Config:
    """Return the configuration of the archive on a disk."""
    data = root / "data"
    return from_settings(
        {"server.port": 0, "database.url": f"sqlite:///{data}/pacs.db", "files.url": f"{data}/files",
         "web.enabled": False}
    )  # fmt: skip


def recover(root: Path, point: Point) -> Faults:
    """Start the archive on a disk after a cut, and compare its content with the required one."""
    data = root / "data"
    with Archive(_config(root)) as archive:
        archive.prepare()
        rows = archive.maintenance.instances({})
        found: dict[str, str] = {}
        for row in rows:
            with closing(archive.files.open(row.file_key)) as file:
                file.seek(row.data_offset)
                found[row.sop_instance_uid] = sha256(file.read()).hexdigest()
        keys = set(archive.files.keys())
    known = {row.file_key for row in rows}
    return Counter(
        {
            LOST: sum(name not in found for name in point.required),
            ALTERED: sum(found.get(name, digests[0]) not in digests for name, digests in point.required.items()),
            HALF: sum(digest not in point.allowed.get(name, ()) for name, digest in found.items()),
            RETURNED: len(found.keys() & point.gone),
            STRAY: len(known - keys) + len(list((data / "files" / "incoming").iterdir())),
        }
    )


# --- cuts of the recovery ----------------------------------------------------------------------------------------


def record_recovery(point: Point, survival: str, seed: int, folder: Path) -> Recording:
    """Record the start of `pacs serve` on the disk after a cut."""
    point.disk.leave(folder / "disk", SURVIVALS[survival](seed), point.under_way)
    _copied(folder)
    site = Site(folder / "disk" / "data", settings=("server.workers=1",), log=folder / "serve.log")
    with _recorded(site, folder / "trace"):
        pass
    return Recording(_restored(folder), _calls(folder / "trace"), point.allowed, point.required)


# --- long and short ----------------------------------------------------------------------------------------------


def every_survival(_number: int) -> Collection[str]:
    """Choose every survival at every point."""
    return SURVIVALS


def one_in(count: int, seed: int) -> Callable[[int], Collection[str]]:
    """Choose one random survival at every `count`-th point."""
    chance = random.Random(seed)
    names = list(SURVIVALS)

    def chosen(number: int) -> Collection[str]:
        return [chance.choice(names)] if number % count == count // 2 else ()

    return chosen


def run(
    folder: Path,
    load: str,
    *,
    instances: int,
    seconds: float,
    recoveries: int,
    chosen: Callable[[int], Collection[str]],
    seed: int = 0,
    report: Callable[[str], None] = lambda _sentence: None,
) -> dict[str, Totals]:
    """Record and cut one of `LOADS`, then record and cut the recovery of some cuts; return the totals of both."""
    strace()
    recording = LOADS[load](folder / load, instances, seconds)
    count = sum(1 for _ in points(recording, Disk(recording.root)))
    report(f"{len(recording.calls)} system calls, {count} points, {len(recording.answers())} instances acknowledged")
    first, second = Totals(), Totals()
    cut(recording, first, chosen)
    report(f"{first.cuts.total()} cuts done")
    places = set(random.Random(seed).sample(range(count // 2, count), recoveries))
    for number, point in enumerate(points(recording, Disk(recording.root))):
        if number in places:
            own = folder / f"recovery {number}"
            own.mkdir()
            survival = list(SURVIVALS)[number % len(SURVIVALS)]
            cut(record_recovery(point, survival, number, own), second, chosen)
            shutil.rmtree(own)
            report(f"{second.cuts.total()} cuts of recoveries done")
    return {f"Power cuts {load}": first} | ({f"Power cuts {load}, and of the recovery": second} if recoveries else {})
