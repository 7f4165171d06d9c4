"""The checks detect deviations that a relay inserts between them and a conformant server."""

import struct

import pytest

from pacs.conformance.checks import wire
from pacs.conformance.checks.negotiation import UNKNOWN_UID
from pacs.conformance.checks.results import ResultKind
from pacs.conformance.checks.runner import CHECKS
from pacs.conformance.checks.sample_data import SC, SampleData
from pacs.conformance.checks.toolkit import identifier
from pacs.conformance.checks.wire import C_CANCEL, C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, DimseMessage, item
from tests.conformance.relay import (
    Changes,
    add_data,
    change_data,
    drop,
    duplicate,
    edit,
    is_final,
    is_pending,
    is_request,
    relaying,
    set_element,
    when,
)

SPECIMENS = SampleData()
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def accepts(change):
    """Change the A-ASSOCIATE-AC."""
    return Changes(pdu=lambda kind, body: (kind, change(body) if kind == wire.ASSOCIATE_AC else body))


def with_item(kind, body):
    """Add a user information sub-item to the A-ASSOCIATE-AC."""

    def change(accept):
        at = accept.rindex(b"\x50\x00", 0, accept.index(b"\x51\x00"))
        length = struct.unpack_from(">H", accept, at + 2)[0] + len(item(kind, body))
        return accept[: at + 2] + struct.pack(">H", length) + accept[at + 4 :] + item(kind, body)

    return change


def extended(body):
    """Add extended negotiation for Study Root FIND."""
    return with_item(0x56, wire.extended_negotiation(FIND, body)[4:])


def results(change):
    """Change the result of each presentation context by a function of ID and result."""

    def changed(accept):
        kept, inner = accept[:68], b""
        for kind, body in wire.items(accept[68:]):
            new = body[:2] + bytes((change(body[0], body[2]),)) + body[3:] if kind == 0x21 else body
            inner += item(kind, new)
        return kept + inner

    return accepts(changed)


def without_last_context(accept):
    """Remove the last presentation context."""
    found = list(wire.items(accept[68:]))
    last = max(place for place, (kind, _) in enumerate(found) if kind == 0x21)
    return accept[:68] + b"".join(item(*each) for place, each in enumerate(found) if place != last)


def other_syntax(accept):
    """Accept every context in Implicit VR Little Endian."""
    body = b""
    for kind, inner in wire.items(accept[68:]):
        body += item(kind, inner[:4] + item(0x40, wire.IMPLICIT.encode()) if kind == 0x21 else inner)
    return accept[:68] + body


def no_abort(kind, body):
    """Close the connection instead of sending A-ABORT."""
    return None if kind == wire.ABORT else (kind, body)


def without(keyword):
    """Remove the value of a key from requests, so that the server does not match it."""
    return Changes(requests=when(is_request(C_FIND), edit(**{keyword: ""})))


def matches(change):
    """Change the matches of a C-FIND."""
    return Changes(answers=when(is_pending(C_FIND), change))


def ends(kind, change):
    """Change the final response of a service."""
    return Changes(answers=when(is_final(kind), change))


def no_match(label):
    """Drop the match of a study."""
    uid = SPECIMENS.uid(label).encode()
    return Changes(answers=when(lambda each: is_pending(C_FIND)(each) and _study(each) == uid, drop))


def _study(message: DimseMessage) -> bytes:
    return str(wire.decoded(message.data).get("StudyInstanceUID", "")).encode()


def of_series(change):
    """Change the matches at SERIES level."""
    return Changes(answers=when(lambda each: is_pending(C_FIND)(each) and b"SERIES" in (each.data or b""), change))


def also(study):
    """Add another study to the matches."""

    def change(message: DimseMessage) -> list[DimseMessage]:
        dataset = wire.decoded(message.data)
        dataset.StudyInstanceUID = SPECIMENS.uid(study)
        return [message, DimseMessage(message.elements, message.context, wire.encoded(dataset))]

    return matches(change)


def failing(message: DimseMessage) -> DimseMessage:
    """Replace the final status by Success without a failed list."""
    final = set_element(wire.DATA_SET_TYPE, wire.NO_DATA_SET)(set_element(wire.STATUS, 0)(message))
    return DimseMessage(final.elements, final.context)


def no_list(message: DimseMessage) -> DimseMessage:
    """Remove the failed list."""
    return DimseMessage(set_element(wire.DATA_SET_TYPE, wire.NO_DATA_SET)(message).elements, message.context)


def pixels(data: bytes) -> bytes:
    """Change the last byte of a data set."""
    return data[:-1] + bytes((data[-1] ^ 1,))


def refuses(status: int):
    """Return a condition: a response with this status."""
    return lambda message: bool(message.field & wire.RESPONSE) and message.status == status


IMAGE = identifier({"SOPInstanceUID": SPECIMENS.uid("9", 1, 1)}, level="IMAGE")
NO_CANCEL = Changes(requests=when(is_request(C_CANCEL), drop))
SUCCESS = Changes(answers=when(lambda each: bool(each.field & wire.RESPONSE), set_element(wire.STATUS, 0)))

DEVIATIONS = {
    "N1": ends(C_ECHO, set_element(wire.STATUS, 0x0110)),
    "N2": results(lambda _, result: 0),
    "N3": results(lambda _, result: 0),
    "N4": accepts(without_last_context),
    "N5": accepts(other_syntax),
    "N7": accepts(lambda accept: accept.replace(FIND.encode() + b"\x01", FIND.encode() + b"\x02")),
    "N8": accepts(extended(b"\x01")),
    "N9": accepts(lambda accept: accept.replace(FIND.encode() + b"\x01", FIND.encode() + b"\x02")),
    "N10": accepts(lambda accept: accept.replace(FIND.encode() + bytes(7), FIND.encode() + b"\x01" * 7)),
    "N11": Changes(piece=5000),
    "N12": ends(C_ECHO, set_element(wire.STATUS, 0x0211)),
    "N14": accepts(lambda accept: accept.replace(SC.encode() + b"\x01\x00", SC.encode() + b"\x01\x01")),
    "N15": accepts(lambda accept: accept.replace(b"\x53\x00\x00\x04\x00\x05", b"\x53\x00\x00\x04\x00\x09")),
    "N16": accepts(with_item(0x59, b"\x00\x00")),
    "N18": Changes(
        offer=lambda body: body.replace(item(0x10, UNKNOWN_UID.encode()), item(0x10, b"1.2.840.10008.3.1.1.1"))
    ),
    "N19": Changes(offer=lambda body: b"\x00\x01" + body[2:]),
    "N20": Changes(pdu=no_abort),
    "N21": Changes(pdu=no_abort),
    "N22": Changes(pdu=lambda kind, body: (wire.ABORT if kind == wire.RELEASE_RP else kind, body)),
    "S1": Changes(answers=when(refuses(0xA900), set_element(wire.STATUS, 0xFE00))),
    "S2": Changes(answers=when(refuses(0xA901), set_element(wire.STATUS, 0xFE00))),
    "S3": Changes(answers=when(refuses(0xC000), set_element(wire.STATUS, 0))),
    "S6": matches(duplicate),
    "S7": matches(duplicate),
    "S9": ends(C_STORE, set_element(wire.SOP_INSTANCE, "1.2.3")),
    "S10": Changes(answers=when(is_request(C_STORE), change_data(pixels))),
    "S11": Changes(
        answers=when(is_request(C_STORE), change_data(lambda data: data.replace(b"Pacsrun^Rle", b"Pacsrun^Elr")))
    ),
    "S12": Changes(answers=when(is_request(C_STORE), change_data(lambda data: data.replace(b"\x1b$B", b"\x1b$@")))),
    "F1": Changes(requests=when(is_request(C_FIND), edit(QueryRetrieveLevel="STUDY"))),
    "F2": Changes(requests=when(is_request(C_FIND), edit(QueryRetrieveLevel="STUDY", StudyInstanceUID=""))),
    "F4b": matches(drop),
    "F6": matches(edit(AccessionNumber=None)),
    "F6b": matches(edit(PatientSex="O")),
    "F6c": matches(edit(QueryRetrieveLevel=None)),
    "F6d": matches(edit(StudyInstanceUID=None)),
    "F6e": matches(edit(RetrieveAETitle=None)),
    "F6f": matches(edit(PatientID=None)),
    "F8c": matches(set_element(wire.STATUS, 0xFF01)),
    "F7": of_series(duplicate),
    "F7b": matches(duplicate),
    "F8": ends(C_FIND, add_data(IMAGE)),
    "F9": SUCCESS,
    "K1": matches(edit(SeriesInstanceUID=SPECIMENS.uid("1", 1))),
    "K2": no_match("3"),
    "K3": matches(edit(StudyDescription=None)),
    "K3b": matches(set_element(wire.STATUS, 0xFF00)),
    "K5": matches(edit(NumberOfStudyRelatedInstances="2")),
    "M1": without("AccessionNumber"),
    "M1b": no_match("1"),
    "M1c": no_match("2"),
    "M1d": without("StudyDate"),
    "M2": no_match("1"),
    "M2b": no_match("2"),
    "M3": no_match("4"),
    "M3b": no_match("4"),
    "M4": no_match("3"),
    "M4b": matches(edit(ModalitiesInStudy="MR")),
    "M5": without("StudyID"),
    "M5b": also("1"),
    "M5c": no_match("3"),
    "M5d": also("4"),
    "M5f": no_match("1"),
    "M6": without("StudyDate"),
    "M6b": without("StudyTime"),
    "M6c": without("StudyDate"),
    "M7": without("StudyTime"),
    "M7b": without("StudyTime"),
    "M9b": also("1"),
    "M10b": no_match("2"),
    "M13": matches(edit(SeriesInstanceUID=SPECIMENS.uid("1", 2))),
    "M14": no_match("6"),
    "M14b": no_match("6"),
    "M14c": matches(edit(SpecificCharacterSet=None)),
    "M14e": no_match("7"),
    "M14f": no_match("6"),
    "M15b": no_match("5"),
    "M16": no_match("4"),
    "M17": matches(set_element(wire.STATUS, 0xFF00)),
    "M18b": no_match("1"),
    "V1b": Changes(requests=when(is_request(C_MOVE), edit(StudyInstanceUID=SPECIMENS.uid("1")))),
    "V2": Changes(answers=when(refuses(0xA801), set_element(wire.STATUS, 0xC000))),
    "V4": ends(C_MOVE, no_list),
    "V4b": Changes(answers=when(refuses(0xA702), set_element(wire.STATUS, 0xA801))),
    "V5": Changes(answers=when(is_pending(C_MOVE), set_element(wire.REMAINING, 0))),
    "V5b": Changes(answers=when(refuses(0xB000), set_element(wire.STATUS, 0))),
    "V5c": ends(C_MOVE, failing),
    "V6": ends(C_MOVE, set_element(wire.REMAINING, 0)),
    "V6b": Changes(answers=when(is_pending(C_MOVE), set_element(wire.FAILED, None))),
    "V6c": Changes(answers=when(refuses(0xB000), edit(SpecificCharacterSet="ISO_IR 100"))),
    "V9": ends(C_MOVE, failing),
    "G1": Changes(answers=when(is_request(C_STORE), set_element(wire.SOP_INSTANCE, "1.2.3"))),
    "G2": Changes(answers=when(is_pending(C_GET), set_element(wire.REMAINING, 0))),
    "G3": ends(C_GET, set_element(wire.REMAINING, 0)),
    "G4": ends(C_GET, failing),
    "G6": ends(C_GET, failing),
    "G7": ends(C_GET, set_element(wire.STATUS, 0)),
    "G8": ends(C_GET, no_list),
    "G9": Changes(answers=when(is_request(C_STORE), set_element(wire.ORIGINATOR, "PACS"))),
    "X1": NO_CANCEL,
    "X2": Changes(answers=when(refuses(0xFE00), add_data(IMAGE))),
    "X3": Changes(answers=when(is_final(C_FIND), set_element(wire.STATUS, 0xC000))),
    "X4": Changes(answers=when(is_final(C_FIND), set_element(wire.STATUS, 0xC000))),
    "X5": ends(C_FIND, set_element(wire.STATUS, 0xFE00)),
    "X6": NO_CANCEL,
    "X7": NO_CANCEL,
    "J1": Changes(answers=when(is_request(wire.N_EVENT_REPORT), set_element(wire.EVENT_TYPE, 2))),
    "J2": Changes(answers=when(is_request(wire.N_EVENT_REPORT), edit(FailedSOPSequence=None))),
}
"""Changes between the checks and the server, by the check that must detect them."""

DEVIATIONS_BEHIND = {
    "V8": Changes(requests=when(is_request(C_STORE), set_element(wire.ORIGINATOR, "PACS"))),
    "V8b": Changes(requests=when(is_request(C_STORE), set_element(wire.PRIORITY, 0))),
}
"""Changes between the server and our storage SCP."""


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_is_detected(strict, name):
    """Without the change the same check conforms (see test_own_server)."""
    with relaying(strict.port, DEVIATIONS[name]) as relay:
        result = strict.result(name, port=relay.port, timeout=1.5)
    assert result.kind is ResultKind.DEVIATES, result
    assert result.seen


@pytest.mark.parametrize("name", DEVIATIONS_BEHIND)
def test_a_deviation_towards_the_destination_is_detected(strict, name):
    """In what the server sends to the move destination."""
    with relaying(strict.receiving + 1, DEVIATIONS_BEHIND[name], strict.receiving):
        result = strict.result(name, receiving=strict.receiving + 1)
    assert result.kind is ResultKind.DEVIATES, result


def test_every_theme_has_a_detected_deviation():
    """So that no theme conforms by mistake."""
    covered = {check.theme for check in CHECKS if check.id in DEVIATIONS.keys() | DEVIATIONS_BEHIND.keys()}
    assert covered == {check.theme for check in CHECKS}
