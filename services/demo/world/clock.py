"""A clock that runs faster than the wall's, lets hours and days pass at once, and is the same in several processes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Self

from leeward.clock import first_of

LARGEST: Final = timedelta(hours=6)
SMALLEST: Final = timedelta(minutes=15)
BREATH: Final = 0.02  # seconds of the wall between two looks
PATIENCE: Final = 10.0  # seconds of the wall; what is not done by then is stuck for a reason of its own


async def at_once() -> bool:
    """For a clock with nobody to wait for."""
    return True


class DemoClock:
    """`leeward.clock.Clock`, `rate` times as fast as the machine's, with time to skip.

    `settled` is waited for before time goes on; `followers` are called with the new setting whenever it was skipped.
    """

    def __init__(self, start: datetime, rate: float) -> None:
        self.rate = rate
        self.settled: Callable[[], Awaitable[bool]] = at_once
        self.followers: list[Callable[[str], None]] = []
        # what it would have shown when the machine's monotonic clock stood at zero
        self._zero = start - timedelta(seconds=time.monotonic() * rate)
        self._moved = asyncio.Event()

    @classmethod
    def set_to(cls, setting: str) -> Self:
        """A clock that shows the same as the one with this setting, in any process of this machine."""
        zero, rate = setting.split()
        clock = cls(datetime.fromisoformat(zero), float(rate))
        clock.follow(setting)
        return clock

    @property
    def setting(self) -> str:
        """One line for `set_to` and `follow`: the machine's monotonic clock is the same for all its processes."""
        return f"{self._zero.isoformat()} {self.rate}"

    def follow(self, setting: str) -> None:
        """Show what the clock with this setting does, and wake whoever sleeps."""
        self._zero = datetime.fromisoformat(setting.partition(" ")[0])
        self._wake()

    def now(self) -> datetime:
        return self._zero + timedelta(seconds=time.monotonic() * self.rate)

    def steady(self) -> float:
        # what is skipped has passed
        return self.now().timestamp()

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
            self._zero += min(step, left)
            self._wake()
            for tell in self.followers:
                tell(self.setting)
        await self._settle()

    async def skip_to(self, moment: datetime) -> None:
        """Let time pass until then."""
        await self.skip(max(timedelta(), moment - self.now()))

    async def _settle(self) -> None:
        """Wait for whoever has something to do at this hour."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            await asyncio.sleep(BREATH)
            if await self.settled():
                return

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
