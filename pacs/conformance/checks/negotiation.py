"""Checks of association negotiation and release (PS3.8, PS3.7 Annex D)."""

import struct
from collections.abc import Iterable
from typing import Any

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import AssociateRejected, CheckedServer, NoResponse, abort_text, pdu_name
from pacs.conformance.checks.results import CheckResult, Checks, conforms, deviates, free, impossible, judge
from pacs.conformance.checks.sample_data import CT, MR, SC
from pacs.conformance.checks.toolkit import PATIENT_FIND, STUDY_FIND, STUDY_GET, Toolkit, identifier
from pacs.conformance.checks.wire import EXPLICIT, IMPLICIT, VERIFICATION

CHECKS = Checks("negotiation")
check = CHECKS.check

RESULTS = {
    0: "acceptance",
    1: "user-rejection",
    2: "no-reason",
    3: "abstract-syntax-not-supported",
    4: "transfer-syntaxes-not-supported",
}
UNKNOWN_UID = "2.25.1"


@check("N1", "PS3.4 A.4")
def verification(tools: Toolkit) -> CheckResult:
    """Does the server answer a C-ECHO with Success?"""
    with tools.server.associate([VERIFICATION]) as association:
        message_id, pdus = association.request(wire.C_ECHO, VERIFICATION, more={wire.MESSAGE_ID: 4711})
        association.send(pdus)
        final = association.responses(message_id).final
    is_conformant = final.status == 0 and not final.has_data_set and final.field == wire.C_ECHO | wire.RESPONSE
    return judge(is_conformant, f"{final.status:04X}")


@check("N2", "PS3.8 9.3.3.2")
def unknown_abstract_syntax(tools: Toolkit) -> CheckResult:
    """Does the server reject an unknown abstract syntax with result 3?"""
    return _rejected_context(tools, UNKNOWN_UID, IMPLICIT, 3)


@check("N3", "PS3.8 9.3.3.2")
def unknown_transfer_syntax(tools: Toolkit) -> CheckResult:
    """Does the server reject an unknown transfer syntax with result 4?"""
    return _rejected_context(tools, VERIFICATION, UNKNOWN_UID, 4)


def _rejected_context(tools: Toolkit, abstract: str, syntax: str, due: int) -> CheckResult:
    with tools.server.associate([(abstract, [syntax]), VERIFICATION]) as association:
        result, _ = association.accept.results.get(1, (-1, ""))
    seen = f"result {result} ({RESULTS.get(result, 'none')})"
    return free(seen) if result in (1, 2, 3, 4) and result != due else judge(result == due, seen)


@check("N4", "PS3.8 9.3.3.2")
def all_contexts(tools: Toolkit) -> CheckResult:
    """Does the server answer each of 128 proposed presentation contexts under its own ID?"""
    proposed = [(each, [IMPLICIT]) for each in [VERIFICATION, *(f"{UNKNOWN_UID}.{place}" for place in range(127))]]
    with tools.server.associate(proposed) as association:
        ids = list(association.accept.results)
    if sorted(ids) != list(range(1, 256, 2)):
        return deviates(f"{len(ids)} of 128 are answered")
    return conforms("all 128 in order") if ids == sorted(ids) else free("all 128, in another order")


@check("N5", "PS3.8 9.3.3.2")
def own_transfer_syntax(tools: Toolkit) -> CheckResult:
    """Is the accepted transfer syntax of each presentation context one that was proposed for it?"""
    proposed = [(VERIFICATION, [EXPLICIT]), (VERIFICATION, [IMPLICIT]), (VERIFICATION, [UNKNOWN_UID, IMPLICIT])]
    with tools.server.associate(proposed) as association:
        results = association.accept.results
    accepted = {number: syntax for number, (result, syntax) in results.items() if result == 0}
    wrong = [number for number, syntax in accepted.items() if syntax not in proposed[number // 2][1]]
    names = {EXPLICIT: "explicit", IMPLICIT: "implicit"}
    return judge(accepted and not wrong, ", ".join(names.get(each, each or "none") for each in accepted.values()))


@check("N6", "PS3.8 9.3.3")
def nothing_accepted(tools: Toolkit) -> CheckResult:
    """Does the server accept an association in which it accepts no presentation context?"""
    try:
        with tools.server.associate([UNKNOWN_UID]):
            return conforms("A-ASSOCIATE-AC without an accepted context")
    except AssociateRejected as rejected:
        return free(str(rejected))


@check("N7", "PS3.4 C.5.1")
def one_byte(tools: Toolkit) -> CheckResult:
    """Does the server answer one byte of extended negotiation with one byte, or not at all?"""
    found = _extended(tools, b"\x01")
    if found is None:
        return free("no answer: no relational queries")
    return judge(len(found) == 1 and found[0] in (0, 1), f"answers {found.hex(' ')}")


@check("N8", "PS3.7 D.3.3.5")
def nothing_offered(tools: Toolkit) -> CheckResult:
    """Does the answer omit extended negotiation when none was proposed?"""
    found = _extended(tools, b"")
    return judge(found is None, "no answer" if found is None else f"answers {found.hex(' ')}")


@check("N9", "PS3.4 C.5.1")
def seven_bytes(tools: Toolkit) -> CheckResult:
    """Which of seven proposed bytes of extended negotiation does the server accept?"""
    found = _extended(tools, b"\x01" * 7)
    if found is None:
        return free("no answer")
    is_conformant = found and not set(found) - {0, 1}
    return free(f"answers {found.hex(' ')}") if is_conformant else deviates(f"answers {found.hex(' ') or 'no byte'}")


@check("N10", "PS3.4 C.5.1")
def zeros_offered(tools: Toolkit) -> CheckResult:
    """Does the server refuse every extended negotiation option that was proposed with 0?"""
    found = _extended(tools, bytes(7))
    if found is None:
        return conforms("no answer")
    return judge(not any(found), f"answers {found.hex(' ')}")


def _extended(tools: Toolkit, offer: bytes) -> bytes | None:
    """Return the answer to extended negotiation of Study Root FIND, None if there is none."""
    extended = {STUDY_FIND: offer} if offer else {}
    with tools.server.associate([STUDY_FIND], extended=extended) as association:
        association.context(STUDY_FIND)
        return association.accept.extended.get(STUDY_FIND)


@check("N11", "PS3.8 D.1")
def longest_pdu(tools: Toolkit) -> CheckResult:
    """Does the server respect a maximum PDU length of 4096 bytes?"""
    tools.need("1", "9")
    with tools.associate_for_get(max_pdu=4096) as association:
        if association.accept.results.get(1, (4, ""))[0] == 0:
            moved = tools.get(association, {"StudyInstanceUID": tools.samples.uid("1")})
            return _judge_length(
                association.connection.longest, sum(len(each.message.data or b"") for each in moved.received)
            )
    with tools.server.associate([STUDY_FIND], max_pdu=4096) as association:
        keys = {"StudyInstanceUID": tools.samples.uid("9"), "SeriesInstanceUID": "", "SOPInstanceUID": ""}
        tools.find_on(association, identifier(keys, level="IMAGE"), "IMAGE")
        return _judge_length(association.connection.longest, 0)


def _judge_length(longest: int, received: int) -> CheckResult:
    seen = f"longest PDU {longest} bytes" + (f", of {received} bytes of instances" if received else "")
    return judge(longest <= 4096, seen)


@check("N12", "PS3.8 Annex E")
def many_fragments(tools: Toolkit) -> CheckResult:
    """Does the server read a message that is divided into fragments of eight bytes?"""
    with tools.server.associate([VERIFICATION]) as association:
        association.context(VERIFICATION)
        says: dict[int, wire.Value] = {
            wire.SOP_CLASS: VERIFICATION,
            wire.FIELD: wire.C_ECHO,
            wire.MESSAGE_ID: 1,
            wire.DATA_SET_TYPE: wire.NO_DATA_SET,
        }
        command = wire.command_set(says)
        starts = range(0, len(command), 8)
        association.send(*(wire.fragment(1, 3 if at + 8 >= len(command) else 1, command[at : at + 8]) for at in starts))
        return judge(association.responses(1).status == 0, f"a C-ECHO in {len(starts)} PDUs is answered")


@check("N13", "PS3.8 D.2")
def unknown_item(tools: Toolkit) -> CheckResult:
    """Does the server ignore a user information sub-item of an unknown type?"""
    with tools.server.associate([VERIFICATION], more=wire.item(0x5F, b"unknown")) as association:
        return judge(association.perform(wire.C_ECHO, VERIFICATION).status == 0, "the association works")


@check("N14", "PS3.7 D.3.3.4")
def roles(tools: Toolkit) -> CheckResult:
    """Does the server grant only roles that were proposed?"""
    proposed = {CT: (1, 1), MR: (0, 1), SC: (1, 0)}
    with tools.server.associate([STUDY_GET, *proposed], roles=proposed) as association:
        found = association.accept.roles
    beyond = [uid for uid, roles in found.items() if uid not in proposed or any(map(int.__gt__, roles, proposed[uid]))]
    seen = ", ".join(
        f"{found[uid][0]}/{found[uid][1]} of {scu}/{scp}" for uid, (scu, scp) in proposed.items() if uid in found
    )
    return judge(not beyond, f"SCU/SCP granted: {seen or 'no answer, the default roles'}")


@check("N15", "PS3.7 D.3.3.3")
def window(tools: Toolkit) -> CheckResult:
    """Is the accepted asynchronous operations window within the proposed one?"""
    with tools.server.associate([VERIFICATION], more=wire.item(0x53, struct.pack(">HH", 5, 5))) as association:
        found = association.accept.window
    if found is None:
        return conforms("no answer to 5/5: one operation at a time")
    return judge(all(1 <= each <= 5 for each in found), f"answers {found[0]}/{found[1]} to 5/5")


@check("N16", "PS3.7 D.3.3.7")
def user_identity(tools: Toolkit) -> CheckResult:
    """Does the server omit a user identity response that was not requested?"""
    named = struct.pack(">BBH", 1, 0, 4) + b"user" + bytes(2)
    try:
        with tools.server.associate([VERIFICATION], more=wire.item(0x58, named)) as association:
            came = association.accept.has_user_response
    except AssociateRejected as rejected:
        return free(f"an unknown user is rejected: {rejected}")
    return judge(not came, "there is a response" if came else "the user name is accepted without a response")


@check("N17", "PS3.8 9.3.4")
def called_title(tools: Toolkit) -> CheckResult:
    """How does the server answer an unknown called AE title?"""
    try:
        with tools.server.associate([VERIFICATION], called="UNKNOWN-AE"):
            return free("accepted under any called AE title")
    except AssociateRejected as rejected:
        return free(str(rejected)) if rejected.triplet[1:] == (1, 7) else deviates(str(rejected))


@check("N18", "PS3.8 9.3.4")
def application_context(tools: Toolkit) -> CheckResult:
    """Does the server reject an unknown application context with source 1 and reason 2?"""
    return _rejected(tools.server, {"application": UNKNOWN_UID}, (1, 2))


@check("N19", "PS3.8 9.3.4")
def protocol_version(tools: Toolkit) -> CheckResult:
    """Does the server reject an unknown protocol version with source 2 and reason 2?"""
    return _rejected(tools.server, {"version": 2}, (2, 2))


def _rejected(peer: CheckedServer, options: dict[str, Any], due: Iterable[int]) -> CheckResult:
    try:
        with peer.associate([VERIFICATION], **options):
            return deviates("accepted")
    except AssociateRejected as rejected:
        return judge(rejected.triplet[1:] == due, str(rejected))


@check("N20", "PS3.8 9.2, AA-8")
def second_request(tools: Toolkit) -> CheckResult:
    """Does the server answer a second A-ASSOCIATE-RQ with A-ABORT?"""
    with tools.server.associate([VERIFICATION]) as association:
        association.send(association.associate_request.encode())
        return _aborts(association.connection.pdu)


@check("N21", "PS3.8 9.2, AA-8")
def unknown_pdu(tools: Toolkit) -> CheckResult:
    """Does the server answer a PDU of an unknown type with A-ABORT?"""
    with tools.server.associate([VERIFICATION]) as association:
        association.send(wire.pdu(0x20, b"unknown"))
        return _aborts(association.connection.pdu)


def _aborts(pdu: object) -> CheckResult:
    try:
        kind, body = pdu()  # type: ignore[operator]
    except NoResponse as ended:
        return deviates(str(ended))
    what = abort_text(body) if kind == wire.ABORT else pdu_name(kind)
    return judge(kind == wire.ABORT, what)


@check("N22", "PS3.8 7.2")
def release(tools: Toolkit) -> CheckResult:
    """Does the server answer A-RELEASE-RQ with A-RELEASE-RP?"""
    with tools.server.associate([VERIFICATION]) as association:
        association.perform(wire.C_ECHO, VERIFICATION)
        association.send(wire.pdu(wire.RELEASE_RQ, bytes(4)))
        kind, _ = association.connection.pdu()
        return judge(kind == wire.RELEASE_RP, pdu_name(kind))


@check("N23", "PS3.4 C.6")
def models(tools: Toolkit) -> CheckResult:
    """Which information models does the server offer for C-FIND?"""
    names = {"1": "Patient Root", "2": "Study Root", "3": "Patient/Study Only"}
    proposed = {PATIENT_FIND[:-3] + f"{number}.1": name for number, name in names.items()}
    with tools.server.associate(list(proposed)) as association:
        results = association.accept.results
    found = [name for place, name in enumerate(proposed.values()) if results.get(2 * place + 1, (4, ""))[0] == 0]
    return free(", ".join(found)) if found else impossible("no C-FIND is offered")
