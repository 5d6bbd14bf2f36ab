"""A clock that runs faster than the wall's, and that can let hours and days pass at once."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from leeward.clock import ScaledClock, first_of

LARGEST: Final = timedelta(days=1)
SMALLEST: Final = timedelta(minutes=15)
BREATH: Final = 0.02  # seconds of the wall between two steps, for what falls due on the way


class DemoClock:
    """`leeward.clock.Clock`, `rate` times as fast as the machine's, with time to skip."""

    def __init__(self, start: datetime, rate: float) -> None:
        self.rate = rate
        self._scaled = ScaledClock(start, rate)
        self._ahead = timedelta()
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self._scaled.now() + self._ahead

    async def sleep(self, seconds: float) -> None:
        due = self.now() + timedelta(seconds=max(0.0, seconds))
        while (left := (due - self.now()).total_seconds()) > 0:
            await first_of(asyncio.sleep(left / self.rate), self._moved.wait())

    async def skip(self, span: timedelta, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let a span pass, in steps small enough that what falls due on the way happens in its order.

        Args:
            until: looked at after every step; stops where it is true.
        """
        step = min(max(span / 48, SMALLEST), LARGEST)
        end = self.now() + span
        while self.now() < end and not until():
            self._ahead += min(step, end - self.now())
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
            await asyncio.sleep(BREATH)

    async def skip_to(self, moment: datetime) -> None:
        """Let time pass until then."""
        await self.skip(max(timedelta(), moment - self.now()))
