"""A timer is a row: it fires once, in one transaction that looks again, and never gets lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import pytest_asyncio
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select

from leeward.store import Store, StoreUnavailable, Timer, Unit, ground_tables
from leeward.store.timers import BATCH, TimerHandler, postpone
from leeward.store.timing import TimerLoop
from leeward.testing import ManualClock, eventually
from tests.contract.databases import Databases

METADATA = MetaData()
TABLES = ground_tables(METADATA)
FIRED = Table("fired", METADATA, Column("n", Integer, primary_key=True), Column("what", String(40)))


@pytest_asyncio.fixture
async def store(databases: Databases) -> AsyncIterator[Store]:
    await databases.create("matching", METADATA)
    opened = databases.open("matching", METADATA)
    yield opened
    await opened.close()


@dataclass
class Handlers:
    """Writes down what fires; keys in `faulty` raise."""

    faulty: set[str] = field(default_factory=set)
    runs: list[int] = field(default_factory=list)

    def note(self, unit: Unit, timers: Sequence[Timer]) -> None:
        self.runs.append(len(timers))
        for timer in timers:
            unit.conn.execute(insert(FIRED).values(what=f"{timer.name}:{timer.key}"))
            if timer.key in self.faulty:
                raise LookupError

    def loop(self, store: Store, **others: TimerHandler) -> TimerLoop:
        return TimerLoop("matching", store, {"reminder": self.note, "confirm": self.note, **others})


async def set_timers(store: Store, *keys: str, name: str = "reminder", **after: float) -> None:
    def work(unit: Unit) -> None:
        for key in keys:
            unit.set_timer(name, key, unit.now + timedelta(**after))

    await store.write(work)


async def fired(store: Store) -> list[str]:
    query = select(FIRED.c.what).order_by(FIRED.c.n)
    return await store.read(lambda conn: [str(what) for what in conn.execute(query).scalars()])


async def waiting(store: Store) -> list[str]:
    query = select(TABLES.timer.c.key).order_by(TABLES.timer.c.key)
    return await store.read(lambda conn: [str(key) for key in conn.execute(query).scalars()])


@asynccontextmanager
async def running(loop: TimerLoop) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(loop.run(stop))
    yield
    stop.set()
    async with asyncio.timeout(10):
        await task


async def test_a_timer_fires_when_it_is_due_and_once(store: Store, clock: ManualClock) -> None:
    loop = Handlers().loop(store)
    await set_timers(store, "a", hours=1)
    await clock.advance(minutes=59)
    assert await loop.fire_due() == 0
    await clock.advance(minutes=1)
    assert await loop.fire_due() == 1
    assert await loop.fire_due() == 0
    assert await fired(store) == ["reminder:a"]


async def test_setting_a_timer_again_moves_it_and_cancelling_takes_it_away(store: Store, clock: ManualClock) -> None:
    loop = Handlers().loop(store)
    await set_timers(store, "moved", "gone", hours=1)
    await set_timers(store, "moved", hours=3)
    await store.write(lambda unit: unit.cancel_timer("reminder", "gone"))
    await clock.advance(hours=2)
    assert await loop.fire_due() == 0
    await clock.advance(hours=1)
    await loop.fire_due()
    assert await fired(store) == ["reminder:moved"]


async def test_the_last_word_of_a_transaction_counts(store: Store) -> None:
    def work(unit: Unit) -> None:
        unit.set_timer("reminder", "a", unit.now)
        unit.cancel_timer("reminder", "a")
        unit.cancel_timer("reminder", "b")
        unit.set_timer("reminder", "b", unit.now)

    await store.write(work)
    assert await waiting(store) == ["b"]


async def test_a_handler_may_set_its_timer_again(store: Store, clock: ManualClock) -> None:
    def repeat(unit: Unit, timers: Sequence[Timer]) -> None:
        for timer in timers:
            unit.conn.execute(insert(FIRED).values(what=timer.key))
            unit.set_timer("weekly", timer.key, timer.due_at + timedelta(days=7))

    loop = Handlers().loop(store, weekly=repeat)
    await set_timers(store, "a", name="weekly")
    for _ in range(3):
        assert await loop.fire_due() == 1
        assert await loop.fire_due() == 0
        await clock.advance(days=7)
    assert await fired(store) == ["a"] * 3


async def test_a_faulty_timer_is_postponed_alone_and_later_each_time(store: Store, clock: ManualClock) -> None:
    handlers = Handlers(faulty={"bad"})
    loop = handlers.loop(store)
    await set_timers(store, "a", "bad", "c")
    await loop.fire_due()
    assert sorted(await fired(store)) == ["reminder:a", "reminder:c"]
    assert await waiting(store) == ["bad"]
    for minutes in (1, 2, 4):
        await clock.advance(minutes=minutes, seconds=-1)
        assert await loop.fire_due() == 0
        await clock.advance(seconds=1)
        assert await loop.fire_due() == 1
    handlers.faulty.clear()
    await clock.advance(hours=6)
    await loop.fire_due()
    assert (await fired(store))[-1] == "reminder:bad"
    assert await waiting(store) == []


async def test_a_timer_of_an_unknown_name_holds_up_nobody(store: Store) -> None:
    await set_timers(store, "old", name="forgotten")
    await set_timers(store, "a")
    await Handlers().loop(store).fire_due()
    assert await fired(store) == ["reminder:a"]
    assert await waiting(store) == ["old"]


async def test_two_loops_fire_a_timer_once(store: Store) -> None:
    first, second = Handlers().loop(store), Handlers().loop(store)
    await set_timers(store, *(f"k{n}" for n in range(50)))
    await asyncio.gather(first.fire_due(), second.fire_due())
    assert len(await fired(store)) == len(set(await fired(store))) == 50


async def test_after_a_fault_a_timer_cancelled_meanwhile_does_not_fire(store: Store) -> None:
    def cancels_the_other(unit: Unit, timers: Sequence[Timer]) -> None:
        unit.conn.execute(insert(FIRED).values(what=f"{timers[0].name}:{timers[0].key}"))
        unit.cancel_timer("reminder", "z")

    loop = Handlers(faulty={"bad"}).loop(store, answered=cancels_the_other)
    await set_timers(store, "a", name="answered", seconds=-3)
    await set_timers(store, "bad", seconds=-2)
    await set_timers(store, "z", seconds=-1)
    await loop.fire_due()
    assert await fired(store) == ["answered:a"]
    assert await waiting(store) == ["bad"]


async def test_a_timer_that_another_of_its_batch_cancels_or_moves_does_not_fire(
    store: Store, clock: ManualClock
) -> None:
    def answered(unit: Unit, timers: Sequence[Timer]) -> None:
        unit.cancel_timer("reminder", "ended")
        unit.set_timer("reminder", "moved", unit.now + timedelta(days=1))
        unit.conn.execute(insert(FIRED).values(what=timers[0].name))

    loop = Handlers().loop(store, answered=answered)
    await set_timers(store, "ended", "moved", "other")
    await set_timers(store, "a", name="answered")
    await loop.fire_due()
    assert await fired(store) == ["answered", "reminder:other"]
    assert await waiting(store) == ["moved"]
    await clock.advance(days=1)
    await loop.fire_due()
    assert (await fired(store))[-1] == "reminder:moved"


async def test_a_handlers_fault_leaves_nothing_of_its_work(store: Store) -> None:
    await set_timers(store, "bad")
    await Handlers(faulty={"bad"}).loop(store).fire_due()
    assert await fired(store) == []


async def test_a_timer_that_another_replica_fired_and_set_anew_is_not_brought_forward(
    store: Store, clock: ManualClock
) -> None:
    failed = Timer("reminder", "a", clock.now())
    await set_timers(store, "a", hours=72)
    await store.write(lambda unit: postpone(unit, failed))
    due_at = await store.read(lambda conn: conn.execute(select(TABLES.timer.c.due_at)).scalar_one())
    assert due_at == clock.now() + timedelta(hours=72)


async def test_a_database_that_is_away_postpones_nothing(store: Store, clock: ManualClock) -> None:
    def away(_unit: Unit, _timers: Sequence[Timer]) -> None:
        raise StoreUnavailable

    await set_timers(store, "a", name="away")
    loop = Handlers().loop(store, away=away)
    with pytest.raises(StoreUnavailable):
        await loop.fire_due()
    due = await store.read(lambda conn: conn.execute(select(TABLES.timer.c.due_at)).scalar())
    assert due == clock.now()


async def test_thousands_that_are_due_fire_in_batches(store: Store) -> None:
    handlers = Handlers()
    await set_timers(store, *(f"k{n:04}" for n in range(2000)))

    async def all_fired() -> bool:
        return len(await fired(store)) == 2000

    async with running(handlers.loop(store)):
        await eventually(all_fired)
    assert max(handlers.runs) == BATCH
    assert len(handlers.runs) == 8


async def test_the_loop_wakes_when_the_clock_gets_there(store: Store, clock: ManualClock) -> None:
    await set_timers(store, "late", hours=3)
    await set_timers(store, "soon", seconds=20)

    async def is_fired(*wanted: str) -> bool:
        # the loop looks again every half minute; each turn of the hand lets it
        await clock.advance(seconds=10)
        return await fired(store) == [f"reminder:{key}" for key in wanted]

    async with running(Handlers().loop(store)):
        await eventually(lambda: is_fired("soon"))
        await clock.advance(hours=2)
        assert await fired(store) == ["reminder:soon"]
        await clock.advance(hours=1)
        await eventually(lambda: is_fired("soon", "late"))


async def test_a_new_earlier_timer_wakes_the_loop_without_the_clock(store: Store) -> None:
    async def is_fired() -> bool:
        return await fired(store) == ["reminder:now"]

    async with running(Handlers().loop(store)):
        await set_timers(store, "far", days=9)
        await asyncio.sleep(0)
        await set_timers(store, "now")
        await eventually(is_fired)
    assert await waiting(store) == ["far"]


async def test_different_names_fire_in_one_transaction(store: Store) -> None:
    handlers = Handlers()
    await set_timers(store, "a", "b")
    await set_timers(store, "c", name="confirm")
    assert await handlers.loop(store).fire_due() == 3
    assert sorted(handlers.runs) == [1, 2]
