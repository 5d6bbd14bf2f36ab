"""What only Kafka does: members come and go, brokers die, topics vanish, and anybody may write to a topic."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from sqlalchemy import func, select

from leeward.bus import BusUnavailable, Raw, consumer, kafka, relay, topics
from leeward.bus.kafka import KafkaSubscription
from leeward.bus.relay import KafkaRelay
from leeward.contracts import Event, IncidentRecorded
from leeward.settings import Settings
from leeward.store import Store, StoreUnavailable, Unit
from leeward.testing import ManualClock, eventually
from tests.contract.adapters import Distributed
from tests.contract.world import PRODUCER, Process, World, counted, recorded, ref

OUTBOX = ("waiting_events", "oldest_seconds")


@pytest_asyncio.fixture
async def world(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> AsyncIterator[World]:
    """Three partitions, so that a group can have several members."""
    ways = Distributed(request, settings, clock)
    ways.partitions = 3
    opened = World(ways, clock)
    await opened.create()
    yield opened
    await opened.close()


def ways(world: World) -> Distributed:
    assert isinstance(world.ways, Distributed)
    return world.ways


async def waiting(store: Store) -> int:
    outbox = PRODUCER.tables["outbox"]
    return await store.read(lambda conn: conn.execute(select(func.count()).select_from(outbox)).scalar_one())


async def commit(store: Store, *events: Any) -> None:
    def work(unit: Unit) -> None:
        for event in events:
            unit.emit(event)

    await store.write(work)


@asynccontextmanager
async def relaying(world: World, *stores: Store) -> AsyncIterator[list[KafkaRelay]]:
    """A relay for each of the producer's processes, as the runtime has them."""
    stop = asyncio.Event()
    found = [KafkaRelay(ways(world).brokers, world.ways.producer, store) for store in stores]
    tasks = [asyncio.create_task(one.run(stop)) for one in found]
    yield found
    stop.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)


@asynccontextmanager
async def consuming(*processes: Process) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(process.consumer.run(stop)) for process in processes]
    yield
    stop.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)


def all_applied(world: World, count: int) -> Callable[[], Any]:
    async def look() -> bool:
        return len(await world.applied()) >= count

    return look


async def by_key(world: World) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for what in await world.applied():
        key, _, number = what.partition("-")
        found[key].append(int(number))
    return found


async def test_an_events_age_travels_and_its_time_does_not(world: World) -> None:
    began = world.clock.now()
    seen: list[Event] = []
    await world.producer.write(lambda unit: unit.emit(recorded(1, "a"), began - timedelta(seconds=90)))
    await world.ways.carry(world.ways.producer, world.producer)
    process = world.process()
    process.parking.handlers = {IncidentRecorded.type: lambda _unit, events: seen.extend(events)}
    await world.clock.advance(minutes=10)
    [raw] = await process.subscription.fetch(1)
    await process.consumer.take([raw])
    assert [one.accepted_at for one in seen] == [world.clock.now() - timedelta(seconds=90)]


async def test_one_relay_sends_and_another_takes_over_without_a_gap(world: World) -> None:
    first, second = world.producer, world.open(world.ways.producer, PRODUCER)
    async with relaying(world, second):
        async with relaying(world, first):
            for number in range(40):
                await commit(first if number % 2 else second, recorded(number % 5, f"{number % 5}-{number}"))
        await commit(first, *(recorded(key, f"{key}-99") for key in range(5)))

        async def drained() -> bool:
            return await waiting(first) == 0

        await eventually(drained)
    process = world.process()
    while not await process.nothing_left():
        await process.step()
    told = await by_key(world)
    assert len(told) == 5
    assert all(numbers == sorted(set(numbers)) and len(numbers) == 9 for numbers in told.values())


async def test_what_is_committed_in_another_process_wakes_the_relay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LOOK_AGAIN", 3600)
    other = world.open(world.ways.producer, PRODUCER)
    # a process has its own relay, which stands by and tells the one that sends
    async with relaying(world, world.producer) as [sending]:

        async def ready() -> bool:
            return not sending.stuck and sending._mine  # nothing outside shows who holds it

        await eventually(ready)
        async with relaying(world, other):
            await asyncio.sleep(0.2)
            await commit(other, recorded(1, "a"))

            async def sent() -> bool:
                return await waiting(other) == 0

            await eventually(sent, within=3)


async def test_members_share_the_partitions_and_each_key_keeps_its_order(world: World) -> None:
    one, two = world.process(), world.process()
    async with relaying(world, world.producer), consuming(one):
        for number in range(60):
            await commit(world.producer, recorded(number % 12, f"{number % 12}-{number}"))
            if number == 20:
                joining = asyncio.create_task(run_for_a_while(two, 2.5))
            await asyncio.sleep(0.02)
        await joining
        await eventually(all_applied(world, 60), within=30)
    told = await by_key(world)
    assert sum(len(numbers) for numbers in told.values()) == 60
    assert all(numbers == sorted(set(numbers)) for numbers in told.values())


async def run_for_a_while(process: Process, seconds: float) -> None:
    """A member that joins in the middle and leaves again."""
    async with consuming(process):
        await asyncio.sleep(seconds)


@pytest.mark.own_servers
async def test_a_broker_that_is_killed_loses_and_repeats_nothing(world: World) -> None:
    process = world.process()
    async with relaying(world, world.producer), consuming(process):
        for number in range(90):
            await commit(world.producer, recorded(number % 6, f"{number % 6}-{number}"))
            if number == 30:
                await asyncio.to_thread(ways(world).server.kill)
            if number == 60:
                await asyncio.to_thread(ways(world).server.start)
            await asyncio.sleep(0.01)
        await eventually(all_applied(world, 90), within=60)
    told = await by_key(world)
    assert sum(len(numbers) for numbers in told.values()) == 90
    assert all(numbers == sorted(set(numbers)) for numbers in told.values())


@pytest.mark.own_servers
async def test_leaving_a_broker_that_is_away_ends_in_no_cancellation(world: World) -> None:
    """The consumer waits between two attempts then, and its own `stop` hands on the cancellation of that wait."""
    process = world.process()
    await process.subscription.open()
    await asyncio.to_thread(ways(world).server.kill)
    await asyncio.sleep(1.5)
    await process.subscription.close()
    await asyncio.to_thread(ways(world).server.start)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What waits, and for which address."""
    ours = [record for record in caplog.records if record.name == "leeward"]
    return sorted((one.message, getattr(one, "fields", {}).get("address", "")) for one in ours)


@pytest.mark.own_servers
async def test_kafka_away_at_the_start_is_said_and_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "leeward")
    server = ways(world).server
    await asyncio.to_thread(server.kill)
    process = world.process()
    async with relaying(world, world.producer) as [sending], consuming(process):
        assert sending.stuck
        await commit(world.producer, recorded(1, "1-1"))

        async def both_stuck() -> bool:
            return sending.stuck and process.consumer.stuck

        async def measured() -> bool:
            found = [counted(f"leeward_outbox_{what}", service=world.ways.producer) for what in OUTBOX]
            return found[0] == 1 and found[1] > 0.5

        await eventually(both_stuck)
        await eventually(measured)
        assert said(caplog) == [(event, ways(world).brokers.servers) for event in ("consumer_waits", "relay_waits")]
        await asyncio.to_thread(server.start)
        await eventually(all_applied(world, 1), within=30)

        async def neither() -> bool:
            return not sending.stuck and not process.consumer.stuck

        await eventually(neither, within=30)


async def test_a_topic_that_was_deleted_is_reported_and_not_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "CHECK", 0.5)
    monkeypatch.setattr(relay, "PATIENCE", 3.0)
    process = world.process()
    async with relaying(world, world.producer) as [sending], consuming(process):
        await commit(world.producer, recorded(1, "1-1"))
        await eventually(all_applied(world, 1), within=20)
        await administer(world, "delete_topics", [world.topic])
        await commit(world.producer, recorded(1, "1-2"))

        async def both_stuck() -> bool:
            return sending.stuck and process.consumer.stuck

        await eventually(both_stuck, within=40)
        assert world.topic not in await administer(world, "list_topics")
        assert await waiting(world.producer) == 1


async def test_a_topic_deleted_before_its_offsets_are_committed_holds_nobody_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "CHECK", 1.0)
    await world.publish(recorded(1, "last"))
    process = world.process()
    batch = await process.subscription.fetch(1)
    admin = AIOKafkaAdminClient(**ways(world).brokers.client())
    await admin.start()
    async with asyncio.timeout(20):
        await admin.delete_topics([world.topic])
        # at once, for in a moment the client knows that it has nothing to commit
        await process.subscription.settled(batch)
        with pytest.raises(BusUnavailable):
            await process.subscription.fetch(1)
    await admin.close()


async def administer(world: World, what: str, *arguments: Any) -> Any:
    admin = AIOKafkaAdminClient(**ways(world).brokers.client())
    await admin.start()
    try:
        return await getattr(admin, what)(*arguments)
    finally:
        await admin.close()


async def test_what_is_no_event_of_ours_is_a_dead_letter_and_the_rest_goes_on(world: World) -> None:
    ways(world).partitions = 1
    stranger = AIOKafkaProducer(**ways(world).brokers.client())
    await stranger.start()
    odd: tuple[tuple[bytes | None, list[tuple[str, bytes]]], ...] = (
        (b"hello", []),
        (None, [("ce_type", b"leeward.incident.recorded.v1")]),
        (b"\xff\x00", [("ce_id", b"x" * 99), ("ce_type", b"t\x00"), ("ce_subject", b""), ("ce_agems", b"-1")]),
        (b"{}", [("ce_id", ref(1).encode()), ("ce_type", b"leeward.incident.recorded.v9"), ("ce_subject", b"k")]),
    )
    for value, headers in odd:
        await stranger.send_and_wait(world.topic, value, b"key", headers=headers)
    await stranger.stop()
    await world.publish(recorded(1, "after"))
    process = world.process()
    while not await process.nothing_left():
        await process.step()
    assert await world.applied() == ["after"]
    assert [row[0] for row in await world.parked("place", dead=1)] == ["unknown-type"] * 4


async def test_a_slow_handler_loses_nothing_to_the_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "SESSION", 6.0)
    process = world.process()
    apply = world.handlers.apply

    def slowly(unit: Unit, events: Any) -> None:
        unit.conn.exec_driver_sql("SELECT pg_sleep(7)")
        apply(unit, events)

    await world.publish(recorded(1, "1-1"))
    process.parking.handlers = {IncidentRecorded.type: slowly}
    async with consuming(process):
        await eventually(all_applied(world, 1), within=30)
        process.parking.handlers = world.handlers.by_type
        await world.publish(recorded(1, "1-2"))
        await eventually(all_applied(world, 2), within=30)
    assert await world.applied() == ["1-1", "1-2"]


async def test_a_consumer_that_is_alive_and_stuck_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """aio-libs/aiokafka#1154: after a broker's restart it may fetch nothing for ever, without an error."""
    monkeypatch.setattr(kafka, "CHECK", 0.5)
    process = world.process()
    subscription = process.subscription
    assert isinstance(subscription, KafkaSubscription)
    await subscription.open()
    assert subscription._consumer is not None
    consumer = subscription._consumer

    async def nothing(**_options: Any) -> dict[Any, Any]:
        await asyncio.sleep(0.1)
        return {}

    monkeypatch.setattr(consumer, "getmany", nothing)
    await world.publish(recorded(1, "1-1"))
    labels = {"service": "matching", "cause": "stuck"}
    before = counted("leeward_bus_rebuilt_total", **labels)
    async with consuming(process):
        await eventually(all_applied(world, 1), within=20)
    assert counted("leeward_bus_rebuilt_total", **labels) - before == 1


async def test_what_is_fetched_and_not_yet_applied_is_lag(world: World) -> None:
    await world.publish(*(recorded(1, f"1-{number}") for number in range(5)))
    process = world.process()
    batch = await process.subscription.fetch(256)
    assert process.subscription.lag() == 5
    await process.consumer.take(batch)
    assert process.subscription.lag() == 5 - len(batch)


async def test_a_batch_that_another_replica_has_is_not_held_here(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "QUIET", 0.2)
    monkeypatch.setattr(consumer, "_FIRST_PAUSE", 1.0)
    await world.publish(recorded(1, "1-1"))
    process = world.process()
    [raw] = await process.subscription.fetch(1)
    monkeypatch.setattr(process.store, "write", AsyncMock(side_effect=StoreUnavailable))

    batches = [[raw]]

    async def once(_limit: int) -> list[Raw]:
        return batches.pop() if batches else await asyncio.Future()

    monkeypatch.setattr(process.subscription, "fetch", once)

    async def held() -> bool:
        return counted("leeward_bus_oldest_seconds", service="matching", topic=world.topic) > 0

    async def let_go() -> bool:
        return not await held()

    async with consuming(process):
        await eventually(held)
        await eventually(let_go)


@pytest.mark.own_servers
async def test_topics_are_made_once_with_their_retention(world: World) -> None:
    brokers = ways(world).brokers
    assert await topics.gaps(brokers) == [f"topic {topic} is missing" for topic in topics.TOPICS]
    assert await topics.make_topics(brokers) == list(topics.TOPICS)
    assert await topics.make_topics(brokers) == []
    assert await topics.gaps(brokers) == []
    asked = [ConfigResource(ConfigResourceType.TOPIC, topics.TOPICS[0])]
    [answer] = await administer(world, "describe_configs", asked)
    settings = {setting[0]: setting[1] for setting in answer.resources[0][4]}
    assert (settings["retention.ms"], settings["segment.ms"]) == ("604800000", "3600000")
    assert settings["max.message.bytes"] == str(topics.LARGEST)
    assert settings["message.timestamp.type"] == "LogAppendTime"
    await administer(world, "delete_topics", list(topics.TOPICS))


@pytest.mark.own_servers
async def test_a_topic_stamped_by_its_senders_is_named_and_altered_with_its_own_settings_kept(world: World) -> None:
    brokers = ways(world).brokers
    old, *_ = topics.TOPICS
    given = {"retention.ms": "604800000", "max.message.bytes": "5000000"}
    await administer(world, "create_topics", [NewTopic(old, 1, 1, topic_configs=given)])
    await topics.make_topics(brokers)
    await administer(world, "alter_configs", [ConfigResource(ConfigResourceType.TOPIC, old, given)])

    async def named() -> bool:
        return await topics.gaps(brokers) == [f"topic {old} has not message.timestamp.type=LogAppendTime"]

    await eventually(named)
    assert await topics.make_topics(brokers) == []

    async def mended() -> bool:
        return not await topics.gaps(brokers)

    # a broker learns of it from its controller, a moment after the controller has said yes
    await eventually(mended)
    [answer] = await administer(world, "describe_configs", [ConfigResource(ConfigResourceType.TOPIC, old)])
    settings = {setting[0]: setting[1] for setting in answer.resources[0][4]}
    assert given.items() <= settings.items()
    await administer(world, "delete_topics", list(topics.TOPICS))


async def test_a_consumer_without_a_topic_says_so(world: World) -> None:
    missing = world.consuming("leeward.nowhere", {})
    with pytest.raises(BusUnavailable):
        await missing.subscription.open()
