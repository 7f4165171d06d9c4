"""The clock of the harness itself: what follows a jump, and what keeps the real time."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.clock.clock import DAY, HOUR, Clock
from tests.crash.client import associated
from tests.crash.servers import Site

SHOW = """
import sys, threading, time
for _ in sys.stdin:
    began = time.perf_counter()
    threading.Event().wait(0.05)
    clocks = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
    print(*map(time.clock_gettime, clocks), time.perf_counter() - began, flush=True)
"""


def test_only_the_wall_clock_is_turned(clock: Clock):
    """CLOCK_MONOTONIC and CLOCK_BOOTTIME go on as they did, and timed waits take their time."""
    command = [*clock.prefix, sys.executable, "-c", SHOW]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shown:
        stdin, stdout = shown.stdin, shown.stdout
        assert stdin is not None
        assert stdout is not None

        def now() -> list[float]:
            stdin.write("\n")
            stdin.flush()
            return [float(each) for each in stdout.readline().split()]

        before = now()
        for seconds in (HOUR, -2 * HOUR, 370 * DAY):
            clock.jump(seconds)
            after = now()
            wall, monotonic, boot = (now - then for now, then in zip(after[:3], before[:3], strict=True))
            assert abs(wall - seconds) < 60
            assert 0 < monotonic < 60
            assert 0 < boot < 60
            assert 0.04 < after[3] < 60
            before = after


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
