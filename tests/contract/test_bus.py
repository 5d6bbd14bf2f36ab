"""What every bus must do, told against each adapter: nothing lost, nothing applied twice, each key in its order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select

from leeward import telemetry
from leeward.bus import Bus, Raw, Subscription, consumer, parking
from leeward.bus import sqlite as sqlite_bus
from leeward.bus.consumer import Consumer
from leeward.bus.parking import ATTEMPTS, FIRST_RETRY, Parking, TooManyParked
from leeward.clock import FakeClock
from leeward.contracts import Event, IncidentAmended, IncidentRecorded, IncidentRetracted, Severity
from leeward.service import Handler
from leeward.settings import Settings
from leeward.store import SqliteStore, StoreUnavailable, Unit, ground_tables
from leeward.store.engine import sqlite_engine
from leeward.store.retention import Retention
from tests.conftest import eventually

TOPIC = "leeward.incident"
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

    async def fetch(self, limit: int) -> Sequence[Raw]:
        batch = await self.inner.fetch(limit)
        self._die("fetched")
        return batch

    def settle(self, unit: Unit, batch: Sequence[Raw]) -> None:
        self.inner.settle(unit, batch)
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

    def __init__(self, adapter: str, settings: Settings, clock: FakeClock) -> None:
        self.adapter = adapter
        self.settings = settings
        self.clock = clock
        self.handlers = Handlers()
        self.stores: list[SqliteStore] = []
        self.buses: list[Bus] = []
        self.create("incident", PRODUCER)
        self.create("matching", CONSUMER)
        self.producer = self.open("incident", PRODUCER)
        self.seen = self.open("matching", CONSUMER)

    def create(self, name: str, metadata: MetaData) -> None:
        self.file(name).parent.mkdir(parents=True, exist_ok=True)
        engine = sqlite_engine(self.file(name))
        metadata.create_all(engine)
        engine.dispose()

    def file(self, name: str) -> Path:
        return self.settings.data / f"{name}.db"

    def open(self, name: str, metadata: MetaData) -> SqliteStore:
        self.stores.append(SqliteStore(self.file(name), metadata, self.clock))
        return self.stores[-1]

    def process(self, *, wrap: Callable[[Subscription], Subscription] = lambda inner: inner) -> "Process":
        """A consumer's process as it starts: its own connection, its own subscription."""
        store = self.open("matching", CONSUMER)
        bus = sqlite_bus.SqliteBus(self.settings, {"incident": self.producer, "matching": store})
        self.buses.append(bus)
        subscription = wrap(bus.subscribe("matching", TOPIC))
        lot = Parking("matching", store, self.handlers.by_type)
        return Process(store, subscription, lot, Consumer(TOPIC, subscription, store, lot))

    async def publish(self, *events: Any) -> None:
        def work(unit: Unit) -> None:
            for event in events:
                unit.emit(event)

        await self.producer.write(work)

    async def publish_foreign(self, event_type: str, key: int, body: str = "{}") -> None:
        """What a newer or a broken producer might send."""
        row = {"type": event_type, "key": ref(key), "body": body, "id": ref(7000 + key)}
        table = self.producer.writes.tables.outbox

        def work(unit: Unit) -> None:
            unit.conn.execute(insert(table).values(**row, accepted_at=unit.now, written_on=unit.now.date()))

        await self.producer.write(work)

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


@dataclass
class Process:
    store: SqliteStore
    subscription: Subscription
    parking: Parking
    consumer: Consumer

    async def step(self) -> None:
        """Take one batch."""
        async with asyncio.timeout(10):
            await self.consumer.take(await self.subscription.fetch(256))

    async def nothing_left(self) -> bool:
        fetching = asyncio.ensure_future(self.subscription.fetch(1))
        done, _ = await asyncio.wait([fetching], timeout=0.1)
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


@pytest_asyncio.fixture(params=["sqlite"])
async def world(request: pytest.FixtureRequest, settings: Settings, clock: FakeClock) -> AsyncIterator[World]:
    opened = World(request.param, settings, clock)
    yield opened
    await opened.close()


async def test_events_are_applied_in_the_order_of_their_key(world: World) -> None:
    for n in range(30):
        await world.publish(recorded(n % 3, f"{n % 3}-{n:02}"))
    await world.process().step()
    for key in "012":
        told = [what for what in await world.applied() if what.startswith(f"{key}-")]
        assert told == sorted(told)
        assert len(told) == 10


async def test_order_holds_between_types_and_a_run_of_one_type_comes_as_one(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(2, "b"), IncidentRetracted(incident_ref=ref(1)), recorded(1, "c"))
    await world.process().step()
    assert await world.applied() == ["a", "b", "retracted", "c"]
    assert world.handlers.runs == [2, 1, 1]


async def test_a_consumer_that_was_away_starts_at_the_beginning(world: World) -> None:
    await world.publish(recorded(1, "early"))
    await world.process().step()
    assert await world.applied() == ["early"]


@pytest.mark.parametrize("step", ["fetched", "in the transaction", "committed", "before settled", "after settled"])
async def test_a_crash_between_any_two_steps_loses_and_repeats_nothing(world: World, step: str) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    with pytest.raises(Crash):
        await world.process(wrap=lambda inner: Dying(inner, step)).step()
    await world.publish(recorded(1, "c"))
    survivor = world.process()
    while not await survivor.nothing_left():
        await survivor.step()
    assert await world.applied() == ["a", "b", "c"]


async def test_a_crash_inside_a_handler_leaves_nothing_half_done(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    world.handlers.poison, world.handlers.fault = {"b"}, Crash
    with pytest.raises(Crash):
        await world.process().step()
    assert await world.applied() == []
    world.handlers.poison = set()
    await world.process().step()
    assert await world.applied() == ["a", "b"]


async def test_the_inbox_drops_what_comes_again(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(2, "b"))
    process = world.process()
    batch = await process.subscription.fetch(256)
    before = counted("leeward_events_repeated_total")
    await process.consumer.take(batch)
    await process.consumer.take(batch)
    await process.consumer.take([*batch, *batch])
    assert await world.applied() == ["a", "b"]
    assert counted("leeward_events_repeated_total") - before == 6


async def test_the_same_event_twice_in_one_batch_is_applied_once(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    process = world.process()
    batch = await process.subscription.fetch(256)
    await process.consumer.take([*batch, *batch[:1]])
    assert await world.applied() == ["a", "b"]


async def test_a_zombie_applies_nothing_and_does_not_turn_the_group_back(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(2, "b"))
    zombie, successor = world.process(), world.process()
    held = await zombie.subscription.fetch(256)
    await successor.step()
    await world.publish(recorded(1, "c"))
    await successor.step()
    await zombie.consumer.take(held)
    assert await world.applied() == ["a", "b", "c"]
    assert await world.process().nothing_left()


async def test_a_zombie_does_not_park_what_its_successor_applied(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    zombie, successor = world.process(), world.process()
    world.handlers.poison = {"b"}
    held = await zombie.subscription.fetch(256)
    taken = await successor.subscription.fetch(256)
    write, done = zombie.store.write, 0

    async def write_late(work: Callable[[Unit], Any]) -> Any:
        # the successor comes in between the zombie's failed attempt at b and its setting b aside
        nonlocal done
        done += 1
        if done == 4:
            world.handlers.poison = set()
            await successor.consumer.take(taken)
        return await write(work)

    zombie.store.write = write_late  # type: ignore[method-assign]
    await zombie.consumer.take(held)
    assert done == 4
    assert await world.applied() == ["a", "b"]
    assert await world.parked("key") == []


async def test_a_poison_event_waits_aside_with_its_followers_while_others_go_on(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(2, "good"), recorded(1, "follower"), recorded(3, "better"))
    process = world.process()
    await process.step()
    await world.publish(IncidentRetracted(incident_ref=ref(1)), recorded(2, "later"))
    await process.step()
    assert await world.applied() == ["good", "better", "later"]
    assert await world.parked("key", "type") == [
        (ref(1), IncidentRecorded.type),
        (ref(1), IncidentRecorded.type),
        (ref(1), IncidentRetracted.type),
    ]


async def test_what_was_parked_is_retried_in_order_once_its_fault_is_gone(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(1, "second"), recorded(1, "third"))
    process = world.process()
    await process.step()
    world.handlers.poison = set()
    await process.parking.retry()
    assert await world.applied() == []
    await world.clock.advance(seconds=FIRST_RETRY.total_seconds())
    await process.parking.retry()
    assert await world.applied() == ["bad", "second", "third"]
    assert await world.parked("key") == []
    await world.publish(recorded(1, "fourth"))
    await process.step()
    assert (await world.applied())[-1] == "fourth"


async def attempts(world: World) -> int:
    return int((await world.parked("attempts"))[0][0])


async def test_retries_back_off_even_when_followers_arrive(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await process.step()
    made, waits = 0, []
    for _ in range(40):
        await world.clock.advance(seconds=15)
        await process.parking.retry()
        if await attempts(world) > made:
            made = await attempts(world)
            waits.append(world.clock.now())
            await world.publish(recorded(1, f"follower-{made}"))
            await process.step()
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert gaps == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=4)]


async def test_the_last_attempt_makes_a_dead_letter_without_the_faults_text(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(1, "follower"))
    process = world.process()
    await process.step()
    for _ in range(ATTEMPTS):
        assert await world.applied() == []
        await world.clock.advance(hours=3)
        await process.parking.retry()
    assert await world.applied() == ["follower"]
    [(attempts_made, fault, place)] = await world.parked("attempts", "fault", "place", dead=1)
    assert (attempts_made, fault) == (ATTEMPTS, "LookupError")
    assert place.startswith("test_bus.py:")
    await world.clock.advance(days=8)
    await Retention(process.store, process.parking.forget).once()
    assert await world.parked("key", dead=1) == []


async def test_no_word_of_a_fault_is_stored(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await process.step()
    await process.store.tidy()
    assert b"must not be kept" not in world.file("matching").read_bytes()


@pytest.mark.parametrize("event_type", ["leeward.incident.forgotten.v1", "leeward.incident.recorded.v2"])
async def test_an_unknown_type_or_version_is_a_dead_letter_and_the_rest_goes_on(world: World, event_type: str) -> None:
    await world.publish(recorded(1, "before"))
    await world.publish_foreign(event_type, 1)
    await world.publish(recorded(1, "after"))
    await world.process().step()
    assert await world.applied() == ["before", "after"]
    assert await world.parked("type", "fault", "place", dead=1) == [(event_type, "Undecodable", "unknown-type")]


async def test_a_body_that_does_not_fit_is_a_dead_letter_and_the_rest_goes_on(world: World) -> None:
    await world.publish_foreign(IncidentRecorded.type, 1, '{"incident_ref": "a name"}')
    await world.publish(recorded(1, "after"))
    await world.process().step()
    assert await world.applied() == ["after"]
    assert await world.parked("fault", "place", dead=1) == [("Undecodable", "body-does-not-fit")]


async def test_a_follower_that_nobody_understands_dies_at_its_first_retry(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    await world.publish_foreign("leeward.incident.forgotten.v1", 1)
    await world.publish(recorded(1, "after"))
    process = world.process()
    await process.step()
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    assert await world.applied() == ["bad", "after"]
    assert await world.parked("place", dead=1) == [("unknown-type",)]


async def test_a_handlers_own_wrong_event_is_retried_and_not_given_up_at_once(world: World) -> None:
    def faulty(_unit: Unit, _events: Sequence[Event]) -> None:
        IncidentRetracted.model_validate({})

    await world.publish(recorded(1, "a"))
    process = world.process()
    process.parking.handlers = {IncidentRecorded.type: faulty}
    await process.step()
    assert await world.parked("fault") == [("ValidationError",)]


async def test_known_types_that_nobody_here_handles_are_passed_over(world: World) -> None:
    await world.publish(IncidentAmended(incident_ref=ref(1), involved=()), recorded(1, "a"))
    process = world.process()
    await process.step()
    assert await world.applied() == ["a"]
    assert await world.parked("key") + await world.parked("key", dead=1) == []
    assert await process.nothing_left()


async def test_a_database_that_is_away_parks_nothing_and_the_batch_comes_again(world: World) -> None:
    world.handlers.away = True
    await world.publish(recorded(1, "a"), recorded(2, "b"))
    process = world.process()
    with pytest.raises(StoreUnavailable):
        await process.step()
    assert await world.parked("key") + await world.parked("key", dead=1) == []
    world.handlers.away = False
    await process.step()
    assert await world.applied() == ["a", "b"]


async def test_a_consumer_whose_database_is_away_says_so_and_recovers(world: World) -> None:
    world.handlers.away = True
    await world.publish(recorded(1, "a"))
    process = world.process()

    async def stuck() -> bool:
        return process.consumer.stuck

    async def applied() -> bool:
        return await world.applied() == ["a"] and not process.consumer.stuck

    async with process.running():
        await eventually(stuck)
        world.handlers.away = False
        await eventually(applied)


async def test_the_limit_stops_the_consumer_before_a_whole_topic_is_parked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "LIMIT", 3)
    names = [f"bad-{n}" for n in range(5)]
    world.handlers.poison = set(names)
    await world.publish(*(recorded(n, name) for n, name in enumerate(names)))
    process = world.process()
    with pytest.raises(TooManyParked):
        await process.step()
    assert len(await world.parked("key")) == 3
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    await process.step()
    assert sorted(await world.applied()) == names


async def test_the_limit_holds_for_events_nobody_understands_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "LIMIT", 3)
    for n in range(5):
        await world.publish_foreign("leeward.incident.recorded.v2", n)
    with pytest.raises(TooManyParked):
        await world.process().step()
    assert len(await world.parked("key", dead=1)) == 3


async def test_a_commit_wakes_its_consumers_without_polling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_bus, "POLL_SECONDS", 3600)
    process = world.process()

    async def applied() -> bool:
        return await world.applied() == ["a", "b"]

    async with process.running():
        assert await process.nothing_left()
        await world.publish(recorded(1, "a"))
        await world.publish(recorded(1, "b"))
        await eventually(applied, within=5)


async def test_what_another_process_wrote_is_found_by_looking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_bus, "POLL_SECONDS", 0.01)
    process = world.process()
    importer = world.open("incident", PRODUCER)

    async def applied() -> bool:
        return await world.applied() == ["a"]

    async with process.running():
        assert await process.nothing_left()
        await importer.write(lambda unit: unit.emit(recorded(1, "a")))
        await eventually(applied, within=5)


async def test_a_stop_finishes_the_batch_under_way(world: World) -> None:
    stops: list[asyncio.Event] = []

    def stop_in_the_middle(unit: Unit, events: Sequence[Event]) -> None:
        stops[0].set()
        world.handlers.apply(unit, events)

    process = world.process()
    process.parking.handlers = {IncidentRecorded.type: stop_in_the_middle}
    async with process.running() as stop:
        stops.append(stop)
        await world.publish(*(recorded(n, f"n{n}") for n in range(10)))
        async with asyncio.timeout(10):
            await stop.wait()
    assert len(await world.applied()) == 10
    assert await world.process().nothing_left()


async def test_an_idle_consumer_stops_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_bus, "POLL_SECONDS", 3600)
    async with world.process().running():
        await asyncio.sleep(0)


async def test_positions_of_an_emptied_log_are_not_used_again(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    process = world.process()
    await process.step()
    await world.clock.advance(days=9)
    await Retention(world.producer).once()
    await world.publish(recorded(1, "c"))
    await process.step()
    restarted = world.process()
    assert await restarted.nothing_left()
    assert await world.applied() == ["a", "b", "c"]


async def test_a_producer_that_has_no_log_yet_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "_BACK_OFF", (0.01,))
    store = world.open("matching", CONSUMER)
    bus = sqlite_bus.SqliteBus(world.settings, {"matching": store})
    world.buses.append(bus)
    lot = Parking("matching", store, world.handlers.by_type)
    subscription = bus.subscribe("matching", "leeward.notify")
    waiting = Process(store, subscription, lot, Consumer("leeward.notify", subscription, store, lot))

    async def stuck() -> bool:
        return waiting.consumer.stuck

    async def consuming() -> bool:
        return not waiting.consumer.stuck and await world.applied() == ["a"]

    async with waiting.running():
        await eventually(stuck)
        assert not world.file("notify").exists()
        world.create("notify", PRODUCER)
        notify = world.open("notify", PRODUCER)
        await notify.write(lambda unit: unit.emit(recorded(1, "a")))
        await eventually(consuming)


async def test_what_was_applied_is_counted_once_by_type(world: World) -> None:
    world.handlers.poison = {"bad"}
    labels = {"service": "matching", "type": IncidentRecorded.type}
    before = counted("leeward_events_handled_total", **labels)
    parked = counted("leeward_events_parked_total")
    await world.publish(recorded(1, "a"), recorded(2, "bad"), recorded(3, "c"))
    process = world.process()
    await process.step()
    assert counted("leeward_events_handled_total", **labels) - before == 2
    assert counted("leeward_events_parked_total") - parked == 1
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    assert counted("leeward_events_handled_total", **labels) - before == 3


def counted(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(name, labels or {"service": "matching"}) or 0.0
