"""Thousands of mutated inputs for a running server, next to a harmless association.

The server may be this archive's daemon, Orthanc or dcmqrscp. An input counts as survived if the server closes the
connection soon after our A-ABORT, as a hang if it does not, and as a crash if its process is gone, which is then
restarted.
"""

import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import peers, processes
from benchmarks.peers import Site, System
from tests import raw
from tests.docs.requests import VERIFICATION
from tests.hostile import daemons
from tests.hostile.mutations import CONTEXTS, KINDS, Input, made
from tests.raw import IMPLICIT, Raw

GLANCE = 0.05
"""Seconds to wait for a first answer."""

PATIENCE = 10.0
"""Seconds within which a server must close after the end of an input."""

ABORT = raw.pdu(0x07, bytes(4))
"""The PDU after an input: it ends an association that is still open."""

BATCH = 500
"""The number of inputs between two samples of the process."""

WARM = 2
"""The number of batches for warm-up; growth is counted after them."""


@dataclass
class Totals:
    """The results for one server."""

    name: str
    seed: object
    seconds: float = 0.0
    inputs: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    hangs: list[int] = field(default_factory=list)
    crashes: list[int] = field(default_factory=list)
    """The numbers of the inputs at, or near, which the process crashed."""
    children: int = 0
    """The number of crashed child processes of a server that forks."""
    signals: Counter[int] = field(default_factory=Counter)
    """The signals that ended the process; 0 if it exited."""
    late: int = 0
    """The number of C-ECHOs on the harmless association that were not answered within two seconds."""
    lines: int = 0
    unescaped: int = 0
    tracebacks: int = 0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Mebibytes, descriptors and threads after each batch since the start of the process."""

    @property
    def survived(self) -> int:
        """The number of inputs that did no harm."""
        return sum(self.inputs.values()) - len(self.hangs) - len(self.crashes) - self.children

    def grown(self, what: int) -> float:
        """Return the growth of one of the samples since warm-up."""
        return self.samples[-1][what] - self.samples[min(WARM, len(self.samples)) - 1][what] if self.samples else 0


@dataclass
class Target:
    """A server to fuzz."""

    name: str
    start: Callable[[Path], AbstractContextManager[System]]
    deaths: str = ""
    """The file, in its folder, in which strace logs the signals that ended child processes, if the server forks."""
    log: str = ""
    """Its log, in its folder, if the format of its lines is known."""


@contextmanager
def _ours(folder: Path) -> Iterator[System]:
    with daemons.daemon(folder, {"limits.message_seconds": 5.0}) as daemon:
        yield System("pacs", "PACS", daemon.port, daemon.process.pid, daemon.root)


@contextmanager
def _dcmqrscp(folder: Path) -> Iterator[System]:
    """Run DCMTK's archive, which forks for each association; strace logs how its children end.

    As a single process it crashes after every association, also one in order (3.6.7).
    """
    port, storage = processes.free_port(), folder / "storage"
    storage.mkdir(parents=True)
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 50\nHostTable BEGIN\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQRSCP {storage} RW (500, 1024mb) ANY\nAETable END\n"
    )
    watched = [processes.program("strace"), "-f", "-D", "-e", "trace=none", "-o", folder / DEATHS]
    command = [*watched, processes.program("dcmqrscp"), "-c", folder / "dcmqrscp.cfg"]
    with processes.running(command, folder, port) as pid:
        yield System("dcmqrscp", "DCMQRSCP", port, pid, folder)


DEATHS = "deaths"
CRASHES = re.compile(r"\+\+\+ killed by SIG(SEGV|ABRT|BUS|FPE|ILL)")

TARGETS = {
    "pacs": Target("pacs", _ours, log="root.log"),
    "orthanc": Target("orthanc", lambda folder: peers.orthanc(Site(folder))),
    "dcmqrscp": Target("dcmqrscp", _dcmqrscp, deaths=DEATHS),
}


# --- one input ---------------------------------------------------------------------------------------------------


def send_input(system: System, given: Input) -> str:
    """Send an input and return the result: the type of the first PDU of the answer, "closed", "refused" or "hangs"."""
    try:
        with Raw(system.port, PATIENCE) as client:
            if not given.is_request:
                client.associate(*CONTEXTS, called=system.ae_title, calling="FUZZ")
            return _answered(client, given.messages)
    except TimeoutError:
        return "hangs"
    except (AssertionError, ConnectionError):
        return "refused"


def _answered(client: Raw, sent: bytes) -> str:
    """Return the first answer; the server must close after our A-ABORT."""
    first = "closed"
    with suppress(ConnectionError):
        client.send(sent)
        client.socket.settimeout(GLANCE)
        with suppress(TimeoutError):
            kind, _ = client.pdu()
            first = f"PDU {kind}"
        client.socket.settimeout(PATIENCE)
        with suppress(OSError):
            client.send(ABORT)
            client.socket.shutdown(socket.SHUT_WR)
        while client.socket.recv(1 << 16):
            pass
    return first


class HarmlessAssociation:
    """A harmless association that sends C-ECHOs during the run."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._client: Raw | None = None

    def echo(self) -> bool:
        """Return whether a C-ECHO is answered in time, on this association or, if it has ended, on a new one."""
        for _ in range(2):
            try:
                if self._client is None:
                    self._client = Raw(self._system.port, daemons.AT_ONCE)
                    self._client.associate((1, VERIFICATION, [IMPLICIT]), called=self._system.ae_title, calling="CHECK")
                self._client.send(raw.request(raw.C_ECHO, 1, VERIFICATION, 1, None))
                return self._client.message().status == 0
            except (AssertionError, OSError):
                self.close()
        return False

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.socket.close()
        self._client = None


# --- all of them -------------------------------------------------------------------------------------------------

AT_ONCE = 6
"""The number of inputs at the same time."""


def run(name: str, seconds: float, seed: object, folder: Path, most: int = 1 << 40) -> Totals:
    """Send inputs to a server for some seconds, at most `most`; restart a crashed one."""
    target, totals = TARGETS[name], Totals(name, seed)
    began = time.monotonic()
    inputs = Inputs(seed, most, began + seconds)
    while not inputs.are_over:
        place = folder / f"{name}-{len(totals.crashes)}"
        with target.start(place) as system:
            totals.samples.clear()
            _send_until_crash(system, totals, inputs)
        if target.log:
            _read_log(totals, place / target.log)
        if target.deaths:
            totals.children += len(CRASHES.findall((place / target.deaths).read_text()))
    totals.seconds = time.monotonic() - began
    return totals


class Inputs:
    """The inputs of a seed, for several threads, until there are enough or the time is over."""

    def __init__(self, seed: object, most: int, end: float) -> None:
        self._seed, self._most, self._end = seed, most, end
        self._lock = threading.Lock()
        self.taken = 0

    @property
    def are_over(self) -> bool:
        """Whether there are no more inputs."""
        return self.taken >= self._most or time.monotonic() >= self._end

    def next(self) -> tuple[int, Input] | None:
        """Return the next input and its number, None if there are no more."""
        with self._lock:
            if self.are_over:
                return None
            number = self.taken
            self.taken += 1
        return number, made(self._seed, number)


def _send_until_crash(system: System, totals: Totals, inputs: Inputs) -> None:
    """Send inputs to a running server until it crashes or there are no more."""
    lock, harmless = threading.Lock(), HarmlessAssociation(system)

    def work() -> None:
        while _is_alive(system.pid) and (found := inputs.next()) is not None:
            number, given = found
            answer = send_input(system, given)
            with lock:
                _count(totals, number, given, answer)
                if number % 20 == 0 and _is_alive(system.pid):
                    totals.late += not harmless.echo()
                if number % BATCH == 0 and _is_alive(system.pid):
                    totals.samples.append(_sample(system.pid))

    with ThreadPoolExecutor(AT_ONCE) as workers:
        for each in [workers.submit(work) for _ in range(AT_ONCE)]:
            each.result()
    harmless.close()
    if not _is_alive(system.pid):
        totals.crashes.append(inputs.taken - 1)
        totals.signals[_signal(system.pid)] += 1
        return
    time.sleep(0.5)
    totals.samples.append(_sample(system.pid))


def _count(totals: Totals, number: int, given: Input, answer: str) -> None:
    totals.inputs[given.kind] += 1
    totals.answered[answer] += 1
    if answer == "hangs":
        totals.hangs.append(number)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _signal(pid: int) -> int:
    """Return the signal that ended a zombie process, 0 for none."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[49]) & 0x7F
    return 0


def _cause(number: int) -> str:
    return signal.Signals(number).name if number else "exited"


def _sample(pid: int) -> tuple[float, int, int]:
    return daemons.megabytes(pid), daemons.count(pid, "fd"), daemons.count(pid, "task")


def _read_log(totals: Totals, log: Path) -> None:
    """Count the lines of our log, invalid lines and tracebacks."""
    text = log.read_text(errors="surrogateescape")
    lines = [line for line in text.split("\n") if line]
    totals.lines += len(lines)
    totals.tracebacks += len(re.findall(r"^Traceback|^  File ", text, re.MULTILINE))
    totals.unescaped += sum(not line.isprintable() or not daemons.LINE.fullmatch(line) for line in lines)


# --- what is printed ---------------------------------------------------------------------------------------------


def table(found: Sequence[Totals]) -> str:
    """Return the totals in Markdown, with a column for each server."""
    rows: list[tuple[str, Callable[[Totals], object]]] = [
        ("seconds", lambda each: f"{each.seconds:.0f}"),
        *((f"inputs: {kind}", partial(_inputs, kind)) for kind in KINDS),
        ("all inputs", lambda each: f"{sum(each.inputs.values()):,}"),
        ("survived", lambda each: f"{each.survived:,}"),
        ("crashes", lambda each: len(each.crashes)),
        ("crashed child processes", lambda each: each.children if TARGETS[each.name].deaths else "-"),
        (
            "signals",
            lambda each: ", ".join(f"{_cause(name)} {count}" for name, count in each.signals.most_common()) or "-",
        ),
        ("hangs", lambda each: len(each.hangs)),
        ("late C-ECHOs of the harmless association", lambda each: each.late),
        ("log lines", lambda each: f"{each.lines:,}" if TARGETS[each.name].log else "-"),
        ("invalid lines", lambda each: each.unescaped if TARGETS[each.name].log else "-"),
        ("tracebacks", lambda each: each.tracebacks if TARGETS[each.name].log else "-"),
        ("memory, MiB", lambda each: f"{each.samples[-1][0]:.1f} ({each.grown(0):+.1f})" if each.samples else "-"),
        ("descriptors", lambda each: f"{each.samples[-1][1]} ({each.grown(1):+.0f})" if each.samples else "-"),
        ("threads", lambda each: f"{each.samples[-1][2]} ({each.grown(2):+.0f})" if each.samples else "-"),
    ]
    lines = ["| | " + " | ".join(each.name for each in found) + " |", "|---" * (len(found) + 1) + "|"]
    lines += ["| " + " | ".join([title, *(str(cell(each)) for each in found)]) + " |" for title, cell in rows]
    return "\n".join(lines) + "\n"


def _inputs(kind: str, totals: Totals) -> str:
    return f"{totals.inputs[kind]:,}"


def main(seconds: float, seed: object, names: Sequence[str], folder: str | None) -> int:
    """Fuzz the daemon and other servers, and print the totals. Return 1 if the daemon was harmed."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name in names:
            found.append(run(name, seconds, seed, Path(place)))
            for what, numbers in (("crashes", found[-1].crashes), ("hangs", found[-1].hangs)):
                if numbers:
                    sys.stderr.write(f"{name}: {what} by inputs {numbers[:20]} of seed {seed}\n")
    sys.stdout.write(table(found))
    ours = found[0]
    return int(bool(ours.crashes or ours.hangs or ours.unescaped or ours.tracebacks or ours.late))
