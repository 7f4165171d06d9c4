"""Requests on an association that this AE requested, one after the other, and their responses (PS3.7 8, 9.3, 10.3).

The calling thread waits for the responses, for requests of the peer meanwhile (the C-STOREs of a C-GET, a storage
commitment report), and for a wake-up from another thread.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pacs.dimse.association.association import CANCELLABLE, Association
from pacs.dimse.association.incoming_messages import ABORTED
from pacs.dimse.messages import status
from pacs.dimse.messages.command import Command, CommandField, Value, operation_name
from pacs.dimse.messages.message import Buffer, Message
from pacs.dimse.upper.user_information import Context
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, NotSupported, OutOfResources, PacsError, PeerTimeout, ProtocolViolation
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp

_LOG = logging.getLogger("pacs")

LONGEST_DATA_SET = 16 << 20
"""The longest Identifier that is read with a response, in bytes."""

Serve = Callable[[Association, Message], None]
"""Handles a request of the peer on our association, and responds to it."""


@dataclass(frozen=True, slots=True)
class DimseResponse:
    """A response, its data set, and their presentation context."""

    command: Command
    data: bytes | None
    context: Context


class Requestor:
    """Sends requests on one association, which it does not end.

    `timeout` is the time limit for the next message, in seconds. `serving` has the handlers for requests of the peer,
    by Command Field; all others are refused. `wake_up` ends a `listen` from another thread.
    """

    def __init__(
        self,
        association: Association,
        timeout: float,
        serving: Mapping[int, Serve] | None = None,
        wake_up: WakeUp | None = None,
    ) -> None:
        self.association = association
        self.timeout = timeout
        self._serving = dict(serving or {})
        self._wait_context = WaitContext(Cancellation(), wake_up=wake_up)
        self._last_id = 0

    def context(self, sop_class_uid: str) -> Context:
        """Return the first accepted context of a SOP Class with this AE as SCU. Raises NotSupported."""
        for each in self.association.contexts.values():
            if each.abstract_syntax == sop_class_uid and each.as_scu:
                return each
        raise NotSupported(f"The peer accepts no presentation context for {sop_class_uid}")

    def ask(
        self, field: CommandField, context: Context, data: Buffer | Iterable[Buffer] | None = None, **fields: Value
    ) -> "Exchange":
        """Send a request of the context's SOP Class; `fields` are those of `Command.request`. Raises as `send`."""
        message_id = self.next_id()
        return self.send(context, Command.request(field, message_id, context.abstract_syntax, **fields), data)

    def send(self, context: Context, command: Command, data: Buffer | Iterable[Buffer] | None = None) -> "Exchange":
        """Send a request that was made with `next_id`. Raises AssociationLost, and what `data` raises."""
        _LOG.debug("%s request %d: %s", operation_name(command.field), command.message_id, context.abstract_syntax)
        self.association.send(context.id, command, data)
        return Exchange(self, context, command)

    def next_id(self) -> int:
        """Return an unused Message ID."""
        self._last_id = self._last_id % 0xFFFF + 1
        return self._last_id

    def listen(self, seconds: float | None = None) -> Message | None:
        """Wait for the next message: return a response, or None after a request was served or a wake-up.

        Raises PeerTimeout when no message came within `seconds` (default: `timeout`), and AssociationLost.
        """
        association = self.association
        now = time.monotonic()
        deadline = min(now + (self.timeout if seconds is None else max(0.0, seconds)), association.limits.until)
        is_late = deadline <= now
        if is_late or association.is_idle(deadline, self._wait_context):
            if time.monotonic() < deadline:
                return None
            association.abort()
            raise PeerTimeout("The peer does not answer in time")
        message = association.receive(self.timeout)
        if message is None:
            raise AssociationLost(self._end_reason)
        if message.command.is_response:
            return message
        self._serve(message)
        return None

    @property
    def _end_reason(self) -> str:
        """How the association ended, with a hint when the peer aborted it at the first request."""
        sentence = f"The association ended before the response: {self.association.end_reason}"
        if self._last_id > 1 or self.association.ended_by != ABORTED:
            return sentence
        return f"{sentence}; is our AE title {self.association.calling_ae_title} listed at the peer?"

    def _serve(self, message: Message) -> None:
        command, context = message.command, message.context
        serve = self._serving.get(command.field)
        if serve is None:
            self.association.send(context.id, command.response(status.UNRECOGNIZED_OPERATION))
        elif command.sop_class_uid != context.abstract_syntax:
            self.association.send(context.id, command.response(status.SOP_CLASS_NOT_SUPPORTED))
        else:
            serve(self.association, message)


class Exchange:
    """A request that was sent, and its responses."""

    def __init__(self, requestor: Requestor, context: Context, request: Command) -> None:
        self._requestor = requestor
        self._context = context
        self._request = request
        self._is_cancelled = False
        self.is_over = False
        """Whether the final response has arrived."""

    def next(self, seconds: float | None = None) -> DimseResponse | None:
        """Wait for the next response; return None after something else (see `Requestor.listen`).

        Raises AssociationLost, after an A-ABORT if the peer is still connected, also for a response to another request
        or one that is invalid for this request; PeerTimeout when the response is late; and OutOfResources for a data
        set that is too long.
        """
        message = self._requestor.listen(seconds)
        if message is None:
            return None
        command = message.command
        if violation := command.violation_as_response(self._request.field, (self._request.message_id,)):
            raise self._requestor.association.violated(message, violation)
        if command.is_pending and not self._may_pend(command):
            what = f"(0000,0900) Status is Pending ({command.status:04X}), and "
            what += "no Identifier follows" if self._is_find else "the operation has no Pending responses"
            raise self._requestor.association.violated(message, what)
        data = self._read(message) if command.has_data_set else None
        self.is_over = not command.is_pending
        name = operation_name(self._request.field)
        _LOG.debug("%s response to %d: status 0x%04X", name, command.responding_to, command.status)
        return DimseResponse(command, data, message.context)

    def _may_pend(self, command: Command) -> bool:
        """Return whether the operation has Pending responses; those of C-FIND need an Identifier (PS3.4 C.4)."""
        return self._request.field in CANCELLABLE and (command.has_data_set or not self._is_find)

    @property
    def _is_find(self) -> bool:
        return self._request.field == CommandField.C_FIND

    def _read(self, message: Message) -> bytes:
        """Return the data set of a response; a slow peer has no more than the time for one message."""
        data, deadline = bytearray(), time.monotonic() + self._requestor.association.limits.message
        for fragment in message.fragments():
            data += fragment
            if len(data) > LONGEST_DATA_SET:
                raise OutOfResources(f"The data set is longer than {LONGEST_DATA_SET} bytes")
            if time.monotonic() > deadline:
                raise self._aborted(PeerTimeout("The peer does not send the whole response in time"))
        return bytes(data)

    def _aborted(self, error: AssociationLost) -> AssociationLost:
        """Abort the association and return the error to raise."""
        self._requestor.association.abort()
        return error

    def responses(self) -> Iterator[DimseResponse]:
        """Yield each response, the final one last. Other messages do not extend the timeout. Raises as `next`."""
        while not self.is_over:
            deadline, response = time.monotonic() + self._requestor.timeout, None
            while response is None:
                response = self.next(deadline - time.monotonic())
            yield response

    def final(self) -> DimseResponse:
        """Return the final response and discard those before it. Raises as `next`.

        On any exception the association is aborted.
        """
        with self._aborting():
            for response in self.responses():
                if self.is_over:
                    return response
        raise ProtocolViolation("The final response was returned already")

    def cancel(self) -> None:
        """Send a C-CANCEL, once, before the final response. Raises AssociationLost."""
        if not self.is_over and not self._is_cancelled:
            self._is_cancelled = True
            self._requestor.association.send(self._context.id, Command.cancel(self._request.message_id))

    def abandon(self, seconds: float) -> None:
        """Cancel the request if it is not over, and `finish` it. Raises only what interrupts the thread."""
        if not self.is_over and self._requestor.association.is_established:
            with self._aborting(), contextlib.suppress(AssociationLost):
                self.cancel()
                self.finish(seconds)

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        """Abort the association on any exception, KeyboardInterrupt included: a release needs a completed request."""
        try:
            yield
        except BaseException:
            self._requestor.association.abort()
            raise

    def finish(self, seconds: float) -> DimseResponse | None:
        """Discard responses for at most `seconds`, and return the final one; None without it.

        After None the association is aborted or lost.
        """
        deadline = time.monotonic() + seconds
        try:
            while not self.is_over and time.monotonic() < deadline:
                response = self.next(deadline - time.monotonic())
                if response is not None and self.is_over:
                    return response
        except PacsError:
            pass  # the caller has another error to report
        if not self.is_over:
            self._requestor.association.abort()
        return None
