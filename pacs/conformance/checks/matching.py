"""What a key matches (PS3.4 C.2.2.2), each on the studies of one patient or a name nobody else has."""

from collections.abc import Mapping, Sequence

from pacs.conformance.checks.bench import STUDY_FIND, Bench, Found, Key, identifier
from pacs.conformance.checks.verdicts import Checks, Kind, Verdict, conforms, deviates, free, judge

CHECKS = Checks("matching")
check = CHECKS.check

EMPTY = "3"
"""The study whose Accession Number and Study ID are of zero length: whether it is found is the matter of K2."""


def _all_of(bench: Bench, keyword: str, cases: Mapping[str, Sequence[str]], maybe: str = "") -> Verdict:
    """Whether each value of a key finds exactly the studies that are due."""
    verdicts = {value: bench.of_patient(**{keyword: value}).judge(*due, maybe=maybe) for value, due in cases.items()}
    wrong = [f'"{value}" {each.seen}' for value, each in verdicts.items() if each.kind is Kind.DEVIATES]
    return judge(not wrong, "; ".join(wrong) or ", ".join(f'"{value}" {each.seen}' for value, each in verdicts.items()))


@check("M1", "PS3.4 C.2.2.2.1")
def single_value(bench: Bench) -> Verdict:
    """Does a single value match only itself, case-sensitively?"""
    return bench.of_patient(AccessionNumber="ACC-a1").judge("1", maybe=EMPTY)


@check("M1b", "PS3.4 C.2.2.2.1")
def case_of_names(bench: Bench) -> Verdict:
    """Is Patient's Name matched case-sensitively?"""
    exact = bench.of_patient(PatientName="Pacsrun^Alpha^Middle")
    if len(exact.studies) != 4:
        return deviates(f"the name as it is stored finds {len(exact.studies)} of 4 studies, {exact.ending}")
    other = bench.of_patient(PatientName="PACSRUN^alpha^MIDDLE")
    return free("no" if other.ours else "yes")


@check("M1c", "PS3.4 C.2.2.2.1")
def times_by_meaning(bench: Bench) -> Verdict:
    """Are times compared by meaning (223000 and the stored 2230)?"""
    return bench.of_patient(StudyTime="223000").judge("2")


@check("M1d", "PS3.4 C.2.2.2.1")
def single_date(bench: Bench) -> Verdict:
    """Does a single date match only that date?"""
    return bench.of_patient(StudyDate="20200120").judge("2")


@check("M2", "PS3.5 6.2")
def padding(bench: Bench) -> Verdict:
    """Is padding ignored?"""
    return _all_of(bench, "AccessionNumber", {"ACC-a1  ": ("1",), " ACC-a1 ": ("1",)}, maybe=EMPTY)


@check("M2b", "PS3.5 9.1")
def padded_uid(bench: Bench) -> Verdict:
    """Is the padding of a UID ignored?"""
    bench.need("2")
    uid = bench.specimens.uid("2").encode()
    return bench.find("STUDY", {"StudyInstanceUID": uid + b"\0" * (2 - len(uid) % 2)}).judge("2")


@check("M3", "PS3.4 C.2.2.2.2")
def list_of_uids(bench: Bench) -> Verdict:
    """Does a list of UIDs match each of them?"""
    bench.need("1", "4")
    uids = "\\".join(bench.specimens.uid(each) for each in ("1", "4"))
    found = bench.find("STUDY", {"StudyInstanceUID": uids})
    if any("\\" in each.text("StudyInstanceUID") for each in found.ours):
        return deviates("the list is returned instead of the one UID")
    return found.judge("1", "4")


@check("M3b", "PS3.4 C.2.2.2.2")
def long_list(bench: Bench) -> Verdict:
    """Does a list of a thousand UIDs work?"""
    bench.need("1", "4")
    others = (bench.specimens.uid(7777, each) for each in range(998))
    uids = "\\".join([bench.specimens.uid("1"), *others, bench.specimens.uid("4")])
    return bench.find("STUDY", {"StudyInstanceUID": uids}).judge("1", "4")


@check("M3c", "PS3.4 C.4.1.1.3.1")
def list_above(bench: Bench) -> Verdict:
    """How does the server answer a list of UIDs above the query level (two studies at SERIES)?"""
    bench.need("1", "2")
    uids = "\\".join(bench.specimens.uid(each) for each in ("1", "2"))
    found = bench.find("SERIES", {"StudyInstanceUID": uids})
    if found.status:
        return free(f"refused, with {found.ending}")
    return free(f"{len({each.text('SeriesInstanceUID') for each in found.ours})} of 3 series")


@check("M4", "PS3.4 C.2.2.2.3")
def universal(bench: Bench) -> Verdict:
    """Does an empty key match everything, empty values included?"""
    return bench.of_patient(AccessionNumber="", StudyDate="", StudyID="").judge("1", "2", "3", "4")


@check("M4b", "PS3.4 C.2.2.3")
def any_value(bench: Bench) -> Verdict:
    """Does any value of a multi-valued attribute match, and are all returned (Modalities in Study)?"""
    found = bench.of_patient(ModalitiesInStudy="MR")
    if found.status or not found.ours or "ModalitiesInStudy" not in found.ours[0]:
        return free(f"{'not supported' if found.ours else 'nothing is found'}, {found.ending}")
    if found.studies == {"1"}:
        values = found.ours[0].values("ModalitiesInStudy")
        return judge(sorted(values) == ["CT", "MR"], f"finds study 1, returns {', '.join(values)}")
    status = found.ours[0].status
    return free(f"not matched, {status:04X}") if found.studies == {"1", "2", "3", "4"} else found.judge("1")


@check("M5", "PS3.4 C.2.2.2.4")
def wild_cards(bench: Bench) -> Verdict:
    """Do the wild cards * and ? match any characters and exactly one?"""
    cases = {"Oth*": ("4",), "*22": ("4",), "O*_?2": ("4",), "?ther?22*": ("4",), "Other_22?": ()}
    return _all_of(bench, "StudyID", cases, maybe=EMPTY)


@check("M5b", "PS3.4 C.2.2.2.4")
def case_of_wild_cards(bench: Bench) -> Verdict:
    """Is wild card matching case-sensitive?"""
    return bench.of_patient(AccessionNumber="acc*").judge("2", maybe=EMPTY)


@check("M5c", "PS3.4 C.2.2.2.4")
def only_a_wild_card(bench: Bench) -> Verdict:
    """Does * alone match empty values too?"""
    return bench.of_patient(AccessionNumber="*").judge("1", "2", "3", "4")


@check("M5d", "PS3.4 C.2.2.2.4")
def literal_characters(bench: Bench) -> Verdict:
    """Are _ and % literal characters?"""
    return _all_of(bench, "StudyID", {"Other_2*": ("4",), "Oth_r*": (), "Oth%": ()}, maybe=EMPTY)


@check("M5e", "PS3.4 C.2.2.2.4")
def no_wild_card(bench: Bench) -> Verdict:
    """Is * in a date a literal, not a wild card?"""
    found = bench.of_patient(StudyDate="2020*")
    if found.status:
        return free(f"refused, with {found.ending}")
    return judge(not found.ours, f"2020* finds {len(found.ours)} studies" if found.ours else "2020* finds nothing")


@check("M5g", "PS3.4 C.2.2.2.4")
def wild_card_in_uid(bench: Bench) -> Verdict:
    """What does * in a UID match?"""
    bench.need("1")
    found = bench.find(
        "STUDY", {"PatientID": bench.specimens.patient_id("1"), "StudyInstanceUID": bench.specimens.root + "*"}
    )
    return free(f"refused, with {found.ending}" if found.status else f"{len(found.studies)} of 4 studies")


@check("M5f", "PS3.4 C.2.2.2.4")
def wild_card_in_name(bench: Bench) -> Verdict:
    """Does a wild card pattern match names with further component groups?"""
    return bench.of_patient(PatientName="Pacsrun^Al*").judge("1", "2", "3", "4")


@check("M6", "PS3.4 C.2.2.2.5")
def date_ranges(bench: Bench) -> Verdict:
    """Are date ranges inclusive (from-to, -to, from-)?"""
    cases = {"20200115-20200120": ("1", "2"), "-20200120": ("1", "2"), "20200131-": ("3", "4")}
    return _all_of(bench, "StudyDate", cases)


@check("M6b", "PS3.4 C.2.2.2.5")
def time_ranges(bench: Bench) -> Verdict:
    """Are times matched by range?"""
    cases = {"101530-223000": ("1", "2"), "-1000": ("4",), "2230-": ("2", "3")}
    return _all_of(bench, "StudyTime", cases)


@check("M6c", "PS3.4 C.2.2.2.5")
def reversed_range(bench: Bench) -> Verdict:
    """Does a range that ends before it begins match nothing?"""
    found = bench.of_patient(StudyDate="20210101-20200101")
    return free(f"refused, with {found.ending}") if found.status else found.judge()


@check("M6d", "PS3.5 6.2")
def old_dates(bench: Bench) -> Verdict:
    """Does the server understand a date in the old format, 2020.01.20?"""
    found = bench.of_patient(StudyDate="2020.01.20")
    if found.status:
        return free(f"refused, with {found.ending}")
    return free("yes" if found.studies == {"2"} else f"{len(found.studies)} of 4 studies are found")


@check("M6e", "PS3.4 C.2.2.2.5")
def only_a_hyphen(bench: Bench) -> Verdict:
    """What does a range without either end match?"""
    found = bench.of_patient(StudyDate="-")
    return free(f"refused, with {found.ending}" if found.status else f"{len(found.studies)} of 4 studies")


@check("M7", "PS3.4 C.2.2.2.5")
def independent_ranges(bench: Bench) -> Verdict:
    """Are a date range and a time range matched independently?"""
    return bench.of_patient(StudyDate="20200115-20200131", StudyTime="090000-120000").judge("1")


@check("M7b", "PS3.4 C.2.2.2.5")
def combined_ranges(bench: Bench) -> Verdict:
    """Are a date and a time range one range after combined date-time matching was negotiated?"""
    bench.need("1", "2", "3", "4")
    keys = {
        "PatientID": bench.specimens.patient_id("1"),
        "StudyDate": "20200115-20200131",
        "StudyTime": "110000-120000",
    }
    return bench.find("STUDY", keys, extended=b"\0\1").judge("2")


def _requested(bench: Bench, *items: dict[str, Key]) -> Found:
    bench.need("1")
    keys: dict[str, Key] = {"StudyInstanceUID": bench.specimens.uid("1"), "RequestAttributesSequence": list(items)}
    return bench.find("SERIES", keys)


@check("M8", "PS3.4 C.2.2.2.6")
def sequence(bench: Bench) -> Verdict:
    """Does a key in a sequence match (Request Attributes Sequence)?"""
    found = _requested(bench, {"ScheduledProcedureStepID": "S2"})
    none = _requested(bench, {"ScheduledProcedureStepID": "S3"})
    if found.status or not found.ours:
        return free(f"nothing is found, {found.ending}")
    if none.ours:
        status = none.ours[0].status
        is_told = "RequestAttributesSequence" in none.ours[0] or status == 0xFF01
        return (free if is_told else deviates)(f"not matched, {status:04X}")
    return judge(len(found.ours) == 2, f"finds {len(found.ours)} of 2 series")


@check("M8b", "PS3.4 C.2.2.2.6")
def one_item(bench: Bench) -> Verdict:
    """Must one item satisfy all keys in a sequence?"""
    if _requested(bench, {"ScheduledProcedureStepID": "S3"}).ours:
        return free("sequences are not matched")
    found = _requested(bench, {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R2"})
    return judge(
        not found.ours, "keys of two items find nothing" if not found.ours else "keys of two items match as one"
    )


@check("M8c", "PS3.4 C.2.2.2.6")
def two_items(bench: Bench) -> Verdict:
    """How does the server answer a sequence key with two items?"""
    found = _requested(bench, {"ScheduledProcedureStepID": "S1"}, {"ScheduledProcedureStepID": "S2"})
    return free(
        f"refused, with {found.ending}"
        if found.status
        else f"{len({each.text('SeriesInstanceUID') for each in found.ours})} of 2 series"
    )


@check("M9", "PS3.4 C.2.2.2.7")
def quotation_marks(bench: Bench) -> Verdict:
    """Are two quotation marks a literal value when empty value matching was not negotiated?"""
    found = bench.of_patient(StudyDescription='""')
    if found.status:
        return free(f"refused, with {found.ending}")
    if found.studies == {"3"}:
        return free("it matches the study without a description")
    return free(f"it finds {len(found.studies)} of 4 studies")


@check("M9b", "PS3.4 C.2.2.2.7")
def empty_values(bench: Bench) -> Verdict:
    """Do two quotation marks match only empty values after empty value matching was negotiated?"""
    bench.need("1", "2", "3", "4")
    keys = {"PatientID": bench.specimens.patient_id("1"), "AccessionNumber": '""'}
    return bench.find("STUDY", keys, extended=b"\0\0\0\0\0\1").judge("3")


@check("M10", "PS3.4 C.2.2.2.8")
def list_of_values(bench: Bench) -> Verdict:
    """What does a list of values match when multiple value matching was not negotiated?"""
    found = bench.of_patient(AccessionNumber="ACC-a1\\acc-a1")
    if found.status:
        return free(f"refused, with {found.ending}")
    return free("any of them" if {"1", "2"} <= found.studies else f"{len(found.studies - {EMPTY})} of the studies")


@check("M10b", "PS3.4 C.2.2.2.8")
def multiple_values(bench: Bench) -> Verdict:
    """Does a list of values match each of them after multiple value matching was negotiated?"""
    bench.need("1", "2", "3", "4")
    keys = {"PatientID": bench.specimens.patient_id("1"), "AccessionNumber": "ACC-a1\\acc-a1"}
    return bench.find("STUDY", keys, extended=b"\0\0\0\0\0\0\1").judge("1", "2", maybe=EMPTY)


@check("M11", "PS3.4 C.2.2.2.1")
def fuzzy(bench: Bench) -> Verdict:
    """Are person names matched fuzzily after fuzzy semantic matching was negotiated?"""
    bench.need("1", "2", "3", "4")
    keys = {"PatientID": bench.specimens.patient_id("1"), "PatientName": "Alpha Pacsrun"}
    found = bench.find("STUDY", keys, extended=b"\0\0\1")
    return free(f"names in another order find {len(found.ours)} of 4 studies, {found.ending}")


@check("M12", "PS3.4 C.4.1.1.3.1")
def timezone(bench: Bench) -> Verdict:
    """Is Timezone Offset From UTC in a query ignored as a key?"""
    found = bench.of_patient(TimezoneOffsetFromUTC="+0900")
    if found.status:
        return free(f"refused, with {found.ending}")
    return (
        conforms("it is no key") if len(found.studies) == 4 else free(f"it is matched, finds {len(found.studies)} of 4")
    )


@check("M13", "PS3.4 C.2.2.2.1")
def integers(bench: Bench) -> Verdict:
    """Is the integer 007 equal to the stored 7 (Series Number)?"""
    bench.need("1")
    study = {"StudyInstanceUID": bench.specimens.uid("1")}
    plain = bench.find("SERIES", study | {"SeriesNumber": "7"})
    if {each.text("SeriesInstanceUID") for each in plain.ours} != {bench.specimens.uid("1", 1)}:
        return deviates(f"7 finds {len(plain.ours)} series of 1, {plain.ending}")
    padded = bench.find("SERIES", study | {"SeriesNumber": "007"})
    return free("yes" if padded.ours else "no")


@check("M16", "PS3.4 C.2.2.2")
def long_key(bench: Bench) -> Verdict:
    """May a key be longer than its value representation allows?"""
    return bench.of_patient(StudyID="Oth" + "*" * 60 + "22").judge("4", maybe=EMPTY)


@check("M17", "PS3.5 7.8")
def private_creator(bench: Bench) -> Verdict:
    """Does the server report a private key with an unknown private creator with FF01?"""
    found = bench.of_patient(**{"00090010": "NOBODY KNOWS IT", "00091001": "a private value"})
    if found.status or not found.ours:
        return free(f"refused, with {found.ending}" if found.status else "it finds nothing")
    status, is_returned = found.ours[0].status, "00091001" in found.ours[0]
    seen = f"finds {len(found.ours)} of 4 studies, {'' if is_returned else 'not '}returned, {status:04X}"
    return judge(is_returned or status == 0xFF01, seen)


@check("M18", "PS3.5 6.2")
def written_level(bench: Bench) -> Verdict:
    """Does the server understand a level in lower case, or padded with spaces?"""
    bench.need("1")
    spaced = bench.find("STUDY", {"StudyInstanceUID": bench.specimens.uid("1")}, says="STUDY   ")
    small = bench.find("STUDY", {"StudyInstanceUID": bench.specimens.uid("1")}, says="study")
    if spaced.studies != {"1"}:
        return deviates(f"STUDY with spaces behind: {spaced.ending}, {len(spaced.ours)} studies")
    return free("both" if small.studies == {"1"} else f"spaces are, small letters are not: {small.ending}")


@check("M18b", "PS3.5 7.2")
def group_lengths(bench: Bench) -> Verdict:
    """Does the server ignore group lengths in an Identifier?"""
    bench.need("1")
    keys: dict[str, Key] = {"00080000": b"\x0e\x00\x00\x00", "StudyInstanceUID": bench.specimens.uid("1")}
    with bench.peer.associate([STUDY_FIND]) as association:
        return bench.ask(association, identifier(keys, level="STUDY"), "STUDY").judge("1")
