"""The two kinds of database, each with real ones of a test's own."""

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import pytest
from sqlalchemy import MetaData

from leeward.settings import Settings
from leeward.store import SqliteStore, Store
from leeward.store.postgresql import PostgresStore
from leeward.testing import ManualClock
from services.demo.servers import PostgreSQL
from tests.servers import serving

_TESTS = count()


class Databases(Protocol):
    """Makes and opens databases by name; a name opened twice is what two processes have."""

    async def create(self, name: str, metadata: MetaData) -> None: ...
    def open(self, name: str, metadata: MetaData) -> Store: ...
    def place(self, name: str) -> Path:
        """The file or folder in which a database keeps everything."""

    def close(self) -> None: ...


class Files:
    """SQLite."""

    def __init__(self, _request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> None:
        self._folder = settings.data
        self._clock = clock

    async def create(self, name: str, metadata: MetaData) -> None:
        store = self.open(name, metadata)
        await store.administer(metadata.create_all)
        await store.close()

    def open(self, name: str, metadata: MetaData) -> Store:
        return SqliteStore(self.place(name), metadata, self._clock)

    def place(self, name: str) -> Path:
        return self._folder / f"{name}.db"

    def close(self) -> None:
        """Files go with the test's folder."""


class Cluster:
    """PostgreSQL."""

    def __init__(self, request: pytest.FixtureRequest, _settings: Settings, clock: ManualClock) -> None:
        self.server: PostgreSQL = request.getfixturevalue(serving(request, "postgresql"))
        self._prefix = f"t{next(_TESTS)}"
        self._clock = clock
        self._made: list[str] = []

    async def create(self, name: str, metadata: MetaData) -> None:
        self.server.create(f"{self._prefix}-{name}")
        self._made.append(f"{self._prefix}-{name}")
        store = self.open(name, metadata)
        await store.administer(metadata.create_all)
        await store.close()

    def url(self, name: str) -> str:
        return self.server.url(f"{self._prefix}-{name}")

    def open(self, name: str, metadata: MetaData) -> Store:
        return PostgresStore(self.url(name), name, metadata, self._clock)

    def place(self, name: str) -> Path:
        return self.server.data

    def close(self) -> None:
        for name in self._made:
            self.server.drop(name)


KINDS: Final[Mapping[str, Callable[[pytest.FixtureRequest, Settings, ManualClock], Databases]]] = {
    "sqlite": Files,
    "postgresql": Cluster,
}
