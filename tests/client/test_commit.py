"""`commit`: storage commitment as SCU, with the report on either association."""

import socket
import struct

import pytest

from benchmarks.processes import free_port
from pacs import client
from pacs.client import Failure, Reference
from pacs.dicom.commitment import CommitmentReport, encode_report, parse_request
from pacs.errors import InvalidArgument, OperationFailed, PeerTimeout
from pacs.testing import serving, write
from tests.client.scripted import answer, report, scripted
from tests.raw import IMPLICIT, associate_rq

CT = "1.2.840.10008.5.1.4.1.1.2"
ONE, TWO, FOREIGN = (Reference(CT, f"1.2.3.{number}") for number in range(3))


def test_a_report_arrives_on_the_same_association(full, tmp_path, datasets):
    """For files and data sets alike."""
    folder = tmp_path / "out"
    write(datasets[:2], folder)
    got = client.commit(full.peer, [folder, datasets[2]], timeout=20)
    assert [each.sop_instance_uid for each in got.committed] == [each.SOPInstanceUID for each in datasets[:3]]
    assert got.failed == ()
    assert got.transaction_uid.startswith("2.25.")


def test_a_report_arrives_on_a_new_association(tmp_path, datasets, known):
    """The archive reports on new associations only and reaches the listener."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": known.port}
    with serving(tmp_path / "other", {"peers": [home], "commitment.same_association_seconds": 0}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        got = client.commit(peer, datasets, timeout=20, port=known.port)
    assert len(got.committed) == 6


def test_an_unknown_instance_fails_with_its_reason(full, datasets):
    """No such object instance (0112), for the given reference."""
    there, gone = (
        Reference(datasets[0].SOPClassUID, datasets[0].SOPInstanceUID),
        Reference(datasets[0].SOPClassUID, "1.2.3.4"),
    )
    got = client.commit(full.peer, [there, gone], timeout=20)
    assert got.committed == (there,)
    assert got.failed == ((gone, 0x0112),)


def test_a_missing_report_times_out(tmp_path, datasets, known):
    """The error names what to check."""
    with serving(tmp_path / "other", {"commitment.same_association_seconds": 0}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        with pytest.raises(PeerTimeout, match="new association"):
            client.commit(peer, datasets, timeout=0.5)


def test_a_refused_request_raises_its_status(tmp_path, datasets):
    """Not authorized is 0124."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": 1, "services": ["store"]}
    with serving(tmp_path / "other", {"peers": [home]}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        with pytest.raises(OperationFailed, match="not authorized") as raised:
            client.commit(peer, datasets)
    assert raised.value.status == 0x0124


@pytest.mark.parametrize("what", [[], "nowhere.dcm", [3]])
def test_an_invalid_instance_is_rejected_at_once(what):
    """Before an association begins."""
    with pytest.raises(InvalidArgument):
        client.commit("PACS@127.0.0.1:1", what)


# --- reports that do not match the request -----------------------------------------------------------------------


def reporting(committed=(), failed=(), before=lambda _association, _message: None):
    """Run a peer that accepts a request, runs an action, and reports these references."""

    def commit(association, message):
        asked = parse_request(message.read(1 << 20), message.context.transfer_syntax, 9)
        answer(association, message, 0x0000)
        before(association, message)
        said = CommitmentReport(asked.transaction_uid, committed, failed)
        report(association, message, encode_report(said, "X", message.context.transfer_syntax))
        association.receive(20)

    return scripted(commit=commit)


def test_unreported_instances_have_failed():
    """With 0110, and listed separately; references that were not requested are ignored."""
    with reporting([ONE, FOREIGN], [Failure(FOREIGN, 0x0112)]) as peer:
        got = client.commit(peer.peer, [ONE, TWO], timeout=20)
    assert (got.committed, got.failed, got.unreported) == ((ONE,), (Failure(TWO, 0x0110),), (TWO,))


def test_an_empty_report_commits_nothing():
    """However it is encoded."""
    with reporting() as peer:
        got = client.commit(peer.peer, [ONE, TWO], timeout=20)
    assert (got.committed, [each.reference for each in got.failed]) == ((), [ONE, TWO])
    assert got.unreported == (ONE, TWO)


def test_contradictory_references_have_failed():
    """A contradictory report must not lead to a deletion."""
    with reporting([ONE, TWO], [Failure(TWO, 0x0112)]) as peer:
        got = client.commit(peer.peer, [ONE, TWO], timeout=20)
    assert (got.committed, got.failed, got.unreported) == ((ONE,), (Failure(TWO, 0x0112),), ())


def test_another_sop_class_does_not_match_the_reference():
    """A reference consists of both UIDs."""
    with reporting([Reference("1.2.840.10008.5.1.4.1.1.7", ONE.sop_instance_uid)]) as peer:
        assert client.commit(peer.peer, ONE, timeout=20).unreported == (ONE,)


def test_an_oversized_report_is_refused_unread():
    """A megabyte of empty items, also from another peer; the report of our peer is still accepted."""
    statuses = []
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * (1 << 17)
    bomb = struct.pack("<HHL", 8, 0x1199, len(items)) + items

    def flood(association, message):
        statuses.append(report(association, message, bomb))

    with reporting([ONE], before=flood) as peer:
        assert client.commit(peer.peer, ONE, timeout=20).committed == (ONE,)
    assert statuses == [0x0110]


def test_only_the_host_of_the_peer_may_report(tmp_path):
    """As for instances; `senders` allows others."""
    port, kinds = free_port(), []

    def stranger(_association, _message):
        with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=("127.0.0.2", 0)) as connection:
            connection.sendall(associate_rq([(1, "1.2.840.10008.1.20.1", [IMPLICIT])], called="PACSCU"))
            kinds.append(connection.recv(1))

    with reporting([ONE], before=stranger) as peer:
        client.commit(peer.peer, ONE, timeout=20, port=port)
        client.commit(peer.peer, ONE, timeout=20, port=port, senders=["127.0.0.2"])
    assert kinds == [b"\3", b"\2"]
