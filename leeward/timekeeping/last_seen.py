"""The last time that a service's clock showed while it was trusted; one row in each database (ADR 21)."""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, select

from leeward.store.bulk import Insert
from leeward.store.tables import GroundTables

_NAME: Final = "clock"


class LastSeen(NamedTuple):
    """When the clock was last trusted, and since when it is doubted; both aware UTC, by the guarded clock."""

    seen_at: datetime
    doubted_at: datetime | None


def read_last_seen(conn: Connection, tables: GroundTables) -> LastSeen | None:
    """What is stored; None where the clock was never looked at, or has been reset."""
    table = tables.last_seen
    row = conn.execute(select(table.c.seen_at, table.c.doubted_at).where(table.c.name == _NAME)).first()
    return LastSeen(row.seen_at, row.doubted_at) if row else None


def write_last_seen(conn: Connection, tables: GroundTables, seen: LastSeen) -> None:
    """Store it in place of what was there."""
    columns = ("name", "seen_at", "doubted_at")
    Insert(tables.last_seen, columns, conflict="replace", keys=("name",)).run(conn, [(_NAME, *seen)])


def reset_last_seen(conn: Connection, tables: GroundTables) -> None:
    """Forget it: the next start believes the clock whatever it shows, as after a restore."""
    conn.execute(delete(tables.last_seen).where(tables.last_seen.c.name == _NAME))
