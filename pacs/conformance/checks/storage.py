"""Checks of C-STORE, and of what is returned (PS3.4 Annex B)."""

from pydicom import Dataset
from pydicom.tag import BaseTag

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Aborted
from pacs.conformance.checks.results import (
    CheckImpossible,
    CheckResult,
    Checks,
    NotOffered,
    conforms,
    deviates,
    free,
    impossible,
    judge,
)
from pacs.conformance.checks.sample_data import CT, MR, SampleInstance
from pacs.conformance.checks.storage_scp import SCPBehaviour
from pacs.conformance.checks.toolkit import RetrieveResult, Toolkit, status_text, store

CHECKS = Checks("storage")
check = CHECKS.check

REFUSING = range(0xA700, 0xD000)
REFUSALS = {0x0105, 0x0106, 0x0110, 0x0111, 0x0117, 0x0122, 0x0124}
WARNINGS = {0xB000, 0xB006, 0xB007}
UNKNOWN_CLASS = "2.25.2"


def _is_refusal(status: int) -> bool:
    return status in REFUSALS or (status in REFUSING and status & 0xF000 != 0xB000)


@check("S0", "PS3.4 B.2.3")
def samples(tools: Toolkit) -> CheckResult:
    """Does the server store the test instances with Success?"""
    statuses = list(tools.stored.values())
    if not statuses:
        raise NotOffered("none of the samples' SOP Classes is accepted")
    kinds = {f"{each:04X}": statuses.count(each) for each in sorted(set(statuses))}
    seen = ", ".join(f"{count} times {status}" for status, count in kinds.items())
    refused = len(list(tools.samples)) - len(statuses)
    if refused:
        seen += f"; the contexts of {refused} are not accepted"
    return free(seen) if any(statuses) else conforms(seen)


@check("S1", "PS3.4 B.2.3")
def other_instance(tools: Toolkit) -> CheckResult:
    """Does the server refuse an instance whose SOP Instance UID differs from that of the command?"""
    return _mismatch(tools, tools.samples.probe(1), {wire.SOP_INSTANCE: tools.samples.uid(101, 9, 9)})


@check("S1b", "PS3.4 B.2.3")
def other_class(tools: Toolkit) -> CheckResult:
    """Does the server refuse an instance whose SOP Class differs from that of the command?"""
    return _mismatch(tools, tools.samples.probe(2, SOPClassUID=MR), {wire.SOP_CLASS: CT}, CT)


def _mismatch(tools: Toolkit, instance: SampleInstance, more: dict[int, wire.Value], context: str = "") -> CheckResult:
    response = tools.store(instance, context, more)
    if response.status == 0:
        return free("0000: the UIDs are not compared")
    is_conformant = _is_refusal(response.status) or response.status in WARNINGS
    return judge(is_conformant, status_text(response))


@check("S2", "PS3.4 B.2.3")
def no_study(tools: Toolkit) -> CheckResult:
    """How does the server treat an instance without Study Instance UID?"""
    return _judge_choice(tools, tools.samples.probe(3, StudyInstanceUID=None))


@check("S2b", "PS3.4 B.2.3")
def no_patient(tools: Toolkit) -> CheckResult:
    """How does the server treat an instance without Patient ID?"""
    return _judge_choice(tools, tools.samples.probe(4, PatientID=None))


def _judge_choice(tools: Toolkit, instance: SampleInstance) -> CheckResult:
    response = tools.store(instance)
    is_conformant = response.status == 0 or _is_refusal(response.status) or response.status in WARNINGS
    return free(status_text(response)) if is_conformant else deviates(status_text(response))


@check("S2c", "PS3.4 B.2.3")
def no_instance_uid(tools: Toolkit) -> CheckResult:
    """Does the server refuse an instance without SOP Class UID and SOP Instance UID?"""
    instance = tools.samples.probe(5)
    uid, sop_class = instance.uid, instance.sop_class
    del instance.dataset.SOPInstanceUID, instance.dataset.SOPClassUID
    with tools.server.associate([(sop_class, (instance.syntax,))]) as association:
        more = {wire.SOP_INSTANCE: uid}
        response = association.perform(wire.C_STORE, sop_class, instance.encode(), more).final
    return (
        free("0000: it is stored")
        if response.status == 0
        else judge(_is_refusal(response.status), status_text(response))
    )


@check("S3", "PS3.4 B.2.3")
def unreadable(tools: Toolkit) -> CheckResult:
    """Does the server refuse a data set that cannot be decoded?"""
    with tools.server.associate([(CT, (wire.EXPLICIT,))]) as association:
        more: dict[int, wire.Value] = {wire.SOP_INSTANCE: tools.samples.uid(106, 1, 1)}
        try:
            response = association.perform(
                wire.C_STORE, CT, b"\x08\x00\x16\x00UI\xf0\xffthis is no data set", more
            ).final
        except Aborted as aborted:
            return free(str(aborted))
    return judge(_is_refusal(response.status), status_text(response))


@check("S6", "PS3.4 B.2.3")
def stored_twice(tools: Toolkit) -> CheckResult:
    """Does the server accept the same instance again, and find it once?"""
    tools.need("4")
    response = tools.store(tools.samples.instance("4"))
    found = tools.find("IMAGE", _path(tools, "4"))
    count = len(found.matches)
    if count != 1:
        return deviates(f"{status_text(response)}, found {count} times")
    return conforms("0000, found once") if response.status == 0 else free(f"{status_text(response)}, found once")


@check("S7", "PS3.4 B.2.3")
def other_content(tools: Toolkit) -> CheckResult:
    """How does the server treat different content under a known SOP Instance UID?"""
    first = tools.store(tools.samples.probe(7, InstanceNumber=1))
    second = tools.store(tools.samples.probe(7, InstanceNumber=2))
    if first.status:
        impossible(f"the first has status {status_text(first)}")
    found = tools.find("IMAGE", _path(tools, "107") | {"InstanceNumber": ""})
    numbers = [each.text("InstanceNumber") for each in found.matches]
    kept = {"1": "the first is kept", "2": "the second replaces it"}
    seen = kept.get(numbers[0], "unknown which one is kept") if len(numbers) == 1 else f"found {len(numbers)} times"
    return free(f"{status_text(second)}, {seen}") if len(numbers) == 1 else deviates(f"{status_text(second)}, {seen}")


def _path(tools: Toolkit, label: str) -> dict[str, str]:
    return {"StudyInstanceUID": tools.samples.uid(label), "SeriesInstanceUID": tools.samples.uid(label, 1)}


@check("S8", "PS3.4 B.4")
def unknown_class(tools: Toolkit) -> CheckResult:
    """Does the server accept an unknown Storage SOP Class?"""
    with tools.server.associate([UNKNOWN_CLASS, CT]) as association:
        result, _ = association.accept.results.get(1, (4, ""))
    return free("yes" if result == 0 else f"no, result {result}")


@check("S9", "PS3.7 9.1.1")
def response_fields(tools: Toolkit) -> CheckResult:
    """Does the response repeat the Message ID and SOP UIDs, and have no data set?"""
    instance = tools.samples.probe(9)
    with tools.server.associate([(instance.sop_class, (instance.syntax,))]) as association:
        response = store(association, instance, more={wire.MESSAGE_ID: 65535})
    wrong = []
    if response.field != wire.C_STORE | wire.RESPONSE:
        wrong.append(f"Command Field {response.field:04X}")
    for tag, due in ((wire.SOP_CLASS, instance.sop_class), (wire.SOP_INSTANCE, instance.uid)):
        if response.text(tag) not in ("", due):
            wrong.append(f"(0000,{tag:04X}) is {response.text(tag)!r}")
    if response.has_data_set:
        wrong.append("it announces a data set")
    return judge(not wrong, "; ".join(wrong) or f"they are repeated, {response.status:04X}")


@check("S10", "PS3.4 B.4.1")
def returned_values(tools: Toolkit) -> CheckResult:
    """Does the server return an instance with every value, private ones included?"""
    instance = tools.samples.instance("1")
    return _compare(instance, retrieved(tools, instance))


@check("S11", "PS3.4 B.4.1")
def compressed(tools: Toolkit) -> CheckResult:
    """Does the server return an RLE compressed instance unchanged?"""
    instance = tools.samples.instance("8")
    return _compare(instance, retrieved(tools, instance))


@check("S12", "PS3.4 B.4.1")
def returned_text(tools: Toolkit) -> CheckResult:
    """Does the server return values in ISO 2022 IR 87 unchanged?"""
    instance = tools.samples.instance("5")
    return _compare(instance, retrieved(tools, instance))


def retrieved(tools: Toolkit, instance: SampleInstance) -> bytes:
    """Return the data set in its own transfer syntax retrieved by C-GET or by C-MOVE. Raises CheckImpossible."""
    label = instance.uid.removeprefix(tools.samples.root).split(".")[0]
    moved = _retrieve(tools, label, instance)
    received = [each for each in moved.received if each.message.text(wire.SOP_INSTANCE) == instance.uid]
    if not received:
        impossible(f"it was not received: {moved.seen}")
    if received[0].syntax != instance.syntax:
        impossible(f"it was sent in another transfer syntax, {received[0].syntax}")
    return received[0].message.data or b""


def _retrieve(tools: Toolkit, label: str, instance: SampleInstance) -> RetrieveResult:
    try:
        return tools.get_study(label, syntaxes=(instance.syntax,))
    except NotOffered:
        try:
            return tools.move(label, SCPBehaviour(syntaxes=(instance.syntax,)))
        except (NotOffered, CheckImpossible) as why:
            raise CheckImpossible(f"no C-GET, and for C-MOVE: {why}") from why


def _compare(instance: SampleInstance, data: bytes) -> CheckResult:
    if data == instance.encode():
        return conforms(f"all {len(data)} bytes")
    sent, came = instance.dataset, wire.decoded(data, instance.syntax)
    due, found = list(sent.keys()), list(came.keys())
    missing = [tag for tag in due if tag not in came]
    changed = [tag for tag in due if tag in came and not _equal(sent, came, tag)]
    added = [tag for tag in found if tag not in sent and BaseTag(tag).element]
    if changed:
        return deviates(f"another value of {_tags(changed)}")
    if missing:
        return free(f"without {_tags(missing)}: not Level 2 of storage")
    return conforms(f"every value{', and also ' + _tags(added) if added else ', encoded differently'}")


def _equal(sent: Dataset, came: Dataset, tag: BaseTag) -> bool:
    one, other = sent[tag].value, came[tag].value
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one.rstrip(b"\0") == other.rstrip(b"\0")
    return bool(one == other) or str(one).strip() == str(other).strip()


def _tags(tags: list[BaseTag]) -> str:
    few = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags[:4])
    return few + (f" and {len(tags) - 4} others" if len(tags) > 4 else "")
