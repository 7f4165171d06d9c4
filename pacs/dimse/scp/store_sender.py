"""C-STORE sub-operations on one association (PS3.4 C.4.2, C.4.3): requests, their responses, look-ahead."""

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from pacs.dicom.syntaxes import converts_pixel_data, is_native
from pacs.dimse.association.association import Association
from pacs.dimse.association.storage_contexts import Proposal, candidates, proposals, refusal
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField, Template
from pacs.dimse.messages.message import Buffer
from pacs.dimse.upper.user_information import Agreement, Context
from pacs.dimse.upper.waiting import WaitContext, wait_for
from pacs.errors import AssociationLost, Cancelled, InstanceUnreadable, NotSupported, PacsError
from pacs.index.writer import StoredInstance
from pacs.pixels.look_ahead import LookAhead
from pacs.services.pixels import ConvertedDataSet
from pacs.services.retrieve import Outcome, Retrieval, RetrieveService

NO_RESPONSE = 0x0110
"""The status of a sub-operation that had no response: processing failure (PS3.7 C.5.9)."""


@dataclass(frozen=True, slots=True)
class StoreResult:
    """The outcome of a sub-operation, the status of the C-STORE response (or `NO_RESPONSE`), and the reason."""

    outcome: Outcome
    status: int = NO_RESPONSE
    comment: str = ""
    transfer_syntax: str = ""


class ContextMissing(NotSupported):
    """The association has no presentation context for an instance; with `proposals` it could have one."""

    def __init__(self, instance: StoredInstance, agreement: Agreement, send_as: tuple[str, ...]) -> None:
        super().__init__(refusal(instance, agreement))
        self.proposals: tuple[Proposal, ...] = proposals(instance, send_as)


def failed(error: PacsError) -> StoreResult:
    """Return the result of a sub-operation that had no response because of `error`."""
    return StoreResult(Outcome.FAILED, comment=error.comment)


Sending = Generator[None, None, StoreResult]
"""A sub-operation that is being sent: pauses while its response is due, and returns its result."""


class InstanceSender(Protocol):
    """Sends instances: a `StoreSender`, or a `DestinationAssociation` that reconnects."""

    @property
    def window(self) -> int:
        """The most instances that may be sent before the response to the first."""

    def send(
        self, instance: StoredInstance, wait_context: WaitContext, following: Iterable[StoredInstance] = ()
    ) -> Sending:
        """Send an instance; begin the `following` ones while its response is due. Raises Cancelled, ContextMissing."""


@dataclass(frozen=True, slots=True)
class SubOperation:
    """A finished sub-operation; `duration` is in seconds."""

    instance: StoredInstance
    result: StoreResult
    duration: float


SubOperations = Generator[SubOperation | None, None, None]
"""Sends the instances of a retrieve; begins none after a cancel.

It yields each finished sub-operation, and None whenever a Pending response can be written without delaying anything:
while the response to a sub-operation is due.
"""


def send_each(sender: InstanceSender, instances: Iterable[StoredInstance], wait_context: WaitContext) -> SubOperations:
    """Send instances, as many before the response to the first as the window of `sender` allows."""
    remaining = deque(instances)
    yield from send_while(lambda: remaining.popleft() if remaining else None, sender, wait_context, remaining)


def send_while(
    take: Callable[[], StoredInstance | None],
    sender: InstanceSender,
    wait_context: WaitContext,
    following: Iterable[StoredInstance] = (),
) -> SubOperations:
    """Send what `take` returns, as `send_each`, until it returns None; `following` are instances that come later."""
    running = deque[SubOperations]()
    while True:
        instance = None
        if len(running) < sender.window:
            wait_context.process_input()
            instance = None if wait_context.cancellation.requested else take()
        if instance is not None:
            begun = send_one(sender, instance, wait_context, following)
            failed_at_once = next(begun)
            if failed_at_once is None:
                running.append(begun)
            yield failed_at_once
        elif running:
            yield from running.popleft()
        else:
            return


def send_one(
    sender: InstanceSender,
    instance: StoredInstance,
    wait_context: WaitContext,
    following: Iterable[StoredInstance] = (),
) -> SubOperations:
    """Send one instance."""
    began = time.monotonic()
    try:
        result = yield from sender.send(instance, wait_context, following)
    except (Cancelled, ContextMissing) as error:  # cancelled: the grace of the running sub-operation is over
        result = failed(error)
    yield SubOperation(instance, result, time.monotonic() - began)


# --- one association ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Route:
    """The presentation context and the encoded command for the instances of one SOP Class and transfer syntax."""

    context: Context
    command: Template
    is_conversion: bool
    """Whether their pixel data is decoded or encoded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A C-STORE request that is ready: its data set is open, and the bytes of the first write are read."""

    message_id: int
    transfer_syntax: str
    pdus: Iterable[list[Buffer]]
    conversion: ConvertedDataSet | None = None
    size_in_memory: int = 0

    def close(self) -> None:
        """End the conversion, if it is one."""
        if self.conversion is not None:
            self.conversion.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Converting:
    """An instance whose conversion has begun; `routes` are the further ones if its pixel data allows no conversion."""

    instance: StoredInstance
    data: ConvertedDataSet
    route: _Route
    routes: tuple[_Route, ...]

    @property
    def size_in_memory(self) -> int:
        """The bytes of frames in memory at most."""
        return self.data.size_in_memory

    def close(self) -> None:
        """End the conversion."""
        self.data.close()


_Begun = _Request | _Converting


@dataclass(slots=True)
class StoreSender:
    """Sends the instances of a retrieve as C-STORE requests on one association.

    Several may be without a response, and the peer may respond in any order (PS3.7 D.3.3.3). `originator` is the
    calling AE title and the Message ID of the C-MOVE, None for a C-GET. Close it after use.
    """

    association: Association
    retrieve: RetrieveService
    retrieval: Retrieval
    timeout: float
    send_as: tuple[str, ...] = ()
    priority: int = 0
    originator: tuple[str, int] | None = None
    proposed: Collection[Proposal] | None = None
    """The proposed contexts, None for a C-GET, whose requestor proposed them."""
    contexts: Collection[Context] | None = None
    """The accepted contexts that may be used, None for all."""
    avoid: int = 0
    """A Message ID not to use: that of the C-GET on the same association."""
    _message_id: int = field(default=0, init=False)
    _ahead: LookAhead[StoredInstance, _Begun] = field(init=False)
    _wait_context: WaitContext = field(init=False)
    _due: set[int] = field(default_factory=set, init=False)
    """The Message IDs of requests whose response has not arrived."""
    _arrived: dict[int, Command] = field(default_factory=dict, init=False)
    """Responses that arrived before their turn, by Message ID."""
    _routes: dict[tuple[str, str], tuple[_Route, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._ahead = LookAhead(self._begin, self.retrieve.pixels.at_once)

    @property
    def window(self) -> int:
        """The most instances that may be sent before the response to the first."""
        return self.association.agreement.window

    def send(
        self, instance: StoredInstance, wait_context: WaitContext, following: Iterable[StoredInstance] = ()
    ) -> Sending:
        """Send one instance and return its result; read and convert `following` ahead while the response is due.

        An instance that cannot be read or converted fails alone. Raises ContextMissing when it has no presentation
        context; InstanceUnreadable when it fails after the first write, AssociationLost when the peer is gone,
        Cancelled after the grace of a cancel: the association cannot be used any more then.
        """
        self._wait_context = wait_context
        try:
            request = self._ready(self._ahead.take(instance))
        except (Cancelled, ContextMissing):
            raise
        except PacsError as error:
            return failed(error)
        try:
            self._write(request, wait_context)
        except AssociationLost:
            if self._due:
                yield  # the first instance without a response goes first: the loss counts for it
            raise
        yield
        self._ahead.begin(self._worth_beginning(following))
        return self._result(request, wait_context)

    def close(self) -> None:
        """End the conversions of instances that were not sent."""
        self._ahead.close()

    def receive_all(self, wait_context: WaitContext) -> None:
        """Receive the responses that are due, so that the association can be released. Raises as `send`."""
        while self._due:
            self._receive(wait_context)

    def _worth_beginning(self, following: Iterable[StoredInstance]) -> Iterator[StoredInstance]:
        """Yield the instances that are converted, up to the first one that is not: one file is read ahead."""
        for each in following:
            yield each
            if not self._is_converted(each):
                return

    def _is_converted(self, instance: StoredInstance) -> bool:
        routes = self._routes.get((instance.sop_class_uid, instance.transfer_syntax), ())
        return bool(routes) and routes[0].is_conversion

    # --- requests -------------------------------------------------------------------------------------------------

    def _begin(self, instance: StoredInstance) -> _Begun:
        """Begin to send an instance as it is stored now. Raises PacsError when it cannot be sent."""
        return self.retrieve.read(self.retrieval, instance, self._begin_stored)

    def _begin_stored(self, instance: StoredInstance) -> _Begun:
        routes = self._routes_for(instance)
        if not routes:
            raise ContextMissing(instance, self.association.agreement, self.send_as)
        if not routes[0].is_conversion:
            return self._request(instance, routes[0], self.retrieve.data(instance, routes[0].context.transfer_syntax))
        return self._convert(instance, routes)

    def _convert(self, instance: StoredInstance, routes: Sequence[_Route], reason: str = "") -> _Begun:
        """Begin the conversion for the first route that the pixel data allows. Raises NotSupported without one."""
        wait = partial(wait_for, wait_context=self._wait_context)
        for number, route in enumerate(routes, 1):
            try:
                data = self.retrieve.convert(self.retrieval, instance, route.context.transfer_syntax, wait)
                return _Converting(instance, data, route, tuple(routes[number:]))
            except NotSupported as error:
                reason = error.comment
        raise NotSupported(f"{refusal(instance, self.association.agreement)}; {reason}")

    def _ready(self, begun: _Begun) -> _Request:
        """Return the request, once its first bytes are converted."""
        if isinstance(begun, _Request):
            return begun
        try:
            return self._request(begun.instance, begun.route, self._converted(begun), begun.data)
        except NotSupported as error:  # a value that the transfer syntax cannot represent
            begun.close()
            again = self._convert(begun.instance, begun.routes, error.comment)
        except BaseException:
            begun.close()
            raise
        return self._ready(again)

    def _converted(self, begun: _Converting) -> Iterator[bytes]:
        """Return the pieces of a converted data set: at once where an error after the first one does less harm.

        On the association of a C-GET it would end the retrieve, and encoding may find out late that it loses values.
        """
        is_streamed = self.originator is not None and is_native(begun.route.context.transfer_syntax)
        return begun.data.pieces() if is_streamed else begun.data.spooled()

    def _request(
        self,
        instance: StoredInstance,
        route: _Route,
        data: Iterator[bytes],
        conversion: ConvertedDataSet | None = None,
    ) -> _Request:
        """Make the C-STORE request for an instance. Raises what `data` raises."""
        message_id = self._next_message_id()
        command = route.command.encode(message_id, instance.sop_instance_uid)
        pdus = self.association.prepare(route.context.id, command, data)
        return _Request(message_id, route.context.transfer_syntax, pdus, conversion)

    def _routes_for(self, instance: StoredInstance) -> tuple[_Route, ...]:
        """Return contexts and commands for an instance, best first.

        They are chosen and encoded once for each SOP Class and transfer syntax. There are none when a context for the
        stored transfer syntax was not proposed: the instance was replaced since.
        """
        key = (instance.sop_class_uid, instance.transfer_syntax)
        if key not in self._routes:
            self._routes[key] = tuple(self._choose_routes(instance))
        return self._routes[key]

    def _choose_routes(self, instance: StoredInstance) -> Iterator[_Route]:
        if self.proposed is not None and proposals(instance)[0] not in self.proposed:
            return
        command = self._command(instance.sop_class_uid)
        contexts = self.association.contexts.values() if self.contexts is None else self.contexts
        for each in candidates(instance, contexts, self.send_as):
            yield _Route(each, command, converts_pixel_data(instance.transfer_syntax, each.transfer_syntax))

    def _command(self, sop_class_uid: str) -> Template:
        originator = self._move_originator()
        command = Command.request(
            CommandField.C_STORE, 0, sop_class_uid, affected_sop_instance_uid="", priority=self.priority, **originator
        )
        return Template(command, data_set=True, changing=("message_id", "affected_sop_instance_uid"))

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        if self._message_id == self.avoid:
            self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    def _move_originator(self) -> dict[str, str | int]:
        if self.originator is None:
            return {}
        ae_title, message_id = self.originator
        return {"move_originator_ae_title": ae_title, "move_originator_message_id": message_id}

    def _write(self, request: _Request, wait_context: WaitContext) -> None:
        try:
            self.association.send_prepared(request.pdus, wait_context=wait_context)
            self._due.add(request.message_id)
        except (AssociationLost, Cancelled):
            raise
        except PacsError as error:  # a part of the data set was sent: the association had to be aborted
            raise InstanceUnreadable(error.comment) from error
        finally:
            request.close()

    def _result(self, request: _Request, wait_context: WaitContext) -> StoreResult:
        """Wait for the response to `request` and return the result it stands for (V5)."""
        while request.message_id not in self._arrived:
            self._receive(wait_context)
        response = self._arrived.pop(request.message_id)
        outcome = _outcome_of(response.status)
        return StoreResult(outcome, response.status, response.error_comment or "", request.transfer_syntax)

    def _receive(self, wait_context: WaitContext) -> None:
        """Receive the response to any request."""
        message = self.association.receive(self.timeout, wait_context=wait_context)
        if message is None:
            raise AssociationLost(f"The association with the destination is over: {self.association.end_reason}")
        response = message.command
        if violation := response.violation_as_response(CommandField.C_STORE, self._due):
            raise self.association.violated(message, violation)
        self._due.remove(response.responding_to)
        self._arrived[response.responding_to] = response


def _outcome_of(code: int) -> Outcome:
    """Return how the status of a C-STORE response counts (V5)."""
    if code == status.SUCCESS:
        return Outcome.COMPLETED
    return Outcome.WARNING if code in status.STORE_WARNINGS else Outcome.FAILED
