"""A producer, a consumer group and the bus between them, for the contract that every adapter keeps."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select

from leeward import telemetry
from leeward.bus import Bus, Raw, Subscription
from leeward.bus.consumer import Consumer
from leeward.bus.parking import Parking
from leeward.contracts import Event, IncidentRecorded, IncidentRetracted, Severity
from leeward.service import Handler
from leeward.store import Store, StoreUnavailable, Unit, ground_tables
from leeward.testing import ManualClock
from tests.contract.adapters import Ways

PRODUCER = MetaData()
ground_tables(PRODUCER)
CONSUMER = MetaData()
ground_tables(CONSUMER)
APPLIED = Table(
    "applied",
    CONSUMER,
    Column("n", Integer, primary_key=True),
    Column("key", String(36)),
    Column("what", String(40)),
)


def ref(n: int) -> str:
    return f"00000000-0000-4000-8000-{n:012}"


def recorded(key: int, what: str) -> IncidentRecorded:
    severity = Severity(scheme="leeward", code="death", level="death")
    at = "2026-11-21T08:45:00Z"
    body = {"incident_ref": ref(key), "category": "other", "severity": severity, "unit": what, "occurred_at": at}
    return IncidentRecorded.model_validate(body)


@dataclass
class Handlers:
    """Writes down what it is given; faults of each kind can be set by what an event says."""

    poison: set[str] = field(default_factory=set)
    away: bool = False
    runs: list[int] = field(default_factory=list)
    fault: type[BaseException] = LookupError

    def apply(self, unit: Unit, events: Sequence[Event]) -> None:
        self.runs.append(len(events))
        for event in events:
            what = getattr(event.data, "unit", "retracted")
            unit.conn.execute(insert(APPLIED).values(key=event.key, what=what))
            if self.away:
                raise StoreUnavailable
            if what in self.poison:
                raise self.fault(f"a name that must not be kept: {what}")

    @property
    def by_type(self) -> dict[str, Handler]:
        return {IncidentRecorded.type: self.apply, IncidentRetracted.type: self.apply}


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Dying:
    """A subscription whose process dies at one of its steps."""

    inner: Subscription
    at: str

    async def open(self) -> None:
        await self.inner.open()

    def lag(self) -> int:
        return self.inner.lag()

    def noted(self) -> str:
        return self.inner.noted()

    async def close(self) -> None:
        await self.inner.close()

    async def fetch(self, limit: int) -> Sequence[Raw]:
        batch = await self.inner.fetch(limit)
        self._die("fetched")
        return batch

    def settle(self, unit: Unit, batch: Sequence[Raw], fresh: Sequence[Raw]) -> None:
        self.inner.settle(unit, batch, fresh)
        self._die("in the transaction")
        unit.after_commit(lambda: self._die("committed"))

    async def settled(self, batch: Sequence[Raw]) -> None:
        self._die("before settled")
        await self.inner.settled(batch)
        self._die("after settled")

    def _die(self, step: str) -> None:
        if step == self.at:
            raise Crash


class World:
    """A producer and a consumer group, each with its database, and the bus between them."""

    def __init__(self, ways: Ways, clock: ManualClock) -> None:
        self.ways = ways
        self.clock = clock
        self.topic = f"leeward.{ways.producer}"
        self.handlers = Handlers()
        self.stores: list[Store] = []
        self.buses: list[Bus] = []

    async def create(self) -> None:
        await self.ways.create(self.ways.producer, PRODUCER)
        await self.ways.databases.create("matching", CONSUMER)
        self.producer = self.open(self.ways.producer, PRODUCER)
        self.seen = self.open("matching", CONSUMER)

    def open(self, name: str, metadata: MetaData) -> Store:
        self.stores.append(self.ways.databases.open(name, metadata))
        return self.stores[-1]

    def process(self, *, wrap: Callable[[Subscription], Subscription] = lambda inner: inner) -> "Process":
        """A consumer's process as it starts: its own connection, its own subscription."""
        return self.consuming(self.topic, {self.ways.producer: self.producer}, wrap)

    def consuming(
        self,
        topic: str,
        stores: Mapping[str, Store],
        wrap: Callable[[Subscription], Subscription] = lambda inner: inner,
    ) -> "Process":
        store = self.open("matching", CONSUMER)
        bus = self.ways.bus({**stores, "matching": store})
        self.buses.append(bus)
        subscription = wrap(bus.subscribe("matching", topic))
        lot = Parking("matching", store, self.handlers.by_type)
        return Process(store, subscription, lot, Consumer(topic, subscription, store, lot))

    async def publish(self, *events: Any) -> None:
        def work(unit: Unit) -> None:
            for event in events:
                unit.emit(event)

        await self.producer.write(work)
        await self.ways.carry(self.ways.producer, self.producer)

    async def publish_foreign(self, event_type: str, key: int, body: str = "{}") -> None:
        """What a newer or a broken producer might send."""
        row = {"type": event_type, "key": ref(key), "body": body, "id": ref(7000 + key)}
        table = self.producer.writes.tables.outbox

        def work(unit: Unit) -> None:
            unit.conn.execute(insert(table).values(**row, accepted_at=unit.now, written_on=unit.now.date()))

        await self.producer.write(work)
        await self.ways.carry(self.ways.producer, self.producer)

    async def applied(self) -> list[str]:
        query = select(APPLIED.c.what).order_by(APPLIED.c.n)
        return await self.seen.read(lambda conn: list(conn.execute(query).scalars()))

    async def parked(self, *columns: str, dead: int = 0) -> list[tuple[Any, ...]]:
        table = ground_tables(CONSUMER).parked
        query = select(*(table.c[name] for name in columns)).where(table.c.dead == dead).order_by(table.c.seq)
        return await self.seen.read(lambda conn: [tuple(row) for row in conn.execute(query)])

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()
        for store in self.stores:
            await store.close()
        await self.ways.close()


@dataclass
class Process:
    store: Store
    subscription: Subscription
    parking: Parking
    consumer: Consumer

    async def step(self) -> None:
        """Take one batch."""
        async with asyncio.timeout(20):
            await self.consumer.take(await self.subscription.fetch(256))

    async def gone(self) -> None:
        """The group has noticed that this process died, or lost it from sight: others have its partitions."""
        await self.subscription.close()

    async def nothing_left(self) -> bool:
        await self.subscription.open()
        fetching = asyncio.ensure_future(self.subscription.fetch(1))
        done, _ = await asyncio.wait([fetching], timeout=0.3)
        fetching.cancel()
        return not done

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Event]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.consumer.run(stop))
        yield stop
        stop.set()
        async with asyncio.timeout(10):
            await task


def counted(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(name, labels or {"service": "matching"}) or 0.0
