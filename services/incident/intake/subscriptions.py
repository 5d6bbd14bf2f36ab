"""What FHIR subscriptions have sent: the last event of each, numbers that never came, and for how long nothing has."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from leeward import telemetry
from leeward.service import Context
from leeward.store import Unit
from leeward.store.periodic import every
from services.incident.intake import repository

MOST: Final = 200  # event numbers that are waited for
LOOK: Final = 60.0
BEHIND: Final = 50  # event numbers; a server that is further behind has begun to count again
OVERLAP: Final = timedelta(minutes=10)  # two clocks differ, and a server may be slow to tell
FIRST: Final = timedelta(days=1)
PATIENCE: Final = 1.5  # times the heartbeat


@dataclass(frozen=True, slots=True)
class Heard:
    """That a subscription was heard, and the numbers of its events; `counted`: how many there were since it began."""

    source: str
    name: str
    numbers: tuple[int, ...] = ()
    counted: int | None = None
    began: bool = False  # a handshake: it counts from there

    @property
    def newest(self) -> int:
        """The last event there has been. What is sent again says how many there are by now, which is no gap."""
        return max(self.numbers) if self.numbers else self.counted or 0

    def missing_since(self, last: int) -> set[int]:
        """Event numbers between the last one heard before and these."""
        return set(range(max(last + 1, self.newest - MOST), self.newest + 1)) - set(self.numbers)


@dataclass(frozen=True, slots=True)
class Noted:
    """By source the time from which on something may have been missed (FHIR); and the sources of which an event was.

    `behind`: what came after later events of its subscription.
    """

    since: dict[str, str]
    gaps: set[str]
    behind: set[Heard]


def record_heard(unit: Unit, heard: Iterable[Heard]) -> Noted:
    """Remember what was heard."""
    noted = Noted({}, set(), set())
    for one in heard:
        row = repository.find_subscription(unit.conn, one.source, one.name)
        last, missing = (row.last_event, {int(number) for number in row.missing.split()}) if row else (0, set())
        if one.began:
            last, missing = one.counted or 0, set()
        if one.numbers and is_behind(one.newest, last):
            noted.behind.add(one)
        # of a subscription never heard of, nothing is known of before
        new = set() if row is None or one.began else one.missing_since(last)
        last = max(last, one.newest)
        missing = (missing | new) - set(one.numbers)
        kept = " ".join(str(number) for number in sorted(missing)[-MOST:])
        repository.replace_subscription(unit.conn, (one.source, one.name, last, kept, unit.now))
        before = f"{row.heard_at - OVERLAP if row else unit.now - FIRST:%Y-%m-%dT%H:%M:%SZ}"
        noted.since[one.source] = min(before, noted.since.get(one.source, before))
        if new:
            noted.gaps.add(one.source)
            unit.after_commit(partial(_report_missing, one.source, len(new)))
    return noted


def is_behind(newest: int, last: int) -> bool:
    """Whether events came after later ones."""
    return last - BEHIND <= newest < last


def _report_missing(source: str, count: int) -> None:
    telemetry.FHIR_MISSED.labels(source).inc(count)
    telemetry.log("fhir_events_missing", source=source, count=count)


class Silence:
    """Watches over the sources that promise to be heard at least every `heartbeat`."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._clock = context.clock
        self._sources = {name: one.heartbeat for name, one in context.settings.sources.items() if one.heartbeat}
        self._began = context.clock.now()
        self.late: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look once a minute until `stop` is set; of replicas each sees what any of them has heard."""
        if self._sources:
            await every(LOOK, self.watch, self._clock)(stop)

    async def watch(self) -> None:
        """Say for how long each is silent, once in the log when that is longer than it should be."""
        heard = await self._store.read(repository.last_heard)
        for source, heartbeat in self._sources.items():
            silent = self._clock.now() - max(heard.get(source, self._began), self._began)
            late = silent > heartbeat * PATIENCE
            telemetry.FHIR_SILENT.labels(source).set(silent.total_seconds())
            telemetry.FHIR_LATE.labels(source).set(late)
            if late and source not in self.late:
                telemetry.log("fhir_heartbeat_missed", source=source, seconds=int(silent.total_seconds()))
            self.late = self.late | {source} if late else self.late - {source}
