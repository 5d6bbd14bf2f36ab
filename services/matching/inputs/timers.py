"""Timers of cases and people; each fires in the transaction that rechecks its condition."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from leeward.contracts import MessageCancelled
from leeward.store import Timer, Unit
from services.matching.cases import repository
from services.matching.cases.availability import availability
from services.matching.cases.session import CaseSession
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Transition
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
    "confirm": lambda session, case: transitions.unconfirmed(case, session.now, session.rules),
    "contact": lambda session, case: transitions.contact_due(case),
    "check_in": lambda session, case: transitions.check_in(case, session.now),
    "not_closed": lambda session, case: transitions.not_closed(case),
}


def fire_of_cases(unit: Unit, timers: Sequence[Timer], site: Site, *, choose: OfCase) -> None:
    """Timers whose key is a case."""
    session = CaseSession(unit, site)
    session.load(timer.key for timer in timers)
    for timer in timers:
        if case := session.case(timer.key):
            session.apply(choose(session, case))
    session.write()


def end_departed(unit: Unit, timers: Sequence[Timer], site: Site) -> None:
    """Who has left or died gets nothing more; whoever they supported is given somebody else."""
    session = CaseSession(unit, site)
    refs = [timer.key for timer in timers]
    end_ties(session, refs)
    session.write()
    # questions that belong to no case
    gone = [session.people.known[ref] for ref in refs if ref in session.people.known and not session.is_here(ref)]
    for colleague in gone:
        unit.note_erased(site.erasure_hash("person", colleague.person_ref))
    for request_ref in repository.delete_loose_requests(unit.conn, [colleague.recipient_ref for colleague in gone]):
        unit.emit(MessageCancelled(request_ref=request_ref))


def end_ties(session: CaseSession, refs: Collection[str]) -> None:
    """End the cases of those of these who are gone, and look for somebody else for whom they supported."""
    for case in session.fetch(repository.ties(refs)):
        if case.person_ref and case.person_ref in refs and not session.is_here(case.person_ref):
            session.apply(transitions.gone(case, session.now))
        elif case.supporter in refs:
            session.apply(transitions.supporter_gone(case, session.rules))
