"""What a C-CANCEL ends (PS3.7 9.3.2.3, PS3.4 C.4)."""

import threading

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Association
from pacs.conformance.checks.bench import STUDY_FIND, STUDY_GET, STUDY_MOVE, Bench, Found, Moved, ended, identifier
from pacs.conformance.checks.receiver import Behaviour
from pacs.conformance.checks.specimens import MANY
from pacs.conformance.checks.verdicts import Checks, Verdict, conforms, deviates, free, judge

CHECKS = Checks("cancelling")
check = CHECKS.check

CANCELLED = 0xFE00
TRIES = 3


def _images(bench: Bench) -> bytes:
    """An Identifier that many images match."""
    keys = {
        "StudyInstanceUID": bench.specimens.uid("9"),
        "SeriesInstanceUID": bench.specimens.uid("9", 1),
        "SOPInstanceUID": "",
    }
    return identifier(keys, level="IMAGE")


def _cancelled_at_once(bench: Bench, association: Association) -> Found:
    message_id, pdus = association.request(wire.C_FIND, STUDY_FIND, _images(bench))
    association.send(pdus, association.cancel(STUDY_FIND, message_id))
    return bench.found(association.responses(message_id), "IMAGE")


@check("X1", "PS3.4 C.4.1.3.1")
def at_once(bench: Bench) -> Verdict:
    """Does the server act on a C-CANCEL that arrives in the same segment as its C-FIND?"""
    bench.need("9")
    found = []
    for _ in range(TRIES):
        with bench.peer.associate([STUDY_FIND]) as association:
            found.append(_cancelled_at_once(bench, association))
    heeded = [each for each in found if each.status == CANCELLED]
    counts = ", ".join(f"{each.ending} after {len(each.ours)}" for each in found)
    if not heeded:
        return deviates(f"{counts} of {MANY} matches")
    return conforms(counts) if len(heeded) == TRIES else free(f"heeded {len(heeded)} times of {TRIES}: {counts}")


@check("X2", "PS3.4 C.4.1.1.4")
def nothing_follows(bench: Bench) -> Verdict:
    """Is FE00 the last response, without an Identifier?"""
    bench.need("9")
    with bench.peer.associate([STUDY_FIND]) as association:
        found = _cancelled_at_once(bench, association)
        with_data = found.responses.final.has_data_set
        after = bench.ask(association, _images(bench), "IMAGE")
    if found.status != CANCELLED:
        return free(f"the C-CANCEL was not heeded: {found.ending}")
    return judge(not with_data and len(after.ours) == MANY, f"FE00 {'with' if with_data else 'without'} a data set")


@check("X3", "PS3.7 9.3.2.3")
def never_was(bench: Bench) -> Verdict:
    """Does the server ignore a C-CANCEL for an unknown operation?"""
    bench.need("1")
    with bench.peer.associate([STUDY_FIND]) as association:
        association.send(association.cancel(STUDY_FIND, 4711))
        return _still_answers(bench, association)


@check("X4", "PS3.7 9.3.2.3")
def too_late(bench: Bench) -> Verdict:
    """Does the server ignore a C-CANCEL that arrives after the final response?"""
    bench.need("1")
    keys = identifier({"StudyInstanceUID": bench.specimens.uid("1")}, level="STUDY")
    with bench.peer.associate([STUDY_FIND]) as association:
        message_id, pdus = association.request(wire.C_FIND, STUDY_FIND, keys)
        association.send(pdus)
        association.responses(message_id)
        association.send(association.cancel(STUDY_FIND, message_id))
        return _still_answers(bench, association)


def _still_answers(bench: Bench, association: Association) -> Verdict:
    keys = identifier({"StudyInstanceUID": bench.specimens.uid("1")}, level="STUDY")
    found = bench.ask(association, keys, "STUDY")
    return judge(
        found.studies == {"1"} and found.status == 0, f"the next query: {len(found.ours)} of 1 match, {found.ending}"
    )


@check("X5", "PS3.7 9.3.2.3")
def same_message_id(bench: Bench) -> Verdict:
    """Can the Message ID of a cancelled operation be used again?"""
    bench.need("9")
    with bench.peer.associate([STUDY_FIND]) as association:
        first = _cancelled_at_once(bench, association)
        message_id = first.responses.final.number(wire.RESPONDING_TO) or 0
        _, pdus = association.request(wire.C_FIND, STUDY_FIND, _images(bench), {wire.MESSAGE_ID: message_id})
        association.send(pdus)
        second = bench.found(association.responses(message_id), "IMAGE")
    return judge(
        second.status == 0 and len(second.ours) == MANY, f"{len(second.ours)} of {MANY} matches, {second.ending}"
    )


@check("X6", "PS3.4 C.4.2.3.1")
def move_stops(bench: Bench) -> Verdict:
    """Does a C-MOVE stop when it is cancelled during its first sub-operation?"""
    bench.need("9")
    receiver, go_on = bench.destination(), threading.Event()
    keys = identifier({"StudyInstanceUID": bench.specimens.uid("9")}, level="STUDY")
    with receiver.behaving(Behaviour(hold=go_on)) as arrived, bench.peer.associate([STUDY_MOVE]) as association:
        message_id, pdus = association.request(wire.C_MOVE, STUDY_MOVE, keys, {wire.DESTINATION: receiver.ae_title})
        association.send(pdus)
        receiver.wait_for(arrived, 1, bench.peer.patience)
        association.send(association.cancel(STUDY_MOVE, message_id))
        go_on.wait(ARRIVE)
        go_on.set()
        return _stopped(Moved(association.responses(message_id), arrived))


ARRIVE = 0.5
"""Seconds a C-CANCEL has to arrive before we go on."""


@check("X7", "PS3.4 C.4.3.3.1")
def get_stops(bench: Bench) -> Verdict:
    """Does a C-GET stop when it is cancelled during its first sub-operation?"""
    bench.need("9")
    keys = identifier({"StudyInstanceUID": bench.specimens.uid("9")}, level="STUDY")
    with bench.getting() as association:
        message_id, pdus = association.request(wire.C_GET, STUDY_GET, keys)
        association.send(pdus)
        first = threading.Event()

        def store(_: wire.Message) -> int:
            if not first.is_set():
                first.set()
                association.send(association.cancel(STUDY_GET, message_id))
            return 0

        return _stopped(Moved(responses := association.responses(message_id, store), responses.stored))  # type: ignore[arg-type]


def _stopped(moved: Moved) -> Verdict:
    final = moved.responses.final
    seen = f"{ended(final)} after {len(moved.arrived)} of {MANY} instances"
    if final.status != CANCELLED:
        return deviates(seen)
    remaining, counts = final.number(wire.REMAINING), moved.counts
    if None in counts:
        return deviates(f"{seen}, without the counts of completed, failed and warning")
    if remaining is not None and remaining + sum(each or 0 for each in counts) != MANY:
        return deviates(f"{seen}, remaining {remaining} and {sum(each or 0 for each in counts)} done of {MANY}")
    return conforms(f"{seen}, remaining {'-' if remaining is None else remaining}")
