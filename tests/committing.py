"""A requestor of storage commitment that receives reports on both kinds of association, with pynetdicom."""

import queue
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF

from pacs.testing import uid
from tests.programs import free_port

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"

SECONDS = 20
"""Seconds until a missing report fails the test."""


def action(references: Iterable[tuple[str, str]], transaction: str = "1.2.3.4") -> Dataset:
    """Return the Action Information for instances, given as (SOP Class UID, SOP Instance UID)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence = [referenced(*each) for each in references]
    return dataset


def referenced(sop_class: str, instance: str) -> Dataset:
    """Return an item of Referenced SOP Sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


def references(datasets: Iterable[Dataset]) -> list[tuple[str, str]]:
    """Return the references to data sets."""
    return [(each.SOPClassUID, each.SOPInstanceUID) for each in datasets]


@dataclass(frozen=True)
class Told:
    """A received report: the kind of its association, its Event Type ID and its data set."""

    is_same: bool
    calling: str
    event_type: int
    dataset: Dataset

    @property
    def transaction(self) -> str:
        """The Transaction UID."""
        return self.dataset.TransactionUID

    @property
    def committed(self) -> list[tuple[str, str]]:
        """SOP Class UID and SOP Instance UID of each item of Referenced SOP Sequence."""
        return [_pair(each) for each in self.dataset.get("ReferencedSOPSequence", [])]

    @property
    def failed(self) -> list[tuple[str, str, int]]:
        """SOP Class UID, SOP Instance UID and Failure Reason of each item of Failed SOP Sequence."""
        return [(*_pair(each), each.FailureReason) for each in self.dataset.get("FailedSOPSequence", [])]


def _pair(item: Dataset) -> tuple[str, str]:
    return str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)


@dataclass
class Requester:
    """An AE that requests storage commitment, and can listen for reports; `answers` are its response statuses.

    Without any answer left it is 0000.
    """

    port: int
    ae_title: str = "REQUESTER"
    answers: list[int] = field(default_factory=list)
    accepts_role: bool = True
    roles: str = "strict"
    reports: "queue.Queue[Told]" = field(default_factory=queue.Queue)

    @property
    def row(self) -> dict[str, object]:
        """The [[peers]] entry of the requestor."""
        return {"ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port, "roles": self.roles}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive reports on associations to the requestor."""
        ae = AE(self.ae_title)
        if self.accepts_role:
            ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        else:
            ae.add_supported_context(PUSH_MODEL)
        listener = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=self._handlers(same=False))
        try:
            yield
        finally:
            listener.shutdown()

    @contextmanager
    def associated(self, port: int):
        """An association for requests, on which reports are received as well."""
        ae = AE(self.ae_title)
        ae.add_requested_context(PUSH_MODEL)
        ae.add_requested_context(CT)
        association = ae.associate("127.0.0.1", port, ae_title="PACS", evt_handlers=self._handlers(same=True))
        assert association.is_established
        try:
            yield association
        finally:
            association.release()

    def ask(self, port: int, asked: Iterable[tuple[str, str]], transaction: str = "1.2.3.4") -> int:
        """Send a request on an association that is released immediately; return the status."""
        with self.associated(port) as association:
            return request(association, asked, transaction)

    def report(self) -> Told:
        """Return the next report; fail the test if there is none."""
        return self.reports.get(timeout=SECONDS)

    def _handlers(self, *, same: bool):
        answering: deque[Told] = deque()

        def told(event):
            calling = event.assoc.requestor.ae_title
            answering.append(Told(same, calling, event.event_type, event.event_information))
            return (self.answers.pop(0) if self.answers else 0x0000), None

        def sent(event):
            # Only now, because pynetdicom cannot respond on an association that the test has begun to release.
            while isinstance(event.pdu, P_DATA_TF) and answering:
                self.reports.put(answering.popleft())

        return [(evt.EVT_N_EVENT_REPORT, told), (evt.EVT_PDU_SENT, sent)]


def request(association, asked: Iterable[tuple[str, str]], transaction: str = "1.2.3.4") -> int:
    """Send a request on an association of pynetdicom; return the status."""
    status, _ = association.send_n_action(action(asked, transaction), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    return status.Status


def requester(**options) -> Requester:
    """A requestor that does not listen yet."""
    return Requester(free_port(), **options)


def some_uid(number: int) -> str:
    """Return a UID of no stored instance."""
    return uid(f"nowhere {number}")
