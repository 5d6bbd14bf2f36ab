"""The parts the demonstration is made of: its clock, its browser, and what it calls settled."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from services.demo.play.browser import Browser, NoSuchForm, read_page
from services.demo.world.clock import DemoClock

START = datetime(2026, 11, 24, 13, 45, tzinfo=UTC)
PAGE = """<html><head><title>hidden words</title></head><body><h1>Shown words</h1>
<form method="post"><input type="hidden" name="csrf" value="x1">
  <input type="radio" name="when" value="now"><input type="radio" name="when" value="week">
  <button name="answer" value="accept">Yes</button></form>
<form method="post" action="/other"><button name="answer" value="no_thanks">No</button></form>
<form action="/look"><button name="answer" value="looking">Look</button></form>
<script>var unseen = 1;</script></body></html>"""


async def test_skipped_time_wakes_who_sleeps_in_their_order() -> None:
    clock = DemoClock(START, 60)
    woken: list[tuple[str, int]] = []

    async def sleeper(name: str, hours: float) -> None:
        await clock.sleep(hours * 3600)
        woken.append((name, round((clock.now() - START).total_seconds() / 3600)))

    tasks = [asyncio.create_task(sleeper(name, hours)) for name, hours in (("night", 10), ("noon", 1), ("far", 900))]
    await asyncio.sleep(0)
    await clock.skip(timedelta(hours=12))
    assert woken == [("noon", 1), ("night", 10)]
    assert clock.now() - START >= timedelta(hours=12)
    for task in tasks:
        task.cancel()


async def test_time_goes_on_only_when_everybody_is_done() -> None:
    clock = DemoClock(START, 1)
    looks: list[datetime] = []

    async def settled() -> bool:
        looks.append(clock.now())
        return len(looks) % 3 == 0

    clock.settled = settled
    await clock.skip(timedelta(minutes=30))
    steps = [round((moment - START).total_seconds() / 60) for moment in looks]
    assert steps[:6] == [0, 0, 0, 15, 15, 15]


def page(text: str = PAGE) -> httpx.Response:
    return httpx.Response(200, text=text, request=httpx.Request("GET", "http://127.0.0.1:1/m/abc"))


def test_a_page_is_read_as_a_person_would() -> None:
    read = read_page(page())
    assert read.text == "Shown words Yes No Look"
    assert read.answers() == ["accept", "no_thanks", "looking"]
    assert read.forms[0].hidden == [("csrf", "x1")]
    assert read.forms[0].choices["when"] == ["now", "week"]


async def test_only_what_the_page_offers_can_be_chosen() -> None:
    browser = Browser()
    for answer, fields in (("talk_now", {}), ("accept", {"when": "never"}), ("looking", {})):
        with pytest.raises(NoSuchForm):
            await browser.choose(read_page(page()), answer, **fields)
    await browser.close()


async def test_hidden_fields_go_back_with_the_form() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(303, headers={"location": "https://box.example/keep#secret"})

    browser = Browser()
    browser._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    led = await browser.choose(read_page(page()), "accept", when="week")
    await browser.close()
    assert [(request.method, str(request.url)) for request in sent] == [("POST", "http://127.0.0.1:1/m/abc")]
    assert sorted(sent[0].content.decode().split("&")) == ["answer=accept", "csrf=x1", "when=week"]
    assert led.location == "https://box.example/keep#secret", "and nobody was sent what is behind the #"
