"""A simple model of matching (PS3.4 C.2.2.2), over lists and dictionaries; imports nothing of `pacs`.

An archive is a list of instances in the order of their arrival, an instance a dictionary from keyword to text (values
joined by backslashes; a list of such dictionaries for a sequence). A question is a level and such a dictionary.
"""

import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
MARKS = {
    "PATIENT": "PatientComments",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""The attribute that identifies the entities of a level here; a comment for patients, as some have no ID."""

VRS = {
    "PATIENT": {
        "PatientID": "LO", "PatientName": "PN", "PatientSex": "CS", "PatientBirthDate": "DA", "OtherPatientNames": "PN",
        "EthnicGroup": "SH", "PatientComments": "LT",
    },
    "STUDY": {
        "StudyInstanceUID": "UI", "StudyDate": "DA", "StudyTime": "TM", "AccessionNumber": "SH",
        "StudyDescription": "LO", "ReferringPhysicianName": "PN", "AdditionalPatientHistory": "LT",
    },
    "SERIES": {
        "SeriesInstanceUID": "UI", "Modality": "CS", "SeriesNumber": "IS", "BodyPartExamined": "CS",
        "RequestAttributesSequence": "SQ",
    },
    "IMAGE": {"SOPInstanceUID": "UI", "InstanceNumber": "IS", "ImageType": "CS", "AcquisitionDateTime": "DT"},
}  # fmt: skip
ITEM_VRS = {"ScheduledProcedureStepID": "SH", "RequestedProcedureDescription": "LO"}
VR_OF = {keyword: vr for keywords in (*VRS.values(), ITEM_VRS) for keyword, vr in keywords.items()}

Values = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A query: its level, its keys, whether unknown values match, and whether date and time ranges are combined.

    Where unknown values do not match, the mode is tolerant, and keys are understood as people type them.
    """

    level: str
    keys: Values
    unknown_matches: bool = False
    combined: bool = False


@dataclass
class Entity:
    """An entity of a level with the attributes of those above, and the modalities of its study."""

    values: Values = field(default_factory=dict)
    modalities: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)


def answer(archive: list[Values], question: Question) -> set[str]:
    """Return the marks of the entities that match."""
    if not question.unknown_matches:
        question = replace(question, keys={each: _written(each, asked) for each, asked in question.keys.items()})
    if _asks_for_no_moment(question):
        return set()
    entities = _entities(archive, question.level)
    return {mark for mark, entity in entities.items() if _matches(entity, question)}


def _written(keyword: str, asked: Any) -> Any:
    """Return a key as the standard writes it."""
    vr = VR_OF.get(keyword)
    if vr not in ("DA", "TM", "DT", "UI", "IS"):
        return asked
    if asked and set(asked) == {"*"}:
        return ""
    compact = re.sub(r"(\d{4})-(\d\d)-(\d\d)", r"\1\2\3", asked)
    compact = re.sub(r"T(\d\d):(\d\d):(\d\d)", r"\1\2\3", compact)
    if vr == "DA":
        whole = re.fullmatch(r"(\d{4})(\d\d)?", compact)
        compact = f"{whole[1]}{whole[2] or '01'}01-{whole[1]}{whole[2] or '12'}31" if whole else compact
        return re.sub(r"(?<=-)(\d{4})(\d\d)31$", lambda found: _end_of_month(int(found[1]), int(found[2])), compact)
    return re.sub("-240000$", "-235959.999999", compact) if vr == "TM" else compact


def _end_of_month(year: int, month: int) -> str:
    first_of_next = datetime(year + month // 12, month % 12 + 1, 1)
    return f"{first_of_next - timedelta(days=1):%Y%m%d}"


def _asks_for_no_moment(question: Question) -> bool:
    """Whether a range ends before it begins: no value matches, also no unknown one."""
    keys = dict(question.keys)
    if question.combined and _same_form(keys.get("StudyDate", ""), keys.get("StudyTime", "")):
        low, high = _combined_bounds(keys.pop("StudyDate"), keys.pop("StudyTime"))
        if low > high:
            return True
    ranges = [(VR_OF[keyword], asked) for keyword, asked in keys.items() if VR_OF.get(keyword) in ("DA", "TM", "DT")]
    bounds = [_bounds(vr, asked) for vr, asked in ranges if asked not in ("", "-", '""')]
    return any(low > high for low, high in bounds)


def _entities(archive: list[Values], level: str) -> dict[str, Entity]:
    known: dict[tuple[str, str], Values] = {}
    found: dict[str, Entity] = {}
    studies: dict[str, Entity] = {}
    for instance in archive:
        study = studies.setdefault(instance["StudyInstanceUID"], Entity())
        study.series.add(instance["SeriesInstanceUID"])
        study.modalities.update(_values("CS", instance.get("Modality", "")))
        for each in LEVELS:
            row = known.setdefault((each, instance[MARKS[each]]), {})
            for keyword in VRS[each]:
                # The first value stays; what is missing is filled by later instances.
                if not row.get(keyword):
                    row[keyword] = instance.get(keyword, "")
    for instance in archive:
        entity = found.setdefault(instance[MARKS[level]], Entity())
        for each in LEVELS[: LEVELS.index(level) + 1]:
            entity.values |= known[each, instance[MARKS[each]]]
        if level != "PATIENT":
            entity.modalities = studies[instance["StudyInstanceUID"]].modalities
            entity.series = studies[instance["StudyInstanceUID"]].series
    return found


def _matches(entity: Entity, question: Question) -> bool:
    keys, unknown = dict(question.keys), question.unknown_matches
    computed = {
        "ModalitiesInStudy": ("CS", "\\".join(sorted(entity.modalities))),
        "NumberOfStudyRelatedSeries": ("IS", str(len(entity.series))),
    }
    if question.combined and _same_form(keys.get("StudyDate", ""), keys.get("StudyTime", "")):
        date, time = keys.pop("StudyDate"), keys.pop("StudyTime")
        if not _combined_matches(date, time, entity.values, unknown):
            return False
    for keyword, asked in keys.items():
        vr, stored = computed.get(keyword) or (VR_OF[keyword], entity.values.get(keyword, ""))
        if not _key_matches(vr, asked, stored, unknown):
            return False
    return True


def _key_matches(vr: str, asked: Any, stored: Any, unknown_matches: bool) -> bool:
    if vr == "SQ":
        return _sequence_matches(asked, stored or [], unknown_matches)
    wanted = _values(vr, asked)
    if _is_universal_value(vr, asked):
        return True
    values = _values(vr, stored)
    if wanted == ['""']:
        return not values
    if not values:
        return unknown_matches
    if vr in ("LO", "SH", "LT") and not unknown_matches:
        wanted = [unicodedata.normalize(form, each) for each in wanted for form in ("NFC", "NFD")]
    return any(_value_matches(vr, each, value) for each in wanted for value in values)


def _sequence_matches(asked: list[Values], items: list[Values], unknown_matches: bool) -> bool:
    keys = {
        keyword: value
        for item in asked
        for keyword, value in item.items()
        if not _is_universal_value(VR_OF[keyword], value)
    }
    if not keys:
        return True
    if not items:
        return unknown_matches
    return any(
        all(
            _key_matches(VR_OF[keyword], value, item.get(keyword, ""), unknown_matches)
            for keyword, value in keys.items()
        )
        for item in items
    )


def _is_universal_value(vr: str, asked: str) -> bool:
    wanted = _values(vr, asked)
    return not wanted or any(_is_universal(vr, each) for each in wanted)


def _values(vr: str, text: str) -> list[str]:
    parts = [text] if vr == "LT" else text.split("\\")
    parts = [part.rstrip(" ") if vr == "LT" else part.strip(" ") for part in parts]
    return [part for part in parts if part and (vr != "PN" or part.strip("^= "))]


def _is_universal(vr: str, asked: str) -> bool:
    if vr in ("DA", "TM", "DT"):
        return asked == "-"
    if vr == "PN":
        return all(not group or set(group) == {"*"} for group in _name(asked))
    return vr not in ("UI", "IS") and set(asked) == {"*"}


def _value_matches(vr: str, asked: str, value: str) -> bool:
    if vr == "PN":
        return _name_matches(_name(asked), _name(value))
    if vr == "IS":
        return value.lstrip("+-").isdigit() and int(asked) == int(value)
    if vr in ("DA", "TM", "DT"):
        low, high = _bounds(vr, asked)
        moment = _moment(vr, value)
        return moment is not None and low <= moment[0] <= high
    return asked == value if vr == "UI" else _glob(asked, value)


def _glob(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_glob(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and _glob(pattern[1:], text[1:])


# --- names -------------------------------------------------------------------------------------------------------


def _name(text: str) -> list[str]:
    return [_plain(group) for group in text.split("=")]


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.lower())
    letters = "".join(char for char in decomposed if not "\u0300" <= char <= "\u036f")
    return re.sub(" +", " ", unicodedata.normalize("NFC", letters)).rstrip("^ ")


def _name_matches(patterns: list[str], groups: list[str]) -> bool:
    wanted = ["" if set(pattern) <= {"*"} else pattern for pattern in patterns]
    while wanted and not wanted[-1]:
        wanted.pop()
    if len(wanted) == 1:
        return any(group and _group_matches(wanted[0], group) for group in groups)
    groups = groups + [""] * 3
    return all(not pattern or (groups[at] and _group_matches(pattern, groups[at])) for at, pattern in enumerate(wanted))


def _group_matches(pattern: str, group: str) -> bool:
    """`DOE` is `DOE^` is `DOE^^`: components that may be anything may be missing at the end."""
    ends = [at for at in range(1, len(pattern)) if pattern[at] == "^" and set(pattern[at:]) <= {"^", "*"}]
    return any(_glob(each, group) for each in (pattern, *(pattern[:at] for at in ends)))


# --- dates and times, as microseconds ----------------------------------------------------------------------------

SECOND = 10**6
FOREVER = 10**18


def _bounds(vr: str, asked: str) -> tuple[int, int]:
    first, hyphen, second = _parted(vr, asked)
    low = _moment(vr, first)[0] if first else -FOREVER
    if not hyphen:
        return low, low
    return low, _moment(vr, second)[1] if second else FOREVER


def _parted(vr: str, asked: str) -> tuple[str, str, str]:
    if vr != "DT":
        return asked.partition("-")
    # Every question about DT made here has seconds, so that an offset is what follows fourteen digits.
    found = re.fullmatch(r"(\d{14}(?:[+-]\d{4})?)?(-?)(\d{14}(?:[+-]\d{4})?)?", asked)
    return (found[1] or "", found[2], found[3] or "")


def _moment(vr: str, text: str) -> tuple[int, int] | None:
    """Return the first and last microsecond of a date or time; None for an invalid one."""
    digits = re.sub("[.:]", "", text) if vr == "DA" or ":" in text else text
    try:
        if vr == "DA":
            start = _micros(datetime.strptime(digits, "%Y%m%d"))
            return start, start
        if vr == "TM":
            return _time(digits)
        start = _micros(datetime.strptime(digits[:14], "%Y%m%d%H%M%S"))
    except ValueError:
        return None
    offset = digits[14:]
    shift = int(offset[0] + "1") * (int(offset[1:3]) * 60 + int(offset[3:])) * 60 * SECOND if offset else 0
    return start - shift, start - shift + SECOND - 1


def _micros(moment: datetime) -> int:
    return (moment - datetime(1, 1, 1)) // timedelta(microseconds=1)


def _time(digits: str) -> tuple[int, int]:
    whole, _, fraction = digits.partition(".")
    unit = {2: 3600 * SECOND, 4: 60 * SECOND, 6: SECOND}[len(whole)]
    hour, minute, second = (int(whole[at : at + 2] or "0") for at in (0, 2, 4))
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(digits)
    start = (hour * 3600 + minute * 60 + second) * SECOND + int(fraction.ljust(6, "0") if fraction else "0")
    return start, start + (10 ** (6 - len(fraction)) if fraction else unit) - 1


def _same_form(date: str, time: str) -> bool:
    forms = [tuple(bool(part) for part in text.replace(" ", "").partition("-")) for text in (date, time)]
    return forms[0] == forms[1] and forms[0][1] and any((forms[0][0], forms[0][2]))


def _combined_matches(date: str, time: str, values: Values, unknown_matches: bool) -> bool:
    dates, times = _values("DA", values.get("StudyDate", "")), _values("TM", values.get("StudyTime", ""))
    if not dates or not times:
        return unknown_matches
    on, at = _moment("DA", dates[0]), _moment("TM", times[0])
    if on is None or at is None:
        return False
    low, high = _combined_bounds(date, time)
    return low <= on[0] + at[0] <= high


def _combined_bounds(date: str, time: str) -> tuple[int, int]:
    (date_low, date_high), (time_low, time_high) = _bounds("DA", date), _bounds("TM", time)
    low = date_low + time_low if date_low > -FOREVER else -FOREVER
    return low, date_high + time_high if date_high < FOREVER else FOREVER
