"""Parking: an event that fails waits aside with its key's followers, is tried again, and ends as a dead letter."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection, Row, delete, func, select

from leeward import telemetry
from leeward.bus import Raw
from leeward.clock import first_of
from leeward.contracts import Event, decode
from leeward.contracts.envelope import UnknownType
from leeward.service import Handler
from leeward.store import Insert, Store, StoreUnavailable, Unit

ATTEMPTS: Final = 8
LIMIT: Final = 1000
RETRY_EVERY: Final = 15.0
FIRST_RETRY: Final = timedelta(seconds=30)
KEPT_DAYS: Final = timedelta(days=7)
_EVENT: Final = ("event_id", "topic", "type", "key", "body", "accepted_at")
_COLUMNS: Final = (*_EVENT, "attempts", "due_at", "dead", "fault", "place", "parked_on")


class TooManyParked(Exception):
    """So many events fail that the fault is ours, not theirs: better to stop than to park a whole topic."""


class Parking:
    """The parked events of one service, and its handlers by event type."""

    def __init__(self, service: str, store: Store, handlers: Mapping[str, Handler]) -> None:
        self.service = service
        self.handlers = handlers
        self.types = frozenset(handlers)
        self._store = store
        self._table = store.writes.tables.parked
        self._insert = Insert(self._table, _COLUMNS, conflict="nothing", keys=("event_id",))

    def followers_aside(self, unit: Unit, topic: str, events: Sequence[Raw]) -> list[Raw]:
        """Park the events whose key has one waiting already; gives the others."""
        table = self._table
        keys = {event.key for event in events}
        query = select(table.c.key).where(table.c.dead == 0, table.c.key.in_(keys)).distinct()
        waiting = set(unit.conn.execute(query).scalars())
        if not waiting:
            return list(events)
        self._store_rows(unit, topic, [event for event in events if event.key in waiting], "", "follows a parked event")
        return [event for event in events if event.key not in waiting]

    def park(self, unit: Unit, topic: str, raw: Raw, fault: Exception) -> None:
        """Set one event aside after its fault; what can never succeed is dead at once.

        Raises:
            TooManyParked: when the limit is reached; the event then stays in the log.
        """
        alive = select(func.count()).select_from(self._table).where(self._table.c.dead == 0)
        if (unit.conn.execute(alive).scalar() or 0) >= LIMIT:
            raise TooManyParked
        hopeless = isinstance(fault, (UnknownType, ValidationError))
        self._store_rows(unit, topic, [raw], type(fault).__name__, telemetry.place(fault), dead=hopeless)
        telemetry.EVENTS_PARKED.labels(self.service).inc()
        telemetry.log(
            "event_parked",
            service=self.service,
            type=raw.type,
            fault=type(fault).__name__,
            place=telemetry.place(fault),
        )

    def _store_rows(
        self, unit: Unit, topic: str, raws: Sequence[Raw], fault: str, where: str, *, dead: bool = False
    ) -> None:
        due, day = unit.now + FIRST_RETRY, unit.now.date()
        self._insert.run(
            unit.conn,
            [
                (raw.id, topic, raw.type, raw.key, raw.body, raw.accepted_at, 0, due, int(dead), fault, where, day)
                for raw in raws
            ],
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Retry what is due until `stop` is set."""
        while not stop.is_set():
            with suppress(StoreUnavailable):
                await self.retry()
            await first_of(stop.wait(), self._store.clock.sleep(RETRY_EVERY))

    async def retry(self) -> None:
        """Try the parked events that are due, each key in its order."""
        now = self._store.clock.now()
        table = self._table
        query = select(table.c.key).where(table.c.dead == 0, table.c.due_at <= now).distinct()
        for key in await self._store.read(lambda conn: conn.execute(query).scalars().all()):
            while await self._retry_first(key):
                pass

    async def _retry_first(self, key: str) -> bool:
        """Try the key's first event; True when there may be another to try now."""
        try:
            return await self._store.write(lambda unit: self._apply_first(unit, key))
        except StoreUnavailable:
            raise
        except Exception as fault:
            blamed = fault
            return await self._store.write(lambda unit: self._failed_again(unit, key, blamed))

    def _first(self, conn: Connection, key: str) -> Row[Any] | None:
        table = self._table
        query = select(table).where(table.c.key == key, table.c.dead == 0).order_by(table.c.seq).limit(1)
        return conn.execute(query).first()

    def _apply_first(self, unit: Unit, key: str) -> bool:
        row = self._first(unit.conn, key)
        if row is None:
            return False
        unit.conn.execute(delete(self._table).where(self._table.c.seq == row.seq))
        event = Event(row.event_id, row.key, decode(row.type, row.body), row.accepted_at)
        self.handlers[row.type](unit, [event])
        return True

    def _failed_again(self, unit: Unit, key: str, fault: Exception) -> bool:
        row = self._first(unit.conn, key)
        if row is None:
            return False
        attempts = row.attempts + 1
        dead = attempts >= ATTEMPTS
        changes = {
            "attempts": attempts,
            "due_at": unit.now + FIRST_RETRY * 2**attempts,
            "dead": int(dead),
            "fault": type(fault).__name__,
            "place": telemetry.place(fault),
        }
        unit.conn.execute(self._table.update().where(self._table.c.seq == row.seq).values(**changes))
        if dead:
            telemetry.EVENTS_DEAD.labels(self.service).inc()
        return bool(dead)

    def forget(self, unit: Unit) -> None:
        """Drop dead letters after seven days."""
        old = unit.now.date() - KEPT_DAYS
        unit.conn.execute(delete(self._table).where(self._table.c.dead == 1, self._table.c.parked_on < old))
