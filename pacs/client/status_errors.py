"""Which final responses are failures, and what is to be said of them."""

from typing import Any

from pacs.dicom.status import Service, is_completed, meaning
from pacs.dimse.messages.command import Command
from pacs.errors import OperationFailed

_MENDING = {
    (Service.MOVE, 0xA801): (
        "the PACS does not know our AE title {ae_title}: have it listed there with the host of this machine and port "
        "{port}"
    ),
    (Service.MOVE, 0xA702): (
        "the PACS cannot send to {ae_title}: does its entry have the host of this machine and port {port}, and is no "
        "firewall in between?"
    ),
    (Service.MOVE, 0xC): (
        "most often the PACS does not know our AE title {ae_title}, or cannot reach it at the host of this machine and "
        "port {port}; its log says more"
    ),
}
"""What to do about a status, or a range of them by its first digit, by service.

`ae_title` is the move destination, `port` where it listens.
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
    mending: str = "",
    failed_uids: tuple[str, ...] = (),
    retrieved: Any = None,
) -> OperationFailed:
    """What is raised for a final response."""
    status = answer if isinstance(answer, int) else answer.status
    return OperationFailed(
        service.value,
        status,
        meaning(service, status),
        error_comment="" if isinstance(answer, int) else answer.error_comment or "",
        offending_elements=() if isinstance(answer, int) else answer.offending_elements,
        failed_uids=failed_uids,
        mending=mending,
        retrieved=retrieved,
    )


_MENDING_OF_ANOTHER = {
    0xA801: "the PACS does not know the AE title {ae_title}: have it listed there with its host and port",
    0xA702: "the PACS cannot send to {ae_title}: are host and port of its entry right, and does that one listen?",
}
"""What to do about the status of a C-MOVE to another AE than us."""


def mending(service: Service, status: int, *, ae_title: str, port: int | None) -> str:
    """What can be done about a status, '' where we do not know; without `port` a C-MOVE goes to another AE."""
    if service is Service.MOVE and port is None:
        return _MENDING_OF_ANOTHER.get(status, "").format(ae_title=ae_title)
    sentence = _MENDING.get((service, status)) or _MENDING.get((service, status >> 12), "")
    return sentence.format(ae_title=ae_title, port=port)
