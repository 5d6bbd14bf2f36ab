"""Databases that are put back from copies: whatever the shape, no event that is in the log is passed over."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection

from leeward.bus.logs import renew_log, rereads
from leeward.bus.sqlite import SqliteBus
from leeward.settings import Settings
from leeward.store.retention import Retention
from leeward.telemetry import REGISTRY
from leeward.testing import ManualClock
from tests.contract.adapters import Distributed, Embedded
from tests.contract.world import CONSUMER, PRODUCER, Process, World, recorded


@pytest_asyncio.fixture
async def on_kafka(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> AsyncIterator[World]:
    opened = World(Distributed(request, settings, clock), clock)
    await opened.create()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def world(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> AsyncIterator[World]:
    opened = World(Embedded(request, settings, clock), clock)
    await opened.create()
    yield opened
    await opened.close()


def copy_of(world: World, name: str) -> Path:
    """A copy as the recipe of the first releases had it: `sqlite3 FILE ".backup TARGET"`."""
    place = world.ways.databases.place(name)
    target = place.with_suffix(".copy")
    with closing(sqlite3.connect(place)) as source, closing(sqlite3.connect(target)) as backup:
        source.backup(backup)
    return target


async def put_back(world: World, name: str, copy: Path, *, renewed: bool) -> None:
    """The service stops, its file is replaced and nothing else is left of it; then it starts again."""
    place = world.ways.databases.place(name)
    await (world.producer if name == "incident" else world.seen).close()
    for left in place.parent.glob(f"{name}.db*"):
        left.unlink()
    shutil.copy(copy, place)
    store = world.open(name, PRODUCER if name == "incident" else CONSUMER)
    if name == "incident":
        world.producer = store
    else:
        world.seen = store
    if renewed:
        await store.write(lambda unit: renew_log(unit.conn, store.metadata))


async def finish(process: Process) -> None:
    while not await process.nothing_left():
        await process.step()


def alarm(process: Process) -> tuple[str, bool]:
    """What `/readyz` is told, and whether the metric has a time."""
    labels = {"service": "matching", "topic": "leeward.incident"}
    return process.consumer.noted(), bool(REGISTRY.get_sample_value("leeward_bus_reread_time_seconds", labels))


RENEWED = pytest.mark.parametrize("renewed", [True, False], ids=["leeward restore", "copied back by hand"])


@RENEWED
@pytest.mark.parametrize("after", [1, 2, 3, 9], ids=["short of", "up to", "past", "far past"])
@pytest.mark.parametrize("restarted", [True, False], ids=["restarted", "running"])
async def test_an_older_producer_that_gives_numbers_again_loses_nobody(
    world: World, after: int, restarted: bool, renewed: bool
) -> None:
    await world.publish(recorded(1, "before"))
    copy = copy_of(world, "incident")
    await world.publish(recorded(2, "lost with the disk"), recorded(3, "and this"))
    process = world.process()
    await finish(process)
    await put_back(world, "incident", copy, renewed=renewed)
    again = [f"n{number}" for number in range(after)]
    await world.publish(*(recorded(10 + number, what) for number, what in enumerate(again)))
    process = world.process() if restarted else process
    assert process.subscription.lag() >= after
    await finish(process)
    assert await world.applied() == ["before", "lost with the disk", "and this", *again]
    assert alarm(process) != ("", False)
    assert process.subscription.lag() == 0


async def test_the_alarm_outlives_a_restart_and_is_in_the_database_for_doctor(world: World, clock: ManualClock) -> None:
    await world.publish(recorded(1, "a"))
    copy = copy_of(world, "incident")
    await world.publish(recorded(1, "b"))
    await finish(world.process())
    await put_back(world, "incident", copy, renewed=False)
    await finish(world.process())
    restarted = world.process()
    await restarted.subscription.open()
    assert alarm(restarted) == ("beyond_end", True)
    found = await world.seen.read(lambda conn: rereads(conn, CONSUMER))
    assert [(topic, reread.why) for topic, reread in found.items()] == [("leeward.incident", "beyond_end")]
    await clock.advance(days=2)
    assert alarm(restarted) == ("", True)


@RENEWED
async def test_an_older_consumer_reads_again_what_it_has_lost(world: World, renewed: bool) -> None:
    await world.publish(recorded(1, "a"))
    await finish(world.process())
    copy = copy_of(world, "matching")
    await world.publish(recorded(1, "b"), recorded(1, "c"))
    await finish(world.process())
    await put_back(world, "matching", copy, renewed=renewed)
    await world.publish(recorded(1, "d"))
    process = world.process()
    await finish(process)
    assert await world.applied() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("first", ["incident", "matching"])
async def test_copies_made_one_after_the_other_under_a_stream_lose_nobody(world: World, first: str) -> None:
    await world.publish(*(recorded(n, f"a{n}") for n in range(3)))
    await finish(world.process())
    copies = {first: copy_of(world, first)}
    await world.publish(*(recorded(n, f"b{n}") for n in range(3)))
    await finish(world.process())
    other = "matching" if first == "incident" else "incident"
    copies[other] = copy_of(world, other)
    await world.publish(*(recorded(n, f"c{n}") for n in range(3)))
    for name, copy in copies.items():
        await put_back(world, name, copy, renewed=False)
    await world.publish(*(recorded(n, f"d{n}") for n in range(7)))
    await finish(world.process())
    applied = await world.applied()
    assert len(applied) == len(set(applied))
    assert {f"a{n}" for n in range(3)} | {f"d{n}" for n in range(7)} <= set(applied)
    assert ("b0" in applied) or first == "incident"


async def test_what_only_others_events_were_passed_by_hour_is_stored(world: World, settings: Settings) -> None:
    """Otherwise a log would be kept for a reader that is past it, and read again at each start."""
    await world.publish(recorded(1, "a"))
    bus = SqliteBus(settings, {"matching": world.seen})
    subscription = bus.subscribe("matching", "leeward.incident")
    await subscription.settled(await subscription.fetch(10))
    await Retention(world.seen, partial(bus.forget, "matching")).once()
    await bus.close()
    assert await world.process().nothing_left()


async def test_a_log_whose_end_was_forgotten_is_still_the_same(world: World, clock: ManualClock) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    await finish(world.process())
    await clock.advance(days=9)
    await Retention(world.producer, partial(world.ways.bus({}).forget, "incident")).once()
    process = world.process()
    assert await process.nothing_left()
    assert process.consumer.noted() == ""


async def test_what_was_forgotten_before_it_was_read_is_an_alarm(world: World, clock: ManualClock) -> None:
    copy = copy_of(world, "matching")
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    await finish(world.process())
    await clock.advance(days=9)
    await Retention(world.producer, partial(world.ways.bus({}).forget, "incident")).once()
    await world.publish(recorded(1, "c"))
    await put_back(world, "matching", copy, renewed=False)
    process = world.process()
    await finish(process)
    assert await world.applied() == ["c"]
    assert alarm(process) == ("gone", True)


async def test_events_that_a_copy_brings_back_after_the_inbox_forgot_them_are_not_applied_again(
    world: World, settings: Settings, clock: ManualClock
) -> None:
    await world.publish(recorded(1, "old"))
    copy = copy_of(world, "incident")
    await finish(world.process())
    await clock.advance(days=20)
    await Retention(world.producer, partial(SqliteBus(settings, {}).forget, "incident")).once()
    await world.publish(recorded(1, "new"))
    bus = SqliteBus(settings, {"matching": world.seen})
    bus.subscribe("matching", "leeward.incident")
    await finish(world.process())
    await Retention(world.seen, partial(bus.forget, "matching")).once()
    await bus.close()
    await put_back(world, "incident", copy, renewed=False)
    await world.publish(recorded(1, "after"))
    await finish(world.process())
    assert await world.applied() == ["old", "new", "after"]


async def test_the_inbox_keeps_what_a_log_holds_for_a_reader_that_is_off(
    world: World, settings: Settings, clock: ManualClock
) -> None:
    """A second reader of the topic does not read for a month; the first is then put back to the start."""
    await world.publish(recorded(1, "a"))
    process = world.process()
    await finish(process)
    await clock.advance(days=30)
    readers = {"leeward.incident": ("matching", "issuer")}
    bus = SqliteBus(settings, {"matching": world.seen}, readers)  # type: ignore[arg-type]
    bus.subscribe("matching", "leeward.incident")
    await Retention(world.producer, partial(bus.forget, "incident")).once()
    await Retention(world.seen, partial(bus.forget, "matching")).once()
    await bus.close()
    await world.producer.write(lambda unit: renew_log(unit.conn, PRODUCER))
    restarted = world.process()
    await finish(restarted)
    assert await world.applied() == ["a"]
    assert alarm(restarted) == ("restored", True)


async def test_a_database_of_a_release_before_is_read_again_without_an_alarm(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    await finish(world.process())
    place = world.seen.writes.tables.position
    await world.seen.write(lambda unit: unit.conn.execute(place.update().values(log="", event_id="")))
    process = world.process()
    await finish(process)
    assert await world.applied() == ["a", "b"]
    assert process.consumer.noted() == ""


async def test_the_lag_is_the_whole_log_where_a_place_is_not_in_it(world: World) -> None:
    await world.publish(recorded(1, "a"))
    copy = copy_of(world, "incident")
    await world.publish(*(recorded(1, f"{n}") for n in range(5)))
    process = world.process()
    await finish(process)
    await put_back(world, "incident", copy, renewed=False)
    await world.publish(recorded(1, "b"))
    process.subscription._log.close()  # type: ignore[attr-defined]
    assert process.subscription.lag() == 2


Tables = dict[str, list[dict[str, Any]]]


def dump(conn: Connection) -> Tables:
    return {
        name: [dict(row) for row in conn.execute(table.select()).mappings()] for name, table in CONSUMER.tables.items()
    }


def put_back_rows(conn: Connection, rows: Tables) -> None:
    for name, table in CONSUMER.tables.items():
        conn.execute(table.delete())
        if rows[name]:
            conn.execute(table.insert(), rows[name])


async def test_an_older_database_reads_again_what_its_group_has_committed_to_kafka(on_kafka: World) -> None:
    await on_kafka.publish(recorded(1, "a"))
    first = on_kafka.process()
    await first.step()
    older = await on_kafka.seen.read(dump)
    await on_kafka.publish(recorded(1, "b"), recorded(2, "c"))
    await first.step()
    await first.gone()
    await on_kafka.seen.write(lambda unit: put_back_rows(unit.conn, older))
    await on_kafka.publish(recorded(1, "d"))
    process = on_kafka.process()
    await finish(process)
    assert await on_kafka.applied() == ["a", "b", "c", "d"]
    assert process.consumer.noted() == "restored"
    await process.gone()
    restarted = on_kafka.process()
    assert await restarted.nothing_left()
    assert await on_kafka.applied() == ["a", "b", "c", "d"]


async def test_an_empty_database_in_place_of_a_lost_one_reads_all_that_kafka_keeps(on_kafka: World) -> None:
    empty = await on_kafka.seen.read(dump)
    await on_kafka.publish(recorded(1, "a"), recorded(2, "b"))
    first = on_kafka.process()
    await first.step()
    await first.gone()
    await on_kafka.seen.write(lambda unit: put_back_rows(unit.conn, empty))
    process = on_kafka.process()
    await finish(process)
    assert await on_kafka.applied() == ["a", "b"]
    assert process.consumer.noted() == "restored"
    await process.gone()


async def test_a_restart_is_no_restore(on_kafka: World) -> None:
    await on_kafka.publish(recorded(1, "a"))
    first = on_kafka.process()
    await first.step()
    await first.gone()
    await on_kafka.publish(recorded(1, "b"))
    process = on_kafka.process()
    await finish(process)
    assert await on_kafka.applied() == ["a", "b"]
    assert process.consumer.noted() == ""
    await process.gone()
