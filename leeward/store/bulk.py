"""Many rows in few statements, the same on SQLite and PostgreSQL. Rows keep the order they are given in.

`executemany` takes back the GIL for every row and is ten times slower beside a busy loop. SQLite takes a list of VALUES
(five times faster than `json_each` for wide rows), its length a power of two so that every statement is prepared once;
PostgreSQL takes all rows as one JSON array.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from functools import cached_property, partial
from itertools import chain
from typing import Any, Final, Literal

from sqlalchemy import Column, Connection, Dialect, Row, Table
from sqlalchemy.dialects.postgresql import dialect as postgresql
from sqlalchemy.dialects.sqlite import dialect as sqlite

from leeward.store.types import UtcTime, time_text

Values = Sequence[Any]
Encoders = list[tuple[int, Callable[[Any], Any]]]
_POSTGRESQL: Final[Dialect] = postgresql()  # type: ignore[no-untyped-call]
_SQLITE: Final[Dialect] = sqlite()
_MOST_ROWS: Final = 256
# SQLite's default limit of parameters in a statement is 32,766
_MOST_PARAMETERS: Final = 30_000


class _Bulk:
    """Rows of some columns as a derived table, and the statement built around it once for each database.

    Statements go to the driver as they are: compiling and caching them costs as much again as running them.
    """

    def __init__(self, table: Table, columns: Sequence[str], returning: Sequence[str] = ()) -> None:
        self._table = table
        self._columns = [table.c[name] for name in columns]
        self._returning = [table.c[name] for name in returning]
        self._statements: dict[int, str] = {}
        if any(field.type.python_type in (datetime, date) for field in self._returning):
            raise TypeError("returning is not for times: the driver's own values come back")

    def run(self, conn: Connection, rows: Sequence[Values]) -> Sequence[Row[Any]]:
        """Execute for all rows, values in the order of the columns; gives the `returning` rows, in no sure order."""
        if not rows:
            return []
        found: list[Row[Any]] = []
        for statement, parameters in self._calls(conn.dialect.name, rows):
            result = conn.exec_driver_sql(statement, parameters)
            if self._returning:
                found += result.all()
        return found

    def _calls(self, dialect: str, rows: Sequence[Values]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        if dialect == "sqlite":
            table = _encoded(rows, self._sqlite_encoders, len(self._columns))
            for part in _powers_of_two(table, min(_MOST_ROWS, _MOST_PARAMETERS // len(self._columns))):
                yield self._sqlite(len(part)), tuple(chain.from_iterable(part))
        else:
            table = _encoded(rows, self._postgresql_encoders, len(self._columns))
            yield self._postgresql, (json.dumps(table, allow_nan=False),)

    def _sqlite(self, size: int) -> str:
        """The statement for that many rows."""
        if size not in self._statements:
            row = f"({', '.join('?' * len(self._columns))})"
            fields = ", ".join(f"column{n} AS {_name(c)}" for n, c in enumerate(self._columns, 1))
            source = f"SELECT {fields} FROM (VALUES {', '.join([row] * size)}) WHERE true"
            self._statements[size] = self._sql(source) + self._returning_sql()
        return self._statements[size]

    @cached_property
    def _postgresql(self) -> str:
        # a cast to varchar(n) would cut silently what is too long; as text the column refuses it
        types = ["text" if c.type.python_type is str else c.type.compile(_POSTGRESQL) for c in self._columns]
        fields = ", ".join(
            f"(r->>{n})::{t} AS {_name(c)}" for n, (c, t) in enumerate(zip(self._columns, types, strict=True))
        )
        source = "jsonb_array_elements($1::text::jsonb) WITH ORDINALITY AS e(r, n)"
        return self._sql(f"SELECT {fields} FROM {source} ORDER BY n") + self._returning_sql()

    def _returning_sql(self) -> str:
        names = ", ".join(f'"{self._table.name}".{_name(c)}' for c in self._returning)
        return f" RETURNING {names}" if names else ""

    def _sql(self, source: str) -> str:
        raise NotImplementedError

    @cached_property
    def _sqlite_encoders(self) -> Encoders:
        return _encoders(self._columns, _SQLITE)

    @cached_property
    def _postgresql_encoders(self) -> Encoders:
        return _encoders(self._columns, _POSTGRESQL)


class Insert(_Bulk):
    """Insert rows; on a conflict fail (None), skip the row ("nothing") or overwrite it by its `keys` ("replace").

    With "replace", the rows of one run need different keys: PostgreSQL refuses to overwrite a row twice.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        *,
        conflict: Literal["nothing", "replace"] | None = None,
        keys: Sequence[str] = (),
        returning: Sequence[str] = (),
    ) -> None:
        super().__init__(table, columns, returning)
        self._conflict = conflict
        self._keys = keys

    def _sql(self, source: str) -> str:
        names = ", ".join(_name(c) for c in self._columns)
        return f'INSERT INTO "{self._table.name}" ({names}) {source}{self._conflict_sql()}'

    def _conflict_sql(self) -> str:
        if self._conflict is None:
            return ""
        target = f" ({', '.join(_name(self._table.c[key]) for key in self._keys)})" if self._keys else ""
        if self._conflict == "nothing":
            return f" ON CONFLICT{target} DO NOTHING"
        changes = ", ".join(f"{_name(c)} = excluded.{_name(c)}" for c in self._columns if c.name not in self._keys)
        return f" ON CONFLICT{target} DO UPDATE SET {changes}"


class Update(_Bulk):
    """Update rows found by `keys`, setting `columns`; a row's values are the keys' first, then the columns'.

    The rows of one run need different keys.
    """

    def __init__(
        self, table: Table, keys: Sequence[str], columns: Sequence[str], *, returning: Sequence[str] = ()
    ) -> None:
        super().__init__(table, [*keys, *columns], returning)
        self._keys = keys

    def _sql(self, source: str) -> str:
        name = self._table.name
        changes = ", ".join(f"{_name(c)} = given.{_name(c)}" for c in self._columns if c.name not in self._keys)
        match = " AND ".join(f'"{name}"."{key}" = given."{key}"' for key in self._keys)
        return f'UPDATE "{name}" SET {changes} FROM ({source}) AS given WHERE {match}'


def _name(field: Column[Any]) -> str:
    return f'"{field.name}"'


def _encoded(rows: Sequence[Values], encoders: Encoders, width: int) -> list[list[Any]]:
    """The rows with those values encoded that the driver would not take as they are.

    Raises:
        ValueError: for a row with too many or too few values.
    """
    table = [list(row) for row in rows]
    for row in table:
        if len(row) != width:
            raise ValueError("a row needs one value a column")
        for place, encode in encoders:
            if row[place] is not None:
                row[place] = encode(row[place])
    return table


def _powers_of_two(table: list[list[Any]], most: int) -> Iterator[list[list[Any]]]:
    """The rows in parts whose lengths are powers of two, the longest first."""
    start = 0
    while start < len(table):
        size = 1 << (min(most, len(table) - start).bit_length() - 1)
        yield table[start : start + size]
        start += size


def _encoders(columns: Sequence[Column[Any]], dialect: Dialect) -> Encoders:
    return [(place, _encoder(c, dialect)) for place, c in enumerate(columns) if c.type.python_type in (datetime, date)]


def _encoder(field: Column[Any], dialect: Dialect) -> Callable[[Any], Any]:
    """From a time or day to the text that the column's own type would store."""
    if field.type.python_type is date:
        return date.isoformat
    if isinstance(field.type, UtcTime):
        return partial(time_text, separator=" " if dialect.name == "sqlite" else "T")
    raise TypeError(f"{field.name}: a stored time needs UtcTime")
