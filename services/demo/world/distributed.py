"""Each service in processes of its own, on a real Kafka and two real PostgreSQL clusters of this machine."""

import base64
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from leeward.brokers import parse_brokers
from leeward.settings import SERVICES, ServiceName, Settings
from leeward.settings.keys import APART, assertion_key
from leeward.store import Store
from services.demo.servers import Kafka, PostgreSQL
from services.demo.servers.load_balancer import front
from services.demo.servers.server import Port
from services.demo.world.clock import DemoClock
from services.demo.world.kafka_ends import kafka_ends
from services.demo.world.processes import ServiceProcess, StartedProcess, run_together
from services.demo.world.system import Ends

REPLICAS: Final[Mapping[ServiceName, int]] = {"matching": 2, "notify": 2}
PARTITIONS: Final = 4


@dataclass(frozen=True)
class Distributed:
    """`System` in many processes; `box` is the PostgreSQL of that service alone."""

    folder: Path
    kafka: Kafka
    postgresql: PostgreSQL
    box: PostgreSQL
    started: list[StartedProcess] = field(default_factory=list)

    @property
    def told(self) -> Sequence[str]:
        pids: dict[str, list[str]] = {}
        for one in self.started:
            pids.setdefault(one.member.service, []).append(str(one.process.pid))
        processes = ", ".join(f"{name} ({' and '.join(some)})" for name, some in pids.items())
        return (
            f"Kafka is on port {self.kafka.port}, PostgreSQL on {self.postgresql.port}, the box's on {self.box.port}.",
            f"Each service is a process of its own: {processes}.",
            "Of those that run twice, one may be killed at any time (kill -9): the other goes on.",
        )

    def variables(self) -> Mapping[str, str]:
        """Where everything is, and a key for each."""
        keys = {name: secrets.token_bytes(32) for name in (*SERVICES, "people")}
        public = assertion_key(keys["notify"]).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        found = {f"LEEWARD_{name.upper()}_DATABASE_URL": self._cluster(name).url(name) for name in SERVICES}
        found |= {f"LEEWARD_{name.upper()}_KEY": base64.b64encode(key).decode() for name, key in keys.items()}
        found["LEEWARD_BUS_URL"] = f"{self.kafka.url}?partitions={PARTITIONS}"
        found["LEEWARD_SERVICES_SECRET"] = secrets.token_urlsafe(32)
        found["LEEWARD_ASSERTION_PUBLIC_KEY"] = base64.b64encode(public).decode()
        return found

    def _cluster(self, service: ServiceName) -> PostgreSQL:
        return self.box if service == "box" else self.postgresql

    def create_databases(self) -> None:
        """Make the databases, empty."""
        for name in SERVICES:
            self._cluster(name).create(name)

    @asynccontextmanager
    async def running(
        self, settings: Settings, clock: DemoClock, stores: Mapping[ServiceName, Store]
    ) -> AsyncIterator[Ends]:
        ports = {name: [Port() for _ in range(count)] for name, count in REPLICAS.items()}
        numbers = {name: [port.number for port in ports.get(name, ())] or [settings.ports[name]] for name in SERVICES}
        addresses = {f"LEEWARD_{name.upper()}_URL": settings.url(name) for name in SERVICES}
        members: list[ServiceProcess] = []
        for name in SERVICES:
            own = {f"LEEWARD_{key}": value for key, value in settings.variables.items() if _concerns(name, key)}
            members.extend(
                ServiceProcess(name, number, {**own, **addresses, f"LEEWARD_{name.upper()}_PORT": str(number)})
                for number in numbers[name]
            )
        async with AsyncExitStack() as stack:
            for name in REPLICAS:
                await stack.enter_async_context(front(settings.ports[name], numbers[name]))
            log = self.folder / "services.log"
            self.started.extend(await stack.enter_async_context(run_together(members, clock, log)))
            brokers = parse_brokers(settings.bus_url or "")
            yield await stack.enter_async_context(kafka_ends(brokers, stores))


@contextmanager
def distributed(folder: Path) -> Iterator[Distributed]:
    """Start the servers, gone with the end of the block.

    Raises:
        ServerError: when one does not start.
    """
    kafka, most, box = Kafka(folder / "kafka"), PostgreSQL(folder / "postgresql"), PostgreSQL(folder / "box")
    with ExitStack() as stack:
        for server in (kafka, most, box):
            stack.enter_context(server)
        made = Distributed(folder, kafka, most, box)
        made.create_databases()
        yield made


def _concerns(service: ServiceName, key: str) -> bool:
    """Whether a service is given this setting: another service's key, database and secret are none of its business."""
    if key == "ASSERTION_PUBLIC_KEY":
        return service == "issuer"
    if key.endswith(("_KEY", "_DATABASE_URL")):
        return key.startswith(service.upper())
    return key != "SERVICES_SECRET" or service not in APART
