"""`docs/programs.md` says what the tests of `tests/interop` see."""

from pathlib import Path

from tests.interop.__main__ import page

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"


def test_the_page_of_programs_is_current():
    """Write it again with `python -m tests.interop > docs/programs.md`."""
    assert PAGE.read_text("utf-8") == page()
