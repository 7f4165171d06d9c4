"""What we have to say by ourselves on an association that a peer requested: once it is idle, and never in between.

Any thread gives an errand; the thread that owns the association does it. How it ended is told once, whatever happens:
by the status of the response, or None when there will be none.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs.dimse.upper.waiting import Bell, Vigil
from pacs.support.cancellation import Cancellation

if TYPE_CHECKING:
    from pacs.dimse.association.association import Association
    from pacs.dimse.messages.message import Message

MOST = 16
"""How many errands one association may have at once."""

LONGEST = 86_400.0
"""Seconds that are waited at once where nothing says how long."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A request of ours: `send` sends it with a Message ID and raises what sending raises; False when it need not be.

    It is due when the association has been idle for `pause` seconds, and given up at `until`, on the monotonic clock.
    `ended` gets the status of the response, None when there will be none.
    """

    pause: float
    until: float
    send: Callable[["Association", int], bool]
    ended: Callable[[int | None], None]


class Errands:
    """The errands on one association."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bell: Bell | None = None
        self._expected = 0
        self._waiting: list[Errand] = []
        self._sent: dict[int, Errand] = {}
        self._next_id = 1
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the association is over, and no errand will be done."""
        return self._is_over

    def expect(self) -> None:
        """Be ready for an errand that will be given, or of which will be said that it will not. For the owner."""
        if self._bell is None:
            self._bell = Bell()
        with self._lock:
            self._expected += 1

    def give(self, errand: Errand | None) -> bool:
        """Give an errand that was expected, or None when there is none; False when it will not be done."""
        with self._lock:
            self._expected -= 1
            if self._is_over or errand is None or len(self._waiting) + len(self._sent) >= MOST:
                return False
            self._waiting.append(errand)
            if self._bell is not None:
                self._bell.ring()
            return True

    def run(self, association: "Association", seconds: float | None) -> float | None:
        """Do what is due until something arrives, or nothing has for some seconds; what is left of the seconds.

        For the owner. Raises AssociationLost.
        """
        bell = self._bell
        if bell is None or not self._is_busy:
            return seconds
        began = time.monotonic()
        end = began + (LONGEST if seconds is None else seconds)
        vigil = Vigil(Cancellation(), attending=(bell,))
        while self._is_busy and time.monotonic() < end:
            if not association.is_idle(min(end, self._next_due(began)), vigil):
                break
            self._do_those_due(association, began)
        return None if seconds is None else max(0.0, end - time.monotonic())

    @property
    def _is_busy(self) -> bool:
        return bool(self._expected or self._waiting)

    def _next_due(self, began: float) -> float:
        """When the next errand is to be done, or given up."""
        with self._lock:
            return min((min(began + each.pause, each.until) for each in self._waiting), default=began + LONGEST)

    def _do_those_due(self, association: "Association", began: float) -> None:
        with self._lock:
            waiting = tuple(self._waiting)
        for errand in waiting:
            now = time.monotonic()
            if now < min(began + errand.pause, errand.until):
                continue
            with self._lock:
                self._waiting.remove(errand)
            if now >= errand.until:
                errand.ended(None)
            else:
                self._do(association, errand)

    def _do(self, association: "Association", errand: Errand) -> None:
        message_id = self._next_id
        self._next_id = message_id % 0xFFFF + 1
        self._sent[message_id] = errand  # told of the end by `close`, should the association be lost now
        if not errand.send(association, message_id):
            del self._sent[message_id]

    def answered(self, message: "Message") -> bool:
        """Whether a response is one to an errand, which is told. For the owner."""
        errand = self._sent.pop(message.command.responding_to, None)
        if errand is None:
            return False
        errand.ended(message.command.status)
        return True

    def close(self) -> None:
        """Do no more: the association is over. For the owner."""
        with self._lock:
            self._is_over = True
            rest = [*self._waiting, *self._sent.values()]
            self._waiting, self._sent = [], {}
        for errand in rest:
            errand.ended(None)
        if self._bell is not None:
            self._bell.close()
