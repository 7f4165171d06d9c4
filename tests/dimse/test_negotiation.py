"""Which associations and contexts a running server accepts, for requests written by hand."""

import struct

import pytest
from pydicom.uid import UID_dictionary

from pacs.conformance.checks.wire import extended_negotiation as extended
from pacs.conformance.checks.wire import role_selection as role
from pacs.dicom.matching_mode import Negotiated
from pacs.dicom.sop_classes import NON_PATIENT, STORAGE
from pacs.dicom.syntaxes import KEPT
from pacs.dimse.association.extended_negotiation import extended_answer, negotiated
from pacs.dimse.server.acceptor_policy import choose_for_retrieval, choose_transfer_syntax
from pacs.dimse.upper.user_information import UserIdentity
from pacs.errors import UserRefused
from pacs.observability.events import AssociationRequestRejected
from pacs.services.access import Access, Rules
from pacs.services.peers import Peer as PeerAE
from pacs.services.peers import Peers
from tests.dimse import raw
from tests.dimse.conftest import OURS_ALONE, Serve
from tests.dimse.raw import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    RJ,
    STUDY_FIND,
    VERIFICATION,
    Peer,
    associate_rq,
    contexts_of,
    information_of,
    item,
)

STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
PRIVATE = "1.2.3.4.5.6.7"
HANGING_PROTOCOL = "1.2.840.10008.5.1.4.38.1"
PRINT = "1.2.840.10008.5.1.1.9"
JPIP = "1.2.840.10008.1.2.4.94"

ACCEPTED, REJECTED_BY_USER, NO_ABSTRACT, NO_TRANSFER = 0, 1, 3, 4


def answers(archive_port: int, *contexts: tuple[str, tuple[str, ...]], calling: str = "RAW") -> list[tuple[int, str]]:
    """Return the result and transfer syntax of each proposed context, in order."""
    with Peer(archive_port) as peer:
        found = contexts_of(peer.associate(contexts=contexts, calling=calling))
        return [found[2 * n + 1] for n in range(len(contexts))]


# --- rejections --------------------------------------------------------------------------------------------------


def rejected(port: int, **options: object) -> tuple[int, int, int]:
    """Return result, source and reason of the A-ASSOCIATE-RJ."""
    with Peer(port) as peer:
        peer.send(associate_rq(**options))  # type: ignore[arg-type]
        kind, body = peer.receive()
        assert kind == RJ
        return body[1], body[2], body[3]


def test_an_unknown_called_ae_title_is_rejected_with_1_1_7(serve: Serve) -> None:
    """Only where access.called_ae requires our own."""
    strict, open_one = serve(access=OURS_ALONE), serve()
    assert rejected(strict.port, called="OTHER") == (1, 1, 7)
    for port in (strict.port, open_one.port):
        assert answers(port, (VERIFICATION, (IMPLICIT,))) == [(ACCEPTED, IMPLICIT)]
    with Peer(open_one.port) as peer:
        peer.associate(called="OTHER")


def test_an_unknown_calling_ae_title_is_rejected_with_1_1_3(serve: Serve) -> None:
    """The padding of an AE title is ignored. The log says what to add to the configuration."""
    friend = PeerAE("FRIEND", "127.0.0.1", 104)
    archive = serve(access=Access(Rules(any_caller=False), Peers([friend])))
    assert rejected(archive.port, calling="STRANGER") == (1, 1, 3)
    assert answers(archive.port, (VERIFICATION, (IMPLICIT,)), calling="FRIEND")
    event = next(each for each in archive.events if isinstance(each, AssociationRequestRejected))
    assert (event.calling_ae_title, event.result, event.source, event.reason) == ("STRANGER", 1, 1, 3)
    assert event.comment.endswith("allow it with `pacs peers add STRANGER 127.0.0.1 PORT`")


def test_another_application_context_is_rejected_with_1_1_2(serve: Serve) -> None:
    """The standard has only one."""
    assert rejected(serve().port, application="1.2.840.10008.3.1.1.2") == (1, 1, 2)


def test_another_protocol_version_is_rejected_with_1_2_2(serve: Serve) -> None:
    """Only bit 0 counts: version 3 includes version 1."""
    archive = serve()
    assert rejected(archive.port, version=2) == (1, 2, 2)
    with Peer(archive.port) as peer:
        peer.associate(version=3)


def test_a_peer_with_too_small_a_maximum_length_is_rejected(serve: Serve) -> None:
    """Seven bytes hold no fragment; 0 is without limit."""
    archive = serve()
    assert rejected(archive.port, information=raw.user_information(7)) == (1, 1, 1)
    with Peer(archive.port) as peer:
        peer.associate(information=raw.user_information(0))


# --- contexts ----------------------------------------------------------------------------------------------------


def test_the_first_supported_transfer_syntax_is_accepted(serve: Serve) -> None:
    """The requestor's order decides."""
    assert answers(
        serve().port,
        (CT, (JPEG, EXPLICIT)),
        (CT, (EXPLICIT, JPEG)),
        (CT, (BIG_ENDIAN, EXPLICIT)),
        (CT, (JPIP, "1.2.3.4", DEFLATED)),
    ) == [(ACCEPTED, JPEG), (ACCEPTED, EXPLICIT), (ACCEPTED, BIG_ENDIAN), (ACCEPTED, DEFLATED)]


def test_implicit_vr_is_accepted_only_without_an_explicit_one(serve: Serve) -> None:
    """Private elements would lose their VRs."""
    assert answers(serve().port, (CT, (IMPLICIT, EXPLICIT)), (CT, (IMPLICIT, JPEG)), (CT, (IMPLICIT,))) == [
        (ACCEPTED, EXPLICIT),
        (ACCEPTED, JPEG),
        (ACCEPTED, IMPLICIT),
    ]


def test_a_peer_may_have_its_own_order_of_transfer_syntaxes(serve: Serve) -> None:
    """Transfer syntaxes that it does not list follow those that it does."""
    archive = serve(order_for=lambda ae_title: (IMPLICIT, JPEG) if ae_title == "ODD" else ())
    proposed = ((CT, (EXPLICIT, IMPLICIT)), (CT, (EXPLICIT, JPEG)), (CT, (EXPLICIT,)))
    assert [each for _, each in answers(archive.port, *proposed, calling="ODD")] == [IMPLICIT, JPEG, EXPLICIT]
    assert [each for _, each in answers(archive.port, *proposed)] == [EXPLICIT, EXPLICIT, EXPLICIT]


def test_an_unsupported_transfer_syntax_is_rejected_with_result_4(serve: Serve) -> None:
    """And an unknown abstract syntax with result 3."""
    found = answers(serve().port, (CT, (JPIP,)), (PRIVATE, (IMPLICIT,)), (PRINT, (IMPLICIT,)), (CT, ()))
    assert [result for result, _ in found] == [NO_TRANSFER, NO_ABSTRACT, NO_ABSTRACT, NO_TRANSFER]


def test_unknown_and_private_classes_are_accepted_when_enabled(serve: Serve) -> None:
    """Known ones that are no Storage stay refused, Non-Patient Object Storage by name."""
    found = answers(
        serve(unknown_sop_classes=True).port,
        (PRIVATE, (EXPLICIT,)),
        ("1.2.840.10008.5.1.4.1.1.99999", (EXPLICIT,)),
        (HANGING_PROTOCOL, (EXPLICIT,)),
        (PRINT, (IMPLICIT,)),
    )
    assert [result for result, _ in found] == [ACCEPTED, ACCEPTED, NO_ABSTRACT, NO_ABSTRACT]


def test_p9_deflated_is_kept_for_storage_and_refused_for_identifiers(serve: Serve) -> None:
    """An Identifier in Explicit VR Big Endian is understood."""
    assert answers(
        serve().port,
        (CT, (DEFLATED,)),
        (STUDY_FIND, (DEFLATED,)),
        (STUDY_MOVE, (BIG_ENDIAN,)),
        (VERIFICATION, (DEFLATED,)),
    ) == [(ACCEPTED, DEFLATED), (NO_TRANSFER, DEFLATED), (ACCEPTED, BIG_ENDIAN), (NO_TRANSFER, DEFLATED)]


def test_every_storage_class_of_the_dictionary_is_offered() -> None:
    """Retired ones too; no commitment, no DICOMDIR, nothing without a patient."""
    named = {uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and "Image Storage" in name}
    assert named <= STORAGE
    assert not STORAGE & NON_PATIENT
    assert not STORAGE & {"1.2.840.10008.1.20.1", "1.2.840.10008.1.3.10", VERIFICATION, STUDY_FIND}


def test_every_kept_syntax_is_accepted_for_storage(serve: Serve) -> None:
    """Each proposed alone."""
    assert answers(serve().port, *((CT, (uid,)) for uid in KEPT)) == [(ACCEPTED, uid) for uid in KEPT]


def test_an_association_without_an_accepted_context_is_still_accepted(serve: Serve) -> None:
    """Only a release is possible."""
    with Peer(serve().port) as peer:
        assert contexts_of(peer.associate(contexts=((PRINT, (IMPLICIT,)),))) == {1: (NO_ABSTRACT, IMPLICIT)}
        peer.release()


def test_no_transfer_syntax_is_chosen_without_a_supported_proposal() -> None:
    """No proposal, or none that is kept."""
    assert choose_transfer_syntax((), KEPT) is None
    assert choose_transfer_syntax((JPIP,), KEPT) is None
    assert choose_transfer_syntax((EXPLICIT,), KEPT, (IMPLICIT,)) == EXPLICIT


# --- contexts in which the requestor receives the instances of a C-GET --------------------------------------------

J2K, RLE, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"
VIDEO, MPEG4 = "1.2.840.10008.5.1.4.1.1.77.1.4.1", "1.2.840.10008.1.2.4.102"


@pytest.mark.parametrize(
    ("proposed", "order", "chosen"),
    [
        ([[EXPLICIT, BIG_ENDIAN, IMPLICIT]], (), [EXPLICIT]),  # getscu
        ([[IMPLICIT, EXPLICIT]], (), [EXPLICIT]),  # dcm4che
        ([[JPEG, EXPLICIT, BIG_ENDIAN, IMPLICIT]], (), [EXPLICIT]),  # getscu +xy
        ([[J2K, RLE, IMPLICIT]], (), [IMPLICIT]),
        ([[BIG_ENDIAN, IMPLICIT]], (), [IMPLICIT]),  # retired ones come last
        ([[DEFLATED]], (), [DEFLATED]),
        ([[J2K, RLE]], (), [J2K]),
        ([[J2K], [RLE], [EXPLICIT, IMPLICIT]], (), [J2K, RLE, EXPLICIT]),  # one context for each transfer syntax
        ([[EXPLICIT], [IMPLICIT], [J2K]], (), [EXPLICIT, IMPLICIT, J2K]),
        ([[EXPLICIT, J2K], [EXPLICIT, J2K]], (), [EXPLICIT, J2K]),
        ([[EXPLICIT, J2K], [EXPLICIT, J2K, RLE], [J2K, RLE]], (), [EXPLICIT, RLE, J2K]),
        ([[J2K, EXPLICIT], [EXPLICIT, IMPLICIT]], (), [J2K, EXPLICIT]),
        ([[EXPLICIT, RLE]], (RLE,), [RLE]),  # the order of the peer, or its send_as
        ([[EXPLICIT, RLE], [EXPLICIT, J2K]], (RLE,), [RLE, EXPLICIT]),
        ([[EXPLICIT, RLE], [EXPLICIT, J2K]], (IMPLICIT, EXPLICIT), [EXPLICIT, EXPLICIT]),
        ([[JPIP], ["1.2.3", EXPLICIT]], (), [None, EXPLICIT]),
        ([], (), []),
    ],
)
def test_a_requestor_that_receives_gets_an_uncompressed_context_and_different_compressed_ones(
    proposed: list[list[str]], order: tuple[str, ...], chosen: list[str | None]
) -> None:
    """So that every image reaches it, and as many as possible as they are stored."""
    assert choose_for_retrieval(proposed, KEPT, order) == chosen


def test_only_the_contexts_of_a_receiver_are_chosen_for_retrieval(serve: Serve) -> None:
    """A sender keeps its order, and a video stays compressed: nothing decodes it."""
    contexts = ((CT, (J2K, EXPLICIT)), (VIDEO, (MPEG4, EXPLICIT)))
    archive = serve(send_as_for=lambda ae_title: (RLE,) if ae_title == "SMALL" else ())
    assert answers(archive.port, *contexts) == [(ACCEPTED, J2K), (ACCEPTED, MPEG4)]
    receiving = raw.user_information(16384, role(CT, 0, 1) + role(VIDEO, 0, 1))
    with Peer(archive.port) as peer:
        assert contexts_of(peer.associate(contexts=contexts, information=receiving)) == {
            1: (ACCEPTED, EXPLICIT),
            3: (ACCEPTED, MPEG4),
        }
    with Peer(archive.port) as peer:
        accepted = peer.associate(contexts=((CT, (EXPLICIT, RLE)),), information=receiving, calling="SMALL")
        assert contexts_of(accepted) == {1: (ACCEPTED, RLE)}


# --- roles -------------------------------------------------------------------------------------------------------


def roles_of(accept: bytes) -> dict[str, tuple[int, int]]:
    """Return the roles in the answer, (SCU, SCP) by SOP Class."""
    return {body[2:-2].decode(): (body[-2], body[-1]) for kind, body in information_of(accept) if kind == 0x54}


@pytest.mark.parametrize(("scu", "scp"), [(0, 1), (1, 1), (1, 0)])
def test_the_requestor_may_take_both_roles_of_storage(serve: Serve, scu: int, scp: int) -> None:
    """As SCP for a C-GET; roles that it does not propose are not accepted."""
    with Peer(serve().port) as peer:
        accept = peer.associate(information=raw.user_information(16384, role(CT, scu, scp)))
        assert roles_of(accept) == {CT: (scu, scp)}


def test_no_role_is_selected_for_queries_and_where_none_was_proposed(serve: Serve) -> None:
    """The default roles have no sub-item."""
    with Peer(serve().port) as peer:
        accept = peer.associate(information=raw.user_information(16384, role(STUDY_FIND, 1, 1)))
        assert roles_of(accept) == {}


def test_a_context_without_any_role_is_rejected(serve: Serve) -> None:
    """Neither SCU nor SCP is proposed."""
    with Peer(serve().port) as peer:
        accept = peer.associate(information=raw.user_information(16384, role(CT, 0, 0)))
        assert contexts_of(accept)[raw.CT_CONTEXT][0] == REJECTED_BY_USER


# --- extended negotiation ----------------------------------------------------------------------------------------


def extended_of(accept: bytes) -> dict[str, bytes]:
    """Return the answers by SOP Class."""
    found = {}
    for kind, body in information_of(accept):
        if kind == 0x56:
            (length,) = struct.unpack_from(">H", body)
            found[body[2 : 2 + length].decode()] = body[2 + length :]
    return found


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        (b"\1", b"\1"),
        (b"\0", b"\0"),
        (b"\2", b"\0"),
        (b"\1\1\1", b"\1\1\1"),
        (b"\1\1\1\1\1\1\1", b"\1\1\1\0\0\1\1"),
        (b"\0\1\0\1\0\0\1", b"\0\1\0\0\0\0\1"),
        (b"\1" * 20, b"\1\1\1\0\0\1\1"),
        (b"", None),
    ],
)
def test_each_offered_byte_is_echoed_or_declined(serve: Serve, offered: bytes, answered: bytes | None) -> None:
    """One byte gets one byte; time zones and views are declined; an empty offer has no answer."""
    with Peer(serve().port) as peer:
        accept = peer.associate(information=raw.user_information(16384, extended(STUDY_FIND, offered)))
        assert extended_of(accept) == ({} if answered is None else {STUDY_FIND: answered})


def test_only_offers_of_accepted_contexts_are_answered(serve: Serve) -> None:
    """There is no sub-item for Storage, for a class without a context, or without an offer."""
    offers = extended(CT, b"\1\1") + extended(STUDY_MOVE, b"\1")
    with Peer(serve().port) as peer:
        assert extended_of(peer.associate(information=raw.user_information(16384, offers))) == {}


def test_retrieves_agree_to_relational_only() -> None:
    """Byte 2, views, is declined."""
    assert extended_answer(STUDY_MOVE, b"\1\1") == b"\1\0"


def test_the_agreed_bytes_are_decoded() -> None:
    """As `Negotiated`."""
    assert negotiated(STUDY_FIND, b"\1\0\1\0\0\1\0") == Negotiated(relational=True, fuzzy_names=True, empty_values=True)
    assert negotiated(STUDY_FIND, None) == Negotiated()
    assert negotiated(STUDY_MOVE, b"\1\1") == Negotiated(relational=True)


# --- the rest of the user information ----------------------------------------------------------------------------


def identity(kind: int, primary: bytes, secondary: bytes = b"", *, asked: bool = True) -> bytes:
    """Return a User Identity sub-item."""
    return item(
        0x58,
        bytes([kind, asked])
        + struct.pack(">H", len(primary))
        + primary
        + struct.pack(">H", len(secondary))
        + secondary,
    )


@pytest.mark.parametrize(
    ("sub_item", "answered"),
    [
        (identity(1, b"user"), True),
        (identity(2, b"user", b"passcode"), True),
        (identity(1, b"user", asked=False), False),
        (identity(3, b"ticket"), False),
    ],
)
def test_a_user_identity_is_answered_if_a_response_is_requested(serve: Serve, sub_item: bytes, answered: bool) -> None:
    """Types 1 and 2; the response is empty."""
    with Peer(serve().port) as peer:
        found = dict(information_of(peer.associate(information=raw.user_information(16384, sub_item))))
        assert found.get(0x59) == (b"\0\0" if answered else None)


def test_a_user_identity_can_be_checked(serve: Serve) -> None:
    """The callable gets type and fields; its refusal is a rejection."""
    seen: list[UserIdentity] = []

    def identify(user: UserIdentity | None) -> str:
        assert user is not None
        seen.append(user)
        if user.secondary != b"right":
            raise UserRefused("The passcode is not right")
        return "u"

    archive = serve(identify=identify)
    assert rejected(archive.port, information=raw.user_information(0, identity(2, b"u", b"wrong")))[:2] == (2, 2)
    with Peer(archive.port) as peer:
        peer.associate(information=raw.user_information(0, identity(2, b"u", b"right")))
    assert [(each.type, each.primary, each.response_requested) for each in seen] == [(2, b"u", True)] * 2
    assert "right" not in repr(seen)
