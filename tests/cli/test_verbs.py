"""`pacs echo`, `find`, `store`, `move`, `get`, `fetch` and `commit`: output and exit statuses."""

import csv
import io
import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from pydicom import dcmread

from pacs import client
from pacs.dicom.commitment import CommitmentReport, encode_report, parse_request
from pacs.dicom.identifier import decode, encode
from pacs.testing import Fault, serving, study, write
from tests.archives import take_in
from tests.client.scripted import answer, deliver, report, scripted
from tests.dicom.build import dataset
from tests.programs import PATIENCE, free_port, storescp
from tests.raw import IMPLICIT, associate_rq
from tests.waiting import eventually

COUNT = 6
"""Instances of the specimen: two series of three."""


@pytest.fixture
def archive(tmp_path):
    """An archive with one study."""
    with serving(tmp_path / "archive") as archive:
        take_in(archive, specimen())
        yield archive


def specimen(**options):
    """Return a study of `COUNT` instances."""
    return study(series=2, instances=COUNT // 2, **options)


def at(archive):
    """Return the PEER argument for an archive."""
    return f"PACS@127.0.0.1:{archive.port}"


THE_STUDY = f"StudyInstanceUID={specimen()[0].StudyInstanceUID}"


def rows(result):
    """Parse CSV output."""
    return list(csv.DictReader(io.StringIO(result.stdout)))


def files(folder):
    """Return the SOP Instance UIDs of the files in a folder."""
    return sorted(dcmread(path).SOPInstanceUID for path in folder.rglob("*.dcm"))


# --- the PEER argument -------------------------------------------------------------------------------------------


def test_a_peer_is_given_by_address(pacs, archive):
    """In the notations of dcm4che and DCMTK."""
    for words in ([at(archive)], ["127.0.0.1", archive.port, "-aec", "PACS"]):
        result = pacs("echo", *words)
        assert result.exit_code == 0, result.output
        assert "answered the C-ECHO in " in result.stdout


@pytest.mark.parametrize("words", [["::1"], ["[::1]"]])
def test_a_peer_may_have_an_ipv6_address(pacs, words):
    """Its messages have it in brackets, also where it was given without."""
    port = free_port()
    assert pacs("echo", *words, port, "-aec", "PACS").stderr.startswith(f"pacs: PACS@[::1]:{port}: ")
    assert f"expected -aec TITLE, or TITLE@[::1]:{port}" in pacs("echo", *words, port).stderr


def test_a_peer_is_given_by_its_configured_title(pacs, archive, tmp_path):
    """A configured peer, and the server itself."""
    (tmp_path / "config.toml").write_text(
        f'[server]\nae_title = "MINE"\nport = {archive.port}\n'
        f'[[peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {archive.port}\n'
    )
    assert pacs("echo", "PACS").stdout.startswith(f"PACS@127.0.0.1:{archive.port} answered the C-ECHO")
    assert pacs("echo", "MINE").stdout.startswith(f"MINE@127.0.0.1:{archive.port} answered the C-ECHO")
    unknown = pacs("echo", "OTHER")
    assert unknown.exit_code == 2
    assert "(configured: PACS)" in unknown.stderr


def test_an_unreachable_peer_has_its_own_exit_status(pacs):
    """4, with its name."""
    nobody = f"PACS@127.0.0.1:{free_port()}"
    result = pacs("echo", nobody)
    assert result.exit_code == 4
    assert f"{nobody}: The peer cannot be reached" in result.stderr


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"access.callers": "peers"}, "add it at the peer with\n    AE title SCANNER, the address of this host"),
        (
            {"access.called_ae": "ours"},
            "the peer does not accept the called AE title 'WRONG'; look up its AE title there",
        ),
    ],
)
def test_a_mismatch_of_ae_titles_names_the_side_to_change(pacs, tmp_path, settings, sentence):
    """In both directions."""
    with serving(tmp_path / "strict", settings) as strict:
        result = pacs("echo", f"WRONG@127.0.0.1:{strict.port}", "-aet", "SCANNER")
    assert result.exit_code == 4
    assert sentence in result.stderr.replace("pacs: ", "")


@pytest.mark.parametrize("words", [["127.0.0.1", "104"], ["A@B@C:1"], ["PACS@host:port"], ["PACS@127.0.0.1:1", "more"]])
def test_an_invalid_peer_is_a_usage_error(pacs, words):
    """Exit status 2, with what was expected."""
    assert pacs("echo", *words).exit_code == 2


# --- find --------------------------------------------------------------------------------------------------------


def test_matches_are_csv_in_a_pipe_in_the_order_of_the_keys(pacs, archive):
    """The level is that of the lowest key."""
    result = pacs("find", at(archive), "-k", "SeriesNumber", "-k", "PatientID=P1", "-k", "0008,0060")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "SeriesNumber,PatientID,Modality"
    assert sorted(row["SeriesNumber"] for row in rows(result)) == ["1", "2"]


def test_json_has_lists_and_objects(pacs, archive):
    """For several values and items."""
    result = pacs("find", at(archive), "-k", "SOPInstanceUID", "-k", "ImageType", "-k", "Rows", "--json")
    found = json.loads(result.stdout)
    assert len(found) == COUNT
    assert found[0]["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_with_only_matching_keys_the_usual_ones_are_returned(pacs, archive):
    """In addition to those given."""
    (row,) = rows(pacs("find", at(archive), "-k", "PatientName=DOE*"))
    assert row["PatientName"] == "DOE^JOHN"
    assert row["NumberOfStudyRelatedInstances"] == str(COUNT)


def test_a_limit_ends_the_query_by_a_cancel(pacs, archive):
    """It is no failure."""
    result = pacs("find", at(archive), "-k", "SOPInstanceUID", "--limit", "2")
    assert result.exit_code == 0
    assert len(rows(result)) == 2


@pytest.mark.parametrize(("root", "level"), [("-P", "patient"), ("-S", "study"), ("-O", "patient")])
def test_the_information_model_and_the_level_are_options(pacs, archive, root, level):
    """As in DCMTK."""
    result = pacs("find", at(archive), root, "--level", level, "-k", "PatientID")
    assert [row["PatientID"] for row in rows(result)] == ["P1"]


def test_answers_without_a_character_set_are_decoded_as_the_server_does(pacs):
    """UTF-8, else Latin-1, in items too; no warning of pydicom about these or invalid values is printed."""
    match = dataset(
        QueryRetrieveLevel="STUDY", StudyInstanceUID=b"1.02.x", PatientName="Müller^Jörg".encode("latin-1"),
        StudyDescription="Schädel".encode(), ReferencedStudySequence=[{"StudyDescription": b"M\xfcnchen "}],
    )  # fmt: skip

    def find(association, message):
        answer(association, message, 0xFF00, encode(match, message.context.transfer_syntax))
        answer(association, message, 0)

    keys = ["-kPatientName", "-kStudyDescription", "-kStudyInstanceUID", "-kReferencedStudySequence"]
    with scripted(find=find) as other:
        found = pacs("find", f"SCRIPTED@127.0.0.1:{other.peer.port}", *keys, "--json")
        matches = list(client.find(other.peer, {"StudyInstanceUID": ""}))
    assert found.stderr == ""
    assert json.loads(found.stdout) == [
        {
            "PatientName": "Müller^Jörg", "StudyDescription": "Schädel", "StudyInstanceUID": "1.02.x",
            "ReferencedStudySequence": [{"StudyDescription": "München"}],
        }
    ]  # fmt: skip
    assert matches[0].PatientName.family_name == "Müller"


def test_a_binary_value_is_base64(pacs):
    """In JSON as in the DICOM JSON Model, as text in CSV."""
    match = dataset(
        StudyInstanceUID=b"1.2", EncapsulatedDocument=b"\0\1\xff\xfe", Rows=512, PixelSpacing="0.5\\0.25",
        FrameIncrementPointer=b"\x18\0\x63\x10",
    )  # fmt: skip

    def find(association, message):
        answer(association, message, 0xFF00, encode(match, message.context.transfer_syntax))
        answer(association, message, 0)

    keys = ["-kEncapsulatedDocument", "-kRows", "-kPixelSpacing", "-kFrameIncrementPointer", "-kKVP"]
    with scripted(find=find) as other:
        peer = f"SCRIPTED@127.0.0.1:{other.peer.port}"
        (found,) = json.loads(pacs("find", peer, *keys, "--json").stdout)
        (row,) = rows(pacs("find", peer, *keys))
    assert found == {
        "EncapsulatedDocument": {"InlineBinary": "AAH//g=="}, "Rows": "512", "PixelSpacing": ["0.5", "0.25"],
        "FrameIncrementPointer": "(0018,1063)", "KVP": "",
    }  # fmt: skip
    assert row == found | {"EncapsulatedDocument": "AAH//g==", "PixelSpacing": "0.5\\0.25"}


@pytest.mark.parametrize(
    "words",
    [
        ["studies", "PatientID=P1"], ["study", "-k", "PatientID=P1"], ["--level", "studies", "PatientID=P1"],
        ["PatientID=P1", "StudyDate=2026-01-01"], ["-L", "study", "StudyDate=2026-01"],
    ],
)  # fmt: skip
def test_keys_and_levels_may_follow_the_peer(pacs, archive, words):
    """As in `pacs ls`."""
    (row,) = rows(pacs("find", at(archive), *words))
    assert row["StudyInstanceUID"] == THE_STUDY.partition("=")[2]


def test_dates_as_typed_are_sent_as_the_standard_writes_them(pacs):
    """Other servers than this one understand nothing else; a text without a certain meaning is sent as it is."""
    sent = []

    def find(association, message):
        sent.append(str(decode(message.read(1 << 16), message.context.transfer_syntax).StudyDate))
        answer(association, message, 0)

    with scripted(find=find) as other:
        for date in ("2014-10-23", "2014-10", "20141023-", "2014-10-23-2014-10-31", "23.10.2014"):
            pacs("find", f"SCRIPTED@127.0.0.1:{other.peer.port}", f"StudyDate={date}")
    assert sent == ["20141023", "20141001-20141031", "20141023-", "20141023-20141031", "23.10.2014"]


def test_a_key_below_the_level_is_sent_with_a_warning(pacs, archive):
    """A server may support it, but ignores it usually."""
    result = pacs("find", at(archive), "studies", "Modality=MR", "-k", "StudyDate")
    assert result.exit_code == 0
    said = "Modality is a key of series, not of studies; did you mean ModalitiesInStudy, or the level series?"
    assert result.stderr == f"warning: PEER may ignore this key: {said}\n"
    assert pacs("find", at(archive), "studies", "-k", "Modality").stderr == ""


@pytest.mark.parametrize("verb", ["find", "move", "get", "fetch"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stduies"], "'stduies' is neither a level nor KEY=VALUE; did you mean studies?"),
        (["StudyDate"], "'StudyDate' is neither a level nor KEY=VALUE; did you mean -k StudyDate?"),
        (["PatientNam=X"], "did you mean PatientName?"),
        (["-L", "imags"], "'imags' is not a level; did you mean images?"),
        (["PatientID=P1", "-k", "PatientID=P2"], "PatientID has two values"),
    ],
)
def test_every_command_refuses_keys_and_levels_alike(pacs, verb, words, said):
    """Before any connection."""
    result = pacs(verb, "PACS@127.0.0.1:1", *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_the_character_set_may_be_a_return_key(pacs, tmp_path):
    """Some AEs state their character set only then."""
    with serving(tmp_path / "latin") as latin:
        take_in(latin, study("Müller", series=1, instances=1, PatientID="P8", SpecificCharacterSet="ISO_IR 100"))
        found = pacs("find", at(latin), "-k", "SpecificCharacterSet", "-k", "PatientID=P8", "-k", "PatientName")
    assert rows(found) == [{"SpecificCharacterSet": "ISO_IR 100", "PatientID": "P8", "PatientName": "Müller"}]


def test_an_unknown_key_gets_a_suggestion(pacs, archive):
    """Before any connection."""
    result = pacs("find", at(archive), "-k", "PatientsName=A")
    assert result.exit_code == 2
    assert "did you mean PatientName?" in result.stderr


def test_a_refused_query_prints_status_meaning_and_comment(pacs, tmp_path):
    """Exit status 1."""
    with serving(tmp_path / "strict", {"query.manner": "strict"}) as strict:
        result = pacs("find", at(strict), "--level", "series", "-k", "Modality=CT")
    assert result.exit_code == 1
    assert "0xA900" in result.stderr
    assert "StudyInstanceUID" in result.stderr


@contextmanager
def on_a_terminal():
    """Provide a terminal and collect its output."""
    ours, theirs = pty.openpty()
    seen = []
    try:
        yield theirs, seen
        os.close(theirs)
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:
                break
            if not piece:
                break
            seen.append(piece.decode("utf-8", "replace"))
    finally:
        os.close(ours)


def test_on_a_terminal_there_are_tables_and_progress_bars(archive, tmp_path):
    """A real pseudo terminal."""
    command = [sys.executable, "-m", "pacs"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with on_a_terminal() as (terminal, table):
        found = subprocess.run(
            [*command, "find", at(archive), "-k", "PatientID"],
            stdout=terminal, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, timeout=PATIENCE, check=False,
        )  # fmt: skip
    with on_a_terminal() as (terminal, bar):
        got = subprocess.run(
            [*command, "get", at(archive), "-k", THE_STUDY],
            stdout=subprocess.PIPE, stderr=terminal, cwd=tmp_path, env=environment, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (found.returncode, got.returncode) == (0, 0)
    assert "Patient" in "".join(table)
    assert "P1" in "".join(table)
    assert f"{COUNT} of {COUNT}" in "".join(bar)


def test_no_matches_are_reported(pacs, archive, tmp_path):
    """A query without matches succeeds, a retrieve without matches fails."""
    found = pacs("find", at(archive), "-k", "PatientName=NOBODY")
    assert (found.exit_code, found.stderr) == (0, "no matches\n")
    got = pacs("get", at(archive), "-k", "StudyInstanceUID=1.2.3", "--to", tmp_path / "out")
    assert (got.exit_code, got.stderr) == (1, "pacs: no matches\n")
    assert pacs("fetch", at(archive), "-k", "StudyInstanceUID=1.2.3", "--to", tmp_path / "out").exit_code == 1


def test_a_failed_query_prints_no_header(pacs, tmp_path):
    """A program would read it as an empty result."""
    with serving(tmp_path / "strict", {"query.manner": "strict"}) as strict:
        result = pacs("find", at(strict), "--level", "series", "-k", "Modality=CT")
    assert (result.exit_code, result.stdout) == (1, "")


# --- store -------------------------------------------------------------------------------------------------------


def test_folders_are_sent_without_files_that_are_not_dicom(pacs, archive, tmp_path):
    """Their number is printed."""
    write(specimen(patient_id="P2"), tmp_path / "in" / "deep")
    (tmp_path / "in" / "readme.txt").write_text("hello")
    result = pacs("store", at(archive), tmp_path / "in")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{COUNT} instances, ")
    assert "0 failed, 1 file skipped" in result.stdout


def test_failed_instances_are_listed_with_their_status(pacs, tmp_path):
    """Exit status 3 after a partial success, else 1."""
    (old,) = write(study(series=1, instances=1), tmp_path / "old")
    (new,) = write(study(series=1, instances=1, number=2), tmp_path / "new")
    with serving(tmp_path / "archive", {"storage.duplicates": "reject"}) as archive:
        pacs("store", at(archive), old)
        partly, not_at_all = pacs("store", at(archive), old, new), pacs("store", at(archive), old, new)
    assert (partly.exit_code, not_at_all.exit_code) == (3, 1)
    assert "1 failed: 0x0111, " in partly.stderr
    assert str(old) in partly.stderr


def test_paths_may_come_from_standard_input(pacs, archive, tmp_path):
    """With the argument -."""
    paths = write(specimen(patient_id="P2"), tmp_path / "in")
    result = pacs("store", at(archive), "-", input="\n".join(map(str, paths)))
    assert result.stdout.startswith(f"{COUNT} instances, ")


def test_a_folder_without_dicom_files_is_reported(pacs, archive, tmp_path):
    """Exit status 1."""
    (tmp_path / "empty").mkdir()
    result = pacs("store", at(archive), tmp_path / "empty")
    assert result.exit_code == 1
    assert "no DICOM file found in " in result.stderr


@pytest.mark.parametrize("words", [[], ["nowhere.dcm"]])
def test_missing_paths_are_a_usage_error(pacs, archive, words):
    """Before any connection."""
    assert pacs("store", at(archive), *words).exit_code == 2


# --- retrieves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "fetch"])
def test_a_retrieve_takes_keys_as_words(pacs, archive, tmp_path, verb):
    """With a level in the plural."""
    result = pacs(verb, at(archive), "studies", THE_STUDY, "--to", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert len(files(tmp_path / "out")) == COUNT


def test_get_writes_a_study_into_a_folder(pacs, archive, tmp_path):
    """On the same association."""
    result = pacs("get", at(archive), "-k", THE_STUDY, "--to", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{COUNT} instances, ")
    assert files(tmp_path / "out") == sorted(each.SOPInstanceUID for each in specimen())


def test_a_patient_is_retrieved_at_patient_level(pacs, tmp_path):
    """A strict PACS accepts a Patient ID alone only there."""
    with serving(tmp_path / "strict", {"query.manner": "strict"}) as strict:
        take_in(strict, specimen())
        result = pacs("get", at(strict), "-k", "PatientID=P1", "--to", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert len(files(tmp_path / "out")) == COUNT


def test_move_from_a_configured_peer_uses_the_title_of_the_client(pacs, tmp_path):
    """The title of the server would send the instances there; the client receives as PACSCU unless -aet is given."""
    port = free_port()
    peers = [
        {"ae_title": "PACSCU", "host": "127.0.0.1", "port": port},
        {"ae_title": "OURS", "host": "127.0.0.1", "port": 1},
    ]
    with serving(tmp_path / "archive", {"peers": peers}) as archive:
        take_in(archive, specimen())
        (tmp_path / "config.toml").write_text(
            f'[server]\nae_title = "OURS"\n[[peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {archive.port}\n'
        )
        result = pacs("move", "PACS", "--port", port, "-k", THE_STUDY, "-od", tmp_path / "out", "-v")
    assert result.exit_code == 0, result.stderr
    assert len(files(tmp_path / "out")) == COUNT
    assert f"moving: remaining 0, completed {COUNT}" in result.stderr


def test_the_destination_of_a_move_is_given_once(pacs, archive, tmp_path):
    """Another AE or a folder, not both."""
    assert pacs("move", at(archive), "-aem", "OTHER", "-k", THE_STUDY, "--to", tmp_path).exit_code == 2
    mistaken = pacs("get", at(archive), "-k", THE_STUDY, "-to", "downloads")
    assert mistaken.exit_code == 2
    assert "did you mean --to downloads?" in mistaken.stderr


def test_move_writes_a_study_into_a_folder(pacs, tmp_path):
    """The archive has this AE title and port."""
    port = free_port()
    peers = {"peers": [{"ae_title": "ME", "host": "127.0.0.1", "port": port}]}
    with serving(tmp_path / "archive", peers) as archive:
        take_in(archive, specimen())
        result = pacs("move", at(archive), "-aet", "ME", "--port", port, "-k", THE_STUDY, "--to", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert files(tmp_path / "out") == sorted(each.SOPInstanceUID for each in specimen())


@pytest.mark.parametrize("words", [["--from", "anyone"], ["--from", "127.0.0.2", "--from", "10.0.0.0/8"]])
def test_from_allows_other_senders(pacs, tmp_path, words):
    """Others are rejected, and the error has their address."""
    port, answers = free_port(), []

    def move(association, message):
        origin = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=origin) as connection:
            connection.sendall(associate_rq([(1, "1.2.840.10008.1.1", [IMPLICIT])], called="PACSCU"))
            answers.append(connection.recv(1))
        answer(association, message, 0xA702)

    with scripted(move=move) as other:
        command = (
            "move",
            f"X@127.0.0.1:{other.server.port}",
            "-k",
            THE_STUDY,
            "--port",
            port,
            "--to",
            tmp_path / "out",
        )
        shut, opened = pacs(*command), pacs(*command, *words)
    assert answers == [b"\3", b"\2"]
    assert "127.0.0.2 was refused" in shut.stderr
    assert "--from" in shut.stderr
    assert "was refused" not in opened.stderr


def test_an_invalid_sender_is_a_usage_error(pacs, archive):
    """Before any connection."""
    result = pacs("move", at(archive), "-k", THE_STUDY, "--from", "everybody")
    assert result.exit_code == 2
    assert "10.0.0.0/24" in result.stderr


def test_a_study_is_moved_to_another_ae(pacs, tmp_path):
    """With -aem."""
    with storescp(tmp_path / "received") as receiver:
        known = {"ae_title": receiver.ae_title, "host": "127.0.0.1", "port": receiver.port}
        with serving(tmp_path / "archive", {"peers": [known]}) as archive:
            take_in(archive, specimen())
            result = pacs("move", at(archive), "-aem", receiver.ae_title, "-k", THE_STUDY)
        assert result.stdout == f"{COUNT} instances sent\n", result.stderr
        assert len(receiver.files()) == COUNT


def test_a_move_to_an_unknown_title_says_what_to_enter_at_the_pacs(pacs, archive, tmp_path):
    """Status A801."""
    result = pacs("move", at(archive), "-aet", "ME", "-k", THE_STUDY, "--port", 0, "--to", tmp_path / "out")
    assert result.exit_code == 1
    assert "0xA801" in result.stderr
    assert "does not know our AE title ME" in result.stderr


def test_a_partial_retrieve_lists_failed_uids(pacs, archive, tmp_path):
    """Exit status 3; the rest is written."""
    instance = specimen()[0].SOPInstanceUID
    lost = next(each for each in archive.maintenance.instances({}) if each.sop_instance_uid == instance)
    archive.files.delete(lost.file_key)
    result = pacs("get", at(archive), "-k", THE_STUDY, "--to", tmp_path / "out")
    assert result.exit_code == 3
    assert "0xB000" in result.stderr
    assert instance in result.stderr
    assert len(files(tmp_path / "out")) == COUNT - 1


def test_fetch_does_not_retrieve_instances_again(pacs, archive, tmp_path):
    """The second time nothing is received."""
    first = pacs("fetch", at(archive), "-k", THE_STUDY, "--to", tmp_path / "out")
    again = pacs("fetch", at(archive), "-k", THE_STUDY, "--to", tmp_path / "out")
    assert first.stdout.startswith(f"{COUNT} instances, ")
    assert again.stdout.startswith("0 instances, ")
    assert f"{COUNT} already present" in again.stdout
    in_vain = pacs("get", at(archive), "-k", THE_STUDY, "--to", tmp_path / "out")
    assert "`pacs fetch` retrieves only missing instances" in in_vain.stdout


def test_a_retrieve_is_checked_limited_and_repeated(pacs, archive, tmp_path):
    """By options of `move`, `get` and `fetch`; what arrived before a time limit is counted, with exit status 3."""
    for verb in ("get", "fetch"):
        words = [verb, at(archive), "-k", THE_STUDY, "--to", tmp_path / verb]
        assert pacs(*words, "--check", "--retries", 1, "--max-time", 60).exit_code == 0
    with serving(tmp_path / "slow", watched=True) as slow:
        slow.add(study(series=1, instances=30))
        slow.faults.add(Fault("C-GET", delay_each=0.3))
        late = pacs("get", slow.address, "-k", THE_STUDY, "--to", tmp_path / "late", "--max-time", 2)
    assert late.exit_code == 3
    assert "The retrieve did not end within its time limit (max_time, --max-time)" in late.stderr
    assert f"{len(files(tmp_path / 'late'))} instances arrived" in late.stderr


@pytest.mark.parametrize(("words", "exit_code"), [(["--wait", 5], 0), (["--wait", 5, "--check"], 3)])
def test_a_pacs_that_says_nothing_about_its_instances_is_waited_for(pacs, tmp_path, words, exit_code):
    """No counts and no C-FIND: `--wait` is all there is, and the user learns it; a check fails."""
    port = free_port()

    def move(association, message):
        answer(association, message, 0x0000)
        deliver(port, specimen()[:1])

    with scripted(move=move) as other:
        address = f"X@127.0.0.1:{other.server.port}"
        result = pacs("move", address, "-k", THE_STUDY, "--port", port, "--to", tmp_path / "out", *words)
    assert result.exit_code == exit_code, result.stderr
    assert len(files(tmp_path / "out")) == 1
    assert "nothing says whether all have arrived" in result.stderr


# --- commit ------------------------------------------------------------------------------------------------------


def test_commit_prints_the_result(pacs, archive, tmp_path):
    """Exit status 3 if some instances are not committed."""
    paths = write(specimen(), tmp_path / "in")
    result = pacs("commit", at(archive), *paths)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{COUNT} instances committed, 0 not committed\n"
    strangers = write(study(series=1, instances=1, number=9), tmp_path / "strangers")
    partly = pacs("commit", at(archive), *paths, *strangers)
    assert partly.exit_code == 3
    assert "failure reason 0x0112" in partly.stderr


@pytest.mark.parametrize(("reported", "exit_code"), [(0, 1), (1, 3)])
def test_unreported_instances_are_not_committed(pacs, tmp_path, reported, exit_code):
    """Exit status 0 only if all are committed."""
    paths = write(specimen()[:2], tmp_path / "in")

    def commit(association, message):
        asked = parse_request(message.read(1 << 20), message.context.transfer_syntax, 9)
        answer(association, message, 0x0000)
        said = CommitmentReport(asked.transaction_uid, asked.references[:reported], [])
        report(association, message, encode_report(said, "X", message.context.transfer_syntax))
        association.receive(20)

    with scripted(commit=commit) as other:
        result = pacs("commit", f"X@127.0.0.1:{other.server.port}", *paths)
    assert (result.exit_code, result.stderr.count("not reported")) == (exit_code, 2 - reported)


# --- hostile peers, and Ctrl-C -----------------------------------------------------------------------------------

ESCAPES = "\x1b]0;OWNED\x07\x1b[31mred"


def test_texts_of_peers_cannot_control_the_terminal(pacs, tmp_path):
    """Error Comments and values, in tables and JSON."""
    with serving(tmp_path / "rude", watched=True) as rude:
        rude.add(study(series=1, instances=1, StudyDescription=f"{ESCAPES}\x9b31m"))
        found = pacs("find", at(rude), "-k", "StudyDescription", "--json")
        assert json.loads(found.stdout)[0]["StudyDescription"].startswith(ESCAPES)
        rude.faults.add(Fault("C-FIND", status=0xC123, comment="bad\x9b31mred"))
        failed = pacs("find", at(rude), "-k", "StudyDescription")
    assert all(each.isprintable() or each == "\n" for each in found.stdout)
    assert all(each.isprintable() or each == "\n" for each in failed.stderr)


def test_ctrl_c_cancels_at_the_peer_and_exits_with_130(tmp_path):
    """Without a traceback; the peer ends the query with FE00."""
    with serving(tmp_path / "slow", watched=True) as slow:
        slow.add(specimen())
        slow.faults.add(Fault("C-FIND", delay_each=0.2))
        command = [sys.executable, "-m", "pacs", "find", at(slow), "-k", "SOPInstanceUID"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        slow.received.wait_for(lambda received: received.c_find and received.c_find[0].responses, PATIENCE)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
        slow.received.wait_for_ends()
        assert [each.status for each in slow.received.c_cancel] == [0xFE00]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "pacs: interrupted"


@pytest.mark.parametrize("verb", ["get", "fetch"])
def test_ctrl_c_in_a_retrieve_cancels_between_two_instances(tmp_path, verb):
    """FE00 at the peer, complete files here."""
    with serving(tmp_path / "slow", watched=True) as slow:
        slow.add(study(series=1, instances=40, size=64))
        slow.faults.add(Fault("C-GET", bytes_per_second=100_000))
        command = [
            sys.executable,
            "-m",
            "pacs",
            verb,
            at(slow),
            "-k",
            f"StudyInstanceUID={study()[0].StudyInstanceUID}",
        ]
        process = subprocess.Popen([*command, "--to", "out"], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        eventually(lambda: len(list(tmp_path.glob("out/**/*.dcm"))) > 1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
        slow.received.wait_for_ends()
        assert [each.status for each in slow.received.c_cancel] == [0xFE00]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "pacs: interrupted"
    assert 1 < len(files(tmp_path / "out")) < 40


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("get",), ("move", "-aem", "WS")])
def test_a_retrieve_by_other_keys_names_the_query_that_lists_the_unique_ones(pacs, tmp_path, words):
    """Its output has what the retrieve needs."""
    with serving(tmp_path / "archive", {"peers": [{"ae_title": "WS", "host": "127.0.0.1", "port": 1}]}) as archive:
        take_in(archive, specimen())
        refused = pacs(words[0], at(archive), "studies", "PatientName=D*", *words[1:])
        assert refused.exit_code == 1
        assert "0xA900" in refused.stderr
        command = shlex.split(re.search("`(pacs find .*)`", refused.stderr)[1])
        assert command[1:5] == ["find", at(archive), "studies", "PatientName=D*"]
        (found,) = rows(pacs(*command[1:]))
        assert found["StudyInstanceUID"] == specimen()[0].StudyInstanceUID


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "1e7"])
@pytest.mark.parametrize(
    ("verb", "option"),
    [("echo", "-to"), ("find", "-ta"), ("store", "-td"), ("get", "--max-time"), ("fetch", "--wait"),
     ("commit", "--wait"), ("conformance run", "--timeout")],
)  # fmt: skip
def test_all_durations_are_refused_alike(pacs, verb, option, text):
    """What is no number, and what no wait takes; only --wait takes 0."""
    refused = pacs(*verb.split(), "A@127.0.0.1:1", option, text)
    assert refused.exit_code == 2
    least = "at least 0" if option == "--wait" else "more than 0"
    number = f"{text} seconds: expected {least} and at most 1000000"
    assert ("'abc' is not a number of seconds" if text == "abc" else number) in refused.stderr
