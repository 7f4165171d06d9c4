"""What is taken in, and that it comes back as it was (PS3.4 Annex B)."""

from pydicom import Dataset
from pydicom.tag import BaseTag

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Aborted
from pacs.conformance.checks.bench import Bench, Moved, ended, store
from pacs.conformance.checks.receiver import Behaviour
from pacs.conformance.checks.specimens import CT, MR, Specimen
from pacs.conformance.checks.verdicts import (
    Checks,
    CouldNotAsk,
    NotOffered,
    Verdict,
    cannot,
    conforms,
    deviates,
    free,
    judge,
)

CHECKS = Checks("storage")
check = CHECKS.check

REFUSING = range(0xA700, 0xD000)
REFUSALS = {0x0105, 0x0106, 0x0110, 0x0111, 0x0117, 0x0122, 0x0124}
WARNINGS = {0xB000, 0xB006, 0xB007}
UNKNOWN_CLASS = "2.25.2"


def _is_refusal(status: int) -> bool:
    return status in REFUSALS or (status in REFUSING and status & 0xF000 != 0xB000)


@check("S0", "PS3.4 B.2.3")
def specimens(bench: Bench) -> Verdict:
    """Does the server store the test instances with Success?"""
    statuses = list(bench.stored.values())
    if not statuses:
        raise NotOffered("none of the specimens' SOP Classes is accepted")
    kinds = {f"{each:04X}": statuses.count(each) for each in sorted(set(statuses))}
    seen = ", ".join(f"{count} times {status}" for status, count in kinds.items())
    refused = len(list(bench.specimens)) - len(statuses)
    if refused:
        seen += f"; of {refused} no context is accepted"
    return free(seen) if any(statuses) else conforms(seen)


@check("S1", "PS3.4 B.2.3")
def other_instance(bench: Bench) -> Verdict:
    """Does the server refuse an instance whose SOP Instance UID differs from that of the command?"""
    return _mismatch(bench, bench.specimens.probe(1), {wire.SOP_INSTANCE: bench.specimens.uid(101, 9, 9)})


@check("S1b", "PS3.4 B.2.3")
def other_class(bench: Bench) -> Verdict:
    """Does the server refuse an instance whose SOP Class differs from that of the command?"""
    return _mismatch(bench, bench.specimens.probe(2, SOPClassUID=MR), {wire.SOP_CLASS: CT}, CT)


def _mismatch(bench: Bench, specimen: Specimen, more: dict[int, wire.Value], context: str = "") -> Verdict:
    response = bench.store(specimen, context, more)
    if response.status == 0:
        return free("0000: it does not compare them")
    well = _is_refusal(response.status) or response.status in WARNINGS
    return judge(well, ended(response))


@check("S2", "PS3.4 B.2.3")
def no_study(bench: Bench) -> Verdict:
    """How does the server treat an instance without Study Instance UID?"""
    return _policy(bench, bench.specimens.probe(3, StudyInstanceUID=None))


@check("S2b", "PS3.4 B.2.3")
def no_patient(bench: Bench) -> Verdict:
    """How does the server treat an instance without Patient ID?"""
    return _policy(bench, bench.specimens.probe(4, PatientID=None))


def _policy(bench: Bench, specimen: Specimen) -> Verdict:
    response = bench.store(specimen)
    well = response.status == 0 or _is_refusal(response.status) or response.status in WARNINGS
    return free(ended(response)) if well else deviates(ended(response))


@check("S2c", "PS3.4 B.2.3")
def no_instance_uid(bench: Bench) -> Verdict:
    """Does the server refuse an instance without SOP Class UID and SOP Instance UID?"""
    specimen = bench.specimens.probe(5)
    uid, sop_class = specimen.uid, specimen.sop_class
    del specimen.dataset.SOPInstanceUID, specimen.dataset.SOPClassUID
    with bench.peer.associate([(sop_class, (specimen.syntax,))]) as association:
        more = {wire.SOP_INSTANCE: uid}
        response = association.ask(wire.C_STORE, sop_class, specimen.encode(), more).final
    return (
        free("0000: it takes it in") if response.status == 0 else judge(_is_refusal(response.status), ended(response))
    )


@check("S3", "PS3.4 B.2.3")
def unreadable(bench: Bench) -> Verdict:
    """Does the server refuse a data set that cannot be decoded?"""
    with bench.peer.associate([(CT, (wire.EXPLICIT,))]) as association:
        more: dict[int, wire.Value] = {wire.SOP_INSTANCE: bench.specimens.uid(106, 1, 1)}
        try:
            response = association.ask(wire.C_STORE, CT, b"\x08\x00\x16\x00UI\xf0\xffthis is no data set", more).final
        except Aborted as aborted:
            return free(str(aborted))
    return judge(_is_refusal(response.status), ended(response))


@check("S6", "PS3.4 B.2.3")
def sent_again(bench: Bench) -> Verdict:
    """Does the server accept the same instance again, and find it once?"""
    bench.need("4")
    response = bench.store(bench.specimens.instance("4"))
    found = bench.find("IMAGE", _path(bench, "4"))
    count = len(found.ours)
    if count != 1:
        return deviates(f"{ended(response)}, found {count} times")
    return conforms("0000, found once") if response.status == 0 else free(f"{ended(response)}, found once")


@check("S7", "PS3.4 B.2.3")
def other_content(bench: Bench) -> Verdict:
    """How does the server treat different content under a known SOP Instance UID?"""
    first = bench.store(bench.specimens.probe(7, InstanceNumber=1))
    second = bench.store(bench.specimens.probe(7, InstanceNumber=2))
    if first.status:
        cannot(f"the first is answered with {ended(first)}")
    found = bench.find("IMAGE", _path(bench, "107") | {"InstanceNumber": ""})
    numbers = [each.text("InstanceNumber") for each in found.ours]
    kept = {"1": "the first is kept", "2": "the second takes its place"}
    seen = kept.get(numbers[0], "what is kept cannot be told") if len(numbers) == 1 else f"found {len(numbers)} times"
    return free(f"{ended(second)}, {seen}") if len(numbers) == 1 else deviates(f"{ended(second)}, {seen}")


def _path(bench: Bench, label: str) -> dict[str, str]:
    return {"StudyInstanceUID": bench.specimens.uid(label), "SeriesInstanceUID": bench.specimens.uid(label, 1)}


@check("S8", "PS3.4 B.4")
def unknown_class(bench: Bench) -> Verdict:
    """Does the server accept an unknown Storage SOP Class?"""
    with bench.peer.associate([UNKNOWN_CLASS, CT]) as association:
        result, _ = association.answer.results.get(1, (4, ""))
    return free("yes" if result == 0 else f"no, result {result}")


@check("S9", "PS3.7 9.1.1")
def response_fields(bench: Bench) -> Verdict:
    """Does the response repeat the Message ID and SOP UIDs, and have no data set?"""
    specimen = bench.specimens.probe(9)
    with bench.peer.associate([(specimen.sop_class, (specimen.syntax,))]) as association:
        response = store(association, specimen, more={wire.MESSAGE_ID: 65535})
    wrong = []
    if response.field != wire.C_STORE | wire.RESPONSE:
        wrong.append(f"Command Field {response.field:04X}")
    for tag, due in ((wire.SOP_CLASS, specimen.sop_class), (wire.SOP_INSTANCE, specimen.uid)):
        if response.text(tag) not in ("", due):
            wrong.append(f"(0000,{tag:04X}) is {response.text(tag)!r}")
    if response.has_data_set:
        wrong.append("it announces a data set")
    return judge(not wrong, "; ".join(wrong) or f"they are as they were, {response.status:04X}")


@check("S10", "PS3.4 B.4.1")
def comes_back(bench: Bench) -> Verdict:
    """Does the server return an instance with every value, private ones included?"""
    specimen = bench.specimens.instance("1")
    return _compared(specimen, retrieved(bench, specimen))


@check("S11", "PS3.4 B.4.1")
def compressed(bench: Bench) -> Verdict:
    """Does the server return an RLE compressed instance unchanged?"""
    specimen = bench.specimens.instance("8")
    return _compared(specimen, retrieved(bench, specimen))


@check("S12", "PS3.4 B.4.1")
def other_script(bench: Bench) -> Verdict:
    """Does the server return values in ISO 2022 IR 87 unchanged?"""
    specimen = bench.specimens.instance("5")
    return _compared(specimen, retrieved(bench, specimen))


def retrieved(bench: Bench, specimen: Specimen) -> bytes:
    """The data set as it comes back in its own transfer syntax, by C-GET or else by C-MOVE. Raises CouldNotAsk."""
    label = specimen.uid.removeprefix(bench.specimens.root).split(".")[0]
    moved = _either(bench, label, specimen)
    arrived = [each for each in moved.arrived if each.message.text(wire.SOP_INSTANCE) == specimen.uid]
    if not arrived:
        cannot(f"it did not come: {moved.seen}")
    if arrived[0].syntax != specimen.syntax:
        cannot(f"it came in another transfer syntax, {arrived[0].syntax}")
    return arrived[0].message.data or b""


def _either(bench: Bench, label: str, specimen: Specimen) -> Moved:
    try:
        return bench.get_study(label, syntaxes=(specimen.syntax,))
    except NotOffered:
        try:
            return bench.move(label, Behaviour(syntaxes=(specimen.syntax,)))
        except (NotOffered, CouldNotAsk) as why:
            raise CouldNotAsk(f"no C-GET, and for C-MOVE: {why}") from why


def _compared(specimen: Specimen, data: bytes) -> Verdict:
    if data == specimen.encode():
        return conforms(f"all {len(data)} bytes")
    sent, came = specimen.dataset, wire.decoded(data, specimen.syntax)
    due, found = list(sent.keys()), list(came.keys())
    missing = [tag for tag in due if tag not in came]
    changed = [tag for tag in due if tag in came and not _equal(sent, came, tag)]
    added = [tag for tag in found if tag not in sent and BaseTag(tag).element]
    if changed:
        return deviates(f"another value of {_tags(changed)}")
    if missing:
        return free(f"without {_tags(missing)}: not Level 2 of storage")
    return conforms(f"every value{', and besides ' + _tags(added) if added else ', encoded anew'}")


def _equal(sent: Dataset, came: Dataset, tag: BaseTag) -> bool:
    one, other = sent[tag].value, came[tag].value
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one.rstrip(b"\0") == other.rstrip(b"\0")
    return bool(one == other) or str(one).strip() == str(other).strip()


def _tags(tags: list[BaseTag]) -> str:
    few = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags[:4])
    return few + (f" and {len(tags) - 4} others" if len(tags) > 4 else "")
