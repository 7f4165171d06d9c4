"""Several C-STORE requests without a response on one association, where the peer accepts them (PS3.7 D.3.3.3)."""

import socket
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from pacs.conformance.checks import wire
from pacs.testing import serving, study
from tests import raw
from tests.archives import identifier, take_in
from tests.dimse.test_store_suboperations import counts, failed_list, move, moving
from tests.raw import EXPLICIT, IMPLICIT, Raw, item, pdu

CT = "1.2.840.10008.5.1.4.1.1.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
INVOKED, MOST = 5, 16
DATASETS = study(series=1, instances=20)
UIDS = [each.SOPInstanceUID for each in DATASETS]


def window(invoked, performed):
    """Return an Asynchronous Operations Window sub-item."""
    return item(0x53, struct.pack(">HH", invoked, performed))


@dataclass
class Destination:
    """A storage SCP with a window. It responds once it has `least` requests or all 20, and no more come for `pause`.

    The last request is answered first. It aborts the first association in which it has got the `fatal` instance.
    """

    answered: bytes = window(INVOKED, 1)
    fatal: str = ""
    message_id_offset: int = 0
    least: int = 1
    pause: float = 0.1
    proposed: list[bytes] = field(default_factory=list)
    arrived: list[list[str]] = field(default_factory=list)
    """The SOP Instance UIDs by association, in the order in which their requests came."""
    most: int = 0
    """The most requests that were without a response."""

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(ConnectionError):
                    self._serve(connection)

    def _serve(self, connection):
        arrived, due, assembler = [], [], wire.MessageAssembler()
        self.arrived.append(arrived)
        buffered = b""
        while True:
            connection.settimeout(self.pause if due else 60)
            try:
                piece = connection.recv(1 << 16)
            except TimeoutError:
                if len(due) >= self.least or len(arrived) == len(DATASETS):
                    self._respond(connection, due)
                continue
            buffered += piece
            if not piece:
                return
            while len(buffered) >= 6 and len(buffered) >= (end := 6 + int.from_bytes(buffered[2:6], "big")):
                kind, body, buffered = buffered[0], buffered[6:end], buffered[end:]
                if kind == wire.ASSOCIATE_RQ:
                    connection.sendall(self._accepting(body))
                elif kind == wire.RELEASE_RQ:
                    connection.sendall(pdu(wire.RELEASE_RP, bytes(4)))
                elif kind == wire.P_DATA:
                    for context, header, data in raw.pdvs(body):
                        message = assembler.add(context, header, data)
                        if message is not None:
                            due.append((context, message))
                            arrived.append(message.elements[0x1000].decode().strip("\0"))
                    self.most = max(self.most, len(due))
                    if self.fatal in arrived and not any(self.fatal in each for each in self.arrived[:-1]):
                        connection.sendall(pdu(wire.ABORT, bytes(4)))
                        return

    def _accepting(self, body):
        self.proposed += [content for kind, content in user_items(body) if kind == 0x53]
        results = {each[0]: (0, EXPLICIT) for kind, each in raw.items(body[68:]) if kind == 0x20}
        return wire.associate_ac(body, results, self.answered)

    def _respond(self, connection, due):
        for context, message in reversed(due):
            response = message.response(0)
            response[0x0120] = message.number(0x0110) + self.message_id_offset
            connection.sendall(raw.pdv(context, wire.command_set(response), command=True))
        due.clear()

    def peer(self):
        """Return its row for the table of peers."""
        return {"ae_title": "TAKER", "host": "127.0.0.1", "port": self._listener.getsockname()[1]}


def user_items(body):
    """Return the user information sub-items of an association request or its answer."""
    return [each for kind, content in raw.items(body[68:]) if kind == 0x50 for each in raw.items(content)]


@contextmanager
def archive_with(folder, taker, **limits):
    """Run an archive that knows the destination, with 20 instances."""
    limited = {f"limits.{key}": each for key, each in limits.items()}
    with serving(folder, {"peers": [taker.peer()], **limited}) as running:
        take_in(running, DATASETS)
        yield running


# --- C-MOVE ------------------------------------------------------------------------------------------------------


def test_as_many_requests_as_the_destination_accepts_are_without_a_response(tmp_path):
    """All instances arrive once, although the responses come in reverse order; the counts are exact."""
    with Destination(least=INVOKED) as taker, archive_with(tmp_path, taker) as archive:
        *pendings, final = move(archive)
    assert taker.proposed == [struct.pack(">HH", MOST, 1)]
    assert taker.most == INVOKED
    assert (final.status, counts(final)) == (0x0000, (None, 20, 0, 0))
    assert [counts(each) for each in pendings] == [(19 - done, done + 1, 0, 0) for done in range(20)]
    assert [sorted(each) for each in taker.arrived] == [sorted(UIDS)]


@pytest.mark.parametrize(
    ("answered", "most"),
    [(b"", 1), (window(1, 1), 1), (window(0, 0), MOST), (window(999, 1), MOST)],
    ids=["no answer", "one", "without limit", "more than was proposed"],
)
def test_the_answer_of_the_destination_limits_the_requests_without_a_response(tmp_path, answered, most):
    """Without an answer it is one; never are there more than proposed."""
    with Destination(answered, least=most) as taker, archive_with(tmp_path, taker) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final), taker.most) == (0x0000, (None, 20, 0, 0), most)


def test_v10_the_instances_without_a_response_are_sent_again_after_a_loss(tmp_path):
    """An abort in the middle loses nothing: what had no response is sent on another association."""
    with Destination(fatal=UIDS[12]) as taker, archive_with(tmp_path, taker) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 20, 0, 0))
    assert len(taker.arrived) == 2
    assert set(taker.arrived[0]) | set(taker.arrived[1]) == set(UIDS)


def test_v10_a_loss_before_any_response_costs_the_first_instance(tmp_path):
    """As without a window: the destination is called again, and the others arrive."""
    with Destination(fatal=UIDS[0]) as taker, archive_with(tmp_path, taker) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final), failed_list(final)) == (0xB000, (None, 19, 1, 0), [UIDS[0]])


def test_v5_a_response_to_no_request_fails(tmp_path):
    """The association is aborted; after two of them the destination is given up."""
    with Destination(message_id_offset=100) as taker, archive_with(tmp_path, taker) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0xA702, (None, 0, 20, 0))
    assert len(taker.arrived) == 2


def test_x6_after_a_cancel_the_requests_without_a_response_end_and_no_others_begin(tmp_path):
    """Each that was sent is counted as completed, the others as remaining."""
    with (
        Destination(pause=1.0) as taker,
        archive_with(tmp_path, taker, cancel_grace=30) as archive,
        moving(archive) as client,
    ):
        client.message()  # the first five have responses, and others have been sent
        client.send(raw.cancel(1, 1))
        final = client.until_final()[-1]
    sent = len(taker.arrived[0])
    assert final.status == 0xFE00
    assert counts(final) == (20 - sent, sent, 0, 0)
    assert INVOKED <= sent < 20


# --- C-GET -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "most"), [(b"", 1), (window(1, 4), 4), (window(1, 0), MOST)], ids=["none", "4", "any"]
)
def test_a_requestor_of_a_c_get_that_performs_several_operations_gets_them(tmp_path, extra, most):
    """It gets as many C-STORE requests before its first response as it performs at a time."""
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\0\1")
    with serving(tmp_path) as archive:
        take_in(archive, DATASETS)
        with Raw(archive.port) as client:
            client.associate((1, GET, [IMPLICIT]), (3, CT, [EXPLICIT]), extra=role + extra)
            keys = identifier("STUDY", StudyInstanceUID=DATASETS[0].StudyInstanceUID)
            client.send(raw.request(raw.C_GET, 1, GET, 1, keys))
            first = [client.message() for _ in range(most)]
            assert [each.number(0x0100) for each in first] == [raw.C_STORE] * most
            client.socket.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.message()
            client.socket.settimeout(60)
            assert len(finished(client, first)) == 20


def finished(client, requests):
    """Respond to these and all further C-STORE requests until the final response; return their Message IDs."""
    stored = []
    while requests:
        request = requests.pop(0)
        stored.append(request.number(0x0110))
        client.send(raw.success(3, request.elements))
        while not requests:
            message = client.message()
            if message.number(0x0100) == raw.C_STORE:
                requests.append(message)
            elif not message.is_pending:
                assert (message.status, counts(message)) == (0x0000, (None, 20, 0, 0))
                return stored
    return stored


# --- as acceptor -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proposed", "answered"),
    [((0, 5), (MOST, 5)), ((1, 1), (1, 1)), ((3, 0), (3, MOST)), ((999, 999), (MOST, MOST))],
)
def test_a_proposed_window_is_accepted_up_to_our_own(pacs_server, proposed, answered):
    """Unless a window is proposed there is no answer."""
    with Raw(pacs_server.port) as client:
        accept = client.associate((1, CT, [EXPLICIT]), extra=window(*proposed))
    assert (0x53, struct.pack(">HH", *answered)) in user_items(accept)
    with Raw(pacs_server.port) as client:
        assert 0x53 not in dict(user_items(client.associate((1, CT, [EXPLICIT]))))


def test_requests_without_a_response_are_stored_in_their_order(pacs_server):
    """Sixteen C-STORE requests in one write are all answered."""
    datasets = DATASETS[:MOST]
    with Raw(pacs_server.port) as client:
        client.associate((1, CT, [EXPLICIT]), extra=window(0, 0))
        client.send(
            *(
                raw.request(
                    raw.C_STORE, 1, CT, number, raw.encoded(each, EXPLICIT), [raw.element(0x1000, uid_of(each))]
                )
                for number, each in enumerate(datasets, 1)
            )
        )
        responses = [client.message() for _ in datasets]
    assert [(each.status, each.number(0x0120)) for each in responses] == [(0, number + 1) for number in range(MOST)]


def uid_of(dataset):
    """Return the encoded SOP Instance UID."""
    uid = str(dataset.SOPInstanceUID).encode()
    return uid + b"\0" * (len(uid) % 2)
