"""File Meta Information: PS3.10 section 7, docs/checklist.md S4."""

import io
from pathlib import Path
from struct import pack

import pydicom
import pytest

from pacs.dicom import part10
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE
from pacs.errors import UndecodableDataSet
from tests.real_files import CheckFiles

JPEG = "1.2.840.10008.1.2.4.50"
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


def described(syntax: str, group_length: int | None = None) -> bytes:
    """Return a File Meta Information group of two elements, with its length, another one, or none at all (0)."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    elements = b"\2\0\x10\0UI" + pack("<H", len(value)) + value + b"\2\0\x16\0AE\2\0ME"
    length = len(elements) if group_length is None else group_length
    return (b"\2\0\0\0UL\4\0" + pack("<L", length) if length else b"") + elements


@pytest.mark.parametrize("preamble", [part10.PREAMBLE, b"DICM", b""], ids=["preamble", "DICM", "none"])
def test_the_group_length_decides_which_of_two_file_meta_groups_counts(preamble: bytes):
    """A second one is from another file and passed; a wrong length of the only one has no effect."""
    first, second = described(JPEG), described(EXPLICIT_LITTLE)
    for head, syntax in (
        (first + second, JPEG),
        (second + first, EXPLICIT_LITTLE),
        (described(JPEG, len(first) - 12 + len(second)) + second, EXPLICIT_LITTLE),
        (described(JPEG, 4), JPEG),
        (described(JPEG, 1000), JPEG),
        (described(JPEG, 0), JPEG),
    ):
        file = io.BytesIO(preamble + head + b"\x08\0data")
        for read in (part10.read_file_meta, part10.find_data_set):
            file.seek(0)
            assert read(file).transfer_syntax == syntax
            assert file.read() == b"\x08\0data"


FIRST = {
    IMPLICIT: b"\x08\0\5\0\x0a\0\0\0ISO_IR 100",
    EXPLICIT_LITTLE: b"\x08\0\5\0CS\x0a\0ISO_IR 100",
    EXPLICIT_BIG: b"\0\x08\0\5CS\0\x0aISO_IR 100",
}
"""The first element of a data set in each native transfer syntax."""


@pytest.mark.parametrize("actual", FIRST)
@pytest.mark.parametrize("named", [IMPLICIT, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED_LITTLE, ""])
def test_the_first_element_shows_a_wrong_native_transfer_syntax(named: str, actual: str):
    """With File Meta Information that names another one or none, and without any."""
    file = io.BytesIO(part10.PREAMBLE + described(named) + FIRST[actual])
    is_shown = named != DEFLATED_LITTLE or actual != IMPLICIT
    assert part10.find_data_set(file).transfer_syntax == (actual if is_shown else named)
    for start in (part10.PREAMBLE, b"DICM", b""):
        found = part10.find_data_set(io.BytesIO(start + FIRST[actual]))
        assert (found.transfer_syntax, found.data_offset) == (actual, len(start))


@pytest.mark.parametrize("letters", [b"  ", b"\0\0", b"??", b"--"])
def test_a_first_element_without_vr_shows_nothing(letters: bytes):
    """The named transfer syntax counts."""
    file = io.BytesIO(described(EXPLICIT_LITTLE) + b"\x08\0\5\0" + letters + b"\x0a\0ISO_IR 100")
    assert part10.find_data_set(file).transfer_syntax == EXPLICIT_LITTLE


@pytest.mark.parametrize("named", [JPEG, "1.2.3.4"])
def test_a_first_element_does_not_show_how_pixel_data_is_compressed(named: str):
    """The named transfer syntax counts, also an unknown one."""
    for first in FIRST.values():
        file = io.BytesIO(described(named) + first)
        assert part10.find_data_set(file).transfer_syntax == named


def test_private_information_of_other_creators_is_ignored():
    """The private text counts only with the archive's own creator UID."""
    creator = part10.PRIVATE_INFORMATION_CREATOR_UID
    foreign = our_head().replace(creator.encode(), creator[::-1].encode())
    assert part10.read_file_meta(io.BytesIO(foreign)).digest is None
