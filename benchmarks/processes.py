"""Child processes: start, readiness, measurements in /proc, and end by process id."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 60
"""Seconds for a process to become ready, or to end."""

TICK = os.sysconf("SC_CLK_TCK")


class NotRunning(Exception):
    """A process did not start; the message has the end of its log."""


def _ports() -> Iterator[int]:
    """Return ports below the ephemeral range, a different part of them for each pytest worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    part = range(20_000 + 1_500 * worker, 20_000 + 1_500 * (worker + 1))
    begin = os.getpid() % len(part)  # another run beside this one begins elsewhere
    return itertools.cycle([*part[begin:], *part[:begin]])


PORTS = _ports()


def free_port() -> int:
    """Return a free port of 127.0.0.1, for a process that starts later.

    It is not an ephemeral port, because the system could assign that to another process before.
    """
    for port in PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports go round for ever")


END_WITH_PARENT: Sequence[str] = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
"""A prefix for commands: Linux kills the process when its parent dies, however that came about."""


@contextmanager
def running(
    command: Sequence[object], folder: Path, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a process in `folder` that listens on `port`, and yield its id. Raises NotRunning."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*END_WITH_PARENT, *map(str, command)],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, port, log)
        yield process.pid
    finally:
        end(process)


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(PATIENCE * 50):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise NotRunning(f"{process.args!r} is not ready: {log.read_text(errors='replace')[-500:]}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that leads a session, and its children."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def program(name: str) -> str | None:
    """Return the path of an installed program, also in folders of system programs."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


# --- what a process and those it forked cost ---------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants, in seconds."""
    return sum(sum(int(ticks) for ticks in _stat(each)[11:15]) for each in _family(pid)) / TICK


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process and its descendants; shared pages count for each."""
    return sum(_status(each, "VmRSS") for each in _family(pid)) / 1024


def proportional_megabytes(pid: int) -> float:
    """Return the memory of a process and its descendants; a page that several share is counted once (PSS)."""
    return sum(_proportional(each) for each in _family(pid)) / 1024


def _proportional(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return 0


def peak_megabytes(pid: int) -> float:
    """Return the highest resident memory since `forget_peak`, summed over the processes."""
    return sum(_status(each, "VmHWM") for each in _family(pid)) / 1024


def forget_peak(pid: int) -> None:
    """Reset the highest resident memory to the present value."""
    for each in _family(pid):
        Path(f"/proc/{each}/clear_refs").write_text("5")


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    everybody = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    parents = {each: int(stat[1]) for each in everybody if (stat := _stat(each))}
    family = [pid]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    return family


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third (state) on; none if the process has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
