"""Fixtures for every test: a test policy, a clock turned by hand, and services on fresh databases."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import MetaData

from leeward.clock import FakeClock
from leeward.keys import keyring
from leeward.runtime import http_client
from leeward.service import Ground
from leeward.settings import ServiceName, Settings, load_settings
from leeward.store import SqliteStore, ground_tables
from leeward.store.sqlite import sqlite_engine
from services.demo.servers import Kafka, PostgreSQL

MakeGround = Callable[[ServiceName, MetaData], Ground]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On a build server nothing is skipped for want of a fixture or a server: that would hide what was not tested."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LEEWARD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def clock() -> FakeClock:
    """Saturday 21 November 2026, nine in the morning UTC."""
    return FakeClock(datetime(2026, 11, 21, 9, tzinfo=UTC))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The default policy, in LEEWARD_ENV=test, with its data in a folder of the test's own."""
    return load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path / "data")})


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL of this test process's own."""
    with PostgreSQL(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka of this test process's own."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A pooled client as the runtime makes it."""
    async with http_client() as client:
        yield client


@pytest_asyncio.fixture
async def make_ground(settings: Settings, clock: FakeClock, http: httpx.AsyncClient) -> AsyncIterator[MakeGround]:
    """`make_ground("matching", MODELS_METADATA)`: a ground with a fresh store holding all tables; closed at the end."""
    stores: list[SqliteStore] = []

    def make(name: ServiceName, metadata: MetaData) -> Ground:
        ground_tables(metadata)
        path = settings.database_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = sqlite_engine(path)
        metadata.create_all(engine)
        engine.dispose()
        store = SqliteStore(path, metadata, clock)
        stores.append(store)
        return Ground(name, settings, clock, store, keyring(settings, name), http)

    yield make
    for store in stores:
        await store.close()


async def eventually(check: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Wait until something that other tasks do has happened; for what no clock of ours decides."""
    async with asyncio.timeout(within):
        while not await check():
            await asyncio.sleep(0.002)
