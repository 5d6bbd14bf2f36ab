"""Rows that have served are deleted."""

from datetime import timedelta
from typing import Final

from leeward.store import Unit
from services.matching.inputs import queries
from services.matching.lifecycle.steps import LIMIT

SHIFTS_KEPT: Final = timedelta(days=15)
OVER_KEPT: Final = timedelta(days=90)


def delete_expired(unit: Unit) -> None:
    """Delete the rows that have served, and the tie of those around an incident who have no case.

    They are tied to it for 15 days, as if they had been written to.
    """
    conn, now = unit.conn, unit.now
    queries.delete_shifts(conn, now - SHIFTS_KEPT)
    queries.delete_loose_requests(conn, now)
    queries.delete_forgotten_cases(conn, now - OVER_KEPT)
    queries.delete_incidents(conn, now - LIMIT)
    queries.clear_past_times(conn, now)
    queries.delete_exposures_without_a_case(conn, now - SHIFTS_KEPT)
