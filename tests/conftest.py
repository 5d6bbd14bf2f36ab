"""Fixtures for every test: a test policy, a clock turned by hand, and services on fresh databases."""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser
from sqlalchemy import MetaData

from leeward.runtime import http_client
from leeward.service import Context
from leeward.settings import ServiceName, Settings, load_settings
from leeward.settings.keys import keyring
from leeward.store import Store
from leeward.testing import ManualClock
from services.demo.servers import Kafka, PostgreSQL
from tests.browser import chromium
from tests.databases import KINDS, Databases, OpenStore, PostgresDatabases, SqliteDatabases, chosen
from tests.nursery.client import SHARED
from tests.servers import SharedChromium, SharedKafka, SharedPostgreSQL, share
from tests.statements import share_compiled

gc.disable()  # until everything is loaded and collected
share_compiled()

MakeContext = Callable[[ServiceName, MetaData], Context]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database", choices=KINDS, help="run the services' tests on this one (default: see tests/databases.py)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "database(*kinds): what the test runs on: sqlite, postgresql, or both")
    config.addinivalue_line("markers", "long: plays weeks; of two databases only on the first, unless asked for")
    config.addinivalue_line("markers", "fuzz: a property under random input, see tests/fuzzing.py")
    config.addinivalue_line("markers", "own_servers: stops or kills servers, see tests/servers.py")
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="leeward-tests-")  # the workers' as well


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(SHARED))
        until = time.monotonic() + 20
        while folder.exists() and time.monotonic() < until:  # the servers in it are just ending
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.02)


def pytest_collection_finish() -> None:
    """What is loaded by now stays; looking through it again and again for what can be freed takes seconds."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that use a database run once on each kind chosen for them."""
    if "database" in metafunc.fixturenames:
        kinds = chosen(metafunc.definition, metafunc.config.getoption("database"))
        if kinds != ("sqlite",):
            metafunc.parametrize("database", kinds)


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
def clock() -> ManualClock:
    """Saturday 21 November 2026, nine in the morning UTC."""
    return ManualClock(datetime(2026, 11, 21, 9, tzinfo=UTC))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The default policy, in LEEWARD_ENV=test, with its data in a folder of the test's own."""
    return load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path / "data")})


@pytest.fixture(scope="session")
def postgresql() -> PostgreSQL:
    """The run's PostgreSQL, with databases of this test process's own."""
    return share("postgresql", SharedPostgreSQL)


@pytest.fixture(scope="session")
def postgresql_of_box() -> PostgreSQL:
    """Another, since the box must have one of its own."""
    return share("postgresql-box", SharedPostgreSQL)


@pytest.fixture(scope="session")
def kafka() -> Kafka:
    """The run's Kafka; other test processes use it too."""
    return share("kafka", SharedKafka)


@pytest.fixture(scope="session")
def own_postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL that may be killed."""
    with PostgreSQL(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A Kafka that may be killed."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    """Chromium, with nothing open in it."""
    async with chromium(share("chromium", SharedChromium)) as found:
        yield found


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A pooled client as the runtime makes it."""
    async with http_client() as client:
        yield client


@pytest.fixture(scope="session")
def postgresql_databases(postgresql: PostgreSQL) -> PostgresDatabases:
    """The services' databases on it."""
    return PostgresDatabases(postgresql)


@pytest.fixture
def database() -> str:
    """Which kind of database this test runs on."""
    return "sqlite"


@pytest_asyncio.fixture
async def open_store(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[OpenStore]:
    """`open_store("notify", METADATA)`: a store, several if asked again; all closed at the end."""
    stores: list[Store] = []
    databases: Databases = SqliteDatabases(tmp_path / "data")
    if database == "postgresql":
        kept: PostgresDatabases = request.getfixturevalue("postgresql_databases")
        databases = kept.next_test()

    def open_one(name: ServiceName, metadata: MetaData) -> Store:
        stores.append(databases.open(name, metadata, clock))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
def make_context(settings: Settings, clock: ManualClock, http: httpx.AsyncClient, open_store: OpenStore) -> MakeContext:
    """`make_ground("matching", MODELS_METADATA)`: a ground with a store holding all tables; closed at the end."""

    def make(name: ServiceName, metadata: MetaData) -> Context:
        return Context(name, settings, clock, open_store(name, metadata), keyring(settings, name), http)

    return make
