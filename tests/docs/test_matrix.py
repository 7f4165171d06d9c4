"""`docs/matrix.md` covers the existing checks, and shows how it is made."""

import re
from pathlib import Path

import pytest

from benchmarks import matrix
from pacs.conformance.checks.runner import CHECKS

TEXT = (Path(__file__).parents[2] / "docs" / "matrix.md").read_text("utf-8")
ROWS = {cells[0]: cells for cells in (line.strip("| ").split(" | ") for line in TEXT.splitlines() if line[:1] == "|")}


def test_the_matrix_has_every_check():
    """And no other, each with its question and a result for each system."""
    identities = {name for name in ROWS if re.fullmatch(r"[A-Z]\d+[a-z]?", name)}
    assert identities == {check.id for check in CHECKS}
    for check in CHECKS:
        assert ROWS[check.id][1].replace("\\", "") == check.question
        assert len(ROWS[check.id]) == 3 + len(matrix.SYSTEMS)


def test_this_archive_deviates_only_in_k2_in_the_tolerant_matching_mode():
    """As in tests/conformance."""
    ours = [(name, cells[3][0], cells[4][0]) for name, cells in ROWS.items() if len(cells) > 7 and name != "---"]
    assert [name for name, tolerant, _ in ours if tolerant == "✗"] == ["K2"]
    assert not [name for name, _, strict in ours if strict == "✗"]


@pytest.mark.parametrize("written", ["python -m benchmarks.matrix", "pacs conformance run --against"])
def test_it_says_how_it_is_made(written):
    """And how to check another server."""
    assert written in TEXT


def test_the_command_makes_the_page(tmp_path):
    """Here for this archive only."""
    page = tmp_path / "matrix.md"
    matrix.main(["--system", "pacs, strict", "--output", str(page)])
    written = page.read_text("utf-8")
    assert "| ✗ deviates | 0 |" in written
    assert "{" not in written
