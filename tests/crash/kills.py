"""SIGKILL under load, many times: at any moment, at each step of storing an instance, and during the start.

The steps are system calls of the daemon. strace is attached to the process under load and kills it when a thread enters
the N-th call of one kind, which is then not done; the last line of its log tells the step. A kill between two steps
leaves the same as a kill at the second one, so that these kills cover all states.

After each kill the archive starts again on the same folder, and what was sent since the last kill is compared with the
responses that the senders received. Then the same process gets the next load and is killed. At the end of a turn, which
has a folder and a database of its own, everything is compared. Turns of several archives run side by side.
"""

import functools
import itertools
import multiprocessing
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.crash import examining
from tests.crash.examining import KINDS, Faults
from tests.crash.load import LARGE, MIXED, SMALL, Ledger, Sender, eventually, stop_all
from tests.crash.servers import PEERS, Died, Postgres, Server, Site, attached, peer
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

COUNTS = {"syncfs": (1, 1), "pwrite64": (10, 150)}
"""The range of calls of a thread at one of which it is killed; default: the 2nd to 20th."""

TRACED = ("flock", "pwritev2", "fsync", "rename", "pwrite64", "sendto", "sendmsg", "syncfs", "fdatasync")

STARTING = ("mkdir", "rename", "pwrite64", "fsync", "syncfs", "unlink", "rmdir")
"""The calls of a start, at one of which it is killed."""

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

RANDOM, DELETING, RECOVERING = "any moment", "any moment of a deletion", "start and recovery"
WORKER, SUPERVISOR, ELSEWHERE = "any moment, one worker", "any moment, the supervisor", "another system call"
DATABASE = {signal.SIGKILL: "PostgreSQL, by SIGKILL", signal.SIGQUIT: "PostgreSQL, immediate shutdown"}
NAMES = (RANDOM, DELETING, RECOVERING, WORKER, SUPERVISOR, *(name for name, *_ in STEPS), ELSEWHERE, *DATABASE.values())

KILLS_OF_A_TURN = 15
"""Kills on one folder, so that it does not grow without limit."""

PATIENCE = 8
"""Seconds to wait until a process arrives at a step; then it is killed where it is."""


@dataclass
class Totals:
    """The results of kills."""

    kills: Counter[str] = field(default_factory=Counter)
    """By step."""
    turns: int = 0
    acknowledged: int = 0
    replaced: int = 0
    deleted: int = 0
    faults: Faults = field(default_factory=Counter)
    unable: int = 0
    """Starts that failed."""

    def add(self, ledger: Ledger) -> None:
        """Add the ledger of a turn."""
        self.turns += 1
        self.acknowledged += ledger.answers[0]
        self.replaced += ledger.replaced
        self.deleted += len(ledger.gone)

    def merge(self, other: "Totals") -> None:
        """Add the totals of other turns."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the totals that were written as JSON."""
        return cls(**{name: Counter(each) if isinstance(each, dict) else each for name, each in values.items()})

    def row(self) -> Sequence[object]:
        """Return its line of the table of totals, without the name."""
        return (
            self.kills.total(),
            self.acknowledged,
            self.replaced,
            self.deleted,
            *(self.faults[each] for each in KINDS),
            self.unable,
        )

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return not self.faults.total() and not self.unable


HEAD = ("archive", "kills", "acknowledged", "replaced", "deleted", *KINDS, "did not start again")


# --- one archive -------------------------------------------------------------------------------------------------

Kill = Callable[[Server], str]
"""Kills a server under load, or one of its processes, and returns the step."""


class Campaign:
    """Loads, kills, restarts and examines an archive on one folder."""

    senders = 8
    """The number of concurrent senders."""

    replaces = False

    def __init__(self, folder: Path, seed: str, report: Callable[[str], None]) -> None:
        self.folder, self.report = folder, report
        self.totals = Totals()
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self._kinds = self._shuffled()
        self._rounds = 0
        self._server: Server | None = None
        self._seen: set[str] = set()
        """Studies that were examined since they were sent or deleted."""
        self._recent: set[str] = set()
        """Those of them that were examined after the last recovery."""

    def start(self) -> Server:
        """Start the archive on its folder. Raises Died."""
        raise NotImplementedError

    def kinds(self) -> Sequence[tuple[Kill, Sequence[int]]]:
        """Return the kinds of kills, and the sizes of the instances sent meanwhile."""
        return [(self.at_any_moment, MIXED)]

    def _shuffled(self) -> Iterator[tuple[Kill, Sequence[int]]]:
        while True:
            kinds = self.kinds()
            yield from self.chance.sample(kinds, len(kinds))

    def run(self, kills: int, until: float = float("inf")) -> Totals:
        """Kill it at least `kills` times, or until a time of the monotonic clock."""
        try:
            while self.totals.kills.total() < kills and time.monotonic() < until and self.totals.unable < kills:
                try:
                    self.round()
                except Died as died:
                    self._died(died)
            self.finish()
        finally:
            self._end()
        self.totals.add(self.ledger)
        return self.totals

    def round(self) -> None:
        """Start and examine it unless it runs; load, kill and, if a part of it survives, examine it."""
        server = self.running()
        kill, sizes = next(self._kinds)
        senders = self.fill(server, sizes)
        try:
            step = kill(server)
        finally:
            stop_all(senders)
        if server.process.poll() is None:
            self.examine(server)
        else:
            self._end()
        self.note(step)

    def running(self) -> Server:
        """Return the running server; one that has just been started is examined. Raises Died."""
        if self._server is None:
            self._server = self.start()
            self.examine(self._server)
            self.examine_consistency(self._server)
        return self._server

    def at_any_moment(self, server: Server) -> str:
        """Kill all its processes."""
        time.sleep(self.chance.uniform(0.05, 0.8))
        server.kill()
        return RANDOM

    def note(self, step: str) -> None:
        """Count a kill."""
        self.totals.kills[step] += 1
        self.report(f"{self.totals.kills.total()} kills, {step}: {dict(+self.totals.faults) or 'no faults'}")

    def fill(self, server: Server, sizes: Sequence[int]) -> list[Sender]:
        """Start senders."""
        self._rounds += 1
        name = f"{self.folder}/{self._rounds}"
        return [
            Sender(self.ledger, server.port, f"{name}/{number}", sizes, server.ae_title, replaces=self.replaces)
            for number in range(self.senders)
        ]

    def examine(self, server: Server, *, everything: bool = False) -> None:
        """Compare its content with the ledger: the studies sent or deleted since the last time, or all of them."""
        studies = [each for each in self.ledger.studies() if everything or each not in self._seen]
        self.totals.faults += examining.examine(server.port, self.ledger, studies, server.ae_title)
        self._recent.update(studies)
        self._seen.update(studies)

    def examine_consistency(self, server: Server, *, everything: bool = False) -> None:
        """Compare more than contents, after a start."""

    def finish(self) -> None:
        """Start it once more unless it runs, examine everything, and stop it cleanly."""
        try:
            server = self.running()
        except Died as died:
            self._died(died)
            return
        self.examine(server, everything=True)
        self.examine_consistency(server, everything=True)
        self.totals.unable += server.stop() != 0
        self._server = None

    def _died(self, died: Died) -> None:
        self.totals.unable += 1
        self.report(str(died))

    def _end(self) -> None:
        """Kill what is left of the server."""
        if self._server is not None:
            self._server.kill()
            assert eventually(self._server.is_gone), "a worker outlives its supervisor"
            self._server = None


class PacsCampaign(Campaign):
    """`pacs serve` with one or several workers.

    One worker is killed at each step of storing; several workers one at a time, at each step and at any moment, the
    supervisor alone, or all. Studies are deleted meanwhile, and in every second turn instances are replaced.
    """

    def __init__(
        self,
        folder: Path,
        seed: str,
        report: Callable[[str], None],
        postgres: Postgres | None = None,
        *,
        workers: int = 1,
        turn: int = 0,
    ) -> None:
        super().__init__(folder, seed, report)
        self._postgres, self._workers = postgres, workers
        self.replaces = bool(turn % 2)
        settings = (
            f"server.workers={workers}",
            "limits.drain_seconds=2",
            "web.enabled=false",
            f"storage.duplicates={'replace' if self.replaces else 'keep'}",
        )
        self.site = Site(folder / "archive", postgres.text if postgres else "", settings, folder / "serve.log")
        self._deleted: set[str] = set()

    def kinds(self) -> Sequence[tuple[Kill, Sequence[int]]]:
        """Return each step once, and each kind of kill at any moment several times."""
        steps = [(self._at(call), sizes) for call, sizes in TARGETS if self._postgres or call != "sendto"]
        any_moment = [self.at_any_moment, self.at_any_moment, self.while_deleting, self.while_deleting]
        if self._workers > 1:
            any_moment += [self.one_worker, self.one_worker, self.the_supervisor, self.the_supervisor]
        return [*steps, *((kill, MIXED) for kill in any_moment)]

    def start(self) -> Server:
        """Start `pacs serve`, which recovers; one start in five is killed before another one succeeds."""
        if self._rounds and self.chance.random() < 0.2:
            self._kill_start()
        return self.site.start()

    def examine_consistency(self, server: Server, *, everything: bool = False) -> None:
        """Compare rows, files and counts: after a recovery every file is in a row, and no half-written one is left."""
        studies = None if everything else self._recent
        self.totals.faults += examining.examine_consistency(
            server.port, self.site.files, studies=studies, unanswered=self.ledger.unanswered()
        )
        self._recent = set()

    def finish(self) -> None:
        """Start it again, so that the counts of all studies can be compared after a recovery."""
        self._end()
        super().finish()

    # --- kinds of kills ----------------------------------------------------------------------------------------------

    def while_deleting(self, server: Server) -> str:
        """Kill all processes while `pacs delete` deletes a study; it may be killed as well."""
        studies = [each for each in self.ledger.studies() if each in self._seen - self._deleted]
        if not studies:
            return self.at_any_moment(server)
        study = self.chance.choice(studies)
        self._deleted.add(study)
        self._seen.discard(study)
        uids = self.ledger.begin_deleting(study)
        deletion = self.site.delete(study)
        time.sleep(self.chance.uniform(0.2, 1.2))
        server.kill()
        if self.chance.random() < 0.3:
            deletion.kill()
        if deletion.wait(60) == 0:
            self.ledger.deleted(uids)
        return DELETING

    def one_worker(self, server: Server) -> str:
        """Kill one worker; the supervisor starts another one, and the others go on."""
        time.sleep(self.chance.uniform(0.05, 0.8))
        before = server.workers()
        server.kill_one(self.chance.choice(before))
        self._await_new_worker(server, before)
        return WORKER

    def the_supervisor(self, server: Server) -> str:
        """Kill the supervisor; its workers end by themselves."""
        time.sleep(self.chance.uniform(0.05, 0.8))
        server.kill_one(server.process.pid)
        assert eventually(server.is_gone), "a worker outlives its supervisor"
        return SUPERVISOR

    def _at(self, call: str) -> Kill:
        return lambda server: self.at_step(server, call)

    def at_step(self, server: Server, call: str) -> str:
        """Kill the process, or one worker, when it enters such a call; if it does not, kill all at any moment."""
        log = self.folder / "trace"
        log.unlink(missing_ok=True)
        before = server.workers()
        pid = self.chance.choice(before) if self._workers > 1 else server.process.pid
        when = self.chance.randint(*COUNTS.get(call, (2, 20)))
        with attached(pid, log, TRACED, f"inject={call}:error=EIO:signal=KILL:when={when}") as tracer:
            if not eventually(lambda: tracer.poll() is not None, PATIENCE):
                server.kill()
                return RANDOM
        if self._workers > 1:
            self._await_new_worker(server, before)
        else:
            server.kill()
        return step_of(log, call)

    def _await_new_worker(self, server: Server, before: Sequence[int]) -> None:
        assert eventually(lambda: set(server.workers()) - set(before)), "a killed worker is not replaced"
        time.sleep(0.3)

    def _kill_start(self) -> None:
        """Kill the archive while it starts, by strace, and count the kill unless it was ready before.

        With --seccomp-bpf strace 6.1 injects the error but not the signal.
        """
        when = f"{self.chance.choice(STARTING)}:error=EIO:signal=KILL:when={self.chance.randint(1, 6)}"
        words = ("strace", "-f", "-DD", "-qq", "-o", self.folder / "trace",
                 "-e", f"trace={','.join(STARTING)}", "-e", f"inject={when}")  # fmt: skip
        try:
            server = self.site.start(*words)
        except Died:
            self.note(RECOVERING)
            return
        server.kill()
        assert eventually(server.is_gone)


def step_of(log: Path, call: str) -> str:
    """Return the step at which the process was killed in `call`, from the log of strace."""
    for line in reversed(log.read_text().splitlines()):
        if re.match(rf"\d+ +{call}\(", line):
            return next((name for name, each, about in STEPS if each == call and re.search(about, line)), ELSEWHERE)
    return ELSEWHERE


class DatabaseCampaign(PacsCampaign):
    """One process that keeps running while its PostgreSQL is killed and restarted."""

    def kinds(self) -> Sequence[tuple[Kill, Sequence[int]]]:
        """Return both ways in which PostgreSQL is killed."""
        return [(self._by(how), MIXED) for how in DATABASE]

    def _by(self, how: signal.Signals) -> Kill:
        return lambda _server: self.the_database(how)

    def the_database(self, how: signal.Signals) -> str:
        """Kill the database; the archive stores again once it is back."""
        assert self._postgres is not None
        time.sleep(self.chance.uniform(0.1, 0.8))
        self._postgres.end(how)
        time.sleep(self.chance.uniform(0.0, 0.5))
        self._postgres.start()
        before = self.ledger.answers[0]
        assert eventually(lambda: self.ledger.answers[0] > before), "the archive does not store again"
        return DATABASE[how]


class PeerCampaign(Campaign):
    """Another archive, killed at any moment."""

    def __init__(self, folder: Path, seed: str, report: Callable[[str], None], name: str) -> None:
        super().__init__(folder, seed, report)
        self._peer = peer(name, folder / "archive")

    def start(self) -> Server:
        """Start the peer."""
        return self._peer.start()


# --- turns --------------------------------------------------------------------------------------------------------

OWN = ("SQLite", "PostgreSQL", "SQLite, 4 workers", "PostgreSQL, 4 workers", "PostgreSQL is killed")
CAMPAIGNS = (*OWN, *PEERS)
"""The targets: the archive on a database, that database, and other archives."""


def run(
    folder: Path,
    what: str,
    kills: int,
    *,
    turn: int = 0,
    seed: int = 0,
    until: float = float("inf"),
    report: Callable[[str], None] = lambda _sentence: None,
) -> Totals:
    """Kill one of `CAMPAIGNS` so many times on one folder, and return the totals. The folder is removed if clean."""
    own = folder / f"{what.replace(', ', '-').replace(' ', '-')}-{turn}"
    own.mkdir(parents=True)
    with ExitStack() as stack:
        result = _campaign(stack, what, turn, own, f"{seed} {what} {turn}", report).run(kills, until)
    if result.is_clean:
        shutil.rmtree(own)
    return result


def _campaign(
    stack: ExitStack, what: str, turn: int, folder: Path, seed: str, report: Callable[[str], None]
) -> Campaign:
    """Return a campaign of `CAMPAIGNS`, with its database if it needs one."""
    if what in PEERS:
        return PeerCampaign(folder, seed, report, what)
    postgres = stack.enter_context(Postgres.running()) if "PostgreSQL" in what else None
    if "killed" in what:
        return DatabaseCampaign(folder, seed, report, postgres, turn=turn)
    return PacsCampaign(folder, seed, report, postgres, workers=4 if "workers" in what else 1, turn=turn)


def run_all(
    folder: Path,
    archives: Sequence[str],
    kills: int,
    results: dict[str, Totals],
    *,
    seed: int,
    minutes: float = float("inf"),
    lanes: int = 2,
) -> Iterator[None]:
    """Kill each archive until `results` has `kills` of it, `lanes` archives at a time; yield after each turn."""
    until = time.monotonic() + minutes * 60
    for what in archives:
        results.setdefault(what, Totals())
    with ProcessPoolExecutor(lanes, multiprocessing.get_context("spawn")) as pool:
        turns = {
            pool.submit(_turn, folder, what, many, turn, seed, until): what
            for what, many, turn in _turns(archives, kills, results)
        }
        for done in as_completed(turns):
            results[turns[done]].merge(done.result())
            yield


def _turns(archives: Sequence[str], kills: int, results: Mapping[str, Totals]) -> Iterator[tuple[str, int, int]]:
    """Yield the turns of all archives alternately: archive, kills, and number."""

    def of_one(what: str) -> Iterator[tuple[str, int, int]]:
        known = results[what]
        rest = range(known.kills.total(), kills, KILLS_OF_A_TURN)
        return ((what, min(KILLS_OF_A_TURN, kills - done), known.turns + turn) for turn, done in enumerate(rest))

    rounds = itertools.zip_longest(*map(of_one, archives))
    return (turn for each in rounds for turn in each if turn is not None)


def _turn(folder: Path, what: str, kills: int, turn: int, seed: int, until: float) -> Totals:
    """Run a turn in a process of its own; one that cannot go on counts as a start that failed."""
    if time.monotonic() > until:
        return Totals()
    report = functools.partial(say, f"{what}, turn {turn}:")
    try:
        return run(folder, what, kills, turn=turn, seed=seed, until=until, report=report)
    except Exception:
        report(traceback.format_exc())
        return Totals(turns=1, unable=1)


def say(*words: object) -> None:
    """Print a line of progress."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def totals(results: Mapping[str, Totals]) -> str:
    """Return the table of all results, with their sum."""
    everything = Totals()
    for each in results.values():
        everything.merge(each)
    return table(HEAD, [(name, *each.row()) for name, each in [*results.items(), ("all", everything)]])


def steps(results: Mapping[str, Totals]) -> str:
    """Return the kills by step and archive as a table."""
    rows = [(name, *(each.kills[name] for each in results.values())) for name in NAMES]
    sums = ("all", *(each.kills.total() for each in results.values()))
    return table(("killed at", *results), [*(row for row in rows if any(row[1:])), sums])
