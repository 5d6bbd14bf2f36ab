"""The embedded bus: the producer's outbox is the log, read-only to its consumers; the place in it is theirs."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from itertools import takewhile
from typing import Final

from sqlalchemy import delete, select

from leeward.bus import BusUnavailable, Raw
from leeward.bus.logs import Bookmark, Place, forget_inbox
from leeward.bus.outbox_log import Log, LogChanged, stored_place
from leeward.settings import ServiceName, Settings
from leeward.store import Store, Unit

# an import or a second process writes without waking us
POLL_SECONDS: Final = 0.5
LOG_KEPT: Final = timedelta(days=7)
_LARGEST: Final = 2**63 - 1


class SqliteBus:
    """Logs of the five services in their own files.

    `stores` are this process's own, by service: a commit with events wakes their consumers at once. `readers` are all
    services that read a topic, whichever process they run in.
    """

    def __init__(
        self,
        settings: Settings,
        stores: Mapping[str, Store],
        readers: Mapping[str, Sequence[ServiceName]] | None = None,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._readers = {topic: set(names) for topic, names in (readers or {}).items()}
        self._logs: dict[str, Log] = {}
        self._own: dict[str, list[OutboxSubscription]] = {}
        for service, store in stores.items():
            store.listeners.append(partial(self._wake, f"leeward.{service}"))

    def subscribe(self, group: ServiceName, topic: str) -> "OutboxSubscription":
        made = OutboxSubscription(self._log(topic), self._stores[group], group, topic)
        self._own.setdefault(group, []).append(made)
        self._readers.setdefault(topic, set()).add(group)
        return made

    def relay(self, producer: str) -> None:
        """None: the outbox is the log."""

    def forget(self, service: ServiceName, unit: Unit, most: int) -> bool:
        """A log is kept for seven days, by the day, and until all have read it, however long one of them was off."""
        own = self._own.get(service, ())
        for reader in own:
            reader.keep(unit)
        more = self._forget_read(service, unit, most)
        try:
            # a log of which nobody can tell what it holds may be put back, and read again
            oldest = [day for reader in own if (day := reader.oldest()) is not None]
        except BusUnavailable:
            return more
        return forget_inbox(unit, most, oldest) or more

    def _forget_read(self, service: ServiceName, unit: Unit, most: int) -> bool:
        outbox, log = unit.tables.outbox, unit.tables.log
        today, before = unit.now.date(), unit.now.date() - LOG_KEPT
        # what a clock that ran ahead wrote is as old as what follows it
        dated = select(outbox.c.seq).where(outbox.c.seq > 0, outbox.c.written_on <= today).order_by(outbox.c.seq)
        begin = unit.conn.execute(dated.limit(1)).scalar() or _LARGEST
        events = select(outbox.c.seq, outbox.c.id, outbox.c.written_on).where(outbox.c.seq >= begin)
        first = events.order_by(outbox.c.seq).limit(most)
        old = [*takewhile(lambda row: row.written_on < before, unit.conn.execute(first))]
        read = self._read_by_all(f"leeward.{service}") if old else 0
        gone = [row for row in old if row.seq <= read]
        if gone:
            unit.conn.execute(log.update().values(forgotten_seq=gone[-1].seq, forgotten_id=gone[-1].id))
            unit.conn.execute(delete(outbox).where(outbox.c.seq <= gone[-1].seq))
        return len(gone) == most

    def _read_by_all(self, topic: str) -> int:
        """The last event that every reader of a topic is past, by what their own databases say."""
        files = [self._settings.database_file(name) for name in self._readers.get(topic, ())]
        with closing(self._made(topic)) as log:
            return min((_past(log, stored_place(file, topic)) for file in files), default=_LARGEST)

    def _log(self, topic: str) -> Log:
        if topic not in self._logs:
            self._logs[topic] = self._made(topic)
        return self._logs[topic]

    def _made(self, topic: str) -> Log:
        return Log(self._settings.data / f"{topic.removeprefix('leeward.')}.db")

    def _wake(self, topic: str, unit: Unit) -> None:
        if unit.emitted and topic in self._logs:
            self._logs[topic].wake()

    async def close(self) -> None:
        for log in self._logs.values():
            log.close()


def _past(log: Log, place: Place | None) -> int:
    """The last event that somebody is past; 0 where they will begin again, or nobody can tell."""
    if place is None:
        return 0
    try:
        return place.seq if log.goes_on_from(place) else 0
    except BusUnavailable:
        return 0


class OutboxSubscription:
    """A place in a producer's outbox, kept in the consumer's database and moved with the effects.

    The log shows at every look that it is the one that was read: by its identity, and by the event at the place. Where
    it is not, since one of the two databases was put back from a copy, it is read again from its start; the inbox drops
    what was applied before.
    """

    def __init__(self, log: Log, store: Store, service: str, topic: str) -> None:
        self._log = log
        self._store = store
        self._topic = topic
        self._woken = log.waker()
        self._bookmark = Bookmark(store, service, topic)
        self._place: Place | None = None
        self._inbox_since = date.min
        self._lag = 0

    @property
    def place(self) -> Place:
        """Where this consumer is, at the start as long as it has not looked."""
        return self._place or Place()

    async def open(self) -> None:
        if self._place is None:
            stored = await self._bookmark.load()
            if stored is None:
                await self._begin()
                return
            self._inbox_since = await self._known_since()
            self._place = await self._valid(stored)

    async def _begin(self) -> None:
        """Read this log for the first time; of one that has forgotten events already somebody must hear."""
        # a producer that has no log yet is not there
        self._log.after(Place(), 1)
        if self._log.has_forgotten():
            self._inbox_since = await self._known_since()
            self._place = await self._bookmark.begin_again(Place(), self._log.identity, "gone")
        else:
            self._place = Place(0, self._log.identity)

    async def _known_since(self) -> date:
        today = self._store.clock.now().date()
        return await self._store.read(lambda conn: self._bookmark.inbox_since(conn, today))

    async def _valid(self, place: Place) -> Place:
        """The place itself, or the start of the log where it does not go on from there."""
        try:
            self._log.after(place, 1)
        except LogChanged as change:
            # a release before this one named no log: what it passed over is found again without an alarm
            why = "" if change.why == "unnamed" else change.why
            self._inbox_since = await self._known_since()
            return await self._bookmark.begin_again(place, change.identity, why)
        return place

    async def fetch(self, limit: int) -> Sequence[Raw]:
        await self.open()
        while not (batch := await self._next(limit)):
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
        return batch

    async def _next(self, limit: int) -> Sequence[Raw]:
        try:
            return self._log.after(self.place, limit, self._inbox_since)
        except LogChanged:
            self._place = await self._valid(self.place)
            return self._log.after(self.place, limit, self._inbox_since)

    def settle(self, unit: Unit, batch: Sequence[Raw], _fresh: Sequence[Raw]) -> None:
        place = self._after(batch[-1])
        self._bookmark.move(unit, place)
        unit.after_commit(lambda: self._moved(place))

    def _after(self, raw: Raw) -> Place:
        # at the start it reads whichever log is there
        log = self.place.log if self.place.seq else self._log.identity
        return replace(self.place, seq=raw.position, log=log, event_id=raw.id)

    def _moved(self, place: Place) -> None:
        if place.seq > self.place.seq:
            self._place = place

    async def settled(self, batch: Sequence[Raw]) -> None:
        """The place went with the effects; past events that concern nobody here it moves in memory alone."""
        self._moved(self._after(batch[-1]))

    def keep(self, unit: Unit) -> None:
        """Store how far it has come past others' events."""
        if self.place.seq:
            self._bookmark.move(unit, self.place)

    def oldest(self) -> date | None:
        """The day of the oldest event that the log holds.

        Raises:
            BusUnavailable: when nobody can tell now.
        """
        # retention asks in a thread, where the loop's connection must not be used
        with closing(Log(self._log.path)) as log:
            return log.oldest()

    def lag(self) -> int:
        with suppress(BusUnavailable):
            self._lag = self._log.waiting(self.place)
        return self._lag

    def noted(self) -> str:
        return self._bookmark.noted()

    async def close(self) -> None:
        """Nothing to leave: the place is in the database."""
