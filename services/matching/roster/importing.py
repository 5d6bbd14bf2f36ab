"""The roster as far as matching may know it: no name, no contact, no staff number."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import delete, select

from leeward.people import Member
from leeward.store import Insert, Unit, Update
from services.matching.models import LineManager, Person, table
from services.matching.roster.people import GONE, changed

PERSON: Final = table(Person)
MANAGER: Final = table(LineManager)
_TOLD: Final = (
    "recipient_ref",
    "profession",
    "unit",
    "languages",
    "timezone",
    "status",
    "supporter",
    "trained_on",
    "training_ends",
    "max_active",
)
_STATUS: Final = _TOLD.index("status")
_SUPPORTER: Final = _TOLD.index("supporter")
_SELECT: Final = select(PERSON.c.person_ref, *(PERSON.c[name] for name in _TOLD))
_NEW: Final = Insert(PERSON, ("person_ref", *_TOLD, "reachable", "since", "monthly"))
_CHANGE: Final = Update(PERSON, ("person_ref",), _TOLD)
_SET_STATUS: Final = Update(PERSON, ("person_ref",), ("status",))
_MANAGERS: Final = Insert(MANAGER, ("person_ref", "manager_ref"))


def apply(unit: Unit, members: Sequence[Member]) -> None:
    """Make the roster equal to a file: idempotent, in bulk; who is missing has left.

    From this moment nothing begins for somebody who has left or died. What had begun is cancelled, and whom they
    supported is given somebody else, by the timer `departed`, as soon as the service runs.
    """
    told = {member.person_ref: _row(member) for member in members}
    before = {row.person_ref: tuple(row[1:]) for row in unit.conn.execute(_SELECT)}
    missing = [ref for ref, row in before.items() if ref not in told and row[_STATUS] != "left"]
    fresh = [member for member in members if member.person_ref not in before]
    different = {ref: row for ref, row in told.items() if ref in before and before[ref] != row}
    _NEW.run(unit.conn, [(m.person_ref, *told[m.person_ref], _has_contact(m), unit.now, "none") for m in fresh])
    _CHANGE.run(unit.conn, [(ref, *row) for ref, row in different.items()])
    _SET_STATUS.run(unit.conn, [(ref, "left") for ref in missing])
    if _set_managers(unit, members) or missing or fresh or different:
        changed(unit)
    stopped = [ref for ref, row in different.items() if _stopped(before[ref], row)]
    for ref in (*missing, *stopped):
        unit.set_timer("departed", ref, unit.now)


def _row(member: Member) -> tuple[Any, ...]:
    work = (member.recipient_ref, member.profession, member.unit, " ".join(member.languages), member.timezone)
    training = (member.training_completed, member.training_expires, member.max_active)
    return (*work, member.status, member.supporter, *training)


def _has_contact(member: Member) -> bool:
    """Until notify tells better, whoever has an address can be reached."""
    return bool(member.email or member.mobile)


def _stopped(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether somebody has gone, or no longer supports."""
    gone = after[_STATUS] in GONE and before[_STATUS] not in GONE
    return gone or (_serves(before) and not _serves(after))


def _serves(row: Sequence[Any]) -> bool:
    return row[_STATUS] == "active" and bool(row[_SUPPORTER])


def _set_managers(unit: Unit, members: Iterable[Member]) -> bool:
    """Write the lines of management anew where they differ; gives whether they did."""
    told = {(member.person_ref, manager) for member in members for manager in member.line_managers}
    before = {(row.person_ref, row.manager_ref) for row in unit.conn.execute(select(MANAGER))}
    if told == before:
        return False
    unit.conn.execute(delete(MANAGER))
    _MANAGERS.run(unit.conn, sorted(told))
    return True
