"""Small archives as each revision of the schema wrote them: one JSON file per revision, rows by table.

`python -m tests.index.archives` writes the one of the newest revision; it is done once, when a migration is made, and
the file is never changed afterwards. JSON rather than a database file, so that it can be put into both databases.
"""

import base64
import json
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, LargeBinary, MetaData, Table, func, insert, select

from pacs.index.tables import metadata
from tests.index.instances import dataset, study

FOLDER = Path(__file__).parent

DATASETS = (
    dataset(1, PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientSex="M", StudyDate="20200101", Modality="CT"),
    dataset(2, InstanceNumber=2, OtherPatientIDs=["X1", "X2"]),
    study(2, "P1", StudyDescription=["KNEE", "HIP"], Modality="MR"),
    study(3, None, PatientName="NOBODY", AccessionNumber="A3"),
)
"""What is in the archives: several levels, an irregular study, a patient without an ID."""


def write(connection: Connection, revision: str) -> None:
    """Write the rows of an archive to the file of its revision."""
    rows = {
        table.name: [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]
        for table in metadata.sorted_tables
    }
    text = json.dumps(rows, default=lambda blob: base64.b64encode(blob).decode(), indent=1, ensure_ascii=False)
    (FOLDER / f"{revision}.json").write_text(text + "\n", encoding="utf-8")


def load(connection: Connection, revision: str) -> None:
    """Put the rows of an archive into a database that has the schema of its revision."""
    schema = MetaData()
    for name, rows in json.loads((FOLDER / f"{revision}.json").read_text(encoding="utf-8")).items():
        table = Table(name, schema, autoload_with=connection)
        connection.execute(insert(table), [_with_bytes(table, row) for row in rows])
        if connection.dialect.name == "postgresql":
            # Rows that bring their ids along leave the sequence where it was.
            sequence = func.pg_get_serial_sequence(name, "id")
            connection.execute(select(func.setval(sequence, max(row["id"] for row in rows))))


def _with_bytes(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    blobs = {name for name in row if isinstance(table.c[name].type, LargeBinary)}
    return {
        name: base64.b64decode(value) if name in blobs and value is not None else value for name, value in row.items()
    }
