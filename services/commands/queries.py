"""The commands' statements on the services' databases."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, MetaData, Row, delete, event, func, select

from leeward.bus import dead_letters
from leeward.people import GONE

_OF_PEOPLE: Final = ("staff_identifier", "person", "recipient")


def wait_for_turn(engine: Engine, milliseconds: int) -> None:
    """Let every connection of an SQLite engine wait that long while somebody else writes."""

    @event.listens_for(engine, "connect")
    def be_patient(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={milliseconds}").close()


def rows_of(conn: Connection, metadata: MetaData, table: str) -> Sequence[Row[Any]]:
    """Every row of a table."""
    return conn.execute(select(metadata.tables[table])).all()


def tokens(conn: Connection, metadata: MetaData) -> Iterator[Row[Any]]:
    """The API tokens that a service knows."""
    access = metadata.tables["access"]
    yield from conn.execute(select(access).where(access.c.kind == "token"))


def delete_token(conn: Connection, metadata: MetaData, handle: str) -> int:
    """Delete the token of a handle; gives how many there were."""
    access = metadata.tables["access"]
    return conn.execute(delete(access).where(access.c.handle == handle, access.c.kind == "token")).rowcount


def count_dead_letters(conn: Connection, metadata: MetaData) -> int:
    """How many events a service has given up, and nobody has had tried again or dropped."""
    return dead_letters.count_dead(conn, metadata.tables["parked"])


def newest_event(conn: Connection, metadata: MetaData) -> datetime | None:
    """When the newest event of a service's outbox was accepted."""
    found: datetime | None = conn.execute(select(func.max(metadata.tables["outbox"].c.accepted_at))).scalar()
    return found


def knows_people(conn: Connection, metadata: MetaData) -> bool:
    """Whether a service has somebody of a roster, by references that the people key made."""
    tables = [metadata.tables[name] for name in _OF_PEOPLE if name in metadata.tables]
    return any(conn.execute(select(table).limit(1)).first() for table in tables)


def people_here(conn: Connection, metadata: MetaData) -> set[str]:
    """The person_refs of everybody on matching's roster who has not left."""
    person = metadata.tables["person"]
    return set(conn.execute(select(person.c.person_ref).where(person.c.status.not_in(GONE))).scalars())
