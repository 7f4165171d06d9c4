"""What is sent to an archive until it is no more, and what it said to that."""

import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

from pacs.testing import study as built
from tests import raw
from tests.crash.client import Client

SMALL, LARGE = (1_000, 9_000, 9_000, 9_000, 40_000, 400_000), (1_200_000, 3_000_000)
"""Bytes of pixel data: what goes by the journal (decision 32), and what is synced by itself."""

MIXED = (*SMALL, *SMALL, *SMALL, *SMALL, *LARGE)

STUDY_OF = 40
"""Instances after which a sender begins another study."""


# --- instances ---------------------------------------------------------------------------------------------------


def uid(kind: str, *numbers: object) -> str:
    """A UID of 44 characters that is always the same for the same words."""
    text = f"{kind}/{'/'.join(map(str, numbers))}"
    return f"2.25.1{int.from_bytes(sha256(text.encode()).digest()[:15], 'big'):037}"


@dataclass(frozen=True)
class Instance:
    """A CT image: its UIDs, how many bytes of pixels, and what tells its content from another of the same UID."""

    uid: str
    study: str
    size: int
    version: int = 0

    @property
    def data(self) -> bytes:
        """Its data set in explicit VR little endian; no two have the same pixels."""
        pixels = sha256(f"{self.uid}/{self.version}".encode()).digest() * (self.size // 32 + 1)
        series = uid("series", self.study)
        head = _head().replace(_SOP, self.uid.encode()).replace(_STUDY, self.study.encode())
        element = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, self.size)
        return head.replace(_SERIES, series.encode()) + element + pixels[: self.size]


_SOP, _STUDY, _SERIES = (uid("place", number).encode() for number in range(3))


@cache
def _head() -> bytes:
    """All of a CT image but its pixels, with places for the UIDs."""
    (dataset,) = built(series=1, instances=1)
    del dataset.PixelData
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        place.decode() for place in (_SOP, _STUDY, _SERIES)
    )
    return raw.encoded(dataset, raw.EXPLICIT)


# --- what was sent, and what was said to it ----------------------------------------------------------------------


@dataclass
class Ledger:
    """The sender's book: every instance that was ever begun to be sent, and what the archive said about it."""

    sent: dict[str, Instance] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of what was sent, by SOP Instance UID."""
    acknowledged: set[str] = field(default_factory=set)
    """Answered with 0000, and not deleted since."""
    gone: set[str] = field(default_factory=set)
    """Deleted, and that was reported as done."""
    doubtful: set[str] = field(default_factory=set)
    """In a deletion that did not come to its end: both is right."""
    answers: Counter[int] = field(default_factory=Counter)
    """How often each status was answered."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, instance: Instance) -> bytes:
        """Note that an instance is sent from now on; its data set."""
        data = instance.data
        digest = sha256(data).hexdigest()
        with self._lock:
            self.sent[instance.uid], self.digests[instance.uid] = instance, digest
        return data

    def answer(self, instance: Instance, status: int) -> None:
        """Note what was answered."""
        with self._lock:
            self.answers[status] += 1
            if status == 0:
                self.acknowledged.add(instance.uid)

    def begin_deleting(self, study: str) -> set[str]:
        """Note that a study is deleted from now on; its instances."""
        with self._lock:
            chosen = {each.uid for each in self.sent.values() if each.study == study}
            self.doubtful |= chosen
            self.acknowledged -= chosen
            return chosen

    def deleted(self, uids: set[str]) -> None:
        """Note that a deletion was reported as done."""
        with self._lock:
            self.gone |= uids
            self.doubtful -= uids

    def studies(self) -> list[str]:
        """Every study of which something was sent, in the order in which they were begun."""
        with self._lock:
            return list(dict.fromkeys(each.study for each in self.sent.values()))


class Sender(threading.Thread):
    """Stores on one association after the other, until it is stopped or the archive cannot be reached any more.

    One in eight is sent again, which is answered with success too (`storage.duplicates`).
    """

    def __init__(self, ledger: Ledger, port: int, name: str, sizes: Sequence[int], called: str = "PACS") -> None:
        super().__init__(name=name, daemon=True)
        self._ledger, self._port, self._called, self._sizes = ledger, port, called, sizes
        self._random = random.Random(name)
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        """Send; an association that ends is followed by another one."""
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
        """Send no more, once what is being sent is answered."""
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
                yield instance


def ended(senders: Sequence[Sender]) -> None:
    """Stop senders, and wait until they are."""
    for each in senders:
        each.stop()
    for each in senders:
        each.join(120)
        assert not each.is_alive(), "a sender waits for ever"


def eventually(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether a condition comes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def quietly(call: Callable[[], object]) -> None:
    """Do something whose object may be gone."""
    with suppress(ProcessLookupError):
        call()
