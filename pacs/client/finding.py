"""`echo` and `find`."""

import time
from collections.abc import Generator, Iterable

from pydicom import Dataset
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement, RawDataElement

from pacs.client.identifiers import Level, Model, encoded, root_of, sop_class_of, with_level
from pacs.client.peer import Peer, abandoning, associated, peer_of
from pacs.client.status_errors import check
from pacs.dicom import charset
from pacs.dicom.charset import CUSTOMIZABLE
from pacs.dicom.dataset import View, items, vr
from pacs.dicom.identifier import decode
from pacs.dicom.identifier_builder import Identifier, data_set_of
from pacs.dicom.levels import DimseOperation
from pacs.dicom.sop_classes import VERIFICATION
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.extended_negotiation import FIND_BYTES
from pacs.dimse.messages.command import CommandField
from pacs.dimse.messages.status import Service
from pacs.dimse.scu import Exchange, Requestor, verify
from pacs.errors import InvalidArgument

Extended = Iterable[str] | bytes
"""SOP Class Extended Negotiation to propose (PS3.4 C.5.1.1): names of `FIND_BYTES`, or the bytes."""


def echo(peer: Peer | str) -> float:
    """Send a C-ECHO and return the seconds from request to response, without the time to associate.

    Raises DestinationUnreachable if no association or no Verification context is accepted, AssociationLost, and
    OperationFailed.
    """
    peer = peer_of(peer)
    with associated(peer, [(VERIFICATION, SERVICE_SYNTAXES)]) as association:
        began = time.monotonic()
        status = verify(Requestor(association, peer.deadlines.response))
        seconds = time.monotonic() - began
    check(Service.ECHO, status)
    return seconds


def find(
    peer: Peer | str,
    identifier: Identifier,
    *,
    level: Level = None,
    model: Model = "study",
    limit: int | None = None,
    extended: Extended = (),
) -> Generator[Dataset, None, None]:
    """Send a C-FIND and yield each match as it arrives, at most `limit` matches.

    The association begins when the first match is requested. Closing the generator or leaving the loop before the last
    match sends a C-CANCEL, waits for the final response (`Deadlines.cancel`) and releases the association. An exception
    in the loop keeps the generator alive until the exception is handled; `with contextlib.closing(find(...)) as
    matches` closes it at once.

    Raises InvalidArgument immediately; during iteration DestinationUnreachable, NotSupported if the information model
    is not accepted, AssociationLost, OperationFailed for a failure status, and UndecodableDataSet.
    """
    found = data_set_of(identifier)
    with_level(found, level, root_of(model))
    if limit is not None and limit < 1:
        raise InvalidArgument(f"A limit is at least 1, not {limit}")
    return _matches(peer_of(peer), found, sop_class_of(model, DimseOperation.FIND), limit, _extended_bytes(extended))


def _extended_bytes(extended: Extended) -> bytes:
    """Return the Service-class-application-information for a proposal. Raises InvalidArgument."""
    if isinstance(extended, bytes):
        return extended
    proposed, known = set(extended), [name for name, _ in FIND_BYTES]
    if unknown := proposed.difference(known):
        raise InvalidArgument(f"Extended negotiation options are {', '.join(known)}, not {', '.join(sorted(unknown))}")
    return bytes(name in proposed for name in known) if proposed else b""


def _matches(
    peer: Peer, identifier: Dataset, sop_class: str, limit: int | None, extended: bytes
) -> Generator[Dataset, None, None]:
    negotiation = {sop_class: extended} if extended else None
    with associated(peer, [(sop_class, SERVICE_SYNTAXES)], extended=negotiation) as association:
        requestor = Requestor(association, peer.deadlines.response)
        context = requestor.context(sop_class)
        exchange = requestor.ask(CommandField.C_FIND, context, encoded(identifier, context.transfer_syntax), priority=0)
        with abandoning(exchange, peer):
            yield from _matches_of(exchange, limit, charset.parse(peer.character_set))


def _matches_of(exchange: Exchange, limit: int | None, default: charset.Terms) -> Generator[Dataset, None, None]:
    """Yield the matches of an exchange, and cancel it when the limit is reached."""
    count = 0
    for response in exchange.responses():
        if exchange.is_over:
            check(Service.FIND, response.command)
            return
        if response.data is None:
            continue
        view = View.of(decode(response.data, response.context.transfer_syntax))
        match = _with_text(view if view.terms else View(view.dataset, default))
        count += 1
        if count == limit:
            exchange.cancel()
        yield match
        if count == limit:
            return


def _with_text(view: View) -> Dataset:
    """Decode the text beyond ASCII as the server does, and return the data set; pydicom would replace characters.

    Some AEs state no character set, or another than that of their text.
    """
    for element in list(view.dataset.values()):
        for item in items(element):
            _with_text(View.of(item, view.terms))
        value = element.value if isinstance(element, RawDataElement) and vr(element) in CUSTOMIZABLE else b""
        if value and (not value.isascii() or b"\x1b" in value):
            text = view.text(element).rstrip(" \0")
            view.dataset.add(DataElement(element.tag, vr(element), text, validation_mode=IGNORE))
    return view.dataset
