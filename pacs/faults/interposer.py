"""Inserts faults and an observer between a server and its settings; only servers with faults import it."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

from pacs.dicom import identifier
from pacs.dimse.association.association import Association
from pacs.dimse.association.establishment import RejectedAssociation, accept
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.messages.status import Refusal, Service
from pacs.dimse.scp.handlers import Handler, Handlers
from pacs.dimse.scp.operation import Publish, operating
from pacs.dimse.server.server import Settings
from pacs.errors import AssociationLost, OutOfResources, PacsError
from pacs.faults.failing_services import faulty_handlers
from pacs.faults.fault_log import fault_events, publish_sent_status
from pacs.faults.faulty_policy import FaultyPolicy
from pacs.faults.faulty_upper_layer import FaultyOperation, FaultyUpperLayer, PduCounter
from pacs.faults.model import Fault, Scenario
from pacs.faults.observer import AssociationRequest, NullObserver, Observer
from pacs.faults.selection import ArmedFaults, ChosenFaults, MessageInfo
from pacs.faults.tampering import Tampering
from pacs.observability.events import Event
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp

MAX_DATA_BYTES = 1 << 24
"""Maximum size of a data set that is read to select faults."""

STOP_SECONDS = 10.0
"""Seconds to wait for a retrieve that runs after its response, when the server stops."""

OUT_OF_RESOURCES = status.refusal(Service.STORE, OutOfResources("")).status
"""Status for a full disk in a server without a file store."""

_SERVICES = {
    CommandField.C_ECHO: Service.ECHO,
    CommandField.C_STORE: Service.STORE,
    CommandField.C_FIND: Service.FIND,
    CommandField.C_MOVE: Service.MOVE,
    CommandField.C_GET: Service.GET,
    CommandField.N_ACTION: Service.COMMIT,
}
_WITH_SMALL_DATA = frozenset(_SERVICES) - {CommandField.C_ECHO, CommandField.C_STORE}
"""Operations with a small data set: an Identifier or a list of instances."""


class Interposer:
    """The faults and the observer of one server, kept when its settings are replaced."""

    def __init__(self, scenario: Scenario | None = None, observer: Observer | None = None) -> None:
        self.faults = ArmedFaults(scenario or Scenario())
        self._observer = observer or NullObserver()
        self._upper_layers: WeakKeyDictionary[Association, FaultyUpperLayer] = WeakKeyDictionary()
        self._background = _BackgroundRetrieves()
        self._publish: Publish = _discard_event

    def apply(self, settings: Settings, handlers: Handlers | None = None) -> Settings:
        """Return settings with faults. The services of `handlers`, which are those of the settings, can be made to
        fail.
        """
        if handlers is not None:
            self._publish = handlers.publish
        table = {field: self._handler(field, each, handlers) for field, each in settings.handlers.items()}
        return replace(settings, handlers=table, associate=self._associate)

    def close(self) -> None:
        """Stop the retrieves that run after their response; the server has stopped."""
        self._background.close()

    # --- associations ---------------------------------------------------------------------------------------------

    def _associate(
        self, connection: Any, address: tuple[str, int], policy: Any, *rest: Any, tls: Any = None
    ) -> Association | RejectedAssociation:
        upper_layers: list[FaultyUpperLayer] = []

        def layer(*arguments: Any, **named: Any) -> FaultyUpperLayer:
            upper_layers.append(FaultyUpperLayer(*arguments, **named))
            faulty_policy.upper_layer = upper_layers[0]
            return upper_layers[0]

        faulty_policy = FaultyPolicy(policy, self._choose_faults, self._observer, connection, address)
        found: Association | RejectedAssociation | None = None
        try:
            found = accept(connection, address, faulty_policy, *rest, tls=tls, layer=layer)
        finally:
            if faulty_policy.requested is not None:
                self._report_outcome(faulty_policy.requested, found, upper_layers[0])
        if isinstance(found, Association):
            self._attach(found, upper_layers[0], faulty_policy.chosen)
        return found

    def _report_outcome(
        self,
        requested: AssociationRequest,
        found: Association | RejectedAssociation | None,
        upper_layer: FaultyUpperLayer,
    ) -> None:
        """Tell the observer the result: an accepted association may still be rejected for lack of slots."""
        if isinstance(found, Association):
            self._observer.associated(requested, found)
        elif found is None:
            self._observer.answered(requested, None)
        elif upper_layer.reject_codes is None:
            self._observer.answered(requested, found.rejection)

    def _attach(self, association: Association, upper_layer: FaultyUpperLayer, chosen: ChosenFaults | None) -> None:
        """Map an association to its upper layer, without keeping the association alive."""
        self._upper_layers[association] = upper_layer
        weak_association = ref(association)

        def cancelled(message_id: int) -> None:
            if (found := weak_association()) is not None:
                self._observer.cancelled(found, message_id)

        def reported(command: Command, context_id: int) -> FaultyOperation | None:
            if (found := weak_association()) is None:
                return None
            info = MessageInfo("N-EVENT-REPORT", found.calling_ae_title, found.called_ae_title)
            return self._operation(found, info, command.message_id, context_id)

        upper_layer.on_cancel, upper_layer.operation_for_report = cancelled, reported
        if chosen is not None:
            upper_layer.watch(PduCounter(chosen, sent=1, received=1))

    # --- operations -----------------------------------------------------------------------------------------------

    def _handler(self, field: int, original: Handler, handlers: Handlers | None) -> Handler:
        def handle(association: Association, message: Message) -> None:
            upper_layer = self._upper_layers[association]
            before = upper_layer.received - 1
            data = _peek_data(message) if field in _WITH_SMALL_DATA else b""
            info = _message_info(association, message, data)
            operation = self._operation(association, info, message.command.message_id, message.context.id)
            operation.count.received = upper_layer.received - before
            operation.on_response = self._observer.request(association, message, data)
            try:
                upper_layer.begin_operation(operation)
                logging_handlers = (
                    replace(handlers, publish=publish_sent_status(handlers.publish, operation))
                    if handlers is not None
                    else None
                )
                self._run(association, message, operation.tampering, original, logging_handlers)
            finally:
                upper_layer.finish_operation()
                operation.on_response(None)

        return handle

    def _choose_faults(self, info: MessageInfo, association_id: str = "") -> ChosenFaults | None:
        """Return the faults that apply to a message, and log each of them."""
        chosen = self.faults.choose(info)
        for each in fault_events(chosen, info, association_id) if chosen is not None else ():
            self._publish(each)
        return chosen

    def _operation(
        self, association: Association, info: MessageInfo, message_id: int, context_id: int
    ) -> FaultyOperation:
        """Return an operation with its faults; without faults it runs unchanged."""
        chosen = self._choose_faults(info, association.id) or ChosenFaults(Fault(info.operation), Random(0))  # noqa: S311
        transfer_syntax = association.contexts[context_id].transfer_syntax
        return FaultyOperation(
            message_id=message_id,
            context_id=context_id,
            tampering=Tampering(chosen, transfer_syntax),
            count=PduCounter(chosen),
            max_pdu=association.max_pdu,
            on_response=lambda _command: None,
        )

    def _run(
        self,
        association: Association,
        message: Message,
        tampering: Tampering,
        original: Handler,
        handlers: Handlers | None,
    ) -> None:
        fault, field = tampering.fault, message.command.field
        publish: Publish = handlers.publish if handlers is not None else _discard_event
        if fault.status is not None and not fault.after:
            _respond(association, message, Refusal(fault.status, fault.comment, fault.offending), publish)
        elif handlers is None and fault.full_disk:
            _respond(association, message, Refusal(OUT_OF_RESOURCES, fault.comment, ()), publish)
        elif handlers is None or not fault.effects:
            original(association, message)
        elif fault.success_first:
            again = _copy(message)
            _respond(association, message, Refusal(status.SUCCESS, "", ()), publish)
            self._background.run(association, again, tampering, handlers)
        else:
            with faulty_handlers(handlers, tampering) as changed:
                changed.table()[field](association, message)


def _discard_event(_event: Event) -> None:
    """Do nothing."""


def _respond(association: Association, message: Message, refusal: Refusal, publish: Publish) -> None:
    """Respond without running the operation."""
    message.drain()
    with operating(_SERVICES[CommandField(message.command.field)], association, message, publish) as operation:
        operation.refuse(refusal)


def _copy(message: Message) -> Message:
    """Return a copy of the message for another thread, which can outlive the data set of the original."""
    data = message.read(MAX_DATA_BYTES)
    again = Message(message.context, message.command, _no_more_data)
    again.hold(data)
    again.is_complete = True
    return again


def _no_more_data(_message: Message) -> memoryview:
    raise AssociationLost("The message is complete")


def _peek_data(message: Message) -> bytes:
    """Return the data set of a message and keep it readable. Raises AssociationLost."""
    data = bytearray()
    for fragment in message.fragments():
        data += fragment
        if len(data) > MAX_DATA_BYTES:
            break  # the handler refuses it for its length
    message.hold(data)
    return bytes(data)


def _message_info(association: Association, message: Message, data: bytes) -> MessageInfo:
    return MessageInfo(
        operation=CommandField(message.command.field).name.replace("_", "-", 1),
        calling=association.calling_ae_title,
        called=association.called_ae_title,
        level=_level(data, message.context.transfer_syntax) if data else "",
        sop_class=message.context.abstract_syntax,
    )


def _level(data: bytes, transfer_syntax: str) -> str:
    """Return the Query/Retrieve Level of an Identifier, '' if it has none."""
    try:
        stated = identifier.key_values(identifier.decode(data, transfer_syntax))
    except PacsError:
        return ""
    return str(stated.get("QueryRetrieveLevel", ""))


# --- retrieves after the response ---------------------------------------------------------------------------------


class _DetachedAssociation:
    """Stands in for the association of a retrieve that runs after its response; nothing is sent."""

    is_established = True
    wants_input = True
    scp_requests = None

    def __init__(self, association: Association, cancellation: Cancellation, wake_up: WakeUp) -> None:
        self._association, self._cancellation, self._wake_up = association, cancellation, wake_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._association, name)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the server stops."""
        return self._wake_up.fileno()

    def process_input(self) -> None:
        """Clear the wake-up; nothing else arrives."""
        self._wake_up.clear()

    @contextmanager
    def operation(self, _request: Message) -> Iterator[Cancellation]:
        """Only the end of the server cancels the operation."""
        yield self._cancellation

    @contextmanager
    def busy(self, *_wait_context: object) -> Iterator[None]:
        """Do nothing: there is no input to process."""
        yield

    def send(self, *_message: object, **_named: object) -> None:
        """Send nothing."""

    def prepare(self, *_message: object) -> tuple[()]:
        """Prepare nothing."""
        return ()

    def send_prepared(self, *_message: object, **_named: object) -> None:
        """Send nothing."""


class _BackgroundRetrieves:
    """Retrieves that run after their response, each in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, tuple[Cancellation, WakeUp]] = {}
        self._is_closed = False

    def run(self, association: Association, message: Message, tampering: Tampering, handlers: Handlers) -> None:
        """Run an operation whose response has been sent."""
        cancellation, wake_up = Cancellation(), WakeUp()
        detached = cast(Association, _DetachedAssociation(association, cancellation, wake_up))

        def work() -> None:
            with contextlib.suppress(AssociationLost), faulty_handlers(handlers, tampering) as changed:
                changed.table()[message.command.field](detached, message)
            with self._lock:
                self._running.pop(threading.current_thread(), None)
                wake_up.close()

        thread = threading.Thread(target=work, name="pacs-late-retrieve", daemon=True)
        with self._lock:
            if self._is_closed:
                wake_up.close()
                return
            self._running[thread] = cancellation, wake_up
            thread.start()

    def close(self) -> None:
        """Cancel all retrieves and wait for them."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
            for cancellation, wake_up in self._running.values():
                cancellation.cancel("the server is stopping")
                wake_up.wake()
        for thread in running:
            thread.join(STOP_SECONDS)
