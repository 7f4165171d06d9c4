"""Services that fail, for faults in the work of an operation rather than in its messages."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pacs.dicom.status import is_failure
from pacs.errors import InstanceUnreadable, StorageUnavailable
from pacs.faults.selection import ChosenFaults
from pacs.faults.tampering import Tampering, choose_failing
from pacs.observability.events import Event, SubOperationFinished
from pacs.services.retrieve import Retrieval, RetrieveService
from pacs.services.storage import Storage
from pacs.support.cancellation import Cancellation

if TYPE_CHECKING:
    from pacs.dicom.identifier import RetrieveSelection
    from pacs.dimse.scp.handlers import Handlers
    from pacs.index.writer import StoredInstance
    from pacs.pixels.seekable import Wait
    from pacs.services.access import Access, Principal
    from pacs.services.peers import Peer
    from pacs.services.pixels import ConvertedDataSet
    from pacs.services.query import QueryService


class OperationStop:
    """Stops a running operation; its cancellation is known when a service receives it."""

    def __init__(self) -> None:
        self._cancellation: Cancellation | None = None

    def set_cancellation(self, cancellation: Cancellation) -> None:
        """Set the cancellation of the operation."""
        self._cancellation = cancellation

    def stop(self, reason: str) -> None:
        """Stop the operation, if it has begun."""
        if self._cancellation is not None:
            self._cancellation.cancel(reason)


class _ServiceProxy:
    """Delegates to a service everything that a subclass does not define."""

    def __init__(self, service: object) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


class _FullStorage(_ServiceProxy):
    """A storage service that fails at the first byte of a data set."""

    @contextmanager
    def receive(self, *arguments: Any) -> Iterator[Any]:
        """Begin as the service does."""
        with cast(Storage, self._service).receive(*arguments) as reception:
            yield _FullReception(reception)


class _FullReception(_ServiceProxy):
    def write(self, _fragment: memoryview) -> None:
        raise StorageUnavailable("No space is left in the file store")


class _FailingRetrieves(_ServiceProxy):
    """A retrieve service that cannot read some instances."""

    def __init__(self, service: RetrieveService, chosen: ChosenFaults, stop: OperationStop) -> None:
        super().__init__(service)
        self._chosen, self._stop = chosen, stop
        self._failing: frozenset[str] = frozenset()

    def select(self, selection: "RetrieveSelection", cancellation: Cancellation, limit: int | None = None) -> Retrieval:
        """Select as the service does, and choose the instances that fail."""
        self._stop.set_cancellation(cancellation)
        found = cast(RetrieveService, self._service).select(selection, cancellation, limit)
        failing = choose_failing(self._chosen, found.total)
        self._failing = frozenset(
            each.sop_instance_uid for number, each in enumerate(found.instances, 1) if number in failing
        )
        return found

    def data(self, instance: "StoredInstance", transfer_syntax: str) -> Iterator[bytes]:
        """Return the data, unless the instance was chosen to fail. Raises InstanceUnreadable."""
        self._fail_if_chosen(instance)
        return cast(RetrieveService, self._service).data(instance, transfer_syntax)

    def convert(
        self, retrieval: Retrieval, instance: "StoredInstance", transfer_syntax: str, wait: "Wait"
    ) -> "ConvertedDataSet":
        """Begin the conversion, unless the instance was chosen to fail. Raises InstanceUnreadable."""
        self._fail_if_chosen(instance)
        return cast(RetrieveService, self._service).convert(retrieval, instance, transfer_syntax, wait)

    def _fail_if_chosen(self, instance: "StoredInstance") -> None:
        if instance.sop_instance_uid in self._failing:
            raise InstanceUnreadable("A fault makes this instance fail")


class _StoppableQueries(_ServiceProxy):
    """A query service whose queries can be stopped."""

    def __init__(self, service: "QueryService", stop: OperationStop) -> None:
        super().__init__(service)
        self._stop = stop

    def pages(self, query: Any, cancellation: Cancellation) -> Any:
        """Query as the service does."""
        self._stop.set_cancellation(cancellation)
        return cast("QueryService", self._service).pages(query, cancellation)


class _RedirectedAccess(_ServiceProxy):
    """Access rules that send every C-MOVE to one address."""

    def __init__(self, service: "Access", address: tuple[str, int]) -> None:
        super().__init__(service)
        self._address = address

    def destination(self, principal: "Principal", ae_title: str) -> "Peer":
        """Return the named peer with another address. Raises as the service does."""
        host, port = self._address
        return replace(cast("Access", self._service).destination(principal, ae_title), host=host, port=port)


@contextmanager
def _silent_listener() -> Iterator[tuple[str, int]]:
    """Yield an address that accepts connections and never sends anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()


def _stopping(publish: Callable[[Event], None], tampering: Tampering, stop: OperationStop) -> Callable[[Event], None]:
    """Return a publisher that stops the operation at the first failed sub-operation."""

    def publish_and_stop(event: Event) -> None:
        publish(event)
        if isinstance(event, SubOperationFinished) and is_failure(event.status) and not tampering.is_stopped:
            tampering.is_stopped = True
            stop.stop("stopped by a fault at the first failure")

    return publish_and_stop


@contextmanager
def faulty_handlers(handlers: "Handlers", tampering: Tampering) -> Iterator["Handlers"]:
    """Yield the handlers for one request, with services that apply its faults."""
    fault, stop = tampering.fault, OperationStop()
    tampering.stop = stop.stop
    changes: dict[str, Any] = {
        "retrieves": _FailingRetrieves(handlers.retrieves, ChosenFaults(fault, tampering.random), stop),
        "queries": _StoppableQueries(handlers.queries, stop),
    }
    with ExitStack() as stack:
        if fault.full_disk:
            changes["storage"] = _FullStorage(handlers.storage)
        if fault.stop_at_failure:
            changes["publish"] = _stopping(handlers.publish, tampering, stop)
            changes["window"] = 1
        if fault.hang_destination:
            changes["access"] = _RedirectedAccess(handlers.access, stack.enter_context(_silent_listener()))
            changes["limits"] = replace(handlers.limits, negotiation=fault.hang_destination)
        yield replace(handlers, **changes)
