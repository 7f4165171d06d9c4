"""The commands of docs/explain.md run, and print what the page quotes."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from pacs.cli import main
from pacs.config import load
from pacs.observability.logging import TEXT_LIMIT
from pacs.testing import study, write

PAGE = (Path(__file__).parents[2] / "docs" / "explain.md").read_text("utf-8")
TYPED = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
QUOTED = [
    "tolerant: Pending FF01, then 0000",
    "A900, Below the query level: SeriesNumber",
    "answered: 0000, matches: 0",
    "without ModalitiesInStudy: 1 would match",
]


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Run a line of the page, with its two studies in the archive; return what it prints."""
    monkeypatch.chdir(tmp_path)
    write(study("DOE^JOHN", "CT", 1, 1), tmp_path / "in" / "ct")
    write(study("ROE^JANE", "MR", 1, 1, patient_id="P2"), tmp_path / "in" / "mr")
    assert CliRunner().invoke(main, ["import", "in"]).exit_code == 0

    def run(line):
        program, *arguments = shlex.split(line)
        assert program == "pacs"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (line, result.output)
        return result.stdout

    return run


def test_every_command_of_the_page_works(typed):
    """One after the other; each prints an explanation."""
    assert len(TYPED) == 6
    for line in TYPED:
        assert re.search(r"^C-(FIND|MOVE), Study Root|\"operation\": \"C-FIND\"", typed(line)), line


def test_the_first_command_prints_what_the_page_quotes(typed):
    """The quoted words are in its output, and on the page."""
    said = typed(TYPED[0])
    for words in QUOTED:
        assert words in said
        assert words in " ".join(PAGE.split())
    assert re.search(r"^SeriesNumber '': ignored", said, re.MULTILINE)


def test_the_level_is_inferred_as_the_page_says(typed):
    """SERIES, because RequestAttributesSequence belongs to a series."""
    assert "level SERIES" in typed(TYPED[1])


def test_the_configuration_of_the_page_switches_explanations_on(tmp_path):
    """For all AEs, and for the peer."""
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "config.toml").write_text(block)
    config = load(tmp_path / "config.toml", {})
    assert config.query.explain
    assert [peer.explain for peer in config.peers] == [True]


def test_the_length_of_a_line_on_the_page_is_that_of_the_log():
    """Where a line of the log ends."""
    assert f"ends after {TEXT_LIMIT} characters" in " ".join(PAGE.split())
