"""What came to a server: associations, and the requests on them, in the order in which they came."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from pacs.dicom import identifier
from pacs.dimse.agreement import Agreement, Context, Rejection
from pacs.dimse.association import Association
from pacs.dimse.command import Command, CommandField
from pacs.dimse.faults.witness import Proposed, Requested, Told
from pacs.dimse.messages import Message
from pacs.errors import PacsError

PATIENCE = 10.0
"""Seconds that what is waited for may take."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it goes out, so many seconds after its request had come; counts are None where it has none.

    It is noted before it is written: a fault that counts PDUs may end the association instead.
    """

    status: int
    after: float
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    comment: str = ""


@dataclass(slots=True)
class ReceivedAssociation:
    """An association that was asked for. `began` is on the monotonic clock."""

    calling_ae_title: str
    called_ae_title: str
    address: tuple[str, int]
    proposed: tuple[Proposed, ...]
    """The presentation contexts that were proposed."""
    roles: Mapping[str, tuple[bool, bool]]
    """The (SCU, SCP) roles that were proposed, by SOP Class UID."""
    extended: Mapping[str, bytes]
    """The SOP Class Extended Negotiation that was proposed, by SOP Class UID."""
    max_pdu: int
    implementation: str
    began: float
    accepted: tuple[Context, ...] = ()
    """The presentation contexts that were accepted."""
    rejection: tuple[int, int, int] | None = None
    """Result, source and reason, where it was rejected."""
    ended_by: str | None = None
    """How it ended: "A-RELEASE", "A-ABORT", "connection lost", "rejected"...; None while it has not."""
    duration: float | None = None
    """Seconds, once it has ended."""
    id: str = ""


@dataclass(slots=True)
class ReceivedRequest:
    """A request, and how it was answered so far. `began` is on the monotonic clock."""

    operation: str
    association: ReceivedAssociation = field(repr=False)
    message_id: int
    sop_class_uid: str
    transfer_syntax: str
    priority: int | None
    began: float
    sop_instance_uid: str = ""
    destination: str = ""
    """The move destination."""
    data: bytes = field(default=b"", repr=False)
    """The Identifier of a C-FIND, C-MOVE or C-GET, or the information of an N-ACTION, as it came."""
    responses: list[Response] = field(default_factory=list)
    is_over: bool = False
    cancelled: bool = False
    """Whether a C-CANCEL came for it, heeded or not."""

    @property
    def calling_ae_title(self) -> str:
        """Whose request it is."""
        return self.association.calling_ae_title

    @property
    def keys(self) -> dict[str, Any]:
        """The Identifier by keyword: texts as they were sent, '' for universal matching, lists for sequences.

        Empty for what is no Identifier.
        """
        if not self.data:
            return {}
        try:
            dataset = identifier.decode(self.data, self.transfer_syntax)
        except PacsError:
            return {}
        stated = identifier.stated(dataset)
        asked = [each.keyword or f"{each.tag:08X}" for each in dataset]
        return {keyword: stated.get(keyword, "") for keyword in asked}

    @property
    def level(self) -> str:
        """The Query/Retrieve Level, '' for none."""
        return str(self.keys.get("QueryRetrieveLevel", ""))

    @property
    def status(self) -> int | None:
        """The status of the last response, None where there was none."""
        return self.responses[-1].status if self.responses else None

    @property
    def duration(self) -> float | None:
        """Seconds from the request to its last response, None where there was none."""
        return self.responses[-1].after if self.responses else None

    @property
    def first_response(self) -> float | None:
        """Seconds from the request to its first response, None where there was none."""
        return self.responses[0].after if self.responses else None


class Received:
    """All that came to one server; safe to look at while more comes. Each list is in the order of coming."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._associations: list[ReceivedAssociation] = []
        self._requests: list[ReceivedRequest] = []
        self._by_id: dict[str, ReceivedAssociation] = {}
        self._requested: WeakKeyDictionary[Requested, ReceivedAssociation] = WeakKeyDictionary()
        """Those that are just being answered."""

    # --- what came ------------------------------------------------------------------------------------------------

    @property
    def associations(self) -> list[ReceivedAssociation]:
        """Every association that was asked for, rejected ones too."""
        with self._changed:
            return list(self._associations)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request."""
        with self._changed:
            return list(self._requests)

    @property
    def c_echo(self) -> list[ReceivedRequest]:
        """Every C-ECHO."""
        return self.of("C-ECHO")

    @property
    def c_store(self) -> list[ReceivedRequest]:
        """Every C-STORE."""
        return self.of("C-STORE")

    @property
    def c_find(self) -> list[ReceivedRequest]:
        """Every C-FIND."""
        return self.of("C-FIND")

    @property
    def c_move(self) -> list[ReceivedRequest]:
        """Every C-MOVE."""
        return self.of("C-MOVE")

    @property
    def c_get(self) -> list[ReceivedRequest]:
        """Every C-GET."""
        return self.of("C-GET")

    @property
    def n_action(self) -> list[ReceivedRequest]:
        """Every N-ACTION."""
        return self.of("N-ACTION")

    @property
    def c_cancel(self) -> list[ReceivedRequest]:
        """Every request for which a C-CANCEL came."""
        return [each for each in self.requests if each.cancelled]

    def of(self, operation: str) -> list[ReceivedRequest]:
        """Every request of one operation, such as "C-FIND"."""
        return [each for each in self.requests if each.operation == operation]

    def clear(self) -> None:
        """Forget what came so far."""
        with self._changed:
            self._associations.clear()
            self._requests.clear()

    # --- what was expected ----------------------------------------------------------------------------------------

    def expect(self, operation: str, **keys: Any) -> ReceivedRequest:
        """The first request of an operation with these keys, by keyword of the Identifier or attribute of the request.

        Raises AssertionError that says what came instead, and which key differs.
        """
        came = self.of(operation)
        for each in came:
            if not _differences(each, keys):
                return each
        raise AssertionError(_explained(operation, keys, came, self.requests))

    def expect_c_echo(self, **keys: Any) -> ReceivedRequest:
        """As `expect`."""
        return self.expect("C-ECHO", **keys)

    def expect_c_store(self, **keys: Any) -> ReceivedRequest:
        """As `expect`, such as `expect_c_store(sop_instance_uid="1.2.3")`."""
        return self.expect("C-STORE", **keys)

    def expect_c_find(self, **keys: Any) -> ReceivedRequest:
        """As `expect`, such as `expect_c_find(PatientID="P1")`."""
        return self.expect("C-FIND", **keys)

    def expect_c_move(self, **keys: Any) -> ReceivedRequest:
        """As `expect`, such as `expect_c_move(destination="STORAGE_SCP", StudyInstanceUID="1.2.3")`."""
        return self.expect("C-MOVE", **keys)

    def expect_c_get(self, **keys: Any) -> ReceivedRequest:
        """As `expect`."""
        return self.expect("C-GET", **keys)

    def wait_for(self, condition: Callable[["Received"], object], seconds: float = PATIENCE) -> None:
        """Wait until something has come, such as `lambda received: received.c_cancel`. Raises AssertionError."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            with self._changed:
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise AssertionError(f"it did not come within {seconds:g} s; {_summary(self.requests)}")

    def wait_for_ends(self, seconds: float = PATIENCE) -> list[ReceivedAssociation]:
        """All associations, once each of them has ended. Raises AssertionError."""
        self.wait_for(lambda received: all(each.ended_by for each in received.associations), seconds)
        return self.associations

    # --- for the server -------------------------------------------------------------------------------------------

    def answered(self, requested: Requested, answer: Agreement | Rejection | None) -> None:
        """Note a request, and how it is answered."""
        with self._changed:
            noted = self._requested.get(requested)
            if noted is None:
                noted = self._requested[requested] = _noted(requested)
                self._associations.append(noted)
            _note_answer(noted, answer)
            self._changed.notify_all()

    def associated(self, requested: Requested, association: Association) -> None:
        """Note that a request became an association."""
        with self._changed:
            noted = self._by_id[association.id] = self._requested[requested]
            noted.id = association.id

    def request(self, association: Association, message: Message, data: bytes) -> Told:
        """Note a request; what is returned notes its responses."""
        command = message.command
        noted = ReceivedRequest(
            operation=CommandField(command.field).name.replace("_", "-", 1),
            association=self._by_id[association.id],
            message_id=command.message_id,
            sop_class_uid=message.context.abstract_syntax,
            transfer_syntax=message.context.transfer_syntax,
            priority=command.priority,
            began=time.monotonic(),
            sop_instance_uid=command.affected_sop_instance_uid or command.requested_sop_instance_uid or "",
            destination=command.move_destination or "",
            data=data,
        )
        with self._changed:
            self._requests.append(noted)
            self._changed.notify_all()

        def told(response: Command | None) -> None:
            with self._changed:
                if response is None:
                    noted.is_over = True
                else:
                    noted.responses.append(_response(response, time.monotonic() - noted.began))
                self._changed.notify_all()

        return told

    def cancelled(self, association: Association, message_id: int) -> None:
        """Note a C-CANCEL."""
        noted = self._by_id.get(association.id)
        with self._changed:
            for each in reversed(self._requests):
                if each.association is noted and each.message_id == message_id:
                    each.cancelled = True
                    break
            self._changed.notify_all()

    def ended(self, association_id: str, how: str, duration: float) -> None:
        """Note the end of an association."""
        with self._changed:
            noted = self._by_id.pop(association_id, None)
            if noted is not None:
                noted.ended_by, noted.duration = how, duration
            self._changed.notify_all()


def _noted(requested: Requested) -> ReceivedAssociation:
    return ReceivedAssociation(
        calling_ae_title=requested.calling_ae_title,
        called_ae_title=requested.called_ae_title,
        address=requested.address,
        proposed=requested.contexts,
        roles=requested.roles,
        extended=requested.extended,
        max_pdu=requested.max_pdu,
        implementation=requested.implementation,
        began=time.monotonic(),
    )


def _note_answer(noted: ReceivedAssociation, answer: Agreement | Rejection | None) -> None:
    if isinstance(answer, Agreement):
        noted.accepted = tuple(answer.contexts.values())
        return
    noted.accepted = ()
    noted.ended_by = "ended before it began" if answer is None else "rejected"
    noted.rejection = None if answer is None else (answer.result, answer.source, answer.reason)


def _response(command: Command, after: float) -> Response:
    return Response(
        status=command.status,
        after=after,
        remaining=command.remaining,
        completed=command.completed,
        failed=command.failed,
        warning=command.warning,
        comment=command.error_comment or "",
    )


# --- in words -----------------------------------------------------------------------------------------------------

_MISSING = "is not there"


def _actual(request: ReceivedRequest, key: str) -> Any:
    """What a request says of a key: of its Identifier, else as an attribute of itself."""
    keys = request.keys
    if key in keys:
        return keys[key]
    return getattr(request, key, _MISSING) if key[:1].islower() else _MISSING


def _differences(request: ReceivedRequest, expected: Mapping[str, Any]) -> list[str]:
    differing = []
    for key, value in expected.items():
        actual = _actual(request, key)
        if actual != value and str(actual) != str(value):
            told = actual if actual is _MISSING else f"is {actual!r}"
            differing.append(f"{key} {told}, expected {value!r}")
    return differing


def _explained(
    operation: str, keys: Mapping[str, Any], came: Sequence[ReceivedRequest], everything: Sequence[ReceivedRequest]
) -> str:
    wanted = ", ".join(f"{key}={value!r}" for key, value in keys.items())
    lines = [f"no {operation} came with {wanted}" if came and wanted else f"no {operation} came"]
    for number, each in enumerate(came, 1):
        lines.append(
            f"  {operation} number {number}, from {each.calling_ae_title}: {'; '.join(_differences(each, keys))}"
        )
        if each.keys:
            lines.append(f"    its keys: {', '.join(f'{key}={value!r}' for key, value in each.keys.items())}")
    return "\n".join(lines if came else [*lines, f"  {_summary(everything)}"])


def _summary(requests: Sequence[ReceivedRequest]) -> str:
    if not requests:
        return "nothing came at all"
    counted = {each.operation: sum(other.operation == each.operation for other in requests) for each in requests}
    return "what came: " + ", ".join(f"{operation} ({count})" for operation, count in counted.items())
