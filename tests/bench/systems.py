"""What is measured, started: each gives its MLLP port, with the roster imported and ready for messages."""

import asyncio
import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from leeward.settings import SERVICES
from leeward.settings.keys import assertion_key
from services.demo.servers import Kafka, PostgreSQL
from tests.bench.hospital import write_roster

SUPPORTERS = 1000
LEEWARD = (sys.executable, "-m", "services")
POLICY = """
[outreach]
mode = "live"
quiet_hours = ""
jitter = "0s"
cover_every = ""
[sources.ehr]
kind = "hl7v2"
[channels.webhook]
url = "{url}"
"""
Environment = dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def secret() -> str:
    """32 bytes, base64."""
    return base64.b64encode(os.urandom(32)).decode()


def environment(folder: Path, url: str) -> Environment:
    policy = folder / "leeward.toml"
    policy.write_text(POLICY.format(url=url))
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("LEEWARD_")},
        **{f"LEEWARD_{name.upper()}_PORT": str(free_port()) for name in SERVICES},
        "LEEWARD_ENV": "test",
        "LEEWARD_CONFIG": str(policy),
        "LEEWARD_DATA": str(folder / "data"),
        "LEEWARD_MLLP_PORT": str(free_port()),
        "LEEWARD_WEBHOOK_SECRET": f"whsec_{secret()}",
        "LEEWARD_CLOCK": "2026-11-21T10:00:00Z",
    }


def on_servers(kafka: Kafka, main: PostgreSQL, box: PostgreSQL) -> Environment:
    """Where a distributed system finds its servers, and its keys."""
    keys = {name: os.urandom(32) for name in (*SERVICES, "people")}
    public = assertion_key(keys["notify"]).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    for name in SERVICES:
        (box if name == "box" else main).create(name)
    return {
        "LEEWARD_BUS_URL": kafka.url,
        "LEEWARD_SERVICES_SECRET": os.urandom(16).hex(),
        "LEEWARD_ASSERTION_PUBLIC_KEY": base64.b64encode(public).decode(),
        **{f"LEEWARD_{name.upper()}_KEY": base64.b64encode(key).decode() for name, key in keys.items()},
        **{f"LEEWARD_{n.upper()}_DATABASE_URL": (box if n == "box" else main).url(n) for n in SERVICES},
    }


@asynccontextmanager
async def embedded(folder: Path, url: str, staff: int) -> AsyncIterator[int]:
    """`leeward up`."""
    prepare(folder, environment(folder, url), staff)
    async with again(folder, url) as port:
        yield port


@asynccontextmanager
async def again(folder: Path, url: str, program: Sequence[str] = LEEWARD) -> AsyncIterator[int]:
    """`leeward up`, by another program if need be, in a folder that is prepared."""
    env = environment(folder, url)
    with started(folder, env, [["up"]], program):
        await ready(env)
        yield int(env["LEEWARD_MLLP_PORT"])


@asynccontextmanager
async def distributed(folder: Path, url: str, staff: int) -> AsyncIterator[int]:
    """A process a service, on Kafka and two PostgreSQL clusters that write to the disk as in production."""
    with servers(folder) as (kafka, main, box):
        env = environment(folder, url) | on_servers(kafka, main, box)
        prepare(folder, env, staff)
        with started(folder, env, [["run", name] for name in SERVICES]):
            await ready(env)
            yield int(env["LEEWARD_MLLP_PORT"])


@asynccontextmanager
async def naive(folder: Path, url: str, staff: int) -> AsyncIterator[int]:
    """One ORM transaction an event, queues in memory, SQLite."""
    port = free_port()
    with naively(folder, [str(port), url, str(staff), str(SUPPORTERS), f"sqlite+aiosqlite:///{folder / 'naive.db'}"]):
        yield port


@asynccontextmanager
async def naive_distributed(folder: Path, url: str, staff: int) -> AsyncIterator[int]:
    """One ORM transaction and one `send_and_wait` an event, on the same kind of servers."""
    port = free_port()
    with servers(folder) as (kafka, main, _):
        main.create("naive")
        with naively(folder, [str(port), url, str(staff), str(SUPPORTERS), main.url("naive"), kafka.url]):
            yield port


@contextmanager
def servers(folder: Path) -> Iterator[tuple[Kafka, PostgreSQL, PostgreSQL]]:
    with ExitStack() as stack:
        kafka = stack.enter_context(Kafka(folder / "kafka"))
        main, box = (stack.enter_context(PostgreSQL(folder / name, durable=True)) for name in ("main", "box"))
        yield kafka, main, box


def prepare(folder: Path, env: Mapping[str, str], staff: int) -> None:
    roster = folder / "roster.csv"
    write_roster(roster, staff, SUPPORTERS)
    for words in (["migrate"], ["staff", "import", str(roster)]):
        subprocess.run([*LEEWARD, *words], env=dict(env), check=True, stdout=subprocess.DEVNULL)


@contextmanager
def started(
    folder: Path, env: Mapping[str, str], commands: list[list[str]], program: Sequence[str] = LEEWARD
) -> Iterator[None]:
    with (folder / "log").open("w") as log:
        processes = [subprocess.Popen([*program, *words], env=dict(env), stderr=log) for words in commands]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


@contextmanager
def naively(folder: Path, words: list[str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.naive", *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


async def ready(env: Mapping[str, str]) -> None:
    """Wait until every service says that it can work; says how long that took."""
    began = time.perf_counter()
    urls = [f"http://127.0.0.1:{env[f'LEEWARD_{name.upper()}_PORT']}/readyz" for name in SERVICES]
    async with httpx.AsyncClient() as client:
        while time.perf_counter() - began < 60:
            try:
                if all([(await client.get(url)).status_code == 200 for url in urls]):
                    print(f"  ready {time.perf_counter() - began:.1f} s after the start")
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise SystemExit("the system does not get ready")
