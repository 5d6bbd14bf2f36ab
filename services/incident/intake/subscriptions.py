"""What FHIR subscriptions have sent: the last event of each, numbers that never came, and for how long nothing has."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from sqlalchemy import func, select

from leeward import telemetry
from leeward.service import Context
from leeward.store import Insert, Unit
from leeward.store.periodic import every
from services.incident.models import SubscriptionRow, table_of

SUBSCRIPTION: Final = table_of(SubscriptionRow)
MOST: Final = 200  # event numbers that are waited for
LOOK: Final = 60.0
BEHIND: Final = 50  # event numbers; a server that is further behind has begun to count anew
OVERLAP: Final = timedelta(minutes=10)  # two clocks differ, and a server may be slow to tell
FIRST: Final = timedelta(days=1)
PATIENCE: Final = 1.5  # times the heartbeat
_COLUMNS: Final = ("source", "name", "last_event", "missing", "heard_at")
_ROWS: Final = Insert(SUBSCRIPTION, _COLUMNS, conflict="replace", keys=("source", "name"))


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
        row = unit.conn.execute(
            select(SUBSCRIPTION).where(SUBSCRIPTION.c.source == one.source, SUBSCRIPTION.c.name == one.name)
        ).one_or_none()
        last, missing = (row.last_event, {int(number) for number in row.missing.split()}) if row else (0, set())
        if one.began:
            last, missing = one.counted or 0, set()
        if one.numbers and is_behind(one.newest, last):
            noted.behind.add(one)
        new = _missing(one, last, known=row is not None)
        last = max(last, one.newest)
        missing = (missing | new) - set(one.numbers)
        kept = " ".join(str(number) for number in sorted(missing)[-MOST:])
        _ROWS.run(unit.conn, [(one.source, one.name, last, kept, unit.now)])
        before = f"{row.heard_at - OVERLAP if row else unit.now - FIRST:%Y-%m-%dT%H:%M:%SZ}"
        noted.since[one.source] = min(before, noted.since.get(one.source, before))
        if new:
            noted.gaps.add(one.source)
            unit.after_commit(partial(_tell, one.source, len(new)))
    return noted


def is_behind(newest: int, last: int) -> bool:
    """Whether events came after later ones."""
    return last - BEHIND <= newest < last


def _missing(one: Heard, last: int, *, known: bool) -> set[int]:
    """Numbers between the last event and these; of a subscription never heard of, nothing is known of before."""
    if not known or one.began:
        return set()
    return set(range(max(last + 1, one.newest - MOST), one.newest + 1)) - set(one.numbers)


def _tell(source: str, count: int) -> None:
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
            await every(LOOK, self.once, self._clock)(stop)

    async def once(self) -> None:
        """Say for how long each is silent, once in the log when that is longer than it should be."""
        query = select(SUBSCRIPTION.c.source, func.max(SUBSCRIPTION.c.heard_at)).group_by(SUBSCRIPTION.c.source)
        rows = await self._store.read(lambda conn: conn.execute(query).all())
        heard = {row[0]: row[1] for row in rows}
        for source, heartbeat in self._sources.items():
            silent = self._clock.now() - max(heard.get(source, self._began), self._began)
            late = silent > heartbeat * PATIENCE
            telemetry.FHIR_SILENT.labels(source).set(silent.total_seconds())
            telemetry.FHIR_LATE.labels(source).set(late)
            if late and source not in self.late:
                telemetry.log("fhir_heartbeat_missed", source=source, seconds=int(silent.total_seconds()))
            self.late = self.late | {source} if late else self.late - {source}
