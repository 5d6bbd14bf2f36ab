"""Reading rows by many keys: one query for a batch, and several for a message that names thousands."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Row, Select, bindparam

AT_ONCE: Final = 5000  # both databases take some 32,000 parameters in one statement
KEYS: Final[BindParameter[Any]] = bindparam("keys", expanding=True)


def rows_of(conn: Connection, statement: Select[Any], keys: Iterable[str]) -> Iterator[Row[Any]]:
    """The rows of a statement that asks for `KEYS`; keys are asked for in order, each once."""
    wanted = sorted(set(keys))
    for start in range(0, len(wanted), AT_ONCE):
        yield from conn.execute(statement, {"keys": wanted[start : start + AT_ONCE]})
