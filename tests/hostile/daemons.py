"""The running daemon, and the check after each test."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pacs.testing import study
from tests import raw
from tests.archives import FIND, GET, identifier
from tests.docs.requests import CT, VERIFICATION, role
from tests.programs import start
from tests.raw import EXPLICIT, IMPLICIT, Raw
from tests.waiting import eventually

AT_ONCE = 2.0
"""Seconds within which other peers are served during a test."""

GROWTH = 48.0
"""The allowed growth of the resident memory after warm-up, in mebibytes: the allocator keeps the memory of hundreds of
threads or TLS handshakes, once. A leak for each input soon exceeds it.
"""

SPARE = 64
"""The allowed number of further descriptors after warm-up: up to sixteen connections to the index of three files each,
and the segments of the journal. A leak for each input soon exceeds it.
"""

READY = re.compile(r"pacs is ready: AE title PACS on 127\.0\.0\.1:(\d+)(?:, TLS on port (\d+))?\n")
LINE = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z \[(\w+) *\] (.*)")
"""A line of the log: level and text."""

STORED = study("KEPT^SAFE", patient_id="KEPT", series=1, instances=3)
"""The instances that are stored before the tests."""

OWN = re.compile(
    r"config\.toml|run|pacs\.db(-\w+)?|files|files/(journal|incoming|running)(/[0-9a-f-]+|/deletions)?(/\d+\.segment)?"
    r"|files/running/[0-9a-f]+/(clock|server|\d{4}(-\d\d){3}\.[0-9a-f]{32})"
    r"|files/\d{4}(/\d\d){0,3}|files/\d{4}(/\d\d){3}/[0-9a-f-]{36}\.dcm"
)
"""The names in the daemon's own folder; none of them comes from a peer."""

INCIDENT_LEVELS = ("warning", "error", "critical")
RELEASED = "how=A-RELEASE"
HARMLESS = "calling_ae_title=CHECK"


@dataclass
class Daemon:
    """A `pacs serve` process in `root/inside`, which must not touch the rest of `root`."""

    root: Path
    process: "subprocess.Popen[str]"
    port: int
    secure_port: int = 0
    lines: int = 1
    """The number of log lines expected for a test; the check resets it to one."""
    normal: "ProcessState" = field(init=False)
    _read: int = 0

    @property
    def log(self) -> Path:
        """The file with its standard error."""
        return self.root.with_suffix(".log")

    def settle(self) -> None:
        """Record the present state, warm and idle, as the one that the check expects."""
        for _ in range(3):
            self.check_service()
        time.sleep(0.2)
        self.normal = ProcessState.of(self)
        self._read = self.log.stat().st_size

    # --- requests --------------------------------------------------------------------------------------------------

    def check_echo(self, address: str = "127.0.0.1") -> None:
        """Check that a C-ECHO from an address of this machine is answered in time."""
        with associated(self.port, address) as client:
            client.send(raw.request(raw.C_ECHO, 1, VERIFICATION, 1, None))
            assert client.message().status == 0x0000
            client.release()

    def check_service(self) -> None:
        """Check that a C-ECHO is answered in time, and that stored instances are found and returned bit-identical."""
        (first, *_) = STORED
        self.check_echo()
        with Raw(self.port) as client:
            contexts = [(1, FIND, [IMPLICIT]), (3, GET, [IMPLICIT]), (5, CT, [EXPLICIT])]
            client.associate(*contexts, calling="CHECK", extra=role(CT, 1, 1))
            keys = {"StudyInstanceUID": first.StudyInstanceUID}
            client.send(raw.request(raw.C_FIND, 1, FIND, 1, identifier("IMAGE", SOPInstanceUID="", **keys)))
            found = [each.dataset().SOPInstanceUID for each in client.until_final()[:-1]]
            assert found == sorted(each.SOPInstanceUID for each in STORED)
            keys["SOPInstanceUID"] = first.SOPInstanceUID
            keys["SeriesInstanceUID"] = first.SeriesInstanceUID
            client.send(raw.request(raw.C_GET, 3, GET, 2, identifier("IMAGE", **keys)))
            came = client.message()
            assert came.data == raw.encoded(first, EXPLICIT)
            client.send(raw.success(5, came.elements))
            assert client.until_final()[-1].status == 0x0000
            client.release()

    def store(self, dataset, data: bytes | None = None, syntax: str = EXPLICIT) -> int:
        """Store a data set and return the status."""
        with Raw(self.port) as client:
            client.associate((1, dataset.SOPClassUID, [syntax]), calling="CHECK")
            instance = raw.element(0x1000, dataset.SOPInstanceUID.encode())
            data = raw.encoded(dataset, syntax) if data is None else data
            client.send(raw.request(raw.C_STORE, 1, dataset.SOPClassUID, 1, data, [instance]))
            status = client.message().status
            client.release()
        return status

    # --- the check --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the process and its log.

        It runs; a C-ECHO is answered within two seconds; stored instances are found and returned bit-identical; the
        numbers of threads and descriptors are as before, and memory grew by no more than `GROWTH`; nothing outside its
        folder has changed; the log has `lines` lines about incidents, printable, and no traceback.
        """
        assert self.process.poll() is None
        self.check_service()
        self.normal.require(self)
        said, due, self.lines = self.incidents(), self.lines, 1
        assert len(said) == due, "\n".join(said)

    def incidents(self) -> list[str]:
        """Return the log lines about incidents since the last check: warnings, and associations that were not released.

        A line that is not a log line, or contains control characters, fails the test.
        """
        eventually(lambda: count(self.process.pid, "task") <= self.normal.threads)
        with self.log.open("rb") as log:
            log.seek(self._read)
            text = log.read().decode()
        self._read += len(text.encode())
        lines = [line for line in text.split("\n") if line]
        for line in lines:
            assert line.isprintable(), ascii(line)
            assert LINE.fullmatch(line), line
        return [line for line in lines if HARMLESS not in line and is_incident(line)]


def is_incident(line: str) -> bool:
    """Return whether a log line is about something that an administrator may have to know."""
    found = LINE.fullmatch(line)
    if found is None or found[1] in INCIDENT_LEVELS:
        return True
    return found[2].startswith("association ended") and RELEASED not in line


@dataclass(frozen=True)
class ProcessState:
    """The state of an idle process: descriptors, threads, mebibytes, and the files around its folder."""

    descriptors: int
    threads: int
    megabytes: float
    around: Mapping[str, tuple[int, int, int]]

    @classmethod
    def of(cls, daemon: Daemon) -> "ProcessState":
        """Return the present state."""
        pid = daemon.process.pid
        return cls(count(pid, "fd"), count(pid, "task"), megabytes(pid), around(daemon.root))

    def require(self, daemon: Daemon) -> None:
        """Check that a process is in this state again; wait for what it is still closing."""
        pid = daemon.process.pid
        eventually(lambda: count(pid, "task") <= self.threads)
        eventually(lambda: count(pid, "fd") <= self.descriptors + SPARE)
        assert megabytes(pid) <= self.megabytes + GROWTH
        assert around(daemon.root) == self.around
        assert [each for each in inside(daemon.root) if not OWN.fullmatch(each)] == []


def count(pid: int, what: str) -> int:
    """Return the number of descriptors ('fd') or threads ('task') of a process."""
    return len(os.listdir(f"/proc/{pid}/{what}"))


def megabytes(pid: int) -> float:
    """Return the resident memory of a process, in mebibytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def around(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and modification time of everything under a folder, except in `inside`."""
    found = {}
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = [each for each in folders if each != "inside"]
        for name in (*folders, *files):
            path = Path(folder) / name
            state = path.lstat()
            found[str(path)] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def inside(root: Path) -> Iterator[str]:
    """Yield the relative paths in the daemon's own folder."""
    own = root / "inside"
    for folder, folders, files in os.walk(own):
        yield from (str((Path(folder) / name).relative_to(own)) for name in (*folders, *files))


@contextmanager
def associated(port: int, address: str = "127.0.0.1") -> Iterator[Raw]:
    """Associate as a harmless peer with a timeout of `AT_ONCE`."""
    with Raw(port, AT_ONCE, source=address) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]), calling="CHECK")
        yield client


def as_toml(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {as_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value)


@contextmanager
def daemon(folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[Daemon]:
    """Run the daemon in a folder of its own, with the stored instances, idle. Kill it at the end if it still runs.

    Around its folder are others that a path out of it would hit.
    """
    root = folder / "root"
    inside, log = root / "inside", root.with_suffix(".log")
    for each in (inside / "run", root / "outside"):
        each.mkdir(parents=True)
    (root / "outside" / "canary").write_text("alive")
    given = {
        "server.port": 0,
        "server.workers": 1,  # the process that is watched
        "files.url": str(inside / "files"),
        "database.url": f"sqlite:///{inside}/pacs.db",
        "limits.drain_seconds": 1,
        "web.port": 0,  # other tests ask the default port, and a request over HTTP leaves a thread
    }
    lines = [f"{key} = {as_toml(value)}\n" for key, value in (given | dict(settings or {})).items()]
    (inside / "config.toml").write_text("".join(lines))
    command = [sys.executable, "-m", "pacs", "serve", "--config", str(inside / "config.toml")]
    with (
        log.open("wb") as err,
        start(command, cwd=inside / "run", stdout=subprocess.PIPE, stderr=err, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            ready = READY.fullmatch(process.stdout.readline())
            assert ready, log.read_text()
            running = Daemon(root, process, int(ready[1]), int(ready[2] or 0))
            assert [running.store(each) for each in STORED] == [0x0000] * len(STORED)
            running.settle()
            yield running
        finally:
            process.kill()


def ended(client: Raw) -> bytes | None:
    """Return the body of the A-ABORT before the server closes, b'' without one; skip responses before it.

    Return None if it does not close.
    """
    try:
        while True:
            kind, body = client.pdu()
            if kind == 0x07:
                return body
    except TimeoutError:
        return None
    except OSError:
        return b""


def connected(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Connect from an address of this machine."""
    return socket.create_connection(("127.0.0.1", port), 10, (address, 0))
