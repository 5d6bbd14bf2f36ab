"""A clock that runs faster than the wall's, and that can let hours and days pass at once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from leeward.clock import ScaledClock, first_of

LARGEST: Final = timedelta(hours=6)
SMALLEST: Final = timedelta(minutes=15)
BREATH: Final = 0.02  # seconds of the wall between two looks
PATIENCE: Final = 100  # looks; what is not done by then is stuck for a reason of its own


async def at_once() -> bool:
    """For a clock with nobody to wait for."""
    return True


class DemoClock:
    """`leeward.clock.Clock`, `rate` times as fast as the machine's, with time to skip."""

    def __init__(self, start: datetime, rate: float) -> None:
        self.rate = rate
        self.settled: Callable[[], Awaitable[bool]] = at_once
        self._scaled = ScaledClock(start, rate)
        self._ahead = timedelta()
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self._scaled.now() + self._ahead

    async def sleep(self, seconds: float) -> None:
        due = self.now() + timedelta(seconds=max(0.0, seconds))
        while (left := (due - self.now()).total_seconds()) > 0:
            await first_of(asyncio.sleep(left / self.rate), self._moved.wait())

    async def skip(self, span: timedelta) -> None:
        """Let a span pass, in steps small enough that what falls due on the way happens in its order."""
        step = min(max(span / 48, SMALLEST), LARGEST)
        end = self.now() + span
        while (left := end - self.now()) > timedelta():
            await self._settle()
            self._ahead += min(step, left)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
        await self._settle()

    async def _settle(self) -> None:
        """Wait for whoever has something to do at this hour."""
        for _ in range(PATIENCE):
            await asyncio.sleep(BREATH)
            if await self.settled():
                return

    async def skip_to(self, moment: datetime) -> None:
        """Let time pass until then."""
        await self.skip(max(timedelta(), moment - self.now()))
