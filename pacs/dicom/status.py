"""The status codes of DIMSE responses: their class (PS3.7 Annex C), and what they mean in each service.

PS3.7 Annex C has the general codes; PS3.4 B.2.3 those of Storage, C.4.1.1.4, C.4.2.1.5 and C.4.3.1.4 those of
Query/Retrieve. Storage commitment (PS3.4 J.3.2) uses the general codes, and 0131 of PS3.3 C.14.1.1.
"""

from enum import Enum
from typing import Literal

SUCCESS = 0x0000
CANCEL = 0xFE00
PENDING = 0xFF00
PENDING_WITH_UNSUPPORTED_KEYS = 0xFF01
COERCION = 0xB000
SUBOPERATIONS_WARNING = 0xB000
SUBOPERATIONS_FAILED = 0xA702
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORIZED = 0x0124
UNRECOGNIZED_OPERATION = 0x0211
MOVE_DESTINATION_UNKNOWN = 0xA801
IDENTIFIER_DOES_NOT_MATCH = 0xA900

StatusClass = Literal["success", "pending", "cancel", "warning", "failure"]


class Service(Enum):
    """The services whose responses carry a status."""

    ECHO = "C-ECHO"
    STORE = "C-STORE"
    FIND = "C-FIND"
    MOVE = "C-MOVE"
    GET = "C-GET"
    COMMIT = "N-ACTION"


Meanings = dict[int | range, str]

_GENERAL: Meanings = {
    0x0000: "Success",
    0x0001: "Requested optional attributes are not supported",
    0x0105: "No such attribute",
    0x0106: "Invalid attribute value",
    0x0107: "Attribute list error",
    0x0110: "Processing failure",
    0x0111: "Duplicate SOP Instance",
    0x0112: "No such SOP Instance",
    0x0113: "No such event type",
    0x0114: "No such argument",
    0x0115: "Invalid argument value",
    0x0116: "Attribute value out of range",
    0x0117: "Invalid SOP Instance",
    0x0118: "No such SOP Class",
    0x0119: "Class-instance conflict",
    0x0120: "Missing attribute",
    0x0121: "Missing attribute value",
    0x0122: "Refused: SOP Class not supported",
    0x0123: "No such action",
    0x0124: "Refused: not authorized",
    0x0210: "Duplicate invocation",
    0x0211: "Unrecognized operation",
    0x0212: "Mistyped argument",
    0x0213: "Resource limitation",
    0xFE00: "Cancelled",
    0xFF00: "Pending",
    0xFF01: "Pending: optional keys are not supported",
    range(0xB000, 0xC000): "Warning",
}

_STORE: Meanings = {
    0xB000: "Warning: coercion of data elements",
    0xB006: "Warning: elements discarded",
    0xB007: "Warning: data set does not match SOP Class",
    0x0107: _GENERAL[0x0107],
    0x0116: _GENERAL[0x0116],
    range(0xA700, 0xA800): "Refused: out of resources",
    range(0xA900, 0xAA00): "Error: data set does not match SOP Class",
    range(0xC000, 0xD000): "Error: cannot understand",
}

_FIND: Meanings = {
    0xA700: "Refused: out of resources",
    0xA900: "Error: Identifier does not match SOP Class",
    range(0xC000, 0xD000): "Failed: unable to process",
}

_RETRIEVE: Meanings = {
    0xA701: "Refused: out of resources, unable to calculate number of matches",
    0xA702: "Refused: out of resources, unable to perform sub-operations",
    0xA801: "Refused: move destination unknown",
    0xA900: "Error: Identifier does not match SOP Class",
    0xAA00: "Failed: none of the frames requested were found in the SOP Instance",
    0xAA01: "Failed: unable to create new object for this SOP Class",
    0xAA02: "Failed: unable to extract frames",
    0xAA03: "Failed: time-based request received for a non-time-based original SOP Instance",
    0xAA04: "Failed: invalid request",
    0xB000: "Warning: sub-operations complete, one or more failures or warnings",
    range(0xA700, 0xA800): "Refused: out of resources",
    range(0xC000, 0xD000): "Failed: unable to process",
}

_COMMIT: Meanings = {0x0131: "Failed: duplicate Transaction UID"}

MEANINGS: dict[Service, Meanings] = {
    Service.ECHO: {},
    Service.STORE: _STORE,
    Service.FIND: _FIND,
    Service.MOVE: _RETRIEVE,
    Service.GET: _RETRIEVE,
    Service.COMMIT: _COMMIT,
}
"""The meanings of status codes and ranges that a service defines; `_GENERAL` has those of all services."""

UNKNOWN = "a status that the standard does not know"

_WARNINGS = frozenset((0x0001, 0x0107, 0x0116))
"""The warnings outside the range Bxxx (PS3.7 C.1.3)."""


def status_class(status: int) -> StatusClass:
    """Return the class of a status (PS3.7 C.1); every status of no other class is a failure."""
    if status == SUCCESS:
        return "success"
    if status in (PENDING, PENDING_WITH_UNSUPPORTED_KEYS):
        return "pending"
    if status == CANCEL:
        return "cancel"
    return "warning" if status >> 12 == 0xB or status in _WARNINGS else "failure"


def is_failure(status: int) -> bool:
    """Return whether a status is a failure: neither success, pending, cancel nor a warning."""
    return status_class(status) == "failure"


def is_completed(status: int) -> bool:
    """Return whether a final status says that the operation was done: success, or a warning."""
    return status_class(status) in ("success", "warning")


STORE_WARNINGS = frozenset(code for code in _STORE if isinstance(code, int) and status_class(code) == "warning")
"""The statuses of a C-STORE sub-operation that count as warning (V5)."""


def meaning(service: Service, status: int) -> str:
    """Return what the standard calls a status of a service."""
    tables = MEANINGS[service], _GENERAL
    for table in tables:
        if status in table:
            return table[status]
    for table in tables:
        for codes, text in table.items():
            if isinstance(codes, range) and status in codes:
                return text
    return UNKNOWN
