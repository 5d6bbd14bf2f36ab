"""All services in the demonstration's own process, on SQLite, as `leeward up` runs them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from leeward.contracts.envelope import topic_of
from leeward.runtime import Runtime, http_client
from leeward.settings import ServiceName, Settings
from leeward.store import Store
from services.commands import catalogue
from services.demo.world import queries
from services.demo.world.clock import DemoClock
from services.demo.world.system import Ends


class Embedded:
    """`System` in one process."""

    told: Final = ("All five services run in this one process, with an SQLite file each.",)

    def variables(self) -> Mapping[str, str]:
        return {}

    @asynccontextmanager
    async def running(
        self, settings: Settings, clock: DemoClock, stores: Mapping[ServiceName, Store]
    ) -> AsyncIterator[Ends]:
        runtime = Runtime(settings, catalogue.load(), clock)

        async def ends() -> Mapping[str, int] | None:
            """The last event of each type; None while a consumer has one of its own still to read."""
            last: dict[str, int] = {}
            for store in stores.values():
                last |= await store.read(queries.last_of_each_type(store))
            for running in runtime.running.values():
                store = running.context.store
                read = await store.read(queries.positions(store))
                if any(last.get(kind, 0) > read.get(topic_of(kind), 0) for kind in running.parking.types):
                    return None
            return last

        async with http_client() as client:
            try:
                await runtime.start(client)
                yield ends
            finally:
                await runtime.finish()
