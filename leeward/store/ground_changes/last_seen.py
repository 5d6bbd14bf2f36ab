"""The last time that the clock was trusted, and when each timer was set."""

import sqlalchemy as sa
from alembic import op

from leeward.store import UtcTime


def upgrade() -> None:
    op.create_table(
        "last_seen",
        sa.Column("name", sa.String(length=10), nullable=False),
        sa.Column("seen_at", UtcTime(), nullable=False),
        sa.Column("doubted_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    with op.batch_alter_table("timer", schema=None) as batch_op:
        batch_op.add_column(sa.Column("set_at", UtcTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("timer", schema=None) as batch_op:
        batch_op.drop_column("set_at")

    op.drop_table("last_seen")
