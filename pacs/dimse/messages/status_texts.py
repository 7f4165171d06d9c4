"""What a status means that a peer answered (PS3.7 Annex C, PS3.4 B.2.3, C.4.1.1.4, C.4.2.1.5, C.4.3.1.4, J.3.2)."""

from pacs.dimse.messages.status import Service

_GENERAL = {
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
    0x0131: "Failed: the referenced SOP Class is not supported",
    0x0210: "Duplicate invocation",
    0x0211: "Unrecognized operation",
    0x0212: "Mistyped argument",
    0x0213: "Resource limitation",
    0xFE00: "Cancelled",
    0xFF00: "Pending",
    0xFF01: "Pending: optional keys are not supported",
}
"""PS3.7 Annex C."""

_STORE = {
    0xB000: "Warning: coercion of data elements",
    0xB006: "Warning: elements discarded",
    0xB007: "Warning: data set does not match SOP Class",
    0xA7: "Refused: out of resources",
    0xA9: "Error: data set does not match SOP Class",
    0xC: "Error: cannot understand",
}
_FIND = {
    0xA700: "Refused: out of resources",
    0xA900: "Error: Identifier does not match SOP Class",
    0xC: "Failed: unable to process",
}
_RETRIEVE = {
    0xA701: "Refused: out of resources, unable to calculate number of matches",
    0xA702: "Refused: out of resources, unable to perform sub-operations",
    0xA801: "Refused: move destination unknown",
    0xA900: "Error: Identifier does not match SOP Class",
    0xAA00: "Failed: none of the frames requested were found in the SOP Instance",
    0xAA01: "Failed: unable to create new object for this SOP Class",
    0xAA02: "Failed: unable to extract frames",
    0xAA03: "Failed: time-based request received for a non-time-based original SOP Instance",
    0xAA04: "Failed: invalid request",
    0xA7: "Refused: out of resources",
    0xB000: "Warning: sub-operations complete, one or more failures or warnings",
    0xC: "Failed: unable to process",
}

MEANINGS: dict[Service, dict[int, str]] = {
    Service.ECHO: {},
    Service.STORE: _STORE,
    Service.FIND: _FIND,
    Service.MOVE: _RETRIEVE,
    Service.GET: _RETRIEVE,
    Service.COMMIT: {},
}
"""By service: a status of four digits by itself, a range by the digits that it begins with."""


def meaning(service: Service, status: int) -> str:
    """What the standard calls this status of a service; what is in no table is named by its class."""
    table = MEANINGS[service] | _GENERAL
    for number in (status, status >> 8, status >> 12):
        if number in table and (number or not status):
            return table[number]
    return "Warning" if status >> 12 == 0xB else "a status that the standard does not know"
