"""Many rows in one statement, the same on SQLite and PostgreSQL.

`executemany` takes back the GIL for every row and is ten times slower beside a busy loop, so rows travel as one JSON
array: `json_each` reads it on SQLite, `jsonb_array_elements` on PostgreSQL. Rows keep the order they are given in.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal

from sqlalchemy import Column, Connection, Dialect, Row, Table, TextClause, bindparam, column, text
from sqlalchemy.dialects.postgresql import dialect as postgresql
from sqlalchemy.dialects.sqlite import dialect as sqlite

Values = Sequence[Any]
_DIALECTS: dict[str, Dialect] = {"sqlite": sqlite(), "postgresql": postgresql()}  # type: ignore[no-untyped-call]


class _Bulk:
    """Rows of some columns as a derived table, and the statement built around it once for each database."""

    def __init__(self, table: Table, columns: Sequence[str], returning: Sequence[str] = ()) -> None:
        self._table = table
        self._columns = [table.c[name] for name in columns]
        self._returning = [table.c[name] for name in returning]

    def run(self, conn: Connection, rows: Sequence[Values]) -> Sequence[Row[Any]]:
        """Execute for all rows, values in the order of the columns; gives the `returning` rows, in no sure order."""
        if not rows:
            return []
        statement = self._sqlite if conn.dialect.name == "sqlite" else self._postgresql
        encoders = self._encoders(conn.dialect.name)
        table = [[encode(value) for encode, value in zip(encoders, row, strict=True)] for row in rows]
        result = conn.execute(statement, {"rows": json.dumps(table, allow_nan=False)})
        return result.all() if self._returning else []

    @cached_property
    def _sqlite(self) -> TextClause:
        fields = ", ".join(f"json_extract(value, '$[{n}]') AS {_name(c)}" for n, c in enumerate(self._columns))
        return self._statement(f"SELECT {fields} FROM json_each(:rows) WHERE true")

    @cached_property
    def _postgresql(self) -> TextClause:
        types = [c.type.compile(_DIALECTS["postgresql"]) for c in self._columns]
        fields = ", ".join(
            f"(r->>{n})::{t} AS {_name(c)}" for n, (c, t) in enumerate(zip(self._columns, types, strict=True))
        )
        source = "jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS e(r, n)"
        return self._statement(f"SELECT {fields} FROM {source} ORDER BY n")

    def _statement(self, source: str) -> TextClause:
        statement = text(self._sql(source) + self._returning_sql()).bindparams(bindparam("rows"))
        if not self._returning:
            return statement
        return statement.columns(*(column(c.name, c.type) for c in self._returning))  # type: ignore[return-value]

    def _returning_sql(self) -> str:
        names = ", ".join(f'"{self._table.name}".{_name(c)}' for c in self._returning)
        return f" RETURNING {names}" if names else ""

    def _sql(self, source: str) -> str:
        raise NotImplementedError

    def _encoders(self, dialect: str) -> list[Callable[[Any], Any]]:
        if dialect not in self._encoded:
            self._encoded[dialect] = [_encoder(c, dialect) for c in self._columns]
        return self._encoded[dialect]

    @cached_property
    def _encoded(self) -> dict[str, list[Callable[[Any], Any]]]:
        return {}


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


def _encoder(field: Column[Any], dialect: str) -> Callable[[Any], Any]:
    """From a Python value to what JSON carries, by way of the column's own type."""
    bind = field.type.dialect_impl(_DIALECTS[dialect]).bind_processor(_DIALECTS[dialect])

    def encode(value: Any) -> Any:
        if value is None or isinstance(value, (str, int, float)):
            return value
        value = bind(value) if bind else value
        return value.isoformat() if isinstance(value, (datetime, date)) else value

    return encode
