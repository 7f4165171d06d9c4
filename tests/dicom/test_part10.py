"""File Meta Information: PS3.10 section 7, docs/checklist.md S4."""

import io
from pathlib import Path

import pydicom
import pytest

from pacs.dicom import part10
from pacs.errors import UndecodableDataSet
from tests.real_files import CheckFiles

CT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2"
DIGEST = "0123456789abcdef" * 4


def our_head(source_ae: str = "MODALITY", digest: str = DIGEST) -> bytes:
    """Return File Meta Information as the archive writes it."""
    head = part10.build_file_meta(CT, "1.2.3.4", IMPLICIT, source_ae, received_at=1_795_000_000_123_456)
    return part10.with_digest(head, digest)


def test_s4_file_meta_has_every_required_element():
    """pydicom reads our File Meta Information and finds the elements of S4, the preamble is zero."""
    file = pydicom.dcmread(io.BytesIO(our_head()))
    meta = file.file_meta
    assert file.preamble == b"\0" * 128
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, "1.2.3.4")
    assert meta.TransferSyntaxUID == IMPLICIT
    assert meta.ImplementationClassUID == part10.IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == part10.IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert meta.PrivateInformationCreatorUID == part10.PRIVATE_INFORMATION_CREATOR_UID


def test_the_group_length_of_file_meta_is_correct():
    """The group length is the number of bytes after it."""
    head = our_head()
    assert pydicom.dcmread(io.BytesIO(head)).file_meta.FileMetaInformationGroupLength == len(head) - 132 - 12


def test_file_meta_has_the_same_length_with_and_without_a_digest():
    """The length is known before the data set arrives."""
    head = part10.build_file_meta(CT, "1.2.3.4", IMPLICIT, "MODALITY", received_at=1_795_000_000_123_456)
    assert len(head) == len(our_head())
    assert our_head(digest="0" * 64) == head


def test_file_meta_is_the_same_after_encoding_and_reading():
    """All data that the index cannot take from the data set can be read again."""
    file = io.BytesIO(our_head() + b"data")
    expected = part10.FileMeta(CT, "1.2.3.4", IMPLICIT, "MODALITY", 1_795_000_000_123_456, DIGEST, len(our_head()))
    assert part10.read_file_meta(file) == expected
    assert file.read() == b"data"


@pytest.mark.parametrize("title", ["../ESCAPED\n", "A\\B", "\x1b[31mX", "ÄÖÜ", "", "MORE THAN SIXTEEN CHARACTERS"])
def test_any_ae_title_becomes_a_valid_element(title: str):
    """For any AE title the element is a valid AE and can be read again."""
    head = part10.read_file_meta(io.BytesIO(our_head(title)))
    assert len(head.source_ae) <= 16
    assert head.source_ae.isprintable()
    assert "\\" not in head.source_ae


def test_file_meta_of_other_implementations_is_read_as_pydicom_reads_it(check_files: CheckFiles):
    """Transfer syntax, SOP Class and SOP Instance UID of real files are those that pydicom reads."""
    check_files(compare_file_meta)


def compare_file_meta(path: Path) -> None:
    """Compare the File Meta Information of a file with what pydicom reads."""
    meta = pydicom.dcmread(path, stop_before_pixels=True, force=True).file_meta
    with path.open("rb") as file:
        head = part10.read_file_meta(file)
    assert head.transfer_syntax == meta.get("TransferSyntaxUID", "")
    assert head.sop_class_uid == meta.get("MediaStorageSOPClassUID", "")
    assert head.sop_instance_uid == meta.get("MediaStorageSOPInstanceUID", "")
    assert (head.received_at, head.digest) == (None, None)


def test_a_missing_preamble_is_tolerated():
    """A file may begin with DICM, or with group 0002 itself."""
    whole = our_head()
    assert part10.read_file_meta(io.BytesIO(whole[128:])).sop_instance_uid == "1.2.3.4"
    assert part10.read_file_meta(io.BytesIO(whole[132:])).sop_instance_uid == "1.2.3.4"


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 128 + b"DICM", b"not a DICOM file" * 20])
def test_a_file_without_file_meta_information_is_refused(content: bytes):
    """An empty or foreign file gives a named error."""
    with pytest.raises(UndecodableDataSet):
        part10.read_file_meta(io.BytesIO(content))


@pytest.mark.parametrize("length", [4, 0xFFFFFFF0])
def test_damaged_file_meta_is_refused_without_reading_much(length: int):
    """A length beyond the end of the file, or of four gigabytes, is an error and needs no memory."""
    damaged = b"\0" * 128 + b"DICM" + b"\2\0\1\0OB\0\0" + length.to_bytes(4, "little") + b"\0"
    with pytest.raises(UndecodableDataSet):
        part10.read_file_meta(io.BytesIO(damaged))


def test_private_information_of_other_creators_is_ignored():
    """The private text counts only with the archive's own creator UID."""
    creator = part10.PRIVATE_INFORMATION_CREATOR_UID
    foreign = our_head().replace(creator.encode(), creator[::-1].encode())
    assert part10.read_file_meta(io.BytesIO(foreign)).digest is None
