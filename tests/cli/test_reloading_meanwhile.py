"""Reloads in the middle of operations: what runs ends by the old rules, what comes next begins by the new ones."""

import hashlib
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager, suppress
from queue import Queue

import pytest

from pacs import settings as archive_settings
from pacs.dicom.commitment import CommitmentRequest, Reference
from pacs.errors import ConfigurationError
from pacs.index import search
from pacs.testing import serving, study
from tests import raw
from tests.archives import FIND, GET, MOVE, identifier, take_in
from tests.certificates import Authority
from tests.cli.test_reloading import configured
from tests.cli.test_stopping import long
from tests.committing import Requester, references
from tests.dimse.test_cancel_points import answered
from tests.dimse.test_store_suboperations import Destination, counts
from tests.raw import EXPLICIT, IMPLICIT, Raw
from tests.waiting import eventually

CT = "1.2.840.10008.5.1.4.1.1.2"
DATASETS = study(series=1, instances=4)
OTHERS = study(series=1, instances=4, ImageComments="changed")
UID = DATASETS[0].StudyInstanceUID
BOTH_ROLES = raw.item(0x54, len(CT).to_bytes(2, "big") + CT.encode() + b"\x01\x01")

# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FOUR = ("--workers", "4")


class Client(Raw):
    """An association for everything, which a reload must not end."""

    def __enter__(self):
        models = [(1, CT, [EXPLICIT]), (3, FIND, [IMPLICIT]), (5, CT, [EXPLICIT]), (7, MOVE, [IMPLICIT])]
        self.associate(*models, (9, GET, [IMPLICIT]), extra=BOTH_ROLES)
        return self

    def store(self, dataset, meanwhile=lambda: None):
        """Return the status of a C-STORE during whose data set something happens."""
        data, uid = raw.encoded(dataset, EXPLICIT), raw.element(0x1000, dataset.SOPInstanceUID.encode())
        elements = [raw.element(0x0002, CT.encode()), raw.us(0x0100, raw.C_STORE), raw.us(0x0110, 1)]
        command = raw.command_set([*elements, raw.us(0x0700, 0), raw.us(0x0800, 0), uid])
        *begun, end = (data[at : at + raw.PIECE] for at in range(0, len(data), raw.PIECE))
        self.send(raw.pdv(1, command, command=True), *(raw.pdv(1, each, command=False, last=False) for each in begun))
        meanwhile()
        self.send(raw.pdv(1, end, command=False))
        return self.message().status

    def found(self, **keys):
        """Return the responses to a C-FIND of images."""
        self.send(raw.request(raw.C_FIND, 3, FIND, 2, identifier("IMAGE", SOPInstanceUID="", **keys)))
        return self.until_final()

    def moved(self):
        """Return the final response to a C-MOVE of the study to TAKER."""
        extra = [raw.element(0x0600, b"TAKER ")]
        self.send(raw.request(raw.C_MOVE, 7, MOVE, 3, identifier("STUDY", StudyInstanceUID=UID), extra))
        return self.until_final()[-1]

    def got(self, meanwhile=lambda: None):
        """Return the instances and the final response of a C-GET of the study; something happens at the first."""
        self.send(raw.request(raw.C_GET, 9, GET, 4, identifier("STUDY", StudyInstanceUID=UID)))
        first = self.message()
        meanwhile()
        return answered(self, first)


def peers(*rows):
    """Return the rows of the table of peers."""
    lines = ((f"{key} = {value!r}".replace("True", "true") for key, value in row.items()) for row in rows)
    return "".join("\n[[peers]]\n" + "\n".join(each) + "\n" for each in lines).replace("'", '"')


# --- in all processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), long(FOUR)], ids=["one process", "four workers"])
def test_an_instance_is_stored_by_the_rules_of_its_beginning(tmp_path, words):
    """`storage.duplicates` and the limits of a data set change while it arrives; the next one has the new rules."""
    replace = '[storage]\nduplicates = "replace"\n'
    (large,) = study(series=1, instances=1, size=1024)
    with configured(tmp_path, "", *words) as server, Client(server.port) as client:

        def reconfigure(text):
            assert eventually(lambda: list((tmp_path / "files" / "incoming").iterdir()))
            server.reconfigure(text)

        assert [client.store(each) for each in DATASETS] == [0] * 4
        assert client.store(large, lambda: reconfigure(replace)) >> 12 == 0xC
        assert client.store(large) == 0
        large.ImageComments = "changed"
        assert client.store(large, lambda: reconfigure(replace + "[limits]\nelements = 3\n")) == 0
        assert client.store(OTHERS[2]) >> 12 == 0xC
        client.release()


@pytest.mark.parametrize(("words", "associations"), [(FOUR, 1), long((), 1), long((), 3), long(FOUR, 3)])
def test_a_move_goes_on_to_the_destination_with_which_it_began(tmp_path, words, associations):
    """Its address changes, then it is removed: the next C-MOVE goes to the new address, then it is A801."""
    started, go = threading.Event(), threading.Event()

    def hold(_event):
        started.set()
        assert go.wait(60)
        return 0x0000

    with Destination(hold) as first, Destination(hold) as second, ExitStack() as stack:
        rows = [taker.peer(associations=associations) for taker in (first, second)]
        server = stack.enter_context(configured(tmp_path, peers(rows[0]), *words))
        client = stack.enter_context(Client(server.port))
        assert [client.store(each) for each in DATASETS] == [0] * 4
        for taker, after in ((first, peers(rows[1])), (second, "")):
            started.clear(), go.clear()
            changing = threading.Thread(
                target=lambda text=after: (started.wait(60), server.reconfigure(text), go.set())
            )
            changing.start()
            final = client.moved()
            changing.join()
            assert (final.status, counts(final)) == (0x0000, (None, 4, 0, 0))
            assert len(taker.arrived) == 4
        assert client.moved().status == 0xA801
        client.release()


@pytest.mark.parametrize("words", [FOUR, long(())], ids=["four workers", "one process"])
def test_a_get_goes_on_although_its_requestor_lost_the_right(tmp_path, words):
    """The next one is refused with 0124; what is invalid changes nothing."""
    with configured(tmp_path, "", *words) as server, Client(server.port) as client:
        assert [client.store(each) for each in DATASETS] == [0] * 4
        refusal = "reload rejected, previous settings kept"
        *received, final = client.got(lambda: server.reconfigure("[access]\nservices = 1\n", refusal))
        assert (len(received), final.status) == (4, 0)
        *received, final = client.got(lambda: server.reconfigure('[access]\nservices = ["store", "find"]\n'))
        assert (len(received), final.status) == (4, 0)
        assert client.got()[-1].status == 0x0124
        client.release()


# --- one process, at one point ------------------------------------------------------------------------------------


def changed(archive, **sections):
    """Return the configuration of an archive with some keys changed, by section."""
    new = {name: getattr(archive.config, name).model_copy(update=keys) for name, keys in sections.items()}
    return archive.config.model_copy(update=new)


def test_a_find_goes_on_by_the_rules_of_its_beginning(tmp_path, monkeypatch):
    """Matching mode and limit change after its first page: it returns all matches, the next one is refused."""
    pages, chosen = search.pages, {"limits.query_answers": 0, "query.manner": "tolerant"}

    def reloading_after_the_first(*arguments):
        for page in pages(*arguments):
            yield page
            archive.reload(changed(archive, limits={"query_answers": 3}, query={"manner": "strict"}))

    with serving(tmp_path, chosen) as archive, Client(archive.port) as client:
        take_in(archive, DATASETS)
        with monkeypatch.context() as patch:
            patch.setattr(search, "pages", reloading_after_the_first)
            assert [each.status for each in client.found(PatientID="P1")] == [0xFF00] * 4 + [0]
        assert client.found(PatientID="P1")[-1].status == 0xA900  # in the strict mode the unique keys are required
        client.release()


@pytest.fixture
def callers():
    """The port of a listener, and the first byte of each connection to it, which it closes then."""
    first, listener = Queue(), socket.create_server(("127.0.0.1", 0))

    def accept():
        with suppress(OSError):  # the listener is shut down
            while True:
                with listener.accept()[0] as connection:
                    first.put(connection.recv(1))

    thread = threading.Thread(target=accept)
    thread.start()
    with listener:
        yield listener.getsockname()[1], first
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


TLS_HANDSHAKE, ASSOCIATE_RQ = b"\x16", b"\x01"


@pytest.mark.parametrize("after", [[], [{"tls": False}]], ids=["without the peer", "without TLS"])
def test_a_report_goes_to_its_peer_as_it_was_when_the_report_began(tmp_path, monkeypatch, callers, after):
    """With TLS, although the reload during the verification of the instances removes the peer or its TLS."""
    port, first = callers
    row = {"ae_title": "REQUESTER", "host": "127.0.0.1", "port": port, "tls": True}
    chosen = {"tls.ca": Authority(tmp_path).path, "commitment.same_association_seconds": 0}
    with serving(tmp_path / "pacs", {"peers": [row], **chosen}) as archive:
        take_in(archive, DATASETS)
        verify = archive.commitments.verify
        rows = tuple(archive.config.peers[0].model_copy(update=each) for each in after)

        def reload_and_verify(*arguments):
            archive.reload(archive.config.model_copy(update={"peers": rows}))
            return verify(*arguments)

        monkeypatch.setattr(archive.commitments, "verify", reload_and_verify)
        assert Requester(port).ask(archive.port, references(DATASETS)) == 0
        assert first.get(timeout=60) == TLS_HANDSHAKE


@pytest.mark.parametrize("step", ["peer_protection", "data_set_bounds", "peers", "association_limits", "users"])
def test_a_reload_that_fails_at_any_step_changes_nothing(tmp_path, monkeypatch, step):
    """Neither what is stored nor who is known."""

    def fail(*_):
        raise ConfigurationError("the reload fails at this step")

    row = {"ae_title": "FRIEND", "host": "127.0.0.1", "port": 104}
    with serving(tmp_path, {"peers": [row]}) as archive, Client(archive.port) as client:
        take_in(archive, DATASETS)
        with monkeypatch.context() as patch:
            patch.setattr(archive_settings, step, fail)
            with pytest.raises(ConfigurationError):
                archive.reload(changed(archive, storage={"duplicates": "replace"}))
        assert client.store(OTHERS[0]) >> 12 == 0xC
        assert archive.config.storage.duplicates == archive.storage.duplicates == "keep"
        archive.reload(changed(archive, storage={"duplicates": "replace"}))
        assert client.store(OTHERS[0]) == 0
        client.release()


def test_unknown_sop_classes_apply_to_stores_and_commitments_alike(tmp_path):
    """A missing instance of a private SOP Class fails as of no supported class before, as not stored after."""
    with serving(tmp_path) as archive:
        for unknown, reason in ((False, 0x0122), (True, 0x0112)):
            archive.reload(changed(archive, storage={"unknown_sop_classes": unknown}))
            claim = archive.commitments.request(
                "PEER", CommitmentRequest(f"1.2.{reason}", [Reference("1.2.840.999.1", "1.2.3")])
            )
            (failure,) = archive.commitments.verify(claim).report.failed
            assert failure.reason == reason
            archive.commitments.finish(claim)


def test_an_encrypted_association_goes_on_with_the_certificate_of_its_beginning(tmp_path):
    """The next one gets the new certificate."""
    authority = Authority(tmp_path)
    pairs = [authority.sign(name, "localhost") for name in ("first", "second")]
    first, second = ({"certificate": each.certificate, "key": each.key} for each in pairs)
    chosen = {f"tls.{key}": value for key, value in (first | {"enabled": True, "port": 0}).items()}
    with serving(tmp_path / "pacs", chosen) as archive:
        with encrypted(archive.secure_port, authority) as (before, certificate):
            assert certificate == pairs[0].fingerprint
            archive.reload(changed(archive, tls=second))
            before.sendall(raw.associate_rq([(1, FIND, [IMPLICIT])]))
            assert before.recv(1) == b"\x02"
        with encrypted(archive.secure_port, authority) as (_, certificate):
            assert certificate == pairs[1].fingerprint


@contextmanager
def encrypted(port, authority):
    """Connect with TLS; yield the socket and the fingerprint of the certificate of the server."""
    context = ssl.create_default_context(cafile=authority.path)
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        yield wire, hashlib.sha256(wire.getpeercert(binary_form=True)).hexdigest()
