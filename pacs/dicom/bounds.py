"""Limits on what a decoder that recurses, such as pydicom's, is given: a cheap look ahead without recursion."""

import io
from typing import BinaryIO

from pacs.dicom.elements import DEPTH_LIMIT, Source, encoding_of, walk
from pacs.errors import UndecodableDataSet


def check_depth(
    data: bytes | bytearray | memoryview | BinaryIO,
    transfer_syntax: str,
    limit: int = DEPTH_LIMIT,
    elements: int | None = None,
) -> None:
    """See that a data set is well formed, nests its sequences at most `limit` deep and has at most so many elements.

    `data` is the data set itself, or a seekable file standing at its beginning. Items count as elements. Raises
    UndecodableDataSet; a deflated data set is inflated piece by piece and up to a limit (checklist P9, P10).
    """
    file = io.BytesIO(data) if isinstance(data, (bytes, bytearray, memoryview)) else data
    encoding = encoding_of(transfer_syntax)
    for count, token in enumerate(walk(Source(file, encoding), encoding, limit), start=1):
        if elements is not None and count > elements:
            raise UndecodableDataSet(f"The data set has more than {elements} elements", [token.tag])
