"""Associations between real programs are recorded and replayed."""

import json
import re
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset

from pacs import client
from pacs.dimse.server.server import DimseServer
from pacs.errors import RecordingUnusable
from pacs.recording import datasets
from pacs.recording.file_format import RecordingWriter, read
from pacs.recording.relay import Relay
from pacs.recording.replay import Replay, exchanges
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.programs import free_port, run

SECRETS = ("DOE", "JOHN", "MRN-77", "1970", "2026", "A1", "WELBY")
"""Parts of what the specimens say of a person."""


@pytest.fixture
def archive(tmp_path):
    """An archive with two studies of one patient."""
    with serving(tmp_path / "archive") as archive:
        for number in (1, 2):
            take_in(archive, study(patient_id="MRN-77", series=1, instances=2, number=number))
        yield archive


@contextmanager
def recording(archive, file):
    """Record associations to an archive on the given port; the file is complete after the block."""
    with file.open("w", encoding="utf-8") as stream:
        writer = RecordingWriter(stream)
        with Relay(("127.0.0.1", 0), ("127.0.0.1", archive.port), writer.write) as relay:
            yield relay.port


@contextmanager
def replaying(file):
    """Run a server that replays a recording."""
    server = DimseServer([("127.0.0.1", 0)], Replay(read(file)).settings)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


PROPOSED = '{"id": 1, "abstract_syntax": "1.2.840.10008.5.1.4.1.2.2.1", "transfer_syntaxes": ["1.2.840.10008.1.2"]}'
REQUEST = '{"calling_ae_title": "A", "called_ae_title": "B", "max_pdu": 0, "contexts": [' + PROPOSED + "]}"
HEAD = '{"pacs recording": 1}\n{"association": 1, "request": ' + REQUEST + "}\n"
COMMAND = '{"CommandField": 32, "MessageID": 1}'
MESSAGE = '{"association": 1, "from": "requestor", "context": 1, "command": ' + COMMAND + ', "data": %s}\n'


def find(port, *keys, level="STUDY"):
    """Return what findscu prints."""
    words = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
    return run("findscu", "-v", "-S", "-aec", "PACS", *words, "127.0.0.1", port)


def test_a_query_is_replayed(archive, tmp_path):
    """The same number of matches, with other names; a second association gets them again."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        original = find(port, "PatientID=MRN-77", "PatientName", "StudyInstanceUID")
    with replaying(tape) as port:
        replayed = find(port, "PatientID=MRN-77", "PatientName", "StudyInstanceUID")
        again = find(port, "PatientID=MRN-77", "PatientName", "StudyInstanceUID")
    assert original.count("(Pending)") == replayed.count("(Pending)") == again.count("(Pending)") == 2
    assert "DOE^JOHN" in original
    assert "NAME" in replayed
    assert "DOE" not in replayed


def test_a_request_gets_the_most_similar_response(archive, tmp_path):
    """By an equal Identifier, otherwise by its keys."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        find(port, "PatientName=NOBODY", "StudyInstanceUID")
        find(port, "PatientID=MRN-77", "StudyInstanceUID")
    with replaying(tape) as port:
        by_id = find(port, "PatientID=WHOEVER", "StudyInstanceUID")
        by_name = find(port, "PatientName=WHOEVER", "StudyInstanceUID")
    assert by_id.count("(Pending)") == 2
    assert by_name.count("(Pending)") == 0


def test_a_recording_has_no_patient_data(archive, tmp_path):
    """Not in Identifiers, responses, stored data sets or their UIDs."""
    tape = tmp_path / "tape.jsonl"
    files = write(study(patient_id="MRN-77", series=1, instances=2, number=3), tmp_path / "files")
    uids = {str(each.StudyInstanceUID) for each in study(patient_id="MRN-77", series=1, instances=1, number=3)}
    with recording(archive, tape) as port:
        find(
            port, "PatientName=DOE*", "PatientBirthDate", "StudyDate=2026-", "AccessionNumber", "ReferringPhysicianName"
        )
        run("storescu", "-aec", "PACS", "127.0.0.1", port, *files)
    text = tape.read_text("utf-8")
    said = "".join(text.split("\n")[1:])
    data = [line["data"] for line in map(json.loads, text.splitlines()) if line.get("data")]
    assert data
    told = re.sub(r"2\.25\.\d+", "", json.dumps(data))  # which may hold any digits
    assert not [each for each in (*SECRETS, *uids) if each in told]
    assert not [each for each in uids if each in said]
    assert '"NAME1*"' in said.replace('"PatientName": ', "")
    assert {"zeros": 128} in [each.get("PixelData") for each in data]


def test_a_store_is_replayed(archive, tmp_path):
    """Three instances, three times success, also in other transfer syntaxes."""
    tape = tmp_path / "tape.jsonl"
    files = write(study(series=1, instances=3, number=4), tmp_path / "files")
    with recording(archive, tape) as port:
        run("storescu", "-aec", "PACS", "127.0.0.1", port, *files)
    with replaying(tape) as port:
        said = run("storescu", "-v", "-xi", "-aec", "PACS", "127.0.0.1", port, *files)
    assert said.count("Received Store Response (Success)") == 3


def test_a_get_is_replayed_with_its_sub_operations(archive, tmp_path):
    """The instances arrive again, de-identified and with zeros for pixels."""
    from pydicom import dcmread

    tape = tmp_path / "tape.jsonl"
    keys = (
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        f"StudyInstanceUID={study(patient_id='MRN-77')[0].StudyInstanceUID}",
    )
    for folder in ("original", "replayed"):
        (tmp_path / folder).mkdir()
    with recording(archive, tape) as port:
        run("getscu", "-S", "-aec", "PACS", *keys, "-od", tmp_path / "original", "127.0.0.1", port)
    with replaying(tape) as port:
        run("getscu", "-S", "-aec", "PACS", *keys, "-od", tmp_path / "replayed", "127.0.0.1", port)
    got = [dcmread(path) for path in (tmp_path / "replayed").iterdir()]
    assert len(got) == len(list((tmp_path / "original").iterdir())) == 2
    assert {each.Modality for each in got} == {"CT"}
    assert all(each.PatientID.startswith("ID") and not any(each.PixelData) for each in got)


UNIQUE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
@pytest.mark.parametrize("how", [client.get, client.fetch])
def test_a_retrieve_of_this_client_is_replayed(archive, tmp_path, how, level):
    """It refuses UIDs that it did not ask for, so those are put back."""
    first = study(patient_id="MRN-77")[0]
    keys = {keyword: str(first[keyword].value) for keyword in UNIQUE[: 1 + ("STUDY", "SERIES", "IMAGE").index(level)]}
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        original = how(f"PACS@127.0.0.1:{port}", keys, to=tmp_path / "original")
    with replaying(tape) as port:
        replayed = how(f"PACS@127.0.0.1:{port}", keys, to=tmp_path / "replayed")
    assert len(replayed.paths) == len(original.paths) > 0
    for each in replayed.datasets():
        assert {key: each[key].value for key in keys} == keys
        assert each.PatientID.startswith("ID")


def test_a_refusal_is_replayed_with_its_status(archive, tmp_path):
    """An unknown move destination, A801."""
    tape = tmp_path / "tape.jsonl"
    words = (
        "-v",
        "-S",
        "-aec",
        "PACS",
        "-aem",
        "NOBODY",
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        "StudyInstanceUID=1.2",
    )
    with recording(archive, tape) as port:
        run("movescu", *words, "127.0.0.1", port, check=False)
    with replaying(tape) as port:
        said = run("movescu", "-d", *words[1:], "127.0.0.1", port, check=False)
    assert "0xa801" in said.lower()


def test_a_rejected_association_is_rejected_again(tmp_path):
    """With the recorded result, source and reason."""
    tape = tmp_path / "tape.jsonl"
    with serving(tmp_path / "closed", {"access.called_ae": "ours"}) as archive, recording(archive, tape) as port:
        first = run("echoscu", "-aec", "SOMEBODY", "127.0.0.1", port, check=False)
    with replaying(tape) as port:
        again = run("echoscu", "-aec", "SOMEBODY", "127.0.0.1", port, check=False)
    assert "Called AE Title Not Recognized" in first
    assert "Called AE Title Not Recognized" in again


def test_an_unrecorded_operation_is_refused(archive, tmp_path):
    """A recording of a C-ECHO has no C-FIND and does not accept its context."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        run("echoscu", "-aec", "PACS", "127.0.0.1", port)
    with replaying(tape) as port:
        run("echoscu", "-aec", "PACS", "127.0.0.1", port)
        said = run("findscu", "-S", "-aec", "PACS", "-k", "PatientID", "127.0.0.1", port, check=False)
    assert "No Acceptable Presentation Contexts" in said


def test_the_relay_forwards_all_bytes(archive, tmp_path):
    """Also other protocols: the recording says so, and the server gets the unchanged bytes."""
    import socket

    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port, socket.create_connection(("127.0.0.1", port)) as nonsense:
        nonsense.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = nonsense.recv(100)
    assert answer[:1] == b"\x07"
    assert "not understood" in tape.read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", ""),
        ("hello\n", "line 1"),
        ('{"pacs recording": 9}\n', "expected a recording of version 1"),
        ('{"pacs recording": 1}\n{"association": 1, "from": "requestor", "context": 1, "command": {}}\n', "line 2"),
        ('{"pacs recording": 1}\n{"at": 1}\n', "'association' is missing"),
        (HEAD + MESSAGE.replace('"CommandField": 32, ', "") % "{}", "CommandField"),
        (HEAD + MESSAGE % '{"PixelData": {"zeros": 1000000000000}}', "expected at most"),
        (HEAD + MESSAGE % '{"PixelData": {"zeros": -1}}', "is negative"),
        (HEAD + MESSAGE % ('{"RequestAttributesSequence": [' * 2000 + "]}" * 2000), "line 3"),
        (HEAD + MESSAGE % '{"Nonsense": 1}', "'Nonsense' is not a keyword"),
        (HEAD + MESSAGE.replace("32", '"32"') % "{}", "invalid value for its VR"),
        (HEAD + MESSAGE.replace('"context": 1', '"context": 9') % "{}", "9 is missing"),
    ],
)
def test_an_invalid_recording_raises_with_its_line(tmp_path, text, why):
    """An empty file has no associations."""
    file = tmp_path / "tape.jsonl"
    file.write_text(text, "utf-8")
    if not why:
        assert read(file) == []
        return
    with pytest.raises(RecordingUnusable, match=why):
        read(file)


def test_a_recorded_data_set_is_read_back():
    """Sequences, several values, numbers, empty values, pixels."""
    dataset = Dataset()
    dataset.PatientName = "A^B"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Rows, dataset.InstanceNumber, dataset.SliceThickness, dataset.StudyID = 5, 7, "1.5", ""
    item = Dataset()
    item.ScheduledProcedureStepID = "S"
    dataset.RequestAttributesSequence = [item, Dataset()]
    dataset.add_new("PixelData", "OW", bytes(10))
    assert datasets.from_json(json.loads(json.dumps(datasets.to_json(dataset)))) == dataset


def test_an_invalid_value_is_forwarded(archive, tmp_path):
    """Even if it cannot be recorded."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        said = find(port, "PatientID=MRN-77", "SeriesNumber=*")
    assert said.count("Find Response: ") == 2
    assert "Received Final Find Response (Success)" in said


def test_a_failed_recording_does_not_disturb_the_association(archive):
    """On a full disk the association continues, and the relay has the reason."""

    def full(*_heard):
        raise OSError(28, "No space left on device")

    with Relay(("127.0.0.1", 0), ("127.0.0.1", archive.port), full) as relay:
        run("echoscu", "-aec", "PACS", "127.0.0.1", relay.port)
        assert isinstance(relay.failure, OSError)
    with Relay(("127.0.0.1", 0), ("127.0.0.1", free_port()), full) as nowhere:
        run("echoscu", "-aec", "PACS", "127.0.0.1", nowhere.port, check=False)


def test_overlays_and_padding_are_recorded():
    """Overlays of two groups, and (FFFC,FFFC)."""
    dataset = Dataset()
    dataset.add_new(0x60003000, "OW", bytes(2))
    dataset.add_new(0x60023000, "OW", bytes(4))
    told = datasets.from_json(json.loads(json.dumps(datasets.to_json(dataset))))
    assert [len(each.value) for each in told] == [2, 4]
    dataset.add_new(0xFFFCFFFC, "OB", bytes(8))
    data = datasets.encode(dataset, "1.2.840.10008.1.2.1")
    assert "PixelData" not in datasets.decode(data, len(data), "1.2.840.10008.1.2.1")


def test_a_request_without_a_recorded_response_aborts(tmp_path):
    """The client does not wait for a response that was not recorded."""
    tape = tmp_path / "tape.jsonl"
    answered = '{"contexts": [{"id": 1, "result": 0, "transfer_syntax": "1.2.840.10008.1.2"}], "max_pdu": 0}'
    tape.write_text(HEAD + '{"association": 1, "accept": ' + answered + "}\n" + MESSAGE % '{"PatientID": ""}', "utf-8")
    with replaying(tape) as port:
        words = ("-S", "-aec", "PACS", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID")
        said = run("findscu", *words, "127.0.0.1", port, check=False)
    assert "Peer aborted Association" in said or "Abort" in said


def test_an_early_refusal_belongs_to_its_request(tmp_path):
    """A server may refuse before the Identifier is complete; the same Message ID is used again afterwards."""
    refused = '{"CommandField": 32800, "MessageIDBeingRespondedTo": 1, "Status": %d}'
    early = '{"association": 1, "from": "acceptor", "context": 1, "command": ' + refused + "}\n"
    tape = tmp_path / "tape.jsonl"
    asked = MESSAGE % '{"PatientID": "%s"}'
    tape.write_text(HEAD + early % 0xA700 + asked % "A" + early % 0xC123 + asked % "B", "utf-8")
    statuses = [[each_message.command.status for each_message in each.messages] for each in exchanges(read(tape))]
    assert statuses == [[0xA700], [0xC123]]
