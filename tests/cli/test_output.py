"""Numbers and tables in the output of the commands."""

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
