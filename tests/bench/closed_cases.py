"""Databases as after months: so many closed cases with what is kept of each, and a part that retention has to delete.

As a program, `python -m tests.bench.closed_cases SECONDS|never up`: the product with its retention as often as that.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Boolean, Column, Date, Integer, Table

from leeward.settings import ServiceName
from leeward.store import UtcTime, retention
from services.commands import catalogue

NOW: Final = "2026-11-21 10:00:00"
EXPIRED: Final = 10  # per cent that wait to be deleted
DAY: Final = 24 * 60  # minutes
STATES: Final = {"state": "recorded", "stage": "closed", "level": "death", "urgency": "routine", "template": "offer"}


class Kept(NamedTuple):
    """A table with rows for a share of the cases, and how many days each is kept."""

    service: ServiceName
    table: str
    share: float
    days: int


KEPT: Final = (
    Kept("incident", "incident", 1, 400),
    Kept("incident", "patient", 1, 400),
    Kept("incident", "patient_key", 1, 400),
    Kept("incident", "involved", 1, 90),
    Kept("incident", "seen", 1, 7),
    Kept("incident", "outbox", 0.1, 8),
    Kept("matching", "incident", 1, 90),
    Kept("matching", "support_case", 1, 90),
    Kept("matching", "inbox", 0.3, 10),
    Kept("notify", "delivery", 0.3, 14),
    Kept("notify", "question", 0.3, 90),
    Kept("notify", "link", 0.3, 90),
    Kept("notify", "inbox", 0.1, 10),
)


def fill(data: Path, cases: int) -> None:
    """Fill the databases of an installation that does not run."""
    tables = {(service.name, name): table for service in catalogue.load() for name, table in _tables(service.metadata)}
    for kept in KEPT:
        with closing(sqlite3.connect(data / f"{kept.service}.db", isolation_level=None)) as conn:
            for pragma in ("synchronous=OFF", "cache_size=-400000", "temp_store=MEMORY"):
                conn.execute(f"PRAGMA {pragma}")
            conn.execute(_insertion(tables[kept.service, kept.table], int(cases * kept.share), kept.days))
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def count(data: Path) -> int:
    """The rows of all tables that were filled."""
    rows = 0
    for kept in KEPT:
        with closing(sqlite3.connect(data / f"{kept.service}.db")) as conn:
            rows += conn.execute(f'SELECT count(*) FROM "{kept.table}"').fetchone()[0]
    return rows


def _tables(metadata: object) -> list[tuple[str, Table]]:
    found: Mapping[str, Table] = metadata.tables  # type: ignore[attr-defined]
    return list(found.items())


def _insertion(table: Table, rows: int, days: int) -> str:
    """Rows whose ages are spread over the days that they are kept, the last ones beyond."""
    late = rows * EXPIRED // 100
    age = f"CASE WHEN i < {late} THEN {(days + 2) * DAY} ELSE (i - {late}) * {(days - 2) * DAY} / {rows - late} END"
    columns = [c for c in table.columns if not (c.primary_key and c.autoincrement is True)]
    names = ", ".join(f'"{c.name}"' for c in columns)
    values = ", ".join(_value(c) for c in columns)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows - 1})"
    return f'{numbers} INSERT INTO "{table.name}" ({names}) SELECT {values} FROM (SELECT i, {age} AS age FROM n)'


def _value(column: Column[object]) -> str:
    if isinstance(column.type, UtcTime):
        return f"strftime('%Y-%m-%d %H:%M:%S.000000', '{NOW}', '-' || age || ' minutes')"
    if isinstance(column.type, Date):
        return f"date('{NOW}', '-' || age || ' minutes')"
    if isinstance(column.type, (Boolean, Integer)):
        return "0"
    if column.nullable and column.name != "incident_ref":
        return "NULL"
    if column.name.endswith(("_ref", "_hash")) or column.primary_key or column.name in ("id", "key"):
        return "printf('%08x-0000-4000-8000-%012x', i, i)"
    return f"'{STATES.get(column.name, '')}'"


def main(often: str, *words: str) -> None:
    """Run the product, with its retention every so many seconds or never."""
    from services import __main__ as command

    if often == "never":

        async def rest(self: retention.Retention, stop: asyncio.Event) -> None:
            await stop.wait()

        retention.Retention.run = rest  # type: ignore[method-assign]
    else:
        retention.EVERY = float(often)  # type: ignore[misc]
    sys.argv = ["leeward", *words]
    command.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
