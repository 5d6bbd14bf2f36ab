"""Dead letters: listed, tried again or dropped by hand, and gone by themselves when what they are about has ended."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, delete, func, select

from leeward.contracts import CaseErased, Event, EventData, IncidentRetracted, MessageCancelled
from leeward.store import Unit

ENDS_ITS_KEY: Final = frozenset({IncidentRetracted.type, CaseErased.type})
ENDINGS: Final = ENDS_ITS_KEY | {MessageCancelled.type}


def letters(conn: Connection, table: Table, seqs: Collection[int] | None = None) -> Sequence[Row[Any]]:
    """What is dead or waits, in the order in which it came: all without their bodies, or these with them.

    `first` is true where nothing waits under the same key before it.
    """
    firsts = select(func.min(table.c.seq)).where(table.c.dead == 0).group_by(table.c.key)
    columns: list[Any] = [column for column in table.c if seqs is not None or column.name != "body"]
    columns.append(table.c.seq.in_(firsts).label("first"))
    query = select(*columns).order_by(table.c.seq)
    return conn.execute(query if seqs is None else query.where(table.c.seq.in_(seqs))).all()


def replay(unit: Unit, seqs: Collection[int]) -> int:
    """Have these wait to be tried at once, as if for the first time; gives how many were still there.

    Whatever waits under the same keys is due as well: each key is tried in its order.
    """
    table = unit.tables.parked
    chosen = table.c.seq.in_(seqs)
    count = unit.conn.execute(table.update().where(chosen).values(dead=0, attempts=0)).rowcount
    keys = select(table.c.key).where(chosen).scalar_subquery()
    waiting = table.c.key.in_(keys) & (table.c.dead == 0)
    unit.conn.execute(table.update().where(waiting).values(due_at=unit.now))
    return count


def drop(unit: Unit, seqs: Collection[int]) -> int:
    """Remove these permanently, unless they wait again meanwhile; gives how many were dropped."""
    table = unit.tables.parked
    return unit.conn.execute(delete(table).where(table.c.seq.in_(seqs), table.c.dead == 1)).rowcount


def end(unit: Unit, events: Sequence[Event]) -> None:
    """Remove the dead letters that these events end: no replay brings back who was erased or what was called off."""
    endings = [event for event in events if event.type in ENDINGS]
    if not endings:
        return
    table = unit.tables.parked
    of_keys = table.c.key.in_({event.key for event in endings}) & (table.c.dead == 1)
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
