"""Association requests of all kinds of careless encoders: each is accepted, rejected or refused, with a reason."""

import re
import socket
import struct
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.association import Association, AssociationLimits
from pacs.dimse.association.establishment import RejectedAssociation, accept
from pacs.dimse.server.acceptor_policy import AcceptorPolicy
from pacs.dimse.upper.pdus import ASSOCIATE_AC, InvalidPDU, decode
from pacs.errors import ProtocolViolation
from tests.dimse.raw import AC, ALL, pdu
from tests.raw import contexts as contexts_of

POLICY = AcceptorPolicy(transfer_syntaxes=KEPT)
LIMITS = AssociationLimits(negotiation=20, artim=0.1)
APPLICATION = b"1.2.840.10008.3.1.1.1"
REASON = re.compile(r"(item|[0-9]+ bytes remain after|it ends within its first) .*[0-9a-f]{2}")


def usually(value: object, other: st.SearchStrategy) -> st.SearchStrategy:
    """Return mostly this value."""
    return st.one_of(st.just(value), st.just(value), st.just(value), other)


def item(kind: st.SearchStrategy, body: st.SearchStrategy) -> st.SearchStrategy:
    """Return an item; its reserved byte and, rarely, its length have any value."""
    length = st.integers(0, 40).flatmap(lambda each: st.just(None) if each else st.integers(0, 0xFFFF))
    return st.builds(
        lambda kind, reserved, body, length: (
            struct.pack(">BBH", kind, reserved, len(body) if length is None else length) + body
        ),
        kind,
        st.sampled_from((0, 0xFF)),
        body,
        length,
    )


def joined(*parts: st.SearchStrategy) -> st.SearchStrategy:
    """Return bytes of several parts."""
    return st.tuples(*parts).map(b"".join)


def many(part: st.SearchStrategy, most: int) -> st.SearchStrategy:
    """Return the bytes of several items."""
    return st.lists(part, max_size=most).map(b"".join)


def counted(text: st.SearchStrategy) -> st.SearchStrategy:
    """Return a text behind its length."""
    return st.builds(lambda text, more: struct.pack(">H", len(text) + more) + text, text, usually(0, st.integers(0, 9)))


known = [each.encode() for abstract, syntaxes in ALL for each in (abstract, *syntaxes)]
uids = st.one_of(st.sampled_from([*known, b"", b"\0", b"1.2.3\0\0", b"1." * 40, b"\xff\xfe"]), st.binary(max_size=70))
any_bytes = st.binary(max_size=12)
sub_items = st.one_of(
    item(st.just(0x51), usually(b"\0\0\x40\0", any_bytes)),
    item(st.just(0x52), uids),
    item(st.just(0x53), usually(b"\0\1\0\1", any_bytes)),
    item(st.just(0x54), joined(counted(uids), usually(b"\0\1", any_bytes))),
    item(st.just(0x55), any_bytes),
    item(st.just(0x56), joined(counted(uids), any_bytes)),
    item(st.just(0x58), joined(st.binary(min_size=2, max_size=2), counted(any_bytes), counted(any_bytes))),
    item(st.integers(0, 0xFF), any_bytes),
)
context = item(
    usually(0x20, st.just(0x21)),
    joined(
        st.binary(min_size=4, max_size=4),
        item(st.just(0x30), uids),
        many(item(usually(0x40, st.integers(0, 0xFF)), uids), 4),
    ),
)
titles = usually(b"RAW".ljust(16), st.binary(min_size=16, max_size=16))
requests = joined(
    usually(b"\0\1", st.binary(min_size=2, max_size=2)),
    st.binary(min_size=2, max_size=2),
    titles,
    titles,
    st.binary(min_size=32, max_size=32),
    item(st.just(0x10), usually(APPLICATION, uids)),
    many(context, 4),
    item(st.just(0x50), many(sub_items, 5)),
    many(item(st.integers(0, 0xFF), any_bytes), 1),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a request of which some bytes may be different or missing."""
    sent = bytearray(draw(requests))
    for _ in range(draw(usually(0, st.integers(1, 4)))):
        sent[draw(st.integers(0, len(sent) - 1))] = draw(st.integers(0, 0xFF))
    return bytes(sent[: draw(usually(len(sent), st.integers(0, len(sent))))])


def answered(body: bytes) -> Association | RejectedAssociation | str:
    """Return what a request with this body becomes, or why it is refused; check the answer that is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        requestor = socket.create_connection(listener.getsockname())
        accepted, address = listener.accept()
    with closing(requestor):
        requestor.sendall(pdu(1, body))
        requestor.shutdown(socket.SHUT_WR)
        try:
            found = accept(accepted, address, POLICY, LIMITS, lambda _caller: None)
        except ProtocolViolation as violation:
            return violation.comment
        with closing(found):
            if isinstance(found, Association):
                check_acceptance(body, requestor.recv(1 << 20, socket.MSG_DONTWAIT))
        return found


def check_acceptance(body: bytes, answer: bytes) -> None:
    """Check that an acceptance is valid, repeats the titles, and answers each context once."""
    decode(ASSOCIATE_AC, answer)
    assert (answer[0], answer[10:74]) == (AC, body[4:68])
    ids = [each[0] for kind, each in top_items(body[68:]) if kind == 0x20]
    assert list(contexts_of(answer[6:])) == list(dict.fromkeys(ids))


def top_items(data: bytes) -> list[tuple[int, bytes]]:
    """Return the items of the body of a request."""
    found = []
    while data:
        length = int.from_bytes(data[2:4], "big")
        found.append((data[0], data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def check(body: bytes) -> None:
    """Check what becomes of a request: what is refused has a reason that names the item and its bytes."""
    found = answered(body)
    if isinstance(found, RejectedAssociation):
        assert found.rejection.comment.startswith("Association rejected: ")
        assert not found.rejection.comment.endswith("no reason given")
    elif isinstance(found, str):
        assert REASON.match(found.partition("A-ASSOCIATE-RQ of the requestor: ")[2]), found
        assert len(found) < 400


@given(damaged())
@settings(max_examples=150, deadline=None)
def test_p17_p18_a_careless_request_is_answered_or_refused_with_its_reason(body: bytes) -> None:
    """Whatever its items are."""
    check(body)


@pytest.mark.long
@given(damaged())
@settings(max_examples=5_000, deadline=None)
def test_p17_p18_the_same_for_many_more(body: bytes) -> None:
    """Whatever its items are."""
    check(body)


@given(damaged())
@settings(max_examples=150, deadline=None)
def test_p17_p18_a_careless_answer_is_understood_or_refused_with_its_reason(body: bytes) -> None:
    """The same items in an A-ASSOCIATE-AC."""
    assert REASON.match(why_refused(ASSOCIATE_AC, body) or "item 00: 00")


def why_refused(kind: int, body: bytes) -> str:
    """Return why a PDU is refused, '' if it is not."""
    try:
        decode(kind, pdu(kind, body))
    except InvalidPDU as error:
        return str(error)
    return ""
