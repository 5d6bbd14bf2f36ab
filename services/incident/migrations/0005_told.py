"""Reports of outcomes that something else had told of before."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "told",
        sa.Column("source_ref", sa.String(length=64), nullable=False),
        sa.Column("incident_ref", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("source_ref"),
    )
    op.create_index("ix_told_incident_ref", "told", ["incident_ref"])


def downgrade() -> None:
    op.drop_table("told")
