"""Observes the associations of a server; tests use it to record messages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command
from pacs.dimse.messages.message import Message
from pacs.dimse.upper.rejections import Rejection
from pacs.dimse.upper.user_information import Agreement, ProposedContext

OnResponse = Callable[[Command | None], None]
"""Called with each response to one request before it is sent, and with None at the end of the operation."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class AssociationRequest:
    """An association request (PS3.8 9.3.2) in plain values, compared by identity.

    `roles` are (SCU, SCP) by SOP Class UID.
    """

    calling_ae_title: str
    called_ae_title: str
    address: tuple[str, int]
    contexts: tuple[ProposedContext, ...]
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    max_pdu: int = 0
    implementation: str = ""


class Observer(Protocol):
    """Receives events in the thread in which they happen."""

    def answered(self, requested: AssociationRequest, answer: Agreement | Rejection | None) -> None:
        """Called before a request is answered; None means no answer. Called again if the answer changes."""

    def associated(self, requested: AssociationRequest, association: Association) -> None:
        """Called when a request has become an association."""

    def request(self, association: Association, message: Message, data: bytes) -> OnResponse:
        """Called for each request; `data` is a small data set such as an Identifier, otherwise empty."""

    def cancelled(self, association: Association, message_id: int) -> None:
        """Called for each C-CANCEL, whether it is ignored or not."""


class NullObserver:
    """An observer that does nothing."""

    def answered(self, requested: AssociationRequest, answer: Agreement | Rejection | None) -> None:
        """Do nothing."""

    def associated(self, requested: AssociationRequest, association: Association) -> None:
        """Do nothing."""

    def request(self, _association: Association, _message: Message, _data: bytes) -> OnResponse:
        """Do nothing."""
        return lambda _command: None

    def cancelled(self, association: Association, message_id: int) -> None:
        """Do nothing."""
