"""Programs with decoders of their own read what is encoded here: DCMTK, GDCM and Orthanc."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.pixels import pixel_array

from benchmarks.peers import GDCM_PLUGIN
from pacs.conformance.checks.wire import decoded as decoded_data_set
from tests import raw
from tests.interop.orthanc import orthanc
from tests.interop.receivers import EXPLICIT
from tests.pixels.converting import converted
from tests.pixels.samples import native_sample
from tests.programs import missing, run, storescp
from tests.waiting import eventually

RLE, JPEG_LS, JPEG_2000, HTJ2K, HTJ2K_RPCL = (
    f"1.2.840.10008.1.2.{end}" for end in ("5", "4.80", "4.90", "4.201", "4.202")
)

IMAGES = {
    "8 bits": {"bits": 8},
    "10 bits": {"bits": 10},
    "12 bits": {"bits": 12},
    "12 bits, signed": {"bits": 12, "is_signed": True},
    "16 bits": {"bits": 16},
    "16 bits, signed": {"bits": 16, "is_signed": True},
    "colours": {"photometric": "RGB", "bits": 8},
    "palette": {"photometric": "PALETTE COLOR", "bits": 8},
    "three frames": {"bits": 12, "frames": 3},
}
"""The images that are encoded."""

Decode = Callable[[Path, Path], None]
"""Reads a file and writes another one that is not compressed."""


@pytest.mark.parametrize(
    ("program", "transfer_syntax"),
    [
        ("dcmdrle", RLE),
        ("gdcm", RLE),
        ("dcmdjpls", JPEG_LS),
        ("gdcm", JPEG_LS),
        ("gdcm", JPEG_2000),
        ("gdcm as JPEG 2000", HTJ2K),
        ("gdcm as JPEG 2000", HTJ2K_RPCL),
    ],
)
def test_dcmtk_and_gdcm_decode_what_is_encoded(program, transfer_syntax, tmp_path):
    """To the same pixels. GDCM does not know the UIDs of HTJ2K, but its OpenJPEG decodes it as JPEG 2000."""
    assert wrong(decoder(program), transfer_syntax, tmp_path) == {}


def decoder(program: str) -> Decode:
    """Return how a program decodes."""

    def decode(encoded: Path, decoded: Path) -> None:
        if program == "gdcm as JPEG 2000":
            dataset = dcmread(encoded)
            dataset.file_meta.TransferSyntaxUID = JPEG_2000
            dcmwrite(encoded, dataset)
        command = [program] if program.startswith("dcm") else ["gdcmconv", "--raw"]
        run(*command, encoded, decoded)

    return decode


@pytest.fixture(scope="module")
def decode_with_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decode]:
    """Orthanc with its plugin for GDCM, which sends to a storescp that accepts only uncompressed transfer syntaxes.

    It decodes in a job: the stack of its threads for HTTP is too small for GDCM.
    """
    if not GDCM_PLUGIN.exists():
        missing("orthanc-gdcm")
    folder = tmp_path_factory.mktemp("decoding")
    with storescp(folder / "sink", "SINK", "+x=") as sink:
        modalities = {"sink": ["SINK", "127.0.0.1", sink.port]}
        plugins = [str(GDCM_PLUGIN)]
        with orthanc(folder / "orthanc", theirs=1, Plugins=plugins, DicomModalities=modalities) as running:

            def decode(encoded: Path, decoded: Path) -> None:
                kept = running.call("instances", encoded.read_bytes())["ID"]
                job = running.post("modalities/sink/store", Resources=[kept], Asynchronous=True)["ID"]
                eventually(lambda: running.call(f"jobs/{job}")["State"] in ("Success", "Failure"), 60)
                (sent,) = sink.files()
                sent.rename(decoded)

            yield decode


@pytest.mark.parametrize("transfer_syntax", [RLE, JPEG_LS, JPEG_2000])
def test_orthanc_decodes_what_is_encoded(decode_with_orthanc, transfer_syntax, tmp_path):
    """To the same pixels."""
    assert wrong(decode_with_orthanc, transfer_syntax, tmp_path) == {}


def wrong(decode: Decode, transfer_syntax: str, folder: Path) -> dict[str, str]:
    """Encode the images in a transfer syntax, decode them, and return what differs by image."""
    found = {}
    for image, attributes in IMAGES.items():
        native = native_sample(**attributes, SeriesDescription=transfer_syntax)
        encoded, decoded = folder / f"{image}.encoded", folder / f"{image}.decoded"
        _write(native, transfer_syntax, encoded)
        decode(encoded, decoded)
        after = dcmread(decoded)
        seen = (after.file_meta.TransferSyntaxUID, after.PhotometricInterpretation)
        if seen != (EXPLICIT, native.PhotometricInterpretation):
            found[image] = str(seen)
        elif not np.array_equal(pixel_array(after, raw=True), pixel_array(native, raw=True)):  # of Bits Stored
            found[image] = "other pixels"
    return found


def _write(native: Dataset, transfer_syntax: str, path: Path) -> None:
    """Write a native instance as a file in another transfer syntax."""
    data = converted(raw.encoded(native, EXPLICIT), EXPLICIT, transfer_syntax)
    dataset = decoded_data_set(data, EXPLICIT)
    dataset.file_meta = deepcopy(native.file_meta)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dcmwrite(path, dataset, enforce_file_format=True)
