"""Initial."""

import sqlalchemy as sa
from alembic import op

from leeward.store import UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "access",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("handle", sa.String(length=12), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "entry",
        sa.Column("entry_ref", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("about", sa.String(length=36), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("entry_ref"),
        sa.UniqueConstraint("kind", "about"),
    )
    op.create_table(
        "exposure",
        sa.Column("incident_ref", sa.String(length=36), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("reviewer", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("incident_ref", "who"),
    )
    with op.batch_alter_table("exposure", schema=None) as batch_op:
        batch_op.create_index("exposure_who", ["who"], unique=False)

    op.create_table(
        "inbox",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("seen_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "incident",
        sa.Column("incident_ref", sa.String(length=36), nullable=False),
        sa.Column("urgency", sa.String(length=8), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("expected", sa.Boolean(), nullable=False),
        sa.Column("retracted", sa.Boolean(), nullable=False),
        sa.Column("occurred_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("incident_ref"),
    )
    with op.batch_alter_table("incident", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_incident_occurred_at"), ["occurred_at"], unique=False)

    op.create_table(
        "line_manager",
        sa.Column("person_ref", sa.String(length=36), nullable=False),
        sa.Column("manager_ref", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("person_ref", "manager_ref"),
    )
    op.create_table(
        "load",
        sa.Column("supporter_ref", sa.String(length=36), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("rest_until", UtcTime(), nullable=True),
        sa.Column("exposed_until", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("supporter_ref"),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=80), nullable=False),
        sa.Column("key", sa.String(length=36), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=False),
        sa.Column("written_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "parked",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("topic", sa.String(length=80), nullable=False),
        sa.Column("type", sa.String(length=80), nullable=False),
        sa.Column("key", sa.String(length=36), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcTime(), nullable=False),
        sa.Column("dead", sa.Integer(), nullable=False),
        sa.Column("fault", sa.String(length=120), nullable=False),
        sa.Column("place", sa.String(length=200), nullable=False),
        sa.Column("parked_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("event_id"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("parked", schema=None) as batch_op:
        batch_op.create_index("parked_key", ["key"], unique=False)

    op.create_table(
        "person",
        sa.Column("person_ref", sa.String(length=36), nullable=False),
        sa.Column("recipient_ref", sa.String(length=36), nullable=False),
        sa.Column("profession", sa.String(length=200), nullable=False),
        sa.Column("unit", sa.String(length=200), nullable=False),
        sa.Column("languages", sa.String(length=200), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("supporter", sa.Boolean(), nullable=False),
        sa.Column("trained_on", sa.Date(), nullable=True),
        sa.Column("training_ends", sa.Date(), nullable=True),
        sa.Column("max_active", sa.Integer(), nullable=True),
        sa.Column("reachable", sa.Boolean(), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.Column("quiet_until", UtcTime(), nullable=True),
        sa.Column("monthly", sa.String(length=8), nullable=False),
        sa.Column("cover_due", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("person_ref"),
    )
    with op.batch_alter_table("person", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_person_recipient_ref"), ["recipient_ref"], unique=False)

    op.create_table(
        "position",
        sa.Column("topic", sa.String(length=80), nullable=False),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("topic"),
    )
    op.create_table(
        "refusal",
        sa.Column("person_ref", sa.String(length=36), nullable=False),
        sa.Column("supporter_ref", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("person_ref", "supporter_ref"),
    )
    op.create_table(
        "request",
        sa.Column("request_ref", sa.String(length=36), nullable=False),
        sa.Column("case_ref", sa.String(length=36), nullable=True),
        sa.Column("recipient_ref", sa.String(length=36), nullable=False),
        sa.Column("template", sa.String(length=20), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("request_ref"),
    )
    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_request_case_ref"), ["case_ref"], unique=False)
        batch_op.create_index(batch_op.f("ix_request_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "roster_version",
        sa.Column("name", sa.String(length=10), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "shift",
        sa.Column("unit", sa.String(length=200), nullable=False),
        sa.Column("person_ref", sa.String(length=36), nullable=False),
        sa.Column("starts_at", UtcTime(), nullable=False),
        sa.Column("ends_at", UtcTime(), nullable=False),
        sa.Column("on_call", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("unit", "person_ref", "starts_at"),
    )
    with op.batch_alter_table("shift", schema=None) as batch_op:
        batch_op.create_index("shift_ends", ["ends_at"], unique=False)
        batch_op.create_index("shift_person", ["person_ref", "ends_at"], unique=False)

    op.create_table(
        "support_case",
        sa.Column("case_ref", sa.String(length=36), nullable=False),
        sa.Column("person_ref", sa.String(length=36), nullable=True),
        sa.Column("incident_ref", sa.String(length=36), nullable=True),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("attention", sa.String(length=24), nullable=True),
        sa.Column("notes", sa.String(length=80), nullable=False),
        sa.Column("urgency", sa.String(length=8), nullable=False),
        sa.Column("proposed", sa.String(length=36), nullable=True),
        sa.Column("supporter", sa.String(length=36), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("offers", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.String(length=8), nullable=False),
        sa.Column("check_ins", sa.Boolean(), nullable=False),
        sa.Column("checked", sa.Integer(), nullable=False),
        sa.Column("supported", sa.Boolean(), nullable=False),
        sa.Column("professional", sa.Boolean(), nullable=False),
        sa.Column("opened_at", UtcTime(), nullable=False),
        sa.Column("occurred_at", UtcTime(), nullable=False),
        sa.Column("ends_at", UtcTime(), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=True),
        sa.Column("confirm_by", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("case_ref"),
    )
    with op.batch_alter_table("support_case", schema=None) as batch_op:
        batch_op.create_index(
            "open_case",
            ["person_ref"],
            unique=True,
            sqlite_where=sa.text("person_ref IS NOT NULL AND stage NOT IN ('closed', 'ended')"),
            postgresql_where=sa.text("person_ref IS NOT NULL AND stage NOT IN ('closed', 'ended')"),
        )
        batch_op.create_index("support_case_ends", ["stage", "ends_at"], unique=False)
        batch_op.create_index("support_case_incident", ["incident_ref"], unique=False)
        batch_op.create_index("support_case_person", ["person_ref"], unique=False)
        batch_op.create_index("support_case_supporter", ["supporter"], unique=False)

    op.create_table(
        "timer",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=120), nullable=False),
        sa.Column("due_at", UtcTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", "key"),
    )
    with op.batch_alter_table("timer", schema=None) as batch_op:
        batch_op.create_index("timer_due", ["due_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("timer", schema=None) as batch_op:
        batch_op.drop_index("timer_due")

    op.drop_table("timer")
    with op.batch_alter_table("support_case", schema=None) as batch_op:
        batch_op.drop_index("support_case_supporter")
        batch_op.drop_index("support_case_person")
        batch_op.drop_index("support_case_incident")
        batch_op.drop_index("support_case_ends")
        batch_op.drop_index(
            "open_case",
            sqlite_where=sa.text("person_ref IS NOT NULL AND stage NOT IN ('closed', 'ended')"),
            postgresql_where=sa.text("person_ref IS NOT NULL AND stage NOT IN ('closed', 'ended')"),
        )

    op.drop_table("support_case")
    with op.batch_alter_table("shift", schema=None) as batch_op:
        batch_op.drop_index("shift_person")
        batch_op.drop_index("shift_ends")

    op.drop_table("shift")
    op.drop_table("roster_version")
    with op.batch_alter_table("request", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_request_expires_at"))
        batch_op.drop_index(batch_op.f("ix_request_case_ref"))

    op.drop_table("request")
    op.drop_table("refusal")
    op.drop_table("position")
    with op.batch_alter_table("person", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_person_recipient_ref"))

    op.drop_table("person")
    with op.batch_alter_table("parked", schema=None) as batch_op:
        batch_op.drop_index("parked_key")

    op.drop_table("parked")
    op.drop_table("outbox")
    op.drop_table("load")
    op.drop_table("line_manager")
    with op.batch_alter_table("incident", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_incident_occurred_at"))

    op.drop_table("incident")
    op.drop_table("inbox")
    with op.batch_alter_table("exposure", schema=None) as batch_op:
        batch_op.drop_index("exposure_who")

    op.drop_table("exposure")
    op.drop_table("entry")
    op.drop_table("access")
