"""C-CANCEL (PS3.7 9.3.2.3, checklist 3.7) takes effect at once, at any time, and only for its Message ID."""

import socket
import threading
import time

import pytest
from sqlalchemy import text

from pacs import settings
from pacs.observability.events import OperationFinished
from pacs.testing import serving, study
from tests import raw
from tests.archives import FIND, GET, MOVE, identifier, take_in
from tests.databases import fresh_database
from tests.raw import IMPLICIT, Raw, cancel


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A running archive with one series of 300 images, and a move destination that accepts and never responds."""
    silent = socket.create_server(("127.0.0.1", 0))
    folder = tmp_path_factory.mktemp("cancel")
    peers = [{"ae_title": "SILENT", "host": "127.0.0.1", "port": silent.getsockname()[1]}]
    chosen = {"peers": peers, "limits.cancel_grace": 0.5}
    with silent, pytest.MonkeyPatch.context() as patch, serving(folder, chosen) as running:
        patch.setattr(settings, "QUERY_PAGE", 20)
        running.reload(running.config)
        take_in(running, study(series=1, instances=300))
        yield running


def find_images(message_id: int) -> bytes:
    """Return a C-FIND-RQ for all images."""
    keys = identifier("IMAGE", PatientID="P1", SOPInstanceUID="")
    return raw.request(raw.C_FIND, 1, FIND, message_id, keys)


def test_x1_p4_a_cancel_in_the_same_packet_as_the_request_is_honoured(archive):
    """A C-CANCEL right behind the C-FIND ends it with FE00 after at most two Pending responses."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(find_images(7), cancel(1, 7))
        responses = client.until_final()
        client.release()
    assert responses[-1].status == 0xFE00
    assert responses[-1].data is None
    assert len(responses) <= 3


def test_x2_after_a_cancel_no_further_pending_than_what_was_on_its_way(archive):
    """A client that stops reading, cancels, and reads on gets the responses that were already sent, and FE00; not all
    300.
    """
    with Raw(archive.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.associate((1, FIND, [IMPLICIT]))
        client.send(find_images(1))
        first = [client.message() for _ in range(5)]
        client.send(cancel(1, 1))
        rest = client.until_final()
        client.release()
    assert {each.status for each in first} == {0xFF00}
    assert rest[-1].status in (0xFE00, 0x0000)


def test_p5_a_cancel_behind_twenty_others_still_counts(archive):
    """Cancels of unknown operations have no effect and do not displace that of a known one (X3)."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(find_images(99), *(cancel(1, number) for number in range(1, 21)), cancel(1, 99))
        responses = client.until_final()
        client.release()
    assert responses[-1].status == 0xFE00


def test_x3_x4_a_stray_cancel_is_ignored(archive):
    """A cancel of an unknown operation, or of a finished one, has no effect."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(cancel(1, 5))
        client.send(find_images(6))
        first = client.until_final()
        client.send(cancel(1, 6))
        client.send(find_images(8))
        second = client.until_final()
        client.release()
    assert [len(first), len(second)] == [301, 301]
    assert first[-1].status == second[-1].status == 0x0000


def test_x5_the_same_message_id_works_again_after_a_cancel(archive):
    """A cancelled Message ID can be used again."""
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]))
        client.send(find_images(3), cancel(1, 3))
        assert client.until_final()[-1].status == 0xFE00
        client.send(find_images(3))
        assert len(client.until_final()) == 301
        client.release()


def move_all(destination: str, message_id: int, uid: str) -> bytes:
    """Return a C-MOVE-RQ for a whole study."""
    keys = identifier("STUDY", StudyInstanceUID=uid)
    return raw.request(raw.C_MOVE, 1, MOVE, message_id, keys, [raw.element(0x0600, destination.encode())])


def test_x1_x6_a_cancel_while_the_destination_hangs_ends_the_move(archive):
    """FE00 comes well before any timeout when the destination accepts and never responds."""
    uid = study(series=1, instances=1)[0].StudyInstanceUID
    with Raw(archive.port) as client:
        client.associate((1, MOVE, [IMPLICIT]))
        client.send(move_all("SILENT", 1, uid))
        time.sleep(0.3)
        began = time.monotonic()
        client.send(cancel(1, 1))
        responses = client.until_final()
        took = time.monotonic() - began
        client.release()
    final = responses[-1]
    assert final.status == 0xFE00
    assert took < 5
    counts = [final.number(tag) for tag in (0x1020, 0x1021, 0x1022, 0x1023)]
    assert sum(counts) == 300
    assert counts[1] == 0


@pytest.mark.parametrize(("kind", "model"), [(raw.C_MOVE, MOVE), (raw.C_GET, GET)])
def test_x8_a_retrieve_cancelled_before_its_first_suboperation_has_counts(archive, kind, model):
    """Nothing is completed, failed or warned; what remains is counted if it is known."""
    keys = identifier("STUDY", StudyInstanceUID=study(series=1, instances=1)[0].StudyInstanceUID)
    destination = [raw.element(0x0600, b"SILENT")] * (kind == raw.C_MOVE)
    with Raw(archive.port) as client:
        client.associate((1, model, [IMPLICIT]))
        client.send(raw.request(kind, 1, model, 5, keys, destination), cancel(1, 5))
        (final,) = client.until_final()
        client.release()
    assert final.status == 0xFE00
    assert [final.number(tag) for tag in (0x1021, 0x1022, 0x1023)] == [0, 0, 0]
    assert final.number(0x1020) in (None, 300)


def test_x1_a_cancel_between_the_suboperations_of_a_get_ends_it(archive):
    """A C-CANCEL before the response to a sub-operation, and the response behind it, end in FE00."""
    ct = "1.2.840.10008.5.1.4.1.1.2"
    role = raw.item(0x54, len(ct).to_bytes(2, "big") + ct.encode() + b"\x00\x01")
    uid = study(series=1, instances=1)[0].StudyInstanceUID
    with Raw(archive.port) as client:
        client.associate((1, GET, [IMPLICIT]), (3, ct, [raw.EXPLICIT]), extra=role)
        client.send(raw.request(raw.C_GET, 1, GET, 9, identifier("STUDY", StudyInstanceUID=uid)))
        messages = [client.message()]
        assert messages[0].number(0x0100) == raw.C_STORE
        client.send(cancel(1, 9), store_response(messages[0], ct))
        while messages[-1].number(0x0100) == raw.C_STORE or messages[-1].status == 0xFF00:
            if messages[-1].number(0x0100) == raw.C_STORE and len(messages) > 1:
                client.send(store_response(messages[-1], ct))
            messages.append(client.message())
        client.release()
    final = messages[-1]
    assert final.status == 0xFE00
    assert sum(final.number(tag) for tag in (0x1020, 0x1021, 0x1022, 0x1023)) == 300
    assert final.number(0x1020) >= 297


def store_response(asked: raw.Response, sop_class: str) -> bytes:
    """Return a C-STORE-RSP of success."""
    elements = [
        raw.element(0x0002, sop_class.encode()),
        raw.us(0x0100, 0x8001),
        raw.us(0x0120, asked.number(0x0110)),
        raw.us(0x0800, 0x0101),
        raw.us(0x0900, 0),
        raw.element(0x1000, asked.elements[0x1000]),
    ]
    return raw.pdv(3, raw.command_set(elements), command=True)


@pytest.mark.parametrize("how", ["close", "abort", "release"])
def test_f11_a_peer_that_goes_during_a_find_stops_it(archive, how):
    """A requestor that closes, aborts or releases between the responses leaves no operation behind."""
    finished = []
    unsubscribe = archive.events.subscribe(finished.append)
    done = threading.Event()

    def ended(event):
        if type(event).__name__ == "AssociationEnded" and event.calling_ae_title == "GONE":
            done.set()

    stop = archive.events.subscribe(ended)
    with Raw(archive.port) as client:
        client.associate((1, FIND, [IMPLICIT]), calling="GONE")
        client.send(find_images(1))
        client.message()
        if how == "abort":
            client.send(raw.pdu(0x07, bytes(4)))
        elif how == "release":
            client.send(raw.pdu(0x05, bytes(4)))
            while client.pdu()[0] == 0x04:
                pass
    assert done.wait(10)
    unsubscribe()
    stop()
    operations = [each for each in finished if type(each).__name__ == "OperationFinished"]
    assert [each.calling_ae_title for each in operations].count("GONE") == 1


@pytest.mark.parametrize("how", ["cancel", "abort", "close"])
def test_x1_a_cancel_while_the_database_still_searches(request, tmp_path, how):
    """A query that waits for PostgreSQL, here for a lock, is stopped at once by a cancel, and by the end of the
    association.
    """
    finished = threading.Event()
    with (
        fresh_database("postgresql", request, tmp_path) as url,
        serving(tmp_path, {"database.url": url}) as archive,
        archive.index.write() as lock,
    ):
        archive.events.subscribe(lambda event: finished.set() if isinstance(event, OperationFinished) else None)
        lock.execute(text("LOCK TABLE study IN ACCESS EXCLUSIVE MODE"))
        with Raw(archive.port) as client:
            client.associate((1, FIND, [IMPLICIT]))
            client.send(find_images(1))
            time.sleep(0.3)
            assert not finished.is_set()
            began = time.monotonic()
            if how == "cancel":
                client.send(cancel(1, 1))
                assert [each.status for each in client.until_final()] == [0xFE00]
            elif how == "abort":
                client.send(raw.pdu(0x07, bytes(4)))
            else:
                client.socket.close()
            assert finished.wait(5)
            assert time.monotonic() - began < 2
