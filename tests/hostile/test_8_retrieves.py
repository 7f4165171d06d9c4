"""Broken and hostile move destinations, and changed files."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pacs.testing import study
from tests import raw
from tests.archives import FIND, GET, MOVE, identifier
from tests.docs.requests import CT, VERIFICATION, role
from tests.hostile import daemons
from tests.hostile.daemons import STORED, Daemon
from tests.raw import EXPLICIT, IMPLICIT, Raw, item, pdu, request

Behaviour = Callable[[socket.socket], None]


def receive(peer: socket.socket) -> tuple[int, bytes]:
    """Receive a PDU of the archive."""
    head = _exactly(peer, 6)
    return head[0], _exactly(peer, struct.unpack(">xxL", head)[0])


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise ConnectionError
        data += piece
    return data


def accepting(body: bytes, result: int = 0, syntax: str = EXPLICIT) -> bytes:
    """Return an A-ASSOCIATE-AC with the same result for every context of a request."""
    proposed = [inner[0] for kind, inner in raw.items(body[68:]) if kind == 0x20]
    items = item(0x10, raw.APPLICATION_CONTEXT.encode())
    for number in proposed:
        items += item(0x21, struct.pack(">BxBx", number, result) + item(0x40, syntax.encode()))
    items += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    return pdu(0x02, body[:68] + items)


def accept(peer: socket.socket) -> None:
    """Accept every context."""
    _, body = receive(peer)
    peer.sendall(accepting(body))


def store(peer: socket.socket) -> raw.Response:
    """Accept, and receive the first C-STORE request."""
    accept(peer)
    return next(raw.messages(_bodies(peer)))


def _bodies(peer: socket.socket) -> Iterator[bytes]:
    while True:
        kind, body = receive(peer)
        if kind != 0x04:
            return
        yield body


def answering(status: bytes) -> Behaviour:
    """Return a peer whose C-STORE responses have another element instead of their Status."""

    def behave(peer: socket.socket) -> None:
        accept(peer)
        for message in raw.messages(_bodies(peer)):
            elements = [raw.element(0x0002, message.elements[0x0002]), raw.us(0x0100, 0x8001)]
            elements += [raw.element(0x0120, message.elements[0x0110]), raw.us(0x0800, 0x0101), status]
            elements.append(raw.element(0x1000, message.elements[0x1000]))
            peer.sendall(raw.pdv(message.context, raw.command_set(elements), command=True))

    return behave


def rejecting(peer: socket.socket) -> None:
    """Reject with an undefined result."""
    receive(peer)
    peer.sendall(pdu(0x03, b"\0\x63\x63\x63"))


def accepting_nothing(peer: socket.socket) -> None:
    """Accept the association without any context."""
    _, body = receive(peer)
    peer.sendall(accepting(body, 3))
    receive(peer)


def accepting_noise(peer: socket.socket) -> None:
    """Accept in a transfer syntax that was not proposed."""
    _, body = receive(peer)
    peer.sendall(accepting(body, 0, "1.2.3"))
    receive(peer)


def closing(peer: socket.socket) -> None:
    """Close during the first C-STORE."""
    accept(peer)
    peer.recv(100)


def aborting(peer: socket.socket) -> None:
    """Abort during the first C-STORE."""
    store(peer)
    peer.sendall(pdu(0x07, bytes(4)))


def releasing(peer: socket.socket) -> None:
    """Release instead of responding."""
    store(peer)
    peer.sendall(pdu(0x05, bytes(4)))
    receive(peer)


def shouting(peer: socket.socket) -> None:
    """Send noise instead of a response."""
    store(peer)
    peer.sendall(os.urandom(4096))


def flooding(peer: socket.socket) -> None:
    """Announce a PDU of 4 GiB and send its beginning."""
    receive(peer)
    peer.sendall(raw.pdu(2, b"", 0xFFFFFFFF))
    for _ in range(100):
        peer.sendall(bytes(1 << 16))


def hanging(peer: socket.socket) -> None:
    """Accept, read, and never respond."""
    accept(peer)
    while peer.recv(1 << 16):
        pass


def silent(peer: socket.socket) -> None:
    """Read, and send nothing."""
    while peer.recv(1 << 16):
        pass


def requesting(peer: socket.socket) -> None:
    """Send a request instead of a response."""
    store(peer)
    peer.sendall(request(raw.C_ECHO, 1, VERIFICATION, 1, None))
    receive(peer)


BEHAVIOURS: dict[str, Behaviour] = {
    "REJECT": rejecting,
    "NOTHING": accepting_nothing,
    "NOISE": accepting_noise,
    "CLOSE": closing,
    "ABORT": aborting,
    "RELEASE": releasing,
    "SHOUT": shouting,
    "FLOOD": flooding,
    "HANG": hanging,
    "SILENT": silent,
    "REQUEST": requesting,
    "STATUS": answering(raw.us(0x0900, 0x1234)),
    "LONGSTATUS": answering(raw.element(0x0900, b"\0" * 40)),
    "NOSTATUS": answering(raw.us(0x0901, 0)),
    "PENDING": answering(raw.us(0x0900, 0xFF00)),
}


class Destinations:
    """Misbehaving peers, each listening on a port of its own."""

    def __init__(self) -> None:
        self.listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in BEHAVIOURS}
        for name, listener in self.listeners.items():
            threading.Thread(target=self._serve, args=(listener, BEHAVIOURS[name]), daemon=True).start()

    def rows(self) -> list[dict[str, object]]:
        """The rows for the table of peers."""
        ports = {name: each.getsockname()[1] for name, each in self.listeners.items()}
        return [{"ae_title": name, "host": "127.0.0.1", "port": port} for name, port in ports.items()]

    def close(self) -> None:
        """Stop listening."""
        for each in self.listeners.values():
            each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, listener: socket.socket, behave: Behaviour) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer, suppress(OSError, StopIteration):
                peer.settimeout(20)
                behave(peer)


@contextmanager
def full() -> Iterator[int]:
    """The port of a listener with a full backlog, so that connections get no answer."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


TIMES = {"limits.connect_seconds": 0.5, "limits.negotiation_seconds": 0.5, "limits.message_seconds": 0.5}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon with all these destinations, and itself as a destination."""
    destinations = Destinations()
    with full() as blackhole, socket.socket() as unused, socket.socket() as ours:
        unused.bind(("127.0.0.1", 0))
        ours.bind(("127.0.0.1", 0))
        rows = destinations.rows()
        rows.append({"ae_title": "BLACKHOLE", "host": "127.0.0.1", "port": blackhole})
        rows.append({"ae_title": "UNUSED", "host": "127.0.0.1", "port": unused.getsockname()[1]})
        port = ours.getsockname()[1]
        ours.close()
        rows.append({"ae_title": "OURSELVES", "host": "127.0.0.1", "port": port})
        settings = {"peers": rows, "server.port": port, **TIMES}
        with daemons.daemon(tmp_path_factory.mktemp("retrieves"), settings) as daemon:
            yield daemon
    destinations.close()


@pytest.fixture
def daemon(running: Daemon) -> Iterator[Daemon]:
    """The daemon of this module, checked after the test."""
    yield running
    running.check()


def moved(daemon: Daemon, destination: str, study_uid: str = STORED[0].StudyInstanceUID) -> raw.Response:
    """Return the final response to a C-MOVE of a study, by default the stored one."""
    with Raw(daemon.port) as client:
        client.associate((1, MOVE, [IMPLICIT]))
        extra = [raw.element(0x0600, destination.encode())]
        client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID=study_uid), extra))
        final = client.until_final()[-1]
        client.release()
    return final


@pytest.mark.parametrize("destination", [*BEHAVIOURS, "BLACKHOLE", "UNUSED"])
def test_p2_a_destination_that_stores_nothing_is_a702_with_all_instances(daemon: Daemon, destination: str) -> None:
    """The response lists all instances, and the log names the error; others are served meanwhile."""
    over: list[raw.Response] = []
    thread = threading.Thread(target=lambda: over.append(moved(daemon, destination)))
    thread.start()
    daemon.check_echo()
    thread.join()
    (final,) = over
    assert final.status == 0xA702
    assert set(final.dataset().FailedSOPInstanceUIDList) == {each.SOPInstanceUID for each in STORED}
    daemon.lines = 0
    assert 1 <= len(daemon.incidents()) <= 1 + 2 * len(STORED)


def test_v12_the_server_itself_as_destination_blocks_no_other(daemon: Daemon) -> None:
    """Ten at once: the same instances are stored again."""
    finals: list[int] = []
    threads = [threading.Thread(target=lambda: finals.append(moved(daemon, "OURSELVES").status)) for _ in range(10)]
    for each in threads:
        each.start()
    daemon.check_echo()
    for each in threads:
        each.join()
    assert finals == [0x0000] * 10
    daemon.lines = 0


def files(daemon: Daemon) -> set[Path]:
    """Return the stored files."""
    return set((daemon.root / "inside" / "files").glob("2*/**/*.dcm"))


def vanish(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def shorten(path: Path) -> None:
    """Shorten the file."""
    os.truncate(path, path.stat().st_size // 2)


def lengthen(path: Path) -> None:
    """Lengthen the file."""
    with path.open("ab") as file:
        file.write(b"x" * 100)


def be_a_folder(path: Path) -> None:
    """Replace the file by a folder."""
    path.unlink()
    path.mkdir()


def lead_elsewhere(path: Path) -> None:
    """Replace the file by a link to another file."""
    path.unlink()
    path.symlink_to("/etc/passwd")


HARMS = (vanish, shorten, lengthen, be_a_folder, lead_elsewhere)


@pytest.mark.parametrize("harm", HARMS)
def test_a_changed_file_fails_alone(daemon: Daemon, harm: Callable[[Path], None]) -> None:
    """A C-GET returns the other instance of the study, and nothing of the replacement."""
    made = study(series=1, instances=2, patient_id="HARMED", number=1 + HARMS.index(harm))
    before = files(daemon)
    assert daemon.store(made[0]) == 0x0000
    (path,) = files(daemon) - before
    assert daemon.store(made[1]) == 0x0000
    harm(path)
    with Raw(daemon.port) as client:
        client.associate((1, GET, [IMPLICIT]), (3, CT, [EXPLICIT]), extra=role(CT, 1, 1))
        keys = identifier("STUDY", StudyInstanceUID=made[0].StudyInstanceUID)
        client.send(request(raw.C_GET, 1, GET, 1, keys))
        came = client.message()
        while came.number(0x0100) != raw.C_STORE:
            came = client.message()
        assert came.data == raw.encoded(made[1], EXPLICIT)
        client.send(raw.success(3, came.elements))
        final = client.until_final()[-1]
        client.release()
    assert (final.status, final.number(0x1021), final.number(0x1022)) == (0xB000, 1, 1)
    said = daemon.incidents()
    assert 1 <= len(said) <= 2
    daemon.lines = 0


def test_changed_files_do_not_stop_a_query(daemon: Daemon) -> None:
    """Values in the index are returned; a query that needs a missing file fails."""
    (made,) = study(series=1, instances=1, patient_id="GONE")
    before = files(daemon)
    assert daemon.store(made) == 0x0000
    (path,) = files(daemon) - before
    path.unlink()
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        for keyword, status in (("InstanceNumber", 0x0000), ("WindowCenter", 0xC003)):
            keys = {"SOPInstanceUID": made.SOPInstanceUID, keyword: ""}
            client.send(request(raw.C_FIND, 1, FIND, 1, identifier("IMAGE", **keys)))
            assert client.until_final()[-1].status == status
        client.release()
