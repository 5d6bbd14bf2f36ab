"""FHIR: what subscriptions have sent, and what is still to be read at their servers."""

import sqlalchemy as sa
from alembic import op

from leeward.store import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subscription",
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("last_event", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.String(), nullable=False),
        sa.Column("heard_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("source", "name"),
    )
    op.create_table(
        "fetch",
        sa.Column("fetch_ref", sa.String(length=36), nullable=False),
        sa.Column("key_ref", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("made_at", UtcTime(), nullable=False),
        sa.Column("due_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("fetch_ref"),
    )
    op.create_index("ix_fetch_key_ref", "fetch", ["key_ref"])
    op.create_index("ix_fetch_due_at", "fetch", ["due_at"])


def downgrade() -> None:
    op.drop_table("fetch")
    op.drop_table("subscription")
