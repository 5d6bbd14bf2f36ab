"""All services in the demonstration's own process, on SQLite, as `leeward up` runs them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Connection, func, select

from leeward.contracts.envelope import topic_of
from leeward.runtime import Running, Runtime, http_client
from leeward.settings import ServiceName, Settings
from leeward.store import Store
from services.commands import catalogue
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

        async def ends() -> object:
            return await _ends(runtime, stores)

        async with http_client() as client:
            try:
                await runtime.start(client)
                yield ends
            finally:
                await runtime.finish()


async def _ends(runtime: Runtime, stores: Mapping[ServiceName, Store]) -> Mapping[str, int] | None:
    """The last event of each type; None while a consumer has one of its own still to read."""
    last: dict[str, int] = {}
    for store in stores.values():
        last |= await store.read(_last_of_each_type(store))
    for running in runtime.running.values():
        if await running.context.store.read(_behind(running, last)):
            return None
    return last


def _last_of_each_type(store: Store) -> Any:
    table = store.writes.tables.outbox
    query = select(table.c.type, func.max(table.c.seq)).group_by(table.c.type)
    return lambda conn: {kind: seq for kind, seq in conn.execute(query)}  # noqa: C416 rows are no pairs to mypy


def _behind(running: Running, last: Mapping[str, int]) -> Any:
    position = running.context.store.writes.tables.position

    def look(conn: Connection) -> bool:
        read = {row.topic: row.seq for row in conn.execute(select(position))}
        return any(last.get(kind, 0) > read.get(topic_of(kind), 0) for kind in running.parking.types)

    return look
