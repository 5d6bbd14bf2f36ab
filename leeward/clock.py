"""Time is UTC and injected: the system's clock, one that runs faster, and one that stands still."""

import asyncio
import re
import time
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol


class Clock(Protocol):
    """What the time is, and waiting by it."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...

    def steady(self) -> float:
        """Seconds of this clock since some moment, whatever it is set to meanwhile."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds of this clock."""
        ...


# one that goes on while the machine sleeps, where there is one: sleep is no leap
_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def steady(self) -> float:
        return time.clock_gettime(_STEADY)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class ScaledClock:
    """A clock that starts at a given time and runs `rate` times as fast as the machine's."""

    def __init__(self, start: datetime, rate: float = 1.0) -> None:
        self._start = start
        self._rate = rate
        self._origin = time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.steady())

    def steady(self) -> float:
        return (time.monotonic() - self._origin) * self._rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self._rate)


class FixedClock:
    """Always the same time, for what is computed again as of then; nobody can wait by it."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at

    def steady(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise RuntimeError(f"a clock that stands still was asked to wait {seconds} s")


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
