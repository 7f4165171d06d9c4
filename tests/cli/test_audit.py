"""The audit log: its records, hostile values, and failures to write it."""

import json
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress

import jwt
import pytest
from pydicom import Dataset

from pacs.errors import ConfigurationError
from pacs.observability.audit import Auditor, Record, Subject, local_user
from pacs.observability.events import AuditLost
from pacs.services.users import hash_passcode
from pacs.testing import serving, study, write
from tests import raw
from tests.archives import FIND, GET, MOVE, identifier
from tests.certificates import Authority
from tests.cli.test_daemon import process
from tests.cli.test_workers import CT, Client, eventually
from tests.docs.requests import VERIFICATION, identity
from tests.programs import free_port
from tests.raw import Raw, request
from tests.web.answering import numbers

HOSTILE = 'x\r\n{"user": "root"}\x1b[31m\u202e\x7f'
"""A line of its own, a terminal's escape, an override of direction, a control character."""


def lines(path):
    """Read the records of an audit log; each is one line of printable ASCII."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in content)
    return [json.loads(line) for line in content.splitlines()]


def recorded(path, count):
    """Wait for a number of records, which are written after the response; return them."""
    eventually(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)
    found = lines(path)
    assert len(found) == count
    return found


# --- records -----------------------------------------------------------------------------------------------------


def test_store_query_and_retrieve_are_recorded(tmp_path):
    """C-STORE, C-FIND, C-MOVE to a missing peer and C-GET, with title, address, status, UIDs and Patient IDs."""
    first, second = study("DOE^JOHN", patient_id="P1", series=1, instances=2)
    (other,) = study("DOE^JOHN", patient_id="P1", series=1, instances=1, StudyDescription="other")
    log, peers = tmp_path / "audit", [{"ae_title": "GONE", "host": "127.0.0.1", "port": free_port()}]
    with serving(tmp_path / "pacs", {"audit.file": str(log), "peers": peers}) as archive:
        with Raw(archive.port) as client:
            models = [(3, FIND, [raw.IMPLICIT]), (5, MOVE, [raw.IMPLICIT]), (7, GET, [raw.IMPLICIT])]
            client.associate((1, CT, [raw.EXPLICIT]), *models, calling="WS")
            for dataset in (first, second, other):
                uid = raw.element(0x1000, dataset.SOPInstanceUID.encode())
                client.send(request(raw.C_STORE, 1, CT, 1, raw.encoded(dataset, raw.EXPLICIT), [uid]))
                client.message()
            keys = {"PatientName": "DOE*", "StudyDate": "20260101-", "StudyDescription": ""}
            client.send(request(raw.C_FIND, 3, FIND, 2, identifier("STUDY", **keys)))
            assert len(client.until_final()) == 2
            study_key = identifier("STUDY", StudyInstanceUID=first.StudyInstanceUID)
            client.send(request(raw.C_MOVE, 5, MOVE, 3, study_key, [raw.element(0x0600, b"GONE")]))
            client.until_final()
            client.send(request(raw.C_GET, 7, GET, 4, study_key))
            client.until_final()
            address = "{}:{}".format(*client.socket.getsockname())
        found = recorded(log, 6)
    assert [each["operation"] for each in found] == ["C-STORE"] * 3 + ["C-FIND", "C-MOVE", "C-GET"]
    assert {(each["calling_ae_title"], each["called_ae_title"], each["address"]) for each in found} == {
        ("WS", "PACS", address)
    }
    assert {each["user"] for each in found} == {None}
    assert [each["outcome"] for each in found[:4]] == ["success", "success", "failure", "success"]
    assert (found[0]["status"], found[0]["patient_ids"]) == ("0x0000", ["P1"])
    assert found[0]["study_instance_uids"] == [first.StudyInstanceUID]
    assert found[1]["sop_instance_uids"] == [second.SOPInstanceUID]
    assert (found[2]["status"], found[2]["sop_instance_uids"]) == ("0xC011", [other.SOPInstanceUID])
    assert found[3]["keys"] == {"QueryRetrieveLevel": "STUDY", "PatientName": "DOE*", "StudyDate": "20260101-"}
    assert (found[3]["counts"], found[3]["level"]) == ({"matches": 1}, "STUDY")
    for retrieved in found[4:]:
        assert (retrieved["patient_ids"], retrieved["study_instance_uids"]) == (["P1"], [first.StudyInstanceUID])
        assert retrieved["keys"]["StudyInstanceUID"] == first.StudyInstanceUID
    assert (found[4]["destination"], found[4]["outcome"]) == ("GONE", "failure")
    assert log.stat().st_mode & 0o777 & ~0o640 == 0


def test_delete_export_and_import_are_recorded(pacs, tmp_path):
    """With the local user, on success and on failure."""
    write(study(patient_id="P1", series=1, instances=2), tmp_path / "in")
    settings = ("--set", "audit.file=audit.log", "--set", "server.port=0")
    assert pacs("import", "in", *settings).exit_code == 0
    assert pacs("export", "out", "PatientID=P1", *settings).exit_code == 0
    assert pacs("delete", "PatientID=P1", "--yes", *settings).exit_code == 0
    found = lines(tmp_path / "audit.log")
    assert [each["operation"] for each in found] == ["import", "import", "export", "delete"]
    assert {(each["user"], each["outcome"]) for each in found} == {(local_user(), "success")}
    assert all(each["patient_ids"] == ["P1"] for each in found)
    assert len(found[3]["sop_instance_uids"]) == 2


def test_hostile_values_are_escaped(tmp_path):
    """Each request is one line of printable ASCII with the values that were sent."""
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.SpecificCharacterSet = "STUDY", "ISO_IR 192"
    asked.PatientID = HOSTILE
    asked.StudyDescription = "y" * 5000
    item = Dataset()
    item.CodeValue = HOSTILE[:16]
    asked.ProcedureCodeSequence = [item]
    asked.add_new(0x00091001, "UN", b"\0\1\2\3")
    log = tmp_path / "audit"
    with serving(tmp_path / "pacs", {"audit.file": str(log)}) as archive:
        with Raw(archive.port) as client:
            client.associate((1, FIND, [raw.EXPLICIT]), calling='WS"}')
            client.send(request(raw.C_FIND, 1, FIND, 1, raw.encoded(asked, raw.EXPLICIT)))
            client.until_final()
        (found,) = recorded(log, 1)
    assert found["keys"]["PatientID"] == HOSTILE
    assert found["keys"]["ProcedureCodeSequence"] == [{"CodeValue": HOSTILE[:16]}]
    assert found["keys"]["00091001"] == "4 bytes"
    assert len(found["keys"]["StudyDescription"]) == 1025
    assert found["calling_ae_title"] == 'WS"}'


def test_several_processes_write_whole_lines(tmp_path):
    """Two workers, four simultaneous associations: one whole line for each store."""
    datasets = study(series=4, instances=10)
    log = tmp_path / "audit"
    with process(tmp_path, "--workers", "2", "--set", f"audit.file={log}") as server:

        def store(part):
            with Client(server.port) as client:
                for dataset in part:
                    assert client.store(dataset) == 0

        threads = [threading.Thread(target=store, args=(datasets[each::4],)) for each in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        found = recorded(log, 40)
    assert {each["sop_instance_uids"][0] for each in found} == {each.SOPInstanceUID for each in datasets}


# --- rejected associations ---------------------------------------------------------------------------------------

USERS = {"access.users": "required", "users": [{"name": "alice", "passcode": hash_passcode("secret")}]}
SECRET = "a secret of more than thirty-two bytes"


def rejected(archive, log, count, **options):
    """Send an association request that is rejected, and return the last of `count` records."""
    with Raw(archive.port) as client:
        client.send(raw.associate_rq([(1, VERIFICATION, [raw.IMPLICIT])], **options))
        assert client.pdu()[0] == 0x03
    return recorded(log, count)[-1]


def test_a_failed_login_is_recorded_with_its_name(tmp_path):
    """A wrong passcode, an unknown name, a token with a wrong signature, and no user; the passcode is not."""
    log = tmp_path / "audit"
    forged = jwt.encode({"sub": "mallory", "exp": 1}, "x" * 40, algorithm="HS256").encode()
    with serving(tmp_path / "pacs", USERS | {"audit.file": str(log), "jwt.key": SECRET}) as archive:
        found = [
            rejected(archive, log, 1, extra=identity(2, b"alice", b"WRONG"), calling="WS"),
            rejected(archive, log, 2, extra=identity(1, b"nobody")),
            rejected(archive, log, 3, extra=identity(5, forged)),
            rejected(archive, log, 4),
        ]
    assert [each["user"] for each in found] == ["alice", "nobody", "mallory", None]
    assert {(each["operation"], each["outcome"]) for each in found} == {("association", "failure")}
    assert (found[0]["calling_ae_title"], found[0]["called_ae_title"]) == ("WS", "PACS")
    assert found[0]["address"].startswith("127.0.0.1:")
    assert "the user is unknown, or the passcode is wrong" in found[0]["comment"]
    assert b"WRONG" not in log.read_bytes()


def test_a_rejected_caller_is_recorded_with_its_title(tmp_path):
    """An AE title that is no peer, and a wrong called AE title; a request that is no rejected caller is not."""
    log, peers = tmp_path / "audit", [{"ae_title": "KNOWN", "host": "127.0.0.1", "port": 104}]
    settings = {"access.callers": "peers", "access.called_ae": "ours", "peers": peers, "audit.file": str(log)}
    with serving(tmp_path / "pacs", settings) as archive:
        assert rejected(archive, log, 1, calling="STRANGER")["calling_ae_title"] == "STRANGER"
        assert rejected(archive, log, 2, calling="KNOWN", called="OTHER")["called_ae_title"] == "OTHER"
        with Raw(archive.port) as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            client.pdu()
        assert rejected(archive, log, 3, calling="LAST")["calling_ae_title"] == "LAST"


HOSTILE_NAMES = {
    "a name of 60 kB": (identity(1, b"x" * 60000), "x" * 256),
    "a line of its own": (identity(1, HOSTILE.encode()), HOSTILE),
    "no text": (identity(1, b"\xff\xfe"), None),
    "a token without a name": (identity(5, b"e30.e30.e30"), None),
    "a token of a nested list": (identity(5, b"e30." + b"W1tb" * 2000 + b".e30"), None),
}


@pytest.mark.parametrize(("extra", "name"), HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_hostile_name_is_bounded_and_escaped(tmp_path, extra, name):
    """In one line of printable ASCII."""
    log = tmp_path / "audit"
    with serving(tmp_path / "pacs", USERS | {"audit.file": str(log), "jwt.key": SECRET}) as archive:
        assert rejected(archive, log, 1, extra=extra, calling='"},{\x1b[2J')["user"] == name


def test_a_requestor_without_a_certificate_is_recorded(tmp_path):
    """It has an address, and no name yet."""
    authority, log = Authority(tmp_path), tmp_path / "audit"
    own = authority.sign("pacs", "localhost")
    tls = {"tls.enabled": True, "tls.port": 0, "tls.certificate": own.certificate, "tls.key": own.key}
    tls |= {"tls.ca": authority.path, "tls.client_certificates": "required", "audit.file": str(log)}
    with serving(tmp_path / "pacs", tls) as archive:
        context = ssl.create_default_context(cafile=authority.path)
        plain = socket.create_connection(("127.0.0.1", archive.secure_port), timeout=60)
        with suppress(OSError), context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.recv(1)  # with TLS 1.3 the server rejects it after the handshake
        (found,) = recorded(log, 1)
    assert (found["operation"], found["outcome"], found["user"]) == ("association", "failure", None)
    assert found["comment"].startswith("TLS failed: ")


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_audit_log_refuses_no_store(tmp_path):
    """The record is lost, counted and reported once; the instance is stored."""
    lost = []
    settings = {"audit.file": "/dev/full", "web.enabled": True, "web.port": 0}
    with serving(tmp_path, settings) as archive:
        archive.events.subscribe(lambda event: lost.append(event) if isinstance(event, AuditLost) else None)
        with Client(archive.port) as client:
            assert [client.store(each) for each in study(series=1, instances=2)] == [0, 0]
            assert len(client.found()) == 2
        eventually(lambda: len(lost) == 3)
        assert numbers(archive.web_port)["pacs_audit_lost_total"] == 3
    assert [each.repeated for each in lost] == [False, True, True]
    assert lost[0].comment == "cannot write the audit log (No space left on device)"


def record(number):
    """Return a distinguishable record."""
    return Record(operation="C-ECHO", outcome="success", subject=Subject(instances=[str(number)]))


@pytest.mark.skipif(sys.platform != "linux", reason="how much a pipe takes differs")
def test_a_record_after_a_partial_write_begins_a_new_line(tmp_path):
    """A pipe that is full within a line loses only that line, like a full disk."""
    os.mkfifo(tmp_path / "pipe")
    lost = []
    auditor = Auditor(tmp_path / "pipe", lost.append)
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
        written = 0
        while not lost:
            written += 1
            auditor.write(Record(operation="C-FIND", outcome="success", subject=Subject(instances=["9" * 900] * 10)))
        content = reader.read(1 << 20)
        auditor.write(record("after"))
        content += reader.read(1 << 20)
    auditor.close()
    found = [line for line in content.split(b"\n") if line]
    assert not found[-2].endswith(b"}")
    assert json.loads(found[-1])["sop_instance_uids"] == ["after"]
    assert [json.loads(line)["operation"] for line in found[:-2]] == ["C-FIND"] * (written - 1)


def test_reopen_continues_in_a_new_file(tmp_path):
    """After log rotation. If there can be no new file, the old one stays open."""
    log = tmp_path / "audit"
    auditor = Auditor(log)
    auditor.write(record(1))
    log.rename(tmp_path / "audit.1")
    auditor.write(record(2))
    auditor.reopen()
    auditor.write(record(3))
    assert [each["sop_instance_uids"] for each in lines(tmp_path / "audit.1")] == [["1"], ["2"]]
    assert [each["sop_instance_uids"] for each in lines(log)] == [["3"]]
    log.rename(tmp_path / "audit.2")
    log.mkdir()
    with pytest.raises(ConfigurationError, match=r"audit\.file"):
        auditor.reopen()
    auditor.write(record(4))
    assert len(lines(tmp_path / "audit.2")) == 2
    auditor.close()


def test_an_unwritable_audit_log_is_an_error_at_the_start(pacs, tmp_path):
    """Of `pacs serve`, `pacs delete` and `pacs check`."""
    settings = ("--set", "audit.file=missing/audit.log", "--set", "server.port=0", "--set", "web.port=0")
    for words in (("serve",), ("delete", "PatientID=P1", "--yes")):
        result = pacs(*words, *settings)
        assert result.exit_code == 2
        assert f"audit.file = '{tmp_path}/missing/audit.log': cannot write (No such file" in result.stderr
    assert "FAIL audit log: audit.file =" in pacs("check", *settings).stdout


def test_it_is_off_without_a_file(tmp_path):
    """The key can be set in the environment, although names of secrets also end in _FILE."""
    from pacs.config import load

    with serving(tmp_path) as archive:
        assert not archive.auditor.is_on
    (tmp_path / "config.toml").touch()
    named = load(tmp_path / "config.toml", {"PACS_AUDIT__FILE": "audit.log"})
    assert named.audit.file == str(tmp_path / "audit.log")
