"""What retention deletes by is indexed."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("inbox_seen", "inbox", ["seen_on"])
    op.create_index("ix_call_expires_at", "call", ["expires_at"])
    op.create_index("ix_question_accepted_at", "question", ["accepted_at"])
    op.create_index("ix_question_expires_at", "question", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_question_expires_at", "question")
    op.drop_index("ix_question_accepted_at", "question")
    op.drop_index("ix_call_expires_at", "call")
    op.drop_index("inbox_seen", "inbox")
