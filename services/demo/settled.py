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
    """No timer is due, every consumer has read its logs to the end, and no message waits to leave now."""
    ends = {name: await running.ground.store.read(_log_end(running)) for name, running in runtime.running.items()}
    for running in runtime.running.values():
        if not await running.ground.store.read(_done(running, ends, runtime.clock.now())):
            return False
    return True


def _log_end(running: Running) -> Any:
    table = running.ground.store.writes.tables.outbox
    return lambda conn: conn.execute(select(func.max(table.c.seq))).scalar() or 0


def _done(running: Running, ends: Mapping[str, int], now: datetime) -> Any:
    topics = {topic_of(kind) for kind in running.parking.types}
    tables = running.ground.store.writes.tables

    def look(conn: Connection) -> bool:
        due = conn.execute(select(func.min(tables.timer.c.due_at))).scalar()
        read = {row.topic: row.seq for row in conn.execute(select(tables.position))}
        behind = any(ends[topic.removeprefix("leeward.")] > read.get(topic, 0) for topic in topics)
        return (
            not behind and (due is None or due > now) and not (running.service.name == "notify" and _unsent(conn, now))
        )

    return look


def _unsent(conn: Connection, now: datetime) -> bool:
    waiting = select(func.count()).where(DELIVERY.c.state.in_(UNSENT), DELIVERY.c.wake_at <= now)
    return bool(conn.execute(waiting).scalar())
