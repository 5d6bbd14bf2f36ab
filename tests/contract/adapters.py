"""What differs between the two ways to run: how a database is made and opened, and what carries events."""

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from sqlalchemy import MetaData

from leeward.brokers import Brokers, parse_brokers
from leeward.bus import Bus
from leeward.bus.kafka import KafkaBus
from leeward.bus.relay import KafkaRelay
from leeward.bus.sqlite import SqliteBus
from leeward.clock import FakeClock
from leeward.settings import Settings
from leeward.store import SqliteStore, Store
from leeward.store.postgresql import PostgresStore
from services.demo.servers import Kafka, PostgreSQL

_TESTS = count()


class Ways(Protocol):
    """One way to run. `name` is the adapter's; `producer` the service whose events a test is about."""

    name: str
    producer: str

    async def create(self, database: str, metadata: MetaData) -> None: ...
    def open(self, database: str, metadata: MetaData) -> Store: ...
    def bus(self, stores: Mapping[str, Store]) -> Bus: ...
    async def carry(self, producer: str, store: Store) -> None:
        """Have what a producer has committed in the log, where something must bring it there."""

    def place(self, database: str) -> Path:
        """The folder or file in which a database keeps everything."""

    async def close(self) -> None: ...


class Embedded:
    """SQLite, its outbox the log."""

    name = "sqlite"
    producer = "incident"

    def __init__(self, _request: pytest.FixtureRequest, settings: Settings, clock: FakeClock) -> None:
        self._settings = settings
        self._clock = clock

    async def create(self, database: str, metadata: MetaData) -> None:
        store = self.open(database, metadata)
        await store.administer(metadata.create_all)
        await store.close()

    def open(self, database: str, metadata: MetaData) -> Store:
        return SqliteStore(self.place(database), metadata, self._clock)

    def bus(self, stores: Mapping[str, Store]) -> Bus:
        return SqliteBus(self._settings, stores)

    async def carry(self, producer: str, store: Store) -> None:
        """Nothing brings it: the outbox is the log."""

    def place(self, database: str) -> Path:
        return self._settings.data / f"{database}.db"

    async def close(self) -> None:
        """Nothing is left open."""


class Distributed:
    """PostgreSQL and Kafka, real ones; databases and topic are this test's own."""

    name = "kafka"

    def __init__(self, request: pytest.FixtureRequest, _settings: Settings, clock: FakeClock) -> None:
        self.servers: tuple[PostgreSQL, Kafka] = tuple(map(request.getfixturevalue, ("postgresql", "kafka")))
        self.producer = f"t{next(_TESTS)}"
        self._clock = clock
        self._relays: dict[Store, KafkaRelay] = {}
        self._made: list[str] = []

    @property
    def brokers(self) -> Brokers:
        # one partition: stories are told in one order, though the bus promises only that of each key
        return parse_brokers(f"{self.servers[1].url}?partitions=1")

    async def create(self, database: str, metadata: MetaData) -> None:
        self.servers[0].create(self._database(database))
        self._made.append(self._database(database))
        store = self.open(database, metadata)
        await store.administer(metadata.create_all)
        await store.close()
        if database != "matching":
            await self.make_topic(database)

    async def make_topic(self, producer: str) -> None:
        admin = AIOKafkaAdminClient(**self.brokers.client())
        await admin.start()
        await admin.create_topics([NewTopic(f"leeward.{producer}", self.brokers.partitions, 1)])
        await admin.close()

    def _database(self, database: str) -> str:
        return f"{self.producer}-{database}"

    def open(self, database: str, metadata: MetaData) -> Store:
        return PostgresStore(self.servers[0].url(self._database(database)), database, metadata, self._clock)

    def bus(self, stores: Mapping[str, Store]) -> Bus:
        return KafkaBus(self.brokers, dict(stores), self._clock)

    def relay(self, producer: str, store: Store) -> KafkaRelay:
        if store not in self._relays:
            self._relays[store] = KafkaRelay(self.brokers, producer, store)
        return self._relays[store]

    async def carry(self, producer: str, store: Store) -> None:
        while await self.relay(producer, store).send():
            pass

    def place(self, database: str) -> Path:
        return self.servers[0].data

    async def close(self) -> None:
        for relay in self._relays.values():
            await relay.close()
        for database in self._made:
            self.servers[0].drop(database)


ADAPTERS: Final[Mapping[str, Callable[[pytest.FixtureRequest, Settings, FakeClock], Ways]]] = {
    "sqlite": Embedded,
    "kafka": Distributed,
}
