"""Presentation contexts that a C-GET proposes for the instances to come: at most 127 besides its own."""

from collections.abc import Iterator, Sequence

from pacs.dicom.syntaxes import KEPT, is_native
from pacs.dimse.association.storage_contexts import CONVERTED_INTO, Proposal
from pacs.dimse.upper.user_information import MAX_CONTEXTS
from pacs.errors import InvalidArgument

MAX_STORAGE_CONTEXTS = MAX_CONTEXTS - 1
"""Contexts left besides that of the C-GET."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

_SUFFIXES = (
    "2", "4", "128", "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "6.1", "3.1", "12.1", "12.2", "20", "7",
    "2.1", "4.1", "130", "4.2", "4.3", "2.2", "4.4", "128.1", "12.1.1", "12.2.1", "13.1.1", "13.1.2", "13.1.3",
    "7.1", "7.2", "7.3", "7.4", "6.2", "481.1", "481.2", "481.3", "481.4", "481.5", "481.8", "66", "66.1", "66.3",
    "66.4", "67", "88.11", "88.22", "88.33", "88.34", "88.50", "88.59", "88.67", "104.1", "104.2", "11.1", "11.2",
    "9.1.1", "9.1.2", "77.1.1", "77.1.4", "77.1.5.1", "77.1.5.4", "77.1.6",
)  # fmt: skip

COMMON_SOP_CLASSES = tuple(_STORAGE + suffix for suffix in _SUFFIXES)
"""Storage SOP Classes that are proposed by default: as many as leave room for two contexts each."""

COMPRESSED = tuple(uid for uid in KEPT if not is_native(uid))


def proposals_for(sop_classes: Sequence[str]) -> tuple[Proposal, ...]:
    """Return contexts for these SOP Classes, or the `COMMON_SOP_CLASSES`, using all the room that an association has.

    An acceptor selects one transfer syntax for each context; more contexts for a SOP Class let more instances arrive as
    they were stored. Raises InvalidArgument for more SOP Classes than contexts.
    """
    classes = tuple(dict.fromkeys(sop_classes)) or COMMON_SOP_CLASSES
    if len(classes) > MAX_STORAGE_CONTEXTS:
        raise InvalidArgument(
            f"One association takes at most {MAX_STORAGE_CONTEXTS} Storage SOP Classes, not {len(classes)}"
        )
    groups = tuple(_groups(MAX_STORAGE_CONTEXTS // len(classes)))
    return tuple((sop_class, group) for sop_class in classes for group in groups)


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
