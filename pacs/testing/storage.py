"""A storage SCP for tests: takes whatever it is sent, and keeps it in memory. A move destination."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import Association
from pacs.dimse.messages import status
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.message import Message
from pacs.dimse.scp.association_events import AssociationEvents
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.server.server import Handler, Server, Settings
from pacs.faults.interposer import Interposition
from pacs.faults.model import Scenario
from pacs.faults.selection import Chooser
from pacs.observability.events import AssociationEnded, Event
from pacs.testing.message_log import Notebook
from pacs.testing.received import Received, counted, number_of

if TYPE_CHECKING:
    from pydicom import Dataset

PATIENCE = 10.0
"""Seconds that instances may take to come."""


@dataclass(frozen=True, slots=True)
class StoredHere:
    """An instance that was sent."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_ae_title: str
    move_originator: tuple[str, int] | None
    """The AE title that asked for the C-MOVE and the Message ID it asked with."""
    data: bytes = field(repr=False)
    """The data set as it came."""

    @property
    def dataset(self) -> "Dataset":
        """The data set, with as much File Meta Information as pydicom needs to decode its pixels or write it."""
        return _dataset(self)


class StorageSCP:
    """A storage SCP while its `with` block runs. `faults` are what it does wrong, `received` what came."""

    host = "127.0.0.1"

    def __init__(self, ae_title: str = "STORAGE_SCP", port: int = 0, scenario: Scenario | None = None) -> None:
        self.ae_title = ae_title
        self._notes = Notebook()
        self.received = Received(self._notes)
        self._changed = threading.Condition()
        self._instances: list[StoredHere] = []
        self._interposition = Interposition(scenario, self._notes)
        policy = AcceptorPolicy(transfer_syntaxes=KEPT, unknown_sop_classes=True)
        handlers: dict[int, Handler] = {CommandField.C_ECHO: _echo, CommandField.C_STORE: self._store}
        settings = self._interposition.on(Settings(policy=policy, handlers=handlers))
        self._server = Server([(self.host, port)], settings, observer=AssociationEvents(self._heard))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()
        self._interposition.close()

    def __repr__(self) -> str:
        return f"<StorageSCP {self.address}: {number_of(self.instances, 'instance')}, {counted(self.received)}>"

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    @property
    def address(self) -> str:
        """All of it as people write it: STORAGE_SCP@127.0.0.1:11113."""
        return f"{self.ae_title}@{self.host}:{self.port}"

    @property
    def faults(self) -> Chooser:
        """What it does wrong: `add(Fault(...))`, `clear()`."""
        return self._interposition.faults

    @property
    def instances(self) -> list[StoredHere]:
        """What was sent, in the order in which it came."""
        with self._changed:
            return list(self._instances)

    @property
    def datasets(self) -> list["Dataset"]:
        """The data sets of what was sent, in the order in which it came."""
        return [each.dataset for each in self.instances]

    def wait_for(self, count: int, seconds: float = PATIENCE) -> list[StoredHere]:
        """What was sent, once there are so many instances. Raises AssertionError when they do not come in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._instances) >= count, seconds):
                raise AssertionError(f"{len(self._instances)} instances came within {seconds:g} s, expected {count}")
            return list(self._instances)

    def clear(self) -> None:
        """Forget what was sent so far."""
        with self._changed:
            self._instances.clear()
        self.received.clear()

    def _store(self, association: Association, message: Message) -> None:
        data = b"".join(map(bytes, message.fragments()))
        command = message.command
        title, asked = command.move_originator_ae_title, command.move_originator_message_id
        stored = StoredHere(
            sop_class_uid=command.affected_sop_class_uid or "",
            sop_instance_uid=command.affected_sop_instance_uid or "",
            transfer_syntax=message.context.transfer_syntax,
            calling_ae_title=association.calling_ae_title,
            move_originator=(title, asked) if title is not None and asked is not None else None,
            data=data,
        )
        with self._changed:
            self._instances.append(stored)
            self._changed.notify_all()
        association.send(message.context.id, command.response(status.SUCCESS))

    def _heard(self, event: Event) -> None:
        if isinstance(event, AssociationEnded):
            self._notes.ended(event.association, event.how, event.duration)


def _echo(association: Association, message: Message) -> None:
    association.send(message.context.id, message.command.response(status.SUCCESS))


def _dataset(stored: StoredHere) -> "Dataset":
    import io

    from pydicom import dcmread

    from pacs.dicom import part10

    head = part10.build_file_meta(
        stored.sop_class_uid, stored.sop_instance_uid, stored.transfer_syntax, stored.calling_ae_title, received_at=0
    )
    return dcmread(io.BytesIO(head + stored.data))
