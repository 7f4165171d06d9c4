"""The running daemon that hostile input is sent to, and the one check that follows every such input."""

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
from tests.docs.asking import CT, VERIFICATION, role
from tests.programs import start
from tests.raw import EXPLICIT, IMPLICIT, Raw
from tests.waiting import eventually

AT_ONCE = 2.0
"""Seconds within which somebody else is served, whatever is going on."""

GROWTH = 48.0
"""Mebibytes of resident memory that the process may have more than when it was warm: the allocator keeps what hundreds
of threads, or handshakes of TLS, have used at the same time, once: what is left each time soon is more.
"""

SPARE = 64
"""Descriptors that it may have more: up to sixteen connections to the index are kept, of three files each, and the
segments of the journal. Whatever a peer leaves behind each time soon is more.
"""

READY = re.compile(r"pacs is ready: AE title PACS on 127\.0\.0\.1:(\d+)(?:, TLS on port (\d+))?\n")
LINE = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z \[(\w+) *\] (.*)")
"""A line of the log: its level, and what it says."""

KEPT = study("KEPT^SAFE", patient_id="KEPT", series=1, instances=3)
"""What is stored before anything hostile comes."""

OWN = re.compile(
    r"config\.toml|run|pacs\.db(-\w+)?|files|files/(journal|incoming|running)(/[0-9a-f-]+|/deletions)?(/\d+\.segment)?"
    r"|files/\d{4}(/\d\d){0,3}|files/\d{4}(/\d\d){3}/[0-9a-f-]{36}\.dcm"
)
"""The names in the daemon's own folder: none of them comes from a peer."""

MISHAPS = ("warning", "error", "critical")
IN_ORDER = "how=A-RELEASE"
OURS = "calling_ae_title=CHECK"


@dataclass
class Daemon:
    """`pacs serve` as a process in `root/inside`; nothing else of `root` is its business."""

    root: Path
    process: "subprocess.Popen[str]"
    port: int
    secure_port: int = 0
    lines: int = 1
    """How many lines the log is to have of what a test does; the check puts it back to one."""
    sound: "Soundness" = field(init=False)
    _read: int = 0

    @property
    def log(self) -> Path:
        """Where its standard error goes."""
        return self.root.with_suffix(".log")

    def settle(self) -> None:
        """Take what there is now, warm and at rest, for what there has to be after everything hostile."""
        for _ in range(3):
            self.serves()
        time.sleep(0.2)
        self.sound = Soundness.of(self)
        self._read = self.log.stat().st_size

    # --- what is asked ----------------------------------------------------------------------------------------------

    def answers(self, address: str = "127.0.0.1") -> None:
        """Serve a C-ECHO from an address of this machine, in time."""
        with served(self.port, address) as client:
            client.send(raw.request(raw.C_ECHO, 1, VERIFICATION, 1, None))
            assert client.message().status == 0x0000
            client.release()

    def serves(self) -> None:
        """Serve a C-ECHO in time, find what is kept, and give an instance of it back bit by bit."""
        (first, *_) = KEPT
        self.answers()
        with Raw(self.port) as client:
            contexts = [(1, FIND, [IMPLICIT]), (3, GET, [IMPLICIT]), (5, CT, [EXPLICIT])]
            client.associate(*contexts, calling="CHECK", extra=role(CT, 1, 1))
            keys = {"StudyInstanceUID": first.StudyInstanceUID}
            client.send(raw.request(raw.C_FIND, 1, FIND, 1, identifier("IMAGE", SOPInstanceUID="", **keys)))
            found = [each.dataset().SOPInstanceUID for each in client.until_final()[:-1]]
            assert found == sorted(each.SOPInstanceUID for each in KEPT)
            keys["SOPInstanceUID"] = first.SOPInstanceUID
            keys["SeriesInstanceUID"] = first.SeriesInstanceUID
            client.send(raw.request(raw.C_GET, 3, GET, 2, identifier("IMAGE", **keys)))
            came = client.message()
            assert came.data == raw.encoded(first, EXPLICIT)
            client.send(raw.success(5, came.elements))
            assert client.until_final()[-1].status == 0x0000
            client.release()

    def store(self, dataset, data: bytes | None = None, syntax: str = EXPLICIT) -> int:
        """The status of storing a data set."""
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
        """See that the process is as it was, and that it said of what happened what it should.

        It lives; a C-ECHO is answered within two seconds; what is stored is found and comes back bit-identical; its
        threads and descriptors are as many as before, its memory grew by no more than `GROWTH`; nothing outside of
        its folder is other than before; the log has `lines` lines of mishaps, whole and harmless, and no traceback.
        """
        assert self.process.poll() is None
        self.serves()
        self.sound.require(self)
        said, due, self.lines = self.said(), self.lines, 1
        assert len(said) == due, "\n".join(said)

    def said(self) -> list[str]:
        """The lines of mishaps since the last check, once nothing goes on any more: warnings, and associations that did
        not end in order.

        What is no line of the log, or has in it what a terminal would act on, fails the test.
        """
        eventually(lambda: count(self.process.pid, "task") <= self.sound.threads)
        with self.log.open("rb") as log:
            log.seek(self._read)
            text = log.read().decode()
        self._read += len(text.encode())
        lines = [line for line in text.split("\n") if line]
        for line in lines:
            assert line.isprintable(), ascii(line)
            assert LINE.fullmatch(line), line
        return [line for line in lines if OURS not in line and is_mishap(line)]


def is_mishap(line: str) -> bool:
    """Whether a line of the log tells of something that an administrator may have to know."""
    found = LINE.fullmatch(line)
    if found is None or found[1] in MISHAPS:
        return True
    return found[2].startswith("association ended") and IN_ORDER not in line


@dataclass(frozen=True)
class Soundness:
    """What a process had at rest: descriptors, threads, mebibytes, and all that is around its folder."""

    descriptors: int
    threads: int
    megabytes: float
    around: Mapping[str, tuple[int, int, int]]

    @classmethod
    def of(cls, daemon: Daemon) -> "Soundness":
        """As it is now."""
        pid = daemon.process.pid
        return cls(count(pid, "fd"), count(pid, "task"), megabytes(pid), around(daemon.root))

    def require(self, daemon: Daemon) -> None:
        """See that a process is as it was; what it is still closing has its time."""
        pid = daemon.process.pid
        eventually(lambda: count(pid, "task") <= self.threads)
        eventually(lambda: count(pid, "fd") <= self.descriptors + SPARE)
        assert megabytes(pid) <= self.megabytes + GROWTH
        assert around(daemon.root) == self.around
        assert [each for each in inside(daemon.root) if not OWN.fullmatch(each)] == []


def count(pid: int, what: str) -> int:
    """How many descriptors ('fd') or threads ('task') a process has."""
    return len(os.listdir(f"/proc/{pid}/{what}"))


def megabytes(pid: int) -> float:
    """The resident memory of a process, in mebibytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def around(root: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of change of everything under a folder, but for the inside of `inside`."""
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
    """Everything in the daemon's own folder, by its path from there."""
    own = root / "inside"
    for folder, folders, files in os.walk(own):
        yield from (str((Path(folder) / name).relative_to(own)) for name in (*folders, *files))


@contextmanager
def served(port: int, address: str = "127.0.0.1") -> Iterator[Raw]:
    """An association of somebody harmless, who does not wait longer than `AT_ONCE` for anything."""
    with Raw(port, AT_ONCE, source=address) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]), calling="CHECK")
        yield client


def in_toml(value: object) -> str:
    """A value as a configuration file has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {in_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return json.dumps(value)


@contextmanager
def daemon(folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[Daemon]:
    """The daemon in a folder of its own, with what is kept stored, at rest. Killed at the end if it still runs.

    Around its own folder there are others that would be hit by paths that lead out of it.
    """
    root = folder / "root"
    inside, log = root / "inside", root.with_suffix(".log")
    for each in (inside / "run", root / "outside"):
        each.mkdir(parents=True)
    (root / "outside" / "canary").write_text("alive")
    given = {
        "server.port": 0,
        "files.url": str(inside / "files"),
        "database.url": f"sqlite:///{inside}/pacs.db",
        "limits.drain_seconds": 1,
    }
    lines = [f"{key} = {in_toml(value)}\n" for key, value in (given | dict(settings or {})).items()]
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
            assert [running.store(each) for each in KEPT] == [0x0000] * len(KEPT)
            running.settle()
            yield running
        finally:
            process.kill()


def ended(client: Raw) -> bytes | None:
    """What the server says before it closes: the body of an A-ABORT, b'' for nothing; answers before it go by.

    None when it does not close, and waits for more, or for us.
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
    """A connection from an address of this machine."""
    return socket.create_connection(("127.0.0.1", port), 10, (address, 0))
