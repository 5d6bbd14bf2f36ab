"""Whether people may be written to now: their quiet time, an open case, whom they refused, and their shifts.

One statement for a whole batch: on PostgreSQL each costs a way there and back.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from services.matching.cases import repository
from services.matching.lifecycle.hours import Shift


@dataclass(frozen=True, slots=True)
class Availability:
    """By person_ref; those who are in none may be written to at once.

    `shifts` are those that could hold a message now: not long over, or beginning within four days.
    """

    quiet: set[str] = field(default_factory=set)
    with_open_case: set[str] = field(default_factory=set)
    refused: dict[str, set[str]] = field(default_factory=dict)
    shifts: dict[str, list[Shift]] = field(default_factory=dict)


def availability(conn: Connection, persons: Collection[str], now: datetime) -> Availability:
    """The availability of these persons of the roster."""
    found = Availability()
    for what, person, supporter, starts, ends in repository.availability_rows(conn, persons, now):
        if what == "shift":
            found.shifts.setdefault(person, []).append((starts, ends))
        elif what == "quiet":
            found.quiet.add(person)
        elif what == "open":
            found.with_open_case.add(person)
        else:
            found.refused.setdefault(person, set()).add(supporter)
    return found
