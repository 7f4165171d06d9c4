"""The carrier of a C-MOVE that opens several associations to its destination at once.

Each has a thread, which takes the next instance when it is done with one. All else stays with the thread of the
requester: it alone hears the requester, counts outcomes and writes responses.
"""

import select
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from pacs.dimse.association.proposals import Batch, batches
from pacs.dimse.scp.destinations import Connect, Finished, Line, Meanwhile, timed
from pacs.dimse.scp.store_sender import Sent, nothing
from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.errors import Cancelled, DestinationUnreachable
from pacs.index.writer import StoredInstance
from pacs.services.retrieve import Outcome
from pacs.support.cancellation import Cancellation
from pacs.support.wakeup import WakeUp


class _Agenda:
    """The instances that nobody has begun to send, in their order and by the contexts they need."""

    def __init__(self, instances: Sequence[StoredInstance]) -> None:
        self._lock = threading.Lock()
        rest = iter(instances)
        self._batches = deque((batch, deque(next(rest) for _ in range(batch.size))) for batch in batches(instances))

    def batch(self) -> Batch | None:
        """Whose instances are next; None when all are taken."""
        with self._lock:
            while self._batches and not self._batches[0][1]:
                self._batches.popleft()
            return self._batches[0][0] if self._batches else None

    def take(self, batch: Batch) -> StoredInstance | None:
        """The next instance, if it is one of `batch`."""
        with self._lock:
            if not self._batches or self._batches[0][0] is not batch or not self._batches[0][1]:
                return None
            return self._batches[0][1].popleft()

    def leave(self) -> list[StoredInstance]:
        """Take all that is left."""
        with self._lock:
            left = [instance for _, instances in self._batches for instance in instances]
            self._batches.clear()
            return left


class _Opened:
    """A lane has its first association."""


class _Over:
    """A lane has come to its end: of its own accord, or by an error that nobody expected."""

    def __init__(self, why: str, error: BaseException | None = None) -> None:
        self.why = why
        self.error = error


_Report = Finished | _Opened | _Over


class _Reports:
    """What the lanes have to say, for the thread of the requester, which `wake_up` wakes."""

    def __init__(self) -> None:
        self.wake_up = WakeUp()
        self._said: deque[_Report] = deque()

    def put(self, report: _Report) -> None:
        """Say something, from any thread."""
        self._said.append(report)
        self.wake_up.wake()

    def take(self) -> _Report | None:
        """What was said first and not taken; None when there is nothing."""
        return self._said.popleft() if self._said else None


class _Lane:
    """One of the associations, and its thread. It ends when nothing is left, or the destination is not to be had.

    `wait_context` is that of the requestor: once it is cancelled nothing begins here; `cancel` stops what runs then.
    """

    def __init__(self, agenda: _Agenda, connect: Connect, wait_context: WaitContext, reports: _Reports) -> None:
        self._agenda = agenda
        self._line = Line(connect)
        self._asked = wait_context.cancellation
        self._wake_up = WakeUp()
        self._wait_context = WaitContext(Cancellation(), wake_up=self._wake_up, grace=wait_context.grace)
        self._reports = reports
        self._thread = threading.Thread(target=self._run, name="pacs-move", daemon=True)
        self._thread.start()

    def cancel(self, reason: str) -> None:
        """End the opening of an association at once, and a running sub-operation after its grace."""
        self._wait_context.cancellation.cancel(reason)
        self._wake_up.wake()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()
        self._wake_up.close()

    def _run(self) -> None:
        try:
            self._send_all()
            self._line.close()
            over = _Over(self._line.why)
        except BaseException as error:  # it is raised again in the thread of the requester
            over = _Over("", error)
        self._reports.put(over)

    def _send_all(self) -> None:
        opened = False
        while not self._line.is_given_up and (batch := self._next_batch()) is not None:
            with suppress(DestinationUnreachable, Cancelled):
                self._line.open(batch, self._wait_context)
                if not opened:
                    self._reports.put(_Opened())
                    opened = True
                self._send_one(batch)

    @property
    def _is_cancelled(self) -> bool:
        return self._asked.requested or self._wait_context.cancellation.requested

    def _next_batch(self) -> Batch | None:
        return None if self._is_cancelled else self._agenda.batch()

    def _send_one(self, batch: Batch) -> None:
        """Take an instance when there is an association to send it on, so that none fails where another could."""
        instance = None if self._is_cancelled else self._agenda.take(batch)
        if instance is not None:
            self._reports.put(timed(instance, partial(self._line.send, instance, self._wait_context, nothing)))


class SeveralAssociations:
    """Carries the sub-operations of a C-MOVE on `count` associations at once, on fewer when there is less to send."""

    def __init__(self, instances: Sequence[StoredInstance], connect: Connect, count: int) -> None:
        self._agenda = _Agenda(instances)
        self._connect = connect
        self._count = min(count, len(instances))
        self._left = len(instances)
        self._reports = _Reports()
        self._lanes: list[_Lane] = []

    def carry(self, wait_context: WaitContext, meanwhile: Meanwhile) -> Iterator[Finished]:
        """Send all instances, told in the order in which they are finished.

        The first association is opened alone: a destination that takes only one may refuse all that come at once. One
        that is not to be had leaves its share to the others; what is left when none is to be had fails.
        """
        self._begin(1, wait_context)
        over, why = 0, ""
        while over < len(self._lanes):
            report = self._next(wait_context)
            if isinstance(report, Finished):
                yield report
                meanwhile()
                self._left -= 1
                if not self._left:
                    self._cancel("Everything is sent")  # a lane that still waits for its association is not waited for
            elif isinstance(report, _Opened):
                self._begin(self._count, wait_context)
            elif report.error is not None:
                raise report.error
            else:
                over += 1
                why = report.why or why
        if not wait_context.cancellation.requested:
            failed = Sent(Outcome.FAILED, comment=why)
            yield from (Finished(instance, failed, 0.0) for instance in self._agenda.leave())

    def _begin(self, count: int, wait_context: WaitContext) -> None:
        """See that there are so many lanes, unless there is a cancel."""
        while len(self._lanes) < count and not wait_context.cancellation.requested:
            self._lanes.append(_Lane(self._agenda, self._connect, wait_context, self._reports))

    def _next(self, wait_context: WaitContext) -> _Report:
        """What a lane says next. The requester is heard meanwhile, and its cancel is passed on to the lanes."""
        wait_context.process_input()  # also where the lanes have always something to say, so that nothing is waited for
        while True:
            reason = wait_context.cancellation.reason
            if reason is not None:
                self._cancel(reason)
            report = self._reports.take()
            if report is not None:
                return report
            wait(self._reports.wake_up.fileno(), select.POLLIN, None, wait_context if reason is None else None)
            self._reports.wake_up.clear()

    def _cancel(self, reason: str) -> None:
        for lane in self._lanes:
            lane.cancel(reason)

    def close(self) -> None:
        """Wait for all lanes, which are over but for an error that nobody expected."""
        self._agenda.leave()
        self._cancel("The retrieve failed")
        for lane in self._lanes:
            lane.join()
        self._reports.wake_up.close()
