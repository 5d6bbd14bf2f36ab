"""A FHIR server, or whoever gives its tokens, that answers otherwise than it should: a reason, and no other fault."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from leeward.settings import SettingsError
from leeward.settings.policy import Source
from services.incident.intake.fetch_queue import FetchRequest
from services.incident.intake.intake import Intake, Item
from services.incident.intake.subscriptions import Heard
from services.incident.sources.fhir import client
from services.incident.sources.fhir.client import FhirServer, NotRead
from services.incident.sources.fhir.fetcher import fetchers
from services.incident.sources.fhir.tree import Node
from tests.services.incident.conftest import Desk
from tests.services.incident.sources.fhir.resources import encounter, with_fhir

BASE = "http://chart.example/fhir"
KEY = ECKey.generate_key("P-384")
Answer = Callable[[httpx.Request], httpx.Response]


async def read(answer: Answer, path: str = "Encounter/e1", **source: Any) -> Node:
    made = Source.model_validate({"kind": "fhir", "base_url": BASE, **source})
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        return await FhirServer("chart", made, KEY if made.client_id else None, http).get(path)


@pytest.mark.parametrize(
    ("status", "body", "gone", "refused"),
    [
        (404, b"", True, False),
        (410, b"", True, False),
        (403, b"", False, True),
        (401, b"", False, False),
        (429, b"", False, False),
        (500, b"", False, False),
        (302, b"", False, False),
        (200, b"{", False, False),
        (200, b'{"x": NaN}', False, False),
        (200, b'{"x":' * 990 + b"1" + b"}" * 990, False, False),
        (200, b'{"x": "' + b"x" * 30_000 + b'"}', False, False),
    ],
)
async def test_what_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, gone: bool, refused: bool
) -> None:
    monkeypatch.setattr(client, "LARGEST", 20_000)
    with pytest.raises(NotRead) as fault:
        await read(lambda _: httpx.Response(status, content=body))
    assert (fault.value.gone, fault.value.refused) == (gone, refused)


@pytest.mark.parametrize(
    ("endpoint", "token"),
    [
        ("http://[bad/x", "t"),
        ("ftp://chart.example/token", "t"),
        (7, "t"),
        ("http://chart.example/token", "t\u00f6ken"),
        ("http://chart.example/token", "two\nlines"),
        ("http://chart.example/token", ["t"]),
        ("http://chart.example/token", ""),
    ],
)
async def test_a_token_that_is_none(endpoint: Any, token: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, content=json.dumps({"access_token": token, "expires_in": "soon"}))
        if request.url.path.endswith("smart-configuration"):
            return httpx.Response(200, content=json.dumps({"token_endpoint": endpoint}))
        return httpx.Response(401)

    with pytest.raises(NotRead):
        await read(answer, client_id="leeward")


async def test_of_many_that_are_refused_at_once_one_asks_for_a_new_token() -> None:
    given: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path == "/token":
            given.append(f"t{len(given)}")
            return httpx.Response(200, json={"access_token": given[-1]})
        good = len(given) > 1 and request.headers["authorization"] == f"Bearer {given[-1]}"
        return httpx.Response(200, json={"resourceType": "Encounter"}) if good else httpx.Response(401)

    source = Source(kind="fhir", base_url=BASE, client_id="leeward", token_url="http://chart.example/token")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        server = FhirServer("chart", source, KEY, http)
        found = await asyncio.gather(*(server.get(f"Encounter/e{n}") for n in range(20)))
    assert [one.kind for one in found] == ["Encounter"] * 20
    assert given == ["t0", "t1"]


async def test_a_server_that_creates_and_says_nothing() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(201, headers={"Location": f"{BASE}/Subscription/s1"})

    source = Source(kind="fhir", base_url=BASE)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        made = await FhirServer("chart", source, None, http).create("Subscription", {"resourceType": "Subscription"})
    assert made.value == {}
    assert asked[0].headers["prefer"] == "return=representation"


async def test_a_server_that_does_not_answer_holds_up_no_other(desk: Desk) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "slow.example":
            await asyncio.sleep(60)
        return httpx.Response(200, json=encounter())

    chart = with_fhir(desk, base_url=BASE)
    slow = Source(kind="fhir", base_url="http://slow.example/fhir")
    sources = {**chart.context.settings.sources, "slow": slow}
    settings = chart.context.settings.model_copy(update={"sources": sources})
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        context = replace(chart.context, settings=settings, http=http)
        intake = Intake(context)
        for number, name in enumerate([*["slow"] * 60, "chart"]):
            wanted = (FetchRequest(name, f"Encounter/e{number}"),)
            await intake(Item(name, b"", str(number), heard=Heard(name, "s"), wanted=wanted))
        reading = [asyncio.create_task(one.read_due()) for one in fetchers(context, intake)]
        async with asyncio.timeout(5):
            while not await desk.states():
                await asyncio.sleep(0.01)
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


def test_a_client_without_its_key_stops_incident_alone(desk: Desk) -> None:
    with pytest.raises(SettingsError, match="LEEWARD_SOURCE_CHART_PRIVATE_KEY: is missing"):
        client.private_key(with_fhir(desk, client_id="leeward").context.settings, "chart")
