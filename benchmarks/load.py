"""Stores images of a shape on several associations without end, and records each C-STORE.

The senders are processes of their own, so that neither one interpreter lock nor the process that measures slows them.
"""

import math
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection, get_context
from typing import Any

from benchmarks import client, shapes
from benchmarks.client import Association, RequestFailed
from benchmarks.data import next_number
from benchmarks.peers import System
from benchmarks.shapes import Message, Shape

PROCESSES = 4
"""The most processes that send; more associations are divided among them."""

_fork = get_context("fork")


@dataclass
class Stores:
    """The stores of one association: for each C-STORE the time of its end, its duration, the bytes, and the processor
    time of the sender up to then, all times in seconds of the monotonic clock.
    """

    ended: "array[float]" = field(default_factory=lambda: array("d"))
    took: "array[float]" = field(default_factory=lambda: array("d"))
    size: "array[float]" = field(default_factory=lambda: array("d"))
    cpu: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Window:
    """The stores of all associations between two times."""

    seconds: float
    took: Sequence[float]
    """The durations of the C-STOREs, shortest first."""
    by_second: Sequence[tuple[int, float]]
    """Instances and bytes that each whole second completed."""
    size: float
    """Bytes."""
    cpu: float
    """Processor time of the senders."""

    def quantile(self, share: float) -> float:
        """Return the duration that a share of the C-STOREs did not exceed."""
        return self.took[min(len(self.took) - 1, int(share * len(self.took)))]


class Load:
    """Associations that store until they are stopped."""

    def __init__(self, system: System, shape: Shape, associations: int, most_bytes: float = math.inf) -> None:
        for kind in shape.kinds:
            shapes.encoded(kind)  # once, before the processes are forked
        self._end = _fork.RawValue("d", math.inf)
        firsts = [next_number() * 10**8 + place * shapes.STUDIES for place in range(associations)]
        groups = [firsts[place::PROCESSES] for place in range(min(associations, PROCESSES))]
        share = most_bytes / associations
        self._answers = [self._start(_Task(system, shape, group, self._end, share)) for group in groups]
        self._stores: list[Stores] | None = None

    @staticmethod
    def _start(task: "_Task") -> "connection.Connection[Any, Any]":
        ours, theirs = _fork.Pipe(duplex=False)
        _fork.Process(target=_send_group, args=(theirs, task), daemon=True).start()
        theirs.close()
        return ours

    def wait(self, seconds: float) -> bool:
        """Wait for a time; return whether all associations still store at its end."""
        return not connection.wait(self._answers, seconds)

    def stop(self) -> list[Stores]:
        """Stop, and return what each association stored. Raises RequestFailed if one of them failed."""
        self._end.value = 0
        if self._stores is None:
            answers = [_received(each) for each in self._answers]
            self._stores = [stores for answer in answers for stores in answer]
        return self._stores


@contextmanager
def load(system: System, shape: Shape, associations: int, most_bytes: float = math.inf) -> Iterator[Load]:
    """Run a load, and stop it at the end; after a failure of the caller, its own is not reported."""
    running = Load(system, shape, associations, most_bytes)
    try:
        yield running
    except BaseException:
        running._end.value = 0
        raise
    running.stop()


def _received(answers: "connection.Connection[Any, Any]") -> list[Stores]:
    try:
        answer = answers.recv()
    except EOFError:
        raise RequestFailed("a sending process ended") from None
    if isinstance(answer, str):
        raise RequestFailed(answer)
    return list(answer)


# --- in the processes that send ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """The task of the associations of one process."""

    system: System
    shape: Shape
    firsts: Sequence[int]
    """The number of the first study, for each association."""
    end: Any
    """The time at which all stop, shared by the processes."""
    most_bytes: float
    """Bytes after which an association stops."""


def _send_group(answer: Any, task: _Task) -> None:
    """Send on each association, and answer with what was stored, or the failure."""
    try:
        answer.send(client.together([partial(_send, task, first) for first in task.firsts]))
    except (OSError, RequestFailed) as error:
        answer.send(str(error))


def _send(task: _Task, first: int) -> Stores:
    """Store on one association; after a failure, let the others stop as well."""
    system, shape = task.system, task.shape
    try:
        with Association(system.port, system.ae_title, shape.contexts, secure=system.secure) as association:
            return _store_until(association, task, first)
    except BaseException:
        task.end.value = 0
        raise


def _store_until(association: Association, task: _Task, first: int) -> Stores:
    """Store until the end, or until enough bytes were sent."""
    stores, sent = Stores(), 0
    contexts = {name: 2 * place + 1 for place, (name, _) in enumerate(task.shape.contexts)}
    messages = {kind: Message(kind, contexts[kind.sop_class], association.longest_pdu) for kind in task.shape.kinds}
    for number, (kind, values) in enumerate(shapes.identities(task.shape, first)):
        if time.monotonic() >= task.end.value or sent >= task.most_bytes:
            break
        messages[kind].fill(values, number % 65535 + 1)
        _store(association, messages[kind], stores, kind.size)
        sent += kind.size
    return stores


def _store(association: Association, message: Message, stores: Stores, size: int) -> None:
    """Store one image and record it."""
    began = time.monotonic()
    association.send(message.head)
    if message.pixels:
        association.send(message.pixels)
    association.expect_success()
    ended = time.monotonic()
    stores.ended.append(ended)
    stores.took.append(ended - began)
    stores.size.append(size)
    stores.cpu.append(time.thread_time())


# --- what a time contains ----------------------------------------------------------------------------------------


def between(stores: Sequence[Stores], begin: float, end: float) -> Window:
    """Return what was stored from one time to another. Raises RequestFailed if it is nothing."""
    seconds = [[0, 0.0] for _ in range(max(1, int(end - begin)))]
    took: list[float] = []
    size = cpu = 0.0
    for each in stores:
        inside = [place for place, ended in enumerate(each.ended) if begin <= ended < end]
        if not inside:
            continue
        cpu += each.cpu[inside[-1]] - (each.cpu[inside[0] - 1] if inside[0] else 0.0)
        for place in inside:
            took.append(each.took[place])
            size += each.size[place]
            second = int(each.ended[place] - begin)
            if second < len(seconds):
                seconds[second][0] += 1
                seconds[second][1] += each.size[place]
    if not took:
        raise RequestFailed("nothing was stored in the measured time")
    return Window(end - begin, sorted(took), [(int(a), b) for a, b in seconds], size, cpu)
