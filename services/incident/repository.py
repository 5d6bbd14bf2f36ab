"""The statements of incident's own modules: day keys, the roster, retention, reconciliation, and `leeward status`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Row, bindparam, delete, func, select

from leeward.store import Insert, Update, table_of
from leeward.store.lookup import in_list, rows_of
from leeward.store.retention import Expired, expired_rows
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
    """Destroy keys; nothing can read then what they sealed."""
    conn.execute(delete(_DAY_KEY).where(_DAY_KEY.c.key_ref.in_(key_refs)))


_NEXT_KEY: Final = select(func.min(_RAW.c.key_ref)).where(_RAW.c.key_ref > bindparam("after"))
_UNREADABLE: Final = Expired(
    select(_RAW.c.raw_ref).where(_RAW.c.key_ref == bindparam("key")), delete(_RAW).where(in_list(_RAW.c.raw_ref))
)


def delete_unreadable(conn: Connection, most: int) -> bool:
    """Delete messages whose key is destroyed; whether there may be more."""
    key = ""
    while (key := conn.execute(_NEXT_KEY, {"after": key}).scalar() or "") and find_key(conn, key) is not None:
        pass
    if key:
        _UNREADABLE.delete_from(conn, most, key=key)
    return bool(key)


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


_BEFORE: Final[BindParameter[Any]] = bindparam("before")
_PEOPLE: Final = expired_rows(_INVOLVED, "incident_ref", "occurred_at")
_LINKS: Final = expired_rows(_LINK, "incident_ref", "occurred_at")
_QUEUED: Final = select(_UNMATCHED.c.unmatched_ref).where(_UNMATCHED.c.seen_on < _BEFORE).order_by(_UNMATCHED.c.seen_on)
_DELETE_QUEUED: Final = (
    delete(_LINK).where(in_list(_LINK.c.unmatched_ref)),
    delete(_UNMATCHED).where(in_list(_UNMATCHED.c.unmatched_ref)),
)
_OPEN: Final = Expired(_QUEUED.where(_UNMATCHED.c.state == "open"), *_DELETE_QUEUED)
_IGNORED: Final = Expired(_QUEUED, *_DELETE_QUEUED)
_PATIENTS: Final = Expired(
    select(_PATIENT.c.patient_ref).where(_PATIENT.c.seen_on < _BEFORE).order_by(_PATIENT.c.seen_on),
    delete(_KEY).where(in_list(_KEY.c.patient_ref)),
    delete(_PATIENT).where(in_list(_PATIENT.c.patient_ref)),
)
_INCIDENTS: Final = Expired(
    select(_INCIDENT.c.incident_ref).where(_INCIDENT.c.accepted_at < _BEFORE).order_by(_INCIDENT.c.accepted_at),
    delete(_TOLD).where(in_list(_TOLD.c.incident_ref)),
    delete(_INCIDENT).where(in_list(_INCIDENT.c.incident_ref)),
)
_SEEN: Final = expired_rows(table_of(Seen), "message_hash", "accepted_at")
_RECEIPTS: Final = expired_rows(table_of(Receipt), "key_hash", "accepted_at")
_UNREAD: Final = expired_rows(_FETCH, "fetch_ref", "made_at")


def delete_people(conn: Connection, before: datetime, most: int) -> bool:
    """Whoever was listed around incidents of before then, and open identifiers not seen since."""
    return any(
        [
            _PEOPLE.delete_from(conn, most, before=before),
            _LINKS.delete_from(conn, most, before=before),
            _OPEN.delete_from(conn, most, before=before.date()),
        ]
    )


def delete_patients(conn: Connection, before: datetime, most: int) -> bool:
    """Patients and identifiers not seen since, and incidents that were accepted before then."""
    return any(
        [
            _IGNORED.delete_from(conn, most, before=before.date()),
            _PATIENTS.delete_from(conn, most, before=before.date()),
            _INCIDENTS.delete_from(conn, most, before=before),
        ]
    )


def delete_answers(conn: Connection, before: datetime, most: int) -> bool:
    """By which repeated messages are known."""
    return any([_SEEN.delete_from(conn, most, before=before), _RECEIPTS.delete_from(conn, most, before=before)])


def delete_unread(conn: Connection, before: datetime, most: int) -> bool:
    """What was never read from a FHIR server."""
    return _UNREAD.delete_from(conn, most, before=before)


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
