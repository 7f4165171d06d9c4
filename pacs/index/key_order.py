"""Adds an instance that fills rows or disagrees with them, as if all had been added in the order of their file keys.

The index is a function of the files: what the instance with the lowest key says about a patient, study or series
stays, later ones fill what is empty (`pacs.services.reindex` builds it so). Instances may be added in another order:
transfers overlap, and lost files are found again. Then the instances below the rows concerned are compared, from their
files, in the order of their keys.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, literal, select

from pacs.dicom import row_elements
from pacs.dicom.header import Header
from pacs.dicom.levels import QueryLevel
from pacs.errors import DuplicateInstance
from pacs.index import parent_rows
from pacs.index.addition import KNOWN_IMAGE, remember_covering
from pacs.index.database import LostRace
from pacs.index.dialects import among
from pacs.index.parent_rows import CONFLICTS, PARENT_COLUMN, PARENTS, PATIENT, SERIES, STUDY, UNIQUE, ParentRows
from pacs.index.rows import NewInstance, columns, image_row, patient_identity
from pacs.index.tables import JOINED, TABLES, image, patient, series, study

Headers = Callable[[str], Header | None]
"""Returns the header of the stored file with a key; None for a file that contains no instance."""

FEW, MANY = 3, 500
"""How many files are looked up at first, and in each later step."""


def add_locked(connection: Connection, instance: NewInstance, headers: Headers) -> tuple[str, ...]:
    """Lock the patients that an instance concerns, and add it, whether it agrees with the known rows or not.

    Return its conflicts, as sentences without patient data. The transaction must not have locked a patient before,
    unless as much: else two of them wait for each other. Raises DuplicateInstance, LostRace, and the errors of
    `headers`.
    """
    known = _locked(connection, instance.header)
    header = instance.header
    if connection.execute(KNOWN_IMAGE, {"uid": header.sop_instance_uid}).first() is not None:
        raise DuplicateInstance("SOP Instance is stored already")
    addition = _DisputedAddition(connection, instance, headers)
    addition.run(known)
    if known.conflict is None:
        return ()
    if addition.is_first(known.conflict, known.rows[known.conflict].id):
        rebuild(connection, lambda key: header if key == instance.file_key else headers(key), known.patients)
    return (CONFLICTS[known.conflict],)


def _locked(connection: Connection, header: Header) -> ParentRows:
    """Lock all patients that an instance concerns, and return the rows that it names."""
    found = parent_rows.find(connection, header)
    if connection.dialect.name == "sqlite":  # which has one writer at a time
        return found
    parent_rows.lock_patients(connection, found.patients)
    if parent_rows.find(connection, header) != found:
        raise LostRace("a row of the instance was changed by another transaction")
    return found


class _DisputedAddition:
    """Adds one instance; its patients are locked."""

    def __init__(self, connection: Connection, instance: NewInstance, headers: Headers) -> None:
        self._connection, self._instance, self._headers = connection, instance, headers
        self._key = instance.file_key

    def run(self, known: ParentRows) -> None:
        """Add the image and its missing rows, and correct the elements of those at which it counts."""
        parent: int | None = None
        for level in known.concerned:
            parent = self._row(level, known.rows[level], parent)
        row = image_row(self._instance) | {"series_fk": parent}
        insertion = parent_rows.insertion(QueryLevel.IMAGE, self._connection.dialect.name)
        if self._connection.execute(insertion, row).scalar() is None:
            raise LostRace("the image was added by another transaction")

    def is_first(self, level: QueryLevel, row_id: int) -> bool:
        """Whether the image has the lowest key below a row."""
        return self._connection.execute(_OLDER[level], {"key": self._key, "row": row_id}).first() is None

    def _row(self, level: QueryLevel, known: Any, parent: int | None) -> int:
        """Add or correct a row; return its surrogate key."""
        later = self._instance.header.kept[level]
        if known is None:
            return parent_rows.insert_of(self._connection, level, self._instance.header, parent)
        if later == known.kept:
            return int(known.id)
        merged, disputed = row_elements.merge(known.kept, later), row_elements.disputed(known.kept, later)
        if disputed and self._is_late(level, known.id):
            values = row_elements.merge(self._older_values(level, known.id, disputed), disputed)
            merged = row_elements.replace_elements(merged, disputed, values)
        if merged != known.kept:
            parent_rows.rewrite_locked(self._connection, level, known, columns(level, merged))
        if not disputed:
            remember_covering(later, merged)
        return int(known.id)

    def _is_late(self, level: QueryLevel, row_id: int) -> bool:
        """Whether an image with a higher key is below a row."""
        return self._connection.execute(_NEWER[level], {"key": self._key, "row": row_id}).first() is not None

    def _older_values(self, level: QueryLevel, row_id: int, disputed: bytes) -> bytes:
        """Return what the older instances below a row say, as far as it explains the disputed elements."""
        values = b""
        for key, study_uid in images_below(self._connection, level, row_id, before=self._key):
            header = self._headers(key)
            if header is None or not self._counts(level, header, study_uid):
                continue
            values = row_elements.merge(values, header.kept[level])
            if row_elements.merge(values, disputed) == values:
                break
        return values

    def _counts(self, level: QueryLevel, header: Header, study_uid: str) -> bool:
        """Whether an instance below a row says something about it: not about a study or patient it does not name."""
        is_same_patient = patient_identity(header) == patient_identity(self._instance.header)
        return level is SERIES or (header.study_instance_uid == study_uid and (level is STUDY or is_same_patient))


def images_below(
    connection: Connection, level: QueryLevel, row_id: int, *, before: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the images below a row in the order of their keys: file key, and Study Instance UID of their study row."""
    chosen = select(image.c.file_key, study.c.study_instance_uid).select_from(JOINED)
    chosen = chosen.where(TABLES[level].c.id == row_id).order_by(image.c.file_key)
    if before is not None:
        chosen = chosen.where(image.c.file_key < before)
    after, limit = "", FEW
    while page := connection.execute(chosen.where(image.c.file_key > after).limit(limit)).all():
        yield from ((key, uid) for key, uid in page)
        after, limit = page[-1][0], MANY


_KEY, _ROW = bindparam("key", type_=image.c.file_key.type), bindparam("row", type_=image.c.id.type)
_ABOVE = {STUDY: (image.join(series), series.c.study_fk), SERIES: (image, image.c.series_fk)}
_OLDER = {
    level: select(literal(1)).select_from(joined).where(image.c.file_key < _KEY, column == _ROW).limit(1)
    for level, (joined, column) in _ABOVE.items()
}
"""Finds an image with a lower key below a row."""

_NEWER = {
    level: select(literal(1)).select_from(joined).where(image.c.file_key > _KEY, column + 0 == _ROW).limit(1)
    for level, (joined, column) in (_ABOVE | {PATIENT: (image.join(series).join(study), study.c.patient_fk)}).items()
}
"""Finds an image with a higher key below a row. Usually there is none in the whole index: the sum prevents that the
database begins with the images below the row, which are many."""


# --- patients -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class DerivedRow:
    """A row as the files make it: what identifies the row above it, and its elements."""

    parent: Any
    kept: bytes


DerivedRows = dict[QueryLevel, dict[Any, DerivedRow]]
"""The rows of each level by what identifies them."""


def fold(headers: Iterable[Header]) -> DerivedRows:
    """Derive the rows of patients, studies and series from the headers of files in the order of their keys."""
    derived: DerivedRows = {level: {} for level in PARENTS}
    for header in headers:
        names: list[Any] = [tuple(parent_rows.identity(level, header).values()) for level in PARENTS]
        for level in reversed(PARENTS):
            row = derived[level].setdefault(names[level], DerivedRow(names[level - 1] if level else None, b""))
            if row.kept != header.kept[level]:
                row.kept = row_elements.merge(row.kept, header.kept[level])
            if level and row.parent != names[level - 1]:  # it says nothing about rows above which it is not placed
                break
    return derived


def rebuild(connection: Connection, headers: Headers, patients: set[int]) -> None:
    """Make the rows of locked patients what the files of their instances say, and those of all whom these concern."""
    read: dict[str, Header | None] = {}
    while True:
        below = select(image.c.file_key).select_from(JOINED).where(among(study.c.patient_fk, sorted(patients)))
        keys = connection.execute(below.order_by(image.c.file_key)).scalars().all()
        read |= {key: headers(key) for key in keys if key not in read}
        derived = fold(header for key in keys if (header := read[key]) is not None)
        others = _patients_of(connection, derived) - patients
        if not others:
            break
        parent_rows.lock_patients(connection, others)
        patients = patients | others
    _correct(connection, derived)
    _remove_childless(connection, patients)


def _patients_of(connection: Connection, derived: DerivedRows) -> set[int]:
    """Return the patients that are known by these identities, or have these studies."""
    studies = [uid for (uid,) in derived[STUDY]]
    chosen = select(study.c.patient_fk).where(among(study.c.study_instance_uid, studies))
    found = set(connection.execute(chosen).scalars())
    for identity in derived[PATIENT]:
        found.update(connection.execute(select(patient.c.id).where(*_is(PATIENT, identity))).scalars())
    return found


def _correct(connection: Connection, derived: DerivedRows) -> None:
    """Add and change rows, from the top."""
    ids: dict[Any, int] = {}
    for level in PARENTS:
        table = TABLES[level]
        for identity, row in derived[level].items():
            above = {PARENT_COLUMN[level]: ids[level - 1, row.parent]} if level else {}
            known = connection.execute(select(table).where(*_is(level, identity))).first()
            if known is None:
                new = columns(level, row.kept) | dict(zip(UNIQUE[level], identity, strict=True)) | above
                ids[level, identity] = parent_rows.insert(connection, level, new)
                continue
            ids[level, identity] = known.id
            if known.kept != row.kept or any(getattr(known, name) != value for name, value in above.items()):
                parent_rows.rewrite_locked(connection, level, known, columns(level, row.kept) | above)


def _is(level: QueryLevel, identity: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [TABLES[level].c[name] == value for name, value in zip(UNIQUE[level], identity, strict=True)]


def _remove_childless(connection: Connection, patients: set[int]) -> None:
    """Remove what has no images any more below these patients."""
    studies = select(study.c.id).where(among(study.c.patient_fk, sorted(patients)))
    for table, reference, below in (
        (series, image.c.series_fk, series.c.study_fk.in_(studies)),
        (study, series.c.study_fk, among(study.c.patient_fk, sorted(patients))),
        (patient, study.c.patient_fk, among(patient.c.id, sorted(patients))),
    ):
        connection.execute(delete(table).where(below, ~exists().where(reference == table.c.id)))
