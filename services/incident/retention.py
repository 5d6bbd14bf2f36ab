"""What incident forgets, and when (DESIGN §5.12)."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select

from leeward.store import Timer, Unit
from services.incident.intake import unmatched
from services.incident.models import (
    DayKey,
    Fetch,
    IncidentRow,
    InvolvedRow,
    PatientKey,
    PatientRow,
    RawMessage,
    Receipt,
    Seen,
    Told,
    Unmatched,
    UnmatchedLink,
    table_of,
)
from services.incident.sealing import KEY_LIFE

PEOPLE_KEPT: Final = timedelta(days=90)
PATIENTS_KEPT: Final = timedelta(days=400)
ANSWERS_KEPT: Final = timedelta(days=7)
_INCIDENT: Final = table_of(IncidentRow)
_PATIENT: Final = table_of(PatientRow)
_KEY: Final = table_of(PatientKey)
_UNMATCHED: Final = table_of(Unmatched)
_TOLD: Final = table_of(Told)
_DAY_KEY: Final = table_of(DayKey)
_RAW: Final = table_of(RawMessage)
_FETCH: Final = table_of(Fetch)


def delete_expired(unit: Unit) -> None:
    """Drop whatever has reached its age, and from the work queue what the roster knows."""
    unmatched.resolve_known(unit)
    _forget_people(unit)
    _forget_patients(unit)
    for table in (table_of(Seen), table_of(Receipt)):
        unit.conn.execute(delete(table).where(table.c.accepted_at < unit.now - ANSWERS_KEPT))
    # of a source that is no more nobody takes it
    unit.conn.execute(delete(_FETCH).where(_FETCH.c.made_at < unit.now - PEOPLE_KEPT))
    old = unit.conn.execute(select(_DAY_KEY.c.key_ref).where(_DAY_KEY.c.made_at <= unit.now - KEY_LIFE))
    _destroy(unit, list(old.scalars()))


def destroy_keys(unit: Unit, timers: Sequence[Timer], tidy: Callable[[], None] | None = None) -> None:
    """Timer: a day's key is 72 hours old; without it nothing can read that day's messages, here or in a backup.

    `tidy` is called after the commit: until the write-ahead log is truncated, a file still holds what was deleted.
    """
    _destroy(unit, [timer.key for timer in timers])
    if tidy:
        unit.after_commit(tidy)


def _destroy(unit: Unit, refs: Sequence[str]) -> None:
    unit.conn.execute(delete(_DAY_KEY).where(_DAY_KEY.c.key_ref.in_(refs)))
    unit.conn.execute(delete(_RAW).where(_RAW.c.key_ref.in_(refs)))


def _forget_people(unit: Unit) -> None:
    """Nothing ties a person to an incident for longer than 90 days after it."""
    old = select(_INCIDENT.c.incident_ref).where(_INCIDENT.c.occurred_at < unit.now - PEOPLE_KEPT)
    for table in (table_of(InvolvedRow), table_of(UnmatchedLink)):
        unit.conn.execute(delete(table).where(table.c.incident_ref.in_(old)))
    today = unit.now.date()
    unmatched = _UNMATCHED.c.state == "open", _UNMATCHED.c.seen_on < today - PEOPLE_KEPT
    unit.conn.execute(delete(_UNMATCHED).where(*unmatched))
    unit.conn.execute(delete(_UNMATCHED).where(_UNMATCHED.c.seen_on < today - PATIENTS_KEPT))


def _forget_patients(unit: Unit) -> None:
    oldest = unit.now - PATIENTS_KEPT
    gone = select(_PATIENT.c.patient_ref).where(_PATIENT.c.seen_on < oldest.date())
    unit.conn.execute(delete(_KEY).where(_KEY.c.patient_ref.in_(gone)))
    unit.conn.execute(delete(_PATIENT).where(_PATIENT.c.seen_on < oldest.date()))
    over = select(_INCIDENT.c.incident_ref).where(_INCIDENT.c.accepted_at < oldest)
    unit.conn.execute(delete(_TOLD).where(_TOLD.c.incident_ref.in_(over)))
    unit.conn.execute(delete(_INCIDENT).where(_INCIDENT.c.accepted_at < oldest))
