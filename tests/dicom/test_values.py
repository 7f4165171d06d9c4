"""Comparable values, ranges of dates and times, names and UIDs: checklist M1, M2, M6, M13, M15."""

import pytest

from pacs.dicom.values import comparable, fold, is_uid, name_groups, parse_range, sounds


@pytest.mark.parametrize(
    ("vr", "text", "expected"),
    [
        ("LO", "P1 ", "P1"),
        ("LO", " P1", "P1"),
        ("UI", "1.2.3\0", "1.2.3"),
        ("UI", "1.2.3 ", "1.2.3"),
        ("LT", " indented ", " indented"),
        ("UC", " indented ", " indented"),
        ("SH", "   ", None),
        ("UI", "\0", None),
    ],
)
def test_m2_insignificant_padding_is_removed(vr, text, expected):
    """Trailing padding never counts, leading spaces count only in the VRs of longer text."""
    assert comparable(vr, text) == expected


@pytest.mark.parametrize(
    ("vr", "text", "expected"),
    [
        ("DA", "20200101", "20200101"),
        ("DA", "2020.01.01", "20200101"),
        ("DA", "20200229", "20200229"),
        ("DA", "20210229", None),
        ("DA", "00000000", None),
        ("DA", "20209999", None),
        ("DA", "2020.0101", None),
        ("TM", "2230", "223000.000000"),
        ("TM", "223000", "223000.000000"),
        ("TM", "22:30:00", "223000.000000"),
        ("TM", "10:11:12", "101112.000000"),
        ("TM", "10", "100000.000000"),
        ("TM", "101010.123", "101010.123000"),
        ("TM", "235960", "235960.000000"),
        ("TM", "2400", None),
        ("TM", "1060", None),
        ("TM", "101010+0100", None),
        ("DT", "2020", "20200101000000.000000"),
        ("DT", "20200101120000", "20200101120000.000000"),
        ("DT", "20200101120000+0000", "20200101120000.000000"),
        ("DT", "20200101120000-0500", "20200101170000.000000"),
        ("DT", "20200101003000+0100", "20191231233000.000000"),
        ("DT", "20200101120000+1500", None),
        ("DT", "00010101000000+1400", None),
        ("DT", "2020010112000x", None),
    ],
)
def test_m1_dates_and_times_are_compared_by_value(vr, text, expected):
    """Old forms, reduced precision, fractions and offsets have one comparable form; invalid values have none."""
    assert comparable(vr, text) == expected


@pytest.mark.parametrize("text", ["7", "007", "+7", " 7 ", "7.0", "7e0"])
def test_m13_equal_numbers_are_equal_however_they_are_written(text):
    """`7` = `007` = `+7`, in IS and in DS."""
    assert comparable("IS", text) == 7
    assert comparable("DS", text) == 7


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "1_000", "seven", "9" * 100, "٧", "0x7"])
def test_m13_an_invalid_number_has_no_value(text):
    """NaN, overflow and numbers in Python syntax have no value."""
    assert comparable("IS", text) is None
    assert comparable("DS", text) is None


def test_m13_decimals_are_exact_up_to_the_length_of_a_ds():
    """Sixteen characters distinguish what a float would confuse."""
    assert comparable("DS", "9007199254740993") != comparable("DS", "9007199254740992")
    assert comparable("DS", "0.10") == comparable("DS", ".1")
    assert comparable("IS", "7.5") is None


@pytest.mark.parametrize(
    ("vr", "text", "expected"),
    [
        ("DA", "20200101-20200131", ("20200101", "20200131")),
        ("DA", "20200101-", ("20200101", None)),
        ("DA", "-20200101", (None, "20200101")),
        ("DA", "20200101-20200101", ("20200101", "20200101")),
        ("DA", "20200201-20200101", ("20200201", "20200101")),
        ("DA", " 20200101 - 20200131 ", ("20200101", "20200131")),
        ("DA", "2020.01.01-2020.01.31", ("20200101", "20200131")),
        ("DA", "-", (None, None)),
        ("DA", "20200101", ("20200101", "20200101")),
        ("TM", "10-1030", ("100000.000000", "103060.999999")),
        ("TM", "10:11:12-", ("101112.000000", None)),
        ("TM", "-10", (None, "105960.999999")),
        ("TM", "-101010.1", (None, "101010.199999")),
        ("DT", "20200101120000-0500-20200102", ("20200101170000.000000", "20200102235960.999999")),
        ("DT", "20200101120000-0500", ("20200101170000.000000", "20200101170000.000000")),
        ("DT", "20200101-20200102-0500", ("20200101000000.000000", "20200103045960.999999")),
        ("DT", "20200101+0100-", ("20191231230000.000000", None)),
        ("DT", "-20200101+0100", (None, "20200101225960.999999")),
        ("DT", "2020-2021", ("20200101000000.000000", "20211231235960.999999")),
        ("DT", "202002-202002", ("20200201000000.000000", "20200229235960.999999")),
        ("DT", "2020-0500-", ("20200101050000.000000", None)),
    ],
)
def test_m6_a_range_includes_its_last_unit_and_its_offsets(vr, text, expected):
    """Bounds are inclusive, an upper one of reduced precision includes its unit, an offset is no hyphen."""
    assert parse_range(vr, text) == expected


@pytest.mark.parametrize(
    ("vr", "text"),
    [
        ("DA", "20200101-20200102-20200103"),
        ("DA", "yesterday"),
        ("DA", "*"),
        ("DA", "20209999-"),
        ("DA", "20200101 20200102"),
        ("TM", "101010+0100"),
        ("TM", "101010-0100-"),
        ("TM", "25-26"),
        ("DT", "20200101-0500-0500-0500-0500"),
        ("DA", ""),
        ("DA", "20200101" * 1000),
        ("DT", "1" * 100_000),
        ("DA", "20200101" + " " * 100_000 + "-"),
    ],
)
def test_m6_an_invalid_range_is_refused(vr, text):
    """Too many hyphens, an offset in a time, and text that is not a date; of any length in little time."""
    with pytest.raises(ValueError, match=vr):
        parse_range(vr, text)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("DOE^JOHN", "doe^john"),
        ("Doe^John^^^", "doe^john"),
        ("Müller^Jörg", "muller^jorg"),
        ("MU\u0308LLER", "muller"),
        ("Łukasz^Ørsted Đæœþı", "lukasz^orsted daeoethi"),
        ("  Van   Dyke ^ Anna ", "van dyke^anna"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("やまだ^たろう", "やまだ^たろう"),
        ("ヤマダ", "ヤマダ"),
        ("ﾔﾏﾀﾞ", "ヤマダ"),
        ("ＤＯＥ", "doe"),
        ("홍^길동", "홍^길동"),
        ("นามสกุล", "นามสกุล"),
        ("^^^^", ""),
    ],
)
def test_m15_names_are_folded_for_comparison(text, folded):
    """Case, accents, widths, extra spaces and trailing delimiters do not count; voicing marks do."""
    assert fold(text) == folded


def test_m15_wide_wild_card_characters_are_literal():
    """A full width asterisk or question mark does not become a wild card by folding."""
    assert not {"*", "?"} & set(fold("Ａ＊Ｂ？"))


def test_m15_a_name_has_up_to_three_groups():
    """Alphabetic, ideographic, phonetic; groups after the third and empty ones at the end do not count."""
    text = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert name_groups(text) == ("yamada^tarou", "山田^太郎", "やまだ^たろう")
    assert name_groups("=山田") == ("", "山田")
    assert name_groups("A==") == ("a",)
    assert name_groups("A=B=C=D=E") == ("a", "b", "c")
    assert name_groups("^^=^") == ()


def test_m11_names_that_sound_alike_have_the_same_keys():
    """Soundex for each word, in any order of components; words in other scripts are their own key."""
    assert set(sounds(name_groups("SMYTHE^JON"))) == set(sounds(name_groups("John Smith")))
    assert sounds(("müller",)) != sounds(("meier",))
    assert sounds(name_groups("Yamada=山田")) == ("Y530", "山田")


@pytest.mark.parametrize(
    ("text", "is_one", "is_strictly_one"),
    [
        ("1.2.840.10008.1.1", True, True),
        ("2.25.0", True, True),
        ("1.02", True, False),
        ("1" * 64, True, True),
        ("1" * 65, False, False),
        ("", False, False),
        ("1..2", False, False),
        (".1", False, False),
        ("1.2.", False, False),
        ("../etc/passwd", False, False),
        ("1.2\n", False, False),
        ("１.２", False, False),
        ("1.2 ", False, False),
    ],
)
def test_a_uid_is_digits_and_dots_of_at_most_64_characters(text, is_one, is_strictly_one):
    """Leading zeros are tolerated unless `strict`; nothing else is."""
    assert is_uid(text) is is_one
    assert is_uid(text, strict=True) is is_strictly_one
