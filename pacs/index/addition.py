"""Adds an instance that agrees with the rows of its patient, study and series, in whatever order instances are added.

Missing rows are added, and empty elements are filled. Where an instance disagrees, the order of keys decides
(`pacs.index.key_order`).
"""

from typing import Any

from sqlalchemy import Connection, select

from pacs.dicom import row_elements
from pacs.dicom.levels import QueryLevel
from pacs.errors import DuplicateInstance
from pacs.index import fast_insert, parent_rows
from pacs.index.database import LostRace
from pacs.index.parent_rows import PARENTS, ParentRows
from pacs.index.rows import NewInstance, columns
from pacs.index.tables import image


def add_agreeing(connection: Connection, instance: NewInstance, known: ParentRows) -> None:
    """Add an instance that agrees with the known rows. Raises LostRace when they have changed."""
    parent, kept = None, {}
    for level, row in zip(PARENTS, known.rows, strict=True):
        parent, kept[level] = _row(connection, level, row, instance, parent)
    if not fast_insert.insert_below(connection, instance, kept):
        raise LostRace("the image or a row above it was changed by another transaction")


def refuse_known(connection: Connection, sop_instance_uid: str) -> None:
    """Raise DuplicateInstance if an instance is known."""
    if connection.execute(KNOWN_IMAGE, {"uid": sop_instance_uid}).first() is not None:
        raise DuplicateInstance("SOP Instance is stored already")


def _row(
    connection: Connection, level: QueryLevel, known: Any, instance: NewInstance, parent: int | None
) -> tuple[int, bytes]:
    """Add or fill a row; return its surrogate key and its elements."""
    later = instance.header.kept[level]
    if known is None:
        return parent_rows.insert_of(connection, level, instance.header, parent), later
    merged = row_elements.merge(known.kept, later) if later != known.kept else later
    if merged != known.kept:
        parent_rows.rewrite(connection, level, known, columns(level, merged))
    return known.id, merged


KNOWN_IMAGE = select(image.c.id).where(image.c.sop_instance_uid == parent_rows.UID)
