"""Reconciliation: what came of the hospital's own list of severe outcomes."""

import sqlalchemy as sa
from alembic import op

from leeward.store import UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reconciliation",
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("outcomes", sa.Integer(), nullable=False),
        sa.Column("made_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("reason"),
    )


def downgrade() -> None:
    op.drop_table("reconciliation")
