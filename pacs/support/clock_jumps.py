"""Detects jumps of a wall clock, by the clock of the system that only goes forward."""

import time

JUMP_SECONDS = 60.0
"""By how much two clocks must disagree about the time that has passed, to be called a jump."""


class JumpDetector:
    """Compares a wall clock, also that of another machine, with CLOCK_BOOTTIME, which runs on while a system sleeps."""

    def __init__(self) -> None:
        self._difference: float | None = None

    def seconds_jumped(self, wall: float) -> float:
        """Return by how many seconds the wall clock, which shows `wall`, has jumped since the last call, 0 for none.

        A clock that is slowly adjusted does not jump.
        """
        difference = wall - time.clock_gettime(time.CLOCK_BOOTTIME)
        before, self._difference = self._difference, difference
        jumped = difference - before if before is not None else 0.0
        return jumped if abs(jumped) > JUMP_SECONDS else 0.0
