"""`python -m tests.interop > docs/receivers.md`: what stock programs receive, as `test_pixels` sees it at them."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from pydicom.uid import UID

from tests.interop.receivers import RECEIVERS, Receiver
from tests.interop.test_pixels import Image, images

INTRODUCTION = """\
# What stock programs receive

An archive has images in every transfer syntax, one in grey levels (12 bits, or 8 in JPEG baseline) and one in colours,
and these programs retrieve them with their default settings. At the receiver the pixels are compared with those before
compression. `tests/interop/test_pixels.py` does it, and also sends ten real JPEG 2000 images to getscu and storescp.
The programs are those of Debian 12, pynetdicom 3.0 and dcmjs-dimse 0.3. `python -m tests.interop` prints this page, and
[another page](pixels.md) has the whole matrix of conversions.

| sign | meaning |
|---|---|
| s | received as stored, byte for byte |
| = | received decompressed in Explicit VR Little Endian, equal pixel for pixel |
| ≤ n/m | the same, but stored with loss: grey levels differ by at most n, colours by at most m |
| × | the program accepts the transfer syntax and then aborts the association |

"""

REMARKS = """
- **getscu and movescu** of DCMTK, and **storescp**, propose and accept uncompressed transfer syntaxes only, unless they
  are told otherwise; so do **pynetdicom**, and **dcmjs-dimse** with the SCP of its README.
- **odil** as a storage SCP accepts whatever is proposed, so it receives images as stored. It cannot read deflated data
  sets.
- **PixelMed** accepts explicit uncompressed transfer syntaxes as a storage SCP.
- **Orthanc** 1.10 accepts all but the newest transfer syntaxes. It is requestor and destination of the C-MOVE.

In the other direction, `tests/interop/test_encoded.py` lets other decoders read what is encoded here: RLE is decoded by
DCMTK, GDCM and Orthanc, JPEG-LS by DCMTK, GDCM and Orthanc, JPEG 2000 by GDCM and Orthanc, and HTJ2K by GDCM's OpenJPEG
when the transfer syntax of the file is changed to JPEG 2000, because GDCM does not know HTJ2K. All pixels are equal.
"""


def table() -> Iterator[str]:
    """Yield the lines of the table: a row for each stored transfer syntax, a column for each way to retrieve."""
    ways = [
        (receiver, operation, accepted)
        for receiver in RECEIVERS
        for operation, accepted in (("C-GET", receiver.by_get), ("C-MOVE", receiver.by_move))
        if accepted
    ]
    yield _line(["stored in", *(f"{receiver.name} {operation}" for receiver, operation, _ in ways)])
    yield _line(["---"] * (1 + len(ways)))
    by_syntax = sorted(images(), key=lambda each: [int(part) for part in each.transfer_syntax.split(".")])
    for syntax, pair in groupby(by_syntax, lambda each: each.transfer_syntax):
        both = list(pair)
        yield _line([UID(syntax).name, *(_sign(receiver, accepted, both) for receiver, _, accepted in ways)])


def _sign(receiver: Receiver, accepted: Sequence[str], both: Sequence[Image]) -> str:
    """Return what a receiver gets of two images in one transfer syntax."""
    syntax = both[0].transfer_syntax
    if syntax in accepted:
        return "×" if syntax in receiver.unreadable and accepted is receiver.by_move else "s"
    differences = [str(each.difference) for each in both]
    return f"≤ {'/'.join(differences)}" if any(each.difference for each in both) else "="


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """Return the page."""
    return INTRODUCTION + "\n".join(table()) + "\n" + REMARKS


if __name__ == "__main__":
    print(page(), end="")
