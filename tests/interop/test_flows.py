"""The main workflows with common programs: DCMTK, pynetdicom, PixelMed."""

import re
import time
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from pacs.testing import serving, study, write
from tests.interop.requestors import Caller, with_pixelmed
from tests.programs import free_port, run, storescp


def store(archive, folder: Path, datasets: list[Dataset]) -> None:
    """Send data sets with DCMTK's storescu, in the transfer syntaxes they have."""
    write(datasets, folder)
    run("storescu", "-aec", "PACS", "127.0.0.1", archive.port, "+sd", folder)


def find(archive, model, level: str, **keys: str) -> list[Dataset]:
    """The matches of a C-FIND by pynetdicom; the final status must be success."""
    ae = AE("FINDER")
    ae.add_requested_context(model)
    association = ae.associate("127.0.0.1", archive.port, ae_title="PACS")
    assert association.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    responses = list(association.send_c_find(identifier, model))
    association.release()
    assert responses[-1][0].Status == 0x0000, responses[-1][0]
    assert all(status.Status in (0xFF00, 0xFF01) for status, _ in responses[:-1])
    return [match for _, match in responses[:-1]]


def test_dcmtk_finds_and_retrieves_a_study(tmp_path):
    """`movescu +P` moves a study to its own storage SCP and gets every file back, bit for bit."""
    port = free_port()
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": port}
    with serving(tmp_path / "pacs", {"peers": [home]}) as archive:
        datasets = study("ALLISON^ANN", series=2, instances=3)
        store(archive, tmp_path / "out", datasets)
        back = tmp_path / "back"
        back.mkdir()
        printed = run(
            "movescu", "-v", "-S", "-aet", "HOME", "-aec", "PACS", "+P", port, "-od", back,
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={datasets[0].StudyInstanceUID}",
            "127.0.0.1", archive.port,
        )  # fmt: skip
    assert sorted(dcmread(path).SOPInstanceUID for path in back.iterdir()) == sorted(
        each.SOPInstanceUID for each in datasets
    )
    assert printed.count("(Pending)") == 6


def test_pynetdicom_finds_and_retrieves_a_study_with_counts(tmp_path):
    """An AE that asks for a move to itself sees remaining fall and completed rise with every Pending (V5, V7, V12)."""
    received = []

    def keep(event):
        received.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    datasets = study(series=1, instances=5)
    scp = AE("HOME")
    scp.add_supported_context(datasets[0].SOPClassUID)
    listener = scp.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    try:
        home = {"ae_title": "HOME", "host": "127.0.0.1", "port": listener.server_address[1]}
        with serving(tmp_path / "pacs", {"peers": [home]}) as archive:
            store(archive, tmp_path / "out", datasets)
            responses = move(archive, "HOME", "STUDY", "HOME", StudyInstanceUID=datasets[0].StudyInstanceUID)
    finally:
        listener.shutdown()
    assert sorted(received) == sorted(each.SOPInstanceUID for each in datasets)
    assert [(each.Status, each.NumberOfRemainingSuboperations) for each, _ in responses[:-1]] == [
        (0xFF00, left) for left in (4, 3, 2, 1, 0)
    ]
    final = responses[-1][0]
    assert (final.Status, final.NumberOfCompletedSuboperations) == (0x0000, 5)
    assert "NumberOfRemainingSuboperations" not in final


def move(archive, calling: str, level: str, destination: str, model=StudyRootQueryRetrieveInformationModelMove, **keys):
    """All responses to a C-MOVE by pynetdicom."""
    ae = AE(calling)
    ae.add_requested_context(model)
    association = ae.associate("127.0.0.1", archive.port, ae_title="PACS")
    assert association.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    responses = list(association.send_c_move(identifier, destination, model))
    association.release()
    return responses


def test_a_study_is_moved_to_another_workstation(tmp_path):
    """PixelMed finds under one AE title, moves under another, to a third and to DCMTK's storescp.

    The log of storescp shows the AE that asked as Move Originator, with the Message ID of its C-MOVE (P1, V8).
    """
    port = free_port()
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    with storescp(tmp_path / "third", "THIRD") as third:
        peers = [
            {"ae_title": "PM_STORE", "host": "127.0.0.1", "port": port},
            {"ae_title": "THIRD", "host": "127.0.0.1", "port": third.port},
        ]
        with serving(tmp_path / "pacs", {"peers": peers}) as archive:
            wanted = study("ALLISON^ANN", series=1, instances=2, patient_id="A1")
            other = study("BAKER^BOB", series=1, instances=1, patient_id="B1")
            store(archive, tmp_path / "out", [*wanted, *other])
            move = ["move", wanted[0].StudyInstanceUID, incoming]
            found, to_itself, to_third = with_pixelmed(
                Caller(archive.port, "PM_STORE", port),
                *("calling", "PM_FIND", "find", "A*"),
                *("calling", "PM_MOVE", *move),
                *("destination", "THIRD", *move),
            )
        assert found["names"] == ["ALLISON^ANN"]
        assert (to_itself["status"], to_itself["completed"]) == (0x0000, 2)
        assert (to_third["status"], to_third["completed"]) == (0x0000, 0)
        assert sorted(path.name for path in incoming.iterdir()) == sorted(each.SOPInstanceUID for each in wanted)
        assert len(third.files()) == 2
        log = third.log.read_text("latin-1")
    assert re.search(r"Move Originator AE Title\s*:\s*PM_MOVE", log)
    assert re.search(r"Move Originator ID\s*:\s*\d+", log)


@pytest.mark.parametrize(
    ("level", "keywords"),
    [
        ("PATIENT", ["PatientID"]),
        ("PATIENT", ["PatientName", "PatientID"]),
        ("SERIES", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]),
        ("IMAGE", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]),
    ],
)
def test_one_patient_one_series_one_image(tmp_path, level, keywords):
    """Patient Root retrieves at every level reach a known destination, and an unknown one is 0xA801."""
    datasets = study(series=2, instances=2)
    keys = {keyword: str(datasets[0][keyword].value) for keyword in keywords}
    model = PatientRootQueryRetrieveInformationModelMove
    with storescp(tmp_path / "known", "KNOWN") as known:
        peers = [{"ae_title": "KNOWN", "host": "127.0.0.1", "port": known.port}]
        with serving(tmp_path / "pacs", {"peers": peers}) as archive:
            store(archive, tmp_path / "out", datasets)
            refused = move(archive, "ASKER", level, "NOBODY", model, **keys)
            moved = move(archive, "ASKER", level, "KNOWN", model, **keys)
        assert len(known.files()) == {"PATIENT": 4, "SERIES": 2, "IMAGE": 1}[level]
    assert [each.Status for each, _ in refused] == [0xA801]
    assert refused[0][0].ErrorComment
    assert moved[-1][0].Status == 0x0000


def test_dcmtk_receives_everything_on_one_association_at_a_time(tmp_path):
    """storescp lets further associations wait; this loses neither an instance nor time."""
    datasets = study(series=2, instances=10)
    model = StudyRootQueryRetrieveInformationModelMove
    with storescp(tmp_path / "known", "KNOWN") as known:
        peers = [{"ae_title": "KNOWN", "host": "127.0.0.1", "port": known.port, "associations": 4}]
        with serving(tmp_path / "pacs", {"peers": peers}) as archive:
            store(archive, tmp_path / "out", datasets)
            began = time.monotonic()
            moved = move(archive, "ASKER", "STUDY", "KNOWN", model, StudyInstanceUID=datasets[0].StudyInstanceUID)
            took = time.monotonic() - began
        assert len(known.files()) == 20
    assert (moved[-1][0].Status, moved[-1][0].NumberOfCompletedSuboperations) == (0x0000, 20)
    assert took < 8


@pytest.mark.parametrize(
    "model", [PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind]
)
def test_retrieve_by_patient_only(tmp_path, model):
    """Studies by Patient ID in both roots, and a series by Patient ID, Study Date and Series Description alone."""
    with serving(tmp_path / "pacs") as archive:
        first = study(series=2, instances=1, number=1, StudyDate="20200101", StudyDescription="ONE")
        second = study(series=1, instances=1, number=2, StudyDate="20210202", StudyDescription="TWO", modality="MR")
        for each in first:
            each.SeriesDescription = f"S{each.SeriesNumber}"
        store(archive, tmp_path / "out", [*first, *second])
        returned = dict.fromkeys(["StudyInstanceUID", "StudyDate", "ModalitiesInStudy", "StudyDescription"], "")
        studies = find(archive, model, "STUDY", PatientID="P1", **returned)
        series = find(
            archive, model, "SERIES",
            PatientID="P1", StudyDate="20200101", SeriesDescription="S2", SeriesInstanceUID="",
        )  # fmt: skip
    assert sorted((each.StudyDate, each.ModalitiesInStudy, each.StudyDescription) for each in studies) == [
        ("20200101", "CT", "ONE"),
        ("20210202", "MR", "TWO"),
    ]
    assert [each.SeriesInstanceUID for each in series] == [
        each.SeriesInstanceUID for each in first if each.SeriesNumber == 2
    ]
