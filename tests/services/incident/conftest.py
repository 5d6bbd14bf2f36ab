"""The incident service as a story needs it: a hospital with three people, messages, and what was published."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import event, select

from leeward import testing
from leeward.people import Member
from leeward.service import Context
from leeward.settings import Settings, load_settings
from leeward.settings.policy import Match
from leeward.store import Unit
from leeward.telemetry import MESSAGES_REFUSED
from leeward.testing import ManualClock
from leeward.web.access import issue, new_token
from leeward.web.app import create_app
from services.incident import SERVICE, roster
from services.incident.hashing import Hasher
from services.incident.intake.intake import Intake
from services.incident.models import METADATA
from services.incident.sources.hl7v2.receiver import Hl7Receiver
from tests.services.incident.sources.hl7v2.ports import Port, opened

ANNA, BEN, CARO = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
HL7_SECRET = "ehr-secret-of-many-characters"
NATIVE_SECRET = "whsec_" + "c2FmZXR5LXNlY3JldC1vZi10aGlydHktdHdvLWJ5dGU="


def member(ref: str, *identifiers: tuple[str, str], status: str = "active") -> Member:
    """Somebody by what incident may know of them."""
    return testing.member(ref, person_ref=ref, identifiers=identifiers, status=status)


STAFF = [member(ANNA, ("ehr", "A1"), ("npi", "111")), member(BEN, ("ehr", "B2")), member(CARO, ("ehr", "C3"))]


def hl7(event: str = "A03", *, kind: str = "ADT", ident: str = "1", msh: str = "", **fields: str) -> bytes:
    """A message of EHR and HOSPITAL: `PV1_36="20"` sets PV1-36; `msh` goes behind the version."""
    segments: dict[str, dict[int, str]] = {"PID": {3: "4711^^^HOSP^MR"}, "PV1": {3: "ICU", 19: "V1"}}
    for place, value in fields.items():
        name, number = place.split("_")
        segments.setdefault(name, {})[int(number)] = value
    lines = [f"MSH|^~\\&|EHR|HOSPITAL|US|HERE|20261121085000||{kind}^{event}|{ident}|P|2.5{msh}"]
    for name, values in segments.items():
        if values:
            lines.append("|".join([name, *(values.get(n, "") for n in range(1, max(values) + 1))]))
    return "\r".join(lines).encode() + b"\r"


def death(event: str = "A03", **fields: str) -> bytes:
    """A discharge with the patient dead, Anna attending."""
    return hl7(event, **{"PV1_36": "20", "PV1_7": "A1^Anna", **fields})


def codes(answers: list[bytes]) -> list[str]:
    """MSA-1 of each acknowledgement."""
    return [answer.split(b"\rMSA|")[1].split(b"|")[0].decode() for answer in answers]


def refused(reason: str, way: str = "http") -> float:
    """How many messages have been refused for this reason."""
    return float(MESSAGES_REFUSED.labels(way, reason)._value.get())


class Desk:
    """The service with its doors: what it is told, what it answers, what it publishes."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.hasher = Hasher.of(context.keys)
        self.intake = Intake(context)
        self.receiver = Hl7Receiver(context.settings.sources, context.clock, self.hasher, self.intake)

    async def send(self, message: bytes) -> list[str]:
        return codes(await self.receiver.from_mllp(message))

    async def import_roster(self, members: list[Member]) -> None:
        await self.context.store.write(lambda unit: roster.apply(unit, members, self.context.keys))

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        """(short type, body) of everything published so far."""
        table = self.context.store.writes.tables.outbox
        rows = await self.context.store.read(lambda conn: conn.execute(select(table).order_by(table.c.seq)).all())
        return [(row.type.split(".")[2], json.loads(row.body)) for row in rows]

    async def kinds(self) -> list[str]:
        return [kind for kind, _ in await self.events()]

    async def rows(self, name: str) -> list[Any]:
        query = select(METADATA.tables[name])
        return list(await self.context.store.read(lambda conn: conn.execute(query).all()))

    async def states(self) -> list[str]:
        return sorted(row.state for row in await self.rows("incident"))


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    """The default policy, with a secret for both sources."""
    variables = {
        "LEEWARD_ENV": "test",
        "LEEWARD_DATA": str(tmp_path / "data"),
        "LEEWARD_MLLP_PORT": "0",
        "LEEWARD_SOURCE_EHR_SECRET": HL7_SECRET,
        "LEEWARD_SOURCE_SAFETY_SECRET": NATIVE_SECRET,
    }
    return load_settings(variables)


@pytest_asyncio.fixture
async def desk(make_context: Callable[..., Context]) -> Desk:
    """The service with its three people on the roster."""
    found = Desk(make_context("incident", METADATA))
    await found.import_roster(STAFF)
    return found


def with_policy(desk: Desk, **incident: Any) -> Desk:
    """The same service under another [incident] policy."""
    policy = desk.context.settings.incident.model_copy(update=incident)
    return Desk(replace(desk.context, settings=desk.context.settings.model_copy(update={"incident": policy})))


def with_source(desk: Desk, **source: Any) -> Desk:
    """The same service, its HL7 source set up otherwise."""
    settings = desk.context.settings
    sources = {**settings.sources, "ehr": settings.sources["ehr"].model_copy(update=source)}
    return Desk(replace(desk.context, settings=settings.model_copy(update={"sources": sources})))


def with_second_source(desk: Desk) -> Desk:
    """The same service with a laboratory's feed beside the EHR's."""
    settings = desk.context.settings
    lab = settings.sources["ehr"].model_copy(update={"match": Match(msh3="LAB")})
    sources = {**settings.sources, "lab": lab}
    return Desk(replace(desk.context, settings=settings.model_copy(update={"sources": sources})))


@pytest_asyncio.fixture
async def port(desk: Desk) -> AsyncIterator[Port]:
    """The service's MLLP port."""
    async with opened(desk.receiver.from_mllp) as found:
        yield found


@pytest_asyncio.fixture
async def web(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the real app, without any credential."""
    app = create_app(desk.context, SERVICE.build(desk.context).router)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://incident") as client:
        yield client


@pytest_asyncio.fixture
async def coordinator(desk: Desk, web: httpx.AsyncClient) -> httpx.AsyncClient:
    """The same client with a coordinator's token."""
    token = new_token()

    def work(unit: Unit) -> None:
        issue(unit, "coordinator", "token", token)

    await desk.context.store.write(work)
    web.headers["Authorization"] = f"Bearer {token}"
    return web


@contextlib.contextmanager
def full(desk: Desk) -> Iterator[None]:
    """The disk is full: the database may grow no further."""
    store: Any = desk.context.store
    pages = store._connected().connection.driver_connection.execute("PRAGMA page_count").fetchone()[0]

    def limit(connection: Any, most: int = pages) -> None:
        connection.execute(f"PRAGMA max_page_count={most}").fetchone()

    def limited(connection: Any, _record: Any) -> None:
        limit(connection)

    # a connection that has met the fault is replaced by another
    event.listen(store._engine, "connect", limited)
    limit(store._connected().connection.driver_connection)
    yield
    event.remove(store._engine, "connect", limited)
    limit(store._connected().connection.driver_connection, 1073741823)


async def settle(clock: ManualClock, **span: float) -> None:
    """Let time pass and everything that wakes up run."""
    await clock.advance(**span)
    await asyncio.sleep(0.01)


@pytest.fixture
def chart(desk: Desk) -> Desk:
    """The service with a FHIR source."""
    from tests.services.incident.sources.fhir.resources import with_fhir

    return with_fhir(desk)


@pytest_asyncio.fixture
async def door(chart: Desk) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that service's app."""
    from tests.services.incident.sources.fhir.resources import client

    async with await client(chart) as web:
        yield web
