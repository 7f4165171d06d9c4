"""Requests on an association of ours, one after the other, and the responses to each (PS3.7 8, 9.3, 10.3).

Whoever asks waits in its own thread: for the responses, for what the peer asks meanwhile (the C-STOREs of a C-GET, a
report of storage commitment), and for a bell that another thread rings.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pacs.cancellation import Cancellation
from pacs.dimse import status
from pacs.dimse.agreement import Context
from pacs.dimse.association import Association
from pacs.dimse.command import RESPONSE, Command, CommandField, Value
from pacs.dimse.inbox import ABORTED
from pacs.dimse.messages import Buffer, Message
from pacs.dimse.waiting import Bell, Vigil
from pacs.errors import AssociationLost, NotSupported, PeerTimeout, ProtocolViolation

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
        bell: Bell | None = None,
    ) -> None:
        self.association = association
        self._timeout = timeout
        self._serving = dict(serving or {})
        self._vigil = Vigil(Cancellation(), attending=(bell,) if bell else ())
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
        """Wait for the next message: a response, or None when a request was served or the bell has rung.

        Raises PeerTimeout when nothing came for `seconds` (those of the constructor), AssociationLost when it is over.
        """
        association = self.association
        deadline = time.monotonic() + (self._timeout if seconds is None else max(0.0, seconds))
        if association.is_idle(deadline, self._vigil):
            if time.monotonic() < deadline:
                return None
            association.abort()
            raise PeerTimeout("The peer does not answer in time")
        message = association.receive(self._timeout)
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

        Raises AssociationLost: PeerTimeout where nothing came in time, and also, after an A-ABORT, where the response
        is to something else.
        """
        message = self._requestor.listen(seconds)
        if message is None:
            return None
        command = message.command
        if command.field != self._request.field | RESPONSE or command.responding_to != self._request.message_id:
            self._requestor.association.abort()
            raise AssociationLost("The peer answered something else than what it was asked")
        data = message.read(LONGEST_DATA_SET) if command.has_data_set else None
        self.is_over = not command.is_pending
        return Response(command, data, message.context)

    def responses(self) -> Iterator[Response]:
        """Each response as it arrives, the final one last. Raises as `next`."""
        while not self.is_over:
            response = self.next()
            if response is not None:
                yield response

    def final(self) -> Response:
        """The final response; what comes before it is let go by. Raises as `next`."""
        for response in self.responses():
            if self.is_over:
                return response
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

        After None the association has been aborted or lost.
        """
        deadline = time.monotonic() + seconds
        try:
            while not self.is_over and time.monotonic() < deadline:
                response = self.next(deadline - time.monotonic())
                if response is not None and self.is_over:
                    return response
        except AssociationLost:
            return None
        if not self.is_over:
            self._requestor.association.abort()
        return None
