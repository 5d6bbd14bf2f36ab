"""A database brought up from nothing is what the models say, to the name, on every service."""

import asyncio
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import JSON, Column, Connection, Engine, MetaData, Table, create_engine, inspect, select, text

from leeward.bus.consumer import Consumer
from leeward.bus.parking import Parking
from leeward.bus.sqlite import SqliteBus
from leeward.clock import SystemClock
from leeward.service import Service
from leeward.settings import SERVICES, ServiceName, Settings
from leeward.store.migrate import alembic_config, drift, migrate
from leeward.store.postgresql import PostgresStore, postgresql_engine
from leeward.store.sqlite import sqlite_engine
from services.commands import catalogue
from services.commands.operate.revision import folder
from services.demo.servers import PostgreSQL
from tests.conftest import MakeContext
from tests.contract.databases import Databases
from tests.contract.world import recorded, ref


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Service:
    name: ServiceName = request.param
    return catalogue.load([name])[0]


def made(path: Path, make: Callable[[Engine], Any]) -> dict[str, Any]:
    """What there is in a database after `make`: columns, keys, indexes and the tables' own options."""
    engine = sqlite_engine(path)
    make(engine)
    found = described(engine)
    engine.dispose()
    return found


def described(engine: Engine) -> dict[str, Any]:
    looked = inspect(engine)
    with engine.connect() as conn:
        query = text("SELECT name, lower(sql) AS sql FROM sqlite_master WHERE type = 'table'")
        statements: dict[str, str] = {row.name: row.sql for row in conn.execute(query)}
        query = text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        indexes = {name: " ".join(sql.split()) for name, sql in conn.execute(query)}
    tables = [name for name in looked.get_table_names() if name != "alembic_version"]
    return {
        "indexes": indexes,
        **{
            name: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in looked.get_columns(name)
                },
                "primary": looked.get_pk_constraint(name)["constrained_columns"],
                "unique": sorted(sorted(one["column_names"]) for one in looked.get_unique_constraints(name)),
                "never reuses a number": "autoincrement" in statements[name],
                "without rowid": "without rowid" in statements[name],
            }
            for name in tables
        },
    }


def test_from_nothing_to_the_models(service: Service, tmp_path: Path) -> None:
    migrated = made(tmp_path / "migrated.db", lambda engine: brought_up(engine, service))
    modelled = made(tmp_path / "modelled.db", service.metadata.create_all)
    assert migrated == modelled
    assert migrated["outbox"]["never reuses a number"]
    assert migrated["inbox"]["without rowid"]


def brought_up(engine: Engine, service: Service) -> bool:
    with engine.begin() as conn:
        return migrate(conn, service.package, service.metadata)


def drifted(engine: Engine, service: Service) -> list[Any]:
    with engine.begin() as conn:
        return drift(conn, service.metadata)


def test_nothing_drifts_and_a_second_run_changes_nothing(service: Service, tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "database.db")
    assert brought_up(engine, service)
    assert drifted(engine, service) == []
    assert not brought_up(engine, service)
    engine.dispose()


def on_postgresql(conn: Connection) -> dict[str, Any]:
    """The same of PostgreSQL: columns, keys and indexes with their names."""
    looked = inspect(conn)
    query = text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname")
    tables = [name for name in looked.get_table_names() if name != "alembic_version"]
    return {
        "indexes": {name: sql for name, sql in conn.execute(query) if not name.startswith("alembic")},
        **{
            name: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in looked.get_columns(name)
                },
                "primary": looked.get_pk_constraint(name),
                "unique": sorted(looked.get_unique_constraints(name), key=str),
            }
            for name in tables
        },
    }


async def test_on_postgresql_nothing_drifts_either(service: Service, postgresql: PostgreSQL) -> None:
    postgresql.create("migrations")
    engine = postgresql_engine(postgresql.url("migrations"), "test")

    def migrated(conn: Connection) -> dict[str, Any]:
        assert migrate(conn, service.package, service.metadata)
        assert drift(conn, service.metadata) == []
        assert not migrate(conn, service.package, service.metadata)
        return on_postgresql(conn)

    def modelled(conn: Connection) -> dict[str, Any]:
        service.metadata.create_all(conn)
        return on_postgresql(conn)

    found = []
    for make in (migrated, modelled):
        async with engine.connect() as conn:
            found.append(await conn.run_sync(make))
            await conn.rollback()
    await engine.dispose()
    assert found[0] == found[1]
    assert set(service.metadata.tables) == set(found[0]) - {"indexes"}


async def test_of_several_that_migrate_at_once_one_does(service: Service, postgresql: PostgreSQL) -> None:
    postgresql.create("at-once")
    url = postgresql.url("at-once")
    stores = [PostgresStore(url, service.name, service.metadata, SystemClock()) for _ in range(3)]
    migrating = partial(migrate, package=service.package, metadata=service.metadata)
    try:
        assert sorted(await asyncio.gather(*(store.administer(migrating) for store in stores))) == [False, False, True]
    finally:
        for store in stores:
            await store.close()
        postgresql.drop("at-once")


AROUND = """
    INSERT INTO incident (incident_ref, state, source, category, scheme, code, level, unit, urgency, reasons,
        occurred_at, accepted_at, certain, by_disposition, visit, account)
    VALUES ('i1', 'recorded', 'ehr', 'death', 'leeward', 'death', 'death', 'ICU', 'routine', '',
        '2026-11-20 08:15:00.000000', '2026-11-20 09:00:00.000000', true, true, '', '');
    INSERT INTO involved (incident_ref, person_ref, reviewer) VALUES ('i1', 'p1', true), ('i1', 'p2', false);
    INSERT INTO unmatched_link (unmatched_ref, incident_ref, reviewer) VALUES ('u1', 'i1', false)
"""


def test_whoever_was_around_an_incident_keeps_their_row_and_gets_its_time(tmp_path: Path) -> None:
    from alembic import command

    [incident] = catalogue.load(["incident"])
    engine = sqlite_engine(tmp_path / "database.db")
    with engine.begin() as conn:
        command.upgrade(alembic_config(incident.package, incident.metadata, conn), "0008")
        for statement in AROUND.split(";"):
            conn.execute(text(statement))
        assert migrate(conn, incident.package, incident.metadata)
        query = text("SELECT person_ref, reviewer, occurred_at FROM involved ORDER BY person_ref")
        at = "2026-11-20 08:15:00.000000"
        assert [tuple(row) for row in conn.execute(query)] == [("p1", 1, at), ("p2", 0, at)]
        assert conn.execute(text("SELECT occurred_at FROM unmatched_link")).scalars().all() == [at]
    engine.dispose()


def test_a_database_of_a_newer_release_is_left_as_it_is(service: Service, tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "database.db")
    assert brought_up(engine, service)
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not brought_up(engine, service)
    engine.dispose()


def test_a_service_knows_its_package(service: Service) -> None:
    assert service.package == catalogue.PACKAGES[service.name]


def test_a_file_begins_with_its_revision(service: Service) -> None:
    for file in folder(service).glob("*.py"):
        assert f'revision = "{file.name.partition("_")[0]}"' in file.read_text()


def test_a_missing_column_would_be_found(service: Service, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'database.db'}")
    service.metadata.create_all(engine)
    with engine.begin() as conn:
        conn.execute(text("ALTER TABLE access DROP COLUMN role"))
    assert [change[0] for change in drifted(engine, service)] == ["add_column"]
    engine.dispose()


FIRST = "0001"
VALUES: dict[type, Callable[[int], Any]] = {
    str: str,
    int: lambda number: number,
    float: float,
    bool: lambda number: bool(number % 2),
    bytes: lambda number: bytes([number]),
    datetime: lambda number: datetime(2026, 11, number, 8, 30, tzinfo=UTC),
    date: lambda number: date(2026, 11, number),
}


def first_release(conn: Connection, service: Service) -> MetaData:
    """The tables of the first schema that landed, each with three rows."""
    tables = clean(conn, service)
    for table in tables.sorted_tables:
        if table.name != "alembic_version":
            rows = [{c.name: made_up(c, number) for c in table.columns} for number in (1, 2, 3)]
            conn.execute(table.insert(), rows)
    return tables


def clean(conn: Connection, service: Service) -> MetaData:
    """The tables of the first schema that landed, empty, in place of whatever there was."""
    newest, first = MetaData(), MetaData()
    newest.reflect(conn)
    newest.drop_all(conn)
    command.upgrade(alembic_config(service.package, service.metadata, conn), FIRST)
    first.reflect(conn)
    return first


def made_up(column: Column[Any], number: int) -> Any:
    if isinstance(column.type, JSON):
        return []
    return VALUES[column.type.python_type](number)


def rows_of(conn: Connection, table: Table, names: Collection[str]) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in conn.execute(select(*(table.c[name] for name in sorted(names))))), key=str)


async def test_an_upgrade_of_a_filled_database_of_the_first_release_keeps_every_row(
    service: Service, databases: Databases
) -> None:
    await databases.create(service.name, MetaData())
    store = databases.open(service.name, service.metadata)

    def upgrade(conn: Connection) -> None:
        before = first_release(conn, service)
        kept = {
            table.name: rows_of(conn, table, {c.name for c in table.columns})
            for table in before.sorted_tables
            if table.name != "alembic_version"
        }
        assert migrate(conn, service.package, service.metadata)
        assert drift(conn, service.metadata) == []
        now = inspect(conn)
        for name, rows in kept.items():
            columns = {column["name"] for column in now.get_columns(name)}
            table = before.tables[name]
            there = columns & {c.name for c in table.columns}
            places = [place for place, column in enumerate(sorted(c.name for c in table.columns)) if column in there]
            assert rows_of(conn, table, there) == sorted((tuple(row[p] for p in places) for row in rows), key=str)

    try:
        await store.administer(upgrade)
    finally:
        await store.close()


async def test_after_an_upgrade_from_the_first_release_events_go_on_where_they_were(
    make_context: MakeContext, settings: Settings
) -> None:
    """Three outcomes were published, of which matching had applied one when the release was changed."""
    incident, matching = catalogue.load(["incident", "matching"])
    published = [recorded(number, f"unit-{number}") for number in (1, 2, 3)]
    contexts = {service.name: make_context(service.name, service.metadata) for service in (incident, matching)}

    def publish(conn: Connection) -> None:
        outbox = clean(conn, incident).tables["outbox"]
        at = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
        for number, data in enumerate(published, 1):
            row = {"seq": number, "id": ref(100 + number), "type": data.type, "key": data.key, "accepted_at": at}
            conn.execute(outbox.insert().values(**row, body=data.model_dump_json(), written_on=at.date()))
        migrate(conn, incident.package, incident.metadata)

    def apply_first(conn: Connection) -> None:
        tables = clean(conn, matching).tables
        conn.execute(tables["inbox"].insert().values(event_id=ref(101), seen_on=date(2026, 11, 20)))
        conn.execute(tables["position"].insert().values(topic="leeward.incident", seq=1))
        migrate(conn, matching.package, matching.metadata)

    await contexts["incident"].store.administer(publish)
    await contexts["matching"].store.administer(apply_first)
    store = contexts["matching"].store
    handlers = {model.type: handler for model, handler in matching.build(contexts["matching"]).handlers.items()}
    bus = SqliteBus(settings, {"matching": store})
    subscription = bus.subscribe("matching", "leeward.incident")
    consumer = Consumer("leeward.incident", subscription, store, Parking("matching", store, handlers))
    await consumer.take(await subscription.fetch(256))
    known = select(matching.metadata.tables["incident"].c.incident_ref)
    found = await store.read(lambda conn: sorted(conn.execute(known).scalars()))
    assert found == [ref(2), ref(3)]
    assert subscription.lag() == 0
    assert subscription.noted() == ""
    await bus.close()
