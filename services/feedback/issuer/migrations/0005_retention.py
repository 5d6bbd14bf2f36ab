"""What retention deletes by is indexed."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("inbox_seen", "inbox", ["seen_on"])


def downgrade() -> None:
    op.drop_index("inbox_seen", "inbox")
