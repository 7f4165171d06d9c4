"""SIGKILL under load, many times: at any moment, and at each step of storing an instance.

The steps are system calls of the daemon. strace kills the process when a thread enters the N-th call of one kind, which
is then not done; the last line of its log tells the step. A kill between two steps leaves the same as a kill at the
second one, so that these kills cover all states.

After each kill the archive starts again on the same folder, and its content is compared with the responses that the
senders received.
"""

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests import databases
from tests.crash import examining
from tests.crash.examining import KINDS, LOST, Faults
from tests.crash.load import LARGE, MIXED, SMALL, Ledger, Sender, eventually, stop_all
from tests.crash.servers import PEERS, Died, Peer, Postgres, Server, Site, peer, strace
from tests.crash.table import table

TARGETS: Sequence[tuple[str, Sequence[int]]] = (
    ("flock", MIXED),
    ("pwritev2", SMALL),
    ("pwritev2", LARGE),
    ("fsync", LARGE),
    ("rename", SMALL),
    ("rename", LARGE),
    ("pwrite64", SMALL),
    ("sendto", MIXED),
    ("sendmsg", MIXED),
    ("syncfs", SMALL),
)
"""The calls at which a process is killed, and the sizes of the instances sent meanwhile."""

OFTEN = {"syncfs": (1, 1), "pwrite64": (60, 150)}
"""The range of calls of a thread at one of which it is killed; default: the 12th to 30th."""

TRACED = ("flock", "pwritev2", "fsync", "rename", "pwrite64", "sendto", "sendmsg", "syncfs", "fdatasync")

STEPS: Sequence[tuple[str, str, str]] = (
    ("temporary file created, empty", "flock", r"/incoming/"),
    ("temporary file partly or not yet written", "pwritev2", r"/incoming/"),
    ("temporary file written, before its fsync", "fsync", r"/incoming/"),
    ("written (small) or fsynced (large), before the rename", "rename", r"/incoming/"),
    ("renamed, before the write into the journal", "pwritev2", r"\.segment"),
    ("journal partly grown or invalidated", "pwrite64", r"\.segment"),
    ("renamed, before the fsync of the folder", "fsync", r"/\d\d/\d\d>"),
    ("durable, in the commit of its row (SQLite)", "pwrite64", r"pacs\.db"),
    ("durable, before or in the transaction of its row (PostgreSQL)", "sendto", r"socket"),
    ("row committed, before the response", "sendmsg", r"socket"),
    ("journal full, before its files are synced", "syncfs", r""),
)
"""The steps at which a process is killed: name, system call, and pattern of its arguments."""

RANDOM, RECOVERING, ELSEWHERE = "any moment", "during recovery", "another system call"
WORKER, SUPERVISOR, ALL = "one worker", "the supervisor", "all processes"
DATABASE = {signal.SIGKILL: "PostgreSQL, by SIGKILL", signal.SIGQUIT: "PostgreSQL, immediate shutdown"}

ROUNDS_OF_A_FOLDER = 12
"""Kills of one folder, so that it does not grow without limit."""


@dataclass
class Totals:
    """The results of kills."""

    kills: Counter[str] = field(default_factory=Counter)
    """By step."""
    acknowledged: int = 0
    deleted: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Counter)
    unable: int = 0
    """Starts that failed."""

    def add(self, ledger: Ledger) -> None:
        """Add the ledger of a folder."""
        self.acknowledged += ledger.answers[0]
        self.deleted += len(ledger.gone)
        self.refused += Counter({status: count for status, count in ledger.answers.items() if status})

    def steps(self) -> str:
        """Return the kills by step as a table."""
        return table(("killed at", "kills"), [*self.kills.items(), ("all", self.kills.total())])

    def row(self) -> Sequence[object]:
        """Return its line of the table of totals, without the name."""
        return (
            self.kills.total(),
            self.acknowledged,
            self.deleted,
            *(self.faults[each] for each in KINDS),
            self.unable,
        )


HEAD = ("archive", "kills", "acknowledged", "deleted", *KINDS, "did not start again")


# --- one archive -------------------------------------------------------------------------------------------------


class Campaign:
    """Fills, kills, restarts and examines an archive, on one folder after the other."""

    senders = 8
    """The number of concurrent senders."""

    def __init__(self, folder: Path, totals: Totals, seed: int, report: Callable[[str], None]) -> None:
        self.folder, self.totals, self.report = folder, totals, report
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self._folders = self._rounds = 0
        self._seen: set[str] = set()

    def start(self) -> Server:
        """Start the archive on its current folder. Raises Died."""
        raise NotImplementedError

    def kill(self, server: Server) -> str:
        """Kill it under load, and return the step."""
        time.sleep(self.chance.uniform(0.05, 0.8))
        server.kill()
        return RANDOM

    def round(self) -> None:
        """Start, examine, fill and kill it."""
        server = self.start()
        try:
            self.examine(server)
            senders = self.fill(server, MIXED)
            step = self.kill(server)
            stop_all(senders)
        finally:
            server.kill()
        assert eventually(server.is_gone)
        self.note(step)

    def note(self, step: str) -> None:
        """Count a kill."""
        self.totals.kills[step] += 1
        self.report(f"{self.totals.kills.total()} kills, {step}: {dict(+self.totals.faults) or 'no faults'}")

    def fill(self, server: Server, sizes: Sequence[int]) -> list[Sender]:
        """Start senders."""
        self._rounds += 1
        name = f"{self.folder.name}/{self._folders}/{self._rounds}"
        return [
            Sender(self.ledger, server.port, f"{name}/{number}", sizes, server.ae_title)
            for number in range(self.senders)
        ]

    def examine(self, server: Server, *, everything: bool = False) -> None:
        """Compare its content with the ledger: the studies of the last round, or all of them."""
        studies = [each for each in self.ledger.studies() if everything or each not in self._seen]
        self.totals.faults += examining.examine(server.port, self.ledger, studies, server.ae_title)
        self._seen.update(studies)

    def finish(self) -> None:
        """Examine everything in this folder, and change to another one."""
        server = self.start()
        self.examine(server, everything=True)
        server.stop()
        self.totals.add(self.ledger)
        self.ledger, self._seen = Ledger(), set()
        self._folders += 1

    def run(self, kills: int) -> Totals:
        """Kill it at least `kills` times."""
        while self.totals.kills.total() < kills:
            for _ in range(min(ROUNDS_OF_A_FOLDER, kills - self.totals.kills.total())):
                try:
                    self.round()
                except Died as died:
                    self.totals.unable += 1
                    self.report(str(died))
            self.finish()
        return self.totals


class PacsCampaign(Campaign):
    """`pacs serve`."""

    def __init__(
        self, folder: Path, totals: Totals, seed: int, report: Callable[[str], None], *, url: str = "", workers: int = 1
    ) -> None:
        super().__init__(folder, totals, seed, report)
        self._url, self._workers = url, workers

    @property
    def site(self) -> Site:
        """The current site of the archive."""
        folder = self.folder / str(self._folders)
        settings = (f"server.workers={self._workers}", "limits.drain_seconds=2")
        return Site(folder, self._url, settings, self.folder / "serve.log")

    def start(self) -> Server:
        """Start `pacs serve`, which recovers: then every file is in a row, and no half-written one is left."""
        return self.site.start()

    def examine(self, server: Server, *, everything: bool = False) -> None:
        """Compare rows, files and counts as well."""
        super().examine(server, everything=everything)
        self.totals.faults += examining.examine_consistency(server.port, self.site.files)

    def finish(self) -> None:
        """Empty PostgreSQL for the next folder."""
        super().finish()
        if self._url:
            databases.emptied(self._url)


class StepCampaign(PacsCampaign):
    """One process, killed by strace at the steps of storing, and at any moment while studies are deleted."""

    def __init__(self, *words: object, **options: object) -> None:
        super().__init__(*words, **options)  # type: ignore[arg-type]
        self._targets = [each for each in TARGETS if self._url or each[0] != "sendto"]
        self._turn = 0
        self._deleted: set[str] = set()

    def round(self) -> None:
        """Kill at a step, then, after a start without strace and an examination, at any moment.

        A clean start before most rounds does the recovery, so that the step is one of storing.
        """
        if self.chance.random() < 0.8:
            assert self.start().stop() == 0
        self.at_step(*self._targets[self._turn % len(self._targets)])
        self._turn += 1
        super().round()

    def kill(self, server: Server) -> str:
        """Kill at any moment during a deletion, which may be killed as well."""
        studies = [each for each in self.ledger.studies() if each in self._seen - self._deleted]
        if not studies:
            return super().kill(server)
        study = self.chance.choice(studies)
        self._deleted.add(study)
        uids = self.ledger.begin_deleting(study)
        deletion = self.site.delete(study)
        step = super().kill(server)
        if self.chance.random() < 0.3:
            deletion.kill()
        if deletion.wait(60) == 0:
            self.ledger.deleted(uids)
        return step

    def at_step(self, call: str, sizes: Sequence[int]) -> None:
        """Fill a process that is killed when it enters such a call, and count the step."""
        strace()
        log = self.folder / "trace"
        log.unlink(missing_ok=True)
        many = self.chance.randint(*OFTEN.get(call, (12, 30)))
        command = [
            "strace", "-f", "-DD", "-qq", "-y", "-s", "0", "-o", log,
            "-e", f"trace={','.join(TRACED)}", "-e", f"inject={call}:error=EIO:signal=KILL:when={many}",
        ]  # fmt: skip
        try:
            server = self.site.start(*command)
        except Died:
            self.note(RECOVERING)
            return
        senders = self.fill(server, sizes)
        has_died = eventually(lambda: server.process.poll() is not None, 20)
        server.kill()
        stop_all(senders)
        assert eventually(server.is_gone)
        self.note(step_of(log, call) if has_died else RANDOM)


def step_of(log: Path, call: str) -> str:
    """Return the step at which the process was killed in `call`, from the log of strace."""
    for line in reversed(log.read_text().splitlines()):
        if re.match(rf"\d+ +{call}\(", line):
            return next((name for name, each, about in STEPS if each == call and re.search(about, line)), ELSEWHERE)
    return ELSEWHERE


class WorkersCampaign(PacsCampaign):
    """Several processes: one worker, the supervisor, or all are killed."""

    def kill(self, server: Server) -> str:
        """Kill one of the three."""
        time.sleep(self.chance.uniform(0.05, 0.8))
        who = (WORKER, SUPERVISOR, ALL)[self.totals.kills.total() % 3]
        if who == WORKER:
            before = server.workers()
            server.kill_one(self.chance.choice(before))
            assert eventually(lambda: len(set(server.workers()) - set(before)) == 1)
            time.sleep(0.3)
            self.note(who)
            who = ALL
        if who == ALL:
            server.kill()
        else:
            server.kill_one(server.process.pid)
            assert eventually(server.is_gone), "a worker outlives its supervisor"
        return who


class DatabaseCampaign(PacsCampaign):
    """One process that keeps running while its PostgreSQL is killed and restarted."""

    def __init__(self, *words: object, postgres: Postgres, **options: object) -> None:
        super().__init__(*words, **options)  # type: ignore[arg-type]
        self._postgres = postgres

    def round(self) -> None:
        """Kill the database; the archive stores again once it is back."""
        server = self.start()
        try:
            self.examine(server)
            senders = self.fill(server, MIXED)
            how = tuple(DATABASE)[self.totals.kills.total() % 2]
            time.sleep(self.chance.uniform(0.1, 0.8))
            self._postgres.end(how)
            time.sleep(self.chance.uniform(0.0, 0.5))
            self._postgres.start()
            before = self.ledger.answers[0]
            assert eventually(lambda: self.ledger.answers[0] > before), "the archive does not store again"
            stop_all(senders)
            assert server.stop() == 0
        finally:
            server.kill()
        self.note(DATABASE[how])


class PeerCampaign(Campaign):
    """Another archive, killed at any moment."""

    def __init__(self, folder: Path, totals: Totals, seed: int, report: Callable[[str], None], *, name: str) -> None:
        super().__init__(folder, totals, seed, report)
        self._name = name

    def start(self) -> Server:
        """Start the peer."""
        found: Peer = peer(self._name, self.folder / str(self._folders))
        return found.start()


# --- long and short ----------------------------------------------------------------------------------------------


def run(
    folder: Path,
    what: str,
    kills: int,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda _sentence: None,
) -> Totals:
    """Kill one of `CAMPAIGNS` so many times, and return the totals."""
    own = folder / what.replace(" ", "-")
    own.mkdir()
    words = (own, Totals(), seed, report)
    if what in PEERS:
        return PeerCampaign(*words, name=what).run(kills)
    with ExitStack() as stack:
        if "PostgreSQL" not in what:
            return (WorkersCampaign(*words, workers=2) if "workers" in what else StepCampaign(*words)).run(kills)
        postgres = stack.enter_context(Postgres.running())
        if "killed" in what:
            return DatabaseCampaign(*words, url=postgres.text, postgres=postgres).run(kills)
        options = {"url": postgres.text}
        return (
            WorkersCampaign(*words, workers=2, **options) if "workers" in what else StepCampaign(*words, **options)
        ).run(kills)


CAMPAIGNS = ("SQLite", "PostgreSQL", "SQLite, 2 workers", "PostgreSQL, 2 workers", "PostgreSQL is killed", *PEERS)
"""The targets: the archive on a database, that database, and other archives."""


def totals(results: dict[str, Totals]) -> str:
    """Return the table of all results."""
    return table(HEAD, [(name, *each.row()) for name, each in results.items()])


def is_clean(result: Totals) -> bool:
    """Whether nothing was wrong."""
    return not result.faults.total() and not result.unable and result.faults[LOST] == 0
