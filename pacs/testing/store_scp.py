"""A storage SCP for tests that accepts all instances and keeps them in memory."""

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
from pacs.dimse.server.server import DimseServer, Handler, Settings
from pacs.faults.interposer import Interposer
from pacs.faults.model import Scenario
from pacs.faults.selection import ArmedFaults
from pacs.observability.events import AssociationEnded, Event
from pacs.support.sockets import host_and_port
from pacs.testing.message_log import MessageLog
from pacs.testing.received import Received, counted, number_of

if TYPE_CHECKING:
    from pydicom import Dataset

WAIT_SECONDS = 10.0
"""Default timeout in seconds."""


@dataclass(frozen=True, slots=True)
class StoredHere:
    """An instance that was received."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_ae_title: str
    move_originator: tuple[str, int] | None
    """The AE title and Message ID of the C-MOVE request that caused it."""
    data: bytes = field(repr=False)
    """The data set as received."""

    @property
    def dataset(self) -> "Dataset":
        """The data set, with the File Meta Information that pydicom needs to decode its pixels or to write it."""
        return _dataset(self)


class StorageSCP:
    """A storage SCP during a `with` block; `faults` are its faults, `received` what it received."""

    host = "127.0.0.1"

    def __init__(self, ae_title: str = "STORAGE_SCP", port: int = 0, scenario: Scenario | None = None) -> None:
        self.ae_title = ae_title
        self._log = MessageLog()
        self.received = Received(self._log)
        self._changed = threading.Condition()
        self._instances: list[StoredHere] = []
        self._interposer = Interposer(scenario, self._log)
        policy = AcceptorPolicy(transfer_syntaxes=KEPT, unknown_sop_classes=True)
        handlers: dict[int, Handler] = {CommandField.C_ECHO: _echo, CommandField.C_STORE: self._store}
        settings = self._interposer.apply(Settings(policy=policy, handlers=handlers))
        self._server = DimseServer([(self.host, port)], settings, observer=AssociationEvents(self._on_event))

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.stop()
        self._interposer.close()

    def __repr__(self) -> str:
        return f"<StorageSCP {self.address}: {number_of(self.instances, 'instance')}, {counted(self.received)}>"

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    @property
    def address(self) -> str:
        """Its full address: STORAGE_SCP@127.0.0.1:11113."""
        return f"{self.ae_title}@{host_and_port(self.host, self.port)}"

    @property
    def faults(self) -> ArmedFaults:
        """Its faults: `add(Fault(...))`, `clear()`."""
        return self._interposer.faults

    @property
    def instances(self) -> list[StoredHere]:
        """The received instances, in order of arrival."""
        with self._changed:
            return list(self._instances)

    @property
    def datasets(self) -> list["Dataset"]:
        """The data sets of the received instances, in order of arrival."""
        return [each.dataset for each in self.instances]

    def wait_for(self, count: int, seconds: float = WAIT_SECONDS) -> list[StoredHere]:
        """Return the received instances when there are this many. Raises AssertionError on timeout."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._instances) >= count, seconds):
                raise AssertionError(
                    f"{len(self._instances)} instances received within {seconds:g} s, expected {count}"
                )
            return list(self._instances)

    def clear(self) -> None:
        """Forget everything received so far."""
        with self._changed:
            self._instances.clear()
        self.received.clear()

    def _store(self, association: Association, message: Message) -> None:
        data = b"".join(map(bytes, message.fragments()))
        command = message.command
        title, message_id = command.move_originator_ae_title, command.move_originator_message_id
        stored = StoredHere(
            sop_class_uid=command.affected_sop_class_uid or "",
            sop_instance_uid=command.affected_sop_instance_uid or "",
            transfer_syntax=message.context.transfer_syntax,
            calling_ae_title=association.calling_ae_title,
            move_originator=(title, message_id) if title is not None and message_id is not None else None,
            data=data,
        )
        with self._changed:
            self._instances.append(stored)
            self._changed.notify_all()
        association.send(message.context.id, command.response(status.SUCCESS))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, AssociationEnded):
            self._log.ended(event.association, event.how, event.duration)


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
