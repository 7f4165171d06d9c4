"""Small archives and queries that often match: most keys are derived from a stored value."""

import unicodedata
from typing import Any

from hypothesis import strategies as st

from tests.properties.model import ITEM_VRS, LEVELS, VR_OF, VRS, Question, Values

FAMILIES = ["Doe", "DOE", "Müller", "Muller", "de la Cruz", "O'Hara"]
GIVEN = ["John", "JOHN", "Jané", ""]
IDEOGRAPHIC = ["山田^太郎", "山田", ""]
PHONETIC = ["やまだ^たろう", "やまた", ""]
WORDS = ["ABC", "abc", "A%C", "A_C", "a[b]c", "Schädel", "Scha\u0308del", "頭", "x y", "ABCABC"]
DATES = ["20200101", "20200102", "2020.01.02", "20191231", "20200229", "00000000"]
TIMES = ["10", "1000", "100000", "101010.123", "10:30:00", "235959.999999", "0000", "99"]
MOMENTS = ["20200101120000", "20200101120000+0100", "20200101110000", "20191231235959-0500"]
CODES = ["CT", "MR", "ct", "PT", "CT\\PT"]
NUMBERS = ["1", "01", "+1", "7", "10", "-3"]


@st.composite
def _names(draw: st.DrawFn) -> str:
    family, given = draw(st.sampled_from(FAMILIES)), draw(st.sampled_from(GIVEN))
    groups = (
        f"{family}^{given}" if given else family,
        *(draw(st.sampled_from(each)) for each in (IDEOGRAPHIC, PHONETIC)),
    )
    return "=".join(groups).rstrip("=")


_words = st.sampled_from(WORDS)
_items = st.lists(st.fixed_dictionaries(dict.fromkeys(ITEM_VRS, _words)), max_size=2)

STORED: dict[str, st.SearchStrategy[Any]] = {
    "LO": _words,
    "SH": _words,
    "LT": _words | st.just("a\\b"),
    "PN": _names(),
    "CS": st.sampled_from(CODES),
    "DA": st.sampled_from(DATES),
    "TM": st.sampled_from(TIMES),
    "DT": st.sampled_from(MOMENTS),
    "IS": st.sampled_from(NUMBERS) | st.just("seven"),
    "SQ": _items,
}


@st.composite
def archives(draw: st.DrawFn) -> list[Values]:
    """Up to two patients, three studies, four series and six instances, each of which may lack any attribute."""
    instances = []
    for number in range(draw(st.integers(1, 6))):
        patient, study, series = number % 2, number % 3, number % 4
        # A study has one patient and a series one study: 12 is a multiple of all.
        patient, study = (study % 2, study) if number < 12 else (patient, study)
        series_uid = f"1.{study}.{series}"
        instances.append(
            {
                "PatientComments": f"p{patient}", "PatientID": f"P{patient}",
                "StudyInstanceUID": f"1.{study}", "SeriesInstanceUID": series_uid,
                "SOPInstanceUID": f"{series_uid}.{number}",
            }
        )  # fmt: skip
    fixed = set(instances[0])
    for level in LEVELS:
        marks = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}
        own = marks.get(level, "SOPInstanceUID")
        for mark in sorted({instance[own] for instance in instances}):
            values = {
                keyword: draw(STORED[vr])
                for keyword, vr in VRS[level].items()
                if keyword not in fixed and draw(st.booleans())
            }
            for instance in instances:
                if instance[own] == mark:
                    instance |= {keyword: value for keyword, value in values.items() if draw(st.integers(0, 4))}
    return instances


@st.composite
def questions(draw: st.DrawFn, archive: list[Values]) -> Question:
    """A question at some level with up to three keys of it and the levels above."""
    level = draw(st.sampled_from(LEVELS))
    vrs = {keyword: vr for each in LEVELS[: LEVELS.index(level) + 1] for keyword, vr in VRS[each].items()}
    keywords = draw(st.lists(st.sampled_from(sorted(vrs)), max_size=3, unique=True))
    instance = draw(st.sampled_from(archive))
    unknown_matches = draw(st.booleans())
    keys = {keyword: draw(_asked(keyword, instance.get(keyword, ""))) for keyword in keywords}
    if not unknown_matches:
        typed = {keyword: draw(_typed(VR_OF[keyword], asked)) for keyword, asked in keys.items()}
        keys |= {keyword: asked for keyword, asked in typed.items() if draw(st.integers(0, 3)) == 0}
    if level != "PATIENT" and draw(st.integers(0, 5)) == 0:
        keys["ModalitiesInStudy"] = draw(_asked_text(instance.get("Modality", "CT").partition("\\")[0]))
    if level != "PATIENT" and draw(st.integers(0, 7)) == 0:
        keys["NumberOfStudyRelatedSeries"] = draw(st.sampled_from(["1", "02", "3"]))
    if draw(st.integers(0, 3)) == 0 and level != "PATIENT":
        keys |= {"StudyDate": draw(_asked_range(DATES[:5])), "StudyTime": draw(_asked_range(TIMES[:7]))}
    return Question(level, keys, unknown_matches=unknown_matches, combined=draw(st.booleans()))


def _typed(vr: str, asked: Any) -> st.SearchStrategy[Any]:
    """A key as people type it, which only the tolerant mode understands."""
    if vr == "DA":
        dates = [date for date in DATES if date.isdigit() and date > "1"]
        return st.sampled_from(dates).flatmap(lambda date: st.sampled_from(_typed_dates(date[:4], date[4:6], date[6:])))
    if vr == "TM":
        return st.sampled_from(["000000-240000", "1000-240000", "-240000", "*"])
    if vr == "DT":
        # The model of ranges of DT has seconds, and so have these.
        return st.sampled_from(
            [f"2020-01-01T12:00:00-{MOMENTS[2]}", "2019-12-31T23:59:59-", "-2020-01-01T11:00:00", "*"]
        )
    if vr in ("UI", "IS"):
        return st.just("*")
    if vr in ("LO", "SH", "LT") and asked != '""':
        return st.sampled_from(["NFC", "NFD"]).map(lambda form: unicodedata.normalize(form, asked))
    return st.just(asked)


def _typed_dates(year: str, month: str, day: str) -> list[str]:
    iso = f"{year}-{month}-{day}"
    return [iso, f"{iso}-", f"2019-12-31-{iso}", f"{year}{month}", year, f"{year}{month}01-{year}{month}31", "*"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Values], list[Question]]:
    """An archive and some questions about it."""
    archive = draw(archives())
    return archive, draw(st.lists(questions(archive), min_size=1, max_size=4))


def _asked(keyword: str, stored: Any) -> st.SearchStrategy[Any]:
    vr = VR_OF[keyword]
    usual = st.just(stored) if stored else STORED.get(vr, st.just("1.0"))
    bent = usual.flatmap(lambda value: _bent(vr, value))
    return st.one_of(bent, bent, bent, st.just([] if vr == "SQ" else ""), _empty(vr))


def _empty(vr: str) -> st.SearchStrategy[Any]:
    return st.just([{}]) if vr == "SQ" else st.just('""')


def _bent(vr: str, value: Any) -> st.SearchStrategy[Any]:
    if vr == "SQ":
        item = st.sampled_from(value) if value else st.fixed_dictionaries(dict.fromkeys(ITEM_VRS, _words))
        return item.flatmap(_asked_item)
    if vr == "UI":
        return st.sampled_from([value, f"{value}\\9.9", f"9.9\\{value}\\{value}", "9.9"])
    if vr == "IS":
        number = value if value != "seven" else "7"
        return st.sampled_from([number, f"{int(number):03}", f"{number}\\8", "8"])
    if vr in ("DA", "TM"):
        valid = {"DA": DATES[:5], "TM": TIMES[:7]}[vr]
        exact = [value] if value in valid else valid
        return st.sampled_from(exact) | _asked_range([*exact, *valid]) | st.just("-")
    if vr == "DT":
        return st.just(value) | _asked_range(MOMENTS)
    return _asked_name(value) if vr == "PN" else _asked_text(value.partition("\\")[0], single=vr == "LT")


def _asked_range(values: list[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(st.sampled_from(values), st.sampled_from(values))
    return pairs.flatmap(lambda pair: st.sampled_from([f"{pair[0]}-{pair[1]}", f"{pair[0]}-", f"-{pair[1]}"]))


def _asked_item(item: Values) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({keyword: _asked_text(value) | st.just("") for keyword, value in item.items()}).map(
        lambda made: [made]
    )


def _asked_text(value: str, single: bool = False) -> st.SearchStrategy[str]:
    several = [] if single else [f"{value}\\zz", f"z*\\{value[:1]}*"]
    return st.sampled_from(
        [
            value, value, f"{value} ", value.swapcase(), f"{value[:1]}*", f"*{value[-1:]}", f"?{value[1:]}",
            f"{value}?", f"{value[:1]}**{value[-1:]}", "*", "??*", "zz", *several,
        ]
    )  # fmt: skip


def _asked_name(value: str) -> st.SearchStrategy[str]:
    groups = value.partition("\\")[0].split("=")
    first, last = groups[0], groups[-1]
    return st.sampled_from(
        [
            value, first, last, first.upper(), first.lower(), f"{first[:2]}*", f"*{first[1:]}", f"{first}^^",
            f"{first}^*", f"{first.partition('^')[0]}^*", f"{last[:1]}*", f"?{first[1:]}", f"*={last}", f"={last}",
            f"{first}=*", f"{first}\\Nobody", "*", "Nobody", "no*^*", f"{first}=nobody",
        ]
    )  # fmt: skip
