"""A sign-in link works once, for the browser that presses the button, and says so kindly afterwards."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy import MetaData

from leeward.service import Context
from leeward.settings import ServiceName, Settings
from leeward.testing import ManualClock
from leeward.web.access import COOKIE, issue, new_token, role
from leeward.web.app import create_app
from leeward.web.login import login_router

MakeContext = Callable[[ServiceName, MetaData], Context]
CODE: Final = new_token()


@pytest.fixture
async def context(make_context: MakeContext) -> Context:
    made = make_context("matching", MetaData())
    await made.store.write(lambda unit: issue(unit, "coordinator", "login", CODE))
    return made


def browser(context: Context) -> httpx.AsyncClient:
    board = APIRouter()

    @board.get("/", dependencies=[role("coordinator")])
    async def index() -> dict[str, str]:
        return {"board": "shown"}

    router = APIRouter()
    router.include_router(login_router(context))
    router.include_router(board)
    transport = httpx.ASGITransport(create_app(context, router))
    return httpx.AsyncClient(transport=transport, base_url=context.settings.url("matching"))


@pytest.fixture
async def visitor(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(context) as client:
        yield client


async def test_looking_changes_nothing_and_one_press_opens_the_board(visitor: httpx.AsyncClient) -> None:
    for _ in range(3):
        page = await visitor.get(f"/login/{CODE}")
        assert page.status_code == 200
        assert '<form method="post">' in page.text
    assert (await visitor.get("/")).status_code == 401

    pressed = await visitor.post(f"/login/{CODE}")

    assert pressed.status_code == 303
    assert pressed.headers["location"] == "/"
    cookie = pressed.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=coordinator.")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert (await visitor.get("/")).json() == {"board": "shown"}


async def test_a_used_link_and_a_made_up_one_end_the_same_way(visitor: httpx.AsyncClient) -> None:
    await visitor.post(f"/login/{CODE}")
    visitor.cookies.clear()
    for answer in (
        await visitor.post(f"/login/{CODE}"),
        await visitor.get(f"/login/{CODE}"),
        await visitor.post("/login/made-up"),
    ):
        assert answer.status_code == 401
        assert "This link has ended" in answer.text
        assert "set-cookie" not in answer.headers


async def test_after_fifteen_minutes_the_link_is_over(visitor: httpx.AsyncClient, clock: ManualClock) -> None:
    await clock.advance(minutes=16)
    assert (await visitor.get(f"/login/{CODE}")).status_code == 401
    assert (await visitor.post(f"/login/{CODE}")).status_code == 401


async def test_the_session_is_secure_exactly_where_links_are_https(context: Context, settings: Settings) -> None:
    public = settings.model_copy(update={"variables": {"PUBLIC_URL": "https://pages.example.org"}})
    async with browser(replace(context, settings=public)) as visitor:
        answer = await visitor.post(f"/login/{CODE}")
    assert "Secure" in answer.headers["set-cookie"]


async def test_an_api_token_is_no_sign_in_link(context: Context, visitor: httpx.AsyncClient) -> None:
    token = new_token()
    await context.store.write(lambda unit: issue(unit, "coordinator", "token", token))
    assert (await visitor.post(f"/login/{token}")).status_code == 401
