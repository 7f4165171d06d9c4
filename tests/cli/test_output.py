"""Numbers, tables and CSV in the output of the commands."""

import csv
import io
import re
import sys

import pytest

from pacs.cli.output import plural, show, size
from pacs.testing import uid


@pytest.mark.parametrize(
    ("number", "thing", "said"),
    [
        (1, "instance", "1 instance"),
        (0, "instance", "0 instances"),
        (2, "study", "2 studies"),
        (2, "series", "2 series"),
    ],
)
def test_nouns_are_in_the_plural_where_needed(number, thing, said):
    """Not for one."""
    assert plural(number, thing) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (2**52, "4096.0 TiB")],
)
def test_sizes_have_a_suitable_unit(number, said):
    """Never 0.0 of one."""
    assert size(number) == said


def test_a_table_on_a_terminal_shows_uids_whole_and_headings_as_words(monkeypatch, capsys):
    """A UID can be copied into the next command."""
    lines = shown_on_a_terminal(monkeypatch, capsys, 80)
    assert [line.split() for line in lines[:2]] == [["Patient", "Study"], ["Name", "Series", "Instance", "UID"]]
    assert lines[2].split() == ["DOE^JOHN", "2", uid("1")]


def test_on_a_narrow_terminal_each_row_is_a_paragraph(monkeypatch, capsys):
    """So that no UID is truncated."""
    lines = shown_on_a_terminal(monkeypatch, capsys, 50)
    assert lines[:3] == [
        "PatientName                 DOE^JOHN",
        "NumberOfStudyRelatedSeries  2",
        f"StudyInstanceUID            {uid('1')}",
    ]
    assert lines[3:] == ["", *lines[:3]]


def shown_on_a_terminal(monkeypatch, capsys, width):
    """Return a table of two studies as lines without colours."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    show(("StudyInstanceUID", "PatientName", "NumberOfStudyRelatedSeries"), [(uid("1"), "DOE^JOHN", 2)] * 2)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


# --- CSV ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("DOE^JOHN", "DOE^JOHN"),
        ("a\x1b]0;title\x07b\x9b2J", r"a\x1b]0;title\x07b\x9b2J"),
        ("\u202ecod.exe\u2066", r"\u202ecod.exe\u2066"),
        ("first\r\nsecond\tthird", "first\r\nsecond\tthird"),
        ("lone\rreturn", r"lone\rreturn"),
        ("山田\u3000太郎\xa0", "山田\u3000太郎\xa0"),
    ],
)
def test_csv_has_no_character_that_a_terminal_interprets(capsys, text, written):
    """Line breaks, tabs and the spaces of all scripts stay, unless a reader took one cell for two lines."""
    assert in_csv(capsys, text) == written


@pytest.mark.parametrize(
    "text", ["=1+1", "+49 40 1", "-2+3", "@SUM(A1)", "\t=1", "\r\n=1", "\n=1", "－1＋2", "-", "-1\\A"]
)
def test_a_formula_in_csv_has_an_apostrophe_before_it(capsys, text):
    """A spreadsheet shows it as a text."""
    assert in_csv(capsys, text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1.5", "+3", "-.5e-7", "-1.5\\2\\-3E4", "+0100", -1.5, "", "a=b", "1.2.3", "'=1"])
def test_numbers_and_other_values_in_csv_stay_as_they_are(capsys, value):
    """No spreadsheet takes them for a formula."""
    assert in_csv(capsys, value) == str(value)


def in_csv(capsys, value):
    """Return a value as `show` writes it into a pipe."""
    show(("PatientComments",), [(value,)])
    (_, (shown,)) = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    return shown
