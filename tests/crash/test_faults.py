"""The daemon during a fault: each of the faults of `python -m tests.crash faults`."""

from pathlib import Path

import pytest

from tests.crash import faults
from tests.crash.faults import FAULTS

LONG = ("the disk of the index is full", "the file store is read-only (four workers)", "the file store is not there",
        "files may not grow", "no inodes are left", "the index is locked (PostgreSQL)",
        "the disk turns read-only between two writes", "the disk turns read-only before the rename")  # fmt: skip
"""Faults that are similar to another one, for the long form only."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.long] * (each in LONG)) for each in FAULTS])
def test_a_fault_is_reported_to_the_sender_and_ends_with_its_cause(tmp_path: Path, name: str):
    """A7xx with an Error Comment on an association that stays open; storing works again afterwards, nothing is lost."""
    result = faults.run(tmp_path, name)
    refused = {status for status in result.answers if status}
    assert refused
    assert {status >> 8 for status in refused} == {0xA7}
    assert all(result.comments)
    assert set(result.echoes) == {0}
    assert result.resumed
    assert not result.faults.total(), result.faults
