"""Health, metrics and activity of one archive, and the C-ECHO that it sends to itself."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress

from pacs.dimse.association.establishment import Protection
from pacs.dimse.scu import echo
from pacs.errors import AssociationRejected, EncryptionFailed, IndexUnavailable, StorageUnavailable
from pacs.files.store import ObjectStore
from pacs.index.commitments import outstanding
from pacs.index.database import Index
from pacs.observability.activity import Activity
from pacs.observability.events import Event, EventStream, Notice
from pacs.observability.health import Health, Probe, Watchdog
from pacs.observability.metrics.counters import CounterRegion, Counters
from pacs.observability.metrics.counting import ACTIVE, DIED, PROCESS, Counting, held_series
from pacs.services.healing import Healing
from pacs.services.holdings import HoldingsCounter
from pacs.support.sockets import reached
from pacs.web.insight import Insight

ECHO_SECONDS = 5.0
"""Timeout of each step of the C-ECHO to this server."""

NOT_A_NUMBER = float("nan")


class Monitoring:
    """Monitors one archive.

    `address` returns where it listens, `protection` how to connect there with TLS; `is_peer` tells whether an AE title
    is that of a configured peer; `counts` is whether events are counted. Each of several workers has its own
    monitoring, which shares the memory of the one in the process it was forked from: see `join`.
    """

    def __init__(
        self,
        *,
        index: Index,
        files: ObjectStore,
        healing: Healing,
        events: EventStream,
        ae_title: str,
        address: Callable[[], tuple[str, int]],
        is_accepting: Callable[[], bool],
        is_peer: Callable[[str], bool],
        workers: int,
        most_associations: Callable[[], int],
        protection: Callable[[], Protection | None],
        counts: bool,
    ) -> None:
        self._index, self._files, self._is_peer, self._events = index, files, is_peer, events
        self._healing = healing
        self._ae_title, self._address, self._protection = ae_title, address, protection
        self._workers, self._most_associations = workers, most_associations
        self.activity = Activity(workers)
        self._counters = Counters(workers) if counts else None
        self._database = Probe(index.ping)
        self._echo = Probe(self._echo_this_server)
        # A restart by the watchdog does not help an index that cannot be written.
        probes = {"database": Probe(index.check_writable), "files": Probe(files.probe), "index": Probe(healing.check)}
        self._health = Health(is_accepting, probes)
        self._calling_ae_title = f"PACS-{secrets.token_hex(5)}"
        """The calling AE title of the C-ECHO to this server, which no peer can guess."""
        self._unsubscribe: Callable[[], None] = lambda: None
        self._region: CounterRegion | None = None
        self._holdings: HoldingsCounter | None = None

    @property
    def insight(self) -> Insight:
        """What the web pages show."""
        return Insight(
            reasons=self._health.reasons,
            metrics=self._metrics if self._counters is not None else None,
        )

    # --- recording ----------------------------------------------------------------------------------------------

    def start(self, worker: int = 0) -> None:
        """Begin to count and record the events of this process, which is that worker."""
        if self._counters is not None:
            region = self._region = self._counters.of(worker)
            region.clear([ACTIVE])
            region.set({(PROCESS,): os.getpid()})
            self._events.subscribe(Counting(region, self._is_peer))
        self._events.subscribe(self.activity.recorder(worker))

    def start_supervisor(self) -> None:
        """Begin to record the events of this process, which supervises workers."""
        self._unsubscribe = self._events.subscribe(self.activity.recorder(self.activity.supervisor))

    def join(self, prepared: "Monitoring", worker: int) -> None:
        """Start as that worker in the shared memory of `prepared`, the monitoring of the supervisor."""
        prepared._unsubscribe()
        self._counters, self._calling_ae_title = prepared._counters, prepared._calling_ae_title
        self.activity = prepared.activity
        self.start(worker)

    def count_holdings(self, worker: int = 0) -> None:
        """Begin to count what the index has, in one of the workers."""
        region = self._region
        if region is not None and worker == 0:
            self._holdings = HoldingsCounter(
                self._index, lambda found: region.set(held_series(found.studies, found.instances, found.size))
            )
            self._holdings.start()

    def stop(self) -> None:
        """Count no more what the index has."""
        if self._holdings is not None:
            self._holdings.stop()

    def worker_died(self, worker: int, *, is_expected: bool) -> None:
        """Remove what is true only while a worker lives; count its death unless it is expected."""
        self.activity.clear_running(worker)
        if self._counters is not None:
            region = self._counters.of(worker)
            region.clear([ACTIVE, PROCESS])
            if not is_expected:
                region.add((DIED,))

    def publish(self, event: Event) -> None:
        """Publish an event, unless it is about the C-ECHO of this server to itself."""
        if not self.is_own(getattr(event, "calling_ae_title", "")):
            self._events.publish(event)

    def is_own(self, calling_ae_title: str) -> bool:
        """Whether this is the calling AE title of the C-ECHO of this server to itself."""
        return calling_ae_title == self._calling_ae_title

    def _metrics(self) -> tuple[bytes, str]:
        from pacs.observability.metrics.exposition import CONTENT_TYPE, Facts, Moment, exposition

        assert self._counters is not None, "there is no /metrics without counters"
        database, files = self._health.ask("database"), self._health.ask("files")
        free, total, completed = NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER
        with suppress(StorageUnavailable):
            free, total = self._files.space()
            progress = self._healing.progress()
            completed = progress.checked / max(1, progress.total) if progress is not None else 1.0
        commitments, oldest_commitment = NOT_A_NUMBER, NOT_A_NUMBER
        with suppress(IndexUnavailable):
            commitments, oldest_commitment = outstanding(self._index)
        facts = Facts(database=self._index.dialect, workers=self._workers, most_associations=self._most_associations())
        moment = Moment(
            database_up=not database.reason,
            database_seconds=NOT_A_NUMBER if database.reason else database.seconds,
            files_up=not files.reason,
            files_free=free,
            files_total=total,
            index_completed=completed,
            commitments=commitments,
            oldest_commitment=oldest_commitment,
            oldest_operation=self.activity.oldest_operation(),
        )
        return exposition(self._counters, facts, moment), CONTENT_TYPE

    # --- watchdog -----------------------------------------------------------------------------------------------

    def watchdog(self, period: float, notify: Callable[[], object]) -> Watchdog:
        """Return a watchdog that calls `notify` every `period` seconds while database and C-ECHO respond."""
        probes = {"database": self._database, "C-ECHO to this server": self._echo}
        return Watchdog(probes, period, notify, lambda sentence: self._events.publish(Notice(sentence=sentence)))

    def _echo_this_server(self) -> None:
        """Send a C-ECHO to this server. A rejection, also by TLS, is a response: access control may reject any caller.

        Raises DestinationUnreachable, AssociationLost.
        """
        host, port = self._address()
        with suppress(AssociationRejected, EncryptionFailed):
            echo(
                reached(host),
                port,
                calling_ae_title=self._calling_ae_title,
                called_ae_title=self._ae_title,
                timeout=ECHO_SECONDS,
                protection=self._protection(),
            )
