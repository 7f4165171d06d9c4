"""PDUs that are invalid, too long, too slow or unexpected, and the state machine that answers them (PS3.8 9)."""

import ast
import inspect
import resource
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from pynetdicom import fsm

from pacs.dimse.association.association import AssociationLimits
from pacs.dimse.upper import upper_layer
from pacs.dimse.upper.pdus import ReceivedPDU
from tests.dimse import raw
from tests.dimse.conftest import Archive, Serve
from tests.dimse.raw import (
    AC,
    COMMAND,
    CT_CONTEXT,
    DATA_SET,
    ECHO_CONTEXT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    VERIFICATION,
    Peer,
    associate_rq,
    echo_rq,
    item,
    p_data,
    pdu,
    pdv,
)

PROVIDER = 2


def still_serves(archive: Archive) -> None:
    """Check that the process lives: the next peer is served."""
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(echo_rq())
        assert peer.status() == 0x0000
        peer.release()


# --- PDUs --------------------------------------------------------------------------------------------------------

LONGEST = {0x01: 1 << 20, 0x02: 1 << 20, 0x03: 64, 0x04: 131_072 + 4096, 0x05: 64, 0x06: 64, 0x07: 64}


@pytest.mark.parametrize("kind", [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0xFF])
@pytest.mark.parametrize("length", [0xFFFFFFFF, 2**31, 2**20 + 1])
def test_p6_a_pdu_longer_than_its_type_allows_is_refused_by_its_first_six_bytes(
    serve: Serve, kind: int, length: int
) -> None:
    """Before and after the association began, the answer comes without a further byte."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.send(pdu(kind, b"", length))
        assert peer.aborted()[0] in (0, PROVIDER)
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(pdu(kind, b"", length))
        assert peer.aborted()[0] == PROVIDER
    still_serves(archive)


def resident_kib() -> int:
    """Return the memory of this process, which includes the server."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def test_p6_a_length_of_4_gib_costs_no_memory(serve: Serve) -> None:
    """Fifty megabytes behind a header before any association do not make the process grow by five."""
    archive = serve()
    chunk = bytes(1 << 20)
    before = grown = resident_kib()
    with Peer(archive.port) as peer:
        peer.send(pdu(0x01, b"", 0xFFFFFFFF))
        try:
            for _ in range(50):
                peer.send(chunk)
                grown = max(grown, resident_kib())
        except OSError:
            pass  # closed on us, as it should be
    assert grown - before < 5 * 1024, f"grew by {grown - before} KiB"
    still_serves(archive)


def test_p6_a_p_data_longer_than_announced_is_refused(serve: Serve) -> None:
    """A P-DATA-TF may exceed our maximum length by little only."""
    archive = serve(limits=AssociationLimits(max_pdu=4096))
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(pdu(raw.DATA, b"", 4096 + 4097))
        assert peer.aborted()[0] == PROVIDER
    assert archive.ended_by() == ["protocol violation"]


UNEXPECTED = {
    "PDU of the requestor: its type 00 is none of PS3.8; it begins with 00 00 00 00 00 04": pdu(0x00, bytes(4)),
    "PDU of the requestor: its type 08 is none of PS3.8; it begins with 08 00 00 00 00 04": pdu(0x08, bytes(4)),
    "PDU of the requestor: its type FF is none of PS3.8; it begins with ff 00 00 00 00 00": pdu(0xFF, b""),
    "P-DATA-TF of the requestor: it ends within the header of a PDV: ": pdu(raw.DATA, b""),
    "P-DATA-TF of the requestor: it ends within the header of a PDV: 00": pdu(raw.DATA, b"\0"),
    "A-ASSOCIATE-AC of the requestor: it ends within its first 74 bytes: 02 00": pdu(AC, bytes(40)),
    "A-ASSOCIATE-AC of the requestor: it is unexpected: 02 00 00 00 00 44": pdu(AC, bytes(68)),
    "A-ASSOCIATE-RJ of the requestor: it is unexpected: 03 00 00 00 00 04": pdu(RJ, bytes(4)),
    "A-RELEASE-RP of the requestor: it is unexpected: 06 00 00 00 00 04": pdu(RELEASE_RP, bytes(4)),
    "A-ASSOCIATE-RQ of the requestor: it is unexpected: 01 00": associate_rq(),
    "A-RELEASE-RQ of the requestor: its length 65 is more than 64": pdu(RELEASE_RQ, bytes(65)),
}
"""PDUs, by what the log says of them."""


@pytest.mark.parametrize("what", UNEXPECTED)
def test_p18_an_unexpected_pdu_in_an_association_is_answered_with_a_p_abort(serve: Serve, what: str) -> None:
    """Among them a second A-ASSOCIATE-RQ (AA-8)."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(UNEXPECTED[what])
        assert peer.aborted()[0] == PROVIDER
    assert archive.violation().startswith(what)
    still_serves(archive)


@pytest.mark.parametrize(
    "wrong",
    [echo_rq(), pdu(AC, bytes(70)), pdu(RELEASE_RQ, bytes(4)), pdu(RELEASE_RP, bytes(4)), pdu(0x01, b"")],
    ids=["data", "AC", "release", "released", "empty RQ"],
)
def test_an_unexpected_pdu_before_the_association_is_answered_with_an_abort(serve: Serve, wrong: bytes) -> None:
    """No association began, so that none is announced or counted."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.send(wrong)
        peer.aborted()
    still_serves(archive)
    assert len(archive.ended_by()) == 1


def test_an_abort_at_any_time_ends_without_an_answer(serve: Serve) -> None:
    """Before the request, after it, and within a message; for any reason in the A-ABORT."""
    archive = serve()
    for begun, rest in ((False, b""), (True, b""), (True, raw.store_rq())):
        with Peer(archive.port) as peer:
            if begun:
                peer.associate()
            peer.send(rest, pdu(raw.ABORT, b"\0\0\x07\x63"))
            assert peer.receive() == (0, b"")
    assert archive.ended_by(2) == ["A-ABORT", "A-ABORT"]


def test_a_truncated_pdu_and_a_closed_connection_end_the_association(serve: Serve) -> None:
    """There is no wait for the rest of a PDU that cannot come."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(echo_rq()[:-1])
    assert archive.ended_by() == ["connection lost"]


def test_a_request_may_arrive_byte_by_byte(serve: Serve) -> None:
    """A request may arrive byte by byte."""
    archive = serve()
    with Peer(archive.port) as peer:
        for byte in associate_rq():
            peer.send(bytes([byte]))
        assert peer.receive()[0] == AC
        for byte in echo_rq():
            peer.send(bytes([byte]))
        assert peer.status() == 0x0000


def test_a_pdu_that_does_not_end_in_time_ends_the_association(serve: Serve) -> None:
    """The message time runs from the first byte of a PDU, also while its bytes trickle."""
    archive = serve(limits=AssociationLimits(message=0.5, idle=None))
    with Peer(archive.port) as peer:
        peer.associate()
        stop = threading.Event()

        def drip() -> None:
            for byte in echo_rq():
                if stop.wait(0.1):
                    return
                peer.send(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        assert archive.ended_by() == ["timeout"]
        stop.set()
        thread.join()


def test_an_idle_association_is_ended(serve: Serve) -> None:
    """The idle time runs between requests."""
    archive = serve(limits=AssociationLimits(idle=0.2))
    with Peer(archive.port) as peer:
        peer.associate()
        assert peer.aborted()[0] == 0
    assert archive.ended_by() == ["timeout"]


# --- PDVs --------------------------------------------------------------------------------------------------------

ECHO = raw.command(VERIFICATION, 0x0030)
WITH_DATA = raw.command(raw.CT, 0x0001, data_set=True, more=raw.uid(0x1000, "1.2.3"))

ABUSES = {
    "PDV of a command set is in presentation context 2, which was not accepted: 02 03": p_data(
        pdv(2, COMMAND | LAST, ECHO)
    ),
    "PDV of a command set is in presentation context 201, which was not accepted: c9 03": p_data(
        pdv(201, COMMAND | LAST, ECHO)
    ),
    "PDV has a length of 0, and 80 bytes remain: 00 00 00 00 01 03": p_data(pdv(1, COMMAND | LAST, ECHO, length=0)),
    "PDV has a length of 1, and 80 bytes remain: 00 00 00 01 01 03": p_data(pdv(1, COMMAND | LAST, ECHO, length=1)),
    "PDV has a length of 83, and 80 bytes remain: 00 00 00 53 01 03": p_data(pdv(1, COMMAND | LAST, ECHO, length=83)),
    "PDV has a length of 4294967295, and 80 bytes remain: ff ff ff ff 01 03": p_data(
        pdv(1, COMMAND | LAST, ECHO, length=0xFFFFFFFF)
    ),
    "it ends within the header of a PDV: 00 00 00": p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, ECHO), b"\0\0\0"),
    "PDV of a data set follows no command set that announces a data set: 03 02": p_data(
        pdv(CT_CONTEXT, DATA_SET | LAST, b"\0\0")
    ),
    "PDV of a command set came where the rest of a data set was due: 01 03": (
        p_data(pdv(CT_CONTEXT, COMMAND | LAST, WITH_DATA)) + echo_rq()
    ),
    "PDV of a data set is in presentation context 1, and its command set in 3: 01 02": p_data(
        pdv(CT_CONTEXT, COMMAND | LAST, WITH_DATA), pdv(ECHO_CONTEXT, LAST, b"\0\0")
    ),
    "PDV of a data set came where the rest of a command set was due: 03 02": p_data(
        pdv(CT_CONTEXT, COMMAND, WITH_DATA), pdv(CT_CONTEXT, LAST, b"\0\0")
    ),
    "PDV of a command set is in presentation context 1, and its beginning in 3: 01 03": p_data(
        pdv(CT_CONTEXT, COMMAND, ECHO[:10]), pdv(ECHO_CONTEXT, COMMAND | LAST, ECHO[10:])
    ),
    "PDV of a data set follows no command set that announces a data set: 01 02": p_data(
        pdv(ECHO_CONTEXT, COMMAND | LAST, ECHO), pdv(ECHO_CONTEXT, LAST, b"\0\0")
    ),
    "PDV of a command set makes its command set longer than 65536 bytes: 01 01": (
        p_data(pdv(ECHO_CONTEXT, COMMAND, bytes(40_000))) * 2
    ),
    "C-CANCEL-RQ announces a data set: (0000,0800) is 0001": p_data(
        pdv(ECHO_CONTEXT, COMMAND | LAST, raw.number(0x100, 0xFFF) + raw.number(0x120, 1) + raw.number(0x800, 1))
    ),
}
"""P-DATA-TF PDUs, by what the log says of them."""


@pytest.mark.parametrize("what", ABUSES)
def test_p18_an_invalid_pdv_is_answered_with_a_p_abort(serve: Serve, what: str) -> None:
    """The association ends, the process goes on. Nothing of a data set is in the log."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(ABUSES[what])
        assert peer.aborted() == (PROVIDER, 6)
    assert archive.violation() == f"P-DATA-TF of the requestor: {what}"
    still_serves(archive)


GARBAGE = {
    "has (9999,9999), which is not of group 0000: 99 99 99 99": b"\x99" * 40,
    "has (0000,0000) with a length of 281685, beyond its end: 00 00 00 00 55 4c 04 00": (
        struct.pack("<HH2sHL", 0, 0, b"UL", 4, 10) + struct.pack("<HH2sHH", 0, 0x100, b"US", 2, 0x30)
    ),
    "has (0000,0800) with a length of 2, beyond its end: 00 00 00 08 02 00 00 00 01": ECHO[:-1],
    "ends within the header of an element: 00 00 00 08": ECHO[:-6],
    "has no (0000,0100): 00 00 10 01": raw.number(0x0110, 1) + raw.number(0x0800, 0x0101),
    "has no (0000,0110): 00 00 00 01": raw.number(0x0100, 0x30) + raw.number(0x0800, 0x0101),
    "has no (0000,0800): 00 00 00 01": raw.number(0x0100, 0x30) + raw.number(0x0110, 1),
    "has (0000,0100) twice: 00 00 00 01 02 00 00 00 30 00": ECHO + raw.number(0x0100, 0x30),
    "has (0000,0100) of VR US with a length of 4: 00 00 00 01 04 00 00 00 30 00 30 00": (
        raw.element(0x0100, b"\x30\0\x30\0") + raw.number(0x0110, 1) + raw.number(0x0800, 0x0101)
    ),
    "has (0000,0901) of VR AT with a length of 3: 00 00 01 09": (
        raw.element(0x9999, b"") * 2 + struct.pack("<HHL", 0, 0x0901, 3) + b"abc" + ECHO[12:]
    ),
    "has (0008,0100), which is not of group 0000: 08 00 00 01": struct.pack("<HHLH", 8, 0x100, 2, 0x30),
    "has no (0000,0100), (0000,0110), (0000,0800): ": b"",
    "has no (0000,0120), (0000,0900): 00 00 02 00": raw.command(VERIFICATION, 0x8030)[12:],
}
"""Command sets, by what the log says of them."""


@pytest.mark.parametrize("what", GARBAGE)
def test_p18_an_invalid_command_set_is_answered_with_a_p_abort(serve: Serve, what: str) -> None:
    """No status can be sent: the operation and the Message ID are unknown."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, GARBAGE[what])))
        assert peer.aborted() == (PROVIDER, 6)
    assert archive.violation().startswith(f"P-DATA-TF of the requestor: command set {what}")
    still_serves(archive)


def test_p18_a_release_within_a_message_is_answered_with_a_p_abort(serve: Serve) -> None:
    """And says what was due."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(raw.store_rq(), pdu(RELEASE_RQ, bytes(4)))
        assert peer.aborted() == (PROVIDER, 6)
    assert archive.violation() == "A-RELEASE-RQ of the requestor: it came where the rest of a message was due"


def test_a_wrong_group_length_is_ignored(serve: Serve) -> None:
    """The decoder ignores the group length."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        wrong = raw.element(0, struct.pack("<L", 7)) + ECHO[12:]
        peer.send(p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, wrong)))
        assert peer.status() == 0x0000


def test_a_command_may_come_in_many_fragments_and_pdus(serve: Serve) -> None:
    """Including empty fragments."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        parts = [pdv(ECHO_CONTEXT, COMMAND, ECHO[n : n + 1]) for n in range(len(ECHO))]
        peer.send(p_data(*parts[:20]), *(p_data(each) for each in parts[20:]))
        peer.send(p_data(pdv(ECHO_CONTEXT, COMMAND | LAST, b"")))
        assert peer.status() == 0x0000


# --- association items -------------------------------------------------------------------------------------------

BAD_REQUESTS = {
    "item past the end": associate_rq(more=struct.pack(">BxH", 0x20, 500)),
    "half an item": associate_rq(more=b"\x20\x00"),
    "cut before its titles": pdu(0x01, struct.pack(">Hxx", 1) + b"PACS"),
    "user information in itself": associate_rq(information=item(0x50, item(0x50, item(0x50, b"\xff" * 9)))[:-5]),
}


@pytest.mark.parametrize("wrong", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_an_invalid_association_request_is_aborted(serve: Serve, wrong: bytes) -> None:
    """At the price of one short-lived connection."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.send(wrong)
        peer.aborted()
    still_serves(archive)


def test_a_request_for_more_contexts_than_ids_exist_is_aborted(serve: Serve) -> None:
    """128 odd IDs of one byte exist; a context with another ID is one too many."""
    archive = serve()
    contexts = [raw.context_item(2 * n + 1, VERIFICATION, (raw.IMPLICIT,)) for n in range(128)]
    with Peer(archive.port) as peer:
        peer.send(associate_rq((), more=b"".join([*contexts, raw.context_item(2, VERIFICATION, (raw.IMPLICIT,))])))
        peer.aborted()
    with Peer(archive.port) as peer:
        peer.send(associate_rq((), more=b"".join(contexts)))
        kind, body = peer.receive()
        assert kind == AC
        assert len(raw.contexts_of(body)) == 128


def test_unknown_items_are_ignored(serve: Serve) -> None:
    """At the top level, in a context and in the User Information."""
    archive = serve()
    unknown = item(0x99, b"whatever this is")
    context = item(
        0x20, bytes([7, 0, 0, 0]) + item(0x30, VERIFICATION.encode()) + unknown + item(0x40, b"1.2.840.10008.1.2")
    )
    with Peer(archive.port) as peer:
        accept = peer.associate(information=raw.user_information(16384, unknown), more=unknown + context)
        assert raw.contexts_of(accept)[7] == (0, raw.IMPLICIT)


def test_a_request_of_a_mebibyte_of_tiny_items_costs_little(serve: Serve) -> None:
    """A quarter of a million items are walked through once."""
    archive = serve()
    with Peer(archive.port) as peer:
        began = time.monotonic()
        peer.send(associate_rq((), more=item(0x99, b"") * 250_000))
        assert peer.receive()[0] == AC
        assert time.monotonic() - began < 20


# --- release -----------------------------------------------------------------------------------------------------


def test_a_release_is_confirmed_and_the_connection_closed(serve: Serve) -> None:
    """AR-2, AR-4, AR-5."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(echo_rq())
        assert peer.status() == 0x0000
        peer.release()
    assert archive.ended_by() == ["A-RELEASE"]


def test_a_request_before_the_release_is_answered_before_it(serve: Serve) -> None:
    """A request and a release in one packet get both answers, in order."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(echo_rq(), pdu(RELEASE_RQ, bytes(4)))
        assert peer.status() == 0x0000
        assert peer.receive()[0] == RELEASE_RP


def test_data_after_a_release_request_is_a_violation(serve: Serve) -> None:
    """After its release request a peer must not send data (AA-8 in Sta8)."""
    archive = serve()
    with Peer(archive.port) as peer:
        peer.associate()
        peer.send(pdu(RELEASE_RQ, bytes(4)) + echo_rq())
        assert peer.receive()[0] in (RELEASE_RP, raw.ABORT)
    archive.ended_by()
    still_serves(archive)


# --- what we rely on ---------------------------------------------------------------------------------------------


def attributes_used() -> set[str]:
    """Return every name that pynetdicom's actions use of the service provider and its attributes."""
    tree = ast.parse(Path(inspect.getsourcefile(fsm) or "").read_text())
    actions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    assert len(actions) == 28, "pynetdicom has other actions than those this was written for"
    return {node.attr for action in actions for node in ast.walk(action) if isinstance(node, ast.Attribute)}


def test_the_provider_has_the_private_names_that_actions_of_pynetdicom_use() -> None:
    """A new release of pynetdicom that uses others fails here."""
    assert {name for name in attributes_used() if name.startswith("_")} == set(upper_layer.PRIVATE_NAMES)


def test_only_the_upper_layer_uses_private_names_of_pynetdicom() -> None:
    """No import of an underscore name or a private module from pynetdicom."""
    for path in Path(upper_layer.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pynetdicom"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [name for name in names if name.startswith("_")], path


def test_the_state_machine_finds_all_attributes() -> None:
    """Every event in every state that has an action for it runs without a missing attribute."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for event, state in fsm.TRANSITION_TABLE:
            connection = socket.create_connection(listener.getsockname())
            layer = upper_layer.UpperLayer(connection, is_requestor=True, artim=1.0, max_pdu=16384)
            layer._machine.transition(state)
            layer._provider.set_received(ReceivedPDU(released()))
            layer._provider.to_provider_queue.put(primitive_for(event))
            layer._machine.do_action(event)
            layer.wire.close()


def released() -> object:
    """Return a primitive for a PDU; any will do."""
    from pynetdicom.pdu_primitives import A_RELEASE

    return A_RELEASE()


def primitive_for(event: str) -> object:
    """Return the primitive of the service user for `event`."""
    from pynetdicom.pdu_primitives import A_ABORT, A_RELEASE, P_DATA
    from pynetdicom.transport import T_CONNECT

    from pacs.dimse.upper.rejections import LOCAL_LIMIT_EXCEEDED, rejecting
    from pacs.dimse.upper.user_information import propose

    proposal = propose("A", "B", [(VERIFICATION, [raw.IMPLICIT])], roles={}, extended={}, max_pdu=16384)
    abort = A_ABORT()
    abort.abort_source = 0
    asked = {
        "Evt1": proposal,
        "Evt2": T_CONNECT(proposal),
        "Evt7": proposal,
        "Evt8": rejecting(LOCAL_LIMIT_EXCEEDED),
        "Evt9": P_DATA(),
        "Evt11": A_RELEASE(),
        "Evt14": A_RELEASE(),
    }
    return asked.get(event, abort)
