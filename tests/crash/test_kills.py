"""Kills: a few of those of `python -m tests.crash kills`."""

from pathlib import Path

import pytest

from tests.crash import kills
from tests.crash.kills import OWN


@pytest.mark.timeout(180)
@pytest.mark.parametrize("archive", ["SQLite", "SQLite, 4 workers", "PostgreSQL is killed"])
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path, monkeypatch, archive: str):
    """Acknowledged instances are found and retrieved bit for bit, no half-written one is, and counts agree."""
    monkeypatch.setattr(kills.Campaign, "senders", 3)
    result = kills.run(tmp_path, archive, 2)
    assert result.kills.total() >= 2
    assert result.acknowledged > 0
    assert result.is_clean, result


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("archive", OWN)
def test_nothing_acknowledged_is_lost_by_many_kills(tmp_path: Path, archive: str):
    """Sixty kills, at every step of storing."""
    result = kills.run(tmp_path, archive, 60)
    assert result.is_clean, result
