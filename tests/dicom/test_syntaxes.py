"""The stored transfer syntaxes, and the conversion between native ones."""

import io
import itertools
import os
import shutil
import subprocess
import tracemalloc
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from struct import pack

import pydicom
import pynetdicom
import pytest
from pydicom.dataset import Dataset

from pacs.dicom import syntaxes
from pacs.dicom.dataset_equality import is_same
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE, convert
from pacs.errors import NotSupported, UndecodableDataSet
from tests import real_files
from tests.dicom.test_elements import DAMAGED
from tests.real_files import CheckFiles

NATIVE_FILES = [
    path for path in real_files.PART10 if real_files.transfer_syntax(path) in NATIVE and path.name not in DAMAGED
]
PAIRS = list(itertools.permutations(NATIVE, 2))
SMALL_FILES = [path for path in NATIVE_FILES if path.stat().st_size < 200_000]


def converted(data: bytes, source: str, target: str) -> bytes:
    """A whole data set in another transfer syntax."""
    return b"".join(convert(io.BytesIO(data), source, target))


def read(data: bytes, transfer_syntax: str) -> Dataset:
    """A data set as pydicom's own reader understands it."""
    meta = b"\2\0\x10\0UI" + pack("<H", len(transfer_syntax)) + transfer_syntax.encode()
    if len(transfer_syntax) % 2:
        meta = b"\2\0\x10\0UI" + pack("<H", len(transfer_syntax) + 1) + transfer_syntax.encode() + b"\0"
    return pydicom.dcmread(io.BytesIO(b"\0" * 128 + b"DICM" + meta + data))


def values(dataset: Dataset) -> Iterator[tuple[int, object]]:
    """Every value of a data set in order, without group lengths; bytes that are 16 bit words in little endian.

    Private values of VR UN are left out: pydicom takes them in the byte order of the data set, PS3.5 6.2.2 never does.
    """
    little = dataset.original_encoding[1]
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or (tag.is_private and dataset.get_item(tag).VR == "UN"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield tag, "item"
                yield from values(item)
        elif not little and element.VR in ("OW", "OB or OW") and element.value:
            swapped = bytearray(element.value)
            swapped[::2], swapped[1::2] = swapped[1::2], swapped[::2]
            yield tag, bytes(swapped)
        else:
            yield tag, element.value if element.value or element.value == 0 else None


def test_kept_is_everything_pydicom_and_pynetdicom_know_but_jpip_and_smpte():
    """No transfer syntax of either library is missing, none is listed twice."""
    known = {str(uid) for uid in [*pydicom.uid.AllTransferSyntaxes, *pynetdicom.ALL_TRANSFER_SYNTAXES]}
    reference = {"1.2.840.10008.1.2.4." + end for end in ("94", "95", "204", "205")}
    streams = {uid for uid in known if uid.startswith("1.2.840.10008.1.2.7.")}
    assert set(syntaxes.KEPT) == known - reference - streams
    assert len(set(syntaxes.KEPT)) == len(syntaxes.KEPT)


def test_explicit_is_preferred_to_implicit():
    """Explicit VR Little Endian comes first and Implicit last: private VRs survive."""
    assert syntaxes.KEPT[0] == EXPLICIT_LITTLE
    assert syntaxes.KEPT[-1] == IMPLICIT_LITTLE


@pytest.mark.parametrize("target", NATIVE)
def test_pydicom_reads_the_same_values_from_a_converted_file(check_files: CheckFiles, target: str):
    """Conversion to a native transfer syntax keeps all values."""
    check_files(partial(compare_values, target), SMALL_FILES)


def compare_values(target: str, path: Path) -> None:
    """Compare the values that pydicom reads from a file and from its conversion."""
    data, source = real_files.data_set(path)
    other = converted(data, source, target)
    private = {IMPLICIT_LITTLE} & {source, target}  # private VRs are lost there, their bytes are not
    before, after = (
        [(tag, value) for tag, value in values(read(*each)) if not private or not tag >> 16 & 1]
        for each in ((data, source), (other, target))
    )
    assert after == before


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conversion_there_and_back_gives_the_same_bytes(check_files: CheckFiles, source: str, target: str):
    """A data set converted there and back equals the one that was converted once, byte for byte."""
    check_files(partial(check_round_trip, source, target), SMALL_FILES)


def check_round_trip(source: str, target: str, path: Path) -> None:
    """Convert a file to `source`, from there to `target` and back, and compare."""
    data, stored = real_files.data_set(path)
    middle = DEFLATED_LITTLE if stored == EXPLICIT_BIG else EXPLICIT_BIG  # a first conversion, whatever it is stored in
    there = converted(converted(data, stored, middle), middle, source)
    back = converted(converted(there, source, target), target, source)
    if target != IMPLICIT_LITTLE:
        assert back == there
    else:  # private VRs became UN, the values are the same
        assert is_same(io.BytesIO(there), source, io.BytesIO(back), source)


def test_conversion_from_implicit_vr_and_back_gives_the_same_bytes(check_files: CheckFiles):
    """From Implicit VR to every other native syntax and back: private and unknown elements too."""
    check_files(check_implicit_round_trip, NATIVE_FILES)


def check_implicit_round_trip(path: Path) -> None:
    """Convert a file from Implicit VR to every native transfer syntax and back."""
    data, stored = real_files.data_set(path)
    implicit = converted(data, stored, EXPLICIT_LITTLE if stored == IMPLICIT_LITTLE else IMPLICIT_LITTLE)
    if stored == IMPLICIT_LITTLE:
        implicit = converted(implicit, EXPLICIT_LITTLE, IMPLICIT_LITTLE)
    for target in NATIVE:
        assert converted(converted(implicit, IMPLICIT_LITTLE, target), target, IMPLICIT_LITTLE) == implicit


@pytest.mark.parametrize(
    ("option", "target"),
    [("+ti", IMPLICIT_LITTLE), ("+te", EXPLICIT_LITTLE), ("+tb", EXPLICIT_BIG), ("+td", DEFLATED_LITTLE)],
)
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_bigendian.dcm", "rtplan.dcm", "reportsi.dcm", "image_dfl.dcm"]
)
def test_dcmtk_converts_to_the_same(name: str, option: str, target: str, tmp_path: Path):
    """The result is the same as that of DCMTK's dcmconv."""
    if shutil.which("dcmconv") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("DCMTK's dcmconv is not installed")
    path = real_files.named(name)
    subprocess.run(["dcmconv", option, str(path), str(tmp_path / "out.dcm")], check=True, capture_output=True)
    theirs, syntax = real_files.data_set(tmp_path / "out.dcm")
    assert syntax == target
    ours = converted(*real_files.data_set(path), target)
    assert is_same(io.BytesIO(ours), target, io.BytesIO(theirs), target)


def implicit(*elements: tuple[int, bytes]) -> bytes:
    """A data set in Implicit VR Little Endian."""
    return b"".join(pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value for tag, value in elements)


def vrs(data: bytes) -> dict[int, str]:
    """The VRs an implicit data set gets where VRs are written."""
    return {
        int(element.tag): element.VR
        for element in read(converted(data, IMPLICIT_LITTLE, EXPLICIT_LITTLE), EXPLICIT_LITTLE)
    }


@pytest.mark.parametrize(("representation", "vr"), [(b"\0\0", "US"), (b"\1\0", "SS")])
def test_pixel_representation_decides_between_signed_and_unsigned(representation: bytes, vr: str):
    """Pixel Representation decides between US and SS, also for an element before it."""
    data = implicit((0x00189810, b"\1\0"), (0x00280103, representation), (0x00280106, b"\1\0"))
    found = vrs(data)
    assert (found[0x00189810], found[0x00280106]) == (vr, vr)


def test_implicit_pixel_data_becomes_ow():
    """PS3.5 A.1: Pixel Data in Implicit VR is OW."""
    assert vrs(implicit((0x7FE00010, b"\1\2\3\4")))[0x7FE00010] == "OW"


def test_private_elements_become_un_and_their_creators_lo():
    """PS3.5 6.2.2 and 7.8: unknown elements are UN, a private creator is LO."""
    data = implicit((0x00110010, b"NOBODY  "), (0x00111001, b"\1\2\3\4"))
    explicit = converted(data, IMPLICIT_LITTLE, EXPLICIT_LITTLE)
    assert explicit[4:6] == b"LO"
    assert b"\x11\0\1\x10UN\0\0\4\0\0\0\1\2\3\4" in explicit


def test_a_text_too_long_for_its_vr_becomes_un():
    """A value of 65,536 bytes does not fit a 16 bit length: it becomes UN, and is the same after conversion back."""
    data = implicit((0x00204000, b"x" * 0x10000), (0x00281201, b"\1\2"))
    explicit = converted(data, IMPLICIT_LITTLE, EXPLICIT_BIG)
    assert explicit[4:6] == b"UN"
    assert converted(explicit, EXPLICIT_BIG, IMPLICIT_LITTLE) == data


@pytest.mark.parametrize(
    ("vr", "little", "big"),
    [("US", "0102", "0201"), ("AT", "08001800", "00080018"), ("UL", "01020304", "04030201"), ("OW", "010203", "020103"),
     ("FD", "0102030405060708", "0807060504030201"), ("UV", "0102030405060708", "0807060504030201"),
     ("OF", "01020304", "04030201"), ("OB", "01020304", "01020304"), ("UN", "01020304", "01020304"),
     ("LO", "41424320", "41424320")],
)  # fmt: skip
def test_words_are_swapped_by_their_vr(vr: str, little: str, big: str):
    """Big endian swaps the words of each VR, and nothing in texts, OB and UN."""
    value = bytes.fromhex(little)
    length = pack("<H", len(value)) if vr in syntaxes.SHORT_VRS else pack("<HL", 0, len(value))
    data = b"\x11\0\1\x10" + vr.encode() + length + value
    assert converted(data, EXPLICIT_LITTLE, EXPLICIT_BIG).endswith(bytes.fromhex(big))
    assert converted(converted(data, EXPLICIT_LITTLE, EXPLICIT_BIG), EXPLICIT_BIG, EXPLICIT_LITTLE) == data


@pytest.mark.parametrize("length", [4302, 4303])
def test_a_deflate_stream_gets_an_even_length(length: int):
    """PS3.5 A.5: the missing byte is added, because DCMTK aborts on a fragment of odd length."""
    stream = bytes(range(1, 256)) * 17
    assert converted(stream[:length], DEFLATED_LITTLE, DEFLATED_LITTLE) == stream[:length] + b"\0" * (length % 2)


def test_group_lengths_are_omitted():
    """A group length would be wrong in the other encoding, so there is none."""
    data = implicit((0x00080000, b"\x0a\0\0\0"), (0x00080060, b"CT"))
    assert 0x00080000 not in vrs(data)


@pytest.mark.parametrize("compressed", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98"])
def test_compressed_data_is_not_converted(compressed: str):
    """It is refused before the first piece; conversion to its own transfer syntax works."""
    with pytest.raises(NotSupported):
        convert(io.BytesIO(b""), compressed, EXPLICIT_LITTLE)
    with pytest.raises(NotSupported):
        convert(io.BytesIO(b""), EXPLICIT_LITTLE, compressed)
    assert converted(b"abc", compressed, compressed) == b"abc"


def test_fragments_in_a_native_syntax_are_refused():
    """Encapsulated Pixel Data under a native transfer syntax is an error, not a wrong data set."""
    data = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    with pytest.raises(UndecodableDataSet):
        converted(data, EXPLICIT_LITTLE, IMPLICIT_LITTLE)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_big_values_are_converted_in_constant_memory(source: str, target: str, tmp_path: Path):
    """32 MiB of Pixel Data are converted in pieces."""
    head = b"\xe0\x7f\x10\0OW\0\0" + pack("<L", 32 << 20)
    path = tmp_path / "big"
    with path.open("wb") as file:
        for piece in convert(io.BytesIO(head + bytes(32 << 20)), EXPLICIT_LITTLE, source):
            file.write(piece)
    with path.open("rb") as file:
        tracemalloc.start()
        largest = max(len(piece) for piece in convert(file, source, target))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 << 20
    assert largest < 1 << 20
