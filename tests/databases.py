"""Databases for tests of the services, SQLite's or PostgreSQL's, empty at the start of every test.

Which of them a test runs on: SQLite's; both where the SQL matters, by the mark `database("sqlite", "postgresql")`, a
story marked `long` apart; with one name in the mark that one, for what only it can show. With `--database=postgresql`
every test that names none, or both, runs there.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

import asyncpg
import pytest
from sqlalchemy import Connection, MetaData, Table, make_url, select

from leeward.clock import Clock
from leeward.settings import ServiceName
from leeward.store import SqliteStore, Store, ground_tables
from leeward.store.migrate import migrate
from leeward.store.postgresql import PostgresStore
from leeward.store.sqlite import sqlite_engine
from services.commands import catalogue
from services.demo.servers import PostgreSQL
from services.demo.servers.server import run

KINDS: Final = ("sqlite", "postgresql")
# the services' tests; others' suites say themselves what they run on
FOLDERS: Final = tuple(f"tests/services/{name}/" for name in ("incident", "matching", "notify", "feedback"))
_ALONE: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

# `open_store("notify", METADATA)`: the same database each time within a test
OpenStore = Callable[[ServiceName, MetaData], Store]


class Databases(Protocol):
    """Where the databases of one test are."""

    def open(self, name: ServiceName, metadata: MetaData, clock: Clock) -> Store:
        """A store of its own on the test's one database of a service, with all tables."""


class SqliteDatabases:
    """One file a service in the test's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: ServiceName, metadata: MetaData, clock: Clock) -> Store:
        path = self._folder / f"{name}.db"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_empty_file(metadata))
        return SqliteStore(path, metadata, clock)


@cache
def _empty_file(metadata: MetaData) -> bytes:
    """A database with all tables and no row; made once, since that takes fifty times as long as a copy."""
    ground_tables(metadata)
    with TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        engine = sqlite_engine(path)
        metadata.create_all(engine)
        engine.dispose()
        return path.read_bytes()


class PostgresDatabases:
    """One database a service, made by its migrations and emptied for each test: making one takes half a second."""

    def __init__(self, server: PostgreSQL) -> None:
        self._server = server
        self._made: set[str] = set()
        self._fresh: set[str] = set()

    def next_test(self) -> "PostgresDatabases":
        """From here on every database is emptied when it is first asked for."""
        self._fresh.clear()
        return self

    def open(self, name: ServiceName, metadata: MetaData, clock: Clock) -> Store:
        return PostgresStore(self.url(name, clock), name, metadata, clock)

    def url(self, name: ServiceName, clock: Clock) -> str:
        """The address of a service's database, with all tables and no row that this test has not written."""
        url = self._server.url(name)
        if name not in self._made:
            self._server.create(name)
            run(_migrate(url, name, clock))
            self._made.add(name)
        elif name not in self._fresh:
            run(_empty(url, catalogue.load([name])[0].metadata.sorted_tables))
        self._fresh.add(name)
        return url


async def _migrate(url: str, name: ServiceName, clock: Clock) -> None:
    (service,) = catalogue.load([name])
    store = PostgresStore(url, name, service.metadata, clock)
    await store.administer(lambda conn: migrate(conn, service.package, service.metadata))
    await store.close()


async def _empty(url: str, tables: Sequence[Table]) -> None:
    """Whatever an earlier test has left open is gone before."""
    place = make_url(url)
    conn = await asyncpg.connect(
        host=place.host, port=place.port, user=place.username, database=place.database, ssl=False
    )
    try:
        await conn.execute(_ALONE)
        await conn.execute(";".join(f'DELETE FROM "{table.name}"' for table in tables))
    finally:
        await conn.close()


async def content(store: Store) -> bytes:
    """Everything a database holds: all bytes of SQLite's files, all values of PostgreSQL's rows."""
    if isinstance(store, SqliteStore):
        return b"".join(path.read_bytes() for path in sorted(store.path.parent.glob(f"{store.path.name}*")))

    def values(conn: Connection) -> Iterator[Any]:
        for table in store.metadata.sorted_tables:
            for row in conn.execute(select(table)):
                yield from row

    found = await store.read(lambda conn: list(values(conn)))
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in found)


def chosen(node: pytest.Item | pytest.Function, wanted: str | None) -> Sequence[str]:
    """The kinds a test runs on; none where it is nobody's to choose but its own."""
    marks = [mark.args for mark in node.iter_markers("database")]
    kinds = marks[0] if marks else ("sqlite",)
    here = str(node.path.relative_to(node.config.rootpath)).startswith(FOLDERS)
    if marks and len(kinds) == 1:
        return kinds
    if wanted and here:
        return (wanted,)
    return ("sqlite",) if node.get_closest_marker("long") else kinds
