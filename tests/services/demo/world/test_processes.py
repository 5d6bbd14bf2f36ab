"""What the distributed demonstration is made of: one time in many processes, the front of replicas, and their end."""

import asyncio
import base64
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from leeward.settings import ServiceName
from leeward.store import Store
from leeward.testing import ManualClock
from services.demo.servers.load_balancer import front
from services.demo.servers.server import Port
from services.demo.world.clock import DemoClock
from services.demo.world.processes import NotRunning, ServiceProcess, run_together
from services.demo.world.settled import settled
from services.feedback.box import SERVICE as BOX
from tests.conftest import MakeContext

START = datetime(2026, 11, 24, 13, 45, tzinfo=UTC)
OTHER_PROCESS = """
import sys
from services.demo.world.clock import DemoClock
clock = DemoClock.set_to(sys.stdin.readline())
for line in sys.stdin:
    clock.follow(line)
    print(clock.now().timestamp(), flush=True)
"""


async def test_a_clock_in_another_process_shows_the_same_and_follows() -> None:
    clock = DemoClock(START, 60)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", OTHER_PROCESS, stdin=pipe, stdout=pipe)
    told, shown = other.stdin, other.stdout
    assert told
    assert shown
    told.write(f"{clock.setting}\n".encode())
    clock.followers.append(lambda setting: told.write(f"{setting}\n".encode()))
    before = clock.now()
    await clock.skip(timedelta(minutes=15))
    there = datetime.fromtimestamp(float(await shown.readline()), UTC)
    assert before + timedelta(minutes=15) <= there <= clock.now()
    told.close()
    assert await other.wait() == 0


async def test_a_clock_that_follows_wakes_who_sleeps() -> None:
    clock = DemoClock(START, 1)
    following = DemoClock.set_to(clock.setting)
    clock.followers.append(following.follow)
    sleeping = asyncio.create_task(following.sleep(3600))
    await asyncio.sleep(0)
    await clock.skip(timedelta(hours=1))
    async with asyncio.timeout(2):
        await sleeping


class Ends:
    """What is seen of the ends of the events, look by look."""

    def __init__(self, *seen: object) -> None:
        self._seen = iter(seen)

    async def __call__(self) -> object:
        return next(self._seen)


async def test_time_goes_on_only_when_all_is_done_and_no_event_moved_meanwhile(
    make_context: MakeContext, clock: ManualClock
) -> None:
    store = make_context("box", BOX.metadata).store
    stores: dict[ServiceName, Store] = {"box": store}
    assert await settled(stores, Ends(1, 1), clock.now())
    assert not await settled(stores, Ends(1, 2), clock.now())
    assert not await settled(stores, Ends(1, None), clock.now())
    assert not await settled(stores, Ends(None), clock.now())
    await store.write(lambda unit: unit.set_timer("close", "all", clock.now() + timedelta(hours=1)))
    assert await settled(stores, Ends(1, 1), clock.now())
    assert not await settled(stores, Ends(1, 1), clock.now() + timedelta(hours=1))


async def answering(name: bytes) -> asyncio.Server:
    """A server that says its name and what it was sent."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name + await reader.read())
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def asked(port: int, word: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(word)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_connections_go_to_each_replica_in_turn_and_past_one_that_is_away() -> None:
    outside, nobody = Port(), Port()
    async with await answering(b"one ") as one, await answering(b"two ") as two:
        first, second = (int(server.sockets[0].getsockname()[1]) for server in (one, two))
        async with front(outside.number, [first, nobody.number, second]):
            answers = [await asked(outside.number, b"hello") for _ in range(4)]
        assert answers == [b"one hello", b"two hello", b"one hello", b"two hello"]
    with pytest.raises(ConnectionRefusedError):
        await asked(outside.number, b"hello")


def box(port: int, **more: str) -> ServiceProcess:
    """A box whose database and broker are away."""
    nowhere = Port()
    variables = {
        "LEEWARD_ENV": "demo",
        "LEEWARD_BUS_URL": f"kafka://127.0.0.1:{nowhere.number}",
        "LEEWARD_BOX_DATABASE_URL": f"postgresql+asyncpg://postgres@127.0.0.1:{nowhere.number}/box",
        "LEEWARD_BOX_KEY": base64.b64encode(bytes(32)).decode(),
        "LEEWARD_BOX_PORT": str(port),
    }
    return ServiceProcess("box", port, {**variables, **more})


async def test_a_process_ends_with_its_input(tmp_path: Path) -> None:
    port, clock = Port(), DemoClock(START, 1)
    one = await box(port.number).start(tmp_path / "log")
    one.set_clock(clock.setting)
    async with httpx.AsyncClient() as client, asyncio.timeout(30):
        while not await alive(client, port.number):
            await asyncio.sleep(0.1)
        one.input.close()
        assert await one.process.wait() == 0
    assert "database_away" in (tmp_path / "log").read_text(), "it was only waiting for its database"


async def alive(client: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await client.get(f"http://127.0.0.1:{port}/livez")).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("more", [{"LEEWARD_NOTHING": "1"}, {"LEEWARD_BOX_KEY": ""}])
async def test_a_process_that_does_not_start_is_told_with_its_reason(tmp_path: Path, more: dict[str, str]) -> None:
    port, clock = Port(), DemoClock(START, 1)
    with pytest.raises(NotRunning, match=f"box failed; it was logged: {next(iter(more))}: "):
        async with run_together([box(port.number, **more)], clock, tmp_path / "log"):
            pytest.fail("it cannot be ready")


async def test_one_that_somebody_kills_is_no_fault_of_it(tmp_path: Path) -> None:
    one = await box(Port().number).start(tmp_path / "log")
    one.process.kill()
    assert await one.stop()
    other = await box(Port().number, LEEWARD_NOTHING="1").start(tmp_path / "log")
    await other.process.wait()
    assert not await other.stop()


def test_a_second_demonstration_takes_other_ports() -> None:
    wanted = Port().number
    first = Port(wanted)
    second = Port(wanted)
    assert (first.number, second.number == wanted) == (wanted, False)
    del first
    assert Port(wanted).number == wanted
