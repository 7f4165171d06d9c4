"""Every family of checks sees the deviations that a relay plants into what a server does that has none."""

import struct

import pytest

from pacs.conformance.checks import CHECKS, Kind, wire
from pacs.conformance.checks.bench import identifier
from pacs.conformance.checks.negotiation import UNKNOWN_UID
from pacs.conformance.checks.specimens import SC, Specimens
from pacs.conformance.checks.wire import C_CANCEL, C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, Message
from tests.conformance.tampering import (
    Plant,
    edited,
    holds,
    is_final,
    is_pending,
    is_request,
    lost,
    relaying,
    says,
    twice,
    when,
    with_data,
)
from tests.raw import item

SPECIMENS = Specimens()
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def accepts(change):
    """A plant in the A-ASSOCIATE-AC."""
    return Plant(pdu=lambda kind, body: (kind, change(body) if kind == wire.ASSOCIATE_AC else body))


def with_item(kind, body):
    """A further user information sub-item in the A-ASSOCIATE-AC."""

    def change(accept):
        at = accept.rindex(b"\x50\x00", 0, accept.index(b"\x51\x00"))
        length = struct.unpack_from(">H", accept, at + 2)[0] + len(item(kind, body))
        return accept[: at + 2] + struct.pack(">H", length) + accept[at + 4 :] + item(kind, body)

    return change


def extended(body):
    """The sub-item of extended negotiation for Study Root FIND."""
    return with_item(0x56, struct.pack(">H", len(FIND)) + FIND.encode() + body)


def results(change):
    """The result of each presentation context, changed by (ID, result)."""

    def changed(accept):
        kept, inner = accept[:68], b""
        for kind, body in wire.items(accept[68:]):
            new = body[:2] + bytes((change(body[0], body[2]),)) + body[3:] if kind == 0x21 else body
            inner += item(kind, new)
        return kept + inner

    return accepts(changed)


def without_last_context(accept):
    """One presentation context less in the answer."""
    found = list(wire.items(accept[68:]))
    last = max(place for place, (kind, _) in enumerate(found) if kind == 0x21)
    return accept[:68] + b"".join(item(*each) for place, each in enumerate(found) if place != last)


def other_syntax(accept):
    """Accepts Implicit VR Little Endian whatever was proposed."""
    body = b""
    for kind, inner in wire.items(accept[68:]):
        body += item(kind, inner[:4] + item(0x40, wire.IMPLICIT.encode()) if kind == 0x21 else inner)
    return accept[:68] + body


def no_abort(kind, body):
    """Closes instead of A-ABORT."""
    return None if kind == wire.ABORT else (kind, body)


def without(keyword):
    """Requests lose a key's value: the server does not match it."""
    return Plant(requests=when(is_request(C_FIND), edited(**{keyword: ""})))


def matches(change):
    """A plant in the matches of a C-FIND."""
    return Plant(answers=when(is_pending(C_FIND), change))


def ends(kind, change):
    """A plant in the final response of a service."""
    return Plant(answers=when(is_final(kind), change))


def no_match(label):
    """The match of a study gets lost."""
    uid = SPECIMENS.uid(label).encode()
    return Plant(answers=when(lambda each: is_pending(C_FIND)(each) and _study(each) == uid, lost))


def _study(message: Message) -> bytes:
    return str(wire.decoded(message.data).get("StudyInstanceUID", "")).encode()


def of_series(change):
    """A plant in the matches at SERIES."""
    return Plant(answers=when(lambda each: is_pending(C_FIND)(each) and b"SERIES" in (each.data or b""), change))


def also(study):
    """Every query of studies also finds another one."""

    def change(message: Message) -> list[Message]:
        dataset = wire.decoded(message.data)
        dataset.StudyInstanceUID = SPECIMENS.uid(study)
        return [message, Message(message.elements, message.context, wire.encoded(dataset))]

    return matches(change)


def failing(message: Message) -> Message:
    """B000 becomes Success, and its failed list gets lost."""
    final = says(wire.DATA_SET_TYPE, wire.NO_DATA_SET)(says(wire.STATUS, 0)(message))
    return Message(final.elements, final.context)


def no_list(message: Message) -> Message:
    """The failed list gets lost."""
    return Message(says(wire.DATA_SET_TYPE, wire.NO_DATA_SET)(message).elements, message.context)


def pixels(data: bytes) -> bytes:
    """The last byte of a data set is another."""
    return data[:-1] + bytes((data[-1] ^ 1,))


def refuses(status: int):
    """Whether a message ends an operation with this status."""
    return lambda message: bool(message.field & wire.RESPONSE) and message.status == status


IMAGE = identifier({"SOPInstanceUID": SPECIMENS.uid("9", 1, 1)}, level="IMAGE")
NO_CANCEL = Plant(requests=when(is_request(C_CANCEL), lost))
SUCCESS = Plant(answers=when(lambda each: bool(each.field & wire.RESPONSE), says(wire.STATUS, 0)))

PLANTED = {
    "N1": ends(C_ECHO, says(wire.STATUS, 0x0110)),
    "N2": results(lambda _, result: 0),
    "N3": results(lambda _, result: 0),
    "N4": accepts(without_last_context),
    "N5": accepts(other_syntax),
    "N7": accepts(lambda accept: accept.replace(FIND.encode() + b"\x01", FIND.encode() + b"\x02")),
    "N8": accepts(extended(b"\x01")),
    "N9": accepts(lambda accept: accept.replace(FIND.encode() + b"\x01", FIND.encode() + b"\x02")),
    "N10": accepts(lambda accept: accept.replace(FIND.encode() + bytes(7), FIND.encode() + b"\x01" * 7)),
    "N11": Plant(piece=5000),
    "N12": ends(C_ECHO, says(wire.STATUS, 0x0211)),
    "N14": accepts(lambda accept: accept.replace(SC.encode() + b"\x01\x00", SC.encode() + b"\x01\x01")),
    "N15": accepts(lambda accept: accept.replace(b"\x53\x00\x00\x04\x00\x01", b"\x53\x00\x00\x04\x00\x09")),
    "N16": accepts(with_item(0x59, b"\x00\x00")),
    "N18": Plant(
        offer=lambda body: body.replace(item(0x10, UNKNOWN_UID.encode()), item(0x10, b"1.2.840.10008.3.1.1.1"))
    ),
    "N19": Plant(offer=lambda body: b"\x00\x01" + body[2:]),
    "N20": Plant(pdu=no_abort),
    "N21": Plant(pdu=no_abort),
    "N22": Plant(pdu=lambda kind, body: (wire.ABORT if kind == wire.RELEASE_RP else kind, body)),
    "S1": Plant(answers=when(refuses(0xA900), says(wire.STATUS, 0xFE00))),
    "S2": Plant(answers=when(refuses(0xA901), says(wire.STATUS, 0xFE00))),
    "S3": Plant(answers=when(refuses(0xC000), says(wire.STATUS, 0))),
    "S6": matches(twice),
    "S7": matches(twice),
    "S9": ends(C_STORE, says(wire.SOP_INSTANCE, "1.2.3")),
    "S10": Plant(answers=when(is_request(C_STORE), holds(pixels))),
    "S11": Plant(answers=when(is_request(C_STORE), holds(lambda data: data.replace(b"Pacsrun^Rle", b"Pacsrun^Elr")))),
    "S12": Plant(answers=when(is_request(C_STORE), holds(lambda data: data.replace(b"\x1b$B", b"\x1b$@")))),
    "F1": Plant(requests=when(is_request(C_FIND), edited(QueryRetrieveLevel="STUDY"))),
    "F2": Plant(requests=when(is_request(C_FIND), edited(QueryRetrieveLevel="STUDY", StudyInstanceUID=""))),
    "F4b": matches(lost),
    "F6": matches(edited(AccessionNumber=None)),
    "F6b": matches(edited(PatientSex="O")),
    "F6c": matches(edited(QueryRetrieveLevel=None)),
    "F6d": matches(edited(StudyInstanceUID=None)),
    "F6e": matches(edited(RetrieveAETitle=None)),
    "F6f": matches(edited(PatientID=None)),
    "F8c": matches(says(wire.STATUS, 0xFF01)),
    "F7": of_series(twice),
    "F7b": matches(twice),
    "F8": ends(C_FIND, with_data(IMAGE)),
    "F9": SUCCESS,
    "K1": matches(edited(SeriesInstanceUID=SPECIMENS.uid("1", 1))),
    "K2": no_match("3"),
    "K3": matches(edited(StudyDescription=None)),
    "K3b": matches(says(wire.STATUS, 0xFF00)),
    "K5": matches(edited(NumberOfStudyRelatedInstances="2")),
    "M1": without("AccessionNumber"),
    "M1b": no_match("1"),
    "M1c": no_match("2"),
    "M1d": without("StudyDate"),
    "M2": no_match("1"),
    "M2b": no_match("2"),
    "M3": no_match("4"),
    "M3b": no_match("4"),
    "M4": no_match("3"),
    "M4b": matches(edited(ModalitiesInStudy="MR")),
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
    "M13": matches(edited(SeriesInstanceUID=SPECIMENS.uid("1", 2))),
    "M14": no_match("6"),
    "M14b": no_match("6"),
    "M14c": matches(edited(SpecificCharacterSet=None)),
    "M14e": no_match("7"),
    "M14f": no_match("6"),
    "M15b": no_match("5"),
    "M16": no_match("4"),
    "M17": matches(says(wire.STATUS, 0xFF00)),
    "M18b": no_match("1"),
    "V1b": Plant(requests=when(is_request(C_MOVE), edited(StudyInstanceUID=SPECIMENS.uid("1")))),
    "V2": Plant(answers=when(refuses(0xA801), says(wire.STATUS, 0xC000))),
    "V4": ends(C_MOVE, no_list),
    "V4b": Plant(answers=when(refuses(0xA702), says(wire.STATUS, 0xA801))),
    "V5": Plant(answers=when(is_pending(C_MOVE), says(wire.REMAINING, 0))),
    "V5b": Plant(answers=when(refuses(0xB000), says(wire.STATUS, 0))),
    "V5c": ends(C_MOVE, failing),
    "V6": ends(C_MOVE, says(wire.REMAINING, 0)),
    "V6b": Plant(answers=when(is_pending(C_MOVE), says(wire.FAILED, None))),
    "V6c": Plant(answers=when(refuses(0xB000), edited(SpecificCharacterSet="ISO_IR 100"))),
    "V9": ends(C_MOVE, failing),
    "G1": Plant(answers=when(is_request(C_STORE), says(wire.SOP_INSTANCE, "1.2.3"))),
    "G2": Plant(answers=when(is_pending(C_GET), says(wire.REMAINING, 0))),
    "G3": ends(C_GET, says(wire.REMAINING, 0)),
    "G4": ends(C_GET, failing),
    "G6": ends(C_GET, failing),
    "G7": ends(C_GET, says(wire.STATUS, 0)),
    "G8": ends(C_GET, no_list),
    "G9": Plant(answers=when(is_request(C_STORE), says(wire.ORIGINATOR, "PACS"))),
    "X1": NO_CANCEL,
    "X2": Plant(answers=when(refuses(0xFE00), with_data(IMAGE))),
    "X3": Plant(answers=when(is_final(C_FIND), says(wire.STATUS, 0xC000))),
    "X4": Plant(answers=when(is_final(C_FIND), says(wire.STATUS, 0xC000))),
    "X5": ends(C_FIND, says(wire.STATUS, 0xFE00)),
    "X6": NO_CANCEL,
    "X7": NO_CANCEL,
    "J1": Plant(answers=when(is_request(wire.N_EVENT_REPORT), says(wire.EVENT_TYPE, 2))),
    "J2": Plant(answers=when(is_request(wire.N_EVENT_REPORT), edited(FailedSOPSequence=None))),
}
"""What is planted between the run and a server, by the check that has to see it."""

PLANTED_BEHIND = {
    "V8": Plant(requests=when(is_request(C_STORE), says(wire.ORIGINATOR, "PACS"))),
    "V8b": Plant(requests=when(is_request(C_STORE), says(wire.PRIORITY, 0))),
}
"""What is planted between the server and the run's receiver."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_deviation_is_seen(strict, name):
    """By the check that is about it; without the plant the same check is well (see test_ourselves)."""
    with relaying(strict.port, PLANTED[name]) as relay:
        verdict = strict.verdict(name, port=relay.port, patience=1.5)
    assert verdict.kind is Kind.DEVIATES, verdict
    assert verdict.seen


@pytest.mark.parametrize("name", PLANTED_BEHIND)
def test_a_deviation_towards_the_destination_is_seen(strict, name):
    """What the server sends to the receiver, not what it answers."""
    with relaying(strict.receiving + 1, PLANTED_BEHIND[name], strict.receiving):
        verdict = strict.verdict(name, receiving=strict.receiving + 1)
    assert verdict.kind is Kind.DEVIATES, verdict


def test_every_theme_has_planted_deviations():
    """So that no family of checks can be well by itself."""
    planted = {check.theme for check in CHECKS if check.id in PLANTED.keys() | PLANTED_BEHIND.keys()}
    assert planted == {check.theme for check in CHECKS}
