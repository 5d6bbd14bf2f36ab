"""Keeps the last trusted time in every database of a process, and puts stored times right when the clock is."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import Connection, inspect

from leeward.clock import first_of
from leeward.store.engine import Store
from leeward.store.group import StoreUnavailable
from leeward.store.tables import GroundTables
from leeward.store.unit import Unit
from leeward.timekeeping.guard import LEAP, WITNESS, GuardedClock
from leeward.timekeeping.last_seen import LastSeen, read_last_seen, write_last_seen
from leeward.timekeeping.moments import (
    Moments,
    begin_short_timers_again,
    ground_moments,
    move_back,
    move_forward,
)

# seconds: a commit a minute costs nothing; whoever says that the clock is right is heard soon
EVERY: Final = 60.0
WHILE_UNCERTAIN: Final = 2.0
# seconds of the clock, for one that runs fast
OFTEN: Final = 3600.0
LEAST: Final = 0.5


class Kept(NamedTuple):
    """One service's database, and its tables' times that were reckoned from now."""

    store: Store
    moments: Sequence[Moments]


class Timekeeper:
    """One a process: all its services live by one clock."""

    def __init__(self, clock: GuardedClock) -> None:
        self._clock = clock
        self._kept: dict[str, Kept] = {}

    async def take_up(self, name: str, kept: Kept) -> None:
        """Take up a service's last trusted time, before anything of it goes by the clock.

        Raises:
            StoreUnavailable: when it cannot be read.
        """
        if name not in self._kept:
            seen = await kept.store.read(lambda conn: read_last_seen(conn, kept.store.writes.tables))
            self._kept[name] = kept
            if seen:
                # what was set before the end may be younger by as much as lies between two notes
                self._clock.resume(seen.seen_at + timedelta(seconds=EVERY))

    async def run(self, stop: asyncio.Event) -> None:
        """Note the time until `stop` is set, and once more then."""
        while not stop.is_set():
            await self.look()
            pause = asyncio.sleep(WHILE_UNCERTAIN if self._clock.uncertain else EVERY)
            await first_of(stop.wait(), pause, self._clock.confirmed.wait(), self._clock.sleep(OFTEN))
            if not self._clock.confirmed.is_set():
                await first_of(stop.wait(), self._clock.confirmed.wait(), asyncio.sleep(LEAST))
        await self.look()

    async def look(self) -> None:
        """Note the time in every database; where somebody has borne the clock out, put times right and believe it."""
        self._clock.now()
        if self._clock.uncertain and await self._is_borne_out():
            for kept in self._kept.values():
                await self._write(kept, lambda unit, moments: stand_by(unit, moments, self._clock.shown()))
            self._clock.believe()
        else:
            for kept in self._kept.values():
                await self._write(kept, self._note)

    async def _write(self, kept: Kept, work: Callable[[Unit, Sequence[Moments]], None]) -> None:
        # a database that is away is looked at again
        with suppress(StoreUnavailable):
            await kept.store.write(lambda unit: work(unit, kept.moments))

    async def _is_borne_out(self) -> bool:
        """By a source, or by the time that another process, or a command, has noted."""
        if self._clock.confirmed.is_set():
            return True
        shown = self._clock.shown()
        for kept in self._kept.values():
            tables = kept.store.writes.tables
            with suppress(StoreUnavailable):
                seen = await kept.store.read(lambda conn, tables=tables: read_last_seen(conn, tables))  # type: ignore[misc]
                if seen and not seen.doubted_at and abs(shown - seen.seen_at) <= WITNESS:
                    return True
        return False

    def _note(self, unit: Unit, moments: Sequence[Moments]) -> None:
        """Store the time that goes on.

        One that is long behind the last is not stored: which of the two was wrong, nobody knows yet.
        """
        now, seen = unit.now, read_last_seen(unit.conn, unit.tables)
        if seen and seen.seen_at - now > WITNESS:
            self._clock.behind = True
            begin_short_timers_again(unit.conn, unit.tables, now)
            return
        if self._clock.doubted_at is None:
            self._clock.behind = False
            if seen and seen.doubted_at and now - seen.seen_at > WITNESS:
                # it came back, and is ahead by less than a leap
                everything = [*ground_moments(unit.tables), *moments]
                move_forward(unit.conn, everything, seen.doubted_at, now - seen.seen_at)
        write_last_seen(unit.conn, unit.tables, LastSeen(now, self._clock.doubted_at))


def stand_by(unit: Unit, moments: Sequence[Moments], shown: datetime) -> None:
    """The clock shows the right time: store it as trusted, and put right what was reckoned from another.

    The unit's own time is the one that has gone on meanwhile.
    """
    everything, seen = [*ground_moments(unit.tables), *moments], read_last_seen(unit.conn, unit.tables)
    if seen and seen.doubted_at and shown - unit.now > WITNESS:
        move_forward(unit.conn, everything, seen.doubted_at, shown - unit.now)
    elif not seen or shown - seen.seen_at <= LEAP:
        move_back(unit.conn, everything, shown)
    write_last_seen(unit.conn, unit.tables, LastSeen(shown, None))


def time_of(conn: Connection, tables: GroundTables, shown: datetime) -> datetime:
    """What a command goes by beside services that do not believe the clock."""
    if not inspect(conn).has_table(tables.last_seen.name):
        return shown
    seen = read_last_seen(conn, tables)
    return seen.seen_at if seen and shown - seen.seen_at > LEAP else shown
