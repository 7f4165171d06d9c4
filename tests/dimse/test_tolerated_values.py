"""Values of association PDUs that matter to nobody: whatever they are, the association is served, in both roles.

What is refused has a sentence that names the PDU, its side, the item and its bytes.
"""

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import evt

from pacs.conformance.checks import wire
from pacs.dicom.sop_classes import STORAGE_COMMITMENT, VERIFICATION
from pacs.dimse.association.establishment import request
from pacs.dimse.messages.command import Command, CommandField
from pacs.dimse.upper.pdus import ASSOCIATE_AC, ASSOCIATE_RQ, decode
from pacs.errors import AssociationRejected, DestinationUnreachable
from pacs.observability.events import AssociationAccepted, AssociationRequestRejected
from pacs.services.access import Access, Rules
from pacs.services.peers import Peers
from pacs.testing import serving, study
from tests import raw
from tests.archives import MOVE, identifier
from tests.dimse.conftest import Archive, Serve
from tests.dimse.raw import (
    AC,
    COMMAND,
    CT,
    DATA,
    EXPLICIT,
    IMPLICIT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    Peer,
    associate_rq,
    command,
    context_item,
    item,
    p_data,
    pdu,
    pdv,
)
from tests.dimse.test_requestor import acceptor, read_pdu, until_closed
from tests.dimse.test_retrieve import destination

HOST = "127.0.0.1"
CONTEXT = context_item(1, VERIFICATION, (IMPLICIT,))


def echo_on(number: int) -> bytes:
    """Return a C-ECHO-RQ on a context."""
    return p_data(pdv(number, COMMAND | LAST, command(VERIFICATION, 0x0030)))


def titled(called: bytes = b"PACS", calling: bytes = b"RAW") -> bytes:
    """Return a request with these AE titles, padded with spaces."""
    sent = associate_rq()
    return sent[:10] + called.ljust(16) + calling.ljust(16) + sent[42:]


def informed(*items: bytes) -> bytes:
    """Return a request with further sub-items of the user information."""
    return associate_rq(information=raw.wire.user_information(16384, *items))


def with_items(*items: bytes, application: bytes = b"1.2.840.10008.3.1.1.1") -> bytes:
    """Return a request of these items between its application context and its user information."""
    user = raw.wire.user_information()
    return pdu(1, associate_rq()[6:74] + item(0x10, application) + b"".join(items) + user)


def filled(sent: bytes, *places: slice) -> bytes:
    """Return bytes with FF in reserved places."""
    for each in places:
        sent = sent[: each.start] + b"\xff" * (each.stop - each.start) + sent[each.stop :]
    return sent


def proposed(abstract: bytes, *transfer: bytes, reserved: int = 0, number: int = 1) -> bytes:
    """Return a presentation context item."""
    names = item(0x30, abstract) + b"".join(item(0x40, each) for each in transfer)
    return item(0x20, bytes([number, reserved, reserved, reserved]) + names)


VERIFY, LITTLE = VERIFICATION.encode(), IMPLICIT.encode()
TOLERATED = {
    "calling title padded with NUL": titled(calling=b"EFILM".ljust(16, b"\0")),
    "called title padded with NUL": titled(called=b"PACS".ljust(16, b"\0")),
    "calling title with garbage after NUL": titled(calling=b"EFILM\0\xff\x01 garbage"),
    "calling title in Latin-1": titled(calling="MÜNSTER".encode("latin-1")),
    "called title in UTF-8": titled(called="MÜNSTER".encode()),
    "backslash in a title": titled(calling=b"A\\B"),
    "newline in a title": titled(calling=b"A\nB"),
    "blank called title": titled(called=b" "),
    "version name of 20 characters": informed(item(0x55, b"1.0 beta build 12345")),
    "version name padded with NUL": informed(item(0x55, b"ABC\0\0\0")),
    "version name in Latin-1": informed(item(0x55, "Münster".encode("latin-1"))),
    "version name with a newline": informed(item(0x55, b"A\nB")),
    "version name that is empty": informed(item(0x55, b"")),
    "implementation class UID of 70 characters": informed(item(0x52, b"1." * 34 + b"11")),
    "implementation class UID of letters": informed(item(0x52, b"M\xfcnster")),
    "implementation class UID that is empty": informed(item(0x52, b"")),
    "identity of an unknown type": informed(item(0x58, b"\x09\x01\0\x01x\0\0")),
    "role beside 0 and 1": informed(item(0x54, struct.pack(">H", 17) + VERIFY + b"\xff\0")),
    "role for no UID": informed(item(0x54, struct.pack(">H", 70) + b"x" * 70 + b"\x01\x01")),
    "extended negotiation for an empty UID": informed(item(0x56, struct.pack(">H", 0) + b"\xff\xfe\xfd")),
    "extended negotiation for a UID of NUL": informed(item(0x56, struct.pack(">H", 2) + b"\0\0\x01\xff")),
    "role for an empty UID": informed(item(0x54, struct.pack(">H", 0) + b"\x01\x01")),
    "extended negotiation for no UID": informed(item(0x56, struct.pack(">H", 3) + b"\xff\xfe\xfd" + b"\x01")),
    "common extended negotiation of garbage": informed(item(0x57, b"\xff" * 9)),
    "reserved bytes of the PDU": filled(associate_rq(), slice(1, 2), slice(8, 10), slice(42, 74)),
    "reserved bytes of items": pdu(1, associate_rq()[6:74] + b"\x10\xff" + associate_rq()[76:]),
    "an answer to a context in the request": with_items(b"\x21" + CONTEXT[1:], b"\x21\0\0\1x", CONTEXT),
    "reserved bytes of a context": with_items(proposed(VERIFY, LITTLE, reserved=0xFF)),
    "UIDs padded with NUL": with_items(
        proposed(VERIFY + b"\0", LITTLE + b"\0"), application=b"1.2.840.10008.3.1.1.1\0"
    ),
    "UIDs padded with spaces": with_items(
        proposed(VERIFY + b" ", LITTLE + b"  "), application=b"1.2.840.10008.3.1.1.1 "
    ),
    "another transfer syntax in Latin-1": with_items(proposed(VERIFY, b"\xfc", b"1." * 40, b"", LITTLE)),
    "another abstract syntax of 10 kB": with_items(CONTEXT, proposed(b"1." * 5000 + b"1", LITTLE, number=3)),
    "another abstract syntax in Latin-1": with_items(CONTEXT, proposed(b"\xfc", LITTLE, number=3)),
    "context with an even ID": with_items(CONTEXT, proposed(CT.encode(), LITTLE, number=8)),
    "context with ID 0": with_items(CONTEXT, proposed(CT.encode(), LITTLE, number=0)),
    "context twice": with_items(CONTEXT, proposed(CT.encode(), LITTLE, number=1)),
}


@pytest.mark.parametrize("sent", TOLERATED.values(), ids=TOLERATED.keys())
def test_p17_a_value_that_matters_to_nobody_costs_no_association(serve: Serve, sent: bytes) -> None:
    """The requestor is accepted and served; AE titles and reserved bytes come back as they were (PS3.8 9.3.3)."""
    with Peer(serve().port) as peer:
        peer.send(sent)
        kind, body = peer.receive()
        assert kind == AC, (kind, body)
        assert body[4:68] == sent[10:74]
        assert raw.contexts(body)[1] == (0, IMPLICIT)
        peer.send(echo_on(1))
        assert peer.status() == 0x0000
        peer.release()


@pytest.mark.parametrize("number", [0, 2, 8, 254])
def test_a_context_with_an_even_id_is_served(serve: Serve, number: int) -> None:
    """Also with role selection, and a refused one is answered with its ID."""
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\x01\x01")
    contexts = [(number, VERIFICATION, [IMPLICIT]), (number ^ 4, CT, [EXPLICIT]), (number ^ 6, "1.2.3", [IMPLICIT])]
    with Peer(serve().port) as peer:
        peer.send(raw.associate_rq(contexts, extra=role))
        kind, body = peer.receive()
        assert kind == AC
        results = {each: result for each, (result, _) in raw.contexts(body).items()}
        assert results == {number: 0, number ^ 4: 0, number ^ 6: 3}
        peer.send(echo_on(number))
        assert peer.status() == 0x0000


def test_of_two_contexts_with_one_id_the_first_counts(serve: Serve) -> None:
    """The answer has one result for both."""
    twice = with_items(proposed(VERIFY, LITTLE), proposed(CT.encode(), EXPLICIT.encode()), proposed(b"1.2.3", LITTLE))
    with Peer(serve().port) as peer:
        peer.send(twice)
        kind, body = peer.receive()
        results = [each for each in raw.items(body[68:]) if each[0] == 0x21]
        assert kind == AC
        assert len(results) == 1
        assert raw.contexts(body) == {1: (0, IMPLICIT)}


@pytest.mark.parametrize("calling", [b" ", b"\0" * 16, b"\0PACS"])
def test_a_blank_calling_title_is_rejected_with_1_1_3(serve: Serve, calling: bytes) -> None:
    """It is no AE title (PS3.8 9.3.2), whoever may associate."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.send(titled(calling=calling))
        kind, body = peer.receive()
    assert (kind, tuple(body[1:4])) == (RJ, (1, 1, 3))
    assert rejection_of(archive).comment == "Association rejected: calling AE title not recognized: it is blank"


def test_a_title_in_latin_1_has_its_characters_in_events(serve: Serve) -> None:
    """And '?' for control characters and backslashes."""
    archive = serve()
    for calling in ("MÜNSTER".encode("latin-1"), b"A\nB\\C"):
        with Peer(archive.port) as peer:
            peer.send(titled(calling=calling))
            assert peer.receive()[0] == AC
            peer.release()
    archive.ended_by(2)
    accepted = [each.calling_ae_title for each in archive.events if isinstance(each, AssociationAccepted)]
    assert sorted(accepted) == ["A?B?C", "MÜNSTER"]


def test_a_called_title_padded_with_nul_is_the_one_that_was_meant(serve: Serve) -> None:
    """Where the called AE title is checked, padding does not count, and a blank one is rejected with 1/1/7."""
    archive = serve(access=Access(Rules(any_called_title=False), Peers()))
    for called, answer in ((b"PACS".ljust(16, b"\0"), AC), (b" ", RJ), (b"PACS\0X", AC)):
        with Peer(archive.port) as peer:
            peer.send(titled(called=called))
            assert peer.receive()[0] == answer
    event = rejection_of(archive)
    assert (event.result, event.source, event.reason) == (1, 1, 7)


def test_reserved_bits_and_bytes_within_an_association_are_ignored(serve: Serve) -> None:
    """In the PDU header, the message control header and A-RELEASE-RQ."""
    with Peer(serve().port) as peer:
        peer.associate()
        echo = echo_on(1)
        peer.send(echo[:1] + b"\xff" + echo[2:11] + bytes([echo[11] | 0xFC]) + echo[12:])
        assert peer.status() == 0x0000
        peer.send(pdu(RELEASE_RQ, b"\xff" * 4))
        assert peer.receive()[0] == RELEASE_RP


# --- what is refused ---------------------------------------------------------------------------------------------


def rejection_of(archive: Archive) -> AssociationRequestRejected:
    """Return the event of the first refused request."""
    with archive.ended:
        assert archive.ended.wait_for(
            lambda: any(isinstance(each, AssociationRequestRejected) for each in archive.events), 60
        )
    return next(each for each in archive.events if isinstance(each, AssociationRequestRejected))


NO_ABSTRACT = item(0x20, b"\x09\0\0\0" + item(0x40, LITTLE))
REFUSED = {
    "no abstract syntax": (
        with_items(NO_ABSTRACT),
        f"item 20 (Presentation Context) has 0 abstract syntaxes instead of 1: {NO_ABSTRACT.hex(' ')}",
    ),
    "maximum length of 3 bytes": (
        informed(item(0x51, b"\1\2\3")),
        "item 51 (Maximum Length) has 3 bytes instead of 4: 51 00 00 03 01 02 03",
    ),
    "role cut short": (
        informed(item(0x54, b"\0\x40x")),
        "item 54 (Role Selection) does not have the length of its parts: 54 00 00 03 00 40 78",
    ),
    "cut before its titles": (pdu(1, b"\0\1\0\0PACS"), "it ends within its first 74 bytes: 01 00 00 00 00 08 00 01"),
    "P-DATA-TF": (echo_on(1), "P-DATA-TF of the requestor: it is unexpected: 04 00"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "PDU of the requestor: its type 47 is none of PS3.8; it begins with 47 45 54"),
}


@pytest.mark.parametrize(("sent", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_p18_what_is_refused_is_named_with_its_side_and_bytes(serve: Serve, sent: bytes, why: str) -> None:
    """In the event, and so in the log."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.send(sent)
        peer.aborted()
    comment = rejection_of(archive).comment
    assert comment.startswith("The requestor sent no valid association request; ")
    assert " of the requestor: " in comment
    assert why[:110] in comment


# --- the same from acceptors -------------------------------------------------------------------------------------


def answer(body: bytes, *more: bytes, contexts: bytes | None = None) -> bytes:
    """Return an accepting A-ASSOCIATE-AC to the body of a request for one context."""
    accepted = contexts if contexts is not None else item(0x21, bytes(4).replace(b"\0", b"\1", 1) + item(0x40, LITTLE))
    application = item(0x10, wire.APPLICATION_CONTEXT.encode())
    return pdu(AC, body[:68] + application + accepted + wire.user_information(16384, *more))


def accepted(number: int, *, result: int = 0, syntax: bytes = LITTLE, reserved: int = 0) -> bytes:
    """Return a presentation context item of the answer."""
    return item(0x21, bytes([number, reserved, result, reserved]) + item(0x40, syntax))


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "titles of NUL": lambda body: answer(body[:4] + bytes(64)),
    "titles in Latin-1": lambda body: answer(body[:4] + b"\xfc" * 64),
    "version name of 20 characters": lambda body: answer(body, item(0x55, b"1.0 beta build 12345")),
    "version name padded with NUL": lambda body: answer(body, item(0x55, b"ABC\0\0\0")),
    "version name in Latin-1": lambda body: answer(body, item(0x55, b"M\xfcnster")),
    "implementation class UID of letters": lambda body: answer(body, item(0x52, b"M\xfcnster" * 20)),
    "reserved bytes of a context": lambda body: answer(body, contexts=accepted(1, reserved=0xFF)),
    "UID padded with NUL": lambda body: answer(body, contexts=accepted(1, syntax=LITTLE + b"\0")),
    "context twice": lambda body: answer(body, contexts=accepted(1) + accepted(1, result=3)),
    "context with an even ID": lambda body: answer(body, contexts=accepted(1) + accepted(8)),
    "context that was not proposed": lambda body: answer(body, contexts=accepted(1) + accepted(77)),
    "refused context in Latin-1": lambda body: answer(
        body, contexts=accepted(1) + accepted(3, result=4, syntax=b"\xfc")
    ),
    "refused context of an unknown result": lambda body: answer(body, contexts=accepted(1) + accepted(3, result=99)),
    "protocol version 0": lambda body: answer(b"\0\0" + body[2:]),
    "another application context": lambda body: answer(body).replace(
        b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1\xfc1"
    ),
    "identity response of nothing": lambda body: answer(body, item(0x59, b"\0\0")),
}


def echoing(respond: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    """Answer an association request, and a C-ECHO on it."""

    def behave(connection: socket.socket) -> None:
        _, body = read_pdu(connection)
        connection.sendall(respond(body))
        kind, body = read_pdu(connection)
        if kind == DATA:
            (message,) = raw.messages([body])
            connection.sendall(raw.success(1, message.elements))
            read_pdu(connection)
            connection.sendall(pdu(RELEASE_RP, bytes(4)))

    return behave


@pytest.mark.parametrize("respond", ANSWERS.values(), ids=ANSWERS.keys())
def test_p17_a_value_of_the_answer_that_matters_to_nobody_costs_no_association(
    respond: Callable[[bytes], bytes],
) -> None:
    """A destination with a careless encoder gets what it is sent."""
    proposals = [(VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT])]
    with acceptor(echoing(respond)) as port:
        association = request(HOST, port, "OURS", "THEIRS", proposals)
        assert set(association.contexts) == {1}
        association.send(1, Command.request(CommandField.C_ECHO, 1, VERIFICATION))
        message = association.receive(60)
        assert message is not None
        assert message.command.status == 0x0000
        association.release()


@pytest.mark.parametrize("triplet", [(1, 3, 9), (9, 9, 99), (1, 1, 0)])
def test_a_rejection_for_an_unknown_reason_is_a_rejection(triplet: tuple[int, int, int]) -> None:
    """The sentence has the three numbers."""

    def reject(connection: socket.socket) -> None:
        read_pdu(connection)
        connection.sendall(pdu(RJ, bytes([0xFF, *triplet])))
        until_closed(connection)

    with acceptor(reject) as port, pytest.raises(AssociationRejected) as caught:
        request(HOST, port, "OURS", "THEIRS", [(VERIFICATION, [IMPLICIT])])
    assert caught.value.comment.endswith("/".join(map(str, triplet)))


def test_p18_an_invalid_answer_is_named_with_its_side_and_bytes() -> None:
    """It was this side that ended the association."""

    def cut_short(connection: socket.socket) -> None:
        _, body = read_pdu(connection)
        connection.sendall(answer(body, item(0x51, b"\1")))
        until_closed(connection)

    with acceptor(cut_short) as port, pytest.raises(DestinationUnreachable) as caught:
        request(HOST, port, "OURS", "THEIRS", [(VERIFICATION, [IMPLICIT])])
    assert caught.value.comment == (
        "The association was aborted here; A-ASSOCIATE-AC of the acceptor: "
        "item 51 (Maximum Length) has 1 bytes instead of 4: 51 00 00 01 01"
    )


def test_a_recording_has_even_ids_of_both_sides() -> None:
    """Whoever decodes an association between others sees the contexts that both mean."""
    sent = with_items(proposed(STORAGE_COMMITMENT.encode(), LITTLE, number=8))
    (asked,) = decode(ASSOCIATE_RQ, sent).to_primitive().presentation_context_definition_list
    received = answer(sent[6:], contexts=accepted(8))
    (granted,) = decode(ASSOCIATE_AC, received).to_primitive().presentation_context_definition_results_list
    assert (asked.context_id, granted.context_id) == (8, 8)


def test_the_bytes_of_a_user_identity_are_not_shown(serve: Serve) -> None:
    """They may be a passcode."""
    archive = serve()
    with Peer(archive.port) as peer:
        sent = informed(item(0x58, b"\2\1\0\4user\0\6secret"))
        peer.send(pdu(1, sent[6:].replace(b"\x58\0\0\x10", b"\x58\0\xff\xff")))
        peer.aborted()
    comment = rejection_of(archive).comment
    assert "item 58 (User Identity) has 16 bytes and announces 65535" in comment
    assert b"secret".hex(" ") not in comment


def test_an_archive_serves_a_requestor_with_a_careless_title(tmp_path: Path) -> None:
    """It stores, and its C-MOVE names it to the destination, in the bytes that it has."""
    (data_set,) = study(series=1, instances=1)
    titles = []

    def answer(event: evt.Event) -> int:
        titles.append(event.request.MoveOriginatorMessageID)
        return 0x0000

    store = [raw.element(0x1000, data_set.SOPInstanceUID.encode())]
    with (
        destination("TAKER", answer) as taker,
        serving(tmp_path, {"peers": [taker]}) as archive,
        Peer(archive.port) as peer,
    ):
        request_pdu = raw.associate_rq([(2, CT, [EXPLICIT]), (4, MOVE, [IMPLICIT])])
        peer.send(request_pdu[:26] + "MÜNSTER".encode("latin-1").ljust(16, b"\0") + request_pdu[42:])
        assert peer.receive()[0] == AC
        peer.send(raw.request(raw.C_STORE, 2, CT, 1, raw.encoded(data_set, EXPLICIT), store))
        assert peer.message().status == 0x0000
        keys = identifier("STUDY", IMPLICIT, StudyInstanceUID=data_set.StudyInstanceUID)
        peer.send(raw.request(raw.C_MOVE, 4, MOVE, 77, keys, [raw.element(0x0600, b"TAKER")]))
        assert peer.until_final()[-1].status == 0x0000
    assert titles == [77]
