"""After 72 hours of the clock a day's key, and what it sealed, are in no byte of the database's files."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from leeward.store.retention import Retention
from leeward.store.timing import TimerLoop
from leeward.testing import ManualClock, eventually
from services.incident import SERVICE
from services.incident.replay.replay import Replay
from tests.databases import content
from tests.services.incident.conftest import Desk, death
from tests.services.incident.sources.test_api import REPORT, SAFETY

# longer than a page, so that it spills into others
LONG = "x" * 30_000


@pytest_asyncio.fixture
async def running(desk: Desk) -> AsyncIterator[Desk]:
    """The service with its timers and its retention, as the runtime runs them; no port is opened."""
    parts = SERVICE.build(desk.context)
    stop = asyncio.Event()
    work: list[Any] = [Retention(desk.context.store, *parts.retention).run(stop)]
    loop = TimerLoop("incident", desk.context.store, parts.timers)
    tasks = [asyncio.create_task(one) for one in (*work, loop.run(stop))]
    yield desk
    stop.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def secrets_of(desk: Desk) -> list[bytes]:
    """What must be gone: the keys as they are stored, and the beginning, middle and end of every sealed message."""
    sealed = [row.sealed for row in await desk.rows("raw_message")]
    parts = [text[place : place + 48] for text in sealed for place in (0, len(text) // 2, len(text) - 48)]
    keys = [part for row in await desk.rows("day_key") for part in (row.sealed, row.key_ref)]
    return [one.encode() for one in (*keys, *parts)]


async def left(desk: Desk, wanted: list[bytes]) -> list[bytes]:
    found = await content(desk.context.store)
    return [one for one in wanted if one in found]


@pytest.mark.database("sqlite")
async def test_after_72_hours_no_byte_of_them_is_left(
    running: Desk, web: httpx.AsyncClient, clock: ManualClock
) -> None:
    await running.send(death(NTE_3=LONG))
    assert (await web.post("/v1/incidents", headers=SAFETY, content=json.dumps(REPORT))).status_code == 202
    old = await secrets_of(running)
    assert len(old) == 2 + 2 * 3
    for _ in range(70):
        await clock.advance(hours=1)
        await asyncio.sleep(0.01)
    await clock.advance(minutes=90)  # so that no hourly round falls on the very hour
    await asyncio.sleep(0.1)
    await running.send(death(ident="2", PID_3="2^^^HOSP", NTE_3=LONG))
    await clock.advance(minutes=29)
    assert await left(running, old) == old, "until then they can be replayed"
    new = [one for one in await secrets_of(running) if one not in old]

    async def gone() -> bool:
        await asyncio.sleep(0.02)
        return await left(running, old) == []

    # the very minute, and not when the hourly round comes
    await clock.advance(minutes=1)
    await eventually(gone)
    assert await left(running, new) == new
    assert len(await running.rows("raw_message")) == 1


@pytest.mark.database("sqlite", "postgresql")
async def test_and_nothing_of_that_day_can_be_replayed(running: Desk, clock: ManualClock) -> None:
    await running.send(death())

    async def kept() -> dict[str, Any]:
        context, now = running.context, clock.now()
        one = Replay(context.store, context.settings, context.keys, "ehr")
        found = await one.run(now.replace(year=2025), now, dry_run=True)
        return {"messages": found.messages, "oldest": found.oldest_key}

    began = clock.now()
    await clock.advance(hours=71)
    assert await kept() == {"messages": 1, "oldest": began}
    await clock.advance(hours=1)

    async def gone() -> bool:
        return await kept() == {"messages": 0, "oldest": None}

    await eventually(gone)
