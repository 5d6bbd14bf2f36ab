"""The tables every service has beside its own."""

from dataclasses import dataclass, fields
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Date,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
    insert,
)
from sqlmodel import SQLModel

from leeward.refs import new_ref
from leeward.store.types import UtcTime

# SQLite gives AUTOINCREMENT to INTEGER keys alone
_Seq: Final = BigInteger().with_variant(Integer, "sqlite")


@dataclass(frozen=True, slots=True)
class GroundTables:
    """Tables of the ground in one service's database."""

    outbox: Table
    inbox: Table
    position: Table
    log: Table
    lease: Table
    parked: Table
    timer: Table
    access: Table
    last_seen: Table
    key_check: Table


GROUND: Final = tuple(field.name for field in fields(GroundTables))


def table_of(model: type[SQLModel]) -> Table:
    """The Core table of a model, for statements that are built once at import."""
    return model.metadata.tables[str(model.__tablename__)]


def ground_tables(metadata: MetaData) -> GroundTables:
    """Add the ground's tables to a service's metadata, once; later calls give the same tables."""
    if "outbox" not in metadata.tables:
        _define_log(metadata)
        _define_own(metadata)
        _define_time(metadata)
        _define_access(metadata)
    found = metadata.tables
    return GroundTables(*(found[name] for name in GROUND))


def _define_log(metadata: MetaData) -> None:
    """What is published, what was applied, and how far each topic was read."""
    # AUTOINCREMENT: SQLite would use the numbers of an emptied table again, and a consumer would skip events
    Table(
        "outbox",
        metadata,
        Column("seq", _Seq, primary_key=True, autoincrement=True),
        Column("id", String(36), nullable=False),
        Column("type", String(80), nullable=False),
        Column("key", String(36), nullable=False),
        Column("body", Text, nullable=False),
        Column("accepted_at", UtcTime, nullable=False),
        Column("written_on", Date, nullable=False),
        sqlite_autoincrement=True,
    )
    inbox = Table(
        "inbox",
        metadata,
        Column("event_id", String(36), primary_key=True),
        Column("seen_on", Date, nullable=False),
        sqlite_with_rowid=False,
    )
    Index("inbox_seen", inbox.c.seen_on)
    # how far a topic was read: the log that this is true of, the last event passed, and what is known of an earlier log
    Table(
        "position",
        metadata,
        Column("topic", String(80), primary_key=True),
        Column("seq", _Seq, nullable=False),
        Column("log", String(36), nullable=False, server_default=""),
        Column("event_id", String(36), nullable=False, server_default=""),
        Column("passed_seq", _Seq, nullable=False, server_default="0"),
        Column("reread_at", UtcTime),
        Column("reread_why", String(20), nullable=False, server_default=""),
    )
    _define_identity(metadata)


def _define_identity(metadata: MetaData) -> None:
    """One row: who this database's log is, the last event that it has forgotten, and since when its inbox is whole."""
    log = Table(
        "log",
        metadata,
        Column("one", Integer, primary_key=True, autoincrement=False),
        Column("identity", String(36), nullable=False),
        Column("forgotten_seq", _Seq, nullable=False, server_default="0"),
        Column("forgotten_id", String(36), nullable=False, server_default=""),
        Column("inbox_since", Date),
    )

    @event.listens_for(log, "after_create")
    def begin(_table: Table, conn: Connection, **_options: object) -> None:
        conn.execute(insert(log).values(one=1, identity=new_ref()))


def _define_own(metadata: MetaData) -> None:
    """What waits to be tried again."""
    parked = Table(
        "parked",
        metadata,
        Column("seq", _Seq, primary_key=True, autoincrement=True),
        Column("event_id", String(36), nullable=False, unique=True),
        Column("topic", String(80), nullable=False),
        Column("type", String(80), nullable=False),
        Column("key", String(36), nullable=False),
        Column("body", Text, nullable=False),
        Column("accepted_at", UtcTime, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("due_at", UtcTime, nullable=False),
        Column("dead", Integer, nullable=False),
        Column("fault", String(120), nullable=False),
        Column("place", String(200), nullable=False),
        Column("parked_on", Date, nullable=False),
        sqlite_autoincrement=True,
    )
    Index("parked_key", parked.c.key)


def _define_access(metadata: MetaData) -> None:
    """Who may sign in, and which keys have made what is stored."""
    Table(
        "access",
        metadata,
        Column("token_hash", String(64), primary_key=True),
        Column("handle", String(12), nullable=False),
        Column("kind", String(8), nullable=False),
        Column("role", String(16), nullable=False),
        Column("expires_at", UtcTime, nullable=False),
    )
    Table(
        "key_check",
        metadata,
        Column("name", String(20), primary_key=True),
        Column("value", String(64), nullable=False),
    )


def _define_time(metadata: MetaData) -> None:
    """What waits for its time, who holds what, and until when the clock is known to have been right."""
    timer = Table(
        "timer",
        metadata,
        Column("name", String(40), primary_key=True),
        Column("key", String(120), primary_key=True),
        Column("due_at", UtcTime, nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        # by the clock that also said when it is due; a timer of a release before this one has none
        Column("set_at", UtcTime, nullable=True),
    )
    Index("timer_due", timer.c.due_at)
    # one row: the last time that this service's clock was trusted, and since when it is doubted, if it is
    Table(
        "last_seen",
        metadata,
        Column("name", String(10), primary_key=True),
        Column("seen_at", UtcTime, nullable=False),
        Column("doubted_at", UtcTime, nullable=True),
    )
    # which process does what only one may do, by the database's clock
    Table(
        "lease",
        metadata,
        Column("name", String(80), primary_key=True),
        Column("holder", BigInteger, nullable=False),
        Column("expires_at", UtcTime, nullable=False),
    )
