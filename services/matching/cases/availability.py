"""How people stand to an offer now: in their quiet time, with a case open, whom they refused, and their shifts.

One statement for a whole batch: on PostgreSQL each costs a way there and back.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, literal_column, null, select, union_all

from leeward.store.lookup import in_list
from services.matching.lifecycle.hours import AFTER_NIGHT, LOOK_AHEAD
from services.matching.lifecycle.hours import Shift as Span
from services.matching.models import Person, Refusal, Shift, SupportCase, table

_PERSON: Final = table(Person)
_CASE: Final = table(SupportCase)
_REFUSAL: Final = table(Refusal)
_SHIFT: Final = table(Shift)
_THESE: Final = (
    select(_PERSON.c.person_ref, _PERSON.c.quiet_until).where(in_list(_PERSON.c.person_ref, "persons")).cte("these")
)
_NAMED: Final = select(_THESE.c.person_ref)
_NOTHING: Final = (null(), null(), null())
_STANDING: Final = union_all(
    select(literal_column("'shift'").label("what"), _SHIFT.c.person_ref, null(), _SHIFT.c.starts_at, _SHIFT.c.ends_at)
    .where(_SHIFT.c.person_ref.in_(_NAMED), _SHIFT.c.on_call.is_(False))
    .where(_SHIFT.c.ends_at > bindparam("over"), _SHIFT.c.starts_at < bindparam("ahead")),
    select(literal_column("'quiet'"), _THESE.c.person_ref, *_NOTHING).where(_THESE.c.quiet_until > bindparam("now")),
    select(literal_column("'open'"), _CASE.c.person_ref, *_NOTHING).where(
        _CASE.c.person_ref.in_(_NAMED), _CASE.c.stage.not_in(("closed", "ended"))
    ),
    select(literal_column("'refused'"), _REFUSAL.c.person_ref, _REFUSAL.c.supporter_ref, null(), null()).where(
        _REFUSAL.c.person_ref.in_(_NAMED)
    ),
)


@dataclass(frozen=True, slots=True)
class Availability:
    """By person_ref; those who are in none may be written to at once.

    `shifts` are those that could hold a message now: not long over, or beginning within four days.
    """

    quiet: set[str] = field(default_factory=set)
    with_open_case: set[str] = field(default_factory=set)
    refused: dict[str, set[str]] = field(default_factory=dict)
    shifts: dict[str, list[Span]] = field(default_factory=dict)


def availability(conn: Connection, persons: Collection[str], now: datetime) -> Availability:
    """How these persons of the roster stand."""
    found = Availability()
    times = {"now": now, "over": now - AFTER_NIGHT, "ahead": now + LOOK_AHEAD}
    for what, person, supporter, starts, ends in conn.execute(_STANDING, {"persons": list(persons), **times}):
        if what == "shift":
            found.shifts.setdefault(person, []).append((starts, ends))
        elif what == "quiet":
            found.quiet.add(person)
        elif what == "open":
            found.with_open_case.add(person)
        else:
            found.refused.setdefault(person, set()).add(supporter)
    return found
