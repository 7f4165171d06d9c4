"""Limits of the running daemon, of open files and of threads, and the user without rights that it runs as."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.crash.servers import Server

USER = 100_000 + os.getpid() % 100_000
"""The id of a user that has no other processes: RLIMIT_NPROC counts all threads of a user, and does not bind root."""

HIGH = 1024
"""The limit before and after."""


def as_user() -> Sequence[str]:
    """Return the prefix that runs a command as `USER`; skip the test where that is not possible."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("only root can run the daemon as another user")
    user = str(USER)
    prefix = (setpriv, "--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL", "--")
    if not _can_import(prefix):
        pytest.skip("another user cannot read this Python installation")
    return prefix


@cache
def _can_import(prefix: Sequence[str]) -> bool:
    command = [*prefix, sys.executable, "-c", "import pacs.cli, psycopg"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def users_folder() -> Iterator[Path]:
    """Create a folder of `USER` for the `with` block; not in the folders of pytest, through which only root may go."""
    with tempfile.TemporaryDirectory(prefix="pacs-user-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "site"
        folder.mkdir()
        os.chown(folder, USER, USER)
        yield folder


@contextmanager
def limited(server: Server, what: str) -> Iterator[None]:
    """Leave the processes that serve associations no more of "nofile" or "nproc" than they use now."""
    for pid in serving(server):
        _set_limit(pid, what, free_descriptor(pid) if what == "nofile" else threads_of_user())
    try:
        yield
    finally:
        for pid in serving(server):
            _set_limit(pid, what, HIGH)


def _set_limit(pid: int, what: str, value: int) -> None:
    """Set a soft limit as the user of the process: containers may withhold CAP_SYS_RESOURCE from root."""
    user = os.stat(f"/proc/{pid}").st_uid
    prefix = as_user() if user == USER else ()
    subprocess.run([*prefix, "prlimit", "--pid", str(pid), f"--{what}={value}:"], check=True)


def serving(server: Server) -> list[int]:
    """Return the processes that serve associations: the workers, or the only process."""
    return server.workers() or [server.process.pid]


def free_descriptor(pid: int) -> int:
    """Return the lowest descriptor that a process has not open, which the limit must not exceed."""
    opened = set(map(int, os.listdir(f"/proc/{pid}/fd")))
    return next(each for each in range(len(opened) + 1) if each not in opened)


def descriptors(server: Server) -> int:
    """Return how many files its processes have open."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in serving(server))


def threads(server: Server) -> int:
    """Return how many threads its processes have."""
    return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in serving(server))


def threads_of_user() -> int:
    """Return how many threads `USER` has."""
    found = 0
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if each.stat().st_uid == USER:
                found += len(os.listdir(each / "task"))
    return found


def serves_http(pid: int) -> bool:
    """Return whether the event loop of HTTP runs: the second epoll instance beside that of the accept thread."""
    found = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += "eventpoll" in os.readlink(each)
    return found >= 2
