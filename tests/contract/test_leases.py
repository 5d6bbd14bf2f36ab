"""A process that hangs: it is stopped for real, holds a lease, and the others neither wait for it nor trust it."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from leeward.bus.relay import KafkaRelay
from leeward.settings import Settings
from leeward.store import postgresql
from leeward.telemetry import REGISTRY
from leeward.testing import ManualClock, eventually
from tests.contract.adapters import Distributed
from tests.contract.databases import Cluster
from tests.contract.test_kafka import commit
from tests.contract.world import World, recorded

SHORT = 2.0
REPLICA = """
    import asyncio, sys
    from sqlalchemy import MetaData
    from leeward.brokers import parse_brokers
    from leeward.bus.relay import KafkaRelay
    from leeward.clock import SystemClock
    from leeward.store import ground_tables, postgresql
    postgresql.LEASE, postgresql._SURE, postgresql._LOOK = {short}, {short} * 0.8, 0.3
    async def main(url, kafka, producer):
        metadata = MetaData()
        ground_tables(metadata)
        store = postgresql.PostgresStore(url, producer, metadata, SystemClock())
        relay = KafkaRelay(parse_brokers(kafka), producer, store)
        stop = asyncio.Event()
        async def say():
            said = None
            while True:
                if (now := store.holds("relay")) != said:
                    said = now
                    print("holds" if now else "waits", flush=True)
                await asyncio.sleep(0.05)
        await asyncio.gather(store.watch(stop), relay.run(stop), say())
    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "LEASE", SHORT)
    monkeypatch.setattr(postgresql, "_SURE", SHORT * 0.8)
    monkeypatch.setattr(postgresql, "_LOOK", 0.3)


@pytest_asyncio.fixture
async def world(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> AsyncIterator[World]:
    opened = World(Distributed(request, settings, clock), clock)
    await opened.create()
    yield opened
    await opened.close()


@pytest.fixture
def hung(world: World) -> Iterator["subprocess.Popen[str]"]:
    """A replica in a process of its own, which holds the relay."""
    ways = world.ways
    assert isinstance(ways, Distributed)
    assert isinstance(ways.databases, Cluster)
    words = [ways.databases.url(ways.producer), ways.server.url, ways.producer]
    script = textwrap.dedent(REPLICA).format(short=SHORT)
    process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


async def says(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(process.stdout.readline)).strip() != word:
            pass


def measured(producer: str, name: str) -> float:
    return REGISTRY.get_sample_value(f"leeward_outbox_{name}", {"service": producer}) or 0.0


async def test_a_replica_that_hangs_while_it_holds_the_relay_is_relieved(
    world: World, hung: "subprocess.Popen[str]"
) -> None:
    await says(hung, "holds")
    os.kill(hung.pid, signal.SIGSTOP)
    await commit(world.producer, *(recorded(n % 3, f"{n % 3}-{n}") for n in range(6)))
    ways = world.ways
    assert isinstance(ways, Distributed)
    living, stop = KafkaRelay(ways.brokers, ways.producer, world.producer), asyncio.Event()
    running = asyncio.gather(world.producer.watch(stop), living.run(stop))
    await eventually(lambda: measured(ways.producer, "waiting_events") == 6)
    assert not world.producer.holds("relay")
    await eventually(lambda: measured(ways.producer, "oldest_seconds") > 0.5)
    await eventually(lambda: world.producer.holds("relay"), within=SHORT + 5)
    await eventually(lambda: measured(ways.producer, "waiting_events") == 0)
    os.kill(hung.pid, signal.SIGCONT)
    await says(hung, "waits")
    await commit(world.producer, recorded(0, "0-6"))
    process = world.process()

    async def all_of_them() -> bool:
        await process.step()
        return len(await world.applied()) >= 7

    await eventually(all_of_them, within=20)
    for key in "012":
        told = [what for what in await world.applied() if what.startswith(key)]
        assert told == sorted(told)
    stop.set()
    await running


async def test_a_process_that_is_killed_is_relieved_at_once(world: World, hung: "subprocess.Popen[str]") -> None:
    await says(hung, "holds")
    assert not await world.producer.hold("relay")
    hung.kill()

    async def held() -> bool:
        return await world.producer.hold("relay")

    await eventually(held, within=SHORT / 2)
