"""PostgreSQL that is read-only, full or refuses: the store is red with the reason, until a look could write again."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from leeward.store import Store, StoreUnavailable
from leeward.store.postgresql import postgresql_engine
from leeward.telemetry import REGISTRY
from tests.contract.databases import Cluster
from tests.contract.test_store import ADD, METADATA, names


@pytest_asyncio.fixture
async def store(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """Nothing that was stored lately spares it the look."""
    monkeypatch.setattr("leeward.store.health.QUIET", 0.0)
    await cluster.create("thing", METADATA)
    opened = cluster.open("thing", METADATA)
    yield opened
    await opened.close()


Change = Callable[..., Awaitable[None]]


@pytest_asyncio.fixture
async def change(cluster: Cluster) -> AsyncIterator[Change]:
    """Runs statements as the administrator, and has every session of the store begin again."""
    engine = postgresql_engine(
        cluster.url("thing"), "test", isolation="AUTOCOMMIT", default_transaction_read_only="off"
    )
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def run(*statements: str) -> None:
        async with engine.connect() as conn:
            name = (await conn.exec_driver_sql("SELECT current_database()")).scalar_one()
            for statement in (*statements, end):
                await conn.exec_driver_sql(statement.replace("DATABASE", f'DATABASE "{name}"'))

    yield run
    await engine.dispose()


async def looked(store: Store) -> str:
    """What looks find, once the sessions that were ended are replaced."""
    for _ in range(10):
        await store.probe()
        if store.health.reason != "away":
            break
    return store.health.reason


def measured(reason: str) -> float | None:
    return REGISTRY.get_sample_value("leeward_database_fault", {"service": "thing", "reason": reason})


async def test_a_look_at_one_that_is_well_leaves_nothing(store: Store) -> None:
    assert await looked(store) == ""
    assert await names(store) == []


async def test_one_that_is_read_only_is_noticed_though_nobody_writes(store: Store, change: Change) -> None:
    await change("ALTER DATABASE SET default_transaction_read_only = on")
    assert await looked(store) == "read_only"
    assert measured("read_only") == 1
    await change("ALTER DATABASE RESET default_transaction_read_only")
    assert await looked(store) == ""
    assert measured("read_only") == 0


async def test_a_disk_without_room_for_a_megabyte_is_noticed_though_nobody_writes(store: Store, change: Change) -> None:
    await change("ALTER DATABASE SET temp_file_limit = '256kB'")
    assert await looked(store) == "exhausted"
    await change("ALTER DATABASE RESET temp_file_limit")
    assert await looked(store) == ""


async def test_a_write_that_finds_the_disk_full_is_red_at_once(store: Store, change: Change) -> None:
    await change(
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$",
        "CREATE TRIGGER fill BEFORE INSERT ON thing EXECUTE FUNCTION fill()",
    )
    assert await looked(store) == ""
    with pytest.raises(StoreUnavailable):
        await store.write(lambda unit: ADD.run(unit.conn, [("a", 1, None)]))
    assert store.health.reason == "disk_full"
    assert await looked(store) == ""


async def test_the_works_own_fault_is_not_the_databases(store: Store) -> None:
    def fail(_unit: object) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await store.write(fail)
    assert store.health.reason == ""


async def test_one_that_waits_to_be_migrated_is_no_fault_of_the_database(store: Store, change: Change) -> None:
    await change("DROP TABLE position")
    assert await looked(store) == ""
