"""A server whose handlers a test chooses, on a free port of the loopback."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.scp.association_access import AssociationAccess
from pacs.dimse.scp.association_events import AssociationEvents
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.association_slots import AssociationBounds
from pacs.dimse.server.server import DimseServer, Handler, Settings
from pacs.observability.events import AssociationEnded, Event
from pacs.services.access import Access, Rules
from pacs.services.peers import Peers

OURS_ALONE = Access(Rules(any_called_title=False), Peers())
"""Rejects requests with another called AE title than PACS."""


def echo(association: Association, message: Message) -> None:
    """Verification."""
    association.send(message.context.id, message.command.response(0x0000))


@dataclass
class Archive:
    """A running server with its events and what its store handler received."""

    server: DimseServer
    events: list[Event]
    ended: threading.Condition
    received: list[tuple[str, str, int, str]] = field(default_factory=list)
    """(calling AE title, transfer syntax, length, SHA-256) of each data set."""

    @property
    def port(self) -> int:
        """The port of the server."""
        return self.server.port

    def ended_by(self, count: int = 1) -> list[str]:
        """Return how the associations ended, once `count` of them have."""
        with self.ended:
            assert self.ended.wait_for(lambda: len(self._ends()) >= count, timeout=20), self.events
            return self._ends()

    def violation(self) -> str:
        """Return what ended the first association, which violated the protocol."""
        assert self.ended_by() == ["protocol violation"]
        return next(each.comment for each in self.events if isinstance(each, AssociationEnded))

    def _ends(self) -> list[str]:
        return [each.how for each in self.events if isinstance(each, AssociationEnded)]


Serve = Callable[..., Archive]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers: `serve(find=handler, limits=..., bounds=..., access=...)` and further fields of the policy."""
    servers: list[DimseServer] = []

    def start(
        find: Handler | None = None,
        store: Handler | None = None,
        get: Handler | None = None,
        *,
        limits: AssociationLimits | None = None,
        bounds: AssociationBounds | None = None,
        **policy: Any,
    ) -> Archive:
        events: list[Event] = []
        ended = threading.Condition()

        def publish(event: Event) -> None:
            with ended:
                events.append(event)
                ended.notify_all()

        def keep(association: Association, message: Message) -> None:
            digest, length = hashlib.sha256(), 0
            for fragment in message.fragments():
                digest.update(fragment)
                length += len(fragment)
            entry = (association.calling_ae_title, message.context.transfer_syntax, length, digest.hexdigest())
            archive.received.append(entry)
            association.send(message.context.id, message.command.response(0x0000))

        handlers: dict[int, Handler] = {CommandField.C_ECHO: echo, CommandField.C_STORE: store or keep}
        if find is not None:
            handlers[CommandField.C_FIND] = find
        if get is not None:
            handlers[CommandField.C_GET] = get
        if "access" in policy:
            policy["access"] = AssociationAccess(policy["access"])
        settings = Settings(
            policy=AcceptorPolicy(**{"transfer_syntaxes": KEPT} | policy),
            handlers=handlers,
            limits=limits or AssociationLimits(),
            bounds=bounds or AssociationBounds(),
        )
        server = DimseServer([("127.0.0.1", 0)], settings, observer=AssociationEvents(publish))
        server.start()
        servers.append(server)
        archive = Archive(server, events, ended)
        return archive

    yield start
    for server in servers:
        server.stop()
