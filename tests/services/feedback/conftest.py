"""The feedback path as it runs: issuer and box as two apps with two databases, and a bus that tells of closed cases."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter
from joserfc import jwt
from joserfc.jwk import OKPKey
from sqlalchemy import MetaData, select

from leeward.adapters import prepare_bus, store_of
from leeward.contracts import CaseClosed
from leeward.runtime import Runtime
from leeward.service import Service, Wiring
from leeward.settings import Settings, load_settings
from leeward.settings.keys import assertion_key, service_key
from leeward.store import ground_tables
from leeward.store.migrate import migrate
from leeward.testing import ManualClock, eventually
from services.demo.servers import Kafka, PostgreSQL
from services.feedback.box import SERVICE as BOX
from services.feedback.issuer import SERVICE as ISSUER
from services.feedback.issuer.models import CLAIM
from services.feedback.reports import ITEMS
from tests.databases import PostgresDatabases, content
from tests.nursery import lock
from tests.services.feedback.browserless import DRIVER, NODE

WINDOW = timedelta(hours=1)
EPOCH = timedelta(days=2)
TOKENS = 3
ENOUGH = 10  # answers for a release
POLICY = f"""
[feedback]
epoch_min = "{EPOCH.days}d"
epoch_tokens = {TOKENS}
window = "{WINDOW.seconds}s"

[emergency.en]
phone = "112"
"""


def _producer() -> Service:
    metadata = MetaData()
    ground_tables(metadata)
    return Service("matching", metadata, lambda _ground: Wiring(APIRouter()), lambda _conn, _settings: {})


def free_ports(count: int) -> list[int]:
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    return ports


class Feedback:
    """Tells the story: cases close, people keep codes, time passes, codes are spent, something is released."""

    def __init__(self, runtime: Runtime, clock: ManualClock, http: httpx.AsyncClient) -> None:
        self.runtime = runtime
        self.settings: Settings = runtime.settings
        self.clock = clock
        self.http = http
        self.issuer = self.settings.url("issuer")
        self.box = self.settings.box_url

    async def close_case(self) -> str:
        """A case closes at matching; gives its reference."""
        case = str(uuid4())
        event = CaseClosed(case_ref=case)
        await self.runtime.running["matching"].context.store.write(lambda unit: unit.emit(event))
        return case

    def assertion(self, case: str, *, valid: timedelta = timedelta(minutes=15)) -> str:
        """What notify's follow-up page puts into the address."""
        now = self.clock.now()
        key = OKPKey.import_key(assertion_key(service_key(self.settings, "notify")))
        claims = {"case_ref": case, "iat": int(now.timestamp()), "exp": int((now + valid).timestamp())}
        return jwt.encode({"alg": "Ed25519"}, claims, key, algorithms=["Ed25519"])

    async def known(self, case: str) -> None:
        """Wait until the issuer has heard of the case."""
        store = self.runtime.running["issuer"].context.store
        query = select(CLAIM.c.case_ref).where(CLAIM.c.case_ref == case)
        await eventually(lambda: store.read(lambda conn: conn.execute(query).first() is not None))

    async def spend(self, codes: Sequence[str], *, answer: int = 5, tags: Sequence[str] = ()) -> list[str]:
        """The page's own steps in Node: seal an answer for each code, and send it."""
        rating = {"items": dict.fromkeys(ITEMS, answer), "tags": list(tags)}
        said: Any = await node("spend", [{"box": self.box, "code": code, "rating": rating} for code in codes])
        return [each["result"] for each in said]

    async def refusal(self, code: str) -> str:
        """What the page is told when a code does not work now."""
        rating = {"items": dict.fromkeys(ITEMS, 5), "tags": []}
        said = await node("spend", {"box": self.box, "code": code, "rating": rating}, refused=True)
        return str(said["refused"])

    async def codes(self, count: int) -> list[str]:
        """So many people each keep a code, by the page's own steps in Node."""
        cases = [await self.close_case() for _ in range(count)]
        for case in cases:
            await self.known(case)
        way = {"issuer": self.issuer, "box": self.box}
        kept: Any = await node("keep", [{**way, "assertion": self.assertion(case)} for case in cases])
        return [each["code"] for each in kept]

    async def reports(self) -> list[dict[str, Any]]:
        return list((await self.http.get(f"{self.box}/v1/reports")).json()["items"])

    async def epochs(self, service: str = "box") -> dict[str, str]:
        """Epoch to state, as issuer or box publish it."""
        url = f"{self.box}/v1/epochs" if service == "box" else f"{self.issuer}/v1/keys"
        return {epoch["epoch"]: epoch["state"] for epoch in (await self.http.get(url)).json()["epochs"]}

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        """Let a little time pass, again and again, until something is so."""
        for _ in range(200):
            if await condition():
                return
            await self.clock.advance(seconds=2)
            await asyncio.sleep(0.02)
        raise AssertionError("it never was so")

    async def window_opens(self) -> None:
        await self.until(lambda: self._some("rating"))

    async def window_ends(self) -> None:
        await self.clock.advance(seconds=WINDOW.total_seconds() + 60)
        await self.until(lambda: self._none("rating"))

    async def _some(self, state: str) -> bool:
        return state in (await self.epochs()).values()

    async def _none(self, state: str) -> bool:
        return state not in (await self.epochs()).values()

    async def content(self, name: str) -> bytes:
        """Everything in a service's database."""
        return await content(self.runtime.running[name].context.store)


async def node(step: str, given: object, *, refused: bool = False) -> dict[str, Any]:
    """One step of `drive.js`, while the apps go on serving."""
    pipe = asyncio.subprocess.PIPE
    done = await asyncio.create_subprocess_exec(NODE, DRIVER, step, json.dumps(given), stdout=pipe, stderr=pipe)
    out, err = await done.communicate()
    assert (done.returncode != 0) == refused, err.decode()
    found: dict[str, Any] = json.loads(err if refused else out)
    return found


@pytest.fixture(scope="session")
def postgresql_databases_of_box(postgresql_of_box: PostgreSQL) -> PostgresDatabases:
    """In a cluster of its own, as the box must have."""
    return PostgresDatabases(postgresql_of_box)


@pytest.fixture
def distributed(database: str, request: pytest.FixtureRequest) -> Iterator[Callable[[ManualClock], dict[str, str]]]:
    """Variables of a distributed run on real servers; none where the test is on SQLite."""
    if database == "sqlite":
        yield lambda _clock: {}
        return
    databases: PostgresDatabases = request.getfixturevalue("postgresql_databases").next_test()
    of_box: PostgresDatabases = request.getfixturevalue("postgresql_databases_of_box").next_test()
    kafka: Kafka = request.getfixturevalue("kafka")

    def variables(clock: ManualClock) -> dict[str, str]:
        key = base64.b64encode(b"k" * 32).decode()
        public = assertion_key(b"k" * 32).public_key().public_bytes_raw()
        return {
            "LEEWARD_BUS_URL": kafka.url,
            "LEEWARD_SERVICES_SECRET": "secret",
            "LEEWARD_ASSERTION_PUBLIC_KEY": base64.b64encode(public).decode(),
            **{f"LEEWARD_{name}_KEY": key for name in ("MATCHING", "NOTIFY", "ISSUER", "BOX")},
            "LEEWARD_MATCHING_DATABASE_URL": databases.url("matching", clock),
            "LEEWARD_ISSUER_DATABASE_URL": databases.url("issuer", clock),
            "LEEWARD_BOX_DATABASE_URL": of_box.url("box", clock),
        }

    with lock("topics"):  # the services' topics have one name for all
        yield variables


@pytest_asyncio.fixture
async def feedback(
    tmp_path: Path,
    clock: ManualClock,
    http: httpx.AsyncClient,
    distributed: Callable[[ManualClock], dict[str, str]],
) -> AsyncIterator[Feedback]:
    """Issuer and box running on loopback with the clock of the test."""
    config = tmp_path / "leeward.toml"
    config.write_text(POLICY)
    ports = dict(zip(("MATCHING", "ISSUER", "BOX"), free_ports(3), strict=True))
    environ = {"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path / "data"), "LEEWARD_CONFIG": str(config)}
    environ |= {f"LEEWARD_{name}_PORT": str(port) for name, port in ports.items()} | distributed(clock)
    settings = load_settings(environ)
    producer, services = _producer(), [ISSUER, BOX]
    for service in services:
        store = store_of(settings, service.name, service.metadata, clock)
        await store.administer(partial(migrate, package=service.package, metadata=service.metadata))
        await store.close()
    store = store_of(settings, producer.name, producer.metadata, clock)
    await store.administer(producer.metadata.create_all)
    await store.close()
    await prepare_bus(settings)
    runtime = Runtime(settings, [producer, *services], clock)
    await runtime.start(http)
    story = Feedback(runtime, clock, http)
    await story.until(lambda: story._some("issuing"))
    yield story
    await runtime.finish()
