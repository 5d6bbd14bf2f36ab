"""What a database knows of logs: its own identity and what it has forgotten, and how far it has read the others'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, MetaData, Table, bindparam, delete, or_, select
from sqlalchemy.dialects import sqlite

from leeward import telemetry
from leeward.refs import new_ref
from leeward.store import Insert, Store, Unit, ground_tables
from leeward.store.retention import INBOX_KEPT, Expired, expired_rows

NOTED_FOR: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Place:
    """How far one log was read: its identity, and number and id of the last event passed. The start is 0 and no id.

    `passed` is how far it was read under an earlier identity, or before its numbers were given again.
    """

    seq: int = 0
    log: str = ""
    event_id: str = ""
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Reread:
    """That a log was begun again: when, and the code of why. Empty where it never was."""

    at: datetime | None = None
    why: str = ""


def log_identity(conn: Connection, metadata: MetaData) -> str:
    """Who the log in this database is."""
    return str(conn.execute(select(ground_tables(metadata).log.c.identity)).scalar_one())


def renew_log(conn: Connection, metadata: MetaData) -> str:
    """Make the log in this database another one, inside the transaction given, and give its new identity.

    To be called for every database that was put back from a copy: whoever reads it begins again and raises an alarm.
    """
    made = new_ref()
    conn.execute(ground_tables(metadata).log.update().values(identity=made))
    return made


def rereads(conn: Connection, metadata: MetaData) -> dict[str, Reread]:
    """The topics that this database's service has begun again, or of which events had gone, with the last time."""
    table = ground_tables(metadata).position
    query = select(table.c.topic, table.c.reread_at, table.c.reread_why).where(table.c.reread_why != "")
    return {row.topic.partition("/")[0]: Reread(row.reread_at, row.reread_why) for row in conn.execute(query)}


class Offsets:
    """How far one service has read each partition of a topic, as its own database keeps it beside Kafka's offsets.

    A database that was put back from a copy knows less than its group has committed: it is read again from there.
    """

    def __init__(self, store: Store, topic: str) -> None:
        self._store = store
        self._topic = topic
        table = store.writes.tables.position
        self._insert = Insert(table, ("topic", "seq", "event_id"), conflict="replace", keys=("topic",))
        self._query = select(table.c.topic, table.c.seq).where(table.c.topic.startswith(f"{topic}/"))

    async def load(self) -> dict[int, int]:
        """The last offset applied, by partition.

        Raises:
            StoreUnavailable: when they cannot be read now.
        """
        rows = await self._store.read(lambda conn: conn.execute(self._query).all())
        return {int(row.topic.rpartition("/")[2]): row.seq for row in rows}

    def store(self, unit: Unit, last: Mapping[int, tuple[int, str]]) -> None:
        """Note the last offset and event id by partition, with the effects."""
        self._insert.run(unit.conn, [(f"{self._topic}/{partition}", *place) for partition, place in last.items()])


class Bookmark:
    """One service's place in one topic, as its own database keeps it."""

    def __init__(self, store: Store, service: str, topic: str) -> None:
        self._store = store
        self._service = service
        self._topic = topic
        self._table = store.writes.tables.position
        self._move = _moved_on(self._table)
        self._reread = Reread()
        self._measure()

    async def load(self) -> Place | None:
        """The place that is stored; None where this topic was never read.

        Raises:
            StoreUnavailable: when it cannot be read now.
        """
        query = select(self._table).where(self._table.c.topic == self._topic)
        row = await self._store.read(lambda conn: conn.execute(query).first())
        if row is None:
            return None
        self._reread = Reread(row.reread_at, row.reread_why)
        self._measure()
        return Place(row.seq, row.log, row.event_id, row.passed_seq)

    def move(self, unit: Unit, place: Place) -> None:
        """Move it on, never back: a consumer that was replaced may still hold an old batch."""
        values = {"topic": self._topic, "seq": place.seq, "log": place.log, "event_id": place.event_id}
        unit.conn.execute(self._move, {**values, "passed_seq": place.passed})

    async def begin_again(self, place: Place, identity: str, why: str) -> Place:
        """Go back to the start of a log, and raise the alarm where there is a reason for one.

        Raises:
            StoreUnavailable: when that cannot be stored now.
        """
        start = Place(0, identity, "", max(place.seq, place.passed))

        def work(unit: Unit) -> None:
            unit.conn.execute(delete(self._table).where(self._table.c.topic == self._topic))
            self.move(unit, start)
            self.alarm(unit, why)

        await self._store.write(work)
        return start

    def alarm(self, unit: Unit, why: str) -> None:
        """Note that the log was begun again, or that events of it are gone; an empty reason is none."""
        if not why:
            return
        own = or_(self._table.c.topic == self._topic, self._table.c.topic.startswith(f"{self._topic}/"))
        unit.conn.execute(self._table.update().where(own).values(reread_at=unit.now, reread_why=why))
        noted = Reread(unit.now, why)
        unit.after_commit(lambda: self._note(noted))

    def _note(self, noted: Reread) -> None:
        self._reread = noted
        self._measure()
        telemetry.log("log_restored", service=self._service, topic=self._topic, reason=noted.why)

    def _measure(self) -> None:
        seconds = self._reread.at.timestamp() if self._reread.at else 0
        telemetry.BUS_REREAD_TIME.labels(self._service, self._topic).set(seconds)

    def noted(self) -> str:
        """Why the log was begun again within the last day; empty where it was not."""
        at = self._reread.at
        return self._reread.why if at and self._store.clock.now() - at < NOTED_FOR else ""

    def inbox_since(self, conn: Connection, today: date) -> date:
        """The day since which this database's inbox holds every event that was applied."""
        since = conn.execute(select(self._store.writes.tables.log.c.inbox_since)).scalar()
        return since or today - INBOX_KEPT


def _moved_on(position: Table) -> sqlite.Insert:
    values: dict[str, Any] = {name: bindparam(name) for name in ("topic", "seq", "log", "event_id", "passed_seq")}
    given = sqlite.insert(position).values(values)
    same = (given.excluded.log == position.c.log) | (position.c.seq == 0)
    changes = {name: given.excluded[name] for name in ("seq", "log", "event_id", "passed_seq")}
    return given.on_conflict_do_update(
        index_elements=["topic"], set_=changes, where=same & (given.excluded.seq > position.c.seq)
    )


def forget_inbox(unit: Unit, most: int, logs_since: Sequence[date] = ()) -> bool:
    """Drop inbox rows once no log can repeat them, at most so many; gives whether there may be more.

    Args:
        logs_since: the day of the oldest event in each log that this service reads. An event was applied on the day
            on which it was written or later, so the rows of all that a log still holds are kept.
    """
    cutoff = min([unit.now.date() - INBOX_KEPT, *logs_since])
    log = unit.tables.log
    later = or_(log.c.inbox_since.is_(None), log.c.inbox_since < cutoff)
    unit.conn.execute(log.update().where(later).values(inbox_since=cutoff))
    return _seen_before(unit.tables.inbox).delete_from(unit.conn, most, before=cutoff)


@cache
def _seen_before(inbox: Table) -> Expired:
    return expired_rows(inbox, "event_id", "seen_on")
