"""Events of the associations of a server, for the log, metrics and tests."""

import time
from collections.abc import Callable, Mapping

from pacs.dimse.association.association import Association
from pacs.dimse.association.establishment import RejectedAssociation
from pacs.dimse.messages.command import operation_name
from pacs.dimse.messages.message import Message
from pacs.dimse.scp.operation import instance_of
from pacs.dimse.server.server import AssociationObserver
from pacs.errors import ProtocolViolation
from pacs.observability.events import (
    AssociationAccepted,
    AssociationEnded,
    AssociationRequestRejected,
    Event,
    OperationFinished,
)
from pacs.support.sockets import host_and_port


class AssociationEvents(AssociationObserver):
    """Publishes an event for each call of the server."""

    def __init__(self, publish: Callable[[Event], None]) -> None:
        self._publish = publish

    def accepted(self, association: Association) -> None:
        """Publish AssociationAccepted."""
        self._publish(
            AssociationAccepted(
                association=association.id,
                calling_ae_title=association.calling_ae_title,
                called_ae_title=association.called_ae_title,
                address=host_and_port(*association.address),
                contexts=len(association.contexts),
                protection=association.protection,
                user=association.user,
            )
        )

    def rejected(self, rejected: RejectedAssociation, address: tuple[str, int]) -> None:
        """Publish AssociationRequestRejected."""
        rejection = rejected.rejection
        self._publish(
            AssociationRequestRejected(
                association="",
                calling_ae_title=rejected.calling_ae_title,
                called_ae_title=rejected.called_ae_title,
                address=host_and_port(*address),
                result=rejection.result,
                source=rejection.source,
                reason=rejection.reason,
                comment=rejection.comment,
            )
        )

    def aborted(self, violation: ProtocolViolation, address: tuple[str, int]) -> None:
        """Publish AssociationRequestRejected, with 0 as result, source and reason."""
        self._publish(
            AssociationRequestRejected(
                association="",
                calling_ae_title="",
                called_ae_title="",
                address=host_and_port(*address),
                result=0,
                source=0,
                reason=0,
                comment=violation.comment,
            )
        )

    def refused(self, association: Association, message: Message, status: int, comment: str) -> None:
        """Publish OperationFinished."""
        self._publish(
            OperationFinished(
                association=association.id,
                calling_ae_title=association.calling_ae_title,
                called_ae_title=association.called_ae_title,
                kind=operation_name(message.command.field),
                message_id=message.command.message_id,
                status=status,
                duration=0.0,
                comment=comment,
                sop_instance_uid=instance_of(message.command),
            )
        )

    def ended(self, association: Association, counts: Mapping[str, int]) -> None:
        """Publish AssociationEnded."""
        self._publish(
            AssociationEnded(
                association=association.id,
                calling_ae_title=association.calling_ae_title,
                called_ae_title=association.called_ae_title,
                address=host_and_port(*association.address),
                how=association.ended_by or "",
                duration=time.monotonic() - association.began,
                comment=association.violation,
                counts=dict(counts),
            )
        )
