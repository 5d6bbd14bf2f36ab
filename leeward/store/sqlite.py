"""SQLite: one writer on the event loop, its fsync in a thread, readers beside it."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import QueuePool

from leeward import telemetry
from leeward.clock import Clock, first_of
from leeward.store.engine import Store
from leeward.store.group import StoreUnavailable
from leeward.store.health import HANGS, LOOK_EVERY, Health
from leeward.store.health.files import DatabaseFile, reason_of
from leeward.store.tables import GROUND
from leeward.store.unit import Unit

T = TypeVar("T")
_PATIENCE: Final = 30.0
_READERS: Final = 4
# keys are random, so every insert lands on another page: 32 MiB of them stay at hand; a commit moves the log into the
# file itself once it has 32 MiB, which is where nobody has done so beside it
_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "foreign_keys=ON",
    "cache_size=-32768",
    "wal_autocheckpoint=8000",
)
_CHECKPOINT_EVERY: Final = 0.5  # seconds
# writes the first page, and nothing that anybody reads
_PROBE: Final = "PRAGMA user_version=0"
_SEEN_BY_READERS: Final = ("damaged", "io_error")
_TIDY_TRIES: Final = 100
_TIDY_PAUSE: Final = 0.05


def sqlite_connection(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to one file: WAL, every commit on disk, deleted rows overwritten. A reader never makes the file."""
    address = f"file:{quote(str(path.absolute()))}?mode={'rw' if read_only else 'rwc'}"
    connection = sqlite3.connect(
        address, uri=True, check_same_thread=False, isolation_level=None, timeout=_PATIENCE, cached_statements=512
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()
        if read_only:
            connection.execute("PRAGMA query_only=ON").close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def sqlite_engine(path: Path, *, read_only: bool = False) -> Engine:
    """An engine for one file, its transactions begun explicitly."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite_connection(path, read_only=read_only),
        poolclass=QueuePool,
        pool_size=_READERS if read_only else 1,
        max_overflow=_READERS if read_only else 0,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a read that becomes a write fails at once whatever the time-out, so writers take their lock first
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def holds_rows(path: Path, key: str) -> bool:
    """Whether a service's database holds anything of its own, or knows a key of that name; what cannot be read does."""
    if not path.exists():
        return False
    try:
        with closing(sqlite_connection(path, read_only=True)) as conn:
            tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            known = "SELECT 1 FROM key_check WHERE name = ?"
            if "key_check" in tables and conn.execute(known, (key,)).fetchone():
                return True
            own = [name for name in tables - set(GROUND) if not name.startswith(("sqlite_", "alembic_"))]
            return any(conn.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for name in own)  # noqa: S608
    except sqlite3.Error:
        return True


class SqliteStore(Store):
    """SQLite: statements run on the loop, COMMIT with its fsync in a thread, long reads on other connections."""

    def __init__(self, path: Path, metadata: MetaData, clock: Clock) -> None:
        super().__init__(metadata, clock, Health(path.stem))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._file = DatabaseFile(path)
        self._engine = sqlite_engine(path)
        event.listen(self._engine, "connect", _never_wait)
        self._readers = sqlite_engine(path, read_only=True)
        self._writer: Connection | None = None
        self._turn = asyncio.Lock()
        self._logged = False  # something that may not have been moved into the file yet
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"commit-{path.stem}")

    async def write(self, work: Callable[[Unit], T]) -> T:
        async with self._turn:
            began = perf_counter()
            unit, result = await self._commit(work)
            telemetry.committed(self.path.stem, perf_counter() - began)
        self._logged = True
        self.committed(unit)
        return result

    async def _commit(self, work: Callable[[Unit], T], *, aside: bool = False) -> tuple[Unit, T]:
        """One transaction, by whoever has the turn; what is put aside runs in the thread whole."""
        with self.health.trying():
            if self.health.damaged:
                # what the restore of a backup would lose must not be acknowledged
                raise StoreUnavailable("damaged", "damaged")
            try:
                with _unavailable():
                    done = await self._transaction(self._connected(), work, aside=aside)
            except StoreUnavailable:
                if self._writer is not None:
                    # one that was opened while the disk could only be read would stay so
                    self._writer.invalidate()
                self._disconnect()
                raise
        self.health.stored()
        return done

    def _connected(self) -> Connection:
        """The one writing connection; kept, since a checkout costs more than a statement."""
        if self._writer is None:
            self._writer = self._engine.connect()
        return self._writer

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _transaction(self, conn: Connection, work: Callable[[Unit], T], *, aside: bool) -> tuple[Unit, T]:
        await self._begin(conn)
        try:
            unit = Unit(conn, self.clock.now(), self.writes)
            if aside:
                result = await self._in_thread(partial(_work_and_flush, unit, work))
            else:
                result = _work_and_flush(unit, work)
            await self._in_thread(partial(self._finish, conn, unit))
        except BaseException:
            conn.rollback()
            raise
        return unit, result

    def _finish(self, conn: Connection, unit: Unit) -> None:
        self.list_erasures(unit)
        conn.commit()

    async def _begin(self, conn: Connection) -> None:
        """Take the file's one write lock; another process (an import) may hold it for a while."""
        patience, pause = _PATIENCE, 0.001
        while True:
            try:
                conn.begin()
                return
            except OperationalError as fault:
                held = "locked" in str(fault.orig) or "busy" in str(fault.orig)
                if not held or patience <= 0:
                    raise
                if _PATIENCE - patience > HANGS:
                    self.health.note(StoreUnavailable(type(fault.orig).__name__, "locked"))
            await asyncio.sleep(pause)
            patience, pause = patience - pause, min(0.05, pause * 2)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run to the end even if the caller is cancelled.

        A transaction must not be left half-way, nor a connection closed that a thread uses.
        """
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def read(self, query: Callable[[Connection], T]) -> T:
        def reading() -> T:
            with self._readers.connect() as conn:
                return query(conn)

        try:
            with _unavailable():
                return await asyncio.to_thread(reading)
        except StoreUnavailable as fault:
            if fault.reason in _SEEN_BY_READERS:
                self.health.note(fault)
            raise

    async def glance(self, query: Callable[[Connection], T]) -> T:
        return await self.read(query)

    async def sweep(self, work: Callable[[Connection], object]) -> None:
        await self.write(lambda unit: work(unit.conn))

    async def administer(self, work: Callable[[Connection], T]) -> T:
        def administering() -> T:
            self._disconnect()
            engine = sqlite_engine(self.path)
            try:
                with engine.begin() as conn:
                    return work(conn)
            finally:
                engine.dispose()

        async with self._turn:
            with _unavailable():
                return await asyncio.to_thread(administering)

    async def trim(self, work: Callable[[Unit], T]) -> tuple[T, float]:
        # on the connection of the others, since each that writes empties the page cache of the rest
        async with self._turn:
            began = perf_counter()
            unit, result = await self._commit(work, aside=True)
            seconds = perf_counter() - began
        self._logged = True
        self.committed(unit)
        return result, seconds

    async def tidy(self) -> None:
        # most of the log goes while others write; the rest is what they wait for
        await asyncio.to_thread(self._move)
        for _ in range(_TIDY_TRIES):
            async with self._turn:
                if await self._in_thread(self._checkpoint):
                    return
            await asyncio.sleep(_TIDY_PAUSE)
        raise StoreUnavailable("checkpoint", "")

    def _checkpoint(self) -> bool:
        """Whether the write-ahead log is now empty; a reader under way keeps it."""
        try:
            driver: Any = self._connected().connection.driver_connection
            busy: int = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except (DBAPIError, sqlite3.Error) as fault:
            raise StoreUnavailable(type(fault).__name__, reason_of(fault)) from fault
        return busy == 0

    async def hold(self, name: str) -> bool:
        """True: whoever runs the services has the file's folder and ports to itself."""
        return True

    def holds(self, name: str) -> bool:
        return True

    async def release(self, name: str) -> None:
        """Nobody else could take it."""

    def wake_others(self) -> None:
        """Nobody else is there."""

    async def watch(self, stop: asyncio.Event) -> None:
        """Move what is committed from the log into the file, so that no commit has to do it and wait for it."""
        if not self.path.exists():
            telemetry.log("waiting_for_migration", service=self.path.stem, reason="run leeward migrate")
        async with asyncio.TaskGroup() as both:
            both.create_task(self._move_often(stop))
            both.create_task(self._look_often(stop))

    async def _move_often(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(stop.wait(), asyncio.sleep(_CHECKPOINT_EVERY))
            if self._logged and not self.health.damaged:
                self._logged = False
                try:
                    await asyncio.to_thread(self._move)
                except StoreUnavailable as fault:
                    self._logged = True
                    self.health.note(fault)

    def _move(self) -> None:
        """Hold up nobody: what readers or a writer still need stays where it is."""
        # a first page in the log would cover up that the file has lost its own
        self._file.look()
        try:
            with closing(sqlite_connection(self.path)) as beside:
                beside.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        except sqlite3.Error as fault:
            reason = reason_of(fault)
            raise StoreUnavailable(type(fault).__name__, "" if reason == "locked" else reason) from fault

    async def _look_often(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(stop.wait(), asyncio.sleep(LOOK_EVERY))
            await self.probe()

    async def probe(self) -> None:
        with suppress(StoreUnavailable):
            with self.health.trying():
                there = await asyncio.to_thread(self._file.look_around)
            if there and self.health.due:
                async with self._turn:
                    await self._commit(lambda unit: unit.conn.exec_driver_sql(_PROBE))
                self._logged = True
            self.health.clear()

    async def close(self) -> None:
        async with self._turn:
            self._disconnect()
            self._engine.dispose()
            self._readers.dispose()
            self._thread.shutdown()
            self._file.close()


def _work_and_flush(unit: Unit, work: Callable[[Unit], T]) -> T:
    result = work(unit)
    unit.flush()
    return result


def _never_wait(connection: Any, _record: Any) -> None:
    # the loop must not stand still for another process's lock; `_begin` waits without blocking it
    connection.execute("PRAGMA busy_timeout=0").close()


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise StoreUnavailable where the database is away, full, locked or damaged, and not the work at fault."""
    try:
        yield
    except NoConnection as fault:
        raise StoreUnavailable("NoConnection", "locked") from fault
    except DBAPIError as fault:
        if isinstance(fault, (OperationalError, InterfaceError)) or type(fault) is DatabaseError:
            raise StoreUnavailable(type(fault.orig).__name__, reason_of(fault.orig)) from fault
        raise
