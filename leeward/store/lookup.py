"""Reading rows by many keys: one query for a batch, and several for a message that names thousands.

A list that is written out has a parameter a value: on PostgreSQL each length would be a statement of its own, which is
parsed and planned. There it travels as one array, so that it is one statement, prepared once (ADR 14).
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Boolean, Column, Connection, Row, Select, any_, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType

AT_ONCE: Final = 5000  # both databases take some 32,000 parameters in one statement


class InList(FunctionElement[bool]):
    """Whether a column has one of the values of a parameter."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: OperatorType | None = None) -> "InList":
        """As it is: SQLAlchemy would have SQLite compare it with 1, and then no index serves."""
        return self


def in_list(column: Column[Any], name: str = "keys") -> InList:
    """`column IN (…)`; the values are given to `execute` as the parameter `name`, a list of any length."""
    return InList(column, bindparam(name, expanding=True, type_=column.type))


@compiles(InList)
def _listed(element: InList, compiler: Any, **options: Any) -> str:
    column, values = element.clauses
    return str(compiler.process(column.in_(values), **options))


@compiles(InList, "postgresql")
def _as_array(element: InList, compiler: Any, **options: Any) -> str:
    column, values = element.clauses
    array: Any = bindparam(values.key, type_=ARRAY(values.type))
    return str(compiler.process(column == any_(array), **options))


def rows_of(conn: Connection, statement: Select[Any], keys: Iterable[str]) -> Iterator[Row[Any]]:
    """The rows of a statement with an `in_list` of "keys"; they are asked for in order, each once."""
    wanted = sorted(set(keys))
    for start in range(0, len(wanted), AT_ONCE):
        yield from conn.execute(statement, {"keys": wanted[start : start + AT_ONCE]})
