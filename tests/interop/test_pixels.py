"""Images in every transfer syntax reach stock programs with their default settings, and their pixels are compared.

`receivers.RECEIVERS` says what each program accepts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import UID

from pacs import client
from pacs.testing.builders import uid
from tests.interop.receivers import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    RECEIVERS,
    Receiver,
    Retrieval,
    with_getscu,
    with_storescp,
)
from tests.interop.test_real_files import store
from tests.pixels.samples import SYNTAXES, native_sample, pixels_of, sample
from tests.programs import free_port
from tests.real_files import FILES, RealFile

NATIVE = (EXPLICIT, IMPLICIT, BIG, DEFLATED)
STUDY, SERIES = uid("pixels/study"), uid("pixels/series")


@dataclass(frozen=True)
class Image:
    """A stored image, its native pixels with their Photometric Interpretation, and how much decoded ones may differ."""

    photometric: str
    dataset: Dataset
    pixels: np.ndarray
    difference: int

    @property
    def name(self) -> str:
        """A name that tells it from the others."""
        return f"{UID(self.transfer_syntax).name}, {self.photometric}"

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax in which it is stored."""
        return str(self.dataset.file_meta.TransferSyntaxUID)


def images() -> Iterator[Image]:
    """Yield images of one study: in each transfer syntax one in grey levels and one in colours."""
    for photometric in ("MONOCHROME2", "RGB"):
        for syntax in SYNTAXES:
            made = sample(syntax, photometric)
            yield _image(photometric, made.compressed, made.pixels, made.difference)
        for syntax in NATIVE:
            dataset = native_sample(photometric, bits=12 if photometric == "MONOCHROME2" else 8)
            pixels = pixels_of(dataset)
            dataset.file_meta.TransferSyntaxUID = syntax
            if syntax == BIG:
                dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
            yield _image(photometric, dataset, pixels, 0)


def _image(photometric: str, dataset: Dataset, pixels: np.ndarray, difference: int) -> Image:
    """Give an image its UIDs. Deflated ones are a series of their own, because odil cannot read them."""
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.StudyInstanceUID = STUDY
    dataset.SeriesInstanceUID = uid("pixels/deflated") if syntax == DEFLATED else SERIES
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"pixels/{syntax}/{photometric}")
    return Image(photometric, dataset, pixels, difference)


@dataclass(frozen=True)
class Site:
    """A running archive with the images, and the ports of the receivers."""

    port: int
    images: Mapping[str, Image]
    ports: Mapping[str, int]

    def retrieved(self, receiver: Receiver, folder: Path) -> "tuple[Received, Received]":
        """Let a program retrieve the study; return what it received by C-GET and by C-MOVE."""
        got, moved = folder / "got", folder / "moved"
        self.retrieve(receiver, STUDY, got, moved)
        return self._received(got), self._received(moved)

    def retrieve(self, receiver: Receiver, study: str, got: Path, moved: Path) -> None:
        """Let a program retrieve a study, or a list of studies, to folders for C-GET and C-MOVE."""
        for each in (got, moved):
            each.mkdir(parents=True)
        port = self.ports[receiver.name]
        receiver.retrieve(Retrieval(self.port, receiver.ae_title, port, study, SERIES, got, moved))

    def _received(self, folder: Path) -> "Received":
        files = [dcmread(path) for path in folder.iterdir()]
        sent = [(each, self.images[each.SOPInstanceUID]) for each in files]
        return {image.name: (each.file_meta.TransferSyntaxUID.name, compared(each, image)) for each, image in sent}


Received = dict[str, tuple[str, str]]
"""Transfer syntax and pixels of the received images by the name of the image."""


@contextmanager
def archive(folder: Path) -> Iterator[Site]:
    """Run `pacs serve` as a process, with the images and all receivers as peers."""
    from tests.hostile.daemons import daemon  # not earlier: its conftest has to see it first

    made = list(images())
    ports = {each.name: free_port() for each in RECEIVERS}
    peers = [{"ae_title": each.ae_title, "host": "127.0.0.1", "port": ports[each.name]} for each in RECEIVERS]
    with daemon(folder, {"peers": peers}) as running:
        assert client.store(f"PACS@127.0.0.1:{running.port}", *(each.dataset for each in made)).failed == ()
        yield Site(running.port, {each.dataset.SOPInstanceUID: each for each in made}, ports)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The archive of this module."""
    with archive(tmp_path_factory.mktemp("pixels")) as started:
        yield started


@pytest.mark.parametrize("receiver", RECEIVERS, ids=lambda each: each.name)
def test_every_image_reaches_a_stock_receiver(site, receiver, tmp_path):
    """It receives an image as stored if it accepts that transfer syntax, else decompressed with the same pixels."""
    got, moved = site.retrieved(receiver, tmp_path)
    assert got == expected(receiver.by_get, site.images.values())
    readable = [each for each in site.images.values() if each.transfer_syntax not in receiver.unreadable]
    assert moved == expected(receiver.by_move, readable)


def expected(accepted: Sequence[str], sent: Sequence[Image]) -> Received:
    """Return what a receiver is to receive; nothing if it accepts nothing."""
    explicit = (UID(EXPLICIT).name, "the same pixels")
    return {
        each.name: (UID(each.transfer_syntax).name, "as stored") if each.transfer_syntax in accepted else explicit
        for each in sent
        if accepted
    }


def compared(found: Dataset, image: Image) -> str:
    """Return how the pixels of a received data set compare with those of an image."""
    if found.file_meta.TransferSyntaxUID == image.transfer_syntax:
        return "as stored" if found.PixelData == image.dataset.PixelData else "other bytes"
    pixels = pixels_of(found)
    if (found.PhotometricInterpretation, pixels.shape) != (image.photometric, image.pixels.shape):
        return f"{found.PhotometricInterpretation} with shape {pixels.shape}"
    difference = int(np.abs(pixels.astype(int) - image.pixels).max())
    return "the same pixels" if difference <= image.difference else f"differs by {difference}"


# --- real files --------------------------------------------------------------------------------------------------

REAL_FILES = {each.uid: each for each in map(RealFile, FILES) if fnmatch(each.path.name, "*_J2K[IR].dcm")}
"""CT, MR, CR and ultrasound images in JPEG 2000, by SOP Instance UID: nine of pydicom-data and one of pydicom."""


def test_real_jpeg_2000_images_reach_dcmtk(site, tmp_path):
    """By C-GET to getscu and by C-MOVE to storescp, decompressed; the pixels are those that GDCM decodes."""
    assert len(REAL_FILES) == 10
    assert set(store(site.port, list(REAL_FILES.values())).values()) == {0x0000}
    studies = sorted({each.text("StudyInstanceUID") for each in REAL_FILES.values()})
    decoded = {each.uid: pixel_array(each.path, decoding_plugin="gdcm") for each in REAL_FILES.values()}
    for receiver in (each for each in RECEIVERS if each.retrieve in (with_getscu, with_storescp)):
        folder = tmp_path / receiver.ae_title
        site.retrieve(receiver, "\\".join(studies), folder / "got", folder / "moved")
        found = {each.SOPInstanceUID: each for each in map(dcmread, folder.glob("*/*"))}
        assert set(found) == set(REAL_FILES)
        assert {each.file_meta.TransferSyntaxUID for each in found.values()} == {EXPLICIT}
        wrong = [uid for uid, each in found.items() if not np.array_equal(pixel_array(each), decoded[uid])]
        assert wrong == []
