"""The statements of incident's own modules: day keys, the roster, retention, reconciliation, and `leeward status`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select

from leeward.store import Insert, Update, table_of
from leeward.store.lookup import in_list, rows_of
from services.incident.models import (
    DayKey,
    Fetch,
    IncidentRow,
    InvolvedRow,
    PatientKey,
    PatientRow,
    RawMessage,
    Receipt,
    Reconciliation,
    Seen,
    StaffIdentifier,
    Told,
    Unmatched,
    UnmatchedLink,
)

_DAY_KEY: Final = table_of(DayKey)
_FETCH: Final = table_of(Fetch)
_FIGURES: Final = table_of(Reconciliation)
_INCIDENT: Final = table_of(IncidentRow)
_INVOLVED: Final = table_of(InvolvedRow)
_KEY: Final = table_of(PatientKey)
_LINK: Final = table_of(UnmatchedLink)
_PATIENT: Final = table_of(PatientRow)
_RAW: Final = table_of(RawMessage)
_STAFF: Final = table_of(StaffIdentifier)
_TOLD: Final = table_of(Told)
_UNMATCHED: Final = table_of(Unmatched)


# ---- day keys

_NEW_DAY_KEY: Final = Insert(_DAY_KEY, ("key_ref", "day", "sealed", "made_at"), conflict="nothing")


def insert_day_key(conn: Connection, key_ref: str, day: date, sealed: str, made_at: datetime) -> None:
    """Store the key of a day, unless it has one."""
    _NEW_DAY_KEY.run(conn, [(key_ref, day, sealed, made_at)])


def find_day_key(conn: Connection, day: date) -> Any:
    """The sealed key of a day, None where it has none."""
    return conn.execute(select(_DAY_KEY).where(_DAY_KEY.c.day == day)).one_or_none()


def find_key(conn: Connection, key_ref: str) -> Any:
    """A sealed key by its reference, None once it is destroyed."""
    return conn.execute(select(_DAY_KEY).where(_DAY_KEY.c.key_ref == key_ref)).one_or_none()


def list_old_keys(conn: Connection, made_until: datetime) -> list[str]:
    """Keys that were made then or before."""
    return list(conn.execute(select(_DAY_KEY.c.key_ref).where(_DAY_KEY.c.made_at <= made_until)).scalars())


def delete_keys(conn: Connection, key_refs: Sequence[str]) -> None:
    """Destroy keys, and delete the messages that nothing can read then."""
    conn.execute(delete(_DAY_KEY).where(_DAY_KEY.c.key_ref.in_(key_refs)))
    conn.execute(delete(_RAW).where(_RAW.c.key_ref.in_(key_refs)))


# ---- the roster

_STAFF_ROWS: Final = Insert(
    _STAFF, ("key_hash", "person_ref", "alias", "active"), conflict="replace", keys=("key_hash",)
)
_STAFF_ACTIVE: Final = Update(_STAFF, ("key_hash",), ("active",))
_DELETE_STAFF: Final = delete(_STAFF).where(in_list(_STAFF.c.key_hash))
_AT_ONCE: Final = 500


def list_staff(conn: Connection) -> list[Row[Any]]:
    """Every staff identifier."""
    return list(conn.execute(select(_STAFF)))


def replace_staff(conn: Connection, rows: Sequence[tuple[str, str, bool, bool]]) -> None:
    """Store identifiers: hash, person, whether it is an alias, whether the person is there."""
    _STAFF_ROWS.run(conn, rows)


def update_staff(conn: Connection, rows: Sequence[tuple[str, bool]]) -> None:
    """Set by an identifier's hash whether its person is there."""
    _STAFF_ACTIVE.run(conn, rows)


def delete_staff(conn: Connection, key_hashes: Sequence[str]) -> None:
    """Delete identifiers."""
    for start in range(0, len(key_hashes), _AT_ONCE):
        conn.execute(_DELETE_STAFF, {"keys": key_hashes[start : start + _AT_ONCE]})


def list_unmatched_hashes(conn: Connection) -> list[str]:
    """The hashes of all that is in the work queue, or ignored."""
    return list(conn.execute(select(_UNMATCHED.c.key_hash)).scalars())


# ---- retention


def delete_people(conn: Connection, before: datetime) -> None:
    """Whoever was listed around incidents of before then, and open identifiers not seen since."""
    old = select(_INCIDENT.c.incident_ref).where(_INCIDENT.c.occurred_at < before)
    conn.execute(delete(_INVOLVED).where(_INVOLVED.c.incident_ref.in_(old)))
    conn.execute(delete(_LINK).where(_LINK.c.incident_ref.in_(old)))
    conn.execute(delete(_UNMATCHED).where(_UNMATCHED.c.state == "open", _UNMATCHED.c.seen_on < before.date()))


def delete_patients(conn: Connection, before: datetime) -> None:
    """Patients and identifiers not seen since, and incidents that were accepted before then."""
    day = before.date()
    conn.execute(delete(_UNMATCHED).where(_UNMATCHED.c.seen_on < day))
    unseen = select(_PATIENT.c.patient_ref).where(_PATIENT.c.seen_on < day)
    conn.execute(delete(_KEY).where(_KEY.c.patient_ref.in_(unseen)))
    conn.execute(delete(_PATIENT).where(_PATIENT.c.seen_on < day))
    over = select(_INCIDENT.c.incident_ref).where(_INCIDENT.c.accepted_at < before)
    conn.execute(delete(_TOLD).where(_TOLD.c.incident_ref.in_(over)))
    conn.execute(delete(_INCIDENT).where(_INCIDENT.c.accepted_at < before))


def delete_answers(conn: Connection, before: datetime) -> None:
    """By which repeated messages are known."""
    for table in (table_of(Seen), table_of(Receipt)):
        conn.execute(delete(table).where(table.c.accepted_at < before))


def delete_unread(conn: Connection, before: datetime) -> None:
    """What was never read from a FHIR server."""
    conn.execute(delete(_FETCH).where(_FETCH.c.made_at < before))


# ---- reconciliation

_NEW_FIGURES: Final = Insert(_FIGURES, ("reason", "outcomes", "made_at"))
_BY_PATIENT: Final = (
    select(_KEY.c.key_hash, _INCIDENT)
    .join(_PATIENT, _PATIENT.c.patient_ref == _KEY.c.patient_ref)
    .join(_INCIDENT, _INCIDENT.c.incident_ref == _PATIENT.c.incident_ref)
    .where(in_list(_KEY.c.key_hash))
)
_LISTED: Final = select(_INVOLVED.c.incident_ref).where(
    in_list(_INVOLVED.c.incident_ref), _INVOLVED.c.reviewer.is_(False)
)
_WAITING: Final = select(_LINK.c.incident_ref).where(in_list(_LINK.c.incident_ref), _LINK.c.reviewer.is_(False))


def find_by_patient(conn: Connection, key_hashes: Iterable[str]) -> dict[str, Row[Any]]:
    """The present incidents of patients, by a hash of theirs."""
    return {row.key_hash: row for row in rows_of(conn, _BY_PATIENT, key_hashes)}


def list_between(conn: Connection, first: datetime, last: datetime) -> list[Row[Any]]:
    """Incidents of a time that are not over."""
    waiting = _INCIDENT.c.state.in_(("review", "recorded"))
    return list(conn.execute(select(_INCIDENT).where(_INCIDENT.c.occurred_at.between(first, last), waiting)))


def find_waiting(conn: Connection, incident_refs: Collection[str]) -> set[str]:
    """Of incidents those that name identifiers of the work queue, and nobody on the roster."""
    known = {row.incident_ref for row in rows_of(conn, _LISTED, incident_refs)}
    return {row.incident_ref for row in rows_of(conn, _WAITING, incident_refs)} - known


def replace_figures(conn: Connection, figures: Mapping[str, int], made_at: datetime) -> None:
    """Keep numbers by reason, in place of those of before."""
    conn.execute(delete(_FIGURES))
    _NEW_FIGURES.run(conn, [(reason, count, made_at) for reason, count in figures.items()])


def read_figures(conn: Connection) -> dict[str, Row[Any]]:
    """What is kept, by reason."""
    return {row.reason: row for row in conn.execute(select(_FIGURES))}


# ---- `leeward status`


def count_rows(conn: Connection) -> dict[str, Any]:
    """How much there is: incidents by state, and what waits."""
    states = conn.execute(select(_INCIDENT.c.state, func.count()).group_by(_INCIDENT.c.state)).all()
    waiting = select(func.count()).select_from(_UNMATCHED).where(_UNMATCHED.c.state == "open")
    return {
        "incidents": {row.state: row[1] for row in states},
        "unmatched": conn.execute(waiting).scalar(),
        "identifiers": conn.execute(select(func.count()).select_from(_STAFF).where(_STAFF.c.active)).scalar(),
        "to_fetch": conn.execute(select(func.count()).select_from(_FETCH)).scalar(),
    }
