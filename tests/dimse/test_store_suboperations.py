"""Sub-operations of a C-MOVE: bytes that are sent, read-ahead, and several associations at once."""

import random
import socket
import threading
import time
import zlib
from contextlib import ExitStack, contextmanager, suppress

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import CTImageStorage

from pacs.files.local import READ
from pacs.testing import serving, study
from tests import raw
from tests.archives import MOVE, identifier, take_in
from tests.raw import IMPLICIT, Raw, cancel, request

DEFLATED = "1.2.840.10008.1.2.1.99"
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
# pynetdicom does not close the socket of a peer that aborted.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STUDY_UID = study(series=1, instances=1)[0].StudyInstanceUID


class Destination:
    """A storage SCP of pynetdicom that keeps what it receives and answers with the status `answer(event)`."""

    def __init__(self, answer=lambda _event: 0x0000, max_pdu=16384, most=100, syntaxes=(raw.EXPLICIT,), classes=None):
        self.answer = answer
        self.arrived = {}
        self.order = []
        self.associations = set()
        self.longest = 0
        self.fragments_are_even = True
        self.on_data = lambda: None
        self._ae = AE("TAKER")
        self._ae.maximum_pdu_size = max_pdu
        self._ae.maximum_associations = most
        for each in classes or [CTImageStorage]:
            self._ae.add_supported_context(each, list(syntaxes))

    def __enter__(self):
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_PDU_RECV, self._pdu)]
        self._listener = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_):
        for each in self.associations:
            each.join(10)
        self._listener.shutdown()

    def peer(self, **more):
        """Return its row for the table of peers."""
        return {"ae_title": "TAKER", "host": "127.0.0.1", "port": self._listener.server_address[1], **more}

    def _store(self, event):
        self.associations.add(event.assoc)
        uid = event.request.AffectedSOPInstanceUID
        self.order.append(uid)
        code = self.answer(event)
        if code == 0x0000:
            self.arrived[uid] = event.request.DataSet.getvalue()
        return code

    def _pdu(self, event):
        if isinstance(event.pdu, P_DATA_TF):
            self.longest = max(self.longest, event.pdu.pdu_length)
            data = [each.presentation_data_value for each in event.pdu.presentation_data_value_items]
            self.fragments_are_even = self.fragments_are_even and all(len(each) % 2 == 1 for each in data)
            if any(not each[0] & 1 for each in data):
                self.on_data()


@contextmanager
def archive_with(folder, taker, datasets=(), associations=1, **limits):
    """Run an archive that knows `taker` as TAKER and has some data sets."""
    peers = [taker.peer(associations=associations)]
    limited = {f"limits.{key}": each for key, each in limits.items()}
    with serving(folder, {"peers": peers, **limited}) as running:
        take_in(running, datasets)
        yield running


@contextmanager
def moving(archive, uid=STUDY_UID):
    """Yield a raw client that has requested to move a study to TAKER."""
    with Raw(archive.port) as client:
        client.associate((1, MOVE, [IMPLICIT]))
        extra = [raw.element(0x0600, b"TAKER ")]
        client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID=uid), extra))
        yield client
        client.release()


def move(archive, uid=STUDY_UID):
    """Return all responses to a C-MOVE of a study to TAKER."""
    with moving(archive, uid) as client:
        return client.until_final()


def counts(response):
    """Return remaining, completed, failed and warning; None where absent."""
    return tuple(response.number(tag) for tag in (REMAINING, COMPLETED, FAILED, WARNING))


def failed_list(response):
    """Return the Failed SOP Instance UID List."""
    value = response.dataset(IMPLICIT).FailedSOPInstanceUIDList
    return [value] if isinstance(value, str) else list(value)


def sized(length, number):
    """Return a data set of `length` bytes in explicit VR little endian, with random pixels."""
    dataset = study(series=1, instances=number)[-1]
    dataset.PixelData = b""
    dataset.PixelData = random.Random(length).randbytes(length - len(raw.encoded(dataset, raw.EXPLICIT)))
    assert len(raw.encoded(dataset, raw.EXPLICIT)) == length
    return dataset


# --- bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_pdu", [8, 4099, 16384, 131_072, 0], ids=lambda each: f"max_pdu={each}")
def test_v9_every_bit_arrives_for_all_lengths(tmp_path, max_pdu):
    """Data sets as long as a PDU or a read of a file, and two bytes more or less, arrive as they are stored."""
    fragment = (max_pdu or 131_072) - 6 & ~1
    lengths = [1400, 1402]
    if max_pdu > 8:
        lengths = [2 * fragment, *(count * fragment + more for count in (3, 8) for more in (-2, 0, 2))]
    if max_pdu not in (8, 4099):
        lengths += [READ - 2, READ, READ + 2, 2 * READ, 2 * READ + fragment + 2]
    datasets = [sized(length, number) for number, length in enumerate(lengths, 1)]
    with Destination(max_pdu=max_pdu) as taker, archive_with(tmp_path, taker, datasets) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, len(lengths), 0, 0))
    expected = {each.SOPInstanceUID: raw.encoded(each, raw.EXPLICIT) for each in datasets}
    assert taker.arrived.keys() == expected.keys()
    assert [uid for uid, data in expected.items() if taker.arrived[uid] != data] == []
    assert taker.longest <= (max_pdu or 131_072)
    assert taker.fragments_are_even


def test_a_deflated_data_set_of_odd_length_is_padded(tmp_path):
    """The stream is sent as it is stored, and made even (PS3.5 A.5)."""
    dataset = study(series=1, instances=1)[0]
    stream = deflated_oddly(dataset)
    with Destination(syntaxes=(DEFLATED,)) as taker, archive_with(tmp_path, taker) as archive:
        with archive.storage.receive(CTImageStorage, dataset.SOPInstanceUID, DEFLATED, "TEST") as reception:
            reception.write(stream)
            reception.finish()
        assert move(archive)[-1].status == 0x0000
    assert taker.arrived == {dataset.SOPInstanceUID: stream + b"\0"}


def deflated_oddly(dataset):
    """Return a deflate stream of odd length of a data set, whose pixels are changed until it has one."""
    for each in range(100):
        dataset.PixelData = bytes([each]) * 128
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        stream = deflater.compress(raw.encoded(dataset, raw.EXPLICIT)) + deflater.flush()
        if len(stream) % 2:
            return stream
    raise AssertionError("no stream of odd length")


def test_a_file_that_shrinks_while_it_is_sent_fails_alone(tmp_path):
    """The association is aborted in the middle of the data set; the other instances arrive on a new one."""
    long, short = sized(40 * READ, 1), sized(5000, 2)
    with Destination(max_pdu=0) as taker, archive_with(tmp_path, taker, [long, short]) as archive:
        (file,) = [each for each in (tmp_path / "files").rglob("*.dcm") if each.stat().st_size > READ]

        def shrink():
            with file.open("r+b") as opened:
                opened.truncate(10 * READ)

        taker.on_data = shrink
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 1, 1, 0))
    assert failed_list(final) == [long.SOPInstanceUID]
    assert taker.arrived == {short.SOPInstanceUID: raw.encoded(short, raw.EXPLICIT)}


# --- one after the other -----------------------------------------------------------------------------------------


def test_v7_the_pending_response_for_one_suboperation_comes_while_the_next_runs(tmp_path):
    """The Pending response for the first comes before the second is answered, which counts as remaining."""
    told = threading.Event()

    def answer(_event):
        return 0x0000 if len(taker.order) == 1 or told.wait(10) else 0xA700

    datasets = study(series=1, instances=2)
    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets) as archive, moving(archive) as client:
        first = client.message()
        told.set()
        rest = client.until_final()
    assert [counts(each) for each in [first, *rest]] == [(1, 1, 0, 0), (0, 2, 0, 0), (None, 2, 0, 0)]
    assert [each.status for each in [first, *rest]] == [0xFF00, 0xFF00, 0x0000]


@pytest.mark.parametrize("associations", [1, 3])
def test_v7_pending_responses_come_after_every_n_suboperations(tmp_path, associations):
    """With `pending_every = 2`, seven sub-operations make Pendings after the second, fourth and sixth."""
    datasets = study(series=1, instances=7)
    with (
        Destination() as taker,
        archive_with(tmp_path, taker, datasets, associations, pending_every=2) as archive,
    ):
        *pendings, final = move(archive)
    assert [counts(each) for each in pendings] == [(5, 2, 0, 0), (3, 4, 0, 0), (1, 6, 0, 0)]
    assert counts(final) == (None, 7, 0, 0)


@pytest.mark.parametrize("associations", [1, 3])
def test_x6_an_instance_read_ahead_is_not_sent_after_a_cancel(tmp_path, associations):
    """Running sub-operations end, none begins, though the next was read ahead; the others remain."""
    running, cancelled = threading.Semaphore(0), threading.Event()

    def answer(_event):
        running.release()
        return 0x0000 if cancelled.wait(10) else 0xA700

    datasets = study(series=1, instances=20)
    with (
        Destination(answer) as taker,
        archive_with(tmp_path, taker, datasets, associations) as archive,
        moving(archive) as client,
    ):
        assert all(running.acquire(timeout=10) for _ in range(associations))
        client.send(cancel(1, 1))
        time.sleep(0.3)
        cancelled.set()
        *pendings, final = client.until_final()
    assert pendings == []
    assert (final.status, counts(final)) == (0xFE00, (20 - associations, associations, 0, 0))
    assert len(taker.order) == associations


@pytest.mark.parametrize("associations", [1, 2])
def test_v5_missing_files_fail_alone_and_are_listed_in_order(tmp_path, associations):
    """Every second of ten files is missing: the others arrive, the missing are listed in the order of the study."""
    datasets = study(series=1, instances=10)
    with Destination() as taker, archive_with(tmp_path, taker, datasets, associations) as archive:
        for file in sorted((tmp_path / "files").rglob("*.dcm"))[::2]:
            file.unlink()
        *pendings, final = move(archive)
    assert (final.status, counts(final)) == (0xB000, (None, 5, 5, 0))
    assert [sum(counts(each)) for each in pendings] == [10] * 10
    gone = sorted(each.SOPInstanceUID for each in datasets[::2])
    assert sorted(failed_list(final)) == gone
    assert sorted(taker.arrived) == sorted(each.SOPInstanceUID for each in datasets[1::2])


# --- several associations ----------------------------------------------------------------------------------------


def test_several_associations_send_at_the_same_time(tmp_path):
    """With `associations = 3` three instances are sent at once, and every count is exact (V5, V6)."""
    together = threading.Barrier(3, timeout=10)

    def answer(_event):
        together.wait()
        return 0x0000

    datasets = study(series=1, instances=12)
    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets, 3) as archive:
        *pendings, final = move(archive)
    assert (final.status, counts(final), final.data) == (0x0000, (None, 12, 0, 0), None)
    assert [counts(each) for each in pendings] == [(11 - done, done + 1, 0, 0) for done in range(12)]
    assert len(taker.associations) == 3
    assert taker.arrived == {each.SOPInstanceUID: raw.encoded(each, raw.EXPLICIT) for each in datasets}


def test_fewer_instances_open_fewer_associations(tmp_path):
    """Two instances need no more than two of sixteen associations."""
    together = threading.Barrier(2, timeout=10)

    def answer(_event):
        together.wait()
        return 0x0000

    datasets = study(series=1, instances=2)
    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets, 16) as archive:
        assert counts(move(archive)[-1]) == (None, 2, 0, 0)
    assert len(taker.associations) == 2


def test_v5_every_outcome_is_counted_once_on_several_associations(tmp_path):
    """Completed, warnings and failures add up in each response; the list of the failed is in the order of the study."""
    datasets = study(series=1, instances=30)
    codes = {each.SOPInstanceUID: (0x0000, 0xB000, 0xA700)[at % 3] for at, each in enumerate(datasets)}

    def answer(event):
        return codes[event.request.AffectedSOPInstanceUID]

    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets, 4) as archive:
        *pendings, final = move(archive)
        again = move(archive)[-1]
    assert (final.status, counts(final)) == (0xB000, (None, 10, 10, 10))
    assert [counts(each)[0] for each in pendings] == list(range(29, -1, -1))
    assert all(sum(counts(each)) == 30 for each in pendings)
    assert sorted(failed_list(final)) == sorted(uid for uid, code in codes.items() if code == 0xA700)
    assert failed_list(again) == failed_list(final)


def test_a_destination_that_accepts_one_association_gets_everything_on_it(tmp_path):
    """No instance fails for the rejected associations: all are sent on the accepted one."""
    datasets = study(series=1, instances=10)
    with Destination(most=1) as taker, archive_with(tmp_path, taker, datasets, 4) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 10, 0, 0))
    assert len(taker.associations) == 1


def test_an_association_that_is_not_answered_delays_nothing(tmp_path):
    """A destination serves one association at a time, as DCMTK's storescp: the move does not wait for a second."""
    datasets = study(series=1, instances=10)
    with Destination() as taker, one_at_a_time(taker.peer()["port"]) as port:
        peers = [taker.peer(associations=4) | {"port": port}]
        with serving(tmp_path, {"peers": peers}) as archive:
            take_in(archive, datasets)
            began = time.monotonic()
            final = move(archive)[-1]
            took = time.monotonic() - began
    assert (final.status, counts(final)) == (0x0000, (None, 10, 0, 0))
    assert len(taker.associations) == 1
    assert took < 5


@contextmanager
def one_at_a_time(port):
    """Yield a port whose first connection is relayed to another port, and whose others wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def lead():
            inner = stack.enter_context(listener.accept()[0])
            outer = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=lead, daemon=True).start()
        yield listener.getsockname()[1]


def pump(source, target):
    """Relay bytes until one side closes."""
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


def test_v10_one_of_several_associations_that_is_aborted_costs_one_instance(tmp_path):
    """It is reopened, and the others go on meanwhile."""
    datasets = study(series=1, instances=20)
    victim = datasets[3].SOPInstanceUID

    def answer(event):
        if event.request.AffectedSOPInstanceUID == victim:
            event.assoc.abort()
        return 0x0000

    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets, 3) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final), failed_list(final)) == (0xB000, (None, 19, 1, 0), [victim])


def test_v10_a_destination_that_always_aborts_is_called_twice_for_each_association(tmp_path):
    """All fail after a bounded number of calls: A702 with the whole list, in the order of the study."""
    calls = []

    def answer(event):
        calls.append(event.assoc)
        event.assoc.abort()
        return 0x0000

    datasets = study(series=1, instances=20)
    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets, 3) as archive:
        *pendings, final = move(archive)
    assert (final.status, counts(final)) == (0xA702, (None, 0, 20, 0))
    assert sorted(failed_list(final)) == sorted(each.SOPInstanceUID for each in datasets)
    assert [counts(each)[0] for each in pendings] == list(range(19, -1, -1))
    assert len(calls) <= 6


def test_x6_hanging_associations_have_their_grace_after_a_cancel_and_no_more(tmp_path):
    """A destination never answers: FE00 as soon as the grace is over, and the running sub-operations have failed."""
    running, ended = threading.Semaphore(0), threading.Event()

    def answer(_event):
        running.release()
        ended.wait(20)
        return 0x0000

    datasets = study(series=1, instances=20)
    with (
        Destination(answer) as taker,
        archive_with(tmp_path, taker, datasets, 3, cancel_grace=0.5) as archive,
        moving(archive) as client,
    ):
        assert all(running.acquire(timeout=10) for _ in range(3))
        client.send(cancel(1, 1))
        began = time.monotonic()
        final = client.until_final()[-1]
        took = time.monotonic() - began
        ended.set()
    assert (final.status, counts(final)) == (0xFE00, (17, 0, 3, 0))
    assert len(failed_list(final)) == 3
    assert 0.4 < took < 3


def test_v7_pendings_come_while_all_associations_are_slow(tmp_path):
    """Pending responses are sent while the destination is slow."""
    told = threading.Event()

    def answer(_event):
        return 0x0000 if told.wait(60) else 0xA700

    datasets = study(series=1, instances=2)
    with (
        Destination(answer) as taker,
        archive_with(tmp_path, taker, datasets, 2, pending_seconds=0.2) as archive,
        moving(archive) as client,
    ):
        pendings = [client.message() for _ in range(3)]
        told.set()
        *_, final = client.until_final()
    assert final.status == 0x0000
    assert [counts(each) for each in pendings] == [(2, 0, 0, 0)] * 3


def test_v11_a_requester_that_goes_stops_all_associations(tmp_path):
    """After the running sub-operations nothing more is sent, and no thread remains."""
    started, ended = threading.Event(), threading.Event()

    def answer(_event):
        started.set()
        time.sleep(0.3)
        return 0x0000

    datasets = study(series=1, instances=30)
    with Destination(answer) as taker, archive_with(tmp_path, taker, datasets, 3) as archive:
        archive.events.subscribe(lambda event: ended.set() if type(event).__name__ == "AssociationEnded" else None)
        with Raw(archive.port) as client:
            client.associate((1, MOVE, [IMPLICIT]))
            extra = [raw.element(0x0600, b"TAKER ")]
            client.send(request(raw.C_MOVE, 1, MOVE, 1, identifier("STUDY", StudyInstanceUID=STUDY_UID), extra))
            assert started.wait(10)
        assert ended.wait(10)
        assert [each for each in threading.enumerate() if each.name == "pacs-move"] == []
        sent = len(taker.order)
        time.sleep(0.5)
    assert len(taker.order) == sent <= 9


def test_p16_v9_more_than_128_contexts_on_several_associations(tmp_path):
    """130 SOP Classes, two contexts each, arrive though no association holds them all."""
    classes = sorted(str(each.abstract_syntax) for each in AllStoragePresentationContexts)[:130]
    datasets = [of_class(uid, number) for number, uid in enumerate(classes, 1)]
    with Destination(classes=classes) as taker, archive_with(tmp_path, taker, datasets, 2) as archive:
        final = move(archive)[-1]
    assert (final.status, counts(final)) == (0x0000, (None, 130, 0, 0))
    assert 3 <= len(taker.associations) <= 6


def of_class(uid: str, number: int) -> Dataset:
    """Return a data set of any SOP Class."""
    dataset = study(series=1, instances=1)[0]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
    dataset.SOPInstanceUID = f"1.2.3.{number}"
    return dataset
