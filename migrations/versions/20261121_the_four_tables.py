"""Add the four tables: patient, study, series, image.

Revises: nothing, this is the first
"""

import sqlalchemy as sa
from alembic import op

revision = "20261121"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

NAMES = ("patient_name", "patient_name_ideographic", "patient_name_phonetic")

INDEXES = {
    "patient": (*((name,) for name in NAMES), ("patient_birth_date",)),
    "study": (("patient_fk",), ("study_date",), ("accession_number",), ("study_id",), ("referring_physician_name",)),
    "series": (("study_fk", "modality"), ("performed_procedure_step_start_date",)),
    "image": (("series_fk", "sop_class_uid"),),
}

SQLITE_TRIGRAMS = (
    """
    CREATE VIRTUAL TABLE patient_trigram USING fts5(
        patient_name, patient_name_ideographic, patient_name_phonetic,
        content='patient', content_rowid='id', tokenize='trigram case_sensitive 1')
    """,
    """
    CREATE TRIGGER patient_trigram_insert AFTER INSERT ON patient BEGIN
        INSERT INTO patient_trigram (rowid, patient_name, patient_name_ideographic, patient_name_phonetic)
        VALUES (new.id, new.patient_name, new.patient_name_ideographic, new.patient_name_phonetic);
    END
    """,
    """
    CREATE TRIGGER patient_trigram_delete AFTER DELETE ON patient BEGIN
        INSERT INTO patient_trigram
            (patient_trigram, rowid, patient_name, patient_name_ideographic, patient_name_phonetic)
        VALUES ('delete', old.id, old.patient_name, old.patient_name_ideographic, old.patient_name_phonetic);
    END
    """,
    """
    CREATE TRIGGER patient_trigram_update
    AFTER UPDATE OF patient_name, patient_name_ideographic, patient_name_phonetic ON patient BEGIN
        INSERT INTO patient_trigram
            (patient_trigram, rowid, patient_name, patient_name_ideographic, patient_name_phonetic)
        VALUES ('delete', old.id, old.patient_name, old.patient_name_ideographic, old.patient_name_phonetic);
        INSERT INTO patient_trigram (rowid, patient_name, patient_name_ideographic, patient_name_phonetic)
        VALUES (new.id, new.patient_name, new.patient_name_ideographic, new.patient_name_phonetic);
    END
    """,
)


def upgrade() -> None:
    _patient()
    _study()
    _series()
    _image()
    for table, indexes in INDEXES.items():
        for columns in indexes:
            op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
        op.create_index(
            f"ix_{table}_irregular",
            table,
            ["id"],
            sqlite_where=sa.text("irregular = 1"),
            postgresql_where=sa.text("irregular"),
        )
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE_TRIGRAMS:
            op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE patient_trigram")
    for table in ("image", "series", "study", "patient"):
        op.drop_table(table)


def _text(*names: str, nullable: bool = True) -> list[sa.Column[str]]:
    return [sa.Column(name, TEXT, nullable=nullable) for name in names]


def _name(name: str) -> list[sa.Column[str]]:
    return _text(name, f"{name}_ideographic", f"{name}_phonetic", f"{name}_sounds")


def _level() -> list[sa.Column[bytes] | sa.Column[bool]]:
    return [
        sa.Column("kept", sa.LargeBinary(), nullable=False),
        sa.Column("irregular", sa.Boolean(), nullable=False),
    ]


def _patient() -> None:
    op.create_table(
        "patient",
        sa.Column("id", KEY, nullable=False),
        *_text("patient_id", "issuer_of_patient_id", nullable=False),
        *_name("patient_name"),
        *_text("patient_birth_date", "patient_sex"),
        sa.Column("apart", TEXT, server_default="", nullable=False),
        *_level(),
        sa.PrimaryKeyConstraint("id", name="pk_patient"),
        sa.UniqueConstraint("patient_id", "issuer_of_patient_id", "apart", name="uq_patient_patient_id"),
    )


def _study() -> None:
    op.create_table(
        "study",
        sa.Column("id", KEY, nullable=False),
        sa.Column("patient_fk", KEY, nullable=False),
        *_text("study_instance_uid", nullable=False),
        *_text("study_date", "study_time", "accession_number", "study_id", "study_description"),
        *_name("referring_physician_name"),
        *_level(),
        sa.ForeignKeyConstraint(["patient_fk"], ["patient.id"], name="fk_study_patient_fk"),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("study_instance_uid", name="uq_study_study_instance_uid"),
    )


def _series() -> None:
    op.create_table(
        "series",
        sa.Column("id", KEY, nullable=False),
        sa.Column("study_fk", KEY, nullable=False),
        *_text("series_instance_uid", nullable=False),
        *_text("modality"),
        sa.Column("series_number", sa.BigInteger()),
        *_text("series_description", "body_part_examined", "station_name"),
        *_text("performed_procedure_step_start_date", "performed_procedure_step_start_time"),
        *_level(),
        sa.ForeignKeyConstraint(["study_fk"], ["study.id"], name="fk_series_study_fk"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("series_instance_uid", name="uq_series_series_instance_uid"),
    )


def _image() -> None:
    op.create_table(
        "image",
        sa.Column("id", KEY, nullable=False),
        sa.Column("series_fk", KEY, nullable=False),
        *_text("sop_instance_uid", "sop_class_uid", nullable=False),
        sa.Column("instance_number", sa.BigInteger()),
        *_level(),
        *_text("file_key", nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        *_text("digest", "transfer_syntax", nullable=False),
        sa.Column("data_offset", sa.BigInteger(), nullable=False),
        sa.Column("bulk_offset", sa.BigInteger()),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger()),
        *_text("source_ae", nullable=False),
        sa.ForeignKeyConstraint(["series_fk"], ["series.id"], name="fk_image_series_fk"),
        sa.PrimaryKeyConstraint("id", name="pk_image"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_image_sop_instance_uid"),
        sa.UniqueConstraint("file_key", name="uq_image_file_key"),
    )
