"""The clock of these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock.clock import Clock, turned


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    """A clock that shows the time of the machine."""
    with turned(tmp_path) as made:
        yield made
