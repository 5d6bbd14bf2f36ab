"""What the ground forgets by itself, and the checkpoint that leaves nothing of it in the files."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from sqlalchemy import delete

from leeward.clock import first_of
from leeward.store.engine import Store
from leeward.store.group import StoreUnavailable
from leeward.store.unit import Unit

INBOX_KEPT: Final = timedelta(days=9)
EVERY: Final = 3600.0


def forget(unit: Unit) -> None:
    """Drop inbox rows once no log can repeat them, and expired tokens."""
    today, tables = unit.now.date(), unit.tables
    unit.conn.execute(delete(tables.inbox).where(tables.inbox.c.seen_on < today - INBOX_KEPT))
    unit.conn.execute(delete(tables.access).where(tables.access.c.expires_at < unit.now))


class Retention:
    """At the start, every hour and when asked to: forget, then truncate the write-ahead log."""

    def __init__(self, store: Store, *more: Callable[[Unit], None]) -> None:
        self._store = store
        self._forget = (forget, *more)
        self._asked = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Tidy until `stop` is set."""
        while not stop.is_set():
            self._asked.clear()
            with suppress(StoreUnavailable):
                await self.once()
            await first_of(stop.wait(), self._asked.wait(), self._store.clock.sleep(EVERY))

    def soon(self) -> None:
        """Tidy now: what has just been deleted must not stay in a file for an hour."""
        self._asked.set()

    async def once(self) -> None:
        """Forget what is old, and leave nothing of it behind."""
        await self._store.write(self._all)
        await self._store.tidy()

    def _all(self, unit: Unit) -> None:
        for part in self._forget:
            part(unit)
