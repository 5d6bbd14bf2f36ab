"""A process of the chaos run: `python -m tests.chaos.process up`, or `run SERVICE…`, as `leeward` would be called.

What is planted comes by the environment: CHAOS_POINT (`name:passage`) and CHAOS_HITS (a file) for the fail-point at
which it dies, CHAOS_BUG for a bug, CHAOS_CLOCK (`START*RATE@ORIGIN`) for one clock that all processes share over their
restarts; ORIGIN is seconds of the machine's monotonic clock.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from leeward import settings
from leeward.bus import kafka
from leeward.clock import ScaledClock, parse_clock
from leeward.store import retention
from services import __main__ as command
from services.notify.delivery import recovery
from tests.chaos import bugs, points

LOOK: Final = 0.5
SESSION: Final = 6.0  # the least that a broker allows
TIDY: Final = 30.0  # hospital's seconds


class SharedClock(ScaledClock):
    """The same time in every process that is given the same origin."""

    def __init__(self, start: datetime, rate: float, origin: float) -> None:
        super().__init__(start, rate)
        self._origin = origin


def hurry() -> None:
    """What else the product waits for goes faster too: who died is missed sooner, the log tidied sooner."""
    recovery.LOOK = LOOK  # type: ignore[misc]
    kafka.SESSION = SESSION  # type: ignore[misc]
    retention.EVERY = TIDY  # type: ignore[misc]


def plant(given: Mapping[str, str]) -> None:
    """Put what the environment asks for around the product."""
    hurry()
    if clock := given.get("CHAOS_CLOCK"):
        text, _, origin = clock.partition("@")
        start, rate = parse_clock(text)
        shared = SharedClock(start, rate, float(origin))
        setattr(settings, "ScaledClock", lambda *_given: shared)  # noqa: B010 the product gives it out to nobody
    if bug := given.get("CHAOS_BUG"):
        bugs.BUGS[bug]()
    if point := given.get("CHAOS_POINT"):
        name, _, passage = point.partition(":")
        points.install(points.BY_NAME[name], points.deadly(name, int(passage), Path(given["CHAOS_HITS"])))


def main() -> None:
    """Plant, then run the command."""
    plant(os.environ)
    command.main()


if __name__ == "__main__":
    main()
