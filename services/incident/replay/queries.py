"""What a replay reads of the raw inbox and of the incidents there are."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, func, or_, select

from leeward.store import table_of
from leeward.store.lookup import in_list, rows_of
from services.incident.decisions.claims import Current, Visit, current_of
from services.incident.models import DayKey, IncidentRow, RawMessage

_RAW: Final = table_of(RawMessage)
_DAY_KEY: Final = table_of(DayKey)
_INCIDENT: Final = table_of(IncidentRow)
_SEALED: Final = select(_RAW.c.raw_ref, _RAW.c.sealed).where(in_list(_RAW.c.raw_ref))


def list_stored(conn: Connection, since: datetime, columns: Sequence[str]) -> list[Row[Any]]:
    """These columns of the messages that have come since."""
    query = select(*(_RAW.c[name] for name in columns)).where(_RAW.c.accepted_at >= since)
    return list(conn.execute(query))


def read_sealed(conn: Connection, raw_refs: Iterable[str]) -> dict[str, str]:
    """The sealed content of messages, by their reference."""
    return {row.raw_ref: row.sealed for row in rows_of(conn, _SEALED, raw_refs)}


def oldest_key(conn: Connection) -> datetime | None:
    """When the first of the keys was made that are left: nothing of before then can be read."""
    found: datetime | None = conn.execute(select(func.min(_DAY_KEY.c.made_at))).scalar()
    return found


def find_same_visit(conn: Connection, source: str, visit: Visit) -> Current | None:
    """An incident of a source's visit (by hash) that is not over; None for a visit that has no number."""
    columns = ((_INCIDENT.c.visit, visit.number), (_INCIDENT.c.account, visit.account))
    same = [column == value for column, value in columns if value]
    if not same:
        return None
    waiting = _INCIDENT.c.state.in_(("review", "recorded"))
    query = select(_INCIDENT).where(_INCIDENT.c.source == source, waiting, or_(*same)).limit(1)
    row = conn.execute(query).one_or_none()
    return current_of(row._mapping) if row else None
