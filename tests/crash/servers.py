"""Archives as processes of their own, started on a folder, killed and started again: `pacs serve`, and two peers."""

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
from tests.crash.load import eventually, quietly
from tests.programs import free_port, missing, needs, start

ROOT = Path(__file__).parents[2]
READY = re.compile(r"pacs is ready: AE title PACS on 127\.0\.0\.1:(\d+)\n")
PATIENCE = 60
"""Seconds a process may take to be ready, or to end."""


class Died(Exception):
    """A server ended before it was ready."""


@dataclass
class Server:
    """A server that runs: the process, the port it listens on, and the AE title it has."""

    process: "subprocess.Popen[str]"
    port: int
    ae_title: str = "PACS"

    def kill(self) -> None:
        """End the process and all it forked, at once."""
        quietly(lambda: os.killpg(self.process.pid, signal.SIGKILL))
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """End it in order; its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def workers(self) -> list[int]:
        """The ids of the processes it forked."""
        return _children(self.process.pid)

    def kill_one(self, pid: int) -> None:
        """End one process of it at once."""
        quietly(lambda: os.kill(pid, signal.SIGKILL))
        if pid == self.process.pid:
            self.process.wait(PATIENCE)

    def is_gone(self) -> bool:
        """Whether no process of it is left; one that outlives its supervisor ends by itself."""
        return not _group_lives(self.process.pid)


def _children(pid: int) -> list[int]:
    """The processes that a process of one thread has forked."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _state(path: Path) -> tuple[str, int]:
    """The state and the process group of a process; a zombie's where there is none."""
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


# --- ours --------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """Where an archive of ours keeps what it has: its folder, its database, and settings as `--set` takes them."""

    folder: Path
    url: str = ""
    settings: Sequence[str] = field(default=())
    log: Path = Path(os.devnull)
    """Where what it says on standard error goes."""

    @property
    def database(self) -> str:
        """The URL of its database: SQLite beside the files, where none is given."""
        return self.url or f"sqlite:///{self.folder}/pacs.db"

    @property
    def files(self) -> Path:
        """The folder of its file store."""
        return self.folder / "files"

    def command(self, *words: object) -> list[str]:
        """The command `pacs` with these words and the settings of the site."""
        settings = (f"files.url={self.files}", f"database.url={self.database}", *self.settings)
        chosen = [part for each in settings for part in ("--set", each)]
        return [sys.executable, "-m", "pacs", *map(str, words), *chosen]

    def start(self, *prefix: object) -> Server:
        """`pacs serve`, ready, in a process group of its own. Raises Died. `prefix` is a program that runs it."""
        with self.log.open("a") as log:
            process = start(
                [*prefix, *self.command("serve", "--port", "0")],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as out:
            ready = READY.fullmatch(out.readline())
        if ready is None:
            process.kill()
            raise Died(f"pacs serve ended with {process.wait(PATIENCE)} before it was ready, see {log.name}")
        return Server(process, int(ready[1]))

    def delete(self, study: str, *prefix: object) -> "subprocess.Popen[str]":
        """`pacs delete` of a study, begun."""
        command = self.command("delete", f"StudyInstanceUID={study}", "--yes")
        return start([*prefix, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def strace() -> str:
    """The path of strace; without it the test is skipped, or fails where CI=true."""
    program = needs("strace")
    if not _may_trace(program):
        pytest.skip("this machine lets nobody trace a process")
    return program


@cache
def _may_trace(program: str) -> bool:
    """Whether processes may be traced: a right that containers often lack, whatever is installed."""
    return subprocess.run([program, "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


# --- peers -------------------------------------------------------------------------------------------------------


@dataclass
class Peer:
    """Another archive on a folder: how it is started, and what it is called."""

    name: str
    ae_title: str
    program: str
    configure: Callable[[Path, int], Sequence[object]]
    folder: Path

    def start(self) -> Server:
        """The archive, listening, in a process group of its own. Raises Died."""
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
    """As it ships, but for longer PDUs and who may ask."""
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
    """The peer of this name, on a folder."""
    return {
        "orthanc": Peer("orthanc", "ORTHANC", "Orthanc", _orthanc, folder),
        "dcmqrscp": Peer("dcmqrscp", "DCMQRSCP", "dcmqrscp", _dcmqrscp, folder),
    }[name]


PEERS = ("orthanc", "dcmqrscp")


# --- PostgreSQL --------------------------------------------------------------------------------------------------

DURABLE = ("listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=100")
"""What a server that is only killed has to have: its memory is lost, the page cache is not."""


class Postgres:
    """A PostgreSQL server that can be killed and started again, with the schema of the archive."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self.url = databases.postgres_url(folder)
        self._server = databases.start_postgres(programs, folder, DURABLE)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """A new one, ended afterwards."""
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
        """Its URL as `database.url` takes it."""
        return self.url.render_as_string(hide_password=False)

    def end(self, how: signal.Signals) -> None:
        """SIGKILL for all its processes, or SIGQUIT: its "immediate shutdown"; SIGINT is the fast one."""
        processes = [self._server.pid, *_children(self._server.pid)]
        if how == signal.SIGKILL:
            for each in processes:
                quietly(lambda each=each: os.kill(each, how))
        else:
            self._server.send_signal(how)
        self._server.wait(PATIENCE)
        assert eventually(lambda: not any(map(_lives, processes))), "a process of PostgreSQL does not end"

    def start(self) -> None:
        """Come back."""
        self._server = databases.start_postgres(self._programs, self._folder, DURABLE)
