"""The loop that fires a service's timers when they are due."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import func, select

from leeward import telemetry
from leeward.clock import first_of
from leeward.store.engine import Store
from leeward.store.group import StoreUnavailable
from leeward.store.timers import BATCH, Timer, TimerHandler, due, fire, postpone, still_due
from leeward.store.unit import Unit

# another process (an import) may set timers without waking us
LOOK_AGAIN: Final = 30.0
IN_OTHER_HANDS: Final = 0.1


class TimerLoop:
    """Fires what is due in one transaction; after a fault one by one, postponing the ones that fail."""

    def __init__(self, service: str, store: Store, handlers: Mapping[str, TimerHandler]) -> None:
        self._service = service
        self._store = store
        self._handlers = handlers
        self._woken = asyncio.Event()
        self._next: datetime | None = None
        store.listeners.append(self._notice)
        for name in handlers:
            # starts at zero, since Prometheus sees no increase in a series that begins at one
            telemetry.TIMERS_FAILED.labels(service, name)

    def _notice(self, unit: Unit) -> None:
        earliest = unit.earliest_timer
        if earliest and (self._next is None or earliest < self._next):
            self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Fire timers until `stop` is set."""
        while not stop.is_set():
            try:
                while (fired := await self.fire_due()) == BATCH:
                    pass
                await self._wait(stop, after=fired)
            except StoreUnavailable:
                await asyncio.sleep(1)

    async def fire_due(self) -> int:
        """Fire at most one batch of due timers; gives how many there were."""
        self._woken.clear()
        earliest = select(func.min(self._store.writes.tables.timer.c.due_at))
        self._next = await self._store.glance(lambda conn: conn.execute(earliest).scalar())
        if self._next is None or self._next > self._store.clock.now():
            return 0

        def fire_all(unit: Unit) -> int:
            timers = due(unit)
            fire(unit, timers, self._handlers)
            return len(timers)

        try:
            return await self._store.write(fire_all)
        except StoreUnavailable:
            raise
        except Exception:
            return await self._one_by_one()

    async def _one_by_one(self) -> int:
        timers: Sequence[Timer] = await self._store.write(due)
        for timer in timers:
            try:
                await self._store.write(lambda unit, timer=timer: fire(unit, still_due(unit, timer), self._handlers))  # type: ignore[misc]
            except StoreUnavailable:
                raise
            except Exception as fault:
                telemetry.TIMERS_FAILED.labels(self._service, timer.name).inc()
                telemetry.log(
                    "timer_failed",
                    service=self._service,
                    timer=timer.name,
                    fault=type(fault).__name__,
                    place=telemetry.place(fault),
                )
                await self._store.write(lambda unit, timer=timer: postpone(unit, timer))  # type: ignore[misc]
        return len(timers)

    async def _wait(self, stop: asyncio.Event, *, after: int) -> None:
        if after == 0 and self._next and self._next <= self._store.clock.now():
            # what is due and could not be had is in another replica's hands for a moment
            await asyncio.sleep(IN_OTHER_HANDS)
        pause = LOOK_AGAIN
        if self._next:
            pause = min(pause, max(0.0, (self._next - self._store.clock.now()).total_seconds()))
        await first_of(stop.wait(), self._woken.wait(), self._store.clock.sleep(pause))
