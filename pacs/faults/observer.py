"""Who sees what comes and goes on the associations of a server: nobody, unless a test does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pacs.dimse.association.association import Association
from pacs.dimse.messages.command import Command
from pacs.dimse.messages.message import Message
from pacs.dimse.upper.rejections import Rejection
from pacs.dimse.upper.user_information import Agreement

Told = Callable[[Command | None], None]
"""Hears of every response to one request when it goes out, and None when its operation is over."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A presentation context as it was proposed."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Requested:
    """An association request (PS3.8 9.3.2), in plain values; each is itself alone, whatever another one says.

    `roles` are (SCU, SCP) by SOP Class UID.
    """

    calling_ae_title: str
    called_ae_title: str
    address: tuple[str, int]
    contexts: tuple[Proposed, ...]
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    max_pdu: int = 0
    implementation: str = ""


class Witness(Protocol):
    """Is told what happens, in the thread in which it does."""

    def answered(self, requested: Requested, answer: Agreement | Rejection | None) -> None:
        """A request is about to be answered so, None where it will not be; told again where that changes."""

    def associated(self, requested: Requested, association: Association) -> None:
        """A request became an association."""

    def request(self, association: Association, message: Message, data: bytes) -> Told:
        """A request came; `data` is its data set where that is an Identifier or the like, else empty."""

    def cancelled(self, association: Association, message_id: int) -> None:
        """A C-CANCEL came, be it heeded or not."""


class Nobody:
    """A witness that looks away."""

    def answered(self, requested: Requested, answer: Agreement | Rejection | None) -> None:
        """Nothing is noted."""

    def associated(self, requested: Requested, association: Association) -> None:
        """Nothing is noted."""

    def request(self, _association: Association, _message: Message, _data: bytes) -> Told:
        """Nothing is noted."""
        return lambda _command: None

    def cancelled(self, association: Association, message_id: int) -> None:
        """Nothing is noted."""
