"""A PACS with scripted behaviour: a real server whose handlers come from a test."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

from pydicom import Dataset

from pacs import client
from pacs.client import Peer
from pacs.client.peer import CALLING_AE_TITLE
from pacs.dicom.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.messages.message import Buffer, Message, p_data
from pacs.dimse.scp.association_events import AssociationEvents
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.server import DimseServer, Settings
from pacs.errors import AssociationLost
from pacs.observability.events import AssociationEnded, Event
from tests.raw import encoded
from tests.waiting import eventually

Handler = Callable[[Association, Message], None]


@dataclass
class Scripted:
    """The running PACS: its address and its events."""

    server: DimseServer
    events: list[Event]

    @property
    def peer(self) -> Peer:
        """The peer to connect to."""
        return Peer("SCRIPTED", "127.0.0.1", self.server.port)

    def ends(self, count: int = 1) -> list[str]:
        """Return how its associations ended, once there are this many."""
        eventually(lambda: len(self._ends()) >= count)
        return self._ends()

    def _ends(self) -> list[str]:
        return [each.how for each in self.events if isinstance(each, AssociationEnded)]


@contextmanager
def scripted(syntaxes: Sequence[str] = KEPT, **handlers: Handler) -> Iterator[Scripted]:
    """Run such a PACS; `move=`, `get=`, `find=`, `store=`, `commit=` and `echo=` are its handlers."""
    fields = {
        "echo": CommandField.C_ECHO,
        "move": CommandField.C_MOVE,
        "get": CommandField.C_GET,
        "find": CommandField.C_FIND,
        "store": CommandField.C_STORE,
        "commit": CommandField.N_ACTION,
    }
    events: list[Event] = []
    settings = Settings(
        policy=AcceptorPolicy(transfer_syntaxes=syntaxes),
        handlers={fields[name]: handler for name, handler in handlers.items()},
    )
    server = DimseServer([("127.0.0.1", 0)], settings, observer=AssociationEvents(events.append))
    server.start()
    try:
        yield Scripted(server, events)
    finally:
        server.stop()


def answer(
    association: Association, message: Message, status: int, data: bytes | None = None, **fields: object
) -> None:
    """Send a response, with counts or an Error Comment."""
    association.send(message.context.id, message.command.response(status, **fields), data)


def matches(association: Association, message: Message, datasets: list[Dataset], status: int = 0xFF00) -> None:
    """Send Pending responses with these Identifiers."""
    for each in datasets:
        answer(association, message, status, encoded(each, message.context.transfer_syntax))


def send_slowly(
    association: Association, message: Message, status: int, data: bytes, pause: float, most: int = 64
) -> None:
    """Send a response in PDUs of at most `most` bytes, with a pause after each, until the peer ends the association."""
    command = message.command.response(status).announcing(data_set=True).encode()
    with suppress(AssociationLost):
        association.send_prepared(_paused(p_data(message.context.id, command, (data,), most), pause))


def _paused(batches: Iterator[list[Buffer]], pause: float) -> Iterator[list[Buffer]]:
    """Yield each buffer alone, followed by a pause."""
    for each in chain.from_iterable(batches):
        yield [each]
        time.sleep(pause)


def report(association: Association, message: Message, data: bytes) -> int | None:
    """Send a storage commitment report after the response to its request; return the status of its response."""
    uid = STORAGE_COMMITMENT_INSTANCE
    command = Command.request(
        CommandField.N_EVENT_REPORT, 1, STORAGE_COMMITMENT, event_type=1, affected_sop_instance_uid=uid
    )
    association.send(message.context.id, command, data)
    answered = association.receive(20)
    return answered.command.status if answered is not None else None


def deliver(
    port: int, datasets: list[Dataset], calling: str = "SOMEBODY", called: str = CALLING_AE_TITLE
) -> list[int | None]:
    """Send data sets to a port on one association, with any calling AE title; return the statuses of refusals."""
    sent = client.store(Peer(called, "127.0.0.1", port, calling_ae_title=calling), *datasets)
    return [each.status for each in sent.failed]
