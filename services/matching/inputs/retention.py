"""Rows that have served are deleted."""

from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select

from leeward.store import Unit
from services.matching.cases.candidates import EXPOSURE, LOAD, SHIFT
from services.matching.cases.repository import CASE, REQUEST
from services.matching.cases.session import ENTRY, PERSON
from services.matching.inputs.incidents import INCIDENT
from services.matching.lifecycle.steps import LIMIT

SHIFTS_KEPT: Final = timedelta(days=15)
OVER_KEPT: Final = timedelta(days=90)


def forget(unit: Unit) -> None:
    """Rows that have served; exposures go with the last of them."""
    conn, now = unit.conn, unit.now
    conn.execute(delete(SHIFT).where(SHIFT.c.ends_at < now - SHIFTS_KEPT))
    conn.execute(delete(REQUEST).where(REQUEST.c.case_ref.is_(None), REQUEST.c.expires_at < now))
    conn.execute(delete(CASE).where(CASE.c.person_ref.is_(None), CASE.c.ends_at < now - OVER_KEPT))
    old = select(INCIDENT.c.incident_ref).where(INCIDENT.c.occurred_at < now - LIMIT)
    conn.execute(delete(EXPOSURE).where(EXPOSURE.c.incident_ref.in_(old)))
    conn.execute(delete(ENTRY).where(ENTRY.c.about.in_(old)))
    conn.execute(delete(INCIDENT).where(INCIDENT.c.occurred_at < now - LIMIT))
    # a quiet time that is over would still tell when somebody was written to
    conn.execute(PERSON.update().where(PERSON.c.quiet_until <= now).values(quiet_until=None))
    conn.execute(LOAD.update().where(LOAD.c.exposed_until < now).values(exposed_until=None))
    conn.execute(LOAD.update().where(LOAD.c.rest_until < now).values(rest_until=None))
    _forget_exposures_without_a_case(unit)


def _forget_exposures_without_a_case(unit: Unit) -> None:
    """Whoever was around an outcome and has no case open is tied to it for 15 days, as if they had been written to."""
    conn = unit.conn
    late = select(INCIDENT.c.incident_ref).where(INCIDENT.c.occurred_at < unit.now - SHIFTS_KEPT)
    busy = select(CASE.c.person_ref).where(CASE.c.person_ref.is_not(None))
    supporting = select(PERSON.c.person_ref).where(PERSON.c.supporter)
    conn.execute(
        delete(EXPOSURE).where(
            EXPOSURE.c.incident_ref.in_(late),
            EXPOSURE.c.who.in_(select(PERSON.c.person_ref)),
            EXPOSURE.c.who.not_in(busy),
            EXPOSURE.c.who.not_in(supporting),
        )
    )
