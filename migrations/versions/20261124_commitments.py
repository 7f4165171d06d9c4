"""Add the table of storage commitments that have not been reported yet.

Revises: 20261121
"""

import sqlalchemy as sa
from alembic import op

revision = "20261124"
down_revision = "20261121"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "commitment",
        sa.Column("id", KEY, nullable=False),
        sa.Column("peer", TEXT, nullable=False),
        sa.Column("transaction_uid", TEXT, nullable=False),
        sa.Column("requested", sa.LargeBinary(), nullable=False),
        sa.Column("verified", sa.LargeBinary()),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_until", sa.BigInteger()),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_commitment"),
        sa.UniqueConstraint("peer", "transaction_uid", name="uq_commitment_peer"),
    )
    op.create_index("ix_commitment_due_at", "commitment", ["due_at"])


def downgrade() -> None:
    op.drop_table("commitment")
