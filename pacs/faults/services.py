"""Services that fail: what a handler works with where a fault is not in what is said but in what is done."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pacs.dicom.status import is_failure
from pacs.errors import InstanceUnreadable, StorageUnavailable
from pacs.faults.selection import Chosen
from pacs.faults.tampering import Tampering, failing_of
from pacs.observability.events import Event, SubOperationFinished
from pacs.services.retrieve import Retrieval, RetrieveService
from pacs.services.storage import Storage
from pacs.support.cancellation import Cancellation

if TYPE_CHECKING:
    from pacs.dicom.identifier import RetrieveSelection
    from pacs.dimse.scp.handlers import Handlers
    from pacs.index.writer import StoredInstance
    from pacs.services.access import Access, Principal
    from pacs.services.peers import Peer
    from pacs.services.query import QueryService


class Stop:
    """Ends an operation from within: its cancellation is known once a service was given it."""

    def __init__(self) -> None:
        self._cancellation: Cancellation | None = None

    def know(self, cancellation: Cancellation) -> None:
        """Learn how the operation is cancelled."""
        self._cancellation = cancellation

    def now(self, reason: str) -> None:
        """End it, as far as it has begun."""
        if self._cancellation is not None:
            self._cancellation.cancel(reason)


class _Stand:
    """Stands before a service, and is it in everything that is not said here."""

    def __init__(self, service: object) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


class _FullDisk(_Stand):
    """A storage that has no room for what it receives."""

    @contextmanager
    def receive(self, *arguments: Any) -> Iterator[Any]:
        """Begin as always; it fails at the first byte."""
        with cast(Storage, self._service).receive(*arguments) as reception:
            yield _NoRoom(reception)


class _NoRoom(_Stand):
    def write(self, _fragment: memoryview) -> None:
        raise StorageUnavailable("No space is left in the file store")


class _Failing(_Stand):
    """Retrieves some instances of which cannot be read."""

    def __init__(self, service: RetrieveService, chosen: Chosen, stop: Stop) -> None:
        super().__init__(service)
        self._chosen, self._stop = chosen, stop
        self._failing: frozenset[str] = frozenset()

    def select(self, selection: "RetrieveSelection", cancellation: Cancellation, limit: int | None = None) -> Retrieval:
        """As always, and choose which will fail."""
        self._stop.know(cancellation)
        found = cast(RetrieveService, self._service).select(selection, cancellation, limit)
        failing = failing_of(self._chosen, found.total)
        self._failing = frozenset(
            each.sop_instance_uid for number, each in enumerate(found.instances, 1) if number in failing
        )
        return found

    def data(self, instance: "StoredInstance", transfer_syntax: str) -> Iterator[bytes]:
        """As always, where it was not chosen to fail. Raises InstanceUnreadable."""
        if instance.sop_instance_uid in self._failing:
            raise InstanceUnreadable("The instance fails on purpose")
        return cast(RetrieveService, self._service).data(instance, transfer_syntax)


class _Queries(_Stand):
    """Queries that can be ended from within."""

    def __init__(self, service: "QueryService", stop: Stop) -> None:
        super().__init__(service)
        self._stop = stop

    def pages(self, query: Any, cancellation: Cancellation) -> Any:
        """As always."""
        self._stop.know(cancellation)
        return cast("QueryService", self._service).pages(query, cancellation)


class _Elsewhere(_Stand):
    """Access that sends every move to one address."""

    def __init__(self, service: "Access", address: tuple[str, int]) -> None:
        super().__init__(service)
        self._address = address

    def destination(self, principal: "Principal", ae_title: str) -> "Peer":
        """The peer that was named, at another address. Raises as always."""
        host, port = self._address
        return replace(cast("Access", self._service).destination(principal, ae_title), host=host, port=port)


@contextmanager
def _hole() -> Iterator[tuple[str, int]]:
    """An address that takes connections and never says anything, for the `with` block."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()


def _stopping(publish: Callable[[Event], None], tampering: Tampering, stop: Stop) -> Callable[[Event], None]:
    """Publishes, and ends the operation at the first sub-operation that has failed."""

    def told(event: Event) -> None:
        publish(event)
        if isinstance(event, SubOperationFinished) and is_failure(event.status) and not tampering.is_stopped:
            tampering.is_stopped = True
            stop.now("stopped at the first failure, on purpose")

    return told


@contextmanager
def misbehaving(handlers: "Handlers", tampering: Tampering) -> Iterator["Handlers"]:
    """The handlers for one request, whose services do what its faults say."""
    fault, stop = tampering.fault, Stop()
    tampering.stop = stop.now
    changes: dict[str, Any] = {
        "retrieves": _Failing(handlers.retrieves, Chosen(fault, tampering.random), stop),
        "queries": _Queries(handlers.queries, stop),
    }
    with ExitStack() as stack:
        if fault.full_disk:
            changes["storage"] = _FullDisk(handlers.storage)
        if fault.stop_at_failure:
            changes["publish"] = _stopping(handlers.publish, tampering, stop)
        if fault.hang_destination:
            changes["access"] = _Elsewhere(handlers.access, stack.enter_context(_hole()))
            changes["limits"] = replace(handlers.limits, negotiation=fault.hang_destination)
        yield replace(handlers, **changes)
