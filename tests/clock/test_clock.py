"""The clock of the harness itself: what follows a jump, and what keeps the real time."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.clock.clock import DAY, HOUR, Clock, run
from tests.crash.client import associated
from tests.crash.servers import Site

SHOW = """
import threading, time

for _ in range(4):
    began = time.perf_counter()
    threading.Event().wait(0.05)
    clocks = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
    print(*map(time.clock_gettime, clocks), time.perf_counter() - began)
    jump()
"""


def test_only_the_wall_clock_is_turned(clock: Clock):
    """CLOCK_MONOTONIC and CLOCK_BOOTTIME go on as they did, and timed waits take their time."""
    jumps = (HOUR, -2 * HOUR, 370 * DAY)
    shown = [[float(each) for each in line.split()] for line in run(clock, SHOW, *jumps, 0)]
    for seconds, (before, after) in zip(jumps, pairwise(shown), strict=True):
        wall, monotonic, boot = (now - then for now, then in zip(after[:3], before[:3], strict=True))
        assert abs(wall - seconds) < 60
        assert 0 < monotonic < 60
        assert 0 < boot < 60
        assert 0.04 < after[3] < 60


@pytest.mark.parametrize("workers", [1, 4])
def test_the_daemon_lives_by_the_turned_clock(tmp_path: Path, clock: Clock, database_url: str, workers: int):
    """With all its workers, as its log says; it answers after every jump and stops as always."""
    site = Site(tmp_path, database_url, (f"server.workers={workers}",), tmp_path / "log")
    server = site.start(*clock.prefix)
    try:
        with associated(server.port) as client:
            for seconds in (HOUR, -2 * HOUR, 370 * DAY, -740 * DAY, 3700 * DAY):
                clock.jump(seconds)
                assert client.echo() == 0
    finally:
        assert server.stop() == 0
    ended = datetime.now(UTC) + timedelta(seconds=clock.ahead)
    (line,) = (each for each in site.log.read_text().splitlines() if "association ended" in each)
    assert int(line[:4]) in (ended.year - 1, ended.year)
