"""Stored times that were reckoned from a clock that was wrong, put right."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, MetaData, Row, Table, select, update

from leeward.store.bulk import Update
from leeward.store.tables import GroundTables
from leeward.store.types import UtcTime
from leeward.timekeeping.guard import WITNESS

SHORT: Final = timedelta(hours=1)
_LONGEST_RETRY: Final = timedelta(hours=6)
_LONGEST_TOKEN: Final = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Moments:
    """Columns of a table that hold times reckoned from now.

    stamp: the column that says when they were, if there is one: they move with it. longest: how far they can lie ahead
    at most, where another service may have reckoned them: what lies further is cut instead of moved.
    """

    table: Table
    columns: tuple[str, ...]
    stamp: str = ""
    longest: timedelta | None = None


def ground_moments(tables: GroundTables) -> list[Moments]:
    """Those of the tables that every service has."""
    return [
        Moments(tables.timer, ("due_at",), stamp="set_at"),
        Moments(tables.parked, ("due_at",), longest=_LONGEST_RETRY),
        Moments(tables.access, ("expires_at",), longest=_LONGEST_TOKEN),
    ]


def move_forward(conn: Connection, moments: Sequence[Moments], since: datetime, gap: timedelta) -> None:
    """The clock was right and had been doubted: what was reckoned since then was that much too early."""
    for one in moments:
        if one.stamp:
            rows = _rows(conn, one, one.table.c[one.stamp] >= since)
            _write(conn, one, [(row, gap) for row in rows])


def move_back(conn: Connection, moments: Sequence[Moments], now: datetime) -> None:
    """The clock was ahead and is right now: what was reckoned later than now is reckoned from now."""
    for one in moments:
        if one.longest is None:
            rows = _rows(conn, one, one.table.c[one.stamp] > now + WITNESS)
            _write(conn, one, [(row, now - getattr(row, one.stamp)) for row in rows])
        else:
            limit = now + one.longest
            for name in one.columns:
                field = one.table.c[name]
                conn.execute(update(one.table).where(field > limit).values({field: limit}))


def past_times(metadata: MetaData) -> list[Moments]:
    """Every time in a service's own tables, where all of them say when something was."""
    own = [table for table in metadata.sorted_tables if table.name not in GroundTables.__slots__]
    times = [(table, field.name) for table in own for field in table.c if isinstance(field.type, UtcTime)]
    return [Moments(table, (name,), longest=timedelta()) for table, name in times]


def begin_short_timers_again(conn: Connection, tables: GroundTables, now: datetime) -> None:
    """The clock went back: rounds and pages go on at once, whichever of the two times was right."""
    [timers, *_] = ground_moments(tables)
    rows = _rows(conn, timers, tables.timer.c.set_at > now + WITNESS)
    _write(conn, timers, [(row, now - row.set_at) for row in rows if row.due_at - row.set_at <= SHORT])


def _rows(conn: Connection, one: Moments, condition: ColumnElement[bool]) -> Sequence[Row[Any]]:
    return conn.execute(select(*_fields(one)).where(condition)).all()


def _fields(one: Moments) -> list[Any]:
    return [*one.table.primary_key.columns, *(one.table.c[name] for name in (*one.columns, one.stamp))]


def _write(conn: Connection, one: Moments, moved: Sequence[tuple[Row[Any], timedelta]]) -> None:
    keys = [field.name for field in one.table.primary_key.columns]
    # times that are only cut leave the stamp to those that move with it
    changed = (*one.columns, one.stamp) if one.longest is None else one.columns
    width = len(keys) + len(changed)
    rows = [(*row[: len(keys)], *(moment and moment + by for moment in row[len(keys) : width])) for row, by in moved]
    Update(one.table, keys, changed).run(conn, rows)
