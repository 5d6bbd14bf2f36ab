"""What differs between the two ways to run: the databases, and what carries events between them."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final, Protocol

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from sqlalchemy import MetaData

from leeward.brokers import Brokers, parse_brokers
from leeward.bus import Bus
from leeward.bus.kafka import KafkaBus
from leeward.bus.relay import KafkaRelay
from leeward.bus.sqlite import SqliteBus
from leeward.settings import Settings
from leeward.store import Store
from leeward.testing import ManualClock
from services.demo.servers import Kafka
from tests.contract.databases import Cluster, Databases, Files
from tests.servers import WORKER, serving

_TESTS = count()


class Ways(Protocol):
    """One way to run; `producer` is the service whose events a test is about."""

    producer: Any  # a name of a service, or one that only tests know
    databases: Databases

    async def create(self, producer: str, metadata: MetaData) -> None:
        """A producer's database and log."""

    def bus(self, stores: Mapping[str, Store]) -> Bus: ...
    async def carry(self, producer: str, store: Store) -> None:
        """Have what a producer has committed in the log, where something must bring it there."""

    async def close(self) -> None: ...


class Embedded:
    """SQLite, its outbox the log."""

    producer: Any = "incident"

    def __init__(self, request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> None:
        self.databases: Databases = Files(request, settings, clock)
        self._settings = settings

    async def create(self, producer: str, metadata: MetaData) -> None:
        await self.databases.create(producer, metadata)

    def bus(self, stores: Mapping[str, Store]) -> Bus:
        return SqliteBus(self._settings, stores)

    async def carry(self, producer: str, store: Store) -> None:
        """Nothing brings it: the outbox is the log."""

    async def close(self) -> None:
        self.databases.close()


class Distributed:
    """PostgreSQL and Kafka; databases and topic are this test's own."""

    def __init__(self, request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> None:
        self.databases: Databases = Cluster(request, settings, clock)
        self.server: Kafka = request.getfixturevalue(serving(request, "kafka"))
        self.producer: Any = f"{WORKER}-p{next(_TESTS)}"
        # one partition: stories are told in one order, though the bus promises only that of each key
        self.partitions = 1
        self._relays: dict[Store, KafkaRelay] = {}

    @property
    def brokers(self) -> Brokers:
        return parse_brokers(self.server.url)

    async def create(self, producer: str, metadata: MetaData) -> None:
        await self.databases.create(producer, metadata)
        admin = AIOKafkaAdminClient(**self.brokers.client())
        await admin.start()
        await admin.create_topics([NewTopic(f"leeward.{producer}", self.partitions, 1)])
        await admin.close()

    def bus(self, stores: Mapping[str, Store]) -> Bus:
        return KafkaBus(self.brokers, dict(stores))

    def relay(self, producer: str, store: Store) -> KafkaRelay:
        """The relay of a producer's process; the same one for the same process."""
        if store not in self._relays:
            self._relays[store] = KafkaRelay(self.brokers, producer, store)
        return self._relays[store]

    async def carry(self, producer: str, store: Store) -> None:
        while await self.relay(producer, store).send():
            pass

    async def close(self) -> None:
        for relay in self._relays.values():
            await relay.close()
        self.databases.close()


ADAPTERS: Final[Mapping[str, Callable[[pytest.FixtureRequest, Settings, ManualClock], Ways]]] = {
    "sqlite": Embedded,
    "kafka": Distributed,
}
