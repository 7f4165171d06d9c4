"""Presentation contexts that a C-GET proposes for the instances to come: at most 127 besides its own."""

from collections.abc import Iterator, Sequence

from pacs.dicom.syntaxes import KEPT, is_native
from pacs.dimse.association.storage_contexts import CONVERTED_INTO, Proposal
from pacs.dimse.upper.user_information import MAX_CONTEXTS
from pacs.errors import InvalidArgument

MAX_STORAGE_CONTEXTS = MAX_CONTEXTS - 1
"""Contexts left besides that of the C-GET."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

_GRAYSCALE = ("2", "4", "1", "1.1", "1.2")
"""Images that archives often keep compressed without loss: CT, MR, CR, DX, MG."""

_COLOUR = ("6.1", "3.1", "12.1", "7")
"""Images that archives often keep compressed with loss too: US, XA, Secondary Capture."""

_IMAGES = (
    "128", "1.1.1", "1.2.1", "1.3", "1.3.1", "12.2", "20", "2.1", "4.1", "130", "4.3", "2.2", "4.4", "128.1", "12.1.1",
    "12.2.1", "13.1.1", "13.1.2", "13.1.3", "7.1", "7.2", "7.3", "7.4", "6.2", "481.1", "481.2", "66.4", "77.1.1",
    "77.1.4", "77.1.5.1", "77.1.5.4", "77.1.6",
)  # fmt: skip

_WITHOUT_IMAGES = (
    "4.2", "481.3", "481.4", "481.5", "481.8", "66", "66.1", "66.3", "67", "88.11", "88.22", "88.33", "88.34", "88.50",
    "88.59", "88.67", "104.1", "104.2", "11.1", "11.2", "9.1.1", "9.1.2",
)  # fmt: skip

COMMON_SOP_CLASSES = {
    _STORAGE + suffix: count
    for count, suffixes in ((4, _GRAYSCALE), (5, _COLOUR), (2, _IMAGES), (1, _WITHOUT_IMAGES))
    for suffix in suffixes
}
"""Storage SOP Classes that are proposed by default, with their number of contexts: `MAX_STORAGE_CONTEXTS` at most."""

_USUAL = (
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless SV1
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.5",  # RLE lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
)

COMPRESSED = tuple(dict.fromkeys((*_USUAL, *(uid for uid in KEPT if not is_native(uid)))))
"""The compressed transfer syntaxes, the most usual ones first: the first ones get contexts of their own."""


def proposals_for(sop_classes: Sequence[str]) -> tuple[Proposal, ...]:
    """Return contexts for these SOP Classes, or the `COMMON_SOP_CLASSES`, using all the room that an association has.

    An acceptor selects one transfer syntax for each context; more contexts for a SOP Class let more instances arrive as
    they were stored. Raises InvalidArgument for more SOP Classes than contexts.
    """
    classes = dict.fromkeys(sop_classes)
    if len(classes) > MAX_STORAGE_CONTEXTS:
        raise InvalidArgument(
            f"One association takes at most {MAX_STORAGE_CONTEXTS} Storage SOP Classes, not {len(classes)}"
        )
    counts = dict.fromkeys(classes, MAX_STORAGE_CONTEXTS // len(classes)) if classes else COMMON_SOP_CLASSES
    return tuple((sop_class, group) for sop_class, count in counts.items() for group in _groups(count))


def _groups(count: int) -> Iterator[tuple[str, ...]]:
    """Divide all transfer syntaxes into at most `count` groups: the native ones, single compressed ones, the rest."""
    if count == 1:
        yield (*CONVERTED_INTO, *COMPRESSED)
        return
    yield CONVERTED_INTO
    alone = min(count - 2, len(COMPRESSED))
    yield from ((uid,) for uid in COMPRESSED[:alone])
    if rest := COMPRESSED[alone:]:
        yield rest
