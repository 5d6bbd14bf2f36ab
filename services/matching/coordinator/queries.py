"""The SQL of what the coordinator sees: cases in pages, entries, figures, and what became of incidents."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, func, select

from leeward.bus import dead_letters
from leeward.store import table_of
from leeward.store.lookup import in_list, rows_of
from services.matching.cases.repository import CASE, REQUEST, SELECT_CASES, Condition, case_of, has_reason
from services.matching.lifecycle.case import Case, Stage
from services.matching.models import GROUND, Entry, Exposure, PublishedIncident, RosterPerson, Shift

_ENTRY: Final = table_of(Entry)
_EXPOSURE: Final = table_of(Exposure)
_INCIDENT: Final = table_of(PublishedIncident)
_PERSON: Final = table_of(RosterPerson)
_SHIFT: Final = table_of(Shift)
DEAD_LETTER: Final = "dead_letter"
_HERE: Final = _PERSON.c.status.in_(("active", "away"))


# --- cases and entries ---


def cases_after(conn: Connection, last: str | None, limit: int, condition: Condition | None) -> list[Case]:
    """A page of the cases that fit, in the order of their references, which tell nothing."""
    query = SELECT_CASES.order_by(CASE.c.case_ref).limit(limit)
    if last:
        query = query.where(CASE.c.case_ref > last)
    if condition is not None:
        query = query.where(condition)
    return [case_of(row) for row in conn.execute(query)]


def is_stuck() -> Condition:
    """Cases that need the coordinator."""
    return CASE.c.attention != ""


def is_at(stage: Stage) -> Condition:
    """Cases at a stage that need nobody."""
    return (CASE.c.stage == stage) & (CASE.c.attention == "")


def recipients_of(conn: Connection, persons: Collection[str]) -> set[str]:
    """The recipient_refs of these persons."""
    return set(conn.execute(select(_PERSON.c.recipient_ref).where(_PERSON.c.person_ref.in_(persons))).scalars())


def read_entries(conn: Connection) -> Sequence[Row[Any]]:
    """All entries of the coordinator's list that are no case."""
    return conn.execute(select(_ENTRY)).all()


def delete_entry(conn: Connection, entry_ref: str) -> None:
    """The coordinator has seen it; what stands until something is done about it stays."""
    conn.execute(delete(_ENTRY).where(_ENTRY.c.entry_ref == entry_ref, _ENTRY.c.kind != DEAD_LETTER))


def own_dead_letters(conn: Connection) -> date | None:
    """Since which day matching has events that were given up; None where there is none."""
    return dead_letters.dead_since(conn, GROUND.parked)


# --- figures ---


def count_stages(conn: Connection) -> list[tuple[str, bool, int]]:
    """(stage, whether it is stuck, number) of all cases."""
    columns = (CASE.c.stage, CASE.c.attention != "")
    rows = conn.execute(select(*columns, func.count()).group_by(*columns))
    return [(stage, stuck, number) for stage, stuck, number in rows]


def count_reasons(conn: Connection) -> list[tuple[str, int]]:
    """(code, number) of the reasons of stuck cases, each of those that a case has, and of the kinds of entries."""
    stuck = select(CASE.c.attention, func.count()).where(is_stuck()).group_by(CASE.c.attention)
    reasons = [(reason, number) for together, number in conn.execute(stuck) for reason in together.split()]
    entries = select(_ENTRY.c.kind, func.count()).group_by(_ENTRY.c.kind)
    own = [(DEAD_LETTER, 1)] if own_dead_letters(conn) else []
    return [*reasons, *((kind, number) for kind, number in conn.execute(entries)), *own]


def count_roster(conn: Connection, today: date, soon: date) -> dict[str, int]:
    """How many people and supporters there are; `soon` is until when an end of training is near."""
    begun, ends = _PERSON.c.trained_on, _PERSON.c.training_ends
    ready = _PERSON.c.supporter & (_PERSON.c.status == "active") & _PERSON.c.reachable
    # `Supporter.trained`, as a condition
    known = begun.is_not(None) | ends.is_not(None)
    trained = known & (begun.is_(None) | (begun <= today)) & (ends.is_(None) | (ends >= today))
    conditions = {
        "people": _HERE,
        "unreachable": _HERE & _PERSON.c.reachable.is_(False),
        "supporters": _HERE & _PERSON.c.supporter,
        "supporters_ready": ready & trained,
        "training_expired": ready & (ends < today),
        "training_expires_soon": ready & trained & (ends <= soon),
    }
    return _count_each(conn, _PERSON, conditions)


def count_shifts(conn: Connection, now: datetime, ahead: timedelta) -> int:
    """How many shifts there are from now to that far ahead."""
    soon = (_SHIFT.c.ends_at > now) & (_SHIFT.c.starts_at < now + ahead)
    return _count_each(conn, _SHIFT, {"soon": soon})["soon"]


def count_rehearsal(conn: Connection) -> dict[str, int]:
    """Who would have been offered what: people, with a supporter for them or without, and whom nothing reaches."""
    played = CASE.c.notes.contains("rehearsal")
    offered = played & ~has_reason("unreachable")
    conditions = {
        "offers": offered & (CASE.c.offers > 0),
        "with_supporter": offered & CASE.c.proposed.is_not(None),
        "no_supporter": played & has_reason("no_supporter"),
        "unreachable": played & has_reason("unreachable"),
        "held_too_long": played & has_reason("held_too_long"),
    }
    return _count_each(conn, CASE, conditions)


def _count_each(conn: Connection, table: Table, conditions: Mapping[str, ColumnElement[bool]]) -> dict[str, int]:
    return {
        name: conn.execute(select(func.count()).select_from(table).where(condition)).scalar() or 0
        for name, condition in conditions.items()
    }


# --- what became of incidents ---

_INCIDENTS: Final = select(_INCIDENT).where(in_list(_INCIDENT.c.incident_ref))
_WITH_NOBODY: Final = select(_ENTRY.c.about).where(in_list(_ENTRY.c.about), _ENTRY.c.kind == "nobody_to_reach")
_AROUND: Final = (
    select(_EXPOSURE.c.incident_ref, _EXPOSURE.c.who, _PERSON.c.quiet_until)
    .join(_PERSON, _PERSON.c.person_ref == _EXPOSURE.c.who)
    .where(in_list(_EXPOSURE.c.incident_ref), _EXPOSURE.c.reviewer.is_(False), _HERE)
)
_TIED: Final = select(CASE.c.case_ref).where(in_list(CASE.c.incident_ref))
_BUSY: Final = select(_EXPOSURE.c.who).where(in_list(_EXPOSURE.c.incident_ref))
_CASES: Final = SELECT_CASES.where(CASE.c.case_ref.in_(_TIED) | CASE.c.person_ref.in_(_BUSY))
_OFFERS: Final = select(REQUEST.c.case_ref, REQUEST.c.outcome).where(
    in_list(REQUEST.c.case_ref), REQUEST.c.template == "offer"
)


def read_incidents(conn: Connection, incident_refs: Sequence[str]) -> Sequence[Row[Any]]:
    """The rows of these incidents."""
    return conn.execute(_INCIDENTS, {"keys": incident_refs}).all()


def with_nobody_to_reach(conn: Connection, incident_refs: Sequence[str]) -> set[str]:
    """Those of these incidents that the coordinator is shown as having nobody to write to."""
    return set(conn.execute(_WITH_NOBODY, {"keys": incident_refs}).scalars())


def read_around(conn: Connection, incident_refs: Sequence[str]) -> list[tuple[str, str, datetime | None]]:
    """(incident, person, quiet_until) of those around these incidents who are here, reviewers apart."""
    rows = conn.execute(_AROUND, {"keys": incident_refs})
    return [(row.incident_ref, row.who, row.quiet_until) for row in rows]


def cases_around(conn: Connection, incident_refs: Sequence[str]) -> list[Case]:
    """The cases of these incidents, and those of anybody who was around one."""
    return [case_of(row) for row in conn.execute(_CASES, {"keys": incident_refs})]


def offer_outcomes(conn: Connection, case_refs: Iterable[str]) -> dict[str, set[str | None]]:
    """What became of each offer of these cases."""
    found: defaultdict[str, set[str | None]] = defaultdict(set)
    for row in rows_of(conn, _OFFERS, case_refs):
        found[row.case_ref].add(row.outcome)
    return found
