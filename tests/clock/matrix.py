"""Jumps of the wall clock at each step of ingest, storage commitment and recovery, of the real daemon.

A step brings the archive to a point, the clock jumps, and the archive goes on. Then everything that was acknowledged is
found and retrieved, the report of each transaction has arrived, the association that was open all the time answers, and
`/readyz` says that the server is ready.
"""

import fcntl
import json
import os
import queue
import shlex
import signal
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from tests import databases, raw
from tests.clock.clock import HOUR, JUMPS, Clock, turned
from tests.committing import CT, Requester, request, requester
from tests.crash import examining
from tests.crash.client import STORING, Client
from tests.crash.examining import ALTERED, HALF, LOST, Faults
from tests.crash.load import Instance, Ledger, eventually, uid
from tests.crash.servers import Postgres, Server, Site
from tests.crash.table import table
from tests.programs import free_port, missing

EVERY_JUMP = [sign * seconds for seconds in JUMPS for sign in (1, -1)]
"""In seconds; each second one takes the clock back to the time of the machine."""

SIZES = (9_000, 400_000)
"""Bytes of pixel data: written through the journal, and in several PDUs."""

SECONDS = 60
"""Seconds until something that does not happen counts as a hang."""

SETTINGS = (
    "commitment.same_association_seconds=0.2",
    "commitment.first_retry_seconds=0.5",
    "commitment.longest_retry_seconds=0.5",
    "limits.idle_seconds=3600",
)


@dataclass
class Totals:
    """What was done and what went wrong in some cells of the matrix."""

    cells: Counter[str] = field(default_factory=Counter)
    """By step."""
    acknowledged: int = 0
    refused: int = 0
    reports: int = 0
    faults: Faults = field(default_factory=Counter)
    """By kind: those of `tests.crash.examining`, and the following."""

    def row(self) -> Sequence[object]:
        """Return its line of the table of totals, without the name."""
        return self.cells.total(), self.acknowledged, self.refused, self.reports, *(self.faults[each] for each in KINDS)


MISSING, ENDED, NOT_READY, HANGS = "reports missing", "associations ended", "not ready", "hangs"
KINDS = (LOST, ALTERED, HALF, MISSING, ENDED, NOT_READY, HANGS)
HEAD = ("archive", "jumps", "acknowledged", "refused", "reports", *KINDS)


class Matrix:
    """The archive of a site, run by a clock that jumps."""

    def __init__(self, site: Site, clock: Clock, peer: Requester, web: int, report: Callable[[str], None]) -> None:
        self.site, self.clock, self.peer, self._web, self._report = site, clock, peer, web, report
        self.totals = Totals()
        self._ledger = Ledger()
        self._seconds = 0.0
        self._start()

    def run(self, step: str, seconds: float) -> None:
        """Make a jump at a step, and examine the archive."""
        before = set(self._ledger.studies())
        self._seconds = seconds
        self.totals.cells[step] += 1
        try:
            STEPS[step](self)
        except (TimeoutError, AssertionError) as error:
            self.totals.faults[HANGS] += 1
            self._report(f"hangs: {error}")
        self._examine([each for each in self._ledger.studies() if each not in before])
        self._report(f"{step}, {seconds / HOUR:+g} h: {dict(+self.totals.faults) or 'no faults'}")

    def close(self) -> None:
        """Stop the archive, and count what it acknowledged."""
        self._open.socket.close()
        self.totals.faults[HANGS] += self._server.stop() != 0
        self.totals.acknowledged = self._ledger.answers[0]
        self.totals.refused = self._ledger.answers.total() - self._ledger.answers[0]

    # --- ingest -----------------------------------------------------------------------------------------------------

    def association_open(self) -> None:
        """Jump before the first instance of an association."""
        with Client(self._server.port) as client:
            self._jump()
            self._store(client)

    def in_the_middle_of_a_transfer(self) -> None:
        """Jump when half of a data set is sent."""
        with Client(self._server.port) as client:
            instance, sent = self._new(SIZES[1])
            client.send(sent[: len(sent) // 2])
            self._jump()
            client.send(sent[len(sent) // 2 :])
            self._ledger.answer(instance, client.message().status)

    def between_file_and_row(self) -> None:
        """Jump when the file is in its place and its row is not written."""
        with Client(self._server.port) as client:
            instance, _ = self._store_without_row(client, self._jump)
            self._ledger.answer(instance, client.message().status)

    def between_instances(self) -> None:
        """Jump between two instances of an association."""
        with Client(self._server.port) as client:
            self._store(client)
            self._jump()
            self._store(client)

    def after_the_acknowledgement(self) -> None:
        """Jump before the query."""
        with Client(self._server.port) as client:
            self._store(client)
        self._jump()

    # --- storage commitment -------------------------------------------------------------------------------------------

    def request_taken(self) -> None:
        """Jump while the requestor waits for the report on the association of its request."""
        asked = self._stored()
        transaction = self._transaction()
        with self.peer.associated(self._server.port) as association:
            assert request(association, [asked], transaction) == 0
            self._jump()
            self._expect_report(transaction)

    def before_the_report(self) -> None:
        """Jump when the requestor has released, and listens."""
        with self.peer.listening():
            transaction = self._ask()
            self._jump()
            self._expect_report(transaction)

    def between_retries(self) -> None:
        """Jump when the requestor could not be reached."""
        before = self._failures()
        transaction = self._ask()
        assert eventually(lambda: self._failures() > before, SECONDS), "no attempt to report"
        self._jump()
        with self.peer.listening():
            self._expect_report(transaction)

    def while_a_worker_has_the_claim(self) -> None:
        """Jump when the requestor has the report, and has not answered it."""
        self.peer.answers = answers = _HeldAnswers()  # type: ignore[assignment]
        with self.peer.listening():
            transaction = self._ask()
            assert answers.is_asked.wait(SECONDS), "no report"
            self._jump()
            answers.may_go.set()
            self._expect_report(transaction)
        self.peer.answers = []

    # --- recovery -----------------------------------------------------------------------------------------------------

    def between_kill_and_restart(self) -> None:
        """Jump after a kill that left a file without a row, and an acknowledged instance."""
        self._kill()
        self._jump()
        self._start()

    def while_it_recovers(self) -> None:
        """Jump while the recovery waits for the index."""
        self._kill()
        is_locked = threading.Event()

        def jump() -> None:
            with self._locked_index():
                is_locked.set()
                eventually(self._is_recovering, SECONDS)
                self._jump()

        jumping = threading.Thread(target=jump)
        jumping.start()
        is_locked.wait(SECONDS)
        self._start()
        jumping.join(SECONDS)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _jump(self) -> None:
        self.clock.jump(self._seconds)

    def _start(self) -> None:
        self._server: Server = self.site.start(*self.clock.prefix, f"PACS_CONFIG={self.site.folder / 'config.toml'}")
        self._open = Client(self._server.port)

    def _kill(self) -> None:
        """Kill it while an instance has a file and no row; another one was acknowledged."""
        with Client(self._server.port) as client:
            self._store(client)
            self._store_without_row(client, self._server.kill)
        self._open.socket.close()
        assert eventually(self._server.is_gone, SECONDS), "a worker outlives its supervisor"

    def _new(self, size: int) -> tuple[Instance, bytes]:
        """Return a new instance of a study for each jump, and the C-STORE of it."""
        number = len(self._ledger.sent)
        study = uid("study", self.site.folder, self.totals.cells.total())
        instance = Instance(uid("instance", self.site.folder, number), study, size)
        named = [raw.element(0x1000, instance.uid.encode())]
        return instance, raw.request(raw.C_STORE, STORING, CT, number + 1, self._ledger.begin(instance), named)

    def _store(self, client: Client) -> Instance:
        instance, sent = self._new(SIZES[0])
        client.send(sent)
        self._ledger.answer(instance, client.message().status)
        return instance

    def _store_without_row(self, client: Client, then: Callable[[], None]) -> tuple[Instance, bytes]:
        """Send an instance, and call `then` when its file is in its place and its row waits for the index."""
        files = self._files()
        instance, sent = self._new(SIZES[0])
        with self._locked_index():
            client.send(sent)
            assert eventually(lambda: self._files() > files, SECONDS), "no file"
            then()
        return instance, sent

    def _is_recovering(self) -> bool:
        """Whether a process has the lock for starting, which it holds during the recovery."""
        folder = os.open(self.site.files, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(folder)

    def _files(self) -> int:
        return sum(1 for _ in self.site.files.glob("*/*/*/*/*.dcm"))

    def _locked_index(self) -> AbstractContextManager[None]:
        return _locked(self.site.database)

    def _stored(self) -> tuple[str, str]:
        """Store an instance, and return the reference to it."""
        with Client(self._server.port) as client:
            return CT, self._store(client).uid

    def _transaction(self) -> str:
        return uid("transaction", self.totals.cells.total())

    def _ask(self) -> str:
        """Request storage commitment, release, and return the Transaction UID."""
        transaction = self._transaction()
        assert self.peer.ask(self._server.port, [self._stored()], transaction) == 0
        return transaction

    def _expect_report(self, transaction: str) -> None:
        """Count the report of a transaction; one of a former transaction may arrive again after a jump."""
        until = time.monotonic() + SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                told = self.peer.reports.get(timeout=left)
            except queue.Empty:
                break
            if told.transaction == transaction and told.committed:
                self.totals.reports += 1
                return
        self.totals.faults[MISSING] += 1

    def _failures(self) -> int:
        return self.site.log.read_text().count("cannot be told of a storage commitment")

    # --- what is expected afterwards ----------------------------------------------------------------------------------

    def _examine(self, studies: Sequence[str]) -> None:
        faults = self.totals.faults
        try:
            faults += examining.examine(self._server.port, self._ledger, studies)
            faults[ENDED] += self._open.echo() != 0
        except TimeoutError:
            faults[HANGS] += 1
        except OSError:
            faults[ENDED] += 1
            self._open = Client(self._server.port)
        faults[NOT_READY] += not self._is_ready()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._web}/readyz", timeout=SECONDS):
                return True
        except urllib.error.HTTPError as error:
            self._report(f"not ready: {error.read().decode()}")
            return False


class _HeldAnswers:
    """Answers of a requestor that waits before it answers."""

    def __init__(self) -> None:
        self.is_asked, self.may_go = threading.Event(), threading.Event()

    def pop(self, _place: int) -> int:
        """Return Success when the test lets it."""
        self.is_asked.set()
        self.may_go.wait(SECONDS)
        return 0


@contextmanager
def _locked(url: str) -> Iterator[None]:
    """Hold a lock that no row can be written beside."""
    chosen = make_url(url)
    if chosen.drivername == "sqlite":
        with closing(sqlite3.connect(str(chosen.database), isolation_level=None, timeout=SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
        return
    address = chosen.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        connection.execute("LOCK TABLE image IN EXCLUSIVE MODE")
        yield


INGEST: Mapping[str, Callable[[Matrix], None]] = {
    "ingest: association open": Matrix.association_open,
    "ingest: in the middle of a transfer": Matrix.in_the_middle_of_a_transfer,
    "ingest: between file and row": Matrix.between_file_and_row,
    "ingest: between instances": Matrix.between_instances,
    "ingest: after the acknowledgement": Matrix.after_the_acknowledgement,
}
COMMITMENT: Mapping[str, Callable[[Matrix], None]] = {
    "commitment: request taken": Matrix.request_taken,
    "commitment: before the report": Matrix.before_the_report,
    "commitment: between retries": Matrix.between_retries,
    "commitment: while a worker has the claim": Matrix.while_a_worker_has_the_claim,
}
RECOVERY: Mapping[str, Callable[[Matrix], None]] = {
    "recovery: between kill and restart": Matrix.between_kill_and_restart,
    "recovery: while it recovers": Matrix.while_it_recovers,
}
STEPS = {**INGEST, **COMMITMENT, **RECOVERY}

SQLITE, POSTGRESQL, TURNED = "SQLite", "PostgreSQL", "PostgreSQL by the same clock"

ARCHIVES = [(database, workers) for database in (SQLITE, POSTGRESQL, TURNED) for workers in (1, 4)]
"""The database and the number of workers."""


@contextmanager
def matrix(
    folder: Path, url: str, workers: int, clock: Clock, report: Callable[[str], None] = print
) -> Iterator[Matrix]:
    """Run an archive in a folder for the `with` block; `url` is that of its database, empty for SQLite."""
    peer, web = requester(), free_port()
    row = "".join(f"{key} = {json.dumps(value)}\n" for key, value in peer.row.items())
    (folder / "config.toml").write_text(f"[[peers]]\n{row}")
    settings = (*SETTINGS, f"server.workers={workers}", f"web.port={web}")
    made = Matrix(Site(folder, url, settings, folder / "log"), clock, peer, web, report)
    try:
        yield made
    finally:
        made.close()


def run(folder: Path, database: str, workers: int, *, report: Callable[[str], None]) -> Totals:
    """Make every jump at every step of an archive, and return the totals."""
    with _running(database, folder) as (url, clock), matrix(folder, url, workers, clock, report) as made:
        for step in STEPS:
            for seconds in EVERY_JUMP:
                made.run(step, seconds)
    return made.totals


@contextmanager
def _running(database: str, folder: Path) -> Iterator[tuple[str, Clock]]:
    """Start a database; yield its URL, and the clock for the archive."""
    if database == TURNED:
        with turned_postgres() as (postgres, clock):
            yield postgres.text, clock
        return
    with turned(folder) as clock:
        if database == SQLITE:
            yield "", clock
            return
        with Postgres.running() as postgres:
            yield postgres.text, clock


@contextmanager
def turned_postgres() -> Iterator[tuple[Postgres, Clock]]:
    """Start a PostgreSQL server that runs by a clock, which is in its folder: it has a user of its own."""
    programs = next(databases.postgres_programs(), None)
    if programs is None:
        missing("PostgreSQL")
    with databases.postgres_folder(Path(str(programs))) as folder, turned(folder) as clock:
        script = folder / "bin" / "postgres"
        script.parent.mkdir(mode=0o755)
        script.write_text(f'#!/bin/sh\nexec {shlex.join([*clock.prefix, f"{programs}/postgres"])} "$@"\n')
        script.chmod(0o755)
        server = Postgres(script.parent, folder)
        try:
            databases.migrate(server.text)
            yield server, clock
        finally:
            server.end(signal.SIGINT)


def totals(results: Mapping[str, Totals]) -> str:
    """Return the totals as a table."""
    return table(HEAD, [(name, *each.row()) for name, each in results.items()])


def is_clean(result: Totals) -> bool:
    """Whether nothing went wrong and something was acknowledged."""
    return not result.faults.total() and result.acknowledged > 0
