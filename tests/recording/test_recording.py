"""Associations recorded between real programs, and replayed to them."""

import json
import re
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset

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
    """A recording of what is said to an archive on the port given, in a file that is whole after the block."""
    with file.open("w", encoding="utf-8") as stream:
        writer = RecordingWriter(stream)
        with Relay(("127.0.0.1", 0), ("127.0.0.1", archive.port), writer.write) as relay:
            yield relay.port


@contextmanager
def replaying(file):
    """A server that answers as on tape."""
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
    """What findscu prints."""
    words = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
    return run("findscu", "-v", "-S", "-aec", "PACS", *words, "127.0.0.1", port)


def test_a_query_is_answered_from_tape_as_it_was_by_the_server(archive, tmp_path):
    """As many matches, with other names; and another association gets the same again."""
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


def test_each_question_gets_the_answer_to_its_like(archive, tmp_path):
    """By the Identifier where it was asked the same, else by its keys."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        find(port, "PatientName=NOBODY", "StudyInstanceUID")
        find(port, "PatientID=MRN-77", "StudyInstanceUID")
    with replaying(tape) as port:
        by_id = find(port, "PatientID=WHOEVER", "StudyInstanceUID")
        by_name = find(port, "PatientName=WHOEVER", "StudyInstanceUID")
    assert by_id.count("(Pending)") == 2
    assert by_name.count("(Pending)") == 0


def test_a_recording_holds_nothing_of_the_person(archive, tmp_path):
    """Not in Identifiers, answers, data sets that are stored, nor in their UIDs."""
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


def test_what_is_stored_to_a_replay_is_answered_as_it_was(archive, tmp_path):
    """Three instances, three times success; in other transfer syntaxes too."""
    tape = tmp_path / "tape.jsonl"
    files = write(study(series=1, instances=3, number=4), tmp_path / "files")
    with recording(archive, tape) as port:
        run("storescu", "-aec", "PACS", "127.0.0.1", port, *files)
    with replaying(tape) as port:
        said = run("storescu", "-v", "-xi", "-aec", "PACS", "127.0.0.1", port, *files)
    assert said.count("Received Store Response (Success)") == 3


def test_a_get_is_replayed_with_its_sub_operations(archive, tmp_path):
    """The instances come again, about somebody else, with zeros for pixels."""
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


def test_a_refusal_is_replayed_with_its_status(archive, tmp_path):
    """The unknown move destination, A801."""
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
    """With the result, source and reason on tape."""
    tape = tmp_path / "tape.jsonl"
    with serving(tmp_path / "closed", {"access.called_ae": "ours"}) as archive, recording(archive, tape) as port:
        first = run("echoscu", "-aec", "SOMEBODY", "127.0.0.1", port, check=False)
    with replaying(tape) as port:
        again = run("echoscu", "-aec", "SOMEBODY", "127.0.0.1", port, check=False)
    assert "Called AE Title Not Recognized" in first
    assert "Called AE Title Not Recognized" in again


def test_what_was_never_asked_is_refused_with_a_reason(archive, tmp_path):
    """A tape of a C-ECHO has no C-FIND, and does not even take its context."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        run("echoscu", "-aec", "PACS", "127.0.0.1", port)
    with replaying(tape) as port:
        run("echoscu", "-aec", "PACS", "127.0.0.1", port)
        said = run("findscu", "-S", "-aec", "PACS", "-k", "PatientID", "127.0.0.1", port, check=False)
    assert "No Acceptable Presentation Contexts" in said


def test_what_goes_by_is_passed_on_byte_for_byte(archive, tmp_path):
    """Also what is no DICOM at all: the recording says so, and the server answers as if nobody listened."""
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
def test_a_file_that_is_no_recording_is_refused_with_its_line(tmp_path, text, why):
    """An empty one has no associations."""
    file = tmp_path / "tape.jsonl"
    file.write_text(text, "utf-8")
    if not why:
        assert read(file) == []
        return
    with pytest.raises(RecordingUnusable, match=why):
        read(file)


def test_a_data_set_on_tape_is_the_same_when_it_is_read():
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


def test_a_value_that_is_none_is_passed_on_all_the_same(archive, tmp_path):
    """Also where it cannot be put into the recording."""
    tape = tmp_path / "tape.jsonl"
    with recording(archive, tape) as port:
        said = find(port, "PatientID=MRN-77", "SeriesNumber=*")
    assert said.count("Find Response: ") == 2
    assert "Received Final Find Response (Success)" in said


def test_a_recording_that_cannot_be_written_does_not_harm_what_is_recorded(archive):
    """The disk is full: the association goes on, and the relay knows why nothing is told any more."""

    def full(*_heard):
        raise OSError(28, "No space left on device")

    with Relay(("127.0.0.1", 0), ("127.0.0.1", archive.port), full) as relay:
        run("echoscu", "-aec", "PACS", "127.0.0.1", relay.port)
        assert isinstance(relay.failure, OSError)
    with Relay(("127.0.0.1", 0), ("127.0.0.1", free_port()), full) as nowhere:
        run("echoscu", "-aec", "PACS", "127.0.0.1", nowhere.port, check=False)


def test_overlays_are_told_apart_and_what_pads_a_data_set_is_no_picture():
    """Two overlays of a group each, and (FFFC,FFFC)."""
    dataset = Dataset()
    dataset.add_new(0x60003000, "OW", bytes(2))
    dataset.add_new(0x60023000, "OW", bytes(4))
    told = datasets.from_json(json.loads(json.dumps(datasets.to_json(dataset))))
    assert [len(each.value) for each in told] == [2, 4]
    dataset.add_new(0xFFFCFFFC, "OB", bytes(8))
    data = datasets.encode(dataset, "1.2.840.10008.1.2.1")
    assert "PixelData" not in datasets.decode(data, len(data), "1.2.840.10008.1.2.1")


def test_a_request_that_was_never_answered_ends_the_association_on_replay_too(tmp_path):
    """Nobody is left waiting for what is not on tape."""
    tape = tmp_path / "tape.jsonl"
    answered = '{"contexts": [{"id": 1, "result": 0, "transfer_syntax": "1.2.840.10008.1.2"}], "max_pdu": 0}'
    tape.write_text(HEAD + '{"association": 1, "accept": ' + answered + "}\n" + MESSAGE % '{"PatientID": ""}', "utf-8")
    with replaying(tape) as port:
        words = ("-S", "-aec", "PACS", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID")
        said = run("findscu", *words, "127.0.0.1", port, check=False)
    assert "Peer aborted Association" in said or "Abort" in said


def test_a_refusal_that_came_before_the_rest_of_its_request_belongs_to_it(tmp_path):
    """A server need not wait for the Identifier to say no; the same Message ID is used again afterwards."""
    refused = '{"CommandField": 32800, "MessageIDBeingRespondedTo": 1, "Status": %d}'
    early = '{"association": 1, "from": "acceptor", "context": 1, "command": ' + refused + "}\n"
    tape = tmp_path / "tape.jsonl"
    asked = MESSAGE % '{"PatientID": "%s"}'
    tape.write_text(HEAD + early % 0xA700 + asked % "A" + early % 0xC123 + asked % "B", "utf-8")
    statuses = [[each_message.command.status for each_message in each.messages] for each in exchanges(read(tape))]
    assert statuses == [[0xA700], [0xC123]]
