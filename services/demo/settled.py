"""Whether the services have done all that is due, so that time may go on."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from leeward.contracts.envelope import topic_of
from leeward.runtime import Running, Runtime
from services.notify.domain import DeliveryState
from services.notify.models import DELIVERY

UNSENT = (DeliveryState.QUEUED, DeliveryState.SENDING)


async def settled(runtime: Runtime) -> bool:
    """No timer is due, every consumer has read what is for it, and no message waits to leave now."""
    last: dict[str, int] = {}
    for running in runtime.running.values():
        last |= await running.ground.store.read(_last_of_each_type(running))
    for running in runtime.running.values():
        if not await running.ground.store.read(_done(running, last, runtime.clock.now())):
            return False
    return True


def _last_of_each_type(running: Running) -> Any:
    table = running.ground.store.writes.tables.outbox
    query = select(table.c.type, func.max(table.c.seq)).group_by(table.c.type)
    return lambda conn: {kind: seq for kind, seq in conn.execute(query)}  # noqa: C416 rows are no pairs to mypy


def _done(running: Running, last: Mapping[str, int], now: datetime) -> Any:
    tables = running.ground.store.writes.tables

    def look(conn: Connection) -> bool:
        due = conn.execute(select(func.min(tables.timer.c.due_at))).scalar()
        read = {row.topic: row.seq for row in conn.execute(select(tables.position))}
        behind = any(last.get(kind, 0) > read.get(topic_of(kind), 0) for kind in running.parking.types)
        return (
            not behind and (due is None or due > now) and not (running.service.name == "notify" and _unsent(conn, now))
        )

    return look


def _unsent(conn: Connection, now: datetime) -> bool:
    waiting = select(func.count()).where(DELIVERY.c.state.in_(UNSENT), DELIVERY.c.wake_at <= now)
    return bool(conn.execute(waiting).scalar())
