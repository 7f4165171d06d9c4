"""Checks of C-FIND requests and their responses (PS3.4 C.4.1)."""

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Aborted
from pacs.conformance.checks.results import CheckResult, Checks, conforms, deviates, free, impossible, judge
from pacs.conformance.checks.toolkit import (
    PATIENT_FIND,
    STUDY_FIND,
    UNIQUE,
    FindResult,
    Keys,
    ResponseIdentifier,
    Toolkit,
    identifier,
    status_text,
)

CHECKS = Checks("finding")
check = CHECKS.check

ALWAYS = {
    "SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability", "StorageMediaFileSetID",
    "StorageMediaFileSetUID", "TimezoneOffsetFromUTC",
}  # fmt: skip
"""Attributes that a match may contain without a request, besides the unique keys."""


@check("F1", "PS3.4 C.4.1.1.3")
def no_level(tools: Toolkit) -> CheckResult:
    """Does the server refuse a query without Query/Retrieve Level with A900?"""
    return _refused(tools, identifier({"StudyInstanceUID": tools.samples.uid("1")}))


@check("F2", "PS3.4 C.4.1.1.3")
def unsupported_level(tools: Toolkit) -> CheckResult:
    """Does the server refuse a level that the information model does not have with A900?"""
    return _refused(tools, identifier({"PatientID": tools.samples.patient_id("1")}, level="PATIENT"))


def _refused(tools: Toolkit, data: bytes) -> CheckResult:
    """Check that an invalid Identifier of the Study Root model is refused."""
    with tools.server.associate([STUDY_FIND]) as association:
        responses = association.perform(wire.C_FIND, STUDY_FIND, data)
    if responses.pending:
        return deviates(f"it has matches, {status_text(responses.final)}")
    if responses.status == 0:
        return free("no matches, 0000")
    return (
        conforms(status_text(responses.final))
        if responses.status == 0xA900
        else free(f"refused, with {status_text(responses.final)}")
    )


@check("F3", "PS3.4 C.4.1.3.1.1")
def no_key(tools: Toolkit) -> CheckResult:
    """How does the server answer a query without any key?"""
    tools.need("1")
    with tools.server.associate([STUDY_FIND]) as association:
        first = association.first_response(wire.C_FIND, STUDY_FIND, identifier({}, level="STUDY"))
    return free("matches" if first.is_pending else f"no matches, {status_text(first)}")


@check("F4", "PS3.4 C.4.1.3.1.1")
def missing_key_above(tools: Toolkit) -> CheckResult:
    """How does the server answer a query at SERIES level without Study Instance UID?"""
    tools.need("1")
    found = tools.find("SERIES", {"SeriesInstanceUID": tools.samples.uid("1", 1)})
    if found.status in (0xA900, *range(0xC000, 0xD000)):
        return free(f"refused, with {found.status_text}")
    return free("matches as a relational query would" if found.matches else "no matches, 0000")


@check("F4b", "PS3.4 C.4.1.3.2.1")
def relational(tools: Toolkit) -> CheckResult:
    """Is a query at SERIES level without Study Instance UID answered after relational negotiation?"""
    tools.need("1")
    found = tools.find("SERIES", {"SeriesInstanceUID": tools.samples.uid("1", 1)}, extended=b"\x01")
    return judge(
        len(found.matches) == 1 and found.status == 0, f"{len(found.matches)} of 1 series, {found.status_text}"
    )


@check("F5", "PS3.4 C.4.1.1.3")
def lower_key(tools: Toolkit) -> CheckResult:
    """How does the server treat a key of a lower level?"""
    tools.need("1")
    found = tools.find(
        "STUDY", {"StudyInstanceUID": tools.samples.uid("1"), "SeriesInstanceUID": tools.samples.uid("2", 1)}
    )
    if found.status:
        return free(f"refused, with {found.status_text}")
    if not found.matches:
        return free("it is matched")
    return free(f"it is ignored, {found.matches[0].status:04X}")


@check("F6", "PS3.4 C.4.1.1.3.2")
def requested(tools: Toolkit) -> CheckResult:
    """Does a match contain the requested attributes, with zero length if unknown?"""
    tools.need("3")
    keys = ("PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID")
    found = _first_match(tools, "3", dict.fromkeys(keys, ""))
    missing = [each for each in keys if each not in found]
    return judge(
        not missing, f"without {', '.join(missing)}" if missing else "all six required keys, two of them empty"
    )


@check("F6b", "PS3.4 C.4.1.1.3.2")
def unrequested(tools: Toolkit) -> CheckResult:
    """Does a match contain only requested attributes?"""
    tools.need("1")
    found = _first_match(tools, "1", {"PatientName": "", "StudyDate": ""})
    allowed = ALWAYS | {"PatientName", "StudyDate"} | set(UNIQUE.values())
    more = [each.keyword or str(each.tag) for each in found.dataset if each.keyword not in allowed]
    return judge(not more, f"also {', '.join(more)}" if more else "only requested attributes")


@check("F6c", "PS3.4 C.4.1.1.3.2")
def level_returned(tools: Toolkit) -> CheckResult:
    """Does a match contain the Query/Retrieve Level of the request?"""
    tools.need("1")
    found = _first_match(tools, "1", {})
    return judge(found.text("QueryRetrieveLevel") == "STUDY", found.text("QueryRetrieveLevel") or "not returned")


@check("F6d", "PS3.4 C.4.1.1.3.2")
def keys_above(tools: Toolkit) -> CheckResult:
    """Does a match contain the unique keys of the levels above?"""
    tools.need("1")
    found = tools.find(
        "IMAGE", {"StudyInstanceUID": tools.samples.uid("1"), "SeriesInstanceUID": tools.samples.uid("1", 1)}
    )
    if not found.matches:
        return deviates(f"no image is found, {found.status_text}")
    missing = [each for each in ("StudyInstanceUID", "SeriesInstanceUID") if not found.matches[0].text(each)]
    return judge(not missing, f"without {', '.join(missing)}" if missing else "study and series of an image")


@check("F6e", "PS3.4 C.4.1.1.3.2")
def retrieve_title(tools: Toolkit) -> CheckResult:
    """Does a match contain Retrieve AE Title or Storage Media File-Set UID?"""
    tools.need("1")
    found = tools.find(
        "IMAGE", {"StudyInstanceUID": tools.samples.uid("1"), "SeriesInstanceUID": tools.samples.uid("1", 1)}
    )
    if not found.matches:
        return deviates(f"no image is found, {found.status_text}")
    where = found.matches[0].text("RetrieveAETitle") or found.matches[0].text("StorageMediaFileSetUID")
    return judge(where, where or "neither Retrieve AE Title nor Storage Media File-Set")


@check("F6f", "PS3.4 C.4.1.1.3.2")
def patient_above(tools: Toolkit) -> CheckResult:
    """Does a study in the Patient Root model contain its Patient ID?"""
    tools.need("1")
    keys = {"PatientID": tools.samples.patient_id("1"), "StudyInstanceUID": tools.samples.uid("1")}
    found = tools.find("STUDY", keys, model=PATIENT_FIND)
    if not found.matches:
        return deviates(f"the study is not found, {found.status_text}")
    return judge(
        found.matches[0].text("PatientID") == keys["PatientID"], found.matches[0].text("PatientID") or "not returned"
    )


@check("F6g", "PS3.4 C.4.1.1.3.1")
def required_key_above(tools: Toolkit) -> CheckResult:
    """How does the server treat a required key of a higher level (Patient's Name for a study, Patient Root)?"""
    tools.need("1")
    keys = {
        "PatientID": tools.samples.patient_id("1"),
        "PatientName": "Other",
        "StudyInstanceUID": tools.samples.uid("1"),
    }
    found = tools.find("STUDY", keys, model=PATIENT_FIND)
    if found.status:
        return free(f"refused, with {found.status_text}")
    return free("it is not matched" if found.matches else "it is matched")


@check("F7", "PS3.4 C.4.1.3.1")
def one_match_each(tools: Toolkit) -> CheckResult:
    """Is there one match for each entity at STUDY, SERIES and IMAGE level?"""
    tools.need("1")
    study, series = {"StudyInstanceUID": tools.samples.uid("1")}, {"SeriesInstanceUID": tools.samples.uid("1", 1)}
    counts = {
        "STUDY": (len(tools.find("STUDY", study).matches), 1),
        "SERIES": (len(tools.find("SERIES", study).matches), 2),
        "IMAGE": (len(tools.find("IMAGE", study | series).matches), 2),
    }
    return _judge_counts(counts)


def _judge_counts(counts: dict[str, tuple[int, int]]) -> CheckResult:
    wrong = [f"{found} responses for {due} at {level}" for level, (found, due) in counts.items() if found != due]
    return judge(not wrong, "; ".join(wrong) or "one each")


@check("F7b", "PS3.4 C.6.1")
def one_patient(tools: Toolkit) -> CheckResult:
    """Is there one match for each patient in the Patient Root model?"""
    tools.need("1", "2", "3", "4")
    keys = {"PatientID": tools.samples.patient_id("1"), "PatientName": ""}
    return _judge_counts({"PATIENT": (len(tools.find("PATIENT", keys, model=PATIENT_FIND).matches), 1)})


@check("F8", "PS3.4 C.4.1.2")
def final_response(tools: Toolkit) -> CheckResult:
    """Does the final response have no Identifier?"""
    tools.need("1")
    found = tools.find("STUDY", {"StudyInstanceUID": tools.samples.uid("1")})
    final = found.responses.final
    return judge(
        not final.has_data_set and final.status == 0,
        f"{status_text(final)}, {'with' if final.has_data_set else 'without'} a data set",
    )


@check("F8b", "PS3.4 C.4.1.1.4")
def unsupported(tools: Toolkit) -> CheckResult:
    """Does the server report an unsupported optional key with FF01?"""
    tools.need("1")
    found = _first_match(tools, "1", {"RequestedContrastAgent": ""})
    if "RequestedContrastAgent" in found:
        return free(f"it is returned, {found.status:04X}")
    return judge(found.status == 0xFF01, f"not returned, {found.status:04X}")


@check("F8c", "PS3.4 C.4.1.1.4")
def supported(tools: Toolkit) -> CheckResult:
    """Does the server answer FF00 when only required keys are requested?"""
    tools.need("1")
    found = _first_match(tools, "1", {"PatientName": "", "StudyDate": "", "AccessionNumber": ""})
    return judge(found.status == 0xFF00, f"{found.status:04X}")


@check("F9", "PS3.4 C.4.1.1.4")
def reasons(tools: Toolkit) -> CheckResult:
    """Does a refusal contain a reason?"""
    with tools.server.associate([STUDY_FIND]) as association:
        data = identifier({"StudyInstanceUID": tools.samples.uid("1")}, level="NOWHERE")
        final = association.perform(wire.C_FIND, STUDY_FIND, data).final
    if final.status == 0:
        return deviates("0000 to level NOWHERE")
    tags = final.elements.get(wire.OFFENDING_ELEMENT, b"")
    return free(f"{status_text(final)}, {'with' if tags else 'without'} Offending Element")


@check("F9b", "PS3.7 9.1.2.1")
def other_class(tools: Toolkit) -> CheckResult:
    """How does the server answer a C-FIND whose SOP Class differs from that of its presentation context?"""
    tools.need("1")
    data = identifier({"StudyInstanceUID": tools.samples.uid("1")}, level="STUDY")
    with tools.server.associate([STUDY_FIND]) as association:
        try:
            responses = association.perform(wire.C_FIND, STUDY_FIND, data, {wire.SOP_CLASS: PATIENT_FIND})
        except Aborted as aborted:
            return free(str(aborted))
    return free(f"{'matches' if responses.pending else 'no matches'}, {status_text(responses.final)}")


@check("K1", "PS3.4 C.2.2.1.1")
def unique_keys(tools: Toolkit) -> CheckResult:
    """Is an empty unique key universal, and returned with its value?"""
    tools.need("1")
    found = tools.find("SERIES", {"StudyInstanceUID": tools.samples.uid("1")})
    uids = {each.text("SeriesInstanceUID") for each in found.matches}
    return judge(
        uids == {tools.samples.uid("1", each) for each in (1, 2)}, f"{len(uids)} of 2 series, {found.status_text}"
    )


@check("K2", "PS3.4 C.2.2.1.2")
def empty_matches(tools: Toolkit) -> CheckResult:
    """Does a required key whose stored value is empty match any value?"""
    found = tools.find_studies(AccessionNumber="ACC-a1")
    if found.status:
        return deviates(found.status_text)
    return judge(
        "3" in found.studies,
        "the study without Accession Number is " + ("found" if "3" in found.studies else "not found"),
    )


@check("K3", "PS3.4 C.2.2.1.3")
def optional_key(tools: Toolkit) -> CheckResult:
    """How does the server treat an optional key (Study Description)?"""
    found = tools.find_studies(StudyDescription="Abdomen")
    if found.status or not found.matches:
        return free(f"nothing is found, {found.status_text}")
    status, is_returned = found.matches[0].status, "StudyDescription" in found.matches[0]
    if {"1"} & found.studies:
        is_conformant = is_returned or status == 0xFF01
        return (free if is_conformant else deviates)(
            f"not matched, {'' if is_returned else 'not '}returned, {status:04X}"
        )
    return (
        free(f"matched like a required key, {status:04X}")
        if is_returned
        else deviates(f"matched but not returned, {status:04X}")
    )


@check("K3b", "PS3.4 C.2.2.1.3")
def private_key(tools: Toolkit) -> CheckResult:
    """Does the server report an unsupported private key with FF01?"""
    tools.need("1")
    keys = {"StudyInstanceUID": tools.samples.uid("1"), "00110010": "UNKNOWN CREATOR", "00111001": ""}
    found = tools.find("STUDY", keys)
    if not found.matches:
        return free(f"nothing is found with such a key, {found.status_text}")
    status = found.matches[0].status
    if "00111001" in found.matches[0]:
        return free(f"it is returned, {status:04X}")
    return judge(status == 0xFF01, f"not returned, {status:04X}")


@check("K5", "PS3.4 C.3.4")
def counted(tools: Toolkit) -> CheckResult:
    """Does the server count the series and instances of a study?"""
    tools.need("1")
    found = _first_match(tools, "1", {"NumberOfStudyRelatedSeries": "", "NumberOfStudyRelatedInstances": ""})
    numbers = found.text("NumberOfStudyRelatedSeries"), found.text("NumberOfStudyRelatedInstances")
    if not any(numbers):
        return free(f"not supported, {found.status:04X}")
    return judge(numbers == ("2", "3"), f"{numbers[0] or '-'} series and {numbers[1] or '-'} instances of 2 and 3")


def _first_match(tools: Toolkit, label: str, keys: Keys) -> ResponseIdentifier:
    """Return the first match of a query for a study by its UID. Raises CheckImpossible if there is none."""
    found: FindResult = tools.find("STUDY", {"StudyInstanceUID": tools.samples.uid(label), **keys})
    if not found.matches:
        impossible(f"the study is not found with that key, {found.status_text}")
    return found.matches[0]
