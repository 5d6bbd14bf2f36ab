"""What became of messages, and whom no channel reaches."""

from collections.abc import Mapping, Sequence
from typing import Final

from leeward.contracts import DeliveryOutcome, Event, ReachabilityChanged
from leeward.store import Unit
from services.matching.cases import repository
from services.matching.cases.repository import MAY_BE_THERE, ON_ITS_WAY, StoredRequest
from services.matching.cases.session import CaseSession
from services.matching.inputs import queries
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Transition
from services.matching.roster.people import renew_version
from services.matching.site import Site

CANCELLED: Final = "cancelled"
_NOT_ARRIVED: Final[Mapping[str, transitions.Undelivered]] = {
    "failed": "unreachable",
    "unknown": "delivery_unknown",
    "held_too_long": "held_too_long",
    "expired": "expired",
}


def apply_outcomes(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Hand-offs begin quiet times and reminders; what did not arrive goes to the coordinator or the next supporter."""
    outcomes = [event.data for event in events if isinstance(event.data, DeliveryOutcome)]
    session = CaseSession(unit, site)
    known = session.requests([outcome.request_ref for outcome in outcomes])
    repository.record_outcomes(unit.conn, {o.request_ref: _state(o) for o in outcomes if o.request_ref in known})
    for outcome in outcomes:
        request = known.get(outcome.request_ref)
        case = session.case(request.case_ref) if request else None
        if request and case and (not request.ended or outcome.state in MAY_BE_THERE):
            session.apply(_after(session, case, request, _state(outcome)))
    session.write()


def _state(outcome: DeliveryOutcome) -> str:
    """What became of a message; one that was called off did not grow too old."""
    return CANCELLED if outcome.cause == CANCELLED else outcome.state


def _after(session: CaseSession, case: Case, request: StoredRequest, state: str) -> Transition:
    now, rules, name = session.now, session.rules, request.message_name
    if request.template == "supporter_request" and state not in ON_ITS_WAY:
        # a request that did not arrive counts as a pass: somebody else is asked at once
        return transitions.passed(case, name, rules)
    if request.template != "offer":
        return Transition(case)
    overtaken = request.ended
    match state:
        case "unknown" if overtaken:
            after = transitions.perhaps_sent(case)
        case "cancelled":
            after = transitions.called_off(case, name)
        case "handed_off":
            after = transitions.handed_off(case, name, now, rules, overtaken=overtaken)
        case "delivered":
            after = transitions.delivered(case, name, now, rules, overtaken=overtaken)
        case _:
            after = transitions.undelivered(case, _NOT_ARRIVED[state])
    return after


def record_reachability(unit: Unit, events: Sequence[Event]) -> None:
    """Remember whom some channel reaches; a supporter who is not reached is asked nothing."""
    news = {e.data.recipient_ref: e.data.reachable for e in events if isinstance(e.data, ReachabilityChanged)}
    queries.set_reachable(unit.conn, news)
    renew_version(unit)
