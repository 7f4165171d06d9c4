"""The clock of the harness itself: what follows a jump, and what keeps the real time."""

from itertools import pairwise

from tests.clock.clock import DAY, HOUR, Clock, run

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
