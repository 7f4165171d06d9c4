"""Errors for final responses whose status is a failure, with advice to the user."""

import re
from typing import Any

from pacs.dicom.status import MOVE_DESTINATION_UNKNOWN, SUBOPERATIONS_FAILED, Service, is_completed, meaning
from pacs.dimse.messages.command import Command
from pacs.errors import OperationFailed

_ADVICE = {
    (Service.MOVE, MOVE_DESTINATION_UNKNOWN): (
        "the PACS does not know our AE title {ae_title}: configure it there with the host of this machine and port "
        "{port}"
    ),
    (Service.MOVE, SUBOPERATIONS_FAILED): (
        "the PACS cannot connect to {ae_title}: check that it is configured there with the host of this machine and "
        "port {port}, and that no firewall blocks the connection"
    ),
    (Service.MOVE, 0xC): (
        "usually the PACS does not know our AE title {ae_title}, or cannot reach it at the host of this machine and "
        "port {port}; see the log of the PACS"
    ),
}
"""Advice by service and status, or by the first digit of the status.

`ae_title` is the move destination, `port` the port that it listens on.
"""


def check(service: Service, answer: Command | int) -> None:
    """Raise OperationFailed for a final response, or a status, that is neither success nor a warning."""
    status = answer if isinstance(answer, int) else answer.status
    if not is_completed(status):
        raise failure(service, answer)


def failure(
    service: Service,
    answer: Command | int,
    *,
    advice: str = "",
    cause: str = "",
    failed_uids: tuple[str, ...] = (),
    retrieved: Any = None,
) -> OperationFailed:
    """Return the OperationFailed for a final response or a status."""
    status = answer if isinstance(answer, int) else answer.status
    return OperationFailed(
        service.value,
        status,
        meaning(service, status),
        error_comment="" if isinstance(answer, int) else answer.error_comment or "",
        offending_elements=() if isinstance(answer, int) else answer.offending_elements,
        failed_uids=failed_uids,
        mending=advice,
        cause=cause,
        retrieved=retrieved,
    )


_ADVICE_OTHER_DESTINATION = {
    MOVE_DESTINATION_UNKNOWN: (
        "the PACS does not know the AE title {ae_title}: configure it there with its host and port"
    ),
    SUBOPERATIONS_FAILED: (
        "the PACS cannot connect to {ae_title}: check its host and port in the PACS, and that it is listening"
    ),
}
"""Advice for a C-MOVE to another destination than this client."""


_NO_REASON = (
    "the PACS cannot send to {ae_title}: check its host and port in the PACS, that it is listening, and that it "
    "accepts SOP Class and transfer syntax of these images; see the log of the PACS"
)
"""Advice for status A702 from another destination without an Error Comment."""

_ABOUT_THE_CONNECTION = re.compile(r"connect|reach|associat|AE title|host|port\b", re.IGNORECASE)
"""Found in an Error Comment whose reason does not contradict the advice, which is about AE title, host and port."""


def advice_for(service: Service, answer: Command, *, ae_title: str, port: int | None) -> str:
    """Return advice for a final response, '' if there is none, or if its Error Comment gives another reason.

    Without `port`, a C-MOVE goes to another destination.
    """
    comment = answer.error_comment or ""
    if comment and answer.status != MOVE_DESTINATION_UNKNOWN and not _ABOUT_THE_CONNECTION.search(comment):
        return ""
    if service is Service.MOVE and port is None:
        if answer.status == SUBOPERATIONS_FAILED and not comment:
            return _NO_REASON.format(ae_title=ae_title)
        return _ADVICE_OTHER_DESTINATION.get(answer.status, "").format(ae_title=ae_title)
    sentence = _ADVICE.get((service, answer.status)) or _ADVICE.get((service, answer.status >> 12), "")
    return sentence.format(ae_title=ae_title, port=port)
