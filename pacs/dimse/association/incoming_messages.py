"""The receiving half of an association: messages, C-CANCEL, release and the end. Nothing here waits.

The owner of the association and the cancel monitor call this, holding the association's lock. P-ids such as P4 and X1
are explained in docs/checklist.md.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping

from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, A_RELEASE

from pacs.dimse.messages.message import (
    COMMAND,
    DATA_SET_WAS_DUE,
    PDV,
    Assembler,
    CommandField,
    Message,
    Pull,
    invalid_pdv,
    pdvs,
)
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

MOST_QUEUED = 64
"""The most queued messages of a peer that does not wait for responses."""

C_CANCEL = "C-CANCEL"


class Incoming:
    """The receiving half of an association, which queues at most `held` bytes of data sets."""

    def __init__(self, upper: UpperLayer, contexts: Mapping[int, Context], pull: Pull, held: int) -> None:
        self.ended_by: str | None = None
        """How the association ended, None before its end."""
        self.release_indicated = False
        """Whether the peer has requested the release; `receive` confirms it after all messages."""
        self.partial_since: float | None = None
        """Since when the rest of a PDU or message is missing, None when none is."""
        self.waited = 0.0
        """Seconds waited for the rest of a message, since `_began_at` bytes had been received."""
        self._began_at = 0
        self.current: Message | None = None
        """The message that is being handled."""
        self._upper = upper
        self._held = held
        self._assembler = Assembler(contexts, pull)
        self._guard = _Guard(self, upper)
        self._pdvs: Iterator[PDV] = iter(())
        self._arrived: deque[Message] = deque()
        self._operations: dict[int, Cancellation] = {}

    @property
    def wants_input(self) -> bool:
        """Whether more input is read: not after the end, nor while too much is queued."""
        return (
            self.ended_by is None
            and not self.release_indicated
            and len(self._arrived) < MOST_QUEUED
            and sum(each.held for each in self._messages()) < self._held
        )

    @property
    def has_input(self) -> bool:
        """Whether a message, a part of one, or a release request has arrived."""
        return bool(self._arrived) or self.release_indicated or self.partial_since is not None

    def _messages(self) -> Iterator[Message]:
        if self.current is not None:
            yield self.current
        yield from self._arrived

    # --- input --------------------------------------------------------------------------------------------------

    def next_message(self) -> Message | None:
        """Return the next message whose command set is complete; None when none has arrived."""
        while not self._arrived and self.process_one():
            pass
        return self._arrived.popleft() if self._arrived else None

    def process_one(self) -> bool:
        """Process one PDV and queue its content. Return False when none has arrived."""
        with self._guard:
            pdv = self._next_pdv()
            if pdv is None:
                return False
            context_id, control, fragment = pdv
            if not control & COMMAND:
                self._assembler.data(context_id, control).hold(fragment)
            elif (message := self._assembler.command(context_id, control, fragment)) is not None:
                self._dispatch(message)
        return True

    def next_fragment(self, message: Message) -> memoryview | None:
        """Return the next fragment of the data set of `message` without a copy, None when none has arrived."""
        with self._guard:
            if message.held or message.is_complete:
                return memoryview(b"")  # the cancel monitor has queued it in the message
            pdv = self._next_pdv()
            if pdv is not None:
                context_id, control, fragment = pdv
                if control & COMMAND:
                    raise invalid_pdv(context_id, control, DATA_SET_WAS_DUE)
                self._assembler.data(context_id, control)
                return fragment
        return None

    def discard(self, deadline: float) -> None:
        """Discard input until the deadline: after our A-RELEASE-RQ only its answer matters."""
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
                self.partial_since = None
                self._pdvs = pdvs(found)
            elif found is not None:
                self._act_on(found)
            elif self._upper.is_over:
                self.end(LOST)
            elif not self._upper.wire.fill():
                self._note_progress()
                return None
        return None

    def _note_progress(self) -> None:
        if not (self._upper.has_partial_pdu or self._assembler.has_partial_message):
            self.partial_since, self.waited, self._began_at = None, 0.0, self._upper.wire.received
        elif self.partial_since is None:
            self.partial_since = time.monotonic()

    def remaining_time(self, seconds: float, least_rate: int) -> float:
        """Return the remaining seconds for the rest of a message: `seconds`, and more for each byte received."""
        return seconds + (self._upper.wire.received - self._began_at) / least_rate - self.waited

    # --- indications --------------------------------------------------------------------------------------------

    def _dispatch(self, message: Message) -> None:
        """Act on a C-CANCEL (X1 to X5); queue every other message for `next_message`."""
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

    def _act_on(self, primitive: Primitive) -> None:
        """Act on an indication of the upper layer (PS3.8 7.2 to 7.4)."""
        if isinstance(primitive, A_ABORT):
            self.end(ABORTED)
        elif isinstance(primitive, A_P_ABORT):
            violated = self._upper.state == AWAITING_CLOSE
            self.end(VIOLATION if violated else LOST if self._upper.wire.at_end else ABORTED_BY_PROVIDER)
        elif isinstance(primitive, A_RELEASE):
            self._release(primitive)

    def _release(self, primitive: A_RELEASE) -> None:
        """Act on a release request or its confirmation; both sides may request at once (PS3.8 7.2.2.7)."""
        if self._upper.state == RELEASE_INDICATED:
            if self._assembler.has_partial_message:
                raise ProtocolViolation("it came where the rest of a message was due")
            self.release_indicated = True
            self._cancel_all(RELEASED)
        elif self._upper.state == COLLISION_REQUESTOR:
            self._upper.confirm_release()
        elif primitive.result is not None:
            if self._upper.state == COLLISION_ACCEPTOR_DONE:
                self._upper.confirm_release()
            self.end(RELEASED)

    def end(self, how: str) -> None:
        """Record how the association ended, once, and cancel its operations."""
        if self.ended_by is None:
            self.ended_by = how
            self._cancel_all(how)

    # --- operations ---------------------------------------------------------------------------------------------

    def begin(self, request: Message, cancellation: Cancellation) -> None:
        """Register an operation for C-CANCELs, also for one that has arrived before (P4)."""
        self._operations[request.command.message_id] = cancellation
        reason = C_CANCEL if request.cancelled else self.ended_by
        if reason is not None:
            cancellation.cancel(reason)

    def finish(self, request: Message) -> None:
        """Unregister an operation: a later C-CANCEL for it is ignored (X4)."""
        del self._operations[request.command.message_id]

    def _cancel_all(self, reason: str) -> None:
        """Cancel all operations; at once where this server aborted, because it stops and waits for them."""
        for cancellation in self._operations.values():
            cancellation.cancel(reason, graceful=reason != ABORTED_HERE)


class _Guard:
    """Answers a protocol violation in its `with` block with an A-P-ABORT. It is reused for every PDV."""

    def __init__(self, incoming: Incoming, upper: UpperLayer) -> None:
        self._incoming, self._upper = incoming, upper

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        if not isinstance(error, ProtocolViolation):
            return False
        self._upper.note_violation(error.comment)
        self._upper.abort(INVALID_PARAMETER_VALUE)
        self._incoming.end(VIOLATION)
        return True
