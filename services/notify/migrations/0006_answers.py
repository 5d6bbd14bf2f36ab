"""How many answers a question has had: what came before what goes by that, and no longer by clocks."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ANSWERED = "UPDATE question SET answers = 1 WHERE answered_at IS NOT NULL"
_ASKED_AFTER = """UPDATE delivery SET asked_after = 1 WHERE EXISTS (
    SELECT 1 FROM question WHERE question.question_ref = delivery.question_ref
    AND question.answered_at < delivery.accepted_at)"""


def upgrade() -> None:
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.add_column(sa.Column("asked_after", sa.Integer(), server_default="0", nullable=False))

    with op.batch_alter_table("question", schema=None) as batch_op:
        batch_op.add_column(sa.Column("answers", sa.Integer(), server_default="0", nullable=False))
    op.execute(_ANSWERED)
    op.execute(_ASKED_AFTER)


def downgrade() -> None:
    with op.batch_alter_table("question", schema=None) as batch_op:
        batch_op.drop_column("answers")

    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_column("asked_after")
