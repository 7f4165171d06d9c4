"""Names of the transfer syntaxes to convert into: short ones for people, keywords of PS3.6, and UIDs."""

from collections.abc import Iterable

from pydicom.uid import UID, UID_dictionary

from pacs.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, NATIVE
from pacs.errors import InvalidArgument
from pacs.pixels.capabilities import ENCODED
from pacs.pixels.transfer_syntaxes import HTJ2K_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_LS_LOSSLESS, RLE_LOSSLESS

SHORT_NAMES = {
    "explicit": EXPLICIT_LITTLE,
    "implicit": IMPLICIT_LITTLE,
    "rle": RLE_LOSSLESS,
    "jpegls": JPEG_LS_LOSSLESS,
    "j2k": JPEG_2000_LOSSLESS,
    "htj2k": HTJ2K_LOSSLESS,
}

_BY_NAME = {entry[4].lower(): uid for uid, entry in UID_dictionary.items() if entry[4]} | SHORT_NAMES
"""UIDs by name in lower case. HTJ2K, which is also the keyword of a lossy transfer syntax, is the lossless one."""


def name_of(transfer_syntax: str) -> str:
    """Return the name of a transfer syntax in PS3.6, or its UID for an unknown one."""
    return UID(transfer_syntax).name


def targets_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the transfer syntaxes with these names, keywords or UIDs, in order. Raises InvalidArgument."""
    return tuple(dict.fromkeys(map(_target_of, names)))


def _target_of(name: str) -> str:
    uid = _BY_NAME.get(name.strip().lower(), name.strip())
    if uid in (*NATIVE, *ENCODED):
        return uid
    what = "nothing is converted into" if uid in UID_dictionary else "there is no transfer syntax"
    raise InvalidArgument(f"{what} {name!r}: expected {', '.join(SHORT_NAMES)}, or the keyword or UID of one of them")
