"""The engine: connections, short transactions, interruption, and what differs between SQLite and PostgreSQL.

Every failure of the database leaves this room as `IndexUnavailable`, every statement that was stopped by a
cancellation as `Cancelled`. What the driver said stays in `__cause__`; it may hold values and is never for a peer.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import ConfigurationError, IndexUnavailable
from pacs.index.group_commit import DriverWork, GroupCommit
from pacs.index.raw_connections import RawConnections
from pacs.index.write_lock import WriteLock
from pacs.support.cancellation import Cancellation

Result = TypeVar("Result")

ATTEMPTS = 20
"""How often a unit of work is tried when it loses a race; each loss means that somebody else's work was committed."""

RACES = {"40001", "40P01"}
"""PostgreSQL's serialization failure and deadlock: the transaction is rolled back and may simply be run again."""

OLDEST_SQLITE = (3, 35)
"""FTS5's trigrams came with SQLite 3.34, RETURNING with 3.35."""

SQLITE_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "wal_autocheckpoint = 4000")

SETTLING = 1000
"""Milliseconds that `settle` waits for others."""

INSIST_EVERY = 0.05
"""Seconds between two interruptions of one statement: the first may come before the statement has begun."""


class LostRace(IndexUnavailable):
    """Somebody else's work was committed first: `Index.transact` runs the work again."""


class Index:
    """One database and its pool of connections; safe to use from many threads.

    `connections` bounds the pool, `wait` (seconds) how long one waits for a connection or for a lock of the database.
    With `is_shared` several processes write to it, and take turns where only one can at a time.
    Raises ConfigurationError when the URL cannot be used.
    """

    def __init__(self, url: str, *, connections: int = 32, wait: float = 30.0, is_shared: bool = False) -> None:
        self.url = _understood(url)
        self._wait = wait
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.dialect = "sqlite" if self.is_sqlite else "postgresql"
        self._engine = _engine(self.url, connections, wait)
        # One writer at a time is SQLite's rule. Waiting for our turn here is fair and does not poll, as its own does.
        self._turn = threading.Lock() if self.is_sqlite else None
        self._turns = WriteLock(Path(f"{self.url.database}-turn")) if self.is_sqlite and is_shared else None
        self._failures = (DBAPIError, PoolTimeout, self._engine.dialect.loaded_dbapi.Error)
        self._gathering = GroupCommit(
            lambda work: self._transact(work, self._together),
            self._quickly,
            self._failures,
        )
        self._quick_writers = RawConnections(self._engine, 1)
        self._quick_readers = RawConnections(self._engine, connections // 4, _commit_at_once)
        self._pinger = RawConnections(self._engine, 1, _commit_at_once)
        self._hasty_writers = RawConnections(self._engine, 1, _hasten) if self.is_sqlite else self._quick_writers
        self.is_recoverable = False
        """Whether work done `together` may be lost in a power cut, because what it wrote can be found again."""
        if self.is_sqlite:
            self._reader = self._engine
            self._writer = self._engine.execution_options(pacs_begin="BEGIN IMMEDIATE", pacs_synchronous="FULL")
            self._hasty = self._engine.execution_options(pacs_begin="BEGIN IMMEDIATE", pacs_synchronous="NORMAL")
        else:
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writer = self._hasty = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT", pacs_begin="")

    def close(self) -> None:
        """Close every connection that is not in use."""
        for held in (self._quick_writers, self._hasty_writers, self._quick_readers, self._pinger):
            held.close()
        self._engine.dispose()

    def probe(self) -> None:
        """Connect, for whoever starts or checks: what the driver says against that names hosts, not patients.

        Raises IndexUnavailable with how to mend it.
        """
        try:
            with self._engine.connect():
                pass
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            sentence = f"the index cannot be opened: {said}; check database.url, and that its server runs"
            raise IndexUnavailable(sentence) from error

    def ping(self) -> None:
        """Have the database answer a small question, on a connection kept for that. Raises IndexUnavailable."""
        if self.is_sqlite and not Path(self.url.database or "").exists():  # what is open already would go on
            raise IndexUnavailable("the file of the index is gone: check database.url")
        try:
            self._pinger.use(_ask_for_the_schema)
        except self._failures:  # the connection may have broken since it was used last
            with self._failing():
                self._pinger.use(_ask_for_the_schema)

    def settle(self) -> bool:
        """Make durable what was committed without a sync; whether that is certain now. Raises IndexUnavailable."""
        if not self.is_sqlite:
            return True
        with self._my_turn(), self.single() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {SETTLING}")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
            connection.invalidate()
        return busy == 0

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A short transaction that sees one state of the index. Raises IndexUnavailable."""
        with _translated(), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed when the body ends and rolled back when it raises. Raises IndexUnavailable."""
        with self._writing(self._writer) as connection:
            yield connection

    def _together(self) -> AbstractContextManager[Connection]:
        return self._writing(self._hasty if self.is_recoverable else self._writer)

    def _quickly(self, work: Callable[[Any], Result]) -> Result:
        """Run `work` in a write transaction on a connection of the driver, as durable as one made by `_together`."""

        def transaction(driver: Any) -> Result:
            if self.is_sqlite:
                driver.execute("BEGIN IMMEDIATE")
            result = work(driver)
            driver.commit()
            return result

        with self._my_turn():
            return (self._hasty_writers if self.is_recoverable else self._quick_writers).use(transaction)

    @contextmanager
    def _writing(self, engine: Engine) -> Iterator[Connection]:
        with self._my_turn(), _translated(), engine.connect() as connection, connection.begin():
            yield connection

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in a write transaction, again when it lost a race, and return what it returns.

        A race is lost when another transaction inserted the same key, removed the parent that was just read, or held
        locks in another order (PostgreSQL only; SQLite has one writer at a time). Raises IndexUnavailable.
        """
        return self._transact(work, self.write)

    def _transact(
        self, work: Callable[[Connection], Result], writing: Callable[[], AbstractContextManager[Connection]]
    ) -> Result:
        for attempt in range(ATTEMPTS):
            try:
                with writing() as connection:
                    return work(connection)
            except IndexUnavailable as error:
                if not _lost_race(error) or attempt == ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0, 0.01 * (attempt + 1)))  # noqa: S311  (spreads those who lost, no secret)
        raise AssertionError("the last attempt returns or raises")

    def together(self, work: Callable[[Connection], Result], quick: DriverWork[Result] | None = None) -> Result:
        """As `transact`, in a transaction that the work of other threads may share when they come at the same time.

        `work` may be run several times, and must raise when nothing of it is to be committed. `quick` comes first: it
        gets a connection of the driver, and says with None that it has done nothing.
        """
        return self._gathering.run(work, quick)

    def glance(self, look: Callable[[Any], Result]) -> Result:
        """What `look` sees by one statement on a connection of the driver. Raises IndexUnavailable.

        A connection that has broken since it was used last is met here: what is asked by `read` may be answered.
        """
        with self._failing():
            return self._quick_readers.use(look)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Tells what driver and engine raise by IndexUnavailable."""
        try:
            yield
        except self._failures as error:
            raise IndexUnavailable("the index does not answer: try again later") from error

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """A connection for one statement that only reads, without a transaction around it. Raises IndexUnavailable."""
        with _translated(), self._single.connect() as connection:
            yield connection

    @contextmanager
    def interrupting(self, connection: Connection, cancellation: Cancellation) -> Iterator[None]:
        """While the body runs, a cancellation stops the statement it waits for. Raises Cancelled."""
        insistence = _Insistence(_interrupt(connection), self._engine.dialect.loaded_dbapi.Error)
        try:
            with cancellation.interrupting(insistence.start):
                yield
        finally:
            insistence.stop()
            if cancellation.requested:
                # An interruption under way must never reach the next user of this connection.
                connection.invalidate()

    def describe(self) -> dict[str, str]:
        """What `pacs check` says about the database. Raises IndexUnavailable."""
        with self.read() as connection:
            version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
            return {
                "url": self.url.render_as_string(hide_password=True),
                "database": "SQLite" if self.is_sqlite else "PostgreSQL",
                "version": sqlite3.sqlite_version if self.is_sqlite else version,
                "infix search of names": "indexed by trigrams" if has_trigrams(connection) else "not indexed",
            }

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=self._wait):
            raise IndexUnavailable("the index is busy: try again later")
        try:
            if self._turns is None:
                yield
            else:
                with self._turn_among_processes(self._turns):
                    yield
        finally:
            self._turn.release()

    @contextmanager
    def _turn_among_processes(self, turns: WriteLock) -> Iterator[None]:
        with turns.acquire(self._wait) as is_ours:
            if not is_ours:
                raise IndexUnavailable("the index is busy: try again later")
            yield


class _Insistence:
    """Interrupts one statement from a thread of its own, again and again until the statement's owner is back."""

    def __init__(self, interrupt: Callable[[], None], failures: type[Exception]) -> None:
        self._interrupt, self._failures = interrupt, failures
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="pacs-interrupt", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            with suppress(self._failures):  # a connection that is gone has nothing left to interrupt
                self._interrupt()
            self._done.wait(INSIST_EVERY)


def has_trigrams(connection: Connection) -> bool:
    """Whether infix searches of names are narrowed by an index of trigrams in this database."""
    if connection.dialect.name == "sqlite":
        return inspect(connection).has_table("patient_trigram")
    indexes = inspect(connection).get_indexes("patient") if inspect(connection).has_table("patient") else []
    return any((index["name"] or "").startswith("trigram_") for index in indexes)


def _understood(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("database.url is no URL such as sqlite:///pacs-data/pacs.db") from error
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ConfigurationError("database.url must begin with sqlite:/// and a file, or with postgresql+psycopg://")


def _engine(url: URL, connections: int, wait: float) -> Engine:
    """An engine whose transactions begin as they should and whose errors carry no parameters."""
    settings: dict[str, Any] = {"hide_parameters": True, "pool_timeout": wait, "max_overflow": connections // 2}
    settings["pool_size"] = connections - connections // 2
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite_engine(url, wait, settings)
        return create_engine(_with_timeouts(url, wait), pool_pre_ping=True, **settings)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigurationError("PostgreSQL needs a driver: pip install 'pacs-archive[postgres]'") from error


def _with_timeouts(url: URL, wait: float) -> URL:
    """The URL with bounds on how long a server may be unreachable, and a lock taken, unless it says itself how long."""
    bounds = {
        "options": f"-c lock_timeout={max(1, round(wait * 1000))}",
        "connect_timeout": str(max(2, round(wait))),
        "tcp_user_timeout": str(round(wait * 1000)),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
    }
    return url.update_query_dict({name: value for name, value in bounds.items() if name not in url.query})


def _sqlite_engine(url: URL, wait: float, settings: dict[str, Any]) -> Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError("this Python's SQLite is older than 3.35: use a newer Python or PostgreSQL")
    try:
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexUnavailable("the folder of the index cannot be made: check database.url") from error
    engine = create_engine(url, connect_args={"timeout": wait}, **settings)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Settings of a new connection. The driver must not begin transactions by itself: it would begin them too late."""
    connection.isolation_level = None
    for setting in SQLITE_SETTINGS:
        connection.execute(f"PRAGMA {setting}")


def _hasten(driver: Any) -> None:
    """Let a connection of SQLite's driver commit without a sync."""
    driver.execute("PRAGMA synchronous = NORMAL")


def _commit_at_once(driver: Any) -> None:
    """Let a connection of a driver be in no transaction between its statements, as SQLite's are already."""
    if not isinstance(driver, sqlite3.Connection):
        driver.autocommit = True


def _ask_for_the_schema(driver: Any) -> None:
    """Read what every index of ours has, from the file where it is one."""
    driver.execute("SELECT version_num FROM alembic_version").fetchall()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if synchronous := options.get("pacs_synchronous"):
        # Of a connection that is used again for another kind of transaction; within one it could not be changed.
        driver: Any = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA synchronous = {synchronous}")
    if begin := options.get("pacs_begin", "BEGIN"):
        connection.exec_driver_sql(begin)


def _interrupt(connection: Connection) -> Callable[[], None]:
    """What stops the statement a connection waits for, called from another thread."""
    driver: Any = connection.connection.dbapi_connection
    if isinstance(driver, sqlite3.Connection):
        return driver.interrupt
    return lambda: driver.cancel_safe(timeout=5.0)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise IndexUnavailable("too much at once for the index: try again later") from error
    except DBAPIError as error:
        raise IndexUnavailable("the index does not answer: try again later") from error


def _lost_race(error: IndexUnavailable) -> bool:
    cause = error.__cause__
    if isinstance(error, LostRace) or isinstance(cause, IntegrityError):
        return True
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in RACES
