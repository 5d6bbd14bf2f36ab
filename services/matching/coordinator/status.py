"""Figures and gaps for `leeward status` and the board: counts and codes, never a person."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from leeward.settings import Settings
from services.matching.coordinator import queries

SOON: Final = timedelta(days=30)
FRESH: Final = timedelta(days=2)


def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """`{"mode", "cases": {state: n}, "reasons": {code: n}, "roster": {…}, "gaps": [code], "rehearsal": {…}}`."""
    return figures(conn, settings, settings.clock().now())


def figures(conn: Connection, settings: Settings, now: datetime) -> dict[str, Any]:
    """The same at a given time; reasons are of stuck cases and of entries that are no case."""
    states, reasons = Counter[str](), Counter[str]()
    for stage, stuck, number in queries.count_stages(conn):
        states["needs_attention" if stuck else stage] += number
    for code, number in queries.count_reasons(conn):
        reasons[code] += number
    roster = queries.count_roster(conn, now.date(), (now + SOON).date())
    roster["shifts_next_two_days"] = queries.count_shifts(conn, now, FRESH)
    gaps = {
        "never_reached": reasons["never_reached"] > 0,
        "no_roster": roster["people"] == 0,
        "no_supporters": roster["supporters_ready"] == 0,
        "no_shift_data": roster["shifts_next_two_days"] == 0,
        "training_expired": roster["training_expired"] > 0,
        "training_expires_soon": roster["training_expires_soon"] > 0,
        "people_unreachable": roster["unreachable"] > 0,
    }
    return {
        "mode": settings.outreach.mode,
        "cases": dict(sorted(states.items())),
        "reasons": dict(sorted(reasons.items())),
        "roster": roster,
        "gaps": [code for code, there in gaps.items() if there],
        "rehearsal": queries.count_rehearsal(conn),
    }
