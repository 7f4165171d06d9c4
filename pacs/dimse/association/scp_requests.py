"""Requests that the SCP initiates on an association that a peer requested, sent while the association is idle.

Any thread may submit a request; the thread that owns the association sends it. Each request ends exactly once, with the
status of its response or None without one.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.dimse.upper.waiting import WaitContext
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp

if TYPE_CHECKING:
    from pacs.dimse.association.association import Association
    from pacs.dimse.messages.message import Message

MOST_REQUESTS = 16
"""The most requests that one association may have at once."""

LONGEST_WAIT = 86_400.0
"""Seconds of one wait where there is no other limit."""


@dataclass(frozen=True, slots=True)
class ScpRequest:
    """A request of the SCP.

    `send` sends it with the given Message ID, raises as `Association.send`, and returns False when there is nothing to
    send any more. It is called when the association has been idle for `pause` seconds; the request is dropped at
    `until`, on the monotonic clock. `ended` is called with the status of the response, or None without one.
    """

    pause: float
    until: float
    send: Callable[["Association", int], bool]
    ended: Callable[[int | None], None]


class ScpRequests:
    """The requests of the SCP on one association."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake_up: WakeUp | None = None
        self._expected = 0
        self._waiting: list[ScpRequest] = []
        self._sent: dict[int, ScpRequest] = {}
        self._next_id = 1
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the association is over, so that no request is sent any more."""
        return self._is_over

    def expect(self) -> None:
        """Expect one call of `submit`. Only for the owner."""
        if self._wake_up is None:
            self._wake_up = WakeUp()
        with self._lock:
            self._expected += 1

    def submit(self, request: ScpRequest | None) -> bool:
        """Submit an expected request; None when there is none after all. Return False when it will not be sent."""
        with self._lock:
            self._expected -= 1
            if self._is_over or request is None or len(self._waiting) + len(self._sent) >= MOST_REQUESTS:
                return False
            self._waiting.append(request)
            if self._wake_up is not None:
                self._wake_up.wake()
            return True

    def run(self, association: "Association", seconds: float | None) -> float | None:
        """Send due requests until a message arrives, for at most `seconds`. Return the remaining seconds.

        Only for the owner. Raises AssociationLost.
        """
        if self._wake_up is None or not self._is_busy:
            return seconds
        began = time.monotonic()
        end = began + (LONGEST_WAIT if seconds is None else seconds)
        wait_context = WaitContext(Cancellation(), wake_up=self._wake_up)
        while self._is_busy and time.monotonic() < end:
            if not association.is_idle(min(end, self._next_due(began)), wait_context):
                break
            self._send_due(association, began)
        return None if seconds is None else max(0.0, end - time.monotonic())

    @property
    def _is_busy(self) -> bool:
        return bool(self._expected or self._waiting)

    def _next_due(self, began: float) -> float:
        """Return when the next request is to be sent or dropped."""
        with self._lock:
            return min((min(began + each.pause, each.until) for each in self._waiting), default=began + LONGEST_WAIT)

    def _send_due(self, association: "Association", began: float) -> None:
        with self._lock:
            waiting = tuple(self._waiting)
        for request in waiting:
            now = time.monotonic()
            if now < min(began + request.pause, request.until):
                continue
            with self._lock:
                self._waiting.remove(request)
            if now >= request.until:
                request.ended(None)
            else:
                self._send(association, request)

    def _send(self, association: "Association", request: ScpRequest) -> None:
        message_id = self._next_id
        self._next_id = message_id % 0xFFFF + 1
        self._sent[message_id] = request  # so that `close` ends it if the association is lost now
        if not request.send(association, message_id):
            del self._sent[message_id]

    def handle_response(self, message: "Message") -> bool:
        """End the request that a response belongs to. Return whether there is one. Only for the owner."""
        request = self._sent.pop(message.command.responding_to, None)
        if request is None:
            return False
        request.ended(message.command.status)
        return True

    def close(self) -> None:
        """End all requests: the association is over. Only for the owner."""
        with self._lock:
            self._is_over = True
            rest = [*self._waiting, *self._sent.values()]
            self._waiting, self._sent = [], {}
        for request in rest:
            request.ended(None)
        if self._wake_up is not None:
            self._wake_up.close()
