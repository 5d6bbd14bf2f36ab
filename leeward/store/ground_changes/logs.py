"""Identities of logs, positions that name them, and leases."""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

from leeward.store import UtcTime

Seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("holder", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    log = op.create_table(
        "log",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("identity", sa.String(length=36), nullable=False),
        sa.Column("forgotten_seq", Seq, server_default="0", nullable=False),
        sa.Column("forgotten_id", sa.String(length=36), server_default="", nullable=False),
        sa.Column("inbox_since", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("one"),
    )
    op.bulk_insert(log, [{"one": 1, "identity": str(uuid4())}])
    op.add_column("position", sa.Column("log", sa.String(length=36), server_default="", nullable=False))
    op.add_column("position", sa.Column("event_id", sa.String(length=36), server_default="", nullable=False))
    op.add_column("position", sa.Column("passed_seq", Seq, server_default="0", nullable=False))
    op.add_column("position", sa.Column("reread_at", UtcTime(), nullable=True))
    op.add_column("position", sa.Column("reread_why", sa.String(length=20), server_default="", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("position") as batch_op:
        for name in ("reread_why", "reread_at", "passed_seq", "event_id", "log"):
            batch_op.drop_column(name)
    op.drop_table("log")
    op.drop_table("lease")
