"""Parking: an event that fails waits aside with its key's followers, is tried again, and ends as a dead letter."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection, Row, delete, func, select

from leeward import telemetry
from leeward.bus import Raw, dead_letters
from leeward.contracts import EVENTS, AttentionEvent, Event, IncidentAttention, NotifyAttention, decode
from leeward.contracts.envelope import UnknownType
from leeward.service import Handler
from leeward.store import Insert, Store, StoreUnavailable, Unit
from leeward.store.periodic import every

# by which services tell matching, which reads its own, that some of their events were given up
ATTENTION: Final[Mapping[str, type[AttentionEvent]]] = {"incident": IncidentAttention, "notify": NotifyAttention}
ATTEMPTS: Final = 8
LIMIT: Final = 1000
RETRY_EVERY: Final = 15.0
FIRST_RETRY: Final = timedelta(seconds=30)
KEPT_DAYS: Final = timedelta(days=7)
_EVENT: Final = ("event_id", "topic", "type", "key", "body", "accepted_at")
_COLUMNS: Final = (*_EVENT, "attempts", "due_at", "dead", "fault", "place", "parked_on")


class TooManyParked(Exception):
    """So many events fail that the fault is ours, not theirs: better to stop than to park a whole topic."""


class Undecodable(Exception):
    """An event that no attempt will understand: its type or version is not known, or its body does not fit."""


def event_of(event_id: str, event_type: str, key: str, body: str, accepted_at: datetime) -> Event:
    """An event with its body parsed.

    Raises:
        Undecodable: when that can never succeed with this release.
    """
    try:
        return Event(event_id, key, decode(event_type, body), accepted_at)
    except UnknownType:
        raise Undecodable("unknown-type") from None
    except ValidationError:
        raise Undecodable("body-does-not-fit") from None


class Parking:
    """The parked events of one service, and its handlers by event type."""

    def __init__(self, service: str, store: Store, handlers: Mapping[str, Handler]) -> None:
        self.service = service
        self.handlers = handlers
        self.types = frozenset(handlers)
        self._store = store
        self._table = store.writes.tables.parked
        self._any_waiting = select(self._table.c.seq).where(self._table.c.dead == 0).limit(1)
        self._insert = Insert(self._table, _COLUMNS, conflict="nothing", keys=("event_id",))
        self._attention = ATTENTION.get(service) if handlers else None
        self._published: bool | None = None  # whether matching knows of dead letters; at a start nobody knows
        for counter in (telemetry.EVENTS_PARKED, telemetry.EVENTS_DEAD):
            # starts at zero, since Prometheus sees no increase in a series that begins at one
            counter.labels(service)

    def followers_aside(self, unit: Unit, topic: str, events: Sequence[Raw]) -> list[Raw]:
        """Park the events whose key has one waiting already; gives the others."""
        if unit.conn.execute(self._any_waiting).first() is None:
            return list(events)
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
        # what died on arrival lately counts as well: a release that knows too little kills a whole topic
        rows = self._table.c
        lately = (rows.attempts == 0) & (rows.parked_on >= unit.now.date() - timedelta(days=1))
        query = select(func.count()).select_from(self._table).where((rows.dead == 0) | lately)
        if (unit.conn.execute(query).scalar() or 0) >= LIMIT:
            raise TooManyParked
        name, where = blame(fault)
        hopeless = isinstance(fault, Undecodable)
        self._store_rows(unit, topic, [raw], name, where, dead=hopeless)
        counted = telemetry.EVENTS_DEAD if hopeless else telemetry.EVENTS_PARKED
        unit.after_commit(counted.labels(self.service).inc)
        said = "event_given_up" if hopeless else "event_parked"
        unit.after_commit(lambda: self._log(said, raw.type, name, where))

    def _log(self, event: str, event_type: str, fault: str, where: str) -> None:
        # an unknown type is a sender's word
        kind = event_type if event_type in EVENTS else "unknown"
        telemetry.log(event, service=self.service, type=kind, fault=fault, place=where)

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
        await every(RETRY_EVERY, self.retry, self._store.clock)(stop)

    async def retry(self) -> None:
        """Try the parked events that are due, each key in its order."""
        now = self._store.clock.now()
        table = self._table
        firsts = select(func.min(table.c.seq)).where(table.c.dead == 0).group_by(table.c.key)
        query = select(table.c.key).where(table.c.seq.in_(firsts), table.c.due_at <= now).order_by(table.c.seq)
        for key in await self._store.read(lambda conn: conn.execute(query).scalars().all()):
            while await self._retry_first(key):
                pass
        await self._report()

    async def _report(self) -> None:
        """Count what has been given up, log what was dropped, and publish when there begins or ceases to be any."""
        dead, dropped = await self._store.read(self._figures)
        telemetry.DEAD_LETTERS.labels(self.service).set(dead)
        changed = self._attention is not None and (dead > 0) is not self._published
        if dropped or changed:
            await self._store.write(self._tell)

    def _figures(self, conn: Connection) -> tuple[int, bool]:
        dropped = select(self._table.c.seq).where(self._table.c.dead == dead_letters.DROPPED).limit(1)
        return dead_letters.count_dead(conn, self._table), conn.execute(dropped).first() is not None

    def _tell(self, unit: Unit) -> None:
        for row in dead_letters.take_dropped(unit):
            unit.after_commit(partial(self._log, "event_dropped", row.type, row.fault, row.place))
        standing = dead_letters.count_dead(unit.conn, self._table) > 0
        if self._attention is not None and standing is not self._published:
            unit.emit(self._attention(kind="dead_letter", standing="yes" if standing else "no"))

            def note() -> None:
                self._published = standing

            unit.after_commit(note)

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
        query = (
            select(table).where(table.c.key == key, table.c.dead == 0).order_by(table.c.seq).limit(1).with_for_update()
        )
        return conn.execute(query).first()

    def _apply_first(self, unit: Unit, key: str) -> bool:
        row = self._first(unit.conn, key)
        if row is None:
            return False
        unit.conn.execute(delete(self._table).where(self._table.c.seq == row.seq))
        event = event_of(row.event_id, row.type, row.key, row.body, row.accepted_at)
        handler = self.handlers.get(event.type)
        # one that no release knew when it died may be known by now, and be for others
        if handler is None or dead_letters.ended(unit, row.seq, event):
            return True
        handler(unit, [event])
        dead_letters.end(unit, [event])
        unit.after_commit(lambda: self.count_handled([event]))
        return True

    def _failed_again(self, unit: Unit, key: str, fault: Exception) -> bool:
        row = self._first(unit.conn, key)
        if row is None:
            return False
        attempts = row.attempts + 1
        dead = attempts >= ATTEMPTS or isinstance(fault, Undecodable)
        name, where = blame(fault)
        changes = {
            "attempts": attempts,
            "due_at": unit.now + FIRST_RETRY * 2**attempts,
            "dead": int(dead),
            "fault": name,
            "place": where,
        }
        unit.conn.execute(self._table.update().where(self._table.c.seq == row.seq).values(**changes))
        if dead:
            unit.after_commit(telemetry.EVENTS_DEAD.labels(self.service).inc)
            unit.after_commit(lambda: self._log("event_given_up", row.type, name, where))
        return dead

    def count_handled(self, events: Sequence[Event]) -> None:
        """Count what a committed transaction applied."""
        for event_type, count in Counter(event.type for event in events).items():
            telemetry.EVENTS_HANDLED.labels(self.service, event_type).inc(count)

    def forget(self, unit: Unit) -> None:
        """Keep nothing of what is in a dead letter after seven days; it stands until somebody has seen to it."""
        dead_letters.empty(unit, unit.now.date() - KEPT_DAYS)


def blame(fault: Exception) -> tuple[str, str]:
    """A fault's class and place, or the reason of one that has a code; never its text, which may hold anything."""
    if isinstance(fault, Undecodable):
        return type(fault).__name__, str(fault)
    return type(fault).__name__, telemetry.place(fault)
