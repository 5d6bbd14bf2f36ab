"""A command's way to the services' databases: beside a running system or without one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from leeward.service import Service
from leeward.settings import ServiceName, Settings
from leeward.store import Unit
from leeward.store.engine import sqlite_engine
from leeward.store.unit import GroundWrites
from services.commands.console import Failed

PATIENCE: Final = 30_000  # ms: a running system writes all the time, each time briefly


@contextmanager
def engine(settings: Settings, service: ServiceName, *, read_only: bool = False) -> Iterator[Engine]:
    """An engine for one service's database that waits for its turn."""
    path = settings.database_file(service)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = sqlite_engine(path, read_only=read_only)

    @event.listens_for(made, "connect")
    def be_patient(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={PATIENCE}").close()

    try:
        yield made
    finally:
        made.dispose()


def migrate_all(settings: Settings, services: Sequence[Service]) -> list[ServiceName]:
    """Bring the databases of these services to their newest revision; gives the ones that changed."""
    from leeward.store.migrate import migrate
    from services.commands.catalogue import PACKAGES

    changed: list[ServiceName] = []
    for service in services:
        with engine(settings, service.name) as one:
            if migrate(one, PACKAGES[service.name], service.metadata):
                changed.append(service.name)
    return changed


@contextmanager
def transaction(settings: Settings, service: Service, now: datetime) -> Iterator[Unit]:
    """One transaction on a service's database, committed at the end of the block.

    Raises:
        Failed: when the database cannot be written.
    """
    try:
        with engine(settings, service.name) as one, one.connect() as conn:
            conn.begin()
            unit = Unit(conn, now, GroundWrites(service.metadata))
            yield unit
            unit.flush()
            conn.commit()
    except OperationalError as fault:
        raise Failed(f"{service.name}: the database cannot be written now; nothing was stored there") from fault


@contextmanager
def reading(settings: Settings, service: ServiceName) -> Iterator[Connection | None]:
    """A connection that cannot write, None while there is no database yet."""
    if not settings.database_file(service).exists():
        yield None
        return
    with engine(settings, service, read_only=True) as one, one.connect() as conn:
        yield conn
