"""The matrix of conversions: pixels in each transfer syntax, converted into each, and compared.

Each cell is a conversion of a whole data set. Its result is decoded by pydicom with OpenJPEG, CharLS or its own RLE
decoder, and compared with the native pixels that the instance was made of.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.pixels import pixel_array

from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, convert
from pacs.errors import NotSupported
from pacs.pixels import capabilities
from pacs.pixels import transfer_syntaxes as syntaxes
from tests.pixels.converting import converted, encoded
from tests.pixels.samples import can_be_made, native_sample, pixels_of, sample

NAMES = {
    EXPLICIT_LITTLE: "Explicit Little Endian",
    IMPLICIT_LITTLE: "Implicit Little Endian",
    EXPLICIT_BIG: "Explicit Big Endian",
    DEFLATED_LITTLE: "Deflated Explicit Little Endian",
    syntaxes.RLE_LOSSLESS: "RLE",
    syntaxes.JPEG_BASELINE: "JPEG baseline",
    syntaxes.JPEG_EXTENDED: "JPEG extended",
    syntaxes.JPEG_LOSSLESS: "JPEG lossless (57)",
    syntaxes.JPEG_LOSSLESS_SV1: "JPEG lossless (70)",
    syntaxes.JPEG_LS_LOSSLESS: "JPEG-LS",
    syntaxes.JPEG_LS_NEAR_LOSSLESS: "JPEG-LS near-lossless",
    syntaxes.JPEG_2000_LOSSLESS: "JPEG 2000 lossless",
    syntaxes.JPEG_2000: "JPEG 2000",
    syntaxes.HTJ2K_LOSSLESS: "HTJ2K lossless",
    syntaxes.HTJ2K_LOSSLESS_RPCL: "HTJ2K lossless RPCL",
    syntaxes.HTJ2K: "HTJ2K",
    syntaxes.JPEG_XL_LOSSLESS: "JPEG XL lossless",
    syntaxes.JPEG_XL_RECOMPRESSION: "JPEG XL recompression",
    syntaxes.JPEG_XL: "JPEG XL",
    syntaxes.DEFLATED_FRAME: "Deflated image frame",
}
"""The stored transfer syntaxes, native ones first."""

TARGETS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, *capabilities.ENCODED)
_NATIVE = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED_LITTLE)

PICTURES = (
    ("MONOCHROME2", 1, False),
    ("MONOCHROME2", 8, False),
    ("MONOCHROME1", 10, False),
    ("MONOCHROME2", 12, False),
    ("MONOCHROME2", 12, True),
    ("MONOCHROME2", 16, False),
    ("MONOCHROME2", 16, True),
    ("MONOCHROME2", 32, False),
    ("PALETTE COLOR", 8, False),
    ("PALETTE COLOR", 16, False),
    ("RGB", 8, False),
    ("RGB", 16, False),
    ("YBR_FULL", 8, False),
)
"""Photometric Interpretation of the native pixels, Bits Stored, and whether there are negative ones."""


@dataclass(frozen=True)
class Source:
    """An instance as it is stored."""

    transfer_syntax: str
    data: bytes
    native: Dataset
    difference: int


def tables() -> Iterator[str]:
    """Yield the matrix as one table of Markdown for each kind of picture."""
    for picture in PICTURES:
        photometric, bits, is_signed = picture
        yield f"### {photometric}, {bits} bit{'s' if bits > 1 else ''}{', signed' if is_signed else ''}\n"
        yield "| stored in | " + " | ".join(f"{NAMES[target]}" for target in TARGETS) + " |"
        yield "|" + "---|" * (len(TARGETS) + 1)
        yield from _rows(picture)
        yield ""


def write(page: Path) -> None:
    """Write the page with the matrix: the text before it stays."""
    text = page.read_text("utf-8")
    begin = text.index(BEGIN) + len(BEGIN)
    page.write_text(text[:begin] + "\n\n" + "\n".join(tables()) + "\n" + text[text.index(END) :], "utf-8")


BEGIN, END = "<!-- begin: python -m tests.pixels matrix -->", "<!-- end -->"


def _rows(picture: tuple[str, int, bool]) -> Iterator[str]:
    """Yield a row for the transfer syntaxes whose results are the same."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for source in _sources(*picture):
        rows.setdefault(tuple(_cell(source, target) for target in TARGETS), []).append(NAMES[source.transfer_syntax])
    for cells, names in rows.items():
        yield f"| {', '.join(names)} | {' | '.join(cells)} |"


def _sources(photometric: str, bits: int, is_signed: bool) -> Iterator[Source]:
    native = native_sample(photometric, bits, is_signed)
    for syntax in NAMES:
        if syntax in _NATIVE:
            data = b"".join(convert(io.BytesIO(encoded(native)), EXPLICIT_LITTLE, syntax))
            yield Source(syntax, data, native, 0)
        elif can_be_made(syntax, photometric, bits, is_signed):
            made = sample(syntax, photometric, bits=bits, is_signed=is_signed)
            yield Source(syntax, encoded(made.compressed), made.native, made.difference)


def _cell(source: Source, target: str) -> str:
    """Convert, decode and compare; return what is true of the result."""
    if source.transfer_syntax == target:
        return "as stored"
    try:
        data = converted(source.data, source.transfer_syntax, target)
    except NotSupported:
        return "–"
    expected = pixels_of(source.native)[0].astype(numpy.int64)
    differences = abs(decoded_by_pydicom(data, target).astype(numpy.int64) - expected)
    if differences.max() > source.difference:
        return f"**differs by {differences.max()}**"
    return f"≤ {source.difference}" if source.difference else "="


def decoded_by_pydicom(data: bytes, transfer_syntax: str) -> numpy.ndarray:
    """Return the pixels of a data set, all frames if there are several; none of our decoders is used."""
    dataset = read_dataset(io.BytesIO(data), transfer_syntax == IMPLICIT_LITTLE, True)
    if transfer_syntax in _NATIVE:
        frames = pixels_of(dataset)
        return frames if len(frames) > 1 else frames[0]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    plugin = "pydicom" if transfer_syntax == syntaxes.RLE_LOSSLESS else ""  # its plugin has the decoder that we have
    return pixel_array(dataset, raw=True, decoding_plugin=plugin)
