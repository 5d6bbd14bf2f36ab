"""Timers of cases and people; each fires in the transaction that rechecks its condition."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import delete, or_

from leeward.contracts import MessageCancelled
from leeward.refs import new_ref
from leeward.store import Timer, Unit
from services.matching.cases import repository
from services.matching.cases.availability import availability
from services.matching.cases.repository import CASE, REQUEST, Draft
from services.matching.cases.session import PERSON, CaseSession
from services.matching.inputs.answers import MONTH
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Message, Transition
from services.matching.lifecycle.hours import hold_until
from services.matching.site import Site

OfCase = Callable[[CaseSession, Case], Transition]


def _held(session: CaseSession, case: Case) -> datetime | None:
    """Until when the person is on shift, or asleep after a night of it."""
    colleague = session.people.known.get(case.person_ref or "")
    if colleague is None:
        return None
    shifts = availability(session.unit.conn, [colleague.person_ref], session.now).shifts
    return hold_until(session.now, shifts.get(colleague.person_ref, ()), colleague.timezone)


OF_CASES: Final[Mapping[str, OfCase]] = {
    "reminder": lambda session, case: transitions.remind(case, _held(session, case)),
    "again": lambda session, case: transitions.offer_again(case, _held(session, case)),
    "confirm": lambda session, case: transitions.unconfirmed(case, session.now, session.rules, session.find),
    "contact": lambda session, case: transitions.contact_due(case),
    "check_in": lambda session, case: transitions.check_in(case, session.now),
    "not_closed": lambda session, case: transitions.not_closed(case, session.now),
}


def of_case(unit: Unit, timers: Sequence[Timer], site: Site, choose: OfCase) -> None:
    """Timers whose key is a case."""
    session = CaseSession(unit, site)
    session.load(timer.key for timer in timers)
    for timer in timers:
        if timer.key in session.cases:
            session.take(choose(session, session.cases[timer.key]))
    session.write()


def monthly(unit: Unit, timers: Sequence[Timer], site: Site) -> None:
    """The monthly check-in that somebody in a unit of expected deaths opted in to."""
    session = CaseSession(unit, site)
    found = PERSON.select().where(PERSON.c.person_ref.in_([timer.key for timer in timers]), PERSON.c.monthly == "yes")
    for row in unit.conn.execute(found).all():
        if _here(session, row.person_ref):
            message = Message(f"monthly-{unit.now:%Y%m}", "check_in", "person")
            deadline = unit.now + site.rules.longest_hold
            ends = unit.now + MONTH
            session.send(Draft(new_ref(), message, row.recipient_ref, ends, deadline), loose=True)
            unit.set_timer("monthly", row.person_ref, unit.now + MONTH)


def departed(unit: Unit, timers: Sequence[Timer], site: Site) -> None:
    """Who has left or died gets nothing more; whoever they supported is given somebody else."""
    session = CaseSession(unit, site)
    refs = [timer.key for timer in timers]
    part(session, refs)
    session.write()
    _end_loose(session, [ref for ref in refs if not _here(session, ref)])


def part(session: CaseSession, refs: Collection[str]) -> None:
    """End the cases of those of these who are gone, and look for somebody else for whom they supported."""
    for case in session.fetch(or_(CASE.c.person_ref.in_(refs), CASE.c.supporter.in_(refs))):
        if case.person_ref and case.person_ref in refs and not _here(session, case.person_ref):
            session.take(transitions.gone(case, session.now))
        elif case.supporter in refs:
            session.take(transitions.supporter_gone(case, session.now, session.rules, session.find))


def _here(session: CaseSession, person_ref: str) -> bool:
    return person_ref in session.people.known and session.people.known[person_ref].here


def _end_loose(session: CaseSession, gone: Sequence[str]) -> None:
    """Questions that belong to no case."""
    recipients = [session.people.known[ref].recipient_ref for ref in gone if ref in session.people.known]
    theirs = REQUEST.c.case_ref.is_(None) & REQUEST.c.recipient_ref.in_(recipients)
    for asked in repository.requests(session.unit.conn, theirs):
        session.unit.emit(MessageCancelled(request_ref=asked.request_ref))
    session.unit.conn.execute(delete(REQUEST).where(theirs))
