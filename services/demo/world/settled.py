"""Whether the services have done all that is due, so that time may go on."""

from collections.abc import Mapping
from datetime import datetime

from leeward.settings import ServiceName
from leeward.store import Store, StoreUnavailable
from services.demo.world import queries
from services.demo.world.system import Ends


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
            due = await store.read(queries.earliest_timer(store))
            if due is not None and due <= now:
                return False
            if name == "notify" and (await store.read(queries.unsent_messages(now))) > 0:
                return False
        return await ends() == before
    except StoreUnavailable:
        return False
