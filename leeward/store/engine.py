"""The database of one service: what every engine does."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, MetaData

from leeward import telemetry
from leeward.clock import Clock
from leeward.store.copies.erasures import ErasureList
from leeward.store.group import Group, StoreUnavailable
from leeward.store.health import Health
from leeward.store.health.files import reason_of
from leeward.store.unit import GroundWrites, Unit

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


class Store(ABC):
    """One service's database. Work is a plain function over a `Unit`; it may run again after a lost connection."""

    def __init__(self, metadata: MetaData, clock: Clock, health: Health) -> None:
        self.metadata = metadata
        self.clock = clock
        self.health = health
        self.writes = GroundWrites(metadata)
        self.listeners: list[Callable[[Unit], None]] = []
        self.wakers: list[Callable[[], None]] = []
        # set where what has just been deleted must not stay in a file until the hour is over
        self.untidy = asyncio.Event()
        # None where nothing is erased but by its age
        self.erasures: ErasureList | None = None

    @abstractmethod
    async def write(self, work: Callable[[Unit], T]) -> T:
        """Run work in one transaction and commit.

        Raises:
            StoreUnavailable: when the database cannot store now; whatever the work raises, after a rollback.
        """

    @abstractmethod
    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query on a read-only connection, off the event loop.

        Raises:
            StoreUnavailable: when the database cannot be read now.
        """

    @abstractmethod
    async def glance(self, query: Callable[[Connection], T]) -> T:
        """Run a query of one statement: like `read`, and cheaper where that would begin a transaction for it.

        Raises:
            StoreUnavailable: when the database cannot be read now.
        """

    @abstractmethod
    async def sweep(self, work: Callable[[Connection], object]) -> None:
        """Run one statement that may come undone in a crash of the database, and then simply be run again.

        Raises:
            StoreUnavailable: when the database cannot store now.
        """

    @abstractmethod
    async def trim(self, work: Callable[[Unit], T]) -> tuple[T, float]:
        """Run a slice of deletions in a transaction, off the event loop.

        Gives what the work does, and for how many seconds others had to wait for it.

        Raises:
            StoreUnavailable: when the database cannot store now.
        """

    @abstractmethod
    async def tidy(self) -> None:
        """Leave nothing of deleted rows behind in the files.

        Raises:
            StoreUnavailable: when others read for too long; it may be tried again later.
        """

    @abstractmethod
    async def administer(self, work: Callable[[Connection], T]) -> T:
        """Run work that changes the schema, alone among all processes, and commit.

        Raises:
            StoreUnavailable: when the database cannot be reached.
        """

    @abstractmethod
    async def hold(self, name: str) -> bool:
        """Try to be the one process on this database that holds `name`; True while it is.

        It does until it releases it, ends, loses its connection, or hangs for longer than a lease lasts: some seconds
        by the database's clock.

        Raises:
            StoreUnavailable: when nobody can tell now.
        """

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether this process holds `name` for sure at this moment; to be asked just before what one alone may do."""

    @abstractmethod
    async def release(self, name: str) -> None:
        """Let another process hold `name`."""

    @abstractmethod
    def wake_others(self) -> None:
        """Have the `wakers` called in the other processes on this database, soon and once for many calls."""

    @abstractmethod
    async def watch(self, stop: asyncio.Event) -> None:
        """Keep what this process needs beside its transactions, until `stop` is set; `health` says what it found."""

    @abstractmethod
    async def probe(self) -> None:
        """See whether the database can store now: look at it, and write where nothing was written lately."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection; work under way is finished first."""

    def group(self, work: Callable[[Unit, Sequence[A]], Sequence[R]], limit: int = 256) -> Group[A, R]:
        """Group commit for a hot path: see `Group`."""
        return Group(self.write, work, limit)

    def list_erasures(self, unit: Unit) -> None:
        """Put on the list, and on the disk, what this transaction erases; just before its commit, in a thread.

        Raises:
            StoreUnavailable: when the list cannot be written: what it erases could come back.
        """
        if unit.erased and self.erasures:
            try:
                self.erasures.append(unit.erased, unit.now)
            except OSError as fault:
                raise StoreUnavailable("erasures", reason_of(fault)) from fault

    def committed(self, unit: Unit) -> None:
        """Wake who waits for this; what is committed stays so, whatever a listener does."""
        calls: list[Callable[[], None]] = [*unit.afterwards, *(partial(listener, unit) for listener in self.listeners)]
        for call in calls:
            try:
                call()
            except Exception as fault:
                telemetry.log("wake_up_failed", fault=type(fault).__name__, place=telemetry.place(fault))
