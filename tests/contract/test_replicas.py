"""Several processes on one PostgreSQL: nothing is overwritten, one of them holds a name, and all hear of new events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import IntegrityError

from leeward.contracts import CaseOpened
from leeward.store import Store, StoreUnavailable, Timer, Unit, Update
from leeward.store.lookup import in_list
from leeward.store.postgresql import PostgresStore
from leeward.store.timing import TimerLoop
from leeward.testing import ManualClock, eventually
from tests.contract.databases import Cluster
from tests.contract.test_store import ADD, CASE, METADATA, THING, names
from tests.contract.world import counted

Open = Callable[[], Store]


@pytest_asyncio.fixture
async def replica(cluster: Cluster) -> AsyncIterator[Open]:
    """`replica()`: one more process on the same database."""
    await cluster.create("matching", METADATA)
    opened: list[Store] = []

    def one_more() -> Store:
        opened.append(cluster.open("matching", METADATA))
        return opened[-1]

    yield one_more
    for store in opened:
        await store.close()


def add_one(unit: Unit) -> None:
    """Read, then write what was read and one: lost by whoever does not notice the other."""
    size = unit.conn.execute(select(THING.c.size)).scalar_one()
    unit.conn.execute(THING.update().values(size=size + 1))


async def test_nothing_is_lost_when_all_change_the_same_row(replica: Open) -> None:
    stores = [replica() for _ in range(4)]
    await stores[0].write(lambda unit: ADD.run(unit.conn, [("counter", 0, None)]))
    before = counted("leeward_transactions_repeated_total")
    await asyncio.gather(*(store.write(add_one) for store in stores * 5))
    size = await stores[0].read(lambda conn: conn.execute(select(THING.c.size)).scalar_one())
    assert size == 20
    assert counted("leeward_transactions_repeated_total") > before


async def test_a_deadlock_is_run_again(replica: Open) -> None:
    one, other = replica(), replica()
    await one.write(lambda unit: ADD.run(unit.conn, [("a", 0, None), ("b", 0, None)]))

    def bump(first: str, second: str) -> Callable[[Unit], None]:
        def work(unit: Unit) -> None:
            for name in (first, second):
                unit.conn.execute(THING.update().where(THING.c.name == name).values(size=THING.c.size + 1))
                unit.conn.execute(text("SELECT pg_sleep(0.2)"))

        return work

    await asyncio.gather(one.write(bump("a", "b")), other.write(bump("b", "a")))
    sizes = await one.read(lambda conn: conn.execute(select(THING.c.size)).scalars().all())
    assert list(sizes) == [2, 2]


async def test_work_that_never_gets_its_turn_is_said_to_be_unavailable(replica: Open) -> None:
    store, tries = replica(), 0

    def overtaken(unit: Unit) -> None:
        nonlocal tries
        tries += 1
        raise_in_postgresql(unit, "40001")

    with pytest.raises(StoreUnavailable):
        await store.write(overtaken)
    assert tries == 20


async def test_a_key_that_is_taken_late_gets_its_newer_snapshot_too(replica: Open) -> None:
    store, states = replica(), ["40001", "40001", "40001", "23505", "23505"]

    def unlucky(unit: Unit) -> None:
        if states:
            raise_in_postgresql(unit, states.pop(0))

    await store.write(unlucky)
    states += ["23505"] * 3
    with pytest.raises(IntegrityError):
        await store.write(unlucky)


async def test_a_socket_that_is_away_is_said_by_its_folder(
    caplog: pytest.LogCaptureFixture, clock: ManualClock
) -> None:
    caplog.set_level("INFO", "leeward")
    store, stop = PostgresStore("postgresql+asyncpg://me@/it?host=/nowhere", "box", METADATA, clock), asyncio.Event()
    watching = asyncio.create_task(store.watch(stop))

    async def said() -> bool:
        return any(getattr(record, "fields", {}).get("address") == "/nowhere:5432" for record in caplog.records)

    await eventually(said)
    stop.set()
    await watching
    await store.close()


def raise_in_postgresql(unit: Unit, state: str) -> None:
    unit.conn.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"))


@pytest.mark.parametrize("state", ["53100", "53200", "57014", "57P01", "58030", "25006", "08006"])
async def test_a_full_or_failing_server_stores_nothing_and_says_so(replica: Open, state: str) -> None:
    store = replica()

    def fill(unit: Unit) -> None:
        ADD.run(unit.conn, [("a", 1, None)])
        raise_in_postgresql(unit, state)

    with pytest.raises(StoreUnavailable):
        await store.write(fill)
    assert await names(store) == []


async def test_one_process_holds_a_name_until_it_lets_go_or_ends(replica: Open) -> None:
    first, second = replica(), replica()
    assert await first.hold("relay")
    assert await first.hold("relay")
    assert not await second.hold("relay")
    assert await second.hold("another")
    await first.release("relay")
    assert await second.hold("relay")
    assert not await first.hold("relay")
    await second.close()
    assert await first.hold("relay")


async def test_a_process_cut_off_from_the_server_no_longer_holds_its_name(replica: Open) -> None:
    cut, other = replica(), replica()
    assert await cut.hold("relay")
    pids = text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    await other.read(lambda conn: conn.execute(pids).all())

    async def taken() -> bool:
        return await other.hold("relay")

    await eventually(taken)
    assert not await cut.hold("relay")


async def test_others_are_woken_once_for_many_commits(replica: Open) -> None:
    here, there = replica(), replica()
    stop = asyncio.Event()
    woken: list[int] = []
    there.wakers.append(lambda: woken.append(1))
    here.wakers.append(lambda: pytest.fail("nobody wakes themselves"))
    watching = [asyncio.create_task(store.watch(stop)) for store in (here, there)]
    await asyncio.gather(here.hold("a"), there.hold("b"))
    for _ in range(50):
        here.wake_others()

    async def heard() -> bool:
        return bool(woken)

    await eventually(heard)
    assert len(woken) == 1
    stop.set()
    await asyncio.gather(*watching)


async def test_a_timer_fires_in_one_of_them(replica: Open) -> None:
    stores = [replica() for _ in range(3)]
    fired: list[str] = []

    def fire(unit: Unit, timers: Sequence[Timer]) -> None:
        ADD.run(unit.conn, [(timer.key[-20:], 1, None) for timer in timers])
        unit.after_commit(lambda: fired.extend(timer.key for timer in timers))

    def set_many(unit: Unit) -> None:
        for number in range(300):
            unit.set_timer("reminder", f"case-{number:04}", unit.now - timedelta(minutes=number))

    await stores[0].write(set_many)
    loops = [TimerLoop("matching", store, {"reminder": fire}) for store in stores]
    while sum(await asyncio.gather(*(loop.fire_due() for loop in loops))):
        pass
    assert len(fired) == len(set(fired)) == 300
    assert len(await names(stores[0])) == 300


@pytest.mark.own_servers
async def test_a_server_that_is_killed_is_away_and_then_back(replica: Open, cluster: Cluster) -> None:
    store = replica()
    stop = asyncio.Event()
    watching = asyncio.create_task(store.watch(stop))
    assert await store.hold("relay")
    await store.write(lambda unit: unit.emit(CaseOpened(case_ref=CASE)))
    cluster.server.kill()
    with pytest.raises(StoreUnavailable):
        await store.write(lambda unit: unit.emit(CaseOpened(case_ref=CASE)))
    with pytest.raises(StoreUnavailable):
        await store.hold("relay")

    async def away() -> bool:
        return store.health.reason == "away"

    await eventually(away)
    cluster.server.start()

    async def works() -> bool:
        try:
            await store.write(lambda unit: ADD.run(unit.conn, [("back", 1, None)]))
            return await store.hold("relay")
        except StoreUnavailable:
            return False

    async def back() -> bool:
        return not store.health.reason

    await eventually(works)
    await eventually(back)
    outbox: Any = METADATA.tables["outbox"]
    assert len(await store.read(lambda conn: conn.execute(select(outbox)).all())) == 1
    stop.set()
    await watching


async def test_a_list_of_any_length_is_the_same_statement(replica: Open) -> None:
    store = replica()
    await store.write(lambda unit: ADD.run(unit.conn, [(name, 1, None) for name in "abcd"]))
    query = select(THING.c.name).where(in_list(THING.c.name, "names")).order_by(THING.c.name)
    for wanted in ([], ["a"], ["a", "c", "x"], list("dcba")):
        found = await store.read(lambda conn, names=wanted: conn.execute(query, {"names": names}).scalars().all())  # type: ignore[misc]
        assert list(found) == sorted(set(wanted) & set("abcd"))
    assert "ANY ($1" in str(query.compile(dialect=asyncpg.dialect()))  # type: ignore[no-untyped-call]


def plan(unit: Unit) -> str:
    """How this connection carries out the update that it has prepared."""
    prepared = text("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'UPDATE \"thing\"%'")
    [name] = unit.conn.execute(prepared).scalars()
    return "\n".join(unit.conn.exec_driver_sql(f'EXPLAIN EXECUTE "{name}"(NULL)').scalars())


async def test_a_plan_made_while_a_table_was_empty_does_not_read_all_of_it_later(replica: Open) -> None:
    store, resize = replica(), Update(THING, ("name",), ("size",))
    await store.tidy()
    await store.write(lambda unit: ADD.run(unit.conn, [("first", 0, None)]))
    await store.write(lambda unit: resize.run(unit.conn, [("first", 1)]))
    assert "Index Cond" in await store.write(plan)
