"""The database of one service. SQLite: one writer on the event loop, its fsync in a thread, readers beside it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import QueuePool

from leeward.clock import Clock
from leeward.store.group import Group
from leeward.store.unit import GroundWrites, Unit

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
_PATIENCE: Final = 30.0
_READERS: Final = 4


class StoreUnavailable(Exception):
    """The database is away, locked for too long, or full: nothing was stored, the same may work later."""


class Store(ABC):
    """One service's database. Work is a plain function over a `Unit`; it may run again after a lost connection."""

    def __init__(self, metadata: MetaData, clock: Clock) -> None:
        self.metadata = metadata
        self.clock = clock
        self.writes = GroundWrites(metadata)
        self.listeners: list[Callable[[Unit], None]] = []

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
    async def tidy(self) -> None:
        """Leave nothing of deleted rows behind in the files."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection; work under way is finished first."""

    def group(self, work: Callable[[Unit, Sequence[A]], Sequence[R]], limit: int = 256) -> Group[A, R]:
        """Group commit for a hot path: see `Group`."""
        return Group(self.write, work, limit)

    def committed(self, unit: Unit) -> None:
        unit.announce()
        for listener in self.listeners:
            listener(unit)


def sqlite_engine(path: Path, *, read_only: bool = False) -> Engine:
    """An engine for one file: WAL, every commit on disk, deleted rows overwritten, transactions begun explicitly."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=_READERS if read_only else 1,
        max_overflow=_READERS if read_only else 0,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": _PATIENCE if read_only else 0},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()
        if read_only:
            connection.execute("PRAGMA query_only=ON").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a read that becomes a write fails at once whatever the time-out, so writers take their lock first
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


class SqliteStore(Store):
    """SQLite: statements run on the loop, COMMIT with its fsync in a thread, long reads on other connections."""

    def __init__(self, path: Path, metadata: MetaData, clock: Clock) -> None:
        super().__init__(metadata, clock)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._engine = sqlite_engine(path)
        self._readers = sqlite_engine(path, read_only=True)
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"commit-{path.stem}")

    async def write(self, work: Callable[[Unit], T]) -> T:
        async with self._turn:
            try:
                with self._engine.connect() as conn:
                    unit, result = await self._transaction(conn, work)
            except (OperationalError, InterfaceError) as fault:
                raise StoreUnavailable(type(fault.orig).__name__) from fault
        self.committed(unit)
        return result

    async def _transaction(self, conn: Connection, work: Callable[[Unit], T]) -> tuple[Unit, T]:
        await self._begin(conn)
        try:
            unit = Unit(conn, self.clock.now(), self.writes)
            result = work(unit)
            unit.flush()
            await self._in_thread(conn.commit)
        except BaseException:
            conn.rollback()
            raise
        return unit, result

    async def _begin(self, conn: Connection) -> None:
        """Take the file's one write lock; another process (an import) may hold it for a while."""
        patience, pause = _PATIENCE, 0.001
        while True:
            try:
                conn.begin()
                return
            except OperationalError as fault:
                if not _locked(fault) or patience <= 0:
                    raise
            await asyncio.sleep(pause)
            patience, pause = patience - pause, min(0.05, pause * 2)

    async def _in_thread(self, call: Callable[[], None]) -> None:
        """Run to the end even if the caller is cancelled: a transaction must not be left half-way."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def read(self, query: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._read, query)

    def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            with self._readers.connect() as conn:
                return query(conn)
        except (OperationalError, InterfaceError) as fault:
            raise StoreUnavailable(type(fault.orig).__name__) from fault

    async def tidy(self) -> None:
        async with self._turn:
            await asyncio.to_thread(self._checkpoint)

    def _checkpoint(self) -> None:
        with self._engine.connect() as conn:
            conn.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()  # type: ignore[union-attr]

    async def close(self) -> None:
        async with self._turn:
            self._engine.dispose()
            self._readers.dispose()
            self._thread.shutdown()


def _locked(fault: DBAPIError) -> bool:
    return "locked" in str(fault.orig) or "busy" in str(fault.orig)
