"""The tables of incident. Patients are keyed hashes, staff are references, messages are sealed; nothing else is kept.

SQLModel defines them and serves administration; the hot path uses the Core tables.
"""

from datetime import date, datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from leeward.store import UtcTime

HASH = 64  # hex of HMAC-SHA256


class _Model(SQLModel, registry=registry()):
    """Base of incident's tables, with metadata of their own."""


class IncidentRow(_Model, table=True):
    """One outcome. `certain` tells a death from a doubt; visit and account are keyed hashes."""

    __tablename__ = "incident"
    __table_args__ = (Index("incident_state", "state", "incident_ref"),)
    incident_ref: str = Field(primary_key=True, max_length=36)
    state: str = Field(max_length=10)
    source: str = Field(max_length=32)
    source_ref: str | None = Field(default=None, max_length=HASH, unique=True)
    category: str = Field(max_length=64)
    scheme: str = Field(max_length=64)
    code: str = Field(max_length=64)
    level: str = Field(max_length=10)
    unit: str = Field(max_length=200)
    urgency: str = Field(max_length=10)
    reasons: str = Field(max_length=200)  # codes, separated by blanks
    occurred_at: datetime = Field(sa_type=UtcTime)  # start of its 15-minute bucket
    accepted_at: datetime = Field(sa_type=UtcTime, index=True)  # likewise
    certain: bool
    by_disposition: bool
    visit: str = Field(max_length=HASH)
    account: str = Field(max_length=HASH)


class Told(_Model, table=True):
    """A report by the keyed hash of its source and reference, of an outcome that something else had told of before."""

    __tablename__ = "told"
    source_ref: str = Field(primary_key=True, max_length=HASH)
    incident_ref: str = Field(max_length=36, index=True)


class PatientRow(_Model, table=True):
    """What must be remembered of a patient: the last death indicator, and their present incident."""

    __tablename__ = "patient"
    patient_ref: str = Field(primary_key=True, max_length=36)
    indicator: str = Field(max_length=1)
    incident_ref: str | None = Field(default=None, max_length=36)
    seen_on: date = Field(index=True)


class PatientKey(_Model, table=True):
    """A patient's identifier as a keyed hash; several lead to one patient."""

    __tablename__ = "patient_key"
    key_hash: str = Field(primary_key=True, max_length=HASH)
    patient_ref: str = Field(max_length=36, index=True)


class Seen(_Model, table=True):
    """Accepted messages by a keyed hash of MSH-3, MSH-4, MSH-10 and body: repeated, the answer is the same."""

    __tablename__ = "seen"
    message_hash: str = Field(primary_key=True, max_length=HASH)
    accepted_at: datetime = Field(sa_type=UtcTime, index=True)


class Receipt(_Model, table=True):
    """Native reports by a keyed hash of source and idempotency key, with that of the body and the answer given."""

    __tablename__ = "receipt"
    key_hash: str = Field(primary_key=True, max_length=HASH)
    body_hash: str = Field(max_length=HASH)
    receipt: str = Field(max_length=36)
    accepted_at: datetime = Field(sa_type=UtcTime, index=True)


class StaffIdentifier(_Model, table=True):
    """A staff identifier as a keyed hash. An alias was set by a coordinator and outlives imports."""

    __tablename__ = "staff_identifier"
    key_hash: str = Field(primary_key=True, max_length=HASH)
    person_ref: str = Field(max_length=36, index=True)
    alias: bool
    active: bool


class InvolvedRow(_Model, table=True):
    """Who was listed around an incident; deleted 90 days after it at the latest."""

    __tablename__ = "involved"
    incident_ref: str = Field(primary_key=True, max_length=36)
    person_ref: str = Field(primary_key=True, max_length=36)
    reviewer: bool
    occurred_at: datetime = Field(sa_type=UtcTime, index=True)  # the incident's, by which this is deleted


class Unmatched(_Model, table=True):
    """The work queue: an identifier that led to nobody, sealed; an ignored one keeps its hash alone."""

    __tablename__ = "unmatched"
    unmatched_ref: str = Field(primary_key=True, max_length=36)
    key_hash: str = Field(max_length=HASH, unique=True)
    state: str = Field(max_length=8)  # open, ignored
    sealed: str
    seen_on: date = Field(index=True)


class UnmatchedLink(_Model, table=True):
    """Which incidents name an unmatched identifier; no coordinator is shown it."""

    __tablename__ = "unmatched_link"
    unmatched_ref: str = Field(primary_key=True, max_length=36)
    incident_ref: str = Field(primary_key=True, max_length=36, index=True)
    reviewer: bool
    occurred_at: datetime = Field(sa_type=UtcTime, index=True)  # the incident's, by which this is deleted


class DayKey(_Model, table=True):
    """The key of a day's raw messages, sealed by the service's own; destroyed 72 hours after it was made."""

    __tablename__ = "day_key"
    key_ref: str = Field(primary_key=True, max_length=36)
    day: date = Field(unique=True)
    sealed: str = Field(max_length=200)
    made_at: datetime = Field(sa_type=UtcTime)


class RawMessage(_Model, table=True):
    """An accepted message as it came, sealed by its day's key; `place` keeps the order in which they came."""

    __tablename__ = "raw_message"
    raw_ref: str = Field(primary_key=True, max_length=36)
    key_ref: str = Field(max_length=36, index=True)
    source: str = Field(max_length=32)
    accepted_at: datetime = Field(sa_type=UtcTime)
    sealed: str
    place: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})


class SubscriptionRow(_Model, table=True):
    """What a FHIR server's subscription has sent: the last event number, numbers that never came, and when."""

    __tablename__ = "subscription"
    source: str = Field(primary_key=True, max_length=32)
    name: str = Field(primary_key=True, max_length=200)  # the server's own as a keyed hash, or `rest-hook`
    last_event: int = Field(sa_type=BigInteger)
    missing: str  # event numbers, separated by blanks
    heard_at: datetime = Field(sa_type=UtcTime)


class Fetch(_Model, table=True):
    """What a notification without its resources leaves to be read at its server, sealed by its day's key."""

    __tablename__ = "fetch"
    fetch_ref: str = Field(primary_key=True, max_length=36)
    key_ref: str = Field(max_length=36, index=True)
    source: str = Field(max_length=32)
    sealed: str
    attempts: int
    made_at: datetime = Field(sa_type=UtcTime, index=True)
    due_at: datetime = Field(sa_type=UtcTime, index=True)


class Reconciliation(_Model, table=True):
    """What came of the hospital's own list when it was last compared: outcomes by reason, "" for all of them."""

    __tablename__ = "reconciliation"
    reason: str = Field(primary_key=True, max_length=20)
    outcomes: int
    made_at: datetime = Field(sa_type=UtcTime)


METADATA = _Model.metadata
