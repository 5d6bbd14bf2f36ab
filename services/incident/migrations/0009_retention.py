"""What retention deletes by is indexed; who was around an incident bears the time by which it is deleted."""

import sqlalchemy as sa
from alembic import op

from leeward.store import UtcTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

DATED = ("involved", "unmatched_link")
INCIDENT = sa.table("incident", sa.column("incident_ref"), sa.column("occurred_at"))


def upgrade() -> None:
    op.create_index("ix_fetch_made_at", "fetch", ["made_at"])
    op.create_index("inbox_seen", "inbox", ["seen_on"])
    for table in DATED:
        op.add_column(table, sa.Column("occurred_at", UtcTime(), nullable=True))
        dated = sa.table(table, sa.column("incident_ref"), sa.column("occurred_at"))
        theirs = sa.select(INCIDENT.c.occurred_at).where(INCIDENT.c.incident_ref == dated.c.incident_ref)
        op.execute(dated.update().values(occurred_at=theirs.scalar_subquery()))
        op.execute(dated.delete().where(dated.c.occurred_at.is_(None)))
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column("occurred_at", nullable=False)
        op.create_index(f"ix_{table}_occurred_at", table, ["occurred_at"])


def downgrade() -> None:
    for table in DATED:
        op.drop_index(f"ix_{table}_occurred_at", table)
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column("occurred_at")
    op.drop_index("inbox_seen", "inbox")
    op.drop_index("ix_fetch_made_at", "fetch")
