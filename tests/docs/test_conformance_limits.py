"""Checks the limits in section 2.2 of the conformance statement, each on a server with a small limit."""

import os
import socket
import struct
import threading
import time
import zlib

import pytest

from pacs.errors import NotSupported, UndecodablePixelData
from pacs.observability.events import AssociationEnded
from pacs.pixels.frame_job import FrameJob
from pacs.pixels.image_pixel import ImagePixel
from pacs.testing import serving, study
from tests import raw
from tests.archives import identifier, take_in
from tests.decoders import decoders as decoder_processes
from tests.docs.requests import (
    CT,
    FIND,
    MOVE,
    VERIFICATION,
    Requestor,
    answered,
    counts,
    destination,
    ended,
    model,
    role,
    store,
    store_command,
    triplet,
)
from tests.docs.statement import covers, rows
from tests.leftovers import collect_quietly
from tests.raw import EXPLICIT, IMPLICIT, Raw

DEFLATED, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"

# --- 2.2 Limits --------------------------------------------------------------------------------------------------


def associations(serve):
    """One above the limit is rejected."""
    archive = serve(1)
    with Raw(archive.port) as first:
        first.associate((1, VERIFICATION, [IMPLICIT]))
        assert triplet(archive.port) == "2/3/2"


def associations_per_address(serve):
    """The same from one address."""
    associations(serve)


def associations_per_ae(serve):
    """The same for one AE title; another one is accepted."""
    archive = serve(1)
    with Raw(archive.port) as first, Raw(archive.port) as other:
        first.associate((1, VERIFICATION, [IMPLICIT]))
        assert triplet(archive.port) == "2/3/2"
        other.associate((1, VERIFICATION, [IMPLICIT]), calling="OTHER")


def pdu_size(serve):
    """It is announced, and a much longer PDU is aborted."""
    archive = serve(4096)
    assert dict(answered(archive.port))[0x51] == struct.pack(">L", 4096)
    with Raw(archive.port) as client:
        client.associate((1, CT, [EXPLICIT]))
        client.send(raw.pdu(0x04, bytes(4096 + 4097)))
        assert ended(client)


def negotiation_seconds(serve):
    """After half a request the connection is closed."""
    with Raw(serve(0.2).port) as client:
        client.send(raw.associate_rq([(1, VERIFICATION, [IMPLICIT])])[:50])
        ended(client)


def idle_seconds(serve):
    """An association without a request is aborted."""
    with Raw(serve(0.2).port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        assert ended(client)


def message_seconds(serve):
    """An incomplete command set is aborted."""
    with Raw(serve(0.2).port) as client:
        client.associate((1, CT, [EXPLICIT]))
        client.send(raw.pdv(1, b"\0\0\0\0", command=True, last=False))
        assert ended(client)


def least_rate(serve):
    """A message that is sent too slowly is aborted."""
    with Raw(serve(1000, **{"limits.message_seconds": 0.5}).port) as client:
        client.associate((1, CT, [EXPLICIT]))
        client.send(store_command(CT))
        with pytest.raises(OSError):  # noqa: PT011 - reset, or broken pipe
            for _ in range(400):
                client.send(raw.pdv(1, b"\0\0", command=False, last=False))
                time.sleep(0.05)


def write_seconds(serve):
    """A peer never reads 16 MiB, which is more than the socket buffers."""
    archive = serve(0.3)
    big = study(series=1, instances=1)[0]
    big.PixelData = bytes(16 << 20)
    take_in(archive, [big])
    over = threading.Event()
    how = []

    def note(event):
        if isinstance(event, AssociationEnded):
            how.append(event.how)
            over.set()

    archive.events.subscribe(note)
    get = model("Study Root", "GET")
    with Raw(archive.port) as client:
        client.associate((1, get, [IMPLICIT]), (3, CT, [EXPLICIT]), extra=role(CT, 1, 1))
        client.send(raw.request(raw.C_GET, 1, get, 1, identifier("STUDY", StudyInstanceUID=big.StudyInstanceUID)))
        assert over.wait(20)
    assert how == ["timeout"]


def connect_seconds(serve):
    """The backlog of a listener is full."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        row = {"ae_title": "FULL", "host": "127.0.0.1", "port": full.getsockname()[1]}
        archive = serve(0.2, peers=[row])
        take_in(archive, study(series=1, instances=1))
        with Requestor(archive.port) as requestor:
            assert requestor.move("FULL", "STUDY", AccessionNumber="A1")[-1].status == 0xA702


def drain_seconds(serve):
    """An association that continues while the server stops is aborted."""
    archive = serve(0.2)
    with Raw(archive.port) as client:
        client.associate((1, VERIFICATION, [IMPLICIT]))
        threading.Thread(target=archive.drain).start()
        assert ended(client)


def cancel_grace(serve):
    """A destination never responds."""
    begun, done = threading.Event(), threading.Event()

    def hang(_event):
        begun.set()
        done.wait(20)
        return 0x0000

    with destination("SLOW", hang) as slow:
        archive = serve(0.1, peers=[slow])
        take_in(archive, study(series=1, instances=2))
        with Raw(archive.port) as client:
            client.associate((1, MOVE, [IMPLICIT]))
            extra = [raw.element(0x0600, b"SLOW")]
            client.send(raw.request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", AccessionNumber="A1"), extra))
            assert begun.wait(20)
            client.send(raw.cancel(1, 1))
            final = client.until_final()[-1]
        done.set()
    collect_quietly()
    assert (final.status, counts(final)) == (0xFE00, (1, 0, 1, 0))


def identifier_size(serve):
    """A longer list of UIDs is refused."""
    archive = serve(4096)
    with Requestor(archive.port) as requestor:
        assert requestor.status("STUDY", StudyInstanceUID=["1.2.3"] * 500) == 0x0000
        assert requestor.status("STUDY", StudyInstanceUID=["1.2.3"] * 1000) == 0xA700


def identifier_elements(serve):
    """With elements of a private group, or items of a sequence."""
    most = 100
    archive = serve(most)
    for more in (0, 1):
        private = b"".join(struct.pack("<HHL", 0x0009, 0x1000 + each, 0) for each in range(most - 1 + more))
        assert asked(archive, identifier("STUDY") + private) == (0xC000 if more else 0x0000)
        items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * ((most - 3) // 2 + more)
        sequence = struct.pack("<HHL", 0x0008, 0x1032, len(items)) + items
        assert asked(archive, identifier("STUDY") + sequence) == (0xC000 if more else 0xA900)


def elements(serve):
    """A data set with one private element too many is refused."""
    archive = serve(100)
    for count, status in ((10, 0x0000), (100, 0xC000)):
        (made,) = study(series=1, instances=1, number=count)
        block = made.private_block(0x0009, "MANY", create=True)
        for each in range(count):
            block.add_new(each, "UN", b"")
        assert store(archive.port, made).status == status


def inflated_size(serve):
    """A deflated data set with 8 kB of zeros is refused."""
    archive = serve(4096)
    for size, status in ((16, 0x0000), (4096, 0xC000)):
        (made,) = study(series=1, instances=1, number=size)
        made.PixelData = bytes(size)
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(raw.encoded(made, EXPLICIT)) + deflate.flush()
        assert store(archive.port, data, syntax=DEFLATED, instance=made.SOPInstanceUID).status == status


def free_space(serve):
    """No disk has that much free space."""
    assert store(serve(1 << 50).port, study(series=1, instances=1)[0]).status == 0xA700


def decoders(serve):
    """Four frames at once are decoded by one process."""
    archive, others = serve(1), set(decoder_processes(os.getpid()))
    pixel = ImagePixel(4, 4, 1, "MONOCHROME2", 0, 8, 8, 7, 0)
    futures = [archive.decoders.submit(FrameJob(b"damaged", JPEG, pixel, EXPLICIT, pixel)) for _ in range(4)]
    assert [type(each.exception(60)) for each in futures] == [UndecodablePixelData] * 4
    assert len(set(decoder_processes(os.getpid())) - others) == 1


def query_answers(serve):
    """One match above the limit ends with A700; as many as the limit end with 0000."""
    archive = serve(1)
    take_in(archive, study(series=1, instances=2))
    with Requestor(archive.port) as requestor:
        assert [each.status for each in requestor.find("IMAGE", SOPInstanceUID="")] == [0xFF00, 0xA700]
        assert [each.status for each in requestor.find("STUDY", StudyInstanceUID="")] == [0xFF00, 0x0000]


def query_scan(serve):
    """Two rows would have to be matched row by row."""
    archive = serve(1)
    for number in (1, 2):
        take_in(archive, study(series=1, instances=1, number=number, PatientComments="none"))
    with Requestor(archive.port) as requestor:
        assert requestor.find("STUDY", StudyComments="x")[-1].status == 0xA700
        assert len(requestor.found("STUDY", StudyDescription="CT*")) == 2


def retrieve_studies(serve):
    """Two studies selected by name are refused, but not by Patient ID."""
    archive = serve(1)
    for number in (1, 2):
        take_in(archive, study(series=1, instances=1, number=number))
    with Requestor(archive.port) as requestor:
        assert requestor.get("STUDY", PatientName="DOE^JOHN")[-1].status == 0xA900
        assert requestor.get("PATIENT", "Patient Root", PatientID="P1")[-1].status == 0xA702


def pending_every(serve):
    """A Pending response follows every second sub-operation."""
    with destination("TAKER") as taker:
        archive = serve(2, peers=[taker])
        take_in(archive, study(series=1, instances=5))
        with Requestor(archive.port) as requestor:
            remaining = [counts(each)[0] for each in requestor.move("TAKER", "STUDY", AccessionNumber="A1")]
    assert remaining == [3, 1, None]


def pending_seconds(serve):
    """A Pending response is sent before the first sub-operation ends."""
    with destination("SLOW", lambda _event: time.sleep(0.5) or 0) as slow:
        archive = serve(0.1, peers=[slow])
        take_in(archive, study(series=1, instances=1))
        with Requestor(archive.port) as requestor:
            remaining = [counts(each)[0] for each in requestor.move("SLOW", "STUDY", AccessionNumber="A1")]
    assert remaining[:2] == [1, 1]


LIMITS = (
    associations, associations_per_address, associations_per_ae, pdu_size, negotiation_seconds, idle_seconds,
    message_seconds, least_rate, write_seconds, connect_seconds, drain_seconds, cancel_grace, identifier_size,
    identifier_elements, elements, inflated_size, free_space, decoders, query_answers, query_scan,
    retrieve_studies, pending_every, pending_seconds,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see collect_quietly
@covers(
    "A peer that exceeds another time limit",
    "Keys other than unique keys select at most `limits.retrieve_studies` studies",
    "the running ones have `limits.cancel_grace` seconds",
    "A Pending response follows `limits.pending_every` sub-operations or `limits.pending_seconds`",
)
@pytest.mark.parametrize("row", rows("2.2 Associations", "limit"), ids=lambda row: row[0])
def test_every_limit_acts(tmp_path, row):
    """A server with a small limit does what the table says."""
    started = []

    def serve(value, **settings):
        context = serving(tmp_path / str(len(started)), {row[0]: value} | settings)
        started.append(context)
        return context.__enter__()

    try:
        {f"limits.{each.__name__}": each for each in LIMITS}[row[0]](serve)
    finally:
        for context in started:
            context.__exit__(None, None, None)


def an_associate_pdu(archive, size):
    """One byte more is refused after the header."""
    with Raw(archive.port) as client:
        client.send(struct.pack(">BxL", 0x01, size + 1))
        assert ended(client)


def p_data(archive, slack):
    """A PDU with the slack is accepted, one byte more is not."""
    longest = archive.config.limits.pdu_size + slack
    for length, answer in ((longest, 0x04), (longest + 1, 0x07)):
        with Raw(archive.port) as client:
            client.associate((1, CT, [EXPLICIT]))
            client.send(store_command(CT), raw.pdv(1, bytes(length - 6), command=False))
            assert client.pdu()[0] == answer


def connections(archive, most):
    """One more closes the oldest."""
    waiting = [socket.create_connection(("127.0.0.1", archive.port), 20) for _ in range(most + 1)]
    try:
        assert waiting[0].recv(100) == b""
        waiting[1].setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting[1].recv(1)
    finally:
        for each in waiting:
            each.close()


def asked(archive, data):
    """Return the status of the first response to a C-FIND with this Identifier."""
    with Requestor(archive.port) as requestor:
        return requestor.ask(raw.C_FIND, FIND, data)[0].status


def an_identifier(archive, size):
    """One byte more is refused."""
    begun = identifier("STUDY", PatientID="NOBODY")
    for more, status in ((0, 0x0000), (2, 0xC000)):
        length = size - len(begun) - 8 + more
        filler = struct.pack("<HHL", 0x0040, 0xA160, length) + b" " * length
        assert asked(archive, begun + filler) == status


def a_frame(archive, most):
    """At the limit it is given to a decoder, which finds no JPEG in it; above it is refused before."""
    for columns, error in ((most // 256, UndecodablePixelData), (most // 256 + 1, NotSupported)):
        pixel = ImagePixel(256, columns, 1, "MONOCHROME2", 0, 8, 8, 7, 0)
        with pytest.raises(error):
            archive.decoders.submit(FrameJob(b"damaged", JPEG, pixel, EXPLICIT, pixel)).result(60)


FIXED = {
    "an A-ASSOCIATE-RQ or -AC": an_associate_pdu,
    "a P-DATA-TF PDU beyond `limits.pdu_size`": p_data,
    "connections without an association": connections,
    "an Identifier, whatever is configured": an_identifier,
    "a frame that is decoded or encoded": a_frame,
}
UNTESTED_LIMITS = {
    "time for a requestor to close its connection at the end (ARTIM)": "tests/dimse has a shorter one, this takes 5 s"
}


@covers("A connection without an association request is closed after a time limit, and occupies no association slot")
@pytest.mark.parametrize("row", rows("2.2 Associations", "fixed limit"), ids=lambda row: row[0])
def test_every_fixed_limit_acts(generous, row):
    """A value at the limit is accepted, one above it is not."""
    if row[0] not in UNTESTED_LIMITS:
        FIXED[row[0]](generous, int(row[1].removesuffix(" bytes").replace(",", "")))


@pytest.fixture(scope="module")
def generous(tmp_path_factory):
    """A server with configured limits above the fixed ones, and slots for three associations."""
    settings = {"limits.identifier_size": 1 << 25, "limits.associations": 3}
    with serving(tmp_path_factory.mktemp("generous"), settings) as running:
        yield running
