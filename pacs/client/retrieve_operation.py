"""One C-MOVE or C-GET, from the request to its result: responses, arriving instances, and the end of both."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset

from pacs.client.completeness import Expected
from pacs.client.identifiers import Level, Model, encoded, root_of, sop_class_of, uids, with_level
from pacs.client.outcomes import OnProgress, Progress, Retrieved
from pacs.client.peer import Peer, abandoning, associated
from pacs.client.receive.receiver import Listener
from pacs.client.receive.store_scp import LEVEL_UIDS, Arrivals, StoreSCP
from pacs.client.status_errors import advice_for, failure
from pacs.dicom.identifier import decode
from pacs.dicom.identifier_builder import Identifier, data_set_of
from pacs.dicom.levels import DimseOperation
from pacs.dicom.status import PENDING, is_completed
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.status import Service
from pacs.dimse.scu import DimseResponse, Exchange, Requestor, Serve
from pacs.dimse.upper.user_information import Context
from pacs.errors import AssociationLost, TimeLimitReached, UndecodableDataSet
from pacs.support.wakeup import WakeUp


def ignore_progress(_progress: Progress) -> None:
    """Do nothing: the default progress callback."""


@dataclass(frozen=True, slots=True)
class RetrieveRequest:
    """A retrieve request: its Identifier, its SOP Class, and the UIDs of the instances that may arrive."""

    identifier: Dataset
    sop_class: str
    uids: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, identifier: Identifier, level: Level, model: Model, operation: DimseOperation) -> "RetrieveRequest":
        """Build the request from the caller's arguments. Raises InvalidArgument."""
        dataset = data_set_of(identifier)
        with_level(dataset, level, root_of(model), unique_only=True)
        named = {keyword: frozenset(uids(dataset, keyword)) for keyword in LEVEL_UIDS}
        return cls(dataset, sop_class_of(model, operation), {key: value for key, value in named.items() if value})


@dataclass(slots=True)
class _SubOperationCounts:
    """The sub-operation counts in the last response that had any."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    total: int | None = None
    """The largest total that any response has announced."""

    def update(self, response: Command) -> None:
        """Copy the counts of a response, if it has any."""
        if response.completed is None and response.remaining is None:
            return
        self.remaining, self.completed = response.remaining, response.completed
        self.failed, self.warning = response.failed, response.warning
        total = sum(each or 0 for each in (self.remaining, self.completed, self.failed, self.warning))
        self.total = max(self.total or 0, total)

    @property
    def announced(self) -> int | None:
        """The number of instances expected to arrive, None if the PACS reports no counts.

        This is the number of completed sub-operations of the final response, or else the largest announced total
        without the failed ones.
        """
        completed = (self.completed or 0) + (self.warning or 0)
        if completed and not self.remaining:
            return completed
        return None if self.total is None else self.total - (self.failed or 0)


@dataclass(slots=True)
class RetrieveOperation:
    """One C-MOVE or C-GET, from the request to its result."""

    peer: Peer
    request: RetrieveRequest
    service: Service
    on_progress: OnProgress
    destination: str = ""
    store_scp: StoreSCP | None = None
    wake_up: WakeUp | None = None
    find_expected: Callable[[], Expected | None] = lambda: None
    """Asks the PACS what should arrive, after a final response without counts."""
    is_checked: bool = False
    """Whether it is asked in any case, and must answer."""
    _expected: Expected | None = field(default=None, init=False)
    _counts: _SubOperationCounts = field(default_factory=_SubOperationCounts, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    _reported: Arrivals | None = field(init=False)
    _listener: Listener | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._reported = self.store_scp.arrivals if self.store_scp is not None else None

    def run(self, proposals: Iterable[tuple[str, tuple[str, ...]]] = ()) -> Retrieved:
        """Send the request and wait for the final response. `proposals` are the Storage contexts of a C-GET."""
        with self._adding_arrivals():
            final = self._run_exchange(tuple(proposals))
            self._find_expected(final)
        return self._result(final)

    def run_with_listener(self, listener: Listener, wait: float) -> Retrieved:
        """Send the request, then wait for the final response and for the announced instances to arrive."""
        self._listener = listener
        with self._adding_arrivals():
            final = self._run_exchange(())
            self._find_expected(final)
            if is_completed(final.command.status):
                self._await_arrivals(wait)
        return self._result(final)

    @contextmanager
    def _adding_arrivals(self) -> Iterator[None]:
        """Add what has arrived to the error of an association that is lost."""
        try:
            yield
        except AssociationLost as error:
            error.retrieved = self._retrieved(None, ())
            raise

    def _find_expected(self, final: DimseResponse) -> None:
        """Ask the PACS what should arrive, where its responses do not say it."""
        is_unknown = self.store_scp is not None and self._counts.announced is None
        if is_completed(final.command.status) and (self.is_checked or is_unknown):
            self._expected = self.find_expected()

    # --- request and responses ------------------------------------------------------------------------------------

    def _run_exchange(self, storage: tuple[tuple[str, tuple[str, ...]], ...]) -> DimseResponse:
        """Return the final response; meanwhile, record arrivals and counts."""
        contexts = [(self.request.sop_class, SERVICE_SYNTAXES), *storage]
        roles = {sop_class: (False, True) for sop_class, _ in storage}
        with associated(self.peer, contexts, roles=roles) as association:
            return self._exchange(association)

    def _exchange(self, association: Association) -> DimseResponse:
        requestor = Requestor(association, self.peer.deadlines.response, self._serving, self.wake_up)
        context = requestor.context(self.request.sop_class)
        exchange = self._send_request(requestor, context)
        with abandoning(exchange, self.peer):
            return self._await_final(exchange)

    @property
    def _serving(self) -> dict[int, Serve]:
        """The handlers for requests that the PACS sends on the same association: the C-STOREs of a C-GET."""
        if self.store_scp is None or self.service is not Service.GET:
            return {}
        return {CommandField.C_STORE: self.store_scp.store}

    def _send_request(self, requestor: Requestor, context: Context) -> Exchange:
        identifier = encoded(self.request.identifier, context.transfer_syntax)
        if self.service is Service.GET:
            return requestor.ask(CommandField.C_GET, context, identifier, priority=0)
        return requestor.ask(CommandField.C_MOVE, context, identifier, priority=0, move_destination=self.destination)

    def _await_final(self, exchange: Exchange) -> DimseResponse:
        """Return the final response. Each response and each arrival restarts the deadline, nothing else does."""
        alive = time.monotonic()
        while True:
            self._check_time()
            ends_at = min(alive + self.peer.deadlines.response, self.peer.deadlines.until)
            response, before = exchange.next(ends_at - time.monotonic()), self._reported
            if response is not None:
                self._counts.update(response.command)
            self._report_progress(is_changed=response is not None)
            if response is not None or (self._reported is not None and self._reported.differ_from(before)):
                alive = time.monotonic()
            if response is not None and exchange.is_over:
                return response

    # --- progress -------------------------------------------------------------------------------------------------

    def _report_progress(self, *, is_changed: bool) -> None:
        """Call the progress callback after a change. Raises StorageUnavailable, and what the callback raises."""
        if self.store_scp is not None:
            self.store_scp.check()
            arrivals = self.store_scp.arrivals
            is_changed = is_changed or arrivals.differ_from(self._reported)
            self._reported = arrivals
        if is_changed:
            self.on_progress(self.progress)

    @property
    def progress(self) -> Progress:
        """The progress of the operation."""
        counts, arrivals = self._counts, self.store_scp.arrivals if self.store_scp is not None else None
        return Progress(
            remaining=counts.remaining,
            completed=counts.completed,
            failed=counts.failed,
            warning=counts.warning,
            received=arrivals.received if arrivals else 0,
            bytes=arrivals.bytes if arrivals else 0,
            total=counts.total,
            elapsed=time.monotonic() - self._began,
        )

    def _await_arrivals(self, wait: float) -> None:
        """Wait until everything has arrived, at most `wait` seconds after the last arrival; report progress for each.

        Without any number to expect, the whole time is waited for.
        """
        store_scp = self.store_scp
        assert store_scp is not None, "arrivals need a store SCP"
        began = time.monotonic()
        while not self._has_everything_arrived():
            arrivals = store_scp.arrivals
            quiet = time.monotonic() - max(began, arrivals.last)
            if quiet >= wait:
                return
            self._check_time()
            store_scp.wait_for(arrivals.differ_from, min(wait - quiet, self.peer.deadlines.remaining))
            self._report_progress(is_changed=False)

    def _has_everything_arrived(self) -> bool:
        return self._expected_count is not None and self._missing_count() <= self._refused_count()

    def _check_time(self) -> None:
        """Raise TimeLimitReached after the time limit of the retrieve."""
        if self.peer.deadlines.remaining <= 0:
            raise TimeLimitReached

    # --- result ---------------------------------------------------------------------------------------------------

    def _result(self, final: DimseResponse) -> Retrieved:
        """Return the result of the final response and the arrivals. Raises OperationFailed."""
        failed_uids = _failed_uids(final)
        retrieved = self._retrieved(final.command, failed_uids)
        status = final.command.status
        is_failure = not is_completed(status) or bool(final.command.failed or failed_uids)
        missing, refused = self._missing_count(), self._refused_count()
        is_unknown = self.is_checked and self._expected is None
        if not is_failure and not retrieved.conflicts and missing <= 0 and not refused and not is_unknown:
            return retrieved
        if retrieved.conflicts:
            advice = f"{retrieved.conflicts[0]} arrived twice with different content; the first one is kept"
        elif is_failure:
            advice = self._refusals or ("" if refused else self._advice(final.command))
        else:
            advice = self._shortfall(missing) if missing > refused or is_unknown else ""
        cause = self.store_scp.refusals if self.store_scp is not None and not retrieved.conflicts else ""
        raise failure(
            self.service, final.command, advice=advice, cause=cause, failed_uids=failed_uids, retrieved=retrieved
        )

    def _advice(self, answer: Command) -> str:
        """Return advice for a failure; none about the address of this host if it was reached."""
        if self._listener is not None and self._listener.sender_filter.has_admitted:
            return ""
        port = self._listener.port if self._listener is not None else None
        return advice_for(self.service, answer, ae_title=self.destination, port=port)

    def _shortfall(self, missing: int) -> str:
        """Return that instances are missing, and what to check."""
        if missing <= 0:
            return "the PACS does not list its instances for a C-FIND, so that nothing says whether all have arrived"
        if self.store_scp is None:
            return f"the PACS lists {missing} more than it reports sending to {self.destination}"
        verb = "lists" if self._missing_uids or self._counts.announced is None else "reports sending"
        return f"the PACS {verb} {missing} more than arrived here: {self._refusals or self._address_advice}"

    @property
    def _refusals(self) -> str:
        """The associations and contexts that were refused here and may belong to this retrieve, '' for none."""
        if self._listener is None:
            return ""
        return "; ".join(filter(None, (self._listener.sender_filter.refusals, self._listener.rejected_contexts)))

    @property
    def _address_advice(self) -> str:
        """Advice if fewer instances arrived: check the move destination, or for a C-GET the PACS."""
        if self._listener is None:
            return "retrieve again, and look for its C-STORE sub-operations in the log of the PACS"
        hosts = " or ".join(self._listener.hosts)
        return f"check that {self.destination} is configured there with host {hosts} and port {self._listener.port}"

    @property
    def _expected_count(self) -> int | None:
        """The number of instances that should arrive, None if neither the responses nor a C-FIND say it."""
        counts = (self._counts.announced, self._expected.count if self._expected is not None else None)
        return max((each for each in counts if each is not None), default=None)

    def _missing_count(self) -> int:
        """The number of announced or listed instances that did not arrive here, or were not sent elsewhere."""
        if self.store_scp is None:
            sent = (self._counts.completed or 0) + (self._counts.warning or 0)
            return self._expected.count - sent if self._expected is not None else 0
        arrived = self._arrived(self.store_scp.arrivals)
        unlisted = 0
        if self._expected is not None:
            unlisted = self._expected.count - arrived if self._expected.uids is None else len(self._missing_uids)
        return max((self._counts.announced or 0) - arrived, unlisted)

    def _refused_count(self) -> int:
        """The number of instances of this retrieve that were refused here; those that were not requested may be of
        another sender, except in a C-GET.
        """
        if self.store_scp is None:
            return 0
        arrivals = self.store_scp.arrivals
        return arrivals.refused + (arrivals.unasked if self.service is Service.GET else 0)

    @property
    def _missing_uids(self) -> frozenset[str]:
        """The UIDs that a C-FIND listed and that have not arrived."""
        if self._expected is None or self._expected.uids is None or self.store_scp is None:
            return frozenset()
        return self._expected.uids - self.store_scp.uids

    def _arrived(self, arrivals: Arrivals) -> int:
        """Return how many announced instances have arrived; count repeats only if no sender but the PACS is allowed."""
        is_closed = self._listener is None or not self._listener.sender_filter.admits_anyone
        return arrivals.received + (arrivals.repeated if is_closed else 0)

    def _retrieved(self, final: Command | None, failed_uids: tuple[str, ...]) -> Retrieved:
        """Return the result of a final response, or of what has arrived without one."""
        store_scp, arrivals = self.store_scp, self.store_scp.arrivals if self.store_scp is not None else None
        counts = final or self._counts
        return Retrieved(
            paths=store_scp.paths if store_scp is not None else (),
            skipped=store_scp.skipped if store_scp is not None else (),
            status=final.status if final is not None else PENDING,
            completed=counts.completed,
            failed=counts.failed,
            warning=counts.warning,
            failed_uids=failed_uids,
            expected=self._expected_count,
            missing=tuple(sorted(self._missing_uids)),
            unasked=arrivals.unasked if arrivals else 0,
            conflicts=store_scp.conflicts if store_scp is not None else (),
            bytes=arrivals.bytes if arrivals else 0,
            elapsed=time.monotonic() - self._began,
        )


def _failed_uids(final: DimseResponse) -> tuple[str, ...]:
    """Return the Failed SOP Instance UID List (0008,0058) of a final response; empty if it cannot be read."""
    if not final.data:
        return ()
    try:
        found = decode(final.data, final.context.transfer_syntax)
    except UndecodableDataSet:
        return ()
    return uids(found, "FailedSOPInstanceUIDList")
