"""What people and supporters choose, and who asks by themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leeward.contracts import Answered, Event, HelpRequested
from leeward.refs import new_ref
from leeward.store import Unit
from services.matching.cases import repository
from services.matching.cases.repository import StoredRequest
from services.matching.cases.session import CaseSession
from services.matching.inputs.monthly import begin_monthly, end_monthly
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Publish, Transition
from services.matching.site import Site


@dataclass(frozen=True, slots=True)
class _Said:
    """One answer with the request it belongs to."""

    event: Event
    data: Answered
    request: StoredRequest

    def option(self, name: str, default: str) -> str:
        return self.data.options.get(name, default)


def apply_answers(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Apply answers in their order; those about what we have forgotten change nothing."""
    session = CaseSession(unit, site)
    known = session.requests([event.data.request_ref for event in events if isinstance(event.data, Answered)])
    for event in events:
        data = event.data
        if not isinstance(data, Answered):
            continue
        request = known.get(data.request_ref)
        if data.answer in ("talk_now", "urgent_help") and data.options.get("unacknowledged") == "yes":
            _report_on_call_silent(session, data, request)
        elif request:
            _apply_answer(session, _Said(event, data, request))
    session.write()


def apply_help_requests(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Somebody asked, for themselves or a colleague: an offer leaves at once, whatever was sent before."""
    session = CaseSession(unit, site)
    for event in events:
        if not isinstance(event.data, HelpRequested):
            continue
        person_ref = session.people.by_recipient.get(event.data.recipient_ref, "")
        if not session.is_here(person_ref):
            continue
        case = session.open_case(person_ref)
        if case and case.stage == "following_up":
            # one in which only check-ins are left closes first
            session.apply(transitions.asked_again(case, session.now))
            case = session.open_case(person_ref)
        case = case or _open_case(session, person_ref, event)
        session.apply(transitions.asked(case, event.data.urgency, unit.now, site.rules), event.accepted_at)
    session.write()


def _open_case(session: CaseSession, person_ref: str, event: Event, case_ref: str | None = None) -> Case:
    """A case without an incident: somebody asked."""
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
    return session.apply(Transition(case, (Publish("opened"),)), event.accepted_at)


def _report_on_call_silent(session: CaseSession, data: Answered, request: StoredRequest | None) -> None:
    """Nobody answered the page: the coordinator hears of it even where the case is forgotten."""
    case = session.case(request.case_ref) if request else None
    if case:
        session.apply(transitions.on_call_silent(case))
    else:
        session.list_for_coordinator("on_call_silent", data.case_ref)


def _apply_answer(session: CaseSession, said: _Said) -> None:
    case = session.case(said.request.case_ref)
    if case is None:
        _apply_loose(session, said)
        return
    answer, template = said.data.answer, said.request.template
    if template != "supporter_request" and case.over and case.person_ref:
        # a page of an ended case, and another is open meanwhile: nobody has two, so it is about that one
        case = session.open_case(case.person_ref) or case
    if answer == "ended" and said.request.message_name.startswith("monthly") and case.person_ref:
        end_monthly(session, case.person_ref)
    if template == "supporter_request":
        transition = _by_supporter(session, said, case)
    elif template == "check_in" and answer == "ended":
        transition = transitions.no_more_check_ins(case, session.now)
    else:
        if template == "check_in" and answer == "accept":
            _turn_into_offer(session, said, case)
        transition = _by_person(session, said, case)
    session.apply(transition, said.event.accepted_at)


def _by_person(session: CaseSession, said: _Said, case: Case) -> Transition:
    now, rules = session.now, session.rules
    choices: dict[str, Callable[[], Transition]] = {
        "accept": lambda: transitions.accept(case, said.option("when", "hours"), now, rules),
        "another": lambda: transitions.another(case, rules),
        "not_now": lambda: transitions.not_now(case, said.option("again", "never"), now, rules),
        "ended": lambda: transitions.end(case, now),
        "not_contacted": lambda: transitions.not_contacted(case, rules),
        "check_ins": lambda: transitions.want_check_ins(case, now),
        "talk_now": lambda: transitions.talked(case),
    }
    return choices.get(said.data.answer, lambda: Transition(case))()


def _by_supporter(session: CaseSession, said: _Said, case: Case) -> Transition:
    now, rules, message_name = session.now, session.rules, said.request.message_name
    choices: dict[str, Callable[[], Transition]] = {
        "confirm": lambda: transitions.confirm(case, message_name, now),
        "pass": lambda: transitions.passed(case, message_name, rules),
        "hand_over": lambda: transitions.hand_over(case, message_name, now, rules),
        "close": lambda: transitions.close(case, message_name, said.data.options, now, rules),
    }
    return choices.get(said.data.answer, lambda: Transition(case))()


def _apply_loose(session: CaseSession, said: _Said) -> None:
    """An answer to a question that belongs to no case: after closing, or monthly."""
    person_ref = session.people.by_recipient.get(said.request.recipient_ref, "")
    if not session.is_here(person_ref):
        return
    answer, template = said.data.answer, said.request.template
    if answer == "accept":
        _open_accepted(session, said, person_ref)
    elif template == "monthly_offer" and answer == "check_ins":
        begin_monthly(session, person_ref)
    elif template in ("monthly_offer", "check_in") and answer == "ended":
        end_monthly(session, person_ref)


def _open_accepted(session: CaseSession, said: _Said, person_ref: str) -> None:
    """A new case that begins with its acceptance. A closed case's reference is never tied to the person again."""
    case = session.open_case(person_ref)
    if case is None:
        closed = said.request.template == "follow_up"
        case = _open_case(session, person_ref, said.event, None if closed else said.data.case_ref)
    accepted = transitions.accept(case, said.option("when", "hours"), session.now, session.rules)
    _turn_into_offer(session, said, session.apply(accepted, said.event.accepted_at))


def _turn_into_offer(session: CaseSession, said: _Said, case: Case) -> None:
    """From its yes on a page offers what the page of an offer does: somebody different, or to stop."""
    repository.turn_into_offer(session.unit.conn, said.request.request_ref, case.case_ref)
