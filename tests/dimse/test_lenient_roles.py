"""Peers that negotiate no roles (`roles = "lenient"`), and destinations that close after each instance."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pacs import client
from pacs.conformance.checks import wire
from pacs.observability.events import SubOperationFinished
from pacs.testing import serving, study
from tests import raw
from tests.archives import GET, identifier, take_in
from tests.dimse.raw import ABORT, CT, DATA, EXPLICIT, IMPLICIT, RELEASE_RP, RELEASE_RQ, pdu
from tests.dimse.test_requestor import read_pdu
from tests.dimse.test_retrieve import counts, move
from tests.raw import Raw

DATASETS = study(series=1, instances=4)
STUDY_UID = DATASETS[0].StudyInstanceUID
SECONDS = 60
PEER = {"ae_title": "RAW", "host": "127.0.0.1", "port": 1}


# --- C-GET -------------------------------------------------------------------------------------------------------


def got(port: int, *syntaxes: str, extra: bytes = b"") -> tuple[list[raw.Response], raw.Response]:
    """Return the C-STORE requests and the final response of a C-GET without the role of SCP."""
    received = []
    with Raw(port, timeout=SECONDS) as requestor:
        requestor.associate((1, GET, [IMPLICIT]), (3, CT, syntaxes), extra=extra)
        keys = identifier("STUDY", IMPLICIT, StudyInstanceUID=STUDY_UID)
        requestor.send(raw.request(raw.C_GET, 1, GET, 9, keys))
        while True:
            message = requestor.message()
            if message.number(0x0100) == raw.C_STORE:
                received.append(message)
                requestor.send(raw.success(3, message.elements))
            elif not message.is_pending:
                return received, message


@pytest.mark.parametrize("role", [b"", raw.item(0x54, len(CT).to_bytes(2, "big") + CT.encode() + b"\x01\x00")])
def test_a_lenient_peer_receives_by_c_get_without_the_role(tmp_path: Path, role: bytes) -> None:
    """Neither a missing role nor that of SCU alone keeps it from receiving."""
    with serving(tmp_path, {"peers": [{**PEER, "roles": "lenient"}]}) as archive:
        take_in(archive, DATASETS)
        received, final = got(archive.port, EXPLICIT, extra=role)
    assert (final.status, counts(final), len(received)) == (0x0000, (None, 4, 0, 0), 4)


def test_a_strict_peer_is_told_which_role_it_did_not_propose(tmp_path: Path) -> None:
    """In the Error Comment; the log has the line to change."""
    comments = []
    with serving(tmp_path, {"peers": [PEER]}) as archive:
        archive.events.subscribe(
            lambda event: comments.append(event.comment) if isinstance(event, SubOperationFinished) else None
        )
        take_in(archive, DATASETS)
        received, final = got(archive.port, EXPLICIT)
    assert (final.status, received) == (0xA702, [])
    assert "no SCP role proposed for CT Image Storage" in final.elements[0x0902].decode()
    assert comments[0].endswith('set roles = "lenient" in the [[peers]] block of RAW')


# --- destinations that close -------------------------------------------------------------------------------------


def aborting(connection: socket.socket) -> None:
    """Send an A-ABORT."""
    connection.sendall(pdu(ABORT, bytes(4)))


def releasing(connection: socket.socket) -> None:
    """Send an A-RELEASE-RQ, answer one that crosses it, and wait for the end."""
    connection.sendall(pdu(RELEASE_RQ, bytes(4)))
    while (kind := read_pdu(connection)[0]) != 0:
        if kind == RELEASE_RQ:
            connection.sendall(pdu(RELEASE_RP, bytes(4)))


def closing(connection: socket.socket) -> None:
    """Close the connection without a word."""
    connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def one_at_a_time(end: Callable[[socket.socket], None]) -> Iterator[tuple[dict[str, object], list[str]]]:
    """Run a storage SCP that takes one instance on each association and ends it; yield its [[peers]] row, and UIDs."""
    taken: list[str] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(SECONDS)
            _, body = read_pdu(connection)
            connection.sendall(wire.associate_ac(body, {1: (0, EXPLICIT)}))
            assembler = wire.MessageAssembler()
            while True:
                kind, body = read_pdu(connection)
                if kind != DATA:
                    return
                for each in wire.pdvs(body):
                    message = assembler.add(*each)
                    if message is not None:
                        taken.append(message.elements[0x1000].decode().rstrip("\0"))
                        connection.sendall(raw.success(1, message.elements))
                        end(connection)
                        return

    def accept_all() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_all, daemon=True)
        thread.start()
        yield {"ae_title": "TAKER", "host": "127.0.0.1", "port": listener.getsockname()[1]}, taken
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(SECONDS)


@pytest.mark.parametrize("end", [aborting, releasing, closing])
@pytest.mark.parametrize("associations", [1, 2])
def test_v10_a_destination_that_closes_after_each_instance_loses_none(
    tmp_path: Path, end: Callable[[socket.socket], None], associations: int
) -> None:
    """Each instance arrives once, on an association of its own."""
    with (
        one_at_a_time(end) as (row, taken),
        serving(tmp_path, {"peers": [{**row, "associations": associations}]}) as archive,
    ):
        take_in(archive, DATASETS)
        final = move(archive, "TAKER", StudyInstanceUID=STUDY_UID)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 4, 0, 0))
    assert sorted(taken) == sorted(each.SOPInstanceUID for each in DATASETS)


@pytest.mark.parametrize("end", [aborting, releasing, closing])
def test_the_client_stores_to_a_peer_that_closes_after_each_instance(end: Callable[[socket.socket], None]) -> None:
    """`pacs store` loses none either."""
    with one_at_a_time(end) as (row, taken):
        done = client.store(f"TAKER@127.0.0.1:{row['port']}", *DATASETS)
    assert (done.completed, done.failed) == (4, ())
    assert sorted(taken) == sorted(each.SOPInstanceUID for each in DATASETS)
