"""The same system as many processes: each service in replicas of its own, on a real Kafka and two real PostgreSQL."""

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import make_url

from leeward.clock import parse_clock
from leeward.settings import SERVICES, ServiceName
from leeward.settings.keys import APART, assertion_key
from leeward.testing import wait_until
from services.demo.servers import Kafka, PostgreSQL
from services.demo.servers.server import Port
from tests.e2e.balancer import Balancer
from tests.e2e.harness import Installation, Mailbox, Member, Running

PATIENCE = 180.0  # seconds for ten processes to be ready on two cores that others use too


@dataclass(frozen=True)
class Servers:
    """What the services stand on; `box` is the cluster of the box alone."""

    kafka: Kafka
    postgresql: PostgreSQL
    box: PostgreSQL

    def of(self, service: ServiceName) -> PostgreSQL:
        return self.box if service == "box" else self.postgresql

    def restore(self) -> None:
        """Have the databases run, for whoever comes next."""
        self.postgresql.start()
        self.box.start()


class Replica:
    """One of the processes of a service, on ports that stay its own."""

    def __init__(self, service: ServiceName, number: int, log: Path) -> None:
        self.service = service
        self.name = f"{service}-{number}"
        self.log = log
        self._ports = (Port(), Port())
        self.running: Running | None = None

    @property
    def port(self) -> int:
        return self._ports[0].number

    @property
    def mllp_port(self) -> int:
        return self._ports[1].number

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind that it logged in all its lives, without their times."""
        lines = self.log.read_text().splitlines() if self.log.exists() else ()
        return [
            {key: value for key, value in line.items() if key not in ("at", "level")}
            for line in map(json.loads, lines)
            if line["event"] == event
        ]

    def start(self, environment: Mapping[str, str]) -> None:
        ports = {f"LEEWARD_{self.service.upper()}_PORT": str(self.port), "LEEWARD_MLLP_PORT": str(self.mllp_port)}
        self.running = Running(["run", self.service], {**environment, **ports}, self.log)


class Distributed(Installation):
    """A process a replica: `replicas={"matching": 2}` of a service, else one. Clients choose one, or take the balancer.

    Databases and keys are its own, the topics are Kafka's: one such system at a time on a Kafka.
    """

    def __init__(
        self,
        folder: Path,
        mailbox: Mailbox,
        servers: Servers,
        policy: str = "",
        replicas: Mapping[ServiceName, int] | None = None,
        **variables: str,
    ) -> None:
        super().__init__(folder, mailbox, policy, **variables)
        self.servers = servers
        counts = {**dict.fromkeys(SERVICES, 1), **(replicas or {})}
        self.replicas: dict[ServiceName, list[Replica]] = {
            name: [Replica(name, number, folder / f"{name}-{number}.log") for number in range(counts[name])]
            for name in SERVICES
        }
        self._fronts = {name: Port() for name in SERVICES}
        behind = {self._fronts[name].number: [one.port for one in ones] for name, ones in self.replicas.items()}
        self._balancer = Balancer(behind)
        self._databases = {name: f"{name}_{secrets.token_hex(4)}" for name in SERVICES}
        self._keys = {name: secrets.token_bytes(32) for name in SERVICES}
        self._shared = {
            "LEEWARD_BUS_URL": servers.kafka.url,
            "LEEWARD_ERASURES": str(folder / "erasures"),
            **{f"LEEWARD_{name.upper()}_URL": self.url(name) for name in SERVICES},
        }
        self._services_secret = secrets.token_urlsafe(32)
        self._people_key = secrets.token_bytes(32)
        self._began = time.monotonic()
        self._created = self._prepared = False

    @property
    def kafka(self) -> Kafka:
        return self.servers.kafka

    @property
    def postgresql(self) -> PostgreSQL:
        """The cluster of all services but the box."""
        return self.servers.postgresql

    @property
    def mllp_port(self) -> int:
        """The first replica's; `replicas["incident"]` has them all."""
        return self.replicas["incident"][0].mllp_port

    @property
    def every(self) -> list[Replica]:
        return [one for ones in self.replicas.values() for one in ones]

    def url(self, service: ServiceName, path: str = "") -> str:
        """The balancer's address of a service."""
        return f"http://127.0.0.1:{self._fronts[service].number}{path}"

    def _own(self, service: ServiceName) -> dict[str, str]:
        """What belongs to one service alone."""
        return {
            f"LEEWARD_{service.upper()}_DATABASE_URL": self.servers.of(service).url(self._databases[service]),
            f"LEEWARD_{service.upper()}_KEY": text(self._keys[service]),
        }

    def environment_of(self, service: ServiceName) -> dict[str, str]:
        """What a service's processes are given: what belongs to it and no more."""
        found = {**self.environment, **self._shared, **self._own(service), **self._time()}
        if service not in APART:
            found["LEEWARD_SERVICES_SECRET"] = self._services_secret
        if service == "issuer":
            public = assertion_key(self._keys["notify"]).public_key()
            found["LEEWARD_ASSERTION_PUBLIC_KEY"] = text(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        return found

    def command_environment(self) -> dict[str, str]:
        everything = {key: value for name in SERVICES for key, value in self.environment_of(name).items()}
        return {**everything, "LEEWARD_PEOPLE_KEY": text(self._people_key)}

    def _time(self) -> dict[str, str]:
        """The clock moves on from start to start, for replicas on one machine have one time."""
        if "LEEWARD_CLOCK" not in self.environment:
            return {}
        start, rate = parse_clock(self.environment["LEEWARD_CLOCK"])
        now = start + timedelta(seconds=(time.monotonic() - self._began) * rate)
        return {"LEEWARD_CLOCK": f"{now:%Y-%m-%dT%H:%M:%SZ}*{rate:f}"}

    def rows(self, service: ServiceName, query: str) -> list[Any]:
        """What a query gives in a service's database."""
        place = make_url(self.servers.of(service).url(self._databases[service]))

        async def fetch() -> list[Any]:
            conn = await asyncpg.connect(
                host=place.host, port=place.port, user=place.username, database=place.database, ssl=False
            )
            try:
                return [tuple(row) for row in await conn.fetch(query)]
            finally:
                await conn.close()

        return asyncio.run(fetch())

    def create_databases(self) -> None:
        """Empty ones."""
        self._created = True
        for name, database in self._databases.items():
            self.servers.of(name).create(database)

    def migrate(self) -> None:
        self.command("migrate")
        self._prepared = True

    def prepare(self) -> None:
        """Databases, and `leeward migrate`; once."""
        if not self._prepared:
            self.create_databases()
            self.migrate()

    def import_roster(self, *members: Member) -> None:
        self.prepare()
        super().import_roster(*members)

    def launch(self, *services: ServiceName) -> None:
        """Start what is not running, of all services or some, and wait for nothing."""
        for name in services or SERVICES:
            for one in self.replicas[name]:
                if one.running is None or not one.running.alive:
                    one.start(self.environment_of(name))

    def start(self) -> None:
        self.prepare()
        self.launch()
        self.await_ready()

    def await_ready(self, *replicas: Replica) -> None:
        """Wait until these are ready, or all."""
        waiting = list(replicas or self.every)

        def some_wait() -> list[str]:
            waiting[:] = [one for one in waiting if not self._ready(one)]
            return [one.name for one in waiting]

        wait_until(some_wait, PATIENCE, lambda names: not names, pause=0.2)

    def _ready(self, replica: Replica) -> bool:
        return replica.running is not None and replica.running.ready(self.http, replica.url)

    def metric(self, replica: Replica, name: str) -> float:
        """The sum of a metric's series, in one replica."""
        lines = self.http.get(f"{replica.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[{{ ]", line))

    def kill(self, service: ServiceName | None = None, replica: int = 0) -> None:
        """`kill -9` to one replica, or to all of all services."""
        for one in [self.replicas[service][replica]] if service else self.every:
            if one.running:
                one.running.kill()

    def restart(self, service: ServiceName | None = None, replica: int = 0, /, **variables: str) -> None:
        """Start one replica again, or all, and wait until it is ready."""
        if "LEEWARD_CLOCK" in variables:
            self._began = time.monotonic()
        self.environment.update(variables)
        if service is None:
            self.start()
            return
        one = self.replicas[service][replica]
        one.start(self.environment_of(service))
        self.await_ready(one)

    def terminate(self, service: ServiceName, replica: int = 0) -> int:
        """SIGTERM to one replica; gives its exit code."""
        running = self.replicas[service][replica].running
        assert running
        return running.stop()

    def stop(self) -> int:
        running = [one.running for one in self.every if one.running and one.running.alive]
        for one in running:
            one.process.terminate()
        return max((one.process.wait(30) for one in running), key=abs, default=0)

    def close(self) -> None:
        super().close()
        self._balancer.close()
        if self._created:
            self.servers.restore()
            for name, database in self._databases.items():
                self.servers.of(name).drop(database)


def text(key: bytes) -> str:
    """A key as variables hold it."""
    return base64.b64encode(key).decode()
