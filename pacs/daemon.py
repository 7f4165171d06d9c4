"""The house: every part of the archive built from a `Config`, started, drained and stopped."""

import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from pacs import config as configuration
from pacs.config import Config
from pacs.dicom.manner import MANNERS
from pacs.dicom.syntaxes import KEPT
from pacs.dimse import association
from pacs.dimse.handlers import Handlers
from pacs.dimse.negotiation import AcceptorPolicy
from pacs.dimse.places import Share
from pacs.dimse.retrieving import Patience
from pacs.dimse.server import Server
from pacs.errors import ConfigurationError, StorageUnavailable
from pacs.files.held import alone
from pacs.files.local import LocalFiles
from pacs.index import schema
from pacs.index.database import Index
from pacs.services.maintenance import Maintenance
from pacs.services.peers import Peer, Peers
from pacs.services.query import QueryService
from pacs.services.recovery import Recovery
from pacs.services.retrieve import RetrieveService
from pacs.services.storage import Storage
from pacs.telemetry import EventStream, ServerReady

CONNECTIONS = 32
"""How many connections to its database the pool of one process has at most."""

ALL_CONNECTIONS, FEWEST_CONNECTIONS = 64, 8
"""How many the pools of all workers have together, and each at least: PostgreSQL as it ships takes 100."""


class Archive:
    """The archive of one configuration: its stores and services, and, once started, its server.

    `events` is its event stream, to subscribe to before it is started; one may be given. `port` is the one it listens
    on, once it is started also where any free one was asked for. Use it in a `with` block, or `close()` it.

    It serves alone, in this process, by `start()`. Of several workers one archive prepares in the process they are
    forked from, and each worker has an archive of its own that joins it: see `pacs.supervisor`.
    """

    def __init__(self, config: Config, events: EventStream | None = None) -> None:
        self.config = config
        self.events = events or EventStream()
        self.port = config.server.port
        self.index = _index(config)
        self.files = file_store(config)
        self.peers = Peers(_peers(config), MANNERS[config.query.manner])
        self.storage = Storage(
            self.index,
            self.files,
            duplicates=config.storage.duplicates,
            unknown_sop_classes=config.storage.unknown_sop_classes,
            publish=self.events.publish,
        )
        self.queries = QueryService(
            self.index, self.files, page=config.limits.query_page, scan_limit=config.limits.query_scan
        )
        self.retrieves = RetrieveService(self.index, self.files, config.limits.retrieve_studies)
        self.maintenance = Maintenance(self.index, self.files, publish=self.events.publish)
        self._recovery = Recovery(self.index, self.files, Path(config.files.url) / "running", self.events.publish)
        self._server = self._dimse()
        self._closing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the index ready for use: an embedded one is upgraded, a server's is checked.

        Raises SchemaMismatch, IndexUnavailable.
        """
        self.index.probe()
        schema.ensure(self.index)

    def start(self) -> None:
        """Prepare, and accept associations; ServerReady is published then. Raises as `prepare`."""
        self.prepare()
        self._server.start()
        self.announce()

    def prepare(self) -> None:
        """Do what is done once for a server: open, clear what an unclean stop left, listen; accept nothing yet.

        Raises SchemaMismatch, IndexUnavailable, StorageUnavailable, and ConfigurationError when the address to listen
        on cannot be had.
        """
        self.open()
        with alone(Path(self.config.files.url)):  # two that start at once would each leave to the other what was lost
            self.files.start()
            self._recovery.begin()
        server = self.config.server
        try:
            self._server.listen()
        except OSError as error:
            why = f"cannot listen on {server.host}:{server.port} ({error.strerror})"
            raise ConfigurationError(f"{why}: expected server.host to be ours and server.port to be free") from error
        self.port = self._server.port

    def announce(self) -> None:
        """Publish that associations are accepted."""
        server = self.config.server
        self.events.publish(ServerReady(ae_title=server.ae_title, host=server.host, port=self.port))

    def join(self, prepared: "Archive", places: Share) -> None:
        """Accept associations as a worker of the server that another archive prepared before this process was forked.

        That one's marker says for all of them that instances may have to be looked for at the next start. Raises
        StorageUnavailable.
        """
        self.index.is_recoverable = True
        self.files.join()
        self._server.join(prepared._server.listeners, places)
        self.port = self._server.port

    def stop_listening(self) -> None:
        """Accept no more. What runs goes on."""
        self._server.stop_accepting()

    def leave_work(self) -> None:
        """Have the next start look for instances in no row, although this one ends in order: a worker did not."""
        self._recovery.leave_work()

    def drain(self) -> None:
        """Accept no more, let what runs end for at most `limits.drain_seconds`, then stop."""
        self._server.drain(self.config.limits.drain_seconds)
        self.close()

    def close(self) -> None:
        """Stop what runs, at once, and let go of the index. Closing twice does no harm, nor from two threads."""
        self._server.stop()
        with self._closing:
            self.storage.settle_doubts()
            self.files.close()
            if self.storage.has_doubts:
                self._recovery.leave_work()
            self._recovery.end()
            self.index.close()

    def _dimse(self) -> Server:
        """The DIMSE mouth: who is let in, what is done with each request, and what it may cost."""
        config = self.config
        limits = _association_limits(config.limits)
        handlers = Handlers(
            storage=self.storage,
            queries=self.queries,
            retrieves=self.retrieves,
            peers=self.peers,
            publish=self.events.publish,
            ae_title=config.server.ae_title,
            identifier_size=config.limits.identifier_size,
            patience=_patience(config.limits),
            limits=limits,
        )
        return Server(
            [(config.server.host, config.server.port)],
            self._policy(),
            handlers.table(),
            limits=limits,
            associations=config.limits.associations,
            publish=self.events.publish,
        )

    def _policy(self) -> AcceptorPolicy:
        config = self.config
        return AcceptorPolicy(
            ae_title=config.server.ae_title,
            any_called_ae=config.access.called_ae == "any",
            may_call=self._may_call,
            transfer_syntaxes=KEPT,
            order_for=self.peers.transfer_syntaxes_of,
            unknown_sop_classes=config.storage.unknown_sop_classes,
        )

    def _may_call(self, ae_title: str, _address: str) -> bool:
        return self.config.access.callers == "anyone" or self.peers.find(ae_title) is not None


def _association_limits(limits: configuration.Limits) -> association.Limits:
    return association.Limits(
        negotiation=limits.negotiation_seconds,
        idle=limits.idle_seconds,
        message=limits.message_seconds,
        write=limits.write_seconds,
        connect=limits.connect_seconds,
        max_pdu=limits.pdu_size,
    )


def _patience(limits: configuration.Limits) -> Patience:
    return Patience(
        pending_every=limits.pending_every, pending_seconds=limits.pending_seconds, cancel_grace=limits.cancel_grace
    )


def _index(config: Config) -> Index:
    """The index; with several workers each has a part of the connections, and takes turns with the others."""
    workers = config.server.workers
    connections = min(CONNECTIONS, max(FEWEST_CONNECTIONS, ALL_CONNECTIONS // workers))
    database = config.database
    return Index(database.url, connections=connections, wait=database.wait_seconds, is_shared=workers > 1)


def file_store(config: Config) -> LocalFiles:
    """The file store of a configuration. Raises ConfigurationError, StorageUnavailable."""
    if config.files.url.startswith("s3://"):
        raise ConfigurationError("files.url: object stores are not supported yet; expected a folder")
    try:
        return LocalFiles(Path(config.files.url))
    except StorageUnavailable as error:
        why = f"{error.comment}: {config.files.url} has to be a folder we may write to, see files.url"
        raise StorageUnavailable(why) from error


def _peers(config: Config) -> tuple[Peer, ...]:
    """The configured peers as the services know them."""
    return tuple(
        Peer(
            ae_title=each.ae_title,
            host=each.host,
            port=each.port,
            manner=MANNERS[each.manner] if each.manner else None,
            transfer_syntaxes=each.transfer_syntaxes,
            associations=each.associations,
        )
        for each in config.peers
    )


# --- serving until a signal comes --------------------------------------------------------------------------------


def run_until_signalled(
    archive: Archive,
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    stopping: Callable[[], None] = lambda: None,
) -> None:
    """Start the archive and serve until a signal comes; then drain it, and at a second signal stop at once.

    `stopping` is called when the first has come.
    For the main thread of a process, whose handlers of `signals` are put back at the end. Raises as `Archive.start`.
    """
    with Bell(signals) as bell:
        archive.start()
        bell.wait()
        stopping()
        threading.Thread(target=_drain, args=(archive, bell), name="pacs-drain", daemon=True).start()
        bell.wait()
        archive.close()


def _drain(archive: Archive, bell: "Bell") -> None:
    """Drain, and say when that is done to the main thread, which waits for it or for another signal."""
    try:
        archive.drain()
    finally:
        bell.ring()


class Bell:
    """Rings for each of `signals` that comes.

    A signal may be delivered to any thread, and between any two steps of the main one: as a byte in a socket, which
    the C level handler writes, none is lost.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._signals = tuple(signals)
        self._heard, self._rung = socket.socketpair()
        self._rung.setblocking(False)

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, lambda *_: None) for each in self._signals}
        self._fd_before = signal.set_wakeup_fd(self._rung.fileno())
        return self

    def __exit__(self, *exc: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._heard.close()
        self._rung.close()

    def ring(self) -> None:
        """Ring as a signal would; nobody may be listening any more."""
        with suppress(OSError):
            self._rung.send(b"\0")

    def fileno(self) -> int:
        """What is readable when it has rung and nobody has waited for it."""
        return self._heard.fileno()

    def wait(self) -> None:
        """Wait for one ring."""
        self._heard.recv(1)
