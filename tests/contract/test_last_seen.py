"""The last time that a clock was trusted is one row, on both databases; a restore resets it."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest_asyncio
from sqlalchemy import MetaData, select

from leeward.store import Store, Unit, ground_tables
from leeward.testing import ManualClock
from leeward.timekeeping.last_seen import LastSeen, read_last_seen, reset_last_seen, write_last_seen
from tests.contract.databases import Databases

METADATA = MetaData()
TABLES = ground_tables(METADATA)


@pytest_asyncio.fixture
async def store(databases: Databases) -> AsyncIterator[Store]:
    await databases.create("matching", METADATA)
    opened = databases.open("matching", METADATA)
    yield opened
    await opened.close()


async def last_seen(store: Store) -> LastSeen | None:
    return await store.read(lambda conn: read_last_seen(conn, TABLES))


async def test_the_last_time_replaces_the_one_before(store: Store, clock: ManualClock) -> None:
    assert await last_seen(store) is None
    first, later = clock.now(), clock.now() + timedelta(minutes=1)
    await store.write(lambda unit: write_last_seen(unit.conn, TABLES, LastSeen(first, None)))
    await store.write(lambda unit: write_last_seen(unit.conn, TABLES, LastSeen(later, first)))
    assert await last_seen(store) == LastSeen(later, first)


async def test_after_a_reset_there_is_none(store: Store, clock: ManualClock) -> None:
    await store.write(lambda unit: write_last_seen(unit.conn, TABLES, LastSeen(unit.now, None)))
    await store.write(lambda unit: reset_last_seen(unit.conn, TABLES))
    assert await last_seen(store) is None


async def test_a_timer_knows_when_it_was_set(store: Store, clock: ManualClock) -> None:
    def set_one(unit: Unit) -> None:
        unit.set_timer("reminder", "a", unit.now + timedelta(hours=72))

    await store.write(set_one)
    assert await store.read(lambda conn: conn.execute(select(TABLES.timer.c.set_at)).scalar()) == clock.now()
