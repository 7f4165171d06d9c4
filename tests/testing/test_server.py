"""`pacs_server` and `storage_scp`, used as in the tests of an SCU."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

import pacs.client
import pacs.testing
from benchmarks.processes import free_port
from pacs.errors import (
    ConfigurationError,
    InstanceConflict,
    InstanceUnreadable,
    MissingUID,
    OperationFailed,
    UndecodableDataSet,
)
from pacs.observability.events import AssociationAccepted, AssociationEnded, DestinationFailed
from pacs.testing import Fault, Scenario, plugin, serving, storing, studies, study, write
from tests.archives import FIND, GET, MOVE
from tests.programs import needs_ipv6

VERIFICATION = "1.2.840.10008.1.1"


def keys(level="STUDY", **values):
    """Return an Identifier."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def associate(server, *sop_classes, **options):
    """Associate with pynetdicom for some SOP Classes."""
    ae = AE("CLIENT")
    for each in sop_classes:
        ae.add_requested_context(each)
    association = ae.associate(server.host, server.port, ae_title=server.ae_title, **options)
    assert association.is_established
    return association


def find(server, **values):
    """Return the matches of a C-FIND and its final status."""
    association = associate(server, FIND)
    *matches, (final, _) = association.send_c_find(keys(**values), FIND)
    association.release()
    return [match for _, match in matches], final.Status


def move(server, destination, **values):
    """Return all responses to a C-MOVE."""
    association = associate(server, MOVE)
    responses = [status for status, _ in association.send_c_move(keys(**values), destination, MOVE)]
    association.release()
    return responses


# --- contents -----------------------------------------------------------------------------------------------------


def test_it_has_an_address(pacs_server):
    """In one text."""
    assert pacs_server.address == f"PACS@127.0.0.1:{pacs_server.port}"
    assert find(pacs_server, PatientID="") == ([], 0x0000)


def test_an_ipv6_address_is_written_in_brackets(tmp_path):
    """In the address of the server, which the client takes, in its status, its log and its audit log."""
    needs_ipv6()
    log, events = tmp_path / "audit", []
    peers = [{"ae_title": "GONE", "host": "::1", "port": free_port()}]
    with serving(tmp_path / "pacs", {"server.host": "::1", "audit.file": str(log), "peers": peers}) as server:
        server.events.subscribe(events.append)
        written = [server.address, repr(server), server.status]
        (dataset,) = study(patient_id="P1", series=1, instances=1)
        server.add(dataset)
        asked = {"StudyInstanceUID": dataset.StudyInstanceUID}
        with pytest.raises(OperationFailed):
            pacs.client.move(server.address, asked, destination="GONE")
    written += [each.sentence for each in events if isinstance(each, DestinationFailed)]
    written += [each.address for each in events if isinstance(each, AssociationAccepted | AssociationEnded)]
    written += [json.loads(line)["address"] for line in log.read_text().splitlines() if "C-MOVE" in line]
    assert len(written) == 7
    assert [each for each in written if "[::1]:" not in each] == []


def test_it_stores_data_sets_files_folders_and_lists(pacs_server, tmp_path):
    """A client finds each of them."""
    by_itself, *listed = (study(patient_id=f"P{number}", series=1, instances=1) for number in range(1, 4))
    (file,) = write(study(patient_id="FILE", series=1, instances=1), tmp_path / "a")
    write(study(patient_id="FOLDER", series=1, instances=2), tmp_path / "b" / "deeper")
    pacs_server.add(by_itself[0], listed)
    pacs_server.add(str(file), tmp_path / "b")
    found, _ = find(pacs_server, PatientID="")
    assert sorted(each.PatientID for each in found) == ["FILE", "FOLDER", "P1", "P2", "P3"]


def test_it_stores_a_data_set_without_file_meta_information(pacs_server):
    """In explicit VR little endian."""
    (dataset,) = study(series=1, instances=1)
    del dataset.file_meta
    pacs_server.add(dataset)
    assert len(find(pacs_server, PatientID="P1")[0]) == 1


def test_a_refused_data_set_raises_with_the_reason(pacs_server, tmp_path):
    """As an import does."""
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(UndecodableDataSet, match="Not a DICOM file"):
        pacs_server.add(tmp_path / "note.txt")


def test_a_refused_item_is_named(pacs_server, tmp_path):
    """The error has the path, or the missing attributes."""
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(UndecodableDataSet, match="^" + re.escape(f"{tmp_path}/note.txt: Not a DICOM file")):
        pacs_server.add(tmp_path)
    with pytest.raises(InstanceUnreadable, match=r"^/nope: The file cannot be read"):
        pacs_server.add("/nope")
    with pytest.raises(MissingUID, match=r"^The data set has no SOPClassUID and no SOPInstanceUID; pacs"):
        pacs_server.add(Dataset())
    with pytest.raises(TypeError, match="expected a data set, a path, or a list of these, not 3"):
        pacs_server.add(3)


def test_another_instance_of_the_same_uid_is_refused_in_one_sentence(pacs_server):
    """With what differs and what to do, and without the frames of the server."""
    pacs_server.add(study(series=1, instances=1))
    pacs_server.add(study(series=1, instances=1))
    with pytest.raises(InstanceConflict, match=r"other content; Rows.* differ.* need another `number`$") as raised:
        pacs_server.add(study(series=1, instances=1, size=16))
    assert [Path(each.path).name for each in raised.traceback] == ["test_server.py", "server.py"]
    assert (raised.value.__cause__, raised.value.__suppress_context__) == (None, True)


def test_studies_builds_several_patients(pacs_server):
    """Each with its own names and UIDs."""
    pacs_server.add(studies(patients=2, per_patient=3, series=1, instances=1))
    found, _ = find(pacs_server, PatientID="")
    assert [each.PatientID for each in found].count("P1") == 3
    assert len({each.StudyInstanceUID for each in find(pacs_server, StudyInstanceUID="")[0]}) == 6


# --- records ------------------------------------------------------------------------------------------------------


def test_it_records_the_keys_of_a_query(pacs_server):
    """As received, '' for universal matching."""
    pacs_server.add(study(series=1, instances=1))
    find(pacs_server, PatientID="P1", PatientName="")
    (query,) = pacs_server.received.c_find
    assert query.keys == {"QueryRetrieveLevel": "STUDY", "PatientID": "P1", "PatientName": ""}
    assert (query.level, query.message_id, query.priority, query.calling_ae_title) == ("STUDY", 1, 2, "CLIENT")
    assert [each.status for each in query.responses] == [0xFF00, 0x0000]
    assert query.first_response is not None
    assert query.duration is not None
    assert 0 <= query.first_response <= query.duration


def test_it_records_the_destination_and_counts_of_a_move(pacs_server, storage_scp):
    """The destination has the move originator."""
    pacs_server.add(study(series=1, instances=3))
    responses = move(pacs_server, "STORAGE_SCP", StudyInstanceUID=study()[0].StudyInstanceUID)
    retrieve = pacs_server.received.expect_c_move(destination="STORAGE_SCP")
    assert retrieve.status == responses[-1].Status == 0x0000
    assert [each.remaining for each in retrieve.responses] == [2, 1, 0, None]
    assert [each.InstanceNumber for each in sorted(storage_scp.datasets, key=lambda each: each.InstanceNumber)] == [
        1,
        2,
        3,
    ]
    assert {each.move_originator for each in storage_scp.wait_for(3)} == {("CLIENT", 1)}


def test_it_records_the_negotiation_of_an_association(pacs_server):
    """What was proposed and accepted, and how the association ended."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = FIND, b"\1"
    ct = study()[0].SOPClassUID
    negotiation = [item, build_role(ct, scp_role=True)]
    associate(pacs_server, FIND, ct, "1.2.3.4", ext_neg=negotiation).release()
    (association,) = pacs_server.received.wait_for_ends()
    assert [each.abstract_syntax for each in association.proposed] == [FIND, ct, "1.2.3.4"]
    assert [each.abstract_syntax for each in association.accepted] == [FIND, ct]
    assert (association.roles, association.extended) == ({ct: (False, True)}, {FIND: b"\1"})
    assert (association.ended_by, association.rejection) == ("A-RELEASE", None)


def test_it_records_aborts_and_rejections(pacs_server):
    """Every association is in the list."""
    associate(pacs_server, VERIFICATION).abort()
    pacs_server.faults.add(Fault("association", reject=(1, 1, 3)))
    ae = AE("CLIENT")
    ae.add_requested_context(VERIFICATION)
    # pynetdicom reports an abort if it sees the end of the connection before the rejection
    assert not ae.associate(pacs_server.host, pacs_server.port).is_established
    first, second = pacs_server.received.wait_for_ends()
    assert (first.ended_by, second.ended_by, second.rejection) == ("A-ABORT", "rejected", (1, 1, 3))


def test_it_records_a_cancel(pacs_server):
    """In the request that it cancels."""
    pacs_server.add(studies(patients=3, per_patient=1, series=1, instances=1))
    pacs_server.faults.add(Fault("C-FIND", delay_each=0.1))
    association = associate(pacs_server, FIND)
    responses = association.send_c_find(keys(PatientID=""), FIND, msg_id=7)
    next(responses)
    association.send_c_cancel(7, query_model=FIND)
    pacs_server.received.wait_for(lambda received: received.c_cancel)
    assert list(responses)[-1][0].Status == 0xFE00
    association.release()
    assert [each.message_id for each in pacs_server.received.c_cancel] == [7]


def test_it_records_stores_echoes_and_gets(pacs_server):
    """Each in its list."""
    (image,) = study(series=1, instances=1)
    ae = AE("CLIENT")
    for each in (VERIFICATION, GET, image.SOPClassUID):
        ae.add_requested_context(each)
    association = ae.associate(
        pacs_server.host,
        pacs_server.port,
        ext_neg=[build_role(image.SOPClassUID, scu_role=True, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda _event: 0x0000)],
    )
    association.send_c_echo()
    association.send_c_store(image)
    list(association.send_c_get(keys(StudyInstanceUID=image.StudyInstanceUID), GET))
    association.release()
    received = pacs_server.received
    assert (len(received.c_echo), len(received.c_get), received.n_action) == (1, 1, [])
    assert received.expect_c_store(sop_instance_uid=image.SOPInstanceUID).status == 0x0000
    received.clear()
    assert (received.requests, received.associations) == ([], [])


# --- expectations -------------------------------------------------------------------------------------------------


def test_a_failed_expectation_names_differing_keys(pacs_server):
    """With all keys of the requests received."""
    find(pacs_server, PatientID="P2", StudyDate="")
    with pytest.raises(AssertionError) as told:
        pacs_server.received.expect_c_find(PatientID="P1", Modality="CT", message_id=1)
    assert str(told.value).splitlines() == [
        "no C-FIND received with PatientID='P1', Modality='CT', message_id=1",
        "  C-FIND number 1, from CLIENT: PatientID is 'P2', expected 'P1'; Modality is missing, expected 'CT'",
        "    its keys: StudyDate='', QueryRetrieveLevel='STUDY', PatientID='P2'",
    ]
    assert pacs_server.received.expect_c_find(PatientID="P2", message_id=1).level == "STUDY"


def test_a_failed_expectation_lists_the_received_operations(pacs_server):
    """Or that no request was received."""
    with pytest.raises(AssertionError, match="no C-MOVE received\n  no request received"):
        pacs_server.received.expect_c_move()
    find(pacs_server, PatientID="")
    with pytest.raises(AssertionError, match=r"no C-GET received\n  operations: C-FIND \(1\)"):
        pacs_server.received.expect_c_get(PatientID="P1")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("PatientId", "there is no keyword PatientId; did you mean PatientID?"),
        ("mesage_id", "mesage_id: requests have no such attribute; did you mean message_id?"),
    ],
)
def test_an_unknown_key_of_an_expectation_is_an_error(pacs_server, mistake, said):
    """Whatever was received."""
    with pytest.raises(ValueError, match=re.escape(said)):
        pacs_server.received.expect_c_find(**{mistake: "P1"})


def test_a_key_without_a_keyword_is_expected_by_its_tag(pacs_server):
    """As `keys` shows it."""
    asked = keys(PatientID="P1")
    asked.add_new(0x00091001, "LO", "X")
    association = associate(pacs_server, FIND)
    list(association.send_c_find(asked, FIND))
    association.release()
    assert "00091001" in pacs_server.received.expect_c_find(**{"PatientID": "P1"}).keys
    with pytest.raises(AssertionError, match="00091001"):
        pacs_server.received.expect_c_find(**{"00091001": "Y"})


def test_reprs_have_address_and_counts(pacs_server, storage_scp):
    """For servers, records and responses."""
    pacs_server.add(study(series=1, instances=1))
    move(pacs_server, "STORAGE_SCP", PatientID="", StudyInstanceUID=study()[0].StudyInstanceUID)
    find(pacs_server, PatientID="P1")
    assert repr(pacs_server) == f"<PacsServer {pacs_server.address}: 2 associations, 2 requests>"
    assert repr(pacs_server.received) == ("<Received: 2 associations, 2 requests; operations: C-MOVE (1), C-FIND (1)>")
    assert repr(storage_scp) == f"<StorageSCP {storage_scp.address}: 1 instance, 1 association, 1 request>"
    pending, final = pacs_server.received.c_find[0].responses
    assert repr(pending).startswith("Response(status=0xFF00, after=0.")
    (_, moved) = pacs_server.received.c_move[0].responses
    assert repr(moved).endswith(", completed=1, failed=0, warning=0)")
    assert "comment" not in repr(final)


def test_the_repr_of_an_unwatched_server_has_its_address(tmp_path):
    """Without counts."""
    with serving(tmp_path) as server:
        assert repr(server) == f"<PacsServer {server.address}>"


def test_received_only_has_methods_for_reading(pacs_server):
    """Recording is done by another object."""
    shown = {each for each in dir(pacs_server.received) if not each.startswith("_")}
    assert shown == {
        *("associations", "requests", "of", "clear", "expect", "wait_for", "wait_for_ends"),
        *("c_echo", "c_store", "c_find", "c_move", "c_get", "n_action", "c_cancel"),
        *("expect_c_echo", "expect_c_store", "expect_c_find", "expect_c_move", "expect_c_get"),
    }


@pytest.mark.parametrize("package", [pacs.client, pacs.testing], ids=lambda each: each.__name__)
def test_dir_lists_the_public_names(package):
    """All public names, including late imports, and no others."""
    assert dir(package) == sorted(package.__all__)
    assert all(getattr(package, each) is not None for each in dir(package))
    assert not [each for each in dir(package) if each.startswith("pytest_")]


def test_a_timeout_lists_the_received_operations(pacs_server, storage_scp):
    """After its timeout."""
    with pytest.raises(AssertionError, match=r"did not hold within 0\.05 s; no request received"):
        pacs_server.received.wait_for(lambda received: received.c_echo, 0.05)
    with pytest.raises(AssertionError, match=r"0 instances received within 0\.05 s, expected 1"):
        storage_scp.wait_for(1, 0.05)


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.pacs(settings={"server.ae_title": "ARCHIVE", "access.called_ae": "ours"})
def test_a_marker_configures_it(pacs_server):
    """By the keys of config.toml."""
    assert pacs_server.ae_title == "ARCHIVE"
    associate(pacs_server, VERIFICATION).release()


@pytest.mark.pacs(scenario="strict-a900")
def test_a_marker_selects_a_scenario(pacs_server):
    """By the name of a preset."""
    assert find(pacs_server, QueryRetrieveLevel="SERIES", PatientID="P1")[1] == 0xA900


@pytest.mark.pacs(scenario=Scenario(settings={"query.manner": "strict"}), settings={"query.manner": "tolerant"})
def test_settings_override_those_of_a_scenario(pacs_server):
    """Settings of a test take precedence."""
    assert find(pacs_server, QueryRetrieveLevel="SERIES", PatientID="P1")[1] == 0x0000


def test_faults_can_be_added_and_removed_at_run_time(pacs_server):
    """A fault counts its messages."""
    armed = pacs_server.faults.add(Fault("C-FIND", nth="every 2", status=0xA700))
    assert [find(pacs_server, PatientID="")[1] for _ in range(4)] == [0, 0xA700, 0, 0xA700]
    assert armed.fired == 2
    armed.remove()
    assert [find(pacs_server, PatientID="")[1] for _ in range(2)] == [0, 0]


def test_a_fault_can_have_a_level_caller_or_sop_class(pacs_server):
    """Other messages neither match nor count."""
    level = pacs_server.faults.add(Fault("C-FIND", level="SERIES", status=0xA700))
    caller = pacs_server.faults.add(Fault("C-FIND", calling="SOMEBODY*", status=0xC001))
    sop_class = pacs_server.faults.add(Fault(sop_class="1.2.840.10008.5.1.4.1.2.1.*", status=0xC002))
    answers = [find(pacs_server, QueryRetrieveLevel=each, StudyInstanceUID="1.2.3")[1] for each in ("STUDY", "SERIES")]
    assert answers == [0x0000, 0xA700]
    assert [(each.seen, each.fired) for each in (level, caller, sop_class)] == [(1, 1), (0, 0), (0, 0)]


def test_a_peer_can_be_added_at_run_time(pacs_server):
    """A move to it is refused before and runs after; an invalid peer raises ConfigurationError."""
    (image,) = study(series=1, instances=1)
    pacs_server.add(image)
    with storing("LATE") as scp:
        assert move(pacs_server, "LATE", StudyInstanceUID=image.StudyInstanceUID)[-1].Status == 0xA801
        pacs_server.add_peer("LATE", scp.host, scp.port)
        assert move(pacs_server, "LATE", StudyInstanceUID=image.StudyInstanceUID)[-1].Status == 0x0000
        (stored,) = scp.wait_for(1)
    assert stored.dataset == image
    with pytest.raises(ConfigurationError, match="expected an AE title of 1 to 16 characters"):
        pacs_server.add_peer("A TITLE THAT IS TOO LONG", "127.0.0.1", 104)


def test_a_program_can_use_context_managers():
    """In a temporary folder."""
    with serving(watched=True) as server:
        folder = Path(server.config.files.url)
        server.add(study(series=1, instances=1))
        find(server, PatientID="P1")
        assert server.received.expect_c_find(PatientID="P1").status == 0x0000
    assert not folder.exists()


def test_a_program_needs_no_pytest():
    """Only the fixtures do."""
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from pacs.testing import *\n"
        "with serving(watched=True) as server, storing() as scp:\n"
        "    server.add(study(series=1, instances=2))\n"
        "    server.add_peer(scp.ae_title, scp.host, scp.port)\n"
        "    print(server.address.rpartition(':')[0])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "PACS@127.0.0.1"


def test_a_fixture_can_be_imported_to_be_wrapped():
    """Also from the package."""
    assert pacs.testing.pacs_server is plugin.pacs_server
    assert pacs.testing.storage_scp is plugin.storage_scp


def test_an_unwatched_server_has_no_interposer(tmp_path):
    """It runs as `pacs serve` does and has no records."""
    with serving(tmp_path) as server:
        assert find(server, PatientID="") == ([], 0x0000)
        with pytest.raises(RuntimeError, match="not watched"):
            _ = server.received
        with pytest.raises(RuntimeError, match="not watched"):
            server.faults.clear()


def test_a_storage_scp_records_and_takes_faults(storage_scp):
    """It records requests and takes faults."""
    storage_scp.faults.add(Fault("C-STORE", nth=1, full_disk=True))
    storage_scp.faults.add(Fault("C-STORE", nth=2, status=0xC001, comment="Never"))
    (image,) = study(series=1, instances=1)
    association = associate(storage_scp, VERIFICATION, image.SOPClassUID)
    assert association.send_c_echo().Status == 0x0000
    assert [association.send_c_store(image).Status for _ in range(3)] == [0xA700, 0xC001, 0x0000]
    association.release()
    assert len(storage_scp.instances) == 1
    assert [each.status for each in storage_scp.received.c_store] == [0xA700, 0xC001, 0x0000]
    assert storage_scp.received.c_store[1].responses[0].comment == "Never"
