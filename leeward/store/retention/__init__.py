"""What has served is deleted, at the start and every hour, in slices so short that nobody waits for them."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection, Delete, Select, Table, Update, bindparam, delete, select

from leeward.store.engine import Store
from leeward.store.lookup import in_list
from leeward.store.periodic import every
from leeward.store.unit import GroundWrites, Unit

# deletes at most so many rows of what it deletes, and says whether there may be more
RetentionPart = Callable[[Unit, int], bool]

INBOX_KEPT: Final = timedelta(days=9)
EVERY: Final = 3600.0
SLICE_SECONDS: Final = 0.01
FIRST_SLICE: Final = 100  # rows
FEWEST: Final = 10
MOST: Final = 1000
# others have the database for so many times as long as a slice had it
_PAUSE: Final = 2.0


class Expired:
    """Deletes what a query finds by a key of its own, and what hangs on that, a slice at a time.

    `find` selects one column, by an index, in the order in which rows expire; `deletes` are by `in_list` of that key.
    """

    def __init__(self, find: Select[Any], *deletes: Delete | Update) -> None:
        self.find = find.limit(bindparam("most"))
        self.deletes = deletes

    @cached_property
    def _wanted(self) -> Sequence[frozenset[str]]:
        """The parameters of each statement: an update takes others for columns."""
        return [frozenset(statement.compile().params) for statement in self.deletes]

    def delete_from(self, conn: Connection, most: int, **parameters: Any) -> bool:
        """Delete what at most so many found rows name; whether there may be more."""
        found = conn.execute(self.find, {**parameters, "most": most}).scalars().all()
        if found:
            given = {**parameters, "keys": sorted(set(found))}
            for statement, wanted in zip(self.deletes, self._wanted, strict=True):
                conn.execute(statement, {name: given[name] for name in wanted & given.keys()})
        return len(found) == most


def expired_rows(table: Table, key: str, time: str) -> Expired:
    """The rows of a table whose `time` lies before the parameter "before", by their key."""
    column = table.c[key]
    find = select(column).where(table.c[time] < bindparam("before")).order_by(table.c[time])
    return Expired(find, delete(table).where(in_list(column)))


def at_once(part: Callable[[Unit], object]) -> RetentionPart:
    """A part that has little to delete, and deletes all of it."""

    def run(unit: Unit, _most: int) -> bool:
        part(unit)
        return False

    return run


def delete_all(unit: Unit, *parts: RetentionPart) -> None:
    """Delete to the end in one transaction, where nobody waits for it: after a restore."""
    for part in parts:
        while part(unit, MOST):
            pass


class Retention:
    """At the start, every hour and when asked to: delete what has served, then truncate the write-ahead log."""

    def __init__(self, store: Store, *parts: RetentionPart) -> None:
        self._store = store
        self._parts: Sequence[RetentionPart] = (*ground_parts(store.writes), *parts)
        self._most = FIRST_SLICE

    async def run(self, stop: asyncio.Event) -> None:
        """Do so until `stop` is set."""
        await every(EVERY, lambda: self.once(stop), self._store.clock, self._store.untidy)(stop)

    async def once(self, stop: asyncio.Event | None = None) -> None:
        """Delete what is old, and leave nothing of it behind; a stop ends it after the slice under way."""
        for part in self._parts:
            while await self._delete_slice(part):
                if stop is not None and stop.is_set():
                    return
        await self._store.tidy()

    async def _delete_slice(self, part: RetentionPart) -> bool:
        most = self._most
        more, seconds = await self._store.trim(lambda unit: part(unit, most))
        if seconds > SLICE_SECONDS:
            self._most = max(FEWEST, most // 2)
        elif more and seconds < SLICE_SECONDS / 2:
            self._most = min(MOST, most * 2)
        await asyncio.sleep(seconds * _PAUSE)
        return more


def ground_parts(writes: GroundWrites) -> Sequence[RetentionPart]:
    """Access that has expired. Outbox and inbox are the bus's: it knows what its logs hold and who has read them."""
    access = expired_rows(writes.tables.access, "token_hash", "expires_at")
    return (lambda unit, most: access.delete_from(unit.conn, most, before=unit.now),)
