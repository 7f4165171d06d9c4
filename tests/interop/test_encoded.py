"""Programs with decoders of their own read what is encoded here: DCMTK, GDCM and Orthanc."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.filewriter import write_file_meta_info

from tests import raw
from tests.interop.orthanc import GDCM, Orthanc, orthanc
from tests.interop.receivers import EXPLICIT
from tests.pixels.converting import converted
from tests.pixels.samples import native_sample, pixels_of
from tests.programs import missing, run

RLE, JPEG_LS, JPEG_2000, HTJ2K, HTJ2K_RPCL = (
    f"1.2.840.10008.1.2.{end}" for end in ("5", "4.80", "4.90", "4.201", "4.202")
)

IMAGES = {
    "8 bits": {"bits": 8},
    "10 bits": {"bits": 10},
    "12 bits": {"bits": 12},
    "12 bits, signed": {"bits": 12, "is_signed": True},
    "16 bits, signed": {"bits": 16, "is_signed": True},
    "colours": {"photometric": "RGB", "bits": 8},
    "palette": {"photometric": "PALETTE COLOR", "bits": 8},
    "three frames": {"bits": 12, "frames": 3},
}
"""The images that are encoded."""


def with_dcmdrle(encoded: Path, decoded: Path) -> None:
    """Decode RLE with DCMTK."""
    run("dcmdrle", encoded, decoded)


def with_dcmdjpls(encoded: Path, decoded: Path) -> None:
    """Decode JPEG-LS with DCMTK."""
    run("dcmdjpls", encoded, decoded)


def with_gdcm(encoded: Path, decoded: Path) -> None:
    """Decode with GDCM."""
    run("gdcmconv", "--raw", encoded, decoded)


def with_openjpeg(encoded: Path, decoded: Path) -> None:
    """Decode HTJ2K with GDCM, whose OpenJPEG can do it: GDCM does not know the UID, so it is told JPEG 2000."""
    encoded.write_bytes(encoded.read_bytes().replace(_transfer_syntax(encoded), _padded(JPEG_2000), 1))
    run("gdcmconv", "--raw", encoded, decoded)


def _transfer_syntax(path: Path) -> bytes:
    """Return the Transfer Syntax UID of a file as it is encoded."""
    return _padded(str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID))


def _padded(uid: str) -> bytes:
    """Return a UID as a value as long as that of HTJ2K."""
    return uid.encode().ljust(len(HTJ2K) + 1, b"\0")


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(
    ("transfer_syntax", "decode"),
    [
        (RLE, with_dcmdrle),
        (RLE, with_gdcm),
        (JPEG_LS, with_dcmdjpls),
        (JPEG_LS, with_gdcm),
        (JPEG_2000, with_gdcm),
        (HTJ2K, with_openjpeg),
        (HTJ2K_RPCL, with_openjpeg),
    ],
)
