"""PostgreSQL: a pool of connections shared by the service's work, and one beside it for locks and wake-ups."""

import asyncio
import hashlib
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic, perf_counter
from typing import Any, Final, TypeVar

from asyncpg.exceptions import InterfaceError as DriverFault
from asyncpg.exceptions import PostgresError
from sqlalchemy import Connection, MetaData, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import await_only

from leeward import telemetry
from leeward.clock import Clock, first_of
from leeward.store.engine import Store
from leeward.store.group import StoreUnavailable
from leeward.store.health import LOOK_EVERY, Health
from leeward.store.periodic import back_off
from leeward.store.unit import Unit

T = TypeVar("T")
_POOL: Final = 10
_RECYCLE: Final = 60  # seconds: no plan outlives by more what was known when it was made
# a serialization failure or a deadlock: the same work on a newer snapshot may succeed (PostgreSQL 18, chapter 13.5)
_AGAIN: Final = frozenset({"40001", "40P01"})
_TRIES: Final = 20
# a key that is taken: perhaps another replica took it after this snapshot, which a newer one will see
_TAKEN: Final = "23505"
_TAKEN_TRIES: Final = 2
_PAUSE: Final = 0.004
_LONGEST_RETRY: Final = 0.25
# connection lost, out of disk, memory or connections, shutting down or cut short (a role's statement_timeout), an I/O
# fault, a standby that cannot write, damage, or nobody lets us in: each may be mended while we wait
_AWAY: Final = ("08", "53", "57", "58", "25006", "55P03", "XX001", "XX002", "28", "3D000")
# what each of them is, by the beginning of its SQLSTATE
_REASONS: Final[Mapping[str, str]] = {
    "53100": "disk_full",
    "53": "exhausted",
    "25006": "read_only",
    "55P03": "locked",
    "58": "io_error",
    "XX001": "damaged",
    "XX002": "damaged",
    "28": "refused",
    "3D000": "refused",
}
_LOOK: Final = 2.0
_LONGEST_PAUSE: Final = 15.0
_NO_TABLE: Final = "42P01"
_CALM: Final = 0.02
_CHANNEL: Final = "leeward"
# seconds for which a process that does not renew its leases still has them, and for which it may rely on them itself
LEASE: Final = 12.0
_SURE: Final = 10.0
_TAKE: Final = """
INSERT INTO lease AS l (name, holder, expires_at) VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp() OR NOT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) + objid::bigint = l.holder
) RETURNING true
"""
_RENEW: Final = """
UPDATE lease SET expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE holder = $1 AND name = ANY ($2) RETURNING name
"""
_DROP_OLD: Final = "DELETE FROM lease WHERE expires_at < clock_timestamp() - interval '1 day'"
_SCHEMA_LOCK: Final = "schema"
# begins a write and flushes it, changes no row, and takes a megabyte for a moment: a small commit may still find room
_PROBE: Final = (
    "DELETE FROM position WHERE false",
    "SELECT pg_current_xact_id()",
    "SET LOCAL work_mem = '64kB'",
    "SELECT count(*) FROM generate_series(1, 40000)",
)
_FILLED: Final = text("SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_relation_size(oid) > 0")
_SESSION: Final = {
    "jit": "off",
    # a plan is made once a connection, maybe while its tables are small, and then kept: it must go by keys from the
    # first row on, or a batch would read a whole table once that has grown; nor is one made again for each short batch
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "lock_timeout": "20s",
    # a process that hangs in a transaction keeps no rows for longer than its leases last, about
    "idle_in_transaction_session_timeout": "15s",
    # a machine that vanished must not hold its locks for two hours
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}


def postgresql_engine(
    url: str,
    name: str,
    *,
    pool: int = _POOL,
    isolation: str = "REPEATABLE READ",
    patience: float | None = 60.0,
    **session: str,
) -> AsyncEngine:
    """An engine for one service's database; a statement may take `patience` seconds, `session` holds its settings."""
    session = {"application_name": f"leeward-{name}", **_SESSION, **session}
    return create_async_engine(
        make_url(url).update_query_dict({"prepared_statement_cache_size": "512"}),
        isolation_level=isolation,
        pool_size=pool,
        max_overflow=pool,
        pool_timeout=10,
        pool_recycle=_RECYCLE,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={"timeout": 5, "command_timeout": patience, "server_settings": session},
    )


class PostgresStore(Store):
    """PostgreSQL in REPEATABLE READ: of two transactions that would overwrite one another, one runs again.

    The work of a transaction is synchronous (`run_sync`), the same as on SQLite.
    """

    def __init__(self, url: str, name: str, metadata: MetaData, clock: Clock) -> None:
        self._url = url
        self._name = name
        self._engine = postgresql_engine(url, name)
        super().__init__(metadata, clock, Health(name, _address(self._engine)))
        self._sweeper = postgresql_engine(url, name, pool=1, isolation="AUTOCOMMIT", synchronous_commit="off")
        self._glancer = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._presence = Presence(self._engine, self._woken, self.health)

    async def write(self, work: Callable[[Unit], T]) -> T:
        began = perf_counter()
        with self.health.trying():
            unit, result = await self._commit(work)
        self.health.stored()
        telemetry.committed(self._name, perf_counter() - began)
        self.committed(unit)
        return result

    async def _commit(self, work: Callable[[Unit], T]) -> tuple[Unit, T]:
        """One transaction, again as long as others come first."""
        taken = 0
        for attempt in range(1, _TRIES + 1):
            try:
                with _said_plainly():
                    return await self._connected(lambda conn: self._transaction(conn, work))
            except DBAPIError as fault:
                taken += _state(fault) == _TAKEN
                if _state(fault) not in _AGAIN and not (_state(fault) == _TAKEN and taken <= _TAKEN_TRIES):
                    raise
                telemetry.TRANSACTIONS_REPEATED.labels(self._name).inc()
                await asyncio.sleep(random.random() * back_off(attempt, _PAUSE, _LONGEST_RETRY))  # noqa: S311 no secret
        raise StoreUnavailable("contention", "")

    async def _connected(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.connect() as conn:
            return await conn.run_sync(work)

    def _transaction(self, conn: Connection, work: Callable[[Unit], T]) -> tuple[Unit, T]:
        with conn.begin():
            unit = Unit(conn, self.clock.now(), self.writes)
            result = work(unit)
            unit.flush()
            if unit.erased:
                await_only(asyncio.to_thread(self.list_erasures, unit))
        return unit, result

    async def read(self, query: Callable[[Connection], T]) -> T:
        with _said_plainly():
            return await self._connected(query)

    async def glance(self, query: Callable[[Connection], T]) -> T:
        with _said_plainly():
            async with self._glancer.connect() as conn:
                return await conn.run_sync(query)

    async def sweep(self, work: Callable[[Connection], object]) -> None:
        with _said_plainly():
            async with self._sweeper.connect() as conn:
                await conn.run_sync(work)

    async def trim(self, work: Callable[[Unit], T]) -> tuple[T, float]:
        began = perf_counter()
        return await self.write(work), perf_counter() - began

    async def administer(self, work: Callable[[Connection], T]) -> T:
        def alone(conn: Connection) -> T:
            conn.execute(text("SET LOCAL lock_timeout = 0"))
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(_SCHEMA_LOCK)})
            return work(conn)

        # a snapshot of before the wait for the lock would not have what the process before us did
        patient = postgresql_engine(self._url, self._name, pool=1, isolation="READ COMMITTED", patience=None)
        try:
            with _said_plainly():
                async with patient.begin() as conn:
                    return await conn.run_sync(alone)
        finally:
            await patient.dispose()

    async def tidy(self) -> None:
        """Let go of dead rows; what PostgreSQL's files and its write-ahead log still hold, an encrypted disk covers.

        Tables that never held any stay as they are: of one that it has found empty PostgreSQL plans to read all, also
        when it has filled.
        """
        with _said_plainly():
            async with self._engine.connect() as conn:
                quiet = await conn.execution_options(isolation_level="AUTOCOMMIT")
                filled = set((await quiet.execute(_FILLED)).scalars())
                for table in filled & self.metadata.tables.keys():
                    await quiet.execute(text(f'VACUUM "{table}"'))

    async def hold(self, name: str) -> bool:
        with _said_plainly():
            return await self._presence.hold(name)

    def holds(self, name: str) -> bool:
        return self._presence.holds(name)

    async def release(self, name: str) -> None:
        with _said_plainly():
            await self._presence.release(name)

    def wake_others(self) -> None:
        self._presence.wake_others()

    def _woken(self) -> None:
        for waker in self.wakers:
            waker()

    async def probe(self) -> None:
        try:
            if self.health.due:
                with self.health.trying(), _said_plainly():
                    await self._connected(_write_nothing)
                self.health.stored()
            self.health.clear()
        except StoreUnavailable:
            pass  # it is noted
        except DBAPIError as fault:
            if _state(fault) != _NO_TABLE:  # that one waits to be migrated
                self.health.note(StoreUnavailable(type(fault).__name__, "refused"))

    async def _probe_often(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await first_of(stop.wait(), asyncio.sleep(LOOK_EVERY))
            await self.probe()

    async def watch(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._presence.run(stop))
            both.create_task(self._probe_often(stop))

    async def close(self) -> None:
        await self._presence.close()
        with suppress(OSError, DBAPIError, PostgresError, DriverFault):
            await self._engine.dispose()
            await self._sweeper.dispose()


class Presence:
    """This process on one database: a connection of its own, with what it holds, and the wake-ups.

    What one process alone may do has a lease, a row that it renews by the database's clock (DESIGN §8). A process that
    hangs, stopped or starved, lets it run out. One that ends is known at once: each has an advisory lock of its own,
    which is gone the moment its session is (PostgreSQL 18, chapter 13.3.5), and a lease without it is free.
    """

    def __init__(self, engine: AsyncEngine, woken: Callable[[], None], health: Health) -> None:
        self._engine = engine
        self._woken = woken
        self._health = health
        self._conn: AsyncConnection | None = None
        self._driver: Any = None
        self._holder = 0
        self._held: dict[str, float] = {}
        self._turn = asyncio.Lock()
        self._calling: asyncio.Task[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected, and renew what is held; when the database goes away, that is noted."""
        faults = 0
        while not stop.is_set():
            try:
                with self._health.trying(), _said_plainly():
                    await self._renew()
                faults = 0
            except StoreUnavailable:
                faults += 1
            await first_of(stop.wait(), asyncio.sleep(back_off(faults + 1, _LOOK, _LONGEST_PAUSE, factor=1.5)))

    async def _renew(self) -> None:
        async with self._turn:
            driver, began = await self._connected(), monotonic()
            if not self._held:
                await driver.fetchval("SELECT 1")
                return
            kept = await driver.fetch(_RENEW, self._holder, sorted(self._held), LEASE)
            self._held = {row["name"]: began + _SURE for row in kept if row["name"] in self._held}

    def holds(self, name: str) -> bool:
        """Whether this process still has a lease for sure, by its own clock since the last renewal."""
        return monotonic() < self._held.get(name, 0.0) and not self._driver.is_closed()

    async def hold(self, name: str) -> bool:
        """Take the lease, or have it already; one that may soon run out is renewed."""
        if self.holds(name) and self._held[name] - monotonic() > _SURE / 2:
            return True
        async with self._turn:
            driver, began = await self._connected(), monotonic()
            if await driver.fetchval(_TAKE, name, self._holder, LEASE):
                if name not in self._held:
                    await driver.execute(_DROP_OLD)
                self._held[name] = began + _SURE
            else:
                self._held.pop(name, None)
        return self.holds(name)

    async def release(self, name: str) -> None:
        """Give the lease back, if this process has it, and have the others look at once."""
        if self._held.pop(name, None) is not None:
            await self._do("DELETE FROM lease WHERE name = $1 AND holder = $2", name, self._holder)
            await self._do(f"NOTIFY {_CHANNEL}")

    def wake_others(self) -> None:
        """One NOTIFY for all that is committed within a moment: one a row would cap the writes."""
        if self._calling is None or self._calling.done():
            self._calling = asyncio.create_task(self._call())

    async def _call(self) -> None:
        await asyncio.sleep(_CALM)
        with suppress(StoreUnavailable), _said_plainly():
            await self._do(f"NOTIFY {_CHANNEL}")

    async def _do(self, statement: str, *parameters: Any) -> Any:
        async with self._turn:
            driver = await self._connected()
            return await driver.fetchval(statement, *parameters)

    async def _connected(self) -> Any:
        if self._driver is None or self._driver.is_closed():
            await self._forget()
            self._conn = await self._engine.connect()
            self._driver = (await self._conn.get_raw_connection()).driver_connection
            self._holder = secrets.randbits(62)
            await self._driver.fetchval("SELECT pg_advisory_lock($1)", self._holder)
            await self._driver.add_listener(_CHANNEL, self._heard)
        return self._driver

    def _heard(self, conn: Any, sender: int, _channel: str, _payload: str) -> None:
        if sender != conn.get_server_pid():
            self._woken()

    async def _forget(self) -> None:
        self._held.clear()
        conn, self._conn, self._driver = self._conn, None, None
        if conn is not None:
            with suppress(OSError, DBAPIError, PostgresError, DriverFault):
                await conn.invalidate()
                await conn.close()

    async def close(self) -> None:
        """End the connection, and with it every lock."""
        if self._calling is not None:
            self._calling.cancel()
            await asyncio.gather(self._calling, return_exceptions=True)
        async with self._turn:
            await self._forget()


def _write_nothing(conn: Connection) -> None:
    with conn.begin():
        for statement in _PROBE:
            conn.exec_driver_sql(statement)


def lock_key(name: str) -> int:
    """A name as PostgreSQL's advisory locks want it: 64 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)


@contextmanager
def _said_plainly() -> Iterator[None]:
    """A database that is away, full or read-only is `StoreUnavailable`, whichever layer noticed it."""
    try:
        yield
    except (OSError, TimeoutError, NoConnection, DriverFault) as fault:
        raise StoreUnavailable(type(fault).__name__) from fault
    except PostgresError as fault:
        if not (fault.sqlstate or "").startswith(_AWAY):
            raise
        raise StoreUnavailable(type(fault).__name__, _reason(fault.sqlstate or "")) from fault
    except DBAPIError as fault:
        if not (isinstance(fault, InterfaceError) or fault.connection_invalidated or _state(fault).startswith(_AWAY)):
            raise
        cause = fault.orig.__cause__ if fault.orig else None
        raise StoreUnavailable(type(cause or fault.orig).__name__, _reason(_state(fault))) from fault


def _reason(state: str) -> str:
    """The code of `leeward.store.health` for a SQLSTATE."""
    return next((reason for start, reason in _REASONS.items() if state.startswith(start)), "away")


def _address(engine: AsyncEngine) -> str:
    """Host, or a socket's folder, and port."""
    url = engine.url
    return f"{url.host or url.query.get('host')}:{url.port or 5432}"


def _state(fault: DBAPIError) -> str:
    """The SQLSTATE of a fault, empty where the driver gave none."""
    return str(getattr(fault.orig, "sqlstate", None) or "")
