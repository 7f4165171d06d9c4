"""Checks of C-GET (PS3.4 C.4.3)."""

from pacs.conformance.checks import wire
from pacs.conformance.checks.moving import counted, final_fields
from pacs.conformance.checks.results import CheckResult, Checks, free, judge
from pacs.conformance.checks.sample_data import CT, MR, SC
from pacs.conformance.checks.toolkit import Toolkit

CHECKS = Checks("getting")
check = CHECKS.check


@check("G1", "PS3.4 C.4.3.3.1")
def everything(tools: Toolkit) -> CheckResult:
    """Does a C-GET return all instances of a study?"""
    moved = tools.get_study("1")
    came = {each.message.text(wire.SOP_INSTANCE) for each in moved.received}
    return judge(moved.status == 0 and came == {each.uid for each in tools.samples.study("1")}, moved.seen)


@check("G2", "PS3.4 C.4.3.1.6")
def sums(tools: Toolkit) -> CheckResult:
    """Do the counts add up to the same total in every response?"""
    return counted(tools.get_study("9"), 40)


@check("G3", "PS3.4 C.4.3.1.6")
def success_fields(tools: Toolkit) -> CheckResult:
    """Does Success carry the counts, but no remaining count and no data set?"""
    return final_fields(tools.get_study("1"))


@check("G4", "PS3.4 C.4.3.3.1")
def no_context(tools: Toolkit) -> CheckResult:
    """Do only those instances fail that have no presentation context?"""
    moved = tools.get_study("1", classes=(CT,))
    due = {tools.samples.uid("1", 2, 1)}
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xB000 and moved.counts == (2, 1, 0) and moved.failed_uids == due, seen)


@check("G5", "PS3.7 D.3.3.4")
def no_role(tools: Toolkit) -> CheckResult:
    """Does the server send nothing in a presentation context in which the requestor is not SCP?"""
    tools.need("1")
    with tools.associate_for_get(roles={CT: (1, 1)}) as association:
        granted = association.accept.roles.get(CT, (0, 0))[1]
        moved = tools.get(association, {"StudyInstanceUID": tools.samples.uid("1")})
    came = [each for each in moved.received if each.message.text(wire.SOP_CLASS) == MR]
    return judge(
        not came, f"{moved.seen}; CT with role selection {'granted' if granted else 'not granted'}, MR without"
    )


@check("G6", "PS3.4 C.4.3.3.1")
def refused(tools: Toolkit) -> CheckResult:
    """Does an instance that the requestor refuses count as failed, and is it listed?"""
    uid = tools.samples.uid("1", 1, 1)
    moved = tools.get_study("1", lambda each: 0xA700 if each.text(wire.SOP_INSTANCE) == uid else 0)
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xB000 and moved.counts == (2, 1, 0) and moved.failed_uids == {uid}, seen)


@check("G7", "PS3.4 C.4.3.3.1")
def warned(tools: Toolkit) -> CheckResult:
    """Does an instance that the requestor stores with a warning count as warning?"""
    uid = tools.samples.uid("1", 1, 1)
    moved = tools.get_study("1", lambda each: 0xB000 if each.text(wire.SOP_INSTANCE) == uid else 0)
    return judge(moved.status == 0xB000 and moved.counts == (2, 0, 1) and not moved.failed_uids, moved.seen)


@check("G8", "PS3.4 C.4.3.3.1")
def all_fail(tools: Toolkit) -> CheckResult:
    """Does the server answer A702 with all UIDs in the failed list when every sub-operation fails?"""
    moved = tools.get_study("1", lambda _: 0xA700)
    seen = f"{moved.seen}, {len(moved.failed_uids)} in the failed list"
    return judge(moved.status == 0xA702 and moved.failed_uids == {each.uid for each in tools.samples.study("1")}, seen)


@check("G9", "PS3.7 9.1.1.1")
def no_originator(tools: Toolkit) -> CheckResult:
    """Do the sub-operations have no Move Originator?"""
    moved = tools.get_study("4", classes=(SC,))
    titles = {each.message.text(wire.ORIGINATOR) for each in moved.received}
    if not moved.received:
        return judge(False, moved.seen)
    return judge(titles == {""}, "there is none" if titles == {""} else ", ".join(sorted(titles)))


@check("G10", "PS3.4 C.4.3.3.1")
def pendings(tools: Toolkit) -> CheckResult:
    """How many pending responses does the server send for 40 instances?"""
    return free(str(len(tools.get_study("9").responses.pending)))
