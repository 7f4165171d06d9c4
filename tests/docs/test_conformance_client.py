"""Checks section 7 of the conformance statement (client) from the server side."""

import socket
from copy import deepcopy
from dataclasses import replace

import pytest

from pacs import client
from pacs.client.contexts import COMMON_SOP_CLASSES
from pacs.dicom.commitment import CommitmentReport, encode_report, parse_request
from pacs.dimse.association.storage_contexts import CONVERTED_INTO, UNCOMPRESSED
from pacs.errors import AssociationLost, OperationFailed, PeerTimeout
from pacs.pixels.capabilities import ENCODED
from pacs.services.users import hash_passcode
from pacs.testing import Fault, serving, storing, study, write
from tests.client.scripted import answer, deliver, report, scripted
from tests.docs.requests import CT, FIND, GET, MOVE, VERIFICATION
from tests.docs.statement import covers
from tests.programs import free_port
from tests.raw import EXPLICIT, IMPLICIT, associate_rq

DATASETS = study(series=2, instances=3)
THE_STUDY = {"StudyInstanceUID": DATASETS[0].StudyInstanceUID}
COMMITMENT = "1.2.840.10008.1.20.1"
RLE, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"


@pytest.fixture
def called(pacs_server):
    """A server with a study that records its associations."""
    pacs_server.add(DATASETS)
    return pacs_server


@covers(
    "`pacs.client`, and the commands `pacs echo`",
    "SCU of Verification, of Query/Retrieve, of Storage",
    "Only for a C-GET it proposes an asynchronous operations window",
)
def test_the_client_is_scu_of_all_services_with_its_own_ae_title(called, tmp_path):
    """Each operation proposes its service; during a C-MOVE the client is SCP of Storage."""
    port = free_port()
    called.add_peer("PACSCU", "127.0.0.1", port)
    client.echo(called.address)
    list(client.find(called.address, THE_STUDY))
    client.store(called.address, DATASETS)
    client.get(called.address, THE_STUDY, to=tmp_path / "got")
    client.move_and_store(called.address, THE_STUDY, to=tmp_path / "moved", port=port)
    client.commit(called.address, DATASETS)
    firsts = [each.proposed[0].abstract_syntax for each in called.received.associations]
    assert firsts == [VERIFICATION, FIND, CT, GET, MOVE, COMMITMENT]
    assert {each.calling_ae_title for each in called.received.associations} == {"PACSCU"}


@covers("It proposes a user identity only if one is given")
def test_a_user_identity_is_proposed_if_it_is_given(tmp_path):
    """Its types are those of PS3.7 D.3.3.7."""
    users = [{"name": "alice", "passcode": hash_passcode("secret")}, {"name": "bob"}]
    given = [({"user": "bob"}, 1), ({"user": "alice", "passcode": "secret"}, 2), ({"token": "a.b.c"}, 5)]
    for keys, kind in given:
        proposed = client.Peer("PACS", "localhost", 104, **keys).user_identity
        assert proposed is not None
        assert (proposed.type, proposed.response_requested) == (kind, False)
    with serving(tmp_path, {"access.users": "required", "users": users}) as server:
        for keys, _ in given[:2]:
            client.echo(client.Peer.parse(server.address, **keys))
        for keys in ({}, {"user": "alice"}, {"user": "alice", "passcode": "wrong"}, {"token": "a.b.c"}):
            with pytest.raises(client.AssociationRejected, match="user identity refused"):
                client.echo(client.Peer.parse(server.address, **keys))


@covers("Its AE title is PACSCU unless another one is given")
def test_the_ae_title_can_be_set(called):
    """In the peer."""
    client.echo(client.Peer.parse(called.address, calling_ae_title="SOMEBODY"))
    assert called.received.associations[0].calling_ae_title == "SOMEBODY"


@covers(
    "it listens on the address from which the archive is reached",
    "A receiver without a C-MOVE",
    "the user may allow other senders",
)
def test_only_the_archive_may_send_to_the_receiver(called, tmp_path):
    """During a C-MOVE another host or called AE title is rejected, unless it is allowed."""
    port, kinds = free_port(), []
    called.add_peer("PACSCU", "127.0.0.1", port)

    def knock(_progress):
        if not kinds:
            for origin, title in (("127.0.0.2", "PACSCU"), ("127.0.0.1", "OTHER"), ("127.0.0.1", "PACSCU")):
                kinds.append(answered(port, origin, title))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.9", port), timeout=20)

    client.move_and_store(called.address, THE_STUDY, to=tmp_path / "one", port=port, on_progress=knock)
    assert kinds == [REJECTED, REJECTED, ACCEPTED]
    with client.receiving(tmp_path / "two") as receiver:
        assert answered(receiver.port, "127.0.0.2", "OTHER") == ACCEPTED
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.9", receiver.port), timeout=20)

    def again(_progress):
        kinds.append(answered(port, "127.0.0.2", "PACSCU"))

    client.move_and_store(
        called.address, THE_STUDY, to=tmp_path / "three", port=port, on_progress=again, senders="anyone"
    )
    assert kinds[3] == ACCEPTED


ACCEPTED, REJECTED = b"\2", b"\3"


def answered(port, origin, title):
    """Return the type of the PDU that answers an association request from an address of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(origin, 0)) as connection:
        connection.sendall(associate_rq([(1, VERIFICATION, [IMPLICIT])], called=title))
        return connection.recv(1)


@covers(
    "The same holds while it waits for a report of storage commitment",
    "A report of storage commitment is compared with its request",
)
def test_a_report_is_compared_with_its_request(tmp_path):
    """Instances that it does not name have failed, and only the peer can associate to report."""
    port, kinds = free_port(), []
    one, two = (client.Reference(CT, uid) for uid in ("1.2.3", "1.2.4"))

    def commit(association, message):
        asked = parse_request(message.read(1 << 20), message.context.transfer_syntax, 9)
        answer(association, message, 0x0000)
        kinds.append(answered(port, "127.0.0.2", "PACSCU"))
        said = CommitmentReport(asked.transaction_uid, [one, client.Reference(CT, "9.9")], [])
        report(association, message, encode_report(said, "X", message.context.transfer_syntax))
        association.receive(20)

    with scripted(commit=commit) as peer:
        done = client.commit(peer.peer, [one, two], port=port, timeout=20)
    assert (done.committed, done.unreported, kinds) == ((one,), (two,), [REJECTED])


@covers(
    "An instance that is received again with other content",
    "each instance counts once",
    "Timeouts begin again",
    "a Pending response",
)
def test_repeated_instances_and_meaningless_responses(tmp_path):
    """Other content is refused with C011; a repetition counts once; Pending for a C-ECHO aborts."""
    port, refused, other = free_port(), [], deepcopy(DATASETS[0])
    other.PatientName = "SOMEBODY^ELSE"
    batches = [[DATASETS[0], other], [DATASETS[0]], []]

    def move(association, message):
        batch = batches.pop(0)
        if batch:
            refused.extend(deliver(port, [batch[0]]) + deliver(port, batch[-1:]))
        elif not batches:
            association.receive(20)
            return
        answer(association, message, 0x0000, completed=2, failed=0, warning=0)

    def echo(association, message):
        answer(association, message, 0xFF00)
        association.receive(20)

    with scripted(move=move, echo=echo) as peer:
        with pytest.raises(OperationFailed, match="twice with different content"):
            client.move_and_store(peer.peer, THE_STUDY, to=tmp_path / "one", port=port, wait=0.2)
        with pytest.raises(OperationFailed, match="1 more than arrived"):
            client.move_and_store(peer.peer, THE_STUDY, to=tmp_path / "two", port=port, wait=0.2)
        hasty = replace(peer.peer, deadlines=client.Deadlines(response=0.5))
        with pytest.raises(PeerTimeout):
            client.move_and_store(hasty, THE_STUDY, to=tmp_path / "three", port=port)
        with pytest.raises(AssociationLost, match="Pending"):
            client.echo(peer.peer)
    assert refused == [0xC011]


@covers(
    "A C-FIND, C-MOVE or C-GET always has a Query/Retrieve Level", "Extended negotiation is proposed only if requested"
)
def test_level_and_extended_negotiation(called):
    """By default that of the lowest key."""
    list(client.find(called.address, {"PatientID": "P1", "Modality": ""}))
    list(client.find(called.address, {"PatientID": "P1", "Modality": ""}, extended=["relational"]))
    assert [each.level for each in called.received.c_find] == ["SERIES", "SERIES"]
    first, second = called.received.associations
    assert not first.extended
    assert second.extended[FIND][:1] == b"\1"


@covers("If a loop over matches ends early")
def test_an_early_end_sends_a_cancel_and_waits(called, tmp_path):
    """After leaving the loop, a limit, or an exception."""
    called.faults.add(Fault("C-FIND", delay_each=0.05))
    for _ in client.find(called.address, {"SOPInstanceUID": ""}):
        break
    list(client.find(called.address, {"SOPInstanceUID": ""}, limit=1))

    def enough(_progress):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        client.get(called.address, THE_STUDY, to=tmp_path, on_progress=enough)
    called.received.wait_for_ends()
    assert [each.operation for each in called.received.c_cancel] == ["C-FIND", "C-FIND", "C-GET"]
    assert [each.status for each in called.received.c_cancel] == [0xFE00, 0xFE00, 0xFE00]
    assert {each.ended_by for each in called.received.associations} == {"A-RELEASE"}


@covers(
    "Instances are sent in the transfer syntax of their files, each transfer syntax in a context of its own",
    "If that is not accepted, they are converted",
    "With `send_as` or `--as` they are always converted",
)
def test_instances_are_converted_only_where_their_own_syntax_is_not_accepted(called, tmp_path):
    """There are three contexts, the first with the own transfer syntax only; with `send_as` one for each of these."""
    native = study(patient_id="P2", series=1, instances=1)
    packed = study(patient_id="P3", series=1, instances=1, transfer_syntax=RLE)
    client.store(called.address, native, packed)
    client.store(called.address, packed, send_as=["jpegls", "explicit"])
    plain, chosen = ([each.transfer_syntaxes for each in one.proposed] for one in called.received.associations)
    own = str(native[0].file_meta.TransferSyntaxUID)
    without_rle = tuple(each for each in ENCODED if each != RLE)
    assert plain == [
        *[(own,), tuple(each for each in CONVERTED_INTO if each != own), ENCODED],
        *[(RLE,), UNCOMPRESSED, without_rle],
    ]
    assert chosen == [(RLE,), (JPEG_LS,), (EXPLICIT,), UNCOMPRESSED]
    with storing() as implicit:
        implicit.faults.add(Fault("association", refuse=("nothing",)))
        assert client.store(implicit.address, native).completed == 1
        assert implicit.instances[0].transfer_syntax == own
    received = []

    def store(association, message):
        message.drain()
        received.append(message.context.transfer_syntax)
        answer(association, message, 0x0000)

    for accepted in (EXPLICIT, IMPLICIT, JPEG_LS):
        with scripted(syntaxes=[accepted], store=store) as peer:
            assert client.store(peer.peer, packed).failed == ()
    assert received == [EXPLICIT, IMPLICIT, JPEG_LS]


@covers("A refused instance, or one that cannot be converted, does not end the operation")
def test_a_refused_instance_does_not_end_a_store(called, tmp_path):
    """The other instances are stored."""
    called.faults.add(Fault("C-STORE", nth=2, status=0xA700))
    done = client.store(called.address, write(study(patient_id="P2", series=1, instances=3), tmp_path))
    assert (done.completed, [each.status for each in done.failed]) == (2, [0xA700])
    video = study(patient_id="P4", series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102")
    done = client.store(called.address, video, study(patient_id="P4", series=1, instances=1), send_as="explicit")
    assert (done.completed, [each.what for each in done.failed]) == (1, video)


@covers("In a C-GET the SCP role is proposed for the given Storage SOP Classes")
def test_a_get_proposes_the_scp_role(called, tmp_path):
    """For the common SOP Classes, or the given ones."""
    client.get(called.address, THE_STUDY, to=tmp_path / "usual")
    client.get(called.address, THE_STUDY, to=tmp_path / "named", sop_classes=[CT])
    usual, named = called.received.associations
    assert set(usual.roles) == set(COMMON_SOP_CLASSES)
    assert dict(named.roles) == {CT: (False, True)}


@covers("Retrieved instances are stored as they are received, with every element")
def test_received_instances_are_stored_with_every_element(called, tmp_path):
    """In the received transfer syntax, with private elements."""
    (dataset,) = study(patient_id="P7", series=1, instances=1, transfer_syntax=RLE)
    dataset.private_block(0x0011, "PACS TEST", create=True).add_new(1, "LO", "kept")
    called.add(dataset)
    done = client.get(called.address, {"StudyInstanceUID": dataset.StudyInstanceUID}, to=tmp_path, sop_classes=[CT])
    (kept,) = done.datasets()
    assert kept.file_meta.TransferSyntaxUID == RLE
    assert {element.tag: element.value for element in kept} == {element.tag: element.value for element in dataset}


@covers("An instance of another study, series or UID than was requested")
def test_instances_that_were_not_requested_are_refused(called, tmp_path):
    """With 0124; another sender sends it during a C-MOVE."""
    port = free_port()
    called.add_peer("PACSCU", "127.0.0.1", port)
    stranger = study(patient_id="P9", series=1, instances=1)
    seen = []

    def meanwhile(_progress):
        if not seen:
            seen.append(client.store(f"PACSCU@127.0.0.1:{port}", stranger))

    done = client.move_and_store(called.address, THE_STUDY, to=tmp_path, port=port, on_progress=meanwhile)
    assert [each.status for each in seen[0].failed] == [0x0124]
    assert len(done.paths) == len(DATASETS)
    assert done.unasked == 1


@covers("A retrieve fails if its status is neither success nor a warning")
@pytest.mark.parametrize("fault", [{"status": 0xC123}, {"fail": 2}], ids=str)
def test_a_retrieve_fails_by_status_or_a_failed_instance(called, tmp_path, fault):
    """The received instances are kept."""
    port = free_port()
    called.add_peer("PACSCU", "127.0.0.1", port)
    called.faults.add(Fault("C-MOVE", **fault))
    with pytest.raises(OperationFailed):
        client.move_and_store(called.address, THE_STUDY, to=tmp_path, port=port, wait=1)


def test_a_retrieve_fails_with_fewer_instances_than_reported(called, tmp_path):
    """The server reports success, but our AE title has the port of another receiver there."""
    with storing("PACSCU") as other:
        called.add_peer("PACSCU", other.host, other.port)
        with pytest.raises(OperationFailed, match="6 more than arrived here"):
            client.move_and_store(called.address, THE_STUDY, to=tmp_path, port=free_port(), wait=1)
