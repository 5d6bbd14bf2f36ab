"""What people and supporters choose, and who asks by themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from leeward.contracts import Answered, Event, HelpRequested
from leeward.refs import new_ref
from leeward.store import Unit
from services.matching.cases.repository import REQUEST
from services.matching.cases.repository import StoredRequest as Request
from services.matching.cases.session import PERSON, CaseSession
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Publish, Transition
from services.matching.site import Site

MONTH: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class _Said:
    """One answer with the request it belongs to."""

    event: Event
    data: Answered
    request: Request

    def option(self, name: str, default: str) -> str:
        return self.data.options.get(name, default)


def answered(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Apply answers in their order; those about what we have forgotten change nothing."""
    session = CaseSession(unit, site)
    known = session.requests([event.data.request_ref for event in events if isinstance(event.data, Answered)])
    for event in events:
        if not isinstance(event.data, Answered):
            continue
        request = known.get(event.data.request_ref)
        if _unacknowledged(event.data):
            _on_call_silent(session, event.data, request)
        elif request:
            _apply(session, _Said(event, event.data, request))
    session.write()


def asked(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Somebody asked, for themselves or a colleague: an offer leaves at once, whatever was sent before."""
    session = CaseSession(unit, site)
    for event in events:
        if not isinstance(event.data, HelpRequested):
            continue
        person_ref = session.people.by_recipient.get(event.data.recipient_ref, "")
        if person_ref and session.people.known[person_ref].here:
            case = _open_for_asking(session, person_ref) or open_new(session, person_ref, event)
            session.take(transitions.asked(case, event.data.urgency, unit.now, site.rules), event.accepted_at)
    session.write()


def _open_for_asking(session: CaseSession, person_ref: str) -> Case | None:
    """The open case that an asked-for offer belongs to; one in which only check-ins are left closes first."""
    case = session.open_case(person_ref)
    if case is None or case.stage != "following_up":
        return case
    session.take(transitions.asked_again(case, session.now))
    return session.open_case(person_ref)


def open_new(session: CaseSession, person_ref: str, event: Event, case_ref: str | None = None) -> Case:
    """A case without an outcome: somebody asked."""
    rules, now = session.rules, session.now
    case = Case(
        case_ref=case_ref or new_ref(),
        person_ref=person_ref,
        notes=("rehearsal",) if rules.rehearsal else (),
        opened_at=now,
        occurred_at=now,
        ends_at=now + rules.longest_hold + rules.coalesce,
    )
    session.add(case)
    return session.take(Transition(case, (Publish("opened"),)), event.accepted_at)


def _unacknowledged(data: Answered) -> bool:
    return data.answer in ("talk_now", "urgent_help") and data.options.get("unacknowledged") == "yes"


def _on_call_silent(session: CaseSession, data: Answered, request: Request | None) -> None:
    """Nobody answered the page: the coordinator hears of it even where the case is forgotten."""
    case = session.cases.get(request.case_ref or "") if request else None
    if case:
        session.take(transitions.on_call_silent(case))
    else:
        session.tell("on_call_silent", data.case_ref)


def _apply(session: CaseSession, said: _Said) -> None:
    case = session.cases.get(said.request.case_ref or "")
    if case is None:
        _loose(session, said)
        return
    if said.request.template != "supporter_request" and case.over and case.person_ref:
        # a page of an ended case, and another is open meanwhile: nobody has two, so it is about that one
        case = session.open_case(case.person_ref) or case
    if said.data.answer == "ended" and said.request.step.startswith("monthly") and case.person_ref:
        _no_more_monthly(session, case.person_ref)
    by_template = {"supporter_request": _supporter, "check_in": _checked_in}
    step = by_template.get(said.request.template, _person)(session, said, case)
    session.take(step, said.event.accepted_at)


def _person(session: CaseSession, said: _Said, case: Case) -> Transition:
    now, rules, find = session.now, session.rules, session.find
    choices: dict[str, Callable[[], Transition]] = {
        "accept": lambda: transitions.accept(case, said.option("when", "hours"), now, rules, find),
        "another": lambda: transitions.another(case, now, rules, find),
        "not_now": lambda: transitions.not_now(case, said.option("again", "never"), now, rules),
        "ended": lambda: transitions.end(case, now),
        "not_contacted": lambda: transitions.not_contacted(case, now, rules, find),
        "check_ins": lambda: transitions.want_check_ins(case, now),
        "talk_now": lambda: transitions.talked(case),
    }
    return choices.get(said.data.answer, lambda: Transition(case))()


def _supporter(session: CaseSession, said: _Said, case: Case) -> Transition:
    now, rules, find, step = session.now, session.rules, session.find, said.request.step
    choices: dict[str, Callable[[], Transition]] = {
        "confirm": lambda: transitions.confirm(case, step, now),
        "pass": lambda: transitions.passed(case, step, now, rules, find),
        "hand_over": lambda: transitions.hand_over(case, step, now, rules, find),
        "close": lambda: transitions.close(case, step, said.data.options, now, rules),
    }
    return choices.get(said.data.answer, lambda: Transition(case))()


def _checked_in(session: CaseSession, said: _Said, case: Case) -> Transition:
    if said.data.answer == "ended":
        return transitions.no_more_check_ins(case, session.now)
    if said.data.answer == "accept":
        _speaks_for(session, said, case)
    return _person(session, said, case)


def _loose(session: CaseSession, said: _Said) -> None:
    """An answer to a question that belongs to no case: after closing, or monthly."""
    person_ref = session.people.by_recipient.get(said.request.recipient_ref, "")
    if not person_ref or not session.people.known[person_ref].here:
        return
    if said.data.answer == "accept":
        _talk_again(session, said, person_ref)
    elif said.request.template == "monthly_offer" and said.data.answer == "check_ins":
        _monthly(session, person_ref, "yes")
        session.unit.set_timer("monthly", person_ref, session.now + MONTH)
    elif said.request.template in ("monthly_offer", "check_in") and said.data.answer == "ended":
        _no_more_monthly(session, person_ref)


def _talk_again(session: CaseSession, said: _Said, person_ref: str) -> None:
    """A new case that begins with its acceptance. A closed case's reference is never tied to the person again."""
    closed = said.request.template == "follow_up"
    case = session.open_case(person_ref)
    if case is None:
        case = open_new(session, person_ref, said.event, None if closed else said.data.case_ref)
    wanted = said.option("when", "hours")
    case = session.take(
        transitions.accept(case, wanted, session.now, session.rules, session.find), said.event.accepted_at
    )
    _speaks_for(session, said, case)


def _speaks_for(session: CaseSession, said: _Said, case: Case) -> None:
    """From its yes on a page offers what the page of an offer does: somebody different, or to stop."""
    mine = REQUEST.c.request_ref == said.request.request_ref
    session.unit.conn.execute(REQUEST.update().where(mine).values(case_ref=case.case_ref, template="offer"))


Monthly = Literal["none", "offered", "yes", "no"]


def _monthly(session: CaseSession, person_ref: str, answer: Monthly) -> None:
    session.unit.conn.execute(PERSON.update().where(PERSON.c.person_ref == person_ref).values(monthly=answer))


def _no_more_monthly(session: CaseSession, person_ref: str) -> None:
    _monthly(session, person_ref, "no")
    session.unit.cancel_timer("monthly", person_ref)
