"""The roster as far as matching may know it: no name, no contact, no staff number."""

from collections.abc import Sequence
from typing import Any, Final

from leeward.people import GONE, Member
from leeward.store import Unit
from services.matching.roster import queries
from services.matching.roster.people import renew_version

_STATUS: Final = queries.GIVEN.index("status")
_SUPPORTER: Final = queries.GIVEN.index("supporter")


def apply(unit: Unit, members: Sequence[Member]) -> None:
    """Make the roster equal to a file: idempotent, in bulk; who is missing has left.

    From this moment nothing begins for somebody who has left or died. What had begun is cancelled, and whom they
    supported is given somebody else, by the timer `departed`, as soon as the service runs.
    """
    conn = unit.conn
    given = {member.person_ref: _values(member) for member in members}
    before = queries.read_given(conn)
    missing = [ref for ref, values in before.items() if ref not in given and values[_STATUS] != "left"]
    fresh = {ref: values for ref, values in given.items() if ref not in before}
    different = {ref: values for ref, values in given.items() if ref in before and before[ref] != values}
    # until notify publishes otherwise, whoever has an address can be reached
    with_address = {member.person_ref for member in members if member.email or member.mobile}
    queries.insert_people(conn, fresh, with_address, unit.now)
    queries.update_people(conn, different)
    queries.set_left(conn, missing)
    lines = {(member.person_ref, manager) for member in members for manager in member.line_managers}
    moved = lines != queries.read_managers(conn)
    if moved:
        queries.replace_managers(conn, lines)
    if moved or missing or fresh or different:
        renew_version(unit)
    stopped = [ref for ref, values in different.items() if _has_stopped(before[ref], values)]
    for ref in (*missing, *stopped):
        unit.set_timer("departed", ref, unit.now)


def _values(member: Member) -> tuple[Any, ...]:
    work = (member.recipient_ref, member.profession, member.unit, " ".join(member.languages), member.timezone)
    training = (member.training_completed, member.training_expires, member.max_active)
    return (*work, member.status, member.supporter, *training)


def _has_stopped(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether somebody has gone, or no longer supports."""
    gone = after[_STATUS] in GONE and before[_STATUS] not in GONE
    return gone or (_serves(before) and not _serves(after))


def _serves(values: Sequence[Any]) -> bool:
    return values[_STATUS] == "active" and bool(values[_SUPPORTER])
