"""What the demonstration looks up in the services' databases to know whether time may go on."""

from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import Connection, func, select

from leeward.store import Store
from services.notify.delivery.state import DeliveryState
from services.notify.models import DELIVERY

UNSENT = (DeliveryState.QUEUED, DeliveryState.SENDING)


def earliest_timer(store: Store) -> Callable[[Connection], datetime | None]:
    """When the next timer of a service is due."""
    earliest = select(func.min(store.writes.tables.timer.c.due_at))
    return lambda conn: conn.execute(earliest).scalar()


def unsent_messages(now: datetime) -> Callable[[Connection], int]:
    """How many of notify's messages wait to leave by now."""
    waiting = select(func.count()).where(DELIVERY.c.state.in_(UNSENT), DELIVERY.c.wake_at <= now)
    return lambda conn: conn.execute(waiting).scalar_one()


def has_events(store: Store) -> Callable[[Connection], bool]:
    """Whether a service's outbox holds any event."""
    query = select(store.writes.tables.outbox.c.seq).limit(1)
    return lambda conn: conn.execute(query).first() is not None


def last_of_each_type(store: Store) -> Callable[[Connection], Mapping[str, int]]:
    """The number of the last event of each type in a service's outbox."""
    outbox = store.writes.tables.outbox
    query = select(outbox.c.type, func.max(outbox.c.seq).label("last")).group_by(outbox.c.type)
    return lambda conn: {row.type: row.last for row in conn.execute(query)}


def positions(store: Store) -> Callable[[Connection], Mapping[str, int]]:
    """How far a service has read each topic."""
    query = select(store.writes.tables.position)
    return lambda conn: {row.topic: row.seq for row in conn.execute(query)}
