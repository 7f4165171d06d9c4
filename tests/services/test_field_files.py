"""Files from the field (decision 88): `pacs import` and `pacs store` understand the same ones, and refuse alike."""

import io
import random
import select
from pathlib import Path
from struct import pack

import pytest

from pacs import client
from pacs.client.sources import instance_in, sources_of
from pacs.dicom import part10, pixel_length
from pacs.dicom.elements import LONGEST, TOO_LONG
from pacs.dicom.syntaxes import (
    DEFLATED_LITTLE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    FRAGMENTS_IN_NATIVE,
    IMPLICIT_LITTLE,
    convert,
)
from pacs.errors import PacsError, StorageUnavailable
from pacs.index import writer
from pacs.services.storage import CHECK_BYTES
from pacs.testing import serving, study
from tests import raw
from tests.dicom.test_elements import FRAGMENTS, SEQUENCE_END, element
from tests.dicom.test_part10 import described
from tests.docs.requests import COMMENT, CT, store, store_command
from tests.raw import Raw
from tests.waiting import eventually

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
    "cut off": (DICM + described(EXPLICIT_LITTLE) + data_set(EXPLICIT_LITTLE)[:-3], part10.FILE_CUT_OFF),
    "cut off in implicit VR": (DICM + described(IMPLICIT_LITTLE) + data_set(IMPLICIT_LITTLE)[:-3], part10.FILE_CUT_OFF),
    "cut off within fragments": (DICM + described(JPEG) + COMPRESSED[:-12], part10.FILE_CUT_OFF),
    "cut off without preamble": (described(EXPLICIT_LITTLE) + data_set(EXPLICIT_LITTLE)[:-3], part10.FILE_CUT_OFF),
    "cut off when deflated": (
        DICM + described(DEFLATED_LITTLE) + data_set(DEFLATED_LITTLE)[:-6], part10.FILE_CUT_OFF
    ),
    "cut off in the second File Meta group": (
        DICM + described(JPEG) + described(EXPLICIT_LITTLE)[:-4] + data_set(EXPLICIT_LITTLE), part10.FILE_CUT_OFF
    ),
    "cut off without preamble and File Meta Information": (data_set(IMPLICIT_LITTLE)[:-3], part10.NOT_DICOM),
    "no deflated data": (DICM + described(DEFLATED_LITTLE) + b"\x99" * 50, "The deflated data set cannot be inflated"),
    "another transfer syntax": (
        DICM + described(EXPLICIT_LITTLE) + b"\x99" * 400, "The data set is not encoded in its transfer syntax"
    ),
    "garbage behind": (
        DICM + described(EXPLICIT_LITTLE) + data_set(EXPLICIT_LITTLE, b"\x99" * 40),
        "An element has no Value Representation",
    ),
    "pixel data of undefined length": (
        DICM + described(EXPLICIT_LITTLE)
        + data_set(EXPLICIT_LITTLE, b"\xe0\x7f\x10\0OW\0\0\xff\xff\xff\xff" + bytes(100)),
        "Pixel data of undefined length is not in fragments",
    ),
    "no study": (DICM + data_set(IMPLICIT_LITTLE, without=0x0020000D), "Missing or not valid: StudyInstanceUID"),
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
    assert said == (FRAGMENTS_IN_NATIVE, FRAGMENTS_IN_NATIVE)


# --- 4 GiB -------------------------------------------------------------------------------------------------------

BIG_IMAGE = {0x00280002: 1, 0x00280010: 40_000, 0x00280011: 60_000, 0x00280100: 16}
"""Attributes of an image whose native pixel data has 4.8 GB."""
BIG = 40_000 * 60_000 * 2
PIECE = bytes(1 << 20)
NATIVE_FORMS = [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG]


def image(syntax: str, length: int, tag: int = 0x7FE00010, attributes: dict[int, int] = BIG_IMAGE) -> bytes:
    """Encode an instance up to the value of its pixel data, whose length is truncated to 32 bits."""
    order = ">" if syntax == EXPLICIT_BIG else "<"
    described = b"".join(element(each, pack("<H", number)) for each, number in attributes.items())
    described = b"".join(convert(io.BytesIO(described), IMPLICIT_LITTLE, syntax))
    vr = b"" if syntax == IMPLICIT_LITTLE else {0x7FE00008: b"OF\0\0", 0x7FE00009: b"OD\0\0"}.get(tag, b"OW\0\0")
    return data_set(
        syntax, described + pack(f"{order}HH", 0x7FE0, tag & 0xFFFF) + vr + pack(f"{order}L", length & 0xFFFFFFFF)
    )


def in_file(path: Path, syntax: str, start: bytes, length: int) -> Path:
    """Write a file whose data set begins like this, and in which so many zeros follow, which are not on the disk."""
    path.write_bytes(DICM + described(syntax) + start)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + length)
    return path


def arriving(archive, syntax: str, start: bytes, length: int, most: int = 1 << 40) -> tuple[int, str]:
    """Receive a data set that begins like this, and in which so many zeros follow.

    Return how many bytes were received until it was refused, `most` at most, and the reason.
    """
    received = 0
    with archive.storage.receive(CT, UID, syntax) as reception:
        try:
            reception.write(start)
            while received < min(length, most):
                received += len(PIECE)
                reception.write(PIECE)
        except PacsError as error:
            return received, error.comment
    return received, ""


def is_clean(archive) -> bool:
    """Whether no file is half-written."""
    return not list((Path(archive.config.files.url) / "incoming").iterdir())


@pytest.mark.parametrize("syntax", NATIVE_FORMS)
@pytest.mark.parametrize("length", [BIG, 0xFFFFFFFF], ids=["the rest of its length", "undefined length"])
def test_native_pixel_data_of_4_gib_is_refused_before_it_is_read(archive, tmp_path: Path, syntax: str, length: int):
    """Its length has more than 32 bits, so that writers truncate it or leave it undefined."""
    path = in_file(tmp_path / "file", syntax, image(syntax, length), BIG)
    assert refusals(archive, path) == (TOO_LONG, TOO_LONG)


@pytest.mark.parametrize("tag", [0x7FE00008, 0x7FE00009])
def test_float_pixel_data_of_4_gib_is_refused_too(archive, tmp_path: Path, tag: int):
    """From a file, and while it arrives."""
    start = image(EXPLICIT_LITTLE, BIG, tag)
    path = in_file(tmp_path / "file", EXPLICIT_LITTLE, start, BIG)
    assert refusals(archive, path) == (TOO_LONG, TOO_LONG)
    assert arriving(archive, EXPLICIT_LITTLE, start, BIG) == (CHECK_BYTES, TOO_LONG)


@pytest.mark.parametrize("syntax", NATIVE_FORMS)
@pytest.mark.parametrize("length", [BIG, 0xFFFFFFFF], ids=["the rest of its length", "undefined length"])
def test_native_pixel_data_of_4_gib_is_refused_while_it_arrives(archive, syntax: str, length: int):
    """The attributes before it say how long it is. Nothing of it is left."""
    assert arriving(archive, syntax, image(syntax, length), BIG) == (CHECK_BYTES, TOO_LONG)
    assert is_clean(archive)


@pytest.mark.parametrize("length", [BIG, 0xFFFFFFFF], ids=["the rest of its length", "undefined length"])
def test_without_attributes_it_is_refused_when_4_gib_follow(archive, length: int, monkeypatch):
    """Or as much as the test takes for it, behind the end that its length says."""
    most = 128 << 20
    monkeypatch.setattr(pixel_length, "LONGEST", most)
    start = image(EXPLICIT_LITTLE, (20 << 20) if length == BIG else length, attributes={})
    received, why = arriving(archive, EXPLICIT_LITTLE, start, BIG, most=2 * most)
    assert (received - most <= CHECK_BYTES + (20 << 20), why) == (True, TOO_LONG)


@pytest.mark.parametrize("kind", ["compressed", "short"])
def test_other_pixel_data_is_received_to_its_end(archive, kind: str):
    """Compressed fragments, and a length that contradicts the attributes, which the archive does not need."""
    start, syntax = {
        "compressed": (image(EXPLICIT_LITTLE, 0xFFFFFFFF), JPEG),
        "short": (image(EXPLICIT_LITTLE, 100 << 20), EXPLICIT_LITTLE),
    }[kind]
    assert arriving(archive, syntax, start, BIG, most=100 << 20) == (100 << 20, "")


def test_the_longest_pixel_data_may_follow_an_icon(tmp_path: Path):
    """More than 4 GiB follow the pixel data of the icon."""
    icon = element(0x00880200, pack("<HHL", 0xFFFE, 0xE000, 10) + element(0x7FE00010, b"ab"))
    start = data_set(IMPLICIT_LITTLE, icon + pack("<HHL", 0x7FE0, 0x0010, LONGEST))
    path = in_file(tmp_path / "file", IMPLICIT_LITTLE, start, LONGEST)
    assert instance_in(path).sop_instance_uid == UID


def test_a_data_set_of_too_many_elements_is_refused_while_it_arrives(archive):
    """The search for the pixel data counts them, so that it takes bounded time."""
    received, why = arriving(archive, IMPLICIT_LITTLE, data_set(IMPLICIT_LITTLE), BIG)
    assert (received, why.startswith("The data set has more than 1000000 elements")) == (CHECK_BYTES, True)


def test_an_instance_is_refused_when_the_disk_fills_while_it_arrives(archive, monkeypatch):
    """`limits.free_space` is kept free for other programs, not only when an instance begins."""
    start = image(EXPLICIT_LITTLE, 100 << 20, attributes={})
    with archive.storage.receive(CT, UID, EXPLICIT_LITTLE) as reception:
        reception.write(start)
        monkeypatch.setattr(archive.files, "least_free", 1 << 62)
        with pytest.raises(StorageUnavailable, match=r"limits\.free_space"):
            for _ in range(100):
                reception.write(PIECE)
    assert is_clean(archive)


def test_a_refused_c_store_is_answered_when_it_has_arrived_and_takes_no_space(archive):
    """The rest is discarded as it arrives; the association goes on (decision 98)."""
    piece = raw.pdv(1, bytes(1 << 16), command=False, last=False)
    with Raw(archive.port) as client:
        client.associate((1, CT, [EXPLICIT_LITTLE]))
        client.send(store_command(CT, UID), raw.pdv(1, image(EXPLICIT_LITTLE, BIG), command=False, last=False))
        client.send(*[piece] * 512)
        eventually(lambda: not is_clean(archive), 60)
        client.send(*[piece] * 768)
        eventually(lambda: is_clean(archive), 60)
        assert not select.select([client.socket], [], [], 0.2)[0]
        client.send(piece, raw.pdv(1, b"", command=False))
        response = client.message()
        assert (response.status, response.text(COMMENT)) == (0xC000, TOO_LONG)
        client.send(raw.request(raw.C_STORE, 1, CT, 2, data_set(EXPLICIT_LITTLE), [raw.element(0x1000, UID.encode())]))
        assert client.message().status == 0x0000


@pytest.mark.long
def test_native_pixel_data_of_4_gib_in_memory_is_refused_before_it_is_encoded():
    """The zeros are never touched, so that they cost address space only."""
    (made,) = study(series=1, instances=1)
    made.PixelData = bytes(1 << 32)
    assert [each.comment for each in sources_of([made]).refused] == [TOO_LONG]
