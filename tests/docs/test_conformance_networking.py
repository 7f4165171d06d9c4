"""Checks sections 1, 2, 3.1, 3.7, 5 and 6 of the conformance statement on running servers."""

import re
import socket
import struct
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pacs.cli import main
from pacs.config import Config
from pacs.errors import ConfigurationError
from pacs.testing import serving, study
from tests import raw
from tests.archives import identifier, take_in
from tests.certificates import Authority
from tests.committing import PUSH_MODEL
from tests.dimse.test_asynchronous_operations import DATASETS
from tests.dimse.test_asynchronous_operations import Destination as WindowDestination
from tests.dimse.test_store_suboperations import move
from tests.docs.requests import (
    CT,
    FIND,
    MOVE,
    SERVICES,
    VERIFICATION,
    Requestor,
    answered,
    destination,
    ended,
    extended,
    identity,
    model,
    negotiated,
    role,
    store,
    triplet,
)
from tests.docs.statement import TEXT, covers, rows
from tests.interop.lost_responses import find_images, late_requestor
from tests.interop.requestors import Caller, with_gdcm
from tests.programs import free_port, run
from tests.raw import EXPLICIT, IMPLICIT, Raw
from tests.waiting import eventually

DEFLATED, BIG, JPEG, JPIP = (f"1.2.840.10008.1.2{each}" for each in (".1.99", ".2", ".4.50", ".4.94"))
ACCEPTED, NO_ABSTRACT, NO_TRANSFER = 0, 3, 4
ABORT, REJECT = 0x07, 0x03
REQUEST = raw.associate_rq([(1, VERIFICATION, [IMPLICIT])])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A server with the defaults, and one peer with `transfer_syntaxes`."""
    peer = {"ae_title": "ORDERLY", "host": "127.0.0.1", "port": 1, "transfer_syntaxes": [JPEG, IMPLICIT]}
    with serving(tmp_path_factory.mktemp("networking"), {"peers": [peer]}) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that accepts one association, of one peer, with its own AE title only."""
    peer = {"ae_title": "RAW", "host": "127.0.0.1", "port": 1}
    settings = {
        "access.callers": "peers",
        "access.called_ae": "ours",
        "limits.associations": 1,
        "server.ae_title": "MINE",
        "server.aliases": ["OURS"],
        "access.users": "optional",
        "users": [{"name": "alice"}],
        "peers": [peer],
    }
    with serving(tmp_path_factory.mktemp("guarded"), settings) as running:
        yield running


# --- 1. Overview -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", rows("1. Overview", "SOP Class")[:-2], ids=lambda row: row[0])
def test_every_service_is_offered_as_scp(archive, row):
    """Its context is accepted; a C-MOVE without a destination gets A801, other requests 0000."""
    _, sop_class, _, as_scp = row
    assert as_scp == "yes"
    kind = {".1": raw.C_ECHO} if sop_class == VERIFICATION else {".1": raw.C_FIND, ".2": raw.C_MOVE, ".3": raw.C_GET}
    data = None if sop_class == VERIFICATION else identifier("STUDY", StudyInstanceUID="1.2.3")
    with Requestor(archive.port) as requestor:
        final = requestor.ask(kind[sop_class[-2:]], sop_class, data, [raw.element(0x0600, b"NOBODY")])[-1]
    assert final.status == (0xA801 if sop_class.endswith(".2") else 0x0000)


@covers("pacs is an archive", "Conformant to PS3.4 Annex A", "One application entity performs all services")
def test_verification_as_scp_and_scu(archive, tmp_path):
    """DCMTK's echoscu succeeds; `pacs check` sends a C-ECHO with the AE title of the server."""
    run("echoscu", "-aec", "PACS", "127.0.0.1", archive.port)
    with destination("PEER") as peer:
        file = tmp_path / "config.toml"
        file.write_text(
            f'[server]\nport = 0\n[[peers]]\nae_title = "PEER"\nhost = "127.0.0.1"\nport = {peer["port"]}\n'
        )
        printed = CliRunner().invoke(main, ["check", "--config", str(file)]).output
    assert "peer PEER" in printed
    assert "answers C-ECHO" in printed


def test_the_number_of_storage_classes():
    """Section 1 counts the rows of section 3.2."""
    last, where, *_ = rows("1. Overview", "SOP Class")[-1]
    assert (last, where) == (f"{len(rows('3.2 Storage', 'SOP Class'))} Storage SOP Classes", "see section 3.2")


# --- 2.1 Application entity --------------------------------------------------------------------------------------


SAID = dict(rows("2.1 Application entity", "what"))


def test_the_application_entity(archive):
    """AE title, application context name and implementation are those of the table, and the default port."""
    with Raw(archive.port) as client:
        accept = client.associate((1, VERIFICATION, [IMPLICIT]))
    information = dict(answered(archive.port))
    take_in(archive, study(series=1, instances=1, patient_id="WHO"))
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found("STUDY", PatientID="WHO")
    assert {
        "AE title": found.RetrieveAETitle,
        "port": str(Config().server.port),
        "application context name": dict(raw.items(accept[68:]))[0x10].decode(),
        "implementation class UID": information[0x52].decode(),
        "implementation version name": information[0x55].decode(),
    } == SAID


# --- 2.2 Associations --------------------------------------------------------------------------------------------


DEFECTS = {key: value for *_, key, value in rows("2.2 Associations", "client")}
"""The remedies for known defects of clients, by configuration key."""


@covers("Some clients have defects", "The server recognises such a client")
def test_each_known_defect_of_a_client_has_a_remedy_that_is_tested_here():
    """It is applied by default."""
    assert DEFECTS.keys() == {"clients.pynetdicom_hold", "clients.gdcm_one_syntax"}
    assert float(DEFECTS["clients.pynetdicom_hold"]) > 0
    assert DEFECTS["clients.gdcm_one_syntax"] == "true"


@covers("The remedy is switched off")
@pytest.mark.parametrize("seconds", [0, 2])
def test_pynetdicom_that_is_late_loses_no_response_with_the_remedy(tmp_path, seconds):
    """Without it, it loses at least one of six."""
    with serving(tmp_path, {"clients.pynetdicom_hold": seconds}) as running:
        take_in(running, study(series=1, instances=5))
        association = late_requestor(running.port, 60 if seconds == 0 else 0.1)
        assert len(list(find_images(association))) == 6
        assert (len(list(find_images(association))) < 6) is (seconds == 0)
        association.abort()


@covers("The remedy is switched off")
@pytest.mark.parametrize("remedied", [True, False])
def test_gdcm_receives_all_instances_of_a_c_move_with_the_remedy(tmp_path, remedied):
    """Without it, gdcmscu cannot read any."""
    moved, datasets, port = tmp_path / "moved", study(series=1, instances=2), free_port()
    moved.mkdir()
    peer = {"ae_title": "GDCM", "host": "127.0.0.1", "port": port}
    with serving(tmp_path / "pacs", {"clients.gdcm_one_syntax": remedied, "peers": [peer]}) as running:
        take_in(running, datasets)
        with_gdcm(Caller(running.port, "GDCM", port), "move", datasets[0].StudyInstanceUID, moved)
    assert len(list(moved.iterdir())) == (2 if remedied else 0)


@covers("The requests of an association are performed one after the other")
def test_requests_are_performed_one_after_the_other(archive):
    """Two C-FINDs in one packet are answered completely, one after the other."""
    take_in(archive, study(series=1, instances=2, patient_id="TWO"))
    data = identifier("IMAGE", PatientID="TWO", SOPInstanceUID="")
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(*(raw.request(raw.C_FIND, 1, FIND, number, data) for number in (1, 2)))
        order = [each.number(0x0120) for _ in (1, 2) for each in client.until_final()]
    assert order == [1, 1, 1, 2, 2, 2]


@covers("A proposed asynchronous operations window is accepted")
def test_the_asynchronous_operations_window(archive):
    """Up to (16, 16); no answer without a proposal."""
    assert (0x53, b"\0\x10\0\x09") in answered(archive.port, raw.item(0x53, struct.pack(">HH", 0, 9)))
    assert 0x53 not in dict(answered(archive.port))


@covers("A C-MOVE proposes (16, 1)")
@pytest.mark.parametrize("associations", [1, 2])
def test_a_c_move_uses_the_window_that_the_destination_accepts(tmp_path, associations):
    """Also on one of several associations."""
    with WindowDestination(least=5) as taker:
        peer = taker.peer() | {"associations": associations}
        with serving(tmp_path, {"peers": [peer]}) as running:
            take_in(running, DATASETS)
            assert move(running)[-1].status == 0x0000
    assert (taker.most, set(taker.proposed)) == (5, {struct.pack(">HH", 16, 1)})


@covers(
    "The accepted types of user identity are name (type 1)",
    "Kerberos and SAML users are unknown",
    "The positive response is sent when it was requested",
)
@pytest.mark.parametrize(("kind", "response"), [(1, b"\0\0"), (2, b"\0\0"), (3, None), (4, None), (5, None)])
def test_a_user_identity_is_accepted(archive, kind, response):
    """Types 1 and 2 get a positive response if requested."""
    for asked in (True, False):
        sub_item = identity(kind, b"user", b"pw", is_answer_wanted=asked)
        assert dict(answered(archive.port, sub_item)).get(0x59) == (response if asked else None)


@covers("SOP Class Common Extended Negotiation is not answered")
def test_common_extended_negotiation_is_not_answered(archive):
    """A related general SOP Class is proposed; the answer has no sub-item 57H."""
    uids = (CT, "1.2.840.10008.4.2")
    body = b"".join(struct.pack(">H", len(each)) + each.encode() for each in uids) + b"\0\0"
    assert 0x57 not in dict(answered(archive.port, struct.pack(">BBH", 0x57, 0, len(body)) + body))


@covers(
    "padding with NUL, AE titles in Latin-1, reserved bytes and even presentation context",
    "A UID or Implementation Version Name that is too long or not ASCII costs at most its presentation context",
    "Of presentation contexts with one ID the first counts",
    "AE titles and reserved bytes are answered as they came",
)
def test_careless_values_cost_no_association(archive):
    """All of them in one request, whose first context is accepted; the long UID costs its own context only."""
    contexts = [(2, VERIFICATION, [IMPLICIT]), (4, "1." * 40 + "1", [IMPLICIT]), (2, "1.2.3", [IMPLICIT])]
    sent = raw.associate_rq(contexts, extra=raw.item(0x55, "Münster, at the clinic".encode("latin-1")))
    titles = b"PACS".ljust(16, b"\0") + "MÜNSTER".encode("latin-1").ljust(16)
    with Raw(archive.port) as client:
        client.send(sent[:10] + titles + b"\xff" * 32 + sent[74:])
        kind, body = client.pdu()
        assert kind == 0x02
        assert body[4:68] == titles + b"\xff" * 32
        assert {each: result for each, (result, _) in raw.contexts(body).items()} == {2: ACCEPTED, 4: NO_ABSTRACT}
        client.send(raw.request(raw.C_ECHO, 2, VERIFICATION, 1, None))
        assert client.message().status == 0x0000


@covers("An association is accepted even if none of its presentation contexts is")
def test_an_association_without_an_accepted_context(archive):
    """It is accepted, and can be released."""
    with Raw(archive.port) as client:
        accept = client.associate((1, "1.2.840.10008.5.1.1.9", [IMPLICIT]))
        assert [result for result, _ in raw.contexts(accept).values()] == [NO_ABSTRACT]
        client.release()


REJECTED = {
    "1/1/1": {"max_pdu": 7},
    "1/1/2": {"application": "1.2.840.10008.3.1.1.2"},
    "1/1/3": {"calling": "STRANGER"},
    "1/1/7": {"called": "OTHER"},
    "1/2/2": {"version": 2},
    "2/2/1": {"extra": identity(1, b"eve")},
    "2/3/1": {},
    "2/3/2": {},
}


@pytest.mark.parametrize("row", rows("2.2 Associations", "result/source/reason"), ids=lambda row: row[0])
def test_every_rejection(guarded, row):
    """Each cause is answered with its triplet in the table."""
    if row[0] == "2/3/1":
        return  # see the next test
    with Raw(guarded.port) as holder:
        if row[0] == "2/3/2":
            holder.associate((1, VERIFICATION, [IMPLICIT]), called="MINE")
        assert triplet(guarded.port, **({"called": "MINE"} | REJECTED[row[0]])) == row[0]
        holder.socket.shutdown(socket.SHUT_WR)
        assert holder.socket.recv(1) in (b"", b"\x07"), "the place is free again when the server has closed"


def test_a_request_during_a_stop_is_rejected(tmp_path):
    """With 2/3/1, on a connection that was accepted before."""
    with serving(tmp_path) as archive, Raw(archive.port) as late:
        late.send(REQUEST[:20])
        assert eventually(lambda: archive._server._unassociated)
        archive.stop_listening()
        late.send(REQUEST[20:])
        kind, body = late.pdu()
    assert (kind, tuple(body[1:4])) == (REJECT, (2, 3, 1))


@pytest.mark.parametrize(("user", "accepted"), [(b"alice", True), (b"eve", False)])
def test_user_identities_are_checked_as_configured(guarded, user, accepted):
    """A name is enough for a user without a passcode; tests/services/test_users.py has passcodes and tokens."""
    with Raw(guarded.port) as client:
        client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], called="OURS", extra=identity(1, user)))
        assert client.pdu()[0] == (0x02 if accepted else REJECT)


@covers("The key `services` of a peer names", "Every AE may use Verification", "A peer with `destinations` may move")
@pytest.mark.parametrize("calling", ["LIMITED", "STRANGER"])
def test_an_ae_without_services_gets_0124_and_may_echo(tmp_path, calling):
    """A peer with empty `services`, and another AE with empty `access.services`."""
    peers = [{"ae_title": "LIMITED", "host": "127.0.0.1", "port": 1, "services": []}]
    with serving(tmp_path, {"peers": peers, "access.services": []}) as archive, Requestor(archive.port) as requestor:
        requestor.calling = calling
        keys = {"StudyInstanceUID": "1.2.3"}
        assert requestor.find("STUDY", **keys)[-1].status == 0x0124
        assert requestor.get("STUDY", **keys)[-1].status == 0x0124
        assert requestor.move("LIMITED", "STUDY", **keys)[-1].status == 0x0124
        assert store(archive.port, study(series=1, instances=1)[0], calling=calling).status == 0x0124
        assert requestor.ask(raw.C_ECHO, VERIFICATION, None)[-1].status == 0x0000


def test_a_peer_moves_only_to_its_destinations(tmp_path):
    """Another known destination is refused with 0124, an unknown one with A801."""
    peers = [
        {"ae_title": "ASKER", "host": "127.0.0.1", "port": 1, "destinations": ["ASKER"]},
        {"ae_title": "OTHER", "host": "127.0.0.1", "port": 1},
    ]
    with serving(tmp_path, {"peers": peers}) as archive, Requestor(archive.port) as requestor:
        for title, status in (("ASKER", 0x0000), ("OTHER", 0x0124), ("NOBODY", 0xA801)):
            assert requestor.move(title, "STUDY", StudyInstanceUID="1.2.3")[-1].status == status


@pytest.mark.parametrize("row", rows("2.2 Associations", "option"), ids=lambda row: " ".join(row[:2]))
def test_every_option_of_access(archive, guarded, tmp_path, row):
    """The default is active; an association that another value rejects is accepted with the default."""
    stranger, other, nobody = {"calling": "STRANGER"}, {"called": "OTHER"}, {"extra": identity(1, b"eve")}
    asked = {"access.callers": stranger, "access.called_ae": other, "access.users": nobody}[row[0]]
    reason = {"access.callers": "1/1/3", "access.called_ae": "1/1/7", "access.users": "2/2/1"}[row[0]]
    if row[1] == "required":
        with serving(tmp_path, {"access.users": "required", "users": [{"name": "alice"}]}) as archive:
            assert triplet(archive.port) == reason
    elif row[3] == "yes":
        assert negotiated(archive.port, [(VERIFICATION, [IMPLICIT])], **asked) == [(ACCEPTED, IMPLICIT)]
    else:
        assert triplet(guarded.port, **({"called": "MINE"} | asked)) == reason


@covers("violates PS3.7 or PS3.8, receives an A-ABORT")
@pytest.mark.parametrize(
    "wrong",
    [
        raw.pdu(0x09, b""),
        raw.associate_rq([(1, VERIFICATION, [IMPLICIT])]),
        raw.pdv(9, b"\0\0", command=True),
        raw.pdv(1, b"\0\0", command=False),
        raw.pdv(1, b"no command set", command=True),
    ],
    ids=["unknown PDU", "second request", "unknown context", "data without command", "no command set"],
)
def test_protocol_violations_are_aborted(archive, wrong):
    """With an A-ABORT; the next association is served."""
    with Raw(archive.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        client.send(wrong)
        assert ended(client)
    run("echoscu", "127.0.0.1", archive.port)


# --- 2.3 Presentation contexts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", rows("2.3 Presentation contexts", "transfer syntax"), ids=lambda row: row[0])
def test_every_service_accepts_its_transfer_syntaxes(archive, row):
    """Each proposed alone, for every service."""
    assert set(negotiated(archive.port, [(each, [row[1]]) for each in (*SERVICES, PUSH_MODEL)])) == {(ACCEPTED, row[1])}


@covers(
    "Every proposed presentation context is answered on its own, with the first of its transfer syntaxes",
    "A context with an unsupported SOP Class is rejected with result 3",
)
@pytest.mark.parametrize(
    ("sop_class", "proposed", "answer"),
    [
        (CT, [JPEG, EXPLICIT], (ACCEPTED, JPEG)),
        (CT, [EXPLICIT, JPEG], (ACCEPTED, EXPLICIT)),
        (CT, [IMPLICIT, BIG, EXPLICIT], (ACCEPTED, BIG)),
        (CT, [JPIP, IMPLICIT], (ACCEPTED, IMPLICIT)),
        (CT, [JPIP, "1.2.3"], (NO_TRANSFER, JPIP)),
        (FIND, [IMPLICIT, EXPLICIT], (ACCEPTED, EXPLICIT)),
        (FIND, [DEFLATED, BIG], (ACCEPTED, BIG)),
        (FIND, [DEFLATED], (NO_TRANSFER, DEFLATED)),
        (MOVE, [DEFLATED, JPEG], (NO_TRANSFER, DEFLATED)),
        (VERIFICATION, [IMPLICIT], (ACCEPTED, IMPLICIT)),
        ("1.2.840.10008.5.1.1.9", [IMPLICIT], (NO_ABSTRACT, IMPLICIT)),
        ("1.2.3.4.5", [EXPLICIT], (NO_ABSTRACT, EXPLICIT)),
    ],
)
def test_which_transfer_syntax_is_accepted(archive, sop_class, proposed, answer):
    """Each context is answered on its own."""
    found = negotiated(archive.port, [(sop_class, proposed), (CT, [IMPLICIT]), (sop_class, proposed)])
    assert found == [answer, (ACCEPTED, IMPLICIT), answer]


@covers(
    "Where the requestor is SCP of Storage, its contexts of one SOP Class are answered together",
    "`transfer_syntaxes` and `send_as` of the peer come first there",
    "Contexts of SOP Classes for video are answered as above",
)
def test_contexts_in_which_the_requestor_is_scp(tmp_path):
    """Without an order, with one, and for a video."""
    video, mpeg, rle = "1.2.840.10008.5.1.4.1.1.77.1.4.1", "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.5"
    proposed = [(CT, [JPEG, EXPLICIT]), (CT, [JPEG, IMPLICIT]), (video, [mpeg, EXPLICIT])]
    peers = [
        {"ae_title": "ORDERED", "host": "127.0.0.1", "port": 104, "transfer_syntaxes": [JPEG]},
        {"ae_title": "PACKED", "host": "127.0.0.1", "port": 104, "send_as": ["rle"]},
    ]
    roles = role(CT, 0, 1) + role(video, 0, 1)
    with serving(tmp_path, {"peers": peers}) as archive:

        def accepted(calling, contexts):
            numbered = [(2 * n + 1, *each) for n, each in enumerate(contexts)]
            with Raw(archive.port) as client:
                answer = client.associate(*numbered, calling=calling, extra=roles)
            return [chosen for _, chosen in raw.contexts(answer).values()]

        assert accepted("OTHER", proposed) == [EXPLICIT, JPEG, mpeg]
        assert accepted("ORDERED", proposed) == [JPEG, JPEG, mpeg]
        assert accepted("PACKED", [(CT, [EXPLICIT, rle])]) == [rle]


@covers("If a peer has `transfer_syntaxes` in the table of peers, their order decides")
def test_a_peer_with_transfer_syntaxes(archive):
    """Its order decides for Storage, not for queries; other transfer syntaxes come last."""
    proposals = [
        (CT, [EXPLICIT, IMPLICIT, JPEG]),
        (CT, [EXPLICIT, IMPLICIT]),
        (CT, [BIG]),
        (FIND, [IMPLICIT, EXPLICIT]),
    ]
    found = [syntax for _, syntax in negotiated(archive.port, proposals, calling="ORDERLY")]
    assert found == [JPEG, IMPLICIT, BIG, EXPLICIT]


@covers("For a Storage SOP Class the requestor gets the roles", "Role selection for other SOP Classes is not answered")
@pytest.mark.parametrize(("scu", "scp"), [(0, 1), (1, 1), (1, 0)])
def test_role_selection(archive, scu, scp):
    """The proposed roles of Storage are accepted; other role selection is not answered."""
    assert (0x54, role(CT, scu, scp)[4:]) in answered(archive.port, role(CT, scu, scp))
    assert 0x54 not in dict(answered(archive.port, role(FIND, scu, scp)))
    assert 0x54 not in dict(answered(archive.port))


# --- 2.4 SOP Class Extended Negotiation --------------------------------------------------------------------------


def agreed(port, sop_class, offered):
    """Return the bytes of the answer, None without one."""
    prefix = struct.pack(">H", len(sop_class)) + sop_class.encode()
    found = [body for kind, body in answered(port, extended(sop_class, offered)) if kind == 0x56]
    return found[0].removeprefix(prefix) if found else None


@covers("Each proposed byte is answered: with 1 if it was 1 and the option is supported, otherwise with 0")
@pytest.mark.parametrize(
    "row", rows("2.4 SOP Class Extended Negotiation", "service"), ids=lambda row: " ".join(row[:2])
)
def test_every_byte_of_extended_negotiation(archive, row):
    """Proposed with 1, 0 and 2 as the last byte, in every information model of the service."""
    services, place, _, answer = row
    for service in services.replace("C-", "").split(", "):
        for root in ("Patient Root", "Study Root", "Patient/Study Only"):
            for offer, expected in ((1, int(answer)), (0, 0), (2, 0)):
                found = agreed(archive.port, model(root, service), bytes(int(place) - 1) + bytes([offer]))
                assert found == bytes(int(place) - 1) + bytes([expected])


@covers("Bytes that are not proposed are not answered")
def test_other_extended_negotiation_is_not_answered(archive):
    """For more bytes than defined, none, a SOP Class without a table, and one without a context."""
    here = [row for row in rows("2.4 SOP Class Extended Negotiation", "service") if row[0] == "C-FIND"]
    assert agreed(archive.port, FIND, b"\1" * 20) == bytes(int(row[3]) for row in here)
    assert agreed(archive.port, FIND, b"") is None
    assert agreed(archive.port, CT, b"\1\1") is None
    assert 0x56 not in dict(answered(archive.port, extended(FIND, b"\1"), sop_classes=[CT]))
    assert 0x56 not in dict(answered(archive.port))


# --- 3.1 and 3.7 -------------------------------------------------------------------------------------------------


NOT_PROVOKED = "C001"
"""An internal error, which cannot be caused from outside."""


@pytest.mark.parametrize("row", rows("3.1 Verification", "status"), ids=lambda row: row[0])
def test_every_status_of_verification(archive, row):
    """Only 0000."""
    with Requestor(archive.port) as requestor:
        (response,) = requestor.ask(raw.C_ECHO, VERIFICATION, None)
    assert row[0] == NOT_PROVOKED or (response.status, 0x0902 in response.elements) == (0x0000, False)


@covers(
    "A request in a presentation context of another SOP Class is refused with 0122, and one for an operation that its"
)
def test_other_requests_are_refused(archive):
    """0122 for another SOP Class, 0211 for an unknown operation; the association continues."""
    assert store(archive.port, study(series=1, instances=1)[0], context="1.2.840.10008.5.1.4.1.1.4").status == 0x0122
    with Requestor(archive.port) as requestor:
        for kind in (0x0150, raw.C_FIND, raw.C_STORE):
            assert requestor.ask(kind, VERIFICATION, None)[0].status == 0x0211
        assert requestor.ask(raw.C_ECHO, VERIFICATION, None)[0].status == 0x0000


# --- 5 and 6 -----------------------------------------------------------------------------------------------------


@covers("`server.ae_title`, `server.host`, `server.port`, `query.manner`")
def test_the_configuration_keys_exist():
    """Each key is in config.toml."""
    example = tomllib.loads((Path(__file__).parents[2] / "config.toml").read_text())
    said = TEXT[TEXT.index("## 5. Configuration") : TEXT.index("## 6.")]
    named = re.findall(r"`([a-z]+)\.([a-z_]+)`", said.replace("`config.toml`", ""))
    assert len(named) == 13
    assert [each for each in named if each[1] not in example[each[0]]] == []


@covers("Flags of `pacs` override the environment, which overrides `config.toml`")
def test_flags_override_the_environment_and_the_file(tmp_path):
    """`pacs conformance` prints the AE title from each."""
    file = tmp_path / "config.toml"
    file.write_text('[server]\nae_title = "FILE"\n')
    command = ["conformance", "--config", str(file)]
    environment = {"PACS_SERVER__AE_TITLE": "ENVIRONMENT"}

    def told(*flags, env=None):
        return CliRunner().invoke(main, [*command, *flags], env=env).output.split("| AE title | ")[1].split(" ")[0]

    assert told() == "FILE"
    assert told(env=environment) == "ENVIRONMENT"
    assert told("--set", "server.ae_title=FLAG", env=environment) == "FLAG"


@covers(
    "The server listens on 127.0.0.1",
    "Listening on other addresses than loopback while everybody may associate is refused",
)
def test_the_server_listens_on_loopback_by_default(archive, tmp_path):
    """Another address of this host does not answer on the port; listening on all addresses is refused."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", archive.port))
    with pytest.raises(ConfigurationError, match="open_to_network"), serving(tmp_path, {"server.host": "0.0.0.0"}):
        pass
    with serving(tmp_path, {"server.host": "0.0.0.0", "access.open_to_network": True, "web.enabled": False}) as wide:
        run("echoscu", "127.0.0.2", wide.port)


@covers(
    "Associations can be encrypted by TLS 1.2 or newer",
    "The server can request a certificate from requestors",
    "Connections to peers with `tls` use TLS",
    "A user identity is checked as `access.users` says",
)
def test_tls_needs_its_port(archive, tmp_path):
    """A ClientHello on the plain port is answered with an A-ABORT; tests/cli/test_encryption.py has the rest."""
    with Raw(archive.port) as client:
        client.send(b"\x16\x03\x01\0\x05hello")
        assert ended(client)
    ours = Authority(tmp_path).sign("pacs", "localhost")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": ours.certificate, "tls.key": ours.key}
    with serving(tmp_path / "pacs", settings) as secure:
        run("echoscu", "+tla", "-ic", "localhost", secure.secure_port)
