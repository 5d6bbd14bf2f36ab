"""Column types that behave the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator


@lru_cache(maxsize=4096)
def time_text(moment: datetime, separator: str) -> str:
    """What SQLite stores of a time (separator " "), or PostgreSQL reads (separator "T"); the same few come often.

    Raises:
        ValueError: when the time is naive.
    """
    if moment.tzinfo is None:
        raise ValueError("a stored time needs a zone")
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(separator, "microseconds")
    return text if separator == " " else text + "+00:00"


class UtcTime(TypeDecorator[datetime]):
    """An aware time in, an aware UTC time out; SQLite would drop the zone and PostgreSQL would keep the sender's.

    Raises:
        ValueError: when a naive time is bound.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
