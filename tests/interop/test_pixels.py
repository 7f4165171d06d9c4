"""Images in every transfer syntax reach stock programs with their default settings, and their pixels are compared.

`receivers.RECEIVERS` says what each program accepts, and `python -m tests.interop.test_pixels` prints what it receives.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from pacs import client
from pacs.testing.builders import uid
from tests.hostile.daemons import daemon
from tests.interop.receivers import BIG, DEFLATED, EXPLICIT, IMPLICIT, RECEIVERS, Receiver, Retrieval
from tests.pixels.samples import SYNTAXES, native_sample, pixels_of, sample
from tests.programs import free_port

NATIVE = (EXPLICIT, IMPLICIT, BIG, DEFLATED)
STUDY, SERIES = uid("pixels/study"), uid("pixels/series")


@dataclass(frozen=True)
class Image:
    """A stored image, its native pixels, and the largest difference of decoded ones."""

    name: str
    dataset: Dataset
    pixels: np.ndarray
    difference: int

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
    return Image(f"{UID(syntax).name}, {photometric}", dataset, pixels, difference)


@dataclass(frozen=True)
class Site:
    """A running archive with the images, and the ports of the receivers."""

    port: int
    images: Mapping[str, Image]
    ports: Mapping[str, int]

    def retrieved(self, receiver: Receiver, folder: Path) -> "tuple[Received, Received]":
        """Let a program retrieve the study; return what it received by C-GET and by C-MOVE."""
        got, moved = folder / "got", folder / "moved"
        got.mkdir()
        moved.mkdir()
        port = self.ports[receiver.name]
        receiver.retrieve(Retrieval(self.port, receiver.ae_title, port, STUDY, SERIES, got, moved))
        return self._received(got), self._received(moved)

    def _received(self, folder: Path) -> "Received":
        files = [dcmread(path) for path in folder.iterdir()]
        sent = [(each, self.images[each.SOPInstanceUID]) for each in files]
        return {image.name: (each.file_meta.TransferSyntaxUID.name, compared(each, image)) for each, image in sent}


Received = dict[str, tuple[str, str]]
"""Transfer syntax and pixels of the received images by the name of the image."""


@contextmanager
def archive(folder: Path) -> Iterator[Site]:
    """Run `pacs serve` as a process, with the images and all receivers as peers."""
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
    assert moved == expected(receiver.by_move, site.images.values())


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
    if pixels.shape != image.pixels.shape:
        return f"shape {pixels.shape} instead of {image.pixels.shape}"
    difference = int(np.abs(pixels.astype(int) - image.pixels).max())
    return "the same pixels" if difference <= image.difference else f"differs by {difference}"
