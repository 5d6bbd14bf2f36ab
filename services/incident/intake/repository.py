"""The statements of intake, built once at import: messages, patients, incidents, the work queue, fetches."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    LABEL_STYLE_TABLENAME_PLUS_COL,
    Column,
    Connection,
    Delete,
    Row,
    RowMapping,
    delete,
    func,
    select,
    update,
)

from leeward.store import Insert, Unit, Update, table_of
from leeward.store.lookup import AT_ONCE, in_list, rows_of
from services.incident.decisions.claims import Current, current_of
from services.incident.models import (
    Fetch,
    IncidentRow,
    InvolvedRow,
    PatientKey,
    PatientRow,
    RawMessage,
    Receipt,
    Seen,
    StaffIdentifier,
    SubscriptionRow,
    Told,
    Unmatched,
    UnmatchedLink,
)

_INCIDENT: Final = table_of(IncidentRow)
_INVOLVED: Final = table_of(InvolvedRow)
_LINK: Final = table_of(UnmatchedLink)
_TOLD: Final = table_of(Told)
_STAFF: Final = table_of(StaffIdentifier)
_UNMATCHED: Final = table_of(Unmatched)
_PATIENT: Final = table_of(PatientRow)
_KEY: Final = table_of(PatientKey)
_SEEN: Final = table_of(Seen)
_RECEIPT: Final = table_of(Receipt)
_FETCH: Final = table_of(Fetch)
_SUBSCRIPTION: Final = table_of(SubscriptionRow)


def _delete_where(column: Column[Any]) -> Delete:
    return delete(column.table).where(in_list(column))


def _delete_all(conn: Connection, statement: Delete, keys: Collection[str]) -> None:
    wanted = sorted(keys)
    for start in range(0, len(wanted), AT_ONCE):
        conn.execute(statement, {"keys": wanted[start : start + AT_ONCE]})


# ---- messages

_NEW_SEEN: Final = Insert(
    _SEEN, ("message_hash", "accepted_at"), conflict="nothing", keys=("message_hash",), returning=("message_hash",)
)
_NEW_RECEIPTS: Final = Insert(
    _RECEIPT,
    ("key_hash", "body_hash", "receipt", "accepted_at"),
    conflict="nothing",
    keys=("key_hash",),
    returning=("key_hash",),
)
_FIND_SEEN: Final = select(_SEEN).where(in_list(_SEEN.c.message_hash))
_FIND_RECEIPTS: Final = select(_RECEIPT).where(in_list(_RECEIPT.c.key_hash))
_NEW_RAW: Final = Insert(table_of(RawMessage), ("raw_ref", "key_ref", "source", "accepted_at", "sealed", "place"))


def insert_new(
    conn: Connection,
    messages: Sequence[tuple[str, datetime]],
    receipts: Sequence[tuple[str, str, str, datetime]],
) -> set[str]:
    """Insert what was not there yet, and give the keys of that."""
    new = (*_NEW_SEEN.run(conn, sorted(messages)), *_NEW_RECEIPTS.run(conn, sorted(receipts)))
    return {row[0] for row in new}


def find_stored(conn: Connection, messages: Iterable[str], receipts: Iterable[str]) -> dict[str, Any]:
    """Rows of messages and of native reports, by their key."""
    return {
        **{row.message_hash: row for row in rows_of(conn, _FIND_SEEN, messages)},
        **{row.key_hash: row for row in rows_of(conn, _FIND_RECEIPTS, receipts)},
    }


def insert_raw(conn: Connection, rows: Sequence[tuple[str, str, str, datetime, str, int]]) -> None:
    """Store sealed messages: reference, key, source, time, content, place."""
    _NEW_RAW.run(conn, rows)


# ---- patients

_FIND_PATIENTS: Final = (
    select(_KEY.c.key_hash, _PATIENT, _INCIDENT)
    .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
    .join(_PATIENT, _PATIENT.c.patient_ref == _KEY.c.patient_ref)
    .outerjoin(_INCIDENT, _INCIDENT.c.incident_ref == _PATIENT.c.incident_ref)
    .where(in_list(_KEY.c.key_hash))
)
_PATIENT_COLUMNS: Final = ("indicator", "incident_ref", "seen_on")
_NEW_PATIENTS: Final = Insert(_PATIENT, ("patient_ref", *_PATIENT_COLUMNS))
# never an insertion: a patient whom another replica has merged into somebody else must not come back
_CHANGED_PATIENTS: Final = Update(_PATIENT, ("patient_ref",), _PATIENT_COLUMNS)
_NEW_KEYS: Final = Insert(_KEY, ("key_hash", "patient_ref"), conflict="replace", keys=("key_hash",))
_INCIDENT_COLUMNS: Final = tuple(column.name for column in _INCIDENT.columns)


def find_patients(conn: Connection, hashes: Iterable[str]) -> Iterator[RowMapping]:
    """A row a known key, with its patient and their incident; columns are named `table_column`."""
    return (row._mapping for row in rows_of(conn, _FIND_PATIENTS, hashes))


def incident_in(row: RowMapping) -> Current | None:
    """The incident in a row of `find_patients`."""
    if row["incident_incident_ref"] is None:
        return None
    return current_of({name: row[f"incident_{name}"] for name in _INCIDENT_COLUMNS})


def merge_patient(conn: Connection, given_up: str, kept: str) -> None:
    """Lead the keys of one patient to another, and delete the one."""
    conn.execute(update(_KEY).where(_KEY.c.patient_ref == given_up).values(patient_ref=kept))
    conn.execute(delete(_PATIENT).where(_PATIENT.c.patient_ref == given_up))


def write_patients(
    conn: Connection, new: Sequence[Sequence[Any]], changed: Sequence[Sequence[Any]], keys: Sequence[tuple[str, str]]
) -> None:
    """Store patients (reference, indicator, incident, day) and keys that lead to them."""
    _NEW_PATIENTS.run(conn, new)
    _CHANGED_PATIENTS.run(conn, changed)
    _NEW_KEYS.run(conn, keys)


# ---- incidents

_NEW_INCIDENTS: Final = Insert(_INCIDENT, _INCIDENT_COLUMNS)
_NEW_TOLD: Final = Insert(_TOLD, ("source_ref", "incident_ref"), conflict="nothing")
_STATES: Final = Update(_INCIDENT, ("incident_ref",), ("state",))
_NEW_INVOLVED: Final = Insert(
    _INVOLVED,
    ("incident_ref", "person_ref", "reviewer", "occurred_at"),
    conflict="nothing",
    keys=("incident_ref", "person_ref"),
    returning=("incident_ref", "person_ref", "reviewer"),
)
_DELETE_INVOLVED: Final = _delete_where(_INVOLVED.c.incident_ref)
_DELETE_LINKS_OF_INCIDENTS: Final = _delete_where(_LINK.c.incident_ref)
_FIND_STAFF: Final = select(_STAFF.c.key_hash, _STAFF.c.person_ref, _STAFF.c.active).where(in_list(_STAFF.c.key_hash))
_FIND_REPORTED: Final = select(_INCIDENT.c.source_ref.label("fingerprint"), _INCIDENT).where(
    in_list(_INCIDENT.c.source_ref)
)
_FIND_TOLD: Final = (
    select(_TOLD.c.source_ref.label("fingerprint"), _INCIDENT)
    .join(_INCIDENT, _INCIDENT.c.incident_ref == _TOLD.c.incident_ref)
    .where(in_list(_TOLD.c.source_ref))
)


def find_reported(conn: Connection, source_refs: Collection[str]) -> dict[str, Row[Any]]:
    """Incidents that reports have made, by the hash of a report's reference."""
    return {row.fingerprint: row for row in rows_of(conn, _FIND_REPORTED, source_refs)}


def find_told(conn: Connection, source_refs: Collection[str]) -> dict[str, Row[Any]]:
    """Incidents that something else had told of before a report did, by the hash of that report's reference."""
    return {row.fingerprint: row for row in rows_of(conn, _FIND_TOLD, source_refs)}


def insert_incidents(conn: Connection, rows: Sequence[Sequence[Any]]) -> None:
    """Store new incidents, values in the order of the table's columns."""
    _NEW_INCIDENTS.run(conn, rows)


def insert_told(conn: Connection, rows: Sequence[tuple[str, str]]) -> None:
    """Store which reports (by hash) stand for which incident."""
    _NEW_TOLD.run(conn, rows)


def move_told(conn: Connection, over: str, made: str) -> None:
    """Reports that stood for one incident stand for another."""
    conn.execute(update(_TOLD).where(_TOLD.c.incident_ref == over).values(incident_ref=made))


def insert_involved(conn: Connection, rows: Sequence[tuple[str, str, bool, datetime]]) -> Sequence[Row[Any]]:
    """Store who was listed around incidents, and when those occurred; gives the rows that were not there yet."""
    return _NEW_INVOLVED.run(conn, rows)


def find_staff(conn: Connection, hashes: Iterable[str]) -> dict[str, str]:
    """person_refs by an identifier's hash; "" for somebody who has left: known, and nobody to write to."""
    rows = rows_of(conn, _FIND_STAFF, hashes)
    return {row.key_hash: row.person_ref if row.active else "" for row in rows}


def close_incidents(conn: Connection, ended: Sequence[Current]) -> None:
    """Store that incidents are over, and delete who was listed around them."""
    if not ended:
        return
    _STATES.run(conn, [(current.incident_ref, current.state) for current in ended])
    refs = {current.incident_ref for current in ended}
    _delete_all(conn, _DELETE_INVOLVED, refs)
    _delete_all(conn, _DELETE_LINKS_OF_INCIDENTS, refs)


def conflict_on_incidents(unit: Unit, incident_refs: Collection[str]) -> None:
    """One replica adds people to an incident, another confirms it or takes it back: the second sees the first."""
    if incident_refs:
        unit.conflict_on(_INCIDENT, in_list(_INCIDENT.c.incident_ref).params(keys=sorted(incident_refs)))


# ---- the work queue

_FIND_UNMATCHED: Final = select(_UNMATCHED.c.key_hash, _UNMATCHED.c.unmatched_ref, _UNMATCHED.c.state).where(
    in_list(_UNMATCHED.c.key_hash)
)
_FIND_LINKED: Final = (
    select(
        _UNMATCHED.c.key_hash,
        _UNMATCHED.c.unmatched_ref,
        _LINK.c.reviewer,
        _INCIDENT.c.incident_ref,
        _INCIDENT.c.state,
        _INCIDENT.c.occurred_at,
    )
    .outerjoin(_LINK, _LINK.c.unmatched_ref == _UNMATCHED.c.unmatched_ref)
    .outerjoin(_INCIDENT, _INCIDENT.c.incident_ref == _LINK.c.incident_ref)
    .where(in_list(_UNMATCHED.c.key_hash))
)
_NEW_UNMATCHED: Final = Insert(_UNMATCHED, ("unmatched_ref", "key_hash", "state", "sealed", "seen_on"))
_NEW_LINKS: Final = Insert(_LINK, ("unmatched_ref", "incident_ref", "reviewer", "occurred_at"), conflict="nothing")
_NEW_STAFF: Final = Insert(
    _STAFF, ("key_hash", "person_ref", "alias", "active"), conflict="replace", keys=("key_hash",)
)
_DELETE_LINKS: Final = _delete_where(_LINK.c.unmatched_ref)
_DELETE_UNMATCHED: Final = _delete_where(_UNMATCHED.c.unmatched_ref)


def find_unmatched(conn: Connection, hashes: Iterable[str]) -> dict[str, Row[Any]]:
    """Rows of the work queue, by their identifier's hash."""
    return {row.key_hash: row for row in rows_of(conn, _FIND_UNMATCHED, hashes)}


def find_linked(conn: Connection, hashes: Iterable[str]) -> list[Row[Any]]:
    """Rows of the work queue by their identifier's hash, one for each incident that names it."""
    return list(rows_of(conn, _FIND_LINKED, hashes))


def insert_unmatched(
    conn: Connection, rows: Sequence[Sequence[Any]], links: Sequence[tuple[str, str, bool, datetime]]
) -> None:
    """Store identifiers that led to nobody, and which incidents name them and when those occurred."""
    _NEW_UNMATCHED.run(conn, rows)
    _NEW_LINKS.run(conn, links)


def list_unmatched(conn: Connection, after: str, limit: int) -> list[Row[Any]]:
    """Open rows of the work queue behind a reference, in the order of their random references."""
    query = select(_UNMATCHED).where(_UNMATCHED.c.state == "open", _UNMATCHED.c.unmatched_ref > after)
    return list(conn.execute(query.order_by(_UNMATCHED.c.unmatched_ref).limit(limit)))


def find_open(conn: Connection, unmatched_ref: str) -> Any:
    """An open row of the work queue, None where there is none."""
    return conn.execute(
        select(_UNMATCHED).where(_UNMATCHED.c.unmatched_ref == unmatched_ref, _UNMATCHED.c.state == "open")
    ).one_or_none()


def find_person(conn: Connection, key_hash: str) -> str | None:
    """Whom an identifier leads to, None for nobody who is there now."""
    person_ref: str | None = conn.execute(
        select(_STAFF.c.person_ref).where(_STAFF.c.key_hash == key_hash, _STAFF.c.active)
    ).scalar()
    return person_ref


def list_matched(conn: Connection) -> dict[str, str]:
    """Identifiers of the work queue that the roster knows: person_refs by hash."""
    # the queue is short, and the roster is looked up by it
    queued = conn.execute(select(_UNMATCHED.c.key_hash)).scalars().all()
    return {row.key_hash: row.person_ref for row in rows_of(conn, _FIND_STAFF, queued) if row.active}


def ignore_unmatched(conn: Connection, unmatched_ref: str) -> None:
    """Keep the hash of an identifier alone, so that it does not come back."""
    conn.execute(delete(_LINK).where(_LINK.c.unmatched_ref == unmatched_ref))
    conn.execute(
        update(_UNMATCHED).where(_UNMATCHED.c.unmatched_ref == unmatched_ref).values(state="ignored", sealed="")
    )


def insert_alias(conn: Connection, key_hash: str, person_ref: str) -> None:
    """An identifier is another one of this person's."""
    _NEW_STAFF.run(conn, [(key_hash, person_ref, True, True)])


def delete_unmatched(conn: Connection, unmatched_refs: Collection[str]) -> None:
    """Take rows out of the work queue, with their links."""
    _delete_all(conn, _DELETE_LINKS, unmatched_refs)
    _delete_all(conn, _DELETE_UNMATCHED, unmatched_refs)


def conflict_on_unmatched(unit: Unit, unmatched_refs: Collection[str]) -> None:
    """Whoever resolves one of these on another replica sees the incidents that name it now."""
    if unmatched_refs:
        unit.conflict_on(_UNMATCHED, in_list(_UNMATCHED.c.unmatched_ref).params(keys=sorted(unmatched_refs)))


# ---- what is to be read from FHIR servers

_NEW_FETCHES: Final = Insert(_FETCH, ("fetch_ref", "key_ref", "source", "sealed", "attempts", "made_at", "due_at"))
_PUT_OFF: Final = Update(_FETCH, ("fetch_ref",), ("attempts", "due_at"))
_DELETE_FETCHES: Final = _delete_where(_FETCH.c.fetch_ref)


def insert_fetches(conn: Connection, rows: Sequence[Sequence[Any]]) -> None:
    """Queue what is to be read: reference, key, source, what, attempts, made at, due at."""
    _NEW_FETCHES.run(conn, rows)


def find_due_fetches(conn: Connection, source: str, now: datetime, limit: int) -> list[Row[Any]]:
    """What is to be read from one source by now, the earliest first."""
    due = select(_FETCH).where(_FETCH.c.source == source, _FETCH.c.due_at <= now)
    return list(conn.execute(due.order_by(_FETCH.c.due_at).limit(limit)))


def put_off_fetches(conn: Connection, rows: Sequence[tuple[str, int, datetime]]) -> None:
    """Set attempts and the next time of each reference."""
    _PUT_OFF.run(conn, rows)


def delete_fetches(conn: Connection, fetch_refs: Collection[str]) -> None:
    """These have been read."""
    _delete_all(conn, _DELETE_FETCHES, fetch_refs)


# ---- subscriptions

_HEARD: Final = Insert(
    _SUBSCRIPTION,
    ("source", "name", "last_event", "missing", "heard_at"),
    conflict="replace",
    keys=("source", "name"),
)


def find_subscription(conn: Connection, source: str, name: str) -> Any:
    """A subscription's row, None where it was never heard of."""
    return conn.execute(
        select(_SUBSCRIPTION).where(_SUBSCRIPTION.c.source == source, _SUBSCRIPTION.c.name == name)
    ).one_or_none()


def replace_subscription(conn: Connection, row: tuple[str, str, int, str, datetime]) -> None:
    """Store source, name, last event, missing ones and the time of a subscription."""
    _HEARD.run(conn, [row])


def last_heard(conn: Connection) -> dict[str, datetime]:
    """When anything was last heard of each source's subscriptions."""
    query = select(_SUBSCRIPTION.c.source, func.max(_SUBSCRIPTION.c.heard_at)).group_by(_SUBSCRIPTION.c.source)
    return {row[0]: row[1] for row in conn.execute(query)}
