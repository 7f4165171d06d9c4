"""One C-MOVE or C-GET from its request to its outcome: what the PACS says, what arrives, and when that is all."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydicom import Dataset

from pacs.client.identifiers import (
    Identifier,
    Level,
    Model,
    data_set_of,
    encoded,
    root_of,
    sop_class_of,
    uids,
    with_level,
)
from pacs.client.outcomes import OnProgress, Progress, Retrieved
from pacs.client.peer import Peer, associate
from pacs.client.receive.receiver import Listener
from pacs.client.receive.store_scp import LEVEL_UIDS, Arrivals, Intake
from pacs.client.status_errors import failure, is_fine, mending
from pacs.dicom.identifier import decode
from pacs.dicom.levels import DimseOperation
from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.status import Service
from pacs.dimse.scu import Exchange, Requestor, Response, Serve
from pacs.dimse.server.acceptor_policy import SERVICE_SYNTAXES
from pacs.dimse.upper.user_information import Context
from pacs.errors import UndecodableDataSet
from pacs.support.wakeup import WakeUp

SETTLING = 2.0
"""Seconds without an arrival, or an association, after which nothing more is expected of a PACS that counts nothing."""


GLANCE = 0.1
"""Seconds from one look whether anybody still sends to the next."""


def unheard(_progress: Progress) -> None:
    """Nobody wants to know how far it is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a retrieve asks for: its Identifier, its SOP Class, and the UIDs of which instances may come."""

    identifier: Dataset
    sop_class: str
    uids: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, identifier: Identifier, level: Level, model: Model, operation: DimseOperation) -> "Asked":
        """Raises InvalidArgument."""
        dataset = data_set_of(identifier)
        with_level(dataset, level, root_of(model), unique_only=True)
        named = {keyword: frozenset(uids(dataset, keyword)) for keyword in LEVEL_UIDS}
        return cls(dataset, sop_class_of(model, operation), {key: value for key, value in named.items() if value})


@dataclass(slots=True)
class _Counts:
    """What a PACS has said about its sub-operations, in its last response that had counts."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    most: int | None = None
    """The most instances that it ever said it would send, or had sent."""

    def take(self, response: Command) -> None:
        """Note the counts of a response, as far as it has any."""
        if response.completed is None and response.remaining is None:
            return
        self.remaining, self.completed = response.remaining, response.completed
        self.failed, self.warning = response.failed, response.warning
        total = sum(each or 0 for each in (self.remaining, self.completed, self.failed, self.warning))
        self.most = max(self.most or 0, total)

    @property
    def announced(self) -> int | None:
        """How many instances will have arrived in the end, None where nothing was counted.

        What the final response has as completed, or all that was ever announced where that says none.
        """
        completed = (self.completed or 0) + (self.warning or 0)
        if completed and not self.remaining:
            return completed
        return None if self.most is None else self.most - (self.failed or 0)


@dataclass(slots=True)
class Retrieve:
    """One C-MOVE or C-GET from its request to its outcome."""

    peer: Peer
    asked: Asked
    service: Service
    on_progress: OnProgress
    destination: str = ""
    intake: Intake | None = None
    wake_up: WakeUp | None = None
    _counts: _Counts = field(default_factory=_Counts, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    _shown: Arrivals | None = field(init=False)
    _listener: Listener | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._shown = self.intake.arrivals if self.intake is not None else None

    def run_alone(self, proposals: Iterable[tuple[str, tuple[str, ...]]] = ()) -> Retrieved:
        """Ask, and wait for the final response; in a C-GET with contexts for what arrives."""
        final = self._ask(tuple(proposals))
        return self._judged(final)

    def run_with(self, listener: Listener, wait: float) -> Retrieved:
        """Ask, and wait for the final response and for what was announced to have arrived."""
        self._listener = listener
        final = self._ask(())
        if is_fine(final.command.status):
            self._await_rest(listener, wait)
        return self._judged(final)

    # --- asking -------------------------------------------------------------------------------------------------

    def _ask(self, storage: tuple[tuple[str, tuple[str, ...]], ...]) -> Response:
        """The final response, with what arrived and was counted noted on the way."""
        association = associate(
            self.peer,
            [(self.asked.sop_class, SERVICE_SYNTAXES), *storage],
            roles={sop_class: (False, True) for sop_class, _ in storage},
        )
        try:
            return self._exchanged(association)
        finally:
            association.release(self.peer.deadlines.release)

    def _exchanged(self, association: Association) -> Response:
        requestor = Requestor(association, self.peer.deadlines.response, self._serving, self.wake_up)
        context = requestor.context(self.asked.sop_class)
        exchange = self._requested(requestor, context)
        try:
            return self._final(exchange)
        except BaseException:
            exchange.abandon(self.peer.deadlines.cancel)
            raise

    @property
    def _serving(self) -> dict[int, Serve]:
        """What is done with what a PACS asks on the association of the retrieve: in a C-GET it stores there."""
        if self.intake is None or self.service is not Service.GET:
            return {}
        return {CommandField.C_STORE: self.intake.store}

    def _requested(self, requestor: Requestor, context: Context) -> Exchange:
        identifier = encoded(self.asked.identifier, context.transfer_syntax)
        if self.service is Service.GET:
            return requestor.ask(CommandField.C_GET, context, identifier, priority=0)
        return requestor.ask(CommandField.C_MOVE, context, identifier, priority=0, move_destination=self.destination)

    def _final(self, exchange: Exchange) -> Response:
        """The final response; the deadline begins anew with each response and each arrival, and with nothing else."""
        alive = time.monotonic()
        while True:
            response, before = exchange.next(alive + self.peer.deadlines.response - time.monotonic()), self._shown
            if response is not None:
                self._counts.take(response.command)
            self._tell(has_news=response is not None)
            if response is not None or (self._shown is not None and self._shown.are_not(before)):
                alive = time.monotonic()
            if response is not None and exchange.is_over:
                return response

    # --- how far it is ------------------------------------------------------------------------------------------

    def _tell(self, *, has_news: bool) -> None:
        """Tell how far it is, if anything came. Raises what that raises, and StorageUnavailable."""
        if self.intake is not None:
            self.intake.check()
            arrivals = self.intake.arrivals
            has_news = has_news or arrivals.are_not(self._shown)
            self._shown = arrivals
        if has_news:
            self.on_progress(self.progress)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        counts, arrivals = self._counts, self.intake.arrivals if self.intake is not None else None
        return Progress(
            remaining=counts.remaining,
            completed=counts.completed,
            failed=counts.failed,
            warning=counts.warning,
            received=arrivals.received if arrivals else 0,
            bytes=arrivals.bytes if arrivals else 0,
            total=counts.most,
            elapsed=time.monotonic() - self._began,
        )

    def _await_rest(self, listener: Listener, wait: float) -> None:
        """Wait for what was announced and has not arrived, telling of each arrival."""
        intake, announced = self.intake, self._counts.announced
        assert intake is not None, "only who receives waits for arrivals"
        began = time.monotonic()
        while True:
            arrivals = intake.arrivals
            seen = self._counted(arrivals)
            quiet = time.monotonic() - max(began, arrivals.last)
            patience = wait
            if announced is not None and seen >= announced:
                return
            if announced is None and seen and not listener.is_busy:
                patience = min(wait, SETTLING)
            if quiet >= patience:
                return
            intake.wait_for(arrivals.are_not, min(patience - quiet, GLANCE))
            self._tell(has_news=False)

    # --- what it came to ----------------------------------------------------------------------------------------

    def _judged(self, final: Response) -> Retrieved:
        """What the final response and the arrivals come to. Raises OperationFailed."""
        failed_uids = _failed_uids(final)
        retrieved = self._retrieved(final.command, failed_uids)
        status = final.command.status
        is_failure = not is_fine(status) or bool(final.command.failed or failed_uids)
        missing = self._missing()
        if not is_failure and not retrieved.conflicts and missing <= 0:
            return retrieved
        if retrieved.conflicts:
            advice = f"{retrieved.conflicts[0]} came twice with different content, of which the first is kept"
        elif is_failure:
            advice = self._refused or mending(self.service, status, ae_title=self.destination, port=self._port)
        else:
            advice = f"the PACS says it sent {missing} more than arrived here: {self._refused or self._whereabouts}"
        raise failure(self.service, final.command, mending=advice, failed_uids=failed_uids, retrieved=retrieved)

    @property
    def _port(self) -> int | None:
        return self._listener.port if self._listener is not None else None

    @property
    def _refused(self) -> str:
        """Who was not let in that may have had something for us, '' where nobody was refused."""
        return self._listener.door.refused if self._listener is not None else ""

    @property
    def _whereabouts(self) -> str:
        hosts = " or ".join(self._listener.hosts) if self._listener is not None else ""
        return f"does it send to {self.destination} at the host of this machine, {hosts}, and port {self._port}?"

    def _missing(self) -> int:
        """How many instances were announced and did not arrive here."""
        if self.intake is None:
            return 0
        return (self._counts.announced or 0) - self._counted(self.intake.arrivals)

    def _counted(self, arrivals: Arrivals) -> int:
        """How many of those that were announced have arrived: repeats among them, where only the PACS can send."""
        is_closed = self._listener is None or not self._listener.door.is_open
        return arrivals.received + (arrivals.repeated if is_closed else 0)

    def _retrieved(self, final: Command, failed_uids: tuple[str, ...]) -> Retrieved:
        intake, arrivals = self.intake, self.intake.arrivals if self.intake is not None else None
        return Retrieved(
            paths=intake.paths if intake is not None else (),
            skipped=intake.skipped if intake is not None else (),
            status=final.status,
            completed=final.completed,
            failed=final.failed,
            warning=final.warning,
            failed_uids=failed_uids,
            unasked=arrivals.unasked if arrivals else 0,
            conflicts=intake.conflicts if intake is not None else (),
            bytes=arrivals.bytes if arrivals else 0,
            elapsed=time.monotonic() - self._began,
        )


def _failed_uids(final: Response) -> tuple[str, ...]:
    """The Failed SOP Instance UID List (0008,0058) of a final response; none where it cannot be read."""
    if not final.data:
        return ()
    try:
        found = decode(final.data, final.context.transfer_syntax)
    except UndecodableDataSet:
        return ()
    return uids(found, "FailedSOPInstanceUIDList")
