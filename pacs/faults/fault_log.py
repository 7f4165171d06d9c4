"""What the log is told of faults: which fired, and what went out where a handler thinks that it said something else."""

from collections.abc import Iterator
from dataclasses import replace

from pacs.dimse.messages import status
from pacs.dimse.scp.operation import Publish
from pacs.faults.faulty_upper_layer import Conduct
from pacs.faults.selection import Chosen, Occasion
from pacs.observability.events import Event, FaultFired, OperationFinished

UNANSWERED = "no response went out, on purpose"


def fired(chosen: Chosen, occasion: Occasion, association_id: str = "") -> Iterator[FaultFired]:
    """An event for each fault that one message met."""
    for each in chosen.met:
        yield FaultFired(
            association=association_id,
            calling_ae_title=occasion.calling,
            called_ae_title=occasion.called,
            kind=occasion.operation,
            fault=each.place,
            does=each.fault.does(occasion.operation).deeds or "nothing to this operation",
        )


def truthful(publish: Publish, conduct: Conduct) -> Publish:
    """Publishes the end of an operation with the status that went out, whatever its handler answered."""

    def told(event: Event) -> None:
        if isinstance(event, OperationFinished) and conduct.tampering.fault.effects:
            event = _as_it_went_out(event, conduct)
        publish(event)

    return told


def _as_it_went_out(event: OperationFinished, conduct: Conduct) -> OperationFinished:
    went = conduct.went_out
    if went is None:
        return replace(event, status=status.CANCEL, comment=UNANSWERED)
    return replace(event, status=went.status, comment=went.error_comment or "")
