"""An archive that is killed, started again and examined: a few of the kills of `python -m tests.crash kills`."""

from pathlib import Path

import pytest

from tests.crash import kills
from tests.crash.kills import CAMPAIGNS, PEERS

OURS = [each for each in CAMPAIGNS if each not in PEERS]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("archive", ["SQLite", "SQLite, 2 workers", "PostgreSQL is killed"])
def test_nothing_acknowledged_is_lost_whoever_is_killed(tmp_path: Path, monkeypatch, archive: str):
    """What was answered with 0000 is found and comes back bit for bit, nothing half-written does, and counts agree."""
    monkeypatch.setattr(kills.Campaign, "senders", 3)
    result = kills.run(tmp_path, archive, 2)
    assert result.kills.total() >= 2
    assert result.acknowledged > 0
    assert kills.is_clean(result), result


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("archive", OURS)
def test_nothing_acknowledged_is_lost_however_often_it_is_killed(tmp_path: Path, archive: str):
    """Sixty kills, at every step."""
    result = kills.run(tmp_path, archive, 60)
    assert kills.is_clean(result), result
