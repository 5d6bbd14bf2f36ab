"""A case keeps every reason it has, with spaces between; until now one overwrote another."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_EMPTY = "UPDATE support_case SET attention = '' WHERE attention IS NULL"
# an alarm had taken the place of whatever else there was to do for somebody who has said yes
_ALONE = """UPDATE support_case SET attention = 'on_call_silent no_supporter'
    WHERE attention = 'on_call_silent' AND stage = 'accepted' AND supporter IS NULL"""
_FIRST = "UPDATE support_case SET attention = split_part(attention, ' ', 1)"
_FIRST_ON_SQLITE = "UPDATE support_case SET attention = substr(attention, 1, instr(attention || ' ', ' ') - 1)"
_NONE = "UPDATE support_case SET attention = NULL WHERE attention = ''"


def upgrade() -> None:
    with op.batch_alter_table("support_case") as batch_op:
        batch_op.alter_column("attention", existing_type=sa.String(length=24), type_=sa.String(length=200))
    op.execute(_EMPTY)
    op.execute(_ALONE)
    with op.batch_alter_table("support_case") as batch_op:
        batch_op.alter_column(
            "attention", existing_type=sa.String(length=200), nullable=False, server_default=sa.text("''")
        )


def downgrade() -> None:
    with op.batch_alter_table("support_case") as batch_op:
        batch_op.alter_column("attention", existing_type=sa.String(length=200), nullable=True, server_default=None)
    sqlite = op.get_context().dialect.name == "sqlite"
    op.execute(_FIRST_ON_SQLITE if sqlite else _FIRST)
    op.execute(_NONE)
    with op.batch_alter_table("support_case") as batch_op:
        batch_op.alter_column("attention", existing_type=sa.String(length=200), type_=sa.String(length=24))
