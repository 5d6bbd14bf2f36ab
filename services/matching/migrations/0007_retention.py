"""What retention and the hourly round go by is indexed."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_request_case_ref", "request")
    op.drop_index("ix_request_expires_at", "request")
    op.drop_index("support_case_person", "support_case")
    op.create_index("inbox_seen", "inbox", ["seen_on"])
    op.create_index("ix_entry_about", "entry", ["about"])
    op.create_index("person_cover", "person", ["cover_due"])
    op.create_index("person_quiet", "person", ["quiet_until"])
    op.create_index("person_status", "person", ["status"])
    op.create_index("person_unit", "person", ["unit"])
    op.create_index("request_case", "request", ["case_ref", "expires_at"])
    op.create_index("support_case_person", "support_case", ["person_ref", "ends_at"])


def downgrade() -> None:
    op.drop_index("support_case_person", "support_case")
    op.drop_index("request_case", "request")
    op.drop_index("person_unit", "person")
    op.drop_index("person_status", "person")
    op.drop_index("person_quiet", "person")
    op.drop_index("person_cover", "person")
    op.drop_index("ix_entry_about", "entry")
    op.drop_index("inbox_seen", "inbox")
    op.create_index("ix_request_case_ref", "request", ["case_ref"])
    op.create_index("ix_request_expires_at", "request", ["expires_at"])
    op.create_index("support_case_person", "support_case", ["person_ref"])
