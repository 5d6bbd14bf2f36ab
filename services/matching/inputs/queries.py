"""The SQL of the inputs: incidents and who was around, what the roster's people get by time, and what is deleted."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import BindParameter, Connection, Row, bindparam, delete, exists, select, update

from leeward.people import GONE
from leeward.store import Insert, Unit, Update, table_of
from leeward.store.lookup import in_list
from leeward.store.retention import Expired
from services.matching.cases.repository import CASE, REQUEST, is_open_of
from services.matching.models import (
    Entry,
    Exposure,
    PublishedIncident,
    RosterPerson,
    Shift,
    SupporterLoad,
)

_ENTRY: Final = table_of(Entry)
_EXPOSURE: Final = table_of(Exposure)
_INCIDENT: Final = table_of(PublishedIncident)
_LOAD: Final = table_of(SupporterLoad)
_PERSON: Final = table_of(RosterPerson)
_SHIFT: Final = table_of(Shift)
_LONGEST_SHIFT: Final = timedelta(days=3)
_A_BATCH: Final = 2000

Monthly = Literal["none", "offered", "yes", "no"]


# --- incidents and who was around ---

_INCIDENT_COLUMNS: Final = ("incident_ref", "urgency", "listed", "expected", "retracted", "occurred_at")
_INSERT_INCIDENTS: Final = Insert(_INCIDENT, _INCIDENT_COLUMNS, conflict="nothing", keys=("incident_ref",))
_INSERT_EXPOSURES: Final = Insert(
    _EXPOSURE, ("incident_ref", "who", "reviewer"), conflict="nothing", returning=("incident_ref", "who")
)
_EXPOSE: Final = Insert(
    _LOAD,
    ("supporter_ref", "active", "month", "minutes", "exposed_until"),
    conflict="nothing",
    keys=("supporter_ref",),
    returning=("supporter_ref",),
)
_SET_EXPOSED: Final = Update(_LOAD, ("supporter_ref",), ("exposed_until",))
_DUTY: Final = select(_SHIFT.c.unit, _SHIFT.c.person_ref, _SHIFT.c.starts_at, _SHIFT.c.ends_at).where(
    in_list(_SHIFT.c.unit, "units"),
    _SHIFT.c.starts_at <= bindparam("last"),
    _SHIFT.c.starts_at > bindparam("longest"),
    _SHIFT.c.ends_at > bindparam("first"),
    _SHIFT.c.on_call.is_(False),
)


def insert_incidents(conn: Connection, rows: Sequence[tuple[str, str, bool, bool, bool, datetime]]) -> None:
    """Store incidents by reference, urgency, listed, expected, retracted and time; those that are there stay."""
    _INSERT_INCIDENTS.run(conn, rows)


def incidents_by_ref(conn: Connection, incident_refs: Collection[str]) -> Iterable[Row[Any]]:
    """The rows of these incidents that are not retracted."""
    return conn.execute(
        select(_INCIDENT).where(_INCIDENT.c.incident_ref.in_(incident_refs), _INCIDENT.c.retracted.is_(False))
    )


def insert_exposures(conn: Connection, rows: Sequence[tuple[str, str, bool]]) -> set[tuple[str, str]]:
    """Note who was around by incident, person and reviewer; gives the pairs that are new."""
    return {(row.incident_ref, row.who) for row in _INSERT_EXPOSURES.run(conn, rows)}


def on_shift(
    conn: Connection, units: Collection[str], first: datetime, last: datetime
) -> dict[str, list[tuple[str, datetime, datetime]]]:
    """(person, starts, ends) of shifts between two times, by unit; those on call apart."""
    span = {"first": first, "longest": first - _LONGEST_SHIFT, "last": last}
    found: defaultdict[str, list[tuple[str, datetime, datetime]]] = defaultdict(list)
    for unit, person, starts, ends in conn.execute(_DUTY, {**span, "units": list(units)}):
        found[unit].append((person, starts, ends))
    return found


def rest_supporters(conn: Connection, until: Mapping[str, datetime]) -> None:
    """Supporters who were around an incident themselves support nobody before these times."""
    made = _EXPOSE.run(conn, [(who, 0, "", 0, moment) for who, moment in sorted(until.items())])
    known = until.keys() - {row.supporter_ref for row in made}
    _SET_EXPOSED.run(conn, [(who, until[who]) for who in sorted(known)])


def conflict_on_supporters(unit: Unit, supporters: Iterable[str]) -> None:
    """A replica that takes a place of one of these at this moment runs again and sees this transaction."""
    barred = sorted(supporters)
    made = _EXPOSE.run(unit.conn, [(who, 0, "", 0, None) for who in barred])
    if known := set(barred) - {row.supporter_ref for row in made}:
        unit.conflict_on(_LOAD, _LOAD.c.supporter_ref.in_(known))


def conflict_on_open_cases(unit: Unit, persons: Collection[str]) -> None:
    """A replica that ends an open case of one of these at this moment runs again and sees this transaction."""
    unit.conflict_on(CASE, is_open_of(persons))


def conflict_on_incidents(unit: Unit, incident_refs: Collection[str]) -> None:
    """A replica that retracts one of these at this moment runs again and sees this transaction."""
    unit.conflict_on(_INCIDENT, _INCIDENT.c.incident_ref.in_(incident_refs))


def retract_incidents(conn: Connection, incident_refs: Collection[str]) -> None:
    """Mark incidents as retracted; the coordinator is shown nothing about them any more."""
    conn.execute(_INCIDENT.update().where(_INCIDENT.c.incident_ref.in_(incident_refs)).values(retracted=True))
    conn.execute(delete(_ENTRY).where(_ENTRY.c.about.in_(incident_refs)))


def other_incidents(conn: Connection, persons: Sequence[str]) -> dict[str, str]:
    """Another incident, not retracted, that each of these persons was around."""
    joined = _EXPOSURE.join(_INCIDENT, _EXPOSURE.c.incident_ref == _INCIDENT.c.incident_ref)
    query = (
        select(_EXPOSURE.c.who, _EXPOSURE.c.incident_ref)
        .select_from(joined)
        .where(_EXPOSURE.c.who.in_(persons), _EXPOSURE.c.reviewer.is_(False))
        .where(_INCIDENT.c.retracted.is_(False), _INCIDENT.c.expected.is_(False))
    )
    return {row.who: row.incident_ref for row in conn.execute(query.order_by(_INCIDENT.c.occurred_at))}


def delete_nobody_to_reach(conn: Connection, incident_refs: Collection[str]) -> None:
    """Somebody was found after all."""
    conn.execute(delete(_ENTRY).where(_ENTRY.c.about.in_(incident_refs), _ENTRY.c.kind == "nobody_to_reach"))


def delete_entries(conn: Connection, entries: Collection[tuple[str, str]]) -> None:
    """Take these, by kind and what they are about, off the coordinator's list."""
    for kind, about in entries:
        conn.execute(delete(_ENTRY).where(_ENTRY.c.kind == kind, _ENTRY.c.about == about))


# --- what people get by time ---

_SET_COVER: Final = Update(_PERSON, ("person_ref",), ("cover_due",))
_SET_REACHABLE: Final = Update(_PERSON, ("recipient_ref",), ("reachable",))


def set_reachable(conn: Connection, reachable: Mapping[str, bool]) -> None:
    """Whether some channel reaches somebody, by recipient_ref."""
    _SET_REACHABLE.run(conn, list(reachable.items()))


def without_cover(conn: Connection) -> list[tuple[str, datetime]]:
    """(person_ref, since) of those whose first cover message has no time yet."""
    rows = conn.execute(select(_PERSON.c.person_ref, _PERSON.c.since).where(_PERSON.c.cover_due.is_(None)))
    return [(row.person_ref, row.since) for row in rows]


def due_for_cover(conn: Connection, now: datetime) -> Sequence[Row[Any]]:
    """Rows of those whose cover message is due, a batch at most."""
    due = _PERSON.select().where(_PERSON.c.cover_due <= now, _PERSON.c.status.not_in(GONE))
    return conn.execute(due.limit(_A_BATCH)).all()


def set_cover_due(conn: Connection, due: Iterable[tuple[str, datetime]]) -> None:
    """When each person gets the next cover message."""
    _SET_COVER.run(conn, list(due))


def without_monthly_offer(conn: Connection, units: Collection[str]) -> Sequence[Row[Any]]:
    """Rows of those in these units who have not been asked whether they like check-ins, a batch at most."""
    query = _PERSON.select().where(
        _PERSON.c.unit.in_(units), _PERSON.c.monthly == "none", _PERSON.c.status == "active", _PERSON.c.reachable
    )
    return conn.execute(query.limit(_A_BATCH)).all()


def with_monthly(conn: Connection, persons: Collection[str]) -> Sequence[Row[Any]]:
    """Rows of those of these persons who opted in to monthly check-ins."""
    query = _PERSON.select().where(_PERSON.c.person_ref.in_(persons), _PERSON.c.monthly == "yes")
    return conn.execute(query).all()


def set_monthly(conn: Connection, persons: Collection[str], monthly: Monthly) -> None:
    """Where these persons stand with monthly check-ins."""
    conn.execute(_PERSON.update().where(_PERSON.c.person_ref.in_(persons)).values(monthly=monthly))


def gone_in_open_cases(conn: Connection) -> Sequence[str]:
    """Those who have left or died, and still have or support an open case."""
    open_now = CASE.c.stage.not_in(("closed", "ended"))
    own = exists().where(CASE.c.person_ref == _PERSON.c.person_ref, open_now)
    supported = exists().where(CASE.c.supporter == _PERSON.c.person_ref, open_now)
    gone = select(_PERSON.c.person_ref).where(_PERSON.c.status.in_(GONE))
    # in one condition, PostgreSQL would read all cases for it
    return conn.execute(gone.where(own).union(gone.where(supported))).scalars().all()


# --- retention ---

_BEFORE: Final[BindParameter[Any]] = bindparam("before")
_SHIFTS: Final = Expired(
    select(_SHIFT.c.person_ref).where(_SHIFT.c.ends_at < _BEFORE).order_by(_SHIFT.c.ends_at),
    delete(_SHIFT).where(in_list(_SHIFT.c.person_ref), _SHIFT.c.ends_at < _BEFORE),
)
_LOOSE: Final = REQUEST.c.case_ref.is_(None) & (REQUEST.c.expires_at < _BEFORE)
_LOOSE_REQUESTS: Final = Expired(
    select(REQUEST.c.request_ref).where(_LOOSE).order_by(REQUEST.c.expires_at),
    delete(REQUEST).where(in_list(REQUEST.c.request_ref)),
)
_FORGOTTEN: Final = CASE.c.person_ref.is_(None) & (CASE.c.ends_at < _BEFORE) & (CASE.c.attention == "")
_FORGOTTEN_CASES: Final = Expired(
    select(CASE.c.case_ref).where(_FORGOTTEN).order_by(CASE.c.ends_at), delete(CASE).where(in_list(CASE.c.case_ref))
)
_INCIDENTS: Final = Expired(
    select(_INCIDENT.c.incident_ref).where(_INCIDENT.c.occurred_at < _BEFORE).order_by(_INCIDENT.c.occurred_at),
    delete(_EXPOSURE).where(in_list(_EXPOSURE.c.incident_ref)),
    delete(_ENTRY).where(in_list(_ENTRY.c.about)),
    delete(_INCIDENT).where(in_list(_INCIDENT.c.incident_ref)),
)
_QUIET: Final = Expired(
    select(_PERSON.c.person_ref).where(_PERSON.c.quiet_until <= _BEFORE).order_by(_PERSON.c.quiet_until),
    update(_PERSON).where(in_list(_PERSON.c.person_ref)).values(quiet_until=None),
)
_NEXT_PERSONS: Final = (
    select(_PERSON.c.person_ref, _PERSON.c.supporter)
    .where(_PERSON.c.person_ref > bindparam("after"))
    .order_by(_PERSON.c.person_ref)
    .limit(bindparam("most"))
)
_DELETE_WITHOUT_CASE: Final = delete(_EXPOSURE).where(
    in_list(_EXPOSURE.c.who),
    exists().where(_INCIDENT.c.incident_ref == _EXPOSURE.c.incident_ref, _INCIDENT.c.occurred_at < _BEFORE),
    ~exists().where(CASE.c.person_ref == _EXPOSURE.c.who),
)


def delete_shifts(conn: Connection, before: datetime, most: int) -> bool:
    """Delete shifts that ended before this time."""
    return _SHIFTS.delete_from(conn, most, before=before)


def delete_loose_requests(conn: Connection, before: datetime, most: int) -> bool:
    """Delete requests that belong to no case and expired before this time."""
    return _LOOSE_REQUESTS.delete_from(conn, most, before=before)


def delete_forgotten_cases(conn: Connection, before: datetime, most: int) -> bool:
    """Delete cases that name nobody any more and ended before this time; none that the coordinator has still to see."""
    return _FORGOTTEN_CASES.delete_from(conn, most, before=before)


def delete_incidents(conn: Connection, before: datetime, most: int) -> bool:
    """Delete incidents that happened before this time, who was around them, and what is shown about them."""
    return _INCIDENTS.delete_from(conn, most, before=before)


def clear_past_times(conn: Connection, now: datetime, most: int) -> bool:
    """Clear quiet times and rests that are over: a quiet time would still tell when somebody was written to."""
    conn.execute(_LOAD.update().where(_LOAD.c.exposed_until < now).values(exposed_until=None))
    conn.execute(_LOAD.update().where(_LOAD.c.rest_until < now).values(rest_until=None))
    return _QUIET.delete_from(conn, most, before=now)


def delete_exposures_without_a_case(conn: Connection, before: datetime, after: str, most: int) -> str:
    """Delete that those without a case were around incidents before this time; supporters stay, to be excluded.

    It looks at so many persons behind a reference; gives the last one's, empty once there is nobody more.
    """
    persons = conn.execute(_NEXT_PERSONS, {"after": after, "most": most}).all()
    if others := [row.person_ref for row in persons if not row.supporter]:
        conn.execute(_DELETE_WITHOUT_CASE, {"keys": others, "before": before})
    return persons[-1].person_ref if len(persons) == most else ""
