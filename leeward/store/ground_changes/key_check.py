"""Which keys have made what is stored."""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    op.create_table(
        "key_check",
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("key_check")
