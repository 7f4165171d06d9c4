"""SOP Class Extended Negotiation of Query/Retrieve (PS3.7 D.3.3.5, PS3.4 C.5): the meaning of each byte."""

from pacs.dicom.levels import MODELS, DimseOperation
from pacs.dicom.matching_mode import Negotiated

FIND_BYTES = (
    ("relational", True),
    ("combined_date_time", True),
    ("fuzzy_names", True),
    ("timezone", False),
    ("view", False),
    ("empty_values", True),
    ("multiple_values", True),
)
"""The bytes of the Service-class-application-information of C-FIND: (meaning, whether it is supported)."""

RETRIEVE_BYTES = (("relational", True), ("view", False))
"""The same of C-MOVE and C-GET."""

_BYTES = {
    uid: FIND_BYTES if model.operation is DimseOperation.FIND else RETRIEVE_BYTES for uid, model in MODELS.items()
}


def extended_answer(sop_class_uid: str, offered: bytes) -> bytes | None:
    """Return the Service-class-application-information that answers an offer; None when the answer omits it.

    A one-byte offer gets exactly one byte back; each byte of a longer one is echoed as 1 or declined with 0.
    """
    table = _BYTES.get(sop_class_uid)
    if table is None or not offered:
        return None
    return bytes(1 if agreed and byte == 1 else 0 for byte, (_, agreed) in zip(offered, table, strict=False))


def negotiated(sop_class_uid: str, agreed: bytes | None) -> Negotiated:
    """Return what the agreed bytes mean for the queries and retrieves of one SOP Class."""
    table = _BYTES.get(sop_class_uid, ())
    on = {name for byte, (name, known) in zip(agreed or b"", table, strict=False) if known and byte == 1}
    return Negotiated(**dict.fromkeys(on, True))
