"""Putting faults, and a witness, between a server and the settings it goes by. Without this nothing of it is there."""

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
from pacs.faults.fault_log import fired, truthful
from pacs.faults.faulty_upper_layer import Conduct, Count, Line
from pacs.faults.model import Fault, Scenario
from pacs.faults.negotiation import Negotiation
from pacs.faults.observer import Nobody, Requested, Witness
from pacs.faults.selection import Chooser, Chosen, Occasion
from pacs.faults.services import misbehaving
from pacs.faults.tampering import Tampering
from pacs.observability.events import Event
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp

LARGEST = 1 << 24
"""How many bytes of a data set are looked at to know what a request is about."""

PATIENCE = 10.0
"""Seconds that a retrieve which goes on after its answer has to come to an end, when the server stops."""

OUT_OF_RESOURCES = status.refusal(Service.STORE, OutOfResources("")).status
"""What a full disk is where there is no file store."""

_SERVICES = {
    CommandField.C_ECHO: Service.ECHO,
    CommandField.C_STORE: Service.STORE,
    CommandField.C_FIND: Service.FIND,
    CommandField.C_MOVE: Service.MOVE,
    CommandField.C_GET: Service.GET,
    CommandField.N_ACTION: Service.COMMIT,
}
_SHORT = frozenset(_SERVICES) - {CommandField.C_ECHO, CommandField.C_STORE}
"""The operations whose data sets are small: an Identifier, or a list of instances."""


class Interposition:
    """Faults and a witness, between one server and its settings, however often those are replaced."""

    def __init__(self, scenario: Scenario | None = None, witness: Witness | None = None) -> None:
        self.faults = Chooser(scenario or Scenario())
        self._witness = witness or Nobody()
        self._lines: WeakKeyDictionary[Association, Line] = WeakKeyDictionary()
        self._late = _Late()
        self._publish: Publish = _unheard

    def on(self, settings: Settings, handlers: Handlers | None = None) -> Settings:
        """Settings that misbehave. `handlers` are those of its table, whose services can be made to fail."""
        if handlers is not None:
            self._publish = handlers.publish
        table = {field: self._handler(field, each, handlers) for field, each in settings.handlers.items()}
        return replace(settings, handlers=table, associate=self._associate)

    def close(self) -> None:
        """End what goes on behind an answer; the server has stopped."""
        self._late.close()

    # --- associations ---------------------------------------------------------------------------------------------

    def _associate(
        self, connection: Any, address: tuple[str, int], policy: Any, *rest: Any, tls: Any = None
    ) -> Association | RejectedAssociation:
        lines: list[Line] = []

        def layer(*arguments: Any, **named: Any) -> Line:
            lines.append(Line(*arguments, **named))
            negotiation.line = lines[0]
            return lines[0]

        negotiation = Negotiation(policy, self._choose, self._witness, connection, address)
        found: Association | RejectedAssociation | None = None
        try:
            found = accept(connection, address, negotiation, *rest, tls=tls, layer=layer)
        finally:
            if negotiation.requested is not None:
                self._tell(negotiation.requested, found, lines[0])
        if isinstance(found, Association):
            self._take_on(found, lines[0], negotiation.chosen)
        return found

    def _tell(self, requested: Requested, found: Association | RejectedAssociation | None, line: Line) -> None:
        """Tell what became of a request in the end: there may be no place for what was accepted."""
        if isinstance(found, Association):
            self._witness.associated(requested, found)
        elif found is None:
            self._witness.answered(requested, None)
        elif line.rejects_with is None:
            self._witness.answered(requested, found.rejection)

    def _take_on(self, association: Association, line: Line, chosen: Chosen | None) -> None:
        """Know an association by its line, which must not keep it when it is over."""
        self._lines[association] = line
        here = ref(association)

        def cancelled(message_id: int) -> None:
            if (found := here()) is not None:
                self._witness.cancelled(found, message_id)

        def reported(command: Command, context_id: int) -> Conduct | None:
            if (found := here()) is None:
                return None
            occasion = Occasion("N-EVENT-REPORT", found.calling_ae_title, found.called_ae_title)
            return self._conduct(found, occasion, command.message_id, context_id)

        line.cancel_heard, line.report_conduct = cancelled, reported
        if chosen is not None:
            line.watch(Count(chosen, sent=1, received=1))

    # --- operations -----------------------------------------------------------------------------------------------

    def _handler(self, field: int, original: Handler, handlers: Handlers | None) -> Handler:
        def handle(association: Association, message: Message) -> None:
            line = self._lines[association]
            before = line.received - 1
            data = _looked_at(message) if field in _SHORT else b""
            occasion = _occasion(association, message, data)
            conduct = self._conduct(association, occasion, message.command.message_id, message.context.id)
            conduct.count.received = line.received - before
            conduct.told = self._witness.request(association, message, data)
            try:
                line.begin(conduct)
                truth = replace(handlers, publish=truthful(handlers.publish, conduct)) if handlers is not None else None
                self._carry_out(association, message, conduct.tampering, original, truth)
            finally:
                line.finish()
                conduct.told(None)

        return handle

    def _choose(self, occasion: Occasion, association_id: str = "") -> Chosen | None:
        """The faults that a message meets, each of which the log is told of."""
        chosen = self.faults.choose(occasion)
        for each in fired(chosen, occasion, association_id) if chosen is not None else ():
            self._publish(each)
        return chosen

    def _conduct(self, association: Association, occasion: Occasion, message_id: int, context_id: int) -> Conduct:
        """How one operation will be answered: as its faults say, as always where it meets none."""
        chosen = self._choose(occasion, association.id) or Chosen(Fault(occasion.operation), Random(0))  # noqa: S311
        transfer_syntax = association.contexts[context_id].transfer_syntax
        return Conduct(
            message_id=message_id,
            context_id=context_id,
            tampering=Tampering(chosen, transfer_syntax),
            count=Count(chosen),
            max_pdu=association.max_pdu,
            told=lambda _command: None,
        )

    def _carry_out(
        self,
        association: Association,
        message: Message,
        tampering: Tampering,
        original: Handler,
        handlers: Handlers | None,
    ) -> None:
        fault, field = tampering.fault, message.command.field
        publish: Publish = handlers.publish if handlers is not None else _unheard
        if fault.status is not None and not fault.after:
            _answer(association, message, Refusal(fault.status, fault.comment, fault.offending), publish)
        elif handlers is None and fault.full_disk:
            _answer(association, message, Refusal(OUT_OF_RESOURCES, fault.comment, ()), publish)
        elif handlers is None or not fault.effects:
            original(association, message)
        elif fault.success_first:
            again = _copy(message)
            _answer(association, message, Refusal(status.SUCCESS, "", ()), publish)
            self._late.run(association, again, tampering, handlers)
        else:
            with misbehaving(handlers, tampering) as changed:
                changed.table()[field](association, message)


def _unheard(_event: Event) -> None:
    """Nobody listens."""


def _answer(association: Association, message: Message, refusal: Refusal, publish: Publish) -> None:
    """Answer at once, and do nothing."""
    message.drain()
    with operating(_SERVICES[CommandField(message.command.field)], association, message, publish) as operation:
        operation.refuse(refusal)


def _copy(message: Message) -> Message:
    """The same message, for another thread: its owner lets the data set of the first go by."""
    data = message.read(LARGEST)
    again = Message(message.context, message.command, _nothing_comes)
    again.hold(data)
    again.is_complete = True
    return again


def _nothing_comes(_message: Message) -> memoryview:
    raise AssociationLost("The message is all there")


def _looked_at(message: Message) -> bytes:
    """The data set of a message, which can be read again. Raises AssociationLost."""
    data = bytearray()
    for fragment in message.fragments():
        data += fragment
        if len(data) > LARGEST:
            break  # whoever reads it will refuse it for its length
    message.hold(data)
    return bytes(data)


def _occasion(association: Association, message: Message, data: bytes) -> Occasion:
    return Occasion(
        operation=CommandField(message.command.field).name.replace("_", "-", 1),
        calling=association.calling_ae_title,
        called=association.called_ae_title,
        level=_level(data, message.context.transfer_syntax) if data else "",
        sop_class=message.context.abstract_syntax,
    )


def _level(data: bytes, transfer_syntax: str) -> str:
    """The Query/Retrieve Level of an Identifier, '' where there is none to be read."""
    try:
        stated = identifier.key_values(identifier.decode(data, transfer_syntax))
    except PacsError:
        return ""
    return str(stated.get("QueryRetrieveLevel", ""))


# --- sub-operations behind the answer -----------------------------------------------------------------------------


class _Detached:
    """Stands for the association of a retrieve that was answered before it began: whatever is said is lost."""

    is_established = True
    wants_input = True
    scp_requests = None

    def __init__(self, association: Association, cancellation: Cancellation, wake_up: WakeUp) -> None:
        self._association, self._cancellation, self._wake_up = association, cancellation, wake_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._association, name)

    def fileno(self) -> int:
        """Return what becomes readable when the server stops."""
        return self._wake_up.fileno()

    def process_input(self) -> None:
        """Read the wake-up: nothing else arrives."""
        self._wake_up.clear()

    @contextmanager
    def operation(self, _request: Message) -> Iterator[Cancellation]:
        """Only the end of the server cancels it."""
        yield self._cancellation

    @contextmanager
    def busy(self, *_wait_context: object) -> Iterator[None]:
        """There is nothing to attend to."""
        yield

    def send(self, *_message: object, **_named: object) -> None:
        """Nobody hears it."""

    def prepare(self, *_message: object) -> tuple[()]:
        """There is nothing to make ready."""
        return ()

    def send_prepared(self, *_message: object, **_named: object) -> None:
        """Nobody hears it."""


class _Late:
    """The retrieves that go on after they were answered, each in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, tuple[Cancellation, WakeUp]] = {}
        self._is_closed = False

    def run(self, association: Association, message: Message, tampering: Tampering, handlers: Handlers) -> None:
        """Carry out what was answered already."""
        cancellation, wake_up = Cancellation(), WakeUp()
        detached = cast(Association, _Detached(association, cancellation, wake_up))

        def work() -> None:
            with contextlib.suppress(AssociationLost), misbehaving(handlers, tampering) as changed:
                changed.table()[message.command.field](detached, message)
            with self._lock:
                self._running.pop(threading.current_thread(), None)
                wake_up.close()

        thread = threading.Thread(target=work, name="pacs-late", daemon=True)
        with self._lock:
            if self._is_closed:
                wake_up.close()
                return
            self._running[thread] = cancellation, wake_up
            thread.start()

    def close(self) -> None:
        """Have all end, and wait for them."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
            for cancellation, wake_up in self._running.values():
                cancellation.cancel("the server stops")
                wake_up.wake()
        for thread in running:
            thread.join(PATIENCE)
