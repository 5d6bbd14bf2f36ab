"""Figures and gaps for `leeward status` and the board: counts and codes, never a person."""

from collections import Counter
from datetime import date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, func, select

from leeward.settings import Settings
from services.matching.cases.repository import CASE
from services.matching.cases.session import ENTRY, PERSON
from services.matching.roster.rota import SHIFT

SOON: Final = timedelta(days=30)
FRESH: Final = timedelta(days=2)


def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """`{"mode", "cases": {state: n}, "reasons": {code: n}, "roster": {…}, "gaps": [code], "rehearsal": {…}}`."""
    return figures(conn, settings, settings.clock().now())


def figures(conn: Connection, settings: Settings, now: datetime) -> dict[str, Any]:
    """The same at a given time."""
    roster = _roster(conn, now)
    return {
        "mode": settings.outreach.mode,
        "cases": _states(conn),
        "reasons": _reasons(conn),
        "roster": roster,
        "gaps": _gaps(roster),
        "rehearsal": _rehearsal(conn),
    }


def _states(conn: Connection) -> dict[str, int]:
    query = select(CASE.c.stage, CASE.c.attention.is_not(None), func.count()).group_by(
        CASE.c.stage, CASE.c.attention.is_not(None)
    )
    counts: Counter[str] = Counter()
    for stage, stuck, number in conn.execute(query):
        counts["needs_attention" if stuck else stage] += number
    return dict(sorted(counts.items()))


def _reasons(conn: Connection) -> dict[str, int]:
    """What waits for the coordinator: reasons of stuck cases, and entries that are no case."""
    stuck = select(CASE.c.attention, func.count()).where(CASE.c.attention.is_not(None)).group_by(CASE.c.attention)
    entries = select(ENTRY.c.kind, func.count()).group_by(ENTRY.c.kind)
    counts: Counter[str] = Counter()
    for query in (stuck, entries):
        for code, number in conn.execute(query):
            counts[code] += number
    return dict(sorted(counts.items()))


def _roster(conn: Connection, now: datetime) -> dict[str, int]:
    here = PERSON.c.status.in_(("active", "away"))
    ready = here & PERSON.c.supporter & (PERSON.c.status == "active") & PERSON.c.reachable
    trained = _trained(now.date())
    conditions = {
        "people": here,
        "unreachable": here & PERSON.c.reachable.is_(False),
        "supporters": here & PERSON.c.supporter,
        "supporters_ready": ready & trained,
        "training_expired": ready & (PERSON.c.training_ends < now.date()),
        "training_expires_soon": ready & trained & (PERSON.c.training_ends <= (now + SOON).date()),
    }
    counts = {
        name: conn.execute(select(func.count()).select_from(PERSON).where(condition)).scalar() or 0
        for name, condition in conditions.items()
    }
    ahead = select(func.count()).select_from(SHIFT).where(SHIFT.c.ends_at > now, SHIFT.c.starts_at < now + FRESH)
    return {**counts, "shifts_next_two_days": conn.execute(ahead).scalar() or 0}


def _trained(today: date) -> ColumnElement[bool]:
    """`Supporter.trained`, as a condition."""
    begun, ends = PERSON.c.trained_on, PERSON.c.training_ends
    known = begun.is_not(None) | ends.is_not(None)
    return known & (begun.is_(None) | (begun <= today)) & (ends.is_(None) | (ends >= today))


def _gaps(roster: dict[str, int]) -> list[str]:
    gaps = {
        "no_roster": roster["people"] == 0,
        "no_supporters": roster["supporters_ready"] == 0,
        "no_shift_data": roster["shifts_next_two_days"] == 0,
        "training_expired": roster["training_expired"] > 0,
        "training_expires_soon": roster["training_expires_soon"] > 0,
        "people_unreachable": roster["unreachable"] > 0,
    }
    return [code for code, there in gaps.items() if there]


def _rehearsal(conn: Connection) -> dict[str, int]:
    """Who would have been offered what: people, with a supporter for them or without, and whom nothing reaches."""
    played = CASE.c.notes.contains("rehearsal")
    offered = played & CASE.c.attention.is_distinct_from("unreachable")
    conditions = {
        "offers": offered & (CASE.c.offers > 0),
        "with_supporter": offered & CASE.c.proposed.is_not(None),
        "no_supporter": played & (CASE.c.attention == "no_supporter"),
        "unreachable": played & (CASE.c.attention == "unreachable"),
        "held_too_long": played & (CASE.c.attention == "held_too_long"),
    }
    return {
        name: conn.execute(select(func.count()).select_from(CASE).where(condition)).scalar() or 0
        for name, condition in conditions.items()
    }
