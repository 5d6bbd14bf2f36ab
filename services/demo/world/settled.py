"""Whether the services have done all that is due, so that time may go on."""

from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import Connection, func, select

from leeward.settings import ServiceName
from leeward.store import Store, StoreUnavailable
from services.demo.world.system import Ends
from services.notify.delivery.state import DeliveryState
from services.notify.models import DELIVERY

UNSENT = (DeliveryState.QUEUED, DeliveryState.SENDING)


async def settled(stores: Mapping[ServiceName, Store], ends: Ends, now: datetime) -> bool:
    """No timer is due, every event is with whom it is for, and no message waits to leave now.

    The ends of the events are looked at before and after: had a service done anything meanwhile, they had moved.
    What cannot be looked at now is not settled.
    """
    try:
        before = await ends()
        if before is None:
            return False
        for name, store in stores.items():
            if not await store.read(_idle(name, store, now)):
                return False
        return await ends() == before
    except StoreUnavailable:
        return False


def _idle(name: ServiceName, store: Store, now: datetime) -> Callable[[Connection], bool]:
    timer = store.writes.tables.timer

    def look(conn: Connection) -> bool:
        due: datetime | None = conn.execute(select(func.min(timer.c.due_at))).scalar()
        return (due is None or due > now) and not (name == "notify" and _unsent(conn, now))

    return look


def _unsent(conn: Connection, now: datetime) -> bool:
    waiting = select(func.count()).where(DELIVERY.c.state.in_(UNSENT), DELIVERY.c.wake_at <= now)
    return bool(conn.execute(waiting).scalar())
