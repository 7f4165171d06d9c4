"""SQL and the row by row matcher agree on every key: a grid of stored values against a grid of matchings."""

from collections.abc import Sequence

import pytest

from pacs.dicom import matching, row_elements
from pacs.dicom.attributes import by_keyword
from pacs.dicom.query import Empty, Key, Matching, Names, Range, Single, SoundsLike, Wildcard
from pacs.index.database import Index
from tests.index.instances import STUDY, instance_of, study
from tests.index.test_search import found, studies_with

TEXTS = [
    *(None, "", "A", "a", "AB", "ABC", "A C", " A ", "Ä", "漢字", "A*", "A?", "100%", "A_B", "[A]", "]", "^A", "😀"),
    ["A", "B"],
    "A" * 1100,
]
SINGLES = ("A", "a", "Ä", "漢字", "A*", "", "\0", "[A]")
PATTERNS = ("*", "?", "??", "A*", "*A", "*A*", "?*", "*?*", "A?C", "[*", "*]*", "%", "_", "漢?", "*B", "", "A*A")
TEXT_MATCHINGS: Sequence[Matching] = [
    *(Single((text,)) for text in SINGLES),
    Single(("A", "AB", "B")),
    Single(()),
    *(Wildcard((pattern,)) for pattern in PATTERNS),
    Wildcard(("a*", "*C")),
    Empty(),
]

NAMES = [
    *(None, "", "DOE^JOHN", "Doe^John^^^", "doe", "Döe^J", "O'Neil^%_", "Smith^Jon", "A*B", "[x]^?"),
    *("Yamada^Tarou=山田^太郎=やまだ^たろう", "=山田^太郎", "==やまだ", "Wang^XiaoDong=王^小东"),
    ["DOE^JOHN", "ROE^JANE"],
    "X" * 1100,
]
ONE_GROUP = (
    *("doe^john", "doe*", "*john", "*oh*", "*", "?oe*", "d?e", "山田*", "*太*", "*[*", "*^%_", "*roe*", "xyz"),
    "*た*ろ*",
)
GROUPS = (
    *(("", "山*"), ("yamada*", "*太郎"), ("*", "*", "*"), ("", "", "やまだ*"), ("doe*", ""), ("", "")),
    ("*ama*", "", "*まだ*"),
)
HEARD = (("D000",), ("S530", "J500"), ("J500",), ("山田",), ("Z000",))
NAME_MATCHINGS: Sequence[Matching] = [
    *(Names(((pattern,),)) for pattern in ONE_GROUP),
    *(Names((patterns,)) for patterns in GROUPS),
    Names((("doe^john",), ("*smith*",))),
    *(SoundsLike(keys) for keys in HEARD),
    Empty(),
]

DATES = [None, "", "20200101", "2020.01.02", "20201301", "99999999", ["20200101", "20210101"], "20200229"]
DATE_MATCHINGS: Sequence[Matching] = [
    Single(("20200101",)),
    Single(("20200102", "20200229")),
    *(Range(*bounds) for bounds in (("20200101", "20200201"), ("20200102", None), (None, "20200101"), ("3", "2"))),
    Range("20210101", "20210101"),
    Empty(),
]

GRIDS = {
    "StudyDescription": (TEXTS, TEXT_MATCHINGS),
    "AccessionNumber": (TEXTS, TEXT_MATCHINGS),
    "PatientName": (NAMES, NAME_MATCHINGS),
    "ReferringPhysicianName": (NAMES, NAME_MATCHINGS),
    "StudyDate": (DATES, DATE_MATCHINGS),
    "IssuerOfPatientID": (TEXTS, TEXT_MATCHINGS),
}


@pytest.mark.parametrize("keyword", GRIDS)
@pytest.mark.parametrize("unknown_matches", [False, True], ids=["unknown-differs", "unknown-matches"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sql_and_the_matcher_agree(index: Index, keyword: str, unknown_matches: bool):
    """Both find the same for all stored values and keys; a good part of the queries has matches."""
    stored, matchings = GRIDS[keyword]
    studies_with(index, keyword, *stored)
    attribute = by_keyword(keyword)
    rows = [
        {
            level: row_elements.decode(blob)
            for level, blob in instance_of(study(1, **{keyword: value})).header.kept.items()
        }
        for value in stored
    ]
    found_something = 0
    for each in matchings:
        key = Key(attribute, each)
        expected = [n for n, row in enumerate(rows, 1) if matching.matches(key, row, {}, unknown_matches)]
        assert sorted(found(index, keyword, each, unknown_matches=unknown_matches)) == expected, each
        found_something += bool(expected)
    assert found_something * 3 >= len(matchings)
    assert attribute.level <= STUDY
