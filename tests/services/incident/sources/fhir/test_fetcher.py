"""What came without its resources is read from its server: by whom, from where, again, and not for ever."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from joserfc import jwt
from joserfc.jwk import KeySet

from leeward.settings import SettingsError
from leeward.testing import ManualClock
from services.incident.intake.fetch_queue import FetchRequest
from services.incident.intake.intake import Item
from services.incident.intake.subscriptions import Heard, Silence
from services.incident.retention import delete_expired
from services.incident.sources.fhir.client import private_key, public_keys
from services.incident.sources.fhir.fetcher import Fetcher
from tests.services.incident.conftest import ANNA, Desk
from tests.services.incident.sources.fhir.resources import (
    HOME,
    SECRET,
    Resource,
    adverse_event,
    backport,
    client,
    coded,
    encounter,
    patient,
    post,
    practitioner,
    with_fhir,
)

URL = "http://chart.example/fhir"


@dataclass
class Chart:
    """A FHIR server: what it holds, what it was asked, and how it misbehaves (`answers`, by path)."""

    held: dict[str, Resource] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, list[Response]] = field(default_factory=dict)
    keys: dict[str, Any] | None = None
    tokens: list[str] = field(default_factory=list)

    def hold(self, *resources: Resource) -> None:
        self.held |= {f"{one['resourceType']}/{one['id']}": one for one in resources}

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/fhir/.well-known/smart-configuration")
        async def discovery() -> dict[str, str]:
            return {"token_endpoint": "http://chart.example/token"}

        @app.post("/token")
        async def token(request: Request) -> JSONResponse:
            form = dict((await request.form()).items())
            assert self.keys is not None
            keys = KeySet.import_key_set(self.keys)  # type: ignore[arg-type]
            found = jwt.decode(str(form["client_assertion"]), keys, algorithms=["ES384", "RS384"])
            claims = found.claims
            assert claims["iss"] == claims["sub"] == "leeward"
            assert claims["aud"] == "http://chart.example/token"
            self.tokens.append(f"t{len(self.tokens)}")
            return JSONResponse({"access_token": self.tokens[-1], "token_type": "bearer", "expires_in": 300})

        @app.get("/fhir{path:path}")
        async def get(request: Request, path: str) -> Response:
            path = path.removeprefix("/")
            if self.keys and request.headers.get("authorization") != f"Bearer {(self.tokens or [''])[-1]}":
                return Response(status_code=401)
            query = f"?{request.url.query}" if request.url.query else ""
            self.asked.append(path + query)
            if self.answers.get(path):
                return self.answers[path].pop(0)
            if path in self.held:
                return JSONResponse(self.held[path])
            if query:
                found = [one for one in self.held.values() if one["resourceType"] == path]
                bundle = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": one} for one in found]}
                return JSONResponse(bundle)
            return Response(status_code=404)

        return app


@pytest.fixture
def chart() -> Chart:
    made = Chart()
    made.hold(encounter(), patient(deceasedBoolean=True), practitioner(), {"resourceType": "Location", "id": "l1"})
    return made


Making = Callable[..., Desk]


@pytest_asyncio.fixture
async def made(desk: Desk, chart: Chart) -> AsyncIterator[Making]:
    """`made(client_id="…")`: the service with that server as a source."""
    transport = httpx.ASGITransport(app=chart.app())
    async with httpx.AsyncClient(transport=transport) as http:

        def make(variables: dict[str, str] | None = None, **source: Any) -> Desk:
            found = with_fhir(desk, base_url=URL, **source)
            settings = found.context.settings
            settings = settings.model_copy(update={"variables": {**settings.variables, **(variables or {})}})
            return Desk(replace(found.context, settings=settings, http=http))

        yield make


async def told(desk: Desk, *bodies: Resource | bytes) -> Fetcher:
    """The service is told this, and then has a fetcher."""
    async with await client(desk) as door:
        for body in bodies:
            assert (await post(door, body)).status_code == 204
    return Fetcher(desk.context, desk.intake, "chart")


@pytest.mark.database("sqlite", "postgresql")
async def test_an_id_alone_is_read_with_who_was_there(made: Making, chart: Chart) -> None:
    desk = made()
    fetcher = await told(desk, backport(focus="Encounter/e1"))
    assert (await fetcher.read_due(), await fetcher.read_due()) == (True, False)
    [(kind, body)] = await desk.events()
    assert (kind, body["unit"], body["occurred_at"]) == ("recorded", "ICU", "2026-11-21T08:30:00Z")
    assert [one["person_ref"] for one in body["involved"]] == [ANNA]
    assert {"Encounter/e1", "Patient/p1", "Practitioner/d1", "Location/l1"} <= set(chart.asked)


async def test_of_the_living_nothing_more_is_read(made: Making, chart: Chart) -> None:
    chart.hold(encounter(disposition=HOME))
    fetcher = await told(desk := made(), backport(focus="Encounter/e1"))
    await fetcher.read_due()
    assert chart.asked == ["Encounter/e1"]
    assert await desk.states() == []


async def test_a_hook_without_a_body_names_what_is_read(made: Making, chart: Chart) -> None:
    desk = made()
    async with await client(desk) as door:
        for kind, ident, status in (("Encounter", "e1", 204), ("Observation", "o1", 204), ("Encounter", "..;", 422)):
            answer = await door.put(f"/v1/fhir/chart/{kind}/{ident}", headers={"Authorization": f"Bearer {SECRET}"})
            assert answer.status_code == status
    fetcher = Fetcher(desk.context, desk.intake, "chart")
    assert (await fetcher.read_due(), await fetcher.read_due()) == (True, False)
    assert (await desk.kinds(), chart.asked[0]) == (["recorded"], "Encounter/e1")


# HAPI sends a full patient with a notification that is to be empty
@pytest.mark.parametrize("body", [backport(), b"", backport(patient())])
async def test_that_something_happened_is_looked_for(made: Making, chart: Chart, body: Any) -> None:
    chart.hold(adverse_event(severity=coded("severe"), subject={"reference": "Patient/p9"}))
    fetcher = await told(desk := made(), body, b"")
    await fetcher.read_due()
    assert sorted(await desk.kinds()) == ["recorded", "recorded"]
    searches = [one for one in chart.asked if "_lastUpdated" in one]
    assert [one.partition("?")[0] for one in searches] == ["Encounter", "Patient", "AdverseEvent"]
    assert await desk.rows("fetch") == []


async def test_an_event_that_never_came_is_looked_for(made: Making, chart: Chart) -> None:
    living = backport(encounter("e0", disposition=None), number=1)
    fetcher = await told(desk := made(), living, backport(kind="heartbeat", number=None, counted=2))
    await fetcher.read_due()
    assert await desk.kinds() == ["recorded"]


def page(*resources: Resource, following: str = "") -> Response:
    links = [{"relation": "next", "url": following}] if following else []
    entries = [{"resource": one} for one in resources]
    return JSONResponse({"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries})


async def test_every_page_of_the_same_server_and_none_of_another(made: Making, chart: Chart) -> None:
    chart.answers = {
        "Encounter": [
            page(encounter(), following=f"{URL}/Encounter?page=2"),
            page(encounter("e2", who="p2"), following="http://evil.example/fhir/Encounter?page=3"),
        ],
        "Patient": [page()],
    }
    fetcher = await told(desk := made(), b"")
    await fetcher.read_due()
    assert await desk.kinds() == ["recorded", "recorded"]
    assert "Encounter?page=2" in chart.asked
    assert not [one for one in chart.asked if "page=3" in one]


@pytest.mark.parametrize(
    ("following", "asked"),
    [
        # as HAPI has it, as a relative reference, and as one from the root
        (f"{URL}?_getpages=2", "?_getpages=2"),
        ("Encounter?page=2", "Encounter?page=2"),
        ("/fhir/Encounter?page=2", "Encounter?page=2"),
        (f"{URL}/../fhir/Encounter?page=2", "Encounter?page=2"),
        (f"{URL}/../admin?page=2", None),
        (f"{URL}/%2e%2e/admin?page=2", None),
        (f"{URL}2/Encounter?page=2", None),
        ("//evil.example/fhir/Encounter?page=2", None),
        ("http://[evil/", None),
    ],
)
async def test_where_the_next_page_is(made: Making, chart: Chart, following: str, asked: str | None) -> None:
    chart.answers = {"Encounter": [page(following=following), page(encounter())], "": [page(encounter())]}
    fetcher = await told(desk := made(search=("Encounter",)), b"")
    await fetcher.read_due()
    assert await desk.kinds() == (["recorded"] if asked else [])
    assert chart.asked[1:2] == ([asked] if asked else [])


@pytest.mark.parametrize(("status", "left"), [(404, 0), (400, 0), (403, 0), (503, 1)])
async def test_a_type_that_a_server_does_not_give_holds_up_no_other(
    made: Making, chart: Chart, status: int, left: int
) -> None:
    chart.answers = {"AdverseEvent": [Response(status_code=status)]}
    fetcher = await told(desk := made(), b"")
    await fetcher.read_due()
    assert (await desk.kinds(), len(await desk.rows("fetch"))) == (["recorded"], left)


async def test_a_server_that_gives_no_type_at_all_is_asked_again(made: Making, chart: Chart) -> None:
    chart.answers = {kind: [Response(status_code=404)] for kind in ("Encounter", "Patient", "AdverseEvent")}
    fetcher = await told(desk := made(), b"")
    await fetcher.read_due()
    assert (await desk.kinds(), len(await desk.rows("fetch"))) == ([], 1)


async def test_of_many_that_have_changed_only_what_matters_is_read_further(made: Making, chart: Chart) -> None:
    chart.held = {}
    chart.hold(*(encounter(f"l{n}", who=f"l{n}", disposition=HOME) for n in range(300)))
    chart.hold(encounter(), patient(), practitioner())
    fetcher = await told(desk := made(search=("Encounter",)), b"")
    await fetcher.read_due()
    [(_, body)] = await desk.events()
    assert [one["person_ref"] for one in body["involved"]] == [ANNA]
    assert sorted(chart.asked[2:]) == ["Location/l1", "Patient/p1", "Practitioner/d1"]


@pytest.mark.parametrize("status", [503, 429, 401])
async def test_whoever_cannot_be_read_now_is_read_later(
    made: Making, chart: Chart, clock: ManualClock, status: int
) -> None:
    chart.answers = {"Practitioner/d1": [Response(status_code=status)] * 2}
    fetcher = await told(desk := made(), backport(focus="Encounter/e1"))
    for _ in range(4):
        await fetcher.read_due()
        await clock.advance(minutes=2)
    (_, recorded), (kind, amended) = await desk.events()
    assert (recorded["involved"], kind) == ([], "amended")
    assert [one["person_ref"] for one in amended["involved"]] == [ANNA]
    assert (await desk.rows("fetch"), await desk.rows("unmatched")) == ([], [])
    # twice the same, and then all of it
    assert len(await desk.rows("raw_message")) == 3


async def test_whoever_is_refused_is_known_by_the_reference_alone(made: Making, chart: Chart) -> None:
    chart.answers = {"Practitioner/d1": [Response(status_code=403)]}
    fetcher = await told(desk := made(), backport(focus="Encounter/e1"))
    await fetcher.read_due()
    assert (await desk.kinds(), await desk.rows("fetch"), len(await desk.rows("unmatched"))) == (["recorded"], [], 1)


@pytest.mark.parametrize("status", [500, 503, 429, 403, 302])
async def test_a_server_that_does_not_give_it_is_asked_again_later(
    made: Making, chart: Chart, clock: ManualClock, status: int
) -> None:
    chart.answers = {"Encounter/e1": [Response(status_code=status, headers={"Location": "http://evil.example/"})]}
    fetcher = await told(desk := made(), backport(focus="Encounter/e1"))
    assert await fetcher.read_due()
    assert (await fetcher.read_due(), await desk.states()) == (False, [])
    await clock.advance(seconds=6)
    assert await fetcher.read_due()
    assert await desk.kinds() == ["recorded"]


@pytest.mark.parametrize(("status", "states"), [(410, []), (404, ["review"])])
async def test_what_is_gone_is_not_asked_for_again(made: Making, chart: Chart, status: int, states: list[str]) -> None:
    chart.answers = {"Encounter/e1": [Response(status_code=status)]}
    await (await told(desk := made(), backport(focus="Encounter/e1"))).read_due()
    assert (await desk.rows("fetch"), await desk.states()) == ([], states)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"resourceType": "Encounter", "status": 1}', b'{"resourceType": "OperationOutcome"}']
)
async def test_what_cannot_be_read_is_the_coordinators(made: Making, chart: Chart, body: bytes) -> None:
    chart.answers = {"Encounter/e1": [Response(body)] * 9}
    fetcher = await told(desk := made(), backport(focus="Encounter/e1"))
    await fetcher.read_due()
    rows = await desk.rows("incident")
    if b"status" in body:
        assert [(row.state, row.reasons, row.category) for row in rows] == [("review", "not_fetched", "not_fetched")]
    else:
        assert (rows, len(await desk.rows("fetch"))) == ([], 1)


async def test_what_was_never_read_ends_with_its_days_key_on_the_list(
    made: Making, chart: Chart, clock: ManualClock
) -> None:
    chart.answers = {"Encounter/e1": [Response(status_code=503)] * 9, "Encounter/e2": [Response(status_code=503)] * 9}
    desk = made()
    fetcher = await told(desk, backport(focus="Encounter/e1"), backport(focus="Encounter/e2", number=2))
    await fetcher.read_due()
    await clock.advance(hours=73)
    await desk.context.store.write(delete_expired)
    await fetcher.read_due()
    assert [row.reasons for row in await desk.rows("incident")] == ["not_fetched"]
    assert (await desk.rows("fetch"), await desk.kinds()) == ([], [])


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
async def test_smart_backend_services(made: Making, chart: Chart, key: Any) -> None:
    desk = made({"SOURCE_CHART_PRIVATE_KEY": pem(key)}, client_id="leeward")
    found = private_key(desk.context.settings, "chart")
    assert found is not None
    chart.keys = json.loads(json.dumps(public_keys(found)))
    assert not {"d", "p", "q"} & set(chart.keys["keys"][0])
    fetcher = await told(desk, backport(focus="Encounter/e1"))
    await fetcher.read_due()
    assert (await desk.kinds(), chart.tokens) == (["recorded"], ["t0"])
    # a token that the server no longer takes is exchanged once
    chart.tokens.append("t1")
    chart.hold(encounter("e2", who="p2"))
    await told(desk, backport(focus="Encounter/e2", number=2))
    await fetcher.read_due()
    assert await desk.kinds() == ["recorded", "recorded"]
    assert chart.tokens == ["t0", "t1", "t2"]


@pytest.mark.parametrize("text", ["", "no key", pem(ec.generate_private_key(ec.SECP256R1()))])
def test_another_key_stops_the_start(made: Making, text: str) -> None:
    settings = made({"SOURCE_CHART_PRIVATE_KEY": text}).context.settings
    if not text:
        assert private_key(settings, "chart") is None
        return
    with pytest.raises(SettingsError, match="LEEWARD_SOURCE_CHART_PRIVATE_KEY: is no private key") as fault:
        private_key(settings, "chart")
    assert text not in str(fault.value)


async def test_it_reads_at_once_as_long_as_it_runs_and_stops_at_once(
    made: Making, chart: Chart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.incident.sources.fhir.fetcher.LOOK", 60)
    chart.hold(encounter("e2", who="p2"))
    desk = made()
    fetcher = Fetcher(desk.context, desk.intake, "chart")
    stop = asyncio.Event()
    running = asyncio.create_task(fetcher.run(stop))
    async with asyncio.timeout(10):
        for number in (1, 2):
            await asyncio.sleep(0.1)
            wanted = (FetchRequest("chart", f"Encounter/e{number}"),)
            await desk.intake(Item("chart", b"", str(number), heard=Heard("chart", "s"), wanted=wanted))
            while len(await desk.states()) < number:
                await asyncio.sleep(0.01)
        stop.set()
        await running


async def test_a_silent_server_is_noticed(made: Making, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    desk = made(heartbeat="1h")
    silence = Silence(desk.context)
    heartbeat = backport(kind="heartbeat", number=None, counted=0)
    for hours, late in ((1, False), (1, True), (1, True)):
        await clock.advance(hours=hours)
        await silence.watch()
        assert silence.late == ({"chart"} if late else set())
    await told(desk, heartbeat)
    await silence.watch()
    assert silence.late == set()


async def test_what_came_without_its_people_is_decided_at_once_and_they_are_read(made: Making, chart: Chart) -> None:
    fetcher = await told(desk := made(), backport(encounter()))
    assert await desk.kinds() == ["recorded"]
    await fetcher.read_due()
    (_, recorded), (kind, amended) = await desk.events()
    assert (recorded["involved"], kind) == ([], "amended")
    assert [one["person_ref"] for one in amended["involved"]] == [ANNA]
    assert await desk.rows("unmatched") == []
