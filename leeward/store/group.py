"""Group commit: what arrives while one transaction commits goes into the next, so durability costs next to nothing."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from leeward.store.unit import Unit

A = TypeVar("A")
R = TypeVar("R")


class StoreUnavailable(Exception):
    """The database is away, locked for too long, or full: nothing was stored, the same may work later.

    `reason` is a code of `leeward.store.health`; empty where the database itself is well (contention).
    """

    def __init__(self, text: str = "", reason: str = "away") -> None:
        super().__init__(text)
        self.reason = reason


class Group(Generic[A, R]):
    """Awaiting `group(item)` gives the item's result once it is committed.

    A batch is what arrived during the previous commit, at most `limit`, with no linger when idle. When a batch raises,
    its items run one by one, so a bad one fails alone; a database that is away fails them all at once.
    """

    def __init__(
        self,
        write: Callable[[Callable[["Unit"], Any]], Awaitable[Any]],
        work: Callable[["Unit", Sequence[A]], Sequence[R]],
        limit: int,
    ) -> None:
        self._write = write
        self._work = work
        self._limit = limit
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, item: A) -> R:
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        # one turn of the loop, so that everything already received goes into the first batch
        await asyncio.sleep(0)
        try:
            while self._waiting:
                count = min(self._limit, len(self._waiting))
                await self._commit([self._waiting.popleft() for _ in range(count)])
        finally:
            self._running = None

    async def _commit(self, batch: list[tuple[A, "asyncio.Future[R]"]]) -> None:
        items = [item for item, _ in batch]

        def work(unit: "Unit") -> Sequence[R]:
            results = self._work(unit, items)
            if len(results) != len(items):
                raise TypeError("a group's work gives one result an item")
            return results

        try:
            results = await self._write(work)
        except Exception as fault:
            if len(batch) == 1 or isinstance(fault, StoreUnavailable):
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(fault)
                return
            for pair in batch:
                await self._commit([pair])
            return
        for (_, answer), result in zip(batch, results, strict=True):
            if not answer.done():
                answer.set_result(result)
