"""Checks sections 3.4 and 3.5 of the conformance statement (retrieve, C-CANCEL) on running servers."""

import re
import socket
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from pynetdicom.presentation import AllStoragePresentationContexts
from sqlalchemy import text

from pacs.dimse.association import establishment
from pacs.testing import serving, storing, study, write
from tests import raw
from tests.archives import identifier, take_in
from tests.dimse.test_replaced import compressed
from tests.docs.requests import (
    COMMENT,
    CT,
    ELEMENT,
    GET,
    MOVE,
    MR,
    ROOTS,
    Requestor,
    counts,
    destination,
    model,
    role,
)
from tests.docs.statement import covers, rows, sentences
from tests.leftovers import collect_quietly
from tests.pixels.converting import converted
from tests.programs import free_port, run
from tests.raw import EXPLICIT, IMPLICIT, Raw, Response

DEFLATED, BIG, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"
RLE, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom leaves the socket of an association that was aborted to the garbage collector."""

DATASETS = study(series=2, instances=2)
STUDY = DATASETS[0].StudyInstanceUID
SERIES = DATASETS[0].SeriesInstanceUID
UIDS = [each.SOPInstanceUID for each in DATASETS]
CONVERSIONS = {uid: able for _, uid, *able in rows("Sub-operations", "pixel data in")}


class Taker:
    """A move destination: received instances, statuses by SOP Instance UID, and `hang`, which delays responses."""

    def __init__(self) -> None:
        self.events: list = []
        self.answers: dict[str, int] = {}
        self.begun, self.hang = threading.Event(), threading.Event()
        self.hang.set()

    def __call__(self, event) -> int:
        """Respond to a C-STORE."""
        self.events.append(event)
        self.begun.set()
        assert self.hang.wait(30)
        return self.answers.get(event.request.AffectedSOPInstanceUID, 0x0000)

    @property
    def taken(self) -> list[str]:
        """The received SOP Instance UIDs, in order."""
        return [each.request.AffectedSOPInstanceUID for each in self.events]


@pytest.fixture(scope="module")
def server_and_taker(tmp_path_factory):
    """A server with a study of four images, its destinations TAKER and REFUSING, and itself as SELF."""
    taker = Taker()
    with ExitStack() as stack:
        row = stack.enter_context(destination("TAKER", taker))
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        peers = [row, {"ae_title": "REFUSING", "host": "127.0.0.1", "port": nobody.getsockname()[1]}]
        settings = {"peers": peers, "limits.cancel_grace": 1, "limits.retrieve_studies": 1}
        archive = stack.enter_context(serving(tmp_path_factory.mktemp("retrieve"), settings))
        take_in(archive, DATASETS)
        take_in(archive, [each for number in (2, 3) for each in study(series=1, instances=1, number=number)])
        yield archive, taker


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left():
    """Collect the garbage of pynetdicom within this module."""
    yield
    collect_quietly()


@pytest.fixture
def archive(server_and_taker):
    """The server."""
    return server_and_taker[0]


@pytest.fixture
def taker(server_and_taker):
    """The destination, which responds with 0000 at the start of a test."""
    server_and_taker[1].__init__()
    return server_and_taker[1]


@pytest.fixture
def requestor(archive):
    """An association for requests."""
    with Requestor(archive.port) as made:
        yield made


# --- what is retrieved -------------------------------------------------------------------------------------------


@covers("Conformant to PS3.4 Annex C as SCP of C-MOVE and C-GET, and to Annex B as SCU", "The unique keys select")
@pytest.mark.parametrize(
    ("level", "keys", "number"),
    [
        ("PATIENT", {"PatientID": "P1"}, 6),
        ("STUDY", {"PatientID": "P1", "StudyInstanceUID": STUDY}, 4),
        ("STUDY", {"PatientID": "P1", "StudyInstanceUID": [STUDY, "1.2.3"]}, 4),
        ("SERIES", {"PatientID": "P1", "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}, 2),
        ("IMAGE", {"PatientID": "P1", "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES,
                   "SOPInstanceUID": UIDS[:2]}, 2),
        ("STUDY", {"PatientID": "OTHER", "StudyInstanceUID": STUDY}, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("root", ROOTS)
def test_unique_keys_select(archive, taker, requestor, root, level, keys, number):
    """In every model with the level, for C-MOVE and C-GET."""
    known = level in {"Patient Root": "PATIENT STUDY SERIES IMAGE", "Study Root": "STUDY SERIES IMAGE",
                      "Patient/Study Only": "PATIENT STUDY"}[root].split()  # fmt: skip
    final = requestor.move("TAKER", level, root, **keys)[-1]
    assert (final.status, counts(final)) == ((0x0000, (None, number, 0, 0)) if known else (0xA900, (None,) * 4))
    final = requestor.get(level, root, **keys)[-1]
    status = 0xA702 if number else 0x0000
    assert (final.status, counts(final)) == ((status, (None, 0, number, 0)) if known else (0xA900, (None,) * 4))


@covers(
    "The strict matching mode requires the key of the level",
    "In the tolerant matching mode the unique keys above may be missing",
    "Wild cards, and unsupported keys with a value, are refused with A900",
    "An instance without a value for a key is not retrieved",
)
@pytest.mark.parametrize(
    ("level", "keys", "tolerant", "strict"),
    [
        ("SERIES", {"SeriesInstanceUID": SERIES}, 0x0000, 0xA900),
        ("SERIES", {"SeriesInstanceUID": SERIES, "StudyInstanceUID": STUDY}, 0x0000, 0x0000),
        ("SERIES", {"StudyInstanceUID": STUDY}, 0xA900, 0xA900),
        ("SERIES", {"StudyInstanceUID": STUDY, "Modality": "CT"}, 0x0000, 0xA900),
        ("STUDY", {"AccessionNumber": "A1"}, 0x0000, 0xA900),
        ("STUDY", {"AccessionNumber": "A1", "StudyInstanceUID": STUDY}, 0x0000, 0xA900),
        ("STUDY", {"AccessionNumber": "A1", "StudyInstanceUID": ""}, 0x0000, 0xA900),
        ("SERIES", {"StudyInstanceUID": STUDY, "SeriesInstanceUID": ""}, 0xA900, 0xA900),
        ("STUDY", {"AccessionNumber": "", "StudyInstanceUID": ""}, 0xA900, 0xA900),
        ("STUDY", {"StudyDate": "20260101-20260102"}, 0xA900, 0xA900),
        ("STUDY", {"StudyInstanceUID": ""}, 0xA900, 0xA900),
        ("STUDY", {"PatientName": "DOE*"}, 0xA900, 0xA900),
        ("STUDY", {"StudyInstanceUID": STUDY, "WindowCenter": "1"}, 0xA900, 0xA900),
        ("STUDY", {"AccessionNumber": "A1", "StudyComments": "unknown"}, 0x0000, 0xA900),
    ],
)
def test_which_other_keys_select(archive, strictly, level, keys, tolerant, strict):
    """An accepted key selects exactly its instances, others are refused."""
    for port, expected in ((archive.port, tolerant), (strictly.port, strict)):
        with Requestor(port) as requestor:
            final = requestor.get(level, **keys)[-1]
        empty = "StudyComments" in keys
        status = 0xA702 if expected == 0x0000 and not empty else expected
        assert final.status == status, final.text(COMMENT)
        if status == 0xA702:
            assert counts(final)[2] == (2 if "SeriesInstanceUID" in keys else 4)


@pytest.fixture(scope="module")
def strictly(tmp_path_factory):
    """A strict server with the same study."""
    with serving(tmp_path_factory.mktemp("strict"), {"query.manner": "strict"}) as running:
        take_in(running, DATASETS)
        yield running


@covers("If nothing is found, the status is 0000 with counts of zero")
def test_nothing_found(taker, requestor):
    """Without a failed list or a sub-operation."""
    for response in (
        requestor.move("TAKER", "STUDY", StudyInstanceUID="1.2.3"),
        requestor.get("STUDY", StudyInstanceUID="1.2"),
    ):
        assert [(each.status, counts(each), each.data) for each in response] == [(0x0000, (None, 0, 0, 0), None)]
    assert taker.taken == []


# --- destinations ------------------------------------------------------------------------------------------------


@covers("A move destination is an AE title of the table of peers", "The destination is checked first")
@pytest.mark.parametrize(
    ("title", "status"), [("TAKER", 0), (" TAKER ", 0), ("taker", 0xA801), ("PACS", 0xA801), ("", 0xA801)]
)
def test_known_and_unknown_destinations(taker, requestor, title, status):
    """Surrounding spaces are ignored, case is not; an unknown one is refused whatever the Identifier."""
    assert requestor.move(title, "STUDY", StudyInstanceUID=STUDY)[-1].status == status
    if status:
        assert requestor.move(title, "NONE")[-1].status == status
        assert requestor.ask(raw.C_MOVE, MOVE, b"\xff" * 9, [raw.element(0x0600, title.encode())])[-1].status == status


@covers("The destination may be the requestor, or this server itself", "The table of peers is empty")
def test_the_requestor_and_the_server_itself_as_destinations(tmp_path):
    """DCMTK's movescu moves to itself; a move to the server finds everything stored already."""
    ours, theirs = free_port(), free_port()
    named = (("PACS", ours), ("HOME", theirs))
    rows_of_peers = [{"ae_title": name, "host": "127.0.0.1", "port": port} for name, port in named]
    with serving(tmp_path / "pacs", {"peers": rows_of_peers, "server.port": ours}) as archive:
        take_in(archive, DATASETS)
        with Requestor(archive.port) as requestor:
            final = requestor.move("PACS", "STUDY", StudyInstanceUID=STUDY)[-1]
        assert (final.status, counts(final)) == (0x0000, (None, 4, 0, 0))
        (tmp_path / "home").mkdir()
        selection = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
        run("movescu", "-S", "-aet", "HOME", "-aec", "PACS", "+P", theirs, "-od", tmp_path / "home", *selection,
            "127.0.0.1", archive.port)  # fmt: skip
    assert len(list((tmp_path / "home").iterdir())) == 4


@covers("The requestor may begin to listen up to")
@pytest.mark.parametrize(("calling", "status"), [("LATE", 0x0000), ("ASKER", 0xA702)])
def test_a_requestor_that_is_its_own_destination_may_listen_late(tmp_path, monkeypatch, calling, status):
    """It listens after the first connection was refused. The destination of another requestor has no such time."""
    late = {"ae_title": "LATE", "host": "127.0.0.1", "port": free_port()}
    with serving(tmp_path, {"peers": [late]}) as archive, ExitStack() as stack:
        take_in(archive, DATASETS)

        def listen(_seconds: float) -> None:
            stack.enter_context(storing("LATE", port=late["port"]))

        monkeypatch.setattr(establishment, "time", SimpleNamespace(monotonic=time.monotonic, sleep=listen))
        with Requestor(archive.port, calling=calling) as requestor:
            assert requestor.move("LATE", "STUDY", StudyInstanceUID=STUDY)[-1].status == status


# --- sub-operations ----------------------------------------------------------------------------------------------


@covers(
    "A C-MOVE sends the instances on associations of its own",
    "A C-STORE request carries the priority of the retrieve",
    "It requests associations only to send the instances of a C-MOVE",
)
@pytest.mark.parametrize("priority", [0, 1, 2])
def test_the_fields_of_a_store_request(archive, taker, priority):
    """Priority, Move Originator and Message ID, with the AE title of the server."""
    data = identifier("STUDY", StudyInstanceUID=STUDY)
    with Raw(archive.port) as client:
        client.associate((1, MOVE, [IMPLICIT]), calling="ASKER")
        sent = raw.request(raw.C_MOVE, 1, MOVE, 4711, data, [raw.element(0x0600, b"TAKER ")])
        client.send(sent.replace(raw.us(0x0700, 0), raw.us(0x0700, priority)))
        assert client.until_final()[-1].status == 0x0000
    for event in taker.events:
        asked = event.request
        assert (asked.MoveOriginatorApplicationEntityTitle, asked.MoveOriginatorMessageID) == ("ASKER", 4711)
        assert (asked.Priority, event.assoc.requestor.ae_title) == (priority, "PACS")


@covers(
    "Only contexts for the selected instances are proposed",
    "An instance is sent unchanged if its transfer syntax was accepted",
    "Otherwise it is converted, into the first of these that was accepted",
)
@pytest.mark.parametrize(
    ("stored", "accepted", "arrives"),
    [
        *((native, [native], native) for native in (EXPLICIT, IMPLICIT, BIG, DEFLATED)),
        *((EXPLICIT, [other], other) for other in (IMPLICIT, BIG, DEFLATED)),
        *((other, [EXPLICIT], EXPLICIT) for other in (IMPLICIT, BIG, DEFLATED)),
        (DEFLATED, [EXPLICIT, IMPLICIT, DEFLATED], DEFLATED),
        (EXPLICIT, [JPEG], None),
        (JPEG, [JPEG, EXPLICIT], JPEG),
        (JPEG, [EXPLICIT, IMPLICIT], None),  # the frame of this image is none
        (RLE, [EXPLICIT, IMPLICIT], EXPLICIT),
        (RLE, [IMPLICIT], IMPLICIT),
        (RLE, [RLE, EXPLICIT], RLE),
        (RLE, [BIG, DEFLATED], None),
    ],
)
def test_how_an_instance_is_sent(tmp_path, stored, accepted, arrives):
    """Unchanged, converted, or not at all; only these transfer syntaxes are proposed."""
    taker = Taker()
    native = [EXPLICIT, IMPLICIT, BIG, DEFLATED]
    (made,) = study(series=1, instances=1, transfer_syntax=stored)
    with destination("TAKER", taker, accepted) as row, serving(tmp_path / "pacs", {"peers": [row]}) as archive:
        write([made], tmp_path / "in")
        archive.storage.import_file(next((tmp_path / "in").iterdir()))
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=made.StudyInstanceUID)[-1]
    assert final.status == (0xA702 if arrives is None else 0x0000)
    assert [each.context.transfer_syntax for each in taker.events] == ([arrives] if arrives else [])
    for event in taker.events:
        assert event.dataset.SOPInstanceUID == made.SOPInstanceUID
        offered = [sorted(each.transfer_syntax) for each in event.assoc.requestor.requested_contexts]
        others = native if stored in native else [EXPLICIT, IMPLICIT]
        assert offered == [[stored], sorted(each for each in others if each != stored)]
        assert {each.abstract_syntax for each in event.assoc.requestor.requested_contexts} == {made.SOPClassUID}


@covers(
    "Pixel data is decoded and encoded in these transfer syntaxes",
    "If its pixel data does not fit one of them, the next is used",
)
def test_what_is_converted(tmp_path):
    """Native images, one of which only RLE can hold, go into each encoded transfer syntax and come back."""
    made = study(series=1, instances=2, size=16)
    made[0].PixelData = made[0].PixelData[:-2] + b"\xff\xff"  # more than its 12 bits stored
    for encoded in (uid for uid, (_, is_encoded) in CONVERSIONS.items() if is_encoded == "yes"):
        taker = Taker()
        folder = tmp_path / encoded
        with (
            destination("TAKER", taker, [encoded, RLE]) as row,
            serving(folder, {"peers": [row | {"send_as": [encoded, RLE]}]}) as archive,
        ):
            take_in(archive, made)
            with Requestor(archive.port) as requestor:
                assert requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1].status == 0x0000
        assert {each.context.transfer_syntax for each in taker.events} == {encoded, RLE}
        assert CONVERSIONS[encoded] == ["yes", "yes"]
        for event in taker.events:
            data, sent_in = event.request.DataSet.getvalue(), event.context.transfer_syntax
            original = next(each for each in made if each.SOPInstanceUID == event.request.AffectedSOPInstanceUID)
            assert converted(data, sent_in, EXPLICIT) == raw.encoded(original, EXPLICIT)


@covers(
    "An instance that cannot be converted fails alone",
    "For a C-GET an instance is converted as a whole before its first byte is sent",
)
def test_copies_of_a_c_get(tmp_path):
    """An RGB image in JPEG 2000 is YBR_RCT, and its copy RGB again; one whose pixel data is damaged fails alone."""
    image, damaged = study(series=1, instances=2, size=16)
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelData = 8, 8, 7, bytes(range(256)) * 3
    packed = converted(raw.encoded(image, EXPLICIT), EXPLICIT, JPEG_2000)
    assert b"YBR_RCT" in packed
    with serving(tmp_path) as archive:
        for dataset, data in ((image, packed), (damaged, converted(raw.encoded(damaged, EXPLICIT), EXPLICIT, RLE))):
            with archive.storage.receive(CT, dataset.SOPInstanceUID, JPEG_2000, "TEST") as reception:
                reception.write(data)
                reception.finish()
        with Raw(archive.port) as client:
            client.associate((1, GET, [IMPLICIT]), (3, CT, [EXPLICIT]), extra=role(CT, 0, 1))
            client.send(raw.request(raw.C_GET, 1, GET, 1, identifier("STUDY", StudyInstanceUID=STUDY)))
            responses = []
            while not responses or responses[-1].number(0x0900) != 0xB000:
                responses.append(client.message())
                if responses[-1].number(0x0100) == raw.C_STORE:
                    client.send(raw.success(3, responses[-1].elements))
    (sent,) = [each for each in responses if each.number(0x0100) == raw.C_STORE]
    assert sent.data == converted(packed, JPEG_2000, EXPLICIT)
    assert b"RGB" in sent.data
    assert sent.data.endswith(bytes(range(256)) * 3)
    assert counts(responses[-1]) == (None, 1, 1, 0)
    assert "JPEG 2000" in responses[-1].text(COMMENT)


@covers("For a C-MOVE an image that turns out damaged while it is sent costs the association")
def test_a_damaged_image_of_a_c_move(tmp_path):
    """Its last frame: the other image arrives on another association."""
    made, taker = study(series=1, instances=2, size=64), Taker()
    for each in made:
        each.NumberOfFrames, each.PixelData = 40, each.PixelData * 40
    broken, whole = (converted(raw.encoded(each, EXPLICIT), EXPLICIT, RLE) for each in made)
    frame = broken.rindex(b"\xfe\xff\x00\xe0") + 8
    broken = broken[:frame] + b"\x0f" + broken[frame + 1 :]  # it says that it has 15 segments
    with destination("TAKER", taker, [EXPLICIT]) as row, serving(tmp_path, {"peers": [row]}) as archive:
        for dataset, data in zip(made, (broken, whole), strict=True):
            with archive.storage.receive(CT, dataset.SOPInstanceUID, RLE, "TEST") as reception:
                reception.write(data)
                reception.finish()
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]
    assert counts(final) == (None, 1, 1, 0)
    assert taker.taken == [made[1].SOPInstanceUID]


@covers("More than 128 contexts are proposed on several associations")
def test_more_contexts_than_an_association_has(tmp_path):
    """65 SOP Classes with two contexts each need two associations; everything is received."""
    listed = {row[1] for row in rows("3.2 Storage", "SOP Class")}
    classes = [each.abstract_syntax for each in AllStoragePresentationContexts if each.abstract_syntax in listed][:65]
    taker = Taker()
    with destination("TAKER", taker, classes=classes) as row, serving(tmp_path, {"peers": [row]}) as archive:
        made = study(series=1, instances=65)
        for dataset, sop_class in zip(made, classes, strict=True):
            dataset.SOPClassUID = sop_class
        take_in(archive, made)
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=made[0].StudyInstanceUID)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 65, 0, 0))
    assert len({id(each.assoc) for each in taker.events}) == 2


@covers("For a peer with `associations` in the table of peers a C-MOVE uses that many associations at once")
@pytest.mark.parametrize(("configured", "opened"), [(3, 3), (16, 4)])
def test_several_associations_to_a_destination(tmp_path, configured, opened):
    """Each has one of the four instances before the first response, and they are opened in order."""
    together = threading.Barrier(opened, timeout=20)
    events = []

    def answer(event):
        events.append(event)
        if len(events) <= opened:
            together.wait()
        return 0x0000

    with destination("TAKER", answer) as row:
        settings = {"peers": [row | {"associations": configured}]}
        with serving(tmp_path, settings) as archive, Requestor(archive.port) as requestor:
            take_in(archive, DATASETS)
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]
    assert counts(final) == (None, 4, 0, 0)
    assert len({id(each.assoc) for each in events}) == opened


@covers("With several associations, each is given up after two failures in a row")
def test_several_lost_associations(tmp_path):
    """A destination that always aborts is connected twice for each of two associations; all four fail."""
    called = []

    def answer(event):
        called.append(event.assoc)  # kept, so that no two have the same id
        event.assoc.abort()
        return 0x0000

    with destination("TAKER", answer) as row, serving(tmp_path, {"peers": [row | {"associations": 2}]}) as archive:
        take_in(archive, study(series=1, instances=9))
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]
    assert counts(final) == (None, 0, 9, 0)
    assert len(dict.fromkeys(called)) <= 4


@covers("A C-GET uses the contexts in which the requestor is SCP")
def test_a_get_sends_where_the_requestor_is_scp(archive):
    """With the role everything is received on the same association; without it everything fails."""
    selection = identifier("STUDY", StudyInstanceUID=STUDY)
    for roles, came in ((role(CT, 0, 1), 4), (b"", 0)):
        with Raw(archive.port) as client:
            client.associate((1, GET, [IMPLICIT]), (3, CT, [EXPLICIT]), extra=roles)
            client.send(raw.request(raw.C_GET, 1, GET, 1, selection))
            responses = []
            for _ in range(2 * came or 5):
                responses.append(client.message())
                if responses[-1].number(0x0100) == raw.C_STORE:
                    client.send(raw.success(3, responses[-1].elements))
            final = client.message() if came else responses[-1]
        assert [each.number(0x0100) for each in responses].count(raw.C_STORE) == came
        assert counts(final) == (None, came, 4 - came, 0)


@covers("A sub-operation is completed if its status is 0000", "It counts as warning if its status is 0107")
@covers("It has failed with any other status", "A failure does not end the other sub-operations")
def test_how_sub_operations_count(archive, taker, requestor):
    """The statuses of the table count as warning, others as failed; all instances are sent."""
    (said,) = (each for each in sentences() if each.startswith("It counts as warning"))
    for code in re.findall(r"[0-9A-F]{4}", said):
        taker.answers[UIDS[1]] = int(code, 16)
        assert counts(requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]) == (None, 3, 0, 1)
    for code in (0xA700, 0xA900, 0xC000, 0x0111, 0x0122, 0x0124, 0xB001):
        taker.answers[UIDS[1]] = code
        final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]
        assert counts(final) == (None, 3, 1, 0)
        assert final.dataset().FailedSOPInstanceUIDList == UIDS[1]


@covers("without a response in time", "if the stored file cannot be read")
def test_other_ways_to_fail(tmp_path):
    """Without a context, a file or a response: each fails alone."""
    other, gone, late, fine = study(series=1, instances=4)
    other.SOPClassUID = MR
    answered = threading.Event()

    def answer(event):
        if event.request.AffectedSOPInstanceUID == late.SOPInstanceUID:
            answered.wait(20)
        return 0x0000

    settings = {"limits.message_seconds": 0.5}
    with destination("TAKER", answer) as row, serving(tmp_path, settings | {"peers": [row]}) as archive:
        take_in(archive, [gone])
        (path,) = (tmp_path / "files").rglob("*.dcm")
        path.write_bytes(path.read_bytes()[:-9])
        take_in(archive, [other, late, fine])
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=fine.StudyInstanceUID)[-1]
        answered.set()
    assert counts(final) == (None, 1, 3, 0)
    assert set(final.dataset().FailedSOPInstanceUIDList) == {each.SOPInstanceUID for each in (other, gone, late)}


@covers("If `files.verify` is true, the digest of each instance is verified")
def test_a_changed_file_is_not_sent(tmp_path, taker):
    """It fails alone, and nothing of it is sent, neither by C-MOVE nor by C-GET."""
    first, bad, last = study(series=1, instances=3)
    with destination("TAKER", taker) as row, serving(tmp_path, {"files.verify": True, "peers": [row]}) as archive:
        take_in(archive, [bad])
        (path,) = (tmp_path / "files").rglob("*.dcm")
        path.write_bytes(path.read_bytes()[:-1] + b"X")
        take_in(archive, [first, last])
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=bad.StudyInstanceUID)[-1]
    assert (counts(final), final.dataset().FailedSOPInstanceUIDList) == ((None, 2, 1, 0), bad.SOPInstanceUID)
    assert sorted(taker.taken) == sorted((first.SOPInstanceUID, last.SOPInstanceUID))


@covers("An instance that is replaced before its turn is sent as it is stored then")
def test_instances_that_are_replaced_or_deleted_before_their_turn(tmp_path):
    """The third of four is replaced by a compressed one, the fourth is deleted, when the first has arrived."""
    replaced, arrived = study(series=2, instances=2, size=16, transfer_syntax=RLE)[2], []

    def answer(event):
        if not arrived:
            compressed(archive, [replaced])
            archive.maintenance.delete(archive.maintenance.instances({"SOPInstanceUID": UIDS[3]}))
        arrived.append(event.context.transfer_syntax)
        return 0x0000

    settings = {"storage.duplicates": "replace"}
    with (
        destination("TAKER", answer, [EXPLICIT, RLE]) as row,
        serving(tmp_path, settings | {"peers": [row]}) as archive,
    ):
        take_in(archive, DATASETS)
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]
    assert (counts(final), final.dataset().FailedSOPInstanceUIDList) == ((None, 3, 1, 0), UIDS[3])
    assert arrived == [EXPLICIT, EXPLICIT, RLE]


@covers(
    "A destination that cannot be reached, or whose association is lost, is connected again for the next instance",
    "An instance during which an association is lost that has sent others is sent once more, on a new one",
)
@pytest.mark.parametrize(("lost", "completed", "calls"), [(1, 3, 2), (2, 2, 4), (3, 0, 2)])
def test_a_lost_destination(tmp_path, lost, completed, calls):
    """Lost once, or again after a success, it is connected again; twice in a row, the rest fails.

    An instance that is lost after a success is sent on another association before it fails.
    """
    aborting = {1: UIDS[:1], 2: [UIDS[0], UIDS[2]], 3: UIDS}[lost]
    called = []

    def answer(event):
        called.append(event.assoc)  # kept, so that no two have the same id
        if event.request.AffectedSOPInstanceUID in aborting:
            event.assoc.abort()
        return 0x0000

    with destination("TAKER", answer) as row, serving(tmp_path, {"peers": [row]}) as archive:
        take_in(archive, DATASETS)
        with Requestor(archive.port) as requestor:
            final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)[-1]
    assert counts(final) == (None, completed, 4 - completed, 0)
    assert len(set(map(id, called))) == calls


def begin(client: Raw, **associate: object) -> None:
    """Send a C-MOVE of the study to TAKER, with Message ID 1."""
    client.associate((1, MOVE, [IMPLICIT]), **associate)
    data = identifier("STUDY", StudyInstanceUID=STUDY)
    client.send(raw.request(raw.C_MOVE, 1, MOVE, 1, data, [raw.element(0x0600, b"TAKER ")]))


@covers("The next sub-operation may have begun by then, and counts as remaining")
def test_a_pending_response_while_the_next_runs(tmp_path):
    """The first is reported before the second is answered: three of four remain."""
    seen, told = [], threading.Event()

    def answer(event):
        seen.append(event)
        assert len(seen) != 2 or told.wait(20)
        return 0x0000

    with destination("TAKER", answer) as row, serving(tmp_path, {"peers": [row]}) as archive:
        take_in(archive, DATASETS)
        with Raw(archive.port) as client:
            begin(client)
            first = client.message()
            told.set()
            rest = client.until_final()
            client.release()
    assert [counts(each)[0] for each in (first, *rest)] == [3, 2, 1, 0, None]


@covers("After the association of the requestor is lost, no further sub-operation begins")
def test_a_lost_requestor(archive, taker):
    """The running sub-operation is the last one; the association to the destination ends."""
    taker.hang.clear()
    with Raw(archive.port) as client:
        begin(client)
        assert taker.begun.wait(20)
    over = threading.Event()
    unsubscribe = archive.events.subscribe(
        lambda event: over.set() if type(event).__name__ == "OperationFinished" else None
    )
    taker.hang.set()
    assert over.wait(20)
    unsubscribe()
    assert len(taker.taken) == 1


# --- responses ---------------------------------------------------------------------------------------------------


@covers("Completed, failed, warning and remaining add up", "The final response contains completed, failed and warning")
def test_the_counts_of_every_response(taker, requestor):
    """The total is always four; remaining is in Pending responses only, and a failed list if one failed."""
    taker.answers.update({UIDS[0]: 0xB000, UIDS[2]: 0xC000})
    *pending, final = requestor.move("TAKER", "STUDY", StudyInstanceUID=STUDY)
    assert [counts(each)[0] for each in pending] == [3, 2, 1, 0]
    assert {sum(counts(each)) for each in pending} == {4}
    assert {each.data for each in pending} == {None}
    assert counts(final) == (None, 2, 1, 1)
    assert [each.keyword for each in final.dataset()] == ["FailedSOPInstanceUIDList"]


# --- cancel ------------------------------------------------------------------------------------------------------


@covers("A C-CANCEL takes effect from the packet of its request on", "The operation ends with FE00, after at most")
@pytest.mark.parametrize("operation", ["FIND", "MOVE", "GET"])
def test_a_cancel_in_the_packet_of_the_request(archive, taker, operation):
    """FE00, nothing is sent, and the Message ID can be used again."""
    sop_class = model("Study Root", operation)
    kind = {"FIND": raw.C_FIND, "MOVE": raw.C_MOVE, "GET": raw.C_GET}[operation]
    request = raw.request(kind, 1, sop_class, 1, identifier("STUDY", StudyInstanceUID=STUDY), [
        raw.element(0x0600, b"TAKER ")] if operation == "MOVE" else [])  # fmt: skip
    with Raw(archive.port) as client:
        client.associate((1, sop_class, [IMPLICIT]))
        client.send(request, raw.cancel(1, 1))
        responses = client.until_final()
        assert (responses[-1].status, len(responses) <= 3, taker.taken) == (0xFE00, True, [])
        client.send(request)
        assert client.until_final()[-1].status != 0xFE00


@covers("A C-MOVE or C-GET that is cancelled before they are selected has 0 as completed, failed and warning")
@pytest.mark.parametrize("operation", ["MOVE", "GET"])
def test_a_cancel_before_the_first_sub_operation(archive, operation):
    """The final response has counts of 0; remaining is absent, or counts all."""
    sop_class = model("Study Root", operation)
    kind, extra = {"MOVE": (raw.C_MOVE, [raw.element(0x0600, b"TAKER ")]), "GET": (raw.C_GET, [])}[operation]
    with Raw(archive.port) as client:
        client.associate((1, sop_class, [IMPLICIT]))
        request = raw.request(kind, 1, sop_class, 1, identifier("STUDY", StudyInstanceUID=STUDY), extra)
        client.send(request, raw.cancel(1, 1))
        (final,) = client.until_final()
    assert final.status == 0xFE00
    assert counts(final)[0] in (None, 4)
    assert counts(final)[1:] == (0, 0, 0)


@covers("No new sub-operation begins", "Remaining counts the sub-operations that had not begun")
@pytest.mark.parametrize("answers", [True, False])
def test_a_cancel_during_a_sub_operation(archive, taker, answers):
    """The running one may end within its time and fails after it; no other begins."""
    taker.hang.clear()
    with Raw(archive.port) as client:
        begin(client)
        assert taker.begun.wait(20)
        client.send(raw.cancel(1, 1))
        if answers:
            threading.Timer(0.1, taker.hang.set).start()
        final = client.until_final()[-1]
        taker.hang.set()
    assert (final.status, counts(final)) == (0xFE00, (3, 1, 0, 0) if answers else (3, 0, 1, 0))
    assert (final.data is None) == answers
    assert len(taker.taken) == 1


@covers("A C-CANCEL for any other Message ID is ignored, and the Message ID can be used again")
def test_a_cancel_for_another_message_id(archive, taker):
    """With another Message ID the operation completes, and so does the next one with that ID."""
    with Raw(archive.port) as client:
        begin(client)
        client.send(raw.cancel(1, 9))
        assert client.until_final()[-1].status == 0x0000
        client.send(raw.cancel(1, 1))
        data = identifier("STUDY", StudyInstanceUID=STUDY)
        client.send(raw.request(raw.C_MOVE, 1, MOVE, 1, data, [raw.element(0x0600, b"TAKER ")]))
        assert client.until_final()[-1].status == 0x0000
    assert len(taker.taken) == 8


# --- statuses ----------------------------------------------------------------------------------------------------


class Retrieve:
    """A C-MOVE to TAKER or a C-GET, for the tests of both status tables."""

    def __init__(self, operation: str, archive, taker: Taker) -> None:
        self.operation, self.archive, self.taker = operation, archive, taker
        self.sop_class = model("Study Root", operation)

    def ask(self, data: bytes | None = None, port: int = 0, cancel: bool = False) -> list[Response]:
        """Return all responses; C-STORE requests are answered as TAKER does."""
        data = identifier("STUDY", StudyInstanceUID=STUDY) if data is None else data
        kind = raw.C_MOVE if self.operation == "MOVE" else raw.C_GET
        extra = [raw.element(0x0600, b"TAKER ")] if self.operation == "MOVE" else []
        with Raw(port or self.archive.port) as client:
            client.associate((1, self.sop_class, [IMPLICIT]), (3, CT, [EXPLICIT]), extra=role(CT, 0, 1))
            request = raw.request(kind, 1, self.sop_class, 1, data, extra)
            client.send(request, *([raw.cancel(1, 1)] if cancel else []))
            responses = []
            while not responses or responses[-1].status == 0xFF00:
                message = client.message()
                if message.number(0x0100) == raw.C_STORE:
                    client.send(self._answer(message))
                else:
                    responses.append(message)
        return responses

    def _answer(self, asked: Response) -> bytes:
        status = self.taker.answers.get(asked.text(0x1000), 0x0000)
        return raw.success(3, asked.elements).replace(raw.us(0x0900, 0), raw.us(0x0900, status))


def cancelled(retrieve, _tmp_path):
    """Send a C-CANCEL in the packet of the request, before sub-operations are selected."""
    return retrieve.ask(cancel=True)[-1]


def warned(retrieve, _tmp_path):
    """Let some fail and some warn."""
    retrieve.taker.answers.update({UIDS[0]: 0xB000, UIDS[1]: 0xA700})
    return retrieve.ask()[-1]


def failed(retrieve, _tmp_path):
    """Let all fail."""
    retrieve.taker.answers.update(dict.fromkeys(UIDS, 0xC000))
    return retrieve.ask()[-1]


def with_row(retrieve, tmp_path, data: bytes | None = None, **settings: object):
    """Return the final response of a server with these settings, and with a table renamed if data is None."""
    with destination("TAKER") as row, serving(tmp_path, {"peers": [row], **settings}) as archive:
        take_in(archive, DATASETS[:1])
        if data is None:
            with archive.index.write() as connection:
                connection.execute(text("ALTER TABLE image RENAME TO gone"))
        return retrieve.ask(data, archive.port)[-1]


def too_long(retrieve, tmp_path):
    """Send an Identifier above the limit."""
    data = identifier("STUDY", StudyInstanceUID=["1.2.3"] * 1000)
    return with_row(retrieve, tmp_path, data, **{"limits.identifier_size": 4096})


def unknown_destination(retrieve, _tmp_path):
    """Use an unknown AE title."""
    with Requestor(retrieve.archive.port) as requestor:
        return requestor.move("NOBODY", "STUDY", StudyInstanceUID=STUDY)[-1]


def unauthorized(retrieve, tmp_path):
    """Retrieve without the right to."""
    return with_row(retrieve, tmp_path, identifier("STUDY", StudyInstanceUID=STUDY), **{"access.services": []})


PROVOKED = {
    "0124": [unauthorized],
    "0000": [lambda retrieve, _: retrieve.ask()[-1]],
    "FF00": [lambda retrieve, _: retrieve.ask()[0]],
    "FE00": [cancelled],
    "B000": [warned],
    "A702": [failed],
    "A701": [too_long, with_row],
    "A801": [unknown_destination],
    "A900": [
        lambda retrieve, _: retrieve.ask(identifier("STUDY", PatientName="DOE^JOHN"))[-1],
        lambda retrieve, _: retrieve.ask(identifier("NONE"))[-1],
    ],
    "C000": [lambda retrieve, _: retrieve.ask(b"\xff" * 20)[-1]],
}
"""The causes of each status, one for each row of the tables."""

STATUSES = [(operation, *row) for operation in ("MOVE", "GET") for row in rows(f"Statuses of C-{operation}", "status")]


@pytest.mark.parametrize(
    ("operation", "code"), sorted({(each[0], each[1]) for each in STATUSES if each[1] != "C001"}), ids=str
)
def test_every_status(archive, taker, tmp_path, operation, code):
    """Each follows from its cause, with exactly the related fields of the table."""
    told = [each[3] for each in STATUSES if each[:2] == (operation, code)]
    assert len(told) == len(PROVOKED[code])
    for place, (related, provoke) in enumerate(zip(told, PROVOKED[code], strict=True)):
        response = provoke(Retrieve(operation, archive, taker), tmp_path / str(place))
        assert f"{response.status:04X}" == code, response.text(COMMENT)
        assert (COMMENT in response.elements) == ("0902" in related)
        assert ELEMENT not in response.elements or "0901" in related
        if not related.startswith("if "):
            for number in ("1020", "1021", "1022", "1023"):
                assert (int(number, 16) in response.elements) == (number in related)
        assert (response.data is not None) == (code in ("A702", "B000"))
