"""Timers of cases and people; each fires in the transaction that rechecks its condition."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import delete, or_

from leeward.contracts import MessageCancelled
from leeward.refs import new_ref
from leeward.store import Timer, Unit
from services.matching.cases import repository
from services.matching.cases.availability import standing
from services.matching.cases.repository import CASE, REQUEST, Draft
from services.matching.cases.session import PERSON, Desk
from services.matching.inputs.answers import MONTH
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Message, Step
from services.matching.lifecycle.hours import hold_until
from services.matching.site import Office

OfCase = Callable[[Desk, Case], Step]


def _held(desk: Desk, case: Case) -> datetime | None:
    """Until when the person is on shift, or asleep after a night of it."""
    colleague = desk.people.known.get(case.person_ref or "")
    if colleague is None:
        return None
    shifts = standing(desk.unit.conn, [colleague.person_ref], desk.now).shifts
    return hold_until(desk.now, shifts.get(colleague.person_ref, ()), colleague.timezone)


OF_CASES: Final[Mapping[str, OfCase]] = {
    "reminder": lambda desk, case: transitions.remind(case, _held(desk, case)),
    "again": lambda desk, case: transitions.offer_again(case, _held(desk, case)),
    "confirm": lambda desk, case: transitions.unconfirmed(case, desk.now, desk.rules, desk.find),
    "contact": lambda desk, case: transitions.contact_due(case),
    "check_in": lambda desk, case: transitions.check_in(case, desk.now),
    "not_closed": lambda desk, case: transitions.not_closed(case, desk.now),
}


def of_case(unit: Unit, timers: Sequence[Timer], office: Office, choose: OfCase) -> None:
    """Timers whose key is a case."""
    desk = Desk(unit, office)
    desk.load(timer.key for timer in timers)
    for timer in timers:
        if timer.key in desk.cases:
            desk.take(choose(desk, desk.cases[timer.key]))
    desk.write()


def monthly(unit: Unit, timers: Sequence[Timer], office: Office) -> None:
    """The monthly check-in that somebody in a unit of expected deaths opted in to."""
    desk = Desk(unit, office)
    found = PERSON.select().where(PERSON.c.person_ref.in_([timer.key for timer in timers]), PERSON.c.monthly == "yes")
    for row in unit.conn.execute(found).all():
        if _here(desk, row.person_ref):
            message = Message(f"monthly-{unit.now:%Y%m}", "check_in", "person")
            deadline = unit.now + office.rules.longest_hold
            ends = unit.now + MONTH
            desk.send(Draft(new_ref(), message, row.recipient_ref, ends, deadline), loose=True)
            unit.set_timer("monthly", row.person_ref, unit.now + MONTH)


def departed(unit: Unit, timers: Sequence[Timer], office: Office) -> None:
    """Who has left or died gets nothing more; whoever they supported is given somebody else."""
    desk = Desk(unit, office)
    refs = [timer.key for timer in timers]
    part(desk, refs)
    desk.write()
    _end_loose(desk, [ref for ref in refs if not _here(desk, ref)])


def part(desk: Desk, refs: Collection[str]) -> None:
    """End the cases of those of these who are gone, and look for somebody else for whom they supported."""
    for case in desk.fetch(or_(CASE.c.person_ref.in_(refs), CASE.c.supporter.in_(refs))):
        if case.person_ref and case.person_ref in refs and not _here(desk, case.person_ref):
            desk.take(transitions.gone(case, desk.now))
        elif case.supporter in refs:
            desk.take(transitions.supporter_gone(case, desk.now, desk.rules, desk.find))


def _here(desk: Desk, person_ref: str) -> bool:
    return person_ref in desk.people.known and desk.people.known[person_ref].here


def _end_loose(desk: Desk, gone: Sequence[str]) -> None:
    """Questions that belong to no case."""
    recipients = [desk.people.known[ref].recipient_ref for ref in gone if ref in desk.people.known]
    theirs = REQUEST.c.case_ref.is_(None) & REQUEST.c.recipient_ref.in_(recipients)
    for asked in repository.requests(desk.unit.conn, theirs):
        desk.unit.emit(MessageCancelled(request_ref=asked.request_ref))
    desk.unit.conn.execute(delete(REQUEST).where(theirs))
