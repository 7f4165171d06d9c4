"""What those who run the archive see of it: whether it can work, whether it lives, and what it has counted."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pacs.dimse.association.establishment import Protection
from pacs.dimse.scu import echo
from pacs.errors import AssociationRejected, EncryptionFailed, StorageUnavailable
from pacs.files.store import ObjectStore
from pacs.index.database import Index
from pacs.observability.events import Event, EventStream, Notice
from pacs.observability.health import Health, Probe, Watch
from pacs.observability.metrics.counters import Counters
from pacs.observability.metrics.counting import ACTIVE, DIED, PROCESS, Counting
from pacs.support.sockets import reached
from pacs.web.insight import Insight

ECHO_SECONDS = 5.0
"""For each step of the C-ECHO we ask of ourselves."""

NOT_A_NUMBER = float("nan")


class Oversight:
    """Looks at one archive, made of its parts. `address` is the one it listens on, once it does, with `protection`.

    `is_peer` says whether an AE title is that of a configured peer; `counts` is whether events are counted;
    `explanations` gives the last ones, None where nothing is explained. With several workers each has an oversight of
    its own that joins that of the archive which prepared.
    """

    def __init__(
        self,
        *,
        index: Index,
        files: ObjectStore,
        events: EventStream,
        ae_title: str,
        address: Callable[[], tuple[str, int]],
        is_accepting: Callable[[], bool],
        is_peer: Callable[[str], bool],
        workers: int,
        most_associations: Callable[[], int],
        protection: Callable[[], Protection | None],
        counts: bool,
        explanations: Callable[[], Sequence[Mapping[str, Any]] | None],
    ) -> None:
        self._index, self._files, self._is_peer, self._events = index, files, is_peer, events
        self._ae_title, self._address, self._protection = ae_title, address, protection
        self._workers, self._most_associations = workers, most_associations
        self._explanations = explanations
        self._counters = Counters(workers) if counts else None
        self._database = Probe(index.ping)
        self._echo = Probe(self._ask_ourselves)
        self._health = Health(is_accepting, {"database": self._database, "files": Probe(files.probe)})
        self._title = f"PACS-{secrets.token_hex(5)}"
        """What we call ourselves by when we ask ourselves: nobody else knows it."""

    @property
    def insight(self) -> Insight:
        """What is shown on the web."""
        return Insight(
            reasons=self._health.reasons,
            metrics=self._metrics if self._counters is not None else None,
            explanations=self._explanations,
        )

    # --- counting -----------------------------------------------------------------------------------------------

    def begin(self, worker: int = 0) -> None:
        """Count what this process does, as that worker."""
        if self._counters is not None:
            region = self._counters.of(worker)
            region.clear([ACTIVE])
            region.set({(PROCESS,): os.getpid()})
            self._events.subscribe(Counting(region, self._is_peer))

    def join(self, prepared: "Oversight", worker: int) -> None:
        """Count as that worker among those of the archive which prepared."""
        self._counters, self._title = prepared._counters, prepared._title
        self.begin(worker)

    def bury(self, worker: int, *, unasked: bool) -> None:
        """Forget what was so only while a worker lived. `unasked` is whether it should have gone on."""
        if self._counters is not None:
            region = self._counters.of(worker)
            region.clear([ACTIVE, PROCESS])
            if unasked:
                region.add((DIED,))

    def publish(self, event: Event) -> None:
        """Publish what peers do: what we ask ourselves is neither logged nor counted."""
        if getattr(event, "calling_ae_title", "") != self._title:
            self._events.publish(event)

    def _metrics(self) -> tuple[bytes, str]:
        from pacs.observability.metrics.exposition import CONTENT_TYPE, Facts, Moment, exposition

        assert self._counters is not None, "asked only where it counts"
        database, files = self._health.ask("database"), self._health.ask("files")
        free, total = NOT_A_NUMBER, NOT_A_NUMBER
        with suppress(StorageUnavailable):
            free, total = self._files.space()
        facts = Facts(database=self._index.dialect, workers=self._workers, most_associations=self._most_associations())
        moment = Moment(
            database_up=not database.reason,
            database_seconds=NOT_A_NUMBER if database.reason else database.seconds,
            files_up=not files.reason,
            files_free=free,
            files_total=total,
        )
        return exposition(self._counters, facts, moment), CONTENT_TYPE

    # --- living -------------------------------------------------------------------------------------------------

    def watch(self, period: float, say: Callable[[], object]) -> Watch:
        """Have it said every `period` seconds that the database answers and we answer a C-ECHO, while that is so."""
        probes = {"database": self._database, "C-ECHO of ourselves": self._echo}
        return Watch(probes, period, say, lambda sentence: self._events.publish(Notice(sentence=sentence)))

    def _ask_ourselves(self) -> None:
        """C-ECHO over the network. A rejection, by TLS too, is an answer: who may call is no question of being alive.

        Raises DestinationUnreachable, AssociationLost.
        """
        host, port = self._address()
        with suppress(AssociationRejected, EncryptionFailed):
            echo(
                reached(host),
                port,
                calling_ae_title=self._title,
                called_ae_title=self._ae_title,
                timeout=ECHO_SECONDS,
                protection=self._protection(),
            )
