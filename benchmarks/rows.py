"""The population of studies as rows of the index, inserted by SQL, because C-STORE would take hours.

Each row is what `pacs.index.writer` would have written, made from a prototype by replacing values; some of the rows are
checked for that.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from benchmarks.bench import say
from benchmarks.data import PLACES, Study, Template, encode, population_prototype
from pacs.conformance.checks.wire import EXPLICIT
from pacs.dicom import row_elements
from pacs.dicom.attributes import COLUMNS, column_name
from pacs.dicom.header import read_header
from pacs.dicom.levels import QueryLevel
from pacs.index import schema
from pacs.index.database import Index

PATIENT, STUDY, SERIES, IMAGE = QueryLevel

CHECK_EVERY = 50_000

Rows = tuple[dict[str, object], list[dict[str, object]], list[dict[str, object]]]


class Level:
    """The constant values of the rows of a level, and the positions of the others in its row elements."""

    def __init__(self, level: QueryLevel) -> None:
        prototype = population_prototype()
        blob = read_header(BytesIO(encode(prototype)), EXPLICIT).kept[level]
        self._level = level
        self._keywords = [keyword for keyword in COLUMNS[level] if keyword in PLACES]
        self._template = Template(blob, prototype, self._keywords)
        self._same = row_elements.columns(level, blob)
        self._names: dict[str, dict[str, row_elements.Column]] = {}

    def row(self, values: dict[str, str], check: bool) -> dict[str, object]:
        """Return the columns of a row with these values. Raises ValueError if they contradict its row elements."""
        blob = self._template.fill(values)
        row = self._same | {column_name(keyword): values[keyword] for keyword in self._keywords}
        if "PatientName" in self._keywords:
            row |= self._name(values["PatientName"], blob)
        if check and row != row_elements.columns(self._level, blob):
            raise ValueError(f"rows of {self._level.name} differ from what the archive would write")
        return row | {"kept": blob}

    def _name(self, name: str, blob: bytes) -> dict[str, row_elements.Column]:
        """Return the columns of the Patient's Name in these row elements."""
        if name not in self._names:
            found = row_elements.columns(self._level, blob).items()
            self._names[name] = {column: value for column, value in found if column.startswith("patient_name")}
        return self._names[name]


def rows(studies: int) -> Iterator[tuple[dict[str, object], ...]]:
    """Yield the rows of each study: patient, study, then each series and image. Ids count from 1."""
    levels = {level: Level(level) for level in QueryLevel}
    series_id = 0
    for study in map(Study, range(studies)):
        check = study.number % CHECK_EVERY == 0
        number = study.number + 1
        issuer = {"issuer_of_patient_id": "", "apart": ""}
        of_patient = levels[PATIENT].row(study.patient, check) | issuer | {"id": number}
        of_study = levels[STUDY].row(study.study, check) | {"id": number, "patient_fk": number}
        below = []
        for values in study.series:
            series_id += 1
            below.append(levels[SERIES].row(values, check) | {"id": series_id, "study_fk": number})
            below.append(levels[IMAGE].row(values, check) | {"id": series_id, "series_fk": series_id} | _file(values))
        yield of_patient, of_study, *below


def _file(values: dict[str, str]) -> dict[str, object]:
    """Return the columns about the file, which does not exist."""
    return {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "file_key": values["SOPInstanceUID"],
        "size": 1200,
        "digest": "",
        "transfer_syntax": EXPLICIT,
        "data_offset": 344,
        "bulk_offset": 700,
        "received_at": 0,
        "source_ae": "BENCHMARK",
    }


TABLES = ("patient", "study", "series", "image")

Write = Callable[[str, Sequence[str], list[tuple[object, ...]]], None]


def _write(studies: int, write: Write) -> None:
    """Pass the rows to `write` in batches: table, columns, values."""
    batches: dict[str, list[dict[str, object]]] = {table: [] for table in TABLES}
    for done, (of_patient, of_study, *below) in enumerate(rows(studies), 1):
        for table, each in zip(TABLES, ([of_patient], [of_study], below[::2], below[1::2]), strict=True):
            batches[table] += each
        if done % 50_000 == 0 or done == studies:
            say(f"index: {done} studies")
            for table, batch in batches.items():
                columns = tuple(batch[0])
                write(table, columns, [tuple(row[column] for column in columns) for row in batch])
                batch.clear()


def fill_sqlite(path: Path, studies: int) -> None:
    """Create an index in a SQLite file, with trigrams, and insert the population."""
    _upgrade(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    for setting in ("synchronous = OFF", "cache_size = -2000000", "wal_autocheckpoint = 100000"):
        connection.execute(f"PRAGMA {setting}")

    def write(table: str, columns: Sequence[str], values: list[tuple[object, ...]]) -> None:
        places = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", values)
        connection.commit()

    _write(studies, write)
    connection.close()


def fill_postgres(url: str, studies: int) -> None:
    """Insert the population into an empty PostgreSQL index by COPY, and run ANALYZE."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:

        def write(table: str, columns: Sequence[str], values: Iterable[tuple[object, ...]]) -> None:
            with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                for value in values:
                    copy.write_row(value)

        _write(studies, write)
        for table in TABLES:
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
        connection.execute("VACUUM ANALYZE")


def _upgrade(url: str) -> None:
    index = Index(url)
    schema.upgrade(index)
    index.close()
