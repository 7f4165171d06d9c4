"""Count the responses that stock pynetdicom loses: `python -m tests.interop.lost_responses`.

A requestor in a process of its own sends one request behind the other on an open association: C-FIND at the levels
STUDY, SERIES and IMAGE in turn, C-STORE, and C-GET. A request is *lost* if its final response, or an answer or instance
before it, does not reach the caller. It opens the next association after that.
"""

import argparse
import multiprocessing
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, Association, build_role, evt

from pacs.testing import serving, study
from tests.archives import FIND, GET
from tests.docs.requests import CT
from tests.programs import start

STUDY = study(series=1, instances=5)
"""The study that is found and retrieved."""

PATIENCE = 20
"""Seconds after which a response is lost."""

NUMBERS = {"C-FIND": 20_000, "C-STORE": 5_000, "C-GET": 500}
"""The number of requests of a whole run."""


class Walker:
    """A pynetdicom requestor that counts the instances it receives."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._received: Counter[str] = Counter()
        self._association: Association | None = None

    def responds(self, kind: str, number: int) -> bool:
        """Send the request with this number; return whether every response reached this caller."""
        try:
            return bool(_REQUESTS[kind](self, number))
        except RuntimeError:  # pynetdicom lost the association
            return False

    def find(self, number: int) -> bool:
        """Find the study, its series or its images."""
        level = number % 3
        first = STUDY[0]
        identifier = Dataset()
        identifier.QueryRetrieveLevel = ("STUDY", "SERIES", "IMAGE")[level]
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID")[:level]:
            setattr(identifier, keyword, first[keyword].value)
        setattr(identifier, ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[level], "")
        identifier.PatientID = first.PatientID
        responses = list(self._associated().send_c_find(identifier, FIND))
        answers = sum(match is not None for _, match in responses)
        return _succeeded(responses) and answers == (1, 1, len(STUDY))[level]

    def store(self, number: int) -> bool:
        """Store an instance of another patient that the server does not have."""
        (instance,) = study(patient_id=f"STORED{number}", series=1, instances=1)
        return bool(self._associated().send_c_store(instance).get("Status") == 0x0000)

    def get(self, _number: int) -> bool:
        """Retrieve the study."""
        self._received.clear()
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", STUDY[0].StudyInstanceUID
        responses = list(self._associated().send_c_get(identifier, GET))
        return _succeeded(responses) and self._received.total() == len(STUDY)

    def close(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()

    def _associated(self) -> Association:
        if self._association is None or not self._association.is_established:
            ae = AE()
            ae.dimse_timeout = PATIENCE
            for each in (FIND, GET):
                ae.add_requested_context(each)
            ae.add_requested_context(CT, "1.2.840.10008.1.2.1")
            roles, handlers = [build_role(CT, scu_role=True, scp_role=True)], [(evt.EVT_C_STORE, self._keep)]
            self._association = ae.associate(
                "127.0.0.1", self._port, ae_title="PACS", ext_neg=roles, evt_handlers=handlers
            )
        return self._association

    def _keep(self, event: evt.Event) -> int:
        self._received[event.request.AffectedSOPInstanceUID] += 1
        return 0x0000


_REQUESTS: dict[str, Callable[[Walker, int], bool]] = {
    "C-FIND": Walker.find,
    "C-STORE": Walker.store,
    "C-GET": Walker.get,
}


def _succeeded(responses: Sequence[tuple[Dataset, Dataset | None]]) -> bool:
    return bool(responses[-1][0].get("Status") == 0x0000)


@dataclass(frozen=True)
class Result:
    """What became of some requests of one kind."""

    kind: str
    requests: int
    lost: int
    seconds: float

    @property
    def line(self) -> str:
        """The result as a row of a table."""
        return f"| {self.kind} | {self.requests:,} | {self.lost} | {self.requests / self.seconds:.1f} |"


def send(port: int, kind: str, number: int) -> Result:
    """Send requests of one kind to a server, in this process."""
    began, walker = time.monotonic(), Walker(port)
    lost = sum(not walker.responds(kind, each) for each in range(number))
    walker.close()
    return Result(kind, number, lost, time.monotonic() - began)


def measure(numbers: dict[str, int], hold: float | None = None, load: int = 0) -> Iterator[Result]:
    """Yield the result of each kind of request, with `load` busy processes beside server and requestor."""
    settings = {} if hold is None else {"clients.pynetdicom_hold": hold}
    context = multiprocessing.get_context("spawn")
    with serving(settings=settings) as server, ProcessPoolExecutor(1, context) as requestor, busy(load):
        server.add(STUDY)
        for kind, number in numbers.items():
            yield requestor.submit(send, server.port, kind, number).result()


# --- a requestor that always loses what comes too early -----------------------------------------------------------


class LateCheckpoint(threading.Event):
    """The event that the second thread of a requestor waits for. That thread is late after each operation, as on a busy
    machine: it takes and drops what arrives within `seconds`.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        super().set()
        self._seconds = seconds
        self._late_until = 0.0

    def set(self) -> None:
        """Let the thread go on after an operation."""
        super().set()
        self._late_until = time.monotonic() + self._seconds

    def takes(self) -> bool:
        """Return whether the thread takes a message that arrives now; it looks once."""
        takes = time.monotonic() < self._late_until
        self._late_until = 0.0 if takes else self._late_until
        return takes


class SharedQueue(queue.Queue[Any]):
    """The queue of messages that arrive, from which the caller and the second thread take."""

    def __init__(self, checkpoint: LateCheckpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Hand a message to the thread that takes it."""
        if not self._checkpoint.takes():
            super().put(item, block, timeout)


def late_requestor(port: int, seconds: float) -> Association:
    """Return an association of pynetdicom whose second thread is late."""
    ae = AE()
    ae.add_requested_context(FIND)
    association = ae.associate("127.0.0.1", port, ae_title="PACS")
    assert association.is_established
    association._reactor_checkpoint = checkpoint = LateCheckpoint(seconds)
    association.dimse.msg_queue = SharedQueue(checkpoint)
    return association


def find_images(association: Association, **options: int) -> Iterator[tuple[Dataset, Dataset | None]]:
    """Find the images of the patient P1."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.PatientID, identifier.SOPInstanceUID = "IMAGE", "P1", ""
    return association.send_c_find(identifier, FIND, **options)


# --- the command ---------------------------------------------------------------------------------------------------


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Run this many processes that compute, for the `with` block."""
    processes = [start([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for each in processes:
            each.kill()
            each.wait()


def main(words: Sequence[str]) -> int:
    """Measure and print a table; return 1 when a response was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.lost_responses", description=__doc__)
    parser.add_argument("--load", type=int, default=0, help="Number of busy processes beside it; default: 0.")
    parser.add_argument("--hold", type=float, help="Seconds for clients.pynetdicom_hold; default: that of the server.")
    parser.add_argument("--share", type=float, default=1, help="Share of the requests to send; default: 1, all.")
    given = parser.parse_args(words)
    print("| request | sent | lost | per second |\n|---|---|---|---|", flush=True)
    lost = 0
    for result in measure({kind: int(n * given.share) for kind, n in NUMBERS.items()}, given.hold, given.load):
        print(result.line, flush=True)
        lost += result.lost
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
