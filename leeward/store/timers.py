"""A timer is a row that fires in one transaction, which rechecks its condition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, delete, select, tuple_

if TYPE_CHECKING:
    from leeward.store.unit import Unit

BATCH: Final = 256
_RETRY: Final = timedelta(minutes=1)
_LONGEST_RETRY: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that fires: its name, what it is about, and when it was due (aware UTC)."""

    name: str
    key: str
    due_at: datetime


TimerHandler = Callable[["Unit", Sequence[Timer]], None]


def due(unit: "Unit", limit: int = BATCH) -> list[Timer]:
    """The timers that are due, oldest first; locked against other replicas where the database can."""
    table = unit.tables.timer
    query = select(table.c.name, table.c.key, table.c.due_at).where(table.c.due_at <= unit.now)
    found = unit.conn.execute(query.order_by(table.c.due_at).limit(limit).with_for_update(skip_locked=True))
    return [Timer(*row) for row in found]


def still_due(unit: "Unit", timer: Timer) -> list[Timer]:
    """That timer, unless it has been fired, moved or cancelled since it was read."""
    table = unit.tables.timer
    query = select(table.c.name, table.c.key, table.c.due_at).where(_same(unit, timer), table.c.due_at <= unit.now)
    return [Timer(*row) for row in unit.conn.execute(query.with_for_update(skip_locked=True))]


def _same(unit: "Unit", timer: Timer) -> ColumnElement[bool]:
    table = unit.tables.timer
    return (table.c.name == timer.name) & (table.c.key == timer.key)


def fire(unit: "Unit", timers: Sequence[Timer], handlers: Mapping[str, TimerHandler]) -> None:
    """Delete these timers and call their handlers, in one transaction; a handler may set its timer again.

    One that an earlier handler of this transaction cancelled or moved does not fire.
    """
    table = unit.tables.timer
    pairs = [(timer.name, timer.key) for timer in timers]
    unit.conn.execute(delete(table).where(tuple_(table.c.name, table.c.key).in_(pairs)))
    for name, group in groupby(sorted(timers, key=lambda timer: timer.name), key=lambda timer: timer.name):
        if left := [timer for timer in group if not unit.has_decided(timer.name, timer.key)]:
            handlers[name](unit, left)


def postpone(unit: "Unit", timer: Timer) -> None:
    """After a fault: try this timer again, later each time, never giving up, unless it was set again meanwhile."""
    table = unit.tables.timer
    same = _same(unit, timer) & (table.c.due_at <= unit.now)
    attempts = unit.conn.execute(select(table.c.attempts).where(same)).scalar() or 0
    wait = min(_RETRY * 2 ** min(attempts, 10), _LONGEST_RETRY)
    unit.conn.execute(table.update().where(same).values(attempts=attempts + 1, due_at=unit.now + wait))
