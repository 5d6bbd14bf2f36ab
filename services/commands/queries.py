"""The commands' statements on the services' databases."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, Row, delete, event, func, select


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


def newest_event(conn: Connection, metadata: MetaData) -> datetime | None:
    """When the newest event of a service's outbox was accepted."""
    found: datetime | None = conn.execute(select(func.max(metadata.tables["outbox"].c.accepted_at))).scalar()
    return found
