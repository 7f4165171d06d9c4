"""Effects of single settings."""

import pytest
from pydicom import Dataset
from pynetdicom import AE

from pacs.testing import serving, study

CT = "1.2.840.10008.5.1.4.1.1.2"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
WS = {"ae_title": "WS", "host": "127.0.0.1", "port": 104}


def associated(archive, abstract_syntax=CT, transfer_syntaxes=(EXPLICIT,)):
    """An association of the AE WS, established or not."""
    ae = AE("WS")
    ae.add_requested_context(abstract_syntax, list(transfer_syntaxes))
    return ae.associate("127.0.0.1", archive.port, ae_title="PACS")


def stored(archive, dataset):
    """Return the status of a C-STORE."""
    association = associated(archive, dataset.SOPClassUID)
    try:
        return association.send_c_store(dataset).Status
    finally:
        association.release()


def found(archive, level="STUDY", **keys):
    """Return the final status and the number of matches of a C-FIND."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    association = associated(archive, FIND)
    try:
        statuses = [status.Status for status, _ in association.send_c_find(identifier, FIND)]
    finally:
        association.release()
    return statuses[-1], len(statuses) - 1


def test_limits_associations(tmp_path):
    """One more is rejected: local limit exceeded."""
    with serving(tmp_path, {"limits.associations": 1}) as archive:
        first = associated(archive)
        assert first.is_established
        others = [associated(archive) for _ in range(5)]  # pynetdicom loses an answer that comes very fast
        assert any(each.is_rejected for each in others)
        assert not any(each.is_established for each in others)
        first.release()


def test_limits_pdu_size(tmp_path):
    """The maximum length in the A-ASSOCIATE-AC."""
    with serving(tmp_path, {"limits.pdu_size": 8192}) as archive:
        association = associated(archive)
        assert association.acceptor.maximum_length == 8192
        association.release()


def test_limits_identifier_size(tmp_path):
    """A longer Identifier is refused."""
    with serving(tmp_path, {"limits.identifier_size": 4096}) as archive:
        assert found(archive, PatientID="P1")[0] == 0
        assert found(archive, StudyInstanceUID=["1.2.3"] * 1000)[0] >> 8 == 0xA7


def test_limits_idle_seconds(tmp_path):
    """An idle association is aborted."""
    with serving(tmp_path, {"limits.idle_seconds": 0.2}) as archive:
        association = associated(archive)
        association.join(timeout=20)
        assert association.is_aborted


@pytest.mark.parametrize(
    ("duplicates", "statuses"),
    [("keep", (0x0000, 0x0000, 0xC)), ("replace", (0x0000, 0x0000, 0x0000)), ("reject", (0x0000, 0x0111, 0x0111))],
)
def test_storage_duplicates(tmp_path, duplicates, statuses):
    """The same instance again, and different content with the same SOP Instance UID."""
    (first,) = study(series=1, instances=1)
    (other,) = study(series=1, instances=1, SeriesDescription="changed")
    with serving(tmp_path, {"storage.duplicates": duplicates}) as archive:
        once, again, changed = (stored(archive, each) for each in (first, first, other))
    assert (once, again, changed if changed < 0x1000 else changed >> 12) == statuses


def test_storage_unknown_sop_classes(tmp_path):
    """A private SOP Class has no accepted presentation context without it."""
    with serving(tmp_path / "known") as archive:
        assert not associated(archive, "2.25.1234").is_established
    with serving(tmp_path / "unknown", {"storage.unknown_sop_classes": True}) as archive:
        association = associated(archive, "2.25.1234")
        assert association.is_established
        association.release()


def test_query_manner_and_a_peer_with_its_own(tmp_path):
    """A query below STUDY level without the keys above: refused in strict mode, answered in tolerant mode."""
    with serving(tmp_path / "strict", {"query.manner": "strict"}) as archive:
        assert found(archive, "SERIES", Modality="CT")[0] == 0xA900
    peers = [WS | {"manner": "tolerant"}]
    with serving(tmp_path / "peer", {"query.manner": "strict", "peers": peers}) as archive:
        assert found(archive, "SERIES", Modality="CT")[0] == 0x0000


@pytest.mark.parametrize(("order", "accepted"), [([], EXPLICIT), (["ImplicitVRLittleEndian"], IMPLICIT)])
def test_a_peers_order_of_transfer_syntaxes(tmp_path, order, accepted):
    """Explicit before implicit, unless its entry says otherwise."""
    with serving(tmp_path, {"peers": [WS | {"transfer_syntaxes": order}]}) as archive:
        association = associated(archive, CT, (IMPLICIT, EXPLICIT))
        assert association.accepted_contexts[0].transfer_syntax == [accepted]
        association.release()
