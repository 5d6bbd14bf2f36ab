"""What retention and the hourly round read is found by an index, on either database, however much there is."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Final

import pytest
from sqlalchemy import Boolean, Column, Connection, Date, Engine, Integer, LargeBinary, Table, event, insert

from leeward.adapters import bus_of
from leeward.runtime import readers_of
from leeward.service import Service, Wiring
from leeward.settings import ServiceName, Settings
from leeward.store import Store, Timer, Unit, UtcTime
from leeward.store.retention import RetentionPart, delete_all, ground_parts
from services.commands import catalogue
from tests.conftest import MakeContext

# each is short: what waits for a person, a row a day, a source, a supporter, a process
SMALL: Final = {"access", "day_key", "entry", "epoch", "key_check", "last_seen", "lease", "load", "log", "parked"} | {
    "position",
    "roster_version",
    "subscription",
    "unmatched",
}
# those on the roster are read whole by the hourly round, where a copy in memory is not of this version
READ_WHOLE: Final = {"person", "line_manager", "refusal"}
ALONE: Final = ("log", "last_seen", "key_check", "epoch")  # one row each may have
LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)
Captured = list[tuple[str, Any]]

pytestmark = pytest.mark.database("sqlite", "postgresql")


def some(column: Column[Any], number: int) -> Any:
    """A value that a column takes, long ago where it is a time."""
    if isinstance(column.type, UtcTime):
        return LONG_AGO
    if isinstance(column.type, Date):
        return date(2020, 1, number)
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, Integer):
        return number
    return b"" if isinstance(column.type, LargeBinary) else str(number)


def fill(conn: Connection, table: Table) -> None:
    """Three rows: one of all values, one that leaves out what may be left out, and one as after an answer."""
    for number in (1, 2, 3):
        keep = [c for c in table.columns if number != 2 or not c.nullable]
        conn.execute(insert(table).values({c.name: some(c, number) for c in keep}))


def forget_other_tests(unit: Unit) -> None:
    """What PostgreSQL has counted and kept of other tests' rows makes it plan otherwise."""
    if unit.conn.dialect.name == "postgresql":
        names = ", ".join(f'"{table.name}"' for table in unit.tables.outbox.metadata.sorted_tables)
        unit.conn.exec_driver_sql(f"TRUNCATE {names}")
        unit.conn.exec_driver_sql(
            "DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class WHERE relkind = 'r')"
        )


@contextmanager
def capturing(store: Any) -> Iterator[Captured]:
    """Every statement that reads or deletes, with its parameters."""
    engine: Engine = getattr(store._engine, "sync_engine", store._engine)
    captured: Captured = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if re.match(r"\s*(SELECT|DELETE|UPDATE|WITH)", statement):
            captured.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield captured
    finally:
        event.remove(engine, "before_cursor_execute", note)


def read_whole(conn: Connection, captured: Captured, service: Service) -> set[tuple[str, str]]:
    """The tables that a statement would read from one end to the other, each with that statement."""
    found = set()
    for statement, parameters in captured:
        if conn.dialect.name == "sqlite":
            plan = [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            scanned = {line.split()[1] for line in plan if line.startswith("SCAN ")}
        else:
            text = "\n".join(conn.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
            scanned = {table for table, node in nodes(text) if "Index Cond" not in node}
        found |= {(table, statement) for table in scanned & service.metadata.tables.keys() - SMALL}
    return found


def nodes(plan: str) -> Iterator[tuple[str, str]]:
    """The scans of a plan of PostgreSQL, each with the table and the lines that belong to it."""
    for node in re.split(r"->|\n\s*SubPlan|\n\s*InitPlan", plan):
        if scan := re.search(r"(?:Seq|Index|Index Only) Scan (?:using \S+ )?on (?:public\.)?\"?(\w+)", node):
            yield scan[1], node


def retention_of(store: Store, settings: Settings, name: ServiceName, wiring: Wiring) -> Sequence[RetentionPart]:
    bus = bus_of(settings, {name: store}, readers_of(catalogue.load()))
    return (*ground_parts(store.writes), partial(bus.forget, name), *wiring.retention)


@pytest.fixture(params=catalogue.load(), ids=lambda one: one.name)
def service(request: pytest.FixtureRequest) -> Service:
    found: Service = request.param
    return found


async def test_no_retention_reads_a_whole_table(
    service: Service, make_context: MakeContext, settings: Settings
) -> None:
    context = make_context(service.name, service.metadata)
    store, wiring = context.store, service.build(context)
    tables = [table for table in service.metadata.sorted_tables if table.name not in ALONE]

    def filled(unit: Unit) -> None:
        for table in tables:
            fill(unit.conn, table)

    await store.write(forget_other_tests)
    await store.write(filled)
    with capturing(store) as captured:
        await store.write(lambda unit: delete_all(unit, *retention_of(store, settings, service.name, wiring)))
    assert any("DELETE FROM inbox" in statement for statement, _ in captured)
    assert await store.write(lambda unit: read_whole(unit.conn, captured, service)) == set()


async def test_the_hourly_round_looks_only_at_cases_that_name_somebody(make_context: MakeContext) -> None:
    [matching] = catalogue.load(["matching"])
    context = make_context("matching", matching.metadata)
    store, wiring = context.store, matching.build(context)
    due = Timer("hourly", "all", context.clock.now())
    await store.write(forget_other_tests)
    with capturing(store) as captured:
        await store.write(lambda unit: wiring.timers["hourly"](unit, [due]))
    assert any("support_case" in statement for statement, _ in captured)
    found = await store.write(lambda unit: read_whole(unit.conn, captured, matching))
    assert {(table, statement) for table, statement in found if table not in READ_WHOLE} == set()
