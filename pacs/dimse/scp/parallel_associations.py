"""Send the instances of a C-MOVE to its destination on several associations at once.

Each association has a thread, which takes the next instance when it has finished one. Everything else stays in the
thread of the requestor: it alone listens to the requestor, counts outcomes and writes responses.
"""

import select
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from pacs.dimse.association.storage_contexts import Batch, batches
from pacs.dimse.scp.destinations import Connect, DestinationAssociation
from pacs.dimse.scp.store_sender import StoreResult, SubOperation, SubOperations, send_while
from pacs.dimse.upper.waiting import WaitContext, wait
from pacs.errors import Cancelled, DestinationUnreachable, OutOfResources
from pacs.index.writer import StoredInstance
from pacs.services.retrieve import Outcome
from pacs.support.cancellation import Cancellation
from pacs.support.threads import start_thread
from pacs.support.wakeup import WakeUp


def send_in_parallel(
    connect: Connect,
    instances: Sequence[StoredInstance],
    wait_context: WaitContext,
    count: int,
    send_as: tuple[str, ...] = (),
) -> SubOperations:
    """Send instances on up to `count` associations at once; yield sub-operations in the order in which they finish.

    The first association is opened alone, because a destination that takes only one might refuse all of several
    simultaneous ones. The instances of an association that fails are sent on the others; when none is left they fail.
    """
    associations = _ParallelAssociations(connect, _InstanceQueue(instances, send_as), wait_context, count)
    try:
        yield from associations.send_all()
    finally:
        associations.close()


class _InstanceQueue:
    """The instances that are not sent yet, in their order, grouped by the contexts they need. Used by all threads."""

    def __init__(self, instances: Sequence[StoredInstance], send_as: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._batches = deque((batch, deque(batch.instances)) for batch in batches(instances, send_as))
        self.total = len(instances)

    def batch(self) -> Batch[StoredInstance] | None:
        """Return the batch of the next instance, None when the queue is empty."""
        with self._lock:
            while self._batches and not self._batches[0][1]:
                self._batches.popleft()
            return self._batches[0][0] if self._batches else None

    def take(self, batch: Batch[StoredInstance]) -> StoredInstance | None:
        """Take the next instance if it belongs to `batch`."""
        with self._lock:
            if not self._batches or self._batches[0][0] is not batch or not self._batches[0][1]:
                return None
            return self._batches[0][1].popleft()

    def take_all(self) -> list[StoredInstance]:
        """Take all remaining instances."""
        with self._lock:
            remaining = [instance for _, instances in self._batches for instance in instances]
            self._batches.clear()
            return remaining


class _Opened:
    """A thread opened its first association."""


class _Ended:
    """A thread ended: `reason` is why its destination failed last, `error` an unexpected exception."""

    def __init__(self, reason: str, error: BaseException | None = None) -> None:
        self.reason = reason
        self.error = error


_Report = SubOperation | _Opened | _Ended


class _Reports:
    """Reports of the sending threads to the thread of the requestor, which `wake_up` wakes."""

    def __init__(self) -> None:
        self.wake_up = WakeUp()
        self._reports: deque[_Report] = deque()

    def put(self, report: _Report) -> None:
        """Add a report, from any thread."""
        self._reports.append(report)
        self.wake_up.wake()

    def take(self) -> _Report | None:
        """Take the oldest report, None when there is none."""
        return self._reports.popleft() if self._reports else None


class _SendingThread:
    """One of the associations, and the thread that sends on it until the queue is empty or the destination given up.

    It begins no instance once the operation is cancelled; `cancel` ends what is running.
    """

    def __init__(self, queue: _InstanceQueue, connect: Connect, wait_context: WaitContext, reports: _Reports) -> None:
        self._queue = queue
        self._association = DestinationAssociation(connect)
        self._operation = wait_context.cancellation
        self._wake_up = WakeUp()
        self._wait_context = WaitContext(Cancellation(), wake_up=self._wake_up, grace=wait_context.grace)
        self._reports = reports
        self._thread = start_thread("pacs-move", self._run)

    def cancel(self, reason: str) -> None:
        """End the opening of an association at once, and a running sub-operation after its grace, if it has one."""
        self._wait_context.cancellation.cancel(reason, graceful=self._operation.is_graceful)
        self._wake_up.wake()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()
        self._wake_up.close()

    def _run(self) -> None:
        try:
            self._send_all()
            self._association.close()
            ended = _Ended(self._association.last_failure)
        except BaseException as error:  # raised again in the thread of the requestor
            ended = _Ended("", error)
        self._reports.put(ended)

    def _send_all(self) -> None:
        opened = False
        while not self._association.is_given_up and (batch := self._next_batch()) is not None:
            self._association.use(batch.proposals)
            with suppress(DestinationUnreachable, Cancelled):
                self._association.open(self._wait_context)
                if not opened:
                    self._reports.put(_Opened())
                    opened = True
                self._send(batch)

    @property
    def _is_cancelled(self) -> bool:
        return self._operation.requested or self._wait_context.cancellation.requested

    def _next_batch(self) -> Batch[StoredInstance] | None:
        return None if self._is_cancelled else self._queue.batch()

    def _send(self, batch: Batch[StoredInstance]) -> None:
        """Send instances of a batch until it is empty or the association lost."""
        for finished in send_while(partial(self._take, batch), self._association, self._wait_context):
            if finished is not None:
                self._reports.put(finished)

    def _take(self, batch: Batch[StoredInstance]) -> StoredInstance | None:
        """Take an instance while the association is open, so that none fails which another one could send."""
        return self._queue.take(batch) if self._association.is_open and not self._is_cancelled else None


class _ParallelAssociations:
    """The sending threads of one C-MOVE, seen from the thread of the requestor."""

    def __init__(self, connect: Connect, queue: _InstanceQueue, wait_context: WaitContext, count: int) -> None:
        self._connect = connect
        self._wait_context = wait_context
        self._count = count
        self._remaining = queue.total
        self._queue = queue
        self._reports = _Reports()
        self._threads: list[_SendingThread] = []

    def send_all(self) -> SubOperations:
        """Send all instances."""
        self._start_threads(1)
        ended, reason = 0, ""
        while ended < len(self._threads):
            report = self._next_report()
            if isinstance(report, SubOperation):
                yield report
                yield None
                self._remaining -= 1
                if not self._remaining:
                    self._cancel("Everything is sent")  # do not wait for an association that is still being opened
            elif isinstance(report, _Opened):
                self._start_threads(self._count)
            elif report.error is not None:
                raise report.error
            else:
                ended += 1
                reason = report.reason or reason
        if not self._wait_context.cancellation.requested:
            unsent = StoreResult(Outcome.FAILED, comment=reason)
            yield from (SubOperation(instance, unsent, 0.0) for instance in self._queue.take_all())

    def _start_threads(self, count: int) -> None:
        """Start threads up to `count`, unless the operation is cancelled; fewer if the system allows no more."""
        try:
            while len(self._threads) < count and not self._wait_context.cancellation.requested:
                self._threads.append(_SendingThread(self._queue, self._connect, self._wait_context, self._reports))
        except (OutOfResources, OSError):
            if not self._threads:
                raise

    def _next_report(self) -> _Report:
        """Wait for the next report; meanwhile listen to the requestor and pass its cancel on to the threads."""
        wait_context = self._wait_context
        wait_context.process_input()  # also when reports come so fast that nothing is waited for
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
        for thread in self._threads:
            thread.cancel(reason)

    def close(self) -> None:
        """Wait for all threads, which have ended unless there was an unexpected error."""
        self._queue.take_all()
        self._cancel("The retrieve failed")
        for thread in self._threads:
            thread.join()
        self._reports.wake_up.close()
