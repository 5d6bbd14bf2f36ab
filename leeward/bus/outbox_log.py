"""One producer's outbox as a log: read by the driver alone, over a connection that cannot write."""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from leeward.bus import BusUnavailable, Raw
from leeward.bus.logs import Place
from leeward.store.sqlite import sqlite_connection

# with the event at the place itself, by whose id the log shows that it is still the one that was read; of what was
# passed under an earlier identity only what the inbox still knows
_FROM: Final = """
SELECT seq, id, type, key, CASE WHEN seq > :place THEN body END, accepted_at FROM outbox
WHERE seq >= :place AND (seq > :passed OR written_on >= :since OR seq = :place) ORDER BY seq LIMIT :limit
"""
_SELF: Final = "SELECT identity, forgotten_seq, forgotten_id FROM log"
_AT: Final = "SELECT id FROM outbox WHERE seq = ?"
_ENDS: Final = "SELECT (SELECT min(seq) FROM outbox), (SELECT max(seq) FROM outbox)"
_OLDEST: Final = "SELECT min(written_on) FROM outbox"
_STORED: Final = "SELECT seq, log, event_id FROM position WHERE topic = ?"


class LogChanged(Exception):
    """The log is not the one that was read up to this place; `why` is a code, and `identity` who the log is now."""

    def __init__(self, why: str, identity: str) -> None:
        super().__init__(why)
        self.why = why
        self.identity = identity


class Log:
    """One producer's outbox; it is asked often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: sqlite3.Connection | None = None
        self._opened: tuple[int | None, ...] = ()
        self._wakers: list[asyncio.Event] = []
        self.identity = ""

    def after(self, place: Place, limit: int, inbox_since: date = date.min) -> list[Raw]:
        """At most `limit` events after a place, in their order.

        Args:
            inbox_since: of what was passed before the log was begun again, events of before that day are left out.

        Raises:
            LogChanged: when the log does not go on from there; BusUnavailable: when it cannot be read now.
        """
        with self._reading():
            found = self._events(place, limit, inbox_since)
            if not found and self._is_replaced():
                self.close()
                found = self._events(place, limit, inbox_since)
            return found

    def _events(self, place: Place, limit: int, inbox_since: date) -> list[Raw]:
        reader = self._connected()
        values = {"place": place.seq, "limit": limit + 1, "passed": place.passed, "since": inbox_since.isoformat()}
        rows = reader.execute(_FROM, values).fetchall()
        at_place = place.seq > 0 and rows and rows[0][:2] == (place.seq, place.event_id)
        if place.seq and not (at_place and place.log == self.identity):
            self._require(place)
        return [
            Raw(seq, event_id, event_type, key, body, datetime.fromisoformat(at).replace(tzinfo=UTC))
            for seq, event_id, event_type, key, body, at in rows[1 if at_place else 0 :][:limit]
        ]

    def _require(self, place: Place) -> None:
        """See that the log goes on from a place whose event it may have forgotten.

        Raises:
            LogChanged: when it does not.
        """
        if why := self._difference(place):
            raise LogChanged(why, self.identity)

    def _difference(self, place: Place) -> str:
        reader = self._connected()
        self.identity, forgotten_seq, forgotten_id = reader.execute(_SELF).fetchone()
        if place.log != self.identity:
            return "restored" if place.log else "unnamed"
        found = reader.execute(_AT, (place.seq,)).fetchone()
        if (found and found[0] == place.event_id) or (forgotten_seq, forgotten_id) == (place.seq, place.event_id):
            return ""
        if place.seq < forgotten_seq:
            return "gone"
        return "numbers_again" if found else "beyond_end"

    def goes_on_from(self, place: Place) -> bool:
        """Whether a place is one in this log as it is now.

        Raises:
            BusUnavailable: when nobody can tell now.
        """
        with self._reading():
            return place.seq == 0 or not self._difference(place)

    def has_forgotten(self) -> bool:
        """Whether events that a new reader would have been given are gone.

        Raises:
            BusUnavailable: when nobody can tell now.
        """
        with self._reading():
            return bool(self._connected().execute(_SELF).fetchone()[1])

    def waiting(self, place: Place) -> int:
        """About how many there are after a place: all, where the log does not go on from there.

        Raises:
            BusUnavailable: when nobody can tell now.
        """
        with self._reading():
            if self._reader is not None and self._is_replaced():
                self.close()
            first, last = self._connected().execute(_ENDS).fetchone()
            if last is None:
                return 0
            return int(last - (place.seq if self.goes_on_from(place) else first - 1))

    def oldest(self) -> date | None:
        """The day on which its oldest event was written; None where it is empty.

        Raises:
            BusUnavailable: when nobody can tell now.
        """
        with self._reading():
            found = self._connected().execute(_OLDEST).fetchone()
            return date.fromisoformat(found[0]) if found[0] else None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as fault:
            self.close()
            raise BusUnavailable(type(fault).__name__) from fault

    def _connected(self) -> sqlite3.Connection:
        if self._reader is None:
            before = self._files()
            self._reader = sqlite_connection(self.path, read_only=True)
            self.identity = self._reader.execute(_SELF).fetchone()[0]
            # what was put there meanwhile is noticed at the next look
            self._opened = (before[0], self._files()[1])
        return self._reader

    def _files(self) -> tuple[int | None, int | None]:
        """Which files the path and its write-ahead log are: a copy that is put back is another one."""
        return os.stat(self.path).st_ino, _number(Path(f"{self.path}-wal"))

    def _is_replaced(self) -> bool:
        return self._files() != self._opened

    def waker(self) -> asyncio.Event:
        waker = asyncio.Event()
        self._wakers.append(waker)
        return waker

    def wake(self) -> None:
        for waker in self._wakers:
            waker.set()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _number(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def stored_place(path: Path, topic: str) -> Place | None:
    """How far the service whose database this is has read a topic; None where it has not begun, or nobody can tell."""
    if not path.exists():
        return None
    try:
        with closing(sqlite_connection(path, read_only=True)) as reader:
            row: Any = reader.execute(_STORED, (topic,)).fetchone()
    except sqlite3.Error:
        return None
    return Place(*row) if row else None
