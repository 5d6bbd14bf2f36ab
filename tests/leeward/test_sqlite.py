"""What only SQLite does: one file, its owner's alone, that keeps nothing of what was deleted."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import Column, MetaData, String, Table, select

from leeward.store import SqliteStore, StoreUnavailable, Unit
from leeward.store.lookup import in_list
from leeward.store.sqlite import sqlite_engine
from leeward.testing import ManualClock
from tests.contract.test_store import ADD, METADATA, THING, names


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "thing.db", METADATA, clock)
    await opened.administer(METADATA.create_all)
    yield opened
    await opened.close()


async def test_a_full_disk_is_said_and_stores_nothing(store: SqliteStore) -> None:
    def fill(unit: Unit) -> None:
        unit.conn.exec_driver_sql("PRAGMA max_page_count=1")
        ADD.run(unit.conn, [(f"n{i}", 1, None) for i in range(5000)])

    with pytest.raises(StoreUnavailable):
        await store.write(fill)
    assert await names(store) == []


async def test_deleted_rows_leave_nothing_in_the_files(store: SqliteStore) -> None:
    await store.write(lambda unit: ADD.run(unit.conn, [("canary-7f3a", 1, None)]))
    assert any(b"canary-7f3a" in file.read_bytes() for file in store.path.parent.glob("thing.db*"))
    await store.write(lambda unit: unit.conn.execute(THING.delete()))
    await store.tidy()
    assert not any(b"canary-7f3a" in file.read_bytes() for file in store.path.parent.glob("thing.db*"))


async def test_what_is_committed_reaches_the_file_beside_the_commits(store: SqliteStore) -> None:
    stop = asyncio.Event()
    watching = asyncio.create_task(store.watch(stop))
    await store.write(lambda unit: ADD.run(unit.conn, [("moved-by-itself", 1, None)]))
    async with asyncio.timeout(10):
        while b"moved-by-itself" not in store.path.read_bytes():
            await asyncio.sleep(0.05)
    stop.set()
    await watching


async def test_a_damaged_file_is_a_database_that_is_away(
    store: SqliteStore, tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "torn.db").write_bytes(b"not a database at all" * 400)
    torn = SqliteStore(tmp_path / "torn.db", METADATA, clock)
    with pytest.raises(StoreUnavailable):
        await torn.write(lambda unit: ADD.run(unit.conn, [("a", 1, None)]))
    with pytest.raises(StoreUnavailable):
        await names(torn)
    await torn.close()


async def test_a_read_makes_no_file_and_changes_nothing(store: SqliteStore, tmp_path: Path, clock: ManualClock) -> None:
    nowhere = SqliteStore(tmp_path / "nowhere" / "x.db", METADATA, clock)
    with pytest.raises(StoreUnavailable):
        await names(nowhere)
    assert not nowhere.path.exists()
    await nowhere.close()
    with pytest.raises(StoreUnavailable):
        await store.read(lambda conn: conn.execute(THING.delete()))


def test_data_is_for_its_owner_alone(tmp_path: Path, clock: ManualClock) -> None:
    SqliteStore(tmp_path / "data" / "x.db", METADATA, clock)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_a_path_with_odd_characters_is_a_path(tmp_path: Path, clock: ManualClock) -> None:
    odd = SqliteStore(tmp_path / "a %20b?c#d" / "x.db", METADATA, clock)
    await odd.write(lambda unit: METADATA.create_all(unit.conn))
    await odd.write(lambda unit: ADD.run(unit.conn, [("a", 1, None)]))
    assert await names(odd) == ["a"]
    assert odd.path.exists()
    await odd.close()


def test_a_list_of_keys_is_found_by_its_index(tmp_path: Path) -> None:
    metadata = MetaData()
    thing = Table("thing", metadata, Column("key", String(36), primary_key=True), Column("kind", String(8)))
    query = select(thing).where(in_list(thing.c.key), thing.c.kind == "x")
    engine = sqlite_engine(tmp_path / "x.db")
    with engine.connect() as conn:
        metadata.create_all(conn)
        text = query.params(keys=["a"]).compile(engine, compile_kwargs={"literal_binds": True})
        plan = [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    engine.dispose()
    assert plan == ["SEARCH thing USING INDEX sqlite_autoindex_thing_1 (key=?)"]
