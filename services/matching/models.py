"""What matching stores: who works where and with whom, rota, cases and requests. No name, contact or staff number."""

from datetime import date, datetime
from typing import Any, ClassVar, Final

from sqlalchemy import Index, MetaData, String, UniqueConstraint, false, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from leeward.store import UtcTime, ground_tables

METADATA: Final = MetaData()
_OPEN: Final = text("person_ref IS NOT NULL AND stage NOT IN ('closed', 'ended')")


class _Model(SQLModel, registry=registry(metadata=METADATA)):
    """Base of matching's tables, in a registry of their own."""

    metadata: ClassVar[MetaData] = METADATA


def words(length: int, **options: Any) -> Any:
    """A text column of a bounded length."""
    return Field(sa_type=String(length), **options)


def ref(**options: Any) -> Any:
    """A column for a reference."""
    return words(36, **options)


def moment(**options: Any) -> Any:
    """A column for an aware UTC time."""
    return Field(sa_type=UtcTime, **options)


class RosterPerson(_Model, table=True):
    """Somebody on the roster. `languages` have spaces between; `monthly` is none, offered, yes or no."""

    __tablename__ = "person"
    person_ref: str = ref(primary_key=True)
    recipient_ref: str = ref(index=True)
    profession: str = words(200)
    unit: str = words(200)
    languages: str = words(200)
    timezone: str = words(64)
    status: str = words(10)
    supporter: bool = False
    trained_on: date | None = None
    training_ends: date | None = None
    max_active: int | None = None
    reachable: bool = True
    since: datetime = moment()
    quiet_until: datetime | None = moment(nullable=True)
    monthly: str = words(8, default="none")
    cover_due: datetime | None = moment(nullable=True)
    __table_args__ = (
        Index("person_cover", "cover_due"),
        Index("person_quiet", "quiet_until"),
        Index("person_status", "status"),
        Index("person_unit", "unit"),
    )


class LineManager(_Model, table=True):
    """Who assesses whom; read in both directions."""

    __tablename__ = "line_manager"
    person_ref: str = ref(primary_key=True)
    manager_ref: str = ref(primary_key=True)


class Refusal(_Model, table=True):
    """A person asked for somebody different: never these two."""

    __tablename__ = "refusal"
    person_ref: str = ref(primary_key=True)
    supporter_ref: str = ref(primary_key=True)


class RosterVersion(_Model, table=True):
    """One row, drawn again with every change of the roster, so that copies in memory notice another process's."""

    __tablename__ = "roster_version"
    name: str = words(10, primary_key=True)
    version: str = words(32)


class PublishedIncident(_Model, table=True):
    """What is needed of an outcome while cases rest on it; forgotten after 90 days.

    `offered`: an offer had left to somebody around it of whom nothing is known any more.
    """

    __tablename__ = "incident"
    incident_ref: str = ref(primary_key=True)
    urgency: str = words(8)
    listed: bool = False
    expected: bool = False
    retracted: bool = False
    offered: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    occurred_at: datetime = moment(index=True)


class Exposure(_Model, table=True):
    """Who was around an outcome: its people may not support one another. `who` is a person_ref, or a keyed digest of
    it once a supporter's own tie had to go while others' cases still need the exclusion."""

    __tablename__ = "exposure"
    incident_ref: str = ref(primary_key=True)
    who: str = words(64, primary_key=True)
    reviewer: bool = False
    __table_args__ = (Index("exposure_who", "who"),)


class SupportCase(_Model, table=True):
    """One person's case; the columns are the fields of `case.Case`, reasons and notes with spaces between."""

    __tablename__ = "support_case"
    case_ref: str = ref(primary_key=True)
    person_ref: str | None = ref(nullable=True)
    incident_ref: str | None = ref(nullable=True)
    stage: str = words(16)
    attention: str = words(200, default="", sa_column_kwargs={"server_default": ""})
    notes: str = words(80, default="")
    urgency: str = words(8)
    proposed: str | None = ref(nullable=True)
    supporter: str | None = ref(nullable=True)
    tries: int = 0
    requests: int = 0
    offers: int = 0
    wanted: str = words(8)
    check_ins: bool = False
    checked: int = 0
    supported: bool = False
    professional: bool = False
    opened_at: datetime = moment()
    occurred_at: datetime = moment()
    ends_at: datetime = moment()
    accepted_at: datetime | None = moment(nullable=True)
    confirm_by: datetime | None = moment(nullable=True)
    __table_args__ = (
        Index("open_case", "person_ref", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("support_case_incident", "incident_ref"),
        Index("support_case_person", "person_ref", "ends_at"),
        Index("support_case_supporter", "supporter"),
        Index("support_case_ends", "stage", "ends_at"),
    )


class RequestRow(_Model, table=True):
    """A message asked of notify. `case_ref` is empty once the question is no longer tied to a case of ours."""

    __tablename__ = "request"
    request_ref: str = ref(primary_key=True)
    case_ref: str | None = ref(nullable=True)
    recipient_ref: str = ref()
    template: str = words(20)
    step: str = words(64)
    outcome: str | None = words(16, nullable=True)
    ended: bool = False
    expires_at: datetime = moment()
    __table_args__ = (Index("request_case", "case_ref", "expires_at"),)


class Shift(_Model, table=True):
    """A duty of one person in one unit."""

    __tablename__ = "shift"
    unit: str = words(200, primary_key=True)
    person_ref: str = ref(primary_key=True)
    starts_at: datetime = moment(primary_key=True)
    ends_at: datetime = moment()
    on_call: bool = False
    __table_args__ = (Index("shift_person", "person_ref", "ends_at"), Index("shift_ends", "ends_at"))


class SupporterLoad(_Model, table=True):
    """What a supporter carries: cases now, minutes booked in `month` (2026-11), and until when they rest."""

    __tablename__ = "load"
    supporter_ref: str = ref(primary_key=True)
    active: int = 0
    month: str = words(7, default="")
    minutes: int = 0
    rest_until: datetime | None = moment(nullable=True)
    exposed_until: datetime | None = moment(nullable=True)


class Entry(_Model, table=True):
    """Something for the coordinator that is no case; `about` is an incident's or a case's reference."""

    __tablename__ = "entry"
    entry_ref: str = ref(primary_key=True)
    kind: str = words(32)
    about: str = ref(index=True)
    created_at: datetime = moment()
    __table_args__ = (UniqueConstraint("kind", "about"),)


GROUND: Final = ground_tables(METADATA)
