"""What strangers meet: denied by default, problems that echo nothing, limits, headers, health."""

import base64
import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import MetaData
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

from leeward.service import Context
from leeward.settings import load_settings
from leeward.settings.keys import derive
from leeward.store import StoreUnavailable, Unit
from leeward.testing import ManualClock
from leeward.web import access
from leeward.web.access import COOKIE, LINK, PUBLIC, SERVICES, SOURCE, AccessControl, check_routes, csrf, role
from leeward.web.app import MAX_BODY, create_app
from leeward.web.problem import Problem
from tests.conftest import MakeContext

CANARY = "canary-4711"


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int
    colour: Literal["grey", "green"] = "grey"
    ref: UUID | None = None
    names: dict[Literal["first", "last"], int] = {}


def routes() -> APIRouter:
    router = APIRouter()

    @router.post("/v1/things", dependencies=[PUBLIC])
    async def add(thing: Thing) -> dict[str, int]:
        return {"size": thing.size}

    @router.post("/v1/raw", dependencies=[SOURCE])
    async def raw(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @router.post("/m/{token}", dependencies=[LINK])
    async def answer(token: str, answer: Annotated[str, Form()]) -> dict[str, str]:
        return {"answer": answer}

    @router.get("/v1/cases", dependencies=[role("coordinator", "trainer")])
    async def cases() -> list[str]:
        return []

    @router.get("/board", dependencies=[role("coordinator")])
    async def board(request: Request) -> PlainTextResponse:
        return PlainTextResponse(csrf(request))

    @router.post("/v1/cases/{ref}/close", dependencies=[role("coordinator")])
    async def close(ref: str, note: Annotated[str, Form()] = "") -> dict[str, str]:
        return {"closed": ref}

    @router.get("/v1/introduction", dependencies=[SERVICES])
    async def introduction() -> dict[str, str]:
        return {}

    @router.get("/gone", dependencies=[PUBLIC])
    async def gone() -> None:
        raise StoreUnavailable(CANARY)

    @router.get("/broken", dependencies=[PUBLIC])
    async def broken() -> None:
        raise LookupError(CANARY)

    @router.get("/refused", dependencies=[PUBLIC])
    async def refused() -> None:
        raise Problem(409, "taken", "Somebody else was first.")

    return router


@asynccontextmanager
async def browser(
    context: Context, *, unready: Callable[[], str] = str, notes: Callable[[], list[str]] = list
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(context, routes(), unready=unready, notes=notes)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://leeward.test") as client:
        yield client


@pytest.fixture
def context(make_context: MakeContext) -> Context:
    return make_context("matching", MetaData())


async def token(context: Context, wanted: access.Role) -> dict[str, str]:
    new = access.new_token()
    await context.store.write(lambda unit: access.issue(unit, wanted, "token", new))
    return {"Authorization": f"Bearer {new}"}


def unmarked(add: Callable[[APIRouter], None], context: Context) -> str:
    router = APIRouter()
    add(router)
    with pytest.raises(RuntimeError) as refused:
        create_app(context, router)
    return str(refused.value)


def test_a_route_without_a_mark_refuses_the_start(context: Context) -> None:
    def add(router: APIRouter) -> None:
        @router.get("/open")
        async def forgotten() -> None: ...

    assert "/open" in unmarked(add, context)


def test_a_route_of_a_router_in_a_router_is_looked_at_too(context: Context) -> None:
    def add(router: APIRouter) -> None:
        inner = APIRouter()

        @inner.get("/deep")
        async def forgotten() -> None: ...

        router.include_router(inner)

    assert "/deep" in unmarked(add, context)


def test_a_route_with_two_marks_refuses_the_start(context: Context) -> None:
    def add(router: APIRouter) -> None:
        @router.get("/both", dependencies=[PUBLIC, role("ops")])
        async def undecided() -> None: ...

    assert "/both" in unmarked(add, context)


def test_routes_that_cannot_carry_a_mark_refuse_the_start(context: Context) -> None:
    def bare(router: APIRouter) -> None:
        router.add_route("/bare", lambda request: PlainTextResponse("hello"))

    def mounted(router: APIRouter) -> None:
        router.mount("/sub", PlainTextResponse("hello"))

    assert "/bare" in unmarked(bare, context)
    assert "/sub" in unmarked(mounted, context)


def test_a_web_socket_needs_a_mark(context: Context) -> None:
    def add(router: APIRouter) -> None:
        @router.websocket("/ws")
        async def forgotten() -> None: ...

    assert "/ws" in unmarked(add, context)


def test_static_files_need_none(context: Context, tmp_path: Path) -> None:
    router = APIRouter()
    router.mount("/look", StaticFiles(directory=tmp_path))
    check_routes(create_app(context, router))


@pytest.mark.parametrize("path", ["/v1/cases", "/board", "/v1/introduction"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic eDp5"}])
async def test_a_stranger_gets_401(context: Context, path: str, headers: dict[str, str]) -> None:
    async with browser(context) as client:
        answer = await client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "/problems#not-signed-in"


async def test_a_token_opens_what_its_role_may(context: Context) -> None:
    async with browser(context) as client:
        trainer = await token(context, "trainer")
        assert (await client.get("/v1/cases", headers=trainer)).status_code == 200
        assert (await client.get("/board", headers=trainer)).status_code == 403


async def test_an_expired_token_is_a_strangers(context: Context, clock: ManualClock) -> None:
    async with browser(context) as client:
        coordinator = await token(context, "coordinator")
        await clock.advance(days=366)
        assert (await client.get("/v1/cases", headers=coordinator)).status_code == 401


async def test_a_sign_in_link_is_no_token(context: Context) -> None:
    link = access.new_token()
    await context.store.write(lambda unit: access.issue(unit, "coordinator", "login", link))
    async with browser(context) as client:
        assert (await client.get("/v1/cases", headers={"Authorization": f"Bearer {link}"})).status_code == 401


async def test_no_token_is_stored_as_it_is(context: Context) -> None:
    headers = await token(context, "ops")
    kept = headers["Authorization"].removeprefix("Bearer ").encode()
    await context.store.tidy()
    files = list(context.settings.data.glob("matching.db*"))
    assert files
    assert not any(kept in file.read_bytes() for file in files)


async def test_the_services_know_one_another(context: Context) -> None:
    async with browser(context) as client:
        assert (await client.get("/v1/introduction", headers=context.call_headers())).status_code == 200
        coordinator = await token(context, "coordinator")
        assert (await client.get("/v1/introduction", headers=coordinator)).status_code == 401
        assert (await client.get("/v1/cases", headers=context.call_headers())).status_code == 401


async def test_a_session_counts_as_its_role_for_eight_hours(context: Context, clock: ManualClock) -> None:
    async with browser(context) as client:
        client.cookies.set(COOKIE, AccessControl(context).open_session("coordinator"))
        assert (await client.get("/board")).status_code == 200
        await clock.advance(hours=8)
        assert (await client.get("/board")).status_code == 401


async def test_a_session_of_the_release_before_still_counts(context: Context) -> None:
    text = f"coordinator.{int(context.clock.now().timestamp()) + 60}.Zm9vYmFyYmF6"
    key = derive(context.keys.services_secret.encode(), "session")
    signature = base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).decode().rstrip("=")
    async with browser(context) as client:
        client.cookies.set(COOKIE, f"{text}.{signature}")
        assert (await client.get("/board")).status_code == 200


async def test_a_csrf_field_is_no_session(context: Context) -> None:
    async with browser(context) as client:
        client.cookies.set(COOKIE, AccessControl(context).open_session("coordinator"))
        field = (await client.get("/board")).text
        made = f"csrf {client.cookies[COOKIE]}.{field}"
        client.cookies.clear()
        assert (await client.get("/board", headers=[(b"cookie", f"{COOKIE}={made}".encode())])).status_code == 401


@pytest.mark.parametrize("forged", ["", "coordinator", "coordinator.99999999999.x.AAAA", "a.b.c.d", "é.1.x.é", "...."])
async def test_a_forged_session_is_a_strangers(context: Context, forged: str) -> None:
    async with browser(context) as client:
        cookie = f"{COOKIE}={forged}".encode()
        assert (await client.get("/board", headers=[(b"cookie", cookie)])).status_code == 401


async def test_a_session_may_not_change_its_role(context: Context) -> None:
    good = AccessControl(context).open_session("reporter")
    async with browser(context) as client:
        client.cookies.set(COOKIE, good.replace("reporter", "coordinator"))
        assert (await client.get("/board")).status_code == 401


async def test_a_sessions_form_needs_its_own_csrf_field(context: Context) -> None:
    async with browser(context) as client:
        client.cookies.set(COOKIE, AccessControl(context).open_session("coordinator"))
        field = (await client.get("/board")).text
        assert (await client.post("/v1/cases/x/close", data={})).status_code == 403
        assert (await client.post("/v1/cases/x/close", data={"csrf": "é"})).status_code == 403
        assert (await client.post("/v1/cases/x/close", data={"csrf": field})).status_code == 200
        assert (await client.post("/v1/cases/x/close", headers={"x-csrf": field})).status_code == 200
        client.cookies.set(COOKIE, AccessControl(context).open_session("coordinator"))
        assert (await client.post("/v1/cases/x/close", data={"csrf": field})).status_code == 403


async def test_a_token_needs_no_csrf_field(context: Context) -> None:
    async with browser(context) as client:
        headers = await token(context, "coordinator")
        assert (await client.post("/v1/cases/x/close", headers=headers)).status_code == 200


Send = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
WRONG: dict[str, tuple[int, Send]] = {
    "not json": (422, lambda c: c.post("/v1/things", content=CANARY, headers={"content-type": "application/json"})),
    "no json": (422, lambda c: c.post("/v1/things", content=CANARY)),
    "type": (422, lambda c: c.post("/v1/things", json={"size": CANARY})),
    "choice": (422, lambda c: c.post("/v1/things", json={"size": 1, "colour": CANARY})),
    "reference": (422, lambda c: c.post("/v1/things", json={"size": 1, "ref": CANARY})),
    "key": (422, lambda c: c.post("/v1/things", json={"size": 1, CANARY: 1})),
    "inner key": (422, lambda c: c.post("/v1/things", json={"size": 1, "names": {CANARY: 1}})),
    "form": (422, lambda c: c.post("/m/x", data={CANARY: CANARY})),
    "path": (404, lambda c: c.get(f"/{CANARY}")),
    "method": (405, lambda c: c.delete("/v1/things")),
    "storage": (503, lambda c: c.get("/gone")),
    "fault": (500, lambda c: c.get("/broken")),
    "problem": (409, lambda c: c.get("/refused")),
    "stranger": (401, lambda c: c.get("/board", headers={"Authorization": f"Bearer {CANARY}"})),
}


@pytest.mark.parametrize("case", WRONG)
async def test_every_error_is_a_problem_that_echoes_nothing(context: Context, case: str) -> None:
    status, send = WRONG[case]
    async with browser(context) as client:
        answer = await send(client)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert {"type", "title", "detail"} <= answer.json().keys()
    assert CANARY not in answer.text


async def test_errors_of_a_body_say_place_and_rule(context: Context) -> None:
    async with browser(context) as client:
        answer = await client.post("/v1/things", json={"size": "large", "colour": "red"})
    places = {error["place"]: error["rule"] for error in answer.json()["errors"]}
    assert places == {"body.size": places["body.size"], "body.colour": "Input should be 'grey' or 'green'"}


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 65536):
        yield b"x" * 65536
    yield b"x" * (total % 65536)


@pytest.mark.parametrize("path", ["/v1/raw", "/v1/things", "/m/x"])
async def test_a_body_above_one_mebibyte_is_refused_however_it_comes(context: Context, path: str) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded" if path == "/m/x" else "application/json"}
    async with browser(context) as client:
        whole = await client.post(path, content=b"x" * (MAX_BODY + 1), headers=kind)
        parts = await client.post(path, content=chunks(MAX_BODY + 1), headers=kind)
    assert [whole.status_code, parts.status_code] == [413, 413]
    assert whole.json() == parts.json()
    assert whole.json()["detail"] == "The body is larger than 1 MiB."


async def test_a_body_of_one_mebibyte_is_taken(context: Context) -> None:
    async with browser(context) as client:
        assert (await client.post("/v1/raw", content=chunks(MAX_BODY))).json() == {"bytes": MAX_BODY}


@pytest.mark.parametrize("path", ["/livez", "/nothing-here", "/broken", "/gone", "/board"])
async def test_every_answer_has_the_security_headers(context: Context, path: str) -> None:
    async with browser(context) as client:
        headers = (await client.get(path)).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


async def test_a_route_may_set_its_own_caching(context: Context) -> None:
    router = APIRouter()

    @router.get("/kept", dependencies=[PUBLIC])
    async def kept() -> StreamingResponse:
        return StreamingResponse(iter([b"x"]), headers={"Cache-Control": "max-age=60"})

    transport = httpx.ASGITransport(app=create_app(context, router))
    async with httpx.AsyncClient(transport=transport, base_url="http://leeward.test") as client:
        assert (await client.get("/kept")).headers["cache-control"] == "max-age=60"


async def test_health_says_whether_work_can_be_done_and_why_not(context: Context) -> None:
    reason = ""
    async with browser(context, unready=lambda: reason) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        reason = "consumer_stuck"
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "reason": "consumer_stuck"})
        assert (await client.get("/livez")).status_code == 200


async def test_a_service_that_is_ready_says_what_somebody_should_know(context: Context) -> None:
    notes = ["leeward.incident: numbers_again"]
    async with browser(context, notes=lambda: notes) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "notes": notes})


async def test_a_service_whose_last_write_failed_is_not_ready(context: Context) -> None:
    def fill(unit: Unit) -> None:
        raise StoreUnavailable("OperationalError", "disk_full")

    with pytest.raises(StoreUnavailable):
        await context.store.write(fill)
    async with browser(context) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "disk_full")
        await context.store.probe()
        assert (await client.get("/readyz")).status_code == 200


async def test_metrics_are_open_on_loopback(context: Context) -> None:
    async with browser(context) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert re.search(r"^leeward_", answer.text, re.MULTILINE)
    assert all(line.startswith(("#", "leeward_")) for line in answer.text.splitlines())


@pytest.mark.parametrize("far", [{"LEEWARD_HOST": "0.0.0.0"}, {"LEEWARD_PUBLIC_URL": "https://messages.example"}])
async def test_off_loopback_metrics_need_their_token(context: Context, far: dict[str, str]) -> None:
    secret = "metrics-" + "x" * 24
    for given, sent, status in (({}, "", 401), ({"LEEWARD_METRICS_TOKEN": secret}, secret, 200)):
        settings = load_settings({"LEEWARD_ENV": "test", **far, **given})
        elsewhere = Context(context.name, settings, context.clock, context.store, context.keys, context.http)
        async with browser(elsewhere) as client:
            assert (await client.get("/metrics")).status_code == 401
            headers = {"Authorization": f"Bearer {sent}"}
            assert (await client.get("/metrics", headers=headers)).status_code == status


async def test_the_app_describes_itself(context: Context) -> None:
    async with browser(context) as client:
        described = (await client.get("/openapi.json")).json()
        assert (await client.get("/docs")).status_code == 404
    assert {"/livez", "/readyz", "/metrics", "/v1/cases"} <= described["paths"].keys()


async def test_access_that_has_expired_is_forgotten(context: Context, clock: ManualClock) -> None:
    from leeward.store.retention import Retention

    await context.store.write(lambda unit: access.issue(unit, "ops", "login", "x"))
    await clock.advance(minutes=15, seconds=1)
    await Retention(context.store).once()

    def left(unit: Unit) -> int:
        return len(unit.conn.execute(unit.tables.access.select()).all())

    assert await context.store.write(left) == 0
    assert timedelta(minutes=15) == access.LOGIN_LIFE
