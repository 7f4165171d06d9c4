"""`store`: what is sent, and how it continues with difficult peers."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from pacs import client
from pacs.client import Deadlines, sources
from pacs.client.sources import sources_of
from pacs.dicom.sop_classes import STORAGE
from pacs.testing import study, write
from tests import real_files
from tests.client.scripted import answer, scripted
from tests.raw import EXPLICIT, encoded

DATASETS = study(series=1, instances=4)


class Enough(Exception):
    """Raised by a progress callback."""


@pytest.mark.parametrize(("lost", "failed"), [(1, 1), (2, 0)])
def test_the_rest_is_sent_on_a_new_association(lost, failed):
    """The instance being sent fails, without a status, if it was the first; after others it is sent again."""
    seen = []

    def store(association, message):
        message.drain()
        seen.append(message.command.affected_sop_instance_uid)
        if len(seen) == lost:
            association.abort()
        else:
            answer(association, message, 0x0000)

    with scripted(store=store) as pacs:
        sent = client.store(pacs.peer, *DATASETS)
        assert (sent.completed, [each.what for each in sent.failed]) == (4 - failed, DATASETS[:failed])
        assert len(pacs.ends(2)) == 2


def test_a_peer_that_ends_every_association_gets_no_more():
    """After ten consecutive associations without a stored instance."""

    def store(association, message):
        association.abort()

    with scripted(store=store) as pacs:
        sent = client.store(pacs.peer, *study(series=1, instances=12))
        assert (sent.completed, len(sent.failed)) == (0, 12)
        assert len(pacs.ends(10)) == 10


def test_a_peer_that_does_not_respond_gets_no_more():
    """After two time-outs: each takes a minute by default."""

    def store(association, message):
        message.drain()

    with scripted(store=store) as pacs:
        sent = client.store(replace(pacs.peer, deadlines=Deadlines(response=0.3)), *DATASETS)
        assert (sent.completed, len(sent.failed)) == (0, 4)
        assert len(pacs.ends(2)) == 2


def test_instances_at_which_the_peer_aborts_do_not_keep_the_others_from_being_sent():
    """Not even where several of them come first."""
    datasets = study(series=1, instances=7)
    damaged = {str(each.SOPInstanceUID) for each in datasets[:4]}

    def store(association, message):
        message.drain()
        if message.command.affected_sop_instance_uid in damaged:
            association.abort()
        else:
            answer(association, message, 0x0000)

    with scripted(store=store) as pacs:
        sent = client.store(pacs.peer, *datasets)
    assert (sent.completed, [each.what for each in sent.failed]) == (3, datasets[:4])


def test_an_exception_while_storing_ends_the_association(tmp_path):
    """Between two data sets and in the middle of a large one; it is raised unchanged."""
    large = study(series=1, instances=1, size=2000)

    def stop(progress):
        if progress.completed == 1 or progress.bytes > 3 << 20:
            raise Enough

    def store(association, message):
        message.drain()
        answer(association, message, 0x0000)

    with scripted(store=store) as pacs:
        with pytest.raises(Enough):
            client.store(pacs.peer, *DATASETS, on_progress=stop)
        with pytest.raises(Enough):
            client.store(pacs.peer, *large, on_progress=stop)
        assert pacs.ends(2) == ["A-RELEASE", "A-ABORT"]


def test_instances_without_an_accepted_context_are_listed():
    """A receiver without video refuses only the contexts of videos, which cannot be converted."""

    def store(association, message):
        message.drain()
        answer(association, message, 0x0000)

    video = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102", patient_id="V")
    with scripted(syntaxes=[EXPLICIT], store=store) as pacs:
        sent = client.store(pacs.peer, *DATASETS, *video)
    assert sent.completed == 4
    assert [(each.what, each.status) for each in sent.failed] == [(video[0], None)]
    assert sent.failed[0].comment == "The peer does not accept MPEG-4 AVC/H.264 High Profile / Level 4.1"


def test_data_sets_stream_from_their_files_and_into_them(tmp_path):
    """Sending and receiving need no memory in proportion to the size."""
    (path,) = write(study(series=1, instances=1, size=4000), tmp_path / "out")
    assert path.stat().st_size > 30 << 20
    with client.receiving(tmp_path / "in") as receiver:
        tracemalloc.start()
        told = []
        try:
            sent = client.store(f"X@127.0.0.1:{receiver.port}", path, on_progress=told.append)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (sent.completed, len(receiver.arrived)) == (1, 1)
    assert peak < 8 << 20
    assert len({each.bytes for each in told}) > 20
    assert dcmread(receiver.arrived[0]).PixelData == dcmread(path).PixelData


def test_files_without_file_meta_information_are_stored(tmp_path):
    """In implicit and explicit VR: bare data sets, with or without preamble."""
    (tmp_path / "implicit").write_bytes(encoded(DATASETS[0]))
    (tmp_path / "explicit").write_bytes(encoded(DATASETS[1], EXPLICIT))
    (tmp_path / "preamble").write_bytes(bytes(128) + b"DICM" + encoded(DATASETS[2], EXPLICIT))
    with client.receiving(tmp_path / "in") as receiver:
        sent = client.store(f"X@127.0.0.1:{receiver.port}", tmp_path)
        assert (sent.completed, sent.failed, sent.skipped) == (3, (), 0)
        assert sorted(dcmread(path).InstanceNumber for path in receiver.arrived) == [1, 2, 3]


def test_a_dicomdir_is_skipped_in_a_folder_and_refused_by_name(tmp_path):
    """It is no instance, despite its File Meta Information."""
    path = get_testdata_file("DICOMDIR")
    shutil.copy(path, tmp_path / "DICOMDIR")
    write(DATASETS[:1], tmp_path / "images")
    with client.receiving(tmp_path / "in") as receiver:
        peer = f"X@127.0.0.1:{receiver.port}"
        assert client.store(peer, tmp_path).skipped == 1
        assert [each.status for each in client.store(peer, tmp_path / "DICOMDIR").failed] == [None]


def test_a_damaged_file_in_a_folder_is_a_failure(tmp_path):
    """It is DICOM and was not stored, unlike a text."""
    good, bare, cut, without_uid = write(DATASETS[:4], tmp_path / "out")
    cut.write_bytes(cut.read_bytes()[:300])
    written = dcmread(without_uid)
    del written.SOPInstanceUID, written.file_meta.MediaStorageSOPInstanceUID
    written.save_as(without_uid)
    bare.write_bytes(b"A text.")
    with client.receiving(tmp_path / "in") as receiver:
        sent = client.store(f"X@127.0.0.1:{receiver.port}", tmp_path / "out")
        assert [path.stem for path in receiver.arrived] == [dcmread(good).SOPInstanceUID]
    assert (sent.completed, sent.skipped, [each.what for each in sent.failed]) == (1, 1, [cut, without_uid])
    assert [each.comment for each in sent.failed] == [
        "The File Meta Information is damaged", "Missing or not valid: SOPInstanceUID"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "missing"),
    [("CT_small.dcm", 1), ("JPEG2000.dcm", 1), ("rtplan.dcm", 1), ("MR_small_implicit.dcm", 99), ("image_dfl.dcm", 99)],
)
def test_a_file_that_is_cut_off_is_not_sent(tmp_path, name, missing):
    """Most receivers store it as it is; the sender must not take that for a success."""
    (tmp_path / name).write_bytes(Path(get_testdata_file(name)).read_bytes()[:-missing])
    with client.receiving(tmp_path / "in") as receiver:
        sent = client.store(f"X@127.0.0.1:{receiver.port}", tmp_path / name)
        assert receiver.arrived == ()
    assert [each.comment for each in sent.failed] == ["The file is cut off: it ends in the middle of an element"]


def test_a_plain_file_is_the_same_instance_in_one_pass_and_in_two(monkeypatch):
    """The fast pass reads UIDs and end at once; of each other file the general one says the same."""
    found = sources_of(real_files.PART10)
    monkeypatch.setattr(sources, "plain_uids", lambda *_: None)
    assert sources_of(real_files.PART10) == found
    assert len(found.instances) > 50


def test_many_sop_classes_go_on_several_associations(tmp_path):
    """One association has room for 128 contexts; every instance arrives."""
    datasets = []
    for number, sop_class in enumerate(sorted(STORAGE)[:90]):
        (dataset,) = study(series=1, instances=1, modality="OT", patient_id=f"P{number}")
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        datasets.append(dataset)
    with client.receiving(tmp_path / "in") as receiver:
        assert client.store(f"X@127.0.0.1:{receiver.port}", iter(datasets)).completed == 90
        assert len(receiver.arrived) == 90


def test_a_text_file_is_not_a_dicom_file(pacs_server, tmp_path):
    """The error says that the file is no DICOM file."""
    text = tmp_path / "notes.txt"
    text.write_text("hi")
    (failed,) = client.store(pacs_server.address, text).failed
    assert failed.comment == "Not a DICOM file: neither File Meta Information nor a data set"
