"""Exporting instances as they are stored, and in other transfer syntaxes."""

import hashlib

import numpy
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from pacs.dicom.part10 import read_file_meta
from pacs.errors import StorageUnavailable
from pacs.observability.events import Notice
from pacs.pixels.target_names import SHORT_NAMES, targets_of
from pacs.services.exporting import safe_name
from pacs.testing import serving, study
from tests import real_files
from tests.pixels.samples import SYNTAXES, native_sample, pixels_of, sample

NAMES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "test-SR.dcm")
EXPLICIT, J2K, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"


@pytest.fixture
def archive(tmp_path):
    """An empty archive."""
    with serving(tmp_path / "pacs") as running:
        yield running


def export(archive, folder, *send_as, progress=lambda count: None):
    """Export everything."""
    return archive.exporter.export(archive.maintenance.instances({}), folder, progress, targets_of(send_as))


def files_in(folder):
    """Return the exported files, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- as they are ---------------------------------------------------------------------------------------------------


def test_exported_files_are_complete_part_10_files(archive, tmp_path):
    """The path names patient, study, series and instance; each file is the instance, bit for bit."""
    archive.add(*map(real_files.named, NAMES))
    done = []
    exported = export(archive, tmp_path / "out", progress=done.append)
    sizes = sum(path.stat().st_size for path in files_in(tmp_path / "out"))
    assert (exported.instances, exported.size, exported.failed, done) == (4, sizes, [], [1, 1, 1, 1])
    for name in NAMES:
        dataset = dcmread(real_files.named(name))
        path = tmp_path.joinpath("out", safe_name(dataset.PatientID), dataset.StudyInstanceUID)
        path = path / dataset.SeriesInstanceUID / f"{dataset.SOPInstanceUID}.dcm"
        assert real_files.data_set(path) == real_files.data_set(real_files.named(name))


def test_exporting_again_overwrites_the_copies(archive, tmp_path):
    """A second export of the same instances gives the same files."""
    archive.add(*map(real_files.named, NAMES))
    for _ in range(2):
        assert export(archive, tmp_path / "out").instances == 4
    assert len(files_in(tmp_path / "out")) == 4


def test_an_instance_that_cannot_be_read_fails_alone(archive, tmp_path):
    """A stored file is missing; a folder that cannot be written ends the export."""
    archive.add(study(series=1, instances=3))
    chosen = archive.maintenance.instances({})
    archive.files.delete(chosen[1].file_key)
    exported = export(archive, tmp_path / "out")
    assert (exported.instances, [each.sop_instance_uid for each in exported.failed]) == (
        2,
        [chosen[1].sop_instance_uid],
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable, match="choose another DEST"):
        export(archive, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("text", "name"),
    [("1CT1", "1CT1"), ("../../etc/passwd", "etc_passwd"), ("..", "_"), ("", "_"), ("C:\\x", "C_x"),
     ("a\0b\nc", "a_b_c"), (".hidden", "hidden"), ("-rf", "rf"), ("NUL", "_NUL"), ("com1.txt", "_com1.txt"),
     ("ÄÖ", "_"), ("x" * 100, "x" * 64), ("1.2.840.10008.1", "1.2.840.10008.1")],
)  # fmt: skip
def test_p11_no_name_leads_anywhere(text, name):
    """Path separators, dots, control characters, reserved names and long names are made harmless."""
    assert safe_name(text) == name


# --- in another transfer syntax ------------------------------------------------------------------------------------


def test_every_syntax_is_exported_uncompressed(archive, tmp_path):
    """With the pixels of the original, and File Meta Information of this archive: sender, time, digest."""
    made = {}
    for number, each in enumerate(map(sample, SYNTAXES)):
        uid = each.compressed.SOPInstanceUID = each.compressed.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        archive.add(each.compressed)
        made[uid] = each
    stored = {each.sop_instance_uid: each for each in archive.maintenance.instances({})}
    assert export(archive, tmp_path / "out", "explicit").failed == []
    for path in files_in(tmp_path / "out"):
        with path.open("rb") as file, archive.files.open(stored[path.stem].file_key) as before:
            head, old = read_file_meta(file), read_file_meta(before)
            assert (head.transfer_syntax, head.sop_instance_uid) == (EXPLICIT, path.stem)
            assert (head.source_ae, head.received_at) == (old.source_ae, old.received_at)
            assert head.digest == hashlib.sha256(file.read()).hexdigest()
        difference = numpy.abs(pixels_of(dcmread(path)).astype(int) - made.pop(path.stem).pixels.astype(int))
        assert difference.max() <= 64
    assert made == {}


@pytest.mark.parametrize("name", ["implicit", "jpegls", "htj2k"])
def test_the_archive_is_exported_in_a_syntax(archive, tmp_path, name):
    """Images are converted. What has no pixel data stays as it is, where it is to be compressed."""
    (document,) = study(series=1, instances=1, modality="DOC", patient_id="D")
    archive.add(native_sample("RGB"), sample(J2K).compressed, document)
    exported = export(archive, tmp_path / "out", name)
    assert (exported.instances, exported.failed) == (3, [])
    found = {path.stem: dcmread(path) for path in files_in(tmp_path / "out")}
    syntaxes = {each.file_meta.TransferSyntaxUID for each in found.values() if "PixelData" in each}
    assert syntaxes == {SHORT_NAMES[name]}
    left = SHORT_NAMES[name] if name == "implicit" else EXPLICIT
    assert found[document.SOPInstanceUID].file_meta.TransferSyntaxUID == left


def damaged():
    """Return an instance whose second frame ends in the middle."""
    dataset = sample(J2K, frames=2).compressed
    first, second = generate_frames(dataset.PixelData, number_of_frames=2)
    dataset.PixelData = encapsulate([first, second[: len(second) // 2]])
    return dataset


def test_an_instance_that_cannot_be_converted_fails_alone(archive, tmp_path):
    """With its reason and no file, also if that is known only after its first frame."""
    (video,) = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102", patient_id="V")
    bad = damaged()
    archive.add(video, bad, sample(J2K).compressed)
    exported = export(archive, tmp_path / "out", "explicit")
    reasons = {each.sop_instance_uid: each.comment for each in exported.failed}
    assert exported.instances == len(files_in(tmp_path / "out")) == 1
    assert reasons.pop(video.SOPInstanceUID).startswith("MPEG-4 AVC/H.264 High Profile / Level 4.1 is not converted")
    assert reasons == {bad.SOPInstanceUID: "Frame 2 of 2: A compressed frame is truncated"}


def test_the_next_syntax_is_for_what_the_first_cannot_represent(archive, tmp_path):
    """A value beyond Bits Stored, which is known only when its frame is encoded."""
    dataset = native_sample(frames=3)
    dataset.PixelData = dataset.PixelData[:-2] + b"\xff\xff"
    archive.add(dataset)
    assert export(archive, tmp_path / "one", "jpegls").failed != []
    assert export(archive, tmp_path / "two", "jpegls", "explicit").failed == []
    (path,) = files_in(tmp_path / "two")
    assert dcmread(path).PixelData == dataset.PixelData


def test_removed_signatures_are_reported(archive, tmp_path):
    """Once for all instances of an export."""
    told = []
    archive.events.subscribe(lambda event: told.append(event.sentence) if isinstance(event, Notice) else None)
    for number in range(2):
        dataset = sample(J2K, frames=2).compressed
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.NumberOfFrames = 1
        archive.add(dataset)
    assert export(archive, tmp_path / "out", "explicit").failed == []
    assert len(told) == 1
    assert "exported in another transfer syntax: " in told[0]
