"""Known defects of clients, one row each, and what the server does for a peer that names itself as such a client.

A new defect is a row of `DEFECTS`, a key in the section `clients` of the configuration that switches its remedy off,
and the place where the remedy is applied.
"""

import time
from collections import deque
from dataclasses import dataclass

from pacs.dimse.messages.command import CommandField
from pacs.dimse.upper.user_information import Agreement, Context


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDefect:
    """A defect of a client, which is recognised by the implementation that it names when it associates."""

    client: str
    class_uid: str
    """The beginning of its Implementation Class UID."""
    version_name: str
    """The beginning of its Implementation Version Name."""
    defect: str
    evidence: str
    remedy: str
    key: str
    """The configuration key that adjusts the remedy or switches it off."""

    def is_of(self, agreement: Agreement) -> bool:
        """Return whether the peer of an association is such a client."""
        named, version = agreement.implementation_class_uid, agreement.implementation
        return named.startswith(self.class_uid) and version.startswith(self.version_name)


LOST_RESPONSES = ClientDefect(
    client="pynetdicom 1.5 to 3.0",
    class_uid="1.2.826.0.1.3680043.9.3811.",
    version_name="PYNETDICOM_",
    defect="may lose a response to a request that follows another one at once, without an error",
    evidence="pynetdicom issue 875; `python -m tests.interop.lost_responses` counts the losses",
    remedy="each request after the first one of an association is handled a few milliseconds later",
    key="clients.pynetdicom_hold",
)

ONE_SYNTAX = ClientDefect(
    client="GDCM 2.4 to 3.2 (gdcmscu)",
    class_uid="1.2.826.0.1.3680043.2.1143.",
    version_name="GDCM ",
    defect="as a move destination accepts several transfer syntaxes, but reads all data sets in the last one",
    evidence="`gdcmscu --move`; `ULConnection::SetCStoreTransferSyntax` holds one for all presentation contexts",
    remedy="instances are sent to it in the transfer syntax that it accepted last",
    key="clients.gdcm_one_syntax",
)

DEFECTS = (LOST_RESPONSES, ONE_SYNTAX)
"""All known defects."""


def readable_contexts(agreement: Agreement) -> list[Context]:
    """Return the accepted contexts whose data sets a move destination can read: the remedy for `ONE_SYNTAX`."""
    contexts = list(agreement.contexts.values())
    if not ONE_SYNTAX.is_of(agreement):
        return contexts
    last = max(contexts, key=lambda each: each.id)
    return [each for each in contexts if each.transfer_syntax == last.transfer_syntax]


# --- pynetdicom --------------------------------------------------------------------------------------------------

RECENT = 64
"""How many pauses of a requestor tell how slow it is at present."""

SAFETY = 1.5
"""How many times the longest of these pauses its second thread may be late."""

LONGEST_PAUSE = 0.1
"""Seconds; a requestor that lets more time pass between two operations is not slow but has something else to do."""


LEAST_HOLD = 0.016
"""The fixed time of a hold in seconds, unless the configuration has another."""

STORE_SHARE = 0.25
"""The part of the fixed time that a C-STORE is held."""


class ResponseHold:
    """The remedy for `LOST_RESPONSES` on one association: delays requests, so that their responses come later.

    When an operation of pynetdicom ends, a thread of it wakes up (`Association._run_reactor`), looks once for a request
    of the acceptor, and takes the response to the next request if that is there already. How late this thread runs
    cannot be seen from here, but its requests come late for the same reason: where processors are busy. So the delay is
    counted from the end of the last operation: the longest recent pause of the requestor, by a factor, and a fixed
    time, which is shorter for a C-STORE: receiving and storing take time as well, and the delay caps the rate.
    """

    def __init__(self, least: float) -> None:
        """`least` is the fixed time in seconds."""
        self._least = least
        self._ended: float | None = None
        self._pauses: deque[float] = deque(maxlen=RECENT)

    def wait(self, field: int) -> None:
        """Delay a request with this Command Field that has arrived; not the first one of the association."""
        if self._ended is not None:
            least = self._least * STORE_SHARE if field == CommandField.C_STORE else self._least
            time.sleep(self._remaining(least, time.monotonic() - self._ended))

    def _remaining(self, least: float, pause: float) -> float:
        """Return the seconds to wait after a pause of the requestor."""
        if pause < LONGEST_PAUSE:
            self._pauses.append(pause)
        return max(0.0, least + SAFETY * max(self._pauses, default=0.0) - pause)

    def operation_ended(self) -> None:
        """Note that a final response was sent."""
        self._ended = time.monotonic()
