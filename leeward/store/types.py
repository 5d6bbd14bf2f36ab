"""Column types that behave the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator


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

    @staticmethod
    def text(value: datetime, separator: str) -> str:
        """What SQLite stores of a time (separator " "), or PostgreSQL reads (separator "T").

        Raises:
            ValueError: when the time is naive.
        """
        if value.tzinfo is None:
            raise ValueError("a stored time needs a zone")
        moment = value if value.tzinfo is UTC else value.astimezone(UTC)
        text = moment.replace(tzinfo=None).isoformat(separator, "microseconds")
        return text if separator == " " else text + "+00:00"

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
