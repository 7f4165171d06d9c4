"""Archives in processes that are started, killed and restarted on a folder: `pacs serve`, Orthanc and dcmqrscp."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

import pytest

from tests import databases
from tests.crash.load import eventually, ignoring_missing
from tests.programs import free_port, missing, needs, start

ROOT = Path(__file__).parents[2]
READY = re.compile(r"pacs is ready: AE title PACS on 127\.0\.0\.1:(\d+)\n")
PATIENCE = 60
"""Seconds a process may take to be ready, or to end."""


class Died(Exception):
    """A server ended before it was ready."""


@dataclass
class Server:
    """A running server: its process, port and AE title."""

    process: "subprocess.Popen[str]"
    port: int
    ae_title: str = "PACS"

    def kill(self) -> None:
        """Kill the process and all it forked."""
        ignoring_missing(lambda: os.killpg(self.process.pid, signal.SIGKILL))
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Stop it cleanly, and return its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def workers(self) -> list[int]:
        """Return the ids of its child processes."""
        return _children(self.process.pid)

    def kill_one(self, pid: int) -> None:
        """Kill one of its processes."""
        ignoring_missing(lambda: os.kill(pid, signal.SIGKILL))
        if pid == self.process.pid:
            self.process.wait(PATIENCE)

    def is_gone(self) -> bool:
        """Whether all its processes have ended; a worker without supervisor ends by itself."""
        return not _group_lives(self.process.pid)


def _children(pid: int) -> list[int]:
    """Return the child processes of a process with one thread."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _state(path: Path) -> tuple[str, int]:
    """Return the state and the process group of a process; those of a zombie where there is none."""
    with suppress(FileNotFoundError, ProcessLookupError):
        state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        return state, int(group)
    return "Z", 0


def _lives(pid: int) -> bool:
    """Whether a process has not ended."""
    return _state(Path(f"/proc/{pid}/stat"))[0] != "Z"


def _group_lives(group: int) -> bool:
    """Whether a process of this group has not ended."""
    states = map(_state, Path("/proc").glob("[0-9]*/stat"))
    return any(state != "Z" and its_group == group for state, its_group in states)


# --- pacs --------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """The folder, the database and the settings (as for `--set`) of an archive."""

    folder: Path
    url: str = ""
    settings: Sequence[str] = field(default=())
    log: Path = Path(os.devnull)
    """The file for its standard error."""
    has_web: bool = False
    """Whether `settings` turn HTTP on, of which it says so in another line."""
    program: Path = ROOT
    """The checkout whose `pacs` runs."""

    @property
    def database(self) -> str:
        """The URL of its database; default: SQLite beside the files."""
        return self.url or f"sqlite:///{self.folder}/pacs.db"

    @property
    def files(self) -> Path:
        """The folder of its file store."""
        return self.folder / "files"

    def command(self, *words: object) -> list[str]:
        """Return the command line of `pacs` with these words and the settings of the site."""
        settings = (f"files.url={self.files}", f"database.url={self.database}", *self.settings)
        chosen = [part for each in settings for part in ("--set", each)]
        return [sys.executable, "-m", "pacs", *map(str, words), *chosen]

    def start(self, *prefix: object) -> Server:
        """Start `pacs serve` in a new process group and wait until it is ready. `prefix` runs it. Raises Died."""
        with self.log.open("a") as log:
            process = start(
                [*prefix, *self.command("serve", "--port", "0")],
                cwd=self.program, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as out:
            ready = READY.fullmatch(out.readline())
            if self.has_web:
                out.readline()
        server = Server(process, int(ready[1]) if ready else 0)
        if ready is None:
            server.kill()
            assert eventually(server.is_gone)
            raise Died(f"pacs serve ended with {process.returncode} before it was ready, see {log.name}")
        return server

    def delete(self, study: str, *prefix: object) -> "subprocess.Popen[str]":
        """Start `pacs delete` of a study."""
        command = self.command("delete", f"StudyInstanceUID={study}", "--yes")
        return start([*prefix, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def strace() -> str:
    """Return the path of strace; without it skip the test, or fail where CI=true."""
    program = needs("strace")
    if not _may_trace(program):
        pytest.skip("this machine does not allow strace")
    return program


@cache
def _may_trace(program: str) -> bool:
    """Whether processes may be traced, which containers often forbid."""
    return subprocess.run([program, "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def attached(pid: int, log: Path, calls: Sequence[str], action: str) -> "Iterator[subprocess.Popen[str]]":
    """Attach strace to a process and its threads; it ends with the process, or after the block.

    Where it may not attach, the test is skipped, or fails where CI=true.
    """
    words = ("-f", "-qq", "-y", "-s", "0", "-o", log, "-e", f"trace={','.join(calls)}", "-e", action, "-p", pid)
    tracer = start([strace(), *words], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _is_traced(pid) or tracer.poll() is not None)
        if not log.exists() or tracer.poll() not in (None, 0):
            missing("the right to attach strace to a process (kernel.yama.ptrace_scope)")
        yield tracer
    finally:
        tracer.kill()  # a SIGTERM may have to wait for a process that was killed
        tracer.wait(PATIENCE)


def _is_traced(pid: int) -> bool:
    """Whether a process is traced, or has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return True


# --- peers -------------------------------------------------------------------------------------------------------


@dataclass
class Peer:
    """Another archive on a folder."""

    name: str
    ae_title: str
    program: str
    configure: Callable[[Path, int], Sequence[object]]
    folder: Path

    def start(self) -> Server:
        """Start the archive in a new process group and wait until it listens. Raises Died."""
        self.folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        with (self.folder.parent / f"{self.name}.log").open("a") as log:
            process = start(
                [_program(self.program), *map(str, self.configure(self.folder, port))],
                cwd=self.folder, stdout=log, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        for _ in range(PATIENCE * 50):
            if process.poll() is not None:
                break
            if _listens(port):
                return Server(process, port, self.ae_title)
            time.sleep(0.02)
        raise Died(f"{self.name} is not ready, see {log.name}")


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        missing(name)
    return str(found)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _orthanc(folder: Path, port: int) -> Sequence[object]:
    """Its defaults, with longer PDUs and open access."""
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "SyncStorageArea": True,
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomThreadsCount": 32,
        "MaximumPduLength": 131072,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return [folder / "orthanc.json"]


def _dcmqrscp(folder: Path, port: int) -> Sequence[object]:
    storage = folder / "storage"
    storage.mkdir(exist_ok=True)
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 50\nHostTable BEGIN\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nDCMQRSCP {storage} RW (500, 8192mb) ANY\nAETable END\n"
    )
    return ["-c", folder / "dcmqrscp.cfg"]


def peer(name: str, folder: Path) -> Peer:
    """Return the peer of this name, on a folder."""
    return {
        "orthanc": Peer("orthanc", "ORTHANC", "Orthanc", _orthanc, folder),
        "dcmqrscp": Peer("dcmqrscp", "DCMQRSCP", "dcmqrscp", _dcmqrscp, folder),
    }[name]


PEERS = ("orthanc", "dcmqrscp")


# --- PostgreSQL --------------------------------------------------------------------------------------------------

DURABLE = ("listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=100")
"""Settings for a server that is only killed: it loses its memory, but not the page cache."""


class Postgres:
    """A PostgreSQL server that can be killed and started again, with the schema of the archive."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.url = databases.postgres_url(folder)
        self._server = databases.start_postgres(programs, folder, DURABLE)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Start a new server, and stop it afterwards."""
        programs = next(databases.postgres_programs(), None)
        if programs is None:
            missing("PostgreSQL")
        with databases.postgres_folder(Path(str(programs))) as folder:
            server = cls(Path(str(programs)), folder)
            try:
                databases.migrate(server.text)
                yield server
            finally:
                server.end(signal.SIGINT)

    @property
    def text(self) -> str:
        """Its URL for `database.url`."""
        return self.url.render_as_string(hide_password=False)

    def end(self, how: signal.Signals) -> None:
        """Kill all its processes with SIGKILL, or send SIGQUIT for its immediate or SIGINT for its fast shutdown."""
        processes = [self._server.pid, *_children(self._server.pid)]
        if how == signal.SIGKILL:
            for each in processes:
                ignoring_missing(lambda each=each: os.kill(each, how))
        else:
            self._server.send_signal(how)
        self._server.wait(PATIENCE)
        assert eventually(lambda: not any(map(_lives, processes))), "a process of PostgreSQL does not end"

    def start(self) -> None:
        """Start it again."""
        self._server = databases.start_postgres(self._programs, self._folder, DURABLE)
