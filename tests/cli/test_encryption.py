"""TLS with DCMTK as peer: incoming and outgoing associations, certificates, and hostile clients."""

import hashlib
import os
import socket
import ssl
import subprocess
import threading
import warnings
from contextlib import nullcontext

import pytest
from pydicom import dcmread

from pacs.config import from_settings
from pacs.dicom.sop_classes import VERIFICATION
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association.establishment import request
from pacs.dimse.scu import echo
from pacs.errors import ConfigurationError, DestinationUnreachable
from pacs.observability.events import AssociationAccepted, AssociationRequestRejected
from pacs.settings import peer_protection
from pacs.testing import serving, study, write
from tests.archives import take_in
from tests.certificates import Authority
from tests.programs import free_port, needs, run, storescp
from tests.waiting import eventually

HERE = ("localhost", "127.0.0.1")


@pytest.fixture
def authority(tmp_path):
    """A CA that signs certificates."""
    return Authority(tmp_path)


def secured(authority, **settings):
    """Return the settings of an archive with TLS."""
    ours = authority.sign("pacs", *HERE)
    given = {"enabled": True, "port": 0, "certificate": ours.certificate, "key": ours.key, "ca": authority.path}
    return {f"tls.{key}": value for key, value in given.items()} | settings


def shown(pair, authority):
    """Return DCMTK's options to present a certificate and require one signed by the CA."""
    return "+tls", pair.key, pair.certificate, "+cf", authority.path


def move(archive, study_instance_uid):
    """Send a C-MOVE to STORE_SCP without TLS, which DCMTK's movescu does not support."""
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_instance_uid}")
    run("movescu", "-S", "-aec", "PACS", "-aem", "STORE_SCP", *keys, "127.0.0.1", archive.port)


def events(archive, kind):
    """Collect the events of one class from now on."""
    seen = []
    archive.events.subscribe(lambda event: seen.append(event) if isinstance(event, kind) else None)
    return seen


@pytest.mark.timeout(150)
def test_images_are_received_and_sent_with_tls_bit_for_bit(tmp_path, authority):
    """DCMTK stores small and larger instances, and receives them by C-MOVE."""
    ws = authority.sign("ws", *HERE)
    datasets = study(series=1, instances=3) + study(series=1, instances=1, size=1500, number=2)
    paths = write(datasets, tmp_path / "files")
    received = tmp_path / "received"
    port = free_port()
    peers = [{"ae_title": "STORE_SCP", "host": "localhost", "port": port, "tls": True}]
    with (
        serving(tmp_path / "pacs", secured(authority, peers=peers)) as archive,
        storescp(received, "STORE_SCP", "+xa", "+B", *shown(ws, authority), port=port),
    ):
        accepted = events(archive, AssociationAccepted)
        run("storescu", "-R", *shown(ws, authority), "-aec", "PACS", "localhost", archive.secure_port, *paths)
        assert [each.protection.partition(" ")[0] for each in accepted] in (["TLSv1.2"], ["TLSv1.3"])
        for uid in {each.StudyInstanceUID for each in datasets}:
            move(archive, uid)
    sent = {each.SOPInstanceUID: hashlib.sha256(each.PixelData).digest() for each in map(dcmread, paths)}
    got = map(dcmread, received.iterdir())
    assert {each.SOPInstanceUID: hashlib.sha256(each.PixelData).digest() for each in got} == sent


def test_plain_associations_are_accepted_unless_tls_only(tmp_path, authority):
    """`tls.only` closes the other port."""
    settings = secured(authority)
    with serving(tmp_path / "both", settings) as archive:
        echo("127.0.0.1", archive.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
        run("echoscu", *shown(authority.sign("ws"), authority), "localhost", archive.secure_port)
    with serving(tmp_path / "one", settings | {"tls.only": True}) as archive:
        assert archive.port == archive.secure_port
        with pytest.raises(DestinationUnreachable):
            echo("127.0.0.1", archive.port, calling_ae_title="WS", called_ae_title="PACS", timeout=10)
        run("echoscu", *shown(authority.sign("ws"), authority), "localhost", archive.secure_port)


def test_clients_must_present_a_certificate_if_required(tmp_path, authority):
    """Signed by the CA; the log says what was wrong with another one."""
    stranger = Authority((tmp_path / "elsewhere").mkdir() or tmp_path / "elsewhere").sign("stranger")
    with serving(tmp_path / "pacs", secured(authority) | {"tls.client_certificates": "required"}) as archive:
        refused = events(archive, AssociationRequestRejected)
        run("echoscu", *shown(authority.sign("ws"), authority), "localhost", archive.secure_port)
        for words in (("+tla", "-ic"), ("+tls", stranger.key, stranger.certificate, "-ic")):
            run("echoscu", *words, "localhost", archive.secure_port, check=False)
        assert eventually(lambda: len(refused) == 2)
    assert all(each.comment.startswith("TLS failed: ") for each in refused)
    assert "certificate" in refused[0].comment


def test_a_title_can_be_bound_to_a_certificate(tmp_path, authority):
    """A different valid certificate is rejected for this AE title, and so is none."""
    room, other = authority.sign("room"), authority.sign("other")
    peers = [{"ae_title": "ROOM", "host": "127.0.0.1", "port": 104, "certificates": [room.fingerprint]}]
    settings = secured(authority, peers=peers) | {"tls.client_certificates": "optional"}
    with serving(tmp_path / "pacs", settings) as archive:
        refused = events(archive, AssociationRequestRejected)
        run("echoscu", "-aet", "ROOM", *shown(room, authority), "localhost", archive.secure_port)
        run("echoscu", "-aet", "OTHER", *shown(other, authority), "localhost", archive.secure_port)
        run("echoscu", "-aet", "ROOM", *shown(other, authority), "localhost", archive.secure_port, check=False)
        run("echoscu", "-aet", "ROOM", "127.0.0.1", archive.port, check=False)
        assert eventually(lambda: len(refused) == 2)
    assert [(each.result, each.source, each.reason) for each in refused] == [(1, 1, 3)] * 2
    assert other.fingerprint in refused[0].comment
    assert "must connect with TLS" in refused[1].comment


def asked(archive, authority, host="localhost", ae_title="PACS", **peer):
    """Associate with the archive's TLS port as with a configured peer."""
    settings = {
        "tls.ca": authority.path,
        "peers": [{"ae_title": ae_title, "host": host, "port": 104, "tls": True} | peer],
    }
    config = from_settings(settings)
    protection = peer_protection(config, config.peers[0])
    request(
        host, archive.secure_port, "OURS", ae_title, [(VERIFICATION, SERVICE_SYNTAXES)], protection=protection
    ).release()


def test_peers_must_present_the_expected_certificate(tmp_path, authority):
    """Signed by the CA for that host; or exactly the configured one, signed by any CA."""
    (tmp_path / "elsewhere").mkdir()
    stranger = Authority(tmp_path / "elsewhere")
    settings = secured(authority)
    ours = authority.sign("pinned", "elsewhere.example")
    elsewhere = settings | {"tls.certificate": ours.certificate, "tls.key": ours.key}
    with serving(tmp_path / "pacs", settings) as archive, serving(tmp_path / "other", elsewhere) as misnamed:
        asked(archive, authority)
        for wrong in (
            lambda: asked(archive, stranger),
            lambda: asked(misnamed, authority),
            lambda: asked(misnamed, authority, certificates=["ab" * 32]),
        ):
            with pytest.raises(DestinationUnreachable) as refused:
                wrong()
            assert "certificate" in refused.value.comment
        asked(misnamed, stranger, certificates=[ours.fingerprint])


def old(context):
    """Return a context with TLS 1.1 only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = ssl.TLSVersion.TLSv1_1


def without_forward_secrecy(context):
    """Return a context with TLS 1.2 and cipher suites that BCP 195 forbids."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384:AES128-SHA")


@pytest.mark.parametrize("restrict", [old, without_forward_secrecy])
def test_protocols_that_bcp_195_forbids_are_rejected(tmp_path, authority, restrict):
    """TLS 1.2 or newer, with forward secrecy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with serving(tmp_path / "pacs", secured(authority)) as archive:
        for is_restricted in (False, True):
            if is_restricted:
                restrict(context)
            expected = pytest.raises(ssl.SSLError) if is_restricted else nullcontext()
            with socket.create_connection(("127.0.0.1", archive.secure_port), 10) as connection, expected:
                context.wrap_socket(connection).close()


def test_p8_who_never_begins_the_handshake_keeps_nobody_waiting(tmp_path, authority):
    """Silent connections, plain DICOM and noise on the TLS port: others are served, and each is closed in time."""
    settings = secured(authority) | {"limits.negotiation_seconds": 2}
    with serving(tmp_path / "pacs", settings) as archive:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", archive.secure_port), 10) for _ in range(20)]
        for noise in (b"\x01\0\0\0\0\x10" + bytes(16), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 300):
            with socket.create_connection(("127.0.0.1", archive.secure_port), 10) as connection:
                connection.sendall(noise)
                while connection.recv(4096):
                    pass
        run("echoscu", *shown(authority.sign("ws"), authority), "localhost", archive.secure_port)
        for each in silent:
            assert each.recv(1) == b""
            each.close()
        assert eventually(lambda: threading.active_count() <= before)


def test_an_unusable_certificate_is_an_error_at_the_start(tmp_path, authority):
    """With the key, the file, and what was expected."""
    settings, other = secured(authority), authority.sign("other")
    (tmp_path / "noise.pem").write_text("noise")
    for changed, why in (
        ({"tls.certificate": "/nowhere.pem"}, r"tls\.certificate = '/nowhere\.pem': cannot be read"),
        ({"tls.key": other.key}, "the key belongs to another certificate"),
        ({"tls.certificate": str(tmp_path / "noise.pem")}, "in PEM"),
        ({"tls.ca": str(tmp_path / "noise.pem"), "tls.client_certificates": "required"}, r"tls\.ca"),
        ({"tls.ca": "", "tls.client_certificates": "required"}, r"expected tls\.ca"),
        ({"tls.certificate": ""}, r"needs tls\.certificate and tls\.key"),
    ):
        with pytest.raises(ConfigurationError, match=why), serving(tmp_path / "pacs", settings | changed):
            pass


def test_an_encrypted_private_key_is_an_error(tmp_path, authority):
    """Instead of a prompt for a passphrase."""
    ours = authority.sign("locked")
    locked = tmp_path / "locked-with.key"
    subprocess.run(
        [needs("openssl"), "rsa", "-aes256", "-in", ours.key, "-out", str(locked), "-passout", "pass:secret"],
        check=False,
        capture_output=True,
    )
    if not locked.exists() or "ENCRYPTED" not in locked.read_text():
        subprocess.run(
            [needs("openssl"), "pkcs8", "-topk8", "-in", ours.key, "-out", str(locked), "-passout", "pass:secret"],
            check=True,
            capture_output=True,
        )
    settings = secured(authority) | {"tls.certificate": ours.certificate, "tls.key": str(locked)}
    with pytest.raises(ConfigurationError, match="not encrypted"), serving(tmp_path / "pacs", settings):
        pass


@pytest.mark.timeout(150)
def test_a_large_data_set_is_sent_with_tls_to_a_slow_reader(tmp_path, authority):
    """Nothing is lost or sent twice after partial writes."""
    ws = authority.sign("ws", *HERE)
    (large,) = study(series=1, instances=1, size=2000)
    received, port = tmp_path / "received", free_port()
    peers = [{"ae_title": "STORE_SCP", "host": "localhost", "port": port, "tls": True}]
    with (
        serving(tmp_path / "pacs", secured(authority, peers=peers)) as archive,
        storescp(received, "STORE_SCP", "+xa", "+B", "-pdu", "4096", *shown(ws, authority), port=port),
    ):
        take_in(archive, [large])
        move(archive, large.StudyInstanceUID)
    (path,) = received.iterdir()
    assert dcmread(path).PixelData == large.PixelData


@pytest.mark.parametrize(
    "changed", [{}, {"tls.client_certificates": "required"}], ids=["renewed", "wants a certificate"]
)
def test_the_watchdog_of_a_tls_only_server_reaches_it(tmp_path, authority, changed):
    """Also with a renewed certificate, and if the server rejects its own AE title."""
    ours = authority.sign("pacs", *HERE)
    settings = secured(authority) | {"tls.only": True, "tls.certificate": ours.certificate, "tls.key": ours.key}
    (tmp_path / "elsewhere").mkdir()
    with serving(tmp_path / "pacs", settings | changed) as archive:
        other = Authority(tmp_path / "elsewhere").sign("renewed", *HERE)
        os.replace(other.certificate, ours.certificate)
        os.replace(other.key, ours.key)
        archive.monitoring._echo_this_server()
