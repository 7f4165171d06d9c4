"""Associations and requests that came to a server, as a test looks at them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pacs.dicom import identifier
from pacs.dimse.upper.user_information import Context
from pacs.errors import PacsError
from pacs.faults.observer import Proposed


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it goes out, so many seconds after its request had come; counts are None where it has none.

    It is noted before it is written: a fault that counts PDUs may end the association instead.
    """

    status: int
    after: float
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    comment: str = ""

    def __repr__(self) -> str:
        said = [(each.name, getattr(self, each.name)) for each in fields(self)[2:]]
        more = "".join(f", {name}={value!r}" for name, value in said if value not in (None, ""))
        return f"Response(status=0x{self.status:04X}, after={self.after:.4f}{more})"


@dataclass(slots=True)
class ReceivedAssociation:
    """An association that was asked for. `began` is on the monotonic clock."""

    calling_ae_title: str
    called_ae_title: str
    address: tuple[str, int]
    proposed: tuple[Proposed, ...]
    """The presentation contexts that were proposed."""
    roles: Mapping[str, tuple[bool, bool]]
    """The (SCU, SCP) roles that were proposed, by SOP Class UID."""
    extended: Mapping[str, bytes]
    """The SOP Class Extended Negotiation that was proposed, by SOP Class UID."""
    max_pdu: int
    implementation: str
    began: float
    accepted: tuple[Context, ...] = ()
    """The presentation contexts that were accepted."""
    rejection: tuple[int, int, int] | None = None
    """Result, source and reason, where it was rejected."""
    ended_by: str | None = None
    """How it ended: "A-RELEASE", "A-ABORT", "connection lost", "rejected"...; None while it has not."""
    duration: float | None = None
    """Seconds, once it has ended."""
    id: str = ""


@dataclass(slots=True)
class ReceivedRequest:
    """A request, and how it was answered so far. `began` is on the monotonic clock."""

    operation: str
    association: ReceivedAssociation = field(repr=False)
    message_id: int
    sop_class_uid: str
    transfer_syntax: str
    priority: int | None
    began: float
    sop_instance_uid: str = ""
    destination: str = ""
    """The move destination."""
    data: bytes = field(default=b"", repr=False)
    """The Identifier of a C-FIND, C-MOVE or C-GET, or the information of an N-ACTION, as it came."""
    responses: list[Response] = field(default_factory=list)
    is_over: bool = False
    cancelled: bool = False
    """Whether a C-CANCEL came for it, heeded or not."""

    @property
    def calling_ae_title(self) -> str:
        """Whose request it is."""
        return self.association.calling_ae_title

    @property
    def keys(self) -> dict[str, Any]:
        """The Identifier by keyword: texts as they were sent, '' for universal matching, lists for sequences.

        Empty for what is no Identifier.
        """
        if not self.data:
            return {}
        try:
            dataset = identifier.decode(self.data, self.transfer_syntax)
        except PacsError:
            return {}
        stated = identifier.key_values(dataset)
        asked = [each.keyword or f"{each.tag:08X}" for each in dataset]
        return {keyword: stated.get(keyword, "") for keyword in asked}

    @property
    def level(self) -> str:
        """The Query/Retrieve Level, '' for none."""
        return str(self.keys.get("QueryRetrieveLevel", ""))

    @property
    def status(self) -> int | None:
        """The status of the last response, None where there was none."""
        return self.responses[-1].status if self.responses else None

    @property
    def duration(self) -> float | None:
        """Seconds from the request to its last response, None where there was none."""
        return self.responses[-1].after if self.responses else None

    @property
    def first_response(self) -> float | None:
        """Seconds from the request to its first response, None where there was none."""
        return self.responses[0].after if self.responses else None
