"""Compressed images: stored at receivers that do not accept them, converted with `send_as`, and loaded as series."""

import random
import re
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from pacs import client
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from pacs.pixels.target_names import SHORT_NAMES
from pacs.testing import serving, study
from tests.client.images import read, same
from tests.client.scripted import answer, scripted
from tests.client.test_interop import other
from tests.pixels.samples import SYNTAXES, file_of, native_sample, pixels_of, sample
from tests.programs import free_port, storescp

J2K, RLE, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"


def samples(*photometrics):
    """Return a sample in each transfer syntax and colour, each of its own instance."""
    return numbered([sample(syntax, photometric) for syntax in SYNTAXES for photometric in photometrics])


def numbered(made, start=1):
    """Give each sample an instance of its own."""
    for number, each in enumerate(made, start):
        for dataset in (each.compressed, each.native):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    return made


@contextmanager
def accepting(*accepted):
    """Run a receiver that accepts these transfer syntaxes only; yield its peer, and the syntaxes of what it gets."""
    syntaxes = []

    def store(association, message):
        message.drain()
        syntaxes.append(message.context.transfer_syntax)
        answer(association, message, 0x0000)

    with scripted(syntaxes=accepted, store=store) as pacs:
        yield pacs.peer, syntaxes


def differences(arrived, made):
    """Return by how much pixels differ too much, by transfer syntax of the compressed instance; {} if none does."""
    found = {each.SOPInstanceUID: each for each in map(dcmread, arrived)}
    wrong = {}
    for each in made:
        dataset = found[each.native.SOPInstanceUID]
        assert dataset.file_meta.TransferSyntaxUID in (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
        difference = numpy.abs(pixels_of(dataset).astype(int) - each.pixels.astype(int)).max()
        if difference > each.difference:
            wrong[each.transfer_syntax, each.native.PhotometricInterpretation] = difference
    return wrong


def paths_of(datasets, folder):
    """Write data sets to files."""
    folder.mkdir()
    for number, each in enumerate(datasets):
        (folder / f"{number}.dcm").write_bytes(file_of(each))
    return sorted(folder.iterdir())


# --- store ---------------------------------------------------------------------------------------------------------


def test_a_receiver_of_uncompressed_images_gets_every_syntax(tmp_path):
    """DCMTK's storescp, which accepts no compressed context; from files and from memory."""
    made = samples("MONOCHROME2", "RGB")
    halves = made[::2], made[1::2]
    files = paths_of([each.compressed for each in halves[0]], tmp_path / "files")
    with storescp(tmp_path / "in", "STORE_SCP", "+B") as scp:
        sent = client.store(f"{scp.ae_title}@127.0.0.1:{scp.port}", files, [each.compressed for each in halves[1]])
        assert [(str(each.what)[:80], each.comment) for each in sent.failed] == []
        assert differences(scp.files(), made) == {}


def test_a_receiver_of_everything_gets_images_as_they_are(tmp_path):
    """Bit for bit, without a decoder process."""
    compressed = [each.compressed for each in samples("MONOCHROME2")]
    with client.receiving(tmp_path / "in") as receiver:
        sent = client.store(f"X@127.0.0.1:{receiver.port}", compressed)
        assert (sent.failed, sent.converted) == ((), 0)
        arrived = list(map(dcmread, receiver.arrived))
    assert [each.file_meta.TransferSyntaxUID for each in arrived] == list(SYNTAXES)
    assert [each.PixelData for each in arrived] == [each.PixelData for each in compressed]


def test_orthanc_gets_uncompressed_images_on_demand(tmp_path):
    """It accepts compressed ones too. What it sends back has the pixels of the originals."""
    made = samples("MONOCHROME2")
    for each in made:
        each.compressed.StudyInstanceUID = "1.2.3"
    with other("orthanc", tmp_path / "orthanc") as pacs:
        assert client.store(pacs.peer, [each.compressed for each in made], send_as="explicit").failed == ()
        got = client.get(pacs.peer, {"StudyInstanceUID": "1.2.3"}, to=tmp_path / "to")
    assert differences(got.paths, made) == {}


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, JPEG_LS, RLE])
def test_images_are_converted_into_the_only_syntax_of_a_receiver(tmp_path, syntax):
    """Also into a compressed one; native and compressed images."""
    with accepting(syntax) as (peer, syntaxes):
        sent = client.store(peer, native_sample(), sample(J2K).compressed)
    assert (sent.completed, sent.failed, syntaxes) == (2, (), [syntax, syntax])
    assert sent.converted == 1 + (syntax != IMPLICIT_LITTLE)  # a native image is not changed by another native syntax


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_send_as_converts_every_image(tmp_path, name):
    """Compressed and native ones arrive in that syntax; decompressed again, the pixels are those of the original."""
    made = numbered([sample(J2K), sample(RLE, "RGB")])
    natives = [each.native for each in numbered([sample(J2K, frames=3)], 10)]
    with client.receiving(tmp_path / "in") as receiver:
        peer = f"X@127.0.0.1:{receiver.port}"
        sent = client.store(peer, [each.compressed for each in made], natives, send_as=name)
        assert (sent.completed, sent.failed) == (3, ())
        arrived = receiver.arrived
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in arrived} == {SHORT_NAMES[name]}
    with client.receiving(tmp_path / "again") as receiver:
        assert client.store(f"X@127.0.0.1:{receiver.port}", arrived, send_as="explicit").failed == ()
        assert differences(receiver.arrived, made) == {}


def damaged():
    """Return an instance whose frame ends in the middle."""
    dataset = sample(J2K).compressed
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    return dataset


def test_an_image_that_cannot_be_converted_fails_alone(tmp_path):
    """With its reason; also several one after the other, which are no fault of the receiver."""
    (video,) = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102", patient_id="V")
    bad = [damaged(), damaged(), damaged(), video]
    good = [each.compressed for each in numbered([sample(RLE), sample(JPEG_LS)])]
    with accepting(EXPLICIT_LITTLE) as (peer, _):
        sent = client.store(peer, bad, good)
    assert (sent.completed, [each.what for each in sent.failed]) == (2, bad)
    assert [each.comment for each in sent.failed] == [
        *["A compressed frame is truncated"] * 3,
        "The peer does not accept MPEG-4 AVC/H.264 High Profile / Level 4.1",
    ]


def test_send_as_says_why_an_image_is_not_sent():
    """Because the receiver does not accept the syntax, or because nothing is converted into it."""
    (video,) = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102", patient_id="V")
    wide = native_sample()
    wide.BitsAllocated = wide.BitsStored = 32
    wide.HighBit = 31
    wide.PixelData += wide.PixelData
    with accepting(EXPLICIT_LITTLE, J2K) as (peer, syntaxes):
        sent = client.store(peer, native_sample(), send_as=["jpegls", "rle"])
        assert sent.failed[0].comment == "The peer does not accept JPEG-LS Lossless Image Compression or RLE Lossless"
        sent = client.store(peer, video, send_as="explicit")
        expected = "MPEG-4 AVC/H.264 High Profile / Level 4.1 is not converted into Explicit VR Little Endian"
        assert sent.failed[0].comment == expected
        sent = client.store(peer, wide, send_as="j2k")
        assert sent.failed[0].comment.startswith("JPEG 2000 Image Compression (Lossless Only): ")
        assert client.store(peer, wide, send_as=["j2k", "explicit"]).failed == ()
    assert syntaxes == [EXPLICIT_LITTLE]


@pytest.mark.parametrize("accepted", [(IMPLICIT_LITTLE, JPEG_LS), (IMPLICIT_LITTLE,)])
def test_an_instance_without_pixel_data_is_sent_uncompressed(accepted):
    """A document among images that are sent in JPEG-LS, whether or not the receiver accepts that for documents."""
    (document,) = study(series=1, instances=1, modality="DOC")
    with accepting(*accepted) as (peer, syntaxes):
        sent = client.store(peer, document, native_sample(), send_as="jpegls")
    assert syntaxes == [*accepted]
    assert [each.what.Modality for each in sent.failed] == ["OT"] * (JPEG_LS not in accepted)


def test_what_a_conversion_changes_beyond_the_encoding_is_said():
    """Once for all instances, and not for those that are sent as they are."""
    long = [each.compressed for each in numbered([sample(J2K, frames=2), sample(J2K, frames=2)])]
    for each in long:
        each.NumberOfFrames = 1
    with accepting(EXPLICIT_LITTLE, J2K) as (peer, _):
        assert client.store(peer, long).notices == ()
        assert client.store(peer, long, send_as="explicit").notices == (
            "Pixel Data has 2 frames; those after the declared 1 were dropped",
        )


def test_an_unknown_name_is_refused():
    """Before anything is sent."""
    with pytest.raises(client.InvalidArgument, match="expected explicit, implicit, rle, jpegls, j2k, htj2k"):
        client.store("X@127.0.0.1:1", native_sample(), send_as="zip")


# --- load_series ---------------------------------------------------------------------------------------------------


def slices(photometric, bits, syntaxes, series):
    """Return a series of samples at following positions, in random order: each in another transfer syntax."""
    made = [sample(syntax, photometric, bits=bits, frames=len(syntaxes)) for syntax in syntaxes]
    for place, each in enumerate(made):
        (frame, *_) = list(generate_frames(each.compressed.PixelData, number_of_frames=len(made)))[place:]
        size = len(each.native.PixelData) // len(made)
        each.compressed.PixelData = encapsulate([frame])
        each.native.PixelData = each.native.PixelData[size * place : size * (place + 1)]
        for dataset in (each.compressed, each.native):
            del dataset.NumberOfFrames
            dataset.SeriesInstanceUID = series
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{series}.{place}"
            dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [0, 1, 0, 0, 0, 1], [2.5 * place, 20, 30]
            dataset.PixelSpacing = [0.5, 0.75]
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive for all series of this module."""
    with serving(tmp_path_factory.mktemp("pacs")) as server:
        yield server


EIGHT_BITS = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.111")
"""The transfer syntaxes of JPEG with 8 bits: baseline, and recompressed as JPEG XL."""


def above(difference, made):
    """Return the differences of slices that are larger than those of their transfer syntaxes."""
    largest = numpy.abs(difference).reshape(len(made), -1).max(axis=1)
    return {each.transfer_syntax: most for each, most in zip(made, largest, strict=True) if most > each.difference}


@pytest.mark.parametrize(("photometric", "bits"), [("MONOCHROME2", 8), ("MONOCHROME2", 12), ("RGB", 8)])
def test_a_compressed_series_is_loaded_like_the_original(archive, tmp_path, photometric, bits):
    """Every syntax is decoded; geometry and, except for lossy ones, pixels are the same. The files do not change."""
    syntaxes = [each for each in SYNTAXES if bits == 8 or each not in EIGHT_BITS]
    series = f"1.2.{bits}.{len(photometric)}"
    made = slices(photometric, bits, syntaxes, series)
    archive.add([each.compressed for each in random.sample(made, len(made))])
    image = client.load_series(archive.address, SeriesInstanceUID=series, to=tmp_path / "to")
    expected = read(tmp_path / "native", [each.native for each in made])
    assert (image.GetSize(), image.GetPixelIDTypeAsString()) == (expected.GetSize(), expected.GetPixelIDTypeAsString())
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(image, geometry)() == getattr(expected, geometry)()
    pixels, original = (SimpleITK.GetArrayFromImage(each).astype(int) for each in (image, expected))
    assert above(pixels - original, made) == {}
    files = {path.stem: dcmread(path).file_meta.TransferSyntaxUID for path in (tmp_path / "to").rglob("*.dcm")}
    assert files == {each.native.SOPInstanceUID: each.transfer_syntax for each in made}

    found = client.load_datasets(archive.address, SeriesInstanceUID=series, to=tmp_path / "to")
    assert [Path(each.filename).stem for each in found] == [each.native.SOPInstanceUID for each in made]
    assert above(numpy.concatenate(list(map(pixels_of, found))).astype(int) - original, made) == {}


@pytest.mark.parametrize("syntax", [EXPLICIT_BIG, DEFLATED_LITTLE])
def test_a_series_in_another_uncompressed_syntax_is_loaded(archive, tmp_path, syntax):
    """Big Endian and deflated data sets, which a PACS may send."""
    series = f"1.2.3.{len(syntax)}"
    native = [each.native for each in slices("MONOCHROME2", 12, [RLE, J2K, JPEG_LS], series)]
    archive.add(native)
    with client.receiving(tmp_path / "to") as receiver:
        assert client.store(f"X@127.0.0.1:{receiver.port}", native, send_as=syntax).failed == ()
        assert {dcmread(path).file_meta.TransferSyntaxUID for path in receiver.arrived} == {syntax}
    image = client.load_series(archive.address, SeriesInstanceUID=series, to=tmp_path / "to")
    assert same(image, read(tmp_path / "native", native))


def test_a_series_that_cannot_be_decompressed_is_no_image(archive):
    """The error has the reason; as data sets it is returned as it is, with a warning."""
    (video,) = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102", patient_id="V")
    archive.add(video)
    reason = "MPEG-4 AVC/H.264 High Profile / Level 4.1 is not converted into Explicit VR Little Endian"
    with pytest.raises(client.NotAVolume, match=f"{re.escape(reason)}.*: use load_datasets"):
        client.load_series(archive.address, patient_id="V")
    with pytest.warns(client.StillCompressed, match=f"1 of 1 data sets are not decompressed: {re.escape(reason)}"):
        (found,) = client.load_datasets(archive.address, patient_id="V")
    assert found.PixelData == video.PixelData


# --- retrieves -----------------------------------------------------------------------------------------------------

USUAL = {J2K, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50"}


@pytest.fixture(scope="module")
def every_syntax(tmp_path_factory):
    """An archive with an image in each transfer syntax, and its UIDs of these images."""
    home = {"ae_title": "HOME", "host": "127.0.0.1", "port": free_port()}
    with serving(tmp_path_factory.mktemp("every"), {"peers": [home]}) as server:
        made = samples("MONOCHROME2")
        for each in made:
            each.compressed.StudyInstanceUID = "1.2.3"
        server.add([each.compressed for each in made])
        yield client.Peer("PACS", "127.0.0.1", server.port, calling_ae_title="HOME"), home["port"], made


STUDY = {"StudyInstanceUID": "1.2.3"}
WAYS = {
    "get of known SOP Classes": lambda peer, to, port, sop_class: client.get(
        peer, STUDY, to=to, sop_classes=[sop_class]
    ),
    "fetch": lambda peer, to, port, sop_class: client.fetch(peer, STUDY, to=to),
    "move_and_store": lambda peer, to, port, sop_class: client.move_and_store(peer, STUDY, to=to, port=port),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_this_client_gets_images_as_they_are_stored(every_syntax, tmp_path, way):
    """Bit for bit, in each transfer syntax."""
    peer, port, made = every_syntax
    got = way(peer, tmp_path / "to", port, made[0].native.SOPClassUID)
    arrived = {each.SOPInstanceUID: each for each in got.datasets()}
    for each in made:
        found = arrived.pop(each.native.SOPInstanceUID)
        assert (found.file_meta.TransferSyntaxUID, found.PixelData) == (each.transfer_syntax, each.compressed.PixelData)
    assert arrived == {}


def test_a_get_of_unknown_sop_classes_brings_every_image(every_syntax, tmp_path):
    """Some decompressed, except for the usual ones: there is no room for a context in each transfer syntax."""
    peer, _, made = every_syntax
    got = client.get(peer, STUDY, to=tmp_path / "to")
    found = {each.SOPInstanceUID: each.file_meta.TransferSyntaxUID for each in got.datasets()}
    assert len(found) == len(made)
    as_they_are = {each.transfer_syntax for each in made if found[each.native.SOPInstanceUID] == each.transfer_syntax}
    assert as_they_are >= USUAL
