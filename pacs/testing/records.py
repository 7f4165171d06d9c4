"""Records of the associations and requests that a server received."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pacs.dicom import identifier
from pacs.dimse.upper.user_information import Context, ProposedContext
from pacs.errors import PacsError


@dataclass(frozen=True, slots=True)
class Response:
    """A response, and the seconds since its request; counts are None if it has none.

    It is recorded before it is written, because a fault may end the association instead.
    """

    status: int
    after: float
    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    comment: str = ""

    def __repr__(self) -> str:
        values = [(each.name, getattr(self, each.name)) for each in fields(self)[2:]]
        more = "".join(f", {name}={value!r}" for name, value in values if value not in (None, ""))
        return f"Response(status=0x{self.status:04X}, after={self.after:.4f}{more})"


@dataclass(slots=True)
class ReceivedAssociation:
    """An association request and its result. `began` is on the monotonic clock."""

    calling_ae_title: str
    called_ae_title: str
    address: tuple[str, int]
    proposed: tuple[ProposedContext, ...]
    """The proposed presentation contexts."""
    roles: Mapping[str, tuple[bool, bool]]
    """The proposed (SCU, SCP) roles, by SOP Class UID."""
    extended: Mapping[str, bytes]
    """The proposed SOP Class Extended Negotiation, by SOP Class UID."""
    max_pdu: int
    implementation: str
    began: float
    accepted: tuple[Context, ...] = ()
    """The accepted presentation contexts."""
    rejection: tuple[int, int, int] | None = None
    """Result, source and reason of a rejection."""
    ended_by: str | None = None
    """How it ended: "A-RELEASE", "A-ABORT", "connection lost", "rejected"...; None before its end."""
    duration: float | None = None
    """Duration in seconds, None before its end."""
    id: str = ""


@dataclass(slots=True)
class ReceivedRequest:
    """A request and its responses so far. `began` is on the monotonic clock."""

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
    """The Identifier of a C-FIND, C-MOVE or C-GET, or the information of an N-ACTION, as received."""
    responses: list[Response] = field(default_factory=list)
    is_over: bool = False
    cancelled: bool = False
    """Whether a C-CANCEL arrived, even if it was ignored."""

    @property
    def calling_ae_title(self) -> str:
        """The calling AE title of its association."""
        return self.association.calling_ae_title

    @property
    def keys(self) -> dict[str, Any]:
        """The Identifier by keyword: texts as received, '' for universal matching, lists for sequences.

        Empty for a request without an Identifier.
        """
        if not self.data:
            return {}
        try:
            dataset = identifier.decode(self.data, self.transfer_syntax)
        except PacsError:
            return {}
        stated = identifier.key_values(dataset)
        keywords = [each.keyword or f"{each.tag:08X}" for each in dataset]
        return {keyword: stated.get(keyword, "") for keyword in keywords}

    @property
    def level(self) -> str:
        """The Query/Retrieve Level, '' if there is none."""
        return str(self.keys.get("QueryRetrieveLevel", ""))

    @property
    def status(self) -> int | None:
        """The status of the last response, None before the first."""
        return self.responses[-1].status if self.responses else None

    @property
    def duration(self) -> float | None:
        """Seconds from the request to its last response, None before the first."""
        return self.responses[-1].after if self.responses else None

    @property
    def first_response(self) -> float | None:
        """Seconds from the request to its first response, None before the first."""
        return self.responses[0].after if self.responses else None
