"""Events of the associations of a server, for the log, metrics and tests."""

import time
from collections.abc import Callable, Mapping

from pacs.dimse.association.association import Association
from pacs.dimse.association.establishment import RejectedAssociation
from pacs.dimse.messages.command import operation_name
from pacs.dimse.messages.message import Message
from pacs.dimse.scp.association_access import credentials
from pacs.dimse.scp.operation import instance_of
from pacs.dimse.server.server import AssociationObserver
from pacs.dimse.upper.rejections import (
    CALLED_AE_NOT_RECOGNIZED,
    CALLING_AE_NOT_RECOGNIZED,
    USER_IDENTITY_REFUSED,
)
from pacs.errors import HandshakeFailed, ProtocolViolation
from pacs.observability.audit import NOTHING, Record
from pacs.observability.events import (
    AssociationAccepted,
    AssociationEnded,
    AssociationRequestRejected,
    Event,
    OperationFinished,
)
from pacs.services.users import claimed_name
from pacs.support.sockets import host_and_port

_NOT_AUTHORIZED = frozenset(
    (each.result, each.source, each.reason)
    for each in (CALLING_AE_NOT_RECOGNIZED, CALLED_AE_NOT_RECOGNIZED, USER_IDENTITY_REFUSED)
)
"""The rejections that go into the audit log: unknown callers and failed logins."""


def _no_audit(_record: Record) -> None:
    """Write no record."""


class AssociationEvents(AssociationObserver):
    """Publishes an event for each call of the server, and gives `audit` a record of each caller without access."""

    def __init__(self, publish: Callable[[Event], None], audit: Callable[[Record], None] = _no_audit) -> None:
        self._publish, self._audit = publish, audit

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
        rejection, identity = rejected.rejection, rejected.user_identity
        event = AssociationRequestRejected(
            association="",
            calling_ae_title=rejected.calling_ae_title,
            called_ae_title=rejected.called_ae_title,
            address=host_and_port(*address),
            result=rejection.result,
            source=rejection.source,
            reason=rejection.reason,
            comment=rejection.comment,
            user=claimed_name(credentials(identity)) if identity is not None else "",
        )
        self._publish(event)
        if (rejection.result, rejection.source, rejection.reason) in _NOT_AUTHORIZED:
            self._audit(_record(event))

    def aborted(self, violation: ProtocolViolation, address: tuple[str, int]) -> None:
        """Publish AssociationRequestRejected, with 0 as result, source and reason."""
        event = AssociationRequestRejected(
            association="",
            calling_ae_title="",
            called_ae_title="",
            address=host_and_port(*address),
            result=0,
            source=0,
            reason=0,
            comment=violation.comment,
        )
        self._publish(event)
        if isinstance(violation, HandshakeFailed):
            self._audit(_record(event))

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


def _record(rejected: AssociationRequestRejected) -> Record:
    return Record(
        operation="association",
        outcome="failure",
        subject=NOTHING,
        comment=rejected.comment,
        calling_ae_title=rejected.calling_ae_title,
        called_ae_title=rejected.called_ae_title,
        address=rejected.address,
        user=rejected.user or None,
    )
