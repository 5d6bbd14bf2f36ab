"""Time is UTC and injected: the system's clock, one that runs faster, and one that tests turn by hand."""

import asyncio
import heapq
import re
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol


class Clock(Protocol):
    """What the time is, and waiting by it."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class ScaledClock:
    """A clock that starts at a given time and runs `rate` times as fast as the machine's."""

    def __init__(self, start: datetime, rate: float = 1.0) -> None:
        self._start = start
        self._rate = rate
        self._origin = time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=(time.monotonic() - self._origin) * self._rate)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self._rate)


class FakeClock:
    """A clock that stands still until it is advanced; sleepers wake in the order of their times."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + timedelta(seconds=seconds), next(self._order), waiting))
        await waiting

    async def advance(self, **span: float) -> None:
        """Move on by a timedelta's keywords, waking every sleeper that falls due on the way."""
        target = self._now + timedelta(**span)
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, waiting = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not waiting.done():
                waiting.set_result(None)
            await asyncio.sleep(0)
        self._now = target
        await asyncio.sleep(0)


async def first_of(*waits: Awaitable[object]) -> None:
    """Wait until one of several is over, and drop the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def parse_clock(text: str) -> tuple[datetime, float]:
    """`2026-11-21T09:00:00Z*60` as (aware UTC start, rate); the rate is 1 where none is given.

    Raises:
        ValueError: saying what is allowed.
    """
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z(?:\*(\d+(?:\.\d+)?))?", text)
    try:
        start = datetime.fromisoformat(found[1]).replace(tzinfo=UTC) if found else None
    except ValueError:
        start = None
    rate = float(found[2] or 1) if found else 0.0
    if start is None or rate <= 0:
        raise ValueError("allowed is a time such as 2026-11-21T09:00:00Z, with *60 behind it for sixty times the speed")
    return start, rate
