"""Rows that have served are deleted."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from leeward.store import Unit
from leeward.store.retention import MOST, RetentionPart
from services.matching.inputs import queries
from services.matching.lifecycle.steps import LIMIT

SHIFTS_KEPT: Final = timedelta(days=15)
OVER_KEPT: Final = timedelta(days=90)


def parts() -> Sequence[RetentionPart]:
    """What matching deletes: each so much at most, and whether there may be more."""
    return delete_expired, untie_those_without_a_case()


def delete_expired(unit: Unit, most: int = MOST) -> bool:
    """Delete the rows that have served."""
    conn, now = unit.conn, unit.now
    return any(
        [
            queries.delete_shifts(conn, now - SHIFTS_KEPT, most),
            queries.delete_loose_requests(conn, now, most),
            queries.delete_forgotten_cases(conn, now - OVER_KEPT, most),
            queries.delete_incidents(conn, now - LIMIT, most),
            queries.clear_past_times(conn, now, most),
        ]
    )


def untie_those_without_a_case() -> RetentionPart:
    """Delete the tie of those around an incident who have no case: 15 days, as if they had been written to.

    It walks along the roster, which is shorter than what anybody was around.
    """
    after = ""

    def walk(unit: Unit, most: int) -> bool:
        nonlocal after
        after = queries.delete_exposures_without_a_case(unit.conn, unit.now - SHIFTS_KEPT, after, most)
        return bool(after)

    return walk
