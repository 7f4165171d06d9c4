"""Writes and reads File Meta Information (PS3.10 section 7), which precedes the data set in a stored file.

It has everything that the index cannot take from the data set, so that the index can be rebuilt from the files alone:
the sender (Source Application Entity Title), and the time of arrival and the digest of the data set (Private
Information). Its length is known before the data set arrives; it is written afterwards.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from struct import pack, unpack
from typing import BinaryIO

from pacs import __version__
from pacs.dicom.elements import CUT_OFF, DEFLATED_CUT_OFF, LONG_VRS, SHORT_VRS, is_in_place_of_a_vr
from pacs.dicom.syntaxes import DEFLATED_LITTLE, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, is_native
from pacs.errors import NotDICOM, PacsError, UndecodableDataSet

IMPLEMENTATION_CLASS_UID = "2.25.115049901136962962696975256259999777924"
IMPLEMENTATION_VERSION_NAME = f"PACS_{__version__}"[:16]
PRIVATE_INFORMATION_CREATOR_UID = "2.25.81824888521754768302199493534358913837"

PREAMBLE = b"\0" * 128 + b"DICM"
"""The preamble is always zero, regardless of that of the sender (CVE-2019-11687)."""

NO_ELEMENTS = "The file ends after its preamble"
NOT_DICOM = "Not a DICOM file: neither File Meta Information nor a data set"
"""The comment for a file that is something else."""

FILE_CUT_OFF = "The file is cut off: it ends in the middle of an element"
"""The comment for a file whose data set is truncated."""

_VRS = frozenset(vr.encode() for vr in SHORT_VRS | LONG_VRS)
_DIGEST, _NO_DIGEST = "sha256=", "0" * 64
_PRIVATE_INFORMATION = re.compile(rb"received=(\d{20}) sha256=([0-9a-f]{64}) ?")
_META_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The File Meta Information of a file. A text is '' where it is missing."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    source_ae: str
    received_at: int | None
    """Microseconds since 1970, UTC; None in a file of another implementation."""
    digest: str | None
    """SHA-256 of the data set in hexadecimal; None in a file of another implementation."""
    data_offset: int
    """The offset of the data set in the file, in bytes."""


def build_file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, source_ae: str, *, received_at: int, size: int = 0
) -> bytes:
    """Encode preamble and File Meta Information, with a placeholder for the digest (`with_digest`).

    `received_at` is in microseconds since 1970, UTC. The caller has checked the UIDs (`values.is_uid`). The
    result is padded to `size` bytes, an even number, if it is shorter.
    """
    private = f"received={received_at:020d} {_DIGEST}{_NO_DIGEST}".encode("ascii")
    before, after = _shared(sop_class_uid, transfer_syntax, source_ae)
    own = _element(0x0003, "UI", sop_instance_uid.encode("ascii"))
    if size:
        others = len(PREAMBLE) + 12 + len(before + own + after) + 12  # with group length, and VR and length of the last
        private = private.ljust(size - others, b"\0")
    elements = b"".join((before, own, after, _element(0x0102, "OB", private)))
    return PREAMBLE + _element(0x0000, "UL", pack("<L", len(elements))) + elements


@lru_cache(maxsize=256)
def _shared(sop_class_uid: str, transfer_syntax: str, source_ae: str) -> tuple[bytes, bytes]:
    """Encode the elements before and after the SOP Instance UID, which are the same for all instances of a series."""
    before = _element(0x0001, "OB", b"\0\1") + _element(0x0002, "UI", sop_class_uid.encode("ascii"))
    after = (
        _element(0x0010, "UI", transfer_syntax.encode("ascii")),
        _element(0x0012, "UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        _element(0x0013, "SH", IMPLEMENTATION_VERSION_NAME.encode("ascii")),
        _element(0x0016, "AE", ae_title(source_ae).encode("ascii")),
        _element(0x0100, "UI", PRIVATE_INFORMATION_CREATOR_UID.encode("ascii")),
    )
    return before, b"".join(after)


def with_digest(file_meta: bytes, digest: str) -> bytes:
    """Return the File Meta Information with the digest, SHA-256 in hexadecimal; the length does not change."""
    start = file_meta.rindex(_DIGEST.encode("ascii")) + len(_DIGEST)
    return file_meta[:start] + digest.encode("ascii") + file_meta[start + len(digest) :]


def ae_title(text: str) -> str:
    """Return a text as valid AE value: at most 16 printable ASCII characters without backslash (PS3.5 VR AE)."""
    shown = (char if " " <= char <= "~" and char != "\\" else "?" for char in text.strip()[:16])
    return "".join(shown).strip()


def _element(element: int, vr: str, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" " if vr in ("AE", "SH") else b"\0"
    if vr in LONG_VRS:
        return pack("<HH2sHL", 2, element, vr.encode(), 0, len(value)) + value
    return pack("<HH2sH", 2, element, vr.encode(), len(value)) + value


def read_file_meta(file: BinaryIO) -> FileMeta:
    """Read the File Meta Information of a file of any implementation; the preamble may be missing.

    `file` is at its beginning, and at its data set afterwards. Raises UndecodableDataSet when the file has no File Meta
    Information or it is damaged.
    """
    _pass_preamble(file)
    elements = _read_elements(file)
    if not elements:
        raise UndecodableDataSet("Not a DICOM file: it has no File Meta Information")
    received_at, digest = _private_information(elements)
    return FileMeta(
        _text(elements, 0x0002),
        _text(elements, 0x0003),
        _text(elements, 0x0010),
        _text(elements, 0x0016),
        received_at,
        digest,
        file.tell(),
    )


def find_data_set(file: BinaryIO) -> FileMeta:
    """Return the File Meta Information of a file from the field, with the transfer syntax that its data set has.

    Preamble and File Meta Information may be missing; the offset of the data set is 0 if both are. `file` is at its
    beginning, and at its data set afterwards. Raises UndecodableDataSet when the File Meta Information is damaged or
    nothing follows the preamble, and NotDICOM for an empty file.
    """
    _pass_preamble(file)
    elements, start = _read_elements(file), _peek(file, 6)
    if not (elements or start):
        raise UndecodableDataSet(NO_ELEMENTS) if file.tell() else NotDICOM(NOT_DICOM)
    syntax = _transfer_syntax(start, _text(elements, 0x0010))
    uids = _text(elements, 0x0002), _text(elements, 0x0003)
    return FileMeta(*uids, syntax, _text(elements, 0x0016), None, None, file.tell())


def file_meta_bytes(file: BinaryIO, data_offset: int) -> bytes:
    """Return the elements of the File Meta Information, without preamble; b'' if there is none."""
    file.seek(0)
    _pass_preamble(file)
    return file.read(data_offset - file.tell()) if data_offset else b""


def file_error(error: PacsError, head: FileMeta) -> PacsError:
    """Return the error for a file whose data set has this error; without File Meta Information it may be a text."""
    if not head.data_offset:
        return NotDICOM(NOT_DICOM)
    return UndecodableDataSet(FILE_CUT_OFF) if error.comment in (CUT_OFF, DEFLATED_CUT_OFF) else error


def _pass_preamble(file: BinaryIO) -> None:
    start = file.read(len(PREAMBLE))
    if start[128:] != b"DICM":
        file.seek(4 if start[:4] == b"DICM" else 0)


def _peek(file: BinaryIO, length: int) -> bytes:
    start = file.read(length)
    file.seek(-len(start), io.SEEK_CUR)
    return start


def _read_elements(file: BinaryIO) -> dict[int, bytes]:
    """Read the values of group 0002 by element number, to the end of the group: group lengths are often wrong.

    A second group that begins behind the length of the first one is passed: it was left over from another file.
    """
    elements: dict[int, bytes] = {}
    at, last, end, is_second = 0, -1, _META_LIMIT, False
    left = _META_LIMIT
    while len(start := file.read(8)) == 8 and start[:2] == b"\2\0":
        element, vr, short = unpack("<2xH2sH", start)
        is_second = is_second or (element <= last and at >= end)
        length, before = short, at
        if not vr.isalpha():  # written in Implicit VR, against PS3.10 7.1
            length = unpack("<4xL", start)[0]
        elif vr.decode("latin-1") in LONG_VRS:
            length, at = int.from_bytes(file.read(4), "little"), at + 4
        left -= length
        value = file.read(max(0, min(length, left)))
        if len(value) < length:
            raise UndecodableDataSet("The File Meta Information is damaged")
        at, last = before + 8 + length, element
        if not is_second:
            elements[element] = value
        if element == 0 and not is_second:
            end = at + int.from_bytes(value, "little")
    file.seek(-len(start), io.SEEK_CUR)
    return elements


def _text(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("ascii", "replace").strip(" \0")


def _private_information(elements: dict[int, bytes]) -> tuple[int | None, str | None]:
    """Return the time of arrival and the digest from the Private Information of this implementation, or None twice."""
    found = _PRIVATE_INFORMATION.fullmatch(elements.get(0x0102, b"").rstrip(b"\0"))
    if found is None or _text(elements, 0x0100) != PRIVATE_INFORMATION_CREATOR_UID:
        return None, None
    return int(found[1]), found[2].decode("ascii")


def _transfer_syntax(start: bytes, named: str) -> str:
    """Return the transfer syntax of a data set that begins like this: the named one, unless it shows another.

    Only native ones are shown by the first element. For bytes that are not a data set the result is arbitrary.
    """
    is_shown = start[:2] in (b"\x08\0", b"\0\x08")
    has_vr = start[4:6] in _VRS
    is_unclear = not has_vr and (named == DEFLATED_LITTLE or is_in_place_of_a_vr(start[4:6]))
    if named and (is_unclear or not (is_shown and is_native(named))):
        return named
    if not has_vr:
        return IMPLICIT_LITTLE
    return EXPLICIT_BIG if start[:1] == b"\0" else EXPLICIT_LITTLE
