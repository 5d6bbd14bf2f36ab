"""The embedded bus: the producer's outbox is the log, read-only to its consumers; the position is theirs."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Table, bindparam, delete, select
from sqlalchemy.dialects.sqlite import Insert, insert

from leeward.bus import BusUnavailable, Raw
from leeward.settings import Settings
from leeward.store import Store, Unit
from leeward.store.lookup import in_list
from leeward.store.retention import Expired
from leeward.store.sqlite import sqlite_connection

# an import or a second process writes without waking us
POLL_SECONDS: Final = 0.5
LOG_KEPT: Final = timedelta(days=7)
_LARGEST: Final = 2**63 - 1
_LAST: Final = "SELECT max(seq) FROM outbox"
_NEWER: Final = "SELECT seq, id, type, key, body, accepted_at FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?"


class SqliteBus:
    """Logs of the five services in their own files.

    `stores` are this process's own, by service: a commit with events wakes their consumers at once.
    """

    def __init__(self, settings: Settings, stores: Mapping[str, Store]) -> None:
        self._settings = settings
        self._stores = stores
        self._logs: dict[str, Log] = {}
        self._readers: dict[str, list[OutboxSubscription]] = {}
        for service, store in stores.items():
            store.listeners.append(partial(self._wake, f"leeward.{service}"))

    def subscribe(self, group: str, topic: str) -> "OutboxSubscription":
        made = OutboxSubscription(self._log(topic), self._stores[group], topic)
        self._readers.setdefault(topic, []).append(made)
        return made

    def relay(self, producer: str) -> None:
        """None: the outbox is the log."""

    def forget(self, producer: str, unit: Unit, most: int) -> bool:
        """The log is kept for seven days, by the day, and until all here have read it, however long it was off."""
        readers = self._readers.get(f"leeward.{producer}", ())
        read = min((reader.position for reader in readers), default=_LARGEST)
        served = served_events(unit.tables.outbox)
        return served.delete_from(unit.conn, most, before=unit.now.date() - LOG_KEPT, read=read)

    def _log(self, topic: str) -> "Log":
        if topic not in self._logs:
            producer = topic.removeprefix("leeward.")
            self._logs[topic] = Log(self._settings.data / f"{producer}.db")
        return self._logs[topic]

    def _wake(self, topic: str, unit: Unit) -> None:
        if unit.emitted and topic in self._logs:
            self._logs[topic].wake()

    async def close(self) -> None:
        for log in self._logs.values():
            log.close()


def served_events(outbox: Table) -> Expired:
    """Events of before the day "before" and up to the position "read": of the oldest, so that no other is looked at."""
    oldest = select(outbox.c.seq).where(outbox.c.written_on < bindparam("before"))
    first = oldest.order_by(outbox.c.written_on, outbox.c.seq).limit(bindparam("most")).subquery()
    return Expired(
        select(first.c.seq).where(first.c.seq <= bindparam("read")), delete(outbox).where(in_list(outbox.c.seq))
    )


class Log:
    """One producer's outbox, read by the driver alone: it is asked often, over a connection that cannot write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: sqlite3.Connection | None = None
        self._wakers: list[asyncio.Event] = []

    def after(self, position: int, limit: int) -> list[Raw]:
        try:
            found = self._connected().execute(_NEWER, (position, limit)).fetchall()
        except sqlite3.Error as fault:
            self.close()
            raise BusUnavailable(type(fault).__name__) from fault
        return [
            Raw(seq, event_id, event_type, key, body, datetime.fromisoformat(at).replace(tzinfo=UTC))
            for seq, event_id, event_type, key, body, at in found
        ]

    def waiting(self, position: int) -> int:
        """About how many there are after the position: numbers that were rolled back are missing."""
        try:
            last: int = self._connected().execute(_LAST).fetchone()[0] or 0
        except sqlite3.Error:
            self.close()
            return 0
        return max(0, last - position)

    def _connected(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = sqlite_connection(self._path, read_only=True)
        return self._reader

    def waker(self) -> asyncio.Event:
        waker = asyncio.Event()
        self._wakers.append(waker)
        return waker

    def wake(self) -> None:
        for waker in self._wakers:
            waker.set()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class OutboxSubscription:
    """A position in a producer's outbox, kept in the consumer's database and moved with the effects."""

    def __init__(self, log: Log, store: Store, topic: str) -> None:
        self._log = log
        self._store = store
        self._topic = topic
        self._woken = log.waker()
        self._position: int | None = None
        self._move = _forwards(store.writes.tables.position)

    @property
    def position(self) -> int:
        """The last event that this consumer is past, 0 as long as it has not looked."""
        return self._position or 0

    async def open(self) -> None:
        if self._position is None:
            table = self._store.writes.tables.position
            stored = select(table.c.seq).where(table.c.topic == self._topic)
            position = await self._store.read(lambda conn: conn.execute(stored).scalar()) or 0
            # a producer that has no log yet is not there
            self._log.after(position, 1)
            self._position = position

    async def fetch(self, limit: int) -> Sequence[Raw]:
        await self.open()
        while not (batch := self._log.after(self.position, limit)):
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
        return batch

    def settle(self, unit: Unit, batch: Sequence[Raw]) -> None:
        position = batch[-1].position
        unit.conn.execute(self._move, {"topic": self._topic, "seq": position})
        unit.after_commit(lambda: self._moved(position))

    def _moved(self, position: int) -> None:
        self._position = max(position, self.position)

    async def settled(self, batch: Sequence[Raw]) -> None:
        """The position went with the effects; past events that concern nobody here it moves in memory alone."""
        self._moved(batch[-1].position)

    def lag(self) -> int:
        return self._log.waiting(self.position)

    async def close(self) -> None:
        """Nothing to leave: the position is in the database."""


def _forwards(position: Table) -> Insert:
    """Moves a topic's position on, never back: a consumer that was replaced may still hold an old batch."""
    given = insert(position).values(topic=bindparam("topic"), seq=bindparam("seq"))
    later = given.excluded.seq > position.c.seq
    return given.on_conflict_do_update(index_elements=["topic"], set_={"seq": given.excluded.seq}, where=later)
