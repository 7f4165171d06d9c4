"""How a C-MOVE is counted, answered and carried out (PS3.4 C.4.2)."""

from pacs.conformance.checks import wire
from pacs.conformance.checks.bench import STUDY_MOVE, Bench, Keys, Moved, ended, identifier
from pacs.conformance.checks.receiver import Behaviour
from pacs.conformance.checks.specimens import CT, MR
from pacs.conformance.checks.verdicts import Checks, Verdict, cannot, conforms, deviates, free, judge
from pacs.conformance.checks.wire import COMPLETED, FAILED, REMAINING, WARNING

CHECKS = Checks("moving")
check = CHECKS.check

COUNTS = (REMAINING, COMPLETED, FAILED, WARNING)


def _is_failure(status: int) -> bool:
    return status & 0xF000 in (0xA000, 0xC000) or 0x0100 <= status < 0x0300


@check("V1", "PS3.4 C.4.2.1.4")
def no_unique_key(bench: Bench) -> Verdict:
    """Does the server refuse a C-MOVE without the unique key of its level?"""
    first = _begun(bench, {"PatientID": bench.specimens.patient_id("1")})
    if _is_failure(first.status):
        return conforms(ended(first))
    nothing = first.status == 0 and not first.number(COMPLETED)
    return free("0000, nothing is sent" if nothing else f"{ended(first)}, it sends what Patient ID matches")


@check("V1b", "PS3.4 C.4.2.1.4")
def wild_card(bench: Bench) -> Verdict:
    """Does a C-MOVE with a wild card in a UID send nothing?"""
    first = _begun(bench, {"StudyInstanceUID": bench.specimens.root + "*"})
    if first.status == 0 and not first.number(COMPLETED):
        return free("0000, nothing is sent")
    return judge(_is_failure(first.status), ended(first))


def _begun(bench: Bench, keys: Keys) -> wire.Message:
    """The first response to a C-MOVE that names no study; what it may send is not waited for."""
    receiver = bench.destination()
    with receiver.behaving(Behaviour()), bench.peer.associate([STUDY_MOVE]) as association:
        more: dict[int, wire.Value] = {wire.DESTINATION: receiver.ae_title}
        return association.begin(wire.C_MOVE, STUDY_MOVE, identifier(keys, level="STUDY"), more)


@check("V1c", "PS3.4 C.4.2.1.4")
def list_of_uids(bench: Bench) -> Verdict:
    """Does a list of Study Instance UIDs move all of the studies?"""
    bench.need("2", "4")
    receiver = bench.destination()
    with receiver.behaving(Behaviour()) as arrived:
        uids = "\\".join(bench.specimens.uid(each) for each in ("2", "4"))
        responses = bench.send_move({"StudyInstanceUID": uids}, "STUDY", receiver.ae_title)
        receiver.wait_for(arrived, 2, 2)
        moved = Moved(responses, list(arrived))
    return judge(moved.status == 0 and len(moved.arrived) == 2, moved.seen)


@check("V2", "PS3.4 C.4.2.1.5")
def unknown_destination(bench: Bench) -> Verdict:
    """Does the server refuse an unknown move destination with A801?"""
    bench.need("4")
    responses = bench.send_move({"StudyInstanceUID": bench.specimens.uid("4")}, "STUDY", "NOBODY-AT-ALL")
    return judge(responses.status == 0xA801, ended(responses.final))


@check("V3", "PS3.4 C.4.2.1.5")
def no_match(bench: Bench) -> Verdict:
    """How does the server answer a C-MOVE that matches nothing?"""
    receiver = bench.destination()
    responses = bench.send_move({"StudyInstanceUID": bench.specimens.uid(7777)}, "STUDY", receiver.ae_title)
    return free(Moved(responses, []).seen)


@check("V4", "PS3.4 C.4.2.3.1")
def all_fail(bench: Bench) -> Verdict:
    """Does the server answer A702 with all UIDs in the failed list when every sub-operation fails?"""
    moved = bench.move("1", Behaviour(statuses=dict.fromkeys(_uids(bench, "1"), 0xA700)))
    if not _is_failure(moved.status):
        return deviates(moved.seen)
    return judge(
        moved.failed_uids == set(_uids(bench, "1")), f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    )


@check("V4b", "PS3.4 C.4.2.1.5")
def unreachable(bench: Bench) -> Verdict:
    """Does the server answer A702 when a known destination is unreachable?"""
    receiver = bench.destination()
    with receiver.closed():
        responses = bench.send_move({"StudyInstanceUID": bench.specimens.uid("4")}, "STUDY", receiver.ae_title)
    moved = Moved(responses, [])
    seen = f"{moved.seen}, {len(moved.failed_uids)} of 1 in the failed list"
    if not _is_failure(moved.status) or moved.status == 0xA801 or moved.failed_uids != set(_uids(bench, "4")):
        return deviates(seen)
    return conforms(seen) if moved.status == 0xA702 else free(seen)


@check("V5", "PS3.4 C.4.2.1.6")
def sums(bench: Bench) -> Verdict:
    """Do remaining, completed, failed and warning add up to the same total in every response?"""
    return counted(bench.move("9"), 40)


def counted(moved: Moved, total: int) -> Verdict:
    """Whether every response of a retrieve of so many instances accounts for all of them."""
    for place, each in enumerate(moved.responses.pending, 1):
        numbers = [each.number(tag) for tag in COUNTS]
        if None in numbers or sum(number or 0 for number in numbers) != total:
            listed = "/".join("-" if number is None else str(number) for number in numbers)
            return deviates(f"pending response {place}: remaining/completed/failed/warning {listed} of {total}")
    if sum(each or 0 for each in moved.counts) != total:
        return deviates(f"{moved.seen} of {total}")
    return conforms(f"{len(moved.responses.pending)} pending responses and the last one, each {total}")


@check("V5b", "PS3.4 C.4.2.3.1")
def warned(bench: Bench) -> Verdict:
    """Does an instance that the destination stores with a warning count as warning?"""
    moved = bench.move("1", Behaviour(statuses={bench.specimens.uid("1", 1, 1): 0xB000}))
    return judge(moved.status == 0xB000 and moved.counts == (2, 0, 1) and not moved.failed_uids, moved.seen)


@check("V5c", "PS3.4 C.4.2.3.1")
def one_fails(bench: Bench) -> Verdict:
    """Does the server answer B000 and list the instance when one of several sub-operations fails?"""
    uid = bench.specimens.uid("1", 1, 1)
    moved = bench.move("1", Behaviour(statuses={uid: 0xA700}))
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xB000 and moved.counts == (2, 1, 0) and moved.failed_uids == {uid}, seen)


@check("V6", "PS3.4 C.4.2.1.6")
def success_fields(bench: Bench) -> Verdict:
    """Does Success carry the counts, but no remaining count and no data set?"""
    return final_fields(bench.move("1"))


def final_fields(moved: Moved) -> Verdict:
    """Whether the final response of a retrieve that succeeds has the fields it should."""
    final = moved.responses.final
    if moved.status:
        return deviates(moved.seen)
    wrong = [] if final.number(REMAINING) is None else [f"remaining {final.number(REMAINING)} is there"]
    wrong += ["a data set is there"] if final.has_data_set else []
    wrong += ["counts are missing"] if None in moved.counts else []
    return judge(not wrong, "; ".join(wrong) or moved.seen)


@check("V6b", "PS3.4 C.4.2.1.6")
def pending_fields(bench: Bench) -> Verdict:
    """Do pending responses carry all four counts and no data set?"""
    moved = bench.move("9")
    if not moved.responses.pending:
        return free("there are no pending responses")
    bare = all(not each.has_data_set for each in moved.responses.pending)
    whole = all(each.number(tag) is not None for each in moved.responses.pending for tag in COUNTS)
    wrong = ("" if bare else ", with a data set") + ("" if whole else ", without some counts")
    return judge(not wrong, f"{len(moved.responses.pending)} pending{wrong}")


@check("V6c", "PS3.4 C.4.2.1.4.2")
def failed_list(bench: Bench) -> Verdict:
    """Does the data set with the failed list contain nothing else?"""
    moved = bench.move("1", Behaviour(statuses={bench.specimens.uid("1", 1, 1): 0xA700}))
    if moved.responses.final.data is None:
        cannot(f"there is no failed list, {moved.seen}")
    keywords = [each.keyword for each in wire.decoded(moved.responses.final.data)]
    return judge(keywords == ["FailedSOPInstanceUIDList"], ", ".join(keywords) or "nothing")


@check("V7", "PS3.4 C.4.2.3.1")
def pendings(bench: Bench) -> Verdict:
    """How many pending responses does the server send for 40 instances?"""
    return free(str(len(bench.move("9").responses.pending)))


@check("V8", "PS3.7 9.1.1.1")
def originator(bench: Bench) -> Verdict:
    """Do Move Originator AE Title and Message ID name the C-MOVE and its requestor?"""
    receiver = bench.destination()
    with receiver.behaving(Behaviour()) as arrived, bench.peer.associate([STUDY_MOVE]) as association:
        keys = identifier({"StudyInstanceUID": bench.specimens.uid("4")}, level="STUDY")
        more: dict[int, wire.Value] = {wire.DESTINATION: receiver.ae_title, wire.MESSAGE_ID: 4711}
        _, pdus = association.request(wire.C_MOVE, STUDY_MOVE, keys, more)
        association.send(pdus)
        responses = association.responses(4711)
        receiver.wait_for(arrived, 1, 2)
    if not arrived:
        return deviates(Moved(responses, []).seen)
    title, number = arrived[0].message.text(wire.ORIGINATOR), arrived[0].message.number(wire.ORIGINATOR_MESSAGE_ID)
    seen = f"{title or 'no AE title'} and {number or 'no Message ID'} for {bench.peer.calling} and 4711"
    return judge((title, number) == (bench.peer.calling, 4711), seen)


@check("V8b", "PS3.4 C.4.2.1.2")
def priority(bench: Bench) -> Verdict:
    """Do the sub-operations have the priority of the C-MOVE?"""
    moved = bench.move("4", priority=1)
    if not moved.arrived:
        return deviates(moved.seen)
    found = moved.arrived[0].message.number(wire.PRIORITY)
    return judge(found == 1, f"{found} for 1")


@check("V9", "PS3.4 C.4.2.3.1")
def refused_class(bench: Bench) -> Verdict:
    """Do only those instances fail whose SOP Class the destination does not accept?"""
    moved = bench.move("1", Behaviour(refused=(MR,)))
    due = {bench.specimens.uid("1", 2, 1)}
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xB000 and moved.counts == (2, 1, 0) and moved.failed_uids == due, seen)


@check("V9b", "PS3.5 10.1")
def implicit_alone(bench: Bench) -> Verdict:
    """Does a destination that accepts only Implicit VR Little Endian receive the instance?"""
    moved = bench.move("2", Behaviour(syntaxes=(wire.IMPLICIT,)))
    if moved.status or len(moved.arrived) != 1:
        return judge(moved.status and moved.failed_uids, f"{moved.seen}: it is not converted")
    came = wire.decoded(moved.arrived[0].message.data)
    return judge(came.get("SOPClassUID") == CT, f"converted, {moved.seen}")


def _uids(bench: Bench, label: str) -> list[str]:
    return [each.uid for each in bench.specimens.study(label)]
