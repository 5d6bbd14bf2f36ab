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
        "day_key",
        sa.Column("key_ref", sa.String(length=36), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("sealed", sa.String(length=200), nullable=False),
        sa.Column("made_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("key_ref"),
        sa.UniqueConstraint("day"),
    )
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
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("source_ref", sa.String(length=64), nullable=True),
        sa.Column("category", sa.String(length=64), nullable=False),
        sa.Column("scheme", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False),
        sa.Column("unit", sa.String(length=200), nullable=False),
        sa.Column("urgency", sa.String(length=10), nullable=False),
        sa.Column("reasons", sa.String(length=200), nullable=False),
        sa.Column("occurred_at", UtcTime(), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=False),
        sa.Column("certain", sa.Boolean(), nullable=False),
        sa.Column("by_disposition", sa.Boolean(), nullable=False),
        sa.Column("visit", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("incident_ref"),
        sa.UniqueConstraint("source_ref"),
    )
    with op.batch_alter_table("incident", schema=None) as batch_op:
        batch_op.create_index("incident_state", ["state", "incident_ref"], unique=False)
        batch_op.create_index(batch_op.f("ix_incident_accepted_at"), ["accepted_at"], unique=False)

    op.create_table(
        "involved",
        sa.Column("incident_ref", sa.String(length=36), nullable=False),
        sa.Column("person_ref", sa.String(length=36), nullable=False),
        sa.Column("reviewer", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("incident_ref", "person_ref"),
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
        "patient",
        sa.Column("patient_ref", sa.String(length=36), nullable=False),
        sa.Column("indicator", sa.String(length=1), nullable=False),
        sa.Column("incident_ref", sa.String(length=36), nullable=True),
        sa.Column("seen_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("patient_ref"),
    )
    with op.batch_alter_table("patient", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_patient_seen_on"), ["seen_on"], unique=False)

    op.create_table(
        "patient_key",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("patient_ref", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("key_hash"),
    )
    with op.batch_alter_table("patient_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_patient_key_patient_ref"), ["patient_ref"], unique=False)

    op.create_table(
        "position",
        sa.Column("topic", sa.String(length=80), nullable=False),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("topic"),
    )
    op.create_table(
        "raw_message",
        sa.Column("raw_ref", sa.String(length=36), nullable=False),
        sa.Column("key_ref", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("raw_ref"),
    )
    with op.batch_alter_table("raw_message", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_raw_message_key_ref"), ["key_ref"], unique=False)

    op.create_table(
        "receipt",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("receipt", sa.String(length=36), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash"),
    )
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_receipt_accepted_at"), ["accepted_at"], unique=False)

    op.create_table(
        "seen",
        sa.Column("message_hash", sa.String(length=64), nullable=False),
        sa.Column("accepted_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("message_hash"),
    )
    with op.batch_alter_table("seen", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_seen_accepted_at"), ["accepted_at"], unique=False)

    op.create_table(
        "staff_identifier",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("person_ref", sa.String(length=36), nullable=False),
        sa.Column("alias", sa.Boolean(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash"),
    )
    with op.batch_alter_table("staff_identifier", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_staff_identifier_person_ref"), ["person_ref"], unique=False)

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

    op.create_table(
        "unmatched",
        sa.Column("unmatched_ref", sa.String(length=36), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("seen_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("unmatched_ref"),
        sa.UniqueConstraint("key_hash"),
    )
    with op.batch_alter_table("unmatched", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_unmatched_seen_on"), ["seen_on"], unique=False)

    op.create_table(
        "unmatched_link",
        sa.Column("unmatched_ref", sa.String(length=36), nullable=False),
        sa.Column("incident_ref", sa.String(length=36), nullable=False),
        sa.Column("reviewer", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("unmatched_ref", "incident_ref"),
    )
    with op.batch_alter_table("unmatched_link", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_unmatched_link_incident_ref"), ["incident_ref"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("unmatched_link", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_unmatched_link_incident_ref"))

    op.drop_table("unmatched_link")
    with op.batch_alter_table("unmatched", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_unmatched_seen_on"))

    op.drop_table("unmatched")
    with op.batch_alter_table("timer", schema=None) as batch_op:
        batch_op.drop_index("timer_due")

    op.drop_table("timer")
    with op.batch_alter_table("staff_identifier", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_staff_identifier_person_ref"))

    op.drop_table("staff_identifier")
    with op.batch_alter_table("seen", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_seen_accepted_at"))

    op.drop_table("seen")
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_receipt_accepted_at"))

    op.drop_table("receipt")
    with op.batch_alter_table("raw_message", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_raw_message_key_ref"))

    op.drop_table("raw_message")
    op.drop_table("position")
    with op.batch_alter_table("patient_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_patient_key_patient_ref"))

    op.drop_table("patient_key")
    with op.batch_alter_table("patient", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_patient_seen_on"))

    op.drop_table("patient")
    with op.batch_alter_table("parked", schema=None) as batch_op:
        batch_op.drop_index("parked_key")

    op.drop_table("parked")
    op.drop_table("outbox")
    op.drop_table("involved")
    with op.batch_alter_table("incident", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_incident_accepted_at"))
        batch_op.drop_index("incident_state")

    op.drop_table("incident")
    op.drop_table("inbox")
    op.drop_table("day_key")
    op.drop_table("access")
