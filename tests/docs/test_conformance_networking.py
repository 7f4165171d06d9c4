"""What the conformance statement says of associations (sections 1, 2, 3.1, 3.7 and 6), asked of running servers."""

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
from tests.docs.asking import (
    CT,
    FIND,
    MOVE,
    SERVICES,
    VERIFICATION,
    Asker,
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
from tests.docs.statement import TEXT, asks, rows
from tests.programs import run
from tests.raw import EXPLICIT, IMPLICIT, Raw
from tests.waiting import eventually

DEFLATED, BIG, JPEG, JPIP = (f"1.2.840.10008.1.2{each}" for each in (".1.99", ".2", ".4.50", ".4.94"))
ACCEPTED, NO_ABSTRACT, NO_TRANSFER = 0, 3, 4
ABORT, REJECT = 0x07, 0x03
REQUEST = raw.associate_rq([(1, VERIFICATION, [IMPLICIT])])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A server with the defaults, and one peer with an order of transfer syntaxes."""
    peer = {"ae_title": "ORDERLY", "host": "127.0.0.1", "port": 1, "transfer_syntaxes": [JPEG, IMPLICIT]}
    with serving(tmp_path_factory.mktemp("networking"), {"peers": [peer]}) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that lets in one association at a time, of one peer, and only under its own AE title."""
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
    """Its context is accepted, and it answers: a move to nobody with A801, everything else with 0000."""
    _, sop_class, _, as_scp = row
    assert as_scp == "yes"
    kind = {".1": raw.C_ECHO} if sop_class == VERIFICATION else {".1": raw.C_FIND, ".2": raw.C_MOVE, ".3": raw.C_GET}
    data = None if sop_class == VERIFICATION else identifier("STUDY", StudyInstanceUID="1.2.3")
    with Asker(archive.port) as asker:
        final = asker.ask(kind[sop_class[-2:]], sop_class, data, [raw.element(0x0600, b"NOBODY")])[-1]
    assert final.status == (0xA801 if sop_class.endswith(".2") else 0x0000)


@asks("pacs is an archive", "Conformant to PS3.4 Annex A", "One application entity performs all services")
def test_verification_as_scp_and_scu(archive, tmp_path):
    """DCMTK's echoscu is answered; `pacs check` echoes a peer under our AE title."""
    run("echoscu", "-aec", "PACS", "127.0.0.1", archive.port)
    with destination("PEER") as peer:
        file = tmp_path / "config.toml"
        file.write_text(
            f'[server]\nport = 0\n[[peers]]\nae_title = "PEER"\nhost = "127.0.0.1"\nport = {peer["port"]}\n'
        )
        printed = CliRunner().invoke(main, ["check", "--config", str(file)]).output
    assert "peer PEER" in printed
    assert "answers C-ECHO" in printed


def test_as_many_storage_classes_as_are_listed():
    """The overview counts the rows of section 3.2."""
    last, where, *_ = rows("1. Overview", "SOP Class")[-1]
    assert (last, where) == (f"{len(rows('3.2 Storage', 'SOP Class'))} Storage SOP Classes", "see section 3.2")


# --- 2.1 Application entity --------------------------------------------------------------------------------------


SAID = dict(rows("2.1 Application entity", "what"))


def test_the_application_entity_says_who_it_is(archive):
    """AE title, application context name and implementation are those of the table; the port is the default's."""
    with Raw(archive.port) as client:
        accept = client.associate((1, VERIFICATION, [IMPLICIT]))
    information = dict(answered(archive.port))
    take_in(archive, study(series=1, instances=1, patient_id="WHO"))
    with Asker(archive.port) as asker:
        (found,) = asker.found("STUDY", PatientID="WHO")
    assert {
        "AE title": found.RetrieveAETitle,
        "port": str(Config().server.port),
        "application context name": dict(raw.items(accept[68:]))[0x10].decode(),
        "implementation class UID": information[0x52].decode(),
        "implementation version name": information[0x55].decode(),
    } == SAID


# --- 2.2 Associations --------------------------------------------------------------------------------------------


@asks("The requests of an association are performed one after the other")
def test_requests_are_performed_one_after_the_other(archive):
    """Two C-FINDs in one packet are answered in their order, the first to its end before the second."""
    take_in(archive, study(series=1, instances=2, patient_id="TWO"))
    data = identifier("IMAGE", PatientID="TWO", SOPInstanceUID="")
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(*(raw.request(raw.C_FIND, 1, FIND, number, data) for number in (1, 2)))
        order = [each.number(0x0120) for _ in (1, 2) for each in client.until_final()]
    assert order == [1, 1, 1, 2, 2, 2]


@asks("A proposed asynchronous operations window is answered")
def test_one_operation_at_a_time_is_said_where_it_was_asked(archive):
    """(1, 1), and nothing where nothing was proposed."""
    assert (0x53, b"\0\1\0\1") in answered(archive.port, raw.item(0x53, struct.pack(">HH", 0, 9)))
    assert 0x53 not in dict(answered(archive.port))


@asks(
    "The accepted types of user identity are name (type 1)",
    "Kerberos and SAML users are unknown",
    "The positive response is sent when it was requested",
)
@pytest.mark.parametrize(("kind", "response"), [(1, b"\0\0"), (2, b"\0\0"), (3, None), (4, None), (5, None)])
def test_a_user_identity_is_taken(archive, kind, response):
    """Whoever it is; types 1 and 2 are told so, where they asked."""
    for asked in (True, False):
        sub_item = identity(kind, b"user", b"pw", is_answer_wanted=asked)
        assert dict(answered(archive.port, sub_item)).get(0x59) == (response if asked else None)


@asks("SOP Class Common Extended Negotiation is not answered")
def test_common_extended_negotiation_is_not_answered(archive):
    """A related general SOP Class is proposed; no sub-item 57H comes back."""
    uids = (CT, "1.2.840.10008.4.2")
    body = b"".join(struct.pack(">H", len(each)) + each.encode() for each in uids) + b"\0\0"
    assert 0x57 not in dict(answered(archive.port, struct.pack(">BBH", 0x57, 0, len(body)) + body))


@asks("An association is accepted even if none of its presentation contexts is")
def test_an_association_without_an_accepted_context(archive):
    """An A-ASSOCIATE-AC comes, and a release is answered."""
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
    """Each triplet of the table is what its cause is answered with."""
    if row[0] == "2/3/1":
        return  # see the next test
    with Raw(guarded.port) as holder:
        if row[0] == "2/3/2":
            holder.associate((1, VERIFICATION, [IMPLICIT]), called="MINE")
        assert triplet(guarded.port, **({"called": "MINE"} | REJECTED[row[0]])) == row[0]
        holder.socket.shutdown(socket.SHUT_WR)
        assert holder.socket.recv(1) in (b"", b"\x07"), "the place is free again when the server has closed"


def test_a_request_that_comes_while_the_server_stops_is_rejected_for_now(tmp_path):
    """2/3/1: on a connection that it had accepted before."""
    with serving(tmp_path) as archive, Raw(archive.port) as late:
        late.send(REQUEST[:20])
        assert eventually(lambda: archive._server._unassociated)
        archive.stop_listening()
        late.send(REQUEST[20:])
        kind, body = late.pdu()
    assert (kind, tuple(body[1:4])) == (REJECT, (2, 3, 1))


@pytest.mark.parametrize(("user", "accepted"), [(b"alice", True), (b"eve", False)])
def test_a_user_that_is_proposed_has_to_be_known_where_users_are_looked_at(guarded, user, accepted):
    """A name is enough where a user has no passcode; tests/services/test_users.py has passcodes and tokens."""
    with Raw(guarded.port) as client:
        client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])], called="OURS", extra=identity(1, user)))
        assert client.pdu()[0] == (0x02 if accepted else REJECT)


@asks("The key `services` of a peer names", "Every AE may use Verification", "A peer with `destinations` may move")
@pytest.mark.parametrize("calling", ["LIMITED", "STRANGER"])
def test_who_may_do_nothing_is_answered_with_0124_and_echoed(tmp_path, calling):
    """A peer whose block names no services, and a stranger where `access.services` names none."""
    peers = [{"ae_title": "LIMITED", "host": "127.0.0.1", "port": 1, "services": []}]
    with serving(tmp_path, {"peers": peers, "access.services": []}) as archive, Asker(archive.port) as asker:
        asker.calling = calling
        keys = {"StudyInstanceUID": "1.2.3"}
        assert asker.find("STUDY", **keys)[-1].status == 0x0124
        assert asker.get("STUDY", **keys)[-1].status == 0x0124
        assert asker.move("LIMITED", "STUDY", **keys)[-1].status == 0x0124
        assert store(archive.port, study(series=1, instances=1)[0], calling=calling).status == 0x0124
        assert asker.ask(raw.C_ECHO, VERIFICATION, None)[-1].status == 0x0000


def test_a_peer_moves_only_to_its_destinations(tmp_path):
    """To another one that is known it may not, one that is not known nobody may."""
    peers = [
        {"ae_title": "ASKER", "host": "127.0.0.1", "port": 1, "destinations": ["ASKER"]},
        {"ae_title": "OTHER", "host": "127.0.0.1", "port": 1},
    ]
    with serving(tmp_path, {"peers": peers}) as archive, Asker(archive.port) as asker:
        for title, status in (("ASKER", 0x0000), ("OTHER", 0x0124), ("NOBODY", 0xA801)):
            assert asker.move(title, "STUDY", StudyInstanceUID="1.2.3")[-1].status == status


@pytest.mark.parametrize("row", rows("2.2 Associations", "option"), ids=lambda row: " ".join(row[:2]))
def test_every_option_of_access(archive, guarded, tmp_path, row):
    """What is the default is in force; whom the other value keeps out gets in with the default."""
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


@asks("violates PS3.7 or PS3.8, receives an A-ABORT")
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
def test_what_breaks_the_rules_is_aborted(archive, wrong):
    """The association ends with an A-ABORT; the next one is served."""
    with Raw(archive.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        client.send(wrong)
        assert ended(client)
    run("echoscu", "127.0.0.1", archive.port)


# --- 2.3 Presentation contexts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", rows("2.3 Presentation contexts", "transfer syntax"), ids=lambda row: row[0])
def test_every_service_takes_each_of_its_transfer_syntaxes(archive, row):
    """Each of them proposed alone, for every service."""
    assert set(negotiated(archive.port, [(each, [row[1]]) for each in (*SERVICES, PUSH_MODEL)])) == {(ACCEPTED, row[1])}


@asks(
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
    """Each context gets one answer, whatever stands beside it."""
    found = negotiated(archive.port, [(sop_class, proposed), (CT, [IMPLICIT]), (sop_class, proposed)])
    assert found == [answer, (ACCEPTED, IMPLICIT), answer]


@asks("If a peer has `transfer_syntaxes` in the table of peers, their order decides")
def test_a_peer_with_an_order_of_its_own(archive):
    """Its order decides for Storage and not for queries; what is not in it counts last."""
    proposals = [
        (CT, [EXPLICIT, IMPLICIT, JPEG]),
        (CT, [EXPLICIT, IMPLICIT]),
        (CT, [BIG]),
        (FIND, [IMPLICIT, EXPLICIT]),
    ]
    found = [syntax for _, syntax in negotiated(archive.port, proposals, calling="ORDERLY")]
    assert found == [JPEG, IMPLICIT, BIG, EXPLICIT]


@asks("For a Storage SOP Class the requestor gets the roles", "Role selection for other SOP Classes is not answered")
@pytest.mark.parametrize(("scu", "scp"), [(0, 1), (1, 1), (1, 0)])
def test_role_selection(archive, scu, scp):
    """The roles of Storage are given as proposed; for a query nothing is said, nor where nothing was proposed."""
    assert (0x54, role(CT, scu, scp)[4:]) in answered(archive.port, role(CT, scu, scp))
    assert 0x54 not in dict(answered(archive.port, role(FIND, scu, scp)))
    assert 0x54 not in dict(answered(archive.port))


# --- 2.4 SOP Class Extended Negotiation --------------------------------------------------------------------------


def agreed(port, sop_class, offered):
    """The bytes an offer is answered with, None where it is not."""
    prefix = struct.pack(">H", len(sop_class)) + sop_class.encode()
    found = [body for kind, body in answered(port, extended(sop_class, offered)) if kind == 0x56]
    return found[0].removeprefix(prefix) if found else None


@asks("Each proposed byte is answered: with 1 if it was 1 and the option is supported, otherwise with 0")
@pytest.mark.parametrize(
    "row", rows("2.4 SOP Class Extended Negotiation", "service"), ids=lambda row: " ".join(row[:2])
)
def test_every_byte_of_extended_negotiation(archive, row):
    """Offered with 1, 0 and 2, as the last of so many bytes, in every information model of the service."""
    services, place, _, answer = row
    for service in services.replace("C-", "").split(", "):
        for root in ("Patient Root", "Study Root", "Patient/Study Only"):
            for offer, expected in ((1, int(answer)), (0, 0), (2, 0)):
                found = agreed(archive.port, model(root, service), bytes(int(place) - 1) + bytes([offer]))
                assert found == bytes(int(place) - 1) + bytes([expected])


@asks("Bytes that are not proposed are not answered")
def test_what_is_not_offered_is_not_answered(archive):
    """More bytes than there are, none at all, a SOP Class without a table, and one without a context."""
    here = [row for row in rows("2.4 SOP Class Extended Negotiation", "service") if row[0] == "C-FIND"]
    assert agreed(archive.port, FIND, b"\1" * 20) == bytes(int(row[3]) for row in here)
    assert agreed(archive.port, FIND, b"") is None
    assert agreed(archive.port, CT, b"\1\1") is None
    assert 0x56 not in dict(answered(archive.port, extended(FIND, b"\1"), sop_classes=[CT]))
    assert 0x56 not in dict(answered(archive.port))


# --- 3.1 and 3.7 -------------------------------------------------------------------------------------------------


NOT_PROVOKED = "C001"
"""A failure of the server itself: there is none to provoke from outside."""


@pytest.mark.parametrize("row", rows("3.1 Verification", "status"), ids=lambda row: row[0])
def test_every_status_of_verification(archive, row):
    """0000, without anything else."""
    with Asker(archive.port) as asker:
        (response,) = asker.ask(raw.C_ECHO, VERIFICATION, None)
    assert row[0] == NOT_PROVOKED or (response.status, 0x0902 in response.elements) == (0x0000, False)


@asks(
    "A request in a presentation context of another SOP Class is refused with 0122, and one for an operation that its"
)
def test_requests_that_are_no_part_of_the_services(archive):
    """0122 for the context's fault, 0211 for an operation of another class or of none; the association goes on."""
    assert store(archive.port, study(series=1, instances=1)[0], context="1.2.840.10008.5.1.4.1.1.4").status == 0x0122
    with Asker(archive.port) as asker:
        for kind in (0x0150, raw.C_FIND, raw.C_STORE):
            assert asker.ask(kind, VERIFICATION, None)[0].status == 0x0211
        assert asker.ask(raw.C_ECHO, VERIFICATION, None)[0].status == 0x0000


# --- 5 and 6 -----------------------------------------------------------------------------------------------------


@asks("`server.ae_title`, `server.host`, `server.port`, `query.manner`")
def test_what_can_be_configured_is_there():
    """Each of the keys is one of config.toml."""
    example = tomllib.loads((Path(__file__).parents[2] / "config.toml").read_text())
    said = TEXT[TEXT.index("## 5. Configuration") : TEXT.index("## 6.")]
    named = re.findall(r"`([a-z]+)\.([a-z_]+)`", said.replace("`config.toml`", ""))
    assert len(named) == 13
    assert [each for each in named if each[1] not in example[each[0]]] == []


@asks("Flags of `pacs` override the environment, which overrides `config.toml`")
def test_flags_beat_the_environment_which_beats_the_file(tmp_path):
    """`pacs conformance` tells the AE title of each."""
    file = tmp_path / "config.toml"
    file.write_text('[server]\nae_title = "FILE"\n')
    command = ["conformance", "--config", str(file)]
    environment = {"PACS_SERVER__AE_TITLE": "ENVIRONMENT"}

    def told(*flags, env=None):
        return CliRunner().invoke(main, [*command, *flags], env=env).output.split("| AE title | ")[1].split(" ")[0]

    assert told() == "FILE"
    assert told(env=environment) == "ENVIRONMENT"
    assert told("--set", "server.ae_title=FLAG", env=environment) == "FLAG"


@asks(
    "The server listens on 127.0.0.1",
    "Listening on other addresses than loopback while everybody may associate is refused",
)
def test_the_server_listens_on_this_machine_unless_it_is_meant(archive, tmp_path):
    """The port is taken on 127.0.0.1 and free on another address of this machine; all addresses are refused."""
    with socket.socket() as other:
        other.bind(("127.0.0.2", archive.port))
    with pytest.raises(ConfigurationError, match="open_to_network"), serving(tmp_path, {"server.host": "0.0.0.0"}):
        pass
    with serving(tmp_path, {"server.host": "0.0.0.0", "access.open_to_network": True, "web.enabled": False}) as wide:
        run("echoscu", "127.0.0.2", wide.port)


@asks(
    "Associations can be encrypted by TLS 1.2 or newer",
    "The server can request a certificate from requestors",
    "Connections to peers with `tls` use TLS",
    "A user identity is checked as `access.users` says",
)
def test_there_is_tls_where_it_is_configured(archive, tmp_path):
    """A ClientHello on the plain port is answered with an A-ABORT; tests/cli/test_encryption.py asks the rest."""
    with Raw(archive.port) as client:
        client.send(b"\x16\x03\x01\0\x05hello")
        assert ended(client)
    ours = Authority(tmp_path).sign("pacs", "localhost")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": ours.certificate, "tls.key": ours.key}
    with serving(tmp_path / "pacs", settings) as secure:
        run("echoscu", "+tla", "-ic", "localhost", secure.secure_port)
