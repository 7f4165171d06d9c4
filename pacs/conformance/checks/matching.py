"""Checks of attribute matching (PS3.4 C.2.2.2) on the studies of one patient."""

from collections.abc import Mapping, Sequence

from pacs.conformance.checks.results import CheckResult, Checks, ResultKind, conforms, deviates, free, judge
from pacs.conformance.checks.toolkit import STUDY_FIND, FindResult, Key, Toolkit, identifier

CHECKS = Checks("matching")
check = CHECKS.check

EMPTY = "3"
"""The study with an empty Accession Number and Study ID; check K2 is about whether it matches."""


def _judge_all(tools: Toolkit, keyword: str, cases: Mapping[str, Sequence[str]], maybe: str = "") -> CheckResult:
    """Check that each value of a key finds exactly the expected studies."""
    results = {value: tools.find_studies(**{keyword: value}).judge(*due, maybe=maybe) for value, due in cases.items()}
    wrong = [f'"{value}" {each.seen}' for value, each in results.items() if each.kind is ResultKind.DEVIATES]
    return judge(not wrong, "; ".join(wrong) or ", ".join(f'"{value}" {each.seen}' for value, each in results.items()))


@check("M1", "PS3.4 C.2.2.2.1")
def single_value(tools: Toolkit) -> CheckResult:
    """Does a single value match only itself, case-sensitively?"""
    return tools.find_studies(AccessionNumber="ACC-a1").judge("1", maybe=EMPTY)


@check("M1b", "PS3.4 C.2.2.2.1")
def case_of_names(tools: Toolkit) -> CheckResult:
    """Is Patient's Name matched case-sensitively?"""
    exact = tools.find_studies(PatientName="Pacsrun^Alpha^Middle")
    if len(exact.studies) != 4:
        return deviates(f"the name as it is stored finds {len(exact.studies)} of 4 studies, {exact.status_text}")
    other = tools.find_studies(PatientName="PACSRUN^alpha^MIDDLE")
    return free("no" if other.matches else "yes")


@check("M1c", "PS3.4 C.2.2.2.1")
def times_by_meaning(tools: Toolkit) -> CheckResult:
    """Are times compared by meaning (223000 and the stored 2230)?"""
    return tools.find_studies(StudyTime="223000").judge("2")


@check("M1d", "PS3.4 C.2.2.2.1")
def single_date(tools: Toolkit) -> CheckResult:
    """Does a single date match only that date?"""
    return tools.find_studies(StudyDate="20200120").judge("2")


@check("M2", "PS3.5 6.2")
def padding(tools: Toolkit) -> CheckResult:
    """Is padding ignored?"""
    return _judge_all(tools, "AccessionNumber", {"ACC-a1  ": ("1",), " ACC-a1 ": ("1",)}, maybe=EMPTY)


@check("M2b", "PS3.5 9.1")
def padded_uid(tools: Toolkit) -> CheckResult:
    """Is the padding of a UID ignored?"""
    tools.need("2")
    uid = tools.samples.uid("2").encode()
    return tools.find("STUDY", {"StudyInstanceUID": uid + b"\0" * (2 - len(uid) % 2)}).judge("2")


@check("M3", "PS3.4 C.2.2.2.2")
def list_of_uids(tools: Toolkit) -> CheckResult:
    """Does a list of UIDs match each of them?"""
    tools.need("1", "4")
    uids = "\\".join(tools.samples.uid(each) for each in ("1", "4"))
    found = tools.find("STUDY", {"StudyInstanceUID": uids})
    if any("\\" in each.text("StudyInstanceUID") for each in found.matches):
        return deviates("the list is returned instead of the one UID")
    return found.judge("1", "4")


@check("M3b", "PS3.4 C.2.2.2.2")
def long_list(tools: Toolkit) -> CheckResult:
    """Does a list of a thousand UIDs work?"""
    tools.need("1", "4")
    others = (tools.samples.uid(7777, each) for each in range(998))
    uids = "\\".join([tools.samples.uid("1"), *others, tools.samples.uid("4")])
    return tools.find("STUDY", {"StudyInstanceUID": uids}).judge("1", "4")


@check("M3c", "PS3.4 C.4.1.1.3.1")
def list_above(tools: Toolkit) -> CheckResult:
    """How does the server answer a list of UIDs above the query level (two studies at SERIES)?"""
    tools.need("1", "2")
    uids = "\\".join(tools.samples.uid(each) for each in ("1", "2"))
    found = tools.find("SERIES", {"StudyInstanceUID": uids})
    if found.status:
        return free(f"refused, with {found.status_text}")
    return free(f"{len({each.text('SeriesInstanceUID') for each in found.matches})} of 3 series")


@check("M4", "PS3.4 C.2.2.2.3")
def universal(tools: Toolkit) -> CheckResult:
    """Does an empty key match everything, empty values included?"""
    return tools.find_studies(AccessionNumber="", StudyDate="", StudyID="").judge("1", "2", "3", "4")


@check("M4b", "PS3.4 C.2.2.3")
def any_value(tools: Toolkit) -> CheckResult:
    """Does any value of a multi-valued attribute match, and are all returned (Modalities in Study)?"""
    found = tools.find_studies(ModalitiesInStudy="MR")
    if found.status or not found.matches or "ModalitiesInStudy" not in found.matches[0]:
        return free(f"{'not supported' if found.matches else 'nothing is found'}, {found.status_text}")
    if found.studies == {"1"}:
        values = found.matches[0].values("ModalitiesInStudy")
        return judge(sorted(values) == ["CT", "MR"], f"finds study 1, returns {', '.join(values)}")
    status = found.matches[0].status
    return free(f"not matched, {status:04X}") if found.studies == {"1", "2", "3", "4"} else found.judge("1")


@check("M5", "PS3.4 C.2.2.2.4")
def wild_cards(tools: Toolkit) -> CheckResult:
    """Do the wild cards * and ? match any characters and exactly one?"""
    cases = {"Oth*": ("4",), "*22": ("4",), "O*_?2": ("4",), "?ther?22*": ("4",), "Other_22?": ()}
    return _judge_all(tools, "StudyID", cases, maybe=EMPTY)


@check("M5b", "PS3.4 C.2.2.2.4")
def case_of_wild_cards(tools: Toolkit) -> CheckResult:
    """Is wild card matching case-sensitive?"""
    return tools.find_studies(AccessionNumber="acc*").judge("2", maybe=EMPTY)


@check("M5c", "PS3.4 C.2.2.2.4")
def only_a_wild_card(tools: Toolkit) -> CheckResult:
    """Does * alone match empty values too?"""
    return tools.find_studies(AccessionNumber="*").judge("1", "2", "3", "4")


@check("M5d", "PS3.4 C.2.2.2.4")
def literal_characters(tools: Toolkit) -> CheckResult:
    """Are _ and % literal characters?"""
    return _judge_all(tools, "StudyID", {"Other_2*": ("4",), "Oth_r*": (), "Oth%": ()}, maybe=EMPTY)


@check("M5e", "PS3.4 C.2.2.2.4")
def no_wild_card(tools: Toolkit) -> CheckResult:
    """Is * in a date a literal, not a wild card?"""
    found = tools.find_studies(StudyDate="2020*")
    if found.status:
        return free(f"refused, with {found.status_text}")
    return judge(
        not found.matches, f"2020* finds {len(found.matches)} studies" if found.matches else "2020* finds nothing"
    )


@check("M5g", "PS3.4 C.2.2.2.4")
def wild_card_in_uid(tools: Toolkit) -> CheckResult:
    """What does * in a UID match?"""
    tools.need("1")
    found = tools.find(
        "STUDY", {"PatientID": tools.samples.patient_id("1"), "StudyInstanceUID": tools.samples.root + "*"}
    )
    return free(f"refused, with {found.status_text}" if found.status else f"{len(found.studies)} of 4 studies")


@check("M5f", "PS3.4 C.2.2.2.4")
def wild_card_in_name(tools: Toolkit) -> CheckResult:
    """Does a wild card pattern match names with further component groups?"""
    return tools.find_studies(PatientName="Pacsrun^Al*").judge("1", "2", "3", "4")


@check("M6", "PS3.4 C.2.2.2.5")
def date_ranges(tools: Toolkit) -> CheckResult:
    """Are date ranges inclusive (from-to, -to, from-)?"""
    cases = {"20200115-20200120": ("1", "2"), "-20200120": ("1", "2"), "20200131-": ("3", "4")}
    return _judge_all(tools, "StudyDate", cases)


@check("M6b", "PS3.4 C.2.2.2.5")
def time_ranges(tools: Toolkit) -> CheckResult:
    """Are times matched by range?"""
    cases = {"101530-223000": ("1", "2"), "-1000": ("4",), "2230-": ("2", "3")}
    return _judge_all(tools, "StudyTime", cases)


@check("M6c", "PS3.4 C.2.2.2.5")
def reversed_range(tools: Toolkit) -> CheckResult:
    """Does a range that ends before it begins match nothing?"""
    found = tools.find_studies(StudyDate="20210101-20200101")
    return free(f"refused, with {found.status_text}") if found.status else found.judge()


@check("M6d", "PS3.5 6.2")
def old_dates(tools: Toolkit) -> CheckResult:
    """Does the server understand a date in the old format, 2020.01.20?"""
    found = tools.find_studies(StudyDate="2020.01.20")
    if found.status:
        return free(f"refused, with {found.status_text}")
    return free("yes" if found.studies == {"2"} else f"{len(found.studies)} of 4 studies are found")


@check("M6e", "PS3.4 C.2.2.2.5")
def only_a_hyphen(tools: Toolkit) -> CheckResult:
    """What does a range without either end match?"""
    found = tools.find_studies(StudyDate="-")
    return free(f"refused, with {found.status_text}" if found.status else f"{len(found.studies)} of 4 studies")


@check("M7", "PS3.4 C.2.2.2.5")
def independent_ranges(tools: Toolkit) -> CheckResult:
    """Are a date range and a time range matched independently?"""
    return tools.find_studies(StudyDate="20200115-20200131", StudyTime="090000-120000").judge("1")


@check("M7b", "PS3.4 C.2.2.2.5")
def combined_ranges(tools: Toolkit) -> CheckResult:
    """Are a date and a time range one range after combined date-time matching was negotiated?"""
    tools.need("1", "2", "3", "4")
    keys = {
        "PatientID": tools.samples.patient_id("1"),
        "StudyDate": "20200115-20200131",
        "StudyTime": "110000-120000",
    }
    return tools.find("STUDY", keys, extended=b"\0\1").judge("2")


def _find_requested(tools: Toolkit, *items: dict[str, Key]) -> FindResult:
    tools.need("1")
    keys: dict[str, Key] = {"StudyInstanceUID": tools.samples.uid("1"), "RequestAttributesSequence": list(items)}
    return tools.find("SERIES", keys)


@check("M8", "PS3.4 C.2.2.2.6")
def sequence(tools: Toolkit) -> CheckResult:
    """Does a key in a sequence match (Request Attributes Sequence)?"""
    found = _find_requested(tools, {"ScheduledProcedureStepID": "S2"})
    none = _find_requested(tools, {"ScheduledProcedureStepID": "S3"})
    if found.status or not found.matches:
        return free(f"nothing is found, {found.status_text}")
    if none.matches:
        status = none.matches[0].status
        is_told = "RequestAttributesSequence" in none.matches[0] or status == 0xFF01
        return (free if is_told else deviates)(f"not matched, {status:04X}")
    return judge(len(found.matches) == 2, f"finds {len(found.matches)} of 2 series")


@check("M8b", "PS3.4 C.2.2.2.6")
def one_item(tools: Toolkit) -> CheckResult:
    """Must one item satisfy all keys in a sequence?"""
    if _find_requested(tools, {"ScheduledProcedureStepID": "S3"}).matches:
        return free("sequences are not matched")
    found = _find_requested(tools, {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R2"})
    return judge(
        not found.matches,
        "keys satisfied by two items find nothing" if not found.matches else "keys satisfied by two items match",
    )


@check("M8c", "PS3.4 C.2.2.2.6")
def two_items(tools: Toolkit) -> CheckResult:
    """How does the server answer a sequence key with two items?"""
    found = _find_requested(tools, {"ScheduledProcedureStepID": "S1"}, {"ScheduledProcedureStepID": "S2"})
    return free(
        f"refused, with {found.status_text}"
        if found.status
        else f"{len({each.text('SeriesInstanceUID') for each in found.matches})} of 2 series"
    )


@check("M9", "PS3.4 C.2.2.2.7")
def quotation_marks(tools: Toolkit) -> CheckResult:
    """Are two quotation marks a literal value when empty value matching was not negotiated?"""
    found = tools.find_studies(StudyDescription='""')
    if found.status:
        return free(f"refused, with {found.status_text}")
    if found.studies == {"3"}:
        return free("it matches the study without a description")
    return free(f"it finds {len(found.studies)} of 4 studies")


@check("M9b", "PS3.4 C.2.2.2.7")
def empty_values(tools: Toolkit) -> CheckResult:
    """Do two quotation marks match only empty values after empty value matching was negotiated?"""
    tools.need("1", "2", "3", "4")
    keys = {"PatientID": tools.samples.patient_id("1"), "AccessionNumber": '""'}
    return tools.find("STUDY", keys, extended=b"\0\0\0\0\0\1").judge("3")


@check("M10", "PS3.4 C.2.2.2.8")
def list_of_values(tools: Toolkit) -> CheckResult:
    """What does a list of values match when multiple value matching was not negotiated?"""
    found = tools.find_studies(AccessionNumber="ACC-a1\\acc-a1")
    if found.status:
        return free(f"refused, with {found.status_text}")
    return free("any of them" if {"1", "2"} <= found.studies else f"{len(found.studies - {EMPTY})} of the studies")


@check("M10b", "PS3.4 C.2.2.2.8")
def multiple_values(tools: Toolkit) -> CheckResult:
    """Does a list of values match each of them after multiple value matching was negotiated?"""
    tools.need("1", "2", "3", "4")
    keys = {"PatientID": tools.samples.patient_id("1"), "AccessionNumber": "ACC-a1\\acc-a1"}
    return tools.find("STUDY", keys, extended=b"\0\0\0\0\0\0\1").judge("1", "2", maybe=EMPTY)


@check("M11", "PS3.4 C.2.2.2.1")
def fuzzy(tools: Toolkit) -> CheckResult:
    """Are person names matched fuzzily after fuzzy semantic matching was negotiated?"""
    tools.need("1", "2", "3", "4")
    keys = {"PatientID": tools.samples.patient_id("1"), "PatientName": "Alpha Pacsrun"}
    found = tools.find("STUDY", keys, extended=b"\0\0\1")
    return free(f"components in another order find {len(found.matches)} of 4 studies, {found.status_text}")


@check("M12", "PS3.4 C.4.1.1.3.1")
def timezone(tools: Toolkit) -> CheckResult:
    """Is Timezone Offset From UTC in a query ignored as a key?"""
    found = tools.find_studies(TimezoneOffsetFromUTC="+0900")
    if found.status:
        return free(f"refused, with {found.status_text}")
    return (
        conforms("it is not a key")
        if len(found.studies) == 4
        else free(f"it is matched, finds {len(found.studies)} of 4")
    )


@check("M13", "PS3.4 C.2.2.2.1")
def integers(tools: Toolkit) -> CheckResult:
    """Is the integer 007 equal to the stored 7 (Series Number)?"""
    tools.need("1")
    study = {"StudyInstanceUID": tools.samples.uid("1")}
    plain = tools.find("SERIES", study | {"SeriesNumber": "7"})
    if {each.text("SeriesInstanceUID") for each in plain.matches} != {tools.samples.uid("1", 1)}:
        return deviates(f"7 finds {len(plain.matches)} series of 1, {plain.status_text}")
    padded = tools.find("SERIES", study | {"SeriesNumber": "007"})
    return free("yes" if padded.matches else "no")


@check("M16", "PS3.4 C.2.2.2")
def long_key(tools: Toolkit) -> CheckResult:
    """May a key be longer than its value representation allows?"""
    return tools.find_studies(StudyID="Oth" + "*" * 60 + "22").judge("4", maybe=EMPTY)


@check("M17", "PS3.5 7.8")
def private_creator(tools: Toolkit) -> CheckResult:
    """Does the server report a private key with an unknown private creator with FF01?"""
    found = tools.find_studies(**{"00090010": "UNKNOWN CREATOR", "00091001": "a private value"})
    if found.status or not found.matches:
        return free(f"refused, with {found.status_text}" if found.status else "it finds nothing")
    status, is_returned = found.matches[0].status, "00091001" in found.matches[0]
    seen = f"finds {len(found.matches)} of 4 studies, {'' if is_returned else 'not '}returned, {status:04X}"
    return judge(is_returned or status == 0xFF01, seen)


@check("M18", "PS3.5 6.2")
def level_spelling(tools: Toolkit) -> CheckResult:
    """Does the server understand a level in lower case, or padded with spaces?"""
    tools.need("1")
    spaced = tools.find("STUDY", {"StudyInstanceUID": tools.samples.uid("1")}, written="STUDY   ")
    small = tools.find("STUDY", {"StudyInstanceUID": tools.samples.uid("1")}, written="study")
    if spaced.studies != {"1"}:
        return deviates(f"STUDY with trailing spaces: {spaced.status_text}, {len(spaced.matches)} studies")
    return free("both" if small.studies == {"1"} else f"padded yes, lower case no: {small.status_text}")


@check("M18b", "PS3.5 7.2")
def group_lengths(tools: Toolkit) -> CheckResult:
    """Does the server ignore group lengths in an Identifier?"""
    tools.need("1")
    keys: dict[str, Key] = {"00080000": b"\x0e\x00\x00\x00", "StudyInstanceUID": tools.samples.uid("1")}
    with tools.server.associate([STUDY_FIND]) as association:
        return tools.find_on(association, identifier(keys, level="STUDY"), "STUDY").judge("1")
