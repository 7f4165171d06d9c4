"""`docs/receivers.md` says what the tests of `tests/interop` see."""

from pathlib import Path

from tests.interop.__main__ import page

PAGE = Path(__file__).parents[2] / "docs" / "receivers.md"


def test_the_page_of_receivers_is_current():
    """Write it again with `python -m tests.interop > docs/receivers.md`."""
    assert PAGE.read_text("utf-8") == page()
