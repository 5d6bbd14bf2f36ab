"""What the ground forgets by itself: events after seven days, inbox rows once nothing can repeat them."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
from sqlalchemy import MetaData, func, select

from leeward.brokers import parse_brokers
from leeward.bus.kafka import KafkaBus
from leeward.bus.logs import renew_log
from leeward.bus.sqlite import LOG_KEPT, SqliteBus
from leeward.contracts import CaseOpened
from leeward.contracts.envelope import topic_of
from leeward.runtime import readers_of
from leeward.service import Service
from leeward.settings import Settings
from leeward.store import SqliteStore, Store, Unit, ground_tables
from leeward.store.group import StoreUnavailable
from leeward.store.periodic import back_off, every
from leeward.store.retention import EVERY, FIRST_SLICE, INBOX_KEPT, Retention, at_once
from leeward.testing import ManualClock, eventually
from services.commands import catalogue
from tests.conftest import MakeContext

METADATA = MetaData()
TABLES = ground_tables(METADATA)
CASE = "7f2b1c4e-0000-4000-8000-000000000001"


@pytest.fixture
def store(make_context: MakeContext) -> Store:
    return make_context("matching", METADATA).store


def fill(unit: Unit) -> None:
    unit.emit(CaseOpened(case_ref=CASE))
    unit.writes.inbox.run(unit.conn, [(CASE, unit.now.date())])


async def left(store: Store) -> tuple[int, int]:
    counts = [select(func.count()).select_from(table) for table in (TABLES.outbox, TABLES.inbox)]
    found = await store.read(lambda conn: [conn.execute(query).scalar_one() for query in counts])
    return found[0], found[1]


async def test_each_thing_is_forgotten_in_its_time(store: Store, settings: Settings, clock: ManualClock) -> None:
    await store.write(fill)
    for days, expected in ((7, (1, 1)), (1, (0, 1)), (1, (0, 1)), (1, (0, 0))):
        await clock.advance(days=days)
        await Retention(store, partial(SqliteBus(settings, {}).forget, "matching")).once()
        assert await left(store) == expected


async def test_what_a_consumer_has_not_read_is_kept_however_long_the_machine_was_off(
    store: Store, settings: Settings, clock: ManualClock
) -> None:
    await store.write(fill)
    await clock.advance(days=400)
    bus = SqliteBus(settings, {"matching": store})
    reader = bus.subscribe("matching", "leeward.matching")
    forget = Retention(store, partial(bus.forget, "matching"))
    await forget.once()
    assert await left(store) == (1, 1)
    await reader.settled(await reader.fetch(10))
    # the place is stored in one round, the log goes in the next, and the inbox once the log is gone
    for expected in ((1, 1), (0, 1), (0, 0)):
        await forget.once()
        assert await left(store) == expected
    await bus.close()


@pytest.fixture
def incident(make_context: MakeContext) -> Store:
    return make_context("incident", METADATA).store


async def test_what_another_process_has_not_read_is_kept_whether_it_runs_or_not(
    incident: Store, make_context: MakeContext, settings: Settings, clock: ManualClock
) -> None:
    """`leeward run incident` and `leeward run matching` on one folder: neither has the other's readers."""
    await incident.write(fill)
    await clock.advance(days=400)
    alone = SqliteBus(settings, {"incident": incident}, readers_of(catalogue.load()))
    forget = Retention(incident, partial(alone.forget, "incident"))
    await forget.once()
    assert (await left(incident))[0] == 1
    matching = make_context("matching", METADATA).store
    await forget.once()
    assert (await left(incident))[0] == 1
    elsewhere = SqliteBus(settings, {"matching": matching})
    reader = elsewhere.subscribe("matching", "leeward.incident")
    batch = await reader.fetch(10)
    await forget.once()
    assert (await left(incident))[0] == 1
    await matching.write(lambda unit: reader.settle(unit, batch, batch))
    await forget.once()
    assert (await left(incident))[0] == 0
    await alone.close()
    await elsewhere.close()


async def test_of_a_log_that_was_put_back_nothing_is_deleted_by_the_positions_of_before(
    incident: Store, make_context: MakeContext, settings: Settings, clock: ManualClock
) -> None:
    matching = make_context("matching", METADATA).store
    bus = SqliteBus(settings, {"incident": incident, "matching": matching})
    reader = bus.subscribe("matching", "leeward.incident")
    await incident.write(fill)
    batch = await reader.fetch(10)
    await matching.write(lambda unit: reader.settle(unit, batch, batch))
    await incident.write(lambda unit: renew_log(unit.conn, METADATA))
    await clock.advance(days=30)
    await Retention(incident, partial(bus.forget, "incident")).once()
    assert (await left(incident))[0] == 1
    await bus.close()


@pytest.mark.parametrize("service", catalogue.load(), ids=lambda service: service.name)
def test_a_service_says_which_topics_its_handlers_take(service: Service, make_context: MakeContext) -> None:
    wiring = service.build(make_context(service.name, service.metadata))
    assert tuple(sorted({topic_of(model.type) for model in wiring.handlers})) == service.reads


async def test_an_event_that_kafka_does_not_have_is_kept_however_old(store: Store, clock: ManualClock) -> None:
    await store.write(fill)
    await clock.advance(days=400)
    bus = KafkaBus(parse_brokers("kafka://127.0.0.1:9092"), {})
    await Retention(store, partial(bus.forget, "matching")).once()
    assert await left(store) == (1, 0)


def test_the_inbox_outlives_the_log() -> None:
    assert LOG_KEPT + timedelta(days=1) < INBOX_KEPT


async def test_a_services_own_retention_runs_with_it(store: Store) -> None:
    ran: list[int] = []
    await Retention(store, at_once(lambda _unit: ran.append(1)), at_once(lambda _unit: ran.append(2))).once()
    assert ran == [1, 2]


async def test_it_runs_at_the_start_and_every_hour(store: Store, clock: ManualClock) -> None:
    ran: list[int] = []
    stop = asyncio.Event()
    task = asyncio.create_task(Retention(store, at_once(lambda _unit: ran.append(1))).run(stop))

    async def runs(wanted: int) -> bool:
        return len(ran) >= wanted

    await eventually(lambda: runs(1))
    async with asyncio.timeout(10):
        while len(ran) < 2:
            await clock.advance(seconds=EVERY)
    stop.set()
    async with asyncio.timeout(10):
        await task


async def test_nothing_of_a_forgotten_event_is_left_while_others_read(
    store: SqliteStore, settings: Settings, clock: ManualClock
) -> None:
    await store.write(fill)
    await clock.advance(days=30)
    reading, reader_done = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def read_slowly(conn: object) -> None:
        conn.execute(select(TABLES.outbox)).all()  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(reading.set)
        asyncio.run_coroutine_threadsafe(reader_done.wait(), loop).result()

    reader = asyncio.create_task(store.read(read_slowly))
    await reading.wait()
    tidying = asyncio.create_task(Retention(store, partial(SqliteBus(settings, {}).forget, "matching")).once())
    await asyncio.wait([tidying], timeout=0.2)
    assert not tidying.done()
    reader_done.set()
    await reader
    await tidying
    assert not any(CASE.encode() in file.read_bytes() for file in Path(store.path.parent).glob("matching.db*"))


def test_pauses_grow_up_to_the_longest() -> None:
    assert [back_off(faults, 0.5, 5.0) for faults in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert back_off(100_000, 0.5, 5.0) == 5.0
    assert back_off(3, 2.0, 15.0, factor=1.5) == 4.5


@pytest.mark.parametrize("fault", [StoreUnavailable("away"), None])
async def test_work_that_could_not_be_done_is_done_again_before_its_time(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    monkeypatch.setattr("leeward.store.periodic._FIRST_PAUSE", 0.01)
    done, stop = [], asyncio.Event()

    async def work() -> bool:
        done.append(clock.now())
        if len(done) < 3 and fault:
            raise fault
        if len(done) == 3:
            stop.set()
        return len(done) == 3

    async with asyncio.timeout(10):
        await every(EVERY, work, clock)(stop)
    assert done == [clock.now()] * 3


async def test_work_is_done_when_it_is_woken(clock: ManualClock) -> None:
    done, stop, wake = [], asyncio.Event(), asyncio.Event()

    async def work() -> None:
        done.append(1)
        wake.set()
        if len(done) == 3:
            stop.set()

    async with asyncio.timeout(10):
        await every(EVERY, work, clock, wake)(stop)
    assert len(done) == 3


async def test_a_fault_of_the_work_itself_ends_the_task(clock: ManualClock) -> None:
    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await every(EVERY, work, clock)(asyncio.Event())


def many(unit: Unit) -> None:
    unit.writes.inbox.run(unit.conn, [(f"{n:036}", unit.now.date()) for n in range(300)])


async def test_it_deletes_in_slices_off_the_loop_and_others_commit_between_them(
    store: Store, settings: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write(many)
    await clock.advance(days=10)
    monkeypatch.setattr("leeward.store.retention.MOST", 10)
    order, threads = [], set()
    trim = store.trim

    async def noted(work: Callable[[Unit], bool]) -> tuple[bool, float]:
        def work_aside(unit: Unit) -> bool:
            threads.add(threading.get_ident())
            order.append("slice")
            return work(unit)

        return await trim(work_aside)

    monkeypatch.setattr(store, "trim", noted)
    retention = Retention(store, partial(SqliteBus(settings, {}).forget, "matching"))
    retention._most = 10
    deleting = asyncio.create_task(retention.once())
    await eventually(lambda: order)
    while not deleting.done():
        await store.write(lambda _unit: order.append("other"))
    await deleting
    assert await left(store) == (0, 0)
    assert order.count("slice") > 30
    # whoever comes during a slice is next
    assert max(len(list(run)) for what, run in groupby(order) if what == "slice") <= 3
    assert threading.get_ident() not in threads


async def test_a_slice_that_takes_long_makes_the_next_ones_shorter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    took, asked = iter([0.02, 0.02, 0.001, 0.001, 0.0]), list[int]()

    async def timed(work: Callable[[Unit], bool]) -> tuple[bool, float]:
        seconds = next(took)
        work(None)  # type: ignore[arg-type]
        return seconds > 0, seconds

    def part(_unit: Unit, most: int) -> bool:
        asked.append(most)
        return True

    monkeypatch.setattr(store, "trim", timed)
    retention = Retention(store)
    retention._parts = (part,)
    await retention.once()
    assert asked == [FIRST_SLICE, FIRST_SLICE // 2, FIRST_SLICE // 4, FIRST_SLICE // 2, FIRST_SLICE]


async def test_a_stop_comes_between_two_slices(store: Store) -> None:
    stop, ran = asyncio.Event(), list[int]()

    def endless(_unit: Unit, _most: int) -> bool:
        ran.append(1)
        return True

    task = asyncio.create_task(Retention(store, endless).run(stop))
    await eventually(lambda: len(ran) > 2)
    stop.set()
    async with asyncio.timeout(10):
        await task


async def test_what_a_clock_that_ran_ahead_wrote_goes_with_what_follows_it(
    store: Store, settings: Settings, clock: ManualClock
) -> None:
    await clock.advance(days=700)
    await store.write(fill)
    clock._now -= timedelta(days=700)
    await store.write(lambda unit: unit.emit(CaseOpened(case_ref=CASE)))
    await clock.advance(days=9)
    await Retention(store, partial(SqliteBus(settings, {}).forget, "matching")).once()
    assert (await left(store))[0] == 0
