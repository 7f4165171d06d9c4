"""A connection pool whose timeout is not measured by the wall clock, which may jump."""

from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util.queue import Empty, Queue


class _Queue(Queue[ConnectionPoolEntry]):
    """Waits as long as it says; the queue of SQLAlchemy waits a day longer if the clock is set back by a day."""

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        with self.not_empty:
            if block:
                self.not_empty.wait_for(lambda: not self._empty(), timeout)
            if self._empty():
                raise Empty
            item = self._get()
            self.not_full.notify()
            return item


class ConnectionPool(QueuePool):
    """The pool of SQLAlchemy with the other queue."""

    __module__ = QueuePool.__module__  # names its logger, which is quiet
    _queue_class = _Queue
