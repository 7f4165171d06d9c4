"""Log events of fault injection: the faults that applied, and the status that was really sent."""

from collections.abc import Iterator
from dataclasses import replace

from pacs.dimse.messages import status
from pacs.dimse.scp.operation import Publish
from pacs.faults.faulty_upper_layer import FaultyOperation
from pacs.faults.selection import ChosenFaults, MessageInfo
from pacs.observability.events import Event, FaultFired, OperationFinished

NO_RESPONSE = "a fault suppressed the response"


def fault_events(chosen: ChosenFaults, info: MessageInfo, association_id: str = "") -> Iterator[FaultFired]:
    """Yield an event for each fault that applied to a message."""
    for each in chosen.met:
        yield FaultFired(
            association=association_id,
            calling_ae_title=info.calling,
            called_ae_title=info.called,
            kind=info.operation,
            fault=each.place,
            does=each.fault.does(info.operation).deeds or "no effect on this operation",
        )


def publish_sent_status(publish: Publish, operation: FaultyOperation) -> Publish:
    """Return a publisher that replaces the status of a finished operation by the one that was sent."""

    def publish_as_sent(event: Event) -> None:
        if isinstance(event, OperationFinished) and operation.tampering.fault.effects:
            event = _with_sent_status(event, operation)
        publish(event)

    return publish_as_sent


def _with_sent_status(event: OperationFinished, operation: FaultyOperation) -> OperationFinished:
    went = operation.went_out
    if went is None:
        return replace(event, status=status.CANCEL, comment=NO_RESPONSE)
    return replace(event, status=went.status, comment=went.error_comment or "")
