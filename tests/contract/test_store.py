"""One transaction a batch: what is committed is whole, what fails leaves nothing, and rows come in bulk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from leeward.contracts import CaseOpened
from leeward.store import Insert, Store, StoreUnavailable, Unit, Update, UtcTime, ground_tables
from leeward.testing import ManualClock
from tests.contract.databases import Databases

METADATA = MetaData()
THING = Table(
    "thing",
    METADATA,
    Column("name", String(20), primary_key=True),
    Column("size", Integer),
    Column("seen_at", UtcTime),
)
TABLES = ground_tables(METADATA)
ADD = Insert(THING, ("name", "size", "seen_at"))
CASE = "7f2b1c4e-0000-4000-8000-000000000001"


@pytest_asyncio.fixture
async def store(databases: Databases) -> AsyncIterator[Store]:
    await databases.create("thing", METADATA)
    opened = databases.open("thing", METADATA)
    yield opened
    await opened.close()


async def names(store: Store) -> list[str]:
    query = select(THING.c.name).order_by(THING.c.name)
    return await store.read(lambda conn: list(conn.execute(query).scalars()))


async def count(store: Store, table: Table) -> int:
    return await store.read(lambda conn: len(conn.execute(select(table)).all()))


async def test_work_effects_events_and_timers_commit_together(store: Store, clock: ManualClock) -> None:
    def work(unit: Unit) -> None:
        ADD.run(unit.conn, [("a", 1, clock.now()), ("b", None, None)])
        unit.emit(CaseOpened(case_ref=CASE))
        unit.set_timer("reminder", CASE, clock.now() + timedelta(hours=1))

    await store.write(work)
    assert await names(store) == ["a", "b"]
    assert await count(store, TABLES.outbox) == 1
    assert await count(store, TABLES.timer) == 1


async def test_work_that_raises_leaves_nothing(store: Store) -> None:
    def work(unit: Unit) -> None:
        ADD.run(unit.conn, [("a", 1, None)])
        unit.emit(CaseOpened(case_ref=CASE))
        raise LookupError

    with pytest.raises(LookupError):
        await store.write(work)
    assert await names(store) == []
    assert await count(store, TABLES.outbox) == 0


async def test_cancelling_the_caller_does_not_leave_a_transaction_open(store: Store) -> None:
    first = asyncio.create_task(store.write(lambda unit: ADD.run(unit.conn, [("a", 1, None)])))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await store.write(lambda unit: ADD.run(unit.conn, [("b", 1, None)]))
    assert "b" in await names(store)


async def test_times_come_back_aware_and_in_utc(store: Store, clock: ManualClock) -> None:
    await store.write(lambda unit: ADD.run(unit.conn, [("a", 1, clock.now())]))
    found = await store.read(lambda conn: conn.execute(select(THING.c.seen_at)).scalar())
    assert found == clock.now()
    assert found is not None
    assert found.tzinfo is UTC


async def test_a_naive_time_is_refused(store: Store) -> None:
    naive = datetime(2026, 11, 21)  # noqa: DTZ001
    with pytest.raises(ValueError, match="zone"):
        await store.write(lambda unit: ADD.run(unit.conn, [("a", 1, naive)]))


async def test_an_insert_that_skips_conflicts_returns_the_new_rows_alone(store: Store) -> None:
    skip = Insert(THING, ("name", "size"), conflict="nothing", keys=("name",), returning=("name",))
    await store.write(lambda unit: skip.run(unit.conn, [("a", 1)]))
    again = await store.write(lambda unit: skip.run(unit.conn, [("a", 2), ("b", 2), ("b", 3)]))
    assert [row.name for row in again] == ["b"]


async def test_an_insert_that_replaces_overwrites_by_key(store: Store) -> None:
    replace = Insert(THING, ("name", "size"), conflict="replace", keys=("name",))
    await store.write(lambda unit: replace.run(unit.conn, [("a", 1), ("b", 1)]))
    await store.write(lambda unit: replace.run(unit.conn, [("a", 2)]))
    sizes = await store.read(lambda conn: {row.name: row.size for row in conn.execute(select(THING))})
    assert sizes == {"a": 2, "b": 1}


async def test_an_update_changes_the_rows_it_names(store: Store) -> None:
    change = Update(THING, ("name",), ("size",), returning=("name",))
    await store.write(lambda unit: ADD.run(unit.conn, [("a", 1, None), ("b", 1, None), ("c", 1, None)]))
    changed = await store.write(lambda unit: change.run(unit.conn, [("a", 7), ("c", 8), ("x", 9)]))
    sizes = await store.read(lambda conn: {row.name: row.size for row in conn.execute(select(THING))})
    assert sizes == {"a": 7, "b": 1, "c": 8}
    assert {row.name for row in changed} == {"a", "c"}


async def test_a_group_commits_what_arrived_together_once(store: Store) -> None:
    batches: list[int] = []

    def work(unit: Unit, items: Any) -> list[str]:
        batches.append(len(items))
        ADD.run(unit.conn, [(item, 1, None) for item in items])
        return [item.upper() for item in items]

    group = store.group(work)
    results = await asyncio.gather(*(group(f"n{i:03}") for i in range(300)))
    assert results == [f"N{i:03}" for i in range(300)]
    assert batches == [256, 44]
    assert len(await names(store)) == 300


async def test_in_a_group_a_bad_item_fails_alone(store: Store) -> None:
    def work(unit: Unit, items: Any) -> list[str]:
        ADD.run(unit.conn, [(item, 1, None) for item in items])
        if "bad" in items:
            raise LookupError
        return list(items)

    group = store.group(work)
    results = await asyncio.gather(*(group(name) for name in ("a", "bad", "c")), return_exceptions=True)
    assert isinstance(results[1], LookupError)
    assert await names(store) == ["a", "c"]


async def test_two_processes_can_write_in_turn(store: Store, databases: Databases) -> None:
    other = databases.open("thing", METADATA)
    await asyncio.gather(
        *(
            target.write(lambda unit, n=n: ADD.run(unit.conn, [(f"n{n}", n, None)]))  # type: ignore[misc]
            for n, target in enumerate([store, other] * 10)
        )
    )
    assert len(await names(store)) == 20
    await other.close()


async def test_of_two_that_conflict_on_a_row_the_second_sees_what_the_first_did(
    store: Store, databases: Databases
) -> None:
    await store.write(lambda unit: ADD.run(unit.conn, [("owner", 1, None)]))

    def add_unless_one_is_there(unit: Unit, name: str) -> None:
        found = unit.conn.execute(select(THING)).all()
        if unit.conn.dialect.name == "postgresql":
            unit.conn.execute(text("SELECT pg_sleep(0.2)"))
        unit.conflict_on(THING, THING.c.name == "owner")
        if len(found) == 1:
            ADD.run(unit.conn, [(name, 1, None)])

    other = databases.open("thing", METADATA)
    await asyncio.gather(
        store.write(lambda unit: add_unless_one_is_there(unit, "a")),
        other.write(lambda unit: add_unless_one_is_there(unit, "b")),
    )
    await other.close()
    assert len(await names(store)) == 2


async def test_sequence_numbers_are_never_used_again(store: Store) -> None:
    await store.write(lambda unit: unit.emit(CaseOpened(case_ref=CASE)))
    await store.write(lambda unit: unit.conn.execute(TABLES.outbox.delete()))
    await store.write(lambda unit: unit.emit(CaseOpened(case_ref=CASE)))
    found = await store.read(lambda conn: conn.execute(select(TABLES.outbox.c.seq)).scalars().all())
    assert list(found) == [2]


async def test_a_listener_that_fails_does_not_undo_what_is_committed(store: Store) -> None:
    def fail(_unit: Unit) -> None:
        raise LookupError

    called: list[str] = []
    store.listeners += [fail, lambda _unit: called.append("after it")]
    await store.write(lambda unit: ADD.run(unit.conn, [("a", 1, None)]))
    assert await names(store) == ["a"]
    assert called == ["after it"]


async def test_after_commit_is_called_only_when_there_was_one(store: Store) -> None:
    called: list[str] = []

    def work(unit: Unit) -> None:
        unit.after_commit(lambda: called.append("x"))
        raise LookupError

    with pytest.raises(LookupError):
        await store.write(work)
    assert called == []


async def test_a_groups_work_that_miscounts_commits_nothing_and_leaves_nobody_waiting(store: Store) -> None:
    def work(unit: Unit, items: Any) -> list[str]:
        ADD.run(unit.conn, [(item, 1, None) for item in items])
        return []

    with pytest.raises(TypeError):
        await store.group(work)("a")
    assert await names(store) == []


async def test_in_a_group_everybody_hears_that_the_database_is_away(store: Store) -> None:
    def work(_unit: Unit, _items: Any) -> list[str]:
        raise StoreUnavailable

    group = store.group(work)
    results = await asyncio.gather(*(group(n) for n in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3


async def test_a_rule_of_the_data_is_the_works_own_fault(store: Store) -> None:
    await store.write(lambda unit: ADD.run(unit.conn, [("a", 1, None)]))
    with pytest.raises(IntegrityError) as refused:
        await store.write(lambda unit: ADD.run(unit.conn, [("a", 2, None)]))
    assert "'a'" not in str(refused.value)


async def test_rows_in_bulk_come_back_as_they_went_in(store: Store) -> None:
    odd = [
        "",
        " ",
        "'",
        '"',
        "\\",
        "[1]",
        "null",
        "true",
        "1",
        "é\u200f\u202e",
        "😀",
        "a\nb\tc",
        "\x7f",
        "$[0]",
        ":rows",
        "%s",
    ]
    await store.write(lambda unit: ADD.run(unit.conn, [(text, n, None) for n, text in enumerate(odd)]))
    query = select(THING.c.name).order_by(THING.c.size)
    assert await store.read(lambda conn: list(conn.execute(query).scalars())) == odd


async def test_what_is_too_long_for_its_column_is_kept_whole_or_refused(store: Store) -> None:
    long = "x" * 21
    with suppress(DBAPIError):
        await store.write(lambda unit: ADD.run(unit.conn, [(long, 1, None)]))
    assert await names(store) in ([], [long])


def stored_in_order(conn: Connection) -> list[str]:
    place = {"sqlite": "rowid", "postgresql": "ctid"}[conn.dialect.name]
    return list(conn.execute(select(THING.c.name).order_by(text(place))).scalars())


async def test_rows_of_any_number_keep_their_order(store: Store) -> None:
    for many in (1, 2, 3, 7, 255, 256, 257, 1000):
        names_in = [f"n{number:04}" for number in range(many)]
        await store.write(lambda unit: unit.conn.execute(THING.delete()))
        await store.write(lambda unit, rows=names_in: ADD.run(unit.conn, [(n, 1, None) for n in rows]))  # type: ignore[misc]
        assert await store.read(stored_in_order) == names_in


async def test_a_row_that_is_too_short_is_refused_before_the_database_sees_it(store: Store) -> None:
    with pytest.raises(ValueError, match="one value a column"):
        await store.write(lambda unit: ADD.run(unit.conn, [("a", 1)]))
