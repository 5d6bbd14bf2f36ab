"""Dead letters: listed, tried again or dropped by hand, and gone by themselves when what they are about has ended.

None is deleted unseen: after seven days of its content nothing is kept but the type, the fault's class and its place.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, case, delete, func, select

from leeward.contracts import EVENTS, CaseErased, Event, EventData, IncidentRetracted, MessageCancelled
from leeward.store import Unit

DEAD: Final = 1
DROPPED: Final = 2  # until the service has logged it
ENDS_ITS_KEY: Final = frozenset({IncidentRetracted.type, CaseErased.type})
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
ENDINGS: Final = ENDS_ITS_KEY | {MessageCancelled.type}


def letters(conn: Connection, table: Table, seqs: Collection[int] | None = None) -> Sequence[Row[Any]]:
    """What is dead or waits, in the order in which it came: all without their bodies, or these with them.

    `first` is true where nothing waits under the same key before it.
    """
    firsts = select(func.min(table.c.seq)).where(table.c.dead == 0).group_by(table.c.key)
    columns: list[Any] = [column for column in table.c if seqs is not None or column.name != "body"]
    columns.append(table.c.seq.in_(firsts).label("first"))
    columns.append(is_emptied(table).label("emptied"))
    query = select(*columns).where(table.c.dead != DROPPED).order_by(table.c.seq)
    return conn.execute(query if seqs is None else query.where(table.c.seq.in_(seqs))).all()


def replay(unit: Unit, seqs: Collection[int]) -> int:
    """Have these wait to be tried at once, as if for the first time; gives how many were still there, and whole.

    Whatever waits under the same keys is due as well: each key is tried in its order.
    """
    table = unit.tables.parked
    chosen = table.c.seq.in_(seqs) & (table.c.dead != DROPPED) & ~is_emptied(table)
    count = unit.conn.execute(table.update().where(chosen).values(dead=0, attempts=0)).rowcount
    keys = select(table.c.key).where(chosen).scalar_subquery()
    waiting = table.c.key.in_(keys) & (table.c.dead == 0)
    unit.conn.execute(table.update().where(waiting).values(due_at=unit.now))
    return count


def drop(unit: Unit, seqs: Collection[int]) -> int:
    """Give these up permanently, unless they wait again meanwhile; gives how many were dropped.

    What is left of each is what the service logs of it, and deletes then.
    """
    table = unit.tables.parked
    chosen = table.c.seq.in_(seqs) & (table.c.dead == DEAD)
    return unit.conn.execute(table.update().where(chosen).values(**_nothing_of(table), dead=DROPPED)).rowcount


def empty(unit: Unit, before: date) -> None:
    """Keep nothing of the content of those that were parked before a day."""
    table = unit.tables.parked
    old = (table.c.dead == DEAD) & (table.c.parked_on < before) & ~is_emptied(table)
    unit.conn.execute(table.update().where(old).values(**_nothing_of(table)))


def _nothing_of(table: Table) -> dict[str, Any]:
    """No body, no reference, no time finer than a day, and no word of a sender."""
    known = case((table.c.type.in_(EVENTS), table.c.type), else_="unknown")
    return {"body": "", "key": "", "type": known, "accepted_at": _LONG_AGO, "due_at": _LONG_AGO}


def is_emptied(table: Table) -> ColumnElement[bool]:
    """Whether its content is gone."""
    return (table.c.dead != 0) & (table.c.accepted_at == _LONG_AGO)


def count_dead(conn: Connection, table: Table) -> int:
    """How many have been given up, and are neither replayed nor dropped."""
    return conn.execute(select(func.count()).where(table.c.dead == DEAD)).scalar() or 0


def dead_since(conn: Connection, table: Table) -> date | None:
    """The day on which the first of them failed; None where there is none."""
    found: date | None = conn.execute(select(func.min(table.c.parked_on)).where(table.c.dead == DEAD)).scalar()
    return found


def take_dropped(unit: Unit) -> Sequence[Row[Any]]:
    """Those that were dropped since this was called last: type, fault, place."""
    table = unit.tables.parked
    rows = unit.conn.execute(select(table).where(table.c.dead == DROPPED).order_by(table.c.seq)).all()
    unit.conn.execute(delete(table).where(table.c.seq.in_([row.seq for row in rows])))
    return rows


def end(unit: Unit, events: Sequence[Event]) -> None:
    """Remove the dead letters that these events end: no replay brings back who was erased or what was called off."""
    endings = [event for event in events if event.type in ENDINGS]
    if not endings:
        return
    table = unit.tables.parked
    of_keys = table.c.key.in_({event.key for event in endings}) & (table.c.dead == DEAD)
    found = unit.conn.execute(select(table.c.seq, table.c.key, table.c.body).where(of_keys)).all()
    over = [row.seq for row in found if any(e.key == row.key and _ends(e.type, e.data, row.body) for e in endings)]
    if over:
        unit.conn.execute(delete(table).where(table.c.seq.in_(over)))


def ended(unit: Unit, seq: int, event: Event) -> bool:
    """Whether something that is parked behind an event, dead or waiting, ends what it is about."""
    if event.type in ENDINGS:
        return False
    table = unit.tables.parked
    behind = (table.c.key == event.key) & (table.c.seq > seq) & table.c.type.in_(ENDINGS)
    found = unit.conn.execute(select(table.c.type, table.c.body).where(behind))
    return any(_ends(row.type, event.data, row.body) for row in found)


def _ends(ending: str, read: EventData, other: str) -> bool:
    """Whether one event ends another of its key: a cancellation only what names the same request.

    `read` is the body of whichever of the two is parsed, `other` the text of the other's.
    """
    request_ref = getattr(read, "request_ref", None)
    return ending in ENDS_ITS_KEY or (request_ref is not None and request_ref in other)
