"""Load for an archive until it is killed, and a ledger of its responses."""

import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256

from pacs.testing import study as built
from tests import raw
from tests.crash.client import Client

SMALL, LARGE = (1_000, 9_000, 9_000, 9_000, 40_000, 200_000), (400_000, 1_200_000, 3_000_000)
"""Bytes of pixel data: of instances written through the journal (decision 32), and of those synced one by one."""

MIXED = (*SMALL, *SMALL, *SMALL, *SMALL, *LARGE)

STUDY_OF = 40
"""Instances of a study."""


# --- instances ---------------------------------------------------------------------------------------------------


def uid(kind: str, *numbers: object) -> str:
    """Return a UID of 44 characters that depends on the arguments only."""
    text = f"{kind}/{'/'.join(map(str, numbers))}"
    return f"2.25.1{int.from_bytes(sha256(text.encode()).digest()[:15], 'big'):037}"


@dataclass(frozen=True)
class Instance:
    """A CT image: its UIDs, its size in bytes of pixels, and the version of its content."""

    uid: str
    study: str
    size: int
    version: int = 0

    @property
    def data(self) -> bytes:
        """The data set in explicit VR little endian; no two have the same pixels."""
        pixels = sha256(f"{self.uid}/{self.version}".encode()).digest() * (self.size // 32 + 1)
        series = uid("series", self.study)
        head = _head().replace(_SOP, self.uid.encode()).replace(_STUDY, self.study.encode())
        element = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, self.size)
        return head.replace(_SERIES, series.encode()) + element + pixels[: self.size]


_SOP, _STUDY, _SERIES = (uid("place", number).encode() for number in range(3))


@cache
def _head() -> bytes:
    """Encode a CT image without pixels, with placeholders for the UIDs."""
    (dataset,) = built(series=1, instances=1)
    del dataset.PixelData
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        place.decode() for place in (_SOP, _STUDY, _SERIES)
    )
    return raw.encoded(dataset, raw.EXPLICIT)


# --- responses --------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """All instances whose sending began, and the responses of the archive."""

    sent: dict[str, Instance] = field(default_factory=dict)
    digests: dict[str, list[str]] = field(default_factory=dict)
    """SHA-256 of all versions of the sent data sets, by SOP Instance UID."""
    acknowledged: set[str] = field(default_factory=set)
    """SOP Instance UIDs of instances that were acknowledged with 0000 and not deleted since."""
    gone: set[str] = field(default_factory=set)
    """Those of instances whose deletion was reported as complete."""
    uncertain: set[str] = field(default_factory=set)
    """Those of instances whose deletion was interrupted: they may be there or not."""
    answers: Counter[int] = field(default_factory=Counter)
    """The number of responses with each status."""
    replaced: int = 0
    """The number of acknowledged instances that replaced an earlier version."""
    _unanswered: Counter[str] = field(default_factory=Counter)
    """The number of times that an instance was sent without a response, by SOP Instance UID."""
    _held: dict[str, int] = field(default_factory=dict)
    """The version that was acknowledged last, by SOP Instance UID."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, instance: Instance) -> bytes:
        """Note that an instance is being sent, and return its data set."""
        data = instance.data
        digest = sha256(data).hexdigest()
        with self._lock:
            self.sent[instance.uid] = instance
            self._unanswered[instance.uid] += 1
            versions = self.digests.setdefault(instance.uid, [])
            if instance.version == len(versions):
                versions.append(digest)
        return data

    def answer(self, instance: Instance, status: int) -> None:
        """Note the status of a response."""
        with self._lock:
            self.answers[status] += 1
            self._unanswered[instance.uid] -= 1
            if status == 0:
                self.acknowledged.add(instance.uid)
                self._held[instance.uid] = instance.version
                self.replaced += instance.version > 0

    def allowed(self, uid: str) -> list[str]:
        """Return the digests that an instance may have: of the version acknowledged last, or of a later one."""
        return self.digests.get(uid, [])[self._held.get(uid, 0) :]

    def unanswered(self) -> int:
        """Return the number of instances of which a later version was sent, but not acknowledged."""
        with self._lock:
            return sum(len(versions) - 1 > self._held.get(uid, 0) for uid, versions in self.digests.items())

    def begin_deleting(self, study: str) -> set[str]:
        """Note that a study is being deleted, and return the instances that must be gone afterwards.

        A file whose sending was interrupted by the death of a worker may be added by the next start only.
        """
        with self._lock:
            chosen = {each.uid for each in self.sent.values() if each.study == study}
            known = chosen & self.acknowledged
            self.uncertain |= chosen
            self.acknowledged -= chosen
            return {each for each in known if not self._unanswered[each]}

    def deleted(self, uids: set[str]) -> None:
        """Note that a deletion was reported as complete."""
        with self._lock:
            self.gone |= uids
            self.uncertain -= uids

    def studies(self) -> list[str]:
        """Return all studies, in the order in which their sending began."""
        with self._lock:
            return list(dict.fromkeys(each.study for each in self.sent.values()))


class Sender(threading.Thread):
    """Stores instances on one association after the other, until it is stopped or the archive refuses connections.

    One instance in eight is sent again, which is a success too (`storage.duplicates`); with `replaces`, other pixels.
    """

    def __init__(
        self,
        ledger: Ledger,
        port: int,
        name: str,
        sizes: Sequence[int],
        called: str = "PACS",
        *,
        replaces: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._ledger, self._port, self._called, self._sizes = ledger, port, called, sizes
        self._replaces = replaces
        self._random = random.Random(name)
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        """Send; open a new association when one ends."""
        instances = self._instances()
        while not self._stopping.is_set():
            try:
                with Client(self._port, self._called) as client:
                    while not self._stopping.is_set():
                        self._store(client, next(instances))
                    client.release()
            except ConnectionRefusedError:
                return
            except (OSError, AssertionError):
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop after the response to the current instance."""
        self._stopping.set()

    def _store(self, client: Client, instance: Instance) -> None:
        data = self._ledger.begin(instance)
        self._ledger.answer(instance, client.store(instance.uid, data).status)

    def _instances(self) -> Iterator[Instance]:
        for number in range(10**6):
            study = uid("study", self.name, number // STUDY_OF)
            instance = Instance(uid("instance", self.name, number), study, self._random.choice(self._sizes) & ~1)
            yield instance
            if self._random.random() < 0.125:
                yield replace(instance, version=int(self._replaces))


def stop_all(senders: Sequence[Sender]) -> None:
    """Stop senders, and wait until they have stopped."""
    for each in senders:
        each.stop()
    for each in senders:
        each.join(120)
        assert not each.is_alive(), "a sender does not stop"


def eventually(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Wait until a condition is true, and return whether it was in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ignoring_missing(call: Callable[[], object]) -> None:
    """Call a function on a process that may have ended."""
    with suppress(ProcessLookupError):
        call()
