"""A clock that does not believe a leap of more than two days: time then goes on from when it was last trusted (ADR 21).

What would end or be forgotten because a machine woke up two years ahead waits, while everything new goes on. Nobody can
tell such a clock from a site that was off for long, so somebody else's clock, or a person, says which it was.
"""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from leeward import telemetry
from leeward.clock import Clock, first_of

LEAP: Final = timedelta(days=2)
# how far the clock of somebody who bears it out may be from it
WITNESS: Final = timedelta(hours=1)
# seconds by which a clock that is not set may slip without a closer look
SLIP: Final = 1.0
PATIENCE: Final = 5.0  # seconds


class GuardedClock:
    """A clock behind a guard, one a process.

    doubted_at: since when it is doubted, by the time that goes on; None while it is trusted. behind: it shows a time
    long before one that was trusted. confirmed: set once somebody bears it out.
    """

    def __init__(self, inner: Clock) -> None:
        self.doubted_at: datetime | None = None
        self.behind = False
        self.confirmed = asyncio.Event()
        self._believed = asyncio.Event()
        self._trusted = asyncio.Event()
        self._inner = inner
        self._go_on_from(inner.now())

    def now(self) -> datetime:
        """The clock's time while it is trusted, else the last trusted time and what has passed since."""
        shown, steady = self._inner.now(), self._inner.steady()
        if self.doubted_at is None and abs(shown.timestamp() - steady - self._offset) <= SLIP:
            return shown
        expected = self._at + timedelta(seconds=steady - self._steady)
        if shown - expected > LEAP:
            if self.doubted_at is None:
                self._doubt(expected)
            return expected
        if self.doubted_at is not None:
            self._trust("back")
        elif expected - shown > WITNESS:
            self.behind = True
            telemetry.log("clock_set_back", seconds=int((expected - shown).total_seconds()))
        self._go_on_from(shown)
        return shown

    def shown(self) -> datetime:
        """What the clock shows, believed or not."""
        return self._inner.now()

    def steady(self) -> float:
        return self._inner.steady()

    async def sleep(self, seconds: float) -> None:
        """Wait that long, or until the clock is believed again: what is due then is due at once."""
        if self.doubted_at is not None:
            await first_of(self._inner.sleep(seconds), self._trusted.wait())
        else:
            await self._inner.sleep(seconds)

    @property
    def uncertain(self) -> bool:
        """Whether somebody who bears the clock out would change anything."""
        return self.behind or self.doubted_at is not None

    def resume(self, seen_at: datetime) -> None:
        """Take up the last trusted time of before this process."""
        if self._inner.now() - seen_at > LEAP:
            self._go_on_from(seen_at)
            self._doubt(seen_at)
        elif seen_at - self._inner.now() > WITNESS:
            self.behind = True

    async def bear_out(self, moment: datetime) -> None:
        """A clock of somebody else has just given this time: where it bears this one out, wait until it is believed."""
        if not self.uncertain or abs(moment - self._inner.now()) > WITNESS:
            return
        self._believed.clear()
        self.confirmed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._believed.wait()

    def believe(self) -> None:
        """The clock is right, whatever it shows."""
        self._go_on_from(self._inner.now())
        self.behind = False
        self.confirmed.clear()
        self._believed.set()
        if self.doubted_at is not None:
            self._trust("confirmed")

    def _go_on_from(self, moment: datetime) -> None:
        self._at, self._steady = moment, self._inner.steady()
        self._offset = moment.timestamp() - self._steady

    def _doubt(self, since: datetime) -> None:
        self.doubted_at = since
        self._trusted.clear()
        telemetry.CLOCK_DOUBTED.set(1)
        telemetry.log("clock_doubted", seconds=int((self._inner.now() - since).total_seconds()))

    def _trust(self, reason: str) -> None:
        self.doubted_at = None
        self._trusted.set()
        telemetry.CLOCK_DOUBTED.set(0)
        telemetry.log("clock_trusted", reason=reason)


def is_uncertain(clock: Clock) -> bool:
    """Whether it is worth asking what others' clocks show."""
    return isinstance(clock, GuardedClock) and clock.uncertain


async def bear_out(clock: Clock, moment: datetime | None) -> None:
    """Tell a guarded clock a time that somebody else's clock has just given."""
    if moment is not None and isinstance(clock, GuardedClock):
        await clock.bear_out(moment)


def is_doubted(clock: Clock) -> bool:
    """Whether time goes on without the clock now."""
    return isinstance(clock, GuardedClock) and clock.doubted_at is not None


def ahead_by(clock: Clock) -> timedelta:
    """How far a doubted clock is ahead of the time that goes on; zero for one that is trusted."""
    if not isinstance(clock, GuardedClock) or clock.doubted_at is None:
        return timedelta()
    return clock.shown() - clock.now()
