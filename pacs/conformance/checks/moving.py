"""Checks of C-MOVE (PS3.4 C.4.2)."""

from pacs.conformance.checks import wire
from pacs.conformance.checks.results import CheckResult, Checks, conforms, deviates, free, impossible, judge
from pacs.conformance.checks.sample_data import CT, MR
from pacs.conformance.checks.storage_scp import SCPBehaviour
from pacs.conformance.checks.toolkit import STUDY_MOVE, Keys, RetrieveResult, Toolkit, identifier, status_text
from pacs.conformance.checks.wire import COMPLETED, FAILED, REMAINING, WARNING

CHECKS = Checks("moving")
check = CHECKS.check

COUNTS = (REMAINING, COMPLETED, FAILED, WARNING)


def _is_failure(status: int) -> bool:
    return status & 0xF000 in (0xA000, 0xC000) or 0x0100 <= status < 0x0300


@check("V1", "PS3.4 C.4.2.1.4")
def no_unique_key(tools: Toolkit) -> CheckResult:
    """Does the server refuse a C-MOVE without the unique key of its level?"""
    first = _first_response(tools, {"PatientID": tools.samples.patient_id("1")})
    if _is_failure(first.status):
        return conforms(status_text(first))
    nothing = first.status == 0 and not first.number(COMPLETED)
    return free("0000, nothing is sent" if nothing else f"{status_text(first)}, it sends what the Patient ID matches")


@check("V1b", "PS3.4 C.4.2.1.4")
def wild_card(tools: Toolkit) -> CheckResult:
    """Does a C-MOVE with a wild card in a UID send nothing?"""
    first = _first_response(tools, {"StudyInstanceUID": tools.samples.root + "*"})
    if first.status == 0 and not first.number(COMPLETED):
        return free("0000, nothing is sent")
    return judge(_is_failure(first.status), status_text(first))


def _first_response(tools: Toolkit, keys: Keys) -> wire.DimseMessage:
    """Return the first response to a C-MOVE that names no study, and abort if it is Pending."""
    receiver = tools.destination()
    with receiver.behaving(SCPBehaviour()), tools.server.associate([STUDY_MOVE]) as association:
        more: dict[int, wire.Value] = {wire.DESTINATION: receiver.ae_title}
        return association.first_response(wire.C_MOVE, STUDY_MOVE, identifier(keys, level="STUDY"), more)


@check("V1c", "PS3.4 C.4.2.1.4")
def list_of_uids(tools: Toolkit) -> CheckResult:
    """Does a list of Study Instance UIDs move all of the studies?"""
    tools.need("2", "4")
    receiver = tools.destination()
    with receiver.behaving(SCPBehaviour()) as received:
        uids = "\\".join(tools.samples.uid(each) for each in ("2", "4"))
        responses = tools.send_move({"StudyInstanceUID": uids}, "STUDY", receiver.ae_title)
        receiver.wait_for(received, 2, 2)
        moved = RetrieveResult(responses, list(received))
    return judge(moved.status == 0 and len(moved.received) == 2, moved.seen)


@check("V2", "PS3.4 C.4.2.1.5")
def unknown_destination(tools: Toolkit) -> CheckResult:
    """Does the server refuse an unknown move destination with A801?"""
    tools.need("4")
    responses = tools.send_move({"StudyInstanceUID": tools.samples.uid("4")}, "STUDY", "UNKNOWN-AE")
    return judge(responses.status == 0xA801, status_text(responses.final))


@check("V3", "PS3.4 C.4.2.1.5")
def no_match(tools: Toolkit) -> CheckResult:
    """How does the server answer a C-MOVE that matches nothing?"""
    receiver = tools.destination()
    responses = tools.send_move({"StudyInstanceUID": tools.samples.uid(7777)}, "STUDY", receiver.ae_title)
    return free(RetrieveResult(responses, []).seen)


@check("V4", "PS3.4 C.4.2.3.1")
def all_fail(tools: Toolkit) -> CheckResult:
    """Does the server answer A702 with all UIDs in the failed list when every sub-operation fails?"""
    moved = tools.move("1", SCPBehaviour(statuses=dict.fromkeys(_uids(tools, "1"), 0xA700)))
    if not _is_failure(moved.status):
        return deviates(moved.seen)
    return judge(
        moved.failed_uids == set(_uids(tools, "1")), f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    )


@check("V4b", "PS3.4 C.4.2.1.5")
def unreachable(tools: Toolkit) -> CheckResult:
    """Does the server answer A702 when a known destination is unreachable?"""
    receiver = tools.destination()
    with receiver.closed():
        responses = tools.send_move({"StudyInstanceUID": tools.samples.uid("4")}, "STUDY", receiver.ae_title)
    moved = RetrieveResult(responses, [])
    seen = f"{moved.seen}, {len(moved.failed_uids)} of 1 in the failed list"
    if not _is_failure(moved.status) or moved.status == 0xA801 or moved.failed_uids != set(_uids(tools, "4")):
        return deviates(seen)
    return conforms(seen) if moved.status == 0xA702 else free(seen)


@check("V5", "PS3.4 C.4.2.1.6")
def sums(tools: Toolkit) -> CheckResult:
    """Do remaining, completed, failed and warning add up to the same total in every response?"""
    return counted(tools.move("9"), 40)


def counted(moved: RetrieveResult, total: int) -> CheckResult:
    """Check that the counts of every response add up to `total`."""
    for place, each in enumerate(moved.responses.pending, 1):
        numbers = [each.number(tag) for tag in COUNTS]
        if None in numbers or sum(number or 0 for number in numbers) != total:
            listed = "/".join("-" if number is None else str(number) for number in numbers)
            return deviates(f"pending response {place}: remaining/completed/failed/warning {listed} of {total}")
    if sum(each or 0 for each in moved.counts) != total:
        return deviates(f"{moved.seen} of {total}")
    return conforms(f"{len(moved.responses.pending)} pending responses and the final one, each {total}")


@check("V5b", "PS3.4 C.4.2.3.1")
def warned(tools: Toolkit) -> CheckResult:
    """Does an instance that the destination stores with a warning count as warning?"""
    moved = tools.move("1", SCPBehaviour(statuses={tools.samples.uid("1", 1, 1): 0xB000}))
    return judge(moved.status == 0xB000 and moved.counts == (2, 0, 1) and not moved.failed_uids, moved.seen)


@check("V5c", "PS3.4 C.4.2.3.1")
def one_fails(tools: Toolkit) -> CheckResult:
    """Does the server answer B000 and list the instance when one of several sub-operations fails?"""
    uid = tools.samples.uid("1", 1, 1)
    moved = tools.move("1", SCPBehaviour(statuses={uid: 0xA700}))
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xB000 and moved.counts == (2, 1, 0) and moved.failed_uids == {uid}, seen)


@check("V6", "PS3.4 C.4.2.1.6")
def success_fields(tools: Toolkit) -> CheckResult:
    """Does Success carry the counts, but no remaining count and no data set?"""
    return final_fields(tools.move("1"))


def final_fields(moved: RetrieveResult) -> CheckResult:
    """Check the fields of the final response of a successful retrieve."""
    final = moved.responses.final
    if moved.status:
        return deviates(moved.seen)
    wrong = [] if final.number(REMAINING) is None else [f"with remaining {final.number(REMAINING)}"]
    wrong += ["with a data set"] if final.has_data_set else []
    wrong += ["without some counts"] if None in moved.counts else []
    return judge(not wrong, "; ".join(wrong) or moved.seen)


@check("V6b", "PS3.4 C.4.2.1.6")
def pending_fields(tools: Toolkit) -> CheckResult:
    """Do pending responses carry all four counts and no data set?"""
    moved = tools.move("9")
    if not moved.responses.pending:
        return free("there are no pending responses")
    bare = all(not each.has_data_set for each in moved.responses.pending)
    whole = all(each.number(tag) is not None for each in moved.responses.pending for tag in COUNTS)
    wrong = ("" if bare else ", with a data set") + ("" if whole else ", without some counts")
    return judge(not wrong, f"{len(moved.responses.pending)} pending{wrong}")


@check("V6c", "PS3.4 C.4.2.1.4.2")
def failed_list(tools: Toolkit) -> CheckResult:
    """Does the data set with the failed list contain nothing else?"""
    moved = tools.move("1", SCPBehaviour(statuses={tools.samples.uid("1", 1, 1): 0xA700}))
    if moved.responses.final.data is None:
        impossible(f"there is no failed list, {moved.seen}")
    keywords = [each.keyword for each in wire.decoded(moved.responses.final.data)]
    return judge(keywords == ["FailedSOPInstanceUIDList"], ", ".join(keywords) or "nothing")


@check("V7", "PS3.4 C.4.2.3.1")
def pendings(tools: Toolkit) -> CheckResult:
    """How many pending responses does the server send for 40 instances?"""
    return free(str(len(tools.move("9").responses.pending)))


@check("V8", "PS3.7 9.1.1.1")
def originator(tools: Toolkit) -> CheckResult:
    """Do Move Originator AE Title and Message ID name the C-MOVE and its requestor?"""
    receiver = tools.destination()
    with receiver.behaving(SCPBehaviour()) as received, tools.server.associate([STUDY_MOVE]) as association:
        keys = identifier({"StudyInstanceUID": tools.samples.uid("4")}, level="STUDY")
        more: dict[int, wire.Value] = {wire.DESTINATION: receiver.ae_title, wire.MESSAGE_ID: 4711}
        _, pdus = association.request(wire.C_MOVE, STUDY_MOVE, keys, more)
        association.send(pdus)
        responses = association.responses(4711)
        receiver.wait_for(received, 1, 2)
    if not received:
        return deviates(RetrieveResult(responses, []).seen)
    title, number = received[0].message.text(wire.ORIGINATOR), received[0].message.number(wire.ORIGINATOR_MESSAGE_ID)
    seen = f"{title or 'no AE title'} and {number or 'no Message ID'} for {tools.server.calling} and 4711"
    return judge((title, number) == (tools.server.calling, 4711), seen)


@check("V8b", "PS3.4 C.4.2.1.2")
def priority(tools: Toolkit) -> CheckResult:
    """Do the sub-operations have the priority of the C-MOVE?"""
    moved = tools.move("4", priority=1)
    if not moved.received:
        return deviates(moved.seen)
    found = moved.received[0].message.number(wire.PRIORITY)
    return judge(found == 1, f"{found} for 1")


@check("V9", "PS3.4 C.4.2.3.1")
def refused_class(tools: Toolkit) -> CheckResult:
    """Do only those instances fail whose SOP Class the destination does not accept?"""
    moved = tools.move("1", SCPBehaviour(refused=(MR,)))
    due = {tools.samples.uid("1", 2, 1)}
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xB000 and moved.counts == (2, 1, 0) and moved.failed_uids == due, seen)


@check("V9b", "PS3.5 10.1")
def implicit_alone(tools: Toolkit) -> CheckResult:
    """Does a destination that accepts only Implicit VR Little Endian receive the instance?"""
    moved = tools.move("2", SCPBehaviour(syntaxes=(wire.IMPLICIT,)))
    if moved.status or len(moved.received) != 1:
        return judge(moved.status and moved.failed_uids, f"{moved.seen}: it is not converted")
    came = wire.decoded(moved.received[0].message.data)
    return judge(came.get("SOPClassUID") == CT, f"converted, {moved.seen}")


def _uids(tools: Toolkit, label: str) -> list[str]:
    return [each.uid for each in tools.samples.study(label)]
