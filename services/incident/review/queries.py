"""Incidents as the coordinator sees them: listed by state, confirmed, dismissed."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, and_, or_, select, update

from leeward.contracts import IncidentRecorded, Involved, Severity
from leeward.store import Unit, table_of
from services.incident.decisions.claims import State, current_of
from services.incident.intake.repository import close_incidents
from services.incident.models import IncidentRow, InvolvedRow

_INCIDENT: Final = table_of(IncidentRow)
_INVOLVED: Final = table_of(InvolvedRow)


class Settled(Exception):
    """The incident has been decided otherwise."""


def list_incidents(conn: Connection, state: State | None, after: str | None, limit: int) -> list[Any]:
    """Rows, the newest first; `after` is the sort key of the last one seen."""
    query = select(_INCIDENT)
    if state:
        query = query.where(_INCIDENT.c.state == state)
    if after:
        moment, _, ref = after.partition(" ")
        at = datetime.fromisoformat(moment)
        same = and_(_INCIDENT.c.accepted_at == at, _INCIDENT.c.incident_ref < ref)
        query = query.where(or_(_INCIDENT.c.accepted_at < at, same))
    return list(
        conn.execute(query.order_by(_INCIDENT.c.accepted_at.desc(), _INCIDENT.c.incident_ref.desc()).limit(limit))
    )


def sort_key(row: Any) -> str:
    """What `listed` sorts by, as text."""
    return f"{row.accepted_at.isoformat()} {row.incident_ref}"


def find_incident(conn: Connection, incident_ref: str) -> Any:
    """One row, None where there is none."""
    return conn.execute(select(_INCIDENT).where(_INCIDENT.c.incident_ref == incident_ref)).one_or_none()


def describe_incident(row: Any) -> dict[str, Any]:
    """CONTRACT §HTTP: nothing of where or who, and the day of the outcome instead of its time."""
    return {
        "incident_ref": row.incident_ref,
        "state": row.state,
        "category": row.category,
        "level": row.level,
        "reasons": row.reasons.split(),
        "day": row.occurred_at.date().isoformat(),
    }


def confirm_incident(unit: Unit, incident_ref: str) -> Any:
    """A person says that it is one: it is recorded and published. Said twice, it is published once.

    Raises:
        Settled: when it was dismissed or retracted.
    """
    row = find_incident(unit.conn, incident_ref)
    if row is None or row.state == "recorded":
        return row
    _only_review(row)
    this = _INCIDENT.c.incident_ref == incident_ref
    unit.conn.execute(update(_INCIDENT).where(this).values(state="recorded", certain=True))
    people = unit.conn.execute(select(_INVOLVED).where(_INVOLVED.c.incident_ref == incident_ref))
    unit.emit(
        IncidentRecorded(
            incident_ref=incident_ref,
            category=row.category,
            severity=Severity(scheme=row.scheme, code=row.code, level=row.level),
            unit=row.unit,
            occurred_at=row.occurred_at,
            urgency=row.urgency,
            involved=tuple(Involved(person_ref=one.person_ref, reviewer=one.reviewer) for one in people),
        )
    )
    return find_incident(unit.conn, incident_ref)


def dismiss_incident(unit: Unit, incident_ref: str) -> Any:
    """A person says that it is not one; the list of people around it is deleted.

    Raises:
        Settled: when it was recorded or retracted.
    """
    row = find_incident(unit.conn, incident_ref)
    if row is None or row.state == "dismissed":
        return row
    _only_review(row)
    current = current_of(row._mapping)
    current.state = "dismissed"
    close_incidents(unit.conn, [current])
    return find_incident(unit.conn, incident_ref)


def _only_review(row: Any) -> None:
    if row.state != "review":
        raise Settled
