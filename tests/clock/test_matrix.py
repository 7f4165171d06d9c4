"""Jumps of the clock at the steps of ingest, commitment and recovery: a few of those of `python -m tests.clock`."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from tests.clock.clock import DAY, HOUR, Clock
from tests.clock.matrix import ARCHIVES, COMMITMENT, INGEST, RECOVERY, is_clean, matrix, run
from tests.databases import fresh_database


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("kind", "workers", "steps"),
    [("sqlite", 4, [*INGEST, *COMMITMENT]), ("sqlite", 1, [*RECOVERY]), ("postgresql", 1, [*INGEST, *COMMITMENT])],
)
def test_everything_goes_on_after_a_jump(
    tmp_path: Path, request, clock: Clock, kind: str, workers: int, steps: Sequence[str]
):
    """Instances are found and retrieved, reports arrive, associations live on, and the server is ready."""
    with fresh_database(kind, request, tmp_path) as url, matrix(tmp_path, url, workers, clock) as archive:
        for step, seconds in zip(steps, cycle((26 * HOUR, -370 * DAY, 370 * DAY, -26 * HOUR)), strict=False):
            archive.run(step, seconds)
    assert is_clean(archive.totals), archive.totals


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("database", "workers"), ARCHIVES)
def test_everything_goes_on_after_all_jumps(tmp_path: Path, database: str, workers: int):
    """Every jump at every step."""
    result = run(tmp_path, database, workers, report=print)
    assert is_clean(result), result
