"""Checks of C-CANCEL (PS3.7 9.3.2.3, PS3.4 C.4)."""

import threading

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import ClientAssociation
from pacs.conformance.checks.results import CheckResult, Checks, conforms, deviates, free, judge
from pacs.conformance.checks.sample_data import MANY
from pacs.conformance.checks.storage_scp import SCPBehaviour
from pacs.conformance.checks.toolkit import (
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    FindResult,
    RetrieveResult,
    Toolkit,
    identifier,
    status_text,
)

CHECKS = Checks("cancelling")
check = CHECKS.check

CANCELLED = 0xFE00
TRIES = 3


def _images(tools: Toolkit) -> bytes:
    """Return an Identifier that many images match."""
    keys = {
        "StudyInstanceUID": tools.samples.uid("9"),
        "SeriesInstanceUID": tools.samples.uid("9", 1),
        "SOPInstanceUID": "",
    }
    return identifier(keys, level="IMAGE")


def _find_and_cancel(tools: Toolkit, association: ClientAssociation) -> FindResult:
    message_id, pdus = association.request(wire.C_FIND, STUDY_FIND, _images(tools))
    association.send(pdus, association.cancel(STUDY_FIND, message_id))
    return tools.find_result(association.responses(message_id), "IMAGE")


def _cancelled_find(tools: Toolkit, association: ClientAssociation) -> FindResult:
    """Return a C-FIND that its C-CANCEL ended, or the last of `TRIES`: a fast server may finish before the cancel."""
    found = _find_and_cancel(tools, association)
    for _ in range(TRIES - 1):
        if found.status == CANCELLED:
            break
        found = _find_and_cancel(tools, association)
    return found


@check("X1", "PS3.4 C.4.1.3.1")
def immediate_cancel(tools: Toolkit) -> CheckResult:
    """Does the server act on a C-CANCEL that arrives in the same segment as its C-FIND?"""
    tools.need("9")
    found = []
    for _ in range(TRIES):
        with tools.server.associate([STUDY_FIND]) as association:
            found.append(_find_and_cancel(tools, association))
    honoured = [each for each in found if each.status == CANCELLED]
    counts = ", ".join(f"{each.status_text} after {len(each.matches)}" for each in found)
    if not honoured:
        return deviates(f"{counts} of {MANY} matches")
    return conforms(counts) if len(honoured) == TRIES else free(f"honoured {len(honoured)} of {TRIES} times: {counts}")


@check("X2", "PS3.4 C.4.1.1.4")
def last_response(tools: Toolkit) -> CheckResult:
    """Is FE00 the last response, without an Identifier?"""
    tools.need("9")
    with tools.server.associate([STUDY_FIND]) as association:
        found = _cancelled_find(tools, association)
        with_data = found.responses.final.has_data_set
        after = tools.find_on(association, _images(tools), "IMAGE")
    if found.status != CANCELLED:
        return free(f"the C-CANCEL had no effect: {found.status_text}")
    return judge(not with_data and len(after.matches) == MANY, f"FE00 {'with' if with_data else 'without'} a data set")


@check("X3", "PS3.7 9.3.2.3")
def unknown_operation(tools: Toolkit) -> CheckResult:
    """Does the server ignore a C-CANCEL for an unknown operation?"""
    tools.need("1")
    with tools.server.associate([STUDY_FIND]) as association:
        association.send(association.cancel(STUDY_FIND, 4711))
        return _judge_next_query(tools, association)


@check("X4", "PS3.7 9.3.2.3")
def late_cancel(tools: Toolkit) -> CheckResult:
    """Does the server ignore a C-CANCEL that arrives after the final response?"""
    tools.need("1")
    keys = identifier({"StudyInstanceUID": tools.samples.uid("1")}, level="STUDY")
    with tools.server.associate([STUDY_FIND]) as association:
        message_id, pdus = association.request(wire.C_FIND, STUDY_FIND, keys)
        association.send(pdus)
        association.responses(message_id)
        association.send(association.cancel(STUDY_FIND, message_id))
        return _judge_next_query(tools, association)


def _judge_next_query(tools: Toolkit, association: ClientAssociation) -> CheckResult:
    keys = identifier({"StudyInstanceUID": tools.samples.uid("1")}, level="STUDY")
    found = tools.find_on(association, keys, "STUDY")
    return judge(
        found.studies == {"1"} and found.status == 0,
        f"the next query: {len(found.matches)} of 1 match, {found.status_text}",
    )


@check("X5", "PS3.7 9.3.2.3")
def same_message_id(tools: Toolkit) -> CheckResult:
    """Can the Message ID of a cancelled operation be used again?"""
    tools.need("9")
    with tools.server.associate([STUDY_FIND]) as association:
        first = _cancelled_find(tools, association)
        message_id = first.responses.final.number(wire.RESPONDING_TO) or 0
        _, pdus = association.request(wire.C_FIND, STUDY_FIND, _images(tools), {wire.MESSAGE_ID: message_id})
        association.send(pdus)
        second = tools.find_result(association.responses(message_id), "IMAGE")
    return judge(
        second.status == 0 and len(second.matches) == MANY,
        f"{len(second.matches)} of {MANY} matches, {second.status_text}",
    )


@check("X6", "PS3.4 C.4.2.3.1")
def move_stops(tools: Toolkit) -> CheckResult:
    """Does a C-MOVE stop when it is cancelled during its first sub-operation?"""
    tools.need("9")
    receiver, continue_event = tools.destination(), threading.Event()
    keys = identifier({"StudyInstanceUID": tools.samples.uid("9")}, level="STUDY")
    with (
        receiver.behaving(SCPBehaviour(hold=continue_event)) as received,
        tools.server.associate([STUDY_MOVE]) as association,
    ):
        message_id, pdus = association.request(wire.C_MOVE, STUDY_MOVE, keys, {wire.DESTINATION: receiver.ae_title})
        association.send(pdus)
        receiver.wait_for(received, 1, tools.server.timeout)
        association.send(association.cancel(STUDY_MOVE, message_id))
        continue_event.wait(CANCEL_DELAY)
        continue_event.set()
        return _judge_stop(RetrieveResult(association.responses(message_id), received))


CANCEL_DELAY = 0.5
"""Seconds between a C-CANCEL and the next response of a C-STORE, so that the server can read it."""


@check("X7", "PS3.4 C.4.3.3.1")
def get_stops(tools: Toolkit) -> CheckResult:
    """Does a C-GET stop when it is cancelled during its first sub-operation?"""
    tools.need("9")
    keys = identifier({"StudyInstanceUID": tools.samples.uid("9")}, level="STUDY")
    with tools.associate_for_get() as association:
        message_id, pdus = association.request(wire.C_GET, STUDY_GET, keys)
        association.send(pdus)
        first = threading.Event()

        def store(_: wire.DimseMessage) -> int:
            if not first.is_set():
                first.set()
                association.send(association.cancel(STUDY_GET, message_id))
            return 0

        return _judge_stop(RetrieveResult(responses := association.responses(message_id, store), responses.stored))  # type: ignore[arg-type]


def _judge_stop(moved: RetrieveResult) -> CheckResult:
    final = moved.responses.final
    seen = f"{status_text(final)} after {len(moved.received)} of {MANY} instances"
    if final.status != CANCELLED:
        return deviates(seen)
    remaining, counts = final.number(wire.REMAINING), moved.counts
    if None in counts:
        return deviates(f"{seen}, without the counts of completed, failed and warning")
    if remaining is not None and remaining + sum(each or 0 for each in counts) != MANY:
        return deviates(f"{seen}, remaining {remaining} and {sum(each or 0 for each in counts)} done of {MANY}")
    return conforms(f"{seen}, remaining {'-' if remaining is None else remaining}")
