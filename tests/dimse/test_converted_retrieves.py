"""C-MOVE and C-GET to peers that do not accept instances as they are stored: what is converted, and what fails alone.

The instances are encoded without loss, so that what arrives is to the byte what an uncompressed instance would be.
"""

import threading
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage

from pacs.conformance.checks.wire import role_selection
from pacs.observability.events import AssociationEnded, DestinationFailed, Notice, SubOperationFinished
from pacs.testing import serving, study
from tests import raw
from tests.archives import GET, MOVE, identifier
from tests.dimse.test_store_suboperations import STUDY_UID, Destination, counts, failed_list, move, moving
from tests.pixels.converting import converted
from tests.pixels.test_image_attributes import NOTICE, signed
from tests.programs import run, storescp
from tests.raw import IMPLICIT, Raw, cancel, request
from tests.waiting import eventually

EXPLICIT = raw.EXPLICIT
RLE, J2K, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
MPEG2, JPEG = "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.50"

# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Taker(Destination):
    """A storage SCP that also keeps the transfer syntax of what it receives."""

    def __init__(self, *syntaxes, **options):
        super().__init__(syntaxes=syntaxes, **options)
        self.received_in = {}

    def _store(self, event):
        self.received_in[event.request.AffectedSOPInstanceUID] = event.context.transfer_syntax
        return super()._store(event)


def images(count, *, frames=1, size=32):
    """Return the data sets of uncompressed images of one study, in Explicit VR, by SOP Instance UID."""
    datasets = study(series=1, instances=count, size=size)
    for number, each in enumerate(datasets):
        if frames > 1:
            each.NumberOfFrames = frames
            each.PixelData = b"".join((number + frame).to_bytes(2, "little") * size**2 for frame in range(frames))
    return {each.SOPInstanceUID: raw.encoded(each, EXPLICIT) for each in datasets}


def keep(archive, data_sets, transfer_syntax):
    """Store data sets in an archive."""
    for uid, data in data_sets.items():
        with archive.storage.receive(CTImageStorage, uid, transfer_syntax, "TEST") as reception:
            reception.write(data)
            reception.finish()


def into(data_sets, transfer_syntax, source=EXPLICIT):
    """Return data sets in another transfer syntax."""
    return {uid: converted(data, source, transfer_syntax) for uid, data in data_sets.items()}


def damaged(data, at=-100):
    """Return a data set whose last frame cannot be decoded: bytes in the middle of its codestream are missing."""
    return data[:at] + bytes(60) + data[at + 60 :]


@contextmanager
def archive_for(folder, taker, data_sets, stored=J2K, **settings):
    """Run an archive that knows `taker` as TAKER and has data sets in the transfer syntax `stored`."""
    of_peer = {key: settings.pop(key) for key in ("send_as", "associations") if key in settings}
    others = {key.replace("__", "."): each for key, each in settings.items()}
    with serving(folder, {"peers": [taker.peer(**of_peer)], **others}) as archive:
        keep(archive, into(data_sets, stored) if stored != EXPLICIT else data_sets, stored)
        yield archive


@contextmanager
def published(archive, kind):
    """Yield the events of a kind that are published in the `with` block."""
    events = []
    unsubscribe = archive.events.subscribe(lambda event: events.append(event) if isinstance(event, kind) else None)
    try:
        yield events
    finally:
        unsubscribe()


# --- C-MOVE ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "accepted", "associations"), [(J2K, EXPLICIT, 1), (RLE, IMPLICIT, 1), (J2K, IMPLICIT, 3)]
)
def test_v9_compressed_images_reach_a_destination_that_takes_only_uncompressed_ones(
    tmp_path, stored, accepted, associations
):
    """As if they had been stored so."""
    native = images(8)
    with (
        Taker(accepted) as taker,
        archive_for(tmp_path, taker, native, stored, associations=associations) as archive,
    ):
        *pendings, final = move(archive)
    assert (final.status, counts(final), final.text(0x0902)) == (0x0000, (None, 8, 0, 0), "")
    assert len(pendings) == 8
    assert taker.arrived == (native if accepted == EXPLICIT else into(native, IMPLICIT))


@pytest.mark.parametrize("stored", [J2K, RLE])
def test_v9_what_is_accepted_as_it_is_stored_arrives_to_the_byte(tmp_path, stored):
    """Nothing is decoded, whatever else the destination accepts and the configuration prefers."""
    native = images(3)
    with (
        Taker(EXPLICIT, IMPLICIT, J2K, RLE, JPEG_LS) as taker,
        archive_for(tmp_path, taker, native, stored, send_as=["jpegls"]) as archive,
    ):
        assert move(archive)[-1].status == 0x0000
    assert taker.arrived == into(native, stored)
    assert set(taker.received_in.values()) == {stored}


@pytest.mark.parametrize(
    ("stored", "send_as", "accepted", "sent"),
    [
        (J2K, ["rle"], (EXPLICIT, RLE), RLE),
        (J2K, ["JPEGLSLossless", "rle"], (EXPLICIT, RLE), RLE),
        (J2K, ["jpegls", "rle"], (EXPLICIT, RLE, JPEG_LS), JPEG_LS),
        (J2K, ["implicit"], (EXPLICIT, IMPLICIT), IMPLICIT),
        (J2K, [], (EXPLICIT, IMPLICIT, RLE), EXPLICIT),
        (J2K, ["rle"], (IMPLICIT,), IMPLICIT),
        (EXPLICIT, ["jpegls"], (IMPLICIT, JPEG_LS), JPEG_LS),
    ],
)
def test_v9_send_as_says_what_instances_are_converted_into(tmp_path, stored, send_as, accepted, sent):
    """The first that is accepted; without one, an uncompressed transfer syntax."""
    native = images(2)
    with Taker(*accepted) as taker, archive_for(tmp_path, taker, native, stored, send_as=send_as) as archive:
        assert move(archive)[-1].status == 0x0000
    assert set(taker.received_in.values()) == {sent}
    assert into(taker.arrived, EXPLICIT, sent) == native


def test_v9_values_that_a_transfer_syntax_cannot_represent_take_the_next_one(tmp_path):
    """One image has a value above Bits Stored, which only RLE keeps: it is found while its frame is encoded."""
    native = images(3)
    uid, data = next(iter(native.items()))
    native[uid] = data[:-2] + b"\xff\xff"
    with (
        Taker(JPEG_LS, RLE) as taker,
        archive_for(tmp_path, taker, native, EXPLICIT, send_as=["jpegls", "rle"]) as archive,
    ):
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 3, 0, 0))
    assert {uid: converted(data, taker.received_in[uid], EXPLICIT) for uid, data in taker.arrived.items()} == native
    assert [each for each in native if taker.received_in[each] == RLE] == [uid]


@pytest.mark.parametrize("associations", [1, 2])
def test_v9_what_cannot_be_converted_fails_alone_with_its_reason(tmp_path, associations):
    """A damaged image and a video; the log names each reason, and no event guesses at host and port."""
    native = images(6)
    broken, video, *_ = native
    with (
        Taker(EXPLICIT) as taker,
        archive_for(tmp_path, taker, dict(list(native.items())[2:]), associations=associations) as archive,
        published(archive, SubOperationFinished) as finished,
        published(archive, DestinationFailed) as unreachable,
    ):
        keep(archive, {broken: damaged(converted(native[broken], EXPLICIT, J2K))}, J2K)
        keep(archive, {video: converted(native[video], EXPLICIT, RLE)}, MPEG2)
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 4, 2, 0))
    assert set(failed_list(final)) == {broken, video}
    assert taker.arrived == {uid: data for uid, data in native.items() if uid not in (broken, video)}
    reasons = {each.transfer_syntax: each.comment for each in finished if each.status != 0x0000}
    assert reasons[MPEG2] == (
        "it does not accept MPEG2 Main Profile / Main Level; it accepts Explicit VR Little Endian"
    )
    assert "it does not accept" not in reasons[J2K]
    assert {each.sop_instance_uid for each in finished if each.status != 0x0000} == {broken, video}
    assert unreachable == []


@pytest.mark.parametrize(
    ("classes", "syntaxes", "comment"),
    [
        (["1.2.840.10008.5.1.4.1.1.4"], [EXPLICIT], "2 of 2 failed: it does not accept CT Image Storage"),
        ([CTImageStorage], [JPEG], "it does not accept JPEG 2000 Image Compression (Lossless Only)"),
    ],
)
def test_v9_the_error_comment_says_what_the_destination_does_not_accept(tmp_path, classes, syntaxes, comment):
    """It fits; the log has the rest."""
    with Taker(*syntaxes, classes=classes) as taker, archive_for(tmp_path, taker, images(2)) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final), final.text(0x0902)) == (0xA702, (None, 0, 2, 0), comment)


@pytest.mark.parametrize("associations", [1, 2])
def test_v10_an_image_that_turns_out_damaged_while_it_is_sent_fails_alone(tmp_path, associations):
    """Its last frame: the association is aborted, and the others arrive on another one."""
    native = images(3, frames=40, size=64)
    broken = next(iter(native))
    packed = into(native, RLE)
    packed[broken] = cut_in_last_frame(packed[broken])
    with Taker(EXPLICIT) as taker, archive_for(tmp_path, taker, {}, associations=associations) as archive:
        keep(archive, packed, RLE)
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 2, 1, 0))
    assert failed_list(final) == [broken]
    assert taker.arrived == {uid: data for uid, data in native.items() if uid != broken}


def cut_in_last_frame(data):
    """Return an RLE data set whose last frame says that it has 15 segments."""
    start = data.rindex(b"\xfe\xff\x00\xe0") + 8
    return data[:start] + b"\x0f" + data[start + 1 :]


# --- while a conversion runs -------------------------------------------------------------------------------------


class HeldDecoders:
    """The decoder processes of an archive, whose results are held back."""

    def __init__(self, archive):
        self.processes = archive.decoders.processes
        self.begun = threading.Event()
        self._decoders = archive.decoders
        self._gates = []

    @property
    def jobs(self):
        """How many jobs have begun."""
        return len(self._gates)

    def submit(self, job):
        """Begin a job as the pool does."""
        held: Future[bytes] = Future()
        gate = threading.Event()
        self._gates.append(gate)
        self.begun.set()

        def hand_over(done):
            gate.wait(60)
            if held.set_running_or_notify_cancel():
                held.set_result(done.result())

        submitted = self._decoders.submit(job)
        threading.Thread(target=hand_over, args=(submitted,), daemon=True).start()
        return held

    def release_first(self):
        """Give the result of the first job out."""
        self._gates[0].set()

    def release(self):
        """Give all results out, also those of later jobs."""
        self.submit = self._decoders.submit
        for gate in self._gates:
            gate.set()


@contextmanager
def holding(archive):
    """Hold back what the decoder processes return; at the end release it."""
    held = archive.retrieves.pixels._decoders = HeldDecoders(archive)
    try:
        yield held
    finally:
        held.release()


@contextmanager
def getting(archive, *contexts):
    """Yield a raw client that has requested the study by C-GET, with these transfer syntaxes for each context."""
    with Raw(archive.port) as client:
        proposed = [(2 * n + 3, CTImageStorage, list(each)) for n, each in enumerate(contexts)]
        client.associate((1, GET, [IMPLICIT]), *proposed, extra=role_selection(CTImageStorage, 0, 1))
        client.send(request(raw.C_GET, 1, GET, 1, identifier("STUDY", StudyInstanceUID=STUDY_UID)))
        yield client


def test_the_following_instances_are_converted_ahead(tmp_path):
    """While the response to the first is due: enough for all decoder processes, and no more."""
    native, waiting = images(9), threading.Event()
    with (
        Taker(EXPLICIT, answer=lambda _event: 0x0000 if waiting.wait(60) else 0xA700) as taker,
        archive_for(tmp_path, taker, native, limits__decoders=3) as archive,
        holding(archive) as held,
        moving(archive) as client,
    ):
        assert held.begun.wait(60)
        assert held.jobs == 1
        held.release_first()
        ahead = archive.retrieves.pixels.at_once
        assert 3 <= ahead < 8
        assert eventually(lambda: held.jobs == 1 + ahead, 60)
        waiting.set()
        assert client.message().status == 0xFF00
        assert held.jobs == 1 + ahead
        held.release()
        *_, final = client.until_final()
    assert (final.status, taker.arrived) == (0x0000, native)


@pytest.mark.parametrize("associations", [1, 2])
def test_v7_pending_responses_come_while_an_instance_is_converted(tmp_path, associations):
    """Every `pending_seconds`, with the counts until then."""
    native = images(2)
    with (
        Taker(EXPLICIT) as taker,
        archive_for(tmp_path, taker, native, associations=associations, limits__pending_seconds=0.2) as archive,
        holding(archive) as held,
        moving(archive) as client,
    ):
        pendings = [client.message() for _ in range(3)]
        held.release()
        *_, final = client.until_final()
    assert [(each.status, counts(each)) for each in pendings] == [(0xFF00, (2, 0, 0, 0))] * 3
    assert (final.status, counts(final)) == (0x0000, (None, 2, 0, 0))
    assert taker.arrived == native


@pytest.mark.parametrize("associations", [1, 2])
def test_x6_a_cancel_ends_a_retrieve_whose_conversion_does_not_end(tmp_path, associations):
    """After the grace of the running sub-operations, which fail; the others remain."""
    with (
        Taker(EXPLICIT) as taker,
        archive_for(tmp_path, taker, images(6), associations=associations, limits__cancel_grace=0.2) as archive,
        holding(archive) as held,
        moving(archive) as client,
    ):
        assert held.begun.wait(60)
        client.send(cancel(1, 1))
        *pendings, final = client.until_final()
    assert (pendings, final.status) == ([], 0xFE00)
    remaining, completed, failures, warning = counts(final)
    assert (remaining + failures, completed, warning) == (6, 0, 0)
    assert taker.arrived == {}


def test_x6_a_cancel_ends_a_c_get_whose_conversion_does_not_end(tmp_path):
    """The association of the requestor goes on."""
    with (
        Taker() as taker,
        archive_for(tmp_path, taker, images(3), limits__cancel_grace=0.2) as archive,
        holding(archive) as held,
        getting(archive, [EXPLICIT]) as client,
    ):
        assert held.begun.wait(60)
        client.send(cancel(1, 1))
        *_, final = client.until_final()
        assert (final.status, counts(final)) == (0xFE00, (2, 0, 1, 0))
        client.release()


@pytest.mark.parametrize("associations", [1, 2])
def test_v11_a_conversion_ends_when_the_requestor_is_gone(tmp_path, associations):
    """After the grace, and nothing is sent afterwards."""
    ended = threading.Event()
    with (
        Taker(EXPLICIT) as taker,
        archive_for(tmp_path, taker, images(6), associations=associations, limits__cancel_grace=0.2) as archive,
        holding(archive) as held,
    ):
        archive.events.subscribe(lambda event: ended.set() if isinstance(event, AssociationEnded) else None)
        with Raw(archive.port) as client:
            client.associate((1, MOVE, [IMPLICIT]))
            keys = identifier("STUDY", StudyInstanceUID=STUDY_UID)
            client.send(request(raw.C_MOVE, 1, MOVE, 1, keys, [raw.element(0x0600, b"TAKER ")]))
            assert held.begun.wait(60)
        assert ended.wait(60)
    assert taker.arrived == {}
    assert held.jobs <= 6


# --- C-GET -------------------------------------------------------------------------------------------------------


def get(archive, *contexts):
    """Return the final response to a C-GET of the study by pynetdicom, and data set and transfer syntax by UID."""
    arrived = {}

    def store(event):
        arrived[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue(), event.context.transfer_syntax
        return 0x0000

    ae = AE("GETTER")
    ae.add_requested_context(GET)
    for each in contexts:
        ae.add_requested_context(CTImageStorage, list(each))
    roles = [build_role(CTImageStorage, scp_role=True)]
    association = ae.associate("127.0.0.1", archive.port, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert association.is_established
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", STUDY_UID
    *_, (final, _) = association.send_c_get(asked, GET)
    association.release()
    return final, arrived


@pytest.mark.parametrize(
    ("contexts", "sent"),
    [
        ([[EXPLICIT, IMPLICIT]], EXPLICIT),
        ([[IMPLICIT]], IMPLICIT),
        ([[J2K, EXPLICIT]], EXPLICIT),  # one context for everything
        ([[RLE], [JPEG_LS]], JPEG_LS),
    ],
)
def test_every_image_reaches_the_requestor_of_a_c_get(tmp_path, contexts, sent):
    """Compressed and uncompressed ones."""
    native = images(6)
    (first, *_), packed = native, into(native, J2K)
    with serving(tmp_path) as archive:
        keep(archive, {first: native[first]}, EXPLICIT)
        keep(archive, {uid: data for uid, data in packed.items() if uid != first}, J2K)
        final, arrived = get(archive, *contexts)
    assert (final.Status, final.NumberOfCompletedSuboperations) == (0x0000, 6)
    assert {uid: converted(data, syntax, EXPLICIT) for uid, (data, syntax) in arrived.items()} == native
    assert {syntax for _, syntax in arrived.values()} == {sent}


def test_a_c_get_with_a_context_for_each_transfer_syntax_gets_instances_as_they_are_stored(tmp_path):
    """And the compressed ones to the byte."""
    native = images(4)
    packed = into(native, J2K)
    first, *_ = native
    with serving(tmp_path) as archive:
        keep(archive, {first: native[first]}, EXPLICIT)
        keep(archive, {uid: data for uid, data in packed.items() if uid != first}, J2K)
        final, arrived = get(archive, [EXPLICIT], [J2K])
    assert final.Status == 0x0000
    assert arrived == {uid: (data, J2K) for uid, data in packed.items()} | {first: (native[first], EXPLICIT)}


def test_send_as_applies_to_the_c_get_of_a_peer(tmp_path):
    """It decides the context, and the conversion."""
    native = images(2)
    peer = {"ae_title": "GETTER", "host": "127.0.0.1", "port": 104, "send_as": ["rle"]}
    with serving(tmp_path, {"peers": [peer]}) as archive:
        keep(archive, into(native, J2K), J2K)
        _, arrived = get(archive, [EXPLICIT, RLE])
    assert {uid: converted(data, syntax, EXPLICIT) for uid, (data, syntax) in arrived.items()} == native
    assert {syntax for _, syntax in arrived.values()} == {RLE}


def test_a_damaged_image_does_not_end_the_association_of_a_c_get(tmp_path, monkeypatch):
    """It is converted as a whole before its first byte is sent; a large one in a temporary file, which is removed."""
    monkeypatch.setattr("pacs.services.pixels.SPOOL_BYTES", 100_000)
    native = images(3, frames=20, size=64)
    broken, *_ = native
    packed = into(native, RLE)
    packed[broken] = cut_in_last_frame(packed[broken])
    with serving(tmp_path) as archive:
        keep(archive, packed, RLE)
        final, arrived = get(archive, [EXPLICIT])
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 2, 1)
    assert {uid: data for uid, (data, _) in arrived.items()} == {
        uid: data for uid, data in native.items() if uid != broken
    }
    assert not list((tmp_path / "files" / "incoming").iterdir())


# --- what is said, and what is checked ---------------------------------------------------------------------------


def test_what_is_removed_from_the_copies_is_published_once_for_each_retrieve(tmp_path):
    """Here the digital signatures over the pixel data; the stored files keep them."""
    with Taker(IMPLICIT, RLE) as taker, archive_for(tmp_path, taker, {}, send_as=["rle"]) as archive:
        for each in study(series=1, instances=4, size=32):
            keep(archive, {each.SOPInstanceUID: raw.encoded(signed(each, [0x7FE00010]), EXPLICIT)}, EXPLICIT)
        with published(archive, Notice) as notices:
            assert move(archive)[-1].status == 0x0000
            assert move(archive)[-1].status == 0x0000
        stored = [path.read_bytes() for path in (tmp_path / "files").rglob("*.dcm")]
    assert [each.sentence.partition(": ")[2] for each in notices] == [NOTICE, NOTICE]
    assert set(taker.received_in.values()) == {RLE}
    assert all(b"SHA256" in each for each in stored)
    assert not any(b"SHA256" in each for each in taker.arrived.values())


@pytest.mark.parametrize("associations", [1, 2])
def test_an_image_that_differs_from_what_was_received_is_not_converted(tmp_path, associations):
    """With `files.verify`, as one that is sent as it is stored."""
    native = images(3)
    with (
        Taker(EXPLICIT) as taker,
        archive_for(tmp_path, taker, native, associations=associations, files__verify=True) as archive,
        published(archive, Notice) as notices,
    ):
        changed = sorted((tmp_path / "files").rglob("*.dcm"))[0]
        changed.write_bytes(changed.read_bytes().replace(b"DOE^JOHN", b"DOE^JANE"))
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 2, 1, 0))
    assert len(taker.arrived) == 2
    assert taker.arrived.items() <= native.items()
    assert ["is damaged and was not given out" in each.sentence for each in notices] == [True]


# --- DCMTK -------------------------------------------------------------------------------------------------------


def test_storescp_and_getscu_of_dcmtk_get_every_image(tmp_path):
    """By default they accept only uncompressed transfer syntaxes."""
    native = images(3)
    with storescp(tmp_path / "moved", "TAKER", "+B") as taker:
        peer = {"ae_title": "TAKER", "host": "127.0.0.1", "port": taker.port}
        with serving(tmp_path / "archive", {"peers": [peer]}) as archive:
            keep(archive, into(native, J2K), J2K)
            final = move(archive)[-1]
            (tmp_path / "got").mkdir()
            keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY_UID}")
            run("getscu", "-S", "-aec", "PACS", *keys, "+B", "-od", tmp_path / "got", "127.0.0.1", archive.port)
        moved = [path.read_bytes() for path in taker.files()]
    got = [path.read_bytes() for path in (tmp_path / "got").iterdir()]
    assert (final.status, counts(final)) == (0x0000, (None, 3, 0, 0))
    for received in (moved, got):
        assert len(received) == 3
        assert all(any(each.endswith(data) for each in received) for data in native.values())
