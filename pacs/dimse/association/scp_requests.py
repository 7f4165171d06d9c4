"""What we have to say by ourselves on an association that a peer requested: once it is idle, and never in between.

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

MOST = 16
"""How many scp_requests one association may have at once."""

LONGEST = 86_400.0
"""Seconds that are waited at once where nothing says how long."""


@dataclass(frozen=True, slots=True)
class ScpRequest:
    """A request of ours: `send` sends it with a Message ID and raises what sending raises; False when it need not be.

    It is due when the association has been idle for `pause` seconds, and given up at `until`, on the monotonic clock.
    `ended` gets the status of the response, None when there will be none.
    """

    pause: float
    until: float
    send: Callable[["Association", int], bool]
    ended: Callable[[int | None], None]


class ScpRequests:
    """The scp_requests on one association."""

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
        """Whether the association is over, and no scp_request will be done."""
        return self._is_over

    def expect(self) -> None:
        """Be ready for an scp_request that will be given, or of which will be said that it will not. For the owner."""
        if self._wake_up is None:
            self._wake_up = WakeUp()
        with self._lock:
            self._expected += 1

    def give(self, scp_request: ScpRequest | None) -> bool:
        """Give an scp_request that was expected, or None when there is none; False when it will not be done."""
        with self._lock:
            self._expected -= 1
            if self._is_over or scp_request is None or len(self._waiting) + len(self._sent) >= MOST:
                return False
            self._waiting.append(scp_request)
            if self._wake_up is not None:
                self._wake_up.wake()
            return True

    def run(self, association: "Association", seconds: float | None) -> float | None:
        """Do what is due until something arrives, or nothing has for some seconds; what is left of the seconds.

        For the owner. Raises AssociationLost.
        """
        if self._wake_up is None or not self._is_busy:
            return seconds
        began = time.monotonic()
        end = began + (LONGEST if seconds is None else seconds)
        wait_context = WaitContext(Cancellation(), wake_up=self._wake_up)
        while self._is_busy and time.monotonic() < end:
            if not association.is_idle(min(end, self._next_due(began)), wait_context):
                break
            self._do_those_due(association, began)
        return None if seconds is None else max(0.0, end - time.monotonic())

    @property
    def _is_busy(self) -> bool:
        return bool(self._expected or self._waiting)

    def _next_due(self, began: float) -> float:
        """When the next scp_request is to be done, or given up."""
        with self._lock:
            return min((min(began + each.pause, each.until) for each in self._waiting), default=began + LONGEST)

    def _do_those_due(self, association: "Association", began: float) -> None:
        with self._lock:
            waiting = tuple(self._waiting)
        for scp_request in waiting:
            now = time.monotonic()
            if now < min(began + scp_request.pause, scp_request.until):
                continue
            with self._lock:
                self._waiting.remove(scp_request)
            if now >= scp_request.until:
                scp_request.ended(None)
            else:
                self._do(association, scp_request)

    def _do(self, association: "Association", scp_request: ScpRequest) -> None:
        message_id = self._next_id
        self._next_id = message_id % 0xFFFF + 1
        self._sent[message_id] = scp_request  # told of the end by `close`, should the association be lost now
        if not scp_request.send(association, message_id):
            del self._sent[message_id]

    def answered(self, message: "Message") -> bool:
        """Whether a response is one to an scp_request, which is told. For the owner."""
        scp_request = self._sent.pop(message.command.responding_to, None)
        if scp_request is None:
            return False
        scp_request.ended(message.command.status)
        return True

    def close(self) -> None:
        """Do no more: the association is over. For the owner."""
        with self._lock:
            self._is_over = True
            rest = [*self._waiting, *self._sent.values()]
            self._waiting, self._sent = [], {}
        for scp_request in rest:
            scp_request.ended(None)
        if self._wake_up is not None:
            self._wake_up.close()
