"""Requests on an association of ours, one after the other, and the responses to each (PS3.7 8, 9.3, 10.3).

Whoever asks waits in its own thread: for the responses, for what the peer asks meanwhile (the C-STOREs of a C-GET, a
report of storage commitment), and for a wake-up from another thread.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pacs.dimse.association.association import CANCELLABLE, Association
from pacs.dimse.association.incoming import ABORTED
from pacs.dimse.messages import status
from pacs.dimse.messages.command import RESPONSE, Command, CommandField, Value
from pacs.dimse.messages.message import Buffer, Message
from pacs.dimse.upper.user_information import Context
from pacs.dimse.upper.waiting import WaitContext
from pacs.errors import AssociationLost, NotSupported, OutOfResources, PacsError, PeerTimeout, ProtocolViolation
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp

LONGEST_DATA_SET = 16 << 20
"""The most bytes of an Identifier that are taken with a response."""

Serve = Callable[[Association, Message], None]
"""Does what a peer asks on our association, and answers it."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response and its data set, with the presentation context both came in."""

    command: Command
    data: bytes | None
    context: Context


class Requestor:
    """Asks on one association, which it does not end. `timeout` is the seconds to the next response, or sign of life.

    `serving` says what is done with requests of the peer, by Command Field; all others are refused.
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
        """The first accepted context of a SOP Class in which we are its user. Raises NotSupported."""
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
        self.association.send(context.id, command, data)
        return Exchange(self, context, command)

    def next_id(self) -> int:
        """A Message ID that is not in use."""
        self._last_id = self._last_id % 0xFFFF + 1
        return self._last_id

    def listen(self, seconds: float | None = None) -> Message | None:
        """Wait for the next message: a response, or None when a request was served or `wake_up` was called.

        Raises PeerTimeout when nothing came for `seconds` (those of the constructor), AssociationLost when it is over.
        """
        association = self.association
        deadline = time.monotonic() + (self.timeout if seconds is None else max(0.0, seconds))
        is_late = seconds is not None and seconds <= 0
        if is_late or association.is_idle(deadline, self._wait_context):
            if time.monotonic() < deadline:
                return None
            association.abort()
            raise PeerTimeout("The peer does not answer in time")
        message = association.receive(self.timeout)
        if message is None:
            raise AssociationLost(self._why_over)
        if message.command.is_response:
            return message
        self._serve(message)
        return None

    @property
    def _why_over(self) -> str:
        """How the association ended, and the most common reason where the peer does not answer its first request."""
        sentence = f"The association ended before the answer came: {self.association.ended_by}"
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
    """A request that was sent, and the responses that come to it."""

    def __init__(self, requestor: Requestor, context: Context, request: Command) -> None:
        self._requestor = requestor
        self._context = context
        self._request = request
        self._is_cancelled = False
        self.is_over = False
        """Whether its final response has come."""

    def next(self, seconds: float | None = None) -> Response | None:
        """Wait for something to happen: the next response, or None when it was something else (`Requestor.listen`).

        Raises AssociationLost, after an A-ABORT where the peer is still there: PeerTimeout where nothing came in time,
        or not all of it, and others where the response is to something else or cannot be one to this request.
        OutOfResources for a data set that is too long.
        """
        message = self._requestor.listen(seconds)
        if message is None:
            return None
        command = message.command
        if command.field != self._request.field | RESPONSE or command.responding_to != self._request.message_id:
            raise self._aborted(AssociationLost("The peer answered something else than what it was asked"))
        if command.is_pending and not self._may_pend(command):
            raise self._aborted(
                AssociationLost("The peer breaks the protocol: it answered Pending with nothing to wait for")
            )
        data = self._read(message) if command.has_data_set else None
        self.is_over = not command.is_pending
        return Response(command, data, message.context)

    def _may_pend(self, command: Command) -> bool:
        """Whether the operation has Pending responses, with a match where it looks for some (PS3.7 9.1, PS3.4 C.4)."""
        is_find = self._request.field == CommandField.C_FIND
        return self._request.field in CANCELLABLE and (command.has_data_set or not is_find)

    def _read(self, message: Message) -> bytes:
        """The data set of a response, within the time for a message however it trickles."""
        data, deadline = bytearray(), time.monotonic() + self._requestor.association.limits.message
        for fragment in message.fragments():
            data += fragment
            if len(data) > LONGEST_DATA_SET:
                raise OutOfResources(f"The data set is longer than the {LONGEST_DATA_SET} bytes taken")
            if time.monotonic() > deadline:
                raise self._aborted(PeerTimeout("The peer does not send a whole response in time"))
        return bytes(data)

    def _aborted(self, error: AssociationLost) -> AssociationLost:
        """An error to be raised, once the association has been aborted for it."""
        self._requestor.association.abort()
        return error

    def responses(self) -> Iterator[Response]:
        """Each response as it arrives, the final one last. Nothing else gives the next more time. Raises as `next`."""
        while not self.is_over:
            deadline, response = time.monotonic() + self._requestor.timeout, None
            while response is None:
                response = self.next(deadline - time.monotonic())
            yield response

    def final(self) -> Response:
        """The final response; what comes before it is let go by. Raises as `next`.

        Whatever it raises, a Ctrl-C too, the association is aborted: no release goes with a request that is open.
        """
        try:
            for response in self.responses():
                if self.is_over:
                    return response
        except BaseException:
            self._requestor.association.abort()
            raise
        raise ProtocolViolation("The final response has been taken already")

    def cancel(self) -> None:
        """Send a C-CANCEL, once, unless it is over. Raises AssociationLost."""
        if not self.is_over and not self._is_cancelled:
            self._is_cancelled = True
            self._requestor.association.send(self._context.id, Command.cancel(self._request.message_id))

    def abandon(self, seconds: float) -> None:
        """Cancel, unless it is over, and finish. Raises nothing of its own: there is a reason why it is abandoned."""
        if not self.is_over and self._requestor.association.is_established:
            with contextlib.suppress(AssociationLost):
                self.cancel()
            self.finish(seconds)

    def finish(self, seconds: float) -> Response | None:
        """Let go by what still comes for at most `seconds`, up to the final response: that, or None without one.

        After None the association has been aborted or lost, whatever was wrong with what came.
        """
        deadline = time.monotonic() + seconds
        try:
            while not self.is_over and time.monotonic() < deadline:
                response = self.next(deadline - time.monotonic())
                if response is not None and self.is_over:
                    return response
        except PacsError:
            pass  # there is nobody to tell
        if not self.is_over:
            self._requestor.association.abort()
        return None
