"""Data sets of careless writers (decision 88): stored as they are, found, sent as they are and in other encodings."""

import io
from struct import pack

import pydicom
import pytest
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelGet

from pacs.dicom.dataset_equality import is_same
from pacs.dicom.syntaxes import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
from pacs.services.reindex import Reindex, Reindexed
from pacs.testing import serving
from tests.archives import identifier
from tests.dicom.test_elements import ITEM_END, SEQUENCE_END, element
from tests.dicom.test_field_data_sets import item, no_vr, sequence
from tests.docs.requests import Requestor, store
from tests.upkeep import rows

RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
REFERENCE = item(element(0x00081150, b"1.2.840.10008.5.1.4.1.1.2\0") + element(0x00081155, b"1.2.3\0"))
PIXELS = bytes(range(128))


def instance(uid: str, changes: dict[int, bytes], end: bytes = b"") -> bytes:
    """Encode an image in Implicit VR with other elements, which are encoded already, and bytes behind it."""
    elements = {
        0x00080016: b"1.2.840.10008.5.1.4.1.1.2\0", 0x00080018: uid.encode() + b"\0" * (len(uid) % 2),
        0x00080060: b"CT", 0x00100010: b"FIELD^DATA", 0x00100020: b"FIELD ", 0x0020000D: b"1.2.4\0",
        0x0020000E: b"1.2.5\0", 0x00280002: pack("<H", 1), 0x00280004: b"MONOCHROME2 ", 0x00280010: pack("<H", 8),
        0x00280011: pack("<H", 8), 0x00280100: pack("<H", 16), 0x00280101: pack("<H", 16), 0x00280102: pack("<H", 15),
        0x00280103: pack("<H", 0), 0x7FE00010: PIXELS,
    }  # fmt: skip
    encoded = {tag: element(tag, value) for tag, value in elements.items()} | changes
    return b"".join(encoded[tag] for tag in sorted(encoded)) + end


def explicitly(uid: str, changes: dict[int, bytes], end: bytes = b"", syntax: str = EXPLICIT_LITTLE) -> bytes:
    """Encode an image with explicit VRs; its changed elements are encoded in that already."""
    order = ">" if syntax == EXPLICIT_BIG else "<"
    plain = b"".join(convert(io.BytesIO(instance(uid, {})), IMPLICIT_LITTLE, syntax))
    for tag, changed in changes.items():
        at = plain.index(pack(order + "HH", tag >> 16, tag & 0xFFFF))
        plain = plain[:at] + changed + plain[at + len(changed) :]  # of the same length
    return plain + end


def made(uid: str) -> dict[str, tuple[str, bytes]]:
    """Transfer syntax and data set of an instance of each kind, by its name."""
    short = sequence(0x00081140, REFERENCE, len(REFERENCE) - 10)
    kinds = {
        f"VR {letters!r} of Rows": (
            EXPLICIT_LITTLE,
            explicitly(uid, {0x00280010: no_vr(0x00280010, letters, b"\x08\0")}),
        )
        for letters in (b"  ", b"\0\0", b"??", b"--")
    }
    big = {0x00280010: no_vr(0x00280010, b"??", b"\0\x08", order=">")}
    return kinds | {
        "no VR in big endian": (EXPLICIT_BIG, explicitly(uid, big, syntax=EXPLICIT_BIG)),
        "no VR of Pixel Data": (
            EXPLICIT_LITTLE, explicitly(uid, {0x7FE00010: no_vr(0x7FE00010, b"  ", PIXELS, is_long=True)})
        ),
        "a short sequence": (IMPLICIT_LITTLE, instance(uid, {0x00081140: short})),
        "a sequence that counts one item": (
            IMPLICIT_LITTLE, instance(uid, {0x00081140: sequence(0x00081140, REFERENCE * 3, len(REFERENCE))})
        ),
        "a stray item delimiter": (IMPLICIT_LITTLE, instance(uid, {}, ITEM_END)),
        "stray delimiters in explicit VR": (EXPLICIT_LITTLE, explicitly(uid, {}, ITEM_END + SEQUENCE_END)),
        "delimiters behind lengths": (
            IMPLICIT_LITTLE, instance(uid, {0x00081140: sequence(0x00081140, REFERENCE + ITEM_END) + SEQUENCE_END})
        ),
        "a code string in place of a sequence": (
            IMPLICIT_LITTLE, instance(uid, {0x0040A170: element(0x0040A170, b"CLINICAL")})
        ),
    }  # fmt: skip


KINDS = list(made("1.2.3"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A running archive."""
    with serving(tmp_path_factory.mktemp("field")) as running:
        yield running


def retrieved(archive, uid: str, syntax: str) -> bytes:
    """Return the data set that a C-GET sends in a context with this transfer syntax alone."""
    arrived = []

    def take(event):
        arrived.append(event.request.DataSet.getvalue())
        return 0x0000

    ae = AE("GETTER")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_requested_context(CTImageStorage, [syntax])
    association = ae.associate(
        "127.0.0.1", archive.port, ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, take)],
    )  # fmt: skip
    asked = pydicom.dcmread(io.BytesIO(identifier("IMAGE", SOPInstanceUID=uid)), force=True)
    *_, (final, _) = association.send_c_get(asked, StudyRootQueryRetrieveInformationModelGet)
    association.release()
    assert final.Status == 0x0000
    return arrived[0]


@pytest.mark.parametrize("kind", KINDS)
def test_s13_a_careless_data_set_is_stored_found_and_retrieved(archive, kind: str):
    """Byte for byte as it came; with the same values in the other native encodings; with the same pixels compressed."""
    uid = f"1.2.3.{KINDS.index(kind)}"
    syntax, data = made(uid)[kind]
    assert store(archive.port, data, syntax=syntax, instance=uid).status == 0x0000
    with Requestor(archive.port) as requestor:
        (found,) = requestor.found("IMAGE", SOPInstanceUID=uid, Rows=None, PatientID="FIELD", PatientName="")
    assert (found.Rows, found.PatientName) == (8, "FIELD^DATA")
    assert retrieved(archive, uid, syntax) == data
    for other in set(NATIVE) - {syntax}:
        assert is_same(io.BytesIO(retrieved(archive, uid, other)), other, io.BytesIO(data), syntax)
    image = pydicom.dcmread(io.BytesIO(retrieved(archive, uid, RLE)), force=True)
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.UID(RLE)
    assert image.pixel_array.tobytes() == PIXELS


def test_s13_a_careless_data_set_is_reindexed_to_the_same_rows(tmp_path):
    """The index is what the files say, whoever wrote them."""
    with serving(tmp_path) as archive:
        for number, kind in enumerate(KINDS):
            syntax, data = made(f"1.2.3.{number}")[kind]
            assert store(archive.port, data, syntax=syntax, instance=f"1.2.3.{number}").status == 0x0000
        before = rows(archive.index)
        assert Reindex(archive.index, archive.files, grace=0).run() == Reindexed(images=len(KINDS))
        assert rows(archive.index) == before
