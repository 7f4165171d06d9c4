"""Storage commitment with Orthanc as SCU: it sends an instance, requests commitment, and shows the report."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import dcmwrite
from pydicom.filebase import DicomBytesIO

from pacs.testing import serving, study
from tests.committing import CT, some_uid
from tests.interop.orthanc import orthanc
from tests.programs import free_port


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Orthanc and an archive, configured for each other, and an instance that Orthanc has sent."""
    folder = tmp_path_factory.mktemp("pair")
    ours = free_port()
    with ExitStack() as stack:
        theirs = stack.enter_context(orthanc(folder / "orthanc", ours))
        settings = {"peers": [theirs.row], "server.port": ours}
        archive = stack.enter_context(serving(folder / "pacs", settings))
        (dataset,) = study(series=1, instances=1)
        content = DicomBytesIO()
        dcmwrite(content, dataset, enforce_file_format=True)
        sent = theirs.call("instances", content.getvalue())["ID"]
        assert theirs.post("modalities/pacs/store", Resources=[sent])["FailedInstancesCount"] == 0
        yield theirs, archive, dataset, sent


def test_orthanc_receives_the_report_of_a_commitment(pair):
    """An instance that it has sent is committed."""
    theirs, _, dataset, sent = pair
    asked = theirs.post("modalities/pacs/storage-commitment", Resources=[sent])
    outcome = theirs.outcome(asked["Path"])
    assert (outcome["Status"], outcome["RemoteAET"], outcome["Failures"]) == ("Success", "PACS", [])
    assert [each["SOPInstanceUID"] for each in outcome["Success"]] == [dataset.SOPInstanceUID]


def test_orthanc_receives_the_report_of_a_failure(pair):
    """An instance that it has not sent and a damaged one fail, each with its reason; others are committed."""
    theirs, archive, dataset, _ = pair
    unknown = [CT, some_uid(1)]
    asked = theirs.post("modalities/pacs/storage-commitment", DicomInstances=[unknown, [CT, dataset.SOPInstanceUID]])
    outcome = theirs.outcome(asked["Path"])
    assert outcome["Status"] == "Failure"
    assert [each["SOPInstanceUID"] for each in outcome["Success"]] == [dataset.SOPInstanceUID]
    assert [(each["SOPInstanceUID"], each["FailureReason"]) for each in outcome["Failures"]] == [(unknown[1], 0x0112)]
    (file,) = Path(archive.config.files.url).rglob("*.dcm")
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"\xff\xff")
    asked = theirs.post("modalities/pacs/storage-commitment", DicomInstances=[[CT, dataset.SOPInstanceUID]])
    outcome = theirs.outcome(asked["Path"])
    assert (outcome["Status"], outcome["Failures"][0]["FailureReason"]) == ("Failure", 0x0110)
    file.write_bytes(content)
