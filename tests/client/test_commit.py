"""`commit`: storage commitment as SCU, with the report on either association."""

import pytest

from pacs import client
from pacs.client import Reference
from pacs.errors import InvalidArgument, OperationFailed, PeerTimeout
from pacs.testing import serving, write


def test_a_report_comes_on_the_same_association(full, tmp_path, datasets):
    """Of files and data sets alike."""
    folder = tmp_path / "out"
    write(datasets[:2], folder)
    got = client.commit(full.peer, [folder, datasets[2]], timeout=20)
    assert [each.sop_instance_uid for each in got.committed] == [each.SOPInstanceUID for each in datasets[:3]]
    assert got.failed == ()
    assert got.transaction_uid.startswith("2.25.")


def test_a_report_comes_on_an_association_to_us(tmp_path, datasets, known):
    """Where the archive reports on associations of its own only, it finds our listener."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": known.port}
    with serving(tmp_path / "other", {"peers": [home], "commitment.same_association_seconds": 0}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        got = client.commit(peer, datasets, timeout=20, port=known.port)
    assert len(got.committed) == 6


def test_what_is_not_there_fails_with_its_reason(full, datasets):
    """No such object instance (0112), by the reference that was given."""
    there, gone = (
        Reference(datasets[0].SOPClassUID, datasets[0].SOPInstanceUID),
        Reference(datasets[0].SOPClassUID, "1.2.3.4"),
    )
    got = client.commit(full.peer, [there, gone], timeout=20)
    assert got.committed == (there,)
    assert got.failed == ((gone, 0x0112),)


def test_a_report_that_does_not_come_is_not_waited_for_longer(tmp_path, datasets, known):
    """And what to look at is said."""
    with serving(tmp_path / "other", {"commitment.same_association_seconds": 0}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        with pytest.raises(PeerTimeout, match="own"):
            client.commit(peer, datasets, timeout=0.5)


def test_a_refused_request_says_why(tmp_path, datasets):
    """Not authorized is 0124."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": 1, "services": ["store"]}
    with serving(tmp_path / "other", {"peers": [home]}) as archive:
        peer = client.Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        with pytest.raises(OperationFailed, match="not authorized") as raised:
            client.commit(peer, datasets)
    assert raised.value.status == 0x0124


@pytest.mark.parametrize("what", [[], "nowhere.dcm", [3]])
def test_what_is_no_instance_is_said_at_once(what):
    """Before anybody is called."""
    with pytest.raises(InvalidArgument):
        client.commit("PACS@127.0.0.1:1", what)
