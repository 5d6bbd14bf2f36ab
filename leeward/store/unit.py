"""The unit of work: one transaction with its time, what it publishes and which timers it sets."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, MetaData, Table, delete, tuple_, update

from leeward.contracts import Event, EventData
from leeward.refs import new_ref
from leeward.store.bulk import Insert
from leeward.store.tables import GroundTables, ground_tables

_OUTBOX: Final = ("id", "type", "key", "body", "accepted_at", "written_on")
_TIMER: Final = ("name", "key", "due_at", "attempts", "set_at")


class GroundWrites:
    """The ground's bulk statements over one service's tables, built once."""

    def __init__(self, metadata: MetaData) -> None:
        self.tables: GroundTables = ground_tables(metadata)
        self.outbox = Insert(self.tables.outbox, _OUTBOX)
        self.timers = Insert(self.tables.timer, _TIMER, conflict="replace", keys=("name", "key"))
        self.key_check = Insert(self.tables.key_check, ("name", "value"), conflict="nothing", keys=("name",))
        self.inbox = Insert(self.tables.inbox, ("event_id", "seen_on"), conflict="nothing", returning=("event_id",))


class Unit:
    """One transaction. Whoever gets one never commits: the store does when the work returns."""

    def __init__(self, conn: Connection, now: datetime, writes: GroundWrites) -> None:
        self.conn = conn
        self.now = now
        self.writes = writes
        self.emitted: list[Event] = []
        self._timers: dict[tuple[str, str], datetime | None] = {}
        self.afterwards: list[Callable[[], None]] = []
        self.erased: list[str] = []

    @property
    def tables(self) -> GroundTables:
        return self.writes.tables

    def emit(self, data: EventData, accepted_at: datetime | None = None, *, key: str | None = None) -> None:
        """Publish an event with this transaction.

        Args:
            accepted_at: when the signal that began the chain was accepted; now where this event begins one.
            key: the case whose order it keeps, where the body does not name it (a cancellation, an outcome).
        """
        self.emitted.append(Event(new_ref(), key or data.key, data, accepted_at or self.now))

    def set_timer(self, name: str, key: str, due_at: datetime) -> None:
        """Set the timer (name, key), or move it."""
        self._timers[name, key] = due_at

    def cancel_timer(self, name: str, key: str) -> None:
        """Make sure that the timer (name, key) does not fire."""
        self._timers[name, key] = None

    def has_decided(self, name: str, key: str) -> bool:
        """Whether this transaction has set, moved or cancelled the timer (name, key)."""
        return (name, key) in self._timers

    def note_erased(self, erasure_hash: str) -> None:
        """Have the list of erasures say so before this transaction commits, so that no copy brings it back."""
        self.erased.append(erasure_hash)

    def conflict_on(self, table: Table, condition: ColumnElement[bool]) -> None:
        """Make a replica that writes one of these rows, or conflicts on one, run again unless it sees this transaction.

        Locking the rows would not do: on PostgreSQL it leaves the second with its snapshot of before the first. So each
        row gets a value that it has. SQLite has one writer at a time, which sees all that was before.
        """
        if self.conn.dialect.name == "postgresql":
            field = next((c for c in table.c if not c.primary_key), table.c[0])
            self.conn.execute(update(table).where(condition).values({field: field}))

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this once the commit has succeeded: for wake-ups in memory, never for anything that must happen."""
        self.afterwards.append(call)

    @property
    def earliest_timer(self) -> datetime | None:
        """When the first of the timers that this transaction sets is due."""
        return min((due for due in self._timers.values() if due), default=None)

    def flush(self) -> None:
        """Write timers and, last of all, the outbox: its order is the order of the locks this transaction took."""
        table = self.tables.timer
        cancelled = [pair for pair, due in self._timers.items() if due is None]
        if cancelled:
            self.conn.execute(delete(table).where(tuple_(table.c.name, table.c.key).in_(cancelled)))
        self.writes.timers.run(self.conn, [(*pair, due, 0, self.now) for pair, due in self._timers.items() if due])
        day = self.now.date()
        rows = [
            (event.id, event.type, event.key, event.data.model_dump_json(exclude_none=True), event.accepted_at, day)
            for event in self.emitted
        ]
        self.writes.outbox.run(self.conn, rows)
