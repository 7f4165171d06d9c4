"""`python -m tests.interop > docs/programs.md`: what stock programs do with this server, as these tests see it."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from pydicom.uid import UID

from pacs.dimse.scp.handlers import LISTENS_WITHIN
from tests.interop.receivers import RECEIVERS, Receiver
from tests.interop.requestors import REQUESTORS
from tests.interop.test_pixels import Image, images
from tests.interop.test_requestors import NAMES

REQUESTS = """\
# Stock programs

This page says what common programs do with this server when both have their default settings. The programs are those
of Debian 12 (DCMTK 3.6.7, odil 0.12, PixelMed 20220618, GDCM 3.0.21, Orthanc 1.10.1), pynetdicom 3.0 and dcmjs-dimse
0.3. `python -m tests.interop` prints this page from the tests.

## Requests

Each program stores three images whose text is in Latin-1; finds three patients, whose names are stored in Latin-1, in
UTF-8 and in ISO 2022 IR 87; and retrieves a study of two images by C-GET, and by C-MOVE to itself, for which it is in
the table of peers. `tests/interop/test_requestors.py` compares names and files with the original ones, and checks the
counts.

| | meaning |
|---|---|
| bit for bit | every data set is the original one, byte for byte |
| equal values | the program writes data sets anew, or receives them in another transfer syntax; all values are equal |
| all names | all three names are complete: {names} |
| not offered | the program has no such operation |

"""

REQUEST_REMARKS = """
What the server stores and sends is always bit for bit what it received. The differences are those of the programs:

- **odil** and **dcmjs-dimse** write numbers anew: `120.0` becomes `120`. dcmjs-dimse also changes text to UTF-8.
- **odil** with `MoveSCU.set_incoming_port` listens only after the C-MOVE request, again and again for 10 ms. The server
  attempts a refused connection to the requestor again for {listens_within:g} s, but on a busy machine 10 ms can be too
  short for the association request. Use odil's `StoreSCP` as the test does.
- **gdcmscu** aborts with `ProtocolStream as nullptr is invalid` when an association is released, with every server,
  after it has transferred everything. So it prints no match of a C-FIND. It lists `--get` among its options, but ends
  without connecting.
- **gdcmscu** as move destination accepts several transfer syntaxes and reads all data sets in the last one. This server
  sends to GDCM in that one only (`clients.gdcm_one_syntax`), which is Implicit VR Little Endian here.
- **Orthanc** converts matches to its `DefaultEncoding`, Latin-1, and so loses all other characters of a name, although
  the server sends UTF-8. With `"DefaultEncoding": "Utf8"` it shows all names. Version 1.10 requests no C-GET.

"""

PIXELS = """\
## Images that they receive

An archive has images in every transfer syntax, one in grey levels (12 bits, or 8 in JPEG baseline) and one in colours,
and these programs retrieve them with their default settings. At the receiver the pixels are compared with those before
compression. `tests/interop/test_pixels.py` does it, and also sends ten real JPEG 2000 images to getscu and storescp.
[Another page](pixels.md) has the whole matrix of conversions.

| sign | meaning |
|---|---|
| s | received as stored, byte for byte |
| = | received decompressed in Explicit VR Little Endian, equal pixel for pixel |
| ≤ n/m | the same, but stored with loss: grey levels differ by at most n, colours by at most m |
| × | the program accepts the transfer syntax and then aborts the association |

"""

PIXEL_REMARKS = """
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


def images_received() -> Iterator[str]:
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


def requests() -> Iterator[str]:
    """Yield the lines of the table of requestors and operations."""
    yield _line(["requestor", "C-ECHO", "C-STORE", "C-FIND", "C-MOVE", "C-GET"])
    yield _line(["---"] * 6)
    for each in REQUESTORS:
        yield _line([each.name, each.echo, each.store, each.find, each.move, each.get])


def page() -> str:
    """Return the page."""
    names = ", ".join(f"`{each}`" for each in NAMES)
    remarks = REQUEST_REMARKS.format(listens_within=LISTENS_WITHIN)
    return "".join(
        [
            REQUESTS.format(names=names),
            *(f"{line}\n" for line in requests()),
            remarks,
            PIXELS,
            *(f"{line}\n" for line in images_received()),
            PIXEL_REMARKS,
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
