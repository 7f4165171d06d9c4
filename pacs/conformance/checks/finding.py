"""What a C-FIND is answered with (PS3.4 C.4.1)."""

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Aborted
from pacs.conformance.checks.bench import PATIENT_FIND, STUDY_FIND, UNIQUE, Bench, Found, Keys, Match, ended, identifier
from pacs.conformance.checks.verdicts import Checks, Verdict, cannot, conforms, deviates, free, judge

CHECKS = Checks("finding")
check = CHECKS.check

ALWAYS = {
    "SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability", "StorageMediaFileSetID",
    "StorageMediaFileSetUID", "TimezoneOffsetFromUTC",
}  # fmt: skip
"""What may be in a response without having been asked for, the unique keys aside."""


@check("F1", "PS3.4 C.4.1.1.3")
def no_level(bench: Bench) -> Verdict:
    """Does the server refuse a query without Query/Retrieve Level with A900?"""
    return _refused(bench, identifier({"StudyInstanceUID": bench.specimens.uid("1")}))


@check("F2", "PS3.4 C.4.1.1.3")
def foreign_level(bench: Bench) -> Verdict:
    """Does the server refuse a level that the information model does not have with A900?"""
    return _refused(bench, identifier({"PatientID": bench.specimens.patient_id("1")}, level="PATIENT"))


def _refused(bench: Bench, data: bytes) -> Verdict:
    """Whether an Identifier is refused for which there can be no match in the Study Root model."""
    with bench.peer.associate([STUDY_FIND]) as association:
        responses = association.ask(wire.C_FIND, STUDY_FIND, data)
    if responses.pending:
        return deviates(f"it is answered with matches, {ended(responses.final)}")
    if responses.status == 0:
        return free("no matches, 0000")
    return (
        conforms(ended(responses.final))
        if responses.status == 0xA900
        else free(f"refused, with {ended(responses.final)}")
    )


@check("F3", "PS3.4 C.4.1.3.1.1")
def no_key(bench: Bench) -> Verdict:
    """How does the server answer a query without any key?"""
    bench.need("1")
    with bench.peer.associate([STUDY_FIND]) as association:
        first = association.begin(wire.C_FIND, STUDY_FIND, identifier({}, level="STUDY"))
    return free("matches" if first.is_pending else f"no matches, {ended(first)}")


@check("F4", "PS3.4 C.4.1.3.1.1")
def nothing_above(bench: Bench) -> Verdict:
    """How does the server answer a query at SERIES level without Study Instance UID?"""
    bench.need("1")
    found = bench.find("SERIES", {"SeriesInstanceUID": bench.specimens.uid("1", 1)})
    if found.status in (0xA900, *range(0xC000, 0xD000)):
        return free(f"refused, with {found.ending}")
    return free("matches as a relational query would" if found.ours else "no matches, 0000")


@check("F4b", "PS3.4 C.4.1.3.2.1")
def relational(bench: Bench) -> Verdict:
    """Is a query at SERIES level without Study Instance UID answered after relational negotiation?"""
    bench.need("1")
    found = bench.find("SERIES", {"SeriesInstanceUID": bench.specimens.uid("1", 1)}, extended=b"\x01")
    return judge(len(found.ours) == 1 and found.status == 0, f"{len(found.ours)} of 1 series, {found.ending}")


@check("F5", "PS3.4 C.4.1.1.3")
def lower_key(bench: Bench) -> Verdict:
    """How does the server treat a key of a lower level?"""
    bench.need("1")
    found = bench.find(
        "STUDY", {"StudyInstanceUID": bench.specimens.uid("1"), "SeriesInstanceUID": bench.specimens.uid("2", 1)}
    )
    if found.status:
        return free(f"refused, with {found.ending}")
    if not found.ours:
        return free("it is matched: no study has such a series")
    return free(f"it is ignored, {found.ours[0].status:04X}")


@check("F6", "PS3.4 C.4.1.1.3.2")
def requested(bench: Bench) -> Verdict:
    """Does a match contain the requested attributes, with zero length if unknown?"""
    bench.need("3")
    keys = ("PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID")
    found = _one(bench, "3", dict.fromkeys(keys, ""))
    missing = [each for each in keys if each not in found]
    return judge(
        not missing, f"without {', '.join(missing)}" if missing else "all six required keys, two of them empty"
    )


@check("F6b", "PS3.4 C.4.1.1.3.2")
def unrequested(bench: Bench) -> Verdict:
    """Does a match contain only requested attributes?"""
    bench.need("1")
    found = _one(bench, "1", {"PatientName": "", "StudyDate": ""})
    allowed = ALWAYS | {"PatientName", "StudyDate"} | set(UNIQUE.values())
    more = [each.keyword or str(each.tag) for each in found.dataset if each.keyword not in allowed]
    return judge(not more, f"also {', '.join(more)}" if more else "nothing but what was asked for")


@check("F6c", "PS3.4 C.4.1.1.3.2")
def level_returned(bench: Bench) -> Verdict:
    """Does a match contain the Query/Retrieve Level of the request?"""
    bench.need("1")
    found = _one(bench, "1", {})
    return judge(found.text("QueryRetrieveLevel") == "STUDY", found.text("QueryRetrieveLevel") or "not returned")


@check("F6d", "PS3.4 C.4.1.1.3.2")
def keys_above(bench: Bench) -> Verdict:
    """Does a match contain the unique keys of the levels above?"""
    bench.need("1")
    found = bench.find(
        "IMAGE", {"StudyInstanceUID": bench.specimens.uid("1"), "SeriesInstanceUID": bench.specimens.uid("1", 1)}
    )
    if not found.ours:
        return deviates(f"no image is found, {found.ending}")
    missing = [each for each in ("StudyInstanceUID", "SeriesInstanceUID") if not found.ours[0].text(each)]
    return judge(not missing, f"without {', '.join(missing)}" if missing else "study and series of an image")


@check("F6e", "PS3.4 C.4.1.1.3.2")
def retrieve_title(bench: Bench) -> Verdict:
    """Does a match contain Retrieve AE Title or Storage Media File-Set UID?"""
    bench.need("1")
    found = bench.find(
        "IMAGE", {"StudyInstanceUID": bench.specimens.uid("1"), "SeriesInstanceUID": bench.specimens.uid("1", 1)}
    )
    if not found.ours:
        return deviates(f"no image is found, {found.ending}")
    where = found.ours[0].text("RetrieveAETitle") or found.ours[0].text("StorageMediaFileSetUID")
    return judge(where, where or "neither Retrieve AE Title nor Storage Media File-Set")


@check("F6f", "PS3.4 C.4.1.1.3.2")
def patient_above(bench: Bench) -> Verdict:
    """Does a study in the Patient Root model contain its Patient ID?"""
    bench.need("1")
    keys = {"PatientID": bench.specimens.patient_id("1"), "StudyInstanceUID": bench.specimens.uid("1")}
    found = bench.find("STUDY", keys, model=PATIENT_FIND)
    if not found.ours:
        return deviates(f"the study is not found, {found.ending}")
    return judge(
        found.ours[0].text("PatientID") == keys["PatientID"], found.ours[0].text("PatientID") or "not returned"
    )


@check("F6g", "PS3.4 C.4.1.1.3.1")
def name_above(bench: Bench) -> Verdict:
    """How does the server treat a required key of a higher level (Patient's Name for a study, Patient Root)?"""
    bench.need("1")
    keys = {
        "PatientID": bench.specimens.patient_id("1"),
        "PatientName": "Nobody",
        "StudyInstanceUID": bench.specimens.uid("1"),
    }
    found = bench.find("STUDY", keys, model=PATIENT_FIND)
    if found.status:
        return free(f"refused, with {found.ending}")
    return free("it is not matched" if found.ours else "it is matched")


@check("F7", "PS3.4 C.4.1.3.1")
def one_each(bench: Bench) -> Verdict:
    """Is there one match for each entity at STUDY, SERIES and IMAGE level?"""
    bench.need("1")
    study, series = {"StudyInstanceUID": bench.specimens.uid("1")}, {"SeriesInstanceUID": bench.specimens.uid("1", 1)}
    counts = {
        "STUDY": (len(bench.find("STUDY", study).ours), 1),
        "SERIES": (len(bench.find("SERIES", study).ours), 2),
        "IMAGE": (len(bench.find("IMAGE", study | series).ours), 2),
    }
    return _counted(counts)


def _counted(counts: dict[str, tuple[int, int]]) -> Verdict:
    wrong = [f"{found} responses for {due} at {level}" for level, (found, due) in counts.items() if found != due]
    return judge(not wrong, "; ".join(wrong) or "one each")


@check("F7b", "PS3.4 C.6.1")
def one_patient(bench: Bench) -> Verdict:
    """Is there one match for each patient in the Patient Root model?"""
    bench.need("1", "2", "3", "4")
    keys = {"PatientID": bench.specimens.patient_id("1"), "PatientName": ""}
    return _counted({"PATIENT": (len(bench.find("PATIENT", keys, model=PATIENT_FIND).ours), 1)})


@check("F8", "PS3.4 C.4.1.2")
def bare_end(bench: Bench) -> Verdict:
    """Does the final response have no Identifier?"""
    bench.need("1")
    found = bench.find("STUDY", {"StudyInstanceUID": bench.specimens.uid("1")})
    final = found.responses.final
    return judge(
        not final.has_data_set and final.status == 0,
        f"{ended(final)}, {'with' if final.has_data_set else 'without'} a data set",
    )


@check("F8b", "PS3.4 C.4.1.1.4")
def unsupported(bench: Bench) -> Verdict:
    """Does the server report an unsupported optional key with FF01?"""
    bench.need("1")
    found = _one(bench, "1", {"RequestedContrastAgent": ""})
    if "RequestedContrastAgent" in found:
        return free(f"it is returned, {found.status:04X}")
    return judge(found.status == 0xFF01, f"not returned, {found.status:04X}")


@check("F8c", "PS3.4 C.4.1.1.4")
def supported(bench: Bench) -> Verdict:
    """Does the server answer FF00 when only required keys are requested?"""
    bench.need("1")
    found = _one(bench, "1", {"PatientName": "", "StudyDate": "", "AccessionNumber": ""})
    return judge(found.status == 0xFF00, f"{found.status:04X}")


@check("F9", "PS3.4 C.4.1.1.4")
def reasons(bench: Bench) -> Verdict:
    """Does a refusal contain a reason?"""
    with bench.peer.associate([STUDY_FIND]) as association:
        data = identifier({"StudyInstanceUID": bench.specimens.uid("1")}, level="NOWHERE")
        final = association.ask(wire.C_FIND, STUDY_FIND, data).final
    if final.status == 0:
        return deviates("0000 to level NOWHERE")
    tags = final.elements.get(wire.OFFENDING_ELEMENT, b"")
    return free(f"{ended(final)}, {'with' if tags else 'without'} Offending Element")


@check("F9b", "PS3.7 9.1.2.1")
def other_class(bench: Bench) -> Verdict:
    """How does the server answer a C-FIND whose SOP Class differs from that of its presentation context?"""
    bench.need("1")
    data = identifier({"StudyInstanceUID": bench.specimens.uid("1")}, level="STUDY")
    with bench.peer.associate([STUDY_FIND]) as association:
        try:
            responses = association.ask(wire.C_FIND, STUDY_FIND, data, {wire.SOP_CLASS: PATIENT_FIND})
        except Aborted as aborted:
            return free(str(aborted))
    return free(f"{'matches' if responses.pending else 'no matches'}, {ended(responses.final)}")


@check("K1", "PS3.4 C.2.2.1.1")
def unique_keys(bench: Bench) -> Verdict:
    """Is an empty unique key universal, and returned with its value?"""
    bench.need("1")
    found = bench.find("SERIES", {"StudyInstanceUID": bench.specimens.uid("1")})
    uids = {each.text("SeriesInstanceUID") for each in found.ours}
    return judge(
        uids == {bench.specimens.uid("1", each) for each in (1, 2)}, f"{len(uids)} of 2 series, {found.ending}"
    )


@check("K2", "PS3.4 C.2.2.1.2")
def empty_matches(bench: Bench) -> Verdict:
    """Does a required key whose stored value is empty match any value?"""
    found = bench.of_patient(AccessionNumber="ACC-a1")
    if found.status:
        return deviates(found.ending)
    return judge(
        "3" in found.studies,
        "the study without Accession Number is " + ("found" if "3" in found.studies else "not found"),
    )


@check("K3", "PS3.4 C.2.2.1.3")
def optional_key(bench: Bench) -> Verdict:
    """How does the server treat an optional key (Study Description)?"""
    found = bench.of_patient(StudyDescription="Abdomen")
    if found.status or not found.ours:
        return free(f"nothing is found, {found.ending}")
    status, is_returned = found.ours[0].status, "StudyDescription" in found.ours[0]
    if {"1"} & found.studies:
        well = is_returned or status == 0xFF01
        return (free if well else deviates)(f"not matched, {'' if is_returned else 'not '}returned, {status:04X}")
    return (
        free(f"matched like a required key, {status:04X}")
        if is_returned
        else deviates(f"matched but not returned, {status:04X}")
    )


@check("K3b", "PS3.4 C.2.2.1.3")
def private_key(bench: Bench) -> Verdict:
    """Does the server report an unsupported private key with FF01?"""
    bench.need("1")
    keys = {"StudyInstanceUID": bench.specimens.uid("1"), "00110010": "NOBODY KNOWS IT", "00111001": ""}
    found = bench.find("STUDY", keys)
    if not found.ours:
        return free(f"nothing is found with such a key, {found.ending}")
    status = found.ours[0].status
    if "00111001" in found.ours[0]:
        return free(f"it is returned, {status:04X}")
    return judge(status == 0xFF01, f"not returned, {status:04X}")


@check("K5", "PS3.4 C.3.4")
def counted(bench: Bench) -> Verdict:
    """Does the server count the series and instances of a study?"""
    bench.need("1")
    found = _one(bench, "1", {"NumberOfStudyRelatedSeries": "", "NumberOfStudyRelatedInstances": ""})
    numbers = found.text("NumberOfStudyRelatedSeries"), found.text("NumberOfStudyRelatedInstances")
    if not any(numbers):
        return free(f"not supported, {found.status:04X}")
    return judge(numbers == ("2", "3"), f"{numbers[0] or '-'} series and {numbers[1] or '-'} instances of 2 and 3")


def _one(bench: Bench, label: str, keys: Keys) -> Match:
    """The first response for a study that is asked for by its UID. Raises CouldNotAsk when there is none."""
    found: Found = bench.find("STUDY", {"StudyInstanceUID": bench.specimens.uid(label), **keys})
    if not found.ours:
        cannot(f"the study is not found with that key, {found.ending}")
    return found.ours[0]
