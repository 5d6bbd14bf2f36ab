"""A command's way to the services' databases: beside a running system or without one."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial, wraps
from typing import Final, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.util.concurrency import await_only, greenlet_spawn, in_greenlet

from leeward.adapters import store_of
from leeward.service import Service
from leeward.settings import ServiceName, Settings, SettingsError
from leeward.settings.files import describe_fault
from leeward.store import Store, StoreUnavailable, Unit
from leeward.store.copies.erasures import ErasureList
from leeward.store.copies.sqlite import is_unfinished
from leeward.store.health import ailment
from leeward.store.health.files import look_for_room, reason_of
from leeward.store.migrate import migrate, up_to_date
from leeward.store.sqlite import sqlite_engine
from leeward.store.unit import GroundWrites
from leeward.timekeeping.keeper import time_of
from services.commands import queries
from services.commands.console import Failed

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE: Final = 30_000  # ms: a running system writes all the time, each time briefly


def with_databases(command: Callable[P, T]) -> Callable[P, T]:
    """Run a synchronous command so that it may use the asynchronous driver of PostgreSQL; not from a running loop."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if in_greenlet():
            return command(*args, **kwargs)
        return asyncio.run(greenlet_spawn(partial(command, *args, **kwargs)))

    return run


@contextmanager
def engine(settings: Settings, service: ServiceName, *, read_only: bool = False) -> Iterator[Engine]:
    """An engine for one service's database that waits for its turn; inside `with_databases` alone."""
    url = settings.database_url(service)
    if url:
        from leeward.store.postgresql import postgresql_engine

        # a whole roster in one transaction would be begun again and again beside a system that runs
        name, isolation = f"{service}-command", "READ COMMITTED"
        made = postgresql_engine(url, name, pool=1, isolation=isolation, patience=None).sync_engine
    else:
        if is_unfinished(settings.data):
            raise Failed("LEEWARD_DATA: a restore of it was cut short; run `leeward restore` again")
        path = settings.database_file(service)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise SettingsError(f"LEEWARD_DATA: {describe_fault(fault, settings.data)}") from None
        made = sqlite_engine(path, read_only=read_only)
        queries.wait_for_turn(made, PATIENCE)
    try:
        yield made
    finally:
        made.dispose()


@contextmanager
def connection(settings: Settings, service: ServiceName, *, read_only: bool = False) -> Iterator[Connection]:
    """A connection to one service's database.

    Raises:
        Failed: when it cannot be reached, does not let us in, or turns out to be damaged.
    """
    with engine(settings, service, read_only=read_only) as one:
        try:
            conn = one.connect()
        except (OSError, TimeoutError, DBAPIError) as fault:
            why = fault.orig.__cause__ or fault.orig if isinstance(fault, DBAPIError) and fault.orig else fault
            raise _failed(settings, service, type(why).__name__, reason_of(why)) from fault
        with conn:
            try:
                yield conn
            except DBAPIError as fault:
                if type(fault) is not DatabaseError:
                    raise
                raise _failed(settings, service, type(fault).__name__, reason_of(fault.orig)) from fault


def _failed(settings: Settings, service: ServiceName, fault: str, reason: str) -> Failed:
    """What is wrong with a database and what to do, in one line; of a file by its path."""
    if settings.database_url(service):
        return Failed(f"{service}: the database cannot be reached ({fault})")
    if reason == "cannot_open":
        # why SQLite could not, its folder says better
        try:
            look_for_room(settings.data)
        except StoreUnavailable as fault_of_folder:
            reason = fault_of_folder.reason
    found = ailment(reason)
    return Failed(f"{settings.database_file(service)}: {found.what}; {found.do}")


@with_databases
def migrate_all(settings: Settings, services: Sequence[Service]) -> list[ServiceName]:
    """Bring the databases of these services to their newest revision; gives the ones that changed.

    Raises:
        Failed: when one cannot be reached.
    """
    changed: list[ServiceName] = []
    for service in services:
        with _store(settings, service) as store:
            newest = partial(migrate, package=service.package, metadata=service.metadata)
            if await_only(store.administer(newest)):
                changed.append(service.name)
    return changed


@with_databases
def prepare(settings: Settings, services: Sequence[Service]) -> None:
    """Have the databases that a command works on at the newest revision; on PostgreSQL `leeward migrate` alone does so.

    Raises:
        Failed: when one cannot be reached, or has not been migrated.
    """
    for service in services:
        if settings.database_url(service.name):
            with _store(settings, service) as store:
                await_only(store.read(partial(check_current, service=service)))
        else:
            migrate_all(settings, [service])


def check_current(conn: Connection, service: Service) -> None:
    """See that a database has been migrated.

    Raises:
        Failed: when it has not.
    """
    if not up_to_date(conn, service.package):
        raise Failed(f"{service.name}: the database is not at the newest revision; run `leeward migrate`")


@contextmanager
def _store(settings: Settings, service: Service) -> Iterator[Store]:
    store = store_of(settings, service.name, service.metadata, settings.clock())
    try:
        yield store
    except StoreUnavailable as fault:
        raise _failed(settings, service.name, str(fault), fault.reason) from fault
    finally:
        await_only(store.close())


@contextmanager
def transaction(settings: Settings, service: Service, now: datetime, *, believed: bool = False) -> Iterator[Unit]:
    """One transaction on a service's database, committed at the end of the block.

    It goes by the time that the services go by, which do not believe every clock, unless `now` is to be `believed`.

    Raises:
        Failed: when the database cannot be written.
    """
    try:
        with connection(settings, service.name) as conn:
            conn.begin()
            writes = GroundWrites(service.metadata)
            unit = Unit(conn, now if believed else time_of(conn, writes.tables, now), writes)
            yield unit
            unit.flush()
            if unit.erased:
                ErasureList(settings.erasures).append(unit.erased, now)
            conn.commit()
    except DBAPIError as fault:
        raise Failed(f"{service.name}: the database cannot be written now; nothing was stored there") from fault


@contextmanager
def reading(settings: Settings, service: ServiceName) -> Iterator[Connection | None]:
    """A connection that cannot write, None while there is no database yet."""
    if not settings.database_url(service) and not settings.database_file(service).exists():
        yield None
        return
    with connection(settings, service, read_only=True) as conn:
        yield conn
