"""Makes an index in use equal to another one: copies it, or corrects it row by row.

The other one is an SQLite file: built from the files by `pacs.services.reindex`, or a snapshot of an index by `copy`.
Rows are compared by their identifying columns, so that surrogate keys may differ. A correct row is not changed, a wrong
one is updated in place, so that concurrent readers miss nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pacs.dicom.levels import QueryLevel
from pacs.index.database import Index, LostRace
from pacs.index.dialects import among
from pacs.index.tables import JOINED, TABLES, image, patient, series, study
from pacs.index.writer import unknown
from pacs.support.chunks import chunks

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

PAGE = 200
"""The images that are compared, and corrected in one transaction, at a time; the locks of new files are held then."""

IDENTITY: dict[QueryLevel, tuple[str, ...]] = {
    PATIENT: ("patient_id", "issuer_of_patient_id", "apart"),
    STUDY: ("study_instance_uid",),
    SERIES: ("series_instance_uid",),
    IMAGE: ("sop_instance_uid",),
}
"""The columns that identify a row."""

PARENT = {STUDY: "patient_fk", SERIES: "study_fk", IMAGE: "series_fk"}

_NOT_COMPARED = {"id", "last_used_at", *PARENT.values()}
"""The columns that are not compared: surrogate keys, and the last use of an instance, which is not in its file."""

Values = dict[str, Any]


@dataclass(slots=True)
class Changes:
    """The changes of the index."""

    added: list[str] = field(default_factory=list)
    """The file keys of the added images."""
    corrected: int = 0
    """The number of corrected rows, of all levels."""

    def add(self, other: "Changes") -> None:
        """Add other changes."""
        self.added += other.added
        self.corrected += other.corrected


class IndexesDiffer(Exception):
    """The indexes have different files below a row that would be corrected."""

    def __init__(self, unknown: Collection[str], gone: Collection[str]) -> None:
        super().__init__()
        self.unknown = sorted(unknown)
        """The file keys that are only in the index that would be corrected."""
        self.gone = sorted(gone)
        """The file keys that are only in the other index."""


def copy(source: Index, target: Index, progress: Callable[[int], None] = lambda count: None) -> None:
    """Copy a snapshot of all rows into an empty index; call `progress` with numbers of images.

    Raises IndexUnavailable.
    """
    with source.read() as reading, target.write() as writing:
        for table in TABLES.values():
            for rows in reading.execute(select(table).execution_options(yield_per=PAGE)).mappings().partitions():
                writing.execute(insert(table), [dict(row) for row in rows])
                if table is image:
                    progress(len(rows))


# --- batches ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeriesBatch:
    """Some images of one series and the rows above them, by column, from the other index."""

    above: tuple[Values, Values, Values]
    """The rows of patient, study and series."""
    images: tuple[Values, ...]

    @property
    def file_keys(self) -> tuple[str, ...]:
        """The file keys of the images."""
        return tuple(each["file_key"] for each in self.images)


BatchPosition = tuple[int, int]
"""The position of a batch: the surrogate keys of its series and of the last image before it."""


def batch_groups(index: Index) -> Iterator[list[BatchPosition]]:
    """Yield the positions of all batches, in groups with at most `PAGE` images. Raises IndexUnavailable."""
    group: list[BatchPosition] = []
    images = 0
    for place, size in _positions(index):
        if group and images + size > PAGE:
            yield group
            group, images = [], 0
        group.append(place)
        images += size
    if group:
        yield group


def _positions(index: Index) -> Iterator[tuple[BatchPosition, int]]:
    """Yield the position of each batch and its number of images."""
    series_id = 0
    while (following := _next_series(index, series_id)) is not None:
        series_id, after = following, 0
        while ids := _images(index, series_id, after):
            yield (series_id, after), len(ids)
            after = ids[-1]


def read_batch(index: Index, place: BatchPosition) -> SeriesBatch | None:
    """Read a batch; None when its images are gone. Raises IndexUnavailable."""
    series_id, after = place
    with index.read() as connection:
        chosen = select(image).where(image.c.series_fk == series_id, image.c.id > after).order_by(image.c.id)
        images = tuple(map(_values, connection.execute(chosen.limit(PAGE))))
        if not images:
            return None
        own = connection.execute(select(series).where(series.c.id == series_id)).one()
        over = connection.execute(select(study).where(study.c.id == own.study_fk)).one()
        top = connection.execute(select(patient).where(patient.c.id == over.patient_fk)).one()
        return SeriesBatch((_values(top), _values(over), _values(own)), images)


def _images(index: Index, series_id: int, after: int) -> Sequence[int]:
    ids = select(image.c.id).where(image.c.series_fk == series_id, image.c.id > after).order_by(image.c.id)
    with index.read() as connection:
        return connection.execute(ids.limit(PAGE)).scalars().all()


def _next_series(index: Index, after: int) -> int | None:
    chosen = select(series.c.id).where(series.c.id > after).order_by(series.c.id).limit(1)
    with index.read() as connection:
        found: int | None = connection.execute(chosen).scalar()
    return found


def _values(row: Row[Any]) -> Values:
    return dict(row._mapping)


# --- correction --------------------------------------------------------------------------------------------------


def is_correct(index: Index, wanted: SeriesBatch) -> bool:
    """Whether an index is correct for a batch. Raises IndexUnavailable."""
    with index.read() as connection:
        return _Correction(connection, wanted).is_correct()


def correct(
    index: Index,
    wanted: Sequence[SeriesBatch],
    derived: Index,
    known: Collection[str] = (),
    addable: Collection[str] | None = None,
) -> Changes:
    """Correct the rows of some batches in one transaction.

    Of files that are in no row only those in `addable` get one, None stands for all; others may be deleted meanwhile.
    Raises IndexesDiffer, without any change, when a row would be corrected below which only one of this index and
    `derived` has a file, except for those in `known`. Raises IndexUnavailable.
    """

    def differing(connection: Connection, level: QueryLevel, row: Values) -> None:
        here = _files_below(connection, level, row)
        there = set() if level is IMAGE else _files_in(derived, level, row)
        unknown_here = {each for keys in chunks(sorted(here), PAGE) for each in unknown(derived, keys)} - set(known)
        gone = {each for keys in chunks(sorted(there - here), PAGE) for each in _absent(connection, keys)} - set(known)
        if unknown_here or gone:
            raise IndexesDiffer(unknown_here, gone)

    def work(connection: Connection) -> Changes:
        changes = Changes()
        for each in wanted:
            changes.add(_Correction(connection, each, differing, addable).run())
        return changes

    return index.transact(work)


def _files_in(index: Index, level: QueryLevel, row: Values) -> set[str]:
    with index.read() as connection:
        return _files_below(connection, level, row)


def _files_below(connection: Connection, level: QueryLevel, row: Values) -> set[str]:
    """Return the file keys of all images below the row with the same identifying columns."""
    table = TABLES[level]
    below = select(image.c.file_key).select_from(JOINED)
    return set(connection.execute(below.where(*_is_the_same(table, level, row))).scalars())


def _absent(connection: Connection, file_keys: Sequence[str]) -> set[str]:
    found = connection.execute(select(image.c.file_key).where(among(image.c.file_key, file_keys)))
    return set(file_keys) - set(found.scalars())


def _is_the_same(table: Table, level: QueryLevel, row: Values) -> list[ColumnElement[bool]]:
    return [table.c[name] == row[name] for name in IDENTITY[level]]


class _Correction:
    """The correction of one batch, in one transaction."""

    def __init__(
        self,
        connection: Connection,
        wanted: SeriesBatch,
        differing: Callable[[Connection, QueryLevel, Values], None] = lambda *_: None,
        addable: Collection[str] | None = None,
    ) -> None:
        self._connection, self._wanted, self._differing = connection, wanted, differing
        self._addable = addable
        self._changes = Changes()

    def is_correct(self) -> bool:
        parent = None
        for level, values in zip((PATIENT, STUDY, SERIES), self._wanted.above, strict=True):
            found = self._found(level, values)
            if found is None or self._wrong(level, values, found, parent):
                return False
            parent = found["id"]
        known = self._known_images()
        return all(
            each["sop_instance_uid"] in known and not self._wrong(IMAGE, each, known[each["sop_instance_uid"]], parent)
            for each in self._wanted.images
        )

    def run(self) -> Changes:
        parent = None
        for level, values in zip((PATIENT, STUDY, SERIES), self._wanted.above, strict=True):
            parent = self._row(level, values, self._found(level, values, lock=True), parent)
        self._free_files()
        known = self._known_images()
        new = []
        for values in self._wanted.images:
            found = known.get(values["sop_instance_uid"])
            if found is None:
                new.append(values)
            else:
                self._require_addable(values, found["file_key"])
                self._row(IMAGE, values, found, parent)
        if new:
            self._insert_images(new, parent)
        return self._changes

    def _require_addable(self, values: Values, now: str | None) -> None:
        """Raise IndexesDiffer if the file of an image is in no row, where its instance has none or the file `now`."""
        key = values["file_key"]
        if self._addable is not None and key != now and key not in self._addable:
            raise IndexesDiffer(set() if now is None else {now}, {key})

    def _row(self, level: QueryLevel, values: Values, found: Values | None, parent: int | None) -> int:
        """Add or correct a row; return its surrogate key."""
        if found is None:
            row_id = self._connection.execute(self._insertion(level), [self._new(level, values, parent)]).scalar()
            if row_id is None:
                raise LostRace(f"{level.name} was added by another transaction")
            return int(row_id)
        wrong = self._wrong(level, values, found, parent)
        if wrong:
            self._differing(self._connection, level, found)
            table = TABLES[level]
            self._connection.execute(update(table).where(table.c.id == found["id"]).values(wrong))
            self._changes.corrected += 1
        return int(found["id"])

    def _insert_images(self, new: list[Values], parent: int | None) -> None:
        for values in new:
            self._require_addable(values, None)
        self._connection.execute(insert(image), [self._new(IMAGE, values, parent) for values in new])
        self._changes.added += [each["file_key"] for each in new]

    def _free_files(self) -> None:
        """Remove rows that have a file of this batch with another instance: a file is in one row only."""
        wanted = {each["file_key"]: each["sop_instance_uid"] for each in self._wanted.images}
        known = select(image.c.id, image.c.file_key, image.c.sop_instance_uid).where(
            among(image.c.file_key, list(wanted))
        )
        wrong = [row.id for row in self._connection.execute(known) if row.sop_instance_uid != wanted[row.file_key]]
        if wrong:
            self._connection.execute(delete(image).where(among(image.c.id, wrong)))
            self._changes.corrected += len(wrong)

    def _found(self, level: QueryLevel, values: Values, *, lock: bool = False) -> Values | None:
        table = TABLES[level]
        chosen = select(table).where(*_is_the_same(table, level, values))
        row = self._connection.execute(chosen.with_for_update() if lock else chosen).first()
        return _values(row) if row is not None else None

    def _known_images(self) -> dict[str, Values]:
        uids = [each["sop_instance_uid"] for each in self._wanted.images]
        rows = self._connection.execute(select(image).where(among(image.c.sop_instance_uid, uids)))
        return {row.sop_instance_uid: _values(row) for row in rows}

    def _wrong(self, level: QueryLevel, values: Values, found: Values, parent: int | None) -> Values:
        """Return the wrong columns of a row with their correct values."""
        wrong = {name: value for name, value in values.items() if name not in _NOT_COMPARED and found[name] != value}
        if level is not PATIENT and found[PARENT[level]] != parent:
            wrong[PARENT[level]] = parent
        return wrong

    def _new(self, level: QueryLevel, values: Values, parent: int | None) -> Values:
        own = {name: value for name, value in values.items() if name != "id"}
        return own if level is PATIENT else own | {PARENT[level]: parent}

    def _insertion(self, level: QueryLevel) -> Any:
        dialect = sqlite if self._connection.dialect.name == "sqlite" else postgresql
        table: Table = TABLES[level]
        return dialect.insert(table).on_conflict_do_nothing(index_elements=IDENTITY[level]).returning(table.c.id)
