"""Work that comes again: at intervals, and after faults."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from leeward.clock import Clock, first_of
from leeward.store.group import StoreUnavailable

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0


def back_off(faults: int, first: float, longest: float, factor: float = 2.0) -> float:
    """How long to wait after so many faults in a row: `first`, then `factor` times as long each time, up to `longest`.

    In the unit of `first`; the first fault is 1.
    """
    # after a hundred faults the power would be beyond what a float holds
    return min(longest, first * factor ** min(faults - 1, 100))


def every(
    interval: float, work: Callable[[], Awaitable[object]], clock: Clock, wake: asyncio.Event | None = None
) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    """A task that does this work at the start, after each `interval` of the clock's seconds, and when `wake` is set.

    Work that gives False, or finds the database away, is done again soon, by the machine's clock.
    """

    async def run(stop: asyncio.Event) -> None:
        faults = 0
        while not stop.is_set():
            if wake:
                wake.clear()
            try:
                done = await work() is not False
            except StoreUnavailable:
                done = False
            faults = 0 if done else faults + 1
            soon = min(interval, back_off(faults, _FIRST_PAUSE, _LONGEST_PAUSE))
            pause = clock.sleep(interval) if done else asyncio.sleep(soon)
            await first_of(stop.wait(), pause, *([wake.wait()] if wake else ()))

    return run
