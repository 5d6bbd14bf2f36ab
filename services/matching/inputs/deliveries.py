"""What became of messages, and whom no channel reaches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from leeward.contracts import DeliveryOutcome, Event, ReachabilityChanged
from leeward.store import Unit, Update
from services.matching.cases.repository import MAY_BE_THERE, ON_ITS_WAY, SET_OUTCOMES, StoredRequest
from services.matching.cases.session import PERSON, CaseSession
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Transition
from services.matching.roster.people import changed
from services.matching.site import Site

_NOT_ARRIVED: Final[Mapping[str, transitions.Undelivered]] = {
    "failed": "unreachable",
    "unknown": "delivery_unknown",
    "held_too_long": "held_too_long",
    "expired": "expired",
}
_SET_REACHABLE: Final = Update(PERSON, ("recipient_ref",), ("reachable",))


def told(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Hand-offs begin quiet times and reminders; what did not arrive goes to the coordinator or the next supporter."""
    outcomes = [event.data for event in events if isinstance(event.data, DeliveryOutcome)]
    session = CaseSession(unit, site)
    known = session.requests([outcome.request_ref for outcome in outcomes])
    SET_OUTCOMES.run(unit.conn, list({o.request_ref: o.state for o in outcomes if o.request_ref in known}.items()))
    for outcome in outcomes:
        asked = known.get(outcome.request_ref)
        case = session.cases.get(asked.case_ref or "") if asked else None
        if asked and case and (not asked.ended or outcome.state in MAY_BE_THERE):
            choose = _BY_TEMPLATE.get(asked.template)
            if choose:
                session.take(choose(session, case, asked, outcome.state))
    session.write()


def _offer(session: CaseSession, case: Case, asked: StoredRequest, state: str) -> Transition:
    if state == "unknown" and asked.ended:
        return transitions.perhaps_sent(case)
    if state == "handed_off":
        return transitions.handed_off(case, asked.step, session.now, session.rules, overtaken=asked.ended)
    if state == "delivered":
        return transitions.delivered(case, asked.step, session.now, session.rules, overtaken=asked.ended)
    return transitions.undelivered(case, _NOT_ARRIVED[state])


def _supporter(session: CaseSession, case: Case, asked: StoredRequest, state: str) -> Transition:
    """A request that did not arrive counts as a pass: somebody else is asked at once."""
    if state in ON_ITS_WAY:
        return Transition(case)
    return transitions.passed(case, asked.step, session.now, session.rules, session.find)


_BY_TEMPLATE: Final[Mapping[str, Callable[[CaseSession, Case, StoredRequest, str], Transition]]] = {
    "offer": _offer,
    "supporter_request": _supporter,
}


def reachability(unit: Unit, events: Sequence[Event]) -> None:
    """Remember whom some channel reaches; a supporter who is not reached is asked nothing."""
    news = {e.data.recipient_ref: e.data.reachable for e in events if isinstance(e.data, ReachabilityChanged)}
    _SET_REACHABLE.run(unit.conn, list(news.items()))
    changed(unit)
