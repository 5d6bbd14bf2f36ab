"""The real servers of tests and demonstration: they answer, come back with their data, and leave nothing behind."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from services.demo.servers import Kafka, LocalServer, PostgreSQL, ServerError

STARTER = """
import os, sys, time
from pathlib import Path
from services.demo.servers import Kafka, PostgreSQL
servers = [kind(Path(sys.argv[1], kind.__name__)) for kind in (Kafka, PostgreSQL)]
for server in servers:
    server.start()
fork = os.fork()  # a copy of this process has all that it holds open
if fork:
    print(fork, flush=True)
time.sleep(600)
"""


def processes_of(server: LocalServer) -> list[psutil.Process]:
    """The server's keeper and all below it; other servers of this test process are none of it."""
    assert server._keeper is not None
    keeper = psutil.Process(server._keeper.pid)
    return [keeper, *keeper.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running()]


def listens(server: LocalServer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


async def say(address: str, word: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
        await producer.send_and_wait("talk", word)


async def heard(address: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer("talk", bootstrap_servers=address, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(30):
        return [(await consumer.getone()).value for _ in range(count)]


async def test_kafka_comes_back_with_its_data_on_its_port_and_goes(tmp_path: Path) -> None:
    with Kafka(tmp_path / "kafka") as kafka:
        url, address = kafka.url, kafka.url.removeprefix("kafka://")
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        await admin.create_topics([NewTopic("talk", 1, 1)])
        await admin.close()
        await say(address, b"before")
        processes = processes_of(kafka)
        kafka.kill()
        assert not alive(processes)
        assert not listens(kafka)
        kafka.start()
        assert kafka.url == url
        await say(address, b"after")
        assert await heard(address, 2) == [b"before", b"after"]
        processes = processes_of(kafka)
        kafka.stop()
        assert not alive(processes)
        assert not listens(kafka)
        kafka.stop()


async def note(url: str, *statements: str) -> list[str]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        for statement in statements:
            await connection.execute(statement)
        return [row["word"] for row in await connection.fetch("SELECT word FROM talk ORDER BY word")]
    finally:
        await connection.close()


async def test_postgresql_comes_back_with_its_data_on_its_port_and_goes(tmp_path: Path) -> None:
    with PostgreSQL(tmp_path / "postgresql") as server:
        server.create("first")
        server.create("first")
        url = server.url("first")
        await note(url, "CREATE TABLE talk (word text)", "INSERT INTO talk VALUES ('before')")
        server.create("second", template="first")
        assert await note(server.url("second")) == ["before"]
        # in the middle of a statement that will not see that anything has happened
        busy = await asyncpg.connect(url.replace("+asyncpg", ""))
        statement = asyncio.create_task(busy.execute("SELECT count(*) FROM generate_series(1, 1000000000)"))
        await asyncio.sleep(0.1)
        processes = processes_of(server)
        assert len(processes) > 5
        await asyncio.to_thread(server.kill)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await statement
        assert not alive(processes)
        server.start()
        assert server.url("first") == url
        assert await note(url, "INSERT INTO talk VALUES ('later')") == ["before", "later"]
        server.drop("second")
        server.drop("second")
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await note(server.url("second"))
        processes = processes_of(server)
        server.stop()
        assert not alive(processes)
        assert not listens(server)
        server.stop()


def test_they_go_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]) as starter:
        try:
            assert starter.stdout
            fork = psutil.Process(int(starter.stdout.readline()))
            started = [process for process in psutil.Process(starter.pid).children(recursive=True) if process != fork]
            assert {"java", "postgres"} <= {process.name() for process in started}
        finally:
            starter.kill()
    psutil.wait_procs(started, timeout=20)
    fork.kill()
    # the keepers' own ends are for whoever adopts orphans here to take note of
    assert [process for process in alive(started) if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = PostgreSQL(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        with pytest.raises(ServerError, match="Address already in use") as failed:
            server.start()
        assert "\n" not in str(failed.value)
    assert server._keeper is None or server._keeper.poll() is not None
    server.start()
    server.stop()
