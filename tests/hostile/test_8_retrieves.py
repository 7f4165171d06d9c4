"""Move destinations that are broken or hostile, and files that are not what they were (checklist 5.2, group 8)."""

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
from tests.docs.asking import CT, VERIFICATION, role
from tests.hostile import house
from tests.hostile.house import KEPT, Daemon
from tests.raw import EXPLICIT, IMPLICIT, Raw, item, pdu, request

Behaviour = Callable[[socket.socket], None]


def receive(peer: socket.socket) -> tuple[int, bytes]:
    """The next PDU of the archive."""
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
    """An A-ASSOCIATE-AC that answers every context of a request in the same way."""
    proposed = [inner[0] for kind, inner in raw.items(body[68:]) if kind == 0x20]
    items = item(0x10, raw.APPLICATION_CONTEXT.encode())
    for number in proposed:
        items += item(0x21, struct.pack(">BxBx", number, result) + item(0x40, syntax.encode()))
    items += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    return pdu(0x02, body[:68] + items)


def accept(peer: socket.socket) -> None:
    """Accept what is proposed."""
    _, body = receive(peer)
    peer.sendall(accepting(body))


def store(peer: socket.socket) -> raw.Response:
    """Accept, and take the first C-STORE in."""
    accept(peer)
    return next(raw.messages(_bodies(peer)))


def _bodies(peer: socket.socket) -> Iterator[bytes]:
    while True:
        kind, body = receive(peer)
        if kind != 0x04:
            return
        yield body


def answering(status: bytes) -> Behaviour:
    """A peer whose C-STORE responses have another element in place of their Status."""

    def behave(peer: socket.socket) -> None:
        accept(peer)
        for message in raw.messages(_bodies(peer)):
            elements = [raw.element(0x0002, message.elements[0x0002]), raw.us(0x0100, 0x8001)]
            elements += [raw.element(0x0120, message.elements[0x0110]), raw.us(0x0800, 0x0101), status]
            elements.append(raw.element(0x1000, message.elements[0x1000]))
            peer.sendall(raw.pdv(message.context, raw.command_set(elements), command=True))

    return behave


def rejecting(peer: socket.socket) -> None:
    """Reject, with a result that there is not."""
    receive(peer)
    peer.sendall(pdu(0x03, b"\0\x63\x63\x63"))


def accepting_nothing(peer: socket.socket) -> None:
    """Accept the association, and no context of it."""
    _, body = receive(peer)
    peer.sendall(accepting(body, 3))
    receive(peer)


def accepting_noise(peer: socket.socket) -> None:
    """Accept in a transfer syntax that nobody proposed."""
    _, body = receive(peer)
    peer.sendall(accepting(body, 0, "1.2.3"))
    receive(peer)


def closing(peer: socket.socket) -> None:
    """Close in the middle of the first store."""
    accept(peer)
    peer.recv(100)


def aborting(peer: socket.socket) -> None:
    """Abort on the first store."""
    store(peer)
    peer.sendall(pdu(0x07, bytes(4)))


def releasing(peer: socket.socket) -> None:
    """Release instead of an answer."""
    store(peer)
    peer.sendall(pdu(0x05, bytes(4)))
    receive(peer)


def shouting(peer: socket.socket) -> None:
    """Send noise instead of an answer."""
    store(peer)
    peer.sendall(os.urandom(4096))


def flooding(peer: socket.socket) -> None:
    """Announce a PDU of 4 GiB, and begin it."""
    receive(peer)
    peer.sendall(struct.pack(">BxL", 2, 0xFFFFFFFF))
    for _ in range(100):
        peer.sendall(bytes(1 << 16))


def hanging(peer: socket.socket) -> None:
    """Accept, read, and never answer."""
    accept(peer)
    while peer.recv(1 << 16):
        pass


def silent(peer: socket.socket) -> None:
    """Read, and say nothing."""
    while peer.recv(1 << 16):
        pass


def requesting(peer: socket.socket) -> None:
    """Ask instead of answering."""
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
    """Peers that listen, and misbehave, each on a port of its own."""

    def __init__(self) -> None:
        self.listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in BEHAVIOURS}
        for name, listener in self.listeners.items():
            threading.Thread(target=self._serve, args=(listener, BEHAVIOURS[name]), daemon=True).start()

    def rows(self) -> list[dict[str, object]]:
        """Their rows for the table of peers."""
        ports = {name: each.getsockname()[1] for name, each in self.listeners.items()}
        return [{"ae_title": name, "host": "127.0.0.1", "port": port} for name, port in ports.items()]

    def close(self) -> None:
        """Listen no more."""
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
    """The port of a listener whose queue is full: who connects gets no answer at all."""
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
    """The daemon, with all these destinations, and a port that is its own as another one."""
    destinations = Destinations()
    with full() as blackhole, socket.socket() as nobody, socket.socket() as ours:
        nobody.bind(("127.0.0.1", 0))
        ours.bind(("127.0.0.1", 0))
        rows = destinations.rows()
        rows.append({"ae_title": "BLACKHOLE", "host": "127.0.0.1", "port": blackhole})
        rows.append({"ae_title": "NOBODY", "host": "127.0.0.1", "port": nobody.getsockname()[1]})
        port = ours.getsockname()[1]
        ours.close()
        rows.append({"ae_title": "OURSELVES", "host": "127.0.0.1", "port": port})
        settings = {"peers": rows, "server.port": port, **TIMES}
        with house.daemon(tmp_path_factory.mktemp("retrieves"), settings) as daemon:
            yield daemon
    destinations.close()


@pytest.fixture
def daemon(running: Daemon) -> Iterator[Daemon]:
    """The daemon of this module, which has to be as it was when the test is over."""
    yield running
    running.check()


def moved(daemon: Daemon, destination: str, study_uid: str = KEPT[0].StudyInstanceUID) -> raw.Response:
    """The final response to a C-MOVE of a study; what is kept, unless another one is named."""
    with Raw(daemon.port) as client:
        client.associate((1, MOVE, [IMPLICIT]))
        extra = [raw.element(0x0600, destination.encode())]
        client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID=study_uid), extra))
        final = client.until_final()[-1]
        client.release()
    return final


@pytest.mark.parametrize("destination", [*BEHAVIOURS, "BLACKHOLE", "NOBODY"])
def test_p2_a_destination_that_takes_nothing_is_a702_with_all_that_failed(daemon: Daemon, destination: str) -> None:
    """Others are served meanwhile; the response lists all instances. The log says what is wrong with the destination,
    and how the retrieve ended.
    """
    over: list[raw.Response] = []
    thread = threading.Thread(target=lambda: over.append(moved(daemon, destination)))
    thread.start()
    daemon.answers()
    thread.join()
    (final,) = over
    assert final.status == 0xA702
    assert set(final.dataset().FailedSOPInstanceUIDList) == {each.SOPInstanceUID for each in KEPT}
    daemon.lines = 0
    assert 1 <= len(daemon.said()) <= 1 + 2 * len(KEPT)


def test_v12_a_destination_that_is_ourselves_locks_nobody(daemon: Daemon) -> None:
    """Ten at once: what is there is stored again, and is the same."""
    finals: list[int] = []
    threads = [threading.Thread(target=lambda: finals.append(moved(daemon, "OURSELVES").status)) for _ in range(10)]
    for each in threads:
        each.start()
    daemon.answers()
    for each in threads:
        each.join()
    assert finals == [0x0000] * 10
    daemon.lines = 0


def files(daemon: Daemon) -> set[Path]:
    """The stored files."""
    return set((daemon.root / "inside" / "files").glob("2*/**/*.dcm"))


def vanish(path: Path) -> None:
    """It is not there any more."""
    path.unlink()


def shorten(path: Path) -> None:
    """It is cut."""
    os.truncate(path, path.stat().st_size // 2)


def lengthen(path: Path) -> None:
    """It has grown."""
    with path.open("ab") as file:
        file.write(b"x" * 100)


def be_a_folder(path: Path) -> None:
    """It is a folder."""
    path.unlink()
    path.mkdir()


def lead_elsewhere(path: Path) -> None:
    """It is a link to something else."""
    path.unlink()
    path.symlink_to("/etc/passwd")


HARMS = (vanish, shorten, lengthen, be_a_folder, lead_elsewhere)


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_is_not_what_it_was_fails_alone(daemon: Daemon, harm: Callable[[Path], None]) -> None:
    """The other instance of its study comes, by C-GET, and nothing of what stands in its place."""
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
    said = daemon.said()
    assert 1 <= len(said) <= 2
    daemon.lines = 0


def test_files_that_are_not_what_they_were_do_not_stop_a_query(daemon: Daemon) -> None:
    """What the index has is answered; what stands in a file that is gone is a failure."""
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
