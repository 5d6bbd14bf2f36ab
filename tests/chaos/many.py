"""The distributed way: a process a replica, on a Kafka and a PostgreSQL that are killed as well."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, TopicPartition

from leeward.brokers import parse_brokers
from leeward.bus.topics import TOPICS, make_topics
from leeward.settings import ServiceName, load_settings
from services.demo.servers import Kafka, LocalServer, PostgreSQL
from tests.chaos import bodies, hospital
from tests.chaos.evidence import READ, AtRest, in_outboxes, tables
from tests.chaos.plan import REPLICAS, SERVERS
from tests.chaos.worlds import Surroundings, World, clock_of
from tests.e2e.distributed import Distributed, Replica, Servers

AWAY: Final = 0.3  # seconds that a killed server is away beside its own start


class Many(World):
    """`leeward run SERVICE` for each replica; the databases are copies of those with everybody in them.

    The box is left out: it neither publishes nor consumes.
    """

    mode = "distributed"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        folder = self.folder
        self._servers = Servers(Kafka(folder / "kafka"), PostgreSQL(folder / "pg"), PostgreSQL(folder / "pg-box"))
        self._system = Distributed(folder, self.mailbox, self._servers, self.policy, REPLICAS, **hospital.SECRETS)
        self._by_name = {one.name: one for one in self._system.every}

    async def prepare(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self._all_servers))
        await asyncio.to_thread(self._system.create_databases)
        environment = {**self.command_environment(), **self.time.variables()}
        await bodies.run(("migrate",), environment, self.folder / "commands.log")
        await self.import_everybody(environment)
        self._servers.box.stop()
        for service in READ:
            await asyncio.to_thread(self._servers.postgresql.create, self._template(service), self._database(service))

    @property
    def _all_servers(self) -> tuple[LocalServer, ...]:
        return (self._servers.kafka, self._servers.postgresql, self._servers.box)

    def _database(self, service: ServiceName) -> str:
        url = self._system.environment_of(service)[f"LEEWARD_{service.upper()}_DATABASE_URL"]
        return urlsplit(url).path.removeprefix("/")

    def _template(self, service: ServiceName) -> str:
        return f"{self._database(service)}_template"

    async def fresh(self, folder: Path) -> None:
        self.folder = folder
        await asyncio.gather(asyncio.to_thread(self._fresh_databases), asyncio.to_thread(self._fresh_kafka))
        await make_topics(parse_brokers(self._servers.kafka.url))

    def _fresh_databases(self) -> None:
        server = self._servers.postgresql
        server.start()
        for service in READ:
            server.drop(self._database(service))
            server.create(self._database(service), self._template(service))

    def _fresh_kafka(self) -> None:
        """A new broker in the old one's place: making one takes less time than emptying it."""
        kafka = self._servers.kafka
        kafka.kill()
        shutil.rmtree(kafka.folder / "data", ignore_errors=True)
        kafka.start()

    def _replica(self, name: str) -> Replica:
        return self._by_name[name]

    def words(self, name: str) -> Sequence[str]:
        return ("run", self._replica(name).service)

    def environment(self, name: str) -> dict[str, str]:
        one = self._replica(name)
        ports = {f"LEEWARD_{one.service.upper()}_PORT": str(one.port), "LEEWARD_MLLP_PORT": str(one.mllp_port)}
        return {**self._system.environment_of(one.service), **ports}

    def command_environment(self) -> dict[str, str]:
        return self._system.command_environment()

    def url(self, service: ServiceName, path: str = "") -> str:
        return self._system.url(service, path)

    @property
    def mllp_port(self) -> int:
        return self._system.mllp_port

    def urls(self, name: str) -> list[str]:
        return [self._replica(name).url]

    async def strike(self, name: str) -> None:
        kafka, postgresql = SERVERS
        server = {kafka: self._servers.kafka, postgresql: self._servers.postgresql}[name]
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(server.start)

    async def at_rest(self, *, glance: bool = False) -> AtRest:
        settings = load_settings({**self.command_environment(), **clock_of(self.time)}, starting=False)
        found = await asyncio.to_thread(tables, settings)
        logged = [] if glance else await read_log(self._servers.kafka.url)
        return AtRest(
            found, frozenset([*in_outboxes(found), *logged]), sum(len(found[name]["outbox"]) for name in found)
        )

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        with suppress(OSError):
            self._system.http.close()
        self._system._balancer.close()
        for server in self._all_servers:
            server.stop()


async def read_log(url: str) -> list[tuple[str, str]]:
    """(id, type) of every event that Kafka holds."""
    brokers = parse_brokers(url)
    partitions = [TopicPartition(topic, number) for topic in TOPICS for number in range(brokers.partitions)]
    consumer = AIOKafkaConsumer(**brokers.client(), enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = {one: end for one, end in (await consumer.end_offsets(partitions)).items() if end}
        found: list[tuple[str, str]] = []
        while ends:
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                found += [_event(dict(record.headers)) for record in records]
                if records and records[-1].offset + 1 >= ends.get(partition, 0):
                    ends.pop(partition, None)
        return found
    finally:
        await consumer.stop()


def _event(headers: dict[str, bytes]) -> tuple[str, str]:
    return headers["ce_id"].decode(), headers["ce_type"].decode()
