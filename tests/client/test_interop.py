"""The client with other PACS: Orthanc, DCMTK's dcmqrscp and storescp."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom import dcmread

from pacs import client
from pacs.client import Peer
from pacs.errors import AssociationLost, OperationFailed
from pacs.testing import study, write
from tests.programs import free_port, needs, running, storescp, wait_for_port


@dataclass(frozen=True)
class Other:
    """A running PACS, which knows HOME at `port`."""

    name: str
    peer: Peer
    home: int


def settings_of_orthanc(folder: Path, port: int, home: int) -> list[object]:
    """Return its arguments; it knows HOME and has no HTTP server."""
    storage = str(folder / "storage")
    settings = {
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "HttpServerEnabled": False,
        "DicomAet": "OTHER",
        "DicomPort": port,
        "DicomAlwaysAllowGet": True,
        "DicomModalities": {"home": ["HOME", "127.0.0.1", home]},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return [needs("Orthanc"), folder / "orthanc.json"]


def settings_of_dcmqrscp(folder: Path, port: int, home: int) -> list[object]:
    """Return its arguments; it knows HOME."""
    storage = folder / "storage"
    storage.mkdir()
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nhome = (HOME, 127.0.0.1, {home})\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nOTHER {storage} RW (50, 1024mb) ANY\nAETable END\n"
    )
    return [needs("dcmqrscp"), "-c", folder / "dcmqrscp.cfg"]


@contextmanager
def other(name: str, folder: Path) -> Iterator[Other]:
    """Run another PACS for the `with` block."""
    port, home = free_port(), free_port()
    settings = {"orthanc": settings_of_orthanc, "dcmqrscp": settings_of_dcmqrscp}[name]
    folder.mkdir(exist_ok=True)
    with running(settings(folder, port, home), folder / "log"):
        wait_for_port(port)
        yield Other(name, Peer("OTHER", "127.0.0.1", port, calling_ae_title="HOME"), home)


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def pacs(request, tmp_path) -> Iterator[Other]:
    """Each of them, with a study."""
    with other(request.param, tmp_path / "other") as running_one:
        sent = client.store(running_one.peer, *study(series=2, instances=3))
        assert (sent.completed, sent.failed) == (6, ())
        yield running_one


EXPECTED = sorted(each.SOPInstanceUID for each in study(series=2, instances=3))
STUDY = study(series=1, instances=1)[0].StudyInstanceUID


def uids(paths):
    """Return the SOP Instance UIDs of files, sorted."""
    return sorted(dcmread(path).SOPInstanceUID for path in paths)


def test_others_echo_and_find(pacs):
    """At each level, including a query that stops early."""
    assert client.echo(pacs.peer) > 0
    (match,) = client.find(pacs.peer, {"PatientName": "DOE*", "StudyInstanceUID": ""})
    assert (match.StudyInstanceUID, match.PatientName) == (STUDY, "DOE^JOHN")
    assert len(list(client.find(pacs.peer, {"StudyInstanceUID": STUDY, "SeriesInstanceUID": ""}))) == 2
    asked = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": study()[0].SeriesInstanceUID, "SOPInstanceUID": ""}
    assert len(list(client.find(pacs.peer, asked))) == 3
    assert len(list(client.find(pacs.peer, asked, limit=1))) == 1
    assert [each.PatientID for each in client.find(pacs.peer, {"PatientID": "P1"}, model="patient")] == ["P1"]


def test_others_move_to_the_built_in_receiver(pacs, tmp_path):
    """Progress ends with all instances."""
    told = []
    got = client.move_and_store(
        pacs.peer, {"StudyInstanceUID": STUDY}, to=tmp_path / "home", port=pacs.home, on_progress=told.append
    )
    assert uids(got.paths) == EXPECTED
    assert told[-1].received == 6


def test_others_get(pacs, tmp_path):
    """On the same association."""
    got = client.get(pacs.peer, {"StudyInstanceUID": STUDY}, to=tmp_path / "home")
    assert uids(got.paths) == EXPECTED


def test_others_send_only_missing_instances(pacs, tmp_path):
    """One file of the first series and all of the second."""
    first = client.fetch(pacs.peer, {"StudyInstanceUID": STUDY}, to=tmp_path / "home", port=pacs.home)
    gone = [path for path in first.paths if dcmread(path).SeriesNumber == 2 or dcmread(path).InstanceNumber == 1]
    for path in gone:
        path.unlink()
    again = client.fetch(pacs.peer, {"StudyInstanceUID": STUDY}, to=tmp_path / "home", port=pacs.home)
    assert uids(again.paths) == EXPECTED
    assert sorted(set(again.paths) - set(again.skipped)) == sorted(gone)


def test_others_refuse_an_unknown_ae_title(pacs, tmp_path):
    """If the status is A801, the message names the AE title and the port."""
    with pytest.raises(OperationFailed) as raised:
        client.move_and_store(pacs.peer, {"StudyInstanceUID": STUDY}, to=tmp_path, ae_title="STRANGER")
    assert raised.value.status != 0
    assert "STRANGER" in str(raised.value) or raised.value.status != 0xA801


def test_orthanc_commits(tmp_path):
    """It reports on a new association to our listener."""
    with other("orthanc", tmp_path / "other") as pacs:
        datasets = study(series=1, instances=2)
        client.store(pacs.peer, *datasets)
        asked = [datasets[0], (datasets[0].SOPClassUID, "1.2.3")]
        got = client.commit(pacs.peer, asked, port=pacs.home, timeout=20)
    assert [each.sop_instance_uid for each in got.committed] == [datasets[0].SOPInstanceUID]
    assert [each.reference.sop_instance_uid for each in got.failed] == ["1.2.3"]


@pytest.mark.parametrize("option", ["+xi", "+xe", "+xb", "+xd"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_native_data_sets_are_converted_to_an_accepted_syntax(option, syntax, tmp_path):
    """DCMTK's storescp accepts only implicit VR or prefers another syntax; the values stay equal."""
    datasets = study(series=1, instances=2, transfer_syntax=syntax)
    with storescp(tmp_path / "scp", "SCP", option) as scp:
        sent = client.store(f"SCP@127.0.0.1:{scp.port}", write(datasets, tmp_path / "out"))
        assert (sent.completed, sent.failed) == (2, ())
        (first, _) = sorted((dcmread(path) for path in scp.files()), key=lambda each: each.InstanceNumber)
    expected = study(series=1, instances=1)[0]
    assert (first.PatientName, first.Rows) == (expected.PatientName, 8)
    order = "big" if first.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2" else "little"
    values = [int.from_bytes(first.PixelData[at : at + 2], order) for at in range(0, 128, 2)]
    assert values == [int.from_bytes(expected.PixelData[at : at + 2], "little") for at in range(0, 128, 2)]


def test_orthanc_aborts_the_query_of_an_unknown_ae_title(tmp_path):
    """It accepts the association first; the error names what to check."""
    with (
        other("orthanc", tmp_path / "other") as pacs,
        pytest.raises(AssociationLost, match="is our AE title STRANGER listed"),
    ):
        list(client.find(replace(pacs.peer, calling_ae_title="STRANGER"), {"PatientID": ""}))
