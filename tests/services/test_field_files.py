"""Files from the field (decision 88): `pacs import` and `pacs store` understand the same ones, and refuse alike."""

import io
import random
from pathlib import Path
from struct import pack

import pytest

from pacs import client
from pacs.client.sources import sources_of
from pacs.dicom import part10
from pacs.dicom.elements import TOO_LONG
from pacs.dicom.syntaxes import (
    DEFLATED_LITTLE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    FRAGMENTS_IN_NATIVE,
    IMPLICIT_LITTLE,
    convert,
)
from pacs.errors import PacsError
from pacs.index import writer
from pacs.testing import serving, study
from tests.dicom.test_elements import FRAGMENTS, SEQUENCE_END, element
from tests.dicom.test_part10 import described
from tests.docs.requests import store

JPEG = "1.2.840.10008.1.2.4.50"
UID = "1.2.3"
DICM = bytes(128) + b"DICM"
ELEMENTS = {
    0x00080016: b"1.2.840.10008.5.1.4.1.1.2\0", 0x00080018: b"1.2.3\0", 0x00080060: b"CT", 0x00100020: b"P1",
    0x0020000D: b"1.2.4\0", 0x0020000E: b"1.2.5\0",
}  # fmt: skip


def data_set(syntax: str, behind: bytes = b"", without: int = 0) -> bytes:
    """Encode a small instance, with bytes behind it."""
    implicit = b"".join(element(tag, value) for tag, value in ELEMENTS.items() if tag != without)
    return b"".join(convert(io.BytesIO(implicit), IMPLICIT_LITTLE, syntax)) + behind


COMPRESSED = data_set(EXPLICIT_LITTLE, FRAGMENTS + SEQUENCE_END)

UNDERSTOOD = {
    "preamble and DICM without File Meta Information": (DICM, IMPLICIT_LITTLE, data_set(IMPLICIT_LITTLE)),
    "the same in explicit VR": (DICM, EXPLICIT_LITTLE, data_set(EXPLICIT_LITTLE)),
    "the same in big endian": (DICM, EXPLICIT_BIG, data_set(EXPLICIT_BIG)),
    "DICM alone": (b"DICM", EXPLICIT_LITTLE, data_set(EXPLICIT_LITTLE)),
    "a data set alone": (b"", IMPLICIT_LITTLE, data_set(IMPLICIT_LITTLE)),
    "no preamble": (described(JPEG), JPEG, COMPRESSED),
    "explicit named implicit": (DICM + described(IMPLICIT_LITTLE), EXPLICIT_LITTLE, data_set(EXPLICIT_LITTLE)),
    "implicit named explicit": (DICM + described(EXPLICIT_LITTLE), IMPLICIT_LITTLE, data_set(IMPLICIT_LITTLE)),
    "big endian named little": (DICM + described(EXPLICIT_LITTLE), EXPLICIT_BIG, data_set(EXPLICIT_BIG)),
    "not deflated named deflated": (DICM + described(DEFLATED_LITTLE), EXPLICIT_LITTLE, data_set(EXPLICIT_LITTLE)),
    "no transfer syntax named": (DICM + described(""), IMPLICIT_LITTLE, data_set(IMPLICIT_LITTLE)),
    "two File Meta groups": (DICM + described(JPEG) + described(EXPLICIT_LITTLE), JPEG, COMPRESSED),
    "two groups of which the second is implicit": (
        DICM + described(IMPLICIT_LITTLE) + element(0x00020010, JPEG.encode()),
        IMPLICIT_LITTLE, data_set(IMPLICIT_LITTLE),
    ),
}  # fmt: skip
"""What precedes the data set in a file, and the transfer syntax and bytes of the data set."""

REFUSED = {
    "a text": (b"hello\n" * 100, part10.NOT_DICOM),
    "noise": (random.Random(1).randbytes(5000), part10.NOT_DICOM),
    "nothing": (b"", part10.NOT_DICOM),
    "zeros": (bytes(5000), part10.NOT_DICOM),
    "damaged File Meta Information": (DICM + described(JPEG)[:-1], "The File Meta Information is damaged"),
    "no SOP Instance UID": (
        DICM + data_set(IMPLICIT_LITTLE, without=0x00080018), "Missing or not valid: SOPInstanceUID"
    ),
    "a directory": (
        DICM + element(0x00020002, b"1.2.840.10008.1.3.10") + data_set(IMPLICIT_LITTLE),
        "A DICOMDIR is a directory: send the instances it lists",
    ),
}  # fmt: skip
"""Files that are refused, and the message."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A running archive, which replaces the instance that it has."""
    with serving(tmp_path_factory.mktemp("field"), {"storage.duplicates": "replace"}) as running:
        yield running


def stored(archive) -> tuple[str, bytes]:
    """Return the transfer syntax and the data set of the stored instance."""
    row = writer.find(archive.index, UID)
    with archive.files.open(row.file_key) as file:
        file.seek(row.data_offset)
        return row.transfer_syntax, file.read()


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_s13_a_file_from_the_field_is_stored_by_import_and_by_store(archive, tmp_path: Path, kind: str):
    """With the transfer syntax that its data set has, and the same bytes."""
    start, syntax, data = UNDERSTOOD[kind]
    path = tmp_path / "file"
    path.write_bytes(start + data)
    archive.storage.import_file(path)
    assert stored(archive) == (syntax, data)
    other = data_set(IMPLICIT_LITTLE, element(0x00204000, b"other "))
    assert store(archive.port, other, syntax=IMPLICIT_LITTLE, instance=UID).status == 0x0000
    sent = client.store(f"{archive.ae_title}@127.0.0.1:{archive.port}", path)
    assert (sent.completed, sent.failed) == (1, ())
    assert stored(archive) == (syntax, data)


def refusals(archive, path: Path) -> tuple[str, str]:
    """Return the messages of an import and of a store."""
    with pytest.raises(PacsError) as refused:
        archive.storage.import_file(path)
    (failed,) = client.store(f"{archive.ae_title}@127.0.0.1:{archive.port}", path).failed
    return refused.value.comment, failed.comment


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_is_refused_alike_by_import_and_by_store(archive, tmp_path: Path, kind: str):
    """With one message each."""
    content, message = REFUSED[kind]
    (tmp_path / "file").write_bytes(content)
    assert refusals(archive, tmp_path / "file") == (message, message)


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG])
def test_s3_compressed_pixel_data_is_never_stored_as_uncompressed(archive, tmp_path: Path, syntax: str):
    """From a file whose only File Meta group names a native transfer syntax, and from a C-STORE."""
    fragments = (
        b"".join(convert(io.BytesIO(b""), IMPLICIT_LITTLE, syntax))
        + {
            EXPLICIT_LITTLE: FRAGMENTS + SEQUENCE_END,
            IMPLICIT_LITTLE: FRAGMENTS[:4] + FRAGMENTS[8:] + SEQUENCE_END,
            EXPLICIT_BIG: b"\x7f\xe0\0\x10OB\0\0\xff\xff\xff\xff\xff\xfe\xe0\0\0\0\0\2ab\xff\xfe\xe0\xdd\0\0\0\0",
        }[syntax]
    )
    (tmp_path / "file").write_bytes(DICM + described(syntax) + data_set(syntax, fragments))
    said = refusals(archive, tmp_path / "file")
    assert said[0] == FRAGMENTS_IN_NATIVE
    assert FRAGMENTS_IN_NATIVE in said[1]


# --- 4 GiB -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
@pytest.mark.parametrize("length", [(1 << 32) + 1000, 0xFFFFFFFF], ids=["the rest of its length", "undefined length"])
def test_native_pixel_data_of_4_gib_is_refused_before_it_is_read(archive, tmp_path: Path, syntax: str, length: int):
    """Its length has more than 32 bits, so that writers truncate it or leave it undefined. The file is sparse."""
    head = b"\xe0\x7f\x10\0" + (b"OW\0\0" if syntax == EXPLICIT_LITTLE else b"") + pack("<L", length & 0xFFFFFFFF)
    path = tmp_path / "file"
    path.write_bytes(DICM + described(syntax) + data_set(syntax, head))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + max(length, 1 << 32) + 2)
    assert refusals(archive, path) == (TOO_LONG, TOO_LONG)


@pytest.mark.long
def test_native_pixel_data_of_4_gib_in_memory_is_refused_before_it_is_encoded():
    """The zeros are never touched, so that they cost address space only."""
    (made,) = study(series=1, instances=1)
    made.PixelData = bytes(1 << 32)
    assert [each.comment for each in sources_of([made]).refused] == [TOO_LONG]
