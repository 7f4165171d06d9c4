"""A wall clock that a test can turn while programs run by it: libfaketime (Debian: `libfaketime`)."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.programs import missing, start

HOUR, DAY = 3600, 86400

JUMPS = (HOUR, 26 * HOUR, 370 * DAY)
"""How far the clock is turned, forward and back."""

STARTUP = Path(__file__).with_name("startup")

SHARED_MEMORY = Path("/dev/shm")


@dataclass
class Clock:
    """A wall clock that is some seconds ahead of that of the machine, for all processes that run by it.

    `site.start(*clock.prefix)` starts a daemon by it. A jump takes effect at the next reading of the clock, in every
    process, forked ones too; what reads the clock of the kernel otherwise keeps the real time: other processes (a
    PostgreSQL server) and times of files.

    Only CLOCK_REALTIME is turned. CLOCK_MONOTONIC and CLOCK_BOOTTIME stay real (FAKETIME_DONT_FAKE_MONOTONIC=1; without
    it timed waits hang). Timed waits take the time that they should; for `time.sleep` that needs `sitecustomize.py` in
    the folder `startup`.
    """

    file: Path
    ahead: float = 0

    def __post_init__(self) -> None:
        self.jump(0)

    @property
    def prefix(self) -> list[str]:
        """The words before a command that runs it by this clock."""
        return [
            "env",
            f"LD_PRELOAD={library()}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "FAKETIME_FORCE_MONOTONIC_FIX=0",  # else threads that wait for Python's lock (GIL) do so without a pause
            "FAKETIME_NO_CACHE=1",  # else a jump takes up to ten seconds
            "NO_FAKE_STAT=1",
            f"PYTHONPATH={STARTUP}",
        ]

    def jump(self, seconds: float) -> None:
        """Turn the clock forward, or back by a negative number."""
        self.ahead += seconds
        new = self.file.with_suffix(".new")
        new.write_text(f"{self.ahead:+f}\n")
        new.replace(self.file)  # a reader sees one time or the other


def library() -> Path:
    """Return the path of libfaketime; without it skip the test, or fail it where CI=true."""
    found = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if found is None:
        missing("libfaketime")
    return Path(str(found))


PREAMBLE = """
def jump():
    print("jump", flush=True)
    input()
"""


def run(clock: Clock, script: str, *jumps: float) -> list[str]:
    """Run a Python script by the clock and return its lines; each of its calls of `jump()` makes the next jump."""
    remaining = iter(jumps)
    lines: list[str] = []
    command = [*clock.prefix, sys.executable, "-c", PREAMBLE + script]
    with start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            for line in program.stdout:
                if line == "jump\n":
                    clock.jump(next(remaining))
                    program.stdin.write("\n")
                    program.stdin.flush()
                else:
                    lines.append(line.rstrip("\n"))
        finally:
            program.kill()
    return lines


@contextmanager
def turned(folder: Path) -> Iterator[Clock]:
    """Yield a clock with its file in `folder`, and remove what libfaketime left of killed processes at the end."""
    library()
    try:
        yield Clock(folder / "clock")
    finally:
        _remove_leftovers()


def _remove_leftovers() -> None:
    """Remove semaphores and shared memory of ended processes: a killed process leaves them."""
    for path in SHARED_MEMORY.glob("*faketime_*"):
        pid = re.search(r"\d+$", path.name)
        if pid is not None and not Path(f"/proc/{pid[0]}").exists():
            path.unlink(missing_ok=True)
