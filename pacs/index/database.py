"""The database of the index: connections, short transactions, interruption, and the differences of both databases.

Every failure of the database is raised as `IndexUnavailable`, every statement that a cancellation stopped as
`Cancelled`. The error of the driver is in `__cause__`; it may contain values and is never sent to a peer.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs.errors import ConfigurationError, IndexUnavailable, OutOfResources
from pacs.index.checkpoints import Checkpoints
from pacs.index.connection_pool import ConnectionPool
from pacs.index.database_file import DatabaseFile
from pacs.index.failures import sentence
from pacs.index.group_commit import DriverWork, GroupCommit
from pacs.index.raw_connections import RawConnections
from pacs.index.write_lock import WriteLock
from pacs.support import private
from pacs.support.cancellation import Cancellation
from pacs.support.threads import start_thread

Result = TypeVar("Result")

ATTEMPTS = 20
"""How often work is tried when it loses a race; each loss means that another transaction was committed."""

RACES = {"40001", "40P01"}
"""SQLSTATEs of PostgreSQL for serialization failure and deadlock: the transaction can be run again."""

OLDEST_SQLITE = (3, 35)
"""SQLite has the trigrams of FTS5 since 3.34, and RETURNING since 3.35."""

SQLITE_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "wal_autocheckpoint = 32000")
"""The log may become 128 MB long before a commit copies it; usually `Checkpoints` does that earlier."""

CHANGE_NOTHING = "UPDATE image SET last_used_at = last_used_at WHERE 1 = 0"
"""A statement that fails where the index cannot be written."""

BUSY = "the index is busy: try again later"

LOCK = "-turn"
"""What the path of a database file and this suffix name: the lock of its writers."""

SETTLE_TIMEOUT = 1000
"""The time that `settle` waits for other connections, in milliseconds."""

INTERRUPT_INTERVAL = 0.05
"""The seconds between interruptions of a statement: the first may come before the statement has begun."""


class LostRace(IndexUnavailable):
    """Another transaction was committed first: `Index.transact` runs the work again."""


class Index:
    """A database and its connection pool. Thread-safe.

    `connections` is the size of the pool, `wait` the timeout for a connection or a database lock, in seconds. With
    `is_shared` several processes write to the database, and share a write lock where it has one writer at a time.
    `notify` gets a sentence when the file of the database is lost or back.
    Raises ConfigurationError when the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int = 32,
        wait: float = 30.0,
        is_shared: bool = False,
        notify: Callable[[str], object] = lambda _sentence: None,
    ) -> None:
        self.url = _parsed_url(url)
        self._wait = wait
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.dialect = "sqlite" if self.is_sqlite else "postgresql"
        self._file = DatabaseFile(self.url.database or "", wait, notify) if self.is_sqlite else None
        self._engine = _engine(self.url, connections, wait, self._file)
        # SQLite has one writer at a time. Waiting for these locks is fair and does not poll, unlike its own waiting.
        self._thread_lock = threading.Lock() if self.is_sqlite else None
        self._process_lock = WriteLock(Path(f"{self.url.database}{LOCK}")) if self.is_sqlite and is_shared else None
        self._failures = (DBAPIError, PoolTimeout, self._engine.dialect.loaded_dbapi.Error)
        self._group_commit = GroupCommit(self._run_on_driver, (*self._failures, LostRace))
        self._raw_writers = RawConnections(self._engine, 1)
        self._raw_readers = RawConnections(self._engine, connections // 4, _set_autocommit)
        self._pinger = RawConnections(self._engine, 1, _set_autocommit)
        self._checkpointer = RawConnections(self._engine, 1, _set_autocommit)
        self._checkpoints = Checkpoints(self._copy_log, self._write_lock) if self.is_sqlite else None
        self._unsynced_raw_writers = (
            RawConnections(self._engine, 1, _disable_sync) if self.is_sqlite else self._raw_writers
        )
        self.is_recoverable = False
        """Whether work of `run_shared` may be lost in a power cut, because it can be recovered from the files."""
        if self.is_sqlite:
            self._reader = self._engine
            self._writer = self._engine.execution_options(pacs_begin="BEGIN IMMEDIATE", pacs_synchronous="FULL")
            self._unsynced_writer = self._engine.execution_options(
                pacs_begin="BEGIN IMMEDIATE", pacs_synchronous="NORMAL"
            )
        else:
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writer = self._unsynced_writer = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT", pacs_begin="")

    def close(self) -> None:
        """Close all connections that are not in use."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        for connections in (
            self._raw_writers,
            self._unsynced_raw_writers,
            self._raw_readers,
            self._pinger,
            self._checkpointer,
        ):
            connections.close()
        self._engine.dispose()
        self._close_process_lock()
        if self._file is not None:
            self._file.release()

    def _close_process_lock(self) -> None:
        """Close the file of the write lock, unless a thread still writes: its lock ends with the process then."""
        if self._process_lock is not None and self._thread_lock.acquire(blocking=False):  # type: ignore[union-attr]
            self._process_lock.close()
            self._thread_lock.release()  # type: ignore[union-attr]

    def join(self, prepared: "Index") -> None:
        """Use only the database file that `prepared` uses, in the process that this one was forked from."""
        if self._file is not None and prepared._file is not None:
            self._file.join(prepared._file)

    @property
    def paths(self) -> list[Path]:
        """The files of the index and of its lock, whether they exist or not; none for a database server."""
        return [*self._file.paths, Path(f"{self._file.paths[0]}{LOCK}")] if self._file is not None else []

    def check_file(self) -> None:
        """Raise IndexUnavailable when the file of the database is gone or another one."""
        if self._file is not None:
            self._file.check()

    def probe(self) -> None:
        """Connect once, at the start or for a check.

        Raises IndexUnavailable with the driver's error, which names no patients, and with what to do.
        """
        with self._explaining("opened"), self._engine.connect():
            pass

    def probe_writing(self) -> None:
        """As `probe`, once the index has its tables: try to write to them."""
        with self._explaining("written"):
            self._try_to_write()

    def check_writable(self) -> None:
        """As `ping`, and check that the index can be written. Raises IndexUnavailable."""
        self.ping()
        if self._file is not None:
            self._file.check_writable()  # without the lock of the only writer
        else:
            with _translating_errors():
                self._try_to_write()

    def _try_to_write(self) -> None:
        with self._write_lock(), self._writer.connect() as connection:
            transaction = connection.begin()
            connection.execute(text(CHANGE_NOTHING))
            transaction.rollback()

    @contextmanager
    def _explaining(self, done: str) -> Iterator[None]:
        """Raise errors as IndexUnavailable, with the text of the driver and what to check."""
        try:
            yield
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            where = self.url.database if self.is_sqlite else "database.url, and that its server runs"
            raise IndexUnavailable(f"the index cannot be {done}: {sentence(error)} ({said}); check {where}") from error

    def ping(self) -> None:
        """Run a small query on a dedicated connection. Raises IndexUnavailable."""
        self.check_file()
        try:
            self._pinger.use(_read_schema_version)
        except self._failures:  # the connection may have broken since it was used last
            with self._translating_driver_errors():
                self._pinger.use(_read_schema_version)

    def settle(self) -> bool:
        """Make durable what was committed without a sync; return whether that succeeded. Raises IndexUnavailable."""
        if self._checkpoints is None:
            return True
        with self._checkpoints.running, self._write_lock(), self.single() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {SETTLE_TIMEOUT}")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
            connection.invalidate()
        return busy == 0

    def sync(self) -> bool:
        """Make durable what was committed without a sync, beside running work; return whether that succeeded."""
        if not self.is_sqlite:
            return True
        # The log has these commits, unless they are in the database durably. The database itself must not be opened
        # here: the locks that SQLite has on it would be released with the descriptor. The name of the log is in the
        # folder, which SQLite syncs with the log only.
        log = Path(f"{self.url.database}-wal")
        try:
            for path in (log, log.absolute().parent):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError:
            return False
        return True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a short read transaction, which sees one snapshot of the index. Raises IndexUnavailable."""
        self.check_file()
        with _translating_errors(), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def read_after_writers(self, table: str) -> Iterator[Connection]:
        """Open a read transaction that sees the result of every transaction which writes to `table` now.

        On PostgreSQL it waits for them. SQLite ends those of a lost connection or process with it. Raises
        IndexUnavailable.
        """
        if self.is_sqlite:
            with self.read() as connection:
                yield connection
            return
        with self.write() as connection:
            connection.exec_driver_sql(f"LOCK TABLE {table} IN SHARE MODE")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a write transaction, committed at the end of the block unless it raises. Raises IndexUnavailable."""
        with self._writing(self._writer) as connection:
            yield connection

    def _write_shared(self) -> AbstractContextManager[Connection]:
        return self._writing(self._unsynced_writer if self.is_recoverable else self._writer)

    def _run_on_driver(self, work: Callable[[Any], Result]) -> Result:
        """Run `work` in a write transaction on a driver connection, as durable as one of `_write_shared`."""

        def transaction(driver: Any) -> Result:
            if self.is_sqlite:
                driver.execute("BEGIN IMMEDIATE")
            self.check_file()
            result = work(driver)
            driver.commit()
            self.check_file()  # otherwise the commit may be in a file that has been deleted
            return result

        with self._write_lock():
            result = (self._unsynced_raw_writers if self.is_recoverable else self._raw_writers).use(transaction)
            if self._checkpoints is not None:
                self._checkpoints.note_commit()
            return result

    def _copy_log(self) -> int:
        """Copy the log of SQLite into the database as far as readers allow; return the number of its pages.

        Raises IndexUnavailable.
        """
        self.check_file()
        with self._translating_driver_errors():
            statement = "PRAGMA wal_checkpoint(PASSIVE)"
            _, pages, _ = self._checkpointer.use(lambda driver: driver.execute(statement).fetchone())
        return int(pages)

    @contextmanager
    def _writing(self, engine: Engine) -> Iterator[Connection]:
        with self._write_lock(), _translating_errors(), engine.connect() as connection:
            with connection.begin():
                self.check_file()
                yield connection
            self.check_file()  # otherwise the commit may be in a file that has been deleted

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in a write transaction and return its result; run it again when it loses a race.

        It loses a race when another transaction inserted the same key, removed the parent that was just read, or took
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
                time.sleep(random.uniform(0, 0.01 * (attempt + 1)))  # noqa: S311  (spreads the retries, no secret)
        raise AssertionError("the last attempt returns or raises")

    def run_shared(self, work: DriverWork[Result]) -> Result | None:
        """Run `work` in a transaction of the driver that it may share with concurrent work of other threads.

        Returns None when `work` does, which has done nothing then, or when the transaction fails. Raises
        IndexUnavailable when none can begin.
        """
        return self._group_commit.run(work)

    def run_alone(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` as `transact` does, in a transaction that is as durable as those of `run_shared`."""
        return self._transact(work, self._write_shared)

    def query_once(self, query: Callable[[Any], Result]) -> Result:
        """Run one read statement on a driver connection and return the result of `query`. Raises IndexUnavailable.

        A connection that has broken since its last use raises too; `read` may still work then.
        """
        self.check_file()
        with self._translating_driver_errors():
            return self._raw_readers.use(query)

    @contextmanager
    def _translating_driver_errors(self) -> Iterator[None]:
        """Raise errors of the driver and engine as IndexUnavailable."""
        try:
            yield
        except self._failures as error:
            raise IndexUnavailable(sentence(error)) from error

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """Open a connection for a single read statement, without a transaction. Raises IndexUnavailable."""
        self.check_file()
        with _translating_errors(), self._single.connect() as connection:
            yield connection

    @contextmanager
    def interruptible(self, cancellation: Cancellation) -> Iterator[Connection]:
        """Open a read transaction whose statements a cancellation interrupts. Raises Cancelled, IndexUnavailable.

        Whatever fails after the cancellation, from the wait for a connection on, is Cancelled.
        """
        with (
            cancellation.interrupting(_do_nothing),
            self.read() as connection,
            self._interrupting(connection, cancellation),
        ):
            yield connection

    @contextmanager
    def _interrupting(self, connection: Connection, cancellation: Cancellation) -> Iterator[None]:
        interrupter = _Interrupter(_interrupt(connection), self._engine.dialect.loaded_dbapi.Error)
        try:
            with cancellation.interrupting(interrupter.start):
                yield
        finally:
            # What counts is whether it was started: a cancellation after the block raises nothing there, so that the
            # transaction ends as usual and needs its connection.
            if interrupter.stop():
                connection.invalidate()  # a late interruption must never reach the next user of this connection

    def identity(self) -> str:
        """Return a text that is the same for all servers with this index, however their URLs name it."""
        if self.is_sqlite:
            return str(Path(self.url.database or "").resolve())
        with suppress(IndexUnavailable), self.read() as connection:
            found = connection.execute(text("SELECT system_identifier, current_database() FROM pg_control_system()"))
            return ":".join(map(str, found.one()))
        return f"{self.url.host}:{self.url.port}/{self.url.database}"  # the user may lack the right

    def describe(self) -> dict[str, str]:
        """Return what `pacs check` shows about the database. Raises IndexUnavailable."""
        with self.read() as connection:
            version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
            return {
                "url": self.url.render_as_string(hide_password=True),
                "database": "SQLite" if self.is_sqlite else "PostgreSQL",
                "version": sqlite3.sqlite_version if self.is_sqlite else version,
                "infix search of names": "indexed by trigrams" if has_trigrams(connection) else "not indexed",
            }

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        if self._thread_lock is None:
            yield
            return
        if not self._thread_lock.acquire(timeout=self._wait):
            raise IndexUnavailable(BUSY)
        try:
            if self._process_lock is not None and not self._process_lock.acquire(self._wait):
                raise IndexUnavailable(BUSY)
            try:
                yield
            finally:
                if self._process_lock is not None:
                    self._process_lock.release()
        finally:
            self._thread_lock.release()


class _Interrupter:
    """Interrupts a statement from a thread of its own, repeatedly until `stop`."""

    def __init__(self, interrupt: Callable[[], None], failures: type[Exception]) -> None:
        self._interrupt, self._failures = interrupt, failures
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with suppress(OutOfResources):  # then the statement ends by itself, and the next check raises Cancelled
            self._thread = start_thread("pacs-interrupt", self._run)

    def stop(self) -> bool:
        """Stop, and return whether it was started."""
        self._done.set()
        if self._thread is None:
            return False
        self._thread.join()
        return True

    def _run(self) -> None:
        while not self._done.is_set():
            with suppress(self._failures):  # a lost connection has no statement to interrupt
                self._interrupt()
            self._done.wait(INTERRUPT_INTERVAL)


def driver_rows(result: CursorResult[Any]) -> list[Any]:
    """Return all rows as the driver made them: making rows of SQLAlchemy takes as long as reading them.

    Raises IndexUnavailable.
    """
    cursor = result.cursor
    assert cursor is not None, "the statement returns rows"
    try:
        return list(cursor.fetchall())
    except result.dialect.loaded_dbapi.Error as error:
        raise IndexUnavailable(sentence(error)) from error
    finally:
        result.close()


def may_be_committed(error: BaseException | None) -> bool:
    """Whether a transaction that failed with this error may be committed all the same: its connection broke."""
    while error is not None:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


def has_trigrams(connection: Connection) -> bool:
    """Whether this database has an index of trigrams for infix searches of names."""
    if connection.dialect.name == "sqlite":
        return inspect(connection).has_table("patient_trigram")
    indexes = inspect(connection).get_indexes("patient") if inspect(connection).has_table("patient") else []
    return any((index["name"] or "").startswith("trigram_") for index in indexes)


def _parsed_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("database.url is not a URL such as sqlite:///pacs-data/pacs.db") from error
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ConfigurationError("database.url must begin with sqlite:/// and a file, or with postgresql+psycopg://")


def file_of(url: str) -> Path | None:
    """Return the file of an SQLite database, None for a database server. Raises ConfigurationError."""
    parsed = _parsed_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def _engine(url: URL, connections: int, wait: float, file: DatabaseFile | None) -> Engine:
    """Create an engine that begins transactions explicitly and whose errors contain no parameters."""
    settings: dict[str, Any] = {"hide_parameters": True, "pool_timeout": wait, "max_overflow": connections // 2}
    settings |= {"pool_size": connections - connections // 2, "poolclass": ConnectionPool}
    try:
        if file is not None:
            return _sqlite_engine(url, wait, file, settings)
        return create_engine(_with_timeouts(url, wait), pool_pre_ping=True, **settings)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigurationError("PostgreSQL needs a driver: run `pip install 'psycopg[binary]'`") from error


def _with_timeouts(url: URL, wait: float) -> URL:
    """Add timeouts for an unreachable server and for locks to the URL, unless it has its own."""
    bounds = {
        "options": f"-c lock_timeout={max(1, round(wait * 1000))}",
        "connect_timeout": str(max(2, round(wait))),
        "tcp_user_timeout": str(round(wait * 1000)),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
    }
    return url.update_query_dict({name: value for name, value in bounds.items() if name not in url.query})


def _sqlite_engine(url: URL, wait: float, file: DatabaseFile, settings: dict[str, Any]) -> Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError("this Python's SQLite is older than 3.35: use a newer Python or PostgreSQL")
    try:
        private.make_folder(Path(url.database or "").parent)
    except OSError as error:
        raise IndexUnavailable("the folder of the index cannot be created: check database.url") from error
    engine = create_engine(url, connect_args={"timeout": wait}, **settings)

    def connect(
        _dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]
    ) -> sqlite3.Connection:
        return file.connect(**parameters)

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        _prepare_sqlite(connection)
        file.hold()

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection) -> None:
    """Configure a new connection. The driver must not begin transactions itself: it would begin them too late."""
    connection.isolation_level = None
    for setting in SQLITE_SETTINGS:
        connection.execute(f"PRAGMA {setting}")


def _disable_sync(driver: Any) -> None:
    """Let a connection of SQLite's driver commit without a sync."""
    driver.execute("PRAGMA synchronous = NORMAL")


def _set_autocommit(driver: Any) -> None:
    """Set autocommit, which connections of SQLite's driver have already."""
    if not isinstance(driver, sqlite3.Connection):
        driver.autocommit = True


def _read_schema_version(driver: Any) -> None:
    """Read the schema version, which every index has; SQLite reads it from the file."""
    driver.execute("SELECT version_num FROM alembic_version").fetchall()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if synchronous := options.get("pacs_synchronous"):
        # A connection may be reused for another kind of transaction; the setting cannot change within a transaction.
        driver: Any = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA synchronous = {synchronous}")
    if begin := options.get("pacs_begin", "BEGIN"):
        connection.exec_driver_sql(begin)


def _interrupt(connection: Connection) -> Callable[[], None]:
    """Return a function that interrupts the current statement of a connection from another thread."""
    driver: Any = connection.connection.dbapi_connection
    if isinstance(driver, sqlite3.Connection):
        return driver.interrupt
    return lambda: driver.cancel_safe(timeout=5.0)


def _do_nothing() -> None:
    """Interrupt nothing: no statement runs."""


@contextmanager
def _translating_errors() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise IndexUnavailable("too many concurrent operations of the index: try again later") from error
    except DBAPIError as error:
        raise IndexUnavailable(sentence(error)) from error


def _lost_race(error: IndexUnavailable) -> bool:
    cause = error.__cause__
    if isinstance(error, LostRace) or isinstance(cause, IntegrityError):
        return True
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in RACES
