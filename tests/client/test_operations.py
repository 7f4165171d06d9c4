"""Each operation of the client with this archive."""

import ssl
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from pydicom import dcmread

from benchmarks.processes import free_port
from pacs import client
from pacs.cli import main
from pacs.client import Peer
from pacs.errors import AssociationRejected, DestinationUnreachable, EncryptionFailed, InvalidArgument, OperationFailed
from pacs.testing import serving, study, write
from tests.certificates import Authority


class Enough(Exception):
    """Raised by a progress callback."""


def uids(paths):
    """Return the SOP Instance UIDs of files, sorted."""
    return sorted(dcmread(path).SOPInstanceUID for path in paths)


def test_importing_the_client_loads_nothing_of_an_archive():
    """No database, web server, configuration, terminal library or codec; pydicom imports NumPy if it is installed."""
    heavy = "sqlalchemy alembic pydantic starlette uvicorn structlog rich click prometheus_client imagecodecs SimpleITK"
    ours = "pacs.index pacs.files pacs.config pacs.archive pacs.daemon pacs.web pacs.observability.events"
    asked = f"import sys, pacs.client; print(*(name for name in '{heavy} {ours}'.split() if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "\n"


def test_echo_returns_its_duration(known):
    """In seconds."""
    assert 0 < client.echo(f"PACS@127.0.0.1:{known.archive.port}") < 20


def test_echo_explains_a_failed_association(tmp_path, known):
    """No listener, or another AE title."""
    with pytest.raises(DestinationUnreachable, match="cannot be reached"):
        client.echo("PACS@127.0.0.1:1")
    with (
        serving(tmp_path / "other", {"access.called_ae": "ours"}) as strict,
        pytest.raises(AssociationRejected) as raised,
    ):
        client.echo(f"NOBODY@127.0.0.1:{strict.port}")
    assert raised.value.reason == 7
    assert str(raised.value).endswith("the AE title of the peer is not NOBODY")


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:1", "PACS@host:0", "PACS@host:x", "A" * 17 + "@host:1"])
def test_an_invalid_peer_is_rejected_at_once(text):
    """With a ValueError, as for other texts that cannot be parsed."""
    with pytest.raises(ValueError, match=r"AE|port"):
        Peer.parse(text)


def test_a_peer_can_have_an_ipv6_address():
    """In brackets, as in a URL."""
    peer = Peer.parse("PACS@[::1]:104", calling_ae_title="HOME")
    assert (peer.host, peer.port, peer.calling_ae_title, str(peer)) == ("::1", 104, "HOME", "PACS@[::1]:104")


# --- find --------------------------------------------------------------------------------------------------------


def test_find_yields_each_match(full, datasets):
    """With the requested keys, at the level of the lowest key."""
    (match,) = client.find(full.peer, {"PatientName": "DOE*", "StudyInstanceUID": "", "ModalitiesInStudy": None})
    assert match.StudyInstanceUID == datasets[0].StudyInstanceUID
    assert match.PatientName == "DOE^JOHN"
    assert match.QueryRetrieveLevel == "STUDY"
    series = list(client.find(full.peer, {"StudyInstanceUID": match.StudyInstanceUID, "SeriesNumber": ""}))
    assert sorted(each.SeriesNumber for each in series) == [1, 2]
    assert [len(full.statuses("C-FIND")), set(full.statuses("C-FIND"))] == [2, {0}]


def test_leaving_the_loop_cancels(full, datasets):
    """The archive receives the C-CANCEL, and the association is released."""
    for match in client.find(full.peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID, "SOPInstanceUID": ""}):
        assert match.SOPInstanceUID
        break
    full.statuses("C-FIND")
    assert client.echo(full.peer) > 0


def test_a_limit_is_kept(full, datasets):
    """No more matches, and no error."""
    asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID, "SOPInstanceUID": ""}
    assert len(list(client.find(full.peer, asked, limit=4))) == 4
    assert len(list(client.find(full.peer, asked, limit=60))) == 6


def test_the_query_is_sent_with_the_first_match(known):
    """A generator that has not started has no association; invalid keys are still rejected at once."""
    client.find("PACS@127.0.0.1:1", {"PatientID": "1"}).close()
    with pytest.raises(InvalidArgument, match="NoSuchKeyword"):
        client.find(known.peer, {"NoSuchKeyword": ""})


def test_names_in_any_script_can_be_queried(known):
    """In UTF-8 if Latin-1 does not suffice."""
    client.store(known.peer, *study("Ванн^Лев", series=1, instances=1, patient_id="P2"))
    client.store(known.peer, *study("Müller^Jörg", series=1, instances=1, patient_id="P3"))
    (lev,) = client.find(known.peer, {"PatientName": "Ванн*", "StudyInstanceUID": ""})
    (joerg,) = client.find(known.peer, {"PatientName": "Müller*", "StudyInstanceUID": ""})
    assert (str(lev.PatientName), str(joerg.PatientName)) == ("Ванн^Лев", "Müller^Jörg")


def test_a_failure_raises_the_meaning_of_its_status(known):
    """With the Error Comment and the Offending Element of the archive."""
    with pytest.raises(OperationFailed) as raised:
        list(client.find(known.peer, {"StudyDate": "no date", "StudyInstanceUID": ""}))
    assert raised.value.status == 0xA900
    assert raised.value.operation == "C-FIND"
    assert "does not match SOP Class" in str(raised.value)
    assert raised.value.error_comment in str(raised.value)
    assert raised.value.offending_elements == (0x00080020,)


# --- store -------------------------------------------------------------------------------------------------------


def test_store_takes_files_folders_and_data_sets(known, tmp_path, datasets):
    """Other files in a folder are skipped, and progress ends with all instances."""
    paths = write(datasets[:4], tmp_path / "out" / "deep")
    (tmp_path / "out" / "README").write_text("no DICOM")
    (tmp_path / "out" / "empty").write_bytes(b"")
    told = []
    sent = client.store(known.peer, tmp_path / "out", [datasets[4]], datasets[5], on_progress=told.append)
    assert (sent.completed, sent.failed, sent.skipped) == (6, (), 2)
    assert sent.bytes > 6 * paths[0].stat().st_size / 2
    assert (told[-1].remaining, told[-1].completed, told[-1].total, told[-1].bytes) == (0, 6, 6, sent.bytes)
    assert (
        len(list(client.find(known.peer, {"SOPInstanceUID": "", "StudyInstanceUID": datasets[0].StudyInstanceUID})))
        == 6
    )


def test_a_refused_instance_does_not_end_a_store(known, tmp_path, datasets):
    """Each failure is listed with its item, status and comment."""
    strange = study("DOE^JANE", series=1, instances=1, patient_id="P9")[0]
    strange.StudyInstanceUID = "not a uid"
    sent = client.store(known.peer, datasets[0], strange, tmp_path / "nowhere.dcm", datasets[1])
    assert sent.completed == 2
    assert [(each.what, each.status) for each in sent.failed] == [(tmp_path / "nowhere.dcm", None), (strange, 0xA901)]
    assert all(each.comment for each in sent.failed)


# --- move_and_store ----------------------------------------------------------------------------------------------


def test_a_study_is_retrieved_by_one_call(full, tmp_path, datasets):
    """As files named by their UIDs, with the counts of the archive and progress in this thread."""
    told = []
    got = client.move_and_store(
        full.peer,
        {"StudyInstanceUID": datasets[0].StudyInstanceUID},
        to=tmp_path / "home",
        port=full.port,
        on_progress=told.append,
    )
    assert uids(got.paths) == sorted(each.SOPInstanceUID for each in datasets)
    assert (got.status, got.completed, got.failed, got.warning, got.failed_uids) == (0, 6, 0, 0, ())
    one = datasets[0]
    assert tmp_path / "home" / one.StudyInstanceUID / one.SeriesInstanceUID / f"{one.SOPInstanceUID}.dcm" in got.paths
    assert [each.received for each in told] == sorted(each.received for each in told)
    assert (told[-1].received, told[-1].completed, told[-1].total) == (6, 6, 6)
    assert [each.PatientID for each in got.datasets()] == ["P1"] * 6
    assert not [path for path in (tmp_path / "home").rglob("*") if path.name.startswith(".")]


@pytest.fixture
def many(known):
    """The identifier of a study that takes a while to retrieve."""
    datasets = study("LONG^STUDY", series=1, instances=120, patient_id="P8")
    assert client.store(known.peer, *datasets).completed == 120
    return {"StudyInstanceUID": datasets[0].StudyInstanceUID}


def test_an_exception_of_the_callback_cancels_the_move(known, many, tmp_path):
    """The archive logs the cancel: FE00."""

    def stop(progress):
        raise Enough

    with pytest.raises(Enough):
        client.move_and_store(
            known.peer,
            many,
            to=tmp_path / "home",
            port=known.port,
            on_progress=stop,
        )
    assert known.statuses("C-MOVE") == [0xFE00]


def test_an_unknown_destination_raises_with_advice(full, tmp_path, datasets):
    """A801 names the AE title and the port to configure."""
    asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID}
    with pytest.raises(OperationFailed, match=f"our AE title STRANGER.*port {full.port}") as raised:
        client.move_and_store(full.peer, asked, to=tmp_path / "home", ae_title="STRANGER", port=full.port)
    assert (raised.value.status, raised.value.operation) == (0xA801, "C-MOVE")
    assert raised.value.retrieved.paths == ()


def test_present_files_are_kept_unless_overwritten(full, tmp_path, datasets):
    """A second retrieve skips all files; with `overwrite` it writes them again."""
    asked, to = {"StudyInstanceUID": datasets[0].StudyInstanceUID}, tmp_path / "home"
    first = client.move_and_store(full.peer, asked, to=to, port=full.port)
    first.paths[0].write_bytes(b"mine")
    second = client.move_and_store(full.peer, asked, to=to, port=full.port)
    assert sorted(second.skipped) == sorted(second.paths) == sorted(first.paths)
    assert first.paths[0].read_bytes() == b"mine"
    third = client.move_and_store(full.peer, asked, to=to, port=full.port, overwrite=True)
    assert third.skipped == ()
    assert first.paths[0].read_bytes() != b"mine"


def test_get_needs_no_second_association(full, tmp_path, datasets):
    """It brings the same files and counts."""
    told = []
    asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID}
    got = client.get(full.peer, asked, to=tmp_path / "home", on_progress=told.append)
    assert uids(got.paths) == sorted(each.SOPInstanceUID for each in datasets)
    assert (got.completed, got.failed, told[-1].received) == (6, 0, 6)


def test_an_exception_cancels_a_get_too(known, many, tmp_path):
    """The archive logs FE00, and the association is released."""

    def stop(progress):
        raise Enough

    with pytest.raises(Enough):
        client.get(known.peer, many, to=tmp_path / "home", on_progress=stop)
    assert known.statuses("C-GET") == [0xFE00]


def test_move_sends_to_another_destination(full, tmp_path, datasets):
    """A receiver that another process could run gets the instances."""
    asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID, "SeriesInstanceUID": datasets[0].SeriesInstanceUID}
    with client.receiving(tmp_path / "third", ae_title="HOME", port=full.port) as receiver:
        moved = client.move(full.peer, asked, destination="HOME")
        assert receiver.wait_for(3, 20)
        assert uids(receiver.arrived) == sorted(each.SOPInstanceUID for each in datasets[:3])
    assert (moved.completed, moved.paths) == (3, ())


# --- connections ---------------------------------------------------------------------------------------------------


def test_a_peer_can_be_called_with_tls(tmp_path, datasets):
    """With a context that trusts the CA of its certificate, and not with another one."""
    authority = Authority(tmp_path)
    ours = authority.sign("pacs", "localhost", "127.0.0.1")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": ours.certificate, "tls.key": ours.key}
    with serving(tmp_path / "pacs", settings) as archive:
        trusting = client.Protection(ssl.create_default_context(cafile=authority.path))
        peer = Peer("PACS", "localhost", archive.secure_port, protection=trusting)
        assert client.store(peer, *datasets).completed == 6
        assert len(client.get(peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, to=tmp_path / "in").paths) == 6
        doubting = replace(peer, protection=client.Protection(ssl.create_default_context()))
        with pytest.raises(EncryptionFailed):
            client.echo(doubting)


def test_a_move_can_be_received_with_tls(tmp_path, datasets):
    """The archive sends with TLS, and the built-in receiver presents a certificate."""
    authority, port = Authority(tmp_path), free_port()
    ours, theirs = authority.sign("home", "localhost"), authority.sign("pacs", "localhost")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": theirs.certificate, "tls.key": theirs.key}
    home = {"ae_title": "HOME", "host": "localhost", "port": port, "tls": True}
    settings |= {"tls.ca": authority.path, "peers": [home]}
    answering = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    answering.load_cert_chain(ours.certificate, ours.key)
    with serving(tmp_path / "pacs", settings) as archive:
        peer = Peer("PACS", "127.0.0.1", archive.port, calling_ae_title="HOME")
        client.store(peer, *datasets)
        asked = {"StudyInstanceUID": datasets[0].StudyInstanceUID}
        assert len(client.move_and_store(peer, asked, to=tmp_path / "in", port=port, tls=answering).paths) == 6
        with pytest.raises(OperationFailed, match="A702"):
            client.move_and_store(peer, asked, to=tmp_path / "in", port=port)


@pytest.fixture
def secure(tmp_path):
    """An archive whose certificate has another host name than its address, the CA, and the certificate."""
    authority = Authority(tmp_path)
    ours = authority.sign("device", "device.example")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": ours.certificate, "tls.key": ours.key}
    with serving(tmp_path / "pacs", settings) as archive:
        yield Peer("PACS", "127.0.0.1", archive.secure_port), authority, ours


def test_a_certificate_is_accepted_by_its_fingerprint_or_without_its_host_name(secure):
    """As devices have them: of any CA and for any name. Another one is refused with its own fingerprint."""
    peer, authority, ours = secure
    colons = ":".join(ours.fingerprint[place : place + 2] for place in range(0, 64, 2)).upper()
    for accepted in ({"fingerprints": [colons]}, {"ca": authority.path, "check_hostname": False}):
        assert client.echo(replace(peer, protection=client.requestor_tls(**accepted))) > 0
    for refused, why in (
        ({"fingerprints": ["ab" * 32]}, f"not one of those expected; its SHA-256 is {ours.fingerprint}"),
        ({"ca": authority.path}, "IP address mismatch.*127.0.0.1.*; accept another host name"),
        ({}, "certificate.*; name the CA that signed it .* or accept the certificate by its SHA-256"),
    ):
        with pytest.raises(EncryptionFailed, match=why):
            client.echo(replace(peer, protection=client.requestor_tls(**refused)))


def test_invalid_tls_settings_are_refused(tmp_path):
    """With the argument, not a key of the configuration."""
    with pytest.raises(InvalidArgument, match="64 hexadecimal digits, not 'abc'"):
        client.requestor_tls(fingerprints=["abc"])
    with pytest.raises(InvalidArgument, match=r"^ca = '/nope': cannot be read"):
        client.requestor_tls(ca="/nope")
    with pytest.raises(InvalidArgument, match=r"^certificate = '/nope': cannot be read"):
        client.acceptor_tls(certificate="/nope")


@pytest.mark.parametrize("command", ["move", "fetch"])
def test_commands_receive_with_tls(tmp_path, datasets, command):
    """From an archive that sends with TLS and does not support C-GET."""
    authority, port = Authority(tmp_path), free_port()
    home, theirs = authority.sign("home", "localhost"), authority.sign("pacs", "localhost")
    settings = {"tls.enabled": True, "tls.port": 0, "tls.certificate": theirs.certificate, "tls.key": theirs.key}
    destination = {"ae_title": "HOME", "host": "localhost", "port": port, "tls": True}
    destination["services"] = ["store", "find", "move"]
    settings |= {"tls.ca": authority.path, "peers": [destination]}
    with serving(tmp_path / "pacs", settings) as archive:
        archive.add(datasets)
        words = [command, archive.address, "-aet", "HOME", "-k", f"StudyInstanceUID={datasets[0].StudyInstanceUID}"]
        words += ["--to", str(tmp_path / "in"), "--port", str(port)]
        ran = CliRunner().invoke(main, [*words, "--receive-cert", home.certificate, "--receive-key", home.key])
        assert (ran.exit_code, len(list((tmp_path / "in").rglob("*.dcm")))) == (0, 6), ran.stderr
        assert CliRunner().invoke(main, [*words, "--receive-key", home.key]).exit_code == 2


def test_a_long_reason_is_not_cut(tmp_path):
    """Only an Error Comment is limited to 64 characters."""
    context = ssl.create_default_context(cafile=Authority(tmp_path).path)
    with serving(tmp_path / "pacs") as archive, pytest.raises(EncryptionFailed, match=r"the port may not use TLS$"):
        client.echo(Peer("PACS", "127.0.0.1", archive.port, protection=client.Protection(context)))


def test_extended_negotiation_is_used(known):
    """Negotiated fuzzy matching finds similar names."""
    client.store(known.peer, *study("MEYER^ANNA", series=1, instances=1))
    asked = {"PatientName": "MAIER^ANNA", "StudyInstanceUID": ""}
    assert list(client.find(known.peer, asked)) == []
    assert len(list(client.find(known.peer, asked, extended=["fuzzy_names"]))) == 1
    with pytest.raises(InvalidArgument, match="fuzzy_names"):
        client.find(known.peer, asked, extended=["telepathy"])


FULL = """
import resource, sys
from pathlib import Path
from benchmarks.processes import free_port
from pacs import client
from pacs.errors import StorageUnavailable
from pacs.testing import study

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with client.receiving(sys.argv[1]) as receiver:
        sent = client.store(f"X@127.0.0.1:{receiver.port}", *study(series=1, instances=1, size=300))
        print([hex(each.status) for each in sent.failed], receiver.arrived)
except StorageUnavailable as error:
    print(error)
"""


def test_a_full_disk_is_reported_to_both_sides(tmp_path):
    """The sender gets A700, the caller the folder and the reason; no partial file is left."""
    ran = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["['0xa700'] ()", f"Cannot write to {tmp_path}: File too large"]
    assert list(tmp_path.iterdir()) == []


def test_advice_for_another_destination_names_it(pacs_server):
    """The advice is about the host and port of the destination, not of this machine."""
    with pytest.raises(OperationFailed, match="does not know the AE title NOBODY: configure it there") as raised:
        client.move(f"PACS@127.0.0.1:{pacs_server.port}", {"StudyInstanceUID": "1.2"}, destination="NOBODY")
    assert "this machine" not in str(raised.value)


def test_a_port_in_use_is_named(pacs_server, tmp_path):
    """With its number."""
    with pytest.raises(InvalidArgument, match=rf"Cannot listen on 127\.0\.0\.1:{pacs_server.port}: .*choose another"):
        client.move_and_store(
            f"PACS@127.0.0.1:{pacs_server.port}", {"StudyInstanceUID": "1.2"}, to=tmp_path, port=pacs_server.port
        )


# --- without a folder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["get", "fetch", "move_and_store"])
def test_a_retrieve_without_a_folder_gives_data_sets(known, datasets, tmp_path, monkeypatch, how):
    """With their pixels, in order of arrival; nothing is left on disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    client.store(known.peer, *datasets)
    others = {"port": known.port} if how == "move_and_store" else {}
    got = getattr(client, how)(known.peer, {"StudyInstanceUID": datasets[0].StudyInstanceUID}, **others)
    found = sorted(got.datasets(), key=lambda each: each.SOPInstanceUID)
    assert [each.PixelData for each in found] == [
        each.PixelData for each in sorted(datasets, key=lambda each: each.SOPInstanceUID)
    ]
    assert (got.paths, list(tmp_path.glob("pacs-retrieve-*"))) == ((), [])


def test_a_receiver_without_a_folder_gives_data_sets(datasets, tmp_path, monkeypatch):
    """Until the block ends; they stay in memory afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with client.receiving() as receiver:
        client.store(f"ANY@127.0.0.1:{receiver.port}", *datasets[:2])
        found = list(receiver.datasets())
    assert [each.PixelData for each in found] == [each.PixelData for each in datasets[:2]]
    assert list(tmp_path.iterdir()) == []
