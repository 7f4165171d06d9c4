"""`docs/pixels.md` has the matrix of today."""

import importlib.util
from pathlib import Path

import pytest

from tests import programs
from tests.pixels import matrix

PAGE = Path(__file__).parents[2] / "docs" / "pixels.md"


@pytest.mark.timeout(240)  # more than a thousand conversions
def test_the_matrix_is_what_the_command_makes(tmp_path):
    """And in no cell the pixels differ by more than their lossy compression does."""
    if not importlib.util.find_spec("pylibjpeg"):
        programs.missing("pylibjpeg, with which pydicom decodes what is converted,")
    page = tmp_path / "pixels.md"
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    matrix.write(page)
    assert page.read_text("utf-8") == PAGE.read_text("utf-8"), (
        "run: python -m tests.pixels matrix --output docs/pixels.md"
    )
    assert "differs" not in page.read_text("utf-8")
