"""What has arrived on an association, and what it means: messages, cancels, the end. Nothing here waits.

The owner of the association and the watcher both come here, under the association's lock.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping

from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, A_RELEASE

from pacs.dimse.messages.message import COMMAND, PDV, Assembler, CommandField, Message, Pull, pdvs
from pacs.dimse.upper.upper_layer import (
    AWAITING_CLOSE,
    COLLISION_ACCEPTOR_DONE,
    COLLISION_REQUESTOR,
    INVALID_PARAMETER_VALUE,
    RELEASE_INDICATED,
    Primitive,
    UpperLayer,
)
from pacs.dimse.upper.user_information import Context
from pacs.errors import ProtocolViolation
from pacs.support.cancellation import Cancellation

RELEASED = "A-RELEASE"
ABORTED = "A-ABORT"
ABORTED_BY_PROVIDER = "A-P-ABORT"
LOST = "connection lost"
VIOLATION = "protocol violation"
TIMEOUT = "timeout"
ABORTED_HERE = "aborted here"

MESSAGES_HELD = 64
"""How many messages are held for a peer that does not wait for our answers."""

C_CANCEL = "C-CANCEL"


class Incoming:
    """The receiving half of an association. `held` is how many bytes may wait here to be read."""

    def __init__(self, upper: UpperLayer, contexts: Mapping[int, Context], pull: Pull, held: int) -> None:
        self.ended_by: str | None = None
        """How the association ended, None while it has not."""
        self.release_indicated = False
        """Whether the peer has asked for the release, which `receive` confirms when all else is done."""
        self.midway_since: float | None = None
        """When the rest of a PDU or message was first missed, None while nothing is."""
        self.waited = 0.0
        """How many seconds were waited for a message that has begun, since `_began_at` bytes had come in."""
        self._began_at = 0
        self.current: Message | None = None
        """The message that is being worked on."""
        self._upper = upper
        self._held = held
        self._assembler = Assembler(contexts, pull)
        self._guard = _Guard(self, upper)
        self._pdvs: Iterator[PDV] = iter(())
        self._arrived: deque[Message] = deque()
        self._operations: dict[int, Cancellation] = {}

    @property
    def wants_input(self) -> bool:
        """Whether more would be taken in: not once it is over, nor while too much waits to be read."""
        return (
            self.ended_by is None
            and not self.release_indicated
            and len(self._arrived) < MESSAGES_HELD
            and sum(each.held for each in self._messages()) < self._held
        )

    @property
    def has_something(self) -> bool:
        """Whether a message has arrived, or a part of one, or the wish to release."""
        return bool(self._arrived) or self.release_indicated or self.midway_since is not None

    def _messages(self) -> Iterator[Message]:
        if self.current is not None:
            yield self.current
        yield from self._arrived

    # --- what has arrived ---------------------------------------------------------------------------------------

    def next_message(self) -> Message | None:
        """The next whole command, with what there is of its data set; None when none has arrived."""
        while not self._arrived and self.take_in_one():
            pass
        return self._arrived.popleft() if self._arrived else None

    def take_in_one(self) -> bool:
        """Take in one PDV that nobody is reading for: False when none has arrived."""
        with self._guard:
            pdv = self._next_pdv()
            if pdv is None:
                return False
            context_id, control, fragment = pdv
            if not control & COMMAND:
                self._assembler.data(context_id, control).hold(fragment)
            elif (message := self._assembler.command(context_id, control, fragment)) is not None:
                self._sort(message)
        return True

    def next_fragment(self, message: Message) -> memoryview | None:
        """The next fragment of the data set of `message` without a copy, None when none has arrived."""
        with self._guard:
            if message.held or message.is_complete:
                return memoryview(b"")  # it was taken in meanwhile and lies in the message itself
            pdv = self._next_pdv()
            if pdv is not None:
                context_id, control, fragment = pdv
                if control & COMMAND:
                    raise ProtocolViolation("A command came where the rest of a data set was due")
                self._assembler.data(context_id, control)
                return fragment
        return None

    def discard(self, deadline: float) -> None:
        """Let go by what has arrived, or does until then: after our A-RELEASE-RQ only its answer matters."""
        with self._guard:
            while self._next_pdv() is not None and time.monotonic() < deadline:
                pass

    def _next_pdv(self) -> PDV | None:
        while self.ended_by is None:
            pdv = next(self._pdvs, None)
            if pdv is not None:
                return pdv
            found = self._upper.take()
            if isinstance(found, memoryview):
                self.midway_since = None
                self._pdvs = pdvs(found)
            elif found is not None:
                self._indicated(found)
            elif self._upper.is_over:
                self.end(LOST)
            elif not self._upper.wire.fill():
                self._note_progress()
                return None
        return None

    def _note_progress(self) -> None:
        if not (self._upper.has_partial_pdu or self._assembler.is_amid_message):
            self.midway_since, self.waited, self._began_at = None, 0.0, self._upper.wire.received
        elif self.midway_since is None:
            self.midway_since = time.monotonic()

    def patience(self, seconds: float, least_rate: int) -> float:
        """How many seconds more a message that has begun is waited for: those it has, and earned by its bytes."""
        return seconds + (self._upper.wire.received - self._began_at) / least_rate - self.waited

    # --- what it means ------------------------------------------------------------------------------------------

    def _sort(self, message: Message) -> None:
        """Let a C-CANCEL do its work (X1 to X5); everything else waits for `next_message`."""
        if message.command.field != CommandField.C_CANCEL:
            self._arrived.append(message)
            return
        message_id = message.command.responding_to
        if message_id in self._operations:
            self._operations[message_id].cancel(C_CANCEL)
            return
        for each in self._messages():
            if not each.command.is_response and each.command.message_id == message_id:
                each.cancelled = True

    def _indicated(self, primitive: Primitive) -> None:
        """Act on what the upper layer says (PS3.8 7.2 to 7.4)."""
        if isinstance(primitive, A_ABORT):
            self.end(ABORTED)
        elif isinstance(primitive, A_P_ABORT):
            violated = self._upper.state == AWAITING_CLOSE
            self.end(VIOLATION if violated else LOST if self._upper.wire.at_end else ABORTED_BY_PROVIDER)
        elif isinstance(primitive, A_RELEASE):
            self._release(primitive)

    def _release(self, primitive: A_RELEASE) -> None:
        """A release is asked for or confirmed; both sides may ask at once (PS3.8 7.2.2.7)."""
        if self._upper.state == RELEASE_INDICATED:
            if self._assembler.is_amid_message:
                raise ProtocolViolation("A release came where the rest of a message was due")
            self.release_indicated = True
            self._cancel_all(RELEASED)
        elif self._upper.state == COLLISION_REQUESTOR:
            self._upper.confirm_release()
        elif primitive.result is not None:
            if self._upper.state == COLLISION_ACCEPTOR_DONE:
                self._upper.confirm_release()
            self.end(RELEASED)

    def end(self, how: str) -> None:
        """Note how the association ended, the first time, and cancel what runs on it."""
        if self.ended_by is None:
            self.ended_by = how
            self._cancel_all(how)

    # --- operations ---------------------------------------------------------------------------------------------

    def begin(self, request: Message, cancellation: Cancellation) -> None:
        """Let what arrives from now on for this operation cancel it, and what came for it before (P4)."""
        self._operations[request.command.message_id] = cancellation
        reason = C_CANCEL if request.cancelled else self.ended_by
        if reason is not None:
            cancellation.cancel(reason)

    def finish(self, request: Message) -> None:
        """From now on a C-CANCEL for this operation is late, and ignored (X4)."""
        del self._operations[request.command.message_id]

    def _cancel_all(self, reason: str) -> None:
        for cancellation in self._operations.values():
            cancellation.cancel(reason)


class _Guard:
    """Answers what breaks the rules in a `with` block with an A-P-ABORT. Each PDV goes through one: it is made once."""

    def __init__(self, incoming: Incoming, upper: UpperLayer) -> None:
        self._incoming, self._upper = incoming, upper

    def __enter__(self) -> None:
        """There is nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        if kind is None or not issubclass(kind, ProtocolViolation):
            return False
        self._upper.abort(INVALID_PARAMETER_VALUE)
        self._incoming.end(VIOLATION)
        return True
