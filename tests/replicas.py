"""Two replicas on one PostgreSQL, and what one of them does on a view of the database that another has overtaken."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.util import await_only

from leeward.store import Store

T = TypeVar("T")


async def behind(store: Store, late: Callable[[], Awaitable[T]], other: Callable[[], Awaitable[Any]]) -> T:
    """Run `late`, whose first transaction on `store` sees the database as it was before `other`.

    So all its reading and writing happens on a snapshot that is out of date; what it does after a failure is its own.
    """
    seen, go = asyncio.Event(), asyncio.Event()
    plain: Callable[..., Any] = store._transaction  # type: ignore[attr-defined]
    of_late = ContextVar("of_late", default=False)

    def on_an_old_snapshot(conn: Connection, work: Callable[..., Any]) -> Any:
        if not of_late.get():  # a loop of that replica looks at the same time
            return plain(conn, work)
        store._transaction = plain  # type: ignore[attr-defined]

        def wait_first(unit: Any) -> Any:
            unit.conn.execute(text("SELECT count(*) FROM pg_class"))
            seen.set()
            await_only(go.wait())
            return work(unit)

        return plain(conn, wait_first)

    store._transaction = on_an_old_snapshot  # type: ignore[attr-defined]
    asked = of_late.set(True)
    running = asyncio.ensure_future(late())
    of_late.reset(asked)
    async with asyncio.timeout(10):
        await seen.wait()
    await other()
    go.set()
    return await running
